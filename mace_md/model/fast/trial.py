"""A trial of the kernels for NVIDIA GPUs on the GPU of this machine, before anything depends on them.

A process of its own compiles them for this kind of model, compares them with the kernels of the CPU, and measures which
of their variants is the fastest for so many atoms; whatever goes wrong there ends only that process. The finding is
kept in the cache folder: it is made once for a GPU, a library and a shape of model.
"""

import hashlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mace_md import child
from mace_md.model.fast.packing import SMALL_SYSTEM, header_of, with_flags
from mace_md.ops.energy_forces import LIBRARY, energy_forces, load_library, new_state
from mace_md.units import NM_TO_ANGSTROM

_log = logging.getLogger(__name__)
Evaluate = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

SECONDS = 300  # then the process is ended
MOST_COMPARED, MOST_TIMED = 200, 20_000  # atoms
FEW_ATOMS = SMALL_SYSTEM  # up to this there is nothing to choose
PLAIN = {"fused_nodes": False, "shared_tables": False, "joined_groups": False}
WARM_UPS, TIMES = 3, 10
SPACING, JITTER = 2.15, 0.25  # A: the density of water, and no two atoms closer than 1.4 A
# Relative deviation from the kernels of the CPU that is rounding: of forces (rms) and of the energy.
LIMITS = {4: (5e-6, 1e-5), 8: (1e-10, 1e-10)}


_failed: dict[Path, "Trial"] = {}  # of this process: structures that come one after the other do not try again


class Trial(NamedTuple):
    """What was found."""

    passed: bool
    flags: dict[str, bool]  # of `with_flags`: the fastest variant
    text: str  # for people


def try_kernels(blob: Tensor, types: Tensor, periodic: bool, cache: Path, *, device: str = "cuda") -> Trial:
    """The trial for a packed model and the types of the particles, or what an earlier one found.

    blob, types : on the CPU, as `energy_forces` takes them. cache : a folder, which need not exist. Does
    not raise for what goes wrong in the trial.
    """
    most = header_of(blob)["small_system"]
    if len(types) > 4 * most or (types >= 0).sum() > most:  # as plan.cpp has it
        blob = with_flags(blob, small_system=0)  # few atoms are compared, but with the kernels that many have
    types = types[types >= 0]
    path = cache / "trials" / f"{_key(blob, len(types), periodic, device)}.json"
    if path in _failed:
        return _failed[path]
    try:
        return _finding(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _log.info("the kernels are compiled for this GPU and tried, once for this kind of model: up to a minute or two")
    lines, problem = _run_process(blob, types, periodic, device)
    trial = _finding(lines, problem)
    if not trial.passed:  # which may be an accident: the next process tries again
        _failed[path] = trial
    elif problem is None:
        _keep(path, lines)
    return trial


def results_of(blob: Tensor, types: Tensor, periodic: bool, device: str, evaluate: Evaluate) -> Iterator[dict]:
    """One result for each variant: flags, and either the deviation and the time of a call, or the error.

    The plainest comes first. The variants of the convolutions are tried with the better kernels at an atom.
    """
    compared, timed = _some(types, MOST_COMPARED), _some(types, MOST_TIMED)

    def result_of(flags: dict[str, bool]) -> dict:
        variant = with_flags(blob, **flags)
        try:
            forces, energy = _deviation(variant, compared, periodic, device, evaluate)
            result = {"forces": forces, "energy": energy}
            if _within_limits(blob, result):
                result["seconds"] = _seconds(variant, timed, periodic, device, evaluate)
        except RuntimeError as error:
            result = {"error": str(error).splitlines()[0][:300]}
        return {"flags": flags, "precision": int(header_of(blob)["precision"]), "atoms": len(timed), **result}

    results = [result_of(PLAIN)]
    yield results[0]
    if len(types) <= FEW_ATOMS:
        return
    results.append(result_of(PLAIN | {"fused_nodes": True}))
    yield results[1]
    better = min(results, key=lambda r: r.get("seconds", float("inf")))["flags"]
    for name in ("shared_tables", "joined_groups"):
        yield result_of(better | {name: True})


def _finding(results: list[dict], problem: str | None = None) -> Trial:
    good = [r for r in results if "seconds" in r]
    if not good:
        first = results[0] if results else {"error": "it found nothing"}
        text = problem or first.get("error")
        if text is None:
            text = f"relative to the kernels of the CPU, forces are off by {first['forces']:.0e}"
            text += f" and the energy by {first['energy']:.0e}"
        return Trial(False, {}, f"the native kernels failed their trial on this GPU: {text}")
    best = min(good, key=lambda r: r["seconds"])
    names = [name.replace("_", " ") for name, on in best["flags"].items() if on]
    text = f"tried on this GPU: forces within {best['forces']:.0e} of the CPU's"
    if len(results) > 1:
        times = ", ".join(f"{1e6 * r['seconds']:.0f}" for r in sorted(good, key=lambda r: r["seconds"]))
        text += f"; {' and '.join(names) or 'the plain ones'} are the fastest ({times} us, {best['atoms']} atoms)"
    if problem is not None:
        text += f"; of the others not all were tried: {problem}"
    return Trial(True, best["flags"], text)


def _within_limits(blob: Tensor, result: dict) -> bool:
    forces, energy = LIMITS[int(header_of(blob)["precision"])]
    return result["forces"] <= forces and result["energy"] <= energy


# --- in the process of the trial --------------------------------------------------------------------------------------


def _some(types: Tensor, most: int) -> Tensor:
    """At most so many of the types, from everywhere."""
    return types if len(types) <= most else types[torch.linspace(0, len(types) - 1, most).long()].contiguous()


def _structure(n_atoms: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions [n, 3] on a disturbed lattice, and the box [3, 3], nm."""
    side = max(1, round(n_atoms ** (1 / 3) + 0.499))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    jitter = np.random.default_rng(seed).uniform(-JITTER, JITTER, size=sites.shape)
    positions = (SPACING * sites + jitter) / NM_TO_ANGSTROM
    return torch.tensor(positions), torch.eye(3, dtype=torch.float64) * side * SPACING / NM_TO_ANGSTROM


def _deviation(blob: Tensor, types: Tensor, periodic: bool, device: str, evaluate: Evaluate) -> tuple[float, float]:
    """The largest relative deviation of forces (rms) and energy from the CPU's, as atoms and box move."""
    there, types_there, states = blob.to(device), types.to(device), [new_state(), new_state().to(device)]
    worst_forces = worst_energy = 0.0
    first, box = _structure(len(types), 0)
    other, _ = _structure(len(types), 1)  # so far away that the list is made anew
    steps = [(first, box), (first + 0.004, box), (other, box), (other * 1.02, box * 1.02), (first, box)]
    for positions, cell in steps:
        used = cell if periodic else None
        energy, forces, _ = energy_forces(positions, used, types, blob, states[0])
        found = evaluate(positions.to(device), None if used is None else used.to(device), types_there, there, states[1])
        difference = float((found[1].cpu() - forces).pow(2).mean().sqrt() / forces.pow(2).mean().sqrt().clamp_min(1.0))
        worst_forces = max(worst_forces, difference if difference == difference else float("inf"))
        difference = float((found[0].cpu() - energy).abs() / energy.abs().clamp_min(float(len(types))))
        worst_energy = max(worst_energy, difference if difference == difference else float("inf"))
    return worst_forces, worst_energy


def _seconds(blob: Tensor, types: Tensor, periodic: bool, device: str, evaluate: Evaluate) -> float:
    """Median time of a call; positions move a little before every one."""
    there, types_there, state = blob.to(device), types.to(device), new_state().to(device)
    positions, box = (tensor.to(device) for tensor in _structure(len(types), 0))
    used, seconds = box if periodic else None, []
    for step in range(WARM_UPS + TIMES):
        moved = positions + 1e-5 * step
        start = time.perf_counter()
        float(evaluate(moved, used, types_there, there, state)[0])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UPS:])


def main(file: str, device: str) -> None:
    """The process: writes a line for each result."""
    load_library()
    with np.load(file) as arrays:
        blob, types = torch.from_numpy(arrays["blob"]), torch.from_numpy(arrays["types"])
        periodic = bool(arrays["periodic"])
    with torch.no_grad():
        for result in results_of(blob, types, periodic, device, energy_forces):
            print(json.dumps(result), flush=True)


# --- around it --------------------------------------------------------------------------------------------------------


def _key(blob: Tensor, n_atoms: int, periodic: bool, device: str) -> str:
    header = header_of(blob)
    shape = {k: v for k, v in header.items() if k not in ("fingerprint", "fused_nodes", "shared_tables", "isa")}
    gpu = torch.cuda.get_device_name() + str(torch.cuda.get_device_capability()) if device == "cuda" else device
    size = max(n_atoms, 1).bit_length()  # within a factor of two
    text = repr((sorted(shape.items()), size, periodic, gpu, torch.version.cuda))
    return hashlib.sha256(LIBRARY.read_bytes() + text.encode()).hexdigest()[:32]


def _run_process(blob: Tensor, types: Tensor, periodic: bool, device: str) -> tuple[list[dict], str | None]:
    """The results, and what ended the process too early."""
    with tempfile.TemporaryFile() as file:  # which has no name, so that nothing is left whatever ends this process
        np.savez(file, blob=blob.numpy(), types=types.numpy(), periodic=periodic)
        file.flush()
        if device == "cuda" and torch.cuda.is_available():  # the one of this process, where there are several
            device = f"cuda:{torch.cuda.current_device()}"
        command = child.run_module("mace_md.model.fast.trial", child.path_of(file), device)
        problem, output, errors = None, "", ""
        try:
            done = child.finished(command, SECONDS, pass_fds=(file.fileno(),))
            output, errors = done.stdout, done.stderr
            if done.returncode < 0:
                problem = f"its process was ended by signal {-done.returncode}"
            elif done.returncode > 0:
                problem = (errors.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            problem = f"it did not end within {SECONDS} s"
        except OSError as error:
            problem = str(error)
    results = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    if problem is not None:
        _log.debug("trial of the kernels: %s\n%s", problem, errors)
    return results, problem


def _keep(path: Path, results: list[dict]) -> None:
    """A cache that cannot be written costs time only."""
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(results))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
