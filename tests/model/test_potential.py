"""The potential against the bare model, its own finite differences, and the symmetries it must have."""

import numpy as np
import pytest
import torch
from small_model import cluster, small_model

from mace_md.errors import InputError
from mace_md.model.graph import single_graph
from mace_md.model.mace import predict
from mace_md.model.potential import Potential, isolated_energy, make_potential, species_of
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.units import EV_TO_KJ_MOL

TRICLINIC = np.array([[5.0, 0.0, 0.0], [1.2, 5.2, 0.0], [-0.8, 1.5, 4.9]])  # A, below twice the cutoff


def potential_of(model, numbers, periodic, **options):
    return make_potential(model, numbers, periodic=periodic, kernels="reference", **options)[0]


def nm(angstrom) -> torch.Tensor:
    return torch.as_tensor(np.asarray(angstrom)) / 10.0


def from_the_model(model, numbers, positions, cell):
    """Energy without E0s (kJ/mol) and forces (kJ/mol/nm) by the model's own forward pass and autograd."""
    x = torch.as_tensor(positions)
    box = torch.zeros(3, 3, dtype=torch.float64) if cell is None else torch.as_tensor(cell)
    edge_index, shifts = neighbor_list(x, box, cell is not None, float(model.r_max))
    predicted = predict(model, single_graph(x, species_of(model, numbers), edge_index, shifts, box))
    energy = float(predicted.energy) - isolated_energy(model, numbers)
    return energy * EV_TO_KJ_MOL, predicted.forces.numpy() * EV_TO_KJ_MOL * 10


@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_is_the_model_in_openmm_units(cell):
    model, (numbers, positions) = small_model(), cluster(9)
    energy, forces = potential_of(model, numbers, cell is not None)(nm(positions), None if cell is None else nm(cell))
    expected_energy, expected_forces = from_the_model(model, numbers, positions, cell)
    assert energy.dtype == torch.float64 and energy.dim() == 0
    # the E0s of the model's total energy, about -1e4 eV, leave 1e-12 eV of it
    assert float(energy) == pytest.approx(expected_energy, abs=1e-8)
    np.testing.assert_allclose(forces.numpy(), expected_forces, atol=1e-9)


@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_forces_are_the_slope_of_the_energy(cell):
    numbers, positions = cluster(8)
    potential = potential_of(small_model(), numbers, cell is not None)
    box = None if cell is None else nm(cell)
    x = nm(positions)
    forces = potential(x, box)[1]
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        step = torch.zeros_like(x)
        step[atom, axis] = 1e-5  # nm
        slope = (potential(x + step, box)[0] - potential(x - step, box)[0]) / 2e-5
        assert float(forces[atom, axis]) == pytest.approx(-float(slope), abs=1e-5)
    assert forces.abs().max() > 1.0


def test_energy_does_not_depend_on_skin_wrapping_place_or_order():
    numbers, positions = cluster(10)
    rng = np.random.default_rng(1)
    box = nm(TRICLINIC)
    energy, forces = potential_of(small_model(), numbers, True, skin=0.0)(nm(positions), box)
    for skin in (0.3, 2.0):
        potential = potential_of(small_model(), numbers, True, skin=skin)
        potential(nm(positions + rng.normal(0, 0.05, (10, 3))), box)  # a list of other positions
        images = rng.integers(-4, 5, (10, 3)) @ TRICLINIC
        for moved in (positions, positions + images, positions + [7.7, -3.1, 0.4]):
            again = potential(nm(moved), box)
            assert float(again[0]) == pytest.approx(float(energy), abs=1e-9)
            torch.testing.assert_close(again[1], forces, atol=1e-8, rtol=0)
    order = rng.permutation(10)
    permuted = potential_of(small_model(), [numbers[i] for i in order], True)(nm(positions[order]), box)
    assert float(permuted[0]) == pytest.approx(float(energy), abs=1e-9)
    torch.testing.assert_close(permuted[1], forces[order], atol=1e-8, rtol=0)


def test_rotation_and_inversion():
    numbers, positions = cluster(9)
    potential = potential_of(small_model(), numbers, False)
    energy, forces = potential(nm(positions))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for R in (rotation, -np.eye(3)):
        turned = potential(nm(positions @ R))
        assert float(turned[0]) == pytest.approx(float(energy), abs=1e-9)
        torch.testing.assert_close(turned[1], forces @ torch.as_tensor(R), atol=1e-8, rtol=0)


def test_a_doubled_box_has_twice_the_energy():
    numbers, positions = cluster(6)
    once = potential_of(small_model(), numbers, True)(nm(positions), nm(TRICLINIC))
    doubled = TRICLINIC * [[2], [1], [1]]
    both = np.concatenate((positions, positions + TRICLINIC[0]))
    twice = potential_of(small_model(), numbers * 2, True)(nm(both), nm(doubled))
    assert float(twice[0]) == pytest.approx(2 * float(once[0]), abs=1e-9)
    torch.testing.assert_close(twice[1], once[1].repeat(2, 1), atol=1e-8, rtol=0)


def test_float32_far_from_the_origin_is_as_good_as_at_the_origin():
    """The displacements are taken in float64: 1 km away, float32 positions would be off by 100 A."""
    numbers, positions = cluster(9)
    exact = potential_of(small_model(), numbers, False)(nm(positions))
    single = potential_of(small_model().float(), numbers, False)
    errors = []
    for shift in (0.0, 1e6):
        energy, forces = single(nm(positions + shift))
        assert energy.dtype == torch.float64 and forces.dtype == torch.float64
        errors.append(float((forces - exact[1]).abs().max()))
    # 1e6 A in float64 leaves 1e-10 A, times a stiffness of about 1e5 kJ/mol/nm/A
    assert max(errors) < 1e-4 * float(exact[1].abs().max())
    assert errors[1] < 2 * errors[0] + 1e-4


def test_forces_come_back_in_the_dtype_of_the_positions_under_no_grad_and_leave_grad_mode_alone():
    numbers, positions = cluster(5)
    potential = potential_of(small_model(), numbers, False)
    reference = potential(nm(positions))[1]
    for module in (potential, torch.jit.script(potential)):
        with torch.no_grad():
            energy, forces = module(nm(positions).float())
            assert not torch.is_grad_enabled()
        assert forces.dtype == torch.float32 and forces.is_contiguous() and not forces.requires_grad
        torch.testing.assert_close(forces.double(), reference, atol=1e-2, rtol=0)
        assert not energy.requires_grad
        leaf = nm(positions).requires_grad_(True)
        assert not module(leaf)[0].requires_grad and leaf.grad is None


def test_a_subset_sees_only_itself():
    numbers, positions = cluster(12)
    atoms = [7, 2, 3, 10]
    mixed = [0 if i not in atoms else z for i, z in enumerate(numbers)]  # what is outside needs no element
    energy, forces = potential_of(small_model(), mixed, False, atoms=atoms)(nm(positions))
    alone = potential_of(small_model(), [numbers[i] for i in atoms], False)(nm(positions[atoms]))
    assert float(energy) == pytest.approx(float(alone[0]), abs=1e-10)
    torch.testing.assert_close(forces[atoms], alone[1])
    outside = [i for i in range(12) if i not in atoms]
    assert (forces[outside] == 0).all() and forces.shape == (12, 3)


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_atoms_without_neighbours_have_no_forces(n_atoms):
    potential = potential_of(small_model(), [8] * n_atoms, False)
    positions = torch.tensor([[0.0, 0, 0], [5.0, 0, 0]])[:n_atoms]
    for module in (potential, torch.jit.script(potential)):
        energy, forces = module(positions)
        assert torch.isfinite(energy) and (forces == 0).all()
    assert float(energy) == pytest.approx(n_atoms * float(potential_of(small_model(), [8], False)(positions[:1])[0]))


def test_scripted_and_frozen_are_the_same_over_a_walk():
    numbers, positions = cluster(9)
    eager = potential_of(small_model(), numbers, True)
    scripted = torch.jit.script(potential_of(small_model(), numbers, True).eval())
    frozen = torch.jit.freeze(scripted)
    rng = np.random.default_rng(0)
    for _ in range(8):
        positions = positions + rng.normal(0, 0.1, positions.shape)
        expected = eager(nm(positions), nm(TRICLINIC))
        for module in (scripted, frozen):
            energy, forces = module(nm(positions), nm(TRICLINIC))
            assert energy.item() == pytest.approx(expected[0].item(), abs=1e-9)
            torch.testing.assert_close(forces, expected[1], atol=1e-8, rtol=0)
    builds = [int(m.neighbors.builds) for m in (eager, scripted)]
    assert builds[0] == builds[1] > 1


def test_wrong_calls_are_loud():
    numbers, positions = cluster(4)
    potential = potential_of(small_model(), numbers, True)
    with pytest.raises(RuntimeError, match="made for 4 particles, the system has 3"):
        potential(nm(positions[:3]), nm(TRICLINIC))
    with pytest.raises(RuntimeError, match="given no box"):
        potential(nm(positions))
    positions[2, 1] = np.nan
    for module in (potential, torch.jit.script(potential)):
        with pytest.raises((RuntimeError, torch.jit.Error), match="position of atom 2 is not a usable number"):
            module(nm(positions), nm(TRICLINIC))


def test_wrong_input_is_refused():
    model = small_model()
    with pytest.raises(InputError, match="does not know N, Cl; it was trained on H, C, O"):
        Potential(model, [7, 1, 17, 7], False)
    with pytest.raises(InputError, match=r"atoms \[-1, 4\] are not there: the system has 3 particles"):
        Potential(model, [1, 1, 1], False, atoms=[0, 4, -1])
    with pytest.raises(InputError, match=r"atoms \[1\] are named twice"):
        Potential(model, [1, 1, 1], False, atoms=[0, 1, 1])
    with pytest.raises(InputError, match="is empty"):
        Potential(model, [1, 1, 1], False, atoms=[])
    with pytest.raises(InputError, match="kernels is 'auto', 'native' or 'reference', not 'fast'"):
        make_potential(model, [1], periodic=False, kernels="fast")


def test_the_model_is_copied_and_cut_to_the_elements_that_are_there():
    model = small_model()
    potential, choice = make_potential(model, [1, 1], periodic=False, kernels="reference")
    assert choice.name == "reference"
    inner = potential.energy_and_derivative.model
    assert inner.atomic_numbers.tolist() == [1] and not any(p.requires_grad for p in inner.parameters())
    assert model.atomic_numbers.tolist() == [1, 6, 8] and all(p.requires_grad for p in model.parameters())


def test_isolated_energies_are_summed():
    assert isolated_energy(small_model(torch.float32), [8, 1, 1]) == -2020.0
