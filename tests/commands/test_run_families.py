"""Runs with models that take a charge and a spin, or give dipoles: what is printed, recorded, refused and written."""

import tarfile

import numpy as np
import pytest

from mace_md import cli
from mace_md.md.stepping.properties import ARRAYS, TABLE

SHORT = ["--ensemble", "nve", "--steps", "4", "--timestep", "0.2", "--backend", "python", "--dtype", "float64"]
SHORT += ["--report-interval", "2", "--checkpoint-interval", "2", "--temperature", "10", "--max-force", "1e6"]
SHORT += ["--closest-contact", "0", "--no-minimize", "--platform", "Reference", "--bond-break", "warn"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("families")
    with tarfile.open(repository / "tests" / "data" / "families.tar.xz") as archive:
        for name in ("omol_like.model", "energy_dipoles.model", "dielectric.model"):
            archive.extract(name, folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def run(folder, output, *words: str, model: str = "omol_like.model") -> int:
    return cli.main(["run", *words, "--model", str(folder / model), "--output", str(output), *SHORT])


def test_an_anion_runs_and_restarts_as_itself(folder, tmp_path, capsys, caplog):
    words = ["--smiles", "CC(=O)[O-]", "--charge", "-1", "--seed", "1"]
    assert run(folder, tmp_path / "a", *words) == 0
    assert "total charge -1 and the spin multiplicity 1" in caplog.text
    assert run(folder, tmp_path / "a", *words, "--restart", "--steps", "6") == 0
    capsys.readouterr()
    other = ["--smiles", "CC(=O)[O-]", "--charge", "1", "--seed", "1"]
    assert run(folder, tmp_path / "a", *other, "--restart", "--steps", "8") == 1
    assert "charge" in capsys.readouterr().err


def test_a_radical_needs_its_multiplicity(folder, tmp_path, capsys):
    """Its SMILES says 2, which is taken; another one stops before anything is written."""
    assert run(folder, tmp_path / "a", "--smiles", "[CH3]", "--spin", "1") == 1
    error = capsys.readouterr().err
    assert "9 electrons" in error and "--spin 2" in error and not (tmp_path / "a").exists()
    assert run(folder, tmp_path / "b", "--smiles", "[CH3]", "--steps", "1") == 0
    assert "multiplicity 2" in capsys.readouterr().out


def test_dipoles_are_written_along_a_run(folder, tmp_path):
    words = ["--smiles", "CO", "--properties", "dipole,polarizability", "--property-interval", "2"]
    words += ["--property-model", str(folder / "dielectric.model")]
    assert run(folder, tmp_path / "a", *words, model="energy_dipoles.model") == 0
    arrays = np.load(tmp_path / "a" / ARRAYS)
    assert arrays["time_ps"].tolist() == pytest.approx([0.0004, 0.0008])
    assert arrays["dipole_eA"].shape == (2, 3) and arrays["polarizability"].shape == (2, 3, 3)
    assert np.allclose(arrays["polarizability"], arrays["polarizability"].transpose(0, 2, 1), atol=1e-12)
    assert len((tmp_path / "a" / TABLE).read_text().splitlines()) == 3


def test_models_of_dipoles_cannot_drive_a_run(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "a", "--smiles", "CO", model="dielectric.model") == 1
    assert "--property-model" in capsys.readouterr().err
    assert run(folder, tmp_path / "b", "--smiles", "CO", "--properties", "dipole") == 1
    assert "not dipole" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
