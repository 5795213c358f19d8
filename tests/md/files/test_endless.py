"""Endless networks: their atoms are not wrapped one by one, and hydrogens in them have neighbours to take mass from."""

import numpy as np
import pytest
from ase import Atoms

from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.dynamics.masses import repartition_hydrogen
from mace_md.md.files.readout import Wanted, make_readout
from mace_md.md.stepping.simulation import choose_platform, make_simulation
from mace_md.md.system import make_system
from mace_md.structures.structure import read_structure


@pytest.fixture
def polyethylene(tmp_path):
    """Two CH2 groups of an endless zigzag along x, eight times, and a water beside it, cut by the box."""
    unit = Atoms(
        "CH2CH2",
        positions=[[0, 0, 0], [0, 0.9, 0.6], [0, -0.9, 0.6], [1.27, 0, -0.85], [1.27, 0.9, -1.45], [1.27, -0.9, -1.45]],
        cell=[2.54, 12, 12], pbc=True,
    )  # fmt: skip
    atoms = unit * (8, 1, 1)
    atoms += Atoms("OH2", positions=[[20.2, 5, 5], [21.1, 5, 5.3], [20.0, 5, 5.95]])
    atoms.write(tmp_path / "polymer.extxyz")
    return read_structure(tmp_path / "polymer.extxyz")


def simulation_of(structure):
    import openmm

    dynamics = make_dynamics(
        structure.masses, ensemble="nve", thermostat=None, temperature=300.0, friction=None, timestep=1.0, seed=1,
        periodic=True,
    )  # fmt: skip
    system = make_system(structure.topology, openmm.CustomExternalForce("0"))
    platform = choose_platform("Reference")
    return make_simulation(structure.topology, system, dynamics, platform, structure.positions), dynamics


def test_atoms_of_a_network_never_jump_through_the_box(polyethylene):
    """Everything moves along y, a tenth of a box at a time, once through the box: molecules jump, the chain goes on."""
    endless = polyethylene.molecules.in_network()
    assert endless.sum() == 48 and len(endless) == 51
    simulation, dynamics = simulation_of(polyethylene)
    readout = make_readout(simulation, dynamics, endless)
    step = polyethylene.box[1] / 10
    frames = []
    for k in range(11):
        simulation.context.setPositions(polyethylene.positions + k * step)
        frames.append(readout.frames(k, 0.0, Wanted(), wrap=True)[0].positions)
    moved = np.diff(frames, axis=0)
    assert moved[:, endless] == pytest.approx(np.broadcast_to(step, (10, 48, 3)), abs=1e-6)
    jumps = np.abs(moved[:, ~endless] - step).max(axis=(1, 2)) > 0.5
    assert jumps.sum() == 1  # the water, whole, and once
    centres = np.array(frames)[:, ~endless].mean(axis=1)
    assert (centres[:, 1] >= -1e-6).all() and (centres[:, 1] <= polyethylene.box[1, 1] + 1e-6).all()


def test_hydrogens_of_a_network_take_mass_from_their_carbon(polyethylene):
    heavy = repartition_hydrogen(polyethylene.topology, 3.0, polyethylene.molecules.bonds)
    numbers = np.array(polyethylene.atomic_numbers)
    assert (heavy[numbers == 1] == 3.0).all()
    assert heavy.sum() == pytest.approx(polyethylene.masses.sum(), abs=1e-9)
    # CH2: 12.011 + 2 * 1.008 - 2 * 3 Da, of OpenMM's elements
    assert heavy[numbers == 6] == pytest.approx(12.011 + 2 * 1.008 - 6.0, abs=2e-3)
