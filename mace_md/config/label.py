"""Options of `mace-md label`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config.settled import Settled
from mace_md.options import option


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Settled):
    """`mace-md label`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    geometries: tuple[Path, ...] = option(
        help="what ASE reads, rMD17 npz, HDF5 (SPICE's layout or our own), or DCD, XTC, TRR with --topology",
        positional=True,
    )
    output: Path = option(Path("labelled.xyz"), help="file to write: .xyz or .extxyz, or .h5 or .hdf5")
    force: bool = option(False, help="replace the output file if it exists")
    topology: Path | None = option(None, help="topology of the DCD, XTC or TRR files: PDB or mmCIF")
    every: int = option(
        1, at_least=1, help="take every n-th geometry of each file (of each molecule in SPICE's layout)"
    )
    most: int | None = option(
        None, at_least=1, help="most geometries in all, drawn at random with --seed", shown_default="all"
    )
    seed: int = option(0, at_least=0, help="seed of that draw")
    head: str | None = option(None, help="head of a model that has several")
    as_head: str = option("Default", help="head that the labels are for in a training with several")
    config_type: str | None = option(
        None, help="type of the configurations", shown_default="as in the file, or the file's name"
    )
    largest_force: float | None = option(
        None, unit="eV/A", above=0, help="leave geometries out where the model gives a force above this"
    )
    length_unit: str | None = option(
        None, help="unit of positions and box: A, Bohr, nm", shown_default="A; HDF5: as the file says"
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
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")
