"""RMSD, radius of gyration, torsions and hydrogen bonds against geometry that is known, and mdtraj."""

import mdtraj
import numpy as np
import pytest
from known_systems import WATER, waters
from scipy.spatial.transform import Rotation

from mace_md.analysis import hydrogen_bonds, structure, torsions
from mace_md.errors import InputError


def test_rmsd_of_a_rotated_copy_is_zero_and_of_a_mirror_image_is_not(rng):
    reference = rng.normal(size=(12, 3))
    turned = np.array([rotation.apply(reference) + rng.normal(size=3) for rotation in Rotation.random(20, rng=rng)])
    assert structure.rmsd(turned, reference).max() < 1e-6
    assert np.abs(structure.superposed(turned, reference) - reference).max() < 1e-9
    assert structure.rmsd(-reference[None], reference)[0] > 0.1


def test_rmsd_and_gyration_are_mdtrajs(repository):
    start = mdtraj.load(str(repository / "systems/alanine_dipeptide/alanine_dipeptide.pdb"))
    rng = np.random.default_rng(3)
    xyz = (start.xyz + 0.02 * rng.normal(size=(50, start.n_atoms, 3))).astype(np.float32)
    trajectory = mdtraj.Trajectory(xyz, start.topology)
    assert np.abs(structure.rmsd(xyz, start.xyz[0]) - mdtraj.rmsd(trajectory, start)).max() < 1e-5
    masses = np.array([atom.element.mass for atom in start.topology.atoms])
    inertia = np.trace(mdtraj.compute_inertia_tensor(trajectory), axis1=1, axis2=2)  # 2 sum m r^2
    assert np.abs(structure.radius_of_gyration(xyz, masses) - np.sqrt(inertia / 2 / masses.sum())).max() < 1e-5
    found = torsions.backbone_torsions(start.topology)
    assert [torsion.name for torsion in found] == ["phi ALA 2", "psi ALA 2"]
    angles = torsions.dihedrals(xyz, np.array([torsion.atoms for torsion in found]))
    for k, compute in enumerate((mdtraj.compute_phi, mdtraj.compute_psi)):
        expected = np.degrees(compute(trajectory, periodic=False)[1][:, 0])
        assert np.abs((angles[:, k] - expected + 180) % 360 - 180).max() < 1e-2  # mdtraj's are single precision


@pytest.mark.parametrize("angle", [-179.5, -60.0, 0.0, 55.0, 180.0])
def test_torsions_of_built_molecules(angle):
    """Four atoms at a given torsion."""
    radians = np.radians(angle)
    points = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [np.cos(radians), np.sin(radians), 1]], dtype=float)
    found = torsions.dihedrals(points[None], np.array([[0, 1, 2, 3]]))[0, 0]
    assert abs((found - angle + 180) % 360 - 180) < 1e-9


def test_angles_are_circular():
    mean, length = torsions.circular_mean(np.array([-179.0, 179.0, 177.0]))
    assert abs(mean - 179.0) < 1e-6 and length > 0.99
    states = torsions.populations(np.array([-179.0, 179.0, 60.0, -60.0]))
    assert states["trans"].tolist() == [True, True, False, False]
    assert states["gauche+"].tolist() == [False, False, True, False]
    assert np.sum(list(states.values()), axis=0).tolist() == [1, 1, 1, 1]
    assert torsions.transitions(states) == 2


def test_every_pair_of_angles_is_in_one_basin(rng):
    phi, psi = rng.uniform(-180, 180, size=(2, 5000))
    found = torsions.ramachandran_populations(phi, psi)
    assert np.all(np.sum(list(found.values()), axis=0) == 1)


def test_what_turns_in_a_molecule(repository):
    ethanol = mdtraj.load(str(repository / "systems/ethanol/ethanol.pdb")).topology
    found = torsions.bond_torsions(ethanol, np.arange(9))
    assert len(found) == 1 and "O" in found[0].name  # the methyl group is left out
    assert torsions.named_torsions(ethanol, ("bonds",)) == found
    with pytest.raises(InputError, match="four atoms such as"):
        torsions.named_torsions(ethanol, ("phi",))
    with pytest.raises(InputError, match="counted from 1 to 9"):
        torsions.named_torsions(ethanol, ("1-2-3-10",))
    with pytest.raises(InputError, match="there is none"):
        torsions.named_torsions(ethanol, ("backbone",))


def test_two_states_have_the_population_that_they_were_given(rng):
    """A telegraph with rates 1 : 3 is a quarter of the time in one state; the interval covers it in 95 of 100."""
    covered = []
    for _ in range(100):
        state, series = 0, []
        for u in rng.uniform(size=4000):
            state = (1 if u < 0.01 else 0) if state == 0 else (0 if u < 0.03 else 1)
            series.append(state)
        low, high = torsions.population(np.array(series, dtype=bool)).interval()
        covered.append(low < 0.25 < high)
    assert np.mean(covered) > 0.87  # 0.95 less three deviations of a binomial, and the skewness of few changes


def test_a_water_dimer_has_one_hydrogen_bond():
    """O-H...O in line at 0.29 nm; not at 0.36 nm, nor at 35 degrees; through a boundary it is the same."""
    topology = waters(2)
    donors, acceptors = hydrogen_bonds.donors(topology), hydrogen_bonds.acceptors(topology)
    molecule = np.array([0, 0, 0, 1, 1, 1])

    def count(distance, degrees, box=None, shift=0.0):
        radians = np.radians(degrees)
        second = np.array([[0, 0, 0], [0.05, 0.06, 0.06], [0.05, -0.06, 0.06]])
        second = second + distance * np.array([np.cos(radians), np.sin(radians), 0])
        positions = np.concatenate([WATER, second])[None] + shift
        if box is not None:
            positions = positions % box[0, 0, 0]
        return hydrogen_bonds.count(topology, positions.astype(np.float32), box, donors, acceptors, molecule)[0][0]

    box = 2 * np.eye(3)[None]
    assert count(0.29, 0.0) == 1 and count(0.36, 0.0) == 0
    assert count(0.29, -25.0) == 1 and count(0.29, -35.0) == 0
    assert count(0.29, 0.0, box, shift=1.8) == 1


def test_hydrogen_bonds_of_water_are_those_of_a_loop(repository):
    frame = mdtraj.load(str(repository / "systems/water/water.pdb"))
    topology, xyz, box = frame.topology, frame.xyz, frame.unitcell_vectors.astype(float)
    donors, acceptors = hydrogen_bonds.donors(topology), hydrogen_bonds.acceptors(topology)
    molecule = np.arange(192) // 3
    found = hydrogen_bonds.count(topology, xyz, box, donors, acceptors, molecule)[0][0]
    expected = 0
    for donor, hydrogen in donors:
        for acceptor in acceptors:
            if donor == acceptor:
                continue
            to, along = xyz[0, acceptor] - xyz[0, donor], xyz[0, hydrogen] - xyz[0, donor]
            to, along = (v - np.diag(box[0]) * np.round(v / np.diag(box[0])) for v in (to, along))
            cosine = to @ along / np.linalg.norm(to) / np.linalg.norm(along)
            expected += np.linalg.norm(to) < 0.35 and cosine > np.cos(np.radians(30))
    assert found == expected > 50
