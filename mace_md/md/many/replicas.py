"""Several runs of one command: a folder for each seed and temperature, and a table of what came out."""

import csv
import io
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mace_md.analysis.reading import read_log
from mace_md.analysis.statistics import TooShort, mean_of
from mace_md.analysis.window import SETTLING, settled
from mace_md.config import RunConfig
from mace_md.errors import CleanStop, InputError, SafetyStop
from mace_md.output import held_folder, refuse_content
from mace_md.provenance import write_atomically

log = logging.getLogger("mace_md")

SUMMARY = "summary.csv"
# Columns of log.csv whose means are in the summary, with the name of the mean there.
MEANS = ("temperature_K", "potential_kJ_mol", "total_kJ_mol", "volume_nm3", "density_g_mL")


NOT_STARTED, FAILED = "not started", "failed"
STATES = {0: "done", SafetyStop.exit_code: "stopped by a safety rule", CleanStop.exit_code: "stopped"}  # by exit code
WORST_FIRST = (FAILED, STATES[SafetyStop.exit_code], STATES[CleanStop.exit_code], NOT_STARTED, STATES[0])


class Replica(NamedTuple):
    """One of the runs: its folder's name, and its options."""

    name: str
    config: RunConfig


def replicas_of(config: RunConfig) -> list[Replica]:
    """One run for each temperature and each seed; empty when the options ask for one run alone."""
    if config.seeds is None and config.temperatures is None:
        return []
    found = []
    for temperature in config.temperatures or (config.temperature,):
        for seed in config.seeds or (config.seed,):
            parts = [f"{temperature:g}K"] * (config.temperatures is not None)
            parts += [f"seed{seed}"] * (config.seeds is not None)
            name = "-".join(parts)
            own = replace(
                config, temperature=temperature, temperatures=None, seed=seed, seeds=None, output=config.output / name,
                processes=None, device_index=config.device_index and config.device_index[:1],
            )  # fmt: skip
            found.append(Replica(name, own))
    names = [replica.name for replica in found]
    if len(set(names)) < len(names):
        raise InputError(f"--seeds or --temperatures: {next(n for n in names if names.count(n) > 1)} is there twice.")
    return found


@dataclass
class Series:
    """The runs of one command, how each of them stands, and the table of what came out in the folder they share."""

    folder: Path
    replicas: list[Replica]
    states: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states |= {replica.name: NOT_STARTED for replica in self.replicas}

    def ended(self, replica: Replica, exit_code: int) -> None:
        """Note how a run ended, and write summary.csv."""
        self.states[replica.name] = STATES.get(exit_code, FAILED)
        self.write()

    def write(self) -> None:
        """summary.csv, as things stand."""
        text = io.StringIO()
        names = [f"{column}{ending}" for column in MEANS for ending in ("", "_error")]
        columns = ["run", "temperature_set_K", "seed", "state", "steps", *names]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for replica in self.replicas:
            row = {"run": replica.name, "temperature_set_K": replica.config.temperature, "seed": replica.config.seed}
            writer.writerow(row | {"state": self.states[replica.name]} | _means(replica.config.output / "log.csv"))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / SUMMARY, text.getvalue())

    def report(self) -> None:
        """The table for people, in the log."""
        width = max(len(replica.name) for replica in self.replicas)
        for replica in self.replicas:
            means = _means(replica.config.output / "log.csv")
            numbers = [f"{means[column]} {unit}" for column, unit in _SHOWN if column in means]
            log.info("  %s", ", ".join([f"{replica.name:<{width}}  {self.states[replica.name]}", *numbers]))
        if (self.folder / SUMMARY).exists():
            log.info("summary: %s", self.folder / SUMMARY)

    def exit_code(self) -> int:
        """The worst of those of the runs: an error, then a safety rule, then a stop with a checkpoint."""
        found = set(self.states.values())
        codes = {FAILED: InputError.exit_code, NOT_STARTED: CleanStop.exit_code}
        codes |= {state: code for code, state in STATES.items()}
        return next(codes[state] for state in WORST_FIRST if state in found)


def run_each(config: RunConfig, replicas: list[Replica], run: Callable[[RunConfig], int]) -> int:
    """Run all of them, one after the other, and write summary.csv after each; returns the exit code.

    A run that a safety rule stops does not keep the others from running; the code is then 3. A signal or the time limit
    ends the series (CleanStop), and `--restart` continues it: what is done stays as it is.
    """
    with held_folder(config.output):
        refuse_content(config.output, config.restart)
        return _one_by_one(config, replicas, run)


def _one_by_one(config: RunConfig, replicas: list[Replica], run: Callable[[RunConfig], int]) -> int:
    end = None if config.max_hours is None else time.monotonic() + 3600 * config.max_hours
    series = Series(config.output, replicas)
    for number, replica in enumerate(replicas, start=1):
        log.info("run %d of %d: %s", number, len(replicas), replica.name)
        try:
            run(replace(replica.config, max_hours=hours_left(end)))
            code = 0
        except SafetyStop as stop:
            log.error("run %s: %s", replica.name, stop)
            code = stop.exit_code
        except CleanStop as stop:
            series.ended(replica, stop.exit_code)
            raise CleanStop(f"run {number} of {len(replicas)}, {replica.name}: {stop}") from stop
        series.ended(replica, code)
    series.report()
    return series.exit_code()


def hours_left(end: float | None) -> float | None:
    """Hours until `end` (of time.monotonic()), for a run that starts now; None without a limit."""
    return None if end is None else max((end - time.monotonic()) / 3600, 1e-9)


def _means(path: Path) -> dict[str, object]:
    """The last step in a log, and the means and standard errors of its columns after equilibration.

    There is no error where the run is too short for one.
    """
    log = read_log(path) if path.exists() else {}
    if not log:
        return {}
    found: dict[str, object] = {"steps": int(log["step"][-1])}
    start = max((settled(log[name]) for name in SETTLING if name in log and np.isfinite(log[name]).all()), default=0)
    for column in MEANS:
        values = log[column][start:][np.isfinite(log[column][start:])] if column in log else np.zeros(0)
        if len(values):
            found[column] = f"{values.mean():.6g}"
            with suppress(TooShort):
                found[f"{column}_error"] = f"{mean_of(values).error:.2g}"
    return found


_SHOWN = (("steps", "steps"), ("temperature_K", "K"), ("potential_kJ_mol", "kJ/mol"), ("density_g_mL", "g/mL"))
