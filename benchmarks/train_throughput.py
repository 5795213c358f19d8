"""Training throughput side by side: `mace-md train` and mace-torch's `mace_run_train`, structures per second.

    python benchmarks/train_throughput.py --peer PYTHON --output benchmarks/results/train_throughput.json

Both programs train the same model on the same acetylacetone frames with the same batch size and precision. They are two
processes that take turns, one epoch each, so that whatever else the machine does hits both; timed is the training epoch
(loading of batches, forward, both derivatives, optimiser, moving average), without validation. Reported are wall time
and the processor time of the process, which a busy machine disturbs less. The first epoch of each is not counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "accuracy"), str(ROOT)]

CASES = {
    "16x0e, l_max 2, float64, batch 10": {"num_channels": 16, "max_L": 0, "max_ell": 2, "dtype": "float64"},
    "32x0e, l_max 3, float32, batch 10": {"num_channels": 32, "max_L": 0, "max_ell": 3, "dtype": "float32"},
    "32x0e+32x1o, l_max 3, float32, batch 10": {"num_channels": 32, "max_L": 1, "max_ell": 3, "dtype": "float32"},
    "64x0e+64x1o, l_max 3, float64, batch 5": {
        "num_channels": 64, "max_L": 1, "max_ell": 3, "dtype": "float64", "batch_size": 5,
    },
}  # fmt: skip


# --- a program, in a process of its own, that waits before every epoch ------------------------------------------------


def _in_turns(train_epoch, answers):
    """The training of an epoch, done when a line comes in, with its times written to `answers`."""

    def wrapped(*arguments, **more):
        print(json.dumps({"ready": True}), file=answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        wall, cpu = time.perf_counter(), time.process_time()
        result = train_epoch(*arguments, **more)
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(times), file=answers, flush=True)
        return result

    return wrapped


def worker(program: str, words: list[str]) -> None:
    """Run a program's own command line with its epochs in turns."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program prints is no answer
    if program == "mace-torch":
        torch.serialization.add_safe_globals([slice])
        from mace.cli.run_train import main

        train = importlib.import_module("mace.tools.train")  # the package has a function of this name
        train.train_one_epoch = _in_turns(train.train_one_epoch, answers)
        sys.argv = ["mace_run_train", *words]
        main()
    else:
        from mace_md import cli
        from mace_md.training.trainer import Trainer

        Trainer._train_epoch = _in_turns(Trainer._train_epoch, answers)
        sys.exit(cli.main(["train", *words]))


class Worker:
    """A process that trains one epoch when it is asked to."""

    def __init__(self, python: str, program: str, words: list[str], log: Path):
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": str(ROOT)}
        self.log = open(log, "w")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [python, __file__, "--worker", program, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )  # fmt: skip
        self.times: list[dict] = []
        self.answer()  # ready

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a program ended before its time; see {self.log.name}")
        return json.loads(line)

    def epoch(self) -> None:
        """One epoch, and whatever the program does until it is ready for the next one."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.times.append(self.answer())
        self.answer()

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


# --- both, in turns ---------------------------------------------------------------------------------------------------


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> dict:
    """Both programs on one model: structures per second of each, and their ratio."""
    import peer
    from datasets import prepare
    from run import Task, options_here
    from settings import CPU_SIZED

    settings = replace(CPU_SIZED, **CASES[name], epochs=arguments.epochs + 2)
    dataset = prepare("acac", arguments.data, folder / "data", arguments.frames)
    task = _with_settings(Task("acac", arguments.frames, 1, True), settings)
    ours = [str(dataset.train), "--output", str(folder / "here"), *options_here(task, dataset), "--quiet"]
    theirs = peer.command(arguments.peer, dataset, settings, 1, folder / "there")[3:]
    (folder / "there").mkdir()
    workers = {
        "mace-md": Worker(sys.executable, "mace-md", ours, folder / "here.log"),
        "mace-torch": Worker(arguments.peer, "mace-torch", theirs, folder / "there.log"),
    }
    for _ in range(arguments.epochs + 1):
        for each in workers.values():
            each.epoch()
    result: dict = {"case": name, "frames": arguments.frames, "epochs": arguments.epochs}
    for program, each in workers.items():
        each.stop()
        counted = each.times[1:]
        for clock in ("wall", "cpu"):
            rates = sorted(arguments.frames / times[clock] for times in counted)
            result[f"{program} per {clock} s"] = {
                "median": statistics.median(rates), "lowest": rates[0], "highest": rates[-1],
            }  # fmt: skip
    for clock in ("wall", "cpu"):
        pairs = zip(workers["mace-md"].times[1:], workers["mace-torch"].times[1:], strict=True)
        result[f"ratio, {clock}"] = statistics.median(b[clock] / a[clock] for a, b in pairs)
    return result


def _with_settings(task, settings):
    class Fixed(type(task)):
        @property
        def settings(self):
            return settings

    return Fixed(task.dataset, task.n_train, task.seed, task.cpu_sized)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only cases with this in their name")
    parser.add_argument("--epochs", type=int, default=7, help="epochs that count")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--peer", default=sys.executable, help="Python that has mace-torch")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, help="JSON file for the results; others that are in it are kept")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from mace_md.provenance import collect_provenance, write_json

    for name in CASES:
        if arguments.cases not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = measure(name, arguments, Path(folder))
        for program in ("mace-md", "mace-torch"):
            wall, cpu = result[f"{program} per wall s"], result[f"{program} per cpu s"]
            print(
                f"{name:42s} {program:10s} {wall['median']:7.1f} structures/s ({wall['lowest']:.1f} to "
                f"{wall['highest']:.1f}); {cpu['median']:7.1f} per s of processor time"
            )
        print(
            f"{'':42s} ratio      {result['ratio, wall']:7.2f}; {result['ratio, cpu']:7.2f} of processor time",
            flush=True,
        )
        if arguments.output:
            before = json.loads(arguments.output.read_text())["results"] if arguments.output.exists() else {}
            about = {key: collect_provenance()[key] for key in ("created", "versions", "device")}
            about["threads"] = int(os.environ["OMP_NUM_THREADS"])
            about["mace-torch"] = subprocess.run(
                [arguments.peer, "-c", "import importlib.metadata as m; print(m.version('mace-torch'))"],
                capture_output=True, text=True,
            ).stdout.strip()  # fmt: skip
            write_json(arguments.output, {"about": about, "results": before | {name: result}})


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        worker(sys.argv[2], sys.argv[3:])
    else:
        main()
