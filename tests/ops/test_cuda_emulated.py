"""What the CUDA side of the op promises beyond the numbers, on the emulated GPU."""

import numpy as np
import pytest
import torch
from cuda_emulation import blob_arguments, report
from native import BASE, TRICLINIC, Native, make_model, needs_library, packed, random_atoms, reference

from mace_md.model.fast.folded import fold
from mace_md.ops.energy_forces import PROBLEMS
from mace_md.units import EV_TO_KJ_MOL

pytestmark = needs_library
R_MAX = BASE["r_max"]
OVERFLOW = next(bit for bit, text in PROBLEMS.items() if "outgrew" in text)


either_size = pytest.mark.parametrize("small_system", [1024, 0], ids=["small", "large"])  # has kernels of its own


def make_native(kind="vectors", dtype=torch.float64, **variant):
    return Native(make_model(kind), dtype, engine="emulated", **variant)


def test_forces_and_virial_are_finite_differences(emulation):
    native, atoms = make_native(), random_atoms(cell=TRICLINIC)
    _, forces, virial = native(atoms)
    h = 1e-4  # A
    for i, d in [(0, 0), (3, 1), (7, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, d] += sign * h
            energies.append(native(moved)[0])
        assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(forces[i, d], abs=1e-6)
    assert np.abs(virial - virial.T).max() < 1e-7  # no torque on a periodic system


def test_a_steady_step_of_a_graph_neither_waits_nor_copies_nor_allocates(emulation):
    native, atoms = make_native(), random_atoms(cell=TRICLINIC)
    expected = native(atoms)
    place, before = native.state.data_ptr(), emulation.counts
    emulation.capturing = True
    captured = native(atoms)
    emulation.capturing = False
    after = emulation.counts
    assert after["synchronisations"] == before["synchronisations"]
    assert after["copies"] == before["copies"]
    assert after["launches"] > before["launches"]
    assert native.state.data_ptr() == place
    assert captured[0] == expected[0] and np.array_equal(captured[1], expected[1])


def test_the_first_call_cannot_be_captured(emulation):
    native = make_native()
    emulation.capturing = True
    with pytest.raises(RuntimeError, match="must not be captured"):
        native(random_atoms())


@either_size
def test_a_list_that_outgrows_its_room_is_loud_in_a_graph_and_grows_outside(emulation, small_system):
    native = make_native("scalars", small_system=small_system)
    wide = random_atoms(8, cell=np.eye(3) * 6.0, spacing=1.8)
    dense = wide.copy()
    dense.set_cell(np.eye(3) * 2.0, scale_atoms=True)
    native(wide)
    capacity = native.status().capacity
    emulation.capturing = True
    energy, forces, virial = native(dense)
    again = native(wide)
    emulation.capturing = False
    assert np.isnan(energy) and np.isnan(forces).all() and np.isnan(virial).all()
    assert np.isfinite(again[0]) and np.isfinite(again[1]).all()  # nothing is left of it when there is room again
    status = native.status(clear=True)
    assert status.problems == OVERFLOW and status.capacity == capacity
    assert native.status().problems == 0
    expected = reference(native.folded, dense, R_MAX)
    found = native(dense)
    assert found[0] == pytest.approx(expected[0], abs=1e-9)
    assert np.abs(found[1] - expected[1]).max() < 1e-8
    assert native.status().capacity >= native.status().n_candidates > capacity


@either_size
def test_a_graph_follows_atoms_and_box_with_rebuilds_on_the_device(emulation, small_system):
    rng = np.random.default_rng(0)
    native, atoms = make_native("scalars", small_system=small_system), random_atoms(cell=TRICLINIC)
    native(atoms)
    emulation.capturing = True
    for step in range(12):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if step % 3 == 2:  # a barostat, and a host that wraps
            atoms.set_cell(atoms.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=True)
            atoms.wrap()
        expected = reference(native.folded, atoms, R_MAX)
        energy, forces, _ = native(atoms)
        assert energy == pytest.approx(expected[0], abs=1e-9)
        assert np.abs(forces - expected[1]).max() < 1e-8
    emulation.capturing = False
    assert 1 < native.status().n_builds < 12


@pytest.mark.parametrize(
    ("kind", "n_atoms", "cell"),
    [("scalars", 24, np.eye(3) * 6.2), ("density", 12, TRICLINIC), ("scalars", 33, None)],
    ids=["box of water", "triclinic", "free"],
)
def test_few_atoms_take_fewer_launches_for_the_same_results(emulation, kind, n_atoms, cell):
    atoms, launches = random_atoms(n_atoms, cell=cell), {}
    for most in (n_atoms, n_atoms - 1):
        native = make_native(kind, small_system=most)
        expected = reference(native.folded, atoms, R_MAX)
        energy, forces, virial = native(atoms)
        assert energy == pytest.approx(expected[0], abs=1e-9)
        assert np.abs(forces - expected[1]).max() < 1e-8
        assert np.abs(virial - expected[2]).max() < 1e-7
        before = emulation.counts["launches"]
        native(atoms)
        launches[most] = emulation.counts["launches"] - before
    assert launches[n_atoms] == launches[n_atoms - 1] - 5


def test_tables_go_into_shared_memory_where_they_fit(emulation):
    atoms = random_atoms(cell=TRICLINIC)
    for dtype, fits in ((torch.float32, 1), (torch.float64, 0)):  # float64 has four times the knots, of twice the size
        before = emulation.launches_of("conv2_reverse_shared")
        Native(make_model(), dtype, engine="emulated", shared_tables=True)(atoms)
        assert emulation.launches_of("conv2_reverse_shared") == before + fits


@pytest.mark.parametrize("flags", ["", "fused_nodes", "fused_nodes tensor_cores", "joined_groups"])
@pytest.mark.parametrize("kind", ["vectors", "density"])
def test_results_do_not_depend_on_the_order_of_threads(emulation, kind, flags, monkeypatch):
    model, variant = make_model(kind, num_channels=16), dict.fromkeys(flags.split(), True)
    variant["small_system"] = 0 if "joined_groups" in flags else 1024
    native = Native(model, torch.float32, engine="emulated", **variant)
    atoms = random_atoms(n_atoms=20, cell=TRICLINIC, spacing=0.8)
    first = native(atoms)
    monkeypatch.setenv("EMULATED_ORDER", "reverse")
    native.state.resize_(1)
    for found in (native(atoms), native(atoms)):
        assert found[0] == first[0]
        assert np.array_equal(found[1], first[1]) and np.array_equal(found[2], first[2])


@either_size
def test_what_is_not_finite_is_refused_and_forgotten(emulation, small_system):
    native, atoms = make_native("scalars", small_system=small_system), random_atoms(cell=TRICLINIC)
    expected = native(atoms)
    broken = atoms.copy()
    broken.positions[2, 1] = np.nan
    with pytest.raises(RuntimeError, match="not finite"):
        native(broken)
    emulation.capturing = True
    assert np.isnan(native(broken)[0])
    found = native(atoms)
    emulation.capturing = False
    assert found[0] == pytest.approx(expected[0], abs=1e-12)
    assert native.status().problems == 2


def test_copies_of_a_state_are_states_of_their_own(emulation):
    native, atoms = make_native("scalars"), random_atoms(cell=TRICLINIC)
    moved = atoms.copy()
    moved.positions += np.random.default_rng(0).normal(scale=0.3, size=(len(atoms), 3))
    here, there = native(atoms), make_native("scalars")(moved)
    copied = make_native("scalars")
    copied.state = native.state.clone()
    for _ in range(3):
        assert native(atoms)[0] == pytest.approx(here[0], abs=1e-11)
        assert copied(moved)[0] == pytest.approx(there[0], abs=1e-11)


@either_size
def test_states_that_only_look_right_are_made_again(emulation, small_system):
    native, atoms = make_native("scalars", small_system=small_system), random_atoms(cell=TRICLINIC)
    expected = native(atoms)[0]
    native.state = torch.full_like(native.state, 17)  # the size of a known state, and something else inside
    assert native(atoms)[0] == pytest.approx(expected, abs=1e-11)
    native.state.fill_(17)  # at a known address
    emulation.capturing = True
    assert all(np.isnan(result).all() for result in native(atoms))
    emulation.capturing = False
    assert native(atoms)[0] == pytest.approx(expected, abs=1e-11)


def test_types_and_models_that_change_in_place_are_noticed(emulation):
    native, atoms = make_native("scalars"), random_atoms(cell=TRICLINIC)
    arguments = native.arguments(atoms)
    native.raw(*arguments)
    other = atoms.copy()
    other.numbers = np.where(atoms.numbers == 1, 6, 1)
    arguments[2].copy_(native.arguments(other)[2])
    expected = reference(native.folded, other, R_MAX)[0] * EV_TO_KJ_MOL
    assert float(native.raw(*arguments)[0]) == pytest.approx(expected, abs=1e-7)
    rescaled = make_model("scalars")
    rescaled.scale.fill_(0.4)
    native.blob = arguments[3].clone()
    arguments = (*arguments[:3], native.blob, arguments[4])
    native.raw(*arguments)
    native.blob.copy_(packed(fold(rescaled), torch.float64, 0.5, "auto"))
    expected = reference(rescaled, other, R_MAX)[0] * EV_TO_KJ_MOL
    assert float(native.raw(*arguments)[0]) == pytest.approx(expected, abs=1e-7)


def test_no_atoms_and_no_particles(emulation):
    native = make_native("scalars")
    positions, _, types, blob, state = native.arguments(random_atoms(4))
    energy, forces, virial = native.raw(positions, None, torch.full_like(types, -1), blob, state)
    assert float(energy) == 0 and not forces.any() and not virial.any()


def test_code_is_cached_and_damaged_files_are_compiled_again(emulation, tmp_path, monkeypatch):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path / "new" / "folder"))
    blob = make_native("scalars").blob

    def compile_once() -> int:
        before = emulation.counts["compilations"]
        report("mace_md_compile_kernels", *blob_arguments(blob), 0)
        return emulation.counts["compilations"] - before

    assert compile_once() == 1
    (file,) = (tmp_path / "new" / "folder" / "kernels").iterdir()
    good = file.read_bytes()
    assert compile_once() == 0
    for damaged in (good[:-1], b"", good[:40], good[:-1] + bytes([good[-1] ^ 1])):
        file.write_bytes(damaged)
        assert compile_once() == 1
        assert file.read_bytes() == good
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing half-written is left
    file.unlink(), file.parent.rmdir()
    file.parent.write_text("not a folder")  # a cache that cannot be written costs time only
    assert compile_once() == 1


def test_memory_forecast_is_what_a_state_takes(emulation):
    native, atoms = make_native("vectors"), random_atoms(n_atoms=40, cell=np.eye(3) * 8.0)
    native(atoms)
    n_candidates = (native.status().capacity - 1024) * 4 // 5  # a forecast has a quarter more, and 1024
    forecast = int(report("mace_md_state_bytes", *blob_arguments(native.blob), len(atoms), n_candidates))
    assert forecast == pytest.approx(native.state.numel(), rel=0.01)  # what it does not know is which types there are


def test_fused_node_kernels_are_taken_when_the_gpu_has_enough_blocks_of_them(emulation):
    def launched(kernel, n_atoms, **variant):
        before = emulation.launches_of(kernel)
        atoms = random_atoms(n_atoms, cell=np.eye(3) * 1.6 * n_atoms ** (1 / 3))
        Native(make_model("scalars"), torch.float32, engine="emulated", **variant)(atoms)
        return emulation.launches_of(kernel) - before

    assert launched("node1", 24) == 0 and launched("node_energy", 24) == 1
    assert launched("node1", 70) == 1  # 4 multiprocessors have two blocks of 8 atoms each
    assert launched("node_energy", 70, fused_nodes=False) == 1
    assert launched("node1", 24, fused_nodes=True) == 1
