"""The parts of a run, one after the other, and what changes inside a part: temperature, pressure, restraints."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import openmm
from openmm import app, unit

from mace_md.config import RunConfig
from mace_md.config.tables import Stage
from mace_md.errors import UsageError
from mace_md.md.dynamics.barostat import set_barostat
from mace_md.md.dynamics.integrators import set_bath_temperature
from mace_md.md.dynamics.rpmd import RingPolymer, is_ring_polymer
from mace_md.md.forces.restraints import SCALE
from mace_md.options.declare import Ramp
from mace_md.options.reading import derive

RAMP_INTERVAL = 10  # steps between the increments of a ramp
_INHERITED = ("ensemble", "timestep", "thermostat", "friction", "beads")


@dataclass(frozen=True)
class Part:
    """One part of a run, with a configuration of its own in which nothing is left to look up in the whole.

    label : in the names of its files; empty for the last part, which is the production.
    continues : it starts from the positions and velocities where the part before ended.
    """

    name: str
    config: RunConfig
    label: str = ""
    restraints: Ramp = Ramp(1.0, 1.0)
    trajectory: bool = True
    continues: bool = False

    @property
    def is_last(self) -> bool:
        return not self.label

    @property
    def own_files(self) -> tuple[str, ...]:
        """Patterns of the files that this part, and no other, writes step by step."""
        ending = f"-{self.label}" if self.label else ""
        names = (f"log{ending}.csv", f"trajectory{ending}.*", f"trajectory{ending}-bead[0-9][0-9].*")
        return (*names, "uncertainty.csv", "uncertain.extxyz", "properties.csv") if self.is_last else names


def parts_of(config: RunConfig) -> list[Part]:
    """The parts of a run: its [[stage]] tables, or the one part that the options describe.

    Raises UsageError for what a table leaves open, names twice, or that contradicts the options of the run.
    """
    if not config.stage:
        return [Part("production", config)]
    names = [stage.name for stage in config.stage]
    if len(set(names)) < len(names):
        raise UsageError(f"[[stage]]: each name may appear once, got {', '.join(names)}.")
    last = config.stage[-1]
    if (last.steps is not None or last.time is not None) and (config.steps is not None or config.time is not None):
        raise UsageError(f"the length of stage {last.name} is in its table and in --steps or --time; give it once.")
    return [_part(config, stage, number) for number, stage in enumerate(config.stage)]


def _part(config: RunConfig, stage: Stage, number: int) -> Part:
    is_last = number == len(config.stage) - 1
    changes = {name: getattr(stage, name) for name in _INHERITED if getattr(stage, name) is not None}
    changes |= {"stage": (), "minimize": config.minimize and not number if stage.minimize is None else stage.minimize}
    for name in ("temperature", "pressure"):
        ramp = getattr(stage, name)
        if ramp is not None:
            changes |= {name: ramp.end, f"{name}_from": None if ramp.is_constant else ramp.start}
    if stage.steps is not None or stage.time is not None:
        changes |= {"steps": stage.steps, "time": stage.time}
    elif not is_last:
        raise UsageError(f"[[stage]] {stage.name}: steps or time is missing; only the last stage takes the run's.")
    if stage.restraints != Ramp(1.0, 1.0) and not config.restraint:
        raise UsageError(
            f"[[stage]] {stage.name}: restraints = {stage.restraints}, but there is no [[restraint]] table."
        )
    try:
        own = derive(config, **changes)
    except UsageError as error:
        raise UsageError(f"[[stage]] {stage.name}: {error}") from None
    trajectory = is_last if stage.trajectory is None else stage.trajectory
    return Part(stage.name, own, "" if is_last else stage.name, stage.restraints, trajectory, number > 0)


def identity_of(stages: tuple[Stage, ...]) -> dict[str, object]:
    """What must not change for a restart, by name; the length of the last stage may, unless it has a ramp."""
    found: dict[str, object] = {"stages": [stage.name for stage in stages]} if stages else {}
    for stage in stages:
        ramped = any(isinstance(value, Ramp) and not value.is_constant for value in vars(stage).values())
        for entry in fields(stage):
            value = getattr(stage, entry.name)
            if entry.name in ("steps", "time") and stage is stages[-1] and not ramped:
                continue
            if value is not None and entry.name != "name":
                found[f"stage {stage.name}: {entry.name}"] = str(value) if isinstance(value, Ramp) else value
    return found


class Course:
    """What changes inside a part: sets the bath, the barostat and the restraints to their values at a step.

    The same step gives the same values, so that a continued run follows the course of one that was not interrupted.
    """

    def __init__(
        self, part: Part, simulation: app.Simulation, tell: Callable[[float], None] = lambda temperature: None
    ) -> None:
        """`tell` hears of each new temperature (K)."""
        self._simulation, self._tell = simulation, tell
        self._total = part.config.num_steps
        self._temperature, self._pressure = part.config.temperature_ramp, part.config.pressure_ramp
        self._restraints = part.restraints
        self._restrained = SCALE in simulation.context.getParameters()
        self.columns = tuple(
            column
            for column, ramp in (
                ("target_temperature_K", self._temperature),
                ("target_pressure_bar", self._pressure),
                ("restraint_scale", self._restraints),
            )
            if ramp is not None and not ramp.is_constant
        )

    @property
    def is_constant(self) -> bool:
        return not self.columns

    def set(self, step: int) -> None:
        """Bring everything to its value at `step`, in increments of RAMP_INTERVAL steps."""
        done = max(step - step % RAMP_INTERVAL, 0)
        fraction = min(done / self._total, 1.0) if self._total else 1.0
        if not self._temperature.is_constant:
            temperature = self._temperature.at(fraction)
            set_bath_temperature(self._simulation.integrator, temperature)
            set_barostat(self._simulation, temperature=temperature)
            self._tell(temperature)
        if self._pressure is not None and not self._pressure.is_constant:
            set_barostat(self._simulation, pressure=self._pressure.at(fraction))
        if self._restrained:
            self._simulation.context.setParameter(SCALE, self._restraints.at(fraction))
        self._now = fraction

    def targets(self) -> tuple[float, ...]:
        """The values set last, in the order of `columns`."""
        ramps = (self._temperature, self._pressure, self._restraints)
        return tuple(ramp.at(self._now) for ramp in ramps if ramp is not None and not ramp.is_constant)


@dataclass(frozen=True)
class Carried:
    """Where a part ended: positions and velocities [beads, n_atoms, 3] (nm, nm/ps), box [3, 3] (nm) or None."""

    positions: np.ndarray
    velocities: np.ndarray
    box: np.ndarray | None

    @classmethod
    def out_of(cls, simulation: app.Simulation) -> "Carried":
        """The end of a simulation."""
        state = simulation.context.getState(positions=True, velocities=True)
        periodic = simulation.topology.getPeriodicBoxVectors() is not None
        box = np.array(state.getPeriodicBoxVectors().value_in_unit(unit.nanometer), dtype=float) if periodic else None
        if is_ring_polymer(simulation.context):
            return cls(*RingPolymer(simulation.context).take(), box)
        positions = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        velocities = np.array(state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond))
        return cls(positions[None], velocities[None], box)

    def into(self, simulation: app.Simulation, seed: int) -> None:
        """Start a simulation there. Beads become their centroid, and a point becomes beads at one place."""
        context: openmm.Context = simulation.context
        if self.box is not None:
            context.setPeriodicBoxVectors(*self.box)
        context.setPositions(self.positions.mean(axis=0))
        context.setVelocities(self.velocities.mean(axis=0))
        if is_ring_polymer(context):
            ring = RingPolymer(context)
            if len(self.positions) == ring.count:
                ring.put(self.positions, self.velocities)
            else:
                ring.collapse(self.positions.mean(axis=0), seed)
