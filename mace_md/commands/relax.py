"""`mace-md relax`: a structure, and for crystals its cell, to the nearest minimum of a model's energy."""

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from openmm import unit

from mace_md.config import RelaxConfig
from mace_md.errors import InputError, SafetyStop
from mace_md.hosts.ase import ase_calculator
from mace_md.hosts.relaxation import Relaxation, relax
from mace_md.md.files.reporters import write_topology
from mace_md.md.watch.limits import Bonds
from mace_md.model.reading.checkpoint import load_model
from mace_md.provenance import write_atomically
from mace_md.structures import preflight
from mace_md.structures.prepare import prepare
from mace_md.structures.selection import select_atoms
from mace_md.structures.structure import Structure
from mace_md.training.processes import device_of
from mace_md.units import NM_TO_ANGSTROM

log = logging.getLogger("mace_md")
HIGHER = 1e-4  # eV, above what rounding and a last step of an optimiser without line search leave
LINES = 20  # of the steps in a log that is no terminal: the first ones, then ever fewer


def main(config: RelaxConfig) -> int:
    """Relax and write; exit code 0 also where --max-steps came first, which is said. Raises InputError, SafetyStop."""
    for path in filter(None, (config.output, config.trajectory)):
        if path.exists() and not config.force:
            raise InputError(f"{path} exists. Give another name, or --force to replace it.")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} is not there. Make it, or give another name.")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    structure = _read(config)
    if config.output.suffix.lower() == ".cif" and structure.box is None:
        raise InputError(
            f"{config.output}: a .cif file is for crystals, and this structure has no box. Take .extxyz or .pdb."
        )
    model = load_model(config.model, head=config.head, dtype=config.dtype)
    preflight.check_elements(structure, model.atomic_numbers.tolist(), config.model)
    atoms = atoms_of(structure)
    atoms.calc = ase_calculator(model, device=str(device_of(config.device)), kernels=config.kernels)
    log.info("model: %s, licence: %s", config.model, model.info.licence)
    progress = _Progress(config, structure, atoms)
    pressure = (config.pressure or 0.0) * 1e5 * units.Pascal
    found = relax(
        atoms,
        cell=config.cell,
        pressure=pressure,
        symmetry_tolerance=config.symmetry_tolerance,
        frozen=None if config.freeze is None else select_atoms(structure, config.freeze, "--freeze"),
        max_force=config.max_force,
        max_stress=(config.max_stress or 1.0) * units.GPa,
        max_steps=config.max_steps,
        optimizer=config.optimizer,
        watch=progress,
    )
    progress.end()
    if found.enthalpy > progress.first.enthalpy + HIGHER:
        raise SafetyStop(
            f"the relaxation ended {found.enthalpy - progress.first.enthalpy:.3f} eV higher than it began. Nothing is "
            f"written to {config.output}. Take another --optimizer (fire is the most patient), or a start closer to a "
            "minimum."
        )
    for line in _summary(found, atoms, progress):
        log.info("%s", line)
    log.info("written: %s", write_atoms(config.output, atoms, structure))
    return 0


def _read(config: RelaxConfig) -> Structure:
    structure = prepare(config)
    name = structure.path if config.smiles is None else f"SMILES {config.smiles}"
    for note in (f"{name}, {len(structure.positions)} atoms", *structure.notes):
        log.info("structure: %s", note)
    if config.hydrogens != "keep":
        preflight.check_hydrogens(structure)
    for note in preflight.check_contacts(structure):
        log.info("%s", note)
    return structure


def atoms_of(structure: Structure) -> Atoms:
    """The structure as ASE has it, A, with its own masses."""
    box = None if structure.box is None else structure.box * NM_TO_ANGSTROM
    return Atoms(
        numbers=structure.atomic_numbers,
        positions=structure.positions * NM_TO_ANGSTROM,
        cell=box,
        pbc=box is not None,
        masses=structure.masses,
    )


class _Progress:
    """Told of every step: a line for people, the frame in the trajectory, and whether the molecules are still whole."""

    def __init__(self, config: RelaxConfig, structure: Structure, atoms: Atoms) -> None:
        self.config, self.structure, self.atoms = config, structure, atoms
        self.bonds = Bonds(structure.molecules.bonds, np.array(structure.atomic_numbers))
        self.first: Relaxation | None = None
        self.frames: list[Atoms] = []
        self.next_line, self.last_line = 0, -1

    def __call__(self, now: Relaxation) -> bool:
        self.first = self.first or now
        self.last = now
        if self.config.trajectory is not None:
            self.frames.append(snapshot(self.atoms))
        if now.steps >= self.next_line:
            self._say(now)
            self.next_line = now.steps + max(1, now.steps // LINES)
        self._look_at_bonds(now)
        return True

    def _say(self, now: Relaxation) -> None:
        stress = ""
        if self.config.cell != "fixed":
            stress = (
                f"  pressure {-now.stress[:3].mean() / units.GPa:+.4f} GPa  volume {self.atoms.get_volume():.3f} A^3"
            )
        log.info(
            "step %4d  energy %.6f eV  largest force %.4f eV/A%s", now.steps, now.energy, now.largest_force, stress
        )
        self.last_line = now.steps

    def _look_at_bonds(self, now: Relaxation) -> None:
        if self.config.bond_break == "ignore":
            return
        box = None if not self.atoms.pbc.any() else self.atoms.cell.array / NM_TO_ANGSTROM
        found, lengths = self.bonds.newly_broken(self.atoms.positions / NM_TO_ANGSTROM, box)
        for bond, length in zip(found.tolist(), lengths.tolist(), strict=True):
            i, j = self.bonds.pairs[bond].tolist()
            names = " and ".join(_named(self.structure, index) for index in (i, j))
            text = f"step {now.steps}: the bond between {names} broke, {length * NM_TO_ANGSTROM:.2f} A"
            stated = bool(self.structure.molecules.stated[bond])
            if self.config.bond_break == "stop" or (self.config.bond_break == "auto" and stated):
                self.end()
                raise SafetyStop(
                    f"{text}. Nothing is written to {self.config.output}. The structure may be far from what the model "
                    "knows, or have atoms too close: look at it (--trajectory steps.extxyz), take another --model, or "
                    "say --bond-break warn where a reaction is meant."
                )
            log.warning("warning: %s", text)

    def end(self) -> None:
        """The last line, and the trajectory to the disk."""
        if self.last.steps != self.last_line:
            self._say(self.last)
        if self.frames:
            text = io.StringIO()
            write(text, self.frames, format="extxyz")
            write_atomically(self.config.trajectory, text.getvalue())
            self.frames = []


def _named(structure: Structure, index: int) -> str:
    atom = list(structure.topology.atoms())[index]
    return f"atom {index + 1} ({atom.name}, {atom.residue.name} {atom.residue.id})"


def _summary(found: Relaxation, atoms: Atoms, progress: _Progress) -> list[str]:
    how = "converged" if found.converged else f"NOT converged: --max-steps {progress.config.max_steps} came first"
    start = progress.first
    lines = [
        f"relax: {how} after {found.steps} steps, energy {start.energy:.6f} -> {found.energy:.6f} eV, largest force "
        f"{start.largest_force:.4f} -> {found.largest_force:.4f} eV/A"
    ]
    if found.stress is not None:
        numbers = "  ".join(f"{x / units.GPa:+.4f}" for x in found.stress)
        lines.append(f"relax: stress (xx yy zz yz xz xy, tension positive) {numbers} GPa")
    if progress.config.cell != "fixed":
        lengths = "  ".join(f"{x:.4f}" for x in atoms.cell.lengths())
        angles = "  ".join(f"{x:.3f}" for x in atoms.cell.angles())
        lines.append(f"relax: cell {lengths} A, {angles} degrees, volume {atoms.get_volume():.4f} A^3")
    return lines


def snapshot(atoms: Atoms) -> Atoms:
    """A copy with the energy, forces and stress that the atoms have now, without asking the model again."""
    copy = atoms.copy()
    copy.set_constraint()
    results = {name: atoms.calc.results[name] for name in ("energy", "forces", "stress") if name in atoms.calc.results}
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def write_atoms(path: Path, atoms: Atoms, structure: Structure) -> Path:
    """Write the relaxed atoms as the suffix says, at once or not at all; the path, which is a .cif where the columns of
    a PDB file cannot hold the names."""
    suffix = path.suffix.lower()
    if suffix == ".pdb":
        if structure.box is not None:
            structure.topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)
        relaxed = replace(structure, positions=atoms.positions / NM_TO_ANGSTROM)
        return write_topology(path.parent, relaxed, name=path.stem)
    if suffix == ".cif":
        binary = io.BytesIO()
        write(binary, snapshot(atoms), format="cif")
        write_atomically(path, binary.getvalue())
    else:
        text = io.StringIO()
        write(text, snapshot(atoms), format="extxyz")
        write_atomically(path, text.getvalue())
    return path
