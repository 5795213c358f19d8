"""A small water box and a force field of springs: the machinery of a run, tested without a machine-learned force."""

import openmm
import pytest
from water_box import water_pdb

from mace_md.config import RunConfig
from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.files.identity import Identity
from mace_md.md.stepping.production import Run
from mace_md.md.stepping.simulation import choose_platform, make_simulation
from mace_md.md.system import make_system
from mace_md.stopping import StopRequest
from mace_md.structures.structure import Structure, read_structure


def spring_force(structure: Structure) -> openmm.Force:
    """Bonds and angle of water as springs, and a soft repulsion between molecules, in one smooth force."""
    force = openmm.CustomNonbondedForce(
        "select(same, 0.5*k*(r-d)^2, 100*step(0.3-r)*(0.3-r)^3);"
        "same=1-step(abs(m1-m2)-0.5); k=20000; d=0.0957+0.0557*step(h1+h2-1.5)"
    )
    force.addPerParticleParameter("m")
    force.addPerParticleParameter("h")
    for molecule, number in zip(structure.molecules.index.tolist(), structure.atomic_numbers, strict=True):
        force.addParticle([molecule, number == 1])
    force.setNonbondedMethod(force.CutoffPeriodic if structure.box is not None else force.NoCutoff)
    force.setCutoffDistance(0.4)
    return force


@pytest.fixture
def water(tmp_path) -> Structure:
    return read_structure(water_pdb(tmp_path / "water.pdb"))


@pytest.fixture
def make_run(tmp_path, water):
    """A function that builds a Run of the water box with springs; options are those of `mace-md run`."""

    def build(
        output: str = "out",
        structure: Structure = water,
        stop: StopRequest | None = None,
        hooks=(),
        stepper=None,
        **options,
    ) -> Run:
        defaults = {
            "ensemble": "nve", "minimize": False, "steps": 40, "report_interval": 5, "trajectory_interval": 10,
            "skin": 0.5, "checkpoint_interval": 10, "seed": 7, "timestep": 0.5, "quiet": True,
        }  # fmt: skip
        config = RunConfig(structure=structure.path, model="springs", output=tmp_path / output, **(defaults | options))
        dynamics = make_dynamics(
            structure.masses,
            ensemble=config.ensemble,
            thermostat=config.thermostat,
            temperature=config.temperature,
            friction=config.friction,
            timestep=config.timestep,
            seed=config.seed,
            periodic=structure.box is not None,
        )
        system = make_system(structure.topology, spring_force(structure), remove_cm_motion=dynamics.counts_cm_removal)
        simulation = make_simulation(
            structure.topology, system, dynamics, choose_platform("Reference"), structure.positions
        )
        config.output.mkdir(exist_ok=True)
        identity = Identity({"seed": config.seed, "timestep": config.timestep, "ensemble": config.ensemble})
        made = [hook(simulation) for hook in hooks]
        return Run(
            config,
            structure,
            simulation,
            dynamics,
            identity,
            stop or StopRequest(),
            hooks=made,
            stepper=None if stepper is None else stepper(simulation),
        )

    return build
