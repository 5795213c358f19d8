"""Each stage of the native op, forward and reverse, against the folded model in PyTorch."""

import numpy as np
import pytest
import torch
from native import BASE, KINDS, TRICLINIC, Native, edges_of, make_model, needs_library, random_atoms

from mace_md.model.contraction import polynomials
from mace_md.model.fast.folded import _mix_components
from mace_md.model.species import group_by_species

pytestmark = needs_library
STAGES = ["a0", "h", "a1", "h_adjoint", "a0_adjoint", "node_energy"]


def reference_stages(folded, atoms):
    """The same results from the parts of FoldedMACE, adjoints by automatic differentiation; without repulsion."""
    edge_index, vectors = edges_of(atoms, BASE["r_max"])
    numbers = folded.atomic_numbers.tolist()
    species = torch.tensor([numbers.index(z) for z in atoms.numbers])
    groups = group_by_species(species, folded.n_species)
    r = vectors.norm(dim=1, keepdim=True)
    Y, (sender, receiver) = folded.harmonics(vectors / r), edge_index
    a0 = folded.layer_1(r, Y, species, sender, receiver, groups).requires_grad_(True)
    M0 = polynomials(a0, folded.weight0, folded.factors0, folded.sizes0, groups)
    bias = torch.nn.functional.pad(folded.bias_h[species].unsqueeze(1), [0, 0, 0, M0.shape[1] - 1])
    h = _mix_components(M0, folded.W_h) + bias
    h.retain_grad()
    a1 = folded.layer_2(r, Y, h, species, sender, receiver, groups)
    M1 = polynomials(a1, folded.weight1, folded.factors1, folded.sizes1, groups)
    node_energy = folded.scale * folded.readout(M0[:, 0], M1[:, 0], species, groups)
    node_energy.sum().backward()
    values = (a0, h, a1, h.grad, a0.grad, node_energy)
    return {name: value.detach() for name, value in zip(STAGES, values, strict=True)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "density"])
def test_stages(kind, dtype):
    native, atoms = Native(make_model(kind), dtype), random_atoms(n_atoms=14, cell=TRICLINIC)
    expected = reference_stages(native.folded, atoms)
    values = torch.ops.mace_md.stages(*native.arguments(atoms))
    tolerance = 1e-10 if dtype == torch.float64 else 3e-6
    for name, value in zip(STAGES, values, strict=True):
        wanted = expected[name]
        error = (value.reshape(wanted.shape) - wanted).abs().max() / wanted.abs().max()
        assert error < tolerance, f"{name}: {error:.1e}"


def test_node_energies_sum_to_the_energy():
    native, atoms = Native(make_model("density")), random_atoms(n_atoms=14, cell=TRICLINIC)
    node_energy = torch.ops.mace_md.stages(*native.arguments(atoms))[5]
    total = float(node_energy.sum()) + len(atoms) * float(native.folded.shift[0])
    assert native(atoms)[0] == pytest.approx(total, abs=1e-11)
    assert np.isfinite(total)
