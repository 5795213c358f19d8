"""Make the bundled default model: labels, training, sampling by dynamics, training again. README.md says how.

Every step leaves a file in the work folder and is skipped when its file is there, so that an interrupted run goes on
where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from broad import functional_groups, ions_in_contact
from distil import blend, distil, with_core
from frames import Engine, Frame, load_frames, save_frames
from sample import sample_dynamics, sample_squeezed
from short_range import crushed, dimers, holes, pairs
from spice import label_spice

from mace_md import load_model, save_model
from mace_md.model.reading.checkpoint import ModelInfo
from mace_md.provenance import versions

NAME = "mace-md-small"
SEED = 2026
GATHERED = ("train.npz", "short.npz", "pairs.npz")
CRUSHED = 3000
# (steps of training, rate at the start, at the end) of every round; the runs and squeezed starts that follow it
TRAINING = [(500, 2e-3, 1e-3), (600, 1.5e-3, 5e-4), (1300, 1e-3, 1e-5)]
SAMPLING = [(100, 250), (40, 250)]
# A further round starts at this share of the way from the teacher to the student and has broad.py's structures too; a
# short last one has the holes that are left then, and as many squeezed starts as stated.
SHARE, LATE_TRAINING, LATE_STARTS = 0.85, [(700, 7e-4, 1e-5), (250, 4e-4, 1e-5)], 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="MACE_SPICE.model")
    parser.add_argument("--geometries", type=Path, required=True, help="folder of SPICE's conformations (HDF5)")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made on the way, and the model")
    words = parser.parse_args()
    words.work.mkdir(parents=True, exist_ok=True)
    teacher = load_model(words.teacher, dtype="float32")
    engine = Engine(teacher)
    gathered = frames = gather(words.geometries, words.work, engine)
    student, files = with_core(teacher), [words.work / name for name in GATHERED]
    for number, (steps, rate, last_rate) in enumerate(TRAINING):
        student = train(student, frames, words.work / f"round{number}.mace", number, (steps, rate, last_rate))
        if number < len(SAMPLING):
            files.append(words.work / f"sampled{number}.npz")
            frames = frames + sample(frames, Engine(student), engine, files[-1], number)
    files += [words.work / "broad.npz", words.work / "late.npz"]
    frames = frames + broaden(gathered, words.work, engine)
    student = train(blend(student, teacher, SHARE), frames, words.work / "round3.mace", 3, LATE_TRAINING[0])
    frames = frames + late(frames, Engine(student), engine, files[-1])
    student = train(student, frames, words.work / "round4.mace", 4, LATE_TRAINING[1])
    path = finish(student, words.teacher, files, words.work / f"{NAME}.mace")
    print(f"{path}  {path.stat().st_size} bytes  SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def gather(geometries: Path, work: Path, teacher: Engine) -> list[Frame]:
    """Training frames from SPICE and short_range.py; the test frames stay in their file."""
    if not (work / "train.npz").exists():
        training, test = label_spice(geometries, teacher, SEED)
        save_frames(test, work / "test.npz")
        save_frames(training, work / "train.npz")
    frames = load_frames(work / "train.npz")
    if not (work / "short.npz").exists():
        rng = np.random.default_rng(SEED + 1)
        save_frames(dimers(teacher.elements, rng) + crushed(frames, teacher, CRUSHED, rng), work / "short.npz")
    if not (work / "pairs.npz").exists():
        of_test = {
            frozenset(frame.numbers.tolist()) for frame in load_frames(work / "test.npz") if frame.kind == "ions"
        }
        save_frames(pairs(teacher, of_test, np.random.default_rng(SEED + 2)), work / "pairs.npz")
    return [frame for name in GATHERED for frame in load_frames(work / name)]


def train(student, frames: list[Frame], path: Path, number: int, how: tuple[int, float, float]):
    """The student after a round of training."""
    if not path.exists():
        print(f"round {number}: {len(frames)} frames", flush=True)
        torch.manual_seed(SEED)
        steps, rate, last_rate = how
        student = distil(student, frames, steps=steps, rate=rate, last_rate=last_rate, seed=SEED + number)
        save_model(student, path)
    return load_model(path, dtype="float32")


def sample(frames: list[Frame], student: Engine, teacher: Engine, path: Path, number: int) -> list[Frame]:
    """New frames where the student's dynamics go."""
    if not path.exists():
        runs, starts = SAMPLING[number]
        rng = np.random.default_rng(SEED + 10 + number)
        found = sample_dynamics(frames, student, teacher, runs, rng)
        save_frames(found + sample_squeezed(frames, student, teacher, starts, rng), path)
    return load_frames(path)


def broaden(frames: list[Frame], work: Path, teacher: Engine) -> list[Frame]:
    """Frames of broad.py; the ions of the test only nearer than any structure of the test."""
    path, nearest = work / "broad.npz", {}
    if not path.exists():
        for frame in load_frames(work / "test.npz"):
            if frame.kind == "ions":
                pair, r = frozenset(frame.numbers.tolist()), float(np.linalg.norm(np.diff(frame.positions, axis=0)))
                nearest[pair] = min(nearest.get(pair, np.inf), r)
        rng = np.random.default_rng(SEED + 3)
        save_frames(functional_groups(frames, teacher, rng) + ions_in_contact(teacher, nearest, rng), path)
    return load_frames(path)


def late(frames: list[Frame], student: Engine, teacher: Engine, path: Path) -> list[Frame]:
    """Bare pairs that still attract each other, and where squeezed starts go, as kinds of their own."""
    if not path.exists():
        found = sample_squeezed(frames, student, teacher, LATE_STARTS, np.random.default_rng(SEED + 4))
        found = [frame._replace(kind=frame.kind.replace("active", "late")) for frame in found]
        save_frames(holes(student) + found, path)
    return load_frames(path)


def finish(student, teacher: Path, files: list[Path], path: Path) -> Path:
    """The model file, with its licence and where it comes from."""
    counts: dict[str, int] = {}
    for frame in (frame for file in files for frame in load_frames(file)):
        counts[frame.kind] = counts.get(frame.kind, 0) + 1
    student.info = ModelInfo(
        name=NAME,
        path=path.name,
        sha256="unknown",  # of the file that is written here: readers work it out
        licence="MIT",
        level_of_theory="wB97M-D3(BJ)/def2-TZVPPD (SPICE), by distillation",
        dispersion="included",
        citation="mace-md (docs/default_model.md) and Eastman et al., Sci. Data 10, 11 (2023)",
        heads=student.config.heads,
        head=student.config.heads[0],
    )
    provenance = {
        "recipe": "recipes/default_model",
        "teacher": f"{teacher.name} (jharrymoore/mace-openmm, MIT)",
        "teacher sha256": hashlib.sha256(teacher.read_bytes()).hexdigest(),
        "geometries": "openmm/spice-dataset (MIT), molecular dynamics, squeezed molecules",
        "labels": "the teacher's; of clashing atoms GFN2-xTB's, of bare pairs also those of the ZBL potential",
        "structures": ", ".join(f"{count} {kind}" for kind, count in counts.items()),
        "steps": ", then ".join(
            f"{n} of Adam, rate {rate:g} to {last:g}" for n, rate, last in [*TRAINING, *LATE_TRAINING]
        ),
        "seed": SEED,
        "date": time.strftime("%Y-%m-%d"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return save_model(student, path, provenance=provenance, overwrite=True)


if __name__ == "__main__":
    main()
