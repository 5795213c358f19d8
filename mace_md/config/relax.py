"""Options of `mace-md relax`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.preparation import PreparationOptions
from mace_md.config.settled import DEFAULT_MODEL, Settled
from mace_md.errors import UsageError
from mace_md.options.declare import option
from mace_md.options.reading import settle

_CELL_MOVES = ("cell", ("volume", "full"))


@dataclass(frozen=True, kw_only=True)
class RelaxationOptions:
    """What is relaxed, with which model, and how far."""

    structure: Path | None = option(
        None,
        help="structure file: PDB, mmCIF, SDF, prmtop, top, gro, CIF, or anything ASE reads; @7 takes frame 7",
        positional=True,
        shown_default="required, or --smiles",
        group="structure and model",
        common=True,
    )
    smiles: str | None = option(
        None,
        instead_of="structure",
        help="a molecule as SMILES in place of a file; coordinates by RDKit",
        common=True,
    )
    model: str = option(
        DEFAULT_MODEL,
        help="model: a name of `mace-md models list`, or a .model or .mace file; the default comes with the package",
        name_or_path=True,
        common=True,
    )
    head: str | None = shared.head()
    seed: int = option(1, at_least=0, help="seed of what is drawn at random: coordinates of a SMILES, ions")

    cell: str = option(
        "fixed",
        choices=("fixed", "volume", "full"),
        help="what of a periodic box is relaxed too: nothing, its volume at constant shape, or all of it",
        common=True,
        group="relaxation",
    )
    pressure: float | None = option(
        None, unit="bar", only_if=_CELL_MOVES, fill=0.0, help="pressure at which the cell is relaxed", common=True
    )
    symmetry: str = option(
        "free",
        choices=("free", "keep"),
        help="keep holds the space group that the structure has (needs spglib)",
        common=True,
    )
    symmetry_tolerance: float | None = option(
        None, unit="A", above=0, only_if=("symmetry", ("keep",)), fill=0.01, help="within which the space group holds"
    )
    freeze: str | None = option(None, help="atoms that do not move, as an mdtraj selection", shown_default="none")
    max_force: float = option(0.01, unit="eV/A", above=0, help="done when no atom has a force above this", common=True)
    max_stress: float | None = option(
        None, unit="GPa", above=0, only_if=_CELL_MOVES, fill=0.01,
        help="and no component of the stress differs more than this from the pressure",
    )  # fmt: skip
    max_steps: int = option(1000, at_least=0, help="most steps of the optimiser")
    optimizer: str = option(
        "auto",
        choices=("auto", "bfgs", "lbfgs", "fire"),
        help="optimiser of ASE; auto is bfgs up to 100 atoms and lbfgs above",
    )
    bond_break: str = option(
        "auto",
        choices=("auto", "warn", "stop", "ignore"),
        help="what happens when a bond of the start breaks; auto stops for stated bonds, and warns of those found by "
        "distance",
    )
    dtype: str = shared.dtype("float64", group="precision and hardware")
    kernels: str = shared.kernels()
    device: str = shared.device()
    threads: int | None = shared.threads()


@dataclass(frozen=True, kw_only=True)
class RelaxConfig(PreparationOptions, RelaxationOptions, Settled):
    """`mace-md relax`."""

    output: Path | None = option(
        None,
        help="file to write: .extxyz or .xyz, .cif (crystals), or .pdb",
        shown_default="the structure's name + '-relaxed.extxyz'",
        group="output",
        common=True,
    )
    trajectory: Path | None = option(None, help="extended XYZ file of every step", shown_default="none")
    force: bool = shared.force("the output files if they exist")
    config: Path | None = shared.config(common=True)
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()

    def __post_init__(self) -> None:
        settle(self)
        if self.structure is None and self.smiles is None:
            raise UsageError("structure is missing: give a structure file, or a molecule with --smiles.")
        if self.solvate is not None and self.box is not None:
            raise UsageError("give --solvate, which makes the box, or --box, not both.")
        if self.output is None:
            stem = "molecule" if self.structure is None else self.structure.name.split("@")[0].split(".")[0]
            object.__setattr__(self, "output", Path(f"{stem}-relaxed.extxyz"))
        known = (".extxyz", ".xyz", ".cif", ".pdb")
        if self.output.suffix.lower() not in known:
            raise UsageError(f"--output {self.output}: its suffix is none of {', '.join(known)}.")
        if self.trajectory is not None and self.trajectory.suffix.lower() not in (".extxyz", ".xyz"):
            raise UsageError(f"--trajectory {self.trajectory}: the steps are written as extended XYZ, .extxyz or .xyz.")
