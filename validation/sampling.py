"""Run a simulation by the objects of `mace-md run`, and keep what the checks need."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import app

from mace_md.md.dynamics.barostat import make_barostat
from mace_md.md.dynamics.integrators import Dynamics, bath_energy, kinetic_at_positions, make_dynamics, velocities_lag
from mace_md.md.dynamics.velocities import set_velocities
from mace_md.md.forces.model import make_force
from mace_md.md.stepping.simulation import StepLoop, choose_platform, make_simulation
from mace_md.md.system import make_system
from validation.systems import Matter


@dataclass(frozen=True)
class Ensemble:
    """A state point: what `mace-md run` takes as --thermostat, --temperature, --barostat, --pressure, ..."""

    thermostat: str | None = "langevin"  # None: NVE
    temperature: float = 60.0  # K
    barostat: str | None = None
    pressure: float = 0.0  # bar
    scaling: str = "atoms"
    friction: float = 4.0  # 1/ps
    barostat_interval: int = 10  # steps
    seed: int = 1

    @property
    def name(self) -> str:
        """NVE, NVT or NPT, as physical_validation and the command line call it."""
        return "NVE" if self.thermostat is None else "NPT" if self.barostat else "NVT"


@dataclass(frozen=True)
class Samples:
    """A time series; energies in kJ/mol, volume in nm^3, box in nm, velocities in nm/ps.

    kinetic : at the time of the velocities that the integrator thermostats.
    on_step : kinetic energy at the time of the positions, for the conserved quantity.
    bath : energy that the thermostat holds, NaN without a conserved quantity.
    """

    time: np.ndarray  # ps
    potential: np.ndarray
    kinetic: np.ndarray
    on_step: np.ndarray
    bath: np.ndarray
    volume: np.ndarray
    box: np.ndarray  # [n, 3, 3]
    positions: np.ndarray  # [n, n_atoms, 3], float32
    velocities: np.ndarray  # [n, n_atoms, 3], float32
    num_dof: int

    @property
    def conserved(self) -> np.ndarray:
        """Total energy with that of the bath."""
        return self.potential + self.on_step + self.bath

    def thinned(self, every: int) -> "Samples":
        """Every n-th sample."""
        fields = {name: value if np.ndim(value) == 0 else value[::every] for name, value in vars(self).items()}
        return Samples(**fields)


def build(
    matter: Matter,
    ensemble: Ensemble,
    timestep: float | None = None,
    force: openmm.Force | None = None,
    plant: Callable[[Dynamics], Dynamics] = lambda dynamics: dynamics,
) -> tuple[app.Simulation, Dynamics]:
    """A simulation with velocities drawn, made as `mace-md run` makes it. `force` and `plant` are for planted bugs."""
    dynamics = make_dynamics(
        matter.masses,
        ensemble=ensemble.name.lower(),
        thermostat=ensemble.thermostat,
        temperature=ensemble.temperature,
        friction=ensemble.friction,
        timestep=timestep or matter.timestep,
        seed=ensemble.seed,
        periodic=matter.box is not None,
    )
    dynamics = plant(dynamics)
    if force is None:
        force = make_force(matter.topology, matter.model, periodic=matter.box is not None, **matter.options)
    barostat = None
    if ensemble.barostat is not None:
        barostat = make_barostat(
            ensemble.barostat,
            pressure=ensemble.pressure,
            temperature=ensemble.temperature,
            interval=ensemble.barostat_interval,
            rigid_molecules=ensemble.scaling == "molecules",
            seed=ensemble.seed,
        )
    system = make_system(matter.topology, force, barostat=barostat, remove_cm_motion=dynamics.counts_cm_removal)
    for extra in matter.extra_forces():
        system.addForce(extra)
    platform = choose_platform("Reference")
    simulation = make_simulation(matter.topology, system, dynamics, platform, matter.positions)
    set_velocities(simulation, dynamics, ensemble.temperature, ensemble.seed)
    return simulation, dynamics


def sample(
    simulation: app.Simulation, dynamics: Dynamics, *, count: int, every: int, equilibration: int = 0
) -> Samples:
    """`count` samples, one each `every` steps, after `equilibration` steps."""
    masses = _masses(simulation.context.getSystem())
    step = simulation.integrator.getStepSize()._value
    rows: dict[str, list] = {name: [] for name in Samples.__annotations__ if name != "num_dof"}

    def keep(_: int) -> None:
        state = simulation.context.getState(positions=True, velocities=True, energy=True, forces=True)
        bath = bath_energy(simulation.integrator, stepped=True)
        kinetic = state.getKineticEnergy()._value
        rows["time"].append(state.getTime()._value)
        rows["potential"].append(state.getPotentialEnergy()._value)
        rows["kinetic"].append(kinetic)
        lag = velocities_lag(simulation.integrator)
        rows["on_step"].append(kinetic_at_positions(state, masses, step) if lag else kinetic)
        rows["bath"].append(np.nan if bath is None else bath)
        rows["volume"].append(state.getPeriodicBoxVolume()._value)
        rows["box"].append(state.getPeriodicBoxVectors(asNumpy=True)._value)
        rows["positions"].append(state.getPositions(asNumpy=True)._value.astype(np.float32))
        rows["velocities"].append(state.getVelocities(asNumpy=True)._value.astype(np.float32))

    simulation.context.setStepCount(-equilibration)
    StepLoop(simulation, [], phase="equilibration").run(0)
    StepLoop(simulation, [(every, keep)], phase="sampling").run(count * every)
    return Samples(**{name: np.array(values) for name, values in rows.items()}, num_dof=dynamics.num_dof)


def _masses(system: openmm.System) -> np.ndarray:
    return np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])


def run(matter: Matter, ensemble: Ensemble, *, count: int, every: int, equilibration: int) -> Samples:
    """Build, equilibrate and sample."""
    simulation, dynamics = build(matter, ensemble)
    return sample(simulation, dynamics, count=count, every=every, equilibration=equilibration)
