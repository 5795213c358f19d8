"""Child processes: they import nothing of the user's folder, and end with their parent, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mace_md import child
from mace_md.commands.doctor import run_probe

# Names of modules of the standard library that start-up code and this program import, and of the program itself.
SHADOWS = ("random", "select", "json", "signal", "mace_md")
SAID = "imported from the current folder"


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """The current folder, with files of the user's that have the names of modules; each says so when it is imported."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"import sys\nprint('{SAID}')\nsys.stderr.write('{SAID}')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))  # its empty entry is this folder
    return tmp_path


def test_a_probe_of_doctor_imports_nothing_of_the_folder(users_folder):
    worked, line = run_probe("import random, select, json, signal, mace_md\nprint(mace_md.__file__, random.__file__)")
    assert worked, line
    ours, other = line.split()
    assert Path(ours) == child.PACKAGE / "__init__.py"
    assert not Path(other).is_relative_to(users_folder)


def test_a_module_is_run_from_where_this_process_has_it(users_folder):
    done = child.finished(child.run_module("mace_md", "--version"), 60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mace-md ")


def test_what_a_child_starts_is_kept_from_the_folder_too(users_folder):
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random; print(random.__file__)'])"
    worked, line = run_probe(inner)
    assert worked and not Path(line).is_relative_to(users_folder)


def test_without_the_safe_path_the_folder_is_imported(users_folder):
    """What the tests above are about is there."""
    done = subprocess.run([sys.executable, "-c", "import random"], capture_output=True, text=True)
    assert SAID in done.stdout


def test_the_trial_of_the_kernels_is_such_a_child(users_folder, monkeypatch):
    """Its process is started as `run_module` has it, and reads its input though that has no name."""
    import torch

    from mace_md.model.fast import trial

    seen = []
    monkeypatch.setattr(trial.child, "finished", lambda command, *more, **options: seen.append((command, options)))
    with pytest.raises(AttributeError):  # the stand-in gives nothing back
        trial._run_process(torch.zeros(3), torch.zeros(3), False, "cpu")
    command, options = seen[0]
    assert "-P" in command and command[-3] == "mace_md.model.fast.trial"
    assert command[-2] == f"/dev/fd/{options['pass_fds'][0]}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


PARENT = """
import subprocess, sys, time
from mace_md import child
with child.lifeline() as lifeline:
    code = "import time\\nprint('up', flush=True)\\ntime.sleep(600)"
    for _ in range(2):
        one = subprocess.Popen(child.run_code(code), stdin=lifeline, env=child.environment(), stdout=subprocess.PIPE,
                               start_new_session=True)
        one.stdout.readline()
        print(one.pid, flush=True)
    print("all", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_children_end_with_their_parent_whatever_ends_it(end):
    environment = os.environ | {"PYTHONPATH": str(child.PACKAGE.parent)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    lines = [parent.stdout.readline().strip() for _ in range(3)]
    assert lines[-1] == "all"
    pids = [int(line) for line in lines[:2]]
    assert all(map(_alive, pids))
    parent.send_signal(end)
    parent.wait()
    parent.stdout.close()
    give_up = time.monotonic() + 30
    while any(map(_alive, pids)) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not any(map(_alive, pids))
