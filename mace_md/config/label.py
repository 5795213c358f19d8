"""Options of `mace-md label`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.options.declare import option


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Settled):
    """`mace-md label`."""

    model: str = shared.model()
    geometries: tuple[Path, ...] = option(
        help="what ASE reads, rMD17 npz, HDF5 (SPICE's layout or our own), or DCD, XTC, TRR with --topology",
        positional=True,
    )
    output: Path = option(Path("labelled.xyz"), help="file to write: .xyz or .extxyz, or .h5 or .hdf5")
    force: bool = shared.force()
    topology: Path | None = option(None, help="topology of the DCD, XTC or TRR files: PDB or mmCIF")
    every: int = option(
        1, at_least=1, help="take every n-th geometry of each file (of each molecule in SPICE's layout)"
    )
    most: int | None = option(
        None, at_least=1, help="most geometries in all, drawn at random with --seed", shown_default="all"
    )
    seed: int = option(0, at_least=0, help="seed of that draw")
    head: str | None = shared.head()
    as_head: str = option("Default", help="head that the labels are for in a training with several")
    config_type: str | None = option(
        None, help="type of the configurations", shown_default="as in the file, or the file's name"
    )
    largest_force: float | None = option(
        None, unit="eV/A", above=0, help="leave geometries out where the model gives a force above this"
    )
    length_unit: str | None = shared.length_unit("A; HDF5: as the file says")
    dtype: str = shared.dtype("float64")
    kernels: str = shared.kernels()
    device: str = shared.device()
    threads: int | None = shared.threads()
    config: Path | None = shared.config()
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()
