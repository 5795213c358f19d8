"""How the structure that is read becomes the one that is run."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.options.declare import GIVEN, option

_SOLVATED = ("solvate", GIVEN)


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """From the structure that is read to the one that is run."""

    periodic: str = shared.periodic(group="preparing the structure")
    box: tuple[float, ...] | None = shared.box()
    coordinates: Path | None = shared.coordinates()
    include: Path | None = shared.include()
    virtual_sites: str = shared.virtual_sites()
    hydrogens: str = option(
        "check",
        choices=("check", "add", "keep"),
        help="check refuses residues without hydrogens, add puts them in, keep takes the file as it is",
        common=True,
    )
    ph: float | None = option(
        None,
        at_least=0,
        only_if=("hydrogens", ("add",)),
        fill=7.0,
        help="pH that decides which hydrogens are added",
        at_most=20,
    )
    repair: str | None = option(
        None, choices=("refuse", "atoms", "residues"), only_if=("hydrogens", ("add",)), fill="refuse",
        help="where heavy atoms are missing: refuse, build atoms, or build missing residues inside chains too",
    )  # fmt: skip
    supercell: tuple[int, ...] | None = option(
        None,
        at_least=1,
        count=(3,),
        help="copies of the box along a,b,c",
        shown_default="1,1,1",
        at_most=1000,
    )
    solvate: float | None = option(
        None,
        unit="A",
        at_least=0,
        help="put the structure in a box of water with this margin on every side",
        shown_default="no water",
        common=True,
        at_most=200,
    )
    box_shape: str | None = option(
        None, choices=("cube", "dodecahedron", "octahedron"), only_if=_SOLVATED, fill="cube",
        help="shape of the box of water",
    )  # fmt: skip
    ion_concentration: float | None = option(
        None,
        unit="mol/L",
        at_least=0,
        only_if=_SOLVATED,
        fill=0.0,
        help="salt, beyond the ions that neutralise",
        at_most=100,
    )
    neutralize: str | None = option(
        None, choices=("yes", "no"), only_if=_SOLVATED, fill="yes", help="add ions until the total charge is zero"
    )
    positive_ion: str | None = option(
        None, choices=("Na+", "K+", "Li+", "Cs+", "Rb+"), only_if=_SOLVATED, fill="Na+", help="cation to add"
    )
    negative_ion: str | None = option(
        None, choices=("Cl-", "Br-", "F-", "I-"), only_if=_SOLVATED, fill="Cl-", help="anion to add"
    )
    solute_charge: int | None = option(
        None, unit="e", only_if=_SOLVATED, help="charge of all that is solvated, for the ions",
        shown_default="from the file, or from residue templates",
        at_least=-10_000, at_most=10_000,
    )  # fmt: skip
