"""Trains and evaluates the models of the accuracy tables, in pieces of a few minutes, and keeps the errors.

    python -m benchmarks.accuracy.run tables --datasets acac rmd17-ethanol --cpu-sized
    python -m benchmarks.accuracy.run curves --cpu-sized
    python -m benchmarks.accuracy.run list

Each training is one task with a folder below `--work`. `--minutes 10` ends cleanly after ten minutes, with a
checkpoint; the same command continues (exit code 4 says that there is more to do). What is finished is not done again;
its errors are in benchmarks/results/accuracy.json, from which report.py makes the table and the figure.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy import peer
from benchmarks.accuracy.datasets import Dataset, names, prepare
from benchmarks.accuracy.settings import Settings, settings_for
from mace_md.provenance import collect_provenance, write_json

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
CURVE_SIZES, CURVE_MOLECULES = (50, 100, 200, 400, 950), ("ethanol", "malonaldehyde")
UNFINISHED = 4  # exit code of `mace-md train` and of this script


@dataclass(frozen=True)
class Task:
    """One training and the evaluation of its model."""

    dataset: str
    n_train: int
    seed: int
    cpu_sized: bool
    correlation: int = 3
    program: str = "mace-md"  # or mace-torch
    curve: bool = False  # a point of a learning curve

    @property
    def name(self) -> str:
        """Of its folder, and its key in the results."""
        size = ("cpu" if self.cpu_sized else "paper") + ("-curve" if self.curve and self.cpu_sized else "")
        return f"{self.dataset}-{self.n_train}-{size}-nu{self.correlation}-{self.program}-seed{self.seed}"

    @property
    def settings(self) -> Settings:
        """How it is trained."""
        return settings_for(self.dataset, self.n_train, self.cpu_sized, self.correlation, self.curve)


def tasks_of_tables(arguments: argparse.Namespace) -> Iterator[Task]:
    """Every data set, program and seed that was asked for."""
    for seed in arguments.seeds:
        for dataset in arguments.datasets:
            rmd17 = dataset.startswith("rmd17-")
            for n_train in arguments.n_train or ((950, 50) if rmd17 else (450,)):
                for program in arguments.programs:
                    yield Task(dataset, n_train, seed, arguments.cpu_sized, program=program)


def tasks_of_curves(arguments: argparse.Namespace) -> Iterator[Task]:
    """Correlation 1 and 3 on growing training sets, the large ones last."""
    for seed in arguments.seeds:
        for n_train in arguments.n_train or CURVE_SIZES:
            for molecule in arguments.molecules:
                for correlation in (1, 3):
                    yield Task(f"rmd17-{molecule}", n_train, seed, arguments.cpu_sized, correlation, curve=True)


# --- one task ---


class OutOfTime(Exception):
    """The time that was given is over; there is more to do."""


def do(task: Task, arguments: argparse.Namespace, deadline: float | None) -> dict:
    """Train (or continue), evaluate, and say what came out. Raises OutOfTime."""
    dataset = prepare(task.dataset, arguments.data, arguments.work / "data", task.n_train)
    folder = arguments.work / task.name
    if task.program == "mace-md":
        model, facts = train_here(task, dataset, folder, arguments, deadline)
    else:
        model, facts = train_peer(task, dataset, folder, arguments.peer)
    return {
        "task": asdict(task),
        "settings": asdict(task.settings),
        "errors": evaluate(model, dataset, folder / "evaluation"),
        **facts,
        **{key: collect_provenance()[key] for key in ("created", "versions", "device")},
        "commit": commit(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
    }


def train_here(
    task: Task, dataset: Dataset, folder: Path, arguments: argparse.Namespace, deadline: float | None
) -> tuple[Path, dict]:
    """`mace-md train` until it is done; raises OutOfTime when it stopped at the deadline with a checkpoint."""
    words = [str(dataset.train), "--output", str(folder), "--restart", *options_here(task, dataset)]
    if deadline is not None:
        words += ["--max-hours", f"{max(deadline - time.time(), 1.0) / 3600:.6f}"]
    if arguments.device:
        words += ["--device", arguments.device]
    code = mace_md("train", *words)
    if code == UNFINISHED:
        raise OutOfTime
    if code != 0:
        raise SystemExit(f"mace-md train ended with code {code}: {folder}")
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = sum(float(row["seconds"]) for row in rows)
    return folder / "model.mace", {"epochs_done": len(rows), "train_seconds": round(seconds, 1)}


def options_here(task: Task, dataset: Dataset) -> list[str]:
    """The settings as options of `mace-md train`."""
    s = task.settings
    options = {
        "valid": dataset.valid, "num_channels": s.num_channels, "max_L": s.max_L, "max_ell": s.max_ell,
        "correlation": s.correlation, "r_max": s.r_max, "batch_size": s.batch_size, "valid_batch_size": 50,
        "epochs": s.epochs, "energy_weight": s.energy_weight, "forces_weight": s.forces_weight, "lr": s.lr,
        "ema": s.ema, "weight_decay": s.weight_decay, "optimizer": "adam", "dtype": s.dtype, "seed": task.seed,
        "e0s": "least-squares", "scale": "rms-forces",
    }  # fmt: skip
    if s.lr_decay is not None:
        options |= {"scheduler": "exponential", "lr_decay": s.lr_decay}
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    if s.stage_two_start is None:
        return [*words, "--no-stage-two"]
    return [*words, "--stage-two-start", str(s.stage_two_start)]


def train_peer(task: Task, dataset: Dataset, folder: Path, python: str) -> tuple[Path, dict]:
    """mace_run_train in one go: it is run for comparison only."""
    if not (folder / "output.txt").exists() or not list(folder.glob("*.model")):
        peer.train(python, dataset, task.settings, task.seed, folder)
    epochs = peer.step_times(folder)
    version = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(m.version('mace-torch'))"], capture_output=True, text=True
    ).stdout.strip()
    energy, forces = peer.valid_errors(folder)
    facts = {"epochs_done": len(epochs), "train_seconds": round(sum(map(sum, epochs)), 1), "mace-torch": version}
    return peer.model_file(folder), facts | {"own_valid_rmse": {"energy_meV": energy, "forces_meV_per_A": forces}}


def evaluate(model: Path, dataset: Dataset, folder: Path) -> dict:
    """Errors on every test set and on the validation frames, by `mace-md evaluate`: the same code for both programs."""
    files = [*dataset.tests.values(), dataset.valid]
    if mace_md("evaluate", str(model), *map(str, files), "--output", str(folder), "--force", "--no-plots", "--quiet"):
        raise SystemExit(f"mace-md evaluate failed on {model}")
    data = json.loads((folder / "errors.json").read_text())["data"]
    return {name.removeprefix("test_"): found["errors"] for name, found in data.items()}


def mace_md(*words: str) -> int:
    """Run the `mace-md` of this checkout; returns its exit code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "mace_md", *words], env=environment).returncode


def commit() -> str:
    """The commit of this checkout, with a + when files differ from it; empty without git."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


# --- all of them ---


def main() -> int:
    """Do what is left of the tasks; 4 when the time was over before."""
    arguments = parse()
    if arguments.action == "list":
        print("\n".join(names()))
        return 0
    deadline = None if arguments.minutes is None else time.time() + 60.0 * arguments.minutes
    tasks = list({"tables": tasks_of_tables, "curves": tasks_of_curves}[arguments.action](arguments))
    for number, task in enumerate(tasks, 1):
        results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        if task.name in results:
            continue
        print(f"--- {number}/{len(tasks)} {task.name}", flush=True)
        if deadline is not None and time.time() > deadline - 5.0:
            return UNFINISHED
        try:
            found = do(task, arguments, deadline)
        except OutOfTime:
            return UNFINISHED
        results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.results, dict(sorted((results | {task.name: found}).items())))
    print(f"all {len(tasks)} tasks are in {arguments.results}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("tables", "curves", "list"))
    parser.add_argument("--datasets", nargs="+", default=names(), choices=names(), metavar="NAME", help="see `list`")
    parser.add_argument("--molecules", nargs="+", default=list(CURVE_MOLECULES), metavar="NAME", help="of the curves")
    parser.add_argument("--n-train", nargs="+", type=int, help="numbers of training frames")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--programs", nargs="+", default=["mace-md"], choices=("mace-md", "mace-torch"))
    parser.add_argument("--cpu-sized", action="store_true", help="small models, few epochs: minutes on one core")
    parser.add_argument("--minutes", type=float, help="stop after about so many minutes; the same command continues")
    parser.add_argument("--device", help="of mace-md train: cpu, cuda")
    parser.add_argument("--peer", default=sys.executable, help="Python that has mace-torch")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with acac, 3bpa, rmd17"
    )
    parser.add_argument("--work", type=Path, default=Path("accuracy-runs"), help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
