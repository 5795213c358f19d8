"""mace-torch as the oracle: loads its models, makes new ones, and evaluates them on one structure.

Needs mace-torch, and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment of the process, since e3nn 0.4.4 does not
import otherwise. Loading a model here runs the code in its pickle: only for files that are trusted.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

PLAIN = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticResidualInteractionBlock")
DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")

_ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
_MATERIALS = (*range(1, 84), *range(89, 95))
_OFF = {"elements": _ORGANIC, "blocks": PLAIN, "scale": 50.0}
_MP = {"scale": 50.0, "elements": _MATERIALS, "r_max": 6.0, "num_bessel": 10, "channels": 128, "blocks": RESIDUAL}
_AGNESI = _MP | {"distance_transform": "Agnesi", "pair_repulsion": True, "blocks": PLAIN}
_DENSITY = _AGNESI | {"blocks": DENSITY}
# The architectures of the published models, from their training scripts, their papers and what others recorded of the
# files (cutoffs, numbers of parameters). Not recorded anywhere: the number of Bessel functions after MP-0 and the
# channels of ANI-CC. `scale` makes the forces of random weights as large as real ones.
ARCHITECTURES = {
    "MACE-OFF23 small": _OFF | {"channels": 96, "max_L": 0, "r_max": 4.5},
    "MACE-OFF23 medium": _OFF | {"channels": 128, "max_L": 1, "r_max": 5.0},
    "MACE-OFF23 large": _OFF | {"channels": 224, "max_L": 2, "r_max": 5.0},
    "MACE-OFF24 medium": _OFF | {"channels": 128, "max_L": 1, "r_max": 6.0},
    "MACE-MP-0 small": _MP | {"max_L": 0},
    "MACE-MP-0 medium": _MP | {"max_L": 1},
    "MACE-MP-0 large": _MP | {"max_L": 2},
    "MACE-MP-0b small": _AGNESI | {"max_L": 0},
    "MACE-MP-0b medium": _AGNESI | {"max_L": 1},
    "MACE-MP-0b2, OMAT-0 small": _DENSITY | {"max_L": 0},
    "MACE-MP-0b2, 0b3, MPA-0, OMAT-0, MATPES medium": _DENSITY | {"max_L": 1},
    "MACE-MP-0b2 large": _DENSITY | {"max_L": 2, "r_max": 5.0},
    "MACE-ANI-CC": {
        "elements": (1, 6, 7, 8),
        "blocks": PLAIN,
        "channels": 192,
        "max_L": 0,
        "r_max": 5.0,
        "scale": 50.0,
    },
}


def make_model(
    *,
    elements: tuple[int, ...],
    channels: int,
    max_L: int,
    blocks: tuple[str, str] = PLAIN,
    scale_shift: bool = True,
    scale: float = 1.0,
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
    scales, shifts = scale * (0.5 + rng.random(len(heads))), rng.random(len(heads)) - 0.5
    return modules.ScaleShiftMACE(atomic_inter_scale=scales, atomic_inter_shift=shifts, **arguments)


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


def main() -> None:
    """`oracle.py SOURCE FOLDER`: evaluate a file or a random model of a published architecture.

    FOLDER holds `structures.json` (a list) and receives `model.model`, when it was made here, and `oracle.json`: for
    float64 and float32, the results on each structure.
    """
    source, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    structures = json.loads((folder / "structures.json").read_text())
    with quiet():
        if source in ARCHITECTURES:
            with default_dtype(torch.float64):
                model = make_model(**ARCHITECTURES[source])
            torch.save(model, folder / "model.model")
        else:
            model = load(Path(source))
        results = {
            name: [evaluate(model.to(getattr(torch, name)), structure) for structure in structures]
            for name in ("float64", "float32")
        }
    (folder / "oracle.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
