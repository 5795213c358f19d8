"""The kinds of files that people bring: read whole, in their own units, or refused by what is wrong in them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, frame_text, lattice, read_in_order, strained_crystals, with_stress
from labelled import molecule, molecules
from small_model import cluster, small_model

from mace_md.errors import InputError
from mace_md.model.mace import predict
from mace_md.training.batches import PackedGraphs
from mace_md.training.checks import check_data
from mace_md.training.configuration import Configuration, LabelFormat
from mace_md.training.coverage import cover, refuse_unknown_heads, refuse_unlearned_elements, refuse_useless
from mace_md.training.data import read_configurations, take_isolated_atoms
from mace_md.training.hdf5 import write_hdf5
from mace_md.training.own_units import own_units
from mace_md.training.stress_checks import compare_with_model
from mace_md.training.writing import write_configurations
from mace_md.units import EV_PER_CUBIC_ANGSTROM_TO_BAR, HARTREE_TO_EV, KCAL_MOL_TO_EV

FOLDER = Path(__file__).parent
GPA = EV_PER_CUBIC_ANGSTROM_TO_BAR / 1e4  # in eV/A^3
SPRINGS = molecules(6)


def text_of(frames, comment="REF_energy={energy:.10f}", between="", **how) -> str:
    return between.join(frame_text(c, comment.format(energy=c.energy), **how) for c in frames)


def write(path, text: str):
    path.write_bytes(text.encode())
    return path


def energies(path, **how) -> list[float]:
    return [c.energy for c in read_configurations(path, LabelFormat(**how))]


needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the files of cases")

# --- the reading of extended XYZ ---


@pytest.mark.parametrize("between", ["\n", "\n\n", "  \n\t\n", "\r\n"])
@pytest.mark.parametrize("ends", ["", "\n\n\n"])
def test_empty_lines_between_frames_end_nothing(tmp_path, between, ends):
    path = write(tmp_path / "data.xyz", "\ufeff" + text_of(SPRINGS, between=between) + ends)
    assert energies(path) == pytest.approx([c.energy for c in SPRINGS], abs=1e-9)


def test_an_empty_comment_is_a_comment(tmp_path):
    path = write(tmp_path / "data.xyz", "1\n\nH 0 0 0\n\n1\n\nH 0 0 1\n")
    assert [c.positions[0, 2] for c in read_configurations(path)] == [0.0, 1.0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "data.xyz").write_bytes(text_of(SPRINGS, "REF_energy={energy:.10f} by=Kov\xe1cs").encode(encoding))
    assert energies(tmp_path / "data.xyz") == pytest.approx([c.energy for c in SPRINGS], abs=1e-9)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda lines: lines[:3] + [""] + lines[3:], "line 4 is empty after 1 of the 6 atoms of frame 0"),
        (lambda lines: lines[:-2], "the file ends after 4 of the 6 atoms of frame 5"),
        (lambda lines: [*lines[:8], "H 0 0 0", *lines[8:]], "line 9: 'H 0 0 0' after frame 0"),
        (lambda lines: ["six", *lines[1:]], "line 1: 'six' at the start of the first frame"),
        (lambda lines: [*lines[:3], "C 0.0 0.0 zero 0 0 0", *lines[4:]], "frame 0 (counted from 0), from line 1 on"),
    ],
)
def test_half_a_frame_is_refused_with_its_line(tmp_path, spoil, message):
    path = write(tmp_path / "data.xyz", "\n".join(spoil(text_of(SPRINGS).splitlines())) + "\n")
    with pytest.raises(InputError) as error:
        read_configurations(path)
    assert message in str(error.value)


def test_elements_as_numbers_labels_and_isotopes_and_exponents_with_d(tmp_path):
    rows = "6 0 0 0\nC12 0 0 1.5D+00\nD 0 0 -1\nh1 0 1 0\n"
    path = write(tmp_path / "data.xyz", f"4\nREF_energy=-1.5D+01\n{rows}")
    (found,) = read_configurations(path)
    assert found.atomic_numbers.tolist() == [6, 6, 1, 1] and found.energy == -15.0
    assert found.positions[1, 2] == 1.5


def test_columns_without_a_name_are_told(tmp_path, caplog):
    path = write(tmp_path / "data.xyz", "1\nenergy=1.0\nH 0 0 0 0.1 0.2 0.3\n")
    with caplog.at_level(logging.WARNING, logger="mace_md"):
        read_configurations(path)
    assert "7 columns, of which 4 have a name" in caplog.text


# --- labels of one frame ---


@pytest.mark.parametrize(
    "stress",
    [
        'stress="1 2 3 4 5 6"', "stress=[1,2,3,4,5,6]", 'stress="1 6 5 6 2 4 5 4 3"', 'REF_stress="1 2 3 4 5 6"',
        'stress="[[1, 6, 5], [6, 2, 4], [5, 4, 3]]"', 'stress="_JSON [[1, 6, 5], [6, 2, 4], [5, 4, 3]]"',
        "stress=[[1,6,5],[6,2,4],[5,4,3]]", 'stress="1D0 2.0 3 4 5 6"',
    ],
)  # fmt: skip
def test_every_way_to_write_a_stress(tmp_path, stress):
    text = f'1\nLattice="9 0 0 0 9 0 0 0 9" energy=1.0 {stress}\nH 0 0 0\n'
    (found,) = read_configurations(write(tmp_path / "data.xyz", text))
    np.testing.assert_array_equal(found.stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_a_stress_of_seven_numbers_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", '1\nLattice="9 0 0 0 9 0 0 0 9" stress="1 2 3 4 5 6 7"\nH 0 0 0\n')
    with pytest.raises(InputError, match="9 numbers or 6"):
        read_configurations(path)


@pytest.mark.parametrize("virial, fits", [(-27.0, True), (27.0, False), (-0.17, False)])
def test_stress_and_virials_have_to_agree(tmp_path, virial, fits):
    diagonal = "{0} 0 0 0 {0} 0 0 0 {0}"
    words = f'Lattice="3 0 0 0 3 0 0 0 3" stress="{diagonal.format(1.0)}" virial="{diagonal.format(virial)}"'
    path = write(tmp_path / "data.xyz", f"1\n{words}\nH 0 0 0\n")
    if fits:
        np.testing.assert_allclose(read_configurations(path)[0].stress, np.eye(3), atol=1e-12)
        return
    with pytest.raises(InputError, match="contradict each other"):
        read_configurations(path)
    chosen = read_configurations(path, LabelFormat(virials_key="virial"))[0].stress
    np.testing.assert_allclose(chosen, -virial / 27.0 * np.eye(3), atol=1e-12)


def test_a_stress_without_a_volume_is_left_out_and_counted(tmp_path, caplog):
    text = "".join(
        f'1\nLattice="3 0 0 0 3 0 0 0 {c}" pbc="{pbc}" energy=1.0 stress="1 0 0 0 1 0 0 0 1"\nH 0 0 0\n'
        for c, pbc in ((3, "T T T"), (3, "F F F"), (0, "T T F"), (20, "T T F"))
    )
    with caplog.at_level(logging.WARNING, logger="mace_md"):
        found = read_configurations(write(tmp_path / "data.xyz", text))
    assert [c.stress is not None for c in found] == [True, False, False, True]
    assert [round(c.volume) for c in found] == [27, 0, 0, 180]
    assert "the stress of 2 frames is left out" in caplog.text


def test_keys_that_change_are_refused_and_said(tmp_path):
    text = text_of(SPRINGS[:3]) + text_of(SPRINGS[3:], "energy={energy:.10f}")
    path = write(tmp_path / "data.xyz", text)
    with pytest.raises(
        InputError, match="'REF_energy' in 3 frames .first: frame 0. and 'energy' in 3 frames .first: f"
    ):
        read_configurations(path)
    assert [c.energy is None for c in read_configurations(path, LabelFormat(energy_key="energy"))] == [True] * 3 + [
        False
    ] * 3


def test_a_key_under_another_name_is_named(tmp_path):
    text = text_of(SPRINGS, "dft_energy={energy:.10f}").replace("REF_forces", "force")
    data = read_configurations(write(tmp_path / "data.xyz", text))
    with pytest.raises(InputError, match="The file has 'dft_energy': --energy-key dft_energy takes it"):
        check_data(data)
    with pytest.raises(InputError, match="'force': --forces-key force takes it"):
        check_data(data, require=("forces",))


def test_the_log_says_frames_keys_and_units(tmp_path, caplog):
    text = text_of(
        [molecule(np.random.default_rng(0), box=9.0)], 'Lattice="9 0 0 0 9 0 0 0 9" REF_energy={energy:.10f}'
    )
    path = write(tmp_path / "data.xyz", text + text_of(SPRINGS[:2], "config_type=x"))
    with caplog.at_level(logging.INFO, logger="mace_md"):
        read_configurations(path, LabelFormat(energy_unit="Hartree", length_unit="Bohr"))
    line = "3 frames; energy from REF_energy (Hartree) in 1, forces from REF_forces (Hartree/Bohr), no stress"
    assert line in caplog.text


def test_free_energies_that_differ_are_told(tmp_path, caplog):
    path = write(tmp_path / "data.xyz", "2\nenergy=-30.0 free_energy=-30.1\nH 0 0 0\nH 0 0 0.74\n")
    with caplog.at_level(logging.WARNING, logger="mace_md"):
        read_configurations(path)
    assert "free_energy differs from energy by up to 0.05 eV an atom" in caplog.text


# --- units that a file states ---


@pytest.mark.parametrize(
    "stated, energy, length",
    [({"e_unit": "eV", "r_unit": "Ang"}, 1.0, 1.0), ({"e_unit": b"Hartree", "r_unit": "bohr"}, HARTREE_TO_EV, 0.529177),
     ({"e_unit": "kcal mol-1"}, KCAL_MOL_TO_EV, 1.0), ({}, KCAL_MOL_TO_EV, 1.0)],
)  # fmt: skip
def test_units_of_npz_files(tmp_path, stated, energy, length):
    arrays = {"z": SPRINGS[0].atomic_numbers, "R": np.stack([c.positions for c in SPRINGS]),
              "F": np.stack([c.forces for c in SPRINGS]), "E": np.array([[c.energy] for c in SPRINGS])}  # fmt: skip
    np.savez(tmp_path / "data.npz", **arrays, **{key: np.array(value) for key, value in stated.items()})
    found = read_configurations(tmp_path / "data.npz")[2]
    assert found.energy == pytest.approx(SPRINGS[2].energy * energy, rel=1e-9)
    np.testing.assert_allclose(found.positions, SPRINGS[2].positions * length, rtol=2e-6)
    np.testing.assert_allclose(found.forces, SPRINGS[2].forces * energy / length, rtol=2e-6)
    asked = read_configurations(tmp_path / "data.npz", LabelFormat(energy_unit="eV", length_unit="A"))[2]
    assert asked.energy == SPRINGS[2].energy


def test_an_unknown_unit_is_refused():
    with pytest.raises(InputError, match="its 'e_unit' is 'Ry', a unit of energy that is unknown here"):
        own_units({"e_unit": "Ry"}, "data.npz")


def test_boxes_of_sgdml_are_columns(tmp_path):
    cell = np.array([[8.0, 0, 0], [1.0, 9.0, 0], [0.5, 0.2, 7.0]])
    np.savez(tmp_path / "data.npz", z=[1], R=np.zeros((2, 1, 3)), E=np.zeros(2), F=np.zeros((2, 1, 3)), lattice=cell.T,
             e_unit="eV", r_unit="Ang")  # fmt: skip
    found = read_configurations(tmp_path / "data.npz")[1]
    np.testing.assert_array_equal(found.cell, cell)
    assert all(found.pbc)


# --- isolated atoms and ions ---


def atom(z=1, charge=None, box=0.0, kind="Default", energy=-13.6) -> Configuration:
    return Configuration(
        np.array([z]), np.zeros((1, 3)), box * np.eye(3), (box > 0,) * 3, energy, np.zeros((1, 3)), charge=charge,
        config_type=kind,
    )  # fmt: skip


@pytest.mark.parametrize(
    "frame, is_atom, is_rest",
    [
        (atom(), True, False), (atom(box=15.0), True, False), (atom(box=2.9), False, True),
        (atom(box=2.9, kind="isolated_atom"), True, False), (atom(box=15.0, charge=0.0), True, False),
        (atom(charge=1.0), False, False), (atom(box=15.0, charge=-1.0), False, False),
        (atom(box=2.9, charge=1.0), False, True),
    ],
)  # fmt: skip
def test_which_single_atoms_give_e0s(frame, is_atom, is_rest):
    data, isolated = take_isolated_atoms([*SPRINGS, frame])
    assert (len(data) == 7, len(isolated) == 1) == (is_rest, is_atom)


@pytest.mark.parametrize(
    "words", ["charge=1", "total_charge=1.0", "REF_charge=1", "Properties=species:S:1:pos:R:3:initial_charges:R:1"]
)
def test_charges_are_found_and_kept(tmp_path, words):
    path = write(tmp_path / "data.xyz", f"1\nenergy=1.0 {words}\nLi 0 0 0 1.0\n")
    (found,) = read_configurations(path)
    assert found.charge == 1.0 and found.is_lone_ion
    for name in ("again.xyz", "again.h5"):
        write_configurations([found], tmp_path / name)
        assert read_configurations(tmp_path / name)[0].charge == 1.0


def test_charges_and_spins_are_told(caplog):
    one, other = (replace(c, charge=float(i), file="x.xyz") for i, c in enumerate(SPRINGS[:2]))
    (remark,) = check_data([one, replace(other, charge=0.0)], doubtful="refuse")
    assert "total charge 0: not used" in remark and "cannot tell apart" not in remark
    (remark,) = check_data([one, other])
    assert "charge 0, 1: not used" in remark and "cannot tell apart" in remark


# --- numbers that stand out ---


def test_one_absurd_force_is_named():
    forces = np.array(SPRINGS[3].forces)
    forces[2] = [0.0, 3000.0, 0.0]
    data = [*molecules(500, seed=1)]
    data[123] = replace(SPRINGS[3], forces=forces, file="data.xyz", frame=123)
    with pytest.raises(InputError, match="data.xyz, frame 123 .counted from 0.: the force on atom 2 .* is 3000 eV/A"):
        check_data(data)


def test_a_large_force_between_atoms_that_are_near_is_none():
    """Two atoms at half their distance: a force of 200 eV/A is what is to be expected."""
    data = molecules(30)
    pair = Configuration(
        np.array([6, 6]), np.array([[0.0, 0, 0], [0.8, 0, 0]]), np.zeros((3, 3)), energy=data[0].energy,
        forces=np.array([[-200.0, 0, 0], [200.0, 0, 0]]),
    )  # fmt: skip
    assert check_data([*data, pair]) == []


def test_one_energy_among_a_thousand():
    data = molecules(1000)
    data[777] = replace(data[777], energy=data[777].energy + 40.0, file="data.xyz", frame=777)
    with pytest.raises(InputError, match="data.xyz, frame 777 .counted from 0.: the energy"):
        check_data(data)


def test_no_cell_vector_where_pbc_is_true():
    with pytest.raises(InputError, match="pbc is true along x, y, z, but there is no cell vector"):
        check_data([replace(c, pbc=(True,) * 3) for c in SPRINGS])


# --- stresses ---

CRYSTALS = strained_crystals()


def test_right_stresses_pass():
    assert check_data(CRYSTALS, require=("energy", "forces", "stress")) == []


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: -s, "Is its sign that of a pressure?"),
        (lambda s: GPA * s, "Is it in GPa (--stress-unit GPa)?"),
        (lambda s: 10 * GPA * s, "Is it in kbar (--stress-unit kbar)?"),
        (lambda s: -10 * GPA * s, "its sign is the other one"),
        (lambda s: read_in_order(s, (0, 1, 2, 5, 3, 4)), "in the order xx yy zz xy yz xz (VASP)"),
        (lambda s: read_in_order(s, (0, 5, 4, 1, 3, 2)), "in the order xx xy xz yy yz zz"),
        (lambda s: 0.0 * s, "every stress is 0"),
        (lambda s: s + 2.0 * np.abs(s).max() * np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), "not symmetric"),
    ],
)
def test_wrong_stresses_are_refused(change, message):
    with pytest.raises(InputError) as error:
        check_data(with_stress(CRYSTALS, change))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s, None), (lambda s: 1.4 * s, None), (lambda s: -s, "of the other sign"),
        (lambda s: GPA * s, "--stress-unit GPa"), (lambda s: read_in_order(s, (0, 1, 2, 5, 3, 4)), None),
    ],
)  # fmt: skip
def test_a_model_judges_stresses(change, message):
    label = np.stack([c.stress for c in CRYSTALS])
    found = compare_with_model(np.stack([change(s) for s in label]), label)
    assert found is None if message is None else message in found


def test_the_stress_that_training_fits_is_that_of_the_box_of_the_file():
    """Finite differences of the energy of a slab by the strain, over the volume of its box, 25 A of vacuum included."""
    model = small_model()
    numbers, positions = cluster(6)
    cell = np.diag([5.0, 5.5, 25.0])

    def graph(strain):
        stretched = np.eye(3) + strain
        c = Configuration(
            np.array(numbers),
            np.asarray(positions) @ stretched,
            cell @ stretched,
            (True, True, False),
            stress=np.eye(3),
        )
        return PackedGraphs([c], r_max=model.r_max, atomic_numbers=model.atomic_numbers.tolist()).batch([0]).graph

    found = predict(model, graph(np.zeros((3, 3))), stress=True).stress[0].numpy()
    h = 1e-5
    for i in (0, 1):
        strain = np.zeros((3, 3))
        strain[i, i] = h
        energies = [float(predict(model, graph(sign * strain)).energy) for sign in (1, -1)]
        expected = (energies[0] - energies[1]) / (2 * h) / np.linalg.det(cell)
        assert found[i, i] == pytest.approx(expected, abs=1e-9)  # eV/A^3
    assert np.abs(found).max() > 1e-5


# --- what a training can use ---


@pytest.mark.parametrize("weights", [{"weight": -1.0}, {"forces_weight": float("nan")}])
def test_impossible_weights(weights):
    with pytest.raises(InputError, match="A weight is a number from 0 on"):
        cover([*SPRINGS, replace(SPRINGS[0], **weights)])


@pytest.mark.parametrize("weights", [{"weight": 0.0}, {"energy_weight": 0.0, "forces_weight": 0.0}])
def test_nothing_to_learn_is_refused(weights):
    useless, useful = cover([replace(c, **weights) for c in SPRINGS]), cover(SPRINGS)
    in_loss = {"energy": 1.0, "forces": 100.0, "stress": 0.0}
    for parts in ((useless, useful), (useful, useless)):
        with pytest.raises(InputError, match="all 6 frames to .* have the weight 0"):
            refuse_useless(*parts, in_loss)
    with pytest.raises(InputError, match="are all 0: there is nothing to learn"):
        refuse_useless(useful, useful, dict.fromkeys(in_loss, 0.0))
    (few,) = refuse_useless(useful, useful, in_loss)
    assert few.startswith("6 frames to validate with are few")


def test_elements_and_heads_that_cannot_be_learned():
    other = [replace(SPRINGS[0], atomic_numbers=np.array([9, 6, 1, 1, 6, 1]), head="r2scan")]
    with pytest.raises(InputError, match="F: in validation frames, but in no frame to train on"):
        refuse_unlearned_elements(cover(SPRINGS), cover(other))
    with pytest.raises(InputError, match="'Default' .6 frames., 'r2scan' .1 frames.; .*--head-key none"):
        refuse_unknown_heads(cover([*SPRINGS, *other]).heads, ["Default"], "head")


# --- a disk that is full ---


def test_hdf5_on_a_full_disk_raises_and_leaves_nothing(tmp_path):
    import subprocess
    import sys

    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "from labelled import molecules\n"
        "from mace_md.training.hdf5 import write_hdf5\n"
        "try:\n    write_hdf5(molecules(3000), sys.argv[1])\n"
        "except OSError as error:\n    sys.exit(40 + error.errno)\n"
    )
    for size in (500, 150_000, 400_000):
        words = [sys.executable, "-c", code, str(tmp_path / "data.h5"), str(size)]
        done = subprocess.run(words, cwd=FOLDER, capture_output=True)
        assert done.returncode == 40 + 27, done.stderr.decode()[-500:]  # EFBIG, not a signal
        assert list(tmp_path.iterdir()) == []


def test_hdf5_says_what_it_holds(tmp_path, caplog):
    write_hdf5([*CRYSTALS[:3], SPRINGS[0]], tmp_path / "data.h5")
    with caplog.at_level(logging.INFO, logger="mace_md"):
        read_configurations(tmp_path / "data.h5")
    assert (
        "4 frames; energy from energy (eV), forces from forces (eV/A), stress from stress (eV/A^3) in 3" in caplog.text
    )


# --- reported files ---


@needs_cases
@pytest.mark.parametrize(
    "name, frames, isolated",
    [("blank_line_before_last_part.xyz", 40, 0), ("blank_lines.xyz", 20, 0), ("movie_blank.xyz", 4, 0),
     ("gap_isolated_atom_box.xyz", 28, 2), ("sgdml_eV.npz", 12, 0), ("pbc_F.xyz", 14, 0)],
)  # fmt: skip
def test_reported_files(name, frames, isolated):
    data, atoms = take_isolated_atoms(read_configurations(CASES / name))
    assert (len(data), len(atoms)) == (frames, isolated)
    assert check_data(data) == []
    if name == "gap_isolated_atom_box.xyz":
        assert sorted(round(c.energy, 4) for c in atoms) == [-1037.6095, -16.3427]
    if name == "sgdml_eV.npz":
        assert 2.0 < np.sqrt(np.mean([c.forces**2 for c in data])) < 3.0  # eV/A; 23 times less in kcal/mol
    if name == "movie_blank.xyz":
        assert data[3].positions[0, 0] == pytest.approx(300.0, abs=5.0)


@needs_cases
@pytest.mark.parametrize(
    "name, message",
    [
        ("one_huge_force.xyz", "frame 2 .counted from 0.: the force on atom 0"),
        ("nep.xyz", "--forces-key force takes it"),
    ],
)
def test_reported_files_that_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        check_data(read_configurations(CASES / name))


def test_the_box_of_lattice_is_that_of_the_text(tmp_path):
    """Extended XYZ writes the vectors one after the other."""
    path = write(tmp_path / "data.xyz", text_of(CRYSTALS[:1], lattice(CRYSTALS[0]) + " REF_energy={energy:.10f}"))
    np.testing.assert_allclose(read_configurations(path)[0].cell, CRYSTALS[0].cell, atol=1e-9)


@pytest.mark.parametrize("periodic", [True, False])
def test_folders_of_deepmd(tmp_path, periodic):
    frames = CRYSTALS[:5] if periodic else SPRINGS[:5]
    numbers = frames[0].atomic_numbers
    elements = sorted(set(numbers.tolist()))
    (tmp_path / "type.raw").write_text("\n".join(str(elements.index(z)) for z in numbers))
    (tmp_path / "type_map.raw").write_text("\n".join({1: "H", 6: "C", 8: "O"}[z] for z in elements) + "\n")
    if not periodic:
        (tmp_path / "nopbc").touch()
    for name, some in (("set.000", frames[:3]), ("set.001", frames[3:])):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "coord.npy", np.stack([c.positions.ravel() for c in some]))
        np.save(folder / "force.npy", np.stack([c.forces.ravel() for c in some]))
        np.save(folder / "energy.npy", np.array([c.energy for c in some]))
        np.save(folder / "box.npy", np.stack([c.cell.ravel() for c in some]))
        if periodic:
            np.save(folder / "virial.npy", np.stack([-(c.stress * c.volume).ravel() for c in some]))
    for found, c in zip(read_configurations(tmp_path), frames, strict=True):
        assert found.energy == c.energy and found.pbc == c.pbc
        np.testing.assert_array_equal(found.atomic_numbers, numbers)
        for name in ("positions", "forces", "cell") + ("stress",) * periodic:
            np.testing.assert_allclose(getattr(found, name), getattr(c, name), rtol=0, atol=1e-12)


def test_zero_forces_and_energies_per_atom_are_doubted():
    with pytest.raises(InputError, match="every force is 0"):
        check_data([replace(c, forces=0 * c.forces) for c in SPRINGS])
    assert check_data([replace(c, forces=0 * c.forces) for c in SPRINGS], judged=("energy",)) == []
    with pytest.raises(InputError, match="Are energies per atom"):
        check_data([replace(c, energy=c.energy / 6) for c in SPRINGS])
