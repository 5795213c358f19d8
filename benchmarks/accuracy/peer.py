"""mace-torch's `mace_run_train` with the settings of settings.py, in a Python that has it, and what its log says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.accuracy.datasets import ENERGY_KEY, FORCES_KEY, Dataset
from benchmarks.accuracy.settings import Settings

NAME = "m"
# e3nn 0.4.4, which mace-torch pins, loads its constants with a `slice` in them; torch 2.6 and later ask for this first.
LAUNCHER = "import torch; torch.serialization.add_safe_globals([slice]); from mace.cli.run_train import main; main()"


def command(python: str, dataset: Dataset, settings: Settings, seed: int, folder: Path, **more: object) -> list[str]:
    """The command line; `more` replaces or adds options of mace_run_train."""
    options = {
        "name": NAME,
        "work_dir": folder,
        "train_file": dataset.train,
        "valid_file": dataset.valid,
        "energy_key": ENERGY_KEY,
        "forces_key": FORCES_KEY,
        "E0s": "average",
        "model": "ScaleShiftMACE",
        "interaction_first": "RealAgnosticInteractionBlock",
        "interaction": "RealAgnosticResidualInteractionBlock",
        "num_channels": settings.num_channels,
        "max_L": settings.max_L,
        "max_ell": settings.max_ell,
        "correlation": settings.correlation,
        "r_max": settings.r_max,
        "batch_size": settings.batch_size,
        "valid_batch_size": 50,
        "max_num_epochs": settings.epochs,
        "energy_weight": settings.energy_weight,
        "forces_weight": settings.forces_weight,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "ema_decay": settings.ema,
        "default_dtype": settings.dtype,
        "device": "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu",
        "seed": seed,
        "plot": False,
        "error_table": "TotalRMSE",
    }
    if settings.lr_decay is not None:
        options |= {"scheduler": "ExponentialLR", "lr_scheduler_gamma": settings.lr_decay}
    flags = ["--ema", "--amsgrad"]
    if settings.stage_two_start is not None:
        flags.append("--swa")
        options["start_swa"] = settings.stage_two_start
    options |= more
    return [
        python,
        "-c",
        LAUNCHER,
        *(word for key, value in options.items() for word in (f"--{key}", str(value))),
        *flags,
    ]


def train(python: str, dataset: Dataset, settings: Settings, seed: int, folder: Path, **more: object) -> None:
    """Train; raises SystemExit with the end of the log when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    environment.pop("PYTHONPATH", None)
    words = command(python, dataset, settings, seed, folder, **more)
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        sys.exit(f"mace_run_train failed ({folder}):\n" + "\n".join(done.stderr.splitlines()[-8:]))


def model_file(folder: Path) -> Path:
    """The model that the training kept: that of the second stage where there was one."""
    found = sorted(folder.glob(f"{NAME}*_stagetwo.model")) or sorted(folder.glob(f"{NAME}.model"))
    if not found:
        raise SystemExit(f"{folder}: mace_run_train left no model; see output.txt there")
    return found[0]


def step_times(folder: Path) -> list[list[float]]:
    """Seconds of each optimiser step, by epoch, as mace_run_train measures them (without loading the batch)."""
    epochs: dict[int, list[float]] = {}
    (path,) = (folder / "results").glob("*_train.txt")
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["mode"] == "opt":
            epochs.setdefault(record["epoch"], []).append(record["time"])
    return [epochs[epoch] for epoch in sorted(epochs)]


def valid_errors(folder: Path) -> tuple[float, float]:
    """(energy in meV, forces in meV/A): RMSE on the validation frames from mace_run_train's own last table."""
    text = (folder / "output.txt").read_text()
    energy, forces = re.findall(r"valid_Default \|\s*([\d.]+)\s*\|\s*([\d.]+)", text)[-1]
    return float(energy), float(forces)
