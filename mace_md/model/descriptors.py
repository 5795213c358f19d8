"""How far an atom is from the training data of a model: Mahalanobis distances of the invariant features of its atoms.

The descriptor of an atom is the invariant part of its node features after the last layer. Of the training data a model
file keeps, for each element, their mean, the inverse Cholesky factor of their covariance, and the distance that one in
a thousand training atoms exceeds; the measure is the distance in units of that one, so that above 1 an atom is rare.
Distances in latent space as a measure of trust: Janet et al., Chem. Sci. 10, 7913 (2019); of the features of an
equivariant network: Zhu et al., J. Chem. Phys. 158, 164111 (2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_md.errors import InputError
from mace_md.model.graph import Graph, edge_vectors

QUANTILE = 0.999  # of the distances of training atoms, which is 1 in the measure
FEWEST_ATOMS = 10  # of an element, below which nothing is said of it
PREFIX = "descriptors."  # of the names of these tensors in a model file


@dataclass(frozen=True)
class DescriptorStatistics:
    """Of the training atoms of each element, in the order of the model's `atomic_numbers`; float64.

    mean : [n_species, n_features]. whitening : [n_species, n_features, n_features], W with |W (x - mean)| the distance.
    limit : [n_species], the distance that is 1 in the measure; NaN for an element without data. count : [n_species].
    """

    mean: Tensor
    whitening: Tensor
    limit: Tensor
    count: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """For a model file, under `PREFIX`."""
        return {PREFIX + name: tensor.contiguous() for name, tensor in vars(self).items()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], n_species: int, n_features: int) -> DescriptorStatistics:
        """What `tensors` wrote; raises InputError when one is missing or of another shape."""
        shapes = {
            "mean": (n_species, n_features), "whitening": (n_species, n_features, n_features), "limit": (n_species,),
            "count": (n_species,),
        }  # fmt: skip
        if set(tensors) != {PREFIX + name for name in shapes}:
            raise InputError(f"its descriptor statistics are incomplete: {', '.join(sorted(tensors))}")
        found = {name: tensors[PREFIX + name] for name in shapes}
        for name, shape in shapes.items():
            if found[name].shape != shape:
                raise InputError(f"its descriptor statistics do not fit the model: {name} {list(found[name].shape)}")
        if not all(bool(torch.isfinite(found[name]).all()) for name in ("mean", "whitening")):
            raise InputError("its descriptor statistics hold numbers that are not finite")
        return DescriptorStatistics(**{name: tensor.to(torch.float64) for name, tensor in found.items()})


def descriptor_statistics(model: torch.nn.Module, graphs: Iterable[Graph]) -> DescriptorStatistics:
    """Statistics of the descriptors of all atoms in `graphs`, the training data, as `model` describes them.

    Put it on the model as `model.descriptor_statistics`, and `save_model` writes it. The covariance is shrunk towards
    a multiple of the identity by n_features / (n_features + n_atoms), so that few atoms give a distance too.
    """
    found: list[list[Tensor]] = [[] for _ in model.atomic_numbers]
    for graph in graphs:
        features = describe(model, edge_vectors(graph), graph.species, graph.edge_index).cpu()
        species = graph.species.cpu()
        for index in species.unique().tolist():
            found[index].append(features[species == index])
    n_features = model.num_channels
    parts = []
    for rows in found:
        x = torch.cat([*rows, torch.zeros(0, n_features, dtype=torch.float64)])
        parts.append(_of_element(x))
    mean, whitening, limit, count = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    return DescriptorStatistics(mean, whitening, limit, count)


def _of_element(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, n_features = x.shape
    count = torch.tensor(float(n), dtype=torch.float64)
    if n < FEWEST_ATOMS:
        return torch.zeros(n_features).double(), torch.eye(n_features).double(), torch.tensor(torch.nan).double(), count
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / (n - 1)
    shrinkage = n_features / (n_features + n)
    scale = covariance.diagonal().mean().clamp_min(1e-30)
    identity = torch.eye(n_features, dtype=torch.float64)
    factor = torch.linalg.cholesky((1 - shrinkage) * covariance + (shrinkage + 1e-10) * scale * identity)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
    distances = torch.linalg.vector_norm((x - mean) @ whitening.T, dim=1).sort().values
    return mean, whitening, distances[min(int(QUANTILE * n), n - 1)].clamp_min(1e-12), count


def describe(model: torch.nn.Module, vectors: Tensor, species: Tensor, edge_index: Tensor) -> Tensor:
    """Descriptors of all atoms, [n_atoms, n_features], float64; `vectors` [n_edges, 3], A."""
    with torch.no_grad():
        dtype = model.embedding.dtype
        return model.layer_features(vectors.to(dtype), species, edge_index)[-1].to(torch.float64)


def extrapolation(statistics: DescriptorStatistics, descriptors: Tensor, species: Tensor) -> Tensor:
    """[n_atoms]: the distance of each atom from the training data of its element; 1 is their 99.9 % quantile.

    Infinite for an element without data.
    """
    offset = descriptors - statistics.mean[species]
    result = torch.full((len(species),), torch.inf, dtype=torch.float64)
    for index in species.unique().tolist():
        if bool(torch.isfinite(statistics.limit[index])):
            rows = species == index
            distances = torch.linalg.vector_norm(offset[rows] @ statistics.whitening[index].T, dim=1)
            result[rows] = distances / statistics.limit[index]
    return result
