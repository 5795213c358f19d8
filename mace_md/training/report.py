"""What a person sees of a training: a bar that moves, a table, a figure."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

from mace_md.console import Patient
from mace_md.provenance import write_atomically
from mace_md.training.metrics import ValidationErrors
from mace_md.training.trainer import EpochRecord

_FIRST = ("epoch", "stage", "lr", "train_loss", "valid_loss")
_LAST = ("improved", "seconds", "structures_per_s")


class MetricsTable:
    """metrics.csv: one row an epoch; rows after the epoch of a checkpoint are taken away when it is continued."""

    def __init__(self, path: Path, epoch: int):
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["epoch"] <= epoch] if epoch and path.exists() else []
        self._columns: list[str] = []
        if self.rows:
            self._columns = list(self.rows[0])
            write_atomically(path, self._text(self.rows, header=True))

    def add(self, record: EpochRecord) -> dict[str, float]:
        """Append the epoch; returns its row."""
        errors = record.valid.columns()
        values = (record.epoch, record.stage, record.lr, record.train_loss, errors.pop("loss"))
        last = (int(record.improved), round(record.seconds, 3), round(record.structures_per_s, 2))
        row = dict(zip(_FIRST, values, strict=True)) | errors | dict(zip(_LAST, last, strict=True))
        new = not self.rows
        self._columns = self._columns or list(row)
        self.rows.append(row)
        size = 0 if new else self.path.stat().st_size
        try:
            with open(self.path, "w" if new else "a", newline="") as file:
                file.write(self._text([row], header=new))
        except OSError:  # a full disk leaves no half row
            with suppress(OSError):
                os.truncate(self.path, size)
            raise
        return row

    def _text(self, rows: Sequence[dict], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="nan", extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows({key: f"{value:.8g}" for key, value in row.items()} for row in rows)
        return text.getvalue()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv."""
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


class ProgressBar:
    """The moving line on a terminal, with the time left; nothing elsewhere, where lines are logged."""

    def __init__(self, epochs: int, done: int, quiet: bool):
        from tqdm import tqdm

        hidden = quiet or not sys.stdout.isatty()
        self._bar = tqdm(
            total=epochs, initial=done, unit="epoch", disable=hidden, file=Patient(sys.stdout), dynamic_ncols=True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| epoch {n:.1f}/{total} [{elapsed}<{remaining}]{postfix}",
        )  # fmt: skip
        self._done = done

    def step(self, step: int, steps: int) -> None:
        """A step of the running epoch is done."""
        self._move(self._done + step / steps)

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""
        self._done = record.epoch
        self._bar.set_description_str(f"stage {record.stage}", refresh=False)
        self._bar.set_postfix_str(describe(record, short=True), refresh=False)
        self._move(record.epoch)

    def _move(self, place: float) -> None:
        if not self._bar.disable:
            self._bar.update(place - self._bar.n)

    def set_aside(self) -> AbstractContextManager[None]:
        """While open, lines can be written; the bar comes back below them."""
        return nullcontext() if self._bar.disable else self._bar.external_write_mode(file=sys.stdout)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()


def errors_in_words(errors: ValidationErrors) -> str:
    """Root-mean-square errors of the labels that there are, with their units."""
    rmse = errors.rmse
    named = (("energy_per_atom", "E {:.2f} meV/atom"), ("forces", "F {:.1f} meV/A"), ("stress", "S {:.2f} meV/A^3"))
    return "  ".join(text.format(1000 * rmse[name]) for name, text in named if rmse[name] == rmse[name])


def describe(record: EpochRecord, short: bool = False) -> str:
    """An epoch in one line."""
    errors = errors_in_words(record.valid)
    if short:
        return f"loss {record.train_loss:.3g} RMSE {errors.replace('  ', ' ')}"
    return (
        f"epoch {record.epoch:4d}  loss {record.train_loss:.4g} / {record.valid.loss:.4g}  RMSE {errors}  "
        f"lr {record.lr:.2g}  {record.structures_per_s:.0f} frames/s{'  *' if record.improved else ''}"
    )


def draw_learning_curve(rows: Sequence[dict[str, float]], path: Path, title: str = "") -> None:
    """Loss, and errors of energies and forces, against the epoch; PNG or SVG by the suffix of `path`, written whole."""
    import matplotlib.figure

    epochs = [row["epoch"] for row in rows]
    figure = matplotlib.figure.Figure(figsize=(7.0, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.semilogy(epochs, [row["train_loss"] for row in rows], label="training (while it moves)", color="0.6")
    above.semilogy(epochs, [row["valid_loss"] for row in rows], label="validation", color="C0")
    above.set_ylabel("loss")
    lines = (
        ("rmse_energy_per_atom_meV", "energy, meV/atom", "C1"),
        ("rmse_forces_meV_per_A", "forces, meV/A", "C2"),
        ("rmse_stress_meV_per_A3", "stress, meV/A$^3$", "C3"),
    )
    for column, name, color in lines:
        if column in rows[0]:
            below.semilogy(epochs, [row[column] for row in rows], label=name, color=color)
    below.set_ylabel("validation RMSE")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    second = [row["epoch"] for row in rows if row["stage"] == 2]
    for axes in (above, below):
        if second and len(second) < len(rows):
            axes.axvline(second[0] - 0.5, color="0.5", linestyle=":", label="second stage" if axes is above else None)
        axes.legend(frameon=False)
        axes.grid(True, which="major", color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        above.set_title(title, fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lstrip("."), dpi=150)
    write_atomically(path, content.getvalue())
