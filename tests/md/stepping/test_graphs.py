"""CUDA graphs: when they are used; and steps that a graph cannot make are made again, not cut short or taken as wrong.

A stand-in for a captured graph: a force with room for so many pairs, which gives NaN beyond it while the graph is on,
and makes room, or raises what is wrong, while it is off. That is what the native op does (tests/ops/test_cuda_graphs.py
has it, emulated).
"""

import numpy as np
import openmm
import pytest
from openmm import app, unit

from mace_md.errors import InputError, SafetyStop
from mace_md.md.stepping.graphs import GraphStepper, choose_graphs
from mace_md.md.stepping.simulation import StepLoop
from mace_md.model.potential import KernelChoice

NATIVE, REFERENCE = KernelChoice("native", "asked for"), KernelChoice("reference", "asked for")


class Springs:
    """Springs between all pairs within 0.5 nm of each other; pairs beyond `room` do not fit in a graph."""

    def __init__(self, room=0):
        self.room, self.graph, self.fails_above = room, False, np.inf
        self.evaluations = {True: 0, False: 0}

    def __call__(self, state):
        x = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        self.evaluations[self.graph] += 1
        difference = x[:, None] - x
        distance = np.linalg.norm(difference, axis=-1) + np.eye(len(x))
        near = distance < 0.5
        pairs = int(near.sum())
        if not np.isfinite(x).all() or np.abs(x).max() > self.fails_above:
            if not self.graph:
                raise RuntimeError("positions has a value that is not finite")
            return float("nan"), np.full_like(x, np.nan)
        if pairs > self.room:
            if self.graph:
                return float("nan"), np.full_like(x, np.nan)
            self.room = pairs
        stretch = np.where(near, 0.5 - distance, 0.0)
        forces = (1000.0 * stretch / distance)[..., None] * difference
        return float(250.0 * (stretch**2).sum()), forces.sum(axis=1)


class SpringGraphs(GraphStepper):
    """`GraphStepper` whose switch is on the springs, in the place of the properties of a TorchForce."""

    def __init__(self, simulation, springs, **options):
        self.springs = springs
        super().__init__(simulation, simulation.system.getForce(0), **options)
        self._force = self

    def setProperty(self, name, value):
        if name == "useCUDAGraphs":
            self.springs.graph = value == "true"


def simulation_of(springs, n_atoms=12, integrator=None):
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("X", topology.addChain())
    for _ in range(n_atoms):
        topology.addAtom("C", app.Element.getBySymbol("C"), residue)
        system.addParticle(12.0)
    system.addForce(openmm.PythonForce(springs, {}, []))
    if integrator is None:
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
        integrator.setRandomNumberSeed(5)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, integrator, platform)
    rng = np.random.default_rng(1)
    simulation.context.setPositions(rng.uniform(0.0, 0.9, (n_atoms, 3)))
    simulation.context.setVelocitiesToTemperature(300.0, 3)
    return simulation


def positions_of(simulation):
    return np.array(simulation.context.getState(positions=True).getPositions(asNumpy=True)._value)


def test_a_run_that_ran_out_of_room_is_the_run_that_had_enough():
    """Bit by bit, random numbers of the thermostat included, and in as many steps."""
    plain = simulation_of(Springs(room=1000))
    plain.step(200)  # first: the Reference platform has one generator of random numbers for all simulations
    springs = Springs()
    simulation = simulation_of(springs)
    graphs = SpringGraphs(simulation, springs)
    graphs.start()
    before = springs.room
    StepLoop(simulation, [(10, lambda step: None)], advance=graphs.advance).run(200)
    assert springs.room > before  # it did happen,
    assert 0 < graphs.steps_redone < 100  # now and then,
    assert springs.evaluations[True] > springs.evaluations[False]  # and most steps were the graph's
    assert simulation.context.getStepCount() == 200
    assert np.array_equal(positions_of(simulation), positions_of(plain))


def test_a_failure_of_the_simulation_has_its_own_words():
    """What is wrong is not taken for a lack of room: it ends in the error that a run without graphs gives."""
    springs = Springs(room=1000)
    simulation = simulation_of(springs)
    graphs = SpringGraphs(simulation, springs)
    graphs.start()
    springs.fails_above = 0.1
    with pytest.raises(SafetyStop, match="positions has a value that is not finite"):
        StepLoop(simulation, [], advance=graphs.advance).run(5)


def test_an_evaluation_after_a_step_finds_room():
    springs = Springs()
    simulation = simulation_of(springs)
    graphs = SpringGraphs(simulation, springs)
    graphs.start()
    simulation.context.setPositions(0.5 * positions_of(simulation))  # as a barostat does
    assert np.isnan(simulation.context.getState(energy=True).getPotentialEnergy()._value)
    step, moved = simulation.context.getStepCount(), positions_of(simulation)
    graphs.settle()
    assert np.isfinite(simulation.context.getState(energy=True).getPotentialEnergy()._value)
    assert graphs.is_on and graphs.captures == 2
    assert simulation.context.getStepCount() == step and np.array_equal(positions_of(simulation), moved)


def test_a_graph_that_gives_other_forces_is_not_used():
    class Wrong(Springs):
        def __call__(self, state):
            energy, forces = super().__call__(state)
            return energy, forces * (1.001 if self.graph else 1.0)

    springs = Wrong()
    graphs = SpringGraphs(simulation_of(springs), springs)
    graphs.start()
    assert not graphs.is_on and not springs.graph
    graphs.start()  # nor tried again
    assert graphs.captures == 1
    springs = Wrong()
    with pytest.raises(SafetyStop, match="forces deviate by"):
        SpringGraphs(simulation_of(springs), springs, required=True).start()


def test_a_torch_force_takes_the_properties_and_starts_again():
    """The names are those of OpenMM-Torch; a context made anew goes on from where it was."""
    openmmtorch = pytest.importorskip("openmmtorch")
    import torch

    class Well(torch.nn.Module):
        def forward(self, positions):
            return (positions**2).sum()

    simulation = simulation_of(Springs(room=1000), integrator=openmm.VerletIntegrator(0.001))
    simulation.system.removeForce(0)
    force = openmmtorch.TorchForce(torch.jit.script(Well()))
    simulation.system.addForce(force)
    simulation.context.reinitialize(preserveState=True)
    simulation.step(3)
    graphs = GraphStepper(simulation, force)
    graphs.start()
    assert dict(force.getProperties())["useCUDAGraphs"] == "true"
    x = positions_of(simulation)
    forces = simulation.context.getState(forces=True).getForces(asNumpy=True)._value
    assert np.allclose(forces, -2 * x, atol=1e-12) and simulation.context.getStepCount() == 3
    graphs.advance(2)
    assert simulation.context.getStepCount() == 5 and graphs.steps_redone == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"platform": "Reference"}, "only CUDA has graphs"),
        ({"backend": "python"}, "PythonForce"),
        ({"kernels": REFERENCE}, "whose length changes"),
        ({"beads": 8}, "take turns"),
    ],
)
def test_graphs_are_chosen_where_shapes_do_not_change(change, reason):
    facts = {"platform": "CUDA", "backend": "torchforce", "kernels": NATIVE, "beads": 1} | change
    choice = choose_graphs("auto", **facts)
    assert choice.use == (reason is None)
    assert reason is None or reason in choice.reason
    assert not choose_graphs("off", **facts).use
    if reason is None:
        assert choose_graphs("on", **facts).use
    else:
        with pytest.raises(InputError, match=f"--cuda-graphs on: .*{reason}"):
            choose_graphs("on", **facts)
