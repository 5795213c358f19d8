"""The spread of a committee and the distance from the training data: against definitions, and as a run uses them."""

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from water_box import water_pdb

from mace_md.cli import main
from mace_md.errors import InputError
from mace_md.hosts.ase import ase_calculator
from mace_md.md.watch.uncertainty import Committee, Distance, committee_members, force_deviation
from mace_md.model.build import build_model
from mace_md.model.descriptors import DescriptorStatistics, describe, descriptor_statistics, extrapolation
from mace_md.model.graph import single_graph
from mace_md.model.reading.checkpoint import load_model, save_model
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.structures.structure import read_structure

QUICK = [
    "--steps", "20", "--timestep", "0.5", "--no-minimize", "--threads", "1", "--platform", "Reference", "--kernels",
    "reference", "--check", "skip", "--closest-contact", "0", "--max-force", "1e6", "--seed", "3", "--report-interval",
    "10", "--checkpoint-interval", "10", "--uncertainty-interval", "5", "--bond-break", "warn",
]  # fmt: skip


@pytest.fixture
def other_models(tiny_model, tmp_path):
    """Two models of the shape of the tiny one, with other weights."""
    config = load_model(tiny_model).config
    return [
        save_model(build_model(config, seed=seed, dtype=torch.float64), tmp_path / f"{seed}.mace") for seed in (8, 9)
    ]


@pytest.fixture
def box(tmp_path):
    return water_pdb(tmp_path / "water.pdb", per_side=2)


def table(folder):
    with open(folder / "uncertainty.csv") as file:
        return list(csv.DictReader(file))


def graphs_of(model, n, spread, seed=0):
    """Water boxes with displaced atoms as graphs of `model`."""
    rng = np.random.default_rng(seed)
    cell = torch.eye(3, dtype=torch.float64) * 6.2
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) * 3.1
    water = np.array([[0.0, 0, 0], [0.957, 0, 0], [-0.240, 0.927, 0]])
    species = torch.tensor([3, 0, 0] * 8)
    graphs = []
    for _ in range(n):
        x = torch.tensor((grid + water).reshape(-1, 3) + rng.normal(0, spread, (24, 3)))
        edge_index, shifts = neighbor_list(x, cell, True, model.r_max)
        graphs.append(single_graph(x, species, edge_index, shifts, cell))
    return graphs


def test_deviation_is_that_of_its_definition():
    forces = np.random.default_rng(1).normal(size=(4, 7, 3))
    for atom, found in enumerate(force_deviation(forces)):
        mean = sum(forces[m, atom] for m in range(4)) / 4
        expected = np.sqrt(sum(np.dot(forces[m, atom] - mean, forces[m, atom] - mean) for m in range(4)) / 4)
        assert abs(found - expected) < 1e-12


def test_committee_evaluates_each_model_as_ase_does(tiny_model, other_models, box):
    """Total energies and forces of every member against its ASE calculator (the plain evaluation of the model)."""
    structure = read_structure(box)
    models = [load_model(path) for path in (tiny_model, *other_models)]
    committee = Committee(models, structure.atomic_numbers, periodic=True, kernels="reference")
    energies, forces = committee.evaluate(structure.positions, structure.box)
    atoms = ase.Atoms(numbers=structure.atomic_numbers, positions=10 * structure.positions, cell=10 * structure.box)
    atoms.pbc = True
    for model, energy, force in zip(models, energies, forces, strict=True):
        atoms.calc = ase_calculator(model, kernels="reference")
        assert abs(atoms.get_potential_energy() - energy) < 1e-8
        assert np.abs(atoms.get_forces() - force).max() < 1e-8


SHARED = Path(__file__).parents[4] / "shared"


def test_a_committee_gives_the_same_bits_whatever_it_evaluated_before(tiny_model, tmp_path):
    """So that uncertainty.csv of a continued run is that of the run in one piece."""
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=3))
    model = load_model(tiny_model, dtype="float32")
    moved = structure.positions + np.random.default_rng(3).uniform(-0.01, 0.01, structure.positions.shape)  # nm

    def committee():
        return Committee([model, model], structure.atomic_numbers, periodic=True)

    used = committee()
    used.evaluate(structure.positions, structure.box)  # a list that is still complete for the positions after
    for one, two in zip(used.evaluate(moved, structure.box), committee().evaluate(moved, structure.box), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the published models are not here")
def test_published_committee_on_a_liquid_against_labels():
    """Three models of one study on a frame of their test set: the spread is of the size of their errors, not of another
    unit; each is evaluated as ASE does."""
    path = SHARED / "data" / "solvent_xtb" / "solvent_liquid.xyz"
    atoms = ase.io.read(path, index=0)
    labels = atoms.get_forces()
    files = [SHARED / "models" / f"ec_emc_mace02_com{number}_swa.model" for number in (1, 2, 3)]
    models = [load_model(file, dtype="float64") for file in files]
    committee = Committee(models, atoms.numbers.tolist(), periodic=True)
    _, forces = committee.evaluate(atoms.positions / 10, np.array(atoms.cell) / 10)
    errors = np.sqrt(((forces - labels) ** 2).mean(axis=(1, 2)))
    deviation = force_deviation(forces)
    assert 0.3 < np.sqrt((deviation**2).mean() / 3) / errors.mean() < 1.5
    atoms.calc = ase_calculator(models[1], kernels="reference")
    assert np.abs(atoms.get_forces() - forces[1]).max() < 1e-6


def test_equal_models_agree(tiny_model, box):
    structure = read_structure(box)
    models = [load_model(tiny_model) for _ in range(3)]
    _, forces = Committee(models, structure.atomic_numbers, periodic=True).evaluate(structure.positions, structure.box)
    assert force_deviation(forces).max() < 1e-12


def test_distances_are_those_of_mahalanobis(tiny_model):
    """Against the textbook formula with numpy's inverse of the shrunken covariance, for every atom."""
    model = load_model(tiny_model)
    graphs = graphs_of(model, 6, 0.1)
    statistics = descriptor_statistics(model, graphs)
    rows = [describe(model, _vectors(graph), graph.species, graph.edge_index) for graph in graphs]
    x = torch.cat([row[graph.species == 0] for row, graph in zip(rows, graphs, strict=True)]).numpy()
    n, n_features = x.shape
    shrinkage = n_features / (n_features + n)
    covariance = np.cov(x.T)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / n_features * np.eye(n_features)
    offset = x - x.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", offset, np.linalg.inv(shrunk), offset))
    expected /= np.sort(expected)[int(0.999 * n)]
    hydrogen = torch.zeros(n, dtype=torch.int64)
    found = extrapolation(statistics, torch.from_numpy(x), hydrogen).numpy()
    assert np.abs(found - expected).max() < 1e-6  # the shrunken covariance has a floor of 1e-10
    assert statistics.count[0] == n


def _vectors(graph):
    from mace_md.model.graph import edge_vectors

    return edge_vectors(graph)


def test_new_structures_of_the_same_kind_are_near_and_others_far(tiny_model):
    model = load_model(tiny_model)
    statistics = descriptor_statistics(model, graphs_of(model, 40, 0.05))
    largest = {}
    for spread in (0.05, 0.3):
        graph = graphs_of(model, 1, spread, seed=99)[0]
        features = describe(model, _vectors(graph), graph.species, graph.edge_index)
        largest[spread] = float(extrapolation(statistics, features, graph.species).max())
    assert largest[0.05] < 1.5
    assert largest[0.3] > 3.0


def test_element_without_data_is_infinitely_far(tiny_model):
    model = load_model(tiny_model)
    statistics = descriptor_statistics(model, graphs_of(model, 4, 0.05))
    carbon = torch.tensor([1])
    assert torch.isinf(extrapolation(statistics, torch.zeros(1, model.num_channels, dtype=torch.float64), carbon)).all()


def test_statistics_travel_in_the_model_file_and_change_no_energy(tiny_model, tmp_path, box):
    model = load_model(tiny_model)
    assert model.descriptor_statistics is None
    model.descriptor_statistics = descriptor_statistics(model, graphs_of(model, 4, 0.05))
    path = save_model(model, tmp_path / "known.mace")
    again = load_model(path)
    for name, tensor in vars(model.descriptor_statistics).items():
        assert torch.equal(torch.nan_to_num(getattr(again.descriptor_statistics, name)), torch.nan_to_num(tensor))
    structure = read_structure(box)
    atoms = ase.Atoms(numbers=structure.atomic_numbers, positions=10 * structure.positions)
    energies = []
    for file in (tiny_model, path):
        atoms.calc = ase_calculator(str(file), kernels="reference")
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]
    assert Distance(again, structure.atomic_numbers, True).evaluate(structure.positions, structure.box).shape == (24,)


def test_statistics_that_do_not_fit_are_refused():
    tensors = DescriptorStatistics(torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.ones(2), torch.ones(2)).tensors()
    with pytest.raises(InputError, match="do not fit the model: mean"):
        DescriptorStatistics.from_tensors(tensors, 2, 4)
    tensors.pop("descriptors.limit")
    with pytest.raises(InputError, match="incomplete"):
        DescriptorStatistics.from_tensors(tensors, 2, 3)


@pytest.fixture
def run(tmp_path, box, tiny_model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=tiny_model):
        capsys.readouterr()
        code = main(["run", str(box), "--model", str(model), *QUICK, "--output", "out", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_run_with_a_committee_logs_collects_and_continues(run, tmp_path, other_models):
    given = ("--committee", ",".join(map(str, other_models)), "--committee-limit", "1e-6", "--on-uncertain", "collect")
    code, out, _ = run(*given)
    assert code == 0
    assert "committee: 3 models; every 5 steps" in out
    assert out.count("the models differ in the force on atom ") == 3  # and no more than that
    rows = table(tmp_path / "out")
    assert [row["step"] for row in rows] == ["5", "10", "15", "20"]
    frames = ase.io.read(tmp_path / "out" / "uncertain.extxyz", index=":")
    assert len(frames) == 4
    for row, frame in zip(rows, frames, strict=True):
        assert abs(frame.arrays["force_std"].max() - float(row["force_std_max_eV_A"])) < 1e-6
        assert frame.arrays["force_std"].argmax() + 1 == int(row["force_std_max_atom"])
    run("--restart", "--steps", "40", *given)
    assert [row["step"] for row in table(tmp_path / "out")] == [str(step) for step in range(5, 41, 5)]
    assert len(ase.io.read(tmp_path / "out" / "uncertain.extxyz", index=":")) == 8
    code, _, err = run("--restart", "--steps", "60", "--committee", other_models[0])
    assert (code, "committee (sha256) was" in err) == (1, True)


def test_run_stops_where_the_models_differ(run, other_models):
    code, _, err = run("--committee", other_models[0], "--committee-limit", "1e-6", "--on-uncertain", "stop")
    assert code == 3
    assert "step 5: the models differ in the force on atom " in err
    assert "The checkpoint in out is of step 0" in err


def test_run_with_a_model_that_knows_its_training_data(run, tiny_model, tmp_path):
    model = load_model(tiny_model)
    model.descriptor_statistics = descriptor_statistics(model, graphs_of(model, 10, 0.001))
    path = save_model(model, tmp_path / "known.mace")
    code, out, _ = run("--temperature", "600", model=path)
    assert code == 0
    assert "the training data are left by atom " in out
    assert float(table(tmp_path / "out")[-1]["extrapolation_max"]) > 2


def test_listing_of_a_training(tmp_path, tiny_model, other_models):
    listing = tmp_path / "committee.json"
    listing.write_text(json.dumps({"format": 1, "members": [{"model": "8.mace"}, {"model": "9.mace"}]}))
    assert committee_members([str(listing)]) == [str(path) for path in other_models]
    for text in ("", "[]", '{"members": 3}', '{"members": [{"model": 3}]}', '{"members": [{}]}', "\xff"):
        listing.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="lists no committee"):
            committee_members([str(listing)])


def test_committee_of_the_same_model_is_refused(run, tiny_model):
    code, _, err = run("--committee", tiny_model)
    assert code == 1
    assert "names no model but the one that is run" in err
