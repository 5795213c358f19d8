"""What takes part in a run between its steps: called when it is due, and continued to the last bit."""

import csv

import numpy as np
import pytest
from openmm import unit

from mace_md.errors import CleanStop, InputError
from mace_md.md.files.restart import read_checkpoint
from mace_md.md.stepping.anchors import AnchoredStepper
from mace_md.md.stepping.hooks import Hook
from mace_md.md.stepping.stepper import Stepper
from mace_md.ops.energy_forces import load_library
from mace_md.stopping import StopRequest

KINDS = ("dcd", "extxyz")


class Kicks(Hook):
    """Random changes of the velocities, with random numbers, a running sum and a file of its own."""

    name, interval, evaluates, columns, patterns = "kicks", 3, True, ("kicks", "work_kJ_mol"), ("kicks.csv",)

    def __init__(self, simulation, seed=5):
        self.simulation, self.rng = simulation, np.random.default_rng(seed)
        self.count, self.work, self.file = 0, 0.0, None

    def open(self):
        self.file = self.simulation.folder / "kicks.csv"
        self.file.touch()

    def after(self, step):
        state = self.simulation.context.getState(energy=True, velocities=True)
        velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        self.simulation.context.setVelocities(velocities + self.rng.normal(0, 0.05, velocities.shape))
        self.count += 1
        self.work += state.getPotentialEnergy()._value
        if not self.muted:
            with open(self.file, "a") as file:
                file.write(f"{step},{self.work!r}\n")

    def values(self):
        return self.count, self.work

    def state(self):
        numbers = self.rng.bit_generator.state["state"]
        return f"{self.count} {self.work!r} {numbers['state']} {numbers['inc']}".encode()

    def restore(self, state):
        count, work, *numbers = state.decode().split()
        self.count, self.work = int(count), float(work)
        found = self.rng.bit_generator.state
        found["state"] = dict(zip(("state", "inc"), map(int, numbers), strict=True))
        self.rng.bit_generator.state = found

    def sizes(self):
        return {"kicks.csv": self.file.stat().st_size} if self.file else {}


class StopAt(StopRequest):
    def __init__(self, step):
        super().__init__()
        self.step, self.simulation = step, None

    def reason(self):
        return "stopped by a test" if self.simulation.context.getStepCount() >= self.step else None


def anchored(simulation):
    load_library()  # whose neighbour lists the anchors forget
    return AnchoredStepper(simulation)


def kicks_in(folder):
    def make(simulation):
        simulation.folder = folder
        return Kicks(simulation)

    return make


@pytest.fixture(params=[Stepper, anchored], ids=["plain", "anchored"])
def start(request, make_run, tmp_path):
    """A run with kicks in a folder, to be begun or resumed."""

    def build(name, **options):
        defaults = {"steps": 80, "trajectory_format": KINDS, "trajectory_interval": 4, "checkpoint_interval": 40}
        hooks = options.pop("hooks", (kicks_in(tmp_path / name),))
        return make_run(name, hooks=hooks, stepper=request.param, **(defaults | options))

    return build


def files(folder):
    with open(folder / "log.csv") as file:
        rows = [row[:-1] for row in csv.reader(file)]
    return rows, *((folder / name).read_bytes() for name in ("kicks.csv", "trajectory.dcd", "trajectory.extxyz"))


DYNAMICS = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "nvt"},
    "bussi": {"ensemble": "nvt", "thermostat": "bussi"},
}


@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=DYNAMICS)
@pytest.mark.parametrize("step", [1, 17, 33, 40, 53])
def test_a_run_with_a_hook_is_continued_to_the_last_bit(start, step, dynamics):
    whole = start("whole", **dynamics)
    whole.begin()
    whole.produce()
    assert whole.hooks[0].count == 80 // 3
    stop = StopAt(step)
    broken = start("broken", stop=stop, **dynamics)
    stop.simulation = broken.simulation
    broken.begin()
    with pytest.raises(CleanStop):
        broken.produce()
    (broken.folder / "kicks.csv").open("a").write("999,1.0\n")  # as a killed process leaves it
    resumed = start("broken", **dynamics)
    checkpoint, _ = read_checkpoint(resumed.folder)
    resumed.accept(checkpoint)
    resumed.resume(checkpoint)
    resumed.produce()
    assert files(resumed.folder) == files(whole.folder)
    assert resumed.hooks[0].state() == whole.hooks[0].state()
    assert whole.recorder.log.path.read_text().splitlines()[0].count(",kicks,work_kJ_mol,") == 1


def test_another_hook_is_another_run(start):
    first = start("broken", steps=10)
    first.begin()
    first.produce()
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    second = start("broken", steps=20, hooks=())
    checkpoint, _ = read_checkpoint(second.folder)
    with pytest.raises(InputError, match="between its steps acted kicks, now nothing"):
        second.accept(checkpoint)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
