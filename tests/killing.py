"""Kill a run at random moments, again and again, and look at what each kill leaves.

    python tests/killing.py FOLDER MODEL KILLS STEPS SEED      prints a JSON record

Every run is a process of its own, forked from one that has loaded the libraries, so that a kill costs no start of them.
"""

import csv
import json
import os
import random
import signal
import sys
import time
import tomllib
import warnings
from pathlib import Path

import ase.io
import mdtraj
import openmm
from water_box import water_pdb

from mace_md.cli import main

CHECKPOINT_INTERVAL = 20
REPORT_INTERVAL, FRAME_INTERVAL = 1, 2
KINDS = ("dcd", "xtc", "extxyz")


def command(structure: Path, model: Path, folder: Path, steps: int, *more: str) -> list[str]:
    """A cheap but complete run; random weights may do what no physics allows."""
    return [
        "run", str(structure), "--model", str(model), "--output", str(folder),
        "--steps", str(steps), "--report-interval", str(REPORT_INTERVAL), "--trajectory-interval", str(FRAME_INTERVAL),
        "--checkpoint-interval", str(CHECKPOINT_INTERVAL), "--trajectory-format", ",".join(KINDS), "--seed", "3",
        "--timestep", "0.25", "--no-minimize", "--threads", "1", "--platform", "Reference", "--kernels", "auto",
        "--check", "skip", "--closest-contact", "0", "--max-force", "1e6", "--max-temperature",
        "1e6", "--bond-break", "ignore", *more,
    ]  # fmt: skip


def log_rows(folder: Path) -> list[list[str]]:
    """log.csv without the speed, which no two runs share; no rows before it exists."""
    if not (folder / "log.csv").exists():
        return []
    with open(folder / "log.csv") as file:
        return [row[:-1] for row in csv.reader(file)]


def start(words: list[str], output: Path) -> int:
    """A new process that runs `mace-md` with `words`; returns its id. What it prints is appended to `output`."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        code = main(words)
        sys.stdout.flush()
    finally:
        os._exit(code)


def finish(words: list[str], output: Path) -> int:
    """Exit code of a run that is left alone."""
    return os.waitstatus_to_exitcode(os.waitpid(start(words, output), 0)[1])


def kill_loop(place: Path, model: Path, *, kills: int, steps: int, seed: int) -> dict[str, object]:
    """Kill and continue a run until it was killed `kills` times, finish it, and compare it with one in one piece.

    The moment of each kill is random: while the process starts, or in the half second after its first new row. What was
    found wrong is in `problems`.
    """
    rng = random.Random(seed)
    structure, folder, output = water_pdb(place / "water.pdb", per_side=2), place / "killed", place / "output.txt"
    problems: list[str] = []
    lost, moments = [], {"start": 0, "steps": 0}
    while sum(moments.values()) < kills:
        if _last_step(folder) >= steps - 2 * CHECKPOINT_INTERVAL:  # nearly there: a longer run, to be killed in
            steps += 200
        pid = start(command(structure, model, folder, steps, "--restart"), output)
        moment = _kill(pid, folder, rng)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code > 0:
            problems.append(f"exit {code}: {output.read_text()[-300:]}")
            break
        if code == -signal.SIGKILL:
            moments[moment] += 1
            problems += [f"kill {sum(moments.values())} ({moment}): {problem}" for problem in unreadable(folder)]
            lost.append(_last_step(folder) - _step_of_checkpoint(folder))
    if finish(command(structure, model, folder, steps, "--restart"), output):
        problems.append(f"the last part failed: {output.read_text()[-300:]}")
    finish(command(structure, model, place / "whole", steps), output)
    problems += [f"left behind: {path.name}" for path in folder.iterdir() if path.suffix in (".part", ".tmp")]
    return {
        "kills": sum(moments.values()), "moments": moments, "seed": seed, "steps": steps,
        "checkpoint_interval": CHECKPOINT_INTERVAL, "most_steps_lost": max(lost, default=0),
        "rows": len(log_rows(folder)) - 1, "frames": len(mdtraj.load(folder / "trajectory.dcd", top=structure)),
        "same_as_uninterrupted": same(folder, place / "whole"), "problems": problems,
    }  # fmt: skip


def _kill(pid: int, folder: Path, rng: random.Random) -> str:
    """Kill at a random moment; says in what the process was."""
    before = _stamp(folder)
    moment = "start" if rng.random() < 0.25 else "steps"
    if moment == "steps":
        while _stamp(folder) == before and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5))
    else:
        time.sleep(rng.uniform(0.0, 3.0))
    os.kill(pid, signal.SIGKILL)
    return moment


def _stamp(folder: Path) -> float:
    path = folder / "log.csv"
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _last_step(folder: Path) -> int:
    """The last step in log.csv."""
    steps = [row[0] for row in log_rows(folder) if row and row[0].isdigit()]
    return int(steps[-1]) if steps else 0


def _step_of_checkpoint(folder: Path) -> int:
    from mace_md.md.files.restart import read_checkpoint

    checkpoint, _ = read_checkpoint(folder)
    return 0 if checkpoint is None else max(checkpoint.step, 0)


def unreadable(folder: Path) -> list[str]:
    """What of a folder, as a kill left it, cannot be read by the programs that people use."""
    found = []
    readers = {
        "run.json": lambda path: json.loads(path.read_text()),
        "run.toml": lambda path: tomllib.loads(path.read_text()),
        "state.xml": lambda path: openmm.XmlSerializer.deserialize(path.read_text()),
        "topology.pdb": lambda path: mdtraj.load(str(path)),
        "trajectory.extxyz": lambda path: path.stat().st_size and ase.io.read(path, index=":"),
        "trajectory.dcd": lambda path: _frames(path, folder),
        "trajectory.xtc": lambda path: _frames(path, folder),
    }
    for name, read in readers.items():
        path = folder / name
        if path.exists():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
            except Exception as error:  # whatever a reader of another program raises
                found.append(f"{name}: {type(error).__name__}: {error}")
    rows = [row for row in log_rows(folder)[1:] if row]
    steps = [row[0] for row in rows if len(row) == len(rows[0])]
    if len(set(steps)) != len(steps):
        found.append("log.csv has a row twice")
    return found


def _frames(path: Path, folder: Path) -> object:
    if path.stat().st_size <= 276:  # the header of a DCD file, and no frame yet
        return None
    return mdtraj.load(str(path), top=str(folder / "topology.pdb"))


def same(one: Path, two: Path) -> bool:
    """Whether two folders hold the same rows and the same frames, byte by byte."""
    files = all(
        (one / f"trajectory.{kind}").read_bytes() == (two / f"trajectory.{kind}").read_bytes() for kind in KINDS
    )
    return files and log_rows(one) == log_rows(two)


if __name__ == "__main__":
    where, model_file, *numbers = sys.argv[1:]
    kills, steps, seed = map(int, numbers)
    print(json.dumps(kill_loop(Path(where), Path(model_file), kills=kills, steps=steps, seed=seed)))
