"""E0s, neighbours, scale and shift: what the data say, from where it is asked for, or a clear refusal."""

from dataclasses import replace

import ase.neighborlist
import numpy as np
import pytest
import torch
from labelled import SHARED, molecules, to_atoms, write_xyz

from mace_md.errors import InputError
from mace_md.training.batches import PackedGraphs
from mace_md.training.configuration import Configuration
from mace_md.training.data import read_configurations, take_isolated_atoms
from mace_md.training.statistics import check_binding, find_e0s, measure, read_e0s

E0S = {1: -13.5, 6: -1029.0, 8: -2042.0}


def atom(z: int, energy: float | None) -> Configuration:
    return Configuration(np.array([z]), np.zeros((1, 3)), np.zeros((3, 3)), energy=energy, file="atoms.xyz")


def made_of(*formulas: dict[int, int]) -> list[Configuration]:
    """Atoms in a row with exactly the energy of their E0s."""
    frames = []
    for formula in formulas:
        numbers = np.repeat(list(formula), list(formula.values()))
        positions = np.arange(len(numbers))[:, None] * np.array([1.0, 0.5, 0.2])
        energy = sum(E0S[int(z)] for z in numbers)
        frames.append(Configuration(numbers, positions, np.zeros((3, 3)), energy=energy))
    return frames


def test_e0s_of_isolated_atoms():
    e0s = find_e0s("auto", [], [atom(z, e) for z, e in E0S.items()], [1, 6, 8])
    assert e0s.values == E0S and "3 frames of isolated atoms" in e0s.origin


def test_least_squares_finds_the_e0s_that_made_the_energies():
    data = made_of({1: 4, 6: 1}, {1: 2, 8: 1}, {1: 6, 6: 2, 8: 1}, {6: 1, 8: 2})
    e0s = find_e0s("auto", data, [], [1, 6, 8])
    assert "least squares over 4" in e0s.origin and "fix only" not in e0s.origin
    assert e0s.values == pytest.approx(E0S, abs=1e-8)


def test_least_squares_of_one_molecule_keeps_atoms_apart_and_says_that_it_is_not_fixed():
    data = made_of({1: 6, 6: 2, 8: 1})
    e0s = find_e0s("least-squares", data, [], [1, 6, 8])
    assert "fix only 1 of 3" in e0s.origin
    assert e0s.of(data[0].atomic_numbers) == pytest.approx(data[0].energy, abs=1e-8)
    assert e0s.values == pytest.approx(E0S, rel=0.1)


def test_mean_is_the_same_for_every_element():
    data = made_of({1: 4, 6: 1}, {1: 2, 8: 1})
    mean = np.mean([c.energy / len(c.atomic_numbers) for c in data])
    assert find_e0s("mean", data, [], [1, 6, 8]).values == pytest.approx(dict.fromkeys(E0S, mean))


def test_e0s_of_a_model_come_first():
    e0s = find_e0s("auto", [], [atom(1, -1.0)], [1, 6], model=E0S)
    assert e0s.values == {1: E0S[1], 6: E0S[6]} and "model" in e0s.origin


def test_e0s_from_files(tmp_path):
    (tmp_path / "e0s.json").write_text('{"H": -13.5, "6": -1029, "O": -2042.0}')
    assert read_e0s(tmp_path / "e0s.json", [1, 6, 8]).values == E0S
    path = write_xyz(tmp_path / "atoms.xyz", [atom(z, e) for z, e in E0S.items()])
    assert read_e0s(path, [8, 1]).values == {8: E0S[8], 1: E0S[1]}


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda p: find_e0s("isolated", [], [atom(1, -13.5)], [1, 6, 8]),
            "none for C, O. Add frames of these atoms alone",
        ),
        (
            lambda p: find_e0s("isolated", [], [atom(1, None)], [1]),
            "atoms.xyz, frame 0 (counted from 0): an isolated atom",
        ),
        (lambda p: find_e0s("isolated", [], [atom(1, -13.5), atom(1, -13.6)], [1]), "another frame says -13.500000 eV"),
        (lambda p: find_e0s("model", [], [], [1]), "--start-from"),
        (lambda p: read_e0s(p / "none.json", [1]), "cannot be read"),
        (lambda p: read_e0s(p / "bad.json", [1]), "not a table of energies"),
        (lambda p: read_e0s(p / "few.json", [1, 6]), "none for C"),
    ],
)
def test_what_is_missing_is_said(tmp_path, call, message):
    (tmp_path / "bad.json").write_text('{"Xq": 1}')
    (tmp_path / "few.json").write_text('{"H": 1}')
    with pytest.raises(InputError) as error:
        call(tmp_path)
    assert message in str(error.value)


def test_e0s_of_another_method_are_refused():
    data = made_of({1: 4, 6: 1})
    good = find_e0s("isolated", data, [atom(z, e) for z, e in E0S.items()], [1, 6])
    check_binding(data, good)
    wrong = find_e0s("isolated", data, [atom(z, 0.037 * e) for z, e in E0S.items()], [1, 6])
    with pytest.raises(InputError, match="have to be of one method and unit"):
        check_binding(data, wrong)


def test_measures_against_ase_and_numpy():
    data = [*molecules(3, box=5.0), *molecules(2, n_atoms=4)]
    graphs = PackedGraphs(data, r_max=3.5, atomic_numbers=[1, 6, 8])
    table = torch.tensor([[E0S[1], E0S[6], E0S[8]]], dtype=torch.float64)
    found = measure(graphs, table)
    counts = np.concatenate([np.bincount(ase.neighborlist.neighbor_list("i", to_atoms(c), 3.5)) for c in data])
    assert found.avg_num_neighbors == pytest.approx(counts.mean(), rel=1e-12)
    per_atom = [(c.energy - sum(E0S[int(z)] for z in c.atomic_numbers)) / len(c.atomic_numbers) for c in data]
    assert found.mean_energy[0] == pytest.approx(np.mean(per_atom), abs=1e-9)
    assert found.std_energy[0] == pytest.approx(np.std(per_atom), abs=1e-6)
    forces = np.concatenate([c.forces for c in data])
    assert found.rms_forces[0] == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-12)


def test_frames_without_a_label_do_not_count():
    data = molecules(4)
    with_gaps = [*data, *(replace(c, energy=None, forces=None) for c in molecules(3, seed=1))]
    table = torch.zeros(1, 3, dtype=torch.float64)
    how = {"r_max": 3.5, "atomic_numbers": [1, 6, 8]}
    some, every = measure(PackedGraphs(data, **how), table), measure(PackedGraphs(with_gaps, **how), table)
    assert every.rms_forces == pytest.approx(some.rms_forces) and every.mean_energy == pytest.approx(some.mean_energy)


@pytest.mark.skipif(not SHARED.exists(), reason="reference data are not here")
def test_acac():
    """E0s are in the file; the molecule is bound by 4.9 eV an atom."""
    isolated = take_isolated_atoms(read_configurations(SHARED / "acac" / "isolated_atoms.xyz"))[1]
    e0s = find_e0s("auto", [], isolated, [1, 6, 8])
    assert e0s.values == pytest.approx({1: -13.5684, 6: -1026.8539, 8: -2037.7969}, abs=1e-4)
    check_binding(read_configurations(SHARED / "acac" / "train_300K.xyz.gz"), e0s)
