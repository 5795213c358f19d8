"""The student: the teacher with a ZBL core, trained on the teacher's forces and energies and on GFN2's forces."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import numpy as np
import torch
from frames import Frame
from torch import Tensor, nn

from mace_md.model.build import bases_from_state
from mace_md.model.mace import MACE, predict
from mace_md.training.batches import Batch, PackedGraphs
from mace_md.training.configuration import Configuration

# The core must not reach into bonds: N2 has 0.77, C2H2 0.79 of the sum of the covalent radii.
CORE_REACH = 0.8
UNIVERSAL_LENGTH, UNIVERSAL_EXPONENT = 0.8854, 0.23  # of the universal screening length (Ziegler, Biersack, Littmark)

# What a step sees: frames of each kind; one of the large ones every second step.
ORDINARY = {"monomers": 8, "ions": 8, "pair": 12, "contact": 12, "clash": 4, "active": 4, "broad": 8, "late": 4}
SHORT_RANGE = {"dimer": 12, "clash_gfn2": 8, "active_gfn2": 6, "late_gfn2": 6, "hole": 8}
LARGE = ("ligands", "amino acids", "ligands", "water30", "ligands", "amino acids", "ligands", "water60")
AT_MOST = {"monomers": 5000, "water30": 60, "water60": 20, "amino acids": 300, "ions": 2000, "ligands": 1200}


def with_core(teacher: MACE) -> MACE:
    """The teacher's weights in a model that has a ZBL repulsion inside CORE_REACH of the sum of covalent radii."""
    config = replace(teacher.config, pair_repulsion=True)
    student = MACE(config, bases_from_state(config, teacher.state_dict())).to(teacher.embedding.dtype)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("repulsion.") for name in missing)
    student.repulsion.covalent_radii *= CORE_REACH
    student.repulsion.a_prefactor.fill_(UNIVERSAL_LENGTH)
    student.repulsion.a_exp.fill_(UNIVERSAL_EXPONENT)
    return student


def blend(student: MACE, teacher: MACE, share: float) -> MACE:
    """The student with each weight at `share` of the way from the teacher's to its own; its core stays."""
    mixed, own = copy.deepcopy(student), teacher.state_dict()
    with torch.no_grad():
        for name, weight in mixed.named_parameters():
            weight.lerp_(own[name], 1 - share)
    return mixed


class Mixture:
    """Training frames as graphs, drawn by kind."""

    def __init__(self, frames: list[Frame], model: MACE, rng: np.random.Generator) -> None:
        self.rng = rng
        self.graphs, kinds = pack_frames(frames, model, rng)
        self.of_kind = {kind: np.flatnonzero(kinds == kind) for kind in set(kinds)}
        self.large = [kind for kind in LARGE if kind in self.of_kind]

    def draw(self, counts: dict[str, int]) -> Batch:
        """A batch with `counts` frames of each kind, as far as there are."""
        chosen = []
        for kind, count in counts.items():
            if kind in self.of_kind:
                pool = self.of_kind[kind]
                chosen.append(self.rng.choice(pool, min(count, len(pool)), replace=False))
        return self.graphs.batch(np.concatenate(chosen))

    def ordinary(self, step: int) -> Batch:
        """Structures that the teacher labelled."""
        large = {self.large[step // 2 % len(self.large)]: 1} if step % 2 == 0 else {}
        return self.draw(ORDINARY | large)


def pack_frames(frames: list[Frame], model: MACE, rng: np.random.Generator) -> tuple[PackedGraphs, np.ndarray]:
    """Graphs of at most AT_MOST frames of each kind, and the kinds."""
    kept, seen = [], dict.fromkeys(AT_MOST, 0)
    for i in rng.permutation(len(frames)):
        kind = frames[i].kind
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= AT_MOST.get(kind, len(frames)):
            kept.append(frames[i])
    elements = model.atomic_numbers.tolist()
    e0 = dict(zip(elements, model.atomic_energies[0].tolist(), strict=True))
    data = [
        Configuration(
            frame.numbers,
            frame.positions,
            np.zeros((3, 3)),
            energy=None if np.isnan(frame.energy) else frame.energy + sum(e0[z] for z in frame.numbers.tolist()),
            forces=frame.forces,
            config_type=frame.kind,
        )
        for frame in kept
    ]
    graphs = PackedGraphs(data, r_max=model.r_max, atomic_numbers=elements, dtype=model.embedding.dtype)
    return graphs, np.array([frame.kind for frame in kept])


def ordinary_loss(model: MACE, batch: Batch) -> Tensor:
    """Huber losses of forces, relative where they are above 6 eV/A, and of energies over the root of the atoms."""
    found = predict(model, batch.graph, training=True)
    size = torch.linalg.vector_norm(batch.forces, dim=1, keepdim=True)
    error = (found.forces - batch.forces) / (1.0 + size / 6.0)
    of_forces = nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.1)
    error = (found.energy - batch.energy) * batch.energy_weight / batch.num_atoms.sqrt()
    of_energy = nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.05)
    return 300.0 * of_forces + 60.0 * of_energy


def short_range_loss(model: MACE, batch: Batch) -> Tensor:
    """Mean of log(1 + squared relative error of the force), a quarter of the force (and 1 eV/A) being an error of one.

    Forces from 1 to 1000 eV/A count, none dominates, and small errors, GFN2's own among them, do not pull at all.
    """
    found = predict(model, batch.graph, training=True)
    size = torch.linalg.vector_norm(batch.forces, dim=1)
    return torch.log1p((found.forces - batch.forces).square().sum(1) / (1.0 + size / 4.0).square()).mean()


def clipped_gradient(loss: Tensor, weights: list[nn.Parameter], largest: float) -> list[Tensor]:
    """Gradient of norm at most `largest`; zero where it is not finite."""
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    gradient = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    norm = float(torch.sqrt(sum(g.square().sum() for g in gradient)))
    factor = min(1.0, largest / norm) if np.isfinite(norm) and norm > 0 else 0.0
    return [torch.nan_to_num(g) * factor for g in gradient]


def distil(
    student: MACE, frames: list[Frame], *, steps: int, rate: float, last_rate: float, seed: int, report: int = 100
) -> MACE:
    """The student after `steps` steps of Adam, the rate falling along a cosine; averaged over about the last 50 steps.

    The two losses are differentiated apart and clipped apart: in the beginning the short-range one is enormous.
    """
    rng = np.random.default_rng(seed)
    student = copy.deepcopy(student).requires_grad_(True)
    mixture, average = Mixture(frames, student, rng), copy.deepcopy(student)
    weights = list(student.parameters())
    optimizer = torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.99))
    started, losses = time.process_time(), []
    for step in range(steps):
        decay = last_rate + (rate - last_rate) * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = decay * min(1.0, (step + 1) / 20)
        ordinary = ordinary_loss(student, mixture.ordinary(step))
        gradients = [clipped_gradient(ordinary, weights, 30.0)]
        short = short_range_loss(student, mixture.draw(SHORT_RANGE))
        gradients.append(clipped_gradient(short, weights, 3.0))
        for weight, *parts in zip(weights, *gradients, strict=True):
            weight.grad = sum(parts)
        optimizer.step()
        keep = min(0.98, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), weights, strict=True):
                mean.lerp_(weight, 1 - keep)
        losses.append((float(ordinary.detach()), float(short.detach())))
        if (step + 1) % report == 0:
            means = np.mean(losses, axis=0)
            print(f"{step + 1}  {time.process_time() - started:.0f} s  loss {means[0]:.4f} {means[1]:.4f}", flush=True)
            losses = []
    return average.requires_grad_(False)
