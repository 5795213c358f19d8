"""Fine-tuning: E0s of a new level of theory for a trained model, and replay of what it knew against forgetting.

Replay is mace-torch's multihead fine-tuning: the model gets a second readout head. New data train the first, frames
labelled as the model was trained (or by the model itself: `mace-md label`) the second; both hold the shared features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mace_md.config import TrainConfig
from mace_md.errors import InputError
from mace_md.model.build import with_heads
from mace_md.model.mace import MACE
from mace_md.training.checks import check_data, electronic_energy
from mace_md.training.comparison import Errors, compare
from mace_md.training.configuration import Configuration
from mace_md.training.data import Subset, atom_counts, read_configurations, split_data, take_isolated_atoms
from mace_md.training.labelling import Labeller, elements_of
from mace_md.training.statistics import E0s

log = logging.getLogger("mace_md")
NEW_HEAD, REPLAY_HEAD = "Default", "replay"
_HELD_OUT = 0.05  # part of the replay frames that is not trained on
_MOST_RESIDUALS = 2000  # frames that E0s are fitted to
_SAMPLE, _NOTICEABLE = 50, 0.05  # frames looked at, eV per atom: well above the error of a useful model


def refit_e0s(model: MACE, data: Sequence[Configuration]) -> E0s:
    """The E0s of `model` (of one head), moved by the least-squares fit of what it leaves of the energies in `data`.

    Of equally good changes the one nearest to a guess is taken: no change, or, where this explains more (core electrons
    that the model's energies lack), a change to energies of atoms. Raises InputError when there is no energy.
    """
    elements, counts, residuals = _residuals(model, data, _MOST_RESIDUALS)
    values = dict(zip(model.atomic_numbers.tolist(), model.atomic_energies[0].tolist(), strict=True))
    to_atoms = np.array([electronic_energy(np.array([z])) - values[z] for z in elements])
    guess = min((np.zeros_like(to_atoms), to_atoms), key=lambda g: float(np.linalg.norm(residuals - counts @ g)))
    correction, _, rank, _ = np.linalg.lstsq(counts, residuals - counts @ guess, rcond=None)
    for z, move in zip(elements, guess + correction, strict=True):
        values[z] += float(move)
    origin = f"those of the model that training starts from, refitted to {len(residuals)} energies"
    if rank < len(elements):
        origin += f" (the compositions fix only {rank} of {len(elements)}: good for these molecules, not for others)"
    return E0s(values, origin)


def warn_of_another_level(model: MACE, data: Sequence[Configuration]) -> None:
    """Say in the log when the energies in `data` are a constant per atom away from those of `model`."""
    some = Subset(data, np.unique(np.linspace(0, len(data) - 1, min(_SAMPLE, len(data))).astype(int)))
    try:
        _, counts, residuals = _residuals(model, some, _SAMPLE)
    except InputError:
        return  # no energies: nothing to be away from
    per_atom = residuals / counts.sum(axis=1)
    if abs(per_atom.mean()) > max(_NOTICEABLE, 3.0 * per_atom.std()):
        log.warning(
            "E0s: energies are %+.3f eV per atom away from the model's (spread %.3f), as those of another level of "
            "theory are. --e0s refit moves its E0s by that; --e0s-file gives better ones.",
            per_atom.mean(), per_atom.std(),
        )  # fmt: skip


def _residuals(model: MACE, data: Sequence[Configuration], most: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Elements, their counts in each frame [n, n_elements], and label minus model energy of each frame [n], eV."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).astype(int))
    labelled = [c for c in (data[int(i)] for i in chosen) if c.energy is not None]
    if not labelled:
        raise InputError("there is no energy in the data to refit E0s to. Give --e0s-file, or --e0s model.")
    elements = elements_of(labelled)
    found = Labeller(model, elements, kernels="reference")(labelled)
    residuals = np.array([c.energy - mine.energy for c, mine in zip(labelled, found, strict=True)])
    counts = np.array([[(c.atomic_numbers == z).sum() for z in elements] for c in labelled], dtype=np.float64)
    return elements, counts, residuals


# --- replay ---


@dataclass(frozen=True)
class Replay:
    """Frames that hold a model to what it knew."""

    train: Sequence[Configuration]  # on the replay head
    held_out: list[Configuration]
    before: dict[str, Errors]  # of the model on the latter, before training


def read_replay(config: TrainConfig, model: MACE) -> Replay:
    """The frames that `--replay` names, drawn and divided; `model` is the one that training starts from.

    Raises InputError for frames that lack a label or hold an element that the model does not know.
    """
    frames = take_isolated_atoms(read_configurations(config.replay))[0]
    if config.replay_count is not None and config.replay_count < len(frames):
        drawn = np.random.default_rng([config.split_seed, 2]).permutation(len(frames))[: config.replay_count]
        frames = Subset(frames, np.sort(drawn))
    if len(frames) < 2:
        raise InputError(
            f"{config.replay[0]}: {len(frames)} frames for replay; at least 2 are needed, one to test with"
        )
    known, name = model.atomic_numbers.tolist(), config.start_from
    for remark in check_data(frames, atomic_numbers=known, model=name, doubtful=config.check_data):
        log.warning("replay: %s", remark)
    train, held_out = split_data(frames, fraction=_HELD_OUT, seed=config.split_seed)
    held_out = list(held_out)
    before = _errors(model, held_out)
    log.info("replay: %d frames to train on, %d to test with; the model before: %s", len(train), len(held_out),
             _in_words(before))  # fmt: skip
    return Replay(OnHead(train, REPLAY_HEAD, config.replay_weight), held_out, before)


def with_replay_head(model: MACE) -> MACE:
    """The model with a head for new data and one for replay, which say the same until they are trained."""
    several = with_heads(model, (NEW_HEAD, REPLAY_HEAD))
    several.info = replace(model.info, heads=(NEW_HEAD, REPLAY_HEAD), head=NEW_HEAD)
    return several


def report_replay(model: MACE, replay: Replay) -> dict[str, dict[str, Errors]]:
    """Say in the log what a trained model (its replay head) still knows; returns errors before and after."""
    after = _errors(model, replay.held_out)
    log.info("replay: head '%s' on its %d test frames: %s (before: %s)", REPLAY_HEAD, len(replay.held_out),
             _in_words(after), _in_words(replay.before))  # fmt: skip
    return {"before": replay.before, "after": after}


def _errors(model: MACE, frames: list[Configuration]) -> dict[str, Errors]:
    return compare(frames, list(Labeller(model, elements_of(frames), kernels="reference")(frames))).errors()


def _in_words(errors: dict[str, Errors]) -> str:
    return f"RMSE E {errors['energy_per_atom'].rmse:.2f} meV/atom, F {errors['forces'].rmse:.1f} meV/A"


class OnHead(Sequence[Configuration]):
    """The frames for a head of the model, their weights multiplied by a factor, as they are read."""

    def __init__(self, data: Sequence[Configuration], head: str, factor: float = 1.0):
        self._data, self._head, self._factor = data, head, factor
        self.is_lazy = getattr(data, "is_lazy", False)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Configuration:
        configuration = self._data[index]
        return replace(configuration, head=self._head, weight=self._factor * configuration.weight)

    def atom_counts(self) -> np.ndarray:
        """Atoms of each frame."""
        return atom_counts(self._data)
