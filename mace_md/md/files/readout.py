"""What a running simulation says for a row of the log and a frame of the trajectory; classical or with beads."""

from typing import NamedTuple

import numpy as np
import openmm
from openmm import app, unit
from openmm.app.internal.unitcell import computeLengthsAndAngles

from mace_md.md.dynamics.integrators import Dynamics, bath_energy, kinetic_at_positions, velocities_lag
from mace_md.md.dynamics.rpmd import RingPolymer
from mace_md.md.dynamics.temperature import temperature_of
from mace_md.md.files.trajectory import Frame
from mace_md.md.forces.dispersion import DISPERSION_GROUP
from mace_md.md.forces.restraints import EXTERNAL_GROUP, RESTRAINT_GROUP
from mace_md.units import NM_TO_ANGSTROM

_NM, _VELOCITY = unit.nanometer, unit.nanometer / unit.picosecond
_KJ, _FORCE = unit.kilojoule_per_mole, unit.kilojoule_per_mole / unit.nanometer
# Of the energies and forces in a trajectory: the model and its dispersion, nothing that a run was held by.
MODEL_GROUPS = set(range(32)) - {RESTRAINT_GROUP, EXTERNAL_GROUP}


class Reading(NamedTuple):
    """Energies, kJ/mol; `conserved` is None where no quantity is; `extra` the numbers of the columns beyond these."""

    potential: float
    kinetic: float
    conserved: float | None
    temperature: float
    volume: float | None
    extra: tuple[float, ...]


class Wanted(NamedTuple):
    """What a frame holds beside the positions; each but the velocities costs an evaluation of the model."""

    energy: bool = False
    velocities: bool = False
    forces: bool = False


class Readout:
    """Of classical dynamics. `terms`: force groups whose energies are columns of their own, by column.

    endless : [n_atoms] bool, atoms of molecules that are bonded to their own images; they have no inside, and are never
    wrapped, since each atom would go through the faces of the box on its own.
    """

    def __init__(
        self, simulation: app.Simulation, dynamics: Dynamics, terms: dict[str, int], endless: np.ndarray | None = None
    ) -> None:
        self.simulation, self.terms, self._endless = simulation, terms, endless
        self.num_dof = dynamics.num_dof
        system = simulation.context.getSystem()
        self._masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
        self.periodic = simulation.topology.getPeriodicBoxVectors() is not None
        self.columns = (*(BOX_COLUMNS if self.periodic else ()), *terms)
        self.num_beads = 0  # that have trajectories of their own

    def energies(self, *, stepped: bool, forces: bool) -> tuple[Reading, openmm.State]:
        """The numbers of a row, and a State with the energy and, where asked for, the forces.

        `stepped`: the integrator has made a step.
        """
        integrator, context = self.simulation.integrator, self.simulation.context
        bath = bath_energy(integrator, stepped=stepped)
        lag = bath is not None and velocities_lag(integrator)
        state = context.getState(energy=True, forces=forces or lag, velocities=lag)
        potential = state.getPotentialEnergy().value_in_unit(_KJ)
        kinetic = state.getKineticEnergy().value_in_unit(_KJ)
        now = kinetic_at_positions(state, self._masses, integrator.getStepSize()._value) if lag else kinetic
        reading = Reading(
            potential=potential,
            kinetic=kinetic,
            conserved=None if bath is None else potential + now + bath,
            temperature=temperature_of(kinetic, self.num_dof),
            volume=self._volume(state),
            extra=(*self._box_numbers(state), *(self._term(group) for group in self.terms.values())),
        )
        return reading, state

    def _term(self, group: int) -> float:
        state = self.simulation.context.getState(energy=True, groups={group})
        return state.getPotentialEnergy().value_in_unit(_KJ)

    def _volume(self, state: openmm.State) -> float | None:
        return state.getPeriodicBoxVolume().value_in_unit(_NM**3) if self.periodic else None

    def _box_numbers(self, state: openmm.State) -> tuple[float, ...]:
        """Lengths (nm) and angles (degrees) of the box, none without one."""
        if not self.periodic:
            return ()
        numbers = computeLengthsAndAngles(state.getPeriodicBoxVectors().value_in_unit(_NM))
        return (*numbers[:3], *np.degrees(numbers[3:]))

    def frames(self, step: int, time: float, wanted: Wanted, *, wrap: bool) -> list[Frame]:
        """The frame of this moment; time in ps. `wrap`: each molecule whole with its centre in the box."""
        state = self.simulation.context.getState(positions=True, velocities=wanted.velocities)
        velocities = state.getVelocities(asNumpy=True).value_in_unit(_VELOCITY) if wanted.velocities else None
        energy = forces = None
        if wanted.energy or wanted.forces:
            model = self.simulation.context.getState(energy=wanted.energy, forces=wanted.forces, groups=MODEL_GROUPS)
            energy = model.getPotentialEnergy().value_in_unit(_KJ) if wanted.energy else None
            forces = model.getForces(asNumpy=True).value_in_unit(_FORCE) if wanted.forces else None
        positions = self._placed(state, wrap)
        return [Frame(step, time, positions, self._box(state), energy, velocities, forces)]

    def _placed(self, state: openmm.State, wrap: bool) -> np.ndarray:
        """[n_atoms, 3] nm, of `state`, which is that of the Context; wrapped where it is asked for and can be."""
        positions = np.array(state.getPositions(asNumpy=True).value_in_unit(_NM))
        if not (wrap and self.periodic):
            return positions
        wrapped = self.simulation.context.getState(positions=True, enforcePeriodicBox=True)
        inside = np.array(wrapped.getPositions(asNumpy=True).value_in_unit(_NM))
        return inside if self._endless is None else np.where(self._endless[:, None], positions, inside)

    def _box(self, state: openmm.State) -> np.ndarray | None:
        return np.array(state.getPeriodicBoxVectors().value_in_unit(_NM), dtype=float) if self.periodic else None


class RingPolymerReadout(Readout):
    """Of a path integral: quantum estimators in the row, the centroids and then each bead as frames."""

    def __init__(
        self, simulation: app.Simulation, dynamics: Dynamics, terms: dict[str, int], endless: np.ndarray | None = None
    ) -> None:
        super().__init__(simulation, dynamics, terms, endless)
        self.ring = RingPolymer(simulation.context)
        symbols = np.array([atom.element.symbol for atom in simulation.topology.atoms()])
        mobile = self.ring.masses > 0
        self._elements = {symbol: (symbols == symbol) & mobile for symbol in sorted(set(symbols[mobile].tolist()))}
        radii = tuple(f"bead_radius_{symbol}_A" for symbol in self._elements)
        self.columns = (*(BOX_COLUMNS if self.periodic else ()), "kinetic_primitive_kJ_mol", *radii, *terms)
        self.num_beads = self.ring.count
        self._conserves = not simulation.integrator.getApplyThermostat()

    def energies(self, *, stepped: bool, forces: bool) -> tuple[Reading, openmm.State]:
        """As for classical dynamics, by the estimators; the State is that of the first bead."""
        found = self.ring.estimate(self.num_dof)
        squares = self.ring.radii()
        radii = [float(np.sqrt(squares[chosen].mean())) * NM_TO_ANGSTROM for chosen in self._elements.values()]
        state = self.ring.integrator.getState(0, getEnergy=True, getForces=True)
        reading = Reading(
            potential=found.potential,
            kinetic=found.kinetic,
            conserved=found.conserved if self._conserves else None,
            temperature=found.temperature,
            volume=self._volume(state),
            extra=(
                *self._box_numbers(state), found.kinetic_primitive, *radii,
                *(self.ring.potential({group}) for group in self.terms.values()),
            ),
        )  # fmt: skip
        return reading, state

    def frames(self, step: int, time: float, wanted: Wanted, *, wrap: bool) -> list[Frame]:
        """The centroids with the mean energy and force of the beads, then the beads, shifted alike."""
        context = self.simulation.context
        beads, velocities = self.ring.take()
        centroid = beads.mean(axis=0)
        context.setPositions(centroid)  # OpenMM wraps what is in the Context; the integrator has its own beads
        state = context.getState(positions=True)
        wrapped = self._placed(state, wrap)
        box, shift = self._box(state), wrapped - centroid
        energy = self.ring.potential(MODEL_GROUPS) if wanted.energy else None
        forces = self.ring.forces(MODEL_GROUPS) if wanted.forces else None
        means = velocities.mean(axis=0) if wanted.velocities else None
        frames = [Frame(step, time, wrapped, box, energy, means, forces)]
        for k, positions in enumerate(beads):
            own = velocities[k] if wanted.velocities else None
            frames.append(Frame(step, time, positions + shift, box, None, own, None))
        return frames


def make_readout(simulation: app.Simulation, dynamics: Dynamics, endless: np.ndarray | None = None) -> Readout:
    """The readout that fits the integrator, with a column for each group of forces beside the model.

    endless : [n_atoms] bool, of endless networks, whose atoms are not wrapped.
    """
    groups = {force.getForceGroup() for force in simulation.system.getForces()}
    terms = {column: group for column, group in TERMS.items() if group in groups}
    endless = endless if endless is not None and endless.any() else None
    return (RingPolymerReadout if dynamics.beads > 1 else Readout)(simulation, dynamics, terms, endless)


BOX_COLUMNS = ("box_a_nm", "box_b_nm", "box_c_nm", "box_alpha_degree", "box_beta_degree", "box_gamma_degree")
TERMS = {
    "dispersion_kJ_mol": DISPERSION_GROUP,
    "restraint_kJ_mol": RESTRAINT_GROUP,
    "external_kJ_mol": EXTERNAL_GROUP,
}
