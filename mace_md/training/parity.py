"""Parity plots: what a model says against the labels, and how the errors are distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.training.comparison import MEV, Comparison

_BLUE, _GREY = "#2471a3", "#616a6b"


def plot_parity(comparison: Comparison, path: Path, title: str) -> None:
    """One row of panels: energies, forces, stresses where there are labels, each with its errors below.

    Energies are per atom and relative to the mean label of their composition, so that isolated-atom energies do not
    hide the rest. Raises InputError when matplotlib is missing.
    """
    panels = _panels(comparison)
    figure = _new_figure(figsize=(4.2 * len(panels), 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), height_ratios=(3, 1), squeeze=False)
    for (name, label, predicted), parity, below in zip(panels, *axes, strict=True):
        _parity(parity, name, label, predicted)
        _histogram(below, name, predicted - label)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def _panels(comparison: Comparison) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(axis label, labels, predictions) of each quantity that has labels."""
    label, predicted = comparison.energy
    known = np.isfinite(label)
    panels = []
    if known.any():
        centre = _mean_of_composition(comparison)
        n = comparison.num_atoms
        panels.append(("energy, meV/atom", *(((e - centre) / n)[known] * MEV for e in (label, predicted))))
    for name, pair in (
        ("force component, eV/A", comparison.forces),
        ("stress component, meV/A$^3$", comparison.stress),
    ):
        known = np.isfinite(pair[0])
        if known.any():
            factor = MEV if name.startswith("stress") else 1.0
            panels.append((name, *(factor * side[known] for side in pair)))
    return panels


def _mean_of_composition(comparison: Comparison) -> np.ndarray:
    """[n_frames], eV: the mean labelled energy of the frames that have the same atoms."""
    label = comparison.energy[0]
    ends = np.cumsum(comparison.num_atoms)[:-1]
    kinds = [tuple(np.sort(numbers).tolist()) for numbers in np.split(comparison.atomic_numbers, ends)]
    mean = {kind: np.nanmean(label[[k == kind for k in kinds]]) for kind in set(kinds)}
    return np.array([mean[kind] for kind in kinds])


def _parity(axis, name: str, label: np.ndarray, predicted: np.ndarray) -> None:
    low, high = min(label.min(), predicted.min()), max(label.max(), predicted.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axis.plot(limits, limits, color=_GREY, linewidth=0.8, zorder=0)
    if len(label) > 5000:
        axis.hexbin(label, predicted, gridsize=90, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    else:
        axis.plot(label, predicted, ".", color=_BLUE, markersize=3, alpha=0.5, markeredgewidth=0)
    error = predicted - label
    unit = name.partition(", ")[2]
    text = f"MAE {np.abs(error).mean():.3g}\nRMSE {np.sqrt((error**2).mean()):.3g} {unit}\nn = {len(label)}"
    axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=8)
    axis.set(xlim=limits, ylim=limits, xlabel=f"label: {name}", ylabel="model", aspect="equal")
    axis.tick_params(labelsize=8)


def _histogram(axis, name: str, error: np.ndarray) -> None:
    reach = np.percentile(np.abs(error), 99.5) or 1.0
    axis.hist(np.clip(error, -reach, reach), bins=61, color=_BLUE)
    axis.axvline(0.0, color=_GREY, linewidth=0.8)
    axis.set(xlabel=f"error of the {name}", yticks=[])
    axis.tick_params(labelsize=8)


def _new_figure(**how):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("parity plots need matplotlib: pip install matplotlib, or give --no-plots") from None
    return Figure(**how)
