"""`mace-md models`: what people see, and the exit codes."""

import hashlib
from dataclasses import replace

import pytest

from mace_md import cli
from mace_md.model.reading import zoo


@pytest.fixture
def published(monkeypatch, tmp_path, foreign_models):
    """A published model whose file lies in the cache, and one that cannot be reached."""
    content = (foreign_models / "heads.model").read_bytes()
    base = zoo.find_model("mace-off23-small")
    here = replace(
        base, name="here", url="http://127.0.0.1:9/here.model", size=None, sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(
        zoo, "MODELS", (here, replace(here, name="away", url="http://127.0.0.1:9/away.model", sha256=None))
    )
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    (tmp_path / "here.model").write_bytes(content)
    return tmp_path


def test_list_says_licence_cutoff_theory_and_dispersion(capsys):
    assert cli.main(["models", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert {model.name for model in zoo.MODELS} <= lines.keys()
    off, mpa = lines["mace-off23-small"], lines["mace-mpa-0-medium"]
    assert "ASL" in off and "4.5 A" in off and "wB97M-D3(BJ)" in off
    assert "MIT" in mpa and "PBE+U" in mpa


def test_list_is_ordered_by_use_and_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("MACE_MD_CACHE", "/models")
    assert cli.main(["models", "list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 78
    materials = text.index("materials; dispersion not included\n(89 elements)")
    molecules = text.index("molecules, liquids, biomolecules; dispersion included")
    assert molecules < text.index("mace-off23-small") < materials
    assert materials < text.index("mace-mpa-0-medium *")
    assert "academic use only" in text


def test_list_marks_what_is_unknown(capsys):
    cli.main(["models", "list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "unknown" in lines["mace-ani-cc"]


def test_list_is_the_default_and_shows_what_is_fetched(capsys, published):
    assert cli.main(["models"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert (lines["here"][-1], lines["away"][-1]) == ("yes", "no")


def test_show_a_published_model(capsys, published):
    assert cli.main(["models", "show", "here"]) == 0
    out = capsys.readouterr().out
    assert "academic use only" in out and "arXiv:2312.15211" in out and str(published / "here.model") in out
    assert cli.main(["models", "show", "away"]) == 0
    assert "SHA-256          unknown" in capsys.readouterr().out


def test_show_a_file(capsys, foreign_models):
    assert cli.main(["models", "show", str(foreign_models / "heads.model")]) == 0
    out = capsys.readouterr().out
    assert "pbe, wb97m" in out and "H C O" in out and "6x0e+6x1o" in out and "4.5 A" in out


def test_pull_says_the_licence_first(capsys, published):
    assert cli.main(["models", "pull", "here"]) == 0
    out = capsys.readouterr().out
    assert out.index("no commercial use") < out.index(str(published / "here.model"))


def test_pull_offline_is_one_line_and_exit_code_1(capsys, published):
    assert cli.main(["models", "pull", "away"]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "http://127.0.0.1:9/away.model" in error and str(published / "away.model") in error


@pytest.mark.parametrize("words, code, message", [
    (["pull"], 2, "needs a name"),
    (["show"], 2, "needs a name"),
    (["fetch", "x"], 2, "fetch"),
    (["pull", "mace-off23-smal"], 1, "Did you mean mace-off23-small"),
    (["show", "mace-mdp"], 1, "dipoles and polarizabilities"),
    (["check"], 2, "needs a name"),
    (["check", "nothing.model"], 1, "no such file"),
])  # fmt: skip
def test_mistakes_have_exit_codes(words, code, message, capsys):
    assert cli.main(["models", *words]) == code
    assert message in capsys.readouterr().err


def test_a_hostile_file_runs_nothing_and_exits_with_1(capsys, tmp_path):
    import os
    import pickle
    import zipfile

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "trap.model"
    with zipfile.ZipFile(path, "w") as entries:
        entries.writestr("archive/data.pkl", pickle.dumps(Trap()))
    assert cli.main(["models", "show", str(path)]) == 1
    error = capsys.readouterr().err
    assert "posix.system" in error and "nothing was run" in error
    assert not (tmp_path / "ran").exists()


def test_check_a_file(capsys, foreign_models):
    assert cli.main(["models", "check", str(foreign_models / "one_layer.model")]) == 0
    out = capsys.readouterr().out
    assert "stress is dE/dstrain" in out and "passed" in out and "FAILED" not in out


def test_show_says_inputs_and_range(capsys):
    assert cli.main(["models", "show", "mace-polar-1-m"]) == 0
    out = capsys.readouterr().out
    assert "charge, spin" in out and "long" in out and "academic use only" in out
