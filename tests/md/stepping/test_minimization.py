"""The minimiser goes down without a leap: known minima, molecules whose free atoms lie lower, atoms that are held."""

import numpy as np
import openmm
import pytest
from ase.cluster import Icosahedron
from ase.optimize import BFGS
from openmm import app

import mace_md
from mace_md.errors import SafetyStop
from mace_md.md.stepping.minimization import LARGEST_STEP, minimize
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.structure import assemble

PLATFORMS = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]


def simulation_of(force, positions, masses=None, platform="Reference"):
    """OpenMM's Simulation of bare particles under one force."""
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("X", topology.addChain())
    for k in range(len(positions)):
        topology.addAtom("X", app.element.argon, residue)
        system.addParticle(40.0 if masses is None else masses[k])
    system.addForce(force)
    made = app.Simulation(topology, system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform))
    made.context.setPositions(positions)
    return made


def positions_of(simulation):
    return np.array(simulation.context.getState(positions=True).getPositions(asNumpy=True)._value)


def lennard_jones(count):
    """In units of its energy and length."""
    force = openmm.CustomNonbondedForce("4*(r^-12 - r^-6)")
    for _ in range(count):
        force.addParticle()
    return force


@pytest.mark.parametrize("platform", PLATFORMS)
def test_thirteen_lennard_jones_atoms_reach_the_known_minimum(platform):
    """-44.326801 of an icosahedron: Hoare and Pal, Adv. Phys. 20, 161 (1971), the Cambridge Cluster Database."""
    start = Icosahedron("Ar", 2, latticeconstant=1.55).positions
    start += np.random.default_rng(3).normal(0, 0.05, start.shape)
    found = minimize(simulation_of(lennard_jones(13), start, platform=platform), tolerance=1e-2, max_iterations=0)
    assert found.converged
    # the curvature of the softest mode is over 10, so that forces of 1e-2 leave 39 * 1e-4 / 20; single precision 1e-4
    assert found.energy_after == pytest.approx(-44.326801, abs=4e-4)


def test_quadratic_well_is_solved_in_few_steps():
    """Stiffnesses that differ a hundredfold, minimum at (0.3, -0.2, 0.1) nm: its place, to tolerance / stiffness."""
    force = openmm.CustomExternalForce("5e5*(x-0.3)^2 + 5e3*(y+0.2)^2 + 5e4*(z-0.1)^2")
    force.addParticle(0, [])
    simulation = simulation_of(force, np.zeros((1, 3)))
    found = minimize(simulation, tolerance=0.1, max_iterations=200)
    assert found.converged
    assert positions_of(simulation)[0] == pytest.approx([0.3, -0.2, 0.1], abs=0.1 * 3**0.5 / 1e4)
    assert found.iterations < 0.3 / LARGEST_STEP + 40


def test_no_leap_over_a_barrier_to_something_lower():
    """A bound pair, 5 kJ/mol above its minimum, behind a barrier of 200, beyond which the energy is lower by 300."""
    force = openmm.CustomBondForce("200*((r-0.1)/0.03)^2*step(0.13-r) + step(r-0.13)*(200*exp(-(r-0.13)*20) - 300)")
    force.addBond(0, 1, [])
    simulation = simulation_of(force, np.array([[0.0, 0.0, 0.0], [0.1047, 0.0, 0.0]]))
    found = minimize(simulation, tolerance=1.0, max_iterations=0)
    assert found.energy_before == pytest.approx(4.91, abs=0.01)
    assert found.energy_after == pytest.approx(0.0, abs=1e-3)
    assert np.linalg.norm(np.diff(positions_of(simulation), axis=0)) == pytest.approx(0.1, abs=1e-4)


def test_ends_at_the_lowest_point_and_never_above_the_start():
    """From starts far too dense, cut off after any number of steps: the energy in the Context is the one reported."""
    rng = np.random.default_rng(8)
    for steps in (1, 2, 3, 5, 8, 13):
        simulation = simulation_of(lennard_jones(8), rng.uniform(0, 1.6, (8, 3)))
        found = minimize(simulation, tolerance=1e-3, max_iterations=steps)
        now = simulation.context.getState(energy=True).getPotentialEnergy()._value
        assert found.iterations == steps
        assert found.energy_after <= found.energy_before
        assert now == pytest.approx(found.energy_after, rel=1e-12)


def test_atoms_without_mass_stay_where_they_are():
    start = Icosahedron("Ar", 2, latticeconstant=1.7).positions
    masses = np.full(13, 40.0)
    masses[[2, 5]] = 0.0
    simulation = simulation_of(lennard_jones(13), start, masses)
    found = minimize(simulation, tolerance=0.1, max_iterations=0)
    moved = np.linalg.norm(positions_of(simulation) - start, axis=1)
    assert found.converged
    assert (moved[[2, 5]] == 0.0).all()
    assert moved.max() > 0.01


def test_tolerance_below_the_resolution_of_float32_comes_to_an_end():
    simulation = simulation_of(lennard_jones(13), Icosahedron("Ar", 2, latticeconstant=1.6).positions, platform="CPU")
    found = minimize(simulation, tolerance=1e-9, max_iterations=0)
    assert found.exhausted
    assert not found.converged


def test_start_that_is_not_finite_is_refused():
    with pytest.raises(SafetyStop, match="not finite numbers"):
        minimize(simulation_of(lennard_jones(2), np.zeros((2, 3))), tolerance=1.0, max_iterations=0)


def test_stops_when_told():
    start = Icosahedron("Ar", 2, latticeconstant=1.7).positions
    told = iter([False, False, True])
    found = minimize(simulation_of(lennard_jones(13), start), tolerance=1e-3, max_iterations=0, stop=lambda: next(told))
    assert found.iterations == 2


# Bonds of the default model, from ASE's BFGS with the same model: what OpenMM's own minimiser made gases of.
@pytest.mark.parametrize("smiles", ["N", "O=C=O", "N#N", "OO", "FS(F)(F)(F)(F)F", "[Na]Cl"])
def test_small_molecules_stay_whole(smiles):
    """The minimum is ASE's: energies within 0.2 kJ/mol, what forces of 0.01 eV/A leave in a soft mode, atoms bound."""
    model = mace_md.load_model("mace-md-small", dtype="float64")
    structure = assemble(from_smiles(smiles, seed=1))
    system = mace_md.make_system(structure.topology, model)
    simulation = app.Simulation(
        structure.topology, system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    simulation.context.setPositions(structure.positions)
    found = minimize(simulation, tolerance=5.0, max_iterations=300)
    from ase import Atoms

    atoms = Atoms(structure.atomic_numbers, positions=10 * structure.positions)
    atoms.calc = mace_md.ase_calculator(model)
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None, maxstep=0.05).run(fmax=0.01, steps=300)
    assert found.converged
    fell = (before - atoms.get_potential_energy()) * 96.48533
    assert found.energy_before - found.energy_after == pytest.approx(fell, abs=0.2)
    ends = structure.molecules.bonds.T
    both = (10 * positions_of(simulation), atoms.positions)
    ours, theirs = (np.linalg.norm(x[ends[0]] - x[ends[1]], axis=1) for x in both)
    assert ours == pytest.approx(theirs, abs=0.02)
