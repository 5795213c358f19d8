"""Bugs as they happen, each a change of one place of an otherwise right simulation, for tests of the tests."""

from dataclasses import replace

import openmm
import torch

from mace_md.md.dynamics.integrators import Dynamics, bussi_integrator
from mace_md.md.forces.model import PythonPotential
from mace_md.model.potential import NativePotential, Potential, make_potential
from mace_md.ops.neighbor_list import VerletList
from mace_md.units import BOLTZMANN_KJ_MOL_K, FS_TO_PS
from validation.sampling import Ensemble
from validation.systems import Matter


def python_force(potential: torch.nn.Module) -> openmm.Force:
    """A periodic PythonForce of a potential that is not scriptable."""
    force = openmm.PythonForce(PythonPotential(potential, True, "cpu"), {}, [])
    force.setUsesPeriodicBoundaryConditions(True)
    return force


def potential_of(matter: Matter, kernels: str = "auto", skin: float = 0.5) -> Potential | NativePotential:
    """What `make_force` would evaluate."""
    numbers = [atom.element.atomic_number for atom in matter.topology.atoms()]
    return make_potential(matter.model, numbers, periodic=True, kernels=kernels, skin=skin)[0]


class ScaledForces(torch.nn.Module):
    """The right energy with all forces multiplied by a factor."""

    def __init__(self, potential: torch.nn.Module, factor: float):
        super().__init__()
        self.potential, self.factor = potential, factor

    def forward(self, positions, box):
        energy, forces = self.potential(positions, box)
        return energy, self.factor * forces


class LateList(VerletList):
    """A neighbour list that is built again only when an atom has moved `late` times as far as the skin allows."""

    late = 2.0

    def _is_valid(self, x, box, images):
        built_for, self.skin = self.skin, self.late * self.skin
        valid = super()._is_valid(x, box, images)
        self.skin = built_for
        return valid


def with_list(matter: Matter, kind: type[VerletList], skin: float) -> torch.nn.Module:
    """The plain potential of `matter` with another neighbour list."""
    potential = potential_of(matter, "reference", skin)
    potential.neighbors = kind(potential.r_max, skin, True)
    return potential


def symplectic_euler(dynamics: Dynamics) -> Dynamics:
    """Velocity Verlet without its second half-kick: the velocities are not at the time of the positions."""
    integrator = openmm.CustomIntegrator(dynamics.integrator.getStepSize())
    integrator.addGlobalVariable("heat", 0.0)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v + dt*f/m")
    integrator.addComputePerDof("x", "x + dt*v")
    return replace(dynamics, integrator=integrator)


def more_dof(matter: Matter, ensemble: Ensemble, extra: int):
    """Velocity rescaling that believes in `extra` more degrees of freedom than move."""

    def plant(dynamics: Dynamics) -> Dynamics:
        step = matter.timestep * FS_TO_PS
        integrator = bussi_integrator(
            matter.masses, ensemble.temperature, 1 / ensemble.friction, step, dynamics.num_dof + extra
        )
        integrator.setRandomNumberSeed(3)
        return replace(dynamics, integrator=integrator)

    return plant


def weak_coupling(matter: Matter, ensemble: Ensemble):
    """Berendsen's thermostat in place of velocity rescaling: the right mean temperature, no ensemble."""

    def plant(dynamics: Dynamics) -> Dynamics:
        step = matter.timestep * FS_TO_PS
        integrator = openmm.CustomIntegrator(step)
        target = 0.5 * BOLTZMANN_KJ_MOL_K * ensemble.temperature * dynamics.num_dof
        for name, value in {"rate": step * ensemble.friction, "target": target, "K": 0, "alpha": 0, "heat": 0}.items():
            integrator.addGlobalVariable(name, value)
        integrator.addUpdateContextState()
        integrator.addComputePerDof("v", "v + 0.5*dt*f/m")
        integrator.addComputePerDof("x", "x + dt*v")
        integrator.addComputePerDof("v", "v + 0.5*dt*f/m")
        integrator.addComputeSum("K", "0.5*m*v*v")
        integrator.addComputeGlobal("alpha", "sqrt(1 + rate*(target/K - 1))")
        integrator.addComputePerDof("v", "alpha*v")
        return replace(dynamics, integrator=integrator)

    return plant


def in_calories(dynamics: Dynamics) -> Dynamics:
    """A bath whose kT is in kcal/mol where kJ/mol is meant."""
    dynamics.integrator.setTemperature(dynamics.integrator.getTemperature() / 4.184)
    return dynamics


def cut_bonds(matter: Matter) -> Matter:
    """The same atoms without bonds: OpenMM takes each atom for a molecule."""
    topology = matter.topology
    topology._bonds.clear()
    return replace(matter, topology=topology)
