"""`mace-md doctor`: what it finds is true, and what it advises fits."""

import json

import pytest

from mace_md.commands import doctor
from mace_md.config import DoctorConfig


def test_doctor_reports_a_crash_instead_of_crashing():
    run_probe = doctor.run_probe
    worked, line = run_probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert not worked and "SIGSEGV" in line
    assert run_probe("raise SystemExit('no openmmtorch')") == (False, "no openmmtorch")
    assert run_probe("print('first'); print('last')") == (True, "last")


def test_doctor_finds_a_wrong_version_and_a_missing_package():
    from packaging.requirements import Requirement

    found = doctor._package(Requirement("torch<1"))
    assert found.status == doctor.BROKEN and "outside <1" in found.detail and found.mend == "pip install 'torch<1'"
    missing = doctor._package(Requirement("no-such-package-anywhere"))
    assert missing.status == doctor.BROKEN and missing.detail == "not installed"


def test_doctor_evaluates_three_atoms_here():
    for code in (doctor.TORCH_FORCE_PROBE, doctor.PYTHON_FORCE_PROBE):
        worked, line = doctor.run_probe(code)
        assert worked and "right on" in line and "CPU" in line, line


def test_doctor_notices_wrong_forces():
    wrong = doctor.PYTHON_FORCE_PROBE.replace("-2 * positions", "-0.5 * positions")
    assert wrong != doctor.PYTHON_FORCE_PROBE
    worked, line = doctor.run_probe(wrong)
    assert not worked and "largest error of a force" in line


def test_doctor_names_what_a_package_is_for_that_only_some_commands_use(monkeypatch):
    from packaging.requirements import Requirement

    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    found = doctor._package(Requirement("rdkit>=2023.9"))
    assert found.status == doctor.NOTE and "--smiles" in found.detail
    assert {requirement.name for requirement in doctor.requirements()} >= {"torch", "openmm"}


H100, TORCH = ["NVIDIA H100"], ["NVIDIA H100 (sm_90)"]


@pytest.mark.parametrize(
    ("arguments", "status", "detail", "mend"),
    [
        (([], ["CPU"], "13.0", [], "", "OpenMM-CUDA-13"), "ok", "use the processor.*CUDA 13.0.*is installed", "^$"),
        (([], ["CPU"], None, [], "", None), "ok", "without CUDA.*not installed", "^$"),
        ((H100, ["CPU"], None, [], "", None), "note", "without CUDA", r"torch for CUDA.*\.\[cuda13\]"),
        ((H100, ["CPU"], "13.0", [], "driver too old", None), "note", "see it: driver too old", "driver for CUDA 13"),
        ((H100, ["CPU"], "12.8", TORCH, "", None), "note", "no CUDA platform.*not installed", r"\[cuda12\]"),
        ((H100, ["CPU"], "13.0", TORCH, "", "OpenMM-CUDA-12"), "note", "for another", r"uninstall.*12;.*\[cuda13\]"),
        ((H100, ["CUDA"], "13.0", TORCH, "", "OpenMM-CUDA-13"), "ok", r"sees NVIDIA H100 \(sm_90\)", "^$"),
        ((H100, ["CUDA"], "13.0", TORCH, "", None), "ok", "has its CUDA platform", "^$"),  # a conda package
    ],
)  # fmt: skip
def test_doctor_says_what_keeps_a_run_from_the_gpu(arguments, status, detail, mend):
    import re

    found = doctor.cuda_finding(*arguments)
    assert found.status == status
    assert re.search(detail, found.detail), found.detail
    assert re.search(mend, found.mend), found.mend


def test_doctor_asks_torch_for_its_gpus():
    worked, line = doctor.run_probe(doctor.TORCH_CUDA_PROBE)
    version, gpus, reason = json.loads(line)
    assert worked and (version is None or "." in version) and isinstance(gpus, list) and isinstance(reason, str)


def test_doctor_compares_the_kernels_of_a_gpu_with_pytorch():
    """The same code with the processor's kernels."""
    code = doctor.KERNELS_ON_GPU_PROBE.replace('device = "cuda"', 'device = "cpu"')
    if doctor._kernels().status != doctor.OK:
        pytest.skip("the native kernels were not built")
    worked, line = doctor.run_probe(code)
    assert worked and "forces of eight atoms" in line, line
    wrong = code.replace("found[0] - found[1]", "found[0] - 1.01 * found[1]")
    worked, line = doctor.run_probe(wrong)
    assert not worked and "deviate from those of PyTorch by 0.01" in line, line


def test_doctor_as_a_user_sees_it(capsys):
    code = doctor.main(DoctorConfig())
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert sum("CUDA: " in line for line in lines) == 1
    assert lines[-1] == "everything that a run needs works"
    assert not any("libcuda.so" in line for line in lines) or doctor.gpu_names()
