"""SDF and MOL files, and SMILES, through RDKit: one molecule with its bonds and formal charges.

A SMILES has no coordinates: they are made by distance geometry (ETKDGv3: Wang, Witek, Landrum, Riniker, J. Chem. Inf.
Model. 60, 2044, 2020) and relaxed with MMFF94 (Halgren, J. Comput. Chem. 17, 490, 1996), or with UFF where MMFF94
lacks parameters.
"""

import itertools
import re
from pathlib import Path

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents
from mace_md.structures.formats.isotopes import isotope, isotope_notes
from mace_md.structures.formats.text import read_text
from mace_md.units import ANGSTROM_TO_NM

RELAX_STEPS = 2000  # of the classical force field, far more than a small molecule needs
MOST_EMBED_ATTEMPTS = 100
CLOSEST_MOLECULES = 2.2  # A, between atoms of different molecules of one SMILES
SMILES_LABEL = "--smiles"  # in messages, where the name of a file would be


def read_sdf(path: Path, frame: int | None = None, *, add_hydrogens: bool = False) -> Contents:
    """One molecule of an SDF or MOL file: the first, or the one with the index `frame`."""
    chem = _rdkit()
    records = _records(path)
    index = _record_index(path, frame, len(records))
    molecule = chem.MolFromMolBlock(records[index], removeHs=False, sanitize=True)
    if molecule is None:
        raise InputError(
            f"{path}: molecule {index + 1} cannot be read as a chemical structure ({_problem(records[index])}). "
            "Correct it; an xyz file needs no bonds."
        )
    title = records[index].splitlines()[0].strip()
    notes = [f"molecule {index + 1} of {len(records)}{f' ({title})' if title else ''}"] if len(records) > 1 else []
    if len(records) > 1 and frame is None:
        notes[0] += f" was taken (another: {path.name}@INDEX)"
    _refuse_drawing(path, molecule, records[index].splitlines()[1][20:22] == "2D")
    missing = sum(atom.GetTotalNumHs() for atom in molecule.GetAtoms())
    if missing and add_hydrogens:
        molecule = chem.AddHs(molecule, addCoords=True)
        notes.append(f"{missing} hydrogens that the valences imply were added; the charge states are those of the file")
    elif missing:
        raise InputError(
            f"{path}: {missing} hydrogens are implied by the valences, and not in the file; MACE needs every atom. Use "
            "--hydrogens add."
        )
    return _contents(path, molecule, [*notes, *_chemistry(molecule)], (path,))


def from_smiles(smiles: str, *, seed: int) -> Contents:
    """The molecule (or several, separated by dots) of a SMILES, with coordinates that `seed` decides."""
    chem = _rdkit()
    reason, molecule = _parsed(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise InputError(f"--smiles: '{smiles}' is not a SMILES ({reason or 'no atoms'}). Correct it, and quote it.")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise InputError(f"--smiles: '{smiles}' has an open end (*); MACE needs every atom. Close it.")
    molecule = chem.AddHs(molecule)
    notes = ["hydrogens by valence, charge states as written"]
    open_stereo = _unspecified_stereo(molecule)
    fragments = chem.GetMolFrags(molecule, asMols=True)
    notes += sorted({_embed(smiles, fragment, seed) for fragment in fragments})
    molecule = fragments[0]
    if len(fragments) > 1:
        molecule = _side_by_side(fragments, seed)
        notes.append(f"{len(fragments)} molecules placed at random, {CLOSEST_MOLECULES:g} A apart or more")
    if open_stereo:
        chem.AssignStereochemistryFrom3D(molecule)
        chosen = chem.MolToSmiles(chem.RemoveHs(molecule))
        notes.append(f"stereochemistry of {open_stereo} is not in the SMILES; this one was made: {chosen}")
    return _contents(Path(SMILES_LABEL), molecule, [*notes, *_chemistry(molecule)], ())


def _rdkit():
    try:
        from rdkit import Chem, RDLogger
    except ModuleNotFoundError:
        raise InputError("SDF files and SMILES need RDKit, which is not installed: pip install rdkit") from None
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # it writes to the terminal; what matters becomes an InputError or a note
    return Chem


def _parsed(smiles: str):
    """(what RDKit says, the molecule or None)."""
    chem = _rdkit()
    parameters = chem.SmilesParserParams()
    parameters.sanitize = False
    molecule = chem.MolFromSmiles(smiles, parameters)
    if molecule is None:
        return "it does not follow the grammar", None
    try:
        chem.SanitizeMol(molecule)
    except (ValueError, RuntimeError) as error:
        return str(error).strip(), None
    return "", molecule


def _records(path: Path) -> list[str]:
    """The mol blocks of the file; properties after `M  END` are left out."""
    blocks = read_text(path).split("$$$$\n")
    blocks = [block for block in blocks if block.replace("$$$$", "").strip()]
    if not blocks or "M  END" not in blocks[0]:
        raise InputError(f"{path}: is not an SDF or MOL file (no 'M  END' line). Check the file.")
    return [block.partition("M  END")[0] + "M  END\n" for block in blocks]


def _problem(record: str) -> str:
    """What RDKit has against a mol block: the first atom whose valence is wrong, or that its lines are no atoms."""
    chem = _rdkit()
    molecule = chem.MolFromMolBlock(record, removeHs=False, sanitize=False)
    if molecule is None:
        return "its lines of atoms and bonds are not those of a MOL file"
    found = [problem.Message() for problem in chem.DetectChemistryProblems(molecule)]
    # RDKit counts atoms from 0, the file from 1
    shown = [re.sub(r"atom # (\d+)", lambda match: f"atom {int(match.group(1)) + 1}", text) for text in found]
    return shown[0] if shown else "its valences or aromatic rings do not add up"


def _record_index(path: Path, frame: int | None, count: int) -> int:
    index = 0 if frame is None else frame
    if not -count <= index < count:
        raise InputError(f"{path}: has no molecule with index {index}; it has {count} (0 to {count - 1}).")
    return index % count


def _refuse_drawing(path: Path, molecule, drawn: bool) -> None:
    """`drawn`: the header of the record says 2D."""
    positions = molecule.GetConformer().GetPositions()
    flat = molecule.GetNumAtoms() > 4 and np.abs(positions[:, 2]).max() == 0.0
    solid = any(str(atom.GetHybridization()) == "SP3" and atom.GetTotalDegree() > 2 for atom in molecule.GetAtoms())
    if flat and (solid or drawn):
        from rdkit import Chem

        smiles = Chem.MolToSmiles(Chem.RemoveHs(molecule))
        raise InputError(
            f"{path}: the coordinates are a drawing in the plane, not a structure. Make one with --smiles '{smiles}' "
            "in place of the file."
        )


def _unspecified_stereo(molecule) -> str:
    from rdkit import Chem

    open_ones = [
        info for info in Chem.FindPotentialStereo(molecule) if info.specified == Chem.StereoSpecified.Unspecified
    ]
    centres = sum(info.type == Chem.StereoType.Atom_Tetrahedral for info in open_ones)
    double = sum(info.type == Chem.StereoType.Bond_Double for info in open_ones)
    parts = [f"{n} {what}" for n, what in ((centres, "stereocentres"), (double, "double bonds")) if n]
    return " and ".join(parts)


def _embed(smiles: str, molecule, seed: int) -> str:
    """Give the molecule coordinates; returns the note on how."""
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed % (2**31 - 1)
    parameters.maxIterations = MOST_EMBED_ATTEMPTS
    crowded = _spread_neighbours(molecule)
    if crowded is not None:
        parameters.SetBoundsMat(crowded)
    if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
        parameters.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
            raise InputError(f"--smiles: no coordinates were found for '{smiles}'. Give a file with coordinates.")
    how = "coordinates by RDKit (ETKDGv3, seeded)"
    if molecule.GetNumAtoms() == 1:
        return "one atom at the origin"
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=RELAX_STEPS)
        return f"{how}, relaxed with MMFF94"
    if rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=RELAX_STEPS)
        return f"{how}, relaxed with UFF (MMFF94 lacks parameters)"
    return f"{how}, not relaxed (neither MMFF94 nor UFF has parameters)"


def _spread_neighbours(molecule) -> np.ndarray | None:
    """RDKit's limits of distances, with the neighbours of an atom that has five or more kept a right angle apart.

    RDKit knows angles for up to four of them, and would put the fluorine atoms of SF6 on top of each other. None where
    there is no such atom.
    """
    from rdkit import DistanceGeometry
    from rdkit.Chem import rdDistGeom

    crowded = [atom for atom in molecule.GetAtoms() if atom.GetDegree() >= 5]
    if not crowded:
        return None
    bounds = rdDistGeom.GetMoleculeBoundsMatrix(molecule)  # the largest above the diagonal, the least below
    for atom in crowded:
        centre, ends = atom.GetIdx(), [end.GetIdx() for end in atom.GetNeighbors()]
        lengths = {end: (bounds[end, centre] + bounds[centre, end]) / 2 for end in ends}
        for end in ends:
            low, high = max(centre, end), min(centre, end)
            bounds[low, high], bounds[high, low] = lengths[end] - 0.005, lengths[end] + 0.005
        for i, j in itertools.combinations(sorted(ends), 2):
            bounds[i, j] = 1.005 * (lengths[i] + lengths[j])
            share = 0.99 if len(ends) < 7 else 0.8  # of a right angle, as seven and more do not have it
            bounds[j, i] = share * np.hypot(lengths[i], lengths[j])
    DistanceGeometry.DoTriangleSmoothing(bounds)
    return bounds


def _side_by_side(fragments, seed: int):
    """The molecules in one, each moved out from the centre in a random direction until it touches none before it."""
    from rdkit import Chem
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(seed)
    combined, placed = Chem.Mol(), np.zeros((0, 3))
    for fragment in fragments:
        conformer = fragment.GetConformer()
        positions = conformer.GetPositions() - conformer.GetPositions().mean(axis=0)
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        shift = np.zeros(3)
        while len(placed) and cdist(placed, positions + shift).min() < CLOSEST_MOLECULES:
            shift += 0.2 * direction
        conformer.SetPositions(np.ascontiguousarray(positions + shift))
        placed = np.concatenate([placed, positions + shift])
        combined = Chem.CombineMols(combined, fragment) if combined.GetNumAtoms() else fragment
    Chem.SanitizeMol(combined)
    return combined


def _chemistry(molecule) -> list[str]:
    from rdkit import Chem

    charged = [
        f"{atom.GetSymbol()}{atom.GetIdx() + 1} {atom.GetFormalCharge():+d}"
        for atom in molecule.GetAtoms()
        if atom.GetFormalCharge()
    ]
    if not charged:
        return []
    shown = ", ".join(charged[:6]) + (", ..." if len(charged) > 6 else "")
    return [f"formal charges {shown}; total charge {Chem.GetFormalCharge(molecule):+d}"]


def _contents(path: Path, molecule, notes: list[str], files: tuple[Path, ...]) -> Contents:
    """Contents of an RDKit molecule with coordinates; each fragment is a residue."""
    from rdkit import Chem

    fragments = Chem.GetMolFrags(molecule)
    if any(fragment[-1] - fragment[0] + 1 != len(fragment) for fragment in fragments):
        order = [i for fragment in fragments for i in fragment]
        molecule = Chem.RenumberAtoms(molecule, order)
        fragments = Chem.GetMolFrags(molecule)
        notes.append("the atoms were sorted by molecule")
    topology = app.Topology()
    chain = topology.addChain("A")
    made = []
    for fragment in fragments:
        counts: dict[str, int] = {}
        symbols = [molecule.GetAtomWithIdx(i).GetSymbol() for i in fragment]
        name = "HOH" if sorted(symbols) == ["H", "H", "O"] else symbols[0].upper() if len(symbols) == 1 else "MOL"
        residue = topology.addResidue(name, chain)
        for i, symbol in zip(fragment, symbols, strict=True):
            counts[symbol] = counts.get(symbol, 0) + 1
            charge = molecule.GetAtomWithIdx(i).GetFormalCharge()
            alone = symbols.count(symbol) == 1
            element = _element(path, molecule.GetAtomWithIdx(i))
            label = symbol if alone else f"{symbol}{counts[symbol]}"
            made.append(topology.addAtom(label[:4], element, residue, formalCharge=charge))
    for bond in molecule.GetBonds():
        kind = getattr(app, str(bond.GetBondType()).capitalize(), None)
        order = None if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble())
        topology.addBond(made[bond.GetBeginAtomIdx()], made[bond.GetEndAtomIdx()], kind, order)
    positions = molecule.GetConformer().GetPositions() * ANGSTROM_TO_NM
    charge = Chem.GetFormalCharge(molecule)
    spin = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()) + 1
    electrons = sum(atom.GetAtomicNum() for atom in molecule.GetAtoms()) - charge
    if (electrons + spin) % 2 == 0:  # valences say nothing about the spin of a metal
        spin = None
    notes += isotope_notes(atom.element for atom in topology.atoms())
    return Contents(
        path, topology, positions, charge=charge, spin=spin, notes=tuple(notes), files=files, hydrogens_known=True
    )


def _element(path: Path, atom) -> app.Element:
    """The element of an RDKit atom, as the isotope that it states. Raises InputError for one that is not known."""
    from rdkit import Chem

    if not atom.GetIsotope():
        return app.Element.getByAtomicNumber(atom.GetAtomicNum())
    mass = Chem.GetPeriodicTable().GetMassForIsotope(atom.GetAtomicNum(), atom.GetIsotope())
    if not mass > 0:
        raise InputError(
            f"{path}: atom {atom.GetIdx() + 1}: {atom.GetSymbol()} has no isotope {atom.GetIsotope()} that is known. "
            "Correct it, or leave the mass number out."
        )
    return isotope(atom.GetAtomicNum(), float(mass))
