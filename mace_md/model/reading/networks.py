"""The small networks and linear maps of a mace-torch model: e3nn's, and torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from mace_md.model.radial import ACTIVATION_SCALES
from mace_md.model.reading.module_tree import Block, fields_of, ratio_to, reshaped, shown
from mace_md.model.reading.unpickle import Global, Refused


def activation_of(block: Block) -> str:
    """Name of a normalised activation; refuses another normalisation than ours."""
    function = block.setting("f", None)
    scale = 1.0 if block.setting("_is_id", False) else block.number("cst")
    return known_activation(function, scale, block.path)


def known_activation(function: object, scale: float, path: str) -> str:
    """Name of the activation `function`, a name in the file; refuses another normalisation than ours."""
    name = function.name.rsplit(".", 1)[-1] if type(function) is Global else shown(function)
    if name not in ACTIVATION_SCALES:
        raise Refused(f"the activation {name} of {path} is unknown here.")
    if abs(scale - ACTIVATION_SCALES[name]) > 1e-12:
        raise Refused(f"the activation {name} is normalised by {scale} instead of {ACTIVATION_SCALES[name]}.")
    return name


def connected_sizes(network: Block) -> list[int]:
    """Widths of a fully connected network of e3nn."""
    if network.kind != "FullyConnectedNet":
        raise Refused(f"its radial network {network.kind} is unknown here.")
    layers = [network.child(f"layer{i}") for i in range(len(network.modules))]
    for i, layer in enumerate(layers):
        if layer.kind != "_Layer":
            raise Refused(f"{layer.path} ({layer.kind}) is unknown here.")
        if (layer.setting("var_in", 1), layer.setting("var_out", 1)) != (1, 1):
            raise Refused(f"{layer.path} has variances other than 1.")
        if i < len(layers) - 1 and activation_of(layer.child("act")) != "silu":
            raise Refused(
                f"{layer.path} has the activation {activation_of(layer.child('act'))}; only silu is known here."
            )
    return [layers[0].tensor("weight").shape[0], *(layer.tensor("weight").shape[1] for layer in layers)]


def biased_sizes(network: Block) -> list[int]:
    """Widths of a network of linear layers with biases, layer normalisations and silu (mace-torch's RadialMLP)."""
    layers = _biased_layers(network)
    linear = [layer for layer in layers if layer.kind == "Linear"]
    expected = ["Linear", "LayerNorm", "SiLU"] * (len(linear) - 1) + ["Linear"]
    if [layer.kind for layer in layers] != expected or len(linear) < 2:
        raise Refused(f"{network.path} has the layers {[layer.kind for layer in layers]}, which are unknown here.")
    for layer in layers:
        if layer.kind == "LayerNorm" and layer.setting("eps", None) != 1e-5:
            raise Refused(f"{layer.path} has another eps than 1e-5.")
    return [linear[0].tensor("weight").shape[1], *(layer.tensor("weight").shape[0] for layer in linear)]


def biased_state(network: Block) -> dict[str, Tensor]:
    """Weights of such a network under the names of our `BiasedMLP`."""
    biased_sizes(network)
    state = {}
    for i, layer in enumerate(_biased_layers(network)):
        if layer.kind != "SiLU":
            name = "first" if i == 0 else f"rest.{i - 1}"
            state |= {f"{name}.weight": layer.tensor("weight"), f"{name}.bias": layer.tensor("bias")}
    return state


def _biased_layers(network: Block) -> list[Block]:
    if network.kind != "RadialMLP":
        raise Refused(f"its network {network.path} ({network.kind}) is unknown here.")
    return network.child("net").children()


def linear_by_l(block: Block, bias: bool = False) -> dict[int, Tensor]:
    """Weights of an e3nn Linear, one matrix [n_in, n_out] for each l of the output, in our normalisation.

    Parts of the irreps with the same l are its channels, in the order of the file. An l that nothing leads to has a
    matrix of no rows. With `bias`, see `bias_of`.
    """
    if block.kind != "Linear" or (block.setting("bias_numel", 0) and not bias):
        raise Refused(f"{block.path} ({block.kind}) is not a linear map without bias.")
    irreps_in, irreps_out = block.irreps("irreps_in"), block.irreps("irreps_out")
    rows, columns = _places(irreps_in), _places(irreps_out)
    weight, start, reached = block.tensor("weight"), 0, set()
    sizes = {l: tuple(sum(n for n, k in irreps if k == l) for irreps in (irreps_in, irreps_out)) for _, l in irreps_out}
    result = {l: torch.zeros(size, dtype=torch.float64) for l, size in sizes.items()}
    for instruction in block.setting("instructions", ()):
        i_in, i_out, shape, path_weight = fields_of(instruction, 4)
        if i_in == -1:
            continue
        l, n = irreps_out[i_out][1], shape[0] * shape[1]
        if irreps_in[i_in][1] != l or tuple(shape) != (irreps_in[i_in][0], irreps_out[i_out][0]):
            raise Refused(f"{block.path} has instructions that are unknown here.")
        part = reshaped(weight[start : start + n], tuple(shape), block) * ratio_to(path_weight, sizes[l][0] ** -0.5)
        result[l][rows[i_in], columns[i_out]] = part
        reached.add(l)
        start += n
    return {l: matrix if l in reached else matrix[:0] for l, matrix in result.items()}


def _places(irreps: list[tuple[int, int]]) -> list[slice]:
    """Where the channels of each part stand among all channels of the same l."""
    ends: dict[int, int] = {}
    places = []
    for n, l in irreps:
        places.append(slice(ends.get(l, 0), ends.get(l, 0) + n))
        ends[l] = ends.get(l, 0) + n
    return places


def bias_of(block: Block) -> Tensor:
    """Bias of the scalars at the output of an e3nn Linear, [n_out]."""
    irreps = block.irreps("irreps_out")
    places, bias, start = _places(irreps), block.tensor("bias"), 0
    result = torch.zeros(sum(n for n, l in irreps if l == 0), dtype=torch.float64)
    for instruction in block.setting("instructions", ()):
        i_in, i_out, shape, path_weight = fields_of(instruction, 4)
        if i_in == -1:
            n = shape[0]
            result[places[i_out]] = reshaped(bias[start : start + n], (n,), block) * float(path_weight)
            start += n
    return result


def linear_state(name: str, block: Block, n_in: list[int], n_out: list[int], bias: bool = False) -> dict[str, Tensor]:
    """Weights of an e3nn Linear under the names of our `LinearByL`, whose channels n_in and n_out are.

    Zeros stand where the file has nothing. Raises Refused for other channels.
    """
    found, state = linear_by_l(block, bias=bias), {}
    for l, columns in enumerate(n_out):
        rows = n_in[l] if l < len(n_in) else 0
        weight = found.pop(l, torch.zeros(0, columns, dtype=torch.float64))
        weight = weight if len(weight) else torch.zeros(rows, columns, dtype=torch.float64)
        state[f"{name}.weights.{l}"] = reshaped(weight, (rows, columns), block)
    if found:
        raise Refused(f"{block.path} has outputs of l = {sorted(found)}, which are unknown here.")
    empty = torch.zeros(0, dtype=torch.float64)
    return state | {f"{name}.bias": bias_of(block) if bias else empty}
