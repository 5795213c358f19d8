"""How near atoms of labelled frames are to each other, in units of the sum of their covalent radii."""

from __future__ import annotations

import numpy as np

from mace_md.errors import InputError
from mace_md.training.batches import find_edges
from mace_md.training.configuration import Configuration

_CLOSEST = 0.3  # of the sum of covalent radii; a bond is about 1
_NOT_BONDED = 1.6  # the same ratio, for every hydrogen of a molecule: 1.9 is what Bohr read as angstrom gives


def check_contacts(configuration: Configuration) -> None:
    """No two atoms on top of each other; all of them too near means another unit of length."""
    ratio, pair, distance = _closest(configuration, 1.0)
    if ratio >= _CLOSEST:
        return
    typical = float(np.median(nearest_neighbours(configuration, 1.0)))
    if typical < _CLOSEST:
        raise InputError(
            f"{configuration.where}: every atom is {typical:.2f} times the sum of the covalent radii from its "
            "neighbour, where a bond is about 1. Are positions in nm? Give --length-unit nm."
        )
    first, second = pair
    raise InputError(
        f"{configuration.where}: atoms {first} and {second} (counted from 0) are {distance:.3f} A apart. Leave the "
        "frame out, or mend its positions or box."
    )


def _edge_ratios(configuration: Configuration, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of the distance to the sum of covalent radii, sender, receiver and distance of every edge."""
    from ase.data import covalent_radii

    edge_index, shifts, cell = find_edges(configuration, cutoff)
    sender, receiver = edge_index.numpy()
    positions = configuration.positions
    distance = np.linalg.norm(positions[receiver] - positions[sender] + shifts.numpy() @ cell.numpy(), axis=1)
    radii = covalent_radii[configuration.atomic_numbers]
    return distance / (radii[sender] + radii[receiver]), sender, receiver, distance


def nearest_neighbours(configuration: Configuration, cutoff: float) -> np.ndarray:
    """The smallest ratio of each atom; infinity without a neighbour."""
    ratio, _, receiver, _ = _edge_ratios(configuration, cutoff)
    nearest = np.full(len(configuration.atomic_numbers), np.inf)
    np.minimum.at(nearest, receiver, ratio)
    return nearest


def _closest(configuration: Configuration, cutoff: float) -> tuple[float, tuple[int, int], float]:
    ratio, sender, receiver, distance = _edge_ratios(configuration, cutoff)
    if not len(ratio):
        return np.inf, (0, 0), np.inf
    edge = int(ratio.argmin())
    return float(ratio[edge]), (int(sender[edge]), int(receiver[edge])), float(distance[edge])


def far_hydrogens(sample: list[Configuration]) -> str | None:
    """Every hydrogen of a molecule has a neighbour at about the sum of the covalent radii."""
    ratios = []
    for configuration in sample[:50]:
        hydrogen = configuration.atomic_numbers == 1
        if hydrogen.any() and len(hydrogen) > 1:
            nearest = nearest_neighbours(configuration, 4.0)
            ratios += nearest[hydrogen & np.isfinite(nearest)].tolist()
    if not ratios or np.median(ratios) < _NOT_BONDED:
        return None
    return (
        f"{sample[0].file or 'the data'}: a typical hydrogen is {np.median(ratios):.2f} times the sum of the covalent "
        "radii away from its nearest atom, where a bond is about 1. Are positions in Bohr?"
    )
