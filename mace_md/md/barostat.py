"""The Monte Carlo barostats of OpenMM, and the choice between scaling molecules and scaling atoms."""

import openmm

from mace_md.errors import InputError
from mace_md.md.molecules import Molecules
from mace_md.md.structure import Structure

# OpenMM's own pressure unit is the bar, its surface tension bar nm. The choice between molecules and atoms is there for
# every barostat since OpenMM 8.6; in 8.5 only the flexible one has it.


def make_barostat(
    kind: str,
    *,
    pressure: float,
    temperature: float,
    interval: int,
    rigid_molecules: bool,
    seed: int,
    surface_tension: float = 0.0,
) -> openmm.Force:
    """One Monte Carlo barostat; pressure in bar, temperature in K, surface tension in bar nm, interval in steps."""
    if kind == "isotropic":
        barostat = openmm.MonteCarloBarostat(pressure, temperature, interval, rigid_molecules)
    elif kind == "anisotropic":
        barostat = openmm.MonteCarloAnisotropicBarostat(
            openmm.Vec3(pressure, pressure, pressure), temperature, True, True, True, interval, rigid_molecules
        )
    elif kind == "membrane":
        modes = openmm.MonteCarloMembraneBarostat
        barostat = openmm.MonteCarloMembraneBarostat(
            pressure, surface_tension, temperature, modes.XYIsotropic, modes.ZFree, interval, rigid_molecules
        )
    elif kind == "flexible":
        barostat = openmm.MonteCarloFlexibleBarostat(pressure, temperature, interval, rigid_molecules)
    else:
        raise ValueError(f"unknown barostat {kind!r}")
    barostat.setRandomNumberSeed(max(seed, 1))  # 0 would mean "choose one"
    return barostat


def choose_scaling(structure: Structure, scaling: str) -> tuple[bool, str]:
    """Whether a move scales rigid molecules, and the sentence that says so.

    'auto' takes molecules, unless the structure is one endless network or one single molecule: their inside could
    then never answer the pressure. Raises InputError when molecules are asked for and an endless one is there.
    """
    molecules: Molecules = structure.molecules
    if scaling == "auto":
        rigid = not molecules.networks and molecules.count > 1
    else:
        rigid = scaling == "molecules"
    if rigid and molecules.networks:
        raise InputError(
            f"{structure.path}: {len(molecules.networks)} of its molecules are bonded to their own periodic image and "
            "cannot be scaled as rigid bodies. Use --barostat-scaling atoms."
        )
    if rigid:
        return True, f"the barostat scales the centres of {molecules.count} rigid molecules"
    reason = "asked for"
    if scaling == "auto":
        reason = "an endless network" if molecules.networks else "a single molecule"
    return False, f"the barostat scales every one of {len(molecules.index)} atoms ({reason})"
