"""What labelled data must be like before anything is fitted to them: complete, finite, physically possible.

Units are given away by physics: no total energy lies below that of the electrons of the isolated atoms, hydrogen sits
about an angstrom from its neighbour, and between two similar frames the energy changes by the work of the forces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import LABELS, Configuration
from mace_md.training.contacts import check_contacts, far_hydrogens
from mace_md.training.stress_checks import check_stresses
from mace_md.training.survey import Survey
from mace_md.units import EV_TO_KJ_MOL, HARTREE_TO_EV, KCAL_MOL_TO_EV, unit_size

_LARGEST_FORCE = 50.0  # eV/A, root mean square of a typical frame; fits of molten or compressed matter stay below
_SAMPLE = 300  # frames looked at for the units
_UNITS = {"kcal/mol": 1.0 / KCAL_MOL_TO_EV, "kJ/mol": EV_TO_KJ_MOL, "Hartree": 1.0 / HARTREE_TO_EV}  # per eV
_REMEDY = "Give --energy-unit, --forces-unit, --length-unit; or --check-data warn if the numbers are as they should be."


def check_data(
    data: Sequence[Configuration],
    *,
    require: Sequence[str] = ("energy", "forces"),
    atomic_numbers: Sequence[int] | None = None,
    model: str = "the model",
    doubtful: str = "refuse",
    judged: Sequence[str] = LABELS,
) -> list[str]:
    """Look at every frame; returns remarks (`Survey.charges` among them, which are no doubts).

    Raises InputError with file, frame, the value found, and what to do.

    Parameters
    ----------
    require : labels that every frame needs.
    atomic_numbers : elements of the model, when there is one; `model` is its name for messages.
    judged : labels whose magnitudes are looked at; those that nobody uses need not be right.
    doubtful : "refuse" raises for magnitudes that give away other units, "warn" returns them as remarks.
    """
    if not len(data):
        raise InputError("there is no labelled frame")
    survey = Survey()
    for configuration in data:
        _check_numbers(configuration, require)
        if atomic_numbers is not None:
            _check_elements(configuration, atomic_numbers, model)
        check_contacts(configuration)
        survey.add(configuration)
    sample = [data[int(i)] for i in np.unique(np.linspace(0, len(data) - 1, min(_SAMPLE, len(data))).astype(int))]
    doubts = [check(sample) for check in (far_hydrogens, _energies)]
    doubts += [survey.odd_energy()]
    if "forces" in judged:
        doubts += [survey.odd_force(data), _forces(sample), _work(sample)]
    if "stress" in judged:
        doubts.append(check_stresses(sample))
    remarks = [remark for remark in doubts if remark]
    if remarks and doubtful == "refuse":
        raise InputError(f"{remarks[0]} {_REMEDY}")
    return remarks + survey.charges()


def _check_numbers(configuration: Configuration, require: Sequence[str]) -> None:
    if not len(configuration.atomic_numbers):
        raise InputError(f"{configuration.where}: there is no atom in it. Leave the frame out.")
    unbound = [axis for axis, on, vector in zip("xyz", configuration.pbc, configuration.cell, strict=True)
               if on and not np.any(vector)]  # fmt: skip
    if unbound:
        raise InputError(
            f"{configuration.where}: pbc is true along {', '.join(unbound)}, but there is no cell vector. Give the "
            'frame a Lattice, or pbc="F F F".'
        )
    for label in require:
        # a stress is asked of frames with a volume only
        if getattr(configuration, label) is None and (label != "stress" or configuration.volume > 0):
            hint = "" if configuration.source is None else configuration.source.hint(label)
            raise InputError(
                f"{configuration.where}: no {label}.{hint or f' Name its key with --{label}-key.'} Leave the frame "
                "out; `mace-md train --missing-labels ignore` trains on what is there."
            )
    for name in ("positions", "cell", "energy", "forces", "stress"):
        value = getattr(configuration, name)
        if value is not None and not np.isfinite(value).all():
            atom = ""
            if name in ("positions", "forces"):
                atom = f" of atom {int(np.flatnonzero(~np.isfinite(value).all(axis=1))[0])} (counted from 0)"
            raise InputError(f"{configuration.where}: {name}{atom} is not a finite number. Leave the frame out.")


def _check_elements(configuration: Configuration, known: Sequence[int], model: str) -> None:
    unknown = sorted(set(configuration.atomic_numbers.tolist()) - set(known))
    if unknown:
        raise InputError(
            f"{configuration.where}: {model} does not know {_symbols(unknown)}; it knows {_symbols(known)}. Leave such "
            "frames out, or train a model with these elements."
        )


def _symbols(numbers: Sequence[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[number] for number in numbers)


# --- energies and forces ---


def electronic_energy(atomic_numbers: np.ndarray) -> float:
    """About the energy of all electrons of the isolated atoms, eV: within 8 % for H, 1 % beyond Be.

    The statistical atom with its corrections, -0.7687 Z^(7/3) + Z^2 / 2 - 0.2699 Z^(5/3) Hartree (Schwinger, Phys.
    Rev. A 22, 1827, 1980).
    """
    z = np.asarray(atomic_numbers, dtype=np.float64)
    return HARTREE_TO_EV * float((-0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.269900 * z ** (5 / 3)).sum())


def _energies(sample: list[Configuration]) -> str | None:
    """No total energy lies far below that of all electrons, and none at 1 / 27.2 of it by chance."""
    known = [c for c in sample if c.energy is not None]
    if not known:
        return None
    ratio = float(np.median([c.energy / electronic_energy(c.atomic_numbers) for c in known]))
    size = f"{known[0].where}: the energy is {known[0].energy:.6g} eV"
    if ratio > 1.5:
        unit = min(("kcal/mol", "kJ/mol"), key=lambda name: abs(np.log(ratio / _UNITS[name])))
        return f"{size}, {ratio:.3g} times that of all electrons of its atoms. Are energies in {unit}?"
    if abs(ratio * HARTREE_TO_EV - 1.0) < 0.03:
        return f"{size}, just what the electrons of its atoms have in Hartree. Are energies in Hartree?"
    read_as = "" if known[0].source is None else known[0].source.units.get("energy", "")
    if read_as == "kcal/mol":
        for unit in ("eV", "Hartree"):
            if abs(ratio * unit_size(unit, "energy") / KCAL_MOL_TO_EV - 1.0) < 0.03:
                return f"{size}, from kcal/mol; in {unit} it would be what its electrons have. Are they in {unit}?"
    n_atoms = float(np.median([len(c.atomic_numbers) for c in known]))
    per_atom = float(np.median([c.energy * len(c.atomic_numbers) / electronic_energy(c.atomic_numbers) for c in known]))
    if n_atoms > 2 and abs(per_atom - 1.0) < 0.03:
        return f"{size}, what its electrons have, divided by its atoms. Are energies per atom? They have to be total."
    return None


def _forces(sample: list[Configuration]) -> str | None:
    sizes = [float(np.sqrt((c.forces**2).mean())) for c in sample if c.forces is not None and len(c.forces) > 1]
    if len(sizes) > 1 and not any(sizes):
        return f"{sample[0].file or 'the data'}: every force is 0. Were they computed? --forces-weight 0 does without."
    if not sizes or np.median(sizes) < _LARGEST_FORCE:
        return None
    return (
        f"{sample[0].file or 'the data'}: the root-mean-square force of a typical frame is {np.median(sizes):.3g} "
        "eV/A. Are forces in kcal/mol/A or kJ/mol/nm?"
    )


def _work(sample: list[Configuration]) -> str | None:
    """Compare energy differences of similar frames with the work -(F_a + F_b) (r_b - r_a) / 2 of the forces."""
    slope, correlation, n_pairs = work_and_energy(sample)
    if n_pairs < 20 or abs(correlation) < 0.8 or 0.4 < slope < 2.5:
        return None
    where = sample[0].file or "the data"
    if slope < 0:
        return f"{where}: the energy rises where the forces say it falls. Are the forces gradients, of the wrong sign?"
    return (
        f"{where}: from frame to frame the energy changes {slope:.3g} times as much as the forces say (correlation "
        f"{correlation:.2f}). Are energies and forces in units that belong together? (1 eV = 23.06 kcal/mol = 96.5 "
        "kJ/mol = 0.0367 Hartree; 1 A = 1.89 Bohr)"
    )


def work_and_energy(sample: Sequence[Configuration]) -> tuple[float, float, int]:
    """(slope, correlation, pairs): energy differences of similar frames against the work of the forces between them.

    The trapezoidal rule is exact for a harmonic energy, so that the slope is near 1 when energies and forces belong
    together. Frames are superposed (Kabsch) when they have no box.
    """
    groups: dict[tuple, list[Configuration]] = {}
    for c in sample:
        if c.energy is not None and c.forces is not None and len(c.atomic_numbers) > 1:
            groups.setdefault((tuple(c.atomic_numbers.tolist()), tuple(c.cell.ravel().round(6))), []).append(c)
    changes = [_change(group[i], group[j]) for group in groups.values() for i, j in _similar_pairs(group)]
    if len(changes) < 2:
        return 1.0, 0.0, 0
    moved, work, energy = np.array(sorted(changes)[: max(2, len(changes) // 2)]).T  # the nearer half of the pairs
    if not work.any() or not energy.any():
        return 1.0, 0.0, 0
    scale = np.sqrt((work**2).mean() * (energy**2).mean())
    correlation = float((work * energy).mean() / scale)
    return float((work * energy).sum() / (work**2).sum()), correlation, len(moved)


def _similar_pairs(group: list[Configuration]) -> list[tuple[int, int]]:
    """Each frame with the one whose interatomic distances (of 40 atoms at most) are the most alike."""
    if len(group) < 2:
        return []
    atoms = np.unique(np.linspace(0, len(group[0].positions) - 1, 40).astype(int))
    positions = np.stack([configuration.positions[atoms] for configuration in group])
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1).reshape(len(group), -1)
    square = (distances**2).sum(axis=1)
    apart = square[:, None] + square - 2.0 * distances @ distances.T
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    return sorted({(min(i, j), max(i, j)) for i, j in enumerate(nearest.tolist())})


def _change(a: Configuration, b: Configuration) -> tuple[float, float, float]:
    """(root-mean-square displacement, work, energy difference) from a to b; frames that are equal give zeros."""
    end, forces = b.positions, b.forces
    if any(a.pbc):
        step = end - a.positions
        fractional = step @ np.linalg.pinv(a.cell)
        step = step - np.where(a.pbc, np.round(fractional), 0.0) @ a.cell
    else:
        start = a.positions - a.positions.mean(axis=0)
        end = end - end.mean(axis=0)
        u, _, vt = np.linalg.svd(end.T @ start)
        rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        step, forces = end @ rotation - start, forces @ rotation
    return float(np.sqrt((step**2).mean())), -0.5 * float(((a.forces + forces) * step).sum()), b.energy - a.energy
