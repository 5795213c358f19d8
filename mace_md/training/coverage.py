"""What a training can use of its data: weights, labels, elements, heads and kinds of configurations that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import LABELS, Configuration

FEW = 10  # frames to validate with


@dataclass
class Coverage:
    """Sums over frames."""

    frames: int = 0
    of_no_weight: int = 0  # frames
    elements: set[int] = field(default_factory=set)
    heads: Counter[str] = field(default_factory=Counter)
    config_types: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)  # frames with a label
    weight: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LABELS, 0.0))  # of the labels there are


def cover(data: Sequence[Configuration]) -> Coverage:
    """Look at every frame. Raises InputError for a weight that is negative or no number."""
    found = Coverage()
    for c in data:
        weights = {name: getattr(c, f"{name}_weight") for name in LABELS}
        for name, weight in ({"weight": c.weight} | weights).items():
            if not (np.isfinite(weight) and weight >= 0):
                key = "config_weight" if name == "weight" else f"config_{name}_weight"
                raise InputError(
                    f"{c.where}: {key} is {weight:g}. A weight is a number from 0 on; 0 leaves a frame out of the loss."
                )
        found.frames += 1
        found.elements.update(c.atomic_numbers.tolist())
        found.heads[c.head] += 1
        found.config_types[c.config_type] += 1
        share = 0.0
        for name in LABELS:
            if getattr(c, name) is not None:
                found.labelled[name] += 1
                found.weight[name] += c.weight * weights[name]
                share += c.weight * weights[name]
        found.of_no_weight += share == 0
    return found


def refuse_useless(train: Coverage, valid: Coverage, in_loss: Mapping[str, float]) -> list[str]:
    """Raise InputError where nothing would be learned, or nothing judged; returns remarks.

    in_loss : weight of each label in the loss.
    """
    counted = [name for name in LABELS if in_loss.get(name, 0.0) > 0]
    if not counted:
        raise InputError("--energy-weight, --forces-weight and --stress-weight are all 0: there is nothing to learn.")
    for part, what in ((train, "to train on"), (valid, "to validate with")):
        if not sum(part.weight[name] for name in counted) > 0:
            raise InputError(
                f"all {part.frames} frames {what} have the weight 0 (config_weight, config_energy_weight, "
                "config_forces_weight, --config-type-weights), or lack every label that is in the loss: nothing would "
                "be learned from them."
            )
    remarks = []
    if train.of_no_weight:
        remarks.append(
            f"{train.of_no_weight} of {train.frames} frames to train on have the weight 0: they are not used"
        )
    remarks += [
        f"every frame gives its {name} the weight 0: the model does not learn {name}"
        for name in counted
        if train.labelled[name] and not train.weight[name] > 0
    ]
    if valid.frames < FEW:
        remarks.append(
            f"{valid.frames} frames to validate with are few: which epoch is the best is a matter of chance. "
            f"{FEW} or more: --valid-count {FEW}, --valid-fraction, or frames of their own with --valid"
        )
    return remarks


def refuse_unlearned_elements(train: Coverage, valid: Coverage) -> None:
    """Raise InputError for an element that only validation frames have: a new model would know nothing of it."""
    unlearned = sorted(valid.elements - train.elements)
    if unlearned:
        raise InputError(
            f"{symbols(unlearned)}: in validation frames, but in no frame to train on, so that a new model cannot "
            "learn it. Another division (--split-seed), more frames to train on, or leave such frames out."
        )


def refuse_unknown_heads(counts: Counter[str], heads: Sequence[str], key: str) -> None:
    """Raise InputError for frames (`counts` of each head) on a head that the model has not, with the way out."""
    unknown = [name for name in counts if name not in heads and not (name == "Default" and len(heads) == 1)]
    if not unknown:
        return
    several = ", ".join(f"'{name}' ({n} frames)" for name, n in counts.items())
    raise InputError(
        f"the key '{key}' puts frames on the heads {several}; the model has {', '.join(heads)}. Labels of several "
        "levels of theory do not fit one head: train on the frames of one of them. If all are of one level, read past "
        "the key: --head-key none."
    )


def refuse_unknown_types(found: Coverage, factors: Mapping[str, float]) -> None:
    """Raise InputError for a weight of a config_type that no frame has."""
    for name in factors:
        if name not in found.config_types:
            known = ", ".join(sorted(found.config_types))
            raise InputError(f"--config-type-weights: no frame is of the type '{name}'; there are {known}")


def symbols(numbers: Sequence[int]) -> str:
    """Names of elements, for a message."""
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[number] for number in numbers)
