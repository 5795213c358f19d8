"""Molecular dynamics on a CUDA device: TorchForce with every kernel, graphs, barostats, restarts, doctor.

The kernels themselves are tested in tests/ops (`pytest -m gpu` runs both).
"""

import csv
import functools

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from small_model import cluster, small_model
from water_box import water_pdb

from mace_md.commands import doctor, run
from mace_md.config import DoctorConfig, RunConfig
from mace_md.md.forces.model import make_force
from mace_md.md.stepping.graphs import GraphStepper
from mace_md.model.potential import make_potential

pytestmark = pytest.mark.gpu
PLATFORM = "CUDA"
KERNELS = ["reference", "native"]
BOX = np.array([[0.52, 0.0, 0.0], [0.12, 0.50, 0.0], [-0.1, 0.15, 0.55]])  # nm
NUMBERS, POSITIONS = cluster(12)
POSITIONS = POSITIONS / 10  # nm
# kJ/mol/nm: what float64 leaves of forces of 60 kJ/mol/nm; what float32 positions in nm leave of them at 0.5 nm
TOLERANCE = {"double": 1e-6, "mixed": 5e-2, "single": 5e-2}


def simulation_of(kernels="native", precision="mixed", dtype="float32", integrator=None, forces=()):
    force = make_force(NUMBERS, small_model(getattr(torch, dtype)), periodic=True, kernels=kernels, skin=0.3)
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("X", topology.addChain())
    for number in NUMBERS:
        topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
        system.addParticle(12.0)
    system.setDefaultPeriodicBoxVectors(*BOX)
    for one in (force, *forces):
        system.addForce(one)
    platform = openmm.Platform.getPlatformByName(PLATFORM)
    properties = {"Precision": precision, "DeterministicForces": "true"} if PLATFORM == "CUDA" else {}
    simulation = app.Simulation(topology, system, integrator or langevin(), platform, properties)
    simulation.context.setPositions(POSITIONS)
    simulation.context.setVelocitiesToTemperature(300, 1)
    return simulation, force


def langevin():
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
    integrator.setRandomNumberSeed(2)
    return integrator


@functools.cache
def _exact():
    return make_potential(small_model(), NUMBERS, periodic=True, kernels="reference")[0]


def compare(context, tolerance):
    """With the plain potential in float64 on the CPU, at the context's own positions."""
    state = context.getState(energy=True, forces=True, positions=True)
    x = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    box = np.array(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer))
    energy, forces = _exact()(torch.tensor(x), torch.tensor(box))
    assert state.getPotentialEnergy()._value == pytest.approx(float(energy), abs=tolerance)
    np.testing.assert_allclose(state.getForces(asNumpy=True)._value, forces.numpy(), atol=tolerance)


@pytest.mark.parametrize("precision", ["single", "mixed", "double"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_energy_and_forces_are_those_of_the_plain_model(kernels, precision):
    simulation, _ = simulation_of(kernels, precision, "float64" if precision == "double" else "float32")
    compare(simulation.context, TOLERANCE[precision])


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_list_follows_atoms_and_a_barostat_in_two_contexts(kernels):
    barostat = openmm.MonteCarloAnisotropicBarostat(openmm.Vec3(5e3, 5e3, 5e3), 300, True, True, True, 2)
    barostat.setRandomNumberSeed(1)
    moving, _ = simulation_of(kernels, forces=(barostat,))
    still, _ = simulation_of(kernels)
    for _ in range(15):
        moving.step(4)
        compare(moving.context, TOLERANCE["mixed"])
        still.step(1)
        compare(still.context, TOLERANCE["mixed"])


def test_total_energy_is_conserved():
    """The energy of Verlet oscillates by O(dt^2): halving the step quarters it."""
    spreads = []
    for dt, steps in ((0.001, 40), (0.0005, 80)):
        simulation, _ = simulation_of("native", "double", "float64", openmm.VerletIntegrator(dt))
        simulation.context.setVelocitiesToTemperature(600, 1)
        totals = []
        for _ in range(steps):
            simulation.step(1)
            state = simulation.context.getState(energy=True)
            totals.append((state.getKineticEnergy() + state.getPotentialEnergy())._value)
        spreads.append(np.ptp(totals))
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.4)


def positions_after(steps, graph, kernels="native"):
    simulation, force = simulation_of(kernels)
    graphs = GraphStepper(simulation, force, required=True)
    if graph:
        graphs.start()
        assert graphs.is_on
    for _ in range(steps // 10):
        graphs.advance(10)
    compare(simulation.context, TOLERANCE["mixed"])
    return np.array(simulation.context.getState(positions=True).getPositions(asNumpy=True)._value)


def test_a_graph_makes_the_same_trajectory_and_so_does_a_repetition():
    """Sums of the native kernels and of OpenMM do not depend on the order of threads, so every bit is the same."""
    plain, captured, again = positions_after(200, False), positions_after(200, True), positions_after(200, True)
    assert np.array_equal(plain, captured)
    assert np.array_equal(captured, again)


def test_atoms_that_crowd_together_in_a_graph_get_room():
    simulation, force = simulation_of()
    graphs = GraphStepper(simulation, force, required=True)
    graphs.start()
    for scale in (0.8, 0.6, 0.45):  # 2, 5 and 11 times as many neighbours
        simulation.context.setPeriodicBoxVectors(*(scale * BOX))
        simulation.context.setPositions(scale * POSITIONS)
        graphs.settle()
        assert graphs.is_on
        assert np.isfinite(simulation.context.getState(energy=True).getPotentialEnergy()._value)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_a_run_that_is_continued_is_the_run_that_was_not(tmp_path, tiny_model, kernels, ensemble):
    """To the last digit, wherever it was stopped. OpenMM's checkpoint holds positions, velocities and random numbers as
    they are, and its own forces are in fixed point; the neighbours of an atom come in an order that does not depend on
    the step at which their list was built (in PyTorch they are sorted, in the CUDA kernels as tests/ops/
    test_cuda_order.py shows), and with --deterministic no sum depends on the order of threads."""
    structure = water_pdb(tmp_path / "water.pdb")

    def rows(name, *lengths):
        for count, steps in enumerate(lengths):
            options = {"timestep": 0.2, "report_interval": 5, "checkpoint_interval": 10, "seed": 3, "quiet": True}
            options["bond_break"] = "warn"  # random weights hold no molecule together
            config = RunConfig(
                structure=structure, model=str(tiny_model), output=tmp_path / name, platform=PLATFORM, kernels=kernels,
                ensemble=ensemble, steps=steps, restart=count > 0, deterministic=True, **options,
            )  # fmt: skip
            assert run.main(config) == 0
        with open(tmp_path / name / "log.csv") as file:
            names = ("step", "potential_kJ_mol", "kinetic_kJ_mol")
            return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])

    whole, parts = rows("whole", 40), rows("parts", 17, 40)
    assert np.array_equal(parts[:, 0], whole[:, 0])
    if ensemble != "npt":  # OpenMM's barostat draws new random numbers after a restart
        assert np.array_equal(parts, whole)


def test_runs_share_the_gpus_and_are_those_of_single_commands(tmp_path, tiny_model):
    """Two at a time on every GPU there is (two of them at most), against one after the other on the first."""
    structure = water_pdb(tmp_path / "water.pdb")
    gpus = tuple(range(min(torch.cuda.device_count(), 2))) if PLATFORM == "CUDA" else None
    common = {
        "structure": structure, "model": str(tiny_model), "platform": PLATFORM, "seeds": (1, 2, 3), "steps": 20,
        "timestep": 0.2, "deterministic": True, "quiet": True, "bond_break": "warn",
    }  # fmt: skip
    assert run.main(RunConfig(output=tmp_path / "turn", **common)) == 0
    assert run.main(RunConfig(output=tmp_path / "once", device_index=gpus, processes=2, **common)) == 0
    for seed in (1, 2, 3):
        one, two = (tmp_path / name / f"seed{seed}" / "trajectory.dcd" for name in ("turn", "once"))
        assert one.read_bytes() == two.read_bytes()


def test_doctor_finds_nothing_broken():
    assert doctor.main(DoctorConfig()) == 0
