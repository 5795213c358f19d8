"""`mace-md train` as a user meets it: files, exit codes, restarts, committees, several processes, clear refusals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled import molecules, write_xyz

from mace_md import cli
from mace_md.model.descriptors import describe, extrapolation
from mace_md.model.graph import edge_vectors
from mace_md.model.mace import predict
from mace_md.model.reading.checkpoint import describe_model, load_model
from mace_md.training.batches import PackedGraphs
from mace_md.training.checks import electronic_energy
from mace_md.training.configuration import Configuration
from mace_md.training.report import ProgressBar

ROOT = Path(__file__).parents[2]
SMALL = [
    *["--r-max", "3.5", "--num-channels", "4", "--max-L", "1", "--max-ell", "2", "--correlation", "2"],
    *["--radial-MLP", "8", "--num-bessel", "4", "--dtype", "float64", "--batch-size", "4"],
]
FILES = {
    "model.mace", "model_stage_one.mace", "metrics.csv", "learning_curve.png", "learning_curve.svg", "checkpoint.pt",
    "train.toml", "train.json", "train.log",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A dozen frames of a molecule, and its isolated atoms."""
    atoms = [
        Configuration(np.array([z]), np.zeros((1, 3)), np.zeros((3, 3)), energy=electronic_energy(np.array([z])))
        for z in (1, 6, 8)
    ]
    return write_xyz(tmp_path_factory.mktemp("data") / "frames.xyz", [*molecules(12), *atoms])


def train(data: Path, output: Path, *words: str) -> int:
    return cli.main(["train", str(data), *SMALL, "--valid-count", "4", "--output", str(output), *words])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    assert train(data, output, "--epochs", "3", "--stage-two-start", "2", "--level-of-theory", "springs") == 0
    return output


def test_the_model_knows_its_training_data(trained, data):
    model = load_model(trained / "model.mace")
    statistics = model.descriptor_statistics
    assert statistics.count.sum() > 8 and statistics.count.shape == (3,)
    frames = molecules(12)
    graph = PackedGraphs(frames, r_max=model.r_max, atomic_numbers=model.atomic_numbers.tolist()).batch(range(12)).graph
    known = extrapolation(
        statistics, describe(model, edge_vectors(graph), graph.species, graph.edge_index), graph.species
    )
    squeezed = graph._replace(positions=0.7 * graph.positions)
    features = describe(model, edge_vectors(squeezed), graph.species, graph.edge_index)
    unknown = extrapolation(statistics, features, graph.species)
    assert known.median() < 1.0 < unknown.median()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).state_dict()


def test_the_folder_holds_what_the_guide_says(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and [row["stage"] for row in rows] == ["1", "1", "2"]
    record = json.loads((trained / "train.json").read_text())
    assert record["frames"] == {"train": 8, "valid": 4} and "3 frames of isolated atoms" in record["e0s"]["origin"]
    assert record["models"][0]["model"] == "model.mace"
    assert "E0s: 3 frames of isolated atoms: H -14.6" in (trained / "train.log").read_text()
    assert (trained / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_model_is_that_of_the_best_epoch(trained, data):
    """Its errors on the validation frames, computed anew, are those of its row."""
    from mace_md.training.data import read_configurations, split_data, take_isolated_atoms

    config, info, provenance = describe_model(trained / "model.mace")
    assert info.level_of_theory == "springs" and info.name == "out" and config.num_channels == 4
    with open(trained / "metrics.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if int(row["epoch"]) == provenance["epoch"])
    frames = take_isolated_atoms(read_configurations(data))[0]
    graphs = PackedGraphs(split_data(frames, count=4, seed=0)[1], r_max=3.5, atomic_numbers=[1, 6, 8])
    batch = graphs.batch(range(4))
    error = predict(load_model(trained / "model.mace"), batch.graph).forces - batch.forces
    found = 1000 * float(error.square().mean().sqrt())
    assert found == pytest.approx(float(row["rmse_forces_meV_per_A"]), rel=1e-7)


def test_train_toml_repeats_the_training(trained, tmp_path):
    config = str(trained / "train.toml")
    assert cli.main(["train", "--config", config, "--output", str(tmp_path / "again"), "--quiet"]) == 0
    for name, tensor in weights(trained / "model.mace").items():
        assert torch.equal(tensor, weights(tmp_path / "again" / "model.mace")[name]), name


def test_nothing_is_overwritten(trained, data, capsys):
    assert train(data, trained) == 1
    assert "the output folder exists and is not empty" in capsys.readouterr().err


def test_a_signal_ends_it_with_a_checkpoint_and_restart_goes_on(data, tmp_path, capsys, monkeypatch):
    """Stopped after the fifth step, in the middle of the third epoch."""
    words = ["--epochs", "5", "--seed", "5", "--no-stage-two"]
    steps = iter(range(1, 1000))
    with monkeypatch.context() as patched:
        kill = {5: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        patched.setattr(ProgressBar, "step", lambda bar, step, steps_: kill.get(next(steps), lambda: None)())
        assert train(data, tmp_path / "stopped", *words) == 4
    message = capsys.readouterr().err
    assert "stopped by SIGTERM: after 2 epochs" in message and "Continue with --restart" in message
    assert {"model.mace", "learning_curve.png", "checkpoint.pt"} <= {p.name for p in (tmp_path / "stopped").iterdir()}
    assert train(data, tmp_path / "stopped", *words, "--restart") == 0
    assert train(data, tmp_path / "whole", *words) == 0
    for name, tensor in weights(tmp_path / "whole" / "model.mace").items():
        assert torch.equal(tensor, weights(tmp_path / "stopped" / "model.mace")[name]), name
    rows = [(tmp_path / where / "metrics.csv").read_text().splitlines() for where in ("whole", "stopped")]
    assert len(rows[0]) == len(rows[1]) == 6
    for one, other in zip(*rows, strict=True):
        assert one.split(",")[:5] == other.split(",")[:5]


def test_restart_refuses_another_training(trained, data, capsys):
    words = ["--epochs", "3", "--stage-two-start", "2", "--level-of-theory", "springs", "--restart"]
    assert train(data, trained, *words, "--lr", "0.5") == 1
    assert "belongs to a training with another lr (0.01; now 0.5)" in capsys.readouterr().err
    assert train(data, trained, *words) == 0  # a finished one has nothing to do


def test_a_committee(data, tmp_path):
    assert train(data, tmp_path / "com", "--epochs", "1", "--seeds", "1,2", "--no-stage-two") == 0
    members = json.loads((tmp_path / "com" / "committee.json").read_text())["members"]
    assert [member["model"] for member in members] == ["seed-1/model.mace", "seed-2/model.mace"]
    first, second = (load_model(tmp_path / "com" / member["model"]) for member in members)
    assert not torch.equal(first.embedding, second.embedding)
    assert train(data, tmp_path / "one", "--epochs", "1", "--seed", "2", "--no-stage-two") == 0
    assert torch.equal(load_model(tmp_path / "one" / "model.mace").embedding, second.embedding)


def test_start_from_a_model_with_frozen_parts(trained, data, tmp_path, capsys):
    words = ["train", str(data), "--start-from", str(trained / "model.mace"), "--epochs", "1", "--no-stage-two"]
    words += ["--dtype", "float64", "--valid-count", "4", "--lr", "0.001"]
    assert cli.main([*words, "--freeze", "embedding,interactions", "--output", str(tmp_path / "tuned")]) == 0
    before, after = weights(trained / "model.mace"), weights(tmp_path / "tuned" / "model.mace")
    for name, tensor in before.items():
        frozen = not name.startswith(("products", "readouts")) or not name.endswith(
            ("weight", "weight_in", "weight_out")
        )
        assert torch.equal(tensor, after[name]) == frozen, name
    assert cli.main([*words, "--r-max", "4", "--output", str(tmp_path / "other")]) == 1
    assert "--r-max: with --start-from the shape of the model is that of the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--energy-key", "enrgy"], "no frame has energy under the key 'enrgy'. Keys that are there: energy"),
        (["--energy-unit", "Hartree"], "times that of all electrons of its atoms. Are energies in"),
        (["--e0s-file", "none.json"], "none.json: cannot be read"),
        (["--valid-fraction", "0.5"], "give --valid-fraction or --valid-count, not both"),
        (["--stress-weight", "1"], "no frame has a stress"),
        (["--train-count", "9"], "--train-count 9: there are 8 frames to train on"),
        (["--max-L", "3"], "max_L = 3 is larger than max_ell = 2"),
        (["--device", "cuda:7"], "--device cuda:7"),
        (["--config-type-weights", "liquid"], "'liquid' is not of the form name=number"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(data, tmp_path, capsys, words, message):
    assert train(data, tmp_path / "out", *words) in (1, 2)
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_two_processes_give_the_weights_of_one(data, tmp_path):
    """Gloo on the CPU; batches of 4 and, last, of 1, which leaves one process without work. Rounding only: 1e-9."""
    frames = ["--valid-count", "3", "--epochs", "2", "--no-stage-two", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["-m", "mace_md", "train", str(data), *SMALL, *frames, "--quiet"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runs = {"two": [*launch, *words], "one": [sys.executable, *words]}
    started = [
        subprocess.Popen(
            [*command, "--output", str(tmp_path / name)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for name, command in runs.items()
    ]
    for process in started:
        error = process.communicate(timeout=240)[1]
        assert process.returncode == 0, error
    losses = {}
    for name in runs:
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            losses[name] = [(float(row["train_loss"]), float(row["valid_loss"])) for row in csv.DictReader(file)]
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=1e-6)
    two = weights(tmp_path / "two" / "model.mace")
    for name, tensor in weights(tmp_path / "one" / "model.mace").items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-9)


def test_lazily_read_data_train_alike(data, tmp_path):
    from mace_md.training.data import read_configurations, write_hdf5

    write_hdf5(read_configurations(data), tmp_path / "frames.h5")
    words = ["--epochs", "1", "--no-stage-two"]
    assert train(tmp_path / "frames.h5", tmp_path / "lazy", *words) == 0
    assert train(data, tmp_path / "eager", *words) == 0
    lazy = weights(tmp_path / "lazy" / "model.mace")
    for name, tensor in weights(tmp_path / "eager" / "model.mace").items():
        assert torch.equal(tensor, lazy[name]), name


def test_max_hours_ends_it_in_good_order(data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "--epochs", "100000", "--max-hours", "0.0003") == 4
    assert "stopped after --max-hours" in capsys.readouterr().err
    started = time.perf_counter()
    assert (tmp_path / "out" / "checkpoint.pt").exists() and time.perf_counter() - started < 60


def test_a_training_that_ran_out_of_patience_has_nothing_left_to_do(data, tmp_path):
    words = ["--epochs", "50", "--patience", "2", "--lr", "1e-30", "--ema", "0", "--no-stage-two"]
    assert train(data, tmp_path / "out", *words) == 0
    table = (tmp_path / "out" / "metrics.csv").read_text()
    assert len(table.splitlines()) == 1 + 3
    assert train(data, tmp_path / "out", *words, "--restart") == 0
    assert (tmp_path / "out" / "metrics.csv").read_text() == table


# --- what a trained model says of itself, and a disk that is full ---


@pytest.mark.parametrize("words, theory, dispersion", [
    ([], "unknown", "unknown"), (["--level-of-theory", "inherit"], "springs", "unknown"),
    (["--level-of-theory", "other springs"], "other springs", "unknown"),
])  # fmt: skip
def test_the_level_of_theory_is_that_of_the_labels(words, theory, dispersion, trained, data, tmp_path, capsys):
    output = tmp_path / "tuned"
    more = ["--dtype", "float64", "--valid-count", "4", "--epochs", "1", "--no-stage-two", "--output", str(output)]
    assert cli.main(["train", str(data), "--start-from", str(trained / "model.mace"), *more, *words]) == 0
    _, info, provenance = describe_model(output / "model.mace")
    assert (info.level_of_theory, info.dispersion) == (theory, dispersion)
    assert provenance["start_from"] == str(trained / "model.mace")
    log = (output / "train.log").read_text()
    assert "before training: RMSE E " in log and "4 frames to validate with are few" in log
    assert f"{data}: 15 frames; energy from energy (eV), forces from forces (eV/A) in 12, no stress" in log
    capsys.readouterr()
    assert cli.main(["models", "show", str(output / "model.mace")]) == 0
    shown = capsys.readouterr().out
    assert "{" not in shown and "train 8, valid 4" in shown and "epochs = 1" in shown


def test_inheriting_needs_a_start(data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "--level-of-theory", "inherit") == 2
    assert "needs --start-from" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "label.xyz", "label.h5"])
def test_a_full_disk_ends_with_a_path_and_advice(command, trained, data, tmp_path):
    """A limit on the size of files instead: the same error from the same calls."""
    words = [*SMALL, "--num-channels", "64", "--valid-count", "4", "--epochs", "3", "--output", str(tmp_path / "out")]
    if command != "train":
        words = ["label", str(trained / "model.mace"), str(data), "--output", str(tmp_path / command)]
    else:
        words = ["train", str(data), *words]
    code = (
        "import resource, sys; from mace_md import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "sys.exit(cli.main(sys.argv[2:]))"
    )
    size = "20000" if command == "train" else "1500"
    environment = os.environ | {"MACE_MD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, size, *words], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-600:]
    assert "cannot be written (File too large); " in done.stderr and "make room" in done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []
    assert not (tmp_path / command).exists()


def test_an_absurd_number_of_channels_is_refused(data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "--num-channels", "1000000") == 1
    error = capsys.readouterr().err
    assert "--num-channels 1000000: a model of about" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
