"""Path integrals against the exact results for a finite number of beads: harmonic oscillator and free particle."""

import numpy as np
import openmm
import pytest

from mace_md.md.dynamics.barostat import make_barostat
from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.dynamics.rpmd import RingPolymer
from mace_md.md.stepping.anchors import AnchoredStepper
from mace_md.md.stepping.simulation import StepLoop
from mace_md.units import BOLTZMANN_KJ_MOL_K, HBAR_KJ_MOL_PS

TEMPERATURE = 300.0
KT = BOLTZMANN_KJ_MOL_K * TEMPERATURE
MASS = 1.008
NUM_ATOMS = 10  # independent particles: statistics in one short run


def ring_modes(beads):
    """Frequencies (1/ps) of the free ring polymer."""
    return 2 * beads * KT / HBAR_KJ_MOL_PS * np.sin(np.pi * np.arange(beads) / beads)


def oscillators(stiffness, beads, ensemble="nvt", mass=MASS):
    """A context of independent particles on springs of `stiffness` (kJ/mol/nm^2) to the origin; 0: free."""
    dynamics = make_dynamics(
        np.full(NUM_ATOMS, mass), ensemble=ensemble, thermostat="langevin" if ensemble == "nvt" else None,
        temperature=TEMPERATURE, friction=30.0, timestep=1.0, seed=3, periodic=True, beads=beads,
    )  # fmt: skip
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
    force.addGlobalParameter("k", stiffness)
    for index in range(NUM_ATOMS):
        system.addParticle(mass)
        force.addParticle(index)
    system.addForce(force)
    context = openmm.Context(system, dynamics.integrator, openmm.Platform.getPlatformByName("Reference"))
    return RingPolymer(context), dynamics


def averaged(ring, num_dof, equilibration=300, samples=120, every=25):
    """Means and standard errors, from 12 blocks, of the estimators and of the squared radius of gyration."""
    ring.collapse(np.zeros((NUM_ATOMS, 3)), seed=4)
    ring.integrator.step(equilibration)
    rows = []
    for _ in range(samples):
        ring.integrator.step(every)
        rows.append([*ring.estimate(num_dof), ring.radii().mean()])
    blocks = np.array(rows).reshape(12, -1, 6).mean(axis=1)
    return blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(12)


def within(found, error, expected, most):
    """Within four standard errors (one chance in 2000 for 11 degrees of freedom), and those below `most`."""
    assert error < most * abs(expected), f"too noisy to say anything: {found} +- {error}"
    assert abs(found - expected) < 4 * error, f"{found} +- {error}, theory {expected}"


@pytest.mark.parametrize("beads", [4])
def test_energy_of_quantum_harmonic_oscillators(beads):
    """Exact for P beads: <x^2> = kT/m sum_k 1 / (w^2 + w_k^2); the kinetic energy of an oscillator is the potential."""
    frequency = 2 * np.pi * 15.0  # 1/ps: 500 1/cm, hbar w = 2.4 kT
    ring, dynamics = oscillators(MASS * frequency**2, beads)
    mean, error = averaged(ring, dynamics.num_dof)
    half = 1.5 * NUM_ATOMS * KT * (frequency**2 / (frequency**2 + ring_modes(beads) ** 2)).sum()
    classical = 1.5 * NUM_ATOMS * KT
    assert half > 1.35 * classical  # far from the classical limit, which a run without springs would give
    within(mean[0], error[0], half, 0.04)
    within(mean[1], error[1], half, 0.04)
    within(mean[2], error[2], half, 0.08)
    within(mean[4], error[4], TEMPERATURE, 0.03)


def test_radius_of_gyration_of_free_particles():
    """Exact for P beads: sum over the ring's modes of 3 kT/m w_k^2; for many beads hbar^2 / 4 m kT."""
    beads = 8
    ring, dynamics = oscillators(0.0, beads)
    mean, error = averaged(ring, dynamics.num_dof)
    modes = ring_modes(beads)[1:]
    expected = 3 * KT / MASS * (1 / modes**2).sum()
    assert expected == pytest.approx(HBAR_KJ_MOL_PS**2 / (4 * MASS * KT), rel=1.1 / beads**2)
    within(mean[5], error[5], expected, 0.04)
    within(mean[1], 1e-9, 1.5 * NUM_ATOMS * KT, 1e-9)  # no force: the virial estimator has no noise


def test_one_bead_is_classical():
    dynamics = make_dynamics(
        np.ones(2), ensemble="nvt", thermostat="langevin", temperature=300.0, friction=1.0, timestep=0.5, seed=1,
        periodic=True, beads=1,
    )  # fmt: skip
    assert not isinstance(dynamics.integrator, openmm.RPMDIntegrator) and dynamics.beads == 1


def test_the_ring_hamiltonian_is_conserved_without_a_thermostat():
    """Velocity Verlet with exact springs: the error falls with dt^2; at 1 fs it stays below 1 % of the energy."""
    frequency = 2 * np.pi * 15.0
    ring, _ = oscillators(MASS * frequency**2, 6)
    ring.collapse(np.zeros((NUM_ATOMS, 3)), seed=4)
    ring.integrator.step(200)
    ring.integrator.setApplyThermostat(False)
    start = ring.estimate()
    found = []
    for _ in range(30):
        ring.integrator.step(10)
        found.append(ring.estimate().conserved)
    assert np.ptp(found) < 0.01 * start.conserved
    own = ring.integrator.getTotalEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) / 6
    assert ring.estimate().conserved == pytest.approx(own, rel=1e-6)  # OpenMM's constants are those of before 2019


def volumes_of_a_gas(events, steps=24, interval=4, with_anchors=False):
    """Volume after `steps` steps of a gas of rings under a barostat that is due each `interval` steps."""
    topology = openmm.app.Topology()
    chain = topology.addChain()
    for _ in range(NUM_ATOMS):
        topology.addAtom("NE", openmm.app.element.neon, topology.addResidue("NE", chain))
    system = openmm.System()
    for _ in range(NUM_ATOMS):
        system.addParticle(20.0)
    system.setDefaultPeriodicBoxVectors(*(4.0 * np.eye(3)))
    bonds = openmm.HarmonicBondForce()
    bonds.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bonds)
    pressure = NUM_ATOMS * KT / 4.0**3 / 0.0602214076  # bar
    system.addForce(
        make_barostat("isotropic", pressure=pressure, temperature=TEMPERATURE, interval=interval,
                      rigid_molecules=True, seed=5, beads=2)
    )  # fmt: skip
    dynamics = make_dynamics(
        np.full(NUM_ATOMS, 20.0), ensemble="npt", thermostat="langevin", temperature=TEMPERATURE, friction=5.0,
        timestep=1.0, seed=3, periodic=True, beads=2,
    )  # fmt: skip
    simulation = openmm.app.Simulation(
        topology, system, dynamics.integrator, openmm.Platform.getPlatformByName("Reference")
    )
    RingPolymer(simulation.context).collapse(np.random.default_rng(1).random((NUM_ATOMS, 3)), seed=4)
    found = []

    def look(_):
        found.append(simulation.context.getState().getPeriodicBoxVolume()._value)

    advance = AnchoredStepper(simulation, between_checkpoints=False).advance if with_anchors else None
    StepLoop(simulation, [(every, look) for every in events], advance=advance).run(steps)
    look(steps)
    return found


def test_the_interval_of_the_barostat_counts_steps():
    """OpenMM counts the calls of `step`: the volume then depended on how often something was written."""
    each = volumes_of_a_gas([1])
    changed = np.flatnonzero(np.diff(each)) + 1  # moves of 1 % of the volume of a gas are accepted nearly always
    assert len(changed) >= 4 and len(set(changed % 4)) == 1
    assert volumes_of_a_gas([])[-1] == volumes_of_a_gas([7])[-1] == each[-1]
    assert volumes_of_a_gas([], with_anchors=True)[-1] == each[-1]
