"""Completing a PDB or mmCIF structure: hydrogens by residue templates, and, when asked, heavy atoms and residues.

OpenMM places hydrogens for standard amino acids, nucleotides and water; PDBFixer knows which heavy atoms and which
residues of the sequence are not there. What is missing is reported, and built only when asked for. Nothing is fetched.
"""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import openmm
from openmm import app, unit

from mace_md.errors import InputError
from mace_md.structures.formats.contents import (
    Contents,
    copy_topology,
    describe_atom,
    describe_residue,
    nanometers,
)
from mace_md.structures.formats.isotopes import Isotope

LONGEST_PEPTIDE_BOND = 0.25  # nm, between C and N of residues that follow one another; the bond is 0.133
_SEVERAL = 6  # how many residues a message names


def add_hydrogens(contents: Contents, *, ph: float, repair: str, seed: int) -> Contents:
    """The structure with the hydrogens that its standard residues lack at `ph`.

    repair : 'refuse' what lacks heavy atoms or residues, build the 'atoms', or 'residues' inside chains as well.
    seed : decides where atoms go that have a choice.

    Raises InputError for what is missing and was not asked to be built, and for residues without a template.
    """
    _refuse_deuterium(contents)
    _refuse_unknown(contents)
    notes = list(contents.notes)
    fixer = _fixer(contents)
    if fixer is not None:
        contents, repaired = _repair(contents, fixer, repair, seed)
        notes += repaired
    _refuse_breaks(contents)
    before = contents.topology.getNumAtoms()
    modeller = app.Modeller(contents.topology, contents.positions * unit.nanometer)
    try:
        with seeded(seed):
            # Reference: what other platforms relax differs from run to run in the last digits
            variants = modeller.addHydrogens(pH=ph, platform=openmm.Platform.getPlatformByName("Reference"))
    except Exception as error:  # it raises ValueError, KeyError and Exception alike
        reason = " ".join(str(error).split())
        raise InputError(
            f"{contents.path}: hydrogens cannot be added ({reason}). Add them with another program."
        ) from error
    added = modeller.topology.getNumAtoms() - before
    notes.append(f"{added} hydrogens were added (pH {ph:g}, OpenMM's residue templates, standard pKa values)")
    notes += _protonation(modeller.topology, variants)
    return replace(contents, topology=modeller.topology, positions=nanometers(modeller.positions), notes=tuple(notes))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's random numbers, which OpenMM's Modeller draws from, start at `seed` inside and are put back after."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _fixer(contents: Contents):
    """A PDBFixer of the file with our topology in it, or None where the format says nothing about its sequence."""
    if not contents.text:
        return None
    try:
        from pdbfixer import PDBFixer
    except ModuleNotFoundError:
        raise InputError(
            "--hydrogens add looks for missing heavy atoms with PDBFixer, which is not installed: pip install pdbfixer"
        ) from None
    is_mmcif = "_atom_site." in contents.text
    platform = openmm.Platform.getPlatformByName(
        "CPU"
    )  # not the fastest: an OpenCL of some kind may be there, and fail
    fixer = PDBFixer(**{"pdbxfile" if is_mmcif else "pdbfile": io.StringIO(contents.text)}, platform=platform)
    fixer.topology, fixer.positions = contents.topology, contents.positions * unit.nanometer
    return fixer


def _repair(contents: Contents, fixer, repair: str, seed: int) -> tuple[Contents, list[str]]:
    """Refuse or build what PDBFixer finds missing; notes say what was built and what was left."""
    _find_missing_residues(contents, fixer)
    chains = list(contents.topology.chains())
    gaps, ends = {}, []
    for (chain, position), names in fixer.missingResidues.items():
        inside = 0 < position < len(list(chains[chain].residues()))
        if inside:
            gaps[chain, position] = names
        else:
            ends.append(f"{len(names)} at {'an end' if position else 'the start'} of chain {chains[chain].id}")
    notes = [f"residues of the sequence not in the file, and not added: {', '.join(ends)}"] if ends else []
    if gaps and repair != "residues":
        raise InputError(
            f"{contents.path}: residues of the sequence are missing inside a chain: {_named_gaps(chains, gaps)}. Build "
            "them with a modelling program, or roughly with --repair residues."
        )
    fixer.missingResidues = gaps
    fixer.findMissingAtoms()
    missing = [_named(residue, [atom.name for atom in atoms]) for residue, atoms in fixer.missingAtoms.items()]
    missing += [_named(residue, names) for residue, names in fixer.missingTerminals.items()]
    if missing and repair == "refuse":
        raise InputError(
            f"{contents.path}: heavy atoms are missing: {_some(missing)}. Complete the file, or build them from the "
            "residue templates with --repair atoms."
        )
    if not missing and not gaps:
        return contents, notes
    if gaps:
        notes.append(f"built, roughly: residues {_named_gaps(chains, gaps)}; relax them well before use")
    if missing:
        notes.append(f"built from templates: {_some(missing)}")
    with seeded(seed):
        fixer.addMissingAtoms(seed=seed % (2**31 - 1) or 1)
    topology = _with_standard_bonds(fixer.topology)
    return replace(contents, topology=topology, positions=nanometers(fixer.positions)), notes


def _find_missing_residues(contents: Contents, fixer) -> None:
    try:
        fixer.findMissingResidues()
    except (ValueError, IndexError) as error:  # residue numbers that are no numbers
        raise InputError(
            f"{contents.path}: the residue numbers cannot be compared with the sequence of the file ({error}). Remove "
            "SEQRES, or number the residues."
        ) from error


def _with_standard_bonds(topology: app.Topology) -> app.Topology:
    """PDBFixer's topology, each bond once."""
    copy, atoms = copy_topology(topology)
    seen = set()
    for bond in topology.bonds():
        pair = frozenset((bond[0].index, bond[1].index))
        if pair not in seen:
            seen.add(pair)
            copy.addBond(atoms[bond[0].index], atoms[bond[1].index], bond.type, bond.order)
    return copy


def _refuse_breaks(contents: Contents) -> None:
    """Neighbours in a chain whose C and N are far apart: a loop is not there, or two chains have one name."""
    for chain in contents.topology.chains():
        residues = list(chain.residues())
        for first, second in zip(residues, residues[1:], strict=False):
            carbon = next((atom for atom in first.atoms() if atom.name == "C"), None)
            nitrogen = next((atom for atom in second.atoms() if atom.name == "N"), None)
            if carbon is None or nitrogen is None or not _is_protein(first) or not _is_protein(second):
                continue
            distance = np.linalg.norm(contents.positions[carbon.index] - contents.positions[nitrogen.index])
            if distance > LONGEST_PEPTIDE_BOND:
                raise InputError(
                    f"{contents.path}: chain {chain.id} is broken between {first.name} {first.id} and {second.name} "
                    f"{second.id} ({10 * distance:.1f} A from C to N), and would get no end groups there. Put a TER "
                    "line between two chains; build a missing loop, or cap its ends with ACE and NME."
                )


def _is_protein(residue: app.topology.Residue) -> bool:
    return {"N", "CA", "C"} <= {atom.name for atom in residue.atoms()}


def _refuse_deuterium(contents: Contents) -> None:
    """The templates would add hydrogens beside deuterium that is there."""
    heavy = [a for a in contents.topology.atoms() if isinstance(a.element, Isotope) and a.element.atomic_number == 1]
    if heavy:
        raise InputError(
            f"{contents.path}: {describe_atom(heavy[0])}: deuterium ({len(heavy) - 1} more), and the templates of "
            "--hydrogens add know hydrogen only. Complete the file with another program, or write H for D in it."
        )


def _refuse_unknown(contents: Contents) -> None:
    """Residues that hold carbon, have no hydrogens and no template: nothing says where their hydrogens belong."""
    app.Modeller._loadStandardHydrogenDefinitions()
    known = app.Modeller._residueHydrogens
    unknown = []
    for residue in contents.topology.residues():
        symbols = [atom.element.symbol for atom in residue.atoms()]
        if residue.name not in known and "C" in symbols and "H" not in symbols:
            unknown.append(describe_residue(residue))
    if unknown:
        raise InputError(
            f"{contents.path}: {_some(unknown)}: not a standard residue, so no template says where its hydrogens "
            "belong. Add them to the file with a program that knows its chemistry, or take the residue out."
        )


# Hydrogens that only one protonation state has: residue -> (atom, whether it is there in the unusual state, its name).
_UNUSUAL = {"ASP": ("HD2", True, "ASH"), "GLU": ("HE2", True, "GLH"), "LYS": ("HZ3", False, "LYN")}


def _protonation(topology: app.Topology, variants: list[str | None]) -> list[str]:
    """Which histidine tautomers, disulfides and unusual acids and bases came out."""
    chosen = []
    for residue, variant in zip(topology.residues(), variants, strict=True):
        name, present, label = _UNUSUAL.get(residue.name, ("", True, ""))
        if label and any(atom.name == name for atom in residue.atoms()) is present:
            variant = label
        if variant in ("HID", "HIE", "HIP", "CYX", "ASH", "GLH", "LYN"):
            chosen.append(f"{residue.name} {residue.id} as {variant}")
    return [f"protonation chosen: {_some(chosen, 12)}"] if chosen else []


def _named(residue: app.topology.Residue, atoms: list[str]) -> str:
    return f"{describe_residue(residue)} lacks {' '.join(atoms[:_SEVERAL])}{' ...' if len(atoms) > _SEVERAL else ''}"


def _named_gaps(chains: list[app.topology.Chain], gaps: dict) -> str:
    parts = []
    for (chain, position), names in gaps.items():
        before = list(chains[chain].residues())[position - 1]
        parts.append(f"{' '.join(names[:8])}{' ...' if len(names) > 8 else ''} after {describe_residue(before)}")
    return _some(parts)


def _some(parts: list[str], count: int = _SEVERAL) -> str:
    return ", ".join(parts[:count]) + (f", and {len(parts) - count} more" if len(parts) > count else "")
