"""Several runs at the same time: each in a process of its own, on a GPU of its own where there are several.

OpenMM does not divide the force of a model among GPUs, so what is shared out is whole runs. A process is `mace-md run`
with the options of one replica: it has its own folder, log and checkpoints, and is continued like any other run.
"""

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mace_md import child
from mace_md.config import RunConfig, to_toml
from mace_md.console import show
from mace_md.errors import CleanStop
from mace_md.md.files.reporters import duration
from mace_md.md.many.replicas import FAILED, NOT_STARTED, STATES, Replica, Series, hours_left
from mace_md.options.declare import flag
from mace_md.output import content_of, held_folder, held_log, holder_of, open_folder, refuse_content
from mace_md.stopping import StopRequest

log = logging.getLogger("mace_md")

LOG_NAME = "runs.log"
LOOK_INTERVAL = 0.2  # s between looks at the processes
SHOWN_INTERVAL = 1.0  # s between changes of the line on a terminal
GRACE = 10.0  # s for a process that was interrupted twice, before it is killed
_TAIL = 4096  # bytes at the end of log.csv that hold its last row


@dataclass
class Place:
    """Where one run at a time is made: a GPU, or some threads."""

    device: int | None = None
    threads: int | None = None

    def __str__(self) -> str:
        if self.device is not None:
            return f"GPU {self.device}"
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"


def places_of(config: RunConfig) -> list[Place]:
    """One for each process: the GPUs in turn, and an equal share of the cores unless --threads says how many."""
    count = config.num_processes
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // count)
    devices = config.device_index or (None,)
    return [Place(devices[number % len(devices)], threads) for number in range(count)]


def command_of(config: RunConfig, options: Path) -> list[str]:
    """The command line of a run whose options are in the file `options`, but for those that no file holds."""
    flags = [flag(name) for name in ("restart", "trust_pickle", "debug") if getattr(config, name)]
    return child.run_module("mace_md", "run", "--config", str(options), *flags)


def run_at_once(
    config: RunConfig, replicas: list[Replica], command: Callable[[RunConfig, Path], list[str]] = command_of
) -> int:
    """Make the runs in `config.num_processes` processes; returns the worst of their exit codes.

    No run takes others along: one that fails, or that a safety rule stops, leaves its place to the next. SIGTERM,
    SIGINT and the time limit are passed on, so that every run ends with a checkpoint (CleanStop); `--restart` continues
    each of them, and begins those that were not started. Whatever ends this process, the runs end with it, each with
    a checkpoint.
    """
    with (
        held_folder(config.output),
        held_log() as held,
        StopRequest(config.max_hours) as stop,
        child.lifeline() as lifeline,
    ):
        refuse_content(config.output, config.restart)
        pool = Pool(config, replicas, lifeline, command, lambda: open_folder(config.output, held, LOG_NAME))
        try:
            pool.wait_for_others(stop)
            reason = pool.run(stop)
        except KeyboardInterrupt:
            pool.interrupt()
            raise
        finally:
            pool.end()
        pool.series.report()
    code = pool.series.exit_code()
    if code == CleanStop.exit_code:
        open_ends = sum(state != STATES[0] for state in pool.series.states.values())
        raise CleanStop(
            f"{reason or 'stopped'}: {open_ends} of {len(replicas)} runs in {config.output} are not done. The "
            "checkpoint of each that was started is good. Continue with the same command and --restart."
        )
    return code


@dataclass
class Worker:
    """A process that makes one run. `errors` is an open file, without a name, with what it says to standard error."""

    replica: Replica
    place: Place
    process: subprocess.Popen
    errors: IO[bytes]
    started: float

    def message(self) -> str:
        """What it said when it ended, as one line where it was for people."""
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().removeprefix("mace-md: ")
        code = self.process.returncode
        if code < 0:
            said = f"ended by {signal.Signals(-code).name}. {said}".strip()
        return said[-3000:]


class Pool:
    """The processes, the runs that wait for a place, and the line that says how far everything is."""

    def __init__(
        self,
        config: RunConfig,
        replicas: list[Replica],
        lifeline: int,
        command: Callable[[RunConfig, Path], list[str]],
        claim: Callable[[], None],
    ) -> None:
        """lifeline : the standard input of the processes, which ends with this one. claim : opens the log of the
        series; called when the first run has begun, so that a refused command leaves nothing behind."""
        self.series = Series(config.output, replicas)
        self._command, self._lifeline, self._claim = command, lifeline, claim
        self._end = None if config.max_hours is None else time.monotonic() + 3600 * config.max_hours
        self._waiting = list(replicas)
        self._free = places_of(config)
        self._working: list[Worker] = []
        self._claimed = self._asked = False
        self._line = TotalLine(replicas, quiet=config.quiet)
        places = dict.fromkeys(map(str, self._free))
        log.info("%d runs, %d at a time, each on %s", len(replicas), len(self._free), " or ".join(places))

    def wait_for_others(self, stop: StopRequest) -> None:
        """Where the process before this one was killed, its runs are ending now: they have their folders until then."""
        end, said = time.monotonic() + child.GRACE, False
        while time.monotonic() < end and stop.reason() is None:
            held = [found for replica in self._waiting if (found := holder_of(replica.config.output))]
            if not held:
                return
            if not said:
                self._tell("%s of an earlier command have folders of the runs: they are waited for", ", ".join(held))
            said = True
            time.sleep(LOOK_INTERVAL)

    def run(self, stop: StopRequest) -> str | None:
        """Until every run has ended; the reason, where they were asked to stop."""
        asked = None
        self._open_folder()
        while self._working or (self._waiting and asked is None):
            if asked is None and (asked := stop.reason()) is not None:
                self._pass_on(asked)
            while self._free and self._waiting and asked is None:
                self._start(self._waiting.pop(0), self._free.pop(0))
            time.sleep(LOOK_INTERVAL)
            self._look()
        self._line.close()
        return asked

    def _start(self, replica: Replica, place: Place) -> None:
        config = replace(
            replica.config, threads=place.threads, max_hours=hours_left(self._end),
            device_index=None if place.device is None else (place.device,),
        )  # fmt: skip
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process runs; it has no name to leave behind
        with tempfile.TemporaryFile() as options:
            options.write(to_toml(config).encode())
            options.flush()
            process = subprocess.Popen(  # a session of its own: Ctrl-C in a terminal reaches only this process
                self._command(config, Path(child.path_of(options))), stdin=self._lifeline, stdout=subprocess.DEVNULL,
                stderr=errors, pass_fds=(options.fileno(),), env=child.environment(), start_new_session=True,
            )  # fmt: skip
        self._working.append(Worker(replica, place, process, errors, time.monotonic()))
        self._tell("%s: started, %s, process %d", replica.name, place, process.pid)

    def _open_folder(self) -> None:
        """Begin the log of the series, once a run has begun, now or before."""
        if not self._claimed and any(content_of(replica.config.output) for replica in self.series.replicas):
            self._claim()
            self._claimed = True
            self.series.write()

    def _look(self) -> None:
        self._open_folder()
        for worker in [worker for worker in self._working if worker.process.poll() is not None]:
            self._working.remove(worker)
            self._free.append(worker.place)
            self._ended(worker)
        self._line.show([(worker.replica, worker.place) for worker in self._working], self.series.states)

    def _ended(self, worker: Worker) -> None:
        name, code = worker.replica.name, worker.process.returncode
        if self._asked and code == -signal.SIGTERM:  # it was still loading, and had written nothing
            code = CleanStop.exit_code
        if self._claimed:
            self.series.ended(worker.replica, code)
        else:
            self.series.states[name] = STATES.get(code, FAILED)
        state, said = self.series.states[name], worker.message()
        if code == 0:
            self._tell("%s: done, %s", name, duration(time.monotonic() - worker.started))
        elif code == CleanStop.exit_code:
            self._tell("%s: %s", name, said.partition(";")[0] or "ended before its first step")  # that it can go on
        else:
            self._tell("%s: %s (exit code %d): %s", name, state, code, said, level=logging.ERROR)
        if state == FAILED and not self._claimed and self._waiting:
            self._tell("no run has begun, and all have the same options: the others are not started")
            self._waiting.clear()

    def _tell(self, text: str, *values: object, level: int = logging.INFO) -> None:
        self._line.close()
        log.log(level, text, *values)

    def _pass_on(self, reason: str) -> None:
        """Ask every process to end with a checkpoint."""
        self._tell("%s: %d runs are asked to end with a checkpoint", reason, len(self._working))
        self._asked = True
        self._waiting.clear()
        self._send(signal.SIGTERM)

    def interrupt(self) -> None:
        """After the second Ctrl-C: end at once, as a single run does."""
        self._send(signal.SIGTERM)  # the first one of a process that has heard of none
        self._send(signal.SIGINT)

    def end(self) -> None:
        """Leave no process behind."""
        self._line.close()
        self._send(signal.SIGTERM)
        for worker in self._working:
            try:
                worker.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _send(self, number: int) -> None:
        for worker in self._working:
            worker.process.send_signal(number)


class TotalLine:
    """How far all runs are together: a line that rewrites itself on a terminal, and elsewhere one each twentieth."""

    def __init__(self, replicas: Iterable[Replica], *, quiet: bool) -> None:
        self._replicas = list(replicas)
        self._total = max(sum(replica.config.num_steps for replica in self._replicas), 1)
        self._terminal = sys.stdout.isatty() and not quiet
        self._start, self._first = time.monotonic(), self._done()[0]
        self._shown_at, self._shown = 0.0, self._first
        self._open = False

    def _done(self) -> tuple[int, dict[str, tuple[int, float]]]:
        found = {replica.name: last_row(replica.config.output / "log.csv") for replica in self._replicas}
        return sum(step for step, _ in found.values()), found

    def show(self, working: list[tuple[Replica, Place]], states: dict[str, str]) -> None:
        """Bring the line up to date, if it is time."""
        now = time.monotonic()
        if now - self._shown_at < SHOWN_INTERVAL or not working:
            return
        self._shown_at = now
        done, rows = self._done()
        if self._terminal:
            self._open = True
            columns = shutil.get_terminal_size().columns - 1
            show("\r\033[K" + self.text(working, states, done, rows)[:columns])
        elif done - self._shown >= self._total / 20:
            self._shown = done
            log.info("%s", self.text(working, states, done, rows))

    def text(self, working: list, states: dict[str, str], done: int, rows: dict[str, tuple[int, float]]) -> str:
        """`working`: the runs that are made now. `rows`: last step and speed of each run."""
        rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
        left = f"{duration((self._total - done) / rate)} left" if done > self._first else "time left not yet known"
        ended = sum(state != NOT_STARTED for state in states.values())
        speed = sum(rows[replica.name][1] for replica, _ in working)
        parts = [f"{ended} of {len(self._replicas)} runs ended", f"{100 * done // self._total} % of the steps"]
        parts += [left, f"{speed:.3g} ns/day"]
        each = (f"{replica.name} {_percent(replica, rows)}" for replica, _ in working)
        return "  ".join([*parts, ", ".join(each)])

    def close(self) -> None:
        """End the line, so that what follows starts on its own."""
        if self._open:
            show("\r\033[K")
        self._open = False


def _percent(replica: Replica, rows: dict[str, tuple[int, float]]) -> str:
    return f"{100 * rows[replica.name][0] // max(replica.config.num_steps, 1)} %"


def last_row(path: Path) -> tuple[int, float]:
    """Step and speed (ns/day) of the last whole row of a log.csv; zeros while there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")[:-1]
        *_, row = csv.reader(lines)
        return max(int(row[0]), 0), float(row[-1] or 0.0)
    except (OSError, ValueError, IndexError):  # not there yet, a header alone, or a row that is being written
        return 0, 0.0
