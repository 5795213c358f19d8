"""Everything that is to be known on an NVIDIA GPU, in one command of under ten minutes: tests, then measurements.

    python -m benchmarks.gpu --output gpu.json [--minutes 9] [--stages own tests peers rest training]
    python -m benchmarks.gpu --dry-run       the same with tiny sizes on a CPU, the native kernels on an emulated GPU

What decides comes first (gpu_report.py): the forces of the native kernels beside the plain float64 model, their calls
and steps at all sizes, the time of each kernel; then `pytest -m gpu`; then the peers; then energy conservation,
`mace-md run` itself, the largest box; last, training. Every engine is a process of its own with a time limit; a peer
that is not installed, dies, hangs or runs out of memory is a line of the report. Results are written after each one, so
that a command that is cut off loses nothing, and are judged by gpu_report.py. No setting of the GPU is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import gpu_report
from benchmarks.cpu import MODELS, operations

ROOT = Path(__file__).resolve().parent.parent
TINY = {"tiny": {"channels": 16, "max_L": 0, "r_max": 4.5}}
ORDER = ["off medium", "mp-0 medium", "off small"]
TESTS_S = 180.0
# Which kernels a system gets depends on its size; what `pack` takes to make those of small, middle and large systems.
SMALL, MIDDLE, LARGE = {}, {"small_system": 0}, {"small_system": 0, "fused_nodes": True}
TOGETHER = [("tensor_cores", "fused_nodes"), ("tensor_cores", "fused_nodes", "fast_sums")]  # flags
STATE = ["name", "driver_version", "compute_cap", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.mem",
         "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active"]  # fmt: skip
GIVE_UP = 3  # failures in a row, after which an engine is not asked again


# --- the processes that are asked ------------------------------------------------------------------------------------


def last_line(path: Path) -> str:
    """What a process said last on its standard error."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


class Worker:
    """One process of gpu_tasks.py, or of `command`; `ask` gives its answer, whatever happens to the process."""

    def __init__(self, name: str, device: str, models: Path, command: list[str] | None = None) -> None:
        words = ["-m", "benchmarks.gpu_tasks", name, device, str(models)]
        self.command = command or [sys.executable, "-W", "ignore", *words]
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        handle, name = tempfile.mkstemp(prefix="mace-md-gpu-", suffix=".log")
        self.log = Path(name)
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4.4 does not import without
        with os.fdopen(handle, "w") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
                start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        self.lines: queue.Queue = queue.Queue()
        threading.Thread(target=_listen, args=(self.process.stdout, self.lines), daemon=True).start()

    def ask(self, question: dict, limit: float) -> dict:
        """The answer within `limit` s; otherwise {"error", "kind"}: what the worker says, "died" or "time"."""
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=limit)
        except queue.Empty:
            said = last_line(self.log)
            self.stop()
            return {"error": f"no answer within {limit:.0f} s; last: {said}", "kind": "time"}
        except OSError:  # it was dead already
            line = None
        if line is None:
            return self._died()
        answer = json.loads(line)
        if "error" in answer:
            self.stop()
        return answer

    def _died(self) -> dict:
        said, code = last_line(self.log), self.process.wait()
        self.stop()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        return {"error": f"the process died ({how}): {said}", "kind": "died"}

    def stop(self) -> None:
        """End the process and whatever it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process = None
        self.log.unlink(missing_ok=True)


def _listen(stream, lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


class Workers:
    """All of them by name, and what is not worth asking again."""

    def __init__(self, workers: dict[str, Worker]) -> None:
        self._all = workers
        self._too_large: dict[tuple[str, str], int] = {}
        self._answers: dict[tuple[str, str], dict] = {}
        self._missing: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def ask(self, question, limit: float) -> dict:
        """As `Worker.ask`. Not asked: an engine that is missing or failed GIVE_UP times in a row, and boxes no smaller
        than one that had no memory, or no answer in time."""
        engine = " ".join([question.engine or question.task, *question.more.get("flags", {})])
        too_large = (engine, question.model)
        if engine in self._missing:
            return {"error": self._missing[engine], "kind": "missing"}
        if self._failures.get(engine, 0) >= GIVE_UP:
            return {"error": f"given up after {GIVE_UP} failures in a row", "kind": "failed"}
        if question.atoms and question.atoms >= self._too_large.get(too_large, question.atoms + 1):
            return dict(self._answers[too_large])
        answer = self._all[question.worker].ask(question.wire(), limit)
        kind = answer.get("kind")
        if kind in ("memory", "time") and question.atoms and question.task == "time":
            self._too_large[too_large] = question.atoms
            self._answers[too_large] = {"error": f"as with {question.atoms} atoms: {answer['error']}", "kind": kind}
        if kind == "missing":
            self._missing[engine] = answer["error"]
        elif kind != "memory":
            self._failures[engine] = self._failures.get(engine, 0) + 1 if kind else 0
        return answer

    def stop(self) -> None:
        for one in self._all.values():
            one.stop()


# --- the machine ------------------------------------------------------------------------------------------------------


def gpu_state() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; nothing is set."""
    command = ["nvidia-smi", f"--query-gpu={','.join(STATE)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(STATE):
        return {"error": (done.stderr or done.stdout).strip()[:200]}
    return dict(zip(STATE, values, strict=True))


def architecture_here() -> int:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


class Sampler:
    """Clock (MHz), power (W) and temperature of the GPU once a second, as quartiles, from nvidia-smi's own loop."""

    QUERY = ["clocks.sm", "power.draw", "temperature.gpu"]

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115 (nvidia-smi writes to it until `summary`)
        command = ["nvidia-smi", f"--query-gpu={','.join(self.QUERY)}", "--format=csv,noheader,nounits", "-lms", "1000"]
        try:
            self.process = subprocess.Popen([*command, "--id=0"], stdout=self.file, stderr=subprocess.DEVNULL)
        except OSError:
            self.process = None

    def summary(self) -> dict[str, list[float]]:
        if self.process is None:
            return {}
        self.process.terminate()
        self.process.wait()
        self.file.seek(0)
        return quartiles_of(self.file.read(), self.QUERY)


def quartiles_of(text: str, names: list[str]) -> dict[str, list[float]]:
    """Lowest, quartiles and highest of each column of comma-separated numbers; lines that are none are left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = [float(value) for value in line.split(",")]
        except ValueError:
            continue
        if len(row) == len(names):
            rows.append(row)
    if len(rows) < 2:
        return {}
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name: [min(c), *statistics.quantiles(c, n=4), max(c)] for name, c in columns}


# --- before anything is timed -----------------------------------------------------------------------------------------


def make_models(folder: Path, shapes: dict) -> dict[str, str]:
    """Files that every engine reads, where mace-torch is there to write them; else ours, which only we read."""
    import torch

    files = {}
    for name, shape in shapes.items():
        path = folder / f"{name}.model"
        try:
            from benchmarks.oracle import make_model

            torch.set_default_dtype(torch.float32)
            torch.save(make_model(elements=(1, 8), scale=50.0, **shape), path)
        except ImportError:
            from mace_md.model.build import build_model
            from mace_md.model.hyperparameters import ModelConfig
            from mace_md.model.reading.checkpoint import save_model

            own = {"num_channels": shape["channels"], "max_L": shape["max_L"], "r_max": shape["r_max"]}
            if "blocks" in shape:
                own["interactions"] = shape["blocks"]
            config = ModelConfig(atomic_numbers=(1, 8), avg_num_neighbors=(30.0, 30.0), **own)
            path = save_model(build_model(config, seed=0), folder / f"{name}.mace")
        files[name] = str(path)
    return files


COMPILE = """
import ctypes, sys
sys.path.insert(0, {root!r})
import torch
from benchmarks import gpu_tasks
question = {{"model": {model!r}, "atoms": 24, "more": {{"flags": {flags!r}}}}}
bench = gpu_tasks.Bench(question, "cpu", {{}})
gpu_tasks.Emulated = lambda potential: potential
blob = gpu_tasks.own_potential(bench, dtype=torch.{dtype}, flags=bench.flags).blob
from mace_md.ops.energy_forces import LIBRARY
message = ctypes.create_string_buffer(4000)
arguments = ctypes.c_void_p(blob.data_ptr()), ctypes.c_int64(blob.numel()), {architecture}
if not ctypes.CDLL(str(LIBRARY)).mace_md_compile_kernels(*arguments, message, ctypes.c_int64(4000)):
    sys.exit(" ".join(message.value.decode().split())[:300])
"""


def variants_of_pack() -> list[dict[str, bool]]:
    """Every flag of the CUDA kernels, other than usual: the other way round, both ways where that depends, and 0 for a
    number; and TOGETHER."""
    import inspect

    from mace_md.model.fast.packing import CUDA_FLAGS, pack

    usual = {flag: inspect.signature(pack).parameters[flag].default for flag in CUDA_FLAGS}
    others = {None: [True, False], True: [False], False: [True]}
    alone = [
        {flag: value}
        for flag in CUDA_FLAGS
        for value in (others[usual[flag]] if usual[flag] in (None, True, False) else [0])
    ]
    return alone + [dict.fromkeys(flags, True) for flags in TOGETHER if set(flags) <= set(CUDA_FLAGS)]


def compile_kernels(files: dict[str, str], variants: list[dict], architecture: int, limit: float) -> dict[str, str]:
    """Machine code of all models and variants into the cache, on all cores at once; what did not compile, and why."""
    first = next(iter(files))
    jobs = [(model, "float32", size) for model in files for size in (SMALL, MIDDLE, LARGE)]
    jobs += [(model, "float64", SMALL) for model in files]
    jobs += [(first, "float32", size | variant) for variant in variants for size in (SMALL, LARGE)]
    jobs = [job for i, job in enumerate(jobs) if job not in jobs[:i]]

    def job(model: str, dtype: str, variant: dict) -> str:
        code = COMPILE.format(root=str(ROOT), model=files[model], flags=variant, dtype=dtype,
                              architecture=architecture)  # fmt: skip
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                                  timeout=limit, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not done in {limit:.0f} s"
        return (done.stderr.strip() or "no message").splitlines()[-1][:300] if done.returncode else ""

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as pool:
        found = list(pool.map(lambda one: job(*one), jobs))
    names = [f"{model} {dtype} {variant or ''}" for model, dtype, variant in jobs]
    return {name: error for name, error in zip(names, found, strict=True) if error}


def doctor(limit: float) -> list | dict:
    command = [sys.executable, "-m", "mace_md", "doctor", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return {"error": str(error)[:300]}


# --- stages -----------------------------------------------------------------------------------------------------------


def gpu_tests(limit: float, selection: tuple[str, ...] = ("-m", "gpu", "tests/gpu", "tests/ops")) -> dict:
    """What passed and failed, and the end of pytest's output; of what was done when the time was over, if it was."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", *selection]
    if importlib.util.find_spec("xdist") is not None:  # most of the time is compilation, on one core each
        command += ["-n", str(max(1, min(8, (os.cpu_count() or 2) // 2)))]
    clock = gpu_report.Clock(limit)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with open(log, "w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code: int | str = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the processes of xdist, too
                process.wait()
                code = f"stopped after {limit:.0f} s"
        text = log.read_text(errors="replace")
        return {"exit": code, "seconds": clock.spent, **summary_of(text), "end": text[-60_000:], "last": last_line(log)}


def summary_of(text: str) -> dict:
    """How many tests passed, failed and were skipped in the output of `pytest -v`, and which failed."""
    words = {"passed": "PASSED", "failed": "FAILED", "errors": "ERROR", "skipped": "SKIPPED"}
    lines = [line for line in text.splitlines() if "::" in line]
    progress = [line for line in lines if not line.startswith(tuple(words.values()))]  # not the summary at the end
    counts = {key: sum(f" {word}" in line or f"] {word}" in line for line in progress) for key, word in words.items()}
    failed = [line for line in progress if " FAILED" in line or " ERROR" in line]
    names = sorted({next(part for part in line.split() if "::" in part) for line in failed})
    return {**counts, "which": names}


def training(data: Path, limit: float) -> dict:
    """Structures per second in training, beside mace-torch (train_throughput.py)."""
    if not data.exists():
        return {"error": f"no data for training in {data} (--data)"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "training.json"
        script = str(ROOT / "benchmarks" / "train_throughput.py")
        command = [sys.executable, script, "--epochs", "3", "--data", str(data)]
        environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ  # or the peer takes the CPU
        try:
            done = subprocess.run(
                [*command, "--output", str(output)], env=environment, timeout=limit, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            error = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            error = ["no time left"]
        found = json.loads(output.read_text()) if output.exists() else {}
    return found | ({"error": error[0][:300]} if error else {})


class Run:
    """The record of one command, written after everything that is added."""

    def __init__(self, output: Path | None, clock: gpu_report.Clock) -> None:
        self.output, self.clock = output, clock
        self.record: dict = {"results": []}

    def note(self, **more) -> None:
        from mace_md.provenance import write_json

        self.record |= more
        if self.output is not None:
            write_json(self.output, self.record)

    def add(self, result: dict, shape: dict | None = None) -> None:
        if result["task"] == "peaks":
            self.record["peaks"] = result
        rate = self.record.get("peaks", {}).get("fma_per_s") or self.record.get("peaks", {}).get("sgemm_fma_per_s")
        if rate and shape and result["task"] == "time" and "us" in result and "step" not in result["engine"]:
            result["of_peak"] = operations(shape) * result["atoms"] / (1e-6 * result["us"]) / rate
        self.record["results"].append(result)
        self.note()
        print(f"{self.clock.spent:5.0f} s  {gpu_report.line(result)}", flush=True)


def ask_all(run: Run, asked: list[gpu_report.Question], workers: Workers, shapes: dict) -> None:
    for question in asked:
        limit = run.clock.allowed(question.limit)
        answer = workers.ask(question, limit) if limit else {"error": "no time left", "kind": "time"}
        run.add({**question.label, **answer}, shapes.get(question.model))


def measure(arguments: argparse.Namespace, run: Run, folder: Path) -> None:
    from mace_md.model.reading.zoo import fetch, find_model

    dry, device = arguments.dry_run, "cpu" if arguments.dry_run else "cuda"
    shapes = TINY if dry else {name: MODELS[name] for name in ORDER}
    files = make_models(folder, shapes)
    models_file = folder / "models.json"
    models_file.write_text(json.dumps(files | {"mace-md-small": str(fetch(find_model("mace-md-small")))}))
    variants, most = variants_of_pack(), 1 if dry else None
    ours = ("mace-md", "profile")
    names = [name for name in gpu_report.WORKERS if name in ours or {"peers", "rest"} & set(arguments.stages)]
    workers = Workers({name: Worker(name, device, models_file) for name in names})
    try:
        architecture = 90 if dry else architecture_here()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(doctor, 60.0)
            run.note(not_compiled=compile_kernels(files, variants[:most], architecture, run.clock.allowed(90.0)))
            run.note(doctor=found.result())
        print(f"{run.clock.spent:5.0f} s  compiled; not: {run.record['not_compiled'] or 'none'}", flush=True)
        atoms = [24] if dry else arguments.atoms
        asked = gpu_report.questions(list(shapes), atoms, variants=variants)
        if "own" not in arguments.stages:  # what times are compared with
            ask_all(run, [q for q in asked if q.task == "peaks"], workers, shapes)
        for stage in arguments.stages:
            if stage == "tests" and not dry:
                run.note(tests=gpu_tests(min(TESTS_S, run.clock.allowed(TESTS_S))))
                print(json.dumps({k: v for k, v in run.record["tests"].items() if k != "end"}, indent=1), flush=True)
            elif stage == "training" and not dry:
                left = run.clock.allowed(120.0)
                run.note(training=training(arguments.data, left) if left else {"error": "no time left"})
                print(json.dumps(run.record["training"], indent=1), flush=True)
            else:
                ask_all(run, [q for q in asked if q.stage == stage], workers, shapes)
    finally:
        workers.stop()


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all of it; what is left out is reported")
    parser.add_argument("--atoms", type=int, nargs="+", default=gpu_report.ATOMS)
    parser.add_argument("--stages", nargs="+", default=gpu_report.STAGES, choices=gpu_report.STAGES)
    parser.add_argument("--data", type=Path, default=ROOT / "shared" / "data", help="for training")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU: shows that the script works")
    parser.add_argument("--output", type=Path, help="JSON file, written after every result")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    arguments = options(words)
    run = Run(arguments.output, gpu_report.Clock(60 * arguments.minutes))
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import torch

    from mace_md.provenance import collect_provenance

    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here (`mace-md doctor` says why); --dry-run tries the script on a CPU")
    about = collect_provenance()
    machine = {key: value for key, value in about["device"].items() if key != "host"}
    run.note(created=about["created"], commit=commit(), versions=about["versions"], peers=peer_versions())
    run.note(device=machine, gpu=gpu_state())
    sampler = Sampler()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, run, Path(folder))
    goals = gpu_report.verdict(run.record["results"])
    run.note(sampled=sampler.summary(), gpu_after=gpu_state(), verdict=goals, seconds=run.clock.spent)
    print("\n".join(["", *gpu_report.report(run.record["results"])]))


def commit() -> str:
    """Of the checkout, with a mark when there are changes; empty where there is no git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def peer_versions() -> dict[str, str]:
    from mace_md.provenance import version_of

    names = ["mace-torch", "e3nn", "cuequivariance-torch", "cuequivariance-ops-torch-cu13", "openmmml", "symmetrix-xl",
             "symmetrix-xl-cuda13-sm90", "openmm-cuda-13", "triton"]  # fmt: skip
    return {name: version for name in names if (version := version_of(name)) is not None}


if __name__ == "__main__":
    main()
