"""The folded form is the same function as the plain model."""

from functools import partial

import pytest
import torch
from kinds import KINDS, make_model
from structures import TRICLINIC, graph_of, random_atoms

from mace_md.model.build import select_head
from mace_md.model.fast.folded import CannotFold, fold
from mace_md.model.fast.tables import R_MIN, radial_tables, spline, spline_weights
from mace_md.model.graph import edge_vectors
from mace_md.model.species import group_by_species

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
def test_tables_rebuild_the_sum_over_neighbours(kind):
    """What tables are made of, and the tables themselves, against the sum over hidden features of the fallback."""
    model = make_model(kind)
    folded = fold(model)
    graph = graph_of(random_atoms(n_atoms=8), (1, 6, 8), model.r_max)
    vectors, (sender, receiver) = edge_vectors(graph), graph.edge_index
    r = vectors.norm(dim=1, keepdim=True)
    Y = folded.harmonics(vectors / r)
    degree = torch.tensor([l for l in range(folded.max_ell + 1) for _ in range(2 * l + 1)])
    A0 = folded.layer_1(r, Y, graph.species, sender, receiver, group_by_species(graph.species, 3))
    tables, n_knots = radial_tables(folded, torch.float64)
    # the derivatives of tables are within 5e-10, relative; values are closer
    for radial, tolerance in ((from_functions, 1e-12), (partial(from_tables, tables, n_knots), 1e-9)):
        sums, density = torch.zeros_like(A0), torch.zeros(8, dtype=torch.float64)
        for e in range(len(sender)):
            functions, rho = radial(folded, r[e], int(graph.species[receiver[e]]), int(graph.species[sender[e]]))
            sums[receiver[e]] += Y[e].unsqueeze(1) * functions[degree]
            density[receiver[e]] += rho
        torch.testing.assert_close(A0, sums / (1 + density).reshape(-1, 1, 1), atol=tolerance, rtol=0)


def from_functions(folded, r, i, j):
    """Radial functions [max_ell + 1, C] and density of layer 0 for one distance r [1]."""
    hidden, density = folded.radial_features(0, r, i, j)
    return torch.einsum("h,lhc->lc", hidden[0], folded.radial_weights(0, i, j)), density.sum()


def from_tables(tables, n_knots, folded, r, i, j):
    """The same from the spline coefficients, as the kernels do it."""
    place = (r - R_MIN) / ((folded.r_max - R_MIN) / (n_knots - 1))
    knot = int(place.clamp(max=n_knots - 2))
    weights, pair = spline_weights(place - knot)[0, 0], i * folded.n_species + j
    first = tables["table0"][j if folded.radial0_by_sender else pair, knot : knot + 6]
    density = tables["density0"][pair, knot : knot + 6].flatten() @ weights if folded.has_density0 else 0.0
    return torch.einsum("k,klc->lc", weights, first), density


@pytest.mark.parametrize("columns", [1, 5])
def test_splines_solve_their_conditions(columns):
    """The banded solution against what defines it: values at all knots, two derivatives at both ends."""
    powers = torch.arange(1, columns + 1)

    def function(r):
        return torch.sin(r.unsqueeze(1) * powers) / r.unsqueeze(1)

    n, r_max = 40, 4.0
    coefficients, h = spline(function, n, r_max), (r_max - R_MIN) / (n - 1)
    values, slopes, curvatures = spline_weights(torch.zeros(1, dtype=torch.float64))[:, 0, :5]
    r = torch.linspace(R_MIN, r_max, n, dtype=torch.float64)
    for k in range(n):
        torch.testing.assert_close(values @ coefficients[k : k + 5], function(r[k : k + 1])[0], atol=1e-12, rtol=0)
    for k in (0, n - 1):  # against differences of the function itself, good to about 1e-7
        ends = torch.stack([r[k] - 1e-4, r[k], r[k] + 1e-4])
        below, at, above = function(ends)
        slope, curvature = (above - below) / 2e-4, (above - 2 * at + below) / 1e-8
        torch.testing.assert_close(slopes @ coefficients[k : k + 5] / h, slope, atol=1e-5, rtol=0)
        torch.testing.assert_close(curvatures @ coefficients[k : k + 5] / h**2, curvature, atol=1e-4, rtol=0)


def test_layers_that_depend_on_the_sender_only_know_the_receiver_when_distances_are_transformed():
    """A residual first layer keeps one matrix for all receivers, but a transformed distance is that of the pair."""
    plain = fold(make_model("residual"))
    transformed = fold(make_model("residual", distance_transform="agnesi"))
    assert plain.radial0_by_sender and not transformed.radial0_by_sender
    assert radial_tables(plain, torch.float32)[0]["table0"].shape[0] == 3
    tables = radial_tables(transformed, torch.float32)[0]["table0"]
    assert tables.shape[0] == 9
    assert (tables[0] - tables[3]).abs().max() > 1e-3  # the same sender, another receiver


def test_what_cannot_be_folded_says_why():
    with pytest.raises(CannotFold, match="the model has 3 layers; the folded form is for two"):
        fold(make_model("three layers"))
    two_heads = make_model("vectors", heads=("a", "b"))
    with pytest.raises(CannotFold, match="2 heads; select one of a, b"):
        fold(two_heads)
    fold(select_head(two_heads, "b"))
