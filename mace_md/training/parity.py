"""Parity plots: what a model says against the labels, and how the errors are distributed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from mace_md.errors import InputError
from mace_md.provenance import write_atomically
from mace_md.training.comparison import MEV, Comparison

_BLUE, _GREY = "#0072B2", "#616a6b"
# Okabe and Ito's colours, which can be told apart without red and green.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
_MANY = 5000  # points, from which on they are drawn as a picture inside an SVG, and smaller


class Panel(NamedTuple):
    """One quantity."""

    name: str  # of the axis
    label: np.ndarray
    predicted: np.ndarray
    groups: dict[str, np.ndarray]  # name -> which entries, each with a colour of its own; empty for one colour
    note: str = ""


def plot_parity(comparison: Comparison, paths: Sequence[Path], title: str) -> None:
    """One row of panels: energies, forces, stresses where there are labels, each with its errors below; to each path.

    Energies are per atom and relative to the mean label of their composition, so that isolated-atom energies do not
    hide the rest; a constant between model and labels (`Comparison.constant`) is taken off, which the panel says.
    Forces are coloured by element. PNG or SVG by the suffixes of `paths`. Raises InputError when matplotlib is missing.
    """
    panels = _panels(comparison)
    figure = _new_figure(figsize=(4.2 * len(panels), 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), height_ratios=(3, 1), squeeze=False)
    for panel, parity, below in zip(panels, *axes, strict=True):
        _parity(parity, panel)
        _histogram(below, panel)
    figure.suptitle(title, fontsize=10)
    for path in paths:
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix.lstrip("."), dpi=150)
        write_atomically(path, content.getvalue())


def _panels(comparison: Comparison) -> list[Panel]:
    """Each quantity that has labels."""
    panels, n = [], comparison.num_atoms
    known = np.isfinite(comparison.energy[0]) & np.isfinite(comparison.energy[1])
    if known.any():
        centre, constant = _mean_of_composition(comparison), comparison.constant()
        label, predicted = (((e - centre) / n)[known] * MEV for e in comparison.energy)
        note = "" if constant is None else f"a constant of {constant:+.4g} meV/atom\nis taken off the model"
        panels.append(Panel("energy, meV/atom", label, predicted - (constant or 0.0), {}, note))
    label, predicted = comparison.forces
    known = np.isfinite(label) & np.isfinite(predicted)
    if known.any():
        groups = {}
        for z in sorted(set(comparison.atomic_numbers.tolist())):
            of_element = np.broadcast_to((comparison.atomic_numbers == z)[:, None], label.shape)[known]
            if of_element.any():
                groups[chemical_symbols[z]] = of_element
        panels.append(Panel("force component, eV/A", label[known], predicted[known], groups))
    label, predicted = comparison.stress
    known = np.isfinite(label) & np.isfinite(predicted)
    if known.any():
        panels.append(Panel("stress component, meV/A$^3$", MEV * label[known], MEV * predicted[known], {}))
    return panels


def _mean_of_composition(comparison: Comparison) -> np.ndarray:
    """[n_frames], eV: the mean labelled energy of the frames that have the same atoms."""
    label = comparison.energy[0]
    ends = np.cumsum(comparison.num_atoms)[:-1]
    kinds = [tuple(np.sort(numbers).tolist()) for numbers in np.split(comparison.atomic_numbers, ends)]
    mean = {kind: np.nanmean(label[[k == kind for k in kinds]]) for kind in set(kinds)}
    return np.array([mean[kind] for kind in kinds])


def _parity(axis, panel: Panel) -> None:
    label, predicted = panel.label, panel.predicted
    low, high = min(label.min(), predicted.min()), max(label.max(), predicted.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axis.plot(limits, limits, color=_GREY, linewidth=0.8, zorder=0)
    many = len(label) > _MANY
    how = {"s": 2 if many else 9, "alpha": 0.35 if many else 0.6, "linewidths": 0, "rasterized": many}
    for i, (name, which) in enumerate((panel.groups or {"": np.ones(len(label), dtype=bool)}).items()):
        colour = _COLOURS[i % len(_COLOURS)] if panel.groups else _BLUE
        axis.scatter(label[which], predicted[which], color=colour, label=name, **how)
    if len(panel.groups) > 1:
        legend = axis.legend(fontsize=7, loc="lower right", frameon=False, ncols=1 + len(panel.groups) // 8)
        for handle in legend.legend_handles:
            handle.set(sizes=[18], alpha=1.0)
    error = predicted - label
    unit = panel.name.partition(", ")[2]
    text = f"MAE {np.abs(error).mean():.3g}\nRMSE {np.sqrt((error**2).mean()):.3g} {unit}\nn = {len(label)}"
    text += f"\n{panel.note}" if panel.note else ""
    axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=8)
    axis.set(xlim=limits, ylim=limits, xlabel=f"label: {panel.name}", ylabel="model", aspect="equal")
    axis.locator_params(nbins=5)
    axis.tick_params(labelsize=8)


def _histogram(axis, panel: Panel) -> None:
    error = panel.predicted - panel.label
    reach = np.percentile(np.abs(error), 99.5) or 1.0
    bins = int(np.clip(np.sqrt(len(error)), 7, 61)) | 1  # odd: one bin is centred on no error
    axis.hist(np.clip(error, -reach, reach), bins=bins, range=(-reach, reach), color=_BLUE)
    axis.axvline(0.0, color=_GREY, linewidth=0.8)
    axis.set(xlabel=f"error of the {panel.name}", yticks=[])
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(labelsize=8)


def _new_figure(**how):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("parity plots need matplotlib: pip install matplotlib, or give --no-plots") from None
    return Figure(**how)
