"""The bundled model: it is the file of its recipe, near its teacher on molecules it was not trained on, and has a core.

tests/data/teacher.npz holds structures of held-out molecules with the teacher's energies and forces (written by
recipes/default_model/check.py, part `reference`); the teacher was read and evaluated there, not here.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from ase.units import fs, kB

from mace_md import ase_calculator, load_model
from mace_md.config import DEFAULT_MODEL
from mace_md.model.graph import Graph
from mace_md.model.mace import predict
from mace_md.model.reading import zoo
from mace_md.model.reading.checkpoint import describe_model
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.provenance import sha256_of

# eV/A, RMS of the force components against the teacher on held-out molecules, the same for every class.
LIMITS = dict.fromkeys(("monomers", "water30", "water60", "amino acids", "ligands", "ions"), 0.06)
ENERGY_LIMITS = dict.fromkeys(LIMITS, 0.01) | {"monomers": 0.02, "ions": 0.03}  # eV/atom, largest; few atoms


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_MODEL, dtype="float64")


@pytest.fixture(scope="module")
def calculator():
    return ase_calculator(DEFAULT_MODEL, dtype="float32")


def test_the_file_is_the_one_the_list_names_and_says_where_it_comes_from():
    entry = zoo.find_model(DEFAULT_MODEL)
    path = entry.path()
    assert path.stat().st_size == entry.size <= 5_000_000
    assert sha256_of(path) == entry.sha256
    config, info, provenance = describe_model(path)
    assert (info.licence, info.dispersion) == ("MIT", "included") and "wB97M-D3(BJ)" in info.level_of_theory
    assert config.pair_repulsion and config.r_max == entry.r_max
    assert provenance["teacher sha256"] == "ba43f51ff202b77d3cbae8c4fac1172e64b4e5cd564b670af6e1f158b82bd8df"
    assert "17000 monomers" in provenance["structures"] and provenance["recipe"] == "recipes/default_model"


def test_it_is_found_by_name_without_a_cache_or_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setattr(zoo.urllib.request, "build_opener", None)
    loaded = load_model("MACE_MD_small")
    assert loaded.info.name == DEFAULT_MODEL and loaded.info.sha256 == zoo.find_model(DEFAULT_MODEL).sha256
    assert not (tmp_path / "nothing").exists()


def test_a_damaged_or_missing_bundled_file_is_said_so(monkeypatch, tmp_path):
    entry = zoo.find_model(DEFAULT_MODEL)
    content = bytearray(entry.path().read_bytes())
    monkeypatch.setattr(zoo, "_DATA", tmp_path)
    with pytest.raises(zoo.InputError, match="is missing, which comes with the package"):
        load_model(DEFAULT_MODEL)
    content[-1] ^= 1
    (tmp_path / entry.file_name).write_bytes(content)
    with pytest.raises(zoo.InputError, match=r"SHA-256.*Install mace-md again"):
        load_model(DEFAULT_MODEL)


# ------------------------------------------------------------------------------------------------ against the teacher


def graph_of(model, systems: list[tuple[np.ndarray, np.ndarray]]) -> Graph:
    """Molecules in vacuum as one graph, float64."""
    index = {int(z): i for i, z in enumerate(model.atomic_numbers)}
    edges, first = [], 0
    for numbers, positions in systems:
        x = torch.as_tensor(positions, dtype=torch.float64)
        edges.append(neighbor_list(x, torch.zeros(3, 3), False, model.r_max)[0] + first)
        first += len(numbers)
    sizes = torch.tensor([len(numbers) for numbers, _ in systems])
    edge_index = torch.cat(edges, dim=1)
    return Graph(
        positions=torch.as_tensor(np.concatenate([x for _, x in systems]), dtype=torch.float64),
        species=torch.tensor([index[int(z)] for numbers, _ in systems for z in numbers]),
        edge_index=edge_index,
        shifts=torch.zeros(edge_index.shape[1], 3, dtype=torch.float64),
        batch=torch.repeat_interleave(torch.arange(len(systems)), sizes),
        cell=torch.zeros(len(systems), 3, 3, dtype=torch.float64),
        head=torch.zeros(len(systems), dtype=torch.int64),
    )


def test_forces_and_energies_are_the_teachers_on_molecules_it_was_not_trained_on(model, repository):
    data = dict(np.load(repository / "tests" / "data" / "teacher.npz"))
    ends = np.cumsum(data["size"])[:-1]
    systems = list(zip(np.split(data["numbers"], ends), np.split(data["positions"], ends), strict=True))
    found = predict(model, graph_of(model, systems))
    e0 = dict(zip(model.atomic_numbers.tolist(), model.atomic_energies[0].tolist(), strict=True))
    isolated = np.array([sum(e0[int(z)] for z in numbers) for numbers, _ in systems])
    energy_error = (found.energy.numpy() - isolated - data["energy"]) / data["size"]
    force_errors = np.split(found.forces.numpy() - data["forces"], ends)
    kinds = set(data["kind"])
    assert kinds == set(LIMITS)
    for kind in kinds:
        chosen = np.flatnonzero(data["kind"] == kind)
        errors = np.concatenate([force_errors[i].ravel() for i in chosen])
        assert np.sqrt(np.mean(errors**2)) < LIMITS[kind], kind
        assert np.abs(energy_error[chosen]).max() < ENERGY_LIMITS[kind], kind


# ------------------------------------------------------------------------------------------------ no holes


def test_any_two_atoms_repel_each_other_when_they_are_too_close(model):
    """The energy rises all the way from 0.6 of the sum of the covalent radii inwards, for all 120 pairs of elements."""
    pairs = list(combinations_with_replacement(model.atomic_numbers.tolist(), 2))
    contacts = [covalent_radii[i] + covalent_radii[j] for i, j in pairs]
    distances = np.stack([np.linspace(0.6 * r, max(0.25 * r, 0.3), 15) for r in contacts])
    systems = [
        (np.array(pair), np.array([[0, 0, 0], [0, 0, r]]))
        for pair, row in zip(pairs, distances, strict=True)
        for r in row
    ]
    energies = predict(model, graph_of(model, systems), forces=False).energy.detach().numpy().reshape(distances.shape)
    falling = np.flatnonzero(~(np.diff(energies, axis=1) > 0).all(axis=1))
    assert len(pairs) == 120 and not falling.size, [pairs[k] for k in falling]


@pytest.mark.parametrize("name", ["CH3CH2OH", "CH3SH", "CH3Cl", "CH3CONH2"])
def test_a_squeezed_molecule_springs_back(name, calculator):
    atoms = molecule(name)
    atoms.calc = calculator
    FIRE(atoms, logfile=None).run(0.1, 100)
    relaxed = atoms.get_potential_energy()
    atoms.positions *= 0.7
    atoms.rattle(0.03, seed=3)
    atoms.calc = calculator
    assert atoms.get_potential_energy() > relaxed + 5.0  # eV
    FIRE(atoms, logfile=None).run(0.1, 300)
    assert closest_contact(atoms) > 0.7
    assert atoms.get_potential_energy() > relaxed - 1.0  # another isomer at best, not a hole


def closest_contact(atoms: Atoms) -> float:
    """Smallest distance in units of the sum of covalent radii."""
    distances = atoms.get_all_distances() + np.diag(np.full(len(atoms), np.inf))
    radii = covalent_radii[atoms.numbers]
    return float((distances / (radii[:, None] + radii[None])).min())


# ------------------------------------------------------------------------------------------------ dynamics


def test_ethanol_keeps_its_bonds_and_its_energy(calculator):
    """1 ps at constant energy from 600 K (300 K after equipartition), 0.5 fs."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    FIRE(atoms, logfile=None).run(0.05, 200)
    rng = np.random.default_rng(1)
    velocities = rng.normal(size=(9, 3)) * np.sqrt(kB * 600 / atoms.get_masses())[:, None]
    atoms.set_velocities(velocities - np.average(velocities, axis=0, weights=atoms.get_masses()))
    distances = atoms.get_all_distances()
    bonds = [
        (i, j)
        for i in range(9)
        for j in range(i)
        if distances[i, j] < 1.25 * covalent_radii[atoms.numbers[[i, j]]].sum()
    ]
    energies, stretches = [], []
    dynamics = VelocityVerlet(atoms, timestep=0.5 * fs)
    for _ in range(200):
        dynamics.run(10)
        energies.append(atoms.get_total_energy())
        now = atoms.get_all_distances()
        stretches += [now[i, j] / distances[i, j] for i, j in bonds]
    assert len(bonds) == 8
    assert 0.75 < min(stretches) and max(stretches) < 1.3
    slope = np.polyfit(np.arange(200) * 0.005, energies, 1)[0]  # eV/ps
    assert abs(slope) / 9 / (kB * 300) < 1e-2  # kT per atom and ps; over 1 ps the fit itself is good to a few 1e-3
