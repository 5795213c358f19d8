"""Every system in systems/ runs from its run.toml with a tiny model, and leaves files that others open."""

import json
import re
import shlex
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
    assert folders == sorted([*FOLDERS, "inputs"])
    readme = (SYSTEMS / "README.md").read_text()
    for name in FOLDERS:
        assert f"| `{name}` |" in readme


@pytest.mark.parametrize("name", FOLDERS)
def test_the_structure_is_whole_and_dense(name):
    """Bonds have the lengths of bonds, and a periodic system has the density of a liquid or crystal."""
    from mace_md.structures.structure import read_structure

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


# ------------------------------------------------------------------------------------------------ every kind of input

README = (SYSTEMS / "README.md").read_text()
COMMANDS = re.findall(r"^mace-md (run (?:systems/inputs|--smiles).*)$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def small_model_of_many_elements(tmp_path_factory):
    """Random weights for every element of the inputs."""
    import torch

    from mace_md.model.build import build_model
    from mace_md.model.hyperparameters import ModelConfig
    from mace_md.model.reading.checkpoint import save_model

    config = ModelConfig(
        atomic_numbers=(1, 6, 7, 8, 11, 17), r_max=3.0, num_bessel=4, max_ell=1, num_channels=2, max_L=0,
        correlation=(2, 2), radial_MLP=(4,), MLP_channels=4, avg_num_neighbors=(10.0, 10.0),
    )  # fmt: skip
    model = build_model(config, seed=7, dtype=torch.float64)
    return save_model(model, tmp_path_factory.mktemp("model") / "many.mace")


def test_every_kind_has_a_line_in_the_readme():
    assert len(COMMANDS) >= 11
    for path in (SYSTEMS / "inputs").iterdir():
        if path.suffix != ".py" and not path.name.startswith("_"):
            assert any(f"inputs/{path.name}" in command for command in COMMANDS), path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(shlex.split(command)[1]).name)
def test_the_line_in_the_readme_runs_and_mdtraj_opens_it(
    command, small_model_of_many_elements, tmp_path, monkeypatch, capsys
):
    """Nothing about the physics (the weights are random): the atoms are all there, molecules whole, the box right."""
    import mdtraj

    monkeypatch.chdir(SYSTEMS.parent)
    words = shlex.split(command.partition(" --model")[0])
    words += ["--model", str(small_model_of_many_elements), "--output", str(tmp_path / "out"), "--steps", "2"]
    words += ["--trajectory-interval", "1", "--timestep", "0.1", "--no-minimize", "--seed", "1", "--check", "skip"]
    words += ["--kernels", "reference", "--threads", "1", "--quiet"]
    assert cli.main(words) == 0, capsys.readouterr().err
    trajectory = mdtraj.load(tmp_path / "out" / "trajectory.dcd", top=tmp_path / "out" / "topology.pdb")
    assert trajectory.n_frames == 2 and np.isfinite(trajectory.xyz).all()
    pairs = np.array([(a.index, b.index) for a, b in trajectory.topology.bonds])
    lengths = np.linalg.norm(np.diff(trajectory.xyz[:, pairs], axis=2)[:, :, 0], axis=-1)
    assert 0.085 < lengths.min() and lengths.max() < 0.16  # nm
    assert not any("warning" in line for line in (tmp_path / "out" / "run.log").read_text().splitlines())


def test_a_molecule_from_smiles_in_water_continues_after_a_restart(tiny_model, tmp_path, capsys):
    """Water and conformer are made again from the recorded seed; another molecule or another box is another run."""
    words = ["run", "--smiles", "CO", "--solvate", "3", "--model", str(tiny_model), "--output", str(tmp_path / "out")]
    words += ["--timestep", "0.1", "--no-minimize", "--check", "skip", "--kernels", "reference", "--quiet"]
    assert cli.main([*words, "--steps", "2"]) == 0, capsys.readouterr().err
    assert cli.main([*words, "--steps", "4", "--restart"]) == 0, capsys.readouterr().err
    for old, new in (("CO", "CN"), ("3", "3.5")):
        changed = [new if word == old else word for word in words]
        assert cli.main([*changed, "--steps", "4", "--restart"]) == 1
        assert ("smiles" if old == "CO" else "solvate") in capsys.readouterr().err
    again = ["run", "--config", str(tmp_path / "out" / "run.toml"), "--output", str(tmp_path / "again"), "--quiet"]
    assert cli.main(again) == 0, capsys.readouterr().err
    first, second = (tmp_path / name / "topology.pdb" for name in ("out", "again"))
    assert first.read_text() == second.read_text()


def test_the_system_in_stages_runs(tiny_model, tmp_path, capsys):
    """All its stages, cut to two steps each."""
    text = (SYSTEMS / "alanine_dipeptide_water" / "stages.toml").read_text()
    short = re.sub(r"^time = 5.0", "steps = 2", text, flags=re.MULTILINE)
    short = short.replace('"alanine', f'"{SYSTEMS}/alanine_dipeptide_water/alanine')
    (tmp_path / "run.toml").write_text(re.sub(r"^time = 100.0", "steps = 2", short, flags=re.MULTILINE))
    words = ["run", "--config", str(tmp_path / "run.toml"), "--model", str(tiny_model)]
    words += [
        "--output",
        str(tmp_path / "out"),
        "--no-minimize",
        "--seed",
        "1",
        "--check",
        "skip",
        "--report-interval",
        "1",
    ]
    assert cli.main(words) == 0, capsys.readouterr().err
    names = {path.name for path in (tmp_path / "out").glob("log*.csv")}
    assert names == {"log-heat.csv", "log-release.csv", "log.csv"}
    released = (tmp_path / "out" / "log-release.csv").read_text().splitlines()
    assert "restraint_scale" in released[0] and len(released) == 4
