"""The trial of the kernels for GPUs: what it finds, and that nothing that goes wrong in it reaches the caller."""

import json
import logging
import sys

import pytest
import torch
from native import Native, make_model, needs_library

from mace_md.model import potential
from mace_md.model.fast import trial
from mace_md.model.fast.packing import header_of, with_flags
from mace_md.model.fast.trial import Trial, results_of, try_kernels
from mace_md.model.potential import make_potential
from mace_md.ops.energy_forces import energy_forces

pytestmark = needs_library
TYPES = torch.tensor([0, 1, 2, 0, -1, 2] * 4, dtype=torch.int32)


def packed_model(dtype=torch.float32):
    return Native(make_model("scalars"), dtype).blob


def test_every_variant_is_compared_and_timed_on_the_device(emulation, monkeypatch):
    monkeypatch.setattr(trial, "FEW_ATOMS", 10)
    monkeypatch.setattr(trial, "TIMES", 2)
    blob, op = packed_model(), torch.ops.mace_md.emulated_energy_forces
    before = emulation.launches_of("node1")
    results = list(results_of(blob, TYPES[TYPES >= 0], True, "cpu", op))
    assert [r["flags"] for r in results[:2]] == [trial.PLAIN, trial.PLAIN | {"fused_nodes": True}]
    better = min(results[:2], key=lambda r: r["seconds"])["flags"]
    assert [r["flags"] for r in results[2:]] == [better | {n: True} for n in ("shared_tables", "joined_groups")]
    assert all(0 < r["forces"] < 5e-6 and r["energy"] < 1e-5 and r["seconds"] > 0 for r in results)
    assert emulation.launches_of("node1") > before
    found = trial._finding(results)
    assert found.passed and found.flags == min(results, key=lambda r: r["seconds"])["flags"]
    assert "fastest" in found.text


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", ["forces", "energy", "nan"])
def test_what_is_wrong_is_seen(wrong, dtype, periodic):
    def broken(*arguments):
        energy, forces, virial = energy_forces(*arguments)
        if wrong == "forces":
            forces = forces * (1 + 1e-4)
        return energy + {"energy": 1.0, "nan": float("nan")}.get(wrong, 0.0), forces, virial

    types = TYPES[TYPES >= 0]
    assert trial._finding(list(results_of(packed_model(dtype), types, periodic, "cpu", energy_forces))).passed
    found = trial._finding(list(results_of(packed_model(dtype), types, periodic, "cpu", broken)))
    assert not found.passed and found.flags == {}
    assert "off by" in found.text


def test_a_variant_that_fails_leaves_the_others():
    def fails_when_fused(positions, box, types, blob, state):
        if header_of(blob)["fused_nodes"] == 2:
            raise RuntimeError("mace_md: CUDA error while launching the kernels: too many resources")
        return energy_forces(positions, box, types, blob, state)

    types = TYPES[TYPES >= 0].repeat(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "TIMES", 1)
        results = list(results_of(packed_model(), types, True, "cpu", fails_when_fused))
    assert len(results) == 4 and [("error" in r) for r in results] == [False, True, False, False]
    found = trial._finding(results)
    assert found.passed and not found.flags["fused_nodes"]
    assert "too many resources" in trial._finding([r for r in results if "error" in r]).text


def test_a_process_finds_out_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    first = try_kernels(packed_model(), TYPES, True, tmp_path / "cache", device="cpu")
    assert first.passed and first.flags == trial.PLAIN
    assert len(caplog.records) == 1
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert try_kernels(packed_model(), TYPES, True, tmp_path / "cache", device="cpu") == first
    assert len(caplog.records) == 1
    other = try_kernels(packed_model(torch.float64), TYPES, True, tmp_path / "cache", device="cpu")
    assert not other.passed and "/nowhere" in other.text
    (kept,) = (tmp_path / "cache" / "trials").iterdir()
    kept.write_text('[{"flags"')  # damaged
    assert not try_kernels(packed_model(), TYPES, True, tmp_path / "cache", device="cpu").passed


GOOD = json.dumps({"flags": {"fused_nodes": False}, "forces": 1e-7, "energy": 1e-9, "seconds": 1e-3, "atoms": 20})


@pytest.mark.parametrize(
    ("script", "passed", "text"),
    [
        ("kill -SEGV $$", False, "signal 11"),
        ("echo 'mace_md: no NVRTC' >&2; exit 1", False, "no NVRTC"),
        ("sleep 60", False, "did not end within 1 s"),
        (f"echo '{GOOD}'; echo '{{\"flags\"'; kill -SEGV $$", True, "tried on this GPU"),
        (f"echo '{GOOD}'; sleep 60", True, "tried on this GPU"),
    ],
)
def test_crashes_and_hangs_end_with_the_process(script, passed, text, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(trial, "SECONDS", 1)
    found = try_kernels(packed_model(), TYPES, True, tmp_path / "cache", device="cpu")
    assert found.passed == passed and text in found.text
    assert not (tmp_path / "cache").exists()  # next time it is tried again


@pytest.mark.parametrize("passed", [True, False])
def test_auto_takes_what_the_trial_found(passed, monkeypatch):
    flags = {"fused_nodes": True, "shared_tables": True} if passed else {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(potential, "try_kernels", lambda *arguments: Trial(passed, flags, "words of the trial"))
    made, choice = make_potential(make_model("scalars"), [1, 6, 8], periodic=False)
    assert choice.name == ("native" if passed else "reference")
    assert "words of the trial" in choice.reason
    if passed:
        header = header_of(made.blob)
        assert header["fused_nodes"] == 2 and header["shared_tables"] == 1


def test_a_gpu_that_is_not_used_is_not_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(potential, "try_kernels", lambda *arguments: pytest.fail("a trial"))
    for device in ("cpu", torch.device("cpu")):
        assert make_potential(make_model("scalars"), [1, 6], periodic=False, device=device)[1].name == "native"


def test_a_failed_trial_is_not_repeated_in_the_same_process(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "executable", "/nowhere")
    found = [try_kernels(packed_model(), TYPES, True, tmp_path / "cache", device="cpu") for _ in range(3)]
    assert len(set(map(str, found))) == 1 and not found[0].passed
    assert len(caplog.records) == 1


def test_flags_are_all_that_changes():
    blob = packed_model()
    other = with_flags(with_flags(blob, fused_nodes=True, fast_sums=True), fused_nodes=None, fast_sums=False)
    assert torch.equal(other, blob) and not torch.equal(with_flags(blob, shared_tables=True), blob)


@pytest.mark.parametrize(("types", "small"), [(TYPES, 1024), (TYPES.repeat(52), 0), (torch.full((4097,), -1), 0)])
def test_kernels_of_many_atoms_are_compared_for_many_atoms(types, small, monkeypatch, tmp_path):
    seen = []

    def record(blob, *_):
        seen.append(header_of(blob)["small_system"])
        return [], "nothing was run"

    monkeypatch.setattr(trial, "_run_process", record)
    try_kernels(packed_model(), types.int(), True, tmp_path, device="cpu")
    assert seen == [small]
