"""The atoms that a model acts on, however they are given: indices in any container, a mask, a slice, OpenMM's atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from mace_md.errors import InputError


def checked_atoms(atoms: Any, n_particles: int) -> list[int]:
    """Indices of the atoms, in their order; all particles for None.

    atoms : integers in a list, tuple, range, set (then ascending), generator, numpy array or tensor; a slice; a mask of
        one bool for each particle; or atoms of an OpenMM Topology. Raises InputError for anything else, and when an
        atom is not there, is named twice, or there is none.
    """
    if atoms is None:
        return list(range(n_particles))
    indices = [_index(item) for item in _items(atoms, n_particles)]
    wrong = sorted({i for i in indices if not 0 <= i < n_particles})
    if wrong:
        raise InputError(f"atoms {wrong[:5]} are not there: the system has {n_particles} particles, counted from 0")
    twice = sorted(i for i, count in Counter(indices).items() if count > 1)
    if twice:
        raise InputError(f"atoms {twice[:5]} are named twice")
    if not indices:
        raise InputError("the list of atoms for the model is empty")
    return indices


def _items(atoms: Any, n_particles: int) -> list[Any]:
    """What `atoms` holds, one by one; of a mask the indices where it is true."""
    if isinstance(atoms, slice):
        return list(range(n_particles))[atoms]
    if isinstance(atoms, (str, bytes, dict)) or not (isinstance(atoms, Iterable) or hasattr(atoms, "__array__")):
        raise InputError(f"atoms is a list of indices, counted from 0, or a mask; not {type(atoms).__name__} {atoms!r}")
    if hasattr(atoms, "__array__"):
        array = np.asarray(atoms)
        if array.ndim != 1:
            raise InputError(f"atoms has the shape {array.shape}; it is one list of indices, or a mask of one row")
        atoms = array.tolist()
    items = sorted(atoms) if isinstance(atoms, (set, frozenset)) else list(atoms)
    if not items or not all(isinstance(item, (bool, np.bool_)) for item in items):
        return items
    if len(items) != n_particles:
        raise InputError(f"atoms is a mask of {len(items)} entries; the system has {n_particles} particles")
    return [i for i, chosen in enumerate(items) if chosen]


def _index(item: Any) -> int:
    if not isinstance(item, (bool, np.bool_)):
        if isinstance(item, (int, np.integer)):
            return int(item)
        if hasattr(item, "__index__"):  # integers of other libraries
            return int(item.__index__())
        if isinstance(getattr(item, "index", None), int):  # an atom of a Topology
            return item.index
    raise InputError(f"atoms: {item!r} is no index of an atom (a whole number, counted from 0)")
