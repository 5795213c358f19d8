"""Structures that dynamics visits: molecular dynamics of student and teacher, and relaxation of squeezed starts."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses
from ase.units import fs, kB
from frames import Engine, Frame, closest_contact, gfn2, label, rms
from short_range import approach, compact, draw_molecule, squeeze

EXPLODED = 300.0  # eV/A
TIMESTEP = 0.5 * fs
FRICTION = 0.02 / fs


def langevin(
    engine: Engine, numbers: np.ndarray, positions: np.ndarray, temperature: float, steps: int, every: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:  # fmt: skip
    """Positions every `every` steps of Langevin dynamics (BAOAB, 0.5 fs), and the last ones before it exploded."""
    mass = atomic_masses[numbers][:, None]
    kept, spread = np.exp(-FRICTION * TIMESTEP), np.sqrt(kB * temperature / mass)
    noise = np.sqrt(1 - kept**2) * spread
    velocities, frames = rng.normal(size=positions.shape) * spread, []
    _, forces = engine(numbers, positions)
    for step in range(1, steps + 1):
        velocities = velocities + 0.5 * TIMESTEP * forces / mass
        positions = positions + 0.5 * TIMESTEP * velocities
        velocities = kept * velocities + noise * rng.normal(size=positions.shape)
        positions = positions + 0.5 * TIMESTEP * velocities
        try:
            _, forces = engine(numbers, positions)
        except RuntimeError:  # the energy is not finite
            return frames
        velocities = velocities + 0.5 * TIMESTEP * forces / mass
        exploded = np.abs(forces).max() > EXPLODED
        if step % every == 0 or exploded:
            frames.append(positions)
        if exploded:
            return frames
    return frames


def relax(engine: Engine, numbers: np.ndarray, positions: np.ndarray, steps: int = 300) -> list[np.ndarray]:
    """The path of FIRE (Bitzek et al., PRL 97, 170201) down from `positions`, at most 0.1 A a step and atom."""
    _, forces = engine(numbers, positions)
    velocities, dt, mix, path, downhill = np.zeros_like(positions), 0.05, 0.1, [positions], 0
    for _ in range(steps):
        if (forces * velocities).sum() > 0:
            size = np.linalg.norm(velocities) / max(float(np.linalg.norm(forces)), 1e-9)
            velocities, downhill = (1 - mix) * velocities + mix * size * forces, downhill + 1
            if downhill > 5:
                dt, mix = min(1.1 * dt, 0.3), 0.99 * mix
        else:
            velocities, dt, mix, downhill = np.zeros_like(positions), 0.5 * dt, 0.1, 0
        velocities = velocities + dt * forces
        move = dt * velocities
        positions = positions + move * min(1.0, 0.1 / max(float(np.abs(move).max()), 1e-9))
        try:
            _, forces = engine(numbers, positions)
        except RuntimeError:
            break
        path.append(positions)
        if np.abs(forces).max() < 0.05:
            break
    return path


ODD_CONTACT, ODD_FORCE, ODD_ERROR = 0.75, 12.0, 0.3  # sums of radii, eV/A, eV/A: what GFN2 has to judge


def sample_dynamics(
    frames: list[Frame], student: Engine, teacher: Engine, runs: int, rng: np.random.Generator
) -> list[Frame]:
    """Four frames of each of `runs` trajectories at 300, 450 or 600 K, driven by the student (70 %) or the teacher.

    The starts are structures of the training set and pairs of small molecules. Frames that look ordinary get the
    teacher's label; where contacts, forces or the student's error are odd, GFN2 decides (`label`).
    """
    large = [frame for frame in frames if frame.kind in ("amino acids", "ligands", "water30")]
    small = [frame for frame in frames if frame.kind == "monomers"]
    found, errors, odd = [], [], 0
    for run in range(runs):
        steps = 1500
        if run % 2 == 0 and run % 8 != 0:
            numbers, start, charge = approach(draw_molecule(frames, rng), draw_molecule(frames, rng), 1.5, rng)
        else:
            pool = small if run % 2 else large
            _, _, numbers, start, charge, _, _ = pool[rng.integers(len(pool))]
            steps = 1500 if run % 2 else 300
        driver = student if rng.random() < 0.7 else teacher
        for positions in langevin(driver, numbers, start, rng.choice([300, 450, 600]), steps, steps // 4, rng):
            energy, forces = teacher(numbers, positions)
            errors.append(rms(forces - student(numbers, positions)[1]))
            frame: Frame | None = Frame("active", "active", numbers, positions, charge, energy, forces)
            too_close = closest_contact(numbers, positions) < ODD_CONTACT
            if too_close or np.abs(forces).max() > ODD_FORCE or errors[-1] > ODD_ERROR:
                frame, odd = label(teacher, "active", numbers, positions, charge), odd + 1
            if frame is not None:
                found.append(frame)
    print(
        f"dynamics: {len(errors)} frames, {odd} odd, student's force error median {np.median(errors):.3f}, "
        f"95 % {np.quantile(errors, 0.95):.3f} eV/A"
    )
    return found


def sample_squeezed(
    frames: list[Frame], student: Engine, teacher: Engine, starts: int, rng: np.random.Generator
) -> list[Frame]:
    """Up to five structures on the student's way down from each of `starts` squeezed molecules and pairs."""
    found, suspicious = [], 0
    for _ in range(starts):
        molecule = draw_molecule(frames, rng)
        if rng.random() < 0.4 and len(molecule[0]) > 3:
            numbers, positions, charge = squeeze(molecule, rng.uniform(0.45, 0.8), rng)
        else:
            numbers, positions, charge = compact(frames, rng)
        if not 2 <= len(numbers) <= 26:
            continue
        path = relax(student, numbers, positions)
        judged = gfn2(numbers, path[-1], charge)
        error = np.inf if judged is None else rms(student(numbers, path[-1])[1] - judged[1])
        suspicious += error > 1.5 or closest_contact(numbers, path[-1]) < 0.7
        path = [x for x in path if closest_contact(numbers, x) > 0.35]
        for place in sorted({0, 3, 10, len(path) // 2, len(path) - 1} & set(range(len(path)))):
            frame = label(teacher, "active", numbers, path[place], charge)
            if frame is not None:
                found.append(frame)
    print(f"squeezed starts: {starts}, {suspicious} ended where GFN2 sees forces or atoms overlap")
    return found
