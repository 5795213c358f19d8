"""Options of `mace-md export`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.options.declare import option


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settled):
    """`mace-md export`."""

    model: str = shared.model()
    structure: Path = option(
        help="structure file whose atoms the potential is made for", positional=True, aliases=("--struct",)
    )
    coordinates: Path | None = shared.coordinates()
    include: Path | None = shared.include()
    virtual_sites: str = shared.virtual_sites()
    output: Path = option(Path("potential.pt"), help="file to write")
    force: bool = shared.force()
    head: str | None = shared.head()
    charge: int | None = shared.charge()
    spin: int | None = shared.spin()
    dtype: str = shared.dtype("float32")
    kernels: str = shared.kernels()
    periodic: str = shared.periodic()
    box: tuple[float, ...] | None = shared.box()
    skin: float = option(0.5, unit="A", at_least=0, help="margin of the neighbour list")
    hydrogens: str = option(
        "check",
        choices=("check", "keep"),
        help="check refuses residues without hydrogens, keep takes the file as it is",
    )
    config: Path | None = shared.config()
    debug: bool = shared.debug()
