"""What an observable says: numbers with their intervals, curves for figures, a table for a file, and remarks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mace_md.analysis.statistics import Mean, TooShort


@dataclass(frozen=True)
class Quantity:
    """One number. `mean` is None where there is a value (or none) without an interval, and `refused` says why.

    key : its name for programs, such as density. label : for people. window : ps, of what it was averaged over.
    digits : decimals of the unit below which no digit makes sense, for numbers without an interval.
    """

    key: str
    label: str
    unit: str
    mean: Mean | None
    value: float | None
    window: tuple[float, float] | None = None
    refused: str | None = None
    remark: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, by Student's t; None without a mean."""
        return None if self.mean is None else self.mean.interval()

    def text(self) -> str:
        """Value and half interval, rounded to two digits of the latter: `0.998 ± 0.012 g/mL`."""
        if self.value is None:
            return "-"
        unit = f" {self.unit}" if self.unit else ""
        if self.mean is None:
            return f"{self.value:.4g}{unit}"
        return f"{with_interval(self.value, self.mean.half_width())}{unit}"


def with_interval(value: float, half: float) -> str:
    """Both to as many decimals as two digits of `half` have: `2.35 ± 0.12`; large numbers without decimals."""
    if not math.isfinite(value) or not math.isfinite(half):
        return f"{value:.4g}"
    if half == 0:
        return f"{value:.6g} ± 0"
    largest = max(abs(value), half)
    if largest >= 1e5 or largest < 1e-3:
        power = math.floor(math.log10(largest))
        scale = 10.0**power
        return f"({with_interval(value / scale, half / scale)})e{power:+d}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def measured(
    key: str, label: str, unit: str, make: Callable[[], Mean], *, value: float | None = None,
    window: tuple[float, float] | None = None, remark: str | None = None,
) -> Quantity:  # fmt: skip
    """The quantity that `make` gives a mean of; where that is too short, `value` stands alone and says why."""
    try:
        mean = make()
    except TooShort as short:
        return Quantity(key, label, unit, None, value, window, str(short), remark)
    return Quantity(key, label, unit, mean, mean.value, window, None, remark)


@dataclass(frozen=True)
class Curve:
    """y(x); `error` is half a 95 % interval, drawn as a band."""

    label: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None
    style: str = "line"  # line, dashed, points, bars


@dataclass(frozen=True)
class Figure:
    """Curves over one axis, or a density over two (`heat`: x edges, y edges, values [x, y])."""

    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...] = ()
    heat: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    heat_label: str = ""
    marks: tuple[tuple[float, str], ...] = ()  # vertical lines
    shaded: tuple[float, float] | None = None  # a range of x that was left out
    x_range: tuple[float, float] | None = None
    y_zero: bool = False
    logarithmic: bool = False
    reversed_x: bool = False
    alt: str = ""  # what is to be seen, for who does not see it


@dataclass
class Result:
    """Of one observable."""

    name: str
    title: str
    quantities: list[Quantity] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    table: dict[str, np.ndarray] = field(default_factory=dict)  # columns of NAME.csv
    method: str = ""  # how, in one or two sentences
    warnings: list[str] = field(default_factory=list)
    cite: tuple[str, ...] = ()  # keys of report/citations
