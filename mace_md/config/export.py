"""Options of `mace-md export`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config.settled import Settled
from mace_md.options import option


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settled):
    """`mace-md export`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    structure: Path = option(
        help="structure file whose atoms the potential is made for", positional=True, aliases=("--struct",)
    )
    coordinates: Path | None = option(
        None, help="coordinates of a topology without: inpcrd or rst7 of a prmtop, gro of a GROMACS top"
    )
    include: Path | None = option(None, help="folder of the force field files that a GROMACS top includes")
    virtual_sites: str = option(
        "refuse", choices=("refuse", "drop"), help="massless sites of four- and five-site water: MACE knows nuclei only"
    )
    output: Path = option(Path("potential.pt"), help="file to write")
    force: bool = option(False, help="replace the output file if it exists")
    head: str | None = option(None, help="head of a model that has several")
    dtype: str = option("float32", choices=("float32", "float64"), help="precision of the model")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    periodic: str = option(
        "auto", choices=("auto", "yes", "no"), help="periodic boundaries; auto is yes when the structure has a box"
    )
    box: tuple[float, ...] | None = option(
        None,
        unit="A",
        above=0,
        count=(3, 6),
        help="box lengths a,b,c or a,b,c,alpha,beta,gamma (A and degrees)",
        shown_default="from the file",
    )
    skin: float = option(0.5, unit="A", at_least=0, help="margin of the neighbour list")
    hydrogens: str = option(
        "check",
        choices=("check", "keep"),
        help="check refuses residues without hydrogens, keep takes the file as it is",
    )
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")
