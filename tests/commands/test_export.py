"""`mace-md export`: the file it writes gives, in plain torch, the energy and forces of the model."""

import numpy as np
import pytest
import torch

from mace_md import cli
from mace_md.units import EV_TO_KJ_MOL


def export(repository, tiny_model, output, *words) -> int:
    structure = repository / "systems" / "ethanol" / "ethanol.pdb"
    return cli.main(["export", str(tiny_model), str(structure), "--output", str(output), "--dtype", "float64", *words])


def test_the_file_is_the_model(repository, tiny_model, tmp_path, capsys):
    from mace_md.model.artifact import load_potential
    from mace_md.model.reading.checkpoint import load_model
    from mace_md.structures.structure import read_structure

    path = tmp_path / "ethanol.pt"
    assert export(repository, tiny_model, path) == 0
    assert "9 atoms, not periodic" in capsys.readouterr().out
    structure = read_structure(repository / "systems" / "ethanol" / "ethanol.pdb")
    potential, info = load_potential(path)
    energy, forces = potential(torch.tensor(structure.positions), None)
    assert list(info.atomic_numbers) == structure.atomic_numbers

    # The oracle: all ordered pairs within the cutoff, straight into the model.
    model = load_model(tiny_model, dtype="float64")
    positions = torch.tensor(structure.positions * 10)
    index = torch.tensor([(i, j) for i in range(9) for j in range(9) if i != j]).T
    vectors = positions[index[1]] - positions[index[0]]
    near = vectors.norm(dim=1) < model.r_max
    species = torch.searchsorted(model.atomic_numbers, torch.tensor(structure.atomic_numbers))
    expected = model.node_energies(vectors[near], species, index[:, near], torch.zeros_like(species)).sum()
    assert float(energy) == pytest.approx(float(expected.detach()) * EV_TO_KJ_MOL, abs=1e-8)

    # Forces are minus the slope of the energy along a random direction; central differences of 1e-5 nm.
    direction = torch.tensor(np.random.default_rng(0).normal(size=(9, 3)))
    start = torch.tensor(structure.positions)
    ends = [float(potential(start + sign * 1e-5 * direction, None)[0]) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-5
    assert float((forces * direction).sum()) == pytest.approx(-slope, rel=1e-6)


def test_nothing_is_overwritten_unless_asked(repository, tiny_model, tmp_path, capsys):
    path = tmp_path / "ethanol.pt"
    path.write_text("mine")
    assert export(repository, tiny_model, path) == 1
    assert path.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert export(repository, tiny_model, path, "--force", "--kernels", "reference") == 0
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    "words, message",
    [
        (["--head", "nothing"], "nothing"),
        (["--periodic", "yes"], "box"),
        (["--box", "4,4,4"], "The box is smaller than what is in it"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_no_file(
    repository, tiny_model, tmp_path, capsys, words, message
):
    path = tmp_path / "ethanol.pt"
    assert export(repository, tiny_model, path, *words) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not path.exists()
