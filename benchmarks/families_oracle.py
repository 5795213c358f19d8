"""mace-torch as the oracle of every family of models: energies, forces, stresses, charges, dipoles, polarizabilities.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python -m benchmarks.families_oracle MODEL STRUCTURES.json RESULT.json

Needs mace-torch 0.3.16; for POLAR graph-longrange 0.4.0; for MACELES `les` (its source folder: $LES_SOURCE).
Loading a model here runs the code in its pickle: only for files that are trusted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import oracle

OUTPUTS = ("energy", "forces", "stress", "les_energy", "latent_charges", "BEC", "dipole", "polarizability", "charges",
           "electrostatic_energy", "density_coefficients")  # fmt: skip


def load(path: Path) -> torch.nn.Module:
    """The module in a `.model` file; MACELES files name a class where mace-torch 0.3.16 does not have it."""
    if os.environ.get("LES_SOURCE"):
        sys.path.insert(0, os.environ["LES_SOURCE"])
    from mace.modules import extensions, models

    models.MACELES = extensions.MACELES
    model = oracle.load(path)
    return model.to(torch.float64)


def evaluate(model: torch.nn.Module, system: dict, head: str | None = None) -> dict:
    """All outputs of the model for one structure: numbers, positions, cell or None, charge, spin (multiplicity)."""
    from mace import data, tools

    heads = list(model.heads)
    periodic = system["cell"] is not None
    with oracle.default_dtype(torch.float64):
        configuration = data.Configuration(
            atomic_numbers=np.array(system["numbers"]),
            positions=np.array(system["positions"], dtype=np.float64),
            cell=np.array(system["cell"]) if periodic else None,
            pbc=(periodic,) * 3,
            properties={"total_charge": system.get("charge", 0), "total_spin": system.get("spin", 1)},
            property_weights={},
            head=head or heads[0],
        )
        table = tools.AtomicNumberTable([int(z) for z in model.atomic_numbers])
        graph = data.AtomicData.from_config(configuration, z_table=table, cutoff=float(model.r_max), heads=heads)
        batch = next(iter(tools.torch_geometric.dataloader.DataLoader([graph], batch_size=1, shuffle=False)))
        batch = batch.to_dict()
        if type(model).__name__ in ("AtomicDipolesMACE", "AtomicDielectricMACE"):
            result = model(batch)
        else:
            more = {"compute_bec": True} if type(model).__name__ == "MACELES" else {}
            result = model(batch, compute_force=True, compute_stress=periodic, **more)
    found = {name: result[name].detach().double() for name in OUTPUTS if result.get(name) is not None}
    if "energy" in found:
        e0 = model.atomic_energies_fn(batch["node_attrs"])
        found["e0"] = e0[:, int(batch["head"][0])].double().sum() if e0.dim() > 1 else e0.double().sum()
    return {name: value.detach().tolist() for name, value in found.items()}


def structures(elements: tuple[int, ...], n: int = 12) -> list[dict]:
    """A molecule-like cluster and a triclinic crystal, atoms about 2 A apart; neutral, and as radical cations."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    cell = np.array([[6.0, 0.0, 0.0], [1.0, 6.6, 0.0], [-0.7, 1.1, 7.2]])
    found = []
    for box in (None, cell):
        positions = grid / 3.0 @ (6.3 * np.eye(3) if box is None else box) + rng.normal(scale=0.15, size=(n, 3))
        found.append({"numbers": rng.choice(elements, n).tolist(), "positions": positions.tolist(),
                      "cell": None if box is None else box.tolist(), "charge": 0, "spin": 1})  # fmt: skip
    return found + [system | {"charge": 1, "spin": 2} for system in found]


def main() -> None:
    """Evaluate one model, with each of its heads, on all structures; see the text of the module."""
    torch.set_num_threads(1)
    structures = json.loads(Path(sys.argv[2]).read_text())
    with oracle.quiet():
        model = load(Path(sys.argv[1]))
        results = {head: [evaluate(model, system, head) for system in structures] for head in model.heads}
    Path(sys.argv[3]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
