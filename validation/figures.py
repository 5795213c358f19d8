"""Figures of the validation report."""

from pathlib import Path

import numpy as np
from scipy import stats

from mace_md.units import BOLTZMANN_KJ_MOL_K, EV_TO_KJ_MOL
from validation.cases import (
    BAROSTATS,
    COLD,
    GAS_MOLECULES,
    GAS_PRESSURE,
    GAS_TEMPERATURE,
    THERMOSTATS,
    WARM,
    Store,
    gas_samples,
    nve_published_samples,
    nve_samples,
    thermostat_points,
)  # fmt: skip
from validation.sampling import Samples
from validation.systems import ideal_gas_volume

COLOURS = ("#2471a3", "#c0392b", "#1e8449", "#af7ac5")


def draw(store: Store, published: tuple[Path, Path] | None, folder: Path) -> None:
    """validation-distributions.svg and validation-nve.svg."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    _kinetic(panels[0], store)
    _ratio(panels[1], store)
    _volume(panels[2], store)
    figure.savefig(folder / "validation-distributions.svg", metadata={"Date": None})

    series = [("rare gas, 32 atoms, 8 fs", nve_samples(store))]
    if published is not None:
        series.append((f"{published[0].stem}, {published[1].stem}, 0.5 fs", nve_published_samples(store, *published)))
    figure, panels = pyplot.subplots(
        1, len(series), figsize=(5 * len(series), 2.8), layout="constrained", squeeze=False
    )
    for panel, (title, samples) in zip(panels[0], series, strict=True):
        _energy(panel, title, samples)
    figure.savefig(folder / "validation-nve.svg", metadata={"Date": None})


def _kinetic(panel, store: Store) -> None:
    for colour, (key, name) in zip(COLOURS, THERMOSTATS.items(), strict=False):
        samples = thermostat_points(store, key)[0][1]
        scaled = samples.kinetic / (0.5 * samples.num_dof * BOLTZMANN_KJ_MOL_K * COLD)
        panel.hist(scaled, bins=40, density=True, histtype="step", color=colour, label=name)
    x = np.linspace(0.5, 1.6, 200)
    dof = samples.num_dof
    panel.plot(x, stats.gamma(dof / 2, scale=2 / dof).pdf(x), color="black", linewidth=1, label="theory")
    panel.set(
        xlabel="kinetic energy / its mean by theory", ylabel="density", title=f"Kinetic energy, rare gas, {COLD:g} K"
    )
    panel.legend(fontsize=7)


def _ratio(panel, store: Store) -> None:
    """ln P(U; T2) / P(U; T1) is a line whose slope the two temperatures give."""
    slope = 1 / (BOLTZMANN_KJ_MOL_K * COLD) - 1 / (BOLTZMANN_KJ_MOL_K * WARM)
    for colour, (key, name) in zip(COLOURS, THERMOSTATS.items(), strict=False):
        cold, warm = (samples.potential for _, samples in thermostat_points(store, key))
        edges = np.linspace(*np.quantile(np.r_[cold, warm], (0.03, 0.97)), 16)
        counts = [np.histogram(values, edges)[0] for values in (cold, warm)]
        full = np.minimum(*counts) > 10
        middle = 0.5 * (edges[1:] + edges[:-1])[full]
        ratio = np.log(counts[1][full] / counts[0][full])
        origin = (ratio - slope * middle).mean()
        centre = -origin / slope
        panel.plot(middle - centre, ratio, "o", color=colour, markersize=3.5, label=name)
    x = np.array([-6.0, 6.0])
    panel.plot(x, slope * x, color="black", linewidth=1, label="theory (slope)")
    panel.set(xlabel="potential energy - crossing, kJ/mol", ylabel=f"ln P({WARM:g} K) / P({COLD:g} K)",
              title="Ratio of two ensembles, rare gas")  # fmt: skip
    panel.legend(fontsize=7)


def _volume(panel, store: Store) -> None:
    mean = ideal_gas_volume(GAS_MOLECULES[1, "atoms"], GAS_TEMPERATURE, GAS_PRESSURE)
    for colour, kind in zip(COLOURS, BAROSTATS, strict=True):
        volumes = gas_samples(store, kind, "atoms", 1).volume
        panel.hist(volumes, bins=40, density=True, histtype="step", color=colour, label=kind)
    x = np.linspace(0.5 * mean, 1.7 * mean, 200)
    shape = GAS_MOLECULES[1, "atoms"] + 1
    panel.plot(x, stats.gamma(shape, scale=mean / shape).pdf(x), color="black", linewidth=1, label="theory")
    panel.set(xlabel="volume, nm³", ylabel="density", title=f"Ideal gas, {GAS_PRESSURE:g} bar, four barostats")
    panel.legend(fontsize=7)


def _energy(panel, title: str, samples: Samples) -> None:
    count = samples.positions.shape[1]
    scale = 1000 / EV_TO_KJ_MOL / count
    total = samples.conserved - samples.conserved[0]
    panel.plot(samples.time, (samples.kinetic - samples.kinetic.mean()) * scale, color="#d5d8dc", linewidth=0.5,
               label="kinetic energy - mean")  # fmt: skip
    panel.plot(samples.time, total * scale, color="#c0392b", linewidth=1, label="total energy - start")
    panel.set(xlabel="time, ps", ylabel="meV/atom", title=title)
    panel.legend(fontsize=7, loc="upper right")
