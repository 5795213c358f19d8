"""Precision and determinism: what holds, and what the log says of combinations that do not give what they seem to."""

import numpy as np
import pytest
import torch

from mace_md.config import RunConfig
from mace_md.errors import InputError, UsageError
from mace_md.md.assembly import use_device
from mace_md.md.stepping.numerics import FORCE_NOISE_AT_1_NM, precision_notes, precision_on_gpu, repeatable
from mace_md.md.stepping.simulation import GPU_PLATFORMS
from mace_md.md.stepping.simulation import _platform as platform_of


@pytest.mark.parametrize(
    ("precision", "dtype", "word"),
    [
        ("mixed", "float32", None),
        ("mixed", "float64", "positions that OpenMM hands over in float32"),
        ("single", "float32", "integrates in float32"),
        ("double", "float32", "forces are those of float32"),
        ("double", "float64", None),
    ],
)
def test_combinations_on_a_gpu(precision, dtype, word):
    notes = precision_notes(precision_on_gpu(precision, dtype), precision, 3.0, platform="CUDA")
    assert (len(notes) == 0) if word is None else (len(notes) == 1 and word in notes[0])


def test_precision_without_a_gpu_is_said_to_be_ignored():
    exact = precision_on_gpu("double", "float32")
    assert precision_notes(exact, "auto", 3.0, platform="Reference") == []
    assert "is for GPUs" in precision_notes(exact, "mixed", 3.0, platform="Reference")[0]


def test_the_noise_in_the_log_is_that_of_springs_as_stiff_as_a_bond():
    """An O-H bond is the stiffest spring in water, about 50 eV/A^2; a float32 at 1 nm is uncertain by 2^-24 nm."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.0, 100_000)  # nm, all with the same spacing of floats
    error = 10 * (x.astype(np.float32) - x).std()  # A
    assert 0.1 * 50 * error < FORCE_NOISE_AT_1_NM < 2 * 50 * error


def test_repeatable_leaves_torch_as_it_was():
    with repeatable(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_properties_of_the_platform(monkeypatch):
    import openmm

    class Named:
        getPlatformByName = staticmethod(lambda name: name)

    monkeypatch.setattr(openmm, "Platform", Named)
    for name in GPU_PLATFORMS:
        found = platform_of(name, "auto", 1, None, True).properties
        assert found["Precision"] == "mixed" and found["DeviceIndex"] == "1"
        assert ("DeterministicForces" in found) == (name != "OpenCL")
    assert platform_of("Reference", "double", 1, 2, True).properties == {}


def test_what_a_platform_cannot_do_is_refused(tmp_path):
    with pytest.raises(UsageError, match="OpenCL platform adds in an order"):
        RunConfig(structure=tmp_path, model="m", platform="OpenCL", deterministic=True)


def test_torch_takes_the_gpu_of_the_run(tmp_path, monkeypatch):
    """With a torch that sees two GPUs: what computes beside OpenMM is to be on the same one."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    use_device(RunConfig(structure=tmp_path, model="m", device_index=(1,)))
    use_device(RunConfig(structure=tmp_path, model="m"))
    assert taken == [1]
    with pytest.raises(InputError, match="--device-index 2: torch sees 2 GPUs"):
        use_device(RunConfig(structure=tmp_path, model="m", device_index=(2,)))
