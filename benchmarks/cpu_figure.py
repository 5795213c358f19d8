"""Figure of time against atoms from the results of cpu.py, quartiles shaded where recorded; needs matplotlib.

python benchmarks/cpu_figure.py benchmarks/results/cpu.json docs/cpu.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

COLOURS = {
    "native": "#c0392b",
    "native avx2": "#e59866",
    "symmetrix-xl": "#2471a3",
    "pytorch": "#7d3c98",
    "mace-torch": "#616a6b",
    "openmm-ml": "#1e8449",
}
LABELS = {"native": "mace-md, AVX-512", "native avx2": "mace-md, AVX2", "pytorch": "mace-md, PyTorch"}


def main(source: str, target: str) -> None:
    """One panel for each model: median time of an evaluation against the number of atoms, both logarithmic."""
    results = [r for r in json.loads(Path(source).read_text())["results"] if "error" not in r]
    models = list(dict.fromkeys(r["model"] for r in results))
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.2 * len(models), 4), sharex=True, sharey=True, layout="constrained"
    )
    for panel, model in zip(panels, models, strict=True):
        for engine, colour in COLOURS.items():
            points = sorted((r["atoms"], r["median_ms"], *r.get("quartiles_ms", (r["median_ms"],) * 2)) for r in results
                            if r["model"] == model and r["engine"] == engine)  # fmt: skip
            if not points:
                continue
            atoms, median, low, high = zip(*points, strict=True)
            panel.plot(atoms, median, "o-", color=colour, label=LABELS.get(engine, engine), markersize=4, linewidth=1.5)
            panel.fill_between(atoms, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set(xscale="log", yscale="log", title=model, xlabel="atoms of water")
        panel.grid(alpha=0.3, which="both", linewidth=0.4)
    panels[0].set_ylabel("energy and forces, ms (median)")
    panels[0].legend(fontsize=8)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:3])
