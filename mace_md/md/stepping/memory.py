"""How much memory of a GPU a model will need for a system, before the first step finds out.

The native kernels say it themselves. For the PyTorch form it follows from the shape of the model: what automatic
differentiation keeps for each edge and atom at its peak. The factors were found, and are tested, by the allocations of
torch on the CPU, which they give within 8 % (L = 0 to 2, max_ell 2 and 3, 16 to 64 channels, cutoffs of 4.5 and 6 A).
"""

import logging

import torch

from mace_md.errors import InputError
from mace_md.model.irreps import convolution_paths
from mace_md.model.mace import MACE
from mace_md.model.potential import model_dtype
from mace_md.ops.energy_forces import state_bytes
from mace_md.structures.molecules import pairs_within
from mace_md.structures.structure import Structure
from mace_md.units import ANGSTROM_TO_NM

log = logging.getLogger("mace_md")

# Numbers kept at the peak, which is in one of two places. In the reverse of layer 1, for each edge: the products of a
# component of the harmonics and a feature of the last hidden layer, and those features.
PER_PRODUCT, PER_FEATURE = 3.0, 5.5
# In the reverse of layer 2, for each edge: hidden features of both radial networks, and the components of the messages
# times channels; for each atom: the monomials of the products times channels.
PER_HIDDEN, PER_MESSAGE, PER_MONOMIAL = 4.2, 2.05, 3.8
# The plain model, which keeps the messages of both layers before they are summed.
PER_EDGE_PLAIN = 12
TIGHT, TOO_MUCH = 0.7, 1.15  # of the free memory; fragmentation, and the error of the forecast
WHAT_HELPS = (
    "--dtype float32 (half of float64), a smaller box, --kernels native, "
    "or a model with fewer channels or a shorter cutoff"
)


def pytorch_bytes(model: MACE, n_atoms: int, n_edges: int) -> int:
    """Peak of the PyTorch form of `model`, energies and forces of `n_atoms` with `n_edges` (both directions)."""
    config = model.config
    n_Y, channels = (config.max_ell + 1) ** 2, config.num_channels
    itemsize = torch.empty(0, dtype=model_dtype(model)).element_size()
    if config.num_interactions != 2:  # not folded
        return itemsize * PER_EDGE_PLAIN * n_Y * channels * n_edges
    in_L = config.max_L if config.edge_max_L is None else config.edge_max_L
    edge_channels = config.edge_channels or channels
    components = sum(2 * l_out + 1 for _, _, l_out in convolution_paths(config.max_ell, in_L, config.max_ell))
    hidden = config.radial_MLP
    layer_1 = (PER_PRODUCT * n_Y + PER_FEATURE) * hidden[-1] * n_edges
    per_edge = PER_HIDDEN * 2 * sum(hidden) + PER_MESSAGE * components * edge_channels
    outputs = ((in_L + 1) ** 2, 1)
    monomials = sum(
        sum(product.contraction.sizes[:count]) for product, count in zip(model.products, outputs, strict=True)
    )
    layer_2 = per_edge * n_edges + PER_MONOMIAL * monomials * channels * n_atoms
    return int(itemsize * max(layer_1, layer_2))


def native_bytes(blob: torch.Tensor, n_atoms: int, n_candidates: int) -> int:
    """What the native kernels take for a system: their state, and the packed model. Candidates: pairs within the cutoff
    and the skin, both directions."""
    return state_bytes(blob, n_atoms, n_candidates) + blob.numel()


def check_memory(needed: int, free: int, what: str) -> str:
    """The line for the log. Raises InputError when `needed` is above `free` by more than the forecast may be wrong."""
    line = f"memory: {what} will need about {_size(needed)} of the GPU, {_size(free)} are free"
    if needed > TOO_MUCH * free:
        raise InputError(f"{line}. Smaller: {WHAT_HELPS}.")
    return f"warning: {line}: that is tight. Smaller: {WHAT_HELPS}" if needed > TIGHT * free else line


def forecast(
    structure: Structure, model: torch.nn.Module | None, blob: torch.Tensor | None, *, r_max: float, skin: float
) -> int | None:
    """Bytes that the force on `structure` needs, by its own neighbours; None where nothing is known of the model.

    blob : of the native kernels, when they are used. r_max, skin : A.
    """
    n_atoms = len(structure.positions)
    if blob is not None:
        n_candidates = len(pairs_within(structure.positions, structure.box, (r_max + skin) * ANGSTROM_TO_NM)[0])
        return native_bytes(blob, n_atoms, n_candidates)
    if not isinstance(model, MACE):
        return None
    n_edges = len(pairs_within(structure.positions, structure.box, r_max * ANGSTROM_TO_NM)[0])
    return pytorch_bytes(model, n_atoms, n_edges)


def _size(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
