"""Every family of models against mace-torch's numbers (tests/data/make_families.py), and against physics."""

import json
import tarfile

import numpy as np
import pytest
import torch
from ase import Atoms

from mace_md.errors import InputError
from mace_md.hosts.ase import ase_calculator
from mace_md.model.artifact import resolve_model, script_potential
from mace_md.model.electrostatics import KSpaceSum, smeared_pair_energy
from mace_md.model.families.checks import check_model
from mace_md.model.families.latent_ewald import born_charges
from mace_md.model.graph import Graph, merge_graphs, single_graph
from mace_md.model.mace import predict
from mace_md.model.potential import make_potential
from mace_md.model.reading.checkpoint import load_model, save_model
from mace_md.model.settle import settle
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.units import DEBYE_PER_E_ANGSTROM, EV_PER_ANGSTROM_TO_KJ_MOL_NM

KINDS = (
    "mh1_like", "omol_like", "emb_readout", "bias_readout", "maceles_les", "polar_l1", "energy_dipoles", "dielectric",
    "atomic_dipoles", "gaussian_other_width", "z_unsorted",
)  # fmt: skip
ENERGIES = [kind for kind in KINDS if kind not in ("dielectric", "atomic_dipoles")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("families")
    with tarfile.open(repository / "tests" / "data" / "families.tar.xz") as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    return json.loads((folder / "reference.json").read_text())


def graph_of(model, system: dict) -> Graph:
    positions = torch.tensor(system["positions"], dtype=torch.float64)
    periodic = system["cell"] is not None
    cell = torch.tensor(system["cell"] if periodic else [[0.0] * 3] * 3, dtype=torch.float64)
    edge_index, shifts = neighbor_list(positions, cell, periodic, model.r_max)
    species = torch.searchsorted(model.atomic_numbers, torch.tensor(system["numbers"]))
    charge, spin = (torch.tensor([float(system[name])], dtype=torch.float64) for name in ("charge", "spin"))
    return single_graph(positions, species, edge_index, shifts, cell)._replace(charge=charge, spin=spin)


def stored(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_mace_torch_is_repeated(kind, folder, reference):
    for head, results in reference["results"][kind].items():
        model = load_model(folder / f"{kind}.model", head=head, dtype="float64")
        for system, expected in zip(reference["structures"], results, strict=True):
            graph = graph_of(model, system)
            if "energy" in expected:
                found = predict(model, graph)
                # Rounding of sums in another order; POLAR models amplify it, with forces of random weights of 1e4 eV/A.
                assert abs(float(found.energy) - expected["energy"][0]) < 1e-9 * max(1.0, abs(expected["energy"][0]))
                assert (found.forces - stored(expected["forces"])).abs().max() < 1e-8
            if "dipole" in expected and hasattr(model, "response"):
                unit = 1.0 if kind == "dielectric" else DEBYE_PER_E_ANGSTROM
                assert (model.response(graph).dipole * unit - stored(expected["dipole"])).abs().max() < 1e-9
            if "polarizability" in expected:
                found = model.response(graph).polarizability
                assert (found - stored(expected["polarizability"])).abs().max() < 1e-9
            if "BEC" in expected:
                assert (born_charges(model, graph) - stored(expected["BEC"])).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_obeys_the_laws(kind, folder, reference):
    head = next(iter(reference["results"][kind]))
    failed = [check for check in check_model(settle(load_model(folder / f"{kind}.model", head=head)))
              if not check.passed]  # fmt: skip
    assert not failed


def test_the_check_finds_a_wrong_stress(folder, monkeypatch):
    from mace_md.model.families.latent_ewald import LatentEwald

    right = LatentEwald.forward

    def without_box_derivative(self, charges, positions, cell):  # what mace-torch's stress does
        return right(self, charges, positions, cell.detach())

    monkeypatch.setattr(LatentEwald, "forward", without_box_derivative)
    failed = [check.law for check in check_model(load_model(folder / "maceles_les.model")) if not check.passed]
    assert failed == ["stress is dE/dstrain / volume"]


@pytest.mark.parametrize("kind", ["mh1_like", "omol_like", "maceles_les", "polar_l1", "energy_dipoles"])
def test_all_doors_give_the_same_forces(kind, folder, reference):
    """Scripted potential (OpenMM, openmm-ml, export) and ASE, of a radical cation in a box and without."""
    head = next(iter(reference["results"][kind]))
    path = folder / f"{kind}.model"
    inputs = load_model(path, head=head).inputs
    for system, expected in list(zip(reference["structures"], reference["results"][kind][head], strict=True))[2:]:
        given = {name: system[name] for name in inputs}
        model = resolve_model(path, head=head, dtype="float64", **given)
        periodic = system["cell"] is not None
        potential, _ = make_potential(model, system["numbers"], periodic=periodic)
        x = stored(system["positions"]) / 10.0
        box = stored(system["cell"]) / 10.0 if periodic else None
        forces = script_potential(potential)(x, box)[1] / EV_PER_ANGSTROM_TO_KJ_MOL_NM
        size = max(1.0, float(stored(expected["forces"]).abs().max()))
        assert (forces - stored(expected["forces"])).abs().max() < 1e-8 * size
        atoms = Atoms(system["numbers"], system["positions"], cell=system["cell"], pbc=periodic, info=given)
        atoms.calc = ase_calculator(path, head=head, dtype="float64")
        assert np.abs(atoms.get_forces() - np.array(expected["forces"])).max() < 1e-8 * size
        assert abs(atoms.get_potential_energy() - expected["energy"][0]) < 1e-9 * max(1.0, abs(expected["energy"][0]))


@pytest.mark.parametrize("kind", KINDS)
def test_own_format_keeps_every_family(kind, folder, reference, tmp_path):
    head = next(iter(reference["results"][kind]))
    model = load_model(folder / f"{kind}.model", head=head)
    again = load_model(save_model(model, tmp_path / "copy.mace"))
    assert again.config == model.config
    graph = graph_of(model, reference["structures"][3])
    if "energy" in reference["results"][kind][head][0]:
        assert float(predict(again, graph).energy) == float(predict(model, graph).energy)
    else:
        assert torch.equal(again.response(graph).dipole, model.response(graph).dipole)


# --- charge and spin ---


@pytest.mark.parametrize("kind", ["omol_like", "emb_readout"])
def test_charge_and_spin_are_folded_into_the_embedding(kind, folder, reference):
    """No input is left, and the energies are those of the model with its inputs."""
    model = load_model(folder / f"{kind}.model", dtype="float64")
    settled = settle(model, charge=1, spin=2)
    assert settled.config.embeddings == () and settled.inputs == () and settled.settled == {"charge": 1, "spin": 2}
    for system in reference["structures"][2:]:
        graph = graph_of(model, system)
        with_inputs, folded = predict(model, graph), predict(settled, graph._replace(charge=None, spin=None))
        assert abs(float(with_inputs.energy) - float(folded.energy)) < 1e-10
        assert (with_inputs.forces - folded.forces).abs().max() < 1e-12
    assert float(predict(settle(model), graph).energy) != float(folded.energy)


def test_charges_that_cannot_be_used_are_refused(folder):
    plain, charged = load_model(folder / "z_unsorted.model"), load_model(folder / "omol_like.model")
    with pytest.raises(InputError, match="charge 1 was given, but this model does not take a charge"):
        settle(plain, charge=1)
    assert settle(plain, charge=0, spin=1) is plain
    with pytest.raises(InputError, match="charge 500"):
        settle(charged, charge=500)
    with pytest.raises(InputError, match="settled for charge 1 before"):
        settle(settle(charged, charge=1), charge=2)
    with pytest.raises(InputError, match="dipoles, no energies"):
        make_potential(load_model(folder / "dielectric.model"), [1, 8], periodic=False)


def test_a_batch_has_a_charge_for_each_system(folder, reference):
    model = load_model(folder / "omol_like.model")
    graphs = [graph_of(model, system) for system in reference["structures"]]
    single = torch.cat([predict(model, graph).energy for graph in graphs])
    assert (predict(model, merge_graphs(graphs)).energy - single).abs().max() < 1e-10


# --- electrostatic sums ---


@pytest.mark.parametrize("converged", [False, True])
def test_the_mesh_is_the_exact_sum(converged):
    """Energy to 1e-6 of it, forces to 5e-6 eV/A for charges of 0.3 e: the accuracy of the splines."""
    torch.manual_seed(0)
    cell = (18.2 * torch.eye(3) + 0.3 * torch.randn(3, 3)).double().requires_grad_(True)
    positions = (torch.rand(200, 3).double() @ cell.detach()).requires_grad_(True)
    charges = (0.3 * torch.randn(200).double()).requires_grad_(True)
    total = KSpaceSum(1.0, np.pi, 2.0)
    total.converged = converged
    results = []
    for mesh_from in (10**9, 0):
        total.mesh_from = mesh_from
        energy = 90.0 * total(charges, positions, cell)
        results.append((energy.detach(), *torch.autograd.grad(energy, (charges, positions, cell))))
    exact, mesh = results
    assert abs(exact[0] - mesh[0]) < 1e-6 * exact[0]
    assert (exact[2] - mesh[2]).abs().max() < 5e-6
    assert (exact[3] - mesh[3]).abs().max() < 1e-5  # eV/A, of a cell vector


def test_a_sum_over_pairs_in_pieces_is_the_sum():
    torch.manual_seed(1)
    charges, positions = torch.randn(40).double(), 10.0 * torch.rand(40, 3).double()
    r = torch.cdist(positions, positions) + torch.eye(40)
    kernel = torch.erf(r / 1.4) / r * (1.0 - torch.eye(40))
    expected = 0.5 * charges @ kernel @ charges
    for pairs_at_once in (10, 1000, 10**7):
        assert abs(smeared_pair_energy(charges, positions, 1.4, pairs_at_once) - expected) < 1e-12


def test_dipoles_of_polar_models_without_displaced_charges_do_not_depend_on_the_orientation(folder, reference):
    model = load_model(folder / "polar_l1.model")
    model.fields.analytic = True
    failed = [check for check in check_model(model) if not check.passed]
    assert not failed
    displaced = load_model(folder / "polar_l1.model")
    graph = graph_of(model, reference["structures"][0])
    energies = [float(predict(m, graph).energy) for m in (model, displaced)]
    assert abs(energies[0] - energies[1]) < 0.02 * abs(energies[0])  # the same physics
