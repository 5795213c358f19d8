"""`mace-md evaluate`: a model against labelled data: tables for people, errors.json for programs, parity plots."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from mace_md.config import EvaluateConfig
from mace_md.errors import InputError
from mace_md.model.reading.checkpoint import load_model
from mace_md.output import room_explained
from mace_md.provenance import collect_provenance, write_json
from mace_md.training.checks import check_data
from mace_md.training.comparison import QUANTITIES, Comparison, Errors, compare, join
from mace_md.training.data import Configuration, LabelFormat, read_configurations, take_isolated_atoms
from mace_md.training.labelling import Labeller, elements_of
from mace_md.training.parity import plot_parity
from mace_md.training.processes import device_of
from mace_md.training.stress_checks import compare_with_model

log = logging.getLogger("mace_md")
_COLUMNS = (  # of the table: quantity, statistic, heading
    ("energy_per_atom", "mae", "MAE"), ("energy_per_atom", "rmse", "RMSE"), ("energy", "mae", "MAE"),
    ("energy", "rmse", "RMSE"), ("forces", "mae", "MAE"), ("forces", "rmse", "RMSE"), ("forces", "relative_mae", "MAE"),
    ("forces", "relative_rmse", "RMSE"), ("stress", "mae", "MAE"), ("stress", "rmse", "RMSE"),
)  # fmt: skip
_GROUPS = {
    "energy_per_atom": "E, meV/atom", "energy": "E, meV", "forces": "F, meV/A", "relative": "F, %",
    "stress": "stress, meV/A^3",
}  # fmt: skip


def main(config: EvaluateConfig) -> int:
    """Print the tables, write the files. Raises InputError for data that cannot be compared, before computing."""
    targets = _targets(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_model(config.model, head=config.head, dtype=config.dtype)
    labels = LabelFormat.from_options(config)
    sets = {name: _labelled(path, labels, model, config) for name, path in _named(config.data).items()}
    labeller = Labeller(
        model, elements_of(c for data in sets.values() for c in data), config.kernels, device_of(config.device)
    )
    info = model.info
    log.info("model: %s, head %s, %s; %s kernels (%s)", info.name, info.head, config.dtype, *labeller.choice)
    log.info("level of theory: %s; licence: %s", info.level_of_theory, info.licence)
    results, isolated = {}, {}
    for name, data in sets.items():
        data, atoms = take_isolated_atoms(data)
        log.info("%s: %d frames compared, %d of isolated atoms", name, len(data), len(atoms))
        isolated |= {int(c.atomic_numbers[0]): (c.energy, predicted.energy) for c, predicted in
                     zip(atoms, labeller(atoms), strict=True)}  # fmt: skip
        if len(data):
            results[name] = compare(data, list(_with_progress(labeller(data), len(data), name, config.quiet)))
    if not results:
        raise InputError(f"{', '.join(map(str, config.data))}: there are only isolated atoms in it")
    whole = join(list(results.values()))
    for line in report(results, whole, isolated):
        log.info("%s", line)
    with room_explained(config.output, lambda: "make room, or give another --output, and repeat the command"):
        _write(config, targets, results, whole, isolated, labeller)
    return 0


# --- before anything is computed ---


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for each file: without folders and suffixes where that is enough to tell them apart."""
    stems = [path.name.partition(".")[0] for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"the file {max(names, key=names.count)} is named twice")
    return dict(zip(names, paths, strict=True))


def _targets(config: EvaluateConfig) -> dict[str, Path]:
    """The files that will be written, by what they hold; raises InputError when one is there already."""
    targets = {"errors": config.output / "errors.json"}
    if config.plots:
        for name in _named(config.data):
            for suffix in ("png", "svg"):
                file = f"parity-{name.replace('/', '-').strip('-')}.{suffix}"
                targets[f"{name}, {suffix}"] = config.output / file
    existing = [str(path) for path in targets.values() if path.exists()]
    if existing and not config.force:
        raise InputError(f"{existing[0]} exists. Give another --output, or --force to replace it.")
    return targets


def _labelled(
    path: Path, labels: LabelFormat, model: torch.nn.Module, config: EvaluateConfig
) -> Sequence[Configuration]:
    """The frames of a file, each with the labels that the others have; raises InputError."""
    data = read_configurations(path, labels)
    frames, _ = take_isolated_atoms(data)
    present = [label for label in ("energy", "forces") if any(getattr(c, label) is not None for c in frames)]
    if len(frames) and not present:
        hint = "" if frames[0].source is None else frames[0].source.hint("energy") + frames[0].source.hint("forces")
        raise InputError(
            f"{path}: no energies and no forces in it.{hint or ' Name their keys: --energy-key, --forces-key.'}"
        )
    known = model.atomic_numbers.tolist()
    if len(frames):
        remarks = check_data(
            frames, require=present, atomic_numbers=known, model=str(config.model), doubtful=config.check_data
        )
        for remark in remarks:
            log.warning("warning: %s", remark)
    for label in ("energy", "forces"):
        if len(frames) and label not in present:
            hint = "" if frames[0].source is None else frames[0].source.hint(label)
            log.warning("%s: no %s in it%s", path, {"energy": "energies"}.get(label, label), hint and f".{hint}")
    return data


def _with_progress(labelled, total: int, name: str, quiet: bool):
    if quiet or not sys.stderr.isatty():
        return labelled
    from tqdm import tqdm

    return tqdm(labelled, total=total, unit=" configurations", desc=name, leave=False)


# --- for people ---


def report(
    results: dict[str, Comparison], whole: Comparison, isolated: dict[int, tuple[float | None, float]]
) -> list[str]:
    """The lines that are printed: a table by file, type of configuration and element, and what else matters."""
    rows = [(name, len(comparison), comparison.errors()) for name, comparison in results.items()]
    if len(results) > 1:
        rows.append(("all", len(whole), whole.errors()))
    types = whole.by_config_type()
    if len(types) > 1:
        rows.append(("by configuration type", None, {}))
        rows += [(f"  {name}", int((whole.config_type == name).sum()), errors) for name, errors in types.items()]
    elements = whole.by_element()
    if len(elements) > 1:
        rows.append(("by element", None, {}))
        rows += [(f"  {chemical_symbols[z]}", None, {"forces": errors}) for z, errors in elements.items()]
    return ["", *_table(rows), "", *_remarks(whole, isolated)]


def _table(rows: Sequence[tuple[str, int | None, dict[str, Errors]]]) -> list[str]:
    present = {quantity for _, _, errors in rows for quantity in errors}
    columns = [column for column in _COLUMNS if column[0] in present]
    groups = ["relative" if statistic.startswith("relative") else quantity for quantity, statistic, _ in columns]
    body = [[name, "" if count is None else str(count), *(_cell(errors, *column[:2]) for column in columns)]
            for name, count, errors in rows]  # fmt: skip
    heading = ["", "configs", *(column[2] for column in columns)]
    widths = [max(len(row[i]) for row in [heading, *body]) for i in range(len(heading))]
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    for start in starts:  # a group is at least as wide as its title
        last = max(i for i in range(len(groups)) if groups[i] == groups[start])
        missing = len(_GROUPS[groups[start]]) - sum(widths[i + 2] for i in range(start, last + 1)) - 2 * (last - start)
        widths[start + 2] += max(0, missing)
    over = " " * (widths[0] + 2 + widths[1])
    for start in starts:
        members = [i for i in range(len(groups)) if groups[i] == groups[start]]
        width = sum(widths[i + 2] for i in members) + 2 * (len(members) - 1)
        over += "   " + _GROUPS[groups[start]].rjust(width)
    return [over.rstrip(), *(_line(row, widths, starts).rstrip() for row in [heading, *body])]


def _line(row: Sequence[str], widths: Sequence[int], starts: Sequence[int]) -> str:
    text = row[0].ljust(widths[0]) + "  " + row[1].rjust(widths[1])
    for i, cell in enumerate(row[2:]):
        text += ("   " if i in starts else "  ") + cell.rjust(widths[i + 2])
    return text


def _cell(errors: dict[str, Errors], quantity: str, statistic: str) -> str:
    value = getattr(errors[quantity], statistic) if quantity in errors else None
    if value is None:
        return ""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _remarks(whole: Comparison, isolated: dict[int, tuple[float | None, float]]) -> list[str]:
    lines = []
    errors, worst = whole.errors(), whole.worst_force()
    if worst is not None:
        frame, atom, size = worst
        file, number = whole.where[frame]
        element = chemical_symbols[whole.atomic_numbers[whole.num_atoms[:frame].sum() + atom]]
        lines.append(
            f"largest error of a force: {size:.1f} meV/A, {file} frame {number}, atom {atom} ({element}), from 0"
        )
    constant = whole.constant()
    if constant is not None:
        energy = errors["energy_per_atom"]
        lines.append(
            f"energies: {constant:+.1f} meV/atom of the error is a constant, as between levels of theory or with "
            f"other E0s; without it the RMSE is {np.sqrt(max(0.0, energy.rmse**2 - constant**2)):.3f} meV/atom"
        )
    lines += [f"{name}: {count} rows with a label are left out, to which the model gives no finite number"
              for name, count in whole.left_out().items()]  # fmt: skip
    doubt = compare_with_model(*whole.stress)
    if doubt is not None:
        lines.append(f"stress: {doubt}")
    for z, (label, predicted) in sorted(isolated.items()):
        if label is not None:
            lines.append(
                f"isolated {chemical_symbols[z]}: model {predicted:.4f} eV, label {label:.4f} eV (not in the table)"
            )
    return lines


# --- for programs ---


def _write(config: EvaluateConfig, targets, results, whole, isolated, labeller: Labeller) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    paths = _named(config.data)
    content = collect_provenance(config, inputs={"model": config.model} if Path(config.model).is_file() else None)
    content |= {
        "units": {name: unit for name, (unit, _) in QUANTITIES.items()} | {"relative": "%"},
        "kernels": labeller.choice._asdict(),
        "data": {
            name: {"path": str(paths[name].absolute())} | _as_json(comparison) for name, comparison in results.items()
        },
        "all": _as_json(whole),
        "isolated_atoms_eV": {
            chemical_symbols[z]: {"label": label, "model": model} for z, (label, model) in isolated.items()
        },
    }
    write_json(targets["errors"], content)
    if config.plots:
        for name, comparison in results.items():
            title = f"{Path(config.model).name} on {name}, {len(comparison)} configurations"
            plot_parity(comparison, [targets[f"{name}, {suffix}"] for suffix in ("png", "svg")], title)
    log.info("written: %s", ", ".join(str(path) for path in targets.values()))


def _as_json(comparison: Comparison) -> dict:
    def plain(errors: dict[str, Errors]) -> dict:
        return {name: asdict(each) for name, each in errors.items()}

    return {
        "configurations": len(comparison),
        "left_out": comparison.left_out(),
        "atoms": int(comparison.num_atoms.sum()),
        "errors": plain(comparison.errors()),
        "by_config_type": {name: plain(errors) for name, errors in comparison.by_config_type().items()},
        "forces_by_element": {chemical_symbols[z]: asdict(errors) for z, errors in comparison.by_element().items()},
    }
