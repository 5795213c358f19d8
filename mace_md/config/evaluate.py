"""Options of `mace-md evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config.settled import Settled
from mace_md.options import option, settle


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settled):
    """`mace-md evaluate`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    data: tuple[Path, ...] = option(
        help="labelled data: extended XYZ (or what ASE reads), rMD17 npz, HDF5", positional=True
    )
    head: str | None = option(None, help="head of a model that has several")
    energy_key: str | None = option(None, help="key of the energies", shown_default="REF_energy or energy")
    forces_key: str | None = option(None, help="key of the forces", shown_default="REF_forces or forces")
    stress_key: str | None = option(None, help="key of the stresses", shown_default="REF_stress or stress")
    virials_key: str | None = option(None, help="key of the virials", shown_default="REF_virials or virials")
    config_type_key: str = option("config_type", help="key of the type of a configuration")
    energy_unit: str | None = option(
        None, help="unit of the energies: eV, meV, kcal/mol, kJ/mol, Hartree", shown_default="eV; kcal/mol in npz files"
    )
    length_unit: str | None = option(None, help="unit of the positions and the box: A, Bohr, nm", shown_default="A")
    forces_unit: str | None = option(
        None, help="unit of the forces, such as Hartree/Bohr", shown_default="energy unit / length unit"
    )
    stress_unit: str | None = option(
        None, help="unit of the stresses: eV/A^3, GPa, kbar, bar", shown_default="energy unit / length unit^3"
    )
    check_data: str = option(
        "refuse", choices=("refuse", "warn"), help="what to do about numbers that look like another unit"
    )
    dtype: str = option("float64", choices=("float32", "float64"), help="precision of the model")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    device: str = option(
        "auto", choices=("auto", "cpu", "cuda"), help="where to compute; auto takes a GPU if there is one"
    )
    threads: int | None = option(None, at_least=1, help="CPU threads", shown_default="all cores")
    plots: bool = option(True, help="parity plots")
    output: Path | None = option(
        None, help="folder for errors.json and the plots", shown_default="the model's name + '-errors'"
    )
    force: bool = option(False, help="replace the files of an earlier evaluation in the folder")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")

    def __post_init__(self) -> None:
        settle(self)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{Path(self.model).stem}-errors"))
