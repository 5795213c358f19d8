"""MACE models whose physics is known: without interaction, and a rare gas with a pair potential that is a formula.

Both are ordinary `MACE` models, run by the same potential, kernels and OpenMM force as a published one. They are cheap,
so that a statistical test of some 10^5 steps takes seconds, and they need no file.
"""

import copy
import functools

import numpy as np
import torch

from mace_md.model.build import build_model
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE

LIGHT, HEAVY = 10, 18  # neon and argon: one interaction for both, two masses
WELL_DEPTH = 0.0104  # eV; argon, 120 K
WELL_DISTANCE = 3.82  # A
WELL_WIDTH = 1.6  # 1/A
R_MAX = 6.0  # A
SHORTEST = 2.1  # A, where the fit begins; ZBL repulsion rises below 2.12 A
MANY_BODY = 0.01  # eV, bound on each of four units of the many-body part: 3 % of the forces of the crystal


def _blank(seed: int) -> MACE:
    config = ModelConfig(
        atomic_numbers=(LIGHT, HEAVY),
        r_max=R_MAX,
        num_bessel=10,
        max_ell=2,
        num_channels=4,
        max_L=1,
        correlation=(2, 2),
        radial_MLP=(),
        MLP_channels=4,
        gate="tanh",
        avg_num_neighbors=(12.0, 12.0),
        pair_repulsion=True,
    )
    return build_model(config, seed=seed, dtype=torch.float64)


def ideal_gas_model() -> MACE:
    """A MACE whose energy is zero at all positions: every weight is there, and the result is multiplied by zero."""
    model = _blank(seed=1)
    model.scale.zero_()
    return model


def pair_energy(r: np.ndarray) -> np.ndarray:
    """The pair potential that `rare_gas_model` is fitted to, eV: Morse's, smoothly cut off at R_MAX. r in A."""
    x = np.exp(-WELL_WIDTH * (r - WELL_DISTANCE))
    return WELL_DEPTH * (x * x - 2 * x) * (1 - (np.minimum(r, R_MAX) / R_MAX) ** 8) ** 2


def rare_gas_model(many_body: float = MANY_BODY) -> MACE:
    """A MACE of light and heavy atoms that attract and repel alike, as argon does, in two layers.

    Its first layer is `pair_energy`, fitted exactly by the radial functions of one channel; its second layer has random
    weights and adds a bounded many-body energy of up to `many_body` eV for each of its four units.
    """
    return copy.deepcopy(_fitted(many_body))


@functools.cache
def _fitted(many_body: float) -> MACE:
    model = _blank(seed=3)
    with torch.no_grad():
        column = _one_linear_channel(model)
        model.readouts[1].weight_out.fill_(0.0)
        distances = np.linspace(SHORTEST, R_MAX, 300)
        responses = []
        for n in range(column.shape[0]):
            column.zero_()
            column[n] = 1.0
            responses.append(dimer_energies(model, distances))
        column.zero_()
        background = dimer_energies(model, distances)  # of the ZBL repulsion
        target = pair_energy(distances)
        weight = 1.0 / (np.abs(target) + WELL_DEPTH)
        design = np.array(responses).T - background[:, None]
        fitted = np.linalg.lstsq(design * weight[:, None], (target - background) * weight, rcond=None)[0]
        column.copy_(torch.from_numpy(fitted))
        model.readouts[1].weight_in.mul_(10.0)  # so that tanh is neither linear nor saturated
        model.readouts[1].weight_out.fill_(2.0 * many_body)  # divided by sqrt(4) when it is used
    return model


def _one_linear_channel(model: MACE) -> torch.Tensor:
    """Make channel 0 of layer 1 the sum over neighbours of one radial function, alone in the readout of that layer.

    Returns the weights of that function, a view of shape [num_bessel].
    """
    interaction, product = model.interactions[0], model.products[0]
    model.embedding[:] = model.embedding[:1]  # both elements are alike
    channels = model.num_channels
    for name, weight in (("up", interaction.linear_up.weight), ("product", product.linear.weight)):
        weight[0, 1:, 0] = weight[0, 0, 1:] = 0.0
        weight[0, 0, 0] = 2.0 if name == "up" else 1.0
    # the first layer of the features keeps its other channels random; the second layer feeds on them
    first = interaction.convolution.weights[0]
    first[1:, 0] = first[0, 1:] = 0.0
    first[0, 0] = 1.0
    for weight in (interaction.skip.weight, product.contraction.weight):
        weight[:] = weight[:1]
    interaction.skip.weight[:, 0, 1:, 0] = interaction.skip.weight[:, 0, 0, 1:] = 0.0
    interaction.skip.weight[:, 0, 0, 0] = 1.0
    product.contraction.weight[:, :, 0] = 0.0
    product.contraction.weight[:, _linear_path(product.contraction), 0] = 1.0
    for residual in (model.interactions[1].skip.weight, model.products[1].contraction.weight):
        residual[:] = residual[:1]
    model.readouts[0].weight.zero_()
    model.readouts[0].weight[0, 0] = 1.0
    return interaction.radial_weights.weights[0].data.view(-1, interaction.num_paths, channels)[:, 0, 0]


def _linear_path(contraction: torch.nn.Module) -> int:
    """The path of the product basis whose scalar output is A_00 itself."""
    factors = contraction.factors  # [correlation, n_terms]; 9 components, index 9 stands for 1
    one = int(factors.max())
    for term in range(contraction.sizes[0]):
        if sorted(factors[:, term].tolist()) == [0] + [one] * (factors.shape[0] - 1):
            return int(contraction.coupling[term].abs().argmax())
    raise ValueError("the product basis has no linear path")


def dimer_energies(model: MACE, distances: np.ndarray) -> np.ndarray:
    """Energy (eV) of a light and a heavy atom at each of `distances` (A)."""
    count = len(distances)
    first = 2 * torch.arange(count)[torch.from_numpy(distances < R_MAX)]
    edges = torch.stack([torch.cat([first, first + 1]), torch.cat([first + 1, first])])
    x = torch.from_numpy(distances)[first // 2]
    vectors = torch.zeros(2 * len(first), 3, dtype=torch.float64)
    vectors[:, 0] = torch.cat([x, -x])
    species = torch.arange(2 * count) % 2
    with torch.no_grad():
        energies = model.node_energies(vectors, species, edges, torch.zeros_like(species))
    return energies.view(count, 2).sum(dim=1).numpy()
