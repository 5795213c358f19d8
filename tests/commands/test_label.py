"""`mace-md label`: its file, evaluated with the same model, has no error; it replaces and leaves nothing behind."""

import json

import ase.io
import numpy as np
import pytest

from mace_md import cli
from tests.small_model import cluster


@pytest.fixture
def geometries(tmp_path):
    """A file with clusters and a small box, without labels."""
    frames = [ase.Atoms(*cluster(n_atoms, seed=n_atoms)) for n_atoms in (4, 6, 8)]
    frames.append(ase.Atoms(*cluster(8, seed=1), cell=[6.0, 6.5, 7.0], pbc=True))
    ase.io.write(tmp_path / "water.xyz", frames, format="extxyz")
    return tmp_path / "water.xyz"


def label(model, *words) -> int:
    return cli.main(["label", str(model), *map(str, words), "--kernels", "reference"])


@pytest.mark.parametrize("name", ["out.xyz", "out.h5"])
def test_the_labels_are_without_error(name, geometries, tiny_model, tmp_path, capsys):
    output = tmp_path / name
    assert label(tiny_model, geometries, "--output", output, "--as-head", "pt") == 0
    assert "labelled: 4 geometries" in capsys.readouterr().out
    words = ["--kernels", "reference", "--check-data", "warn", "--no-plots", "--output", str(tmp_path / "errors")]
    assert cli.main(["evaluate", str(tiny_model), str(output), *words]) == 0
    written = json.loads((tmp_path / "errors" / "errors.json").read_text())["all"]
    assert written["errors"]["forces"]["largest"] < 1e-4  # meV/A: eight decimals of eV/A
    assert written["errors"]["energy"]["largest"] < 1e-4
    assert written["errors"]["stress"]["count"] == 9
    assert list(written["by_config_type"]) == ["water"]  # named after the file


def test_some_geometries_and_only_those_with_possible_forces(geometries, tiny_model, tmp_path, capsys):
    output = tmp_path / "out.xyz"
    assert label(tiny_model, geometries, "--output", output, "--every", "2", "--config-type", "mine") == 0
    assert [len(atoms) for atoms in ase.io.read(output, ":")] == [4, 8]
    assert label(tiny_model, geometries, "--output", output, "--most", "3", "--force") == 0
    frames = ase.io.read(output, ":")
    assert len(frames) == 3
    largest = [np.linalg.norm(atoms.arrays["REF_forces"], axis=1).max() for atoms in frames]
    limit = np.sort(largest)[1] + 1e-6
    words = ["--output", output, "--most", "3", "--force", "--largest-force", f"{limit:.6f}"]
    capsys.readouterr()
    assert label(tiny_model, geometries, *words) == 0
    assert "left out: 1 geometries" in capsys.readouterr().out
    assert len(ase.io.read(output, ":")) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--output", "out.csv"], "the suffix says the format"),
        (["--output", "nowhere/out.xyz"], "there is no folder"),
        (["--output", "out.xyz", "--largest-force", "1e-9"], "no geometry is left"),
        (["--output", "water.xyz"], "--force"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_no_file(
    words, message, geometries, tiny_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = geometries.read_text()
    assert label(tiny_model, geometries, *words) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["water.xyz"] and geometries.read_text() == before
