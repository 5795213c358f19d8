"""The native op against the plain model, against finite differences, and against its own promises."""

import numpy as np
import pytest
import torch
from ase import Atoms
from native import BASE, KINDS, TRICLINIC, Native, instruction_sets, make_model, needs_library, random_atoms, reference

from mace_md.errors import InputError
from mace_md.model.fast.folded import fold
from mace_md.model.fast.packing import pack
from mace_md.ops.energy_forces import energy_forces, new_state

pytestmark = needs_library
R_MAX = BASE["r_max"]


@pytest.mark.parametrize("cell", [None, TRICLINIC], ids=["free", "triclinic"])
@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_the_plain_model(kind, cell, engine):
    model, atoms = make_model(kind), random_atoms(cell=cell)
    energy, forces, virial = Native(model, engine=engine)(atoms)
    expected = reference(model, atoms, R_MAX)
    assert energy == pytest.approx(expected[0], abs=1e-9)
    assert np.abs(forces - expected[1]).max() < 1e-8  # eV/A, what the knots of the radial tables allow
    assert np.abs(virial - expected[2]).max() < 1e-7


@pytest.mark.parametrize("kind", ["scalars", "vectors", "tensors", "density"])
def test_float32_is_the_plain_model_to_rounding(kind, engine):
    model, atoms = make_model(kind, num_channels=32), random_atoms(n_atoms=40, cell=np.eye(3) * 8.0)
    energy, forces, _ = Native(model, torch.float32, engine=engine)(atoms)
    expected = reference(model, atoms, R_MAX)
    error = np.sqrt(((forces - expected[1]) ** 2).mean() / (expected[1] ** 2).mean())
    assert error < 5e-6
    assert energy == pytest.approx(expected[0], rel=1e-6, abs=1e-5)


ON_GPUS = pytest.mark.parametrize("engine", ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
VARIANTS = ["shared_tables", "fast_sums", "fused_nodes", "fused_nodes tensor_cores", "large", "large joined_groups"]


@ON_GPUS
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("kind", "num_channels"), [("vectors", 48), ("tensors", 16)])
def test_variants_for_gpus_are_the_same_function(kind, num_channels, variant, engine):
    model, atoms = make_model(kind, num_channels=num_channels), random_atoms(cell=TRICLINIC)
    flags = {"small_system": 0} if "large" in variant else {}
    flags |= {name: True for name in variant.split() if name != "large"}
    energy, forces, virial = Native(model, torch.float32, engine=engine, **flags)(atoms)
    expected = reference(model, atoms, R_MAX)
    assert energy == pytest.approx(expected[0], rel=1e-6, abs=1e-5)
    assert np.sqrt(((forces - expected[1]) ** 2).mean() / (expected[1] ** 2).mean()) < 5e-6
    assert np.abs(virial - expected[2]).max() < 1e-5 * np.abs(expected[2]).max()


@ON_GPUS
@pytest.mark.parametrize("kind", KINDS)
def test_fused_node_kernels_are_the_plain_model(kind, engine):
    model, atoms = make_model(kind), random_atoms(n_atoms=30, cell=TRICLINIC * 1.4)  # more than a block of each type
    energy, forces, virial = Native(model, engine=engine, fused_nodes=True)(atoms)
    expected = reference(model, atoms, R_MAX)
    assert energy == pytest.approx(expected[0], abs=1e-9)
    assert np.abs(forces - expected[1]).max() < 1e-8
    assert np.abs(virial - expected[2]).max() < 1e-7


@pytest.mark.parametrize("kind", ["vectors", "tensors of max_ell 2", "density"])
@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_every_instruction_set_is_the_same_function(instruction_set, kind):
    model, atoms = make_model(kind), random_atoms(cell=TRICLINIC)
    best, other = Native(model)(atoms), Native(model, instruction_set=instruction_set)(atoms)
    assert other[0] == pytest.approx(best[0], abs=1e-11)
    assert np.abs(other[1] - best[1]).max() < 1e-11
    single = Native(model, torch.float32, instruction_set)(atoms)
    assert np.abs(single[1] - best[1]).max() < 1e-4 * np.abs(best[1]).max()


def test_one_atom_has_its_shift_and_no_force(engine):
    model = make_model()
    atoms = Atoms("O", positions=[[0.3, 0.2, 0.1]])
    energy, forces, virial = Native(model, engine=engine)(atoms)
    assert energy == pytest.approx(reference(model, atoms, R_MAX)[0], abs=1e-12)
    assert not forces.any() and not virial.any()


def test_atoms_without_neighbours_beside_atoms_with_some(engine):
    model = make_model()
    atoms = random_atoms(n_atoms=6) + Atoms("CO", positions=[[40.0, 0, 0], [0, 60.0, 0]])
    energy, forces, _ = Native(model, engine=engine)(atoms)
    expected = reference(model, atoms, R_MAX)
    assert energy == pytest.approx(expected[0], abs=1e-9)
    assert np.abs(forces - expected[1]).max() < 1e-8


def test_many_neighbours(engine):
    model = make_model("scalars", avg_num_neighbors=(200.0, 200.0))
    atoms = Atoms("C", cell=np.eye(3) * 0.98, pbc=True).repeat(3)
    atoms.positions += np.random.default_rng(0).normal(scale=0.03, size=(27, 3))
    edge_index, _, _ = Native(model, engine=engine).neighbors(atoms)
    assert torch.bincount(edge_index[1]).min() > 190
    forces, expected = Native(model, engine=engine)(atoms)[1], reference(model, atoms, R_MAX)[1]
    assert np.abs(forces - expected).max() < 1e-8


def test_gradients_of_the_energy_are_finite_differences():
    native, atoms = Native(make_model()), random_atoms(cell=TRICLINIC)
    positions, box, types, blob, state = native.arguments(atoms)
    positions.requires_grad_(True), box.requires_grad_(True)
    energy, forces, _ = energy_forces(positions, box, types, blob, state)
    energy.backward()
    assert torch.equal(positions.grad, -forces)
    h = 1e-5  # nm
    for tensor, gradient in ((positions.detach(), positions.grad), (box.detach(), box.grad)):
        for index in [(0, 0), (1, 1), (2, 0), (2, 2)]:
            values = []
            for sign in (1, -1):
                moved = tensor.clone()
                moved[index] += sign * h
                x, b = (moved, box.detach()) if tensor.shape == positions.shape else (positions.detach(), moved)
                values.append(float(energy_forces(x, b, types, blob, state)[0]))
            assert (values[0] - values[1]) / (2 * h) == pytest.approx(float(gradient[index]), rel=1e-6, abs=1e-4)


def test_virial_is_the_strain_derivative(engine):
    native, atoms = Native(make_model(), engine=engine), random_atoms(cell=TRICLINIC)
    virial, h = native(atoms)[2], 1e-5
    for a, b in [(0, 0), (0, 1), (2, 1)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(native(strained)[0])
        assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(virial[a, b], abs=1e-6)


def test_symmetries(engine):
    native, atoms = Native(make_model(), engine=engine), random_atoms(n_atoms=15, cell=TRICLINIC)
    energy, forces, _ = native(atoms)
    wrapped = atoms.copy()
    wrapped.positions += np.random.default_rng(1).integers(-3, 4, size=(15, 3)) @ TRICLINIC
    assert np.abs(native(wrapped)[1] - forces).max() < 1e-10  # the same list serves
    order = np.random.default_rng(2).permutation(15)
    assert np.abs(Native(make_model(), engine=engine)(atoms[order])[1] - forces[order]).max() < 1e-10
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))  # some have det -1: inversion too
    rotated = atoms.copy()
    rotated.set_cell(atoms.cell.array @ rotation), rotated.set_positions(atoms.positions @ rotation)
    found = Native(make_model(), engine=engine)(rotated)
    assert found[0] == pytest.approx(energy, abs=1e-10) and np.abs(found[1] - forces @ rotation).max() < 1e-9


def test_particles_of_another_type_are_left_out(engine):
    native, atoms = Native(make_model(), engine=engine), random_atoms(n_atoms=14, cell=TRICLINIC)
    kept = [0, 3, 4, 9, 13]
    energy, forces, _ = native(atoms[kept])
    positions, box, types, blob, _ = native.arguments(atoms)
    types = types.clone()
    outside = torch.ones(14, dtype=torch.bool)
    outside[kept] = False
    types[outside] = -1
    found, on_all, _ = native.raw(positions, box, types, blob, native.state)
    on_all = on_all.cpu()
    assert float(found) / 96.48533212331002 == pytest.approx(energy, abs=1e-11)
    assert not on_all[outside].any()
    assert np.abs(on_all[kept].numpy() / 964.8533212331002 - forces).max() < 1e-11


def test_results_are_bitwise_repeatable_and_threads_change_only_rounding():
    native, atoms = Native(make_model(), torch.float32), random_atoms(n_atoms=60, cell=np.eye(3) * 8.5)
    first, again = native(atoms), native(atoms)
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded, repeated = native(atoms), native(atoms)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(threaded[1], repeated[1])
    assert np.abs(threaded[1] - first[1]).max() < 1e-5 * np.abs(first[1]).max()


def test_float32_positions_give_float32_forces(engine):
    native, atoms = Native(make_model(), engine=engine), random_atoms(cell=TRICLINIC)
    positions, box, types, blob, state = native.arguments(atoms)
    exact = native.raw(positions, box, types, blob, state)[1]
    energy, forces, virial = native.raw(positions.float(), box.float(), types, blob, state)
    assert (forces.dtype, energy.dtype, virial.dtype) == (torch.float32, torch.float64, torch.float64)
    assert (forces - exact).abs().max() < 1e-4 * exact.abs().max()


class Module(torch.nn.Module):
    """As a host uses the op: constants and state are buffers."""

    def __init__(self, types, blob):
        super().__init__()
        self.register_buffer("types", types)
        self.register_buffer("blob", blob)
        self.register_buffer("state", new_state())

    def forward(self, positions: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, forces, _ = energy_forces(positions, box, self.types, self.blob, self.state)
        return energy, forces


def test_scripted_frozen_and_copied_modules_keep_states_of_their_own(tmp_path):
    native, atoms = Native(make_model()), random_atoms(cell=TRICLINIC)
    positions, box, types, blob, _ = native.arguments(atoms)
    expected = energy_forces(positions, box, types, blob, new_state())[1]
    module = torch.jit.script(Module(types, blob))
    module(positions, box)
    torch.jit.save(module, str(tmp_path / "module.pt"))
    loaded = torch.jit.load(str(tmp_path / "module.pt"))
    frozen = torch.jit.freeze(torch.jit.load(str(tmp_path / "module.pt")).eval())
    copied = module.copy() if hasattr(module, "copy") else loaded
    for other in (module, loaded, frozen, copied):
        assert torch.equal(other(positions, box)[1], expected)
    # two users of copies at different places do not disturb each other
    there = positions + 0.02 * torch.randn(
        positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    elsewhere = energy_forces(there, box, types, blob, new_state())[1]
    for _ in range(3):
        assert torch.allclose(module(positions, box)[1], expected, rtol=0, atol=1e-8)
        assert torch.allclose(loaded(there, box)[1], elsewhere, rtol=0, atol=1e-8)


def test_a_state_serves_other_atoms_models_and_boxes(engine):
    first, second = Native(make_model(), engine=engine), Native(make_model("scalars"), engine=engine)
    second.state = first.state
    for native, atoms in [
        (first, random_atoms(cell=TRICLINIC)),
        (second, random_atoms(n_atoms=30)),
        (first, random_atoms(n_atoms=9, seed=4)),
        (first, random_atoms(seed=5, cell=np.eye(3) * 7)),
    ]:
        expected = reference(native.folded, atoms, R_MAX)
        assert np.abs(native(atoms)[1] - expected[1]).max() < 1e-8


@pytest.mark.parametrize("by", ["positions", "box"])
def test_second_derivatives_are_refused_and_not_zero(by):
    """Asked of the op they would be zero without a word, since its forces are numbers."""
    positions, box, types, blob, state = Native(make_model()).arguments(random_atoms(cell=TRICLINIC))
    positions.requires_grad_(True), box.requires_grad_(True)
    energy = energy_forces(positions, box, types, blob, state)[0]
    leaf = positions if by == "positions" else box
    (slope,) = torch.autograd.grad(energy, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives of the energy.*mace_md.model.mace.predict"):
        torch.autograd.grad(slope.square().sum(), leaf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update(positions=a["positions"][:, :2].contiguous()),
            r"positions must have shape \[n_particles, 3\]",
        ),
        (lambda a: a.update(positions=a["positions"].int()), "positions must be float32 or float64"),
        (lambda a: a.update(positions=a["positions"] * float("nan")), "not finite"),
        (lambda a: a.update(positions=a["positions"] * 0), "two atoms coincide"),
        (lambda a: a.update(box=a["box"][:2]), r"box must have shape \[3, 3\]"),
        (lambda a: a.update(box=a["box"] * 0), "do not span a volume"),
        (lambda a: a.update(types=a["types"][:-1]), "types has 11 entries for 12 particles"),
        (lambda a: a.update(types=a["types"] + 2), "packed for 3 types"),
        (lambda a: a.update(types=a["types"].long()), "types must be a contiguous 1-d int32"),
        (lambda a: a.update(blob=a["blob"][:-64].clone()), "should have"),
        (lambda a: a.update(blob=torch.zeros(4096, dtype=torch.uint8)), "not a packed model"),
        (lambda a: a.update(state=torch.zeros(1)), "state must be a contiguous 1-d uint8"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, message, engine):
    native, atoms = Native(make_model(), engine=engine), random_atoms(cell=TRICLINIC)
    names = ("positions", "box", "types", "blob", "state")
    arguments = dict(zip(names, native.arguments(atoms), strict=True))
    change(arguments)
    with pytest.raises(RuntimeError, match=message):
        native.raw(*arguments.values())
    native(atoms)  # an error leaves the state usable


def test_shapes_without_kernels_are_refused_when_packed():
    from mace_md.model.fast.folded import fold

    with pytest.raises(InputError, match="max_ell is 1"):
        pack(fold(make_model(max_ell=1)), dtype=torch.float32, skin=0.5)
    with pytest.raises(InputError, match="float32 or float64"):
        pack(fold(make_model()), dtype=torch.float16, skin=0.5)


def test_a_state_at_an_odd_address_is_moved():
    native, atoms = Native(make_model()), random_atoms(cell=TRICLINIC)
    expected = native(atoms)[1]
    native.state = torch.zeros(native.state.numel() + 1, dtype=torch.uint8)[1:]
    assert native.state.data_ptr() % 64 != 0
    assert np.array_equal(native(atoms)[1], expected)


def test_tensor_cores_need_single_precision_and_whole_tiles_of_channels():
    for kind, dtype in (("vectors", torch.float32), ("narrow edges", torch.float32)):
        with pytest.raises(InputError, match="multiple of 16 channels"):
            pack(fold(make_model(kind)), dtype=dtype, skin=0.5, tensor_cores=True)
    with pytest.raises(InputError, match="float64"):
        pack(fold(make_model(num_channels=16)), dtype=torch.float64, skin=0.5, tensor_cores=True)
