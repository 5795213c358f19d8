"""What gpu.py asks, in which order, and what the answers mean: a line for each, the table of kernels, the verdict.

    python -m benchmarks.gpu_report RESULTS.json ...      of several runs together

The numbers that decide come first, since the time may end early. A question is answered by a worker (gpu_tasks.py) in a
process of its own; workers are named after what they import. Nothing here needs a GPU, torch or a peer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

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


# --- what the answers mean ---------------------------------------------------------------------------------------

OFF, MP = "off medium", "mp-0 medium"
PEERS = ["symmetrix-xl", "mace-torch cueq"]
# us per atom above 5,000 atoms, of a call; the second is where the second version of the kernels is to arrive.
PER_ATOM = [(OFF, 1.2), (OFF, 0.6), (MP, 0.9)]
LARGE = 5000
STEP_US, FORCE_US, SMALL = 300.0, 150.0, 99  # a step and a force of 100 atoms
FLOAT32_RMS, FLOAT64_MAX = 5e-6, 1e-8  # relative; eV/A
MOST_KERNELS = 24  # of a table


def line(result: dict) -> str:
    """One result, for the terminal."""
    what = f"{result['task']:8s}{result.get('model', ''):14s}{result.get('atoms', 0) or '':>7} "
    flags = f" {variant_of(result)}".rstrip()
    what += f"{result.get('engine', '') + flags:34s}"
    if "error" in result:
        return f"{what} {result['error'][:110]}"
    if result["task"] == "time":
        low, high = result["quartiles_us"]
        text = f"{result['us']:11.1f} us ({low:.1f} to {high:.1f})  {result['us'] / result['atoms']:8.3f} us/atom"
        if result.get("of_peak"):
            text += f"  {100 * result['of_peak']:5.1f} % of peak"
        return f"{what} {text}  {result.get('memory_mb', 0):7.0f} MB"
    if result["task"] == "kernels":
        return "\n".join([what, *kernel_table(result)])
    if result["task"] == "nve":
        return "\n".join([what, *(drift_line(one) for one in result["runs"])])
    shown = {key: value for key, value in result.items() if key not in ("task", "model", "atoms", "engine", "flags")}
    return what + "  ".join(f"{key} {_short(value)}" for key, value in shown.items())


def variant_of(result: dict) -> str:
    """What is other than usual in the kernels: "fast_sums", "no fast_sums"."""
    return " ".join(name if value is True else f"no {name}" for name, value in result.get("flags", {}).items())


def drift_line(one: dict) -> str:
    return (
        f"    {one['kernels']:10s}{one['dtype']:8s} {one['picoseconds']:5.2f} ps  "
        f"{one['drift_meV_per_atom_per_ps']:10.2g} meV/atom/ps  halves {one['halves'][0]:.2g}, {one['halves'][1]:.2g}  "
        f"fluctuation {one['fluctuation_meV_per_atom']:.2g} meV/atom  {one['ms_per_step']:.2f} ms/step"
    )


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def kernel_table(result: dict) -> list[str]:
    """The kernels of one evaluation by their time, and what is left of the call."""
    rows = [f"    {'kernel':44s} {'calls':>6} {'us':>9} {'part':>6}"]
    total = sum(kernel["us"] for kernel in result["kernels"])
    for kernel in sorted(result["kernels"], key=lambda kernel: -kernel["us"])[:MOST_KERNELS]:
        part = 100 * kernel["us"] / total if total else 0.0
        rows.append(f"    {kernel['name'][:44]:44s} {kernel['calls']:6.1f} {kernel['us']:9.2f} {part:5.1f} %")
    count = sum(kernel["calls"] for kernel in result["kernels"])
    rows.append(
        f"    {count:.0f} kernels and copies, {result['launches']:.0f} launches: {total:.1f} us of a call of "
        f"{result['call_us']:.1f} us"
    )
    return rows


# --- the verdict ------------------------------------------------------------------------------------------------------


def verdict(results: list[dict]) -> list[dict]:
    """Every goal: what it is, what was found, and whether it is met (None: not measured)."""
    return [
        *_parity(results),
        _drift(results),
        *(_per_atom(results, model, goal) for model, goal in PER_ATOM),
        _latency(results, ["native graph", "native"], FORCE_US, "a force"),
        _latency(results, ["native step"], STEP_US, "a step"),
        *(_ahead(results, peer) for peer in PEERS),
    ]


def _goal(goal: str, found: str, met: bool | None) -> dict:
    return {"goal": goal, "found": found, "met": met}


def _good(results: list[dict], task: str, **wanted) -> list[dict]:
    chosen = [r for r in results if r["task"] == task and "error" not in r and not r.get("flags")]
    return [r for r in chosen if all(r.get(key) == value for key, value in wanted.items())]


def _parity(results: list[dict]) -> list[dict]:
    goals = []
    for dtype, key, limit, unit in (
        ("float32", "rms_relative", FLOAT32_RMS, "rms, relative"),
        ("float64", "largest", FLOAT64_MAX, "eV/A"),
    ):
        found = _good(results, "parity", dtype=dtype)
        failed = [r for r in results if r["task"] == "parity" and "error" in r and r.get("dtype") == dtype]
        text = "; ".join(f"{r['model']} {r[key]:.2g}" for r in found) or "not measured"
        text += "".join(f"; {r['model']}: {r['error'][:60]}" for r in failed)
        met = None if not found and not failed else not failed and all(r[key] <= limit for r in found)
        goals.append(_goal(f"forces in {dtype} within {limit:.0e} ({unit}) of the plain float64 model", text, met))
    return goals


def _drift(results: list[dict]) -> dict:
    """Over the same picoseconds from the same state: a drift is known to what the halves of a run differ by."""
    goal = "drift of the energy in NVE no larger than the plain float64 model's (meV/atom/ps)"
    found = _good(results, "nve")
    if not found:
        return _goal(goal, "not measured", None)
    key, texts, met = "drift_meV_per_atom_per_ps", [], True
    for picoseconds in found[-1]["lengths_ps"]:
        runs = {(r["kernels"], r["dtype"]): r for r in found[-1]["runs"] if r["picoseconds"] == picoseconds}
        # Over the longer time the native kernels in float64 stand in for the plain model, which they are to 1e-8 eV/A.
        ours, other = runs["native", "float32"], runs.get(("reference", "float64"), runs["native", "float64"])
        spread = max(abs(run["halves"][0] - run["halves"][1]) for run in (ours, other))
        met = met and abs(ours[key]) <= abs(other[key]) + spread
        name = "plain" if other["kernels"] == "reference" else "native float64"
        texts.append(f"{ours[key]:.2g} over {picoseconds} ps ({name} {other[key]:.2g}; known to {spread:.1g})")
    return _goal(goal, "; ".join(texts), met)


def _per_atom(results: list[dict], model: str, limit: float) -> dict:
    goal = f"{model}: at most {limit} us/atom above {LARGE} atoms"
    best: dict[int, float] = {}
    for r in _good(results, "time", model=model):
        if r["engine"] in ("native", "native graph") and r["atoms"] > LARGE:
            best[r["atoms"]] = min(r["us"] / r["atoms"], best.get(r["atoms"], float("inf")))
    if not best:
        return _goal(goal, "not measured", None)
    text = ", ".join(f"{value:.2f} at {n}" for n, value in sorted(best.items()))
    return _goal(goal, text, max(best.values()) <= limit)


def _latency(results: list[dict], engines: list[str], limit: float, what: str) -> dict:
    goal = f"{OFF}, {SMALL} atoms: {what} in at most {limit:.0f} us"
    found = [r for r in _good(results, "time", model=OFF, atoms=SMALL) if r["engine"] in engines]
    if not found:
        return _goal(goal, "not measured", None)
    best = min(found, key=lambda r: r["us"])
    return _goal(goal, f"{best['us']:.0f} us ({best['engine']})", best["us"] <= limit)


def _ahead(results: list[dict], peer: str) -> dict:
    """At every model and size where both were measured, or where the peer ran out of memory."""
    ratios, behind = [], []
    for theirs in _good(results, "time"):
        if not theirs["engine"].startswith(peer):
            continue
        same = _good(results, "time", model=theirs["model"], atoms=theirs["atoms"])
        ours = [r["us"] for r in same if r["engine"] in ("native", "native graph")]
        if ours:
            ratios.append(theirs["us"] / min(ours))
            if ratios[-1] <= 1.0:
                behind.append(f"{theirs['model']} {theirs['atoms']}: {ratios[-1]:.2f}")
    goal = f"ahead of {peer} at every size"
    if not ratios:
        return _goal(goal, "not measured", None)
    text = f"{min(ratios):.1f} to {max(ratios):.1f} times as fast, {len(ratios)} comparisons"
    return _goal(goal, text + (f"; behind at {', '.join(behind)}" if behind else ""), not behind)


def verdict_lines(goals: list[dict]) -> list[str]:
    words = {True: "met", False: "MISSED", None: "-"}
    return [f"{words[goal['met']]:>6}  {goal['goal']}: {goal['found']}" for goal in goals]


# --- one line a size, for a page --------------------------------------------------------------------------------------


def table(results: list[dict], model: str) -> list[str]:
    """Markdown: microseconds of a call or step, median; a row for each engine, a column for each size."""
    chosen = [r for r in results if r["task"] == "time" and r.get("model") == model and not r.get("flags")]
    sizes = sorted({r["atoms"] for r in chosen})
    rows = [f"| {model}, us | " + " | ".join(f"{n}" for n in sizes) + " |", "|---|" + "---|" * len(sizes)]
    for engine in dict.fromkeys(r["engine"] for r in chosen):
        cells = []
        for n in sizes:
            found = [r for r in chosen if r["engine"] == engine and r["atoms"] == n]
            times = [r["us"] for r in found if "us" in r]
            error = found[0].get("kind", "failed") if found else ""
            cells.append(f"{min(times):.0f}" if times else error)
        rows.append(f"| {engine} | " + " | ".join(cells) + " |")
    return rows


def variants(results: list[dict]) -> list[str]:
    """Each variant of the kernels beside the usual ones: its part of their time, at each size."""
    lines = []
    for r in results:
        if r["task"] == "time" and r.get("flags"):
            usual = _good(results, "time", model=r["model"], atoms=r["atoms"], engine=r["engine"])
            if usual and "us" in r:
                part = f"{r['us'] / min(one['us'] for one in usual):.3f} of the usual time"
            else:
                part = r.get("error", "nothing to compare with")[:80]
            lines.append(f"variant {variant_of(r)}: {r['model']}, {r['atoms']} atoms: {part}")
    return lines


def report(results: list[dict]) -> list[str]:
    """Tables, variants and verdict of all results."""
    models = dict.fromkeys(r["model"] for r in results if r["task"] == "time" and r.get("model"))
    lines: list[str] = []
    for model in models:
        lines += [*table(results, model), ""]
    return lines + variants(results) + verdict_lines(verdict(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="what gpu.py wrote")
    results = [r for file in parser.parse_args().files for r in json.loads(file.read_text())["results"]]
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
