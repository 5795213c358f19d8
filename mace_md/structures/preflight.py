"""What can be wrong with a run before anything expensive happens. Each check refuses with what to do, or notes."""

import numpy as np

from mace_md.errors import InputError
from mace_md.structures.molecules import minimum_image, pairs_within
from mace_md.structures.structure import Structure
from mace_md.units import ANGSTROM_TO_NM, DALTON_PER_CUBIC_NM_TO_G_ML, NM_TO_ANGSTROM

# Closest contacts. The shortest bond of chemistry is H2, 0.74 A; a zero-point and thermal margin is left below it.
SMALLEST_CONTACT = 0.5  # A, any pair
SMALLEST_CONTACT_RATIO = 0.55  # of the sum of the covalent radii; a C-C bond (1.52 A by radii) may be 0.84 A long
# Densities of condensed matter under anything a run starts from: solid hydrogen 0.09, osmium 22.6 g/mL.
WATER_NAMES = frozenset(("HOH", "WAT", "SOL", "TIP3", "TP3"))
LARGEST_DENSITY = 30.0
SMALLEST_DENSITY_NPT = 0.01
# Contacts through the box that only a second bond of a hydrogen would have: with an image of its own molecule, below
# the sum of the covalent radii plus a margin (O-H 1.27, C-H 1.37 A); between two hydrogens, each with its heavier atom,
# any below 1.2 A (in CH2 they are 1.75 A apart).
HYDROGEN_MARGIN = 0.30  # A
SMALLEST_HYDROGEN_CONTACT = 1.2  # A
SMALLEST_STRAIGHT_ANGLE = 155.0  # degrees; sp carbon is at 180, sp2 at 120
LONGEST_STEP_WITH_HYDROGEN = 1.0  # fs
_AMINO_ACIDS = frozenset(
    ("ALA", "ARG", "ASN", "ASP", "CYS", "CYX", "GLN", "GLU", "GLY", "HIS", "HID", "HIE", "HIP", "ILE", "LEU", "LYS",
     "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL")
)  # fmt: skip
_WATERS = frozenset(("HOH", "WAT", "TIP3", "SOL", "H2O"))


def check_elements(structure: Structure, known: list[int], model_name: str) -> None:
    """Every element of the structure is one the model was trained on."""
    from openmm.app import Element

    unknown = [atom for atom in structure.topology.atoms() if atom.element.atomic_number not in known]
    if unknown:
        atom = unknown[0]
        missing = list(dict.fromkeys(atom.element.symbol for atom in unknown))
        first = f"residue {atom.residue.name} {atom.residue.id}, atom {atom.index + 1}"
        subject = (
            f"element {missing[0]} ({first}) is"
            if len(missing) == 1
            else (f"elements {', '.join(missing)} (the first in {first}) are")
        )
        names = " ".join(Element.getByAtomicNumber(number).symbol for number in known)
        raise InputError(
            f"{structure.path}: {subject} not in {model_name}, which knows {names}. Take a model that has "
            f"{'it' if len(missing) == 1 else 'them'} with --model (`mace-md models list`), or remove those atoms."
        )


def check_charge_and_spin(
    structure: Structure, charge: int | None, spin: int | None, model_name: str, model_uses: tuple[str, ...] = ()
) -> list[str]:
    """The charge and multiplicity asked for can be honoured; returns what was assumed.

    `model_uses` names what the model takes as input: 'charge', 'spin'. A model without charges gives every charge
    state of a structure the same energy. An explicit option overrides the file, so --charge 0 accepts that.
    """
    notes = []
    for name, option, in_file, neutral in (
        ("charge", charge, structure.charge, 0),
        ("spin", spin, structure.spin, 1),
    ):
        source = f"--{name} {option}" if option is not None else f"{name}={in_file} in {structure.path}"
        value = option if option is not None else in_file
        if name in model_uses or value in (None, neutral):
            if option is not None and in_file not in (None, option):
                notes.append(f"{name} {option} by option; the file says {in_file}, which {model_name} does not see")
            elif name in model_uses and value is None:
                notes.append(f"{name} {neutral} (assumed)")
            continue
        raise InputError(
            f"{source}: {model_name} has no input for the {name}, its energies would be the same as for {neutral}. "
            f"Take a model trained with it, or accept what this one was trained on with --{name} {neutral}."
        )
    return notes


def check_electrons(structure: Structure, charge: int | None) -> list[str]:
    """Charge and multiplicity of the file fit its electrons; an odd number of electrons is noted.

    `charge` is that of the options. Two electrons pair: an even number has an odd multiplicity 2S + 1.
    """
    protons = sum(structure.atomic_numbers)
    if structure.charge is not None and structure.spin is not None:
        electrons = protons - structure.charge
        if (electrons + structure.spin) % 2 == 0:
            raise InputError(
                f"{structure.path}: charge={structure.charge} leaves {electrons} electrons, which cannot have the spin "
                f"multiplicity {structure.spin} of the file. Correct one of them (is an atom missing?)."
            )
        return []
    assumed = structure.charge if charge is None else charge
    if (protons - (assumed or 0)) % 2 == 0:
        return []
    given = f"with the charge {assumed:+d}" if assumed is not None else "if the charge is 0"
    return [f"note: an odd number of electrons {given}: a radical or an ion, or an atom is missing"]


def check_multiplicity(structure: Structure, charge: int, spin: int, model_name: str) -> list[str]:
    """The number of electrons and the spin multiplicity that a model is given can be together; returns a note.

    Two electrons pair: an even number has an odd multiplicity 2S + 1, and no more are unpaired than there are.
    """
    electrons = sum(structure.atomic_numbers) - charge
    if electrons < 0 or (electrons + spin) % 2 == 0 or spin > electrons + 1:
        near = 2 if electrons % 2 else 1
        raise InputError(
            f"{structure.path or 'the structure'}: charge {charge:+d} leaves {electrons} electrons, which cannot have "
            f"the spin multiplicity {spin} that {model_name} would be given. Say --spin {near}, or another --charge "
            "(is an atom missing?)."
        )
    return [f"note: {model_name} is given the total charge {charge:+d} and the spin multiplicity {spin}"]


def check_hydrogens(structure: Structure) -> list[str]:
    """Residues of protein and water have their hydrogens, and organic matter has some; MACE needs every atom."""
    bare = []
    for residue in structure.topology.residues():
        symbols = [atom.element.symbol for atom in residue.atoms()]
        hydrogens = symbols.count("H") + symbols.count("D")
        lacks = residue.name in _AMINO_ACIDS and hydrogens == 0
        lacks |= residue.name in _WATERS and "O" in symbols and hydrogens < 2
        if lacks:
            bare.append(residue)
    if bare:
        first = bare[0]
        raise InputError(
            f"{structure.path}: residue {first.name} {first.id} (chain {first.chain.id}) has no hydrogens, or too few, "
            f"as have {len(bare) - 1} more; MACE needs every atom. Use --hydrogens add, add them yourself, or "
            "--hydrogens keep if this is meant."
        )
    if structure.hydrogens_known:
        return []
    numbers = structure.atomic_numbers
    lonely_carbon = _carbons_without_neighbours(structure)
    if numbers.count(6) and not numbers.count(1) and lonely_carbon:
        raise InputError(
            f"{structure.path}: no hydrogens at all, and {lonely_carbon} of {numbers.count(6)} carbon atoms have fewer "
            "than three neighbours. Add the hydrogens, or pass --hydrogens keep if this is meant."
        )
    return []


def _carbons_without_neighbours(structure: Structure) -> int:
    """How many carbons with a carbon neighbour have fewer than three neighbours, and are not in the middle of a line.

    CO2 has no carbon neighbour; cyanogen and the inner carbons of alkynes are linear, so nothing is missing there.
    """
    numbers, molecules = structure.atomic_numbers, structure.molecules
    neighbours: list[list[int]] = [[] for _ in numbers]
    for i, j in molecules.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    count = 0
    for i, number in enumerate(numbers):
        if number == 6 and len(neighbours[i]) < 3 and any(numbers[j] == 6 for j in neighbours[i]):
            count += not (len(neighbours[i]) == 2 and _is_straight(structure, i, neighbours[i]))
    return count


def _is_straight(structure: Structure, i: int, ends: list[int]) -> bool:
    """Whether atom i lies between two others on a line, as in a triple bond."""
    first, second = (
        minimum_image((structure.positions[j] - structure.positions[i])[None], structure.box)[0] for j in ends
    )
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return cosine < np.cos(np.radians(SMALLEST_STRAIGHT_ANGLE))


def check_contacts(structure: Structure) -> list[str]:
    """No two atoms, nor their images, are closer than any bond; returns the closest contact found."""
    from ase.data import covalent_radii

    numbers = np.array(structure.atomic_numbers)
    i, j, distances, vectors = pairs_within(structure.positions, structure.box, 2.0 * ANGSTROM_TO_NM)
    if len(distances) == 0:
        return ["closest contact: none within 2 A"]
    distances = distances * NM_TO_ANGSTROM
    radii = covalent_radii[numbers[i]] + covalent_radii[numbers[j]]
    ratio = distances / radii
    through_box = np.abs(structure.positions[j] - structure.positions[i] - vectors).max(axis=1) > 1e-6
    squeezed = through_box & (distances < _smallest_contact_of_hydrogen(structure, i, j, radii))
    too_close = (i <= j) & ((distances < SMALLEST_CONTACT) | (ratio < SMALLEST_CONTACT_RATIO) | squeezed)
    worst = int(np.argmin(np.where(too_close, ratio, np.inf) if too_close.any() else distances))
    image = " (periodic image)" if through_box[worst] else ""
    pair = f"{_name(structure, i[worst])} and {_name(structure, j[worst])}{image}"
    if too_close.any():
        what = "are at the same place" if distances[worst] < 1e-3 else f"are {distances[worst]:.2f} A apart"
        advice = "The shortest bond is 0.74 A: remove duplicate atoms, or correct the unit of the coordinates."
        if image:
            advice = "The box is smaller than what is in it: give a larger --box a,b,c in A, or --periodic no."
        raise InputError(f"{structure.path}: {pair} {what} ({too_close.sum()} such pairs). {advice}")
    return [f"closest contact: {pair}, {distances[worst]:.2f} A"]


def _smallest_contact_of_hydrogen(structure: Structure, i, j, radii: np.ndarray) -> np.ndarray:
    """[n_pairs] A, how close two atoms may come through the box if one is a hydrogen bonded to a heavier atom, else 0.

    Between molecules a proton may be on its way, and endless molecules have bonds through the box by nature: there
    only pairs of hydrogens have a limit.
    """
    molecules = structure.molecules
    is_hydrogen = np.array(structure.atomic_numbers) == 1
    taken = np.zeros(len(is_hydrogen), dtype=bool)
    for ends in (molecules.bonds, molecules.bonds[:, ::-1]):
        taken[ends[~is_hydrogen[ends[:, 1]], 0]] = True
    taken &= is_hydrogen
    own = (molecules.index[i] == molecules.index[j]) & ~molecules.in_network()[i]
    limit = np.where((taken[i] | taken[j]) & own, radii + HYDROGEN_MARGIN, 0.0)
    return np.where(taken[i] & taken[j], SMALLEST_HYDROGEN_CONTACT, limit)


def _name(structure: Structure, index: int) -> str:
    atom = list(structure.topology.atoms())[index]
    return f"atom {index + 1} ({atom.name}, {atom.residue.name} {atom.residue.id})"


def check_shape(structure: Structure, barostat: str) -> list[str]:
    """What a barostat that changes the shape of the box means for a fluid, unless bonds hold the box together."""
    if structure.molecules.networks:
        return []
    names = [residue.name for residue in structure.topology.residues()]
    liquid = sum(name in WATER_NAMES for name in names) > len(names) / 2
    start = f"warning: --barostat {barostat} on water" if liquid else f"note: --barostat {barostat} is for solids"
    reason = "nothing holds the shape of a fluid's box, whose sides drift without limit until OpenMM stops"
    return [f"{start}: {reason}. Unless this is a crystal, take --barostat isotropic"]


def check_box(structure: Structure, r_max: float, *, npt: bool) -> list[str]:
    """The box holds the molecules and makes sense against the cutoff (A); returns what follows from its size."""
    if structure.box is None:
        if npt:
            raise InputError(
                f"{structure.path}: --ensemble npt needs a periodic box. Give --box a,b,c in A, or use nvt."
            )
        return ["not periodic"]
    box = structure.box * NM_TO_ANGSTROM
    normals = np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    widths = (box * normals).sum(axis=1)
    text = " x ".join(f"{x:.2f}" for x in widths)
    density = float(structure.masses.sum() / np.linalg.det(structure.box)) * DALTON_PER_CUBIC_NM_TO_G_ML
    notes = [f"box: {text} A between its faces, density {density:.3f} g/mL"]
    if density > LARGEST_DENSITY:
        raise InputError(
            f"{structure.path}: a density of {density:.0f} g/mL is above any matter. Check the box ({text} A): is its "
            "unit right, does it hold all atoms?"
        )
    if npt and density < SMALLEST_DENSITY_NPT:
        raise InputError(
            f"{structure.path}: a density of {density:.2g} g/mL is a gas; a barostat would collapse it or run away. "
            "Use a denser box, or --ensemble nvt."
        )
    lengths = _extents(structure, normals)
    longer = lengths - widths
    if longer.max() > 0:
        axis = int(np.argmax(longer))
        notes.append(
            f"note: a molecule {lengths[axis]:.1f} A long is longer than the box ({widths[axis]:.1f} A) and passes by "
            "its own images; in a crystal that is right, elsewhere the box is too small"
        )
    if widths.min() < 2 * r_max:
        notes.append(
            f"the box is below twice the cutoff ({r_max:g} A): several images of an atom are neighbours, and are "
            "counted; correlations longer than the box are not there"
        )
    if npt and widths.min() < r_max:
        notes.append(f"warning: the box is below one cutoff ({r_max:g} A); its pressure will depend on its size")
    return notes


def _extents(structure: Structure, normals: np.ndarray) -> np.ndarray:
    """[3] A, between the outermost nuclei of the longest molecule along each of `normals`; endless ones left out."""
    molecules = structure.molecules
    along = structure.positions @ normals.T * NM_TO_ANGSTROM
    along[molecules.in_network()] = 0.0
    low, high = (np.full((molecules.count, 3), sign * np.inf) for sign in (1, -1))
    np.minimum.at(low, molecules.index, along)
    np.maximum.at(high, molecules.index, along)
    return (high - low).max(axis=0)


def check_timestep(masses: np.ndarray, timestep: float) -> list[str]:
    """A note when the step (fs) is long for the lightest atom that moves; MACE keeps all bonds flexible."""
    lightest = float(masses[masses > 0].min())
    if lightest < 1.5 and timestep > LONGEST_STEP_WITH_HYDROGEN:
        return [
            f"note: a time step of {timestep:g} fs is long for hydrogen of {lightest:.2f} Da with flexible bonds; "
            f"{LONGEST_STEP_WITH_HYDROGEN:g} fs or less keeps the energy"
        ]
    return []
