"""The folded form is the same function as the plain model."""

import pytest
import torch
from kinds import KINDS, make_model
from structures import TRICLINIC, graph_of, random_atoms

from mace_md.model.build import select_head
from mace_md.model.fast.folded import CannotFold, fold
from mace_md.model.graph import edge_vectors

TWO_LAYERS = [kind for kind in KINDS if "layer" not in kind]


def energies_and_gradient(model, graph):
    """Atomic energies and their derivatives in the edge vectors."""
    vectors = edge_vectors(graph).detach().requires_grad_(True)
    energy = model.node_energies(vectors, graph.species, graph.edge_index, graph.head[graph.batch])
    return energy.detach(), torch.autograd.grad(energy.sum(), vectors)[0]


@pytest.mark.parametrize("kind", TWO_LAYERS)
@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_folded_is_plain(kind, cell):
    model = make_model(kind)
    graph = graph_of(random_atoms(n_atoms=8, cell=cell, spacing=1.0), (1, 6, 8), model.r_max)
    for folded in (fold(model), fold(model, [1, 6, 8]).to(torch.float64)):
        for exact, got in zip(energies_and_gradient(model, graph), energies_and_gradient(folded, graph), strict=True):
            torch.testing.assert_close(got, exact, atol=1e-11, rtol=1e-11)


def test_folded_for_fewer_elements():
    model = make_model("residual")
    atoms = random_atoms(numbers=(1, 8), n_atoms=9)
    exact = energies_and_gradient(model, graph_of(atoms, (1, 6, 8), model.r_max))
    got = energies_and_gradient(fold(model, [1, 8]), graph_of(atoms, (1, 8), model.r_max))
    torch.testing.assert_close(got[1], exact[1], atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", TWO_LAYERS)
def test_radial_functions_rebuild_the_sum_over_neighbours(kind):
    """radial0, which tables are made of, against the sum over hidden features that the fallback uses."""
    model = make_model(kind)
    folded = fold(model)
    graph = graph_of(random_atoms(n_atoms=8), (1, 6, 8), model.r_max)
    vectors, (sender, receiver) = edge_vectors(graph), graph.edge_index
    r = vectors.norm(dim=1, keepdim=True)
    Y = folded.harmonics(vectors / r)
    pair = graph.species[receiver] * 3 + graph.species[sender]
    radial = folded.radial0(r.squeeze(1), pair)
    degree = torch.tensor([l for l in range(folded.max_ell + 1) for _ in range(2 * l + 1)])
    direct = torch.zeros(8, Y.shape[1], folded.num_channels, dtype=torch.float64)
    direct.index_add_(0, receiver, Y.unsqueeze(2) * radial[:, degree])
    if folded.has_density0:
        density = torch.zeros(8, dtype=torch.float64).index_add(0, receiver, folded.density(0, r.squeeze(1), pair))
        direct = direct / (1 + density).reshape(-1, 1, 1)
    from mace_md.model.species import group_by_species

    groups = group_by_species(graph.species, 3)
    A0 = folded.layer_1(r, Y, graph.species, sender, receiver, groups)
    torch.testing.assert_close(A0, direct, atol=1e-12, rtol=0)


def test_what_cannot_be_folded_says_why():
    with pytest.raises(CannotFold, match="the model has 3 layers; the folded form is for two"):
        fold(make_model("three layers"))
    two_heads = make_model("vectors", heads=("a", "b"))
    with pytest.raises(CannotFold, match="2 heads; select one of a, b"):
        fold(two_heads)
    fold(select_head(two_heads, "b"))
