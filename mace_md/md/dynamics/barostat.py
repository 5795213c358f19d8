"""The Monte Carlo barostats of OpenMM, and the choice between scaling molecules and scaling atoms."""

import openmm
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.molecules import Molecules
from mace_md.structures.structure import Structure

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
    beads: int = 1,
) -> openmm.Force:
    """One Monte Carlo barostat; pressure in bar, temperature in K, surface tension in bar nm, interval in steps.

    With `beads` of more than one it is that of path integrals, which scales the centroids of rigid molecules.
    """
    if beads > 1:
        if kind != "isotropic" or not rigid_molecules:
            raise InputError(
                "with --beads the barostat is isotropic and scales molecules; there is no other in OpenMM."
            )
        barostat = openmm.RPMDMonteCarloBarostat(pressure, interval)
    elif kind == "isotropic":
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


def set_barostat(
    simulation: app.Simulation, *, pressure: float | None = None, temperature: float | None = None
) -> None:
    """Change the pressure (bar) or the temperature (K) of the barostats of a simulation; nothing without one."""
    for force in simulation.system.getForces():
        name = type(force).__name__
        if "Barostat" not in name:
            continue
        if pressure is not None:
            anisotropic = isinstance(force, openmm.MonteCarloAnisotropicBarostat)
            for parameter in ("PressureX", "PressureY", "PressureZ") if anisotropic else ("Pressure",):
                simulation.context.setParameter(getattr(force, parameter)(), pressure)
        if temperature is not None and hasattr(force, "Temperature"):  # beads have that of their springs
            simulation.context.setParameter(force.Temperature(), temperature)


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
