"""Alternate locations: one set of atoms of a residue that a structure gives in several places.

A residue is what has one number in one chain: with microheterogeneity it may have several names. The location with the
highest occupancy is kept, of equal ones the first letter. Hydrogen and deuterium that share a site are alternates too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SAME_SITE = 0.5  # A, between hydrogen and deuterium of one site


class Site(NamedTuple):
    """One line of coordinates; a residue is chain, number and what else tells it apart, a position is in A."""

    residue: tuple[str, ...]
    residue_name: str
    name: str
    location: str
    occupancy: float
    position: tuple[float, float, float]


def choose_locations(sites: Sequence[Site]) -> tuple[list[bool], list[str]]:
    """Which of the sites to keep, and notes on what was left out."""
    keep = [True] * len(sites)
    residues: dict[tuple[str, ...], list[int]] = {}
    for i, site in enumerate(sites):
        residues.setdefault(site.residue, []).append(i)
    said, dropped, pairs = [], 0, 0
    for members in residues.values():
        if any(sites[i].location for i in members):
            chosen, others = _settle_residue(sites, members, keep)
            if others:
                dropped += sum(not keep[i] for i in members)
                said.append(_describe(sites, members, chosen, others))
        pairs += _settle_shared_sites(sites, [i for i in members if keep[i]], keep)
    notes = []
    if said:
        shown = "; ".join(said[:6]) + (f"; and {len(said) - 6} more" if len(said) > 6 else "")
        notes.append(
            f"{dropped} atoms at alternate locations were left out; of each residue the more occupied place was taken: "
            f"{shown}"
        )
    if pairs:
        notes.append(f"{pairs} sites hold hydrogen and deuterium; the more occupied of the two was kept")
    return keep, notes


def _settle_residue(sites: Sequence[Site], members: list[int], keep: list[bool]) -> tuple[str, list[str]]:
    """Mark what is left out of one residue; the location that was kept, and the others."""
    ids: dict[int, str] = {}
    doubled = {_same_name(sites[i].name) for i in members if sites[i].location}
    for i in members:
        if sites[i].location or _same_name(sites[i].name) in doubled:
            ids[i] = sites[i].location  # '' is a location of its own where the atom has others
    names = sorted(set(ids.values()))
    if len(names) < 2:
        return names[0], []
    occupancy = {name: np.mean([sites[i].occupancy for i in ids if ids[i] == name]) for name in names}
    chosen = max(names, key=lambda name: (round(occupancy[name], 6), -names.index(name)))
    kept = {_same_name(sites[i].name) for i in members if ids.get(i, chosen) == chosen}
    residue_names = {sites[i].residue_name for i in ids if ids[i] == chosen}
    for i in sorted(ids, key=lambda i: -sites[i].occupancy):
        name = _same_name(sites[i].name)
        if ids[i] == chosen:
            continue
        # a heavy atom that the kept location lacks has one place only; a hydrogen belongs to its own location
        keep[i] = name not in kept and not name.startswith("H") and sites[i].residue_name in residue_names
        if keep[i]:
            kept.add(name)
    return chosen, [name for name in names if name != chosen]


def _settle_shared_sites(sites: Sequence[Site], members: list[int], keep: list[bool]) -> int:
    """Of hydrogen and deuterium at one place keep the more occupied; returns how many such pairs there were."""
    by_name: dict[str, int] = {}
    pairs = 0
    for i in members:
        name = _same_name(sites[i].name)
        if not name.startswith("H"):
            continue
        j = by_name.setdefault(name, i)
        if j == i or sites[i].name == sites[j].name:
            continue
        if np.linalg.norm(np.subtract(sites[i].position, sites[j].position)) < SAME_SITE:
            worse = i if sites[i].occupancy <= sites[j].occupancy else j
            keep[worse] = False
            by_name[name] = i + j - worse
            pairs += 1
    return pairs


def _same_name(name: str) -> str:
    """The name with the H of hydrogen in place of the D of deuterium."""
    digits = len(name) - len(name.lstrip("0123456789"))
    return name[:digits] + "H" + name[digits + 1 :] if name[digits : digits + 1] == "D" else name


def _describe(sites: Sequence[Site], members: list[int], chosen: str, others: list[str]) -> str:
    """`B of HOH 1 (chain A), occupancy 0.70`."""
    own = [i for i in members if sites[i].location == chosen]
    first = sites[own[0]] if own else sites[members[0]]
    chain, number = first.residue[0], first.residue[1].strip()
    occupancy = np.mean([sites[i].occupancy for i in own]) if own else first.occupancy
    where = f" (chain {chain.strip()})" if chain.strip() else ""
    return f"{chosen or 'blank'} of {first.residue_name} {number}{where}, occupancy {occupancy:.2f}"
