"""Writes the tables of docs/guide/: `python docs/update_tables.py`.

The options are from mace_md/config/, the longest time steps from benchmarks/results/hydrogen_mass.json.
"""

import json
import re
from pathlib import Path

from mace_md import config
from mace_md.config import tables

GUIDE = sorted((Path(__file__).parent / "guide").glob("*.md"))
TABLE = re.compile(r"(<!-- options of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
MEASURED = re.compile(r"(<!-- hydrogen mass: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
OTHER_STRUCTURE = 15.0  # meV an atom; a mean potential energy so far from the reference is that of other molecules


def hydrogen_mass_table(record: dict, name: str) -> str:
    """For each hydrogen mass and time step of one system: drift and fluctuation of the energy; temperature in NVT."""
    runs = record["systems"][name]["runs"]
    reference = next(run["potential_meV_atom"] for run in runs if run["hydrogen_mass"] is None)
    steps = sorted({run["timestep_fs"] for run in runs})
    masses = sorted({run["hydrogen_mass"] or 1.008 for run in runs})
    at = {(run["hydrogen_mass"] or 1.008, run["timestep_fs"]): run for run in runs}
    tables = []
    for what, cell in (("NVE", _drift), ("NVT", _temperature)):
        rows = [f"| {what} | " + " | ".join(f"{step:g} fs" for step in steps) + " |", "|---" * (len(steps) + 1) + "|"]
        for mass in masses:
            cells = [cell(at[mass, step], reference) if (mass, step) in at else "" for step in steps]
            rows.append(f"| {mass:g} Da | " + " | ".join(cells) + " |")
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables)


def _broken(run: dict, reference: float) -> bool:
    """The run blew up, or its molecules came apart in NVT."""
    return "potential_meV_atom" not in run or abs(run["potential_meV_atom"] - reference) > OTHER_STRUCTURE


def _temperature(run: dict, reference: float) -> str:
    if _broken(run, reference):
        return "breaks"
    return f"{run['temperature_K']:.0f} ({run['temperature_error_K']:.0f}) K"


def _drift(run: dict, reference: float) -> str:
    if not run["stable"] or _broken(run, reference):
        return "breaks"
    drift, error = run["drift_meV_atom_ps"], run["drift_error_meV_atom_ps"]
    digits = 3 if error < 0.01 else 2
    return f"{drift:.{digits}f} ({error:.{digits}f}), {run['fluctuation_meV_atom']:.2g}"


def _declarations(name: str) -> type:
    """The class of a command's options, or of a table of a run file."""
    return getattr(config, name, None) or getattr(tables, name)


def updated(text: str) -> str:
    """`text` with each table between its two markers made anew."""
    text = TABLE.sub(lambda found: found[1] + config.options_table(_declarations(found[2])) + found[3], text)
    record = json.loads((RESULTS / "hydrogen_mass.json").read_text())
    return MEASURED.sub(lambda found: found[1] + hydrogen_mass_table(record, found[2]) + found[3], text)


if __name__ == "__main__":
    for page in GUIDE:
        page.write_text(updated(page.read_text()))
