"""Several runs side by side: those that differ in nothing but the seed become one, the rest is compared."""

from dataclasses import dataclass, field

import numpy as np

from mace_md.analysis.pipeline import Analysis
from mace_md.analysis.results import Curve, Figure, Quantity
from mace_md.analysis.statistics import Difference, Mean, difference, together
from mace_md.errors import InputError

# What may differ between runs whose means are averaged.
OF_NO_MEANING = frozenset(
    "seed output steps time device_index threads platform precision processes max_hours report_interval kernels quiet "
    "trajectory_interval trajectory_format trajectory_data trajectory_atoms checkpoint_interval safety_interval".split()
)
SIGNIFICANT = 0.05  # p-value, divided by the number of comparisons of a table (Bonferroni)
OVERLAID = ("rdf", "msd", "torsions", "vdos", "ir", "raman")


@dataclass
class Group:
    """Runs that are repetitions of each other."""

    name: str
    analyses: list[Analysis]
    means: dict[str, Mean] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One quantity in all groups; differences are those to the first."""

    quantity: Quantity
    values: tuple[float | None, ...]
    means: tuple[Mean | None, ...]
    differences: tuple[Difference | None, ...]
    significant: tuple[bool, ...]


def group(analyses: list[Analysis], compare: bool) -> list[Group]:
    """Repetitions together, in the order of the runs. Without `compare` all have to be repetitions: InputError else,
    with what differs."""
    groups: list[tuple[dict, Group]] = []
    for analysis in analyses:
        conditions = conditions_of(analysis)
        same = next((found for known, found in groups if known == conditions), None)
        if same is None:
            groups.append((conditions, Group(analysis.system.source.name, [analysis])))
        else:
            same.analyses.append(analysis)
    if len(groups) > 1 and not compare:
        differing = _differing([conditions for conditions, _ in groups])
        raise InputError(
            f"these runs differ in {', '.join(differing[:4])}, and an average over them has no meaning. --compare puts "
            "them side by side."
        )
    found = [one for _, one in groups]
    names = _differing([conditions for conditions, _ in groups])
    for (conditions, _), one in zip(groups, found, strict=True):
        if len(one.analyses) > 1 or (names == ["temperature"] and len(groups) > 1):
            said = [f"{name} {conditions.get(name)}" for name in names[:2]]
            said = [f"{float(conditions['temperature']):g} K"] if names == ["temperature"] else said
            count = f" ({len(one.analyses)} runs)" if len(one.analyses) > 1 else ""
            one.name = (", ".join(said) or one.name) + count
        _average(one)
    return found


def conditions_of(analysis: Analysis) -> dict[str, object]:
    """What makes a run another: its options and its composition; for other trajectories only their composition."""
    options = {key: value for key, value in analysis.system.source.options.items() if key not in OF_NO_MEANING}
    kinds = analysis.system.molecules.kinds
    if not options:
        options["trajectory"] = analysis.system.source.name
    return options | {"molecules": sorted((kind, kinds.count(kind)) for kind in set(kinds))}


def _differing(conditions: list[dict]) -> list[str]:
    keys = dict.fromkeys(key for one in conditions for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in conditions}) > 1]


def _average(one: Group) -> None:
    found: dict[str, list[Quantity]] = {}
    for analysis in one.analyses:
        for result in analysis.results:
            for quantity in result.quantities:
                found.setdefault(quantity.key, []).append(quantity)
    for key, quantities in found.items():
        values = [quantity.value for quantity in quantities if quantity.value is not None]
        if not values:
            continue
        one.values[key] = float(np.mean(values))
        means = [quantity.mean for quantity in quantities if quantity.mean is not None]
        if len(means) == len(quantities):
            one.means[key] = together(means)
        elif len(values) >= 3:  # runs too short for an error of their own still have one between them
            spread = float(np.std(values, ddof=1) / np.sqrt(len(values)))
            one.means[key] = Mean(float(np.mean(values)), spread, len(values) - 1, float(len(values)))


def compare(groups: list[Group]) -> list[tuple[str, list[Row]]]:
    """Under the title of each observable, the quantities that at least one group has."""
    titles: dict[str, dict[str, Quantity]] = {}
    for one in groups:
        for analysis in one.analyses:
            for result in analysis.results:
                for quantity in result.quantities:
                    titles.setdefault(result.title, {}).setdefault(quantity.key, quantity)
    count = sum(
        key in other.means and key in groups[0].means
        for other in groups[1:]
        for rows in titles.values()
        for key in rows
    )
    return [
        (title, [_row(quantity, groups, SIGNIFICANT / max(1, count)) for quantity in quantities.values()])
        for title, quantities in titles.items()
    ]


def _row(quantity: Quantity, groups: list[Group], limit: float) -> Row:
    means = tuple(one.means.get(quantity.key) for one in groups)
    differences = tuple(
        None if k == 0 or mean is None or means[0] is None else difference(mean, means[0])
        for k, mean in enumerate(means)
    )
    return Row(
        quantity, tuple(one.values.get(quantity.key) for one in groups), means, differences,
        tuple(found is not None and found.p_value < limit for found in differences),
    )  # fmt: skip


def overlays(groups: list[Group]) -> list[Figure]:
    """The figures that all have, with a curve of each group: its first run's."""
    found = []
    first = {figure.name: figure for result in groups[0].analyses[0].results for figure in result.figures}
    for name, figure in first.items():
        if name not in OVERLAID:
            continue
        for label in [curve.label for curve in figure.curves if curve.style != "dashed"]:
            curves = []
            for one in groups:
                for result in one.analyses[0].results:
                    for other in result.figures:
                        curves += [
                            Curve(one.name, curve.x, curve.y, curve.error)
                            for curve in other.curves
                            if other.name == name and curve.label == label
                        ]
            if len(curves) > 1:
                found.append(
                    Figure(
                        f"{name}-{_word(label)}", f"{figure.title}: {label}", figure.x_label, figure.y_label,
                        tuple(curves), x_range=figure.x_range, y_zero=figure.y_zero,
                        alt=f"{figure.title} of {label}, of each run",
                    )
                )  # fmt: skip
    return found + _against_temperature(groups)


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def _against_temperature(groups: list[Group]) -> list[Figure]:
    """Means against the temperature, where that is what differs."""
    temperatures = [one.analyses[0].system.source.temperature for one in groups]
    if len(groups) < 3 or any(T is None for T in temperatures) or len(set(temperatures)) < len(groups):
        return []
    figures = []
    for key, label in (("potential_energy", "Potential energy / (kJ/mol)"), ("density", "Density / (g/mL)")):
        if all(key in one.means for one in groups):
            means = [one.means[key] for one in groups]
            curve = Curve(
                label, np.array(temperatures), np.array([mean.value for mean in means]),
                np.array([mean.half_width() for mean in means]), style="bars",
            )  # fmt: skip
            figures.append(Figure(f"{key}-temperature", f"{label.split(' / ')[0]} against temperature",
                                  "temperature / K", label, (curve,), alt=f"{label} at each temperature"))  # fmt: skip
    return figures


def as_json(groups: list[Group], table: list[tuple[str, list[Row]]]) -> dict:
    """The comparison as plain data; differences are to the first."""
    return {
        "groups": [
            {"name": one.name, "runs": [str(a.system.source.folder or a.system.source.trajectory)
                                        for a in one.analyses]}
            for one in groups
        ],
        "quantities": {
            row.quantity.key: {
                "label": row.quantity.label,
                "unit": row.quantity.unit,
                "values": [
                    {"value": value}
                    | ({} if mean is None else dict(zip(("low_95", "high_95"), mean.interval(), strict=True)))
                    | ({} if change is None else {"difference": change.value, "difference_half_95": change.half_width,
                                                  "p_value": change.p_value, "significant": significant})
                    for value, mean, change, significant in zip(
                        row.values, row.means, row.differences, row.significant, strict=True
                    )
                ],
            }
            for _, rows in table
            for row in rows
        },
    }  # fmt: skip
