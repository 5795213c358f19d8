"""Fuzz every reader of the package with 100,000 and more inputs; writes benchmarks/results/fuzz.json.

    python benchmarks/fuzz.py [--share 1.0] [--seed 1] [--output FILE]

Each batch runs in a process of its own, so that one that dies is seen and counted, with the number of its input.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "fuzz"))
BATCH = 20_000  # inputs
RESULT = HERE / "results" / "fuzz.json"


def child(name: str, seed: int, first: int, count: int) -> None:
    """Run one batch and print what became of it."""
    import readers

    with tempfile.TemporaryDirectory() as folder:
        target = readers.targets(Path(folder))[name]
        outcome = readers.run(target, seed, count, first)
    print(json.dumps(vars(outcome)))


def batches(name: str, count: int, seed: int) -> dict:
    """All inputs of one target."""
    total = {"inputs": 0, "outcomes": Counter(), "defects": [], "seconds": 0.0, "slowest_s": 0.0, "memory_mb": 0.0}
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        words = [sys.executable, __file__, "--child", name, "--seed", str(seed), "--batch", f"{first},{size}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            defect = {"batch": [first, size], "outcome": f"exit {done.returncode}", "where": done.stderr[-500:]}
            total["defects"].append(defect)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        total["inputs"] += found["inputs"]
        total["outcomes"].update(found["classes"])
        total["defects"] += found["defects"]
        total["seconds"] = round(total["seconds"] + found["seconds"], 2)
        total["slowest_s"] = round(max(total["slowest_s"], found["slowest"]), 3)
        total["memory_mb"] = round(max(total["memory_mb"], found["memory_mb"]), 1)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one target")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--child")
    parser.add_argument("--batch")
    arguments = parser.parse_args()
    if arguments.child:
        first, count = map(int, arguments.batch.split(","))
        child(arguments.child, arguments.seed, first, count)
        return 0
    import readers

    with tempfile.TemporaryDirectory() as folder:
        counts = {name: target.count for name, target in readers.targets(Path(folder)).items()}
    results = {}
    for name, count in counts.items():
        if arguments.only in (None, name):
            results[name] = batches(name, max(int(count * arguments.share), 1), arguments.seed)
            print(
                name, json.dumps({key: value for key, value in results[name].items() if key != "defects"}), flush=True
            )
            for defect in results[name]["defects"][:3]:
                print(json.dumps(defect, indent=1).replace("\\n", "\n"), flush=True)
    inputs = sum(result["inputs"] for result in results.values())
    defects = sum(len(result["defects"]) for result in results.values())
    seconds = round(sum(result["seconds"] for result in results.values()), 1)
    record = {"inputs": inputs, "defects": defects, "seconds": seconds, "seed": arguments.seed, "targets": results}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{inputs} inputs, {defects} defects, {seconds} s; {arguments.output}")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
