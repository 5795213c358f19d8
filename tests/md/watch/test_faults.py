"""Faults of the world around a run, made to happen: processes killed at random, disks full, devices lost, files cut."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import mdtraj
import openmm
import pytest
from killing import log_rows
from water_box import water_pdb

from mace_md.cli import main
from mace_md.errors import InputError
from mace_md.md.files.restart import CURRENT, DAMAGED, PREVIOUS, read_checkpoint
from mace_md.md.watch.faults import faults_explained

# The random weights of the tiny model let atoms do what no physics allows.
QUICK = [
    "--steps", "40", "--report-interval", "5", "--trajectory-interval", "10", "--checkpoint-interval", "10", "--seed",
    "3", "--timestep", "0.5", "--no-minimize", "--threads", "1", "--platform", "Reference", "--kernels", "reference",
    "--check", "skip", "--closest-contact", "0", "--max-force", "1e6", "--max-temperature", "1e6",
    "--bond-break", "warn",
]  # fmt: skip


@pytest.fixture
def box(tmp_path):
    return water_pdb(tmp_path / "water.pdb", per_side=2)


@pytest.fixture
def run(tmp_path, box, tiny_model, capsys, monkeypatch):
    """Run `mace-md run` on the water box; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=tiny_model):
        capsys.readouterr()
        code = main(["run", str(box), "--model", str(model), *QUICK, "--output", "out", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def same_results(one, two):
    assert log_rows(one) == log_rows(two)
    assert (one / "trajectory.dcd").read_bytes() == (two / "trajectory.dcd").read_bytes()


# ------------------------------------------------------------------------------------------------ kill -9


def test_killed_at_random_moments(tiny_model, tmp_path, repository):
    """Five kills anywhere, from the start of the process on; benchmarks/kills.py does it many more times."""
    seed = int(time.time())
    words = [sys.executable, str(repository / "tests" / "killing.py"), str(tmp_path), str(tiny_model), "5", "300"]
    done = subprocess.run(
        [*words, str(seed)], capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["kills"] == 5
    assert record["problems"] == []
    assert record["most_steps_lost"] <= record["checkpoint_interval"]
    assert record["same_as_uninterrupted"]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("signals", 2), ("starters", 2), ("restarters", 2), ("while_minimising", 1),
        pytest.param("killed_parents", 2, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_interrupted_in_other_ways(tiny_model, tmp_path, repository, kind, count):
    """Signals, two processes for one folder, a killed parent; benchmarks/kills.py has many more of them."""
    words = [sys.executable, str(repository / "tests" / "interruptions.py"), kind, str(tmp_path), str(tiny_model)]
    done = subprocess.run(
        [*words, str(count), str(int(time.time()))], capture_output=True, text=True, timeout=900,
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["count"] == count
    assert record["problems"] == []


def test_killed_before_the_first_checkpoint_of_production(run, tmp_path):
    """Rows and frames that the only checkpoint does not know come again, and once."""
    run("--checkpoint-interval", "1000", "--steps", "40")
    folder = tmp_path / "out"
    checkpoint, _ = read_checkpoint(folder)
    shutil.copytree(folder, tmp_path / "whole")
    # as kill -9 at step 35 leaves it: the checkpoint of step 0, written before log.csv was begun
    run("--output", "first", "--steps", "0")
    first = tmp_path / "first"
    for name in (CURRENT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
    run_json = json.loads((first / "run.json").read_text())
    assert run_json["seed"] == 3
    shutil.copy(first / PREVIOUS if (first / PREVIOUS).exists() else first / CURRENT, folder / CURRENT)
    found, _ = read_checkpoint(folder)
    assert (found.step, found.sizes) == (0, {})
    code, out, _ = run("--restart", "--checkpoint-interval", "1000", "--steps", "40")
    assert code == 0
    assert "log.csv: begun after the checkpoint, written anew" in out
    same_results(folder, tmp_path / "whole")


def test_what_a_killed_process_left_half_done_is_taken_away(run, tmp_path):
    run("--steps", "20")
    folder = tmp_path / "out"
    for name in ("checkpoint.chk.part", ".state.xml.4711.tmp", ".run.json.4711.tmp", "topology.pdb.part"):
        (folder / name).write_text("half")
    assert run("--restart")[0] == 0
    assert not [path.name for path in folder.iterdir() if path.suffix in (".part", ".tmp")]


def test_killed_before_any_checkpoint_and_started_with_another_structure(run, tmp_path, box):
    """The topology that goes with the trajectory is that of the structure that was run."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "topology.pdb").write_text("REMARK of a run that was killed before its first checkpoint\nEND\n")
    assert run("--restart", "--steps", "10")[0] == 0
    assert mdtraj.load(str(folder / "trajectory.dcd"), top=str(folder / "topology.pdb")).n_frames == 1


def test_second_process_in_the_same_folder_is_refused(run, tmp_path, box, tiny_model, repository):
    words = [sys.executable, "-m", "mace_md", "run", str(box), "--model", str(tiny_model), *QUICK]
    first = subprocess.Popen(
        [*words, "--output", str(tmp_path / "out"), "--steps", "100000"],
        env=os.environ | {"PYTHONPATH": str(repository)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "out" / CURRENT).exists() and time.monotonic() < end:
            time.sleep(0.05)
        code, _, err = run("--restart", "--steps", "100000")
        assert (code, "another process is running in this folder" in err) == (1, True)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    rows = len(log_rows(tmp_path / "out"))
    assert run("--restart", "--steps", str(5 * rows + 100))[0] == 0  # the lock ended with the process


# ------------------------------------------------------------------------------------------------ damaged files


def test_damaged_checkpoint_never_replaces_the_good_one_before_it(run, tmp_path, monkeypatch):
    """After a fall back to the checkpoint before, a process that dies while it saves leaves a good one."""
    run("--steps", "30")
    folder = tmp_path / "out"
    content = (folder / CURRENT).read_bytes()
    (folder / CURRENT).write_bytes(content[: len(content) // 3])
    good = (folder / PREVIOUS).read_bytes()
    replace, names = os.replace, []

    def watched(source, target):
        replace(source, target)
        present = [folder / name for name in (CURRENT, PREVIOUS) if (folder / name).exists()]
        names.append([path.name for path in present])
        assert any(_is_whole(path) for path in present), "no good checkpoint at this moment"

    monkeypatch.setattr(os, "replace", watched)
    code, out, _ = run("--restart", "--steps", "40")
    assert code == 0
    assert names
    assert "damaged" in out
    assert (folder / DAMAGED).read_bytes() == content[: len(content) // 3]
    assert good
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run("--output", "whole")
    same_results(folder, tmp_path / "whole")


def _is_whole(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def test_checkpoint_of_openmm_with_another_length_is_not_given_to_it(run, tmp_path):
    """OpenMM reads past the end of what it gets, and may never come back; the portable state is used."""
    import zipfile

    run("--steps", "20")
    folder = tmp_path / "out"
    with zipfile.ZipFile(folder / CURRENT) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["openmm.chk"] = members["openmm.chk"][:62]
    with zipfile.ZipFile(folder / CURRENT, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    code, out, _ = run("--restart", "--steps", "40")
    assert code == 0
    assert "from the portable state (OpenMM's own part of the checkpoint was made for another system)" in out
    assert [row[0] for row in log_rows(folder)[1:]] == [str(step) for step in range(0, 41, 5)]


@pytest.mark.parametrize("name", ["trajectory.dcd", "trajectory.xtc", "trajectory.extxyz", "log.csv"])
def test_shortened_file_is_refused_and_nothing_is_touched(run, tmp_path, name):
    formats = ("--trajectory-format", "dcd,xtc,extxyz")
    run(*formats)
    folder = tmp_path / "out"
    os.truncate(folder / name, (folder / name).stat().st_size - 7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = run("--restart", "--steps", "80", *formats)
    assert code == 1
    assert f"{name}: has " in err
    assert "at the checkpoint: it was moved or changed" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_damaged_record_of_the_earlier_parts_stops_nothing(run, tmp_path):
    run("--steps", "20")
    (tmp_path / "out" / "run.json").write_text('{"earlier": [')
    code, out, _ = run("--restart")
    assert code == 0
    assert "run.json is damaged" in out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 3


# ------------------------------------------------------------------------------------------------ the world


def test_lost_device(run, tmp_path, monkeypatch):
    """The message of OpenMM when a GPU falls off the bus, from a step in the middle of the run."""
    step, made = openmm.LangevinMiddleIntegrator.step, []

    def fail(self, count):
        if sum(made) >= 20:
            raise openmm.OpenMMException("Error downloading array posq: CUDA_ERROR_LAUNCH_FAILED (719)")
        made.append(count)
        return step(self, count)

    monkeypatch.setattr(openmm.LangevinMiddleIntegrator, "step", fail)
    code, _, err = run()
    assert code == 1
    assert "the device failed (Error downloading array posq: CUDA_ERROR_LAUNCH_FAILED (719))" in err
    assert "continue with the same command and --restart" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run("--restart")[0] == 0
    run("--output", "whole")
    same_results(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "free memory on the GPU"),
        (openmm.OpenMMException("Error initializing Context: CUDA_ERROR_NO_DEVICE (100)"), "look at the GPU"),
        (OSError(28, "No space left on device", "x.dcd"), "make room"),
        (OSError(13, "Permission denied", "x.dcd"), "make it writable"),
        (OSError(30, "Read-only file system", "x.dcd"), "make it writable"),
    ],
)
def test_each_fault_has_its_remedy(tmp_path, error, remedy):
    with pytest.raises(InputError, match=remedy), faults_explained(tmp_path):
        raise error


def test_other_errors_keep_their_traceback(tmp_path):
    with pytest.raises(openmm.OpenMMException, match="called with an invalid"), faults_explained(tmp_path):
        raise openmm.OpenMMException("called with an invalid index")


@pytest.mark.skipif(os.name != "posix", reason="users and permissions of POSIX")
def test_read_only_folder(tmp_path, box, tiny_model, repository):
    """Another user's folder, for a restart and for a new run: one line each, and nothing in it changes."""
    folder = tmp_path / "out"
    words = [sys.executable, "-m", "mace_md", "run", str(box), "--model", str(tiny_model), *QUICK]
    assert main([*words[3:], "--output", str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shared = [tmp_path, *tmp_path.parents, tiny_model.parent, *tiny_model.parent.parents]
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid=65534", "--clear-groups", *words]
        if shutil.which("setpriv") is None:
            pytest.skip("running as root, who may write everywhere, and there is no setpriv")
        for place in shared:
            if str(place).startswith("/tmp/") and place.is_dir():
                place.chmod(place.stat().st_mode | 0o055)
        shutil.copy(tiny_model, tmp_path / "tiny.mace")
        os.chmod(tmp_path / "tiny.mace", 0o644)
        words[words.index(str(tiny_model))] = str(tmp_path / "tiny.mace")
        there = {"env": os.environ | {"PYTHONPATH": str(repository)}, "cwd": tmp_path}
        if subprocess.run([*words[:4], "-c", "import numpy, mace_md.cli"], capture_output=True, **there).returncode:
            pytest.skip(f"a user without rights cannot use {sys.prefix} or {repository}")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    for more in (["--restart", "--steps", "80"], []):
        output = folder if more else folder / "inner"
        done = subprocess.run(
            [*words, "--output", str(output), *more], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"}, cwd=tmp_path, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert f"{output}: cannot be written (Permission denied)" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    folder.chmod(0o755)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_full_disk_of_a_real_file_system(tmp_path, box, tiny_model, repository):
    """A file system of half a megabyte, filled by the run itself: one line, and the run goes on when there is room."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    words = [sys.executable, "-m", "mace_md", "run", str(box), "--model", str(tiny_model), *QUICK]
    words += ["--trajectory-interval", "1", "--trajectory-format", "dcd,extxyz", "--output", str(place / "out")]
    words += ["--steps", "150"]
    try:
        environment = os.environ | {"PYTHONPATH": str(repository)}
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 1, done.stderr
        assert "cannot be written (No space left on device)" in done.stderr
        assert "make room and continue with the same command and --restart" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
        assert main([*words[3:], "--restart"]) == 0
        words[words.index(str(place / "out"))] = str(tmp_path / "whole")
        assert main(words[3:]) == 0
        same_results(place / "out", tmp_path / "whole")
        assert len(ase.io.read(place / "out" / "trajectory.extxyz", index=":")) == 150
    finally:
        subprocess.run(["umount", str(place)], check=True)
