"""The run itself: minimise, draw velocities, equilibrate, produce, with checkpoints; or continue from one.

Steps before production have negative numbers, so that one counter says where a run is and production starts at 0.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openmm import app

from mace_md.config import RunConfig
from mace_md.errors import CleanStop, InputError, SafetyStop
from mace_md.md.integrators import Dynamics
from mace_md.md.reporters import Progress, Recorder
from mace_md.md.restart import CURRENT, Checkpoint, check_files, check_identity, cut_files, load_into, save_checkpoint
from mace_md.md.safety import Limits, Watch
from mace_md.md.simulation import Minimization, StepLoop, forget_neighbours, minimize, set_velocities
from mace_md.md.stopping import StopRequest
from mace_md.md.structure import Structure
from mace_md.units import ANGSTROM_TO_NM, EV_PER_ANGSTROM_TO_KJ_MOL_NM, FS_TO_PS

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
        identity: dict[str, object],
        stop: StopRequest,
        r_max: float | None = None,
    ) -> None:
        """r_max: cutoff of the model, A."""
        self.config, self.structure, self.simulation = config, structure, simulation
        self.dynamics, self.identity, self.stop = dynamics, identity, stop
        self.folder: Path = config.output
        self.timings: dict[str, float] = {}
        self.recorder: Recorder | None = None
        self.phase = "dynamics"
        self._stepped = False
        self._saved_at: int | None = None  # step of the last checkpoint
        self.watch = Watch(
            simulation,
            self.folder,
            limits_of(config),
            bonds=structure.molecules.bonds,
            num_dof=dynamics.num_dof,
            timestep=config.timestep,
            r_max=r_max,
        )

    def begin(self) -> None:
        """Minimise and draw velocities; the step counter stands at minus the equilibration steps."""
        self.simulation.context.setStepCount(-self.config.equilibration_steps)
        if self.config.minimize:
            self._minimize()
        self._draw_velocities()
        with self.watch.on_duty(self.simulation.context.getStepCount(), "start"):
            self._save()

    def accept(self, checkpoint: Checkpoint) -> None:
        """Raise InputError unless this run can continue from `checkpoint`; touches nothing."""
        check_identity(checkpoint, self.identity)
        check_files(self.folder, checkpoint.sizes)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from an accepted `checkpoint`: the files are cut back to it."""
        for note in cut_files(self.folder, checkpoint.sizes):
            log.info("%s", note)
        how = load_into(self.simulation, checkpoint)
        self._saved_at = checkpoint.step
        log.info("restart from %s at step %d: %s", checkpoint.path, checkpoint.step, how)
        if self.config.ensemble == "npt":
            log.info("note: OpenMM's barostat draws new random numbers after a restart; the ensemble is the same")
        if checkpoint.phase == "minimize":
            self._minimize()
            self._draw_velocities()
            self._save()

    def produce(self) -> None:
        """Step to the total. Raises CleanStop, with a checkpoint, when a signal or the time limit came first."""
        step = self.simulation.context.getStepCount()
        total = self.config.num_steps
        if step < 0:
            log.info("equilibration: %d steps, not written", -step)
            self._steps(0, "equilibration", [])
            step = 0
        if self.recorder is None:
            self.recorder = self._open_recorder(step)
        if step >= total:
            self._first_row(step)
            log.info("production: the run is at step %d of %d; give more --steps to go on", step, total)
            self._save()
            return
        log.info("production: %d steps, %g ps", total - step, (total - step) * self.config.timestep * FS_TO_PS)
        events = [
            (self.config.report_interval, self.recorder.row),
            (self.config.trajectory_interval, self._frame),
        ]
        self._steps(total, "production", events, at_start=self._first_row)

    def _frame(self, step: int) -> None:
        self.watch.look(step, must=True)
        self.recorder.frame(step)

    def _first_row(self, step: int) -> None:
        if step == 0 and self.recorder.log.is_empty:
            self.recorder.row(0)

    def _open_recorder(self, step: int) -> Recorder:
        return Recorder(
            self.simulation,
            self.folder,
            num_dof=self.dynamics.num_dof,
            total_mass=float(self.structure.masses.sum()),
            timestep=self.config.timestep,
            kinds=self.config.trajectory_format,
            interval=self.config.trajectory_interval,
            stepped=self._stepped,
            wrap=self.config.wrap == "molecules",
            progress=Progress(
                step, self.config.num_steps, self.config.timestep, lambda line: log.info("%s", line),
                terminal=False if self.config.quiet else None,
            ),
            inspect=self.watch.check_forces,
        )  # fmt: skip

    def _minimize(self) -> None:
        config = self.config
        self.phase = "minimize"
        log.info(
            "minimise: to %g kJ/mol/nm (root mean square), at most %s iterations",
            config.minimize_tolerance,
            config.minimize_iterations or "any number of",
        )
        lines = _EveryFewSeconds(MINIMIZE_LINE_INTERVAL)
        result = minimize(
            self.simulation,
            tolerance=config.minimize_tolerance,
            max_iterations=config.minimize_iterations,
            stop=lambda: self.stop.reason() is not None,
            progress=lines,
        )
        log.info(
            "minimise: %s, energy %.3f -> %.3f kJ/mol, largest force %.4f -> %.4f eV/A, %.1f s",
            _outcome(result),
            result.energy_before,
            result.energy_after,
            result.force_before / EV_PER_ANGSTROM_TO_KJ_MOL_NM,
            result.force_after / EV_PER_ANGSTROM_TO_KJ_MOL_NM,
            result.seconds,
        )
        self.timings["minimize_s"] = result.seconds
        reason = self.stop.reason()
        if reason is not None:
            self._stop(reason, "minimisation")
        self.phase = "dynamics"

    def _draw_velocities(self) -> None:
        set_velocities(self.simulation, self.dynamics, self.config.temperature, int(self.identity["seed"]))
        log.info("velocities: drawn at %g K, seed %s", self.config.temperature, self.identity["seed"])

    def _steps(self, total: int, phase: str, events: list, at_start: Callable[[int], None] = lambda step: None) -> None:
        interval = self.config.checkpoint_interval
        events = [(self.config.safety_interval, self.watch.look), *events, (interval, self._checkpoint)]
        first = self.simulation.context.getStepCount()
        start = time.perf_counter()
        progress = None if self.recorder is None else self.recorder.progress
        try:
            with self.watch.on_duty(first, phase):
                at_start(first)
                tick = {} if progress is None else {"tick": progress.tick}
                reason = StepLoop(self.simulation, events, self.stop.reason, phase, **tick).run(total)
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

    def _save(self) -> None:
        sizes = {} if self.recorder is None else self.recorder.sizes()
        self._saved_at = self.simulation.context.getStepCount()
        save_checkpoint(self.simulation, self.folder, phase=self.phase, sizes=sizes, identity=self.identity)
        forget_neighbours(self.simulation, self.config.skin * ANGSTROM_TO_NM)


def _outcome(result: Minimization) -> str:
    if result.converged:
        return f"converged within {result.iterations} iterations" if result.iterations else "not needed"
    return f"not converged after {result.iterations} iterations (the run goes on)"


def limits_of(config: RunConfig) -> Limits:
    """What the safety watch takes for physics in this run."""
    return Limits(
        temperature=config.temperature,
        max_force=config.max_force,
        max_temperature=config.max_temperature,
        closest_contact=config.closest_contact,
        bond_break=config.bond_break,
        small_box=config.small_box,
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


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn a failure to write into what it means for the run: what is safe, and how to go on."""
    try:
        yield
    except OSError as error:
        if sys.exc_info()[0] is BrokenPipeError:
            raise
        name = error.filename or folder
        kept = "no step was made yet: make room and repeat the command with --restart"
        if (folder / CURRENT).exists():
            kept = f"the checkpoint in {folder} is good: make room and continue with the same command and --restart"
        raise InputError(f"{name}: cannot be written ({error.strerror or error}); {kept}.") from error
