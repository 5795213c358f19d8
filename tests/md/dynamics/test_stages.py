"""Ramps move the bath and the barostat, not only a number in the log; stages inherit, and say what they are."""

import numpy as np
import openmm
import pytest
from openmm import app

from mace_md.config import RunConfig
from mace_md.config.tables import Restraint, Stage
from mace_md.errors import UsageError
from mace_md.md.dynamics.barostat import make_barostat
from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.dynamics.stages import RAMP_INTERVAL, Course, Part, identity_of, parts_of
from mace_md.md.dynamics.temperature import temperature_of
from mace_md.options.declare import Ramp

NUM_ATOMS = 300
BARS = 1.0, 1001.0


def config(**options):
    defaults = {"structure": "water.pdb", "model": "tiny.mace", "timestep": 2.0, "steps": 2000, "friction": 20.0}
    return RunConfig(**(defaults | options))


def oscillators(options: RunConfig, barostat=None):
    """A simulation of independent particles on springs: any thermostat brings them to its temperature."""
    dynamics = make_dynamics(
        np.full(NUM_ATOMS, 10.0), ensemble=options.ensemble, thermostat=options.thermostat,
        temperature=options.temperature_ramp.start, friction=options.friction, timestep=options.timestep, seed=5,
        periodic=False,
    )  # fmt: skip
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    force = openmm.CustomExternalForce("500*(x^2+y^2+z^2)")
    for index in range(NUM_ATOMS):
        system.addParticle(10.0)
        force.addParticle(index)
        topology.addAtom("C", app.element.carbon, residue)
    system.addForce(force)
    if barostat is not None:
        system.setDefaultPeriodicBoxVectors([5, 0, 0], [0, 5, 0], [0, 0, 5])
        system.addForce(barostat)
        periodic = openmm.HarmonicBondForce()  # without a force that has a box, OpenMM refuses a barostat
        periodic.setUsesPeriodicBoundaryConditions(True)
        system.addForce(periodic)
    simulation = app.Simulation(topology, system, dynamics.integrator, openmm.Platform.getPlatformByName("Reference"))
    rng = np.random.default_rng(1)
    simulation.context.setPositions(rng.normal(0, 0.03, (NUM_ATOMS, 3)))
    simulation.context.setVelocitiesToTemperature(options.temperature_ramp.start, 3)
    return simulation, dynamics


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover", "bussi"])
def test_the_temperature_follows_the_ramp(thermostat):
    """Over 4 ps from 100 to 400 K with a bath of 20 1/ps: the lag is 75 K/ps * 0.05 ps, a few K."""
    options = config(thermostat=thermostat, temperature=400.0, temperature_from=100.0)
    simulation, dynamics = oscillators(options)
    course = Course(Part("heat", options), simulation)
    found = []
    for step in range(0, 2000, RAMP_INTERVAL):
        course.set(step)
        simulation.step(RAMP_INTERVAL)
        kinetic = simulation.context.getState(energy=True).getKineticEnergy()._value
        found.append(temperature_of(kinetic, dynamics.num_dof))
    means = np.array(found).reshape(10, -1).mean(axis=1)
    expected = 100.0 + 30.0 * (np.arange(10) + 0.5)
    # 900 degrees of freedom fluctuate by 5 %; a mean over 0.4 ps has some four independent values
    assert means == pytest.approx(expected, rel=0.12)
    assert means[-1] == pytest.approx(385.0, rel=0.08)


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "membrane", "flexible"])
def test_barostat_gets_pressure_and_temperature(kind):
    options = config(
        ensemble="npt",
        barostat=kind,
        temperature=400.0,
        temperature_from=100.0,
        pressure=BARS[1],
        pressure_from=BARS[0],
    )
    barostat = make_barostat(kind, pressure=1.0, temperature=100.0, interval=25, rigid_molecules=True, seed=1)
    simulation, _ = oscillators(options, barostat)
    heard = []
    course = Course(Part("heat", options), simulation, heard.append)
    course.set(1005)
    parameters = dict(simulation.context.getParameters())
    pressures = {value for name, value in parameters.items() if "Pressure" in name}
    temperatures = {value for name, value in parameters.items() if "Temperature" in name}
    assert (pressures, temperatures, heard) == ({501.0}, {250.0}, [250.0])
    assert course.targets() == (250.0, 501.0)
    assert course.columns == ("target_temperature_K", "target_pressure_bar")
    course.set(99_999)  # a run that goes on beyond its ramp stays at the end of it
    assert course.targets() == (400.0, 1001.0)


def test_stages_inherit_and_leave_out_what_does_not_apply():
    options = config(
        ensemble="npt", pressure=5.0, thermostat="bussi", restraint=(Restraint(kind="position", atoms=("all",)),),
        stage=(
            Stage(name="heat", ensemble="nvt", temperature=Ramp(50.0, 300.0), steps=10, beads=1),
            Stage(name="free", ensemble="nve", time=1.0, timestep=0.5, restraints=Ramp(1.0, 0.0)),
            Stage(name="produce", pressure=Ramp(5.0, 9.0), minimize=True),
        ),
    )  # fmt: skip
    heat, free, produce = parts_of(options)
    assert (heat.config.pressure, heat.config.barostat, heat.config.thermostat) == (None, None, "bussi")
    assert heat.config.temperature_ramp == Ramp(50.0, 300.0) and heat.config.minimize and not heat.continues
    assert (free.config.thermostat, free.config.friction, free.config.num_steps) == (None, None, 2000)
    assert not free.config.minimize and free.config.minimize_tolerance is None and free.continues
    assert produce.config.pressure_ramp == Ramp(5.0, 9.0) and produce.config.num_steps == 2000
    assert [part.label for part in (heat, free, produce)] == ["heat", "free", ""]
    assert [part.trajectory for part in (heat, free, produce)] == [False, False, True]
    assert produce.config.minimize and produce.is_last


def test_only_the_length_of_a_last_stage_without_a_ramp_may_change():
    def identity(steps, temperature):
        return identity_of((Stage(name="a", steps=5), Stage(name="b", steps=steps, temperature=temperature)))

    constant, ramp = Ramp(300.0, 300.0), Ramp(300.0, 400.0)
    assert identity(10, constant) == identity(20, constant)
    assert identity(10, ramp) != identity(20, ramp)
    assert identity(10, constant) != identity(10, ramp)
    assert identity_of((Stage(name="a", steps=5), Stage(name="b"))) != identity_of(
        (Stage(name="a", steps=6), Stage(name="b"))
    )


@pytest.mark.parametrize("text, start, end", [("50 -> 300", 50.0, 300.0), ("300 K", 300.0, 300.0), (7, 7.0, 7.0)])
def test_ramps_are_read(text, start, end):
    assert Stage(name="a", temperature=text).temperature == Ramp(start, end)


@pytest.mark.parametrize("text", ["50 -> ", "1 -> 2 -> 3", "-5 -> 3", "warm", "1 bar -> 2 bar"])
def test_ramps_that_mean_nothing_are_refused(text):
    with pytest.raises(UsageError, match="temperature: "):
        Stage(name="a", temperature=text)
