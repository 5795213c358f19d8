"""The output folder belongs to one process: the lock comes before the look, and leaves nothing behind."""

import multiprocessing
import os
import re
import subprocess
import sys

import pytest

from mace_md import child
from mace_md.errors import InputError
from mace_md.output import LOCK, content_of, held_folder, holder_of

HOLD = """
import sys
from pathlib import Path
from mace_md.output import held_folder
with held_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder; it lets go when its standard input is closed."""
    environment = os.environ | {"PYTHONPATH": str(child.PACKAGE.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_held_folder_is_refused_and_the_holder_named(holder, tmp_path):
    folder = tmp_path / "out"
    words = f"another process is running in this folder .process {holder.pid}."
    with pytest.raises(InputError, match=words), held_folder(folder):
        pass
    assert holder_of(folder) == f"process {holder.pid}"
    assert folder.exists() and content_of(folder) == []
    holder.stdin.close()
    holder.wait()
    assert not folder.exists()
    with held_folder(folder):
        assert holder_of(folder) is not None


def test_the_lock_ends_with_a_killed_process(holder, tmp_path):
    holder.kill()
    holder.wait()
    folder = tmp_path / "out"
    assert (folder / LOCK).exists() and holder_of(folder) is None
    assert content_of(folder) == []  # a new run may start there
    with held_folder(folder):
        pass
    assert list(folder.iterdir()) == []


def test_nothing_is_left_of_a_refused_start_and_everything_else_stays(tmp_path):
    deep = tmp_path / "a" / "b" / "out"
    with held_folder(deep):
        assert deep.is_dir()
    assert not (tmp_path / "a").exists()
    with held_folder(deep):
        (deep / "result").write_text("kept")
    assert [path.name for path in deep.iterdir()] == ["result"]
    (tmp_path / "mine").mkdir()
    with held_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), held_folder(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="cannot be written"), held_folder(tmp_path / "file" / "inside"):
        pass


def _count(folder, times, results):
    """Look at a number in the folder and write the next one, as often as the folder is to be had."""
    done = 0
    for _ in range(times):
        try:
            with held_folder(folder):
                path = folder / "count"
                before = int(path.read_text()) if path.exists() else 0
                path.write_text(str(before + 1))
                done += 1
        except InputError as error:
            assert re.search(r"process \d+|not known", str(error))
    results.put(done)


def test_no_look_of_many_processes_is_out_of_date(tmp_path):
    """Every count that a process believes it made is there: none looked before it had the lock."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    counting = [context.Process(target=_count, args=(tmp_path / "out", 300, results)) for _ in range(4)]
    for process in counting:
        process.start()
    total = sum(results.get(timeout=120) for _ in counting)
    for process in counting:
        process.join()
        assert process.exitcode == 0
    assert int((tmp_path / "out" / "count").read_text()) == total >= 300 // 4
