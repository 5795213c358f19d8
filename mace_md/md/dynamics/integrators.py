"""The integrators offered: NVE (leapfrog Verlet), NVT (Langevin, Nose-Hoover, velocity rescaling), path integrals."""

from dataclasses import dataclass

import numpy as np
import openmm
from openmm import unit

from mace_md.units import BOLTZMANN_KJ_MOL_K, FS_TO_PS

NOSE_HOOVER_CHAIN = 3


@dataclass(frozen=True)
class Dynamics:
    """What is integrated, and what it keeps.

    num_dof : kinetic degrees of freedom that move; the temperature is 2 K / (num_dof k).
    remove_rotation : the start velocities lose their angular momentum, which this dynamics would keep for ever.
    remove_translation : likewise the total momentum.
    counts_cm_removal : the integrator subtracts 3 degrees of freedom only when the System has a CMMotionRemover.
    beads : of each atom in a path integral, whose num_dof counts all of them; 1 is classical dynamics.
    """

    integrator: openmm.Integrator
    num_dof: int
    remove_translation: bool
    remove_rotation: bool
    description: str
    counts_cm_removal: bool = False
    beads: int = 1


def make_dynamics(
    masses: np.ndarray,
    *,
    ensemble: str,
    thermostat: str | None,
    temperature: float,
    friction: float | None,
    timestep: float,
    seed: int,
    periodic: bool,
    linear: bool = False,
    beads: int = 1,
    anchored: bool = False,
) -> Dynamics:
    """The integrator for an ensemble, with the degrees of freedom its temperature counts.

    Parameters
    ----------
    masses : [n_atoms], Da; zero for atoms that do not move.
    temperature : K.   friction : 1/ps.   timestep : fs.   seed : of the random forces; 0 is replaced by 1,
        because OpenMM takes 0 as "choose one".
    linear : the atoms lie on a line, so that an isolated molecule has two rotations, not three.
    beads : more than one for path integrals (`md/dynamics/rpmd.py`).
    anchored : something outside the atoms acts on them (position restraints, external fields), so that they keep
        neither momentum.
    """
    num_mobile = int((np.asarray(masses) > 0).sum())
    held = anchored or num_mobile < len(masses)  # frozen atoms hold the rest in place: neither momentum is kept
    step = timestep * FS_TO_PS
    if beads > 1:
        return _path_integral(num_mobile, held, ensemble, temperature, friction, timestep, seed, beads)
    if ensemble == "nve":
        integrator: openmm.Integrator = openmm.VerletIntegrator(step)
        name, rotation = "NVE, leapfrog Verlet", not periodic
    elif thermostat == "langevin":
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction, step)
        name = f"{ensemble.upper()}, Langevin middle scheme, friction {friction:g} 1/ps"
        integrator.setRandomNumberSeed(max(seed, 1))
        return Dynamics(integrator, 3 * num_mobile, False, False, f"{name}, {temperature:g} K, {timestep:g} fs")
    elif thermostat == "nose-hoover":
        integrator = openmm.NoseHooverIntegrator(temperature, friction, step, NOSE_HOOVER_CHAIN)
        # The chain scales rotation of an isolated molecule as any other motion, and counts it (3N - 3).
        name, rotation = f"{ensemble.upper()}, Nose-Hoover chain of {NOSE_HOOVER_CHAIN}, {friction:g} 1/ps", False
    elif thermostat == "bussi":
        name, rotation = f"{ensemble.upper()}, velocity rescaling (Bussi), tau {1 / friction:g} ps", not periodic
        integrator = None
    else:
        raise ValueError(f"unknown thermostat {thermostat!r}")
    translation = not held
    rotation = rotation and not held
    num_dof = _count_dof(num_mobile, translation, rotation, linear)
    if integrator is None:
        integrator = bussi_integrator(masses, temperature, 1 / friction, step, num_dof)
        integrator.setRandomNumberSeed(max(seed, 1))
    temperature_text = "" if ensemble == "nve" else f", {temperature:g} K"
    description = f"{name}{temperature_text}, {timestep:g} fs"
    counts = translation and thermostat == "nose-hoover"
    return Dynamics(integrator, num_dof, translation, rotation, description, counts)


def _path_integral(num_mobile, held, ensemble, temperature, friction, timestep, seed, beads) -> Dynamics:
    """Ring polymers of `beads`. Without a thermostat the springs still belong to `temperature`."""
    integrator = openmm.RPMDIntegrator(beads, temperature, friction or 1.0, timestep * FS_TO_PS)
    integrator.setRandomNumberSeed(max(seed, 1))
    integrator.setApplyThermostat(ensemble != "nve")
    bath = "no thermostat" if ensemble == "nve" else f"PILE thermostat, friction {friction:g} 1/ps on the centroid"
    num_dof = 3 * num_mobile * beads - 3 * (ensemble == "nve" and not held)
    name = f"{ensemble.upper()}, path integral of {beads} beads, {bath}, {temperature:g} K, {timestep:g} fs"
    return Dynamics(integrator, num_dof, False, False, name, beads=beads)


def _count_dof(num_mobile: int, translation: bool, rotation: bool, linear: bool) -> int:
    rotations = 0 if num_mobile < 2 else 2 if num_mobile == 2 or linear else 3
    num_dof = 3 * num_mobile - 3 * translation - rotations * rotation
    return max(num_dof, 0)


def bussi_integrator(
    masses: np.ndarray, temperature: float, tau: float, step: float, num_dof: int
) -> openmm.CustomIntegrator:
    """Velocity Verlet followed by stochastic velocity rescaling; `heat` holds what the bath has given (kJ/mol).

    Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), equation A7: with c = exp(-dt/tau), K the
    kinetic energy, Kbar = num_dof k T / 2, R_1..R_num_dof normal,

        alpha^2 = c + (1-c) Kbar/(num_dof K) sum_i R_i^2 + 2 R_1 sqrt(c (1-c) Kbar/(num_dof K)).

    The sum needs num_dof normal numbers. OpenMM draws one for each coordinate of each particle; `counted` marks as
    many of them as there are degrees of freedom and `first` one of these, so the sum is exact, and seeded.
    temperature K, tau and step ps. Total energy minus `heat` is conserved.
    """
    coordinates = np.flatnonzero(np.repeat(np.asarray(masses) > 0, 3))
    counted = np.zeros(3 * len(masses))
    counted[coordinates[:num_dof]] = 1.0
    first = np.zeros_like(counted)
    first[coordinates[:1]] = 1.0 if num_dof else 0.0
    integrator = openmm.CustomIntegrator(step)
    integrator.addGlobalVariable("c", np.exp(-step / tau))
    integrator.addGlobalVariable("kT_half", 0.5 * BOLTZMANN_KJ_MOL_K * temperature)  # Kbar / num_dof
    for name in ("K", "ratio", "sum_R2", "R_first", "alpha2", "alpha", "heat"):
        integrator.addGlobalVariable(name, 0.0)
    for name, values in (("counted", counted), ("first", first)):
        integrator.addPerDofVariable(name, 0.0)
        integrator.setPerDofVariableByName(name, [openmm.Vec3(*row) for row in values.reshape(-1, 3).tolist()])
    integrator.addPerDofVariable("R", 0.0)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v + 0.5*dt*f/m")
    integrator.addComputePerDof("x", "x + dt*v")
    integrator.addComputePerDof("v", "v + 0.5*dt*f/m")
    integrator.addComputeSum("K", "0.5*m*v*v")
    integrator.addComputePerDof("R", "gaussian")
    integrator.addComputeSum("sum_R2", "counted*R*R")
    integrator.addComputeSum("R_first", "first*R")
    integrator.addComputeGlobal("ratio", "kT_half/max(K, 1e-12)")  # a system at rest starts from the bath alone
    integrator.addComputeGlobal("alpha2", "c + (1-c)*ratio*sum_R2 + 2*R_first*sqrt(c*(1-c)*ratio)")
    # Equation A8 for the sign: a negative alpha, which reverses all velocities, is part of the exact propagator.
    integrator.addComputeGlobal("alpha", "sqrt(max(alpha2, 0))*(2*step(R_first + sqrt(c/((1-c)*ratio))) - 1)")
    integrator.addComputePerDof("v", "alpha*v")
    integrator.addComputeGlobal("heat", "heat + (alpha2 - 1)*K")
    return integrator


def set_bath_temperature(integrator: openmm.Integrator, temperature: float) -> None:
    """Change the temperature (K) of the thermostat; nothing without one."""
    if isinstance(integrator, openmm.CustomIntegrator):
        integrator.setGlobalVariableByName("kT_half", 0.5 * BOLTZMANN_KJ_MOL_K * temperature)
    elif hasattr(integrator, "setTemperature"):
        integrator.setTemperature(temperature)


def velocities_lag(integrator: openmm.Integrator) -> bool:
    """Whether a State has the kinetic energy of half a step before its positions, as the middle schemes do.

    Their thermostat acts on those velocities. For leapfrog Verlet OpenMM moves it to the time of the positions.
    """
    return isinstance(integrator, (openmm.NoseHooverIntegrator, openmm.LangevinMiddleIntegrator))


def kinetic_at_positions(state: openmm.State, masses: np.ndarray, step: float) -> float:
    """Kinetic energy (kJ/mol) at the time of the positions, where `velocities_lag`; the one that is conserved with U.

    The half-kick that is still due is added: an error of the first order in the step becomes one of the second.
    state : with velocities and forces.   masses : [n_atoms], Da.   step : ps.
    """
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    mobile = masses > 0
    there = velocities[mobile] + 0.5 * step * forces[mobile] / masses[mobile, None]
    return 0.5 * float(masses[mobile] @ (there**2).sum(axis=1))


def bath_energy(integrator: openmm.Integrator, *, stepped: bool) -> float | None:
    """Energy (kJ/mol) to add to kinetic + potential for the conserved quantity; None where there is none.

    `stepped` says that the integrator has made a step: OpenMM 8.6 crashes when a Nose-Hoover chain is asked before.
    """
    if isinstance(integrator, openmm.VerletIntegrator):
        return 0.0
    if isinstance(integrator, openmm.NoseHooverIntegrator) and stepped:
        return float(integrator.computeHeatBathEnergy().value_in_unit(unit.kilojoule_per_mole))
    if isinstance(integrator, openmm.CustomIntegrator):
        return -float(integrator.getGlobalVariableByName("heat"))
    return None
