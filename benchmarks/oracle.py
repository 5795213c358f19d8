"""mace-torch as the oracle: loads its models, makes new ones, and evaluates them on one structure.

Needs mace-torch, and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment of the process, since e3nn 0.4.4 does not
import otherwise. Loading a model here runs the code in its pickle: only for files that are trusted.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch

PLAIN = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticResidualInteractionBlock")
DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")


def make_model(
    *,
    elements: tuple[int, ...],
    channels: int,
    max_L: int,
    blocks: tuple[str, str] = PLAIN,
    scale_shift: bool = True,
    heads: tuple[str, ...] = ("Default",),
    edge: str | None = None,
    seed: int = 0,
    **options,
) -> torch.nn.Module:
    """A mace-torch model with random weights, in torch's default dtype; `options` go to its constructor."""
    from e3nn import o3
    from mace import modules

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    arguments = {
        "r_max": 5.0,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "max_ell": 3,
        "interaction_cls_first": modules.interaction_classes[blocks[0]],
        "interaction_cls": modules.interaction_classes[blocks[1]],
        "num_interactions": 2,
        "num_elements": len(elements),
        "hidden_irreps": o3.Irreps("+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(max_L + 1))),
        "edge_irreps": None if edge is None else o3.Irreps(edge),
        "MLP_irreps": o3.Irreps("16x0e"),
        "atomic_energies": -10.0 * rng.random((len(heads), len(elements))),
        "avg_num_neighbors": 14.0,
        "atomic_numbers": list(elements),
        "correlation": 3,
        "gate": torch.nn.functional.silu,
        "heads": list(heads),
    }
    arguments |= options
    if not scale_shift:
        return modules.MACE(**arguments)
    scale, shift = 0.5 + rng.random(len(heads)), rng.random(len(heads)) - 0.5
    return modules.ScaleShiftMACE(atomic_inter_scale=scale, atomic_inter_shift=shift, **arguments)


def load(path: Path) -> torch.nn.Module:
    """The module in a `.model` file; what files of 2022-23 lack is put in."""
    model = torch.load(path, map_location="cpu", weights_only=False)
    for name in ("atomic_numbers", "r_max"):
        if name not in dict(model.named_buffers(recurse=False)):
            value = model.__dict__.pop(name)
            model.register_buffer(name, torch.tensor(np.array(value)))
    if not hasattr(model, "heads"):
        model.heads = ["Default"]
    return model


def evaluate(model: torch.nn.Module, system: dict, head: str | None = None) -> dict:
    """Energy, interaction energy (eV), forces (eV/A) and, when periodic, stress (eV/A^3) of one structure.

    `system`: numbers [n], positions [n, 3] in A, cell [3, 3] in A or None when it is not periodic.
    """
    from mace import data, tools

    dtype = next(model.parameters()).dtype
    heads = list(model.heads)
    periodic = system["cell"] is not None
    with default_dtype(dtype):
        configuration = data.Configuration(
            atomic_numbers=np.array(system["numbers"]),
            positions=np.array(system["positions"], dtype=np.float64),
            cell=np.array(system["cell"]) if periodic else None,
            pbc=(periodic,) * 3,
            properties={},
            property_weights={},
            head=head or heads[0],
        )
        table = tools.AtomicNumberTable([int(z) for z in model.atomic_numbers])
        graph = data.AtomicData.from_config(configuration, z_table=table, cutoff=float(model.r_max), heads=heads)
        batch = next(iter(tools.torch_geometric.dataloader.DataLoader([graph], batch_size=1, shuffle=False)))
        result = model(batch.to_dict(), compute_force=True, compute_stress=periodic)
        e0 = model.atomic_energies_fn(batch["node_attrs"])[:, batch["head"][0]].double().sum()
    return {
        "energy": float(result["energy"].double()),
        "interaction_energy": float(result["energy"].double() - e0)
        if "interaction_energy" not in result
        else float(result["interaction_energy"].double()),
        "forces": result["forces"].double().tolist(),
        "stress": result["stress"][0].double().tolist() if periodic else None,
    }


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """Set torch's default dtype, which mace-torch builds models and graphs in, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def quiet():
    """Hide what mace-torch and e3nn print while they are imported and build models."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
