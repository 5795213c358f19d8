"""The barostat moves molecules, not atoms, and gives the volume of an ideal gas of them."""

import numpy as np
import openmm
import pytest
from openmm import app
from water_box import water_pdb

from mace_md.errors import InputError
from mace_md.md.dynamics.barostat import choose_scaling, make_barostat
from mace_md.md.system import count_barostats, make_system
from mace_md.structures.structure import read_structure
from mace_md.units import BOLTZMANN_KJ_MOL_K

TEMPERATURE = 300.0
BAR_NM3 = 0.0602214076  # kJ/mol: 1 bar nm^3
KINDS = ("isotropic", "anisotropic", "membrane", "flexible")


@pytest.fixture
def gas(tmp_path):
    """64 water molecules at the volume an ideal gas of molecules has at 1 bar and 300 K."""
    side = (65 * BOLTZMANN_KJ_MOL_K * TEMPERATURE / BAR_NM3) ** (1 / 3)
    return read_structure(water_pdb(tmp_path / "gas.pdb", per_side=4, spacing=10 * side / 4))


def moved(structure, kind, rigid, steps, sample=10):
    """Volumes, and the positions at the end, of particles at rest without forces: only the barostat moves them."""
    barostat = make_barostat(
        kind, pressure=1.0, temperature=TEMPERATURE, interval=1, rigid_molecules=rigid, seed=9, surface_tension=0.0
    )
    nothing = openmm.HarmonicBondForce()
    nothing.setUsesPeriodicBoundaryConditions(True)
    system = make_system(structure.topology, nothing, barostat=barostat)
    assert count_barostats(system) == 1
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    volumes = []
    for _ in range(steps // sample):
        integrator.step(sample)
        volumes.append(context.getState().getPeriodicBoxVolume()._value)
    return np.array(volumes), context.getState(positions=True).getPositions(asNumpy=True)._value


def bond_lengths(structure, positions):
    i, j = structure.molecules.bonds.T
    return np.linalg.norm(positions[i] - positions[j], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_bonds_keep_their_length_while_the_box_changes(gas, kind):
    volumes, positions = moved(gas, kind, True, 400)
    assert np.std(volumes) > 0.01 * volumes.mean()
    assert np.allclose(bond_lengths(gas, positions), bond_lengths(gas, gas.positions), atol=1e-9)


def test_scaling_atoms_stretches_bonds(gas):
    """The same test tells the two ways apart; so it would notice molecules that OpenMM does not know of."""
    volumes, positions = moved(gas, "isotropic", False, 500)
    ratio = bond_lengths(gas, positions) / bond_lengths(gas, gas.positions)
    final = volumes[-1] / np.linalg.det(gas.box)
    assert np.allclose(ratio, final ** (1 / 3), rtol=1e-6)
    assert abs(final - 1) > 0.01


def test_volume_of_an_ideal_gas_of_molecules(gas):
    """<V> = (N + 1) kT / P with N molecules, within three standard errors of block averages.

    Isotropic only: nothing in an ideal gas holds the shape of a box that may change it.
    """
    volumes, _ = moved(gas, "isotropic", True, 60_000)
    _compare(volumes, 65 * BOLTZMANN_KJ_MOL_K * TEMPERATURE / BAR_NM3)


def test_volume_of_an_ideal_gas_of_atoms(gas):
    volumes, _ = moved(gas, "isotropic", False, 60_000)
    _compare(volumes[len(volumes) // 6 :], (3 * 64 + 1) * BOLTZMANN_KJ_MOL_K * TEMPERATURE / BAR_NM3)


def _compare(volumes, expected):
    blocks = volumes[: len(volumes) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert abs(volumes.mean() - expected) < 3 * error, f"{volumes.mean():.1f} +- {error:.1f}, theory {expected:.1f}"
    assert error < 0.03 * expected


def test_scaling_is_chosen_and_said(gas, tmp_path):
    assert choose_scaling(gas, "auto") == (True, "the barostat scales the centres of 64 rigid molecules")
    rigid, sentence = choose_scaling(gas, "atoms")
    assert not rigid
    assert "192 atoms" in sentence


def test_endless_network_is_scaled_by_atoms(tmp_path):
    from ase.build import bulk

    path = tmp_path / "diamond.cif"
    bulk("C", "diamond", cubic=True).write(path)
    diamond = read_structure(path)
    assert diamond.molecules.networks
    rigid, sentence = choose_scaling(diamond, "auto")
    assert not rigid
    assert "endless network" in sentence
    with pytest.raises(InputError, match="--barostat-scaling atoms"):
        choose_scaling(diamond, "molecules")


def test_barostat_needs_a_box(tmp_path):
    vacuum = read_structure(water_pdb(tmp_path / "vacuum.pdb", periodic=False))
    barostat = make_barostat("isotropic", pressure=1.0, temperature=300.0, interval=25, rigid_molecules=True, seed=1)
    with pytest.raises(InputError, match="needs a periodic box"):
        make_system(vacuum.topology, openmm.CustomExternalForce("0"), barostat=barostat)


def test_openmm_sees_the_molecules(gas):
    system = make_system(gas.topology, openmm.CustomExternalForce("0"))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    assert [list(molecule) for molecule in context.getMolecules()] == gas.molecules.groups()


def test_molecule_bonds_carry_no_energy(gas):
    system = make_system(gas.topology, openmm.CustomExternalForce("0"))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(gas.positions)
    state = context.getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value == 0.0
    assert not state.getForces(asNumpy=True)._value.any()


def test_topology_without_element_is_refused():
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    topology.addAtom("M", None, residue)
    with pytest.raises(InputError, match="no chemical element"):
        make_system(topology, openmm.CustomExternalForce("0"))
