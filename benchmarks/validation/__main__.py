"""The validation report: every integrator and barostat against theory.

    python -m benchmarks.validation --structure water.pdb --model model.model

Runs what is not there yet, so that it can be interrupted; then writes docs/validation.md, its figures and
benchmarks/results/validation.json. About ten minutes on one core. Without --structure and --model the cases of a
published model are left out.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import openmm
import torch

import mace_md
from benchmarks.validation.cases import Case, Store, plan
from benchmarks.validation.report import write_report


def run_case(case: Case, store: Store) -> dict:
    """The checks of a case as plain data, printed as they come."""
    start = time.process_time()
    found = case.make(store)
    record = {"integrator": case.integrator, "matter": case.matter, "checks": [asdict(check) for check in found]}
    record["cpu_seconds"] = round(time.process_time() - start, 1)
    print(f"{case.name}: {case.integrator}; {case.matter} ({record['cpu_seconds']} s)")
    for check in found:
        verdict = f"{check.sigma:+.2f} sigma" if check.sigma is not None else "ok" if check.passes else "FAILS"
        print(f"    {check.quantity:52s} {check.found:48s} {check.expected:24s} {verdict}", flush=True)
    return record


def main() -> None:
    """Run the cases that have no result yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", type=Path, help="PDB file of the published model's cases")
    parser.add_argument("--model", type=Path, help="the published model")
    parser.add_argument("--output", type=Path, default=Path("validation-run"), help="folder of samples and results")
    parser.add_argument("--only", nargs="*", help="names of cases; all by default")
    parser.add_argument("--length", type=float, default=1.0, help="factor on the number of samples")
    parser.add_argument("--report", type=Path, help="root of a checkout to write the report into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(options.output / "samples", options.length)
    published = (options.structure, options.model) if options.structure and options.model else None
    for case in plan(published):
        path = options.output / f"{case.name}.json"
        if path.exists() or (options.only and case.name not in options.only):
            continue
        record = run_case(case, store)
        path.write_text(json.dumps(record, indent=1, default=bool) + "\n")
    names = [case.name for case in plan(published)]
    paths = {name: options.output / f"{name}.json" for name in names}
    results = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    versions = {"mace-md": mace_md.__version__, "openmm": openmm.version.version, "torch": torch.__version__,
                "python": platform.python_version()}  # fmt: skip
    if options.report:
        write_report(
            options.report, {"versions": versions, "length": options.length, "cases": results}, store, published
        )


if __name__ == "__main__":
    main()
