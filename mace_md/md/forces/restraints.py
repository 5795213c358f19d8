"""Restraints and external energies, as custom forces of OpenMM beside the model.

Each restraint is k/2 max(0, |x - target| - flat)^2 times the global parameter `restraint_scale`, with which a stage
turns all of them on, off, or down. None of the forces here is a bond to OpenMM: a bond would join two molecules
into one, which a barostat then scales as a rigid body (CustomCentroidBondForce does, CustomCompoundBondForce does not).
"""

from collections.abc import Sequence

import numpy as np
import openmm

from mace_md.config.tables import ExternalForce, Restraint
from mace_md.errors import InputError
from mace_md.structures.molecules import minimum_image
from mace_md.structures.selection import select_atoms
from mace_md.structures.structure import Structure
from mace_md.units import ANGSTROM_TO_NM

SCALE = "restraint_scale"
MODEL_GROUP, RESTRAINT_GROUP, EXTERNAL_GROUP = 0, 1, 2  # force groups: their energies are columns of the log
MOST_ATOMS_IN_A_COORDINATE = 100  # of distance, angle, torsion: each is a term of the expression
Forces = dict[object, openmm.Force]
Groups = Sequence[np.ndarray]
_WELL = f"{SCALE}*0.5*k*max(0, deviation-flat)^2"


def restraint_forces(structure: Structure, restraints: Sequence[Restraint]) -> tuple[list[openmm.Force], list[str]]:
    """The forces of all restraints, relative to the positions of `structure`; and a line for the log on each restraint.

    Restraints of one kind are terms of one force: a thousand cost little more than one. Raises InputError for a
    selection that chooses nothing, or that a restraint of this kind cannot use.
    """
    forces: dict[object, openmm.Force] = {}
    lines = []
    for number, restraint in enumerate(restraints, start=1):
        name = restraint.name or f"{restraint.kind} {number}"
        groups = [select_atoms(structure, text, f"[[restraint]] {name}") for text in restraint.atoms]
        add = {"position": _add_position, "rmsd": _add_rmsd}.get(restraint.kind, _add_coordinate)
        lines.append(f"{name}: {add(forces, structure, restraint, groups, name)}")
    for force in forces.values():
        force.setForceGroup(RESTRAINT_GROUP)
    return list(forces.values()), lines


def external_forces(structure: Structure, tables: Sequence[ExternalForce]) -> tuple[list[openmm.Force], list[str]]:
    """An openmm.CustomExternalForce for each table, tried out before it is used; and a line for the log on each."""
    forces, lines = [], []
    for number, table in enumerate(tables, start=1):
        where = f"[[external_force]] {number}"
        atoms = select_atoms(structure, table.atoms, where)
        try:
            numbers = "".join(f"; {name}={value!r}" for name, value in (table.parameters or {}).items())
            force = openmm.CustomExternalForce(table.expression + numbers)
            for atom in atoms.tolist():
                force.addParticle(atom)
            _try_out(structure, force)
        except openmm.OpenMMException as error:
            raise InputError(
                f"{where}: OpenMM cannot use '{table.expression}' ({error}). It is an energy in kJ/mol of x, y, z in "
                "nm, and of the numbers under `parameters`."
            ) from None
        force.setName(f"external {number}")
        force.setForceGroup(EXTERNAL_GROUP)
        forces.append(force)
        lines.append(f"{table.expression} on {len(atoms)} atoms ({table.atoms})")
    return forces, lines


def _try_out(structure: Structure, force: openmm.CustomExternalForce) -> None:
    """Evaluate a copy alone at the start: mistakes in an expression show only in a Context."""
    system = openmm.System()
    for _ in structure.positions:
        system.addParticle(1.0)
    if structure.box is not None:
        system.setDefaultPeriodicBoxVectors(*structure.box)
    system.addForce(openmm.XmlSerializer.clone(force))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    if not np.isfinite(energy):
        raise InputError(
            f"[[external_force]]: '{force.getEnergyFunction()}' is {energy} at the start, not a finite energy. "
            "Correct it."
        )


# -------------------------------------------------------------------------------------------- one kind each


def _add_position(forces: Forces, structure: Structure, restraint: Restraint, groups: Groups, name: str) -> str:
    force = forces.get("position")
    if force is None:
        periodic = structure.box is not None
        distance = "periodicdistance(x,y,z,x0,y0,z0)" if periodic else "sqrt((x-x0)^2+(y-y0)^2+(z-z0)^2)"
        force = forces["position"] = openmm.CustomExternalForce(f"{_WELL}; deviation={distance}")
        force.setName("restraints: position")
        force.addGlobalParameter(SCALE, 1.0)
        for parameter in ("k", "flat", "x0", "y0", "z0"):
            force.addPerParticleParameter(parameter)
    for atom in groups[0].tolist():
        start = structure.positions[atom].tolist()
        force.addParticle(atom, [restraint.k, restraint.flat * ANGSTROM_TO_NM, *start])
    return f"{len(groups[0])} atoms at their starting positions, {_strength(restraint)}"


def _add_rmsd(forces: Forces, structure: Structure, restraint: Restraint, groups: Groups, name: str) -> str:
    atoms = groups[0]
    if len(atoms) < 3:
        raise InputError(f"[[restraint]] {name}: an rmsd needs three atoms, '{restraint.atoms[0]}' has {len(atoms)}.")
    _refuse_several_molecules(structure, atoms, name, restraint.atoms[0])
    target = 0.0 if restraint.target is None else restraint.target
    # A CustomCVForce has global parameters only, which all forces share by name: the numbers are in the expression.
    numbers = f"k={restraint.k!r}; flat={restraint.flat * ANGSTROM_TO_NM!r}; target={target * ANGSTROM_TO_NM!r}"
    force = forces["rmsd", len(forces)] = openmm.CustomCVForce(f"{_WELL}; deviation=abs(rmsd-target); {numbers}")
    force.setName(f"restraint: {name}")
    force.addCollectiveVariable("rmsd", openmm.RMSDForce(structure.positions, atoms.tolist()))
    force.addGlobalParameter(SCALE, 1.0)
    return f"rmsd of {len(atoms)} atoms from the start held at {target:g} A, {_strength(restraint)}"


def _add_coordinate(forces: Forces, structure: Structure, restraint: Restraint, groups: Groups, name: str) -> str:
    """Distance, angle or torsion of atoms, or of centres of mass."""
    atoms = np.concatenate(groups)
    if len(atoms) > MOST_ATOMS_IN_A_COORDINATE:
        raise InputError(
            f"[[restraint]] {name}: its selections have {len(atoms)} atoms, at most {MOST_ATOMS_IN_A_COORDINATE} are "
            "possible. Choose fewer, such as one atom or a backbone."
        )
    if len(set(atoms.tolist())) < len(atoms):
        raise InputError(f"[[restraint]] {name}: an atom is in two of its selections {', '.join(restraint.atoms)}.")
    for group, text in zip(groups, restraint.atoms, strict=True):
        _refuse_several_molecules(structure, group, name, text)
    expression = _coordinate_energy(restraint.kind, structure.masses, groups)
    force = forces.get(expression)
    if force is None:
        force = forces[expression] = openmm.CustomCompoundBondForce(len(atoms), expression)
        force.setName(f"restraints: {restraint.kind}")
        force.setUsesPeriodicBoundaryConditions(structure.box is not None)
        force.addGlobalParameter(SCALE, 1.0)
        for parameter in ("k", "flat", "target"):
            force.addPerBondParameter(parameter)
    k, flat, target, shown = _numbers(structure, restraint, groups)
    force.addBond(atoms.tolist(), [k, flat, target])
    return f"{restraint.kind} of {' - '.join(restraint.atoms)} held at {shown}, {_strength(restraint)}"


def _coordinate_energy(kind: str, masses: np.ndarray, groups: Groups) -> str:
    """The energy as OpenMM writes it; the same text for all whose groups have the same weights."""
    function = {"distance": "pointdistance", "angle": "pointangle", "torsion": "pointdihedral"}[kind]
    value, definitions = _of_centres(function, masses, groups)
    deviation = "abs(value-target)"
    if kind == "torsion":  # the short way round
        deviation = "min(turn, 2*pi-turn); turn=abs(value-target); pi=3.141592653589793"
    return f"{_WELL}; deviation={deviation}; value={value}; {definitions}"


def _numbers(structure: Structure, restraint: Restraint, groups: Groups):
    """k, flat and target in OpenMM's units, and the target for people; a target that is not given is measured."""
    is_length = restraint.kind == "distance"
    size, unit_name = (ANGSTROM_TO_NM, "A") if is_length else (np.pi / 180, "degrees")
    given = restraint.target if is_length else restraint.target_angle
    target = measure(structure, groups) if given is None else given * size
    k, flat = (restraint.k, restraint.flat) if is_length else (restraint.k_angle, restraint.flat_angle)
    if restraint.kind == "torsion":
        target = (target + np.pi) % (2 * np.pi) - np.pi
    measured = " (as at the start)" if given is None else ""
    return k, flat * size, target, f"{target / size:.3f} {unit_name}{measured}"


def measure(structure: Structure, groups: Groups) -> float:
    """Distance (nm), angle (rad) or torsion (rad, -pi to pi) of the centres of mass of two, three or four groups.

    Between the nearest images, one step after the other, as OpenMM's point functions have it.
    """
    masses, positions = structure.masses, structure.positions
    centres = np.array([masses[group] @ positions[group] / masses[group].sum() for group in groups])
    steps = minimum_image(np.diff(centres, axis=0), structure.box)
    if len(steps) == 1:
        return float(np.linalg.norm(steps[0]))
    if len(steps) == 2:
        back, onward = -steps[0], steps[1]
        return float(np.arctan2(np.linalg.norm(np.cross(back, onward)), back @ onward))
    one, two = np.cross(steps[0], steps[1]), np.cross(steps[1], steps[2])
    return float(np.arctan2(np.cross(one, two) @ steps[1] / np.linalg.norm(steps[1]), one @ two))


def _of_centres(function: str, masses: np.ndarray, groups: Groups) -> tuple[str, str]:
    """The call of an OpenMM point function on the centres of mass of `groups`, and what defines its arguments."""
    arguments, definitions, first = [], [], 1
    for number, group in enumerate(groups, start=1):
        weights = masses[group] / masses[group].sum()
        for axis in "xyz":
            terms = "+".join(f"{weight:.12g}*{axis}{first + k}" for k, weight in enumerate(weights.tolist()))
            arguments.append(f"c{axis}{number}")
            definitions.append(f"c{axis}{number}={terms}")
        first += len(group)
    return f"{function}({','.join(arguments)})", "; ".join(definitions)


def _refuse_several_molecules(structure: Structure, atoms: np.ndarray, name: str, text: str) -> None:
    """Molecules drift through the box on their own: a centre, or an rmsd, of several has no meaning there."""
    count = len(set(structure.molecules.index[atoms].tolist()))
    if structure.box is not None and count > 1:
        raise InputError(
            f"[[restraint]] {name}: '{text}' has atoms of {count} molecules; in a periodic box their centre is not "
            "defined. Choose atoms of one molecule."
        )


def _strength(restraint: Restraint) -> str:
    if restraint.kind in ("angle", "torsion"):
        k, flat, units = restraint.k_angle, restraint.flat_angle, ("kJ/mol/rad^2", "degrees")
    else:
        k, flat, units = restraint.k, restraint.flat, ("kJ/mol/nm^2", "A")
    return f"k {k:g} {units[0]}" + (f", flat within {flat:g} {units[1]}" if flat else "")
