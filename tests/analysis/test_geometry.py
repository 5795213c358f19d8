"""Molecules made whole, ways through boundaries, boxes, crystals."""

import mdtraj
import numpy as np
import pytest
from known_systems import WATER, gas, waters

from mace_md.analysis import geometry
from mace_md.analysis.diffusion import even_step, refuse_jumps
from mace_md.errors import InputError

TRICLINIC = np.array([[2.0, 0.0, 0.0], [0.6, 1.9, 0.0], [-0.5, 0.4, 2.2]])


def test_formulas_and_molecules():
    molecules = geometry.molecules_of(waters(3))
    assert molecules.kinds == ("H2O",) * 3
    assert molecules.index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert geometry.formula(list("OHCHHCHHH")) == "C2H6O"
    assert geometry.formula(["Na", "Cl"]) == "ClNa"


@pytest.mark.parametrize("box", [np.diag([2.0, 2.1, 1.9]), TRICLINIC])
def test_broken_molecules_are_made_whole(rng, box):
    topology = waters(20)
    whole = (rng.uniform(size=(5, 20, 1, 3)) @ box + WATER).reshape(5, 60, 3)
    inverse = np.linalg.inv(box)
    wrapped = ((whole @ inverse) % 1.0) @ box  # each atom by itself
    assert np.abs(wrapped - whole).max() > 0.5  # molecules are broken
    boxes = np.repeat(box[None], 5, axis=0)
    found = geometry.make_whole(wrapped, boxes, geometry.molecules_of(topology))
    inside = found.reshape(5, 20, 3, 3) - found.reshape(5, 20, 3, 3)[:, :, :1]
    assert np.abs(inside - (WATER - WATER[0])).max() < 1e-9


def test_the_way_through_the_boundary_of_a_box_that_changes(rng):
    """In fractions of the box the way is known; wrapped or not, in one piece or in several, it comes out."""
    steps = 0.1 * rng.normal(size=(200, 7, 3))
    scale = 1 + 0.05 * np.cumsum(rng.normal(size=200)) / 15
    boxes = TRICLINIC * scale[:, None, None]
    fractions = np.cumsum(steps @ np.linalg.inv(TRICLINIC), axis=0)
    means = (boxes[1:] + boxes[:-1]) / 2
    expected = np.concatenate([np.zeros((1, 7, 3)), np.cumsum(np.diff(fractions, axis=0) @ means, axis=0)])
    for points in (fractions @ boxes, (fractions % 1.0) @ boxes):
        assert np.abs(geometry.unwrap(points, boxes) - expected).max() < 1e-9
    follower = geometry.Unwrapper()
    parts = [follower.add(((fractions % 1.0) @ boxes)[k : k + 50], boxes[k : k + 50]) for k in range(0, 200, 50)]
    assert np.abs(np.concatenate(parts) - expected).max() < 1e-9


def test_what_the_barostat_does_is_no_way():
    """Points that stay where they are in a box that breathes have not moved."""
    scale = 1 + 0.1 * np.sin(np.arange(50))
    boxes = np.eye(3) * 3 * scale[:, None, None]
    assert np.abs(geometry.unwrap(np.full((50, 1, 3), 0.9) @ boxes, boxes)).max() < 1e-12


def test_moves_too_large_to_follow_are_refused():
    points = np.array([[[0.0, 0.0, 0.0]], [[0.9, 0.0, 0.0]]])
    with pytest.raises(InputError, match="moves by 0.45 of the box.*--trajectory-interval"):
        geometry.unwrap(points, np.repeat(2 * np.eye(3)[None], 2, axis=0))


def test_wrapped_positions_in_a_diffusion_are_found(rng):
    """Planted: positions in the box as they are. Their jumps are refused; unwrapped they are right."""
    free = np.cumsum(0.05 * rng.normal(size=(500, 10, 3)), axis=0) + rng.uniform(0, 2, size=(10, 3))
    with pytest.raises(InputError, match="positions are wrapped"):
        refuse_jumps(free % 2.0, 2.0)
    refuse_jumps(free, 2.0)
    boxes = np.repeat(2 * np.eye(3)[None], 500, axis=0)
    assert np.abs(geometry.unwrap(free % 2.0, boxes) - (free - free[0])).max() < 1e-9


def test_frames_that_are_missing_or_doubled_are_found():
    times = np.arange(100) * 0.5
    assert even_step(times) == 0.5
    for broken in (np.delete(times, 40), np.insert(times, 40, times[40])):
        with pytest.raises(InputError, match="not evenly spaced"):
            even_step(broken)


def test_heights_lengths_and_angles_of_boxes():
    lengths, angles = geometry.lengths_and_angles(TRICLINIC[None])
    expected = mdtraj.utils.box_vectors_to_lengths_and_angles(*TRICLINIC)
    assert np.allclose(np.concatenate([lengths[0], angles[0]]), expected, atol=1e-10)
    volume = np.linalg.det(TRICLINIC)
    areas = [np.linalg.norm(np.cross(TRICLINIC[i], TRICLINIC[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    assert abs(geometry.heights(TRICLINIC[None])[0] - volume / max(areas)) < 1e-12


def test_minimum_image_is_the_nearest(rng):
    """Against all 27 images, up to half the shortest height."""
    vectors = rng.normal(size=(4, 50, 3)) * 2
    boxes = np.repeat(TRICLINIC[None], 4, axis=0)
    found = np.linalg.norm(geometry.minimum_image(vectors, boxes), axis=2)
    shifts = np.array(np.meshgrid(*[np.arange(-8, 9)] * 3)).reshape(3, -1).T @ TRICLINIC
    nearest = np.linalg.norm(vectors[:, :, None] + shifts, axis=3).min(axis=2)
    near = nearest < geometry.heights(boxes)[0] / 2
    assert near.sum() > 50 and np.abs(found - nearest)[near].max() < 1e-9


def test_crystals_repeat_themselves_and_liquids_do_not(rng):
    cell = rng.uniform(0.1, 0.5, size=(4, 3))
    shifts = 0.6 * np.array(np.meshgrid(*[np.arange(2)] * 3)).reshape(3, -1).T
    crystal = (cell[None] + shifts[:, None]).reshape(-1, 3)
    numbers = np.tile([6, 8, 1, 1], 8)
    box = 1.2 * np.eye(3)
    assert geometry.repeats_itself(numbers, crystal + 0.005 * rng.normal(size=crystal.shape), box)
    assert not geometry.repeats_itself(numbers, rng.uniform(0, 1.2, size=(32, 3)), box)
    assert gas(2).n_atoms == 2
