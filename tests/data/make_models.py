"""Makes the small models of this folder with mace-torch, and the numbers that mace-torch gives for them.

`models.tar.xz` holds one model with random weights of each architecture that the package reads, as mace-torch pickles
it, and `reference.json`: energies, forces and stresses in double precision, for a molecule, a triclinic crystal, and a
box smaller than the cutoff. Run it only to add a kind, or to make one again:

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python tests/data/make_models.py [kind ...]
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "benchmarks"))

import oracle  # noqa: E402

ORGANIC = {"elements": (1, 6, 8), "channels": 8, "radial_MLP": [12, 12], "MLP_irreps": "4x0e", "r_max": 4.5}
SMALL = ORGANIC | {"channels": 4, "max_ell": 2, "max_L": 1}
KINDS = {
    "off_L0": ORGANIC | {"max_L": 0},
    "off_L1": ORGANIC | {"max_L": 1},
    "off_L1_float32": ORGANIC | {"max_L": 1, "channels": 4, "max_ell": 2},
    "off_L2": SMALL | {"max_L": 2, "correlation": 2},
    "mp0": ORGANIC | {"max_L": 1, "blocks": oracle.RESIDUAL, "num_bessel": 10, "channels": 4, "r_max": 5.0},
    "mp0b": SMALL | {"blocks": oracle.RESIDUAL, "distance_transform": "Agnesi", "pair_repulsion": True},
    "mpa0": ORGANIC
    | {"max_L": 1, "channels": 4, "blocks": oracle.DENSITY, "distance_transform": "Agnesi", "pair_repulsion": True},
    "density_edge": SMALL | {"blocks": oracle.DENSITY, "edge": "2x0e+2x1o", "num_polynomial_cutoff": 6},
    "edge_scalars": SMALL | {"edge": "2x0e"},
    "soft_gaussian": SMALL
    | {"distance_transform": "Soft", "radial_type": "gaussian", "apply_cutoff": False, "use_agnostic_product": True},
    "chebyshev": SMALL | {"radial_type": "chebyshev", "distance_transform": "Agnesi", "num_bessel": 6},
    "heads": SMALL | {"heads": ("pbe", "wb97m"), "gate": torch.tanh, "channels": 6},
    "one_layer": SMALL | {"num_interactions": 1, "correlation": [2]},
    "three_layers": SMALL | {"num_interactions": 3, "correlation": [2, 1, 3], "gate": torch.abs},
    "no_scale_shift": SMALL | {"scale_shift": False, "pair_repulsion": True, "gate": None},
    "last_readout": SMALL | {"use_last_readout_only": True, "max_L": 0},
    "old_format": ORGANIC | {"max_L": 0, "channels": 4, "max_ell": 2},
}
FLOAT32 = {"off_L1_float32"}


def make(name: str) -> torch.nn.Module:
    """The model of a kind, in the form of 2022-23 for `old_format`."""
    from e3nn import o3

    options = dict(KINDS[name])
    options["MLP_irreps"] = o3.Irreps(options["MLP_irreps"])
    seed = sum(map(ord, name))
    with oracle.default_dtype(torch.float32 if name in FLOAT32 else torch.float64):
        return oracle.make_model(seed=seed, **options)


def make_old(model: torch.nn.Module) -> torch.nn.Module:
    """Plain numbers and lists where a newer model has buffers, and none of the newer attributes."""
    for name in ("atomic_numbers", "r_max", "num_interactions"):
        value = model._buffers.pop(name)
        model.__dict__[name] = value.item() if value.dim() == 0 else list(value.numpy())
    cutoff = model.radial_embedding.cutoff_fn
    for name in ("p", "r_max"):
        cutoff.__dict__[name] = cutoff._buffers.pop(name).item()
    energies = model.atomic_energies_fn
    energies.atomic_energies = energies.atomic_energies.reshape(-1)
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name in ("heads", "apply_cutoff", "edge_irreps", "use_reduced_cg", "use_so3", "cueq_config", "oeq_config",
                     "use_agnostic_product", "use_last_readout_only", "use_edge_irreps_first", "radial_MLP",
                     "lammps_mliap", "num_heads"):  # fmt: skip
            module.__dict__.pop(name, None)
        for name in [name for name in module._buffers if name.endswith("_zeroed")]:
            del module._buffers[name]
    return model


def structures() -> dict[str, dict]:
    """The three structures: numbers, positions and cell in A."""
    from ase.build import molecule

    rng = np.random.default_rng(3)
    ethanol = molecule("CH3CH2OH")
    triclinic = np.array([[6.1, 0.0, 0.0], [1.2, 6.6, 0.0], [-0.9, 1.4, 7.3]])
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3) / 2.0
    crystal = grid @ triclinic + rng.normal(scale=0.25, size=(8, 3))
    small = np.array([[3.0, 0.0, 0.0], [0.4, 3.3, 0.0], [0.2, -0.5, 2.9]])
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.05], [-0.2, 0.93, -0.1]])
    return {
        "molecule": _structure(ethanol.numbers, ethanol.positions + rng.normal(scale=0.05, size=(9, 3)), None),
        "crystal": _structure([8, 6, 1, 6, 8, 1, 1, 6], crystal, triclinic),
        "small_box": _structure([8, 1, 1], water, small),
    }


def _structure(numbers, positions, cell) -> dict:
    return {
        "numbers": [int(z) for z in numbers],
        "positions": np.round(positions, 6).tolist(),
        "cell": None if cell is None else cell.tolist(),
    }


def evaluate(model: torch.nn.Module, kind: str, system: dict, head: str) -> dict:
    """What mace-torch says; for Chebyshev polynomials the forces are finite differences of its energy.

    torch.special.chebyshev_polynomial_t has no derivative, and mace-torch's forces silently lack that term.
    """
    result = oracle.evaluate(model, system, head)
    if KINDS[kind].get("radial_type") != "chebyshev":
        return result
    forces = np.zeros((len(system["numbers"]), 3))
    for index in np.ndindex(forces.shape):
        for weight, step in ((8, 1), (-8, -1), (-1, 2), (1, -2)):  # fourth order
            positions = np.array(system["positions"])
            positions[index] += step * 2e-3
            energy = oracle.evaluate(model, system | {"positions": positions.tolist()}, head)["interaction_energy"]
            forces[index] -= weight * energy / (12 * 2e-3)
    return result | {"forces": forces.tolist(), "stress": None}


def main() -> None:
    """Write `models.tar.xz`: the kinds named on the command line again, or all."""
    path, systems, results, files = HERE / "models.tar.xz", structures(), {}, {}
    if sys.argv[1:]:
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        results = json.loads(files["reference.json"])["results"]
    for name in sys.argv[1:] or KINDS:
        with oracle.quiet():
            model, stream = make(name), io.BytesIO()
            if name != "old_format":
                torch.save(model, stream)
            results[name] = {
                head: {key: evaluate(model.double(), name, system, head) for key, system in systems.items()}
                for head in model.heads
            }
            if name == "old_format":
                torch.save(make_old(model), stream)
        files[f"{name}.model"] = stream.getvalue()
        energy = next(iter(results[name].values()))["molecule"]["interaction_energy"]
        print(f"{name:16s} {len(stream.getvalue()):8d} bytes, E = {energy:.6f} eV", flush=True)
    files["reference.json"] = json.dumps({"structures": systems, "results": results}).encode()
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
