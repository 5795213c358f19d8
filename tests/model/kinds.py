"""Small models of every kind that can be built, with random weights."""

import torch

from mace_md.model.build import build_model
from mace_md.model.hyperparameters import ModelConfig

RESIDUAL = "RealAgnosticResidualInteractionBlock"
DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
SMALL = {"atomic_numbers": (1, 6, 8), "r_max": 3.6, "num_channels": 6, "radial_MLP": (8, 8), "MLP_channels": 4,
         "avg_num_neighbors": (9.0, 9.0), "max_ell": 2, "correlation": (3, 2)}  # fmt: skip
KINDS = {
    "scalars": {"max_L": 0},
    "vectors": {"max_L": 1},
    "tensors": {"max_L": 2, "max_ell": 3},
    "residual": {"interactions": (RESIDUAL, RESIDUAL)},
    "density": {"interactions": DENSITY, "distance_transform": "agnesi", "pair_repulsion": True},
    "soft": {"distance_transform": "soft", "radial_type": "gaussian", "apply_cutoff": False, "gate": "tanh"},
    "one layer": {"num_interactions": 1, "interactions": (RESIDUAL,), "correlation": (3,), "avg_num_neighbors": (9.0,)},
    "three layers": {"num_interactions": 3, "interactions": (RESIDUAL,) * 3, "correlation": (2, 2, 2),
                     "avg_num_neighbors": (9.0,) * 3, "last_readout_only": True},
    "narrow edges": {"max_L": 1, "edge_channels": 3, "edge_max_L": 0, "agnostic_product": True},
}  # fmt: skip


def make_model(kind: str, **changes):
    """A small model of one kind with an E0 for every element."""
    model = build_model(ModelConfig(**{**SMALL, **KINDS[kind], **changes}), seed=3)
    heads = len(model.config.heads)
    model.atomic_energies.copy_(torch.tensor([[-13.6, -1030.0, -2040.0]] * heads) + torch.arange(heads).reshape(-1, 1))
    model.scale.fill_(0.8), model.shift.fill_(0.1)
    return model
