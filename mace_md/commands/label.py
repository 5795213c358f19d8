"""`mace-md label`: geometries in, the energies, forces and stresses of a model on them out, for `mace-md train`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from mace_md.config import LabelConfig
from mace_md.errors import InputError
from mace_md.model.reading.checkpoint import load_model
from mace_md.output import room_explained
from mace_md.training.configuration import Configuration
from mace_md.training.geometries import named, read_geometries
from mace_md.training.labelling import Labeller, elements_of
from mace_md.training.processes import device_of
from mace_md.training.writing import check_target, write_configurations

log = logging.getLogger("mace_md")


def main(config: LabelConfig) -> int:
    """Write the labelled file, in one piece or not at all. Raises InputError."""
    check_target(config.output, config.force)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_model(config.model, head=config.head, dtype=config.dtype)
    geometries = _chosen(config)
    log.info("geometries: %d, %d atoms", len(geometries), sum(len(g.atomic_numbers) for g in geometries))
    labeller = Labeller(model, elements_of(geometries), config.kernels, device_of(config.device))
    info = model.info
    log.info("model: %s, head %s, %s; %s kernels (%s)", info.name, info.head, config.dtype, *labeller.choice)
    log.info("licence: %s; level of theory: %s", info.licence, info.level_of_theory)
    start, dropped = time.perf_counter(), []
    labelled = _kept(_with_progress(labeller(geometries), len(geometries), config.quiet), config, dropped)
    with room_explained(config.output, lambda: "nothing was written: make room, or give another --output, and repeat"):
        written = write_configurations(labelled, config.output, config.force)
    seconds = time.perf_counter() - start
    if dropped:
        log.info("left out: %d geometries with a force above %g eV/A", len(dropped), config.largest_force)
    if not written:
        config.output.unlink()
        raise InputError(f"no geometry is left below --largest-force {config.largest_force:g} eV/A; nothing written")
    log.info("labelled: %d geometries in %.1f s, %.0f a second", written, seconds, len(geometries) / seconds)
    log.info("written: %s", config.output)
    return 0


def _chosen(config: LabelConfig) -> list[Configuration]:
    """The geometries to label, named; `most` of them at random, in their order."""
    found = [
        named(geometry, config.config_type, config.as_head)
        for path in config.geometries
        for geometry in read_geometries(
            path.expanduser(), topology=config.topology, length_unit=config.length_unit, every=config.every
        )
    ]
    if not found:
        raise InputError(f"there is no geometry in {', '.join(map(str, config.geometries))}")
    if config.most is None or config.most >= len(found):
        return found
    chosen = np.random.default_rng(config.seed).permutation(len(found))[: config.most]
    return [found[i] for i in np.sort(chosen)]


def _kept(labelled: Iterable[Configuration], config: LabelConfig, dropped: list[str]) -> Iterator[Configuration]:
    for configuration in labelled:
        if not np.isfinite(configuration.energy) or not np.isfinite(configuration.forces).all():
            raise InputError(f"{configuration.where}: the model gives no finite energy and forces. Leave it out.")
        largest = np.linalg.norm(configuration.forces, axis=1).max(initial=0.0)
        if config.largest_force is not None and largest > config.largest_force:
            dropped.append(configuration.where)
        else:
            yield configuration


def _with_progress(labelled: Iterator[Configuration], total: int, quiet: bool) -> Iterable[Configuration]:
    if quiet or not sys.stderr.isatty():
        return labelled
    from tqdm import tqdm

    return tqdm(labelled, total=total, unit=" geometries", desc="label", leave=False)
