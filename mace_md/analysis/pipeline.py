"""From a source to results: the window, the observables, the frames through all of them at once."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mace_md.analysis.choosing import fitting, kind_of
from mace_md.analysis.geometry import molecules_of
from mace_md.analysis.observables.log import LOG_OBSERVABLES
from mace_md.analysis.observables.motion import Msd
from mace_md.analysis.observables.observer import Observer, System, View
from mace_md.analysis.observables.pairs import HydrogenBonds, Rdf
from mace_md.analysis.observables.structure import Gyration, Rmsd, Torsions
from mace_md.analysis.observables.vibrations import Dielectric, Infrared, Raman, Vdos
from mace_md.analysis.reading import Chunk, Source
from mace_md.analysis.results import Result
from mace_md.analysis.window import Window, find_window
from mace_md.errors import InputError

log = logging.getLogger("mace_md")

SHOWN_FRAMES = 200  # of the moving molecule in the report
SHOWN_ATOMS = 1200


@dataclass(frozen=True)
class Wishes:
    """What is asked for; the defaults are what `mace-md analyze RUN` does. Lengths nm, times ps, mPa s, 1/cm."""

    observables: tuple[str, ...] | None = None
    skip: str = "auto"
    every: int = 1
    rdf: tuple[str, ...] = ()
    r_max: float | None = None
    torsions: tuple[str, ...] = ()
    charges: Path | None = None
    dipoles: Path | None = None
    viscosity: float | None = None
    resolution: float = 5.0
    quiet: bool = True


@dataclass
class Analysis:
    """All that was found of one run. missing : what could not be said, and what would have given it.

    frames : [f, n, 3] nm of the atoms `shown` [n], molecules whole, for the moving picture; boxes [f, 3, 3] nm.
    frame_times [f] ps.
    """

    system: System
    results: list[Result] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    num_frames: int = 0
    frame_step: float | None = None
    shown: np.ndarray | None = None
    frames: np.ndarray | None = None
    boxes: np.ndarray | None = None
    frame_times: np.ndarray | None = None

    @property
    def run_warnings(self) -> list[str]:
        """What the run itself warned of, from its log; the safety watch among it."""
        return self.system.source.warnings

    @property
    def window(self) -> Window:
        return self.system.window


OBSERVERS: dict[str, Callable[[System, Wishes], Observer]] = {
    "rdf": lambda system, wishes: Rdf(system, wishes.rdf, wishes.r_max),
    "diffusion": lambda system, wishes: Msd(system, wishes.viscosity),
    "hbonds": lambda system, wishes: HydrogenBonds(system),
    "rmsd": lambda system, wishes: Rmsd(system),
    "gyration": lambda system, wishes: Gyration(system),
    "torsions": lambda system, wishes: Torsions(system, wishes.torsions),
    "vdos": lambda system, wishes: Vdos(system, wishes.resolution),
    "ir": lambda system, wishes: Infrared(system, wishes.charges, wishes.dipoles, wishes.resolution),
    "raman": lambda system, wishes: Raman(system, wishes.charges, wishes.dipoles, wishes.resolution),
    "dielectric": lambda system, wishes: Dielectric(system, wishes.charges, wishes.dipoles),
}
NAMES = (*LOG_OBSERVABLES, *OBSERVERS)


def analyse(source: Source, wishes: Wishes = Wishes()) -> Analysis:
    """Everything that is asked for, or that fits. Raises InputError for what is asked for and cannot be had; what was
    only chosen as fitting goes to `missing`."""
    molecules = molecules_of(source.topology)
    kind, solute = kind_of(source, molecules)
    window = find_window(source.log, wishes.skip, None if source.log else _last_time(source, wishes.every))
    system = System(source, molecules, window, kind, solute)
    found = Analysis(system)
    asked = wishes.observables is not None
    names = list(wishes.observables) if asked else _chosen(source, kind, molecules, wishes)
    observers: dict[str, Observer] = {}
    done: dict[str, Result] = {}
    for name in names:
        with _kept(found, name, asked):
            if name in LOG_OBSERVABLES:
                if not source.log:
                    raise InputError(f"{name}: there is no log.csv beside this trajectory")
                done[name] = LOG_OBSERVABLES[name](system)
            elif source.trajectory is None:
                raise InputError(f"{name}: {source.name} has no trajectory with frames")
            else:
                observers[name] = OBSERVERS[name](system, wishes)
    _stream(found, observers, wishes, asked)
    for name, observer in observers.items():
        if name not in found.missing:
            with _kept(found, name, asked):
                done[name] = observer.result()
    found.results = [done[name] for name in names if name in done]
    return found


def _chosen(source: Source, kind: str, molecules, wishes: Wishes) -> list[str]:
    names = fitting(source, kind, molecules)
    extra = []
    if wishes.charges or wishes.dipoles:
        extra += ["ir", "dielectric"] if source.start_box is not None else ["ir"]
    if wishes.rdf:
        extra.append("rdf")
    if wishes.torsions:
        extra.append("torsions")
    return names + [name for name in extra if name not in names]


class _kept:
    """Turns an InputError into an entry of `missing`, for what nobody asked for by name."""

    def __init__(self, analysis: Analysis, name: str, asked: bool) -> None:
        self._analysis, self._name, self._asked = analysis, name, asked

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> bool:
        if self._asked or not isinstance(error, InputError):
            return False
        self._analysis.missing[self._name] = str(error)
        return True


def _last_time(source: Source, every: int) -> float | None:
    last = None
    for chunk in source.chunks(every=every):
        last = float(chunk.times[-1])
    return last


def _stream(found: Analysis, observers: dict[str, Observer], wishes: Wishes, asked: bool) -> None:
    """One pass over the frames for all that need positions, one over the velocities."""
    source = found.system.source
    plain = {name: observer for name, observer in observers.items() if not observer.velocities}
    fast = {name: observer for name, observer in observers.items() if observer.velocities}
    if source.trajectory is not None:
        shown, times = _Shown(found.system), _Times()
        for chunk in _with_progress(source.chunks(every=wishes.every), source, "frames", wishes.quiet):
            times.add(chunk)
            view = View(found.system, chunk)
            _feed(found, plain, view, asked)
            shown.add(view)
        found.num_frames, found.frame_step = times.count, times.step
        found.shown = shown.atoms
        found.frames, found.boxes, found.frame_times = shown.result()
        found.warnings += times.warnings()
    if fast:
        for chunk in _with_progress(source.chunks(velocities=True), source, "velocities", wishes.quiet):
            _feed(found, fast, View(found.system, chunk), asked)


def _feed(found: Analysis, observers: dict[str, Observer], view: View, asked: bool) -> None:
    inside = found.window.inside(view.times)
    if any(not observer.only_window for observer in observers.values()):
        _ = view.whole if found.system.source.topology.n_bonds else None
    part = view.within(inside) if inside.any() else None
    for name, observer in list(observers.items()):
        if name in found.missing:
            continue
        with _kept(found, name, asked):
            if not observer.only_window:
                observer.add(view)
            elif part is not None:
                observer.add(part)


class _Times:
    """Looks at the times and the frames themselves: are there doubles?"""

    def __init__(self) -> None:
        self.count, self._doubles, self._back = 0, 0, 0
        self._seen: set[int] = set()
        self._times: list[np.ndarray] = []

    def add(self, chunk: Chunk) -> None:
        self.count += len(chunk)
        self._times.append(chunk.times)
        for frame in chunk.positions:
            key = hash(frame.tobytes())
            self._doubles += key in self._seen
            self._seen.add(key)

    @property
    def step(self) -> float | None:
        times = np.concatenate(self._times) if self._times else np.zeros(0)
        return float(np.median(np.diff(times))) if len(times) > 1 else None

    def warnings(self) -> list[str]:
        said = []
        if self._doubles:
            said.append(
                f"{self._doubles} of {self.count} frames are in the trajectory twice, to the last bit: errors are too "
                "small, and the motion has stops; was something continued without cutting, or joined twice?"
            )
        times = np.concatenate(self._times) if self._times else np.zeros(0)
        back = int((np.diff(times) <= 0).sum())
        if back:
            said.append(f"the times of the frames go back, or stand still, {back} times")
        return said


def _atoms_to_show(system: System) -> np.ndarray:
    """All where they are few enough, else the solute, else as many whole molecules as there is room for."""
    if len(system.masses) <= SHOWN_ATOMS:
        return np.arange(len(system.masses))
    if len(system.solute) <= SHOWN_ATOMS:
        return system.solute
    ends = np.cumsum(np.bincount(system.molecules.index))
    last = max(1, int(np.searchsorted(ends, SHOWN_ATOMS, side="right")))
    return np.flatnonzero(system.molecules.index < last)[: 10 * SHOWN_ATOMS]


class _Shown:
    """Frames for the moving picture, evenly spaced, however many there are."""

    def __init__(self, system: System) -> None:
        self.atoms = _atoms_to_show(system)
        self._every, self._seen = 1, 0
        self._frames: list[np.ndarray] = []
        self._boxes: list[np.ndarray | None] = []
        self._times: list[float] = []

    def add(self, view: View) -> None:
        for f in range(len(view)):
            if self._seen % self._every == 0:
                self._frames.append(np.array(view.whole[f, self.atoms], dtype=np.float32))
                self._boxes.append(None if view.boxes is None else view.boxes[f])
                self._times.append(float(view.times[f]))
                if len(self._frames) == 2 * SHOWN_FRAMES:
                    self._frames, self._boxes, self._times = self._frames[::2], self._boxes[::2], self._times[::2]
                    self._every *= 2
            self._seen += 1

    def result(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        if not self._frames:
            return None, None, None
        chosen = np.unique(np.linspace(0, len(self._frames) - 1, min(SHOWN_FRAMES, len(self._frames))).astype(int))
        boxes = None if self._boxes[0] is None else np.array([self._boxes[k] for k in chosen])
        return np.array([self._frames[k] for k in chosen]), boxes, np.array(self._times)[chosen]


def _with_progress(chunks: Iterator[Chunk], source: Source, what: str, quiet: bool) -> Iterator[Chunk]:
    if quiet or not sys.stderr.isatty():
        yield from chunks
        return
    from tqdm import tqdm

    with tqdm(unit=f" {what}", desc=source.name, leave=False) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))
