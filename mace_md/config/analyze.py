"""Options of `mace-md analyze`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.errors import UsageError
from mace_md.options.declare import option

OBSERVABLES = (
    "energy", "temperature", "density", "cell", "pressure", "heat-capacity", "compressibility", "rdf", "diffusion",
    "hbonds", "rmsd", "gyration", "torsions", "vdos", "ir", "raman", "dielectric",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(Settled):
    """`mace-md analyze`."""

    runs: tuple[Path, ...] = option(
        help="output folders of mace-md run (also of --seeds and --temperatures), or trajectories", positional=True
    )
    topology: Path | None = option(
        None, help="topology of a trajectory that is in no run folder: PDB, mmCIF or gro", shown_default="beside it"
    )
    observables: tuple[str, ...] | None = option(
        None, choices=OBSERVABLES, help="what to look at", shown_default="what fits the system"
    )
    skip: str = option(
        "auto", help="what to leave out at the start: auto (until it is equilibrated), a share (20%), or a time (5ps)"
    )
    every: int = option(1, at_least=1, help="take every n-th frame")
    compare: bool = option(False, help="put several runs side by side: differences, and whether they are significant")
    rdf: tuple[str, ...] | None = option(
        None, help="pairs for g(r), as mdtraj selections: 'name O:name H'", shown_default="the common elements"
    )
    r_max: float | None = option(
        None, unit="A", above=0, help="range of g(r)", shown_default="half the shortest height of the box"
    )
    torsions: tuple[str, ...] | None = option(
        None, help="backbone, bonds, or four atoms, counted from 1, such as 5-7-9-15",
        shown_default="backbone, else bonds",
    )  # fmt: skip
    charges: Path | None = option(
        None, help="CSV file of fixed charges, name,charge or number,charge: for infrared and the dielectric constant",
        shown_default="-",
    )  # fmt: skip
    dipoles: Path | None = option(
        None, help="npz file of a model's dipoles and polarisabilities", shown_default="dipoles.npz of the run"
    )
    viscosity: float | None = option(
        None, unit="mPa*s", above=0, help="of the liquid, to correct its diffusion for the size of the box",
        shown_default="no correction",
    )  # fmt: skip
    resolution: float = option(5.0, unit="1/cm", above=0, help="of spectra")
    report: bool = option(True, help="write report.html, a page of all that was found")
    output: Path | None = option(None, help="output folder", shown_default="analysis, in the run folder")
    force: bool = shared.force("an earlier analysis in the folder")
    config: Path | None = shared.config()
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.charges is not None and self.dipoles is not None:
            raise UsageError("give --charges or --dipoles, not both.")
