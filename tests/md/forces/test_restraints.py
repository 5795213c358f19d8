"""Restraints hold what they say: values against numpy, forces against finite differences, and no bond to OpenMM."""

import copy
import time
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
import pytest

from mace_md.config.tables import ExternalForce, Restraint
from mace_md.errors import InputError, UsageError
from mace_md.md.forces.restraints import (
    EXTERNAL_GROUP,
    RESTRAINT_GROUP,
    SCALE,
    external_forces,
    measure,
    restraint_forces,
)
from mace_md.md.system import make_system
from mace_md.structures.selection import select_atoms
from mace_md.structures.structure import read_structure

NOTHING = "CustomExternalForce"


@pytest.fixture(scope="module")
def peptide(repository):
    """Alanine dipeptide in water, periodic."""
    return read_structure(repository / "systems/alanine_dipeptide_water/alanine_dipeptide_water.pdb")


def context_of(structure, forces):
    system = make_system(structure.topology, openmm.CustomExternalForce("0"))
    for force in forces:
        system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    return context


def energy(context, positions=None):
    if positions is not None:
        context.setPositions(positions)
    return context.getState(energy=True, groups={RESTRAINT_GROUP, EXTERNAL_GROUP}).getPotentialEnergy()._value


def forces_of(context):
    return context.getState(forces=True).getForces(asNumpy=True)._value


COORDINATES = {
    "position": {"kind": "position", "atoms": ("name CA",), "k": 500.0},
    "distance": {"kind": "distance", "atoms": ("resname ALA and name CA", "resname NME and name C"), "target": 5.0},
    "centres": {"kind": "distance", "atoms": ("resname ACE and element C", "resname NME and name N C"), "target": 2.0},
    "between molecules": {"kind": "distance", "atoms": ("resname ALA and name CA", "index 40"), "target": 1.0},
    "angle": {
        "kind": "angle", "atoms": ("resname ALA and name N", "name CA", "resname ALA and name C"), "target_angle": 80.0,
    },
    "torsion": {
        "kind": "torsion", "target_angle": 170.0,
        "atoms": ("resname ACE and name C", "resname ALA and name N", "name CA", "resname ALA and name C"),
    },
    "rmsd": {"kind": "rmsd", "atoms": ("resname ALA and not element H",), "k": 800.0},
}  # fmt: skip


@pytest.mark.parametrize("name", COORDINATES)
def test_forces_are_the_slope_of_the_energy_and_scale_with_the_stage(peptide, name):
    forces, lines = restraint_forces(peptide, [Restraint(**COORDINATES[name])])
    context = context_of(peptide, forces)
    rng = np.random.default_rng(1)
    positions = peptide.positions + rng.normal(0, 0.01, peptide.positions.shape)
    start = energy(context, positions)
    assert start > 0.1
    direction = forces_of(context)
    assert np.linalg.norm(direction) > 1.0
    direction /= np.linalg.norm(direction)
    step = 1e-5
    slope = (energy(context, positions + step * direction) - energy(context, positions - step * direction)) / (2 * step)
    context.setPositions(positions)
    # central difference: error of third order in 1e-5 nm, far below 1e-5 of the slope
    assert -slope == pytest.approx((forces_of(context) * direction).sum(), rel=1e-5)
    context.setParameter(SCALE, 0.25)
    assert energy(context) == pytest.approx(0.25 * start, rel=1e-9)
    context.setParameter(SCALE, 0.0)
    assert energy(context) == 0.0
    assert name == "rmsd" or "k " in lines[0]


def test_no_restraint_joins_molecules(peptide):
    """A barostat would scale joined molecules as one rigid body."""
    forces, _ = restraint_forces(peptide, [Restraint(**options) for options in COORDINATES.values()])
    context = context_of(peptide, forces)
    assert [list(molecule) for molecule in context.getMolecules()] == peptide.molecules.groups()


def test_coordinates_are_those_of_mdtraj(peptide):
    trajectory = mdtraj.Trajectory(peptide.positions, mdtraj.Topology.from_openmm(peptide.topology))
    phi = COORDINATES["torsion"]["atoms"]
    groups = [select_atoms(peptide, text, "test") for text in phi]
    indices = [int(group[0]) for group in groups]
    # mdtraj computes in float32
    assert measure(peptide, groups) == pytest.approx(mdtraj.compute_dihedrals(trajectory, [indices])[0, 0], abs=1e-5)
    assert measure(peptide, groups[:3]) == pytest.approx(
        mdtraj.compute_angles(trajectory, [indices[:3]])[0, 0], abs=1e-5
    )
    centre = [
        peptide.masses[group] @ peptide.positions[group] / peptide.masses[group].sum()
        for group in (groups[0], [3, 4, 5])
    ]
    found = measure(peptide, [groups[0], np.array([3, 4, 5])])
    assert found == pytest.approx(np.linalg.norm(centre[0] - centre[1]), abs=1e-9)


def test_distance_takes_the_nearest_image(peptide):
    forces, _ = restraint_forces(peptide, [Restraint(**COORDINATES["between molecules"])])
    context = context_of(peptide, forces)
    here = energy(context)
    moved = peptide.positions.copy()
    molecule = peptide.molecules.index[40]
    moved[peptide.molecules.index == molecule] += peptide.box[0] - peptide.box[2]
    assert energy(context, moved) == pytest.approx(here, rel=1e-9)


def test_position_takes_the_nearest_image(peptide):
    forces, _ = restraint_forces(peptide, [Restraint(**COORDINATES["position"])])
    context = context_of(peptide, forces)
    assert energy(context, peptide.positions + peptide.box[1]) == pytest.approx(0.0, abs=1e-9)
    assert energy(context, peptide.positions + [0.02, 0.0, 0.0]) == pytest.approx(0.5 * 500.0 * 0.02**2, rel=1e-9)


def test_flat_bottom_has_no_force_inside(peptide):
    options = COORDINATES["position"] | {"flat": 0.3}
    context = context_of(peptide, restraint_forces(peptide, [Restraint(**options)])[0])
    assert energy(context, peptide.positions + [0.02, 0.02, 0.0]) == 0.0
    assert not forces_of(context).any()
    assert energy(context, peptide.positions + [0.05, 0.0, 0.0]) == pytest.approx(0.5 * 500.0 * 0.02**2, rel=1e-9)


def test_torsion_goes_the_short_way_round(peptide):
    """Targets 2 degrees apart across +-180 differ little."""
    energies = []
    for target in (179.0, -179.0):
        options = COORDINATES["torsion"] | {"target_angle": target}
        energies.append(energy(context_of(peptide, restraint_forces(peptide, [Restraint(**options)])[0])))
    groups = [select_atoms(peptide, text, "test") for text in COORDINATES["torsion"]["atoms"]]
    phi = np.degrees(measure(peptide, groups))
    for target, found in zip((179.0, -179.0), energies, strict=True):
        turn = (phi - target + 180) % 360 - 180
        assert found == pytest.approx(0.5 * 100.0 * np.radians(turn) ** 2, rel=1e-8)


def test_harmonic_restraint_holds_at_the_temperature(peptide):
    """Equipartition: a restrained coordinate of weight k fluctuates by kT/k a direction."""
    from mace_md.md.dynamics.integrators import make_dynamics

    dynamics = make_dynamics(
        peptide.masses, ensemble="nvt", thermostat="langevin", temperature=300.0, friction=20.0, timestep=2.0, seed=2,
        periodic=True,
    )  # fmt: skip
    system = make_system(peptide.topology, openmm.CustomExternalForce("0"))
    force, _ = restraint_forces(peptide, [Restraint(kind="position", atoms=("all",), k=2000.0)])
    system.addForce(force[0])
    context = openmm.Context(system, dynamics.integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(peptide.positions)
    dynamics.integrator.step(500)
    found = []
    for _ in range(40):
        dynamics.integrator.step(25)
        found.append(energy(context) / (1.5 * len(peptide.positions) * 8.31446e-3 * 300.0))
    # 2190 coordinates, some 10 independent samples: one standard error is 1 %
    assert np.mean(found) == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "position", "atoms": ("name XX",)}, "'name XX' chooses no atom"),
        ({"kind": "position", "atoms": ("nme CA",)}, "is not a selection mdtraj understands"),
        ({"kind": "rmsd", "atoms": ("name CA",)}, "an rmsd needs three atoms"),
        ({"kind": "distance", "atoms": ("name CA", "resname HOH")}, "at most 100 are possible"),
        ({"kind": "distance", "atoms": ("name CA", "resid 5 6")}, "'resid 5 6' has atoms of 2 molecules"),
        ({"kind": "distance", "atoms": ("name CA", "name CA")}, "an atom is in two of its selections"),
    ],
)
def test_what_cannot_be_restrained_is_refused(peptide, options, message):
    with pytest.raises(InputError, match=message):
        restraint_forces(peptide, [Restraint(**options)])


def test_wrong_tables_are_refused():
    with pytest.raises(UsageError, match="distance needs 2 selections, got 1"):
        Restraint(kind="distance", atoms=("name CA",))
    with pytest.raises(UsageError, match="k needs kind = position or distance or rmsd"):
        Restraint(kind="torsion", atoms=("index 0", "index 1", "index 2", "index 3"), k=5.0)


def test_external_force_acts_on_the_chosen_atoms(peptide):
    table = ExternalForce(expression="k*(z-z0)^2", atoms="resname ALA", parameters={"k": 3.0, "z0": 0.5})
    other = ExternalForce(expression="k*x", atoms="name CA", parameters={"k": -1.0})  # the same name, another value
    forces, lines = external_forces(peptide, [table, other])
    atoms = select_atoms(peptide, "resname ALA", "test")
    expected = 3.0 * ((peptide.positions[atoms, 2] - 0.5) ** 2).sum()
    expected -= peptide.positions[select_atoms(peptide, "name CA", "test"), 0].sum()
    assert energy(context_of(peptide, forces)) == pytest.approx(expected, rel=1e-9)
    assert "10 atoms" in lines[0]


@pytest.mark.parametrize(
    "expression, message", [("k*z", "cannot use 'k"), ("z^", "cannot use"), ("log(-1-z^2)", "finite")]
)
def test_expressions_that_mean_nothing_are_refused(peptide, expression, message):
    with pytest.raises(InputError, match=message):
        external_forces(peptide, [ExternalForce(expression=expression)])


def openmm_value(structure, groups):
    """A coordinate by OpenMM's own point functions."""
    name = {2: "distance", 3: "angle", 4: "dihedral"}[len(groups)]
    arguments, definitions, first = [], [], 1
    for number, group in enumerate(groups, start=1):
        weights = structure.masses[group] / structure.masses[group].sum()
        for axis in "xyz":
            terms = "+".join(f"{weight!r}*{axis}{first + k}" for k, weight in enumerate(weights.tolist()))
            arguments.append(f"c{axis}{number}")
            definitions.append(f"c{axis}{number}={terms}")
        first += len(group)
    atoms = np.concatenate(groups).tolist()
    force = openmm.CustomCompoundBondForce(len(atoms), f"point{name}({','.join(arguments)}); {'; '.join(definitions)}")
    force.setUsesPeriodicBoundaryConditions(structure.box is not None)
    force.addBond(atoms, [])
    force.setForceGroup(EXTERNAL_GROUP)
    return energy(context_of(structure, [force]))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("box", ["periodic", "triclinic", "vacuum"])
def test_a_coordinate_is_measured_as_openmm_has_it(peptide, count, box):
    cell = {
        "periodic": peptide.box, "vacuum": None,
        "triclinic": np.array([[1.6, 0.0, 0.0], [0.7, 1.5, 0.0], [-0.6, 0.5, 1.4]]),
    }[box]  # fmt: skip
    topology = copy.deepcopy(peptide.topology)
    topology.setPeriodicBoxVectors(cell)
    structure = replace(peptide, box=cell, topology=topology)
    rng = np.random.default_rng(count)
    for _ in range(10):
        atoms = rng.choice(len(structure.positions), 2 * count, replace=False)
        groups = [atoms[:count], *atoms[count:].reshape(-1, 1)][:count]
        # float64 on both sides; a torsion of nearly straight groups loses some digits
        assert measure(structure, groups) == pytest.approx(openmm_value(structure, groups), abs=1e-8)


def test_many_restraints_are_terms_of_few_forces(peptide):
    """Each has its own numbers: the energy is the sum of those of each alone."""
    rng = np.random.default_rng(3)
    tables = []
    for number in range(60):
        kind = ("distance", "angle", "torsion", "position")[number % 4]
        atoms = rng.choice(66, {"distance": 2, "angle": 3, "torsion": 4, "position": 1}[kind], replace=False)
        own = {"k": 100.0 + number, "flat": 0.01 * number, "target": 1.0}
        if kind in ("angle", "torsion"):
            own = {"k_angle": 50.0 + number, "target_angle": float(number)}
        if kind == "position":
            del own["target"]
        tables.append(Restraint(kind=kind, atoms=tuple(f"index {atom}" for atom in atoms), **own))
    moved = peptide.positions + rng.normal(0, 0.02, peptide.positions.shape)
    forces, lines = restraint_forces(peptide, tables)
    assert (len(forces), len(lines)) == (4, 60)
    alone = [energy(context_of(peptide, restraint_forces(peptide, [table])[0]), moved) for table in tables]
    assert energy(context_of(peptide, forces), moved) == pytest.approx(sum(alone), rel=1e-9)


def test_thousands_of_restraints_are_prepared_in_seconds(peptide):
    """Processor time, on a machine that others use too: 4000 took a minute for each of their selections' topologies."""
    tables = [Restraint(kind="distance", atoms=(f"index {n % 60}", f"index {60 + n % 71}")) for n in range(4000)]
    start = time.process_time()
    forces, _ = restraint_forces(peptide, tables)
    assert time.process_time() - start < 15.0
    assert len(forces) == 1 and forces[0].getNumBonds() == 4000
