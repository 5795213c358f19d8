"""The files of an analysis: analysis.json, a CSV and figures of each observable, and the page."""

import io
import json
import math
from pathlib import Path

import numpy as np

import mace_md
from mace_md.analysis.figures import write_figure
from mace_md.analysis.pipeline import Analysis
from mace_md.analysis.reading import end_of_run
from mace_md.analysis.results import Figure, Quantity, Result
from mace_md.errors import InputError
from mace_md.provenance import version_of, write_atomically

JSON, PAGE = "analysis.json", "report.html"


def claim(folder: Path, force: bool, name: str = JSON) -> None:
    """Make the folder; raises InputError where an analysis is in it already, or where it cannot be written."""
    if (folder / name).exists() and not force:
        raise InputError(f"{folder}: there is an analysis already. Give --force to replace it, or another --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Give another --output.") from None


def write_tables(results: list[Result], folder: Path) -> list[Path]:
    """NAME.csv of each observable that has a table; columns are named with their units."""
    paths = []
    for result in results:
        if result.table:
            paths.append(folder / f"{result.name}.csv")
            write_atomically(paths[-1], csv_text(result.table))
    return paths


def csv_text(columns: dict[str, np.ndarray]) -> str:
    """Columns of one or of different lengths as CSV; what is missing stays empty."""
    rows = max(len(column) for column in columns.values())
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    cells = [[_number(value) for value in column] + [""] * (rows - len(column)) for column in columns.values()]
    for row in zip(*cells, strict=True):
        text.write(",".join(row) + "\n")
    return text.getvalue()


def _number(value: float) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.8g}"


def write_figures(figures: list[Figure], folder: Path) -> dict[str, str]:
    """NAME.svg and NAME.png of each figure; returns the SVG for the page, by name."""
    return {figure.name: write_figure(figure, folder)[1] for figure in figures}


def quantity_as_json(quantity: Quantity) -> dict:
    """Value, interval, and how it came about."""
    found = {"label": quantity.label, "unit": quantity.unit, "value": quantity.value}
    if quantity.mean is not None:
        low, high = quantity.mean.interval()
        found |= {"low_95": low, "high_95": high, "standard_error": quantity.mean.error,
                  "degrees_of_freedom": quantity.mean.dof, "n_eff": quantity.mean.n_eff}  # fmt: skip
    if quantity.window is not None:
        found["window_ps"] = list(quantity.window)
    if quantity.refused:
        found["no_interval"] = quantity.refused
    if quantity.remark:
        found["remark"] = quantity.remark
    return found


def as_json(analysis: Analysis) -> dict:
    """The analysis of one run as plain data."""
    window, source, kinds = analysis.window, analysis.system.source, analysis.system.molecules.kinds
    return {
        "run": str(source.folder or source.trajectory),
        "state": end_of_run(source),
        "kind": analysis.system.kind,
        "atoms": int(len(analysis.system.masses)),
        "molecules": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "frames": analysis.num_frames,
        "frame_spacing_ps": analysis.frame_step,
        "window": {"start_ps": window.start, "end_ps": window.end, "equilibrated": window.equilibrated,
                   "said": window.said, "settled_ps": window.starts},
        "warnings": analysis.warnings,
        "missing": analysis.missing,
        "observables": {
            result.name: {
                "title": result.title, "method": result.method, "warnings": result.warnings,
                "quantities": {quantity.key: quantity_as_json(quantity) for quantity in result.quantities},
            }
            for result in analysis.results
        },
    }  # fmt: skip


def write_json_file(path: Path, content: dict) -> None:
    """analysis.json: numbers that are not finite are null, as JSON has none."""
    about = {"format": 1, "versions": {"mace-md": mace_md.__version__} | {
        package: version_of(package) for package in ("numpy", "mdtraj", "pymbar")}}  # fmt: skip
    write_atomically(path, json.dumps(_plain(about | content), indent=2, allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
