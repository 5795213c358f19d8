"""The driver of CUDA graphs (mace_md.md.stepping.graphs) with the CUDA kernels themselves, on an emulated GPU."""

import numpy as np
import openmm
import pytest
from native import Native, make_model, random_atoms, reference
from openmm import app, unit

from mace_md.md.stepping.graphs import GraphStepper
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM


class Switch:
    """In the place of a TorchForce: its property captures the stream of the emulated driver."""

    def __init__(self, emulation):
        self.emulation = emulation

    def setProperty(self, name, value):
        if name == "useCUDAGraphs":
            self.emulation.capturing = value == "true"


def test_a_list_that_outgrows_its_room_in_a_graph_costs_a_repetition_and_nothing_else(emulation):
    native, atoms = Native(make_model("scalars"), engine="emulated"), random_atoms(8, cell=np.eye(3) * 6.0, spacing=1.8)

    def evaluate(state):
        atoms.set_cell(state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM)
        atoms.set_positions(np.array(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)))
        energy, forces, _ = native(atoms)
        return energy * EV_TO_KJ_MOL, forces * EV_PER_ANGSTROM_TO_KJ_MOL_NM

    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("X", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
        system.addParticle(12.0)
    system.setDefaultPeriodicBoxVectors(*(0.6 * np.eye(3)))
    force = openmm.PythonForce(evaluate, {}, [])
    force.setUsesPeriodicBoundaryConditions(True)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(1e-6), platform)
    simulation.context.setPositions(atoms.positions / NM_TO_ANGSTROM)
    graphs = GraphStepper(simulation, Switch(emulation))
    graphs.start()
    graphs.advance(2)
    assert graphs.is_on and graphs.steps_redone == 0

    def capacity():
        emulation.capturing, before = False, emulation.capturing
        found = native.status().capacity
        emulation.capturing = before
        return found

    small = capacity()
    simulation.context.setPeriodicBoxVectors(*(0.2 * np.eye(3)))  # a barostat that is in a hurry
    simulation.context.setPositions(atoms.positions / NM_TO_ANGSTROM / 3.0)
    graphs.advance(2)
    assert graphs.is_on and graphs.steps_redone == 2 and simulation.context.getStepCount() == 4
    assert capacity() > small
    found = simulation.context.getState(forces=True, energy=True)
    expected = reference(native.folded, atoms, 3.6)
    energy = found.getPotentialEnergy()._value / EV_TO_KJ_MOL
    assert energy == pytest.approx(expected[0], abs=1e-8)
    forces = found.getForces(asNumpy=True)._value / EV_PER_ANGSTROM_TO_KJ_MOL_NM
    assert np.abs(forces - expected[1]).max() < 1e-8
