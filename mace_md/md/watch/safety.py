"""The safety watch: looks at a running simulation, and ends it when what it sees is no physics.

A look costs no evaluation of the model: positions and velocities are read, and numbers, temperature, the fastest atom,
the closest contacts, the bonds of the start and the box are checked. Energy and forces are checked where they are
evaluated anyway (rows of log.csv), and by the watch itself where that is too seldom. Looks are left out, though never
before a checkpoint or a frame, while the watch has used more than its share of the time.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mace_md.errors import SafetyStop
from mace_md.md.files.frames import AtomNames, Snapshot, write_snapshots
from mace_md.md.watch.finite import numbers_stay_finite
from mace_md.md.watch.limits import Bonds, ContactLimits, Limits, atom_energy_limit, temperature_limit
from mace_md.structures.molecules import close_pairs, face_distances
from mace_md.structures.preflight import LARGEST_DENSITY
from mace_md.units import (
    BOLTZMANN_KJ_MOL_K,
    DALTON_PER_CUBIC_NM_TO_G_ML,
    EV_PER_ANGSTROM_TO_KJ_MOL_NM,
    EV_TO_KJ_MOL,
    FS_TO_PS,
    NM_TO_ANGSTROM,
)

log = logging.getLogger("mace_md")

SHARE = 0.008  # of the wall time, above which looks are left out
FORCES_AT_LEAST_EVERY = 200  # steps; one evaluation in 200 is 0.5 % of them
BONDS_NAMED = 5  # broken bonds that are named in the log one by one
MOST_NAMED = 3  # atoms that a message names


@dataclass(frozen=True)
class Finding:
    """One broken rule: what was found, the atoms it is about, and what helps."""

    text: str
    remedy: str


class Watch:
    """Looks at one simulation; `look` is its event. Raises SafetyStop, after it wrote the last good and the bad frame.

    `r_max` : cutoff of the model, A. `bonds` : [n_bonds, 2], of the start; `stated` : which of them were not found by
    distance, all by default.
    """

    def __init__(
        self,
        simulation: app.Simulation,
        folder: Path,
        limits: Limits,
        *,
        bonds: np.ndarray,
        stated: np.ndarray | None = None,
        num_dof: int,
        timestep: float,
        r_max: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        before_forces: Callable[[], None] = lambda: None,
    ) -> None:
        """timestep in fs. before_forces : called before the watch evaluates forces."""
        self._before_forces = before_forces
        self.limits, self.timings = limits, {"looks": 0, "seconds": 0.0}
        self._simulation, self._folder, self._timestep, self._clock = simulation, folder, timestep, clock
        self._names = AtomNames.of(simulation.topology)
        system = simulation.system
        self._masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
        self._num_dof, self._r_max = num_dof, r_max
        self._periodic = simulation.topology.getPeriodicBoxVectors() is not None
        self._contacts = ContactLimits(self._names.numbers, limits.closest_contact)
        self._bonds = Bonds(bonds, self._names.numbers, stated) if limits.bond_break != "ignore" else None
        self._box_was_wide: bool | None = None
        self._good_box: np.ndarray | None = None  # looked at already
        self._good: Snapshot | None = None
        self._looked_at: int | None = None
        self._forces_seen: int | None = None  # step at which forces were checked last
        self._started = clock()
        self._judged = False  # a finding of the watch itself ended the run
        self.set_temperature(limits.temperature)

    def set_temperature(self, temperature: float) -> None:
        """Judge from now on by a bath at `temperature` (K); for ramps and stages."""
        wanted = self.limits.max_temperature
        self._max_temperature = temperature_limit(temperature, self._num_dof) if wanted is None else wanted
        self._max_atom_energy = atom_energy_limit(temperature, wanted)

    @contextmanager
    def on_duty(self, step: int, phase: str) -> Iterator[None]:
        """Watch the steps made inside: look at the present state, then count time, and explain what the steps raise."""
        try:
            with numbers_stay_finite(phase):
                self._looked_at = self._forces_seen = None  # the state may have been changed since
                self.look(step, must=True)
                self._started = self._clock()
                self.timings = {"looks": 0, "seconds": 0.0}
                yield
        except SafetyStop as stop:
            raise stop if self._judged else self._explained(stop) from stop.__cause__

    # -------------------------------------------------------------------------------------------- looking

    def look(self, step: int, must: bool = False) -> None:
        """Check the present state; left out, unless it `must`, while the watch is over its share of the time."""
        begin = self._clock()
        if not must and self.timings["seconds"] > SHARE * (begin - self._started) and self.timings["looks"]:
            return
        if self._looked_at == step:
            return
        forces_due = self._forces_seen is None or step - self._forces_seen >= FORCES_AT_LEAST_EVERY
        context = self._simulation.context
        snapshot = Snapshot.of(context.getState(positions=True, velocities=True), step, self._periodic)
        self._judge(snapshot, self._findings(snapshot))
        self._good, self._looked_at = snapshot, step
        if forces_due:  # no energy: its kinetic part draws random numbers in a custom integrator
            self._before_forces()
            self.check_forces(context.getState(forces=True), step)
        self.timings["looks"] += 1
        self.timings["seconds"] += self._clock() - begin

    def judge_minimum(self, start: Snapshot) -> None:
        """Refuse a minimum in which bonds of the `start` are broken, unless --bond-break says to go on."""
        if self.limits.bond_break not in ("auto", "stop"):
            return
        state = self._simulation.context.getState(positions=True, velocities=True)
        minimum = Snapshot.of(state, start.step, self._periodic)
        broken, lengths = self._bonds.newly_broken(minimum.positions, minimum.box)
        if len(broken):
            self._good, text = start, self._broken_text(broken, lengths)
            raise SafetyStop(f"minimisation: {text}. {self._saved(minimum, text)} {_REMEDY_MINIMUM}")

    def check_forces(self, state: openmm.State, step: int) -> None:
        """Check a State that holds forces, and the energy where it holds one."""
        self._forces_seen = step
        energy = 0.0
        if state.getDataTypes() & openmm.State.Energy:
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True)._value / EV_PER_ANGSTROM_TO_KJ_MOL_NM
        squares = np.einsum("ij,ij->i", forces, forces)
        largest = float(squares.max(initial=0.0))
        if math.isfinite(energy) and largest <= self.limits.max_force**2:
            return
        if math.isfinite(energy) and math.isfinite(largest):
            text = (
                f"the force on {self._names.some(np.argsort(-squares)[:1])} is {math.sqrt(largest):.1f} eV/A (limit "
                f"{self.limits.max_force:g})"
            )
            finding = Finding(text, _REMEDY_FORCE)
        else:
            bad = np.flatnonzero(~np.isfinite(squares))
            what = f"the forces on {self._names.some(bad)}" if len(bad) else "the energy"
            finding = Finding(f"{what} {'are' if len(bad) else 'is'} not a finite number", _REMEDY_FORCE)
        context = self._simulation.context
        snapshot = Snapshot.of(context.getState(positions=True, velocities=True), step, self._periodic)
        self._judge(snapshot, [finding])

    def _explained(self, stop: SafetyStop) -> SafetyStop:
        """`stop`, which a step raised between two looks, with the frames saved and the suspects named."""
        context = self._simulation.context
        step = context.getStepCount()
        snapshot = Snapshot.of(context.getState(positions=True, velocities=True), step, self._periodic)
        findings = self._findings(snapshot)
        seen = f" {findings[0].text}." if findings else self._suspects(snapshot)
        return SafetyStop(f"{str(stop).rstrip()}{seen} {self._saved(snapshot, str(stop))}")

    def summary(self) -> list[str]:
        """What the log says when the steps are done."""
        seconds, looks = self.timings["seconds"], self.timings["looks"]
        share = 100.0 * seconds / max(self._clock() - self._started, 1e-9)
        lines = [f"safety: {looks} looks, {1000 * seconds / max(looks, 1):.2f} ms each, {share:.2f} % of the time"]
        if self._bonds is not None and self._bonds.broken.any():
            count = int(self._bonds.broken.sum())
            lines.append(f"safety: {count} of the {len(self._bonds.pairs)} bonds of the starting structure broke")
        return lines

    # -------------------------------------------------------------------------------------------- the rules

    def _findings(self, snapshot: Snapshot) -> list[Finding]:
        """The broken rules, the one that explains the others first."""
        numbers = self._not_finite(snapshot)
        if numbers:
            return numbers
        return [
            *self._too_close(snapshot),
            *self._box(snapshot),
            *self._too_hot(snapshot),
            *self._broken_bonds(snapshot),
        ]

    def _not_finite(self, snapshot: Snapshot) -> list[Finding]:
        # A sum is finite unless something in it is not; it costs less than to ask each number.
        if math.isfinite(float(snapshot.positions.sum() + snapshot.velocities.sum())):
            return []
        finite = np.isfinite(snapshot.positions).all(axis=1) & np.isfinite(snapshot.velocities).all(axis=1)
        who = self._names.some(np.flatnonzero(~finite))
        return [Finding(f"positions or velocities of {who} are not finite numbers", _REMEDY_FORCE)]

    def _too_close(self, snapshot: Snapshot) -> list[Finding]:
        if not self._contacts.cutoff:
            return []
        i, j, distances = close_pairs(snapshot.positions, snapshot.box, self._contacts.cutoff)
        if not len(i):
            return []
        limits = self._contacts.of(i, j)
        bad = np.flatnonzero(distances < limits)
        if not len(bad):
            return []
        worst = bad[np.argmin(distances[bad] / limits[bad])]
        return [
            Finding(
                f"{self._names.one(i[worst])} and {self._names.one(j[worst])} are "
                f"{distances[worst] * NM_TO_ANGSTROM:.2f} A apart (limit {limits[worst] * NM_TO_ANGSTROM:.2f} A"
                f"{_more(len(bad) - 1, 'pair')})",
                _REMEDY_CONTACT,
            )
        ]

    def _too_hot(self, snapshot: Snapshot) -> list[Finding]:
        squares = np.einsum("ij,ij->i", snapshot.velocities, snapshot.velocities)
        energies = 0.5 * self._masses * squares  # kJ/mol
        temperature = 2.0 * float(energies.sum()) / (max(self._num_dof, 1) * BOLTZMANN_KJ_MOL_K)
        order = np.argsort(-energies)[:MOST_NAMED] if temperature > self._max_temperature else [energies.argmax()]
        fastest = int(order[0])
        alone = energies[fastest] > self._max_atom_energy
        if temperature > self._max_temperature and not (alone and energies[fastest] > 0.3 * energies.sum()):
            text = (
                f"the temperature is {temperature:.0f} K (limit {self._max_temperature:.0f} K), fastest "
                f"{self._names.some(order)}"
            )
            return [Finding(text, _REMEDY_HOT)]
        if alone:
            text = (
                f"{self._names.one(fastest)} has a kinetic energy of {energies[fastest] / EV_TO_KJ_MOL:.1f} eV (limit "
                f"{self._max_atom_energy / EV_TO_KJ_MOL:.1f} eV)"
            )
            return [Finding(text, _REMEDY_HOT)]
        return []

    def _broken_bonds(self, snapshot: Snapshot) -> list[Finding]:
        if self._bonds is None:
            return []
        new, lengths = self._bonds.newly_broken(snapshot.positions, snapshot.box)
        if not len(new):
            return []
        fatal = {"stop": True, "auto": self._bonds.stated[new].any()}.get(self.limits.bond_break, False)
        if fatal:
            return [Finding(self._broken_text(new, lengths), _REMEDY_BOND)]
        texts = [self._broken_text(new[[k]], lengths[[k]]) for k in range(len(new))]
        named_before = int(self._bonds.broken.sum()) - len(new)
        for text in texts[: max(BONDS_NAMED - named_before, 0)]:
            log.warning("warning: step %d: %s", snapshot.step, text)
        if named_before < BONDS_NAMED <= named_before + len(new):
            log.warning("warning: further broken bonds are counted, and no longer named (--bond-break stop ends a run)")
        return []

    def _broken_text(self, broken: np.ndarray, lengths: np.ndarray) -> str:
        """The first of these bonds, a stated one where there is one, and how many more; lengths in nm."""
        first = int(np.argmax(self._bonds.stated[broken]))
        i, j = self._bonds.pairs[broken[first]].tolist()
        text = f"the bond {self._names.one(i)} - {self._names.one(j)} broke: {lengths[first] * NM_TO_ANGSTROM:.2f} A"
        return text + _more(len(broken) - 1, "bond")

    def _box(self, snapshot: Snapshot) -> list[Finding]:
        if snapshot.box is None or (self._good_box is not None and (snapshot.box == self._good_box).all()):
            return []
        self._good_box = snapshot.box
        volume = float(np.prod(np.diag(snapshot.box)))  # the box is in reduced form: lower triangular
        density = float(self._masses.sum()) / volume * DALTON_PER_CUBIC_NM_TO_G_ML if volume > 0 else math.inf
        if not density <= LARGEST_DENSITY:
            return [Finding(f"the box has collapsed: a density of {density:.3g} g/mL is above any matter", _REMEDY_BOX)]
        if self._r_max is None or self.limits.small_box == "ignore":
            return []
        width = float(face_distances(snapshot.box).min()) * NM_TO_ANGSTROM
        wide = width >= 2.0 * self._r_max
        if self._box_was_wide is None:
            self._box_was_wide = wide  # of a box that is small from the start, the log has said so
        if wide or not self._box_was_wide:
            return []
        text = f"the box is {width:.2f} A wide and has shrunk below twice the cutoff ({self._r_max:g} A)"
        if self.limits.small_box == "stop":
            return [Finding(text, _REMEDY_SMALL_BOX)]
        self._box_was_wide = False  # once
        log.warning("warning: step %d: %s. %s", snapshot.step, text, _REMEDY_SMALL_BOX)
        return []

    # -------------------------------------------------------------------------------------------- stopping

    def _judge(self, snapshot: Snapshot, findings: list[Finding]) -> None:
        if findings:
            first, self._judged = findings[0], True
            saved = self._saved(snapshot, first.text)
            when = f"step {snapshot.step} ({snapshot.step * self._timestep * FS_TO_PS:.3f} ps)"
            raise SafetyStop(f"{when}: {first.text}. {saved} {first.remedy}")

    def _suspects(self, snapshot: Snapshot) -> str:
        """The atoms that a step sent furthest since the last good look."""
        if self._good is None:
            return ""
        moved = np.linalg.norm(snapshot.positions - self._good.positions, axis=1)
        if not np.isfinite(moved).all() or moved.max(initial=0.0) < 0.05:  # nm; else the step was undone
            moved = np.linalg.norm(self._good.velocities, axis=1)
        return f" Suspects (moved most): {self._names.some(np.argsort(-moved)[:MOST_NAMED])}."

    def _saved(self, bad: Snapshot, reason: str) -> str:
        """Write the frames; says where they are. A disk that is full too must not hide why the run stopped."""
        frames = [("bad", bad)] if self._good is None else [("last good", self._good), ("bad", bad)]
        try:
            path = write_snapshots(
                self._folder / f"stop_step{bad.step}.extxyz", frames, self._names, reason, self._timestep,
                self._forces_at,
            )  # fmt: skip
        except OSError as error:
            return f"The frames cannot be written ({error.strerror or error})."
        if self._good is None:
            return f"The frame is in {path}."
        return f"The last good frame (step {self._good.step}) and the bad one are in {path}."

    def _forces_at(self, snapshot: Snapshot) -> np.ndarray | None:
        """[n_atoms, 3] kJ/mol/nm, or None where the force cannot be evaluated; leaves the context at `snapshot`."""
        context = self._simulation.context
        try:
            if snapshot.box is not None:
                context.setPeriodicBoxVectors(*snapshot.box)
            context.setPositions(snapshot.positions)
            return np.array(context.getState(forces=True).getForces(asNumpy=True)._value)
        except (openmm.OpenMMException, RuntimeError, ValueError):
            return None


def _more(count: int, what: str) -> str:
    return f", and {count} more {what}{'s' if count > 1 else ''}" if count else ""


_REMEDY_FORCE = (
    "Start from a minimised structure (--minimize), take a shorter --timestep, or a model that was trained on such "
    "structures; --max-force raises the limit."
)
_REMEDY_CONTACT = (
    "Models are wrong where atoms are closer than in any training structure: take a shorter --timestep, a lower "
    "--temperature, or a model with repulsion at short distance; --closest-contact changes the limit."
)
_REMEDY_HOT = (
    "Minimise first (--minimize), take a shorter --timestep, or look whether the model knows this chemistry; "
    "--max-temperature raises the limit."
)
_REMEDY_BOND = (
    "The model may not know this chemistry, or the --timestep be too long. If a reaction is what you look for, run "
    "with --bond-break warn."
)
_REMEDY_MINIMUM = (
    "On the way down from this start the model sees no barrier to another molecule. Look at the start (its bonds, "
    "contacts, hydrogens, charge), at forces of your own, and whether the model knows this chemistry; --no-minimize "
    "starts from the structure as it is, --bond-break warn goes on from here."
)
_REMEDY_BOX = "Check the --pressure, the starting density, and whether the model is fit for this state."
_REMEDY_SMALL_BOX = (
    "Every image inside the cutoff is counted, so that the forces stay right; but the atoms feel their own images. Use "
    "a larger box for a liquid."
)
