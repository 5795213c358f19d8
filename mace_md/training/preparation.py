"""From options to what a training needs: frames to train on and to validate with, and a model that fits them."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from ase.data import chemical_symbols

from mace_md.config import INHERIT, TrainConfig
from mace_md.errors import InputError
from mace_md.model.build import build_model, soften_products
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE
from mace_md.model.reading.checkpoint import ModelInfo, load_model
from mace_md.options.declare import flag
from mace_md.training.batches import LazyGraphs, PackedGraphs, make_graphs
from mace_md.training.checks import check_data
from mace_md.training.configuration import Configuration, LabelFormat
from mace_md.training.coverage import (
    cover,
    refuse_unknown_heads,
    refuse_unknown_types,
    refuse_unlearned_elements,
    refuse_useless,
    symbols,
)
from mace_md.training.data import (
    Joined,
    Reweighted,
    Subset,
    read_configurations,
    read_index,
    split_data,
    take_isolated_atoms,
)
from mace_md.training.finetuning import (
    NEW_HEAD,
    OnHead,
    Replay,
    read_replay,
    refit_e0s,
    warn_of_another_level,
    with_replay_head,
)
from mace_md.training.statistics import E0s, Statistics, check_binding, find_e0s, measure, read_e0s

log = logging.getLogger("mace_md")

# Options that are those of the model when training starts from one.
_ARCHITECTURE = {
    "r_max": 5.0, "num_channels": 64, "max_L": 1, "max_ell": 3, "correlation": 3, "num_interactions": 2,
    "num_bessel": 8, "num_polynomial_cutoff": 5, "radial_MLP": (64, 64, 64),
}  # fmt: skip


@dataclass(frozen=True)
class TrainingData:
    """Labelled frames, checked, in eV and A."""

    train: Sequence[Configuration]
    valid: Sequence[Configuration]
    isolated: list[Configuration]
    atomic_numbers: tuple[int, ...]  # of all of them, ascending
    with_stress: bool  # whether the stress is trained on
    notes: tuple[str, ...]  # what the checks remarked
    heads: Counter[str]  # frames of each readout head


def read_training_data(config: TrainConfig) -> TrainingData:
    """Read, divide and check the data that the options name; says in the log what there is. Raises InputError."""
    labels = LabelFormat.from_options(config)
    everything, factors = read_configurations(config.data, labels), _type_weights(config)
    data, isolated = take_isolated_atoms(Reweighted(everything, factors) if factors else everything)
    if not len(data):
        raise InputError(f"{config.data[0]}: there are only isolated atoms in it, and nothing to train on")
    train, valid = _divide(data, config, labels)
    covered = cover(train), cover(valid)
    refuse_unknown_types(covered[0], factors)
    with_stress = config.stress_weight != 0 and covered[0].labelled["stress"] > 0
    if config.stress_weight and not with_stress:
        hint = "" if train[0].source is None else train[0].source.hint("stress")
        raise InputError(
            f"--stress-weight {config.stress_weight:g}: no frame has a stress.{hint} Name it with --stress-key."
        )
    require = [name for name in ("energy", "forces") if getattr(config, f"{name}_weight") > 0]
    if config.stress_weight:
        require.append("stress")
    if config.missing_labels == "ignore":
        require = []
    in_loss = _in_loss(config, with_stress)
    judged = [name for name, weight in in_loss.items() if weight > 0]
    notes = check_data(Joined([train, valid]), require=require, doubtful=config.check_data, judged=judged)
    notes += refuse_useless(*covered, in_loss) + _twice(train, valid)
    elements, alone = covered[0].elements | covered[1].elements, {int(c.atomic_numbers[0]) for c in isolated}
    if config.start_from is None:
        refuse_unlearned_elements(*covered)
        if alone - elements:
            notes.append(f"{symbols(sorted(alone - elements))}: isolated atoms only, so that the model does not get it")
    else:
        elements |= alone
    names = " ".join(chemical_symbols[z] for z in sorted(elements))
    log.info(
        "data: %d frames to train on, %d to validate with, %d of isolated atoms; elements %s",
        len(train), len(valid), len(isolated), names,
    )  # fmt: skip
    for note in notes:
        log.warning("data: %s", note)
    heads = covered[0].heads + covered[1].heads
    return TrainingData(train, valid, isolated, tuple(sorted(elements)), with_stress, tuple(notes), heads)


def _in_loss(config: TrainConfig, with_stress: bool) -> dict[str, float]:
    """The weight of each label in the loss, the larger of both stages."""
    stages = [(config.energy_weight, config.forces_weight)]
    if config.stage_two:
        stages.append((config.stage_two_energy_weight, config.stage_two_forces_weight))
    energy, forces = (max(weights) for weights in zip(*stages, strict=True))
    return {"energy": energy, "forces": forces, "stress": float(with_stress)}


def _type_weights(config: TrainConfig) -> dict[str, float]:
    factors = {}
    for text in config.config_type_weights:
        name, equals, value = text.rpartition("=")
        try:
            factors[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not factors.get(name, -1.0) >= 0:
            raise InputError(f"--config-type-weights: '{text}' is not of the form name=number, with a number from 0 on")
    return factors


def _divide(
    data: Sequence[Configuration], config: TrainConfig, labels: LabelFormat
) -> tuple[Sequence[Configuration], Sequence[Configuration]]:
    if config.valid:
        train: Sequence[Configuration] = data
        valid: Sequence[Configuration] = take_isolated_atoms(read_configurations(config.valid, labels))[0]
        if not len(valid):
            raise InputError(f"{config.valid[0]}: there is no frame to validate with")
    else:
        index = None if config.valid_index is None else read_index(config.valid_index)
        train, valid = split_data(
            data, fraction=config.valid_fraction, count=config.valid_count, index=index, seed=config.split_seed
        )
    if config.train_count is not None:
        if config.train_count > len(train):
            raise InputError(f"--train-count {config.train_count}: there are {len(train)} frames to train on")
        chosen = np.random.default_rng([config.split_seed, 1]).permutation(len(train))[: config.train_count]
        train = Subset(train, np.sort(chosen))
    return train, valid


def _twice(train: Sequence[Configuration], valid: Sequence[Configuration]) -> list[str]:
    """A remark when frames to validate with are also trained on."""
    if getattr(train, "is_lazy", False) or getattr(valid, "is_lazy", False):
        return []  # it would take reading all of it once more
    seen = {c.positions.tobytes() for c in train}
    twice = sum(c.positions.tobytes() in seen for c in valid)
    return (
        [f"{twice} of {len(valid)} validation frames are also trained on: errors will look too good"] if twice else []
    )


# --- the model ---


@dataclass(frozen=True)
class Start:
    """What every member of a committee starts from."""

    train: PackedGraphs | LazyGraphs
    valid: PackedGraphs | LazyGraphs
    e0s: E0s
    statistics: Statistics
    architecture: ModelConfig
    scale: float
    shift: float  # eV
    source: MACE | None  # the model that training starts from
    replay: Replay | None = None

    def model(self, seed: int, dtype: torch.dtype, device: torch.device) -> MACE:
        """The model before the first step: random weights from `seed`, or those of the model it starts from."""
        if self.source is not None:
            model = copy.deepcopy(self.source).to(dtype)
        else:
            model = build_model(self.architecture, seed=seed, dtype=dtype)
            soften_products(model)
            model.scale.fill_(self.scale)
            model.shift.fill_(self.shift)
        known = model.atomic_numbers.tolist()
        for z, energy in self.e0s.values.items():
            model.atomic_energies[0, known.index(z)] = energy  # the head of replay keeps its own
        return model.to(device)


def prepare(config: TrainConfig, data: TrainingData, device: torch.device) -> Start:
    """Graphs, statistics, E0s and the shape of the model; says in the log what they are. Raises InputError."""
    source = _source(config, data)
    elements = data.atomic_numbers if source is None else tuple(source.atomic_numbers.tolist())
    if source is not None:
        _say_level_of_theory(config, source)
    e0s = _e0s(config, data, source)
    check_binding(data.train, e0s)
    replay = None
    if source is not None and config.replay:
        replay = read_replay(config, source)
        source = with_replay_head(source)
    log.info("E0s: %s: %s", e0s.origin, ", ".join(f"{chemical_symbols[z]} {e:.4f}" for z, e in e0s.values.items()))
    architecture = _architecture(config, elements) if source is None else source.config
    if replay is None:
        refuse_unknown_heads(data.heads, architecture.heads, config.head_key)
    like = build_model(architecture, seed=0, dtype=getattr(torch, config.dtype)) if source is None else source
    frames = data.train if replay is None else Joined([OnHead(data.train, NEW_HEAD), replay.train])
    train = make_graphs(frames, model=like, device=device)
    valid = make_graphs(data.valid if replay is None else OnHead(data.valid, NEW_HEAD), model=like, device=device)
    table = torch.zeros(len(architecture.heads), len(elements), dtype=torch.float64)
    if source is not None:
        table += source.atomic_energies.cpu()
    for z, energy in e0s.values.items():
        table[0, elements.index(z)] = energy
    statistics = measure(train, table)
    scale, shift = _scale_and_shift(config, statistics)
    log.info(
        "statistics: %.2f neighbours per atom, energy %.4f +- %.4f eV per atom from E0s, forces %.4f eV/A (rms)",
        statistics.avg_num_neighbors, statistics.mean_energy[0], statistics.std_energy[0], statistics.rms_forces[0],
    )  # fmt: skip
    if source is None:
        log.info("model: scale %.4f (%s), shift %.4f eV (%s)", scale, config.scale, shift, config.shift)
        neighbours = (statistics.avg_num_neighbors,) * architecture.num_interactions
        architecture = replace(architecture, avg_num_neighbors=neighbours)
    return Start(train, valid, e0s, statistics, architecture, scale, shift, source, replay)


def _say_level_of_theory(config: TrainConfig, source: MACE) -> None:
    theory = source.info.level_of_theory
    if config.level_of_theory == INHERIT:
        log.info(
            "level of theory: %s, dispersion %s, inherited from %s", theory, source.info.dispersion, source.info.name
        )
    elif config.level_of_theory == "unknown" and theory != "unknown":
        log.info(
            "level of theory: unknown, since the labels do not say it (%s: %s). --level-of-theory NAME states it, "
            "--level-of-theory %s takes over that of the start.", source.info.name, theory, INHERIT,
        )  # fmt: skip


def _architecture(config: TrainConfig, elements: tuple[int, ...]) -> ModelConfig:
    """The shape of a new model; what the data decide is filled in later."""
    values = {name: _option(config, name) for name in _ARCHITECTURE}
    correlation, layers = values.pop("correlation"), values["num_interactions"]
    if config.max_L is None:
        values["max_L"] = min(values["max_L"], values["max_ell"])
    residual = ["RealAgnosticResidualInteractionBlock"] * (layers - 1)
    _refuse_size(config, values, layers, len(elements))
    return ModelConfig(
        atomic_numbers=elements,
        **values,
        interactions=("RealAgnosticInteractionBlock", *residual),
        correlation=(correlation,) * layers,
        avg_num_neighbors=(1.0,) * layers,
        pair_repulsion=config.pair_repulsion,
    )


def _refuse_size(config: TrainConfig, shape: dict, layers: int, n_elements: int) -> None:
    """Raise InputError for a model whose weights, with their gradients, moments and average, no memory here holds."""
    channels, n_l = shape["num_channels"], shape["max_L"] + 1
    widths = [shape["num_bessel"], *shape["radial_MLP"], channels * n_l * (shape["max_ell"] + 1)]
    radial = sum(a * b for a, b in pairwise(widths))
    weights = layers * (channels**2 * n_l * (n_elements + 3) + radial)
    needed = 6 * weights * getattr(torch, config.dtype).itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
    if needed > there:
        raise InputError(
            f"--num-channels {channels}: a model of about {weights / 1e6:,.0f} million weights would take "
            f"{needed / 1e9:,.0f} GB to train, and this machine has {there / 1e9:,.0f} GB. Most MACE models have 32 to "
            "256 channels, and a --radial-MLP of 64."
        )


def _option(config: TrainConfig, name: str):
    value = getattr(config, name)
    return _ARCHITECTURE[name] if value is None else value


def _source(config: TrainConfig, data: TrainingData) -> MACE | None:
    """The model that training starts from, in the precision of the options."""
    if config.start_from is None:
        return None
    given = [flag(name) for name in _ARCHITECTURE if getattr(config, name) is not None]
    if given or config.pair_repulsion:
        raise InputError(
            f"{(given or ['--pair-repulsion'])[0]}: with --start-from the shape of the model is that of the file"
        )
    source = load_model(config.start_from, head=config.head, dtype=config.dtype)
    unknown = sorted(set(data.atomic_numbers) - set(source.atomic_numbers.tolist()))
    if unknown:
        names = ", ".join(chemical_symbols[z] for z in unknown)
        raise InputError(f"{config.start_from}: the model does not know {names}. Leave frames with it out of the data.")
    return source


def _e0s(config: TrainConfig, data: TrainingData, source: MACE | None) -> E0s:
    if config.e0s_file is not None:
        return read_e0s(config.e0s_file, data.atomic_numbers)
    if source is None:
        if config.e0s == "refit":
            raise InputError("--e0s refit: there is no model that training starts from (--start-from)")
        return find_e0s(config.e0s or "auto", data.train, data.isolated, data.atomic_numbers)
    if config.e0s == "refit":
        return refit_e0s(source, data.train)
    model = dict(zip(source.atomic_numbers.tolist(), source.atomic_energies[0].tolist(), strict=True))
    e0s = find_e0s(config.e0s or "auto", data.train, data.isolated, data.atomic_numbers, model)
    if all(e0s.values[z] == model[z] for z in e0s.values):
        warn_of_another_level(source, data.train)
    return e0s


def _scale_and_shift(config: TrainConfig, statistics: Statistics) -> tuple[float, float]:
    scale = {
        "rms-forces": statistics.rms_forces[0],
        "std-energy": statistics.std_energy[0],
        "none": 1.0,
    }[config.scale]
    if not scale > 0:
        raise InputError(f"--scale {config.scale}: it is {scale:g} in these data. Give --scale none.")
    return scale, statistics.mean_energy[0] if config.shift == "mean" else 0.0


def origin_of(model: MACE, config: TrainConfig, name: str) -> ModelInfo:
    """What a trained model says of itself. Licence and citation are of the weights, so that those of the model that
    training started from stay; the level of theory and dispersion are of the labels, and only inherited on request."""
    before = getattr(model, "info", None)
    heads = model.config.heads
    if before is None:
        before = ModelInfo(name, "", "unknown", heads=heads, head=heads[0])
    inherits = config.level_of_theory == INHERIT
    return replace(
        before,
        name=name,
        sha256="unknown",
        level_of_theory=before.level_of_theory if inherits else config.level_of_theory,
        dispersion=before.dispersion if inherits else "unknown",
        heads=heads,
        dtype=config.dtype,
    )
