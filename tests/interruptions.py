"""Other ends than `kill -9`: signals, two processes that want one folder, a stop while minimising, a killed parent.

Each function makes one kind happen many times, in processes forked from this one, looks at what is left each time, and
compares the end with a run in one piece. It returns a record with `count`, and what was found wrong in `problems`.

    python tests/interruptions.py KIND FOLDER MODEL COUNT SEED      prints a JSON record
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from killing import finish, log_rows, start, unreadable
from killing import same as same_results

REFUSED = ("another process is running in this folder", "is not empty")
COMMON = [
    "--trajectory-format", "dcd,xtc,extxyz", "--seed", "3", "--timestep", "0.25", "--threads", "1", "--platform",
    "Reference", "--check", "skip", "--closest-contact", "0", "--max-force", "1e6", "--max-temperature", "1e6",
    "--bond-break", "ignore", "--report-interval", "1", "--trajectory-interval", "2", "--checkpoint-interval", "20",
]  # fmt: skip


def words(structure: Path, model: Path, folder: Path, *more: str) -> list[str]:
    """A cheap but complete run, of which every step leaves a row."""
    return ["run", str(structure), "--model", str(model), "--output", str(folder), *COMMON, *more]


def code_of(pid: int) -> int:
    """Wait for a forked process; its exit code, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def signals(place: Path, structure: Path, model: Path, *, count: int, seed: int) -> dict[str, object]:
    """TERM, INT and HUP at random moments: a stop with a checkpoint, and in the end the results of no stop."""
    rng, problems, sent, steps = random.Random(seed), [], {"SIGTERM": 0, "SIGINT": 0, "SIGHUP": 0}, 150
    folder, said = place / "signals", place / "signals.txt"
    while sum(sent.values()) < count:
        number = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        step = _last_step(folder)
        if step > steps - 60:
            steps += 150
        pid = start(words(structure, model, folder, "--no-minimize", "--steps", str(steps), "--restart"), said)
        _wait_for_rows(folder, pid, step, rng.uniform(0.0, 0.4))
        os.kill(pid, number)
        code = code_of(pid)
        if code == 0:
            continue
        sent[number.name] += 1
        if code not in (4, 130, -number):
            problems.append(f"{number.name}: exit {code}: {said.read_text()[-300:]}")
            break
        problems += [f"{number.name}: {problem}" for problem in unreadable(folder)]
    final = ["--no-minimize", "--steps", str(steps)]
    problems += _ending(place, structure, model, folder, final, said)
    return {"count": sum(sent.values()), "signals": sent, "steps": steps, "problems": problems}


def starters(place: Path, structure: Path, model: Path, *, count: int, seed: int) -> dict[str, object]:
    """Two processes that start a run in the same new folder: one of them makes it, the other is told why not."""
    rng, problems, refused = random.Random(seed), [], 0
    options = ["--no-minimize", "--steps", "12"]
    whole = _whole(place, structure, model, options)
    for number in range(count):
        folder, outputs = place / f"starters{number}", [place / f"starter{number}{letter}.txt" for letter in "ab"]
        pids = [start(words(structure, model, folder, *options), outputs[0])]
        time.sleep(rng.uniform(0.0, 0.6) if rng.random() < 0.7 else 0.0)
        pids.append(start(words(structure, model, folder, *options), outputs[1]))
        codes = [code_of(pid) for pid in pids]
        texts = [output.read_text() for output in outputs]
        if sorted(codes) != [0, 1]:
            problems.append(f"starters {number}: exit codes {codes}: {texts}"[:600])
            continue
        loser = texts[codes.index(1)]
        refused += REFUSED[0] in loser
        if not any(text in loser for text in REFUSED):
            problems.append(f"starters {number}: {loser[-300:]}")
        if REFUSED[0] in loser and f"process {pids[codes.index(0)]}" not in loser:
            problems.append(f"starters {number}: the other is not named: {loser[-300:]}")
        if not same_results(folder, whole):
            problems.append(f"starters {number}: results differ from a run alone")
        _remove(folder, *outputs)
    return {"count": count, "refused_at_the_lock": refused, "problems": problems}


def restarters(place: Path, structure: Path, model: Path, *, count: int, seed: int) -> dict[str, object]:
    """Two processes that continue the same run, beside or after each other, as chained jobs of a queue do."""
    rng, problems, beside, steps = random.Random(seed), [], 0, 20
    folder, outputs = place / "restarters", [place / f"restarter{letter}.txt" for letter in "ab"]
    finish(words(structure, model, folder, "--no-minimize", "--steps", str(steps)), outputs[0])
    for number in range(count):
        steps += 12
        command = words(structure, model, folder, "--no-minimize", "--steps", str(steps), "--restart")
        _remove(*outputs)
        pids = [start(command, outputs[0])]
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 1.2))
        else:  # when the first is about to end, so that the second looks at its last moments, or just after
            while _last_step(folder) < steps and not _ended(pids[0]):
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.1))
        pids.append(start(command, outputs[1]))
        codes = [code_of(pid) for pid in pids]
        texts = [output.read_text() for output in outputs]
        beside += codes.count(1)
        wrong = sorted(codes) not in ([0, 0], [0, 1]) or any(
            code == 1 and REFUSED[0] not in text for code, text in zip(codes, texts, strict=True)
        )
        if wrong:
            problems.append(f"restarters {number}: exit codes {codes}: {texts}"[:600])
        if _last_step(folder) != steps:
            problems.append(f"restarters {number}: at step {_last_step(folder)} of {steps}")
        problems += [f"restarters {number}: {problem}" for problem in unreadable(folder)]
    problems += _ending(place, structure, model, folder, ["--no-minimize", "--steps", str(steps)], outputs[0])
    return {"count": count, "refused_at_the_lock": beside, "steps": steps, "problems": problems}


def while_minimising(place: Path, structure: Path, model: Path, *, count: int, seed: int) -> dict[str, object]:
    """A signal while the energy is minimised: continued to the same results, or not called exact."""
    rng, problems, inside = random.Random(seed), [], 0
    options = ["--minimize-tolerance", "1e-3", "--minimize-iterations", "60", "--steps", "4"]
    whole = _whole(place, structure, model, options)
    for number in range(count):
        folder, said = place / f"minimise{number}", place / f"minimise{number}.txt"
        pid = start(words(structure, model, folder, *options), said)
        while not (folder / "run.log").exists() and not _ended(pid):
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5))
        os.kill(pid, rng.choice([signal.SIGTERM, signal.SIGHUP]))
        code = code_of(pid)
        stopped = said.read_text()
        inside += "in the minimisation" in stopped
        if code not in (0, 4):
            problems.append(f"minimise {number}: exit {code}: {stopped[-300:]}")
        if code == 4 and finish(words(structure, model, folder, *options, "--restart"), said):
            problems.append(f"minimise {number}: not continued: {said.read_text()[-300:]}")
        claims = [line for line in said.read_text().splitlines() if "restart from" in line and ": exact" in line]
        if "in the minimisation" in stopped and claims:
            problems.append(f"minimise {number}: called exact: {claims}")
        if claims and not same_results(folder, whole):
            problems.append(f"minimise {number}: called exact, and differs: {claims}")
        if _last_step(folder) != 4:
            problems.append(f"minimise {number}: ended at step {_last_step(folder)}")
        _remove(folder, said)
    return {"count": count, "in_the_minimisation": inside, "problems": problems}


def killed_parents(place: Path, structure: Path, model: Path, *, count: int, seed: int) -> dict[str, object]:
    """`--processes 2`, whose first process is killed: its runs end, leave no scratch, and are continued."""
    rng, problems, ends, steps = random.Random(seed), [], [], 60
    series = _Series(place, structure, model)
    while len(ends) < count:
        if max(series.steps()) > steps - 40:
            steps += 60
        code, workers = series.kill(steps, rng)
        if code > 0:
            problems.append(f"parents {len(ends)}: exit {code}")
            break
        if code == 0:
            continue
        ends.append(_seconds_until_gone(workers))
        found = [f"{workers} outlived it"] if any(map(_exists, workers)) else []
        found += [f"scratch left: {path.name}" for path in series.scratch.iterdir()]
        found += [problem for number in (1, 2) for problem in unreadable(series.folder / f"seed{number}")]
        problems += [f"parents {len(ends)}: {problem}" for problem in found]
    last = subprocess.run(series.command(steps), env=series.environment, capture_output=True, text=True)
    if last.returncode:
        problems.append(f"parents: not finished: {last.stderr[-300:]}")
    for number in (1, 2):
        own = words(structure, model, place / f"alone{number}", "--no-minimize", "--steps", str(steps))
        own[own.index("--seed") + 1] = str(number)
        finish(own, place / "alone.txt")
        if not same_results(series.folder / f"seed{number}", place / f"alone{number}"):
            problems.append(f"parents: seed {number} differs from a run in one piece")
    slowest = round(max(ends, default=0.0), 2)
    return {"count": len(ends), "seconds_to_the_end": slowest, "steps": steps, "problems": problems}


class _Series:
    """Two runs of one command, with a folder of their own for what is temporary."""

    def __init__(self, place: Path, structure: Path, model: Path) -> None:
        self.folder, self.scratch = place / "series", place / "scratch"
        self.scratch.mkdir()
        self.environment = os.environ | {"TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1"}
        self.environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)}
        self._words = words(structure, model, self.folder, "--no-minimize")
        self._words[self._words.index("--seed") : self._words.index("--seed") + 2] = ["--seeds", "1,2"]

    def command(self, steps: int) -> list[str]:
        more = ["--steps", str(steps), "--processes", "2", "--quiet", "--restart"]
        return [sys.executable, "-m", "mace_md", *self._words, *more]

    def steps(self) -> list[int]:
        return [_last_step(self.folder / f"seed{number}") for number in (1, 2)]

    def kill(self, steps: int, rng: random.Random) -> tuple[int, list[int]]:
        """Start it and kill its first process, while the others start or make steps; its code, and their ids."""
        before = self.steps()
        parent = subprocess.Popen(self.command(steps), env=self.environment, stderr=subprocess.DEVNULL)
        while parent.poll() is None and not _workers(self.folder):
            time.sleep(0.01)
        if rng.random() < 0.7:
            while parent.poll() is None and before == self.steps():
                time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        workers = _workers(self.folder)
        parent.kill()
        return parent.wait(), workers


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _seconds_until_gone(pids: list[int]) -> float:
    began = time.monotonic()
    while any(map(_exists, pids)) and time.monotonic() < began + 90:
        time.sleep(0.02)
    return time.monotonic() - began


KINDS = {
    "signals": signals, "starters": starters, "restarters": restarters, "while_minimising": while_minimising,
    "killed_parents": killed_parents,
}  # fmt: skip


def _whole(place: Path, structure: Path, model: Path, options: list[str]) -> Path:
    finish(words(structure, model, place / "whole", *options), place / "whole.txt")
    return place / "whole"


def _ending(place: Path, structure: Path, model: Path, folder: Path, options: list[str], said: Path) -> list[str]:
    """What is wrong at the end of an interrupted run: it is finished, and compared with one in one piece."""
    found = []
    if finish(words(structure, model, folder, *options, "--restart"), said):
        found.append(f"the last part failed: {said.read_text()[-300:]}")
    found += [f"left behind: {path.name}" for path in folder.iterdir() if path.suffix in (".part", ".tmp", ".lock")]
    if not same_results(folder, _whole(place, structure, model, options)):
        found.append("it differs from a run in one piece")
    return found


def _wait_for_rows(folder: Path, pid: int, step: int, seconds: float) -> None:
    while _last_step(folder) == step and not _ended(pid):
        time.sleep(0.002)
    time.sleep(seconds)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _last_step(folder: Path) -> int:
    steps = [row[0] for row in log_rows(folder) if row and row[0].isdigit()]
    return int(steps[-1]) if steps else 0


def _workers(folder: Path) -> list[int]:
    """The processes that hold the folders of the series."""
    found = []
    for path in folder.glob("seed*/.mace-md.lock"):
        text = path.read_text().split()
        if text and Path(f"/proc/{text[0]}").exists():
            found.append(int(text[0]))
    return found


def _remove(*paths: Path) -> None:
    import shutil

    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    import json

    from water_box import water_pdb

    kind, where, model_file, number, seed_text = sys.argv[1:]
    box = water_pdb(Path(where) / "water.pdb", per_side=2)
    print(json.dumps(KINDS[kind](Path(where), box, Path(model_file), count=int(number), seed=int(seed_text))))
