"""Each integrator samples what its name says: energies, temperatures and distributions against theory."""

import numpy as np
import openmm
import pytest
from openmm import unit
from scipy import stats

from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.dynamics.temperature import temperature_of
from mace_md.md.dynamics.velocities import is_linear, remove_kept_motion, set_velocities, without_rotation
from mace_md.units import BOLTZMANN_KJ_MOL_K

TEMPERATURE = 300.0
TETRAHEDRON = 0.1 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])  # nm
MASSES = np.array([12.0, 16.0, 14.0, 10.0])


def options(**changes):
    defaults = {
        "ensemble": "nvt", "thermostat": "langevin", "temperature": TEMPERATURE, "friction": 10.0, "timestep": 1.0,
        "seed": 5, "periodic": False,
    }  # fmt: skip
    return defaults | changes


class Simulation:
    """The two attributes of an openmm.app.Simulation that set_velocities uses."""

    def __init__(self, system, dynamics, positions):
        self.integrator = dynamics.integrator
        self.context = openmm.Context(system, self.integrator, openmm.Platform.getPlatformByName("Reference"))
        self.context.setPositions(positions)


def tetrahedron(dynamics, stiffness=50_000.0):
    """Four atoms, each pair on a spring (kJ/mol/nm^2) at its start distance: 6 vibrations, 3 rotations."""
    system = openmm.System()
    springs = openmm.HarmonicBondForce()
    for i, mass in enumerate(MASSES):
        system.addParticle(mass)
        for j in range(i):
            springs.addBond(i, j, np.linalg.norm(TETRAHEDRON[i] - TETRAHEDRON[j]), stiffness)
    system.addForce(springs)
    if dynamics.counts_cm_removal:
        system.addForce(openmm.CMMotionRemover(10))
    simulation = Simulation(system, dynamics, TETRAHEDRON)
    set_velocities(simulation, dynamics, TEMPERATURE, seed=11)
    return simulation


def energies(context):
    state = context.getState(energy=True)
    return state.getPotentialEnergy()._value, state.getKineticEnergy()._value


def momenta(context):
    state = context.getState(positions=True, velocities=True)
    x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
    return MASSES @ v, (MASSES[:, None] * np.cross(x - MASSES @ x / MASSES.sum(), v)).sum(axis=0)


def test_nve_error_falls_as_the_square_of_the_step(make_run):
    """Halving the step divides the fluctuation of the total energy by 4, within 25 %."""
    spread = []
    for timestep in (0.8, 0.4):
        run = make_run(f"nve{timestep}", timestep=timestep)
        set_velocities(run.simulation, run.dynamics, TEMPERATURE, seed=3)
        context, integrator = run.simulation.context, run.simulation.integrator
        totals = []
        for _ in range(200):
            integrator.step(round(1.6 / timestep))
            totals.append(sum(energies(context)))
        spread.append(np.std(totals))
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_vibrations_and_motion_share_the_temperature(thermostat):
    """<K> = num_dof kT/2, and <U> = 6 kT/2 for six stiff springs, within four standard errors."""
    dynamics = make_dynamics(MASSES, **options(thermostat=thermostat, friction=20.0))
    simulation = tetrahedron(dynamics)
    samples = []
    for _ in range(4000):
        dynamics.integrator.step(20)
        samples.append(energies(simulation.context))
    potential, kinetic = np.array(samples).T
    half_kT = 0.5 * BOLTZMANN_KJ_MOL_K * TEMPERATURE
    for values, expected in ((kinetic, dynamics.num_dof * half_kT), (potential, 6 * half_kT)):
        blocks = values.reshape(40, -1).mean(axis=1)
        error = blocks.std(ddof=1) / np.sqrt(len(blocks))
        assert abs(values.mean() - expected) < 4 * error, f"{values.mean():.3f} +- {error:.3f}, theory {expected:.3f}"
        assert error < 0.03 * expected  # or the comparison says nothing


def test_nose_hoover_kinetic_energy_has_the_right_mean_and_width():
    """Sixteen atoms on springs of many strengths, which four atoms are too few for: the chain would not be ergodic."""
    rng = np.random.default_rng(0)
    positions, masses = rng.normal(scale=0.3, size=(16, 3)), rng.uniform(1, 16, 16)
    dynamics = make_dynamics(masses, **options(thermostat="nose-hoover", friction=50.0, timestep=0.5))
    system, springs = openmm.System(), openmm.HarmonicBondForce()
    for i in range(16):
        system.addParticle(masses[i])
        for j in range(i):
            springs.addBond(i, j, np.linalg.norm(positions[i] - positions[j]), rng.uniform(100, 3000))
    system.addForce(springs)
    system.addForce(openmm.CMMotionRemover(10))
    simulation = Simulation(system, dynamics, positions)
    set_velocities(simulation, dynamics, TEMPERATURE, seed=1)
    dynamics.integrator.step(2000)
    kinetic = []
    for _ in range(2000):
        dynamics.integrator.step(40)
        kinetic.append(energies(simulation.context)[1])
    kinetic = np.array(kinetic)
    kT = BOLTZMANN_KJ_MOL_K * TEMPERATURE
    means = kinetic.reshape(40, -1).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(40)
    assert abs(kinetic.mean() - 45 * kT / 2) < 4 * error
    assert error < 0.01 * 45 * kT / 2
    assert kinetic.var() == pytest.approx(45 / 2 * kT**2, rel=0.15)  # a rescaling to a fixed energy would have none


@pytest.mark.parametrize("num_atoms", [1, 2, 10])
def test_bussi_kinetic_energy_is_gamma_distributed(num_atoms):
    """Without forces the scheme alone decides: K / kT is gamma distributed with shape num_dof / 2."""
    masses = np.linspace(1, 30, num_atoms)
    dynamics = make_dynamics(masses, **options(thermostat="bussi", friction=500.0, periodic=num_atoms > 1))
    dynamics.integrator.setRandomNumberSeed(17)
    num_dof = 3 * num_atoms - 3
    assert dynamics.num_dof == num_dof
    if num_dof == 0:
        return
    system = openmm.System()
    for mass in masses:
        system.addParticle(mass)
    simulation = Simulation(system, dynamics, np.random.default_rng(0).normal(size=(num_atoms, 3)))
    set_velocities(simulation, dynamics, TEMPERATURE, seed=2)
    kinetic = []
    for _ in range(2500):
        dynamics.integrator.step(12)  # six relaxation times: independent
        kinetic.append(energies(simulation.context)[1])
    scaled = np.array(kinetic) / (BOLTZMANN_KJ_MOL_K * TEMPERATURE)
    assert stats.kstest(scaled, stats.gamma(num_dof / 2).cdf).pvalue > 0.01
    velocities = simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value
    assert np.abs(masses @ velocities).max() < 1e-8  # rescaling keeps the momentum at rest


def test_bussi_heat_makes_a_conserved_quantity():
    """Total energy less the heat of the bath fluctuates as in NVE, far below the total energy itself."""
    dynamics = make_dynamics(MASSES, **options(thermostat="bussi", friction=10.0, timestep=0.25))
    simulation = tetrahedron(dynamics)
    total, conserved = [], []
    for _ in range(500):
        dynamics.integrator.step(10)
        total.append(sum(energies(simulation.context)))
        conserved.append(total[-1] - dynamics.integrator.getGlobalVariableByName("heat"))
    assert np.std(conserved) < 0.02 * np.std(total)


@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_seed_decides_the_trajectory(thermostat):
    def final(seed):
        dynamics = make_dynamics(MASSES, **options(thermostat=thermostat, seed=seed))
        simulation = tetrahedron(dynamics)
        dynamics.integrator.step(50)
        return simulation.context.getState(positions=True).getPositions(asNumpy=True)._value

    assert np.array_equal(final(5), final(5))
    assert np.abs(final(5) - final(6)).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "num_dof"),
    [
        ({"thermostat": "langevin"}, 12),
        ({"thermostat": "nose-hoover"}, 9),
        ({"thermostat": "bussi"}, 6),
        ({"thermostat": "bussi", "periodic": True}, 9),
        ({"ensemble": "nve", "thermostat": None}, 6),
        ({"ensemble": "nve", "thermostat": None, "periodic": True}, 9),
        ({"ensemble": "nve", "thermostat": None, "linear": True}, 7),
    ],
)
def test_degrees_of_freedom_count_the_motion_there_is(changes, num_dof):
    """What is taken out of the velocities and conserved is not counted, and what is counted is there."""
    dynamics = make_dynamics(MASSES, **options(**changes))
    assert dynamics.num_dof == num_dof
    simulation = tetrahedron(dynamics)
    linear, angular = momenta(simulation.context)
    assert (np.abs(linear).max() < 1e-9) == dynamics.remove_translation
    assert (np.abs(angular).max() < 1e-9) == (dynamics.remove_rotation)
    dynamics.integrator.step(200)
    linear, angular = momenta(simulation.context)
    if dynamics.remove_translation:
        assert np.abs(linear).max() < 1e-6
    if dynamics.remove_rotation:
        assert np.abs(angular).max() < 1e-4  # leapfrog velocities are half a step from the positions


@pytest.mark.parametrize("thermostat", ["bussi", "nose-hoover"])
def test_atoms_that_are_held_from_outside_have_all_their_degrees_of_freedom(thermostat):
    """Each atom in a trap of its own: <U> = 12 kT/2. With a centre of mass that does not count it would be 9 kT/2."""
    dynamics = make_dynamics(MASSES, **options(thermostat=thermostat, friction=20.0, periodic=True, anchored=True))
    assert dynamics.num_dof == 12 and not dynamics.counts_cm_removal
    system, traps = openmm.System(), openmm.CustomExternalForce("k/2*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    for name in ("k", "x0", "y0", "z0"):
        traps.addPerParticleParameter(name)
    for i, mass in enumerate(MASSES):
        traps.addParticle(system.addParticle(mass), [20_000.0 * (i + 1), *TETRAHEDRON[i]])
    system.addForce(traps)
    simulation = Simulation(system, dynamics, TETRAHEDRON)
    set_velocities(simulation, dynamics, TEMPERATURE, seed=11)
    samples = []
    for _ in range(4000):
        dynamics.integrator.step(20)
        samples.append(energies(simulation.context)[0])
    mean = np.mean(samples) / (0.5 * BOLTZMANN_KJ_MOL_K * TEMPERATURE)
    assert mean == pytest.approx(12, rel=0.08)


def test_a_part_that_follows_a_langevin_bath_does_not_drift():
    dynamics = make_dynamics(MASSES, **options())
    simulation = tetrahedron(dynamics)
    dynamics.integrator.step(200)
    assert np.abs(momenta(simulation.context)[0]).max() > 1e-3
    remove_kept_motion(simulation, make_dynamics(MASSES, **options(ensemble="nve", thermostat=None)))
    linear, angular = momenta(simulation.context)
    assert np.abs(linear).max() < 1e-9 and np.abs(angular).max() < 1e-9


def test_velocities_have_the_temperature_after_the_removals(make_run):
    """Mean over seeds of the kinetic temperature, with num_dof, is the temperature asked for."""
    run = make_run()
    found = []
    for seed in range(1, 400):
        set_velocities(run.simulation, run.dynamics, TEMPERATURE, seed)
        found.append(temperature_of(_kinetic(run), run.dynamics.num_dof))
    assert np.mean(found) == pytest.approx(TEMPERATURE, abs=4 * np.std(found) / np.sqrt(len(found)))


def _kinetic(run):
    velocities = run.simulation.context.getState(velocities=True).getVelocities(asNumpy=True)
    velocities = velocities.value_in_unit(unit.nanometer / unit.picosecond)
    return 0.5 * float(run.structure.masses @ (velocities**2).sum(axis=1))


def test_without_rotation_leaves_the_vibration():
    """Adding any rigid rotation and taking the rotation out gives the same velocities back."""
    rng = np.random.default_rng(4)
    vibration = without_rotation(TETRAHEDRON, rng.normal(size=(4, 3)), MASSES)
    arms = TETRAHEDRON - MASSES @ TETRAHEDRON / MASSES.sum()
    turned = vibration + np.cross(rng.normal(size=3), arms)
    assert np.allclose(without_rotation(TETRAHEDRON, turned, MASSES), vibration, atol=1e-12)


def test_is_linear():
    assert is_linear(np.array([[0, 0, 0], [1, 1, 1], [2.5, 2.5, 2.5]]))
    assert not is_linear(TETRAHEDRON)
