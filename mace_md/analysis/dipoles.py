"""Dipoles: from fixed charges and positions, from the files of models; and the dielectric constant."""

from pathlib import Path

import numpy as np

from mace_md.analysis.statistics import Mean, TooShort, inefficiency, mean_of
from mace_md.errors import InputError
from mace_md.units import BOLTZMANN_KJ_MOL_K

COULOMB = 138.93545764  # kJ nm / (mol e^2), 1 / (4 pi eps0)


def read_charges(path: Path, topology) -> np.ndarray:
    """[n_atoms] e, from a CSV file: lines of `name,charge` for atoms of that name, or `number,charge` (from 1).

    A name may have its residue in front, such as HOH:O. Raises InputError with the line, or the atoms that lack one.
    """
    charges = np.full(topology.n_atoms, np.nan)
    atoms = list(topology.atoms)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text or (number == 1 and not any(character.isdigit() for character in text)):
            continue
        key, _, value = (part.strip() for part in text.partition(","))
        try:
            charge = float(value)
        except ValueError:
            raise InputError(f"{path}, line {number}: '{text}' is not name,charge or number,charge") from None
        if key.isdigit():
            if not 1 <= int(key) <= len(atoms):
                raise InputError(f"{path}, line {number}: there is no atom {key}; they are 1 to {len(atoms)}")
            charges[int(key) - 1] = charge
            continue
        residue, _, name = key.rpartition(":")
        for atom in atoms:
            if atom.name == name and residue in ("", atom.residue.name):
                charges[atom.index] = charge
    missing = np.flatnonzero(np.isnan(charges))
    if len(missing):
        names = ", ".join(f"{i + 1} ({atoms[i].residue.name}:{atoms[i].name})" for i in missing[:3])
        raise InputError(f"{path}: {len(missing)} atoms have no charge, the first of them {names}")
    if abs(charges.sum()) > 1e-3:
        raise InputError(
            f"{path}: the charges sum to {charges.sum():+.4f} e. The dipole of a charged system depends on its origin; "
            "give charges that sum to zero."
        )
    return charges


def dipoles_of_charges(whole: np.ndarray, charges: np.ndarray, molecule: np.ndarray | None = None) -> np.ndarray:
    """[f, 3] e nm of the whole system; whole [f, n_atoms, 3] nm with molecules in one piece, charges [n_atoms] e.

    molecule [n_atoms] : each has to be neutral, or its dipole jumps when it leaves the box; InputError else.
    """
    if molecule is not None:
        sums = np.bincount(molecule, charges)
        worst = int(np.argmax(np.abs(sums)))
        if abs(sums[worst]) > 1e-3:
            raise InputError(
                f"charges: molecule {worst + 1} has {sums[worst]:+.4f} e, and its dipole jumps when it crosses the box"
            )
    return np.einsum("fni,n->fi", whole.astype(float), charges)


def read_dipoles(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Times [f] ps, dipoles [f, 3] e nm, polarisabilities [f, 3, 3] or None, of an npz file that a model wrote.

    Arrays in it: time_ps, dipole_eA, and polarizability.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            times, dipole = file["time_ps"].astype(float), file["dipole_eA"].astype(float) / 10
            polarizability = file["polarizability"].astype(float) if "polarizability" in file else None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is no npz file with time_ps and dipole_eA ({error})") from None
    if dipole.shape != (len(times), 3) or not np.isfinite(dipole).all():
        raise InputError(
            f"{path}: {len(times)} times, dipoles of shape {dipole.shape}, finite: {np.isfinite(dipole).all()}"
        )
    return times, dipole, polarizability


def dielectric_constant(dipole: np.ndarray, volume: np.ndarray | float, temperature: float) -> Mean:
    """1 + (<M^2> - <M>^2) / (3 eps0 V k T), with conducting surroundings (Neumann, Mol. Phys. 50, 841, 1983).

    dipole [f, 3] e nm; volume nm^3, of each frame or all; temperature K. Raises TooShort where M is too slow.
    """
    dipole = np.asarray(dipole, dtype=float)
    squares = ((dipole - dipole.mean(axis=0)) ** 2).sum(axis=1)
    g = max(inefficiency(component) for component in dipole.T)
    if len(dipole) / g < 10:
        raise TooShort(len(dipole) / g, len(dipole))
    mean = mean_of(squares).scaled(1 / (1 - g / len(dipole)))
    factor = 4 * np.pi * COULOMB / (3 * float(np.mean(volume)) * BOLTZMANN_KJ_MOL_K * temperature)
    return mean.scaled(factor)._replace(value=1 + mean.value * factor)
