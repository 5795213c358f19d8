"""The validation report: every integrator and barostat against theory.

    python -m validation --structure water.pdb --model model.model --report .

Runs what is not there yet, so that it can be interrupted; then writes docs/validation.md, its figures and
benchmarks/results/validation.json. About ten minutes of a quiet core, and as long again for the published model, whose
cases are left out without --structure and --model. Further replicas only enter the test of all deviations together.
"""

import argparse
import json
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import openmm
import torch

import mace_md
from mace_md.provenance import write_json
from validation.cases import Store, plan
from validation.models import rare_gas_model
from validation.report import write_report


def run_case(name: str, published: tuple[Path, Path] | None, store: Store, target: Path) -> None:
    """Make the checks of one case, print them, and write them as JSON."""
    case = next(case for case in plan(published) if case.name == name)
    start = time.process_time()
    found = case.make(store)
    record = {"integrator": case.integrator, "matter": case.matter, "checks": [asdict(check) for check in found]}
    seconds = time.process_time() - start
    lines = [f"{case.name}: {case.integrator}; {case.matter} ({seconds:.0f} s)"]
    for check in found:
        verdict = f"{check.sigma:+.2f} sigma" if check.sigma is not None else "ok" if check.passes else "FAILS"
        lines.append(f"    {check.quantity:48s} {check.found:44s} {check.expected:24s} {verdict}")
    print("\n".join(lines), flush=True)
    write_json(target, record)


def run_cases(names: list[str], published: tuple[Path, Path] | None, store: Store, folder: Path, jobs: int) -> None:
    """Those without a result in `folder`, in `jobs` processes; one that fails is reported, and the others go on."""
    wanted = [name for name in names if not (folder / f"{name}.json").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        running = [pool.submit(run_case, name, published, store, folder / f"{name}.json") for name in wanted]
    for name, done in zip(wanted, running, strict=True):
        if done.exception() is not None:
            print(f"{name}: {done.exception()!r}")


def results_in(folder: Path, names: list[str]) -> dict[str, dict]:
    """The cases of `names` that have a result."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def main() -> None:
    """Run the cases that have no result yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", type=Path, help="PDB file of the published model's cases")
    parser.add_argument("--model", type=Path, help="the published model")
    parser.add_argument("--output", type=Path, default=Path("validation-run"), help="folder of samples and results")
    parser.add_argument("--only", nargs="*", help="names of cases; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, one core each")
    parser.add_argument("--length", type=float, default=1.0, help="factor on the number of samples")
    parser.add_argument("--replicas", type=int, default=1, help="how often each case is run, every time with new seeds")
    parser.add_argument("--report", type=Path, help="root of a checkout to write the report into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    published = (options.structure, options.model) if options.structure and options.model else None
    names = [case.name for case in plan(published)]
    rare_gas_model()  # fitted before the processes part
    folders = [options.output] + [options.output / f"replica-{n}" for n in range(1, options.replicas)]
    for replica, folder in enumerate(folders):
        store = Store(options.output / "samples", options.length, replica)
        run_cases(options.only or names, published, store, folder, options.jobs)
    if options.report:
        results = results_in(options.output, names)
        versions = {"mace-md": mace_md.__version__, "openmm": openmm.version.version, "torch": torch.__version__,
                    "python": platform.python_version()}  # fmt: skip
        everything = {"versions": versions, "length": options.length, "not_run": [n for n in names if n not in results],
                      "cases": results, "replicas": [results_in(folder, names) for folder in folders[1:]]}  # fmt: skip
        write_report(options.report, everything, Store(options.output / "samples", options.length), published)


if __name__ == "__main__":
    main()
