"""Restarts with the native kernels: the same bits whatever steps the neighbour list was built at."""

import zipfile

import numpy as np
import openmm
import pytest
import torch
from water_box import water_pdb

from mace_md import make_force
from mace_md.commands.run import main
from mace_md.config import RunConfig
from mace_md.errors import InputError
from mace_md.md.stepping.anchors import AnchoredStepper
from mace_md.model.reading.checkpoint import load_model
from mace_md.ops.energy_forces import forget_lists, load_library

try:
    load_library()
except InputError as missing:
    pytest.skip(f"the native kernels are not built: {missing}", allow_module_level=True)


@pytest.fixture
def threads():
    """torch's number of threads, as before after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path, tiny_model, threads):
    """`mace-md run` of water with the native kernels, in a part or several; returns the folder."""
    water = water_pdb(tmp_path / "water.pdb", per_side=3)

    def config(name, steps, restart=False, **options):
        defaults = {
            "ensemble": "nvt", "temperature": 600.0, "timestep": 0.5, "report_interval": 3, "trajectory_interval": 7,
            "checkpoint_interval": 50, "seed": 5, "minimize": False, "check": "skip", "platform": "Reference",
            "threads": 1, "closest_contact": 0, "max_force": 1e6, "max_temperature": 1e6, "bond_break": "ignore",
            "quiet": True, "kernels": "native", "trajectory_format": ("dcd", "extxyz"),
        }  # fmt: skip
        return RunConfig(
            structure=water, model=str(tiny_model), output=tmp_path / name, steps=steps, restart=restart,
            **(defaults | options),
        )  # fmt: skip

    def call(name, *lengths, **options):
        for count, steps in enumerate(lengths):
            assert main(config(name, steps, count > 0, **options)) == 0
        return tmp_path / name

    call.config = config
    return call


def members_of(folder):
    """The parts of its checkpoint."""
    with zipfile.ZipFile(folder / "checkpoint.chk") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bits(folder):
    """All that a run leaves, but for the speed: rows, frames, and OpenMM's state with its random numbers."""
    rows = [row.rpartition(",")[0] for row in (folder / "log.csv").read_text().splitlines()]
    frames = ((folder / f"trajectory.{kind}").read_bytes() for kind in ("dcd", "extxyz"))
    return rows, *frames, members_of(folder)["openmm.chk"]


@pytest.mark.parametrize(
    "options",
    [
        {"ensemble": "nve"},
        {"thermostat": "langevin"},
        {"thermostat": "langevin", "threads": 2},
        {"thermostat": "nose-hoover"},
        {"thermostat": "bussi"},
        {"thermostat": "bussi", "dtype": "float64", "equilibration_steps": 10},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_run_in_four_parts_is_the_run_in_one_to_the_last_bit(run, options):
    """Parts end between anchors, at one (50), and one step before one (99), where the integrators differ."""
    whole = run("whole", 110, **options)
    parts = run("parts", 33, 50, 99, 110, **options)
    assert bits(parts) == bits(whole)
    log = (parts / "run.log").read_text()
    assert log.count("exact, random numbers included") == 3
    assert log.count("33 steps repeated") == log.count("49 steps repeated") == 1
    assert "do not repeat" not in log


def test_without_anchors_the_last_digit_differs(run, monkeypatch):
    """What the tests above are about is there: a list built at another step changes the results."""
    whole = run("whole", 110)
    monkeypatch.setattr(AnchoredStepper, "repeat", lambda self, checkpoint, again: None)
    assert bits(run("parts", 33, 99, 110)) != bits(whole)


def test_steps_that_do_not_repeat_are_said_and_the_checkpoint_is_taken(run):
    """As on another processor; here the anchor is that of another run."""
    parts, other = run("parts", 33), run("other", 33, seed=6)
    members = members_of(parts) | {"anchor.chk": members_of(other)["anchor.chk"]}
    with zipfile.ZipFile(parts / "checkpoint.chk", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    rows = (parts / "log.csv").read_text()
    main(run.config("parts", 33, restart=True))
    assert "note: the steps after step 0 do not repeat here to the last bit" in (parts / "run.log").read_text()
    assert members_of(parts)["openmm.chk"] == members["openmm.chk"]
    assert (parts / "log.csv").read_text() == rows


def test_the_list_is_built_when_it_is_forgotten_and_only_then(water, tiny_model):
    """Evaluations at the same positions give the same bits where the list was built at the same positions."""
    model = load_model(tiny_model, dtype="float32")
    force = make_force(water.topology, model, kernels="native")
    system = openmm.System()
    for mass in water.masses:
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*water.topology.getPeriodicBoxVectors())
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    rng = np.random.default_rng(3)
    moved = water.positions + rng.uniform(-0.01, 0.01, water.positions.shape)  # nm; less than half the skin

    def forces(positions):
        context.setPositions(positions)
        return context.getState(forces=True).getForces(asNumpy=True)._value.copy()

    first = forces(water.positions)
    with_old_list = forces(moved)
    forget_lists()
    with_new_list = forces(moved)
    assert not np.array_equal(with_old_list, with_new_list)
    np.testing.assert_allclose(with_old_list, with_new_list, atol=1e-4 * np.abs(first).max())
    assert np.array_equal(forces(moved), with_new_list)
    forget_lists()
    assert np.array_equal(forces(moved), with_new_list)
    forget_lists()
    assert np.array_equal(forces(water.positions), first)
