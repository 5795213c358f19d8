"""The command line: exit codes, messages of one line, and nothing heavy for a help text."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mace_md import cli
from mace_md.errors import CleanStop, InputError, SafetyStop

ROOT = Path(__file__).parent.parent
HEAVY = "{'torch', 'openmm', 'ase', 'e3nn', 'mdtraj', 'numpy'} & set(sys.modules)"


def command(monkeypatch, outcome):
    """Replace `mace-md doctor` by a function that raises or returns `outcome`."""

    def main(config):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = types.ModuleType("mace_md.stand_in")
    module.main = main
    monkeypatch.setitem(sys.modules, "mace_md.stand_in", module)
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("mace_md.stand_in", "DoctorConfig", "stand-in"))


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["run", "--help"], ["models", "--help"], ["run", "--print-config"], ["rnu"]]
)
def test_a_help_text_loads_nothing_heavy(words):
    code = f"""
import sys
from mace_md.cli import main
try:
    main({words!r})
except SystemExit:
    pass
heavy = {HEAVY}
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, _, description) in cli.COMMANDS.items():
        assert f"  {name}" in text and description in text


def test_no_command_at_all_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert "usage: mace-md COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["rnu"], "unknown command 'rnu'. Did you mean 'run'? See `mace-md --help`."),
        (["export", "m"], "mace-md export: structure is missing"),
        (["run", "w.pdb", "--model", "m", "--pressure", "1"], "--pressure needs ensemble = npt (it is nvt)."),
        (["run", "w.pdb", "--model", "m", "--hedd", "x"], "unknown option '--hedd'. Did you mean '--head'?"),
        (["models", "push"], "action: 'push' is not one of list, pull, show"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(capsys, words, message):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "outcome, code",
    [
        (None, 0),
        (0, 0),
        (1, 1),
        (InputError("water.pdb: what is wrong. What to do."), 1),
        (SafetyStop("step 10: what happened."), 3),
        (CleanStop("12 hours are over; continue with --restart."), 4),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device"), 1),
        (PermissionError(13, "Permission denied", "/nowhere/x"), 1),
    ],
)
def test_exit_codes(monkeypatch, capsys, outcome, code):
    command(monkeypatch, outcome)
    assert cli.main(["doctor"]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) == isinstance(outcome, BaseException)
    if isinstance(outcome, (InputError, SafetyStop, CleanStop)):
        assert str(outcome) in err


def test_debug_shows_the_traceback(monkeypatch):
    command(monkeypatch, InputError("wrong"))
    with pytest.raises(InputError):
        cli.main(["doctor", "--debug"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_the_log_goes_to_stdout_and_only_while_a_command_runs(monkeypatch, capsys):
    import logging

    class Talks:
        def main(self, config):
            logging.getLogger("mace_md.md").info("a line")

    monkeypatch.setitem(sys.modules, "mace_md.stand_in", Talks())
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("mace_md.stand_in", "ModelsConfig", "stand-in"))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "a line\n"
    assert cli.main(["doctor", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert logging.getLogger("mace_md").handlers == []


def test_python_m_mace_md_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "mace_md", "rnu"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("mace-md: unknown command 'rnu'")


def test_a_closed_pipe_is_not_an_error():
    line = f"{sys.executable} -m mace_md run --print-config | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == ""


# ---------------------------------------------------------------------------------------------- doctor


def test_the_log_of_a_run_whose_reader_left_goes_nowhere_and_the_run_goes_on(tmp_path):
    code = f"""
import logging, pathlib, sys, types
from mace_md import cli
def main(config):
    for line in range(20000):
        logging.getLogger("mace_md").info("line %d", line)
    pathlib.Path({str(tmp_path / "end")!r}).touch()
sys.modules["stand_in"] = types.SimpleNamespace(main=main)
cli.COMMANDS["doctor"] = ("stand_in", "DoctorConfig", "")
raise SystemExit(cli.main(["doctor"]))
"""
    script = tmp_path / "long.py"
    script.write_text(code)
    line = f"{sys.executable} {script} | head -1; echo code ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == ["line 0", "code 0"]
    assert done.stderr == ""
    assert (tmp_path / "end").exists()
