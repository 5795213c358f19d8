"""A restart continues the run: same frames, same rows, nothing twice, whatever happened in between."""

import csv
import os
import shutil

import mdtraj
import numpy as np
import pytest

from mace_md.errors import CleanStop, InputError
from mace_md.md.files.reporters import write_topology
from mace_md.md.files.restart import CURRENT, PREVIOUS, read_checkpoint
from mace_md.stopping import StopRequest

KINDS = ("dcd", "xtc", "extxyz")


class StopAt(StopRequest):
    """Asks to stop once the simulation has reached a step; stands in for a signal."""

    def __init__(self, step):
        super().__init__()
        self.step, self.simulation = step, None

    def reason(self):
        return "stopped by a test" if self.simulation.context.getStepCount() >= self.step else None


def rows(folder):
    """log.csv without the speed, which no two runs share."""
    with open(folder / "log.csv") as file:
        return [row[:-1] for row in csv.reader(file)]


def interrupt(make_run, step, **options):
    stop = StopAt(step)
    run = make_run("broken", stop=stop, **options)
    stop.simulation = run.simulation
    run.begin()
    with pytest.raises(CleanStop, match=r"--restart"):
        run.produce()
    return run


def resume(make_run, **options):
    run = make_run("broken", **options)
    checkpoint, notes = read_checkpoint(run.folder)
    run.accept(checkpoint)
    run.resume(checkpoint)
    run.produce()
    return run, notes


def same_files(one, two):
    assert rows(one) == rows(two)
    for kind in KINDS:
        assert (one / f"trajectory.{kind}").read_bytes() == (two / f"trajectory.{kind}").read_bytes()


@pytest.mark.parametrize(
    "dynamics",
    [
        {"ensemble": "nve"},
        {"ensemble": "nvt", "thermostat": "langevin"},
        {"ensemble": "nvt", "thermostat": "bussi"},
        {"ensemble": "nvt", "thermostat": "nose-hoover"},
    ],
    ids=lambda options: options.get("thermostat", "nve"),
)
@pytest.mark.parametrize("stop_at", [3, 17, 20])
def test_restart_equals_uninterrupted_run_bitwise(make_run, dynamics, stop_at):
    options = dynamics | {"trajectory_format": KINDS, "steps": 30}
    whole = make_run("whole", **options)
    whole.begin()
    whole.produce()
    interrupt(make_run, stop_at, **options)
    resumed, _ = resume(make_run, **options)
    same_files(whole.folder, resumed.folder)
    one, two = (run.simulation.context.getState(positions=True, velocities=True) for run in (whole, resumed))
    assert np.array_equal(one.getPositions(asNumpy=True)._value, two.getPositions(asNumpy=True)._value)
    assert np.array_equal(one.getVelocities(asNumpy=True)._value, two.getVelocities(asNumpy=True)._value)


def test_restart_in_equilibration_and_extension(make_run):
    options = {"equilibration_steps": 15, "trajectory_format": KINDS}
    whole = make_run("whole", steps=30, **options)
    whole.begin()
    whole.produce()
    interrupt(make_run, -8, steps=20, **options)
    resume(make_run, steps=20, **options)
    extended, _ = resume(make_run, steps=30, **options)
    same_files(whole.folder, extended.folder)


def test_files_longer_than_the_checkpoint_are_cut(make_run, water):
    """kill -9 between two checkpoints leaves frames, half frames and rows the checkpoint does not know."""
    options = {"trajectory_format": KINDS, "steps": 30}
    whole = make_run("whole", **options)
    whole.begin()
    whole.produce()
    broken = interrupt(make_run, 17, **options)
    for name in ("log.csv", *(f"trajectory.{kind}" for kind in KINDS)):
        with open(broken.folder / name, "ab") as file:
            file.write(os.urandom(777))
    resumed, _ = resume(make_run, **options)
    same_files(whole.folder, resumed.folder)
    write_topology(resumed.folder, water)
    for kind in ("dcd", "xtc"):
        trajectory = mdtraj.load(str(resumed.folder / f"trajectory.{kind}"), top=str(resumed.folder / "topology.pdb"))
        assert len(trajectory) == 3


def test_damaged_checkpoint_falls_back_to_the_one_before(make_run):
    options = {"trajectory_format": KINDS, "steps": 30}
    whole = make_run("whole", **options)
    whole.begin()
    whole.produce()
    broken = interrupt(make_run, 23, **options)
    content = (broken.folder / CURRENT).read_bytes()
    (broken.folder / CURRENT).write_bytes(content[: len(content) // 2])
    resumed, notes = resume(make_run, **options)
    assert "damaged" in notes[0]
    same_files(whole.folder, resumed.folder)


def test_every_flipped_byte_of_a_checkpoint_is_noticed_or_harmless(make_run):
    """A checkpoint is read back equal, or refused: never silently different."""
    broken = interrupt(make_run, 12)
    path = broken.folder / CURRENT
    (broken.folder / PREVIOUS).unlink()
    good, _ = read_checkpoint(broken.folder)
    content = bytearray(path.read_bytes())
    for position in np.random.default_rng(0).integers(0, len(content), 100):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        try:
            found, _ = read_checkpoint(broken.folder)
        except InputError:
            continue
        assert found == good


def test_both_checkpoints_damaged_is_refused(make_run):
    broken = interrupt(make_run, 23)
    for name in (CURRENT, PREVIOUS):
        (broken.folder / name).write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(broken.folder)


def test_changed_option_is_refused_and_named(make_run):
    broken = interrupt(make_run, 12)
    before = {path.name: path.read_bytes() for path in broken.folder.iterdir()}
    run = make_run("broken", timestep=1.0)
    checkpoint, _ = read_checkpoint(run.folder)
    with pytest.raises(InputError, match=r"timestep was 0\.5, is 1\.0"):
        run.accept(checkpoint)
    assert {path.name: path.read_bytes() for path in broken.folder.iterdir()} == before


def test_shortened_trajectory_is_refused_and_nothing_cut(make_run):
    broken = interrupt(make_run, 27)
    path = broken.folder / "trajectory.dcd"
    os.truncate(path, path.stat().st_size - 1)
    log = (broken.folder / "log.csv").read_bytes()
    run = make_run("broken")
    checkpoint, _ = read_checkpoint(run.folder)
    with pytest.raises(InputError, match=r"trajectory\.dcd: has \d+ bytes, but had \d+ at the checkpoint"):
        run.accept(checkpoint)
    assert (broken.folder / "log.csv").read_bytes() == log


def test_missing_trajectory_is_refused(make_run):
    broken = interrupt(make_run, 27)
    shutil.move(broken.folder / "trajectory.dcd", broken.folder / "elsewhere.dcd")
    run = make_run("broken")
    checkpoint, _ = read_checkpoint(run.folder)
    with pytest.raises(InputError, match="was moved or changed"):
        run.accept(checkpoint)


def test_run_stopped_in_its_minimisation_makes_it_again_and_is_the_same(make_run, water, caplog):
    """After five steps of it, of thirty at most: the same way down, and as many steps, as without the stop."""

    class StopAfterFive(StopRequest):
        asked = 0

        def reason(self):
            self.asked += 1
            return "stopped by a test" if self.asked > 5 else None

    water.positions[:] += np.random.default_rng(1).normal(0, 0.005, water.positions.shape)
    options = {"minimize": True, "minimize_tolerance": 1e-6, "minimize_iterations": 30, "steps": 10}
    whole = make_run("whole", **options)
    whole.begin()
    whole.produce()
    with pytest.raises(CleanStop, match="minimisation"):
        make_run("broken", stop=StopAfterFive(), **options).begin()
    checkpoint, _ = read_checkpoint(whole.folder.with_name("broken"))
    assert checkpoint.phase == "minimize"
    with caplog.at_level("INFO", logger="mace_md"):
        resumed, _ = resume(make_run, **options)
    assert "the minimisation had not ended, and is made again from its start" in caplog.text
    assert "exact" not in caplog.text
    states = [run.simulation.context.getState(positions=True, velocities=True) for run in (whole, resumed)]
    for read in ("getPositions", "getVelocities"):
        first, second = (np.array(getattr(state, read)(asNumpy=True)._value) for state in states)
        assert np.array_equal(first, second)


def test_exact_is_said_of_what_is(make_run, caplog):
    """Not with another number of threads, other kernels or another skin; each is named with both values."""
    before = {"threads": 2, "kernels": "native", "skin": 0.5}
    stop = StopAt(27)
    broken = make_run("broken", stop=stop)
    broken.numerics, stop.simulation = before, broken.simulation
    broken.begin()
    with pytest.raises(CleanStop):
        broken.produce()
    for now, said in (
        (before, "exact, random numbers included"),
        (before | {"threads": 1}, "differs in rounding (--threads: 2 before, 1 now)"),
        (before | {"kernels": "reference", "skin": 0.4}, "--kernels: native before, reference now; --skin: 0.5 before"),
    ):
        caplog.clear()
        run = make_run("broken")
        run.numerics = now
        checkpoint, _ = read_checkpoint(run.folder)
        with caplog.at_level("INFO", logger="mace_md"):
            run.accept(checkpoint)
            run.resume(checkpoint)
        assert said in caplog.text
        assert (now is before) == ("exact, random" in caplog.text)
