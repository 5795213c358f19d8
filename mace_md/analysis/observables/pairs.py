"""g(r), coordination numbers and hydrogen bonds of a run."""

import numpy as np

from mace_md.analysis import hydrogen_bonds
from mace_md.analysis.distribution import PairCounter, first_minimum
from mace_md.analysis.geometry import heights
from mace_md.analysis.observables.observer import Observer, Series, System, View
from mace_md.analysis.results import Curve, Figure, Quantity, Result, measured
from mace_md.analysis.statistics import mean_of
from mace_md.errors import InputError

MARGIN = 0.97  # of half the shortest height at the start: in NPT the box may become smaller


class Rdf(Observer):
    """g(r) of pairs of groups of atoms in the window."""

    name, only_window = "rdf", True

    def __init__(self, system: System, pairs: tuple[str, ...] = (), r_max: float | None = None) -> None:
        """pairs : such as "name O:name O", selections of mdtraj; pairs of heavy elements by default. r_max : nm."""
        super().__init__(system)
        self._wanted = [self._groups(text) for text in pairs] or self._by_default()
        self._r_max, self._counters = r_max, None

    def _groups(self, text: str) -> tuple[str, np.ndarray, np.ndarray]:
        first, colon, second = text.partition(":")
        groups = []
        for part in (first, second if colon else first):
            try:
                groups.append(self.system.topology.select(part.strip()))
            except Exception as error:  # mdtraj raises what its parser raises
                raise InputError(f"--rdf {text}: '{part.strip()}' is no mdtraj selection ({error})") from None
            if not len(groups[-1]):
                raise InputError(f"--rdf {text}: no atom is '{part.strip()}'")
        return (text if colon else f"{text}:{text}"), groups[0], groups[1]

    def _by_default(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Of the commonest heavy elements with each other, and with hydrogen where that is bonded to N or O."""
        symbols = self.system.symbols
        heavy = [symbol for symbol in dict.fromkeys(symbols) if symbol not in ("H", "X")]
        heavy = sorted(heavy, key=lambda symbol: -(symbols == symbol).sum())[:2]
        names = [(a, b) for k, a in enumerate(heavy) for b in heavy[k:]]
        if "H" in symbols and heavy and heavy[0] in ("O", "N"):
            names.append((heavy[0], "H"))
        found = []
        for a, b in names:
            first, second = np.flatnonzero(symbols == a), np.flatnonzero(symbols == b)
            index = self.system.molecules.index
            if len(set(index[first]) | set(index[second])) > 1:
                found.append((f"{a}-{b}", first, second))
        if not found:
            raise InputError("g(r): all atoms are in one molecule; name pairs with --rdf")
        return found

    def add(self, view: View) -> None:
        if view.boxes is None:
            raise InputError("g(r) is relative to the density of a box, and this system has none")
        counters = self._counters
        if counters is None:
            shortest = float(heights(view.boxes).min())
            changes = self.system.source.options.get("ensemble") == "npt" or len(np.unique(view.boxes, axis=0)) > 1
            r_max = self._r_max or shortest / 2 * (MARGIN if changes else 1.0)
            molecule = self.system.molecules.index
            self._counters = counters = [
                PairCounter(self.system.topology, first, second, r_max, molecule=molecule)
                for _, first, second in self._wanted
            ]
        for counter in counters:
            counter.add(view.positions, view.boxes)

    def result(self) -> Result:
        if self._counters is None:
            raise InputError("g(r): there is no frame in the window")
        result = Result("rdf", "Radial distribution functions", cite=("mdtraj",))
        curves, window = [], self.system.window.pair
        for (name, *_), counter in zip(self._wanted, self._counters, strict=True):
            found = counter.result()
            curves.append(Curve(name, 10 * found.r, found.g, found.g_error))
            column = name.replace(":", "-").replace(" ", "_").replace(",", ";")
            result.table |= {"r_A": 10 * found.r, f"g_{column}": found.g}
            if found.g_error is not None:
                result.table[f"g_{column}_95"] = found.g_error
            result.table[f"coordination_{column}"] = found.coordination
            end = first_minimum(found)
            if end is not None:
                at = int(np.searchsorted(found.r_end, end))
                result.quantities.append(self._neighbours(name, found, at, window))
        excluded = sum(counter.excluded for counter in self._counters)
        last = self._counters[0].edges[-1]
        result.method = (
            f"Up to {10 * last:.2f} Å, half the shortest height of the box"
            + ("; pairs inside molecules are left out" if excluded else "")
            + ". Bands: 95 %, from ten batches of time. Coordination: up to the first minimum behind the first peak."
        )
        result.figures.append(
            Figure("rdf", "Radial distribution functions", "r / Å", "g(r)", tuple(curves), y_zero=True,
                   marks=(), alt=f"g(r) of {', '.join(curve.label for curve in curves)} up to {10 * last:.1f} A")
        )  # fmt: skip
        return result

    @staticmethod
    def _neighbours(name, found, at, window) -> Quantity:
        value, remark = float(found.coordination[at]), f"up to {10 * found.r_end[at]:.2f} Å"
        label = f"Coordination {name}"
        key = "coordination_" + name.replace(":", "-").replace(" ", "_")
        return measured(key, label, "", lambda: mean_of(found.series[:, at]), value=value, window=window, remark=remark)


class HydrogenBonds(Observer):
    """Hydrogen bonds between molecules and inside of them, a frame."""

    name = "hbonds"

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._donors, self._acceptors = (
            hydrogen_bonds.donors(system.topology),
            hydrogen_bonds.acceptors(system.topology),
        )
        if not len(self._donors):
            raise InputError("hydrogen bonds: no hydrogen is bonded to N, O or F")
        self._series = Series()

    def add(self, view: View) -> None:
        found = hydrogen_bonds.count(
            self.system.topology,
            view.positions,
            view.boxes,
            self._donors,
            self._acceptors,
            self.system.molecules.index,
        )
        self._series.add(view.times, np.stack(found, axis=1).astype(float))

    def result(self) -> Result:
        times, rows = self._series.times, self._series.rows
        kept = rows[self.system.window.inside(times)]
        result = Result(
            "hbonds", "Hydrogen bonds", cite=("luzar",),
            method="Donor and acceptor (N, O, F) within 3.5 Å, hydrogen within 30° of the line between them.",
        )  # fmt: skip
        donating = len(set(self.system.molecules.index[self._donors[:, 0]]))
        curves = []
        for column, (key, label) in enumerate((("between", "between molecules"), ("inside", "inside molecules"))):
            if not rows[:, column].any():
                continue
            values = kept[:, column]
            result.quantities.append(
                measured(f"hbonds_{key}", f"Hydrogen bonds {label}", "", lambda v=values: mean_of(v),
                         value=float(values.mean()), window=self.system.window.pair,
                         remark=f"{values.mean() / donating:.2f} a molecule with donors" if donating > 1 else None)
            )  # fmt: skip
            curves.append(Curve(label, times, rows[:, column]))
        if curves:
            result.figures.append(
                Figure("hbonds", "Hydrogen bonds", "time / ps", "number", tuple(curves),
                       alt="Number of hydrogen bonds against time")
            )  # fmt: skip
        result.table = {"time_ps": times, "between_molecules": rows[:, 0], "inside_molecules": rows[:, 1]}
        return result
