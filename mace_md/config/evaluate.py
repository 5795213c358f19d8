"""Options of `mace-md evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.options.declare import option
from mace_md.options.reading import settle


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settled):
    """`mace-md evaluate`."""

    model: str = shared.model()
    data: tuple[Path, ...] = option(
        help="labelled data: extended XYZ (or what ASE reads), rMD17 npz, HDF5", positional=True
    )
    head: str | None = shared.head()
    energy_key: str | None = shared.key("energies", "REF_energy or energy")
    forces_key: str | None = shared.key("forces", "REF_forces or forces")
    stress_key: str | None = shared.key("stresses", "REF_stress or stress")
    virials_key: str | None = shared.key("virials", "REF_virials or virials")
    config_type_key: str = shared.config_type_key()
    energy_unit: str | None = shared.energy_unit()
    length_unit: str | None = shared.length_unit()
    forces_unit: str | None = shared.forces_unit()
    stress_unit: str | None = shared.stress_unit()
    check_data: str = shared.check_data()
    dtype: str = shared.dtype("float64")
    kernels: str = shared.kernels()
    device: str = shared.device()
    threads: int | None = shared.threads()
    plots: bool = option(True, help="parity plots")
    output: Path | None = option(
        None, help="folder for errors.json and the plots", shown_default="the model's name + '-errors'"
    )
    force: bool = shared.force("the files of an earlier evaluation in the folder")
    config: Path | None = shared.config()
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()

    def __post_init__(self) -> None:
        settle(self)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{Path(self.model).stem}-errors"))
