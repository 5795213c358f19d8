"""A short run of the fuzzer over every reader; benchmarks/fuzz.py is the thorough one."""

import pytest
import readers

NAMES = (
    "pickle, random programs", "pickle, damaged", "model archive, damaged", "model archive, hostile tree",
    "own model, damaged", "own model, other header", "potential, metadata", "checkpoint", "options file",
    "structure files", "training data, extended XYZ", "training data, npz", "training data, HDF5", "committee listing",
    "quantities and flags",
)  # fmt: skip
SHARE = 200  # the thorough run has so many times more inputs


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return readers.targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_run_here(targets):
    assert set(targets) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_reader_reads_or_refuses_in_one_line(targets, name):
    target = targets[name]
    outcome = readers.run(target, seed=2024, count=max(target.count // SHARE, 10))
    assert not outcome.defects, outcome.defects[0]
    assert outcome.classes["refused"] > 0  # the inputs are bad enough to be worth it
    assert outcome.memory_mb < 1000
