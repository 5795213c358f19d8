"""From the results of run.py to docs/accuracy.md and the figure of the learning curves.

python benchmarks/accuracy/report.py
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.accuracy import published
from benchmarks.accuracy.datasets import RMD17

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
THROUGHPUT = ROOT / "benchmarks" / "results" / "train_throughput.json"
DOCUMENT, FIGURE = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "learning_curves.svg"
OURS = (  # column, cpu_sized, program
    ("mace-md, paper's settings", False, "mace-md"),
    ("mace-md, CPU-sized", True, "mace-md"),
    ("mace-torch, CPU-sized", True, "mace-torch"),
)
TEXT = """# Accuracy

Errors of models trained with `mace-md train`, next to published ones. Energies in meV per molecule, forces in
meV/A. This page is made by `benchmarks/accuracy/report.py` from `benchmarks/results/accuracy.json`, which has every
error, setting, version, device and time; "-" is what was not run. How to run it:
[benchmarks/accuracy](../benchmarks/accuracy/README.md).

{ran}

The CPU-sized models are there to compare programs and to show trends with the same code, not to be good; their
columns must not be read against the published ones.
{cpu}

## mace-md and mace-torch, trained alike

The same frames, settings, batch size, precision and number of epochs in both programs; only the random numbers
differ. Means over seeds, and the range of the seeds in brackets: where the seeds of one program are further apart than
the two programs, the ratio says no more than that. Both models were evaluated by `mace-md evaluate`;
{own}

{alike}

## Training throughput

Structures per second of training on acetylacetone, both programs in turns on one thread of a machine that did other
work, too (`benchmarks/train_throughput.py`): medians of epochs, wall time with the range in brackets, and by
processor time, which other work disturbs less.

{throughput}

## Acetylacetone

Root-mean-square errors, energy / forces; 450 frames of 300 K to train on and 50 to validate with. The dihedral scan
and the path of the hydrogen transfer have energies only; the paper shows them as figures.

{acac}

## 3BPA

Root-mean-square errors, energy / forces; 450 frames of 300 K to train on and 50 to validate with.

{bpa}

## rMD17

Mean absolute errors, energy / forces, on 1000 frames; 50 frames to validate with.

950 frames to train on:

{rmd17}

50 frames to train on:

{rmd17_50}

## Learning curves

![force error against the number of training frames](learning_curves.svg)

{curves}

All trainings of a curve take the same number of steps with the same 16 channels: {curve_steps}.
Where the error does not fall from N to N, it is these that limit it, not the data, as wherever there are but 800 steps;
the paper's models are larger and trained to the end. At equal size and steps, correlation 3 falls steeper than 1.
"""


def main() -> None:
    """Write the document and the figure."""
    results = list(json.loads(RESULTS.read_text()).values())
    draw_curves(curve_points(results))
    DOCUMENT.write_text(document(results, json.loads(THROUGHPUT.read_text())))
    print(f"written: {DOCUMENT}, {FIGURE}")


def document(results: list[dict], throughput: dict) -> str:
    """The text of docs/accuracy.md."""
    rmd17 = [f"rmd17-{molecule}" for molecule in RMD17]
    acac_rows = [("acac", test) for test in ("300K", "600K", "dihedral", "H_transfer")]
    plain = [r for r in results if not (r["task"].get("curve") and r["task"]["cpu_sized"])]
    return TEXT.format(
        ran=filled(what_ran(results)),
        cpu=filled(cpu_sizes(results)),
        own=filled(own_errors(results)),
        alike=alike(plain),
        throughput=throughput_table(throughput),
        acac=table(plain, acac_rows, 450, published.ACAC, "rmse"),
        bpa=table(plain, [("3bpa", "300K"), ("3bpa", "600K")], 450, published.BPA, "rmse"),
        rmd17=table(plain, [(name, "test") for name in rmd17], 950, published.RMD17, "mae"),
        rmd17_50=table(plain, [(name, "test") for name in rmd17], 50, published.RMD17_50, "mae"),
        curves=curve_table(curve_points(results)),
        curve_steps=curve_steps(results),
    )


def filled(text: str) -> str:
    """The sentences in lines of a width that can be read."""
    return textwrap.fill(text, 116, break_long_words=False, break_on_hyphens=False)


# --- tables ---


def chosen(results: Iterable[dict], **wanted: object) -> list[dict]:
    """Results whose task has these values."""
    return [r for r in results if all(r["task"][key] == value for key, value in wanted.items())]


def table(
    results: list[dict], rows: list[tuple[str, str]], n_train: int, columns: dict[str, dict], statistic: str
) -> str:
    """One row for each (data set, test), published columns first."""
    heading = ["", *columns, *(name for name, _, _ in OURS)]
    lines = [heading, ["---"] * len(heading)]
    for dataset, test in rows:
        label = dataset.removeprefix("rmd17-") if test == "test" else test.replace("_", " ")
        cells = [label]
        for column in columns.values():
            pair = column.get(label)
            cells.append("-" if pair is None else f"{pair[0]} / {pair[1]}")
        for _, cpu_sized, program in OURS:
            found = chosen(
                results, dataset=dataset, n_train=n_train, cpu_sized=cpu_sized, program=program, correlation=3
            )
            cells.append(pair_of(found, test, statistic))
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pair_of(results: list[dict], test: str, statistic: str) -> str:
    """Energy / forces, means over seeds."""
    if not results:
        return "-"
    energy = values(results, test, "energy", statistic)
    forces = values(results, test, "forces", statistic)
    return f"{statistics.mean(energy):.2f}" + (f" / {statistics.mean(forces):.1f}" if forces else "")


def values(results: list[dict], test: str, quantity: str, statistic: str) -> list[float]:
    """The errors of each seed, meV and meV/A."""
    return [r["errors"][test][quantity][statistic] for r in results if quantity in r["errors"][test]]


def alike(results: list[dict]) -> str:
    """Every data set and size that both programs were trained on, with the ratio of the errors."""
    lines = [
        ["data", "test", "error", "mace-md", "mace-torch", "ratio", "seeds"],
        ["---"] * 7,
    ]
    for dataset, n_train, cpu_sized in sorted(
        {tuple(r["task"][k] for k in ("dataset", "n_train", "cpu_sized")) for r in results}
    ):
        here, there = (
            chosen(results, dataset=dataset, n_train=n_train, cpu_sized=cpu_sized, correlation=3, program=program)
            for program in ("mace-md", "mace-torch")
        )
        seeds = {r["task"]["seed"] for r in here} & {r["task"]["seed"] for r in there}
        here, there = ([r for r in some if r["task"]["seed"] in seeds] for some in (here, there))
        if not seeds:
            continue
        for test in here[0]["errors"]:
            for quantity, statistic in (("energy", "rmse"), ("forces", "rmse"), ("energy", "mae"), ("forces", "mae")):
                a, b = (values(some, test, quantity, statistic) for some in (here, there))
                if not a or statistic != ("mae" if dataset.startswith("rmd17") else "rmse"):
                    continue
                unit = "meV" if quantity == "energy" else "meV/A"
                lines.append(
                    [f"{dataset}, N = {n_train}", test.replace("_", " "), f"{quantity} {statistic.upper()}, {unit}",
                     spread(a), spread(b), f"{statistics.mean(a) / statistics.mean(b):.2f}", str(len(seeds))]
                )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if len(lines) > 2 else "Not run."


def throughput_table(throughput: dict) -> str:
    """Both programs on each model, and the ratio."""
    lines = [["model", "mace-md", "mace-torch", "ratio", "ratio by processor time"], ["---"] * 5]
    for name, result in throughput["results"].items():
        cells = [name]
        for program in ("mace-md", "mace-torch"):
            wall, cpu = result[f"{program} per wall s"], result[f"{program} per cpu s"]
            cells.append(f"{wall['median']:.1f} ({wall['lowest']:.1f} to {wall['highest']:.1f}); {cpu['median']:.0f}")
        lines.append([*cells, f"{result['ratio, wall']:.2f}", f"{result['ratio, cpu']:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(numbers: list[float]) -> str:
    """Mean and range."""
    text = f"{statistics.mean(numbers):.2f}"
    return text if len(numbers) == 1 else f"{text} ({min(numbers):.2f} to {max(numbers):.2f})"


# --- sentences ---


def what_ran(results: list[dict]) -> str:
    """What there is, and on which machines."""
    paper, small = chosen(results, cpu_sized=False), chosen(results, cpu_sized=True)
    machines = sorted({f"{r['device']['processor']}, {r['threads']} thread" + "s" * (r["threads"] > 1)
                       + "".join(f", {gpu}" for gpu in r["device"].get("gpus", [])) for r in results})  # fmt: skip
    done = f"{len(paper)} trainings with the paper's settings were run" if paper else (
        "No training with the paper's settings was run: it takes hours on a GPU, and none was at hand"
    )  # fmt: skip
    minutes = sum(r["train_seconds"] for r in results) / 60
    notes = sorted({r["note"] for r in results if "note" in r})
    remarks = "".join(f" {sum(r.get('note') == note for r in results)} of them {note}." for note in notes)
    return (
        f"{done}. {len(small)} CPU-sized ones were run ({'; '.join(machines)}; {minutes:.0f} minutes of steps in all)."
        f"{remarks}"
    )


def cpu_sizes(results: list[dict]) -> str:
    """The shape of the CPU-sized models."""
    shapes = {
        f"{s['num_channels']} channels, L = {s['max_L']}, l_max {s['max_ell']}"
        for s in (r["settings"] for r in chosen(results, cpu_sized=True))
    }
    steps = [
        r["epochs_done"] * -(-r["task"]["n_train"] // r["settings"]["batch_size"])
        for r in chosen(results, cpu_sized=True)
    ]
    if not steps:
        return "None was run yet."
    return f"They have {'; '.join(sorted(shapes))}, and {min(steps)} to {max(steps)} optimiser steps."


def own_errors(results: list[dict]) -> str:
    """How far mace-torch's own table of the validation frames is from that evaluation."""
    away = []
    for r in chosen(results, program="mace-torch"):
        for quantity, key in (("energy", "energy_meV"), ("forces", "forces_meV_per_A")):
            away.append(abs(r["errors"]["valid"][quantity]["rmse"] - r["own_valid_rmse"][key]))
    if not away:
        return "mace-torch's own table is not there yet."
    return (
        f"mace-torch's own table of the validation frames, which has one decimal, differs from that by at most "
        f"{max(away):.2f} meV or meV/A."
    )


# --- learning curves ---


def curve_points(results: list[dict]) -> dict[tuple[str, int], dict[int, float]]:
    """Force MAE on the test frames, meV/A, by (molecule, correlation) and number of training frames."""
    points: dict[tuple[str, int], dict[int, list[float]]] = {}
    small = chosen(results, cpu_sized=True, program="mace-md")
    trained_longer = {r["task"]["dataset"] for r in small if r["task"].get("curve")}
    for r in small:
        task = r["task"]
        longer = task["dataset"] in trained_longer  # then the short trainings of the tables are no points of it
        if task["dataset"].startswith("rmd17-") and longer == bool(task.get("curve")):
            key = (task["dataset"].removeprefix("rmd17-"), task["correlation"])
            error = r["errors"]["test"]["forces"]["mae"]
            points.setdefault(key, {}).setdefault(task["n_train"], []).append(error)
    return {
        key: {n: statistics.mean(errors) for n, errors in sorted(by_size.items())}
        for key, by_size in sorted(points.items())
        if len(by_size) > 2
    }


def curve_steps(results: list[dict]) -> str:
    """Steps and batch of the trainings behind each curve."""
    small = chosen(results, cpu_sized=True, program="mace-md")
    names = []
    for molecule in dict.fromkeys(molecule for molecule, _ in curve_points(results)):
        own = [r for r in small if r["task"]["dataset"] == f"rmd17-{molecule}"]
        r = next((r for r in own if r["task"].get("curve")), own[0])
        batch = r["settings"]["batch_size"]
        steps = r["epochs_done"] * -(-r["task"]["n_train"] // batch)
        names.append(f"{molecule} about {round(steps, -2)} of {batch} frames")
    return ", ".join(names) or "none was run"


def slope_of(points: dict[int, float]) -> tuple[float, float]:
    """(slope, intercept) of the straight line through log10(error) against log10(frames), least squares."""
    slope, intercept = np.polyfit(np.log10(list(points)), np.log10(list(points.values())), 1)
    return float(slope), float(intercept)


def curve_table(curves: dict[tuple[str, int], dict[int, float]]) -> str:
    """Errors and fitted slopes."""
    if not curves:
        return "Not run."
    sizes = sorted({n for points in curves.values() for n in points})
    lines = [["force MAE, meV/A", *(f"N = {n}" for n in sizes), "slope"], ["---"] * (len(sizes) + 2)]
    for (molecule, correlation), points in curves.items():
        cells = [f"{points[n]:.1f}" if n in points else "-" for n in sizes]
        lines.append([f"{molecule}, correlation {correlation}", *cells, f"{slope_of(points)[0]:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(curves: dict[tuple[str, int], dict[int, float]]) -> None:
    """One panel for each molecule, log-log, with the fitted lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    molecules = list(dict.fromkeys(molecule for molecule, _ in curves)) or ["nothing yet"]
    figure = Figure(figsize=(4.2 * len(molecules), 3.8), layout="constrained")
    panels = figure.subplots(1, len(molecules), sharey=True, squeeze=False)[0]
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for panel, molecule in zip(panels, molecules, strict=True):
        for correlation, colour in ((1, "#616a6b"), (3, "#c0392b")):
            points = curves.get((molecule, correlation))
            if points:
                slope, intercept = slope_of(points)
                sizes = np.array(list(points))
                panel.plot(sizes, list(points.values()), "o", color=colour, markersize=5)
                label = f"correlation {correlation}: slope {slope:.2f}"
                panel.plot(sizes, 10**intercept * sizes**slope, "-", color=colour, linewidth=1.2, label=label)
        panel.set(xscale="log", yscale="log", title=molecule, xlabel="training frames")
        panel.set_xticks([50, 100, 200, 400, 950])
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())
        panel.set_yticks([20, 30, 50, 100, 200, 300])
        panel.grid(alpha=0.3, which="both", linewidth=0.4)
        if curves:
            panel.legend(fontsize=8)
    panels[0].set_ylabel("force MAE, meV/A")
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
