"""One part of a run: minimise, draw velocities, equilibrate, produce, with checkpoints; or continue from one.

Most runs have one part; those with stages have one each. Steps before production have negative numbers, so that one
counter says where a part is and its production starts at 0.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from mace_md.config import RunConfig
from mace_md.errors import CleanStop, SafetyStop
from mace_md.md.dynamics.integrators import Dynamics
from mace_md.md.dynamics.stages import RAMP_INTERVAL, Carried, Course, Part
from mace_md.md.dynamics.velocities import remove_kept_motion, set_velocities, take_velocities
from mace_md.md.files.cutting import check_files, cut_files
from mace_md.md.files.frames import Snapshot
from mace_md.md.files.identity import Identity
from mace_md.md.files.readout import make_readout
from mace_md.md.files.reporters import Progress, Recorder
from mace_md.md.files.restart import EXACT, Checkpoint, check_identity, load_into, save_checkpoint, tidy_folder
from mace_md.md.stepping.hooks import Hook, check_names, restore_all, states_of
from mace_md.md.stepping.minimization import Minimization, minimize
from mace_md.md.stepping.numerics import differences
from mace_md.md.stepping.simulation import StepLoop
from mace_md.md.stepping.stepper import Event, Stepper
from mace_md.md.watch.limits import limits_of
from mace_md.md.watch.safety import Watch
from mace_md.md.watch.uncertainty import Uncertainty
from mace_md.stopping import StopRequest
from mace_md.structures.structure import Structure
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, FS_TO_PS

log = logging.getLogger("mace_md")

MINIMIZE_LINE_INTERVAL = 2.0  # s between the lines of a minimisation


class Run:
    """One simulation in one folder, from its beginning or from a checkpoint to the total number of steps.

    `identity` is what makes this the same run after a restart: any change of it is refused.
    """

    def __init__(
        self,
        config: RunConfig,
        structure: Structure,
        simulation: app.Simulation,
        dynamics: Dynamics,
        identity: Identity,
        stop: StopRequest,
        *,
        part: Part | None = None,
        atoms: np.ndarray | None = None,
        finished: dict[str, int] | None = None,
        r_max: float | None = None,
        uncertainty: Uncertainty | None = None,
        stepper: Stepper | None = None,
        hooks: Sequence[Hook] = (),
        numerics: dict[str, object] | None = None,
    ) -> None:
        """config : of this part alone. part : the only one by default. atoms : in the trajectory, all by default.
        finished : bytes of the files of the parts before. r_max : cutoff of the model, A. uncertainty : measured while
        this part is made. stepper : makes its steps, the integrator alone by default. hooks : act between them.
        numerics : what its last digits depend on, by name.
        """
        self._finished = dict(finished or {})
        self.part = part or Part("production", config)
        self.uncertainty, self.stepper, self.hooks = uncertainty, stepper or Stepper(simulation), tuple(hooks)
        self.stepper.hooks = self.hooks
        self.config, self.structure, self.simulation = config, structure, simulation
        self.dynamics, self.identity, self.stop = dynamics, identity, stop
        self.numerics = dict(numerics or {})
        self.folder: Path = config.output
        self.timings: dict[str, float] = {}
        self.recorder: Recorder | None = None
        self.phase = "dynamics"
        self._atoms = atoms
        self._stepped = False
        self._saved_at: int | None = None  # step of the last checkpoint
        self.watch = Watch(
            simulation,
            self.folder,
            limits_of(config, max(config.temperature, config.temperature_ramp.start), config.beads),
            bonds=structure.molecules.bonds,
            stated=structure.molecules.stated,
            num_dof=dynamics.num_dof // dynamics.beads,
            timestep=config.timestep,
            r_max=r_max,
            before_forces=self.stepper.settle,
        )
        self.course = Course(self.part, simulation, lambda kelvin: self.watch.set_temperature(dynamics.beads * kelvin))

    def begin(self, carried: Carried | None = None) -> None:
        """Minimise and draw velocities; the step counter stands at minus the equilibration steps.

        A part that continues another starts where that ended (`carried`), and keeps the velocities unless it minimises.
        """
        self.simulation.context.setStepCount(-self.config.equilibration_steps)
        if carried is not None:
            carried.into(self.simulation, self.identity.seed)
        self.course.set(0)
        if self.config.minimize:
            self._minimize()
        if self.config.velocities == "file" and carried is None:
            kelvin = take_velocities(self.simulation, self.dynamics, self.structure.velocities)
            log.info("velocities: of the file, %.4g K", kelvin)
        elif self.config.minimize or carried is None:
            self._draw_velocities()
        else:  # the part before may have moved as a whole, as under a Langevin bath
            remove_kept_motion(self.simulation, self.dynamics)
        self.stepper.begin()
        with self.watch.on_duty(self.simulation.context.getStepCount(), "start"):
            self._save()

    def accept(self, checkpoint: Checkpoint) -> None:
        """Raise InputError unless this run can continue from `checkpoint`; touches nothing."""
        check_identity(checkpoint, self.identity)
        check_names(self.hooks, checkpoint.hooks)
        check_files(self.folder, checkpoint.sizes, checkpoint.tails)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from an accepted `checkpoint`: the files are cut back to it."""
        own = (*self.part.own_files, *(pattern for hook in self.hooks for pattern in hook.patterns))
        notes = tidy_folder(self.folder, checkpoint) + cut_files(self.folder, checkpoint.sizes, own, checkpoint.tails)
        for note in notes:
            log.info("%s", note)
        self._finished = dict(checkpoint.sizes)
        self._saved_at = checkpoint.step
        other = differences(checkpoint.numerics, self.numerics)
        how = None
        if not other:
            how = self.stepper.repeat(checkpoint, lambda first: self._repeat_steps(first, checkpoint.step))
        how = how or self._load(checkpoint)
        if checkpoint.phase == "minimize":
            how = "the minimisation had not ended, and is made again from its start"
        elif other and how == EXACT:
            how = f"positions, velocities and random numbers are exact; what follows differs in rounding ({other})"
        elif self.config.ensemble == "npt" and how.startswith(EXACT):
            how = "exact but for the barostat, for which OpenMM draws new random numbers; the ensemble is the same"
        log.info("restart from %s at step %d: %s", checkpoint.path, checkpoint.step, how)
        between = checkpoint.step % self.config.checkpoint_interval != 0
        if self.dynamics.beads > 1 and not self.stepper.between_checkpoints and between:
            log.info("note: from a checkpoint between two --checkpoint-interval, a path integral differs in rounding")
        if checkpoint.phase == "minimize":
            self._minimize()
            self._draw_velocities()
            self.stepper.begin()
            self._save()

    def _load(self, checkpoint: Checkpoint) -> str:
        """Set the simulation to the checkpoint; how exact that is."""
        how = load_into(self.simulation, checkpoint)
        restore_all(self.hooks, checkpoint.hooks)
        self.course.set(checkpoint.step)
        self.stepper.begin()
        return how

    def _repeat_steps(self, first: int, last: int) -> None:
        """The steps from an anchor to a checkpoint, with every evaluation that was made, and nothing written."""
        self.course.set(first)
        events: list[Event] = [] if self.course.is_constant else [(RAMP_INTERVAL, self.course.set)]
        if last > 0:
            self.recorder = self._open_recorder(first)
            events += [(hook.interval, hook.after) for hook in self.hooks]
            events.append((self.config.report_interval, self.recorder.row))
            events.append((self.config.trajectory_interval, self.recorder.frame))
        self._mute(True)
        try:
            StepLoop(self.simulation, events, phase="restart", advance=self.stepper.advance).run(last)
        finally:
            self._mute(False)

    def _mute(self, muted: bool) -> None:
        told: list[Any] = [*self.hooks, *filter(None, [self.recorder])]
        for one in told:
            one.muted = muted

    def produce(self) -> None:
        """Step to the total. Raises CleanStop, with a checkpoint, when a signal or the time limit came first."""
        step = self.simulation.context.getStepCount()
        total, name = self.config.num_steps, self.part.name
        if step < 0:
            log.info("equilibration: %d steps, not written", -step)
            self._steps(0, "equilibration", [])
            step = 0
        if self.recorder is None:
            self.recorder = self._open_recorder(step)
        if step >= total:
            self._first_row(step)
            more = "; give more --steps to go on" if self.part.is_last and total else ""
            log.info("%s: the run is at step %d of %d%s", name, step, total, more)
            self._save()
            return
        log.info("%s: %d steps, %g ps", name, total - step, (total - step) * self.config.timestep * FS_TO_PS)
        events: list[Event] = [] if self.course.is_constant else [(RAMP_INTERVAL, self.course.set)]
        events += [(hook.interval, hook.after) for hook in self.hooks]
        events += [(self.config.report_interval, self._row), (self.config.trajectory_interval, self._frame)]
        if self.uncertainty is not None:
            events.append((self.config.uncertainty_interval, self.uncertainty.measure))
        self._steps(total, name, events, at_start=self._first_row)

    def _row(self, step: int) -> None:
        self.stepper.settle()
        self.recorder.row(step)

    def _frame(self, step: int) -> None:
        self.watch.look(step, must=True)
        if self.recorder.evaluates_frames:
            self.stepper.settle()
        self.recorder.frame(step)

    def _is_read(self, step: int) -> bool:
        """Whether energies are evaluated at a step, for a row, a frame, or a hook."""
        intervals = [self.config.report_interval, self.config.trajectory_interval]
        intervals += [hook.interval for hook in self.hooks if hook.evaluates]
        return any(step % interval == 0 for interval in intervals)

    def _first_row(self, step: int) -> None:
        if step == 0 and self.recorder.log.is_empty:
            self.recorder.row(0)
            self.stepper.read()

    def _open_recorder(self, step: int) -> Recorder:
        for hook in self.hooks:
            hook.open()
        return Recorder(
            self.simulation,
            self.folder,
            readout=make_readout(self.simulation, self.dynamics, self.structure.molecules.in_network()),
            course=self.course,
            hooks=self.hooks,
            total_mass=float(self.structure.masses.sum()),
            timestep=self.config.timestep,
            kinds=self.config.trajectory_format if self.part.trajectory else (),
            interval=self.config.trajectory_interval,
            data=self.config.trajectory_data,
            atoms=self._atoms,
            label=self.part.label,
            beads=self.config.bead_trajectories,
            stepped=self._stepped,
            wrap=self.config.wrap == "molecules",
            progress=Progress(
                step, self.config.num_steps, self.config.timestep, lambda line: log.info("%s", line),
                terminal=False if self.config.quiet else None,
            ),
            inspect=self.watch.check_forces,
        )  # fmt: skip

    def _minimize(self) -> None:
        config, context = self.config, self.simulation.context
        self.phase = "minimize"
        log.info(
            "minimise: to %g kJ/mol/nm (root mean square), at most %s iterations",
            config.minimize_tolerance,
            config.minimize_iterations or "any number of",
        )
        self.stepper.begin()
        state = context.getState(positions=True, velocities=True)
        start = Snapshot.of(state, context.getStepCount(), self.structure.box is not None)
        result = minimize(
            self.simulation,
            tolerance=config.minimize_tolerance,
            max_iterations=config.minimize_iterations,
            stop=lambda: self.stop.reason() is not None,
            progress=_EveryFewSeconds(MINIMIZE_LINE_INTERVAL),
        )
        self.timings["minimize_s"] = result.seconds
        log.info("minimise: %s, %s", _outcome(result), _fall(result))
        reason = self.stop.reason()
        if reason is not None:
            context.setPositions(start.positions)  # so that --restart takes the same way down
            self._stop(reason, "minimisation")
        self.watch.judge_minimum(start)
        self.phase = "dynamics"

    def _draw_velocities(self) -> None:
        temperature, seed = self.config.temperature_ramp.start, self.identity.seed
        set_velocities(self.simulation, self.dynamics, temperature, seed)
        log.info("velocities: drawn at %g K, seed %d", temperature, seed)
        if self.config.minimize and temperature and self.dynamics.beads == 1:
            log.info("note: %s", _after_minimum(self.config.ensemble, temperature, self.config.friction))

    def _steps(
        self, total: int, phase: str, events: list[Event], at_start: Callable[[int], None] = lambda step: None
    ) -> None:
        interval = self.config.checkpoint_interval
        events = [(self.config.safety_interval, self.watch.look), *events]
        events += [*self.stepper.events(self._is_read), (interval, self._checkpoint)]
        first = self.simulation.context.getStepCount()
        start = time.perf_counter()
        progress = None if self.recorder is None else self.recorder.progress
        try:
            with self.watch.on_duty(first, phase):
                at_start(first)
                self.stepper.start()
                more = {} if progress is None else {"tick": progress.tick}
                loop = StepLoop(self.simulation, events, self.stop.reason, phase, advance=self.stepper.advance, **more)
                reason = loop.run(total)
                if reason is not None:
                    self.watch.look(self.simulation.context.getStepCount(), must=True)
        except SafetyStop as stop:
            raise SafetyStop(f"{stop} The checkpoint in {self.folder} is of step {self._saved_at}.") from stop
        finally:
            if progress is not None:
                progress.close()
        seconds = time.perf_counter() - start
        step = self.simulation.context.getStepCount()
        self.timings[f"{phase}_s"] = seconds
        self._stepped |= step > first
        self.timings |= {f"safety_{name}": value for name, value in self.watch.timings.items()}
        if reason is not None:
            self._stop(reason, phase)
        if step % interval:
            self._checkpoint(step)
        if step > first:
            speed = (step - first) * self.config.timestep * 1e-6 / seconds * 86400
            self.timings[f"{phase}_ns_day"] = speed
            self.timings[f"{phase}_ms_per_step"] = 1000 * seconds / (step - first)
            log.info(
                "%s: %d steps in %.1f s, %.3g ns/day, %.3g ms/step",
                phase, step - first, seconds, speed, 1000 * seconds / (step - first),
            )  # fmt: skip
        for line in self.watch.summary():
            log.info("%s", line)

    def _checkpoint(self, step: int) -> None:
        self.watch.look(step, must=True)
        self._save()

    def _stop(self, reason: str, phase: str) -> None:
        self._save()
        step = self.simulation.context.getStepCount()
        raise CleanStop(
            f"{reason} in the {phase}, at step {step} of {self.config.num_steps}; the checkpoint in {self.folder} is "
            "good. Continue with the same command and --restart."
        )

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the run so far, those of the parts before included, when all is on the disk."""
        written = [found for found in (self.recorder, self.uncertainty, *self.hooks) if found is not None]
        return self._finished | {name: size for found in written for name, size in found.sizes().items()}

    def _save(self) -> None:
        self._saved_at = self.simulation.context.getStepCount()
        save_checkpoint(
            self.simulation,
            self.folder,
            phase=self.phase,
            sizes=self.sizes(),
            identity=self.identity,
            part=self.part.name,
            anchor=None if self.phase == "minimize" else self.stepper.anchor,
            hooks=states_of(self.hooks),
            numerics=self.numerics,
        )
        self.stepper.saved()


def _outcome(result: Minimization) -> str:
    if result.converged:
        return f"converged within {result.iterations} iterations" if result.iterations else "not needed"
    why = "no lower energy in this precision" if result.exhausted else "the run goes on"
    return f"not converged after {result.iterations} iterations ({why})"


def _fall(result: Minimization) -> str:
    before, after = (force / EV_PER_ANGSTROM_TO_KJ_MOL_NM for force in (result.force_before, result.force_after))
    return (
        f"energy {result.energy_before:.3f} -> {result.energy_after:.3f} kJ/mol, largest force {before:.4f} -> "
        f"{after:.4f} eV/A, {result.seconds:.1f} s"
    )


def _after_minimum(ensemble: str, temperature: float, friction: float | None) -> str:
    """What to expect of the first temperatures: the potential energy of a minimum takes its half of the kinetic."""
    if ensemble == "nve":
        return f"from a minimum, at constant energy, the temperature settles near half of {temperature:g} K"
    return (
        f"from a minimum the temperature first falls to about half; the thermostat brings it to {temperature:g} K in "
        f"about 1/friction = {1.0 / friction:g} ps"
    )


class _EveryFewSeconds:
    """Logs a line unless one was logged less than `interval` seconds ago."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            log.info("%s", line)
