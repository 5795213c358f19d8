"""Fine-tuning helps, E0s move to the new level of theory, frozen weights stay, and replay keeps what was known.

Level A is molecules of springs. Level B has springs 1.4 times as stiff and other energies of the isolated atoms.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import molecules

from mace_md import cli
from mace_md.errors import InputError
from mace_md.model.reading.checkpoint import load_model
from mace_md.training.checks import electronic_energy
from mace_md.training.comparison import compare
from mace_md.training.finetuning import refit_e0s
from mace_md.training.labelling import Labeller
from mace_md.training.writing import write_configurations

MOVES = {1: 0.31, 6: -0.22, 8: 0.57}  # eV: E0s of level B minus those of level A
STIFFER = 1.4
SHAPE = [
    *["--r-max", "3.5", "--num-channels", "8", "--max-L", "0", "--max-ell", "2", "--correlation", "2"],
    *["--radial-MLP", "16", "--num-bessel", "5", "--valid-count", "4", "--batch-size", "5", "--dtype", "float64"],
]
HOW = ["--no-stage-two", "--ema", "0.9", "--energy-weight", "100", "--quiet"]


def level_b(configuration):
    """The same frame at level B."""
    atoms = configuration.atomic_numbers
    bound = configuration.energy - electronic_energy(atoms)
    energy = electronic_energy(atoms) + STIFFER * bound + sum(MOVES[int(z)] for z in atoms)
    return replace(configuration, energy=energy, forces=STIFFER * configuration.forces)


def train(*words: str) -> int:
    return cli.main(["train", *map(str, words), *HOW])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of both levels, and a model trained at level A, with its exact E0s."""
    folder = tmp_path_factory.mktemp("finetuning")
    write_configurations(molecules(40, seed=1), folder / "a.xyz")
    write_configurations(map(level_b, molecules(14, seed=2)), folder / "b.xyz")
    e0s = {symbol: electronic_energy(np.array([z])) for symbol, z in (("H", 1), ("C", 6), ("O", 8))}
    (folder / "e0s.json").write_text(json.dumps(e0s))
    words = ["--epochs", "30", "--lr", "0.05", "--lr-decay", "0.91", "--scheduler", "exponential"]
    words += [*SHAPE, "--e0s-file", folder / "e0s.json", "--output", folder / "pretrained"]
    assert train(folder / "a.xyz", *words) == 0
    return folder


def tune(folder, output: str, *words: str) -> int:
    """Train on level B for a few epochs."""
    common = ["--epochs", "12", "--lr", "0.01", "--batch-size", "5", "--valid-count", "4", "--dtype", "float64"]
    return train(folder / "b.xyz", *common, *words, "--output", folder / output)


def error_on(model, frames) -> dict[str, float]:
    """RMSE of energies (meV/atom) and forces (meV/A)."""
    errors = compare(frames, list(Labeller(model, [1, 6, 8], "reference")(frames))).errors()
    return {"energy": errors["energy_per_atom"].rmse, "forces": errors["forces"].rmse}


@pytest.fixture(scope="module")
def tests():
    """Frames that nothing was trained on, of both levels."""
    frames = molecules(12, seed=3)
    return {"a": frames, "b": [level_b(c) for c in frames]}


@pytest.fixture(scope="module")
def naive(folder):
    """Fine-tuned on level B alone."""
    source = ["--from", str(folder / "pretrained" / "model.mace"), "--e0s", "refit"]
    assert tune(folder, "naive", *source) == 0
    return load_model(folder / "naive" / "model.mace")


def test_a_trained_model_learns_the_new_level_sooner(folder, naive, tests):
    assert tune(folder, "scratch", *SHAPE[:-6], "--lr", "0.03", "--e0s", "least-squares") == 0
    scratch = error_on(load_model(folder / "scratch" / "model.mace"), tests["b"])
    before = error_on(load_model(folder / "pretrained" / "model.mace"), tests["b"])
    tuned = error_on(naive, tests["b"])
    assert tuned["forces"] < 0.6 * scratch["forces"] and tuned["forces"] < 0.7 * before["forces"]
    assert tuned["energy"] < 0.5 * before["energy"]  # of which the E0s are most


def test_replay_keeps_what_was_known(folder, naive, tests):
    """The head of replay stays with level A; the model that was tuned without it has left it."""
    source = ["--from", str(folder / "pretrained" / "model.mace"), "--e0s", "refit"]
    assert tune(folder, "replay", *source, "--replay", folder / "a.xyz", "--replay-count", "30") == 0
    path = folder / "replay" / "model.mace"
    with pytest.raises(InputError, match="several heads.*Default, replay"):
        load_model(path)
    known = error_on(load_model(folder / "pretrained" / "model.mace"), tests["a"])["forces"]
    kept = error_on(load_model(path, head="replay"), tests["a"])
    assert kept["forces"] < 1.3 * known
    assert kept["forces"] < 0.7 * error_on(naive, tests["a"])["forces"]
    assert (
        error_on(load_model(path, head="Default"), tests["b"])["forces"] < 1.5 * error_on(naive, tests["b"])["forces"]
    )
    record = json.loads((folder / "replay" / "train.json").read_text())
    assert record["replay"][0]["after"]["forces"]["rmse"] > 0 and "replay 0" in record["inputs"]
    log = (folder / "replay" / "train.log").read_text()
    assert re.search(r"replay: head 'replay' on its \d+ test frames: RMSE E .* \(before: RMSE E", log)


def test_refitted_e0s_explain_the_other_level(folder):
    """Every composition's energy moves by what the other E0s say; molecules of three sizes fix all three elements."""
    model = load_model(folder / "pretrained" / "model.mace")
    frames = [c for n in (3, 4, 5, 6, 7) for c in molecules(4, seed=n, n_atoms=n)]
    labelled = list(Labeller(model, [1, 6, 8], "reference")(frames))
    moved = [replace(c, energy=c.energy + sum(MOVES[int(z)] for z in c.atomic_numbers)) for c in labelled]
    found = refit_e0s(model, moved)
    old = dict(zip(model.atomic_numbers.tolist(), model.atomic_energies[0].tolist(), strict=True))
    for z, move in MOVES.items():
        assert found.values[z] - old[z] == pytest.approx(move, abs=1e-7)
    same = refit_e0s(model, labelled)
    assert all(same.values[z] == pytest.approx(old[z], abs=1e-7) for z in old)


def test_refitted_e0s_are_those_of_atoms_where_one_molecule_cannot_tell(folder):
    """A model without core electrons, and one molecule with them: its E0s become about those of atoms."""
    model = load_model(folder / "pretrained" / "model.mace")
    (one,) = molecules(1, seed=9)
    labelled = next(Labeller(model, [1, 6, 8], "reference")([one]))
    model.atomic_energies[0] = torch.tensor([-10.0, -50.0, -100.0], dtype=torch.float64)  # valence electrons
    found = refit_e0s(model, [labelled] * 3)
    assert "fix only 1 of 3" in found.origin
    for z in (1, 6, 8):
        assert found.values[z] == pytest.approx(electronic_energy(np.array([z])), abs=0.5)
    near = refit_e0s(model, list(Labeller(model, [1, 6, 8], "reference")([one])))
    assert near.values == pytest.approx({1: -10.0, 6: -50.0, 8: -100.0}, abs=1e-6)


def test_frozen_weights_stay(folder):
    source = ["--from", str(folder / "pretrained" / "model.mace"), "--e0s", "refit"]
    words = ["--freeze", "embedding,interactions.0,products"]
    assert tune(folder, "frozen", *source, *words) == 0
    before = load_model(folder / "pretrained" / "model.mace").state_dict()
    after = load_model(folder / "frozen" / "model.mace").state_dict()
    for name, value in before.items():
        frozen = name.startswith(("embedding", "interactions.0.", "products."))
        if frozen:
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["readouts.0.weight"], after["readouts.0.weight"])
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("interactions.1."))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--freeze", "interactions.7"], r"no part 'interactions.7'.*interactions\.0, interactions\.1"),
        (["--freeze", "embedding,interactions,products,readouts"], "leaves nothing to train"),
        (["--num-channels", "16"], "the shape of the model is that of the file"),
        (["--replay", "nothing.xyz"], "nothing.xyz: no such file"),
    ],
)
def test_what_cannot_be_tuned_is_refused(folder, capsys, tmp_path, words, message):
    source = ["--from", str(folder / "pretrained" / "model.mace")]
    assert train(folder / "b.xyz", *source, *words, "--output", tmp_path / "out", "--valid-count", "4") == 1
    assert re.search(message, capsys.readouterr().err)


def test_replay_without_a_model_is_a_mistake(folder, capsys):
    assert train(folder / "b.xyz", "--replay", folder / "a.xyz") == 2
    assert "--replay needs --start-from" in capsys.readouterr().err


def test_energies_of_another_level_are_pointed_out(folder, tmp_path, capsys):
    """With its own E0s the model is told that all energies are away by a constant, and what to do."""
    source = ["--from", str(folder / "pretrained" / "model.mace"), "--output", str(tmp_path / "out")]
    words = ["--valid-count", "4", "--epochs", "1", "--dtype", "float64"]
    assert cli.main(["train", str(folder / "b.xyz"), *source, *words, "--no-stage-two"]) == 0
    assert re.search(r"eV per atom away from the model's.*--e0s refit", capsys.readouterr().out)
