"""The bundled model in the commands: taken when no model is named, said so in the log, listed, shown, exported."""

import json
import tomllib

import pytest

from mace_md.cli import main
from mace_md.config import DEFAULT_MODEL

SHORT = [
    "--steps",
    "2",
    "--report-interval",
    "1",
    "--trajectory-interval",
    "1",
    "--no-minimize",
    "--seed",
    "1",
    "--quiet",
]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder, no cache of models, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mace_md.model.reading.zoo.urllib.request.build_opener", None)
    return tmp_path


def test_a_run_without_a_model_takes_the_bundled_one_and_says_what_it_is(alone, repository):
    assert main(["run", str(repository / "systems" / "water" / "water.pdb"), *SHORT]) == 0
    folder = alone / "water-run"
    log = (folder / "run.log").read_text()
    assert f"model: {DEFAULT_MODEL}, cutoff 4.5 A, elements H Li C" in log and "licence: MIT" in log
    assert f"{DEFAULT_MODEL} is a small model for first runs and tests; for results take a published model" in log
    assert tomllib.loads((folder / "run.toml").read_text())["model"] == DEFAULT_MODEL
    assert json.loads((folder / "run.json").read_text())["model"]["name"] == DEFAULT_MODEL
    assert [path.name for path in (alone / "cache").iterdir()] == ["packed"]  # no model was fetched


def test_elements_that_it_does_not_know_are_named_with_what_to_do(alone, repository, capsys):
    path = alone / "metal.pdb"
    text = (repository / "systems" / "ethanol" / "ethanol.pdb").read_text()
    extra = [f"HETATM  90{i} {name}    {name} A  9{i}      30.000  30.000  3{5 * i}.000  1.00  0.00          {name}\n"
             for i, name in enumerate(("ZN", "FE"))]  # fmt: skip
    path.write_text(text.replace("END", "".join(extra) + "END", 1))
    assert main(["run", str(path), *SHORT]) == 1
    error = capsys.readouterr().err
    assert (
        "elements Zn, Fe (the first in residue ZN 90" in error and f"not in {DEFAULT_MODEL}, which knows H Li" in error
    )
    assert "--model (`mace-md models list`)" in error and len(error.strip().splitlines()) == 1
    assert not (alone / "metal-run").exists()


def test_models_list_show_and_pull_know_it(alone, capsys):
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith(DEFAULT_MODEL))
    assert "MIT" in line and line.endswith("bundled") and "when no --model is given" in out
    assert main(["models", "show", DEFAULT_MODEL]) == 0
    shown = capsys.readouterr().out
    assert "ZBL repulsion" in shown and "trained with teacher" in shown and f"{DEFAULT_MODEL}.mace" in shown
    assert main(["models", "pull", DEFAULT_MODEL]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert not (alone / "cache").exists()


def test_an_exported_potential_keeps_its_name_and_the_advice(alone, repository):
    ethanol = str(repository / "systems" / "ethanol" / "ethanol.pdb")
    assert main(["export", DEFAULT_MODEL, ethanol]) == 0
    assert main(["run", ethanol, "--model", "potential.pt", "--trust-pickle", *SHORT]) == 0
    assert f"{DEFAULT_MODEL} is a small model for first runs" in (alone / "ethanol-run" / "run.log").read_text()
