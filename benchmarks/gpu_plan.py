"""What gpu.py measures, and in which order: the numbers that decide come first, since the time may end early.

A question is answered by a worker (gpu_tasks.py) in a process of its own; workers are named after what they import.
Nothing here needs a GPU, torch or a peer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

WORKERS = {  # a process each, and what it times
    "mace-md": [
        "native", "native graph", "native rebuild", "pytorch", "native step", "native step, no graph", "pytorch step",
    ],
    "mace-torch": ["mace-torch"],
    "mace-torch cueq": ["mace-torch cueq"],
    "symmetrix-xl": ["symmetrix-xl", "symmetrix-xl capacity"],
    "openmm-ml": ["openmm-ml step"],
    "profile": [],  # the profiler stays in its process, and nothing is timed there
}  # fmt: skip
ATOMS = [33, 99, 999, 4998, 20001, 99999]
FEW = [99, 999, 20001]  # for the models that are not the first
STAGES = ["own", "tests", "peers", "rest", "training"]
LEAST = 3.0  # s; with less left, nothing new is begun


@dataclass(frozen=True)
class Question:
    """One thing to be measured: `task` is a function of gpu_tasks.TASKS."""

    stage: str
    worker: str
    task: str
    engine: str = ""
    model: str = ""
    atoms: int = 0
    limit: float = 40.0  # s, after which the worker is killed
    more: dict = field(default_factory=dict)  # further arguments of the task

    @property
    def label(self) -> dict:
        """What a result is a result of."""
        named = {"task": self.task, "engine": self.engine, "model": self.model, "atoms": self.atoms, **self.more}
        return {key: value for key, value in named.items() if value}

    def wire(self) -> dict:
        return asdict(self)


def worker_of(engine: str) -> str:
    return next(worker for worker, engines in WORKERS.items() if engine in engines)


def timings(stage: str, models: list[str], atoms: list[int], engines: list[str]) -> list[Question]:
    """Small boxes first, and engines in turns on each."""
    return [
        Question(
            stage, worker_of(engine), "time", engine, model, n, limit=(75.0 if stage == "peers" else 40.0) + n / 2500
        )
        for n in atoms
        for model in models
        for engine in engines
    ]


def profile(stage: str, model: str, n_atoms: int, engine: str = "native", **more) -> Question:
    worker = "profile" if engine == "native" else worker_of(engine)
    return Question(stage, worker, "kernels", engine, model, n_atoms, 60.0, more)


def questions(
    models: list[str], atoms: list[int] = ATOMS, few: list[int] = FEW, variants: Sequence[dict[str, bool]] = ()
) -> list[Question]:
    """All of them, in order. `models[0]` is the one whose numbers decide. variants: arguments of `pack`."""
    first, others = models[0], models[1:]
    own, everyone = WORKERS["mace-md"], [engine for names in WORKERS.values() for engine in names]
    peers = [engine for engine in everyone if engine not in own]
    native = ["native", "native graph", "native step"]
    few = [n for n in few if n in atoms] or atoms[-1:]
    box = 192 if len(atoms) > 1 else atoms[0]
    parity = [
        Question("own", "mace-md", "parity", "native", model, box, 60.0, {"dtype": dtype})
        for dtype in ("float32", "float64")
        for model in models
    ]
    return [
        Question("own", "mace-md", "peaks"),
        *parity[:1],
        *timings("own", [first], atoms, native),
        profile("own", first, few[-1]),
        profile("own", first, few[0]),
        *parity[1:],
        *timings("own", others, few, native),
        *(
            Question("own", "mace-md", "time", "native", first, n, more={"flags": variant})
            for n in few
            for variant in variants
        ),
        *timings("peers", [first], atoms, peers),
        *timings("peers", [first], few, ["pytorch", "pytorch step"]),
        *timings("peers", others, few, [engine for engine in peers if "capacity" not in engine]),
        Question("rest", "mace-md", "run", "mace-md run", "mace-md-small", few[0], 60.0),
        Question("rest", "mace-md", "nve", "", "mace-md-small", 765 if len(atoms) > 1 else atoms[0], 90.0),
        *timings("rest", [first], few, ["native rebuild", "native step, no graph"]),
        Question("rest", "mace-md", "largest", "native", first, 0, 90.0),
        *(profile("rest", first, few[-1], flags=variant) for variant in variants),
        *(profile("rest", model, few[-1]) for model in others),
        *timings("rest", [first], few, ["native graph"]),  # again: what two times of one thing differ by
        *(profile("rest", first, few[0], engine) for engine in peers if "step" not in engine),
    ]


class Clock:
    """The time that is left of a budget, s."""

    def __init__(self, seconds: float) -> None:
        self.start = time.monotonic()
        self.end = self.start + seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start

    def allowed(self, wanted: float) -> float:
        """At most `wanted`; 0 when too little is left to begin anything."""
        left = self.end - time.monotonic()
        return min(wanted, left) if left > LEAST else 0.0
