"""Every system in systems/ runs from its run.toml with a tiny model, and leaves files that others open."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from mace_md import cli
from mace_md.config import RunConfig, load_config

SYSTEMS = Path(__file__).parent.parent / "systems"
FOLDERS = sorted(path.parent.name for path in SYSTEMS.glob("*/run.toml"))


def test_every_folder_is_a_system_and_is_in_the_readme():
    folders = sorted(path.name for path in SYSTEMS.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert folders == FOLDERS
    readme = (SYSTEMS / "README.md").read_text()
    for name in FOLDERS:
        assert f"| `{name}` |" in readme


@pytest.mark.parametrize("name", FOLDERS)
def test_the_structure_is_whole_and_dense(name):
    """Bonds have the lengths of bonds, and a periodic system has the density of a liquid or crystal."""
    from mace_md.md.structure import read_structure

    structure = read_structure(SYSTEMS / name / f"{name}.pdb")
    bonds = np.array([(a.index, b.index) for a, b in structure.topology.bonds()])
    lengths = np.linalg.norm(np.diff(structure.positions[bonds], axis=1)[:, 0], axis=-1)
    assert 0.088 < lengths.min() and lengths.max() < 0.16  # nm
    molecules = len(set(structure.molecules.index.tolist()))
    assert molecules == {"water": 64, "urea": 24, "alanine_dipeptide_water": 237}.get(name, 1)
    if structure.box is not None:
        density = structure.masses.sum() * 1.66053906660e-3 / np.linalg.det(structure.box)  # g/mL
        assert 0.9 < density < 1.5
    readme = (SYSTEMS / "README.md").read_text()
    assert f"| `{name}` | {len(structure.positions)} |" in readme


@pytest.mark.parametrize("name", FOLDERS)
def test_it_runs(name, tiny_model, tmp_path, capsys):
    import mdtraj

    output = tmp_path / "out"
    words = ["run", "--config", str(SYSTEMS / name / "run.toml"), "--model", str(tiny_model), "--output", str(output)]
    words += ["--steps", "2", "--trajectory-interval", "1", "--report-interval", "1", "--no-minimize", "--seed", "1"]
    words += ["--check", "on" if name in ("water", "ethanol") else "skip", "--kernels", "reference"]
    assert cli.main(words) == 0, capsys.readouterr().err

    table = tomllib.loads((SYSTEMS / name / "run.toml").read_text())
    formats = table.get("trajectory_format", ["dcd"])
    expected = mdtraj.load(SYSTEMS / name / f"{name}.pdb")
    for kind in formats:
        trajectory = mdtraj.load(output / f"trajectory.{kind}", top=output / "topology.pdb")
        assert trajectory.n_frames == 2 and np.isfinite(trajectory.xyz).all()
        assert [atom.element.symbol for atom in trajectory.topology.atoms] == [
            atom.element.symbol for atom in expected.topology.atoms
        ]
        moved = np.linalg.norm(trajectory.xyz[-1] - expected.xyz[0], axis=-1)
        assert 0 < np.median(moved) < 0.02  # nm: two steps of thermal motion, not a jump or a standstill
        assert (trajectory.unitcell_lengths is None) == (expected.unitcell_lengths is None)
    record = json.loads((output / "run.json").read_text())
    assert record["seed"] == 1 and record["options"]["steps"] == 2
    rows = (output / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 + rows[1].startswith("0")

    resolved = load_config(RunConfig, ["--config", str(output / "run.toml")])
    assert resolved.num_steps == 2 and resolved.structure.samefile(SYSTEMS / name / f"{name}.pdb")
