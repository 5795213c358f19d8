"""Engines of the native op: the CPU, the CUDA code on an emulated GPU, and a GPU where there is one."""

import shutil

import pytest
import torch
from cuda_emulation import EmulatedDriver, native_library
from native import LIBRARY

from mace_md.ops.energy_forces import load_library


@pytest.fixture
def emulation(request, monkeypatch, tmp_path_factory):
    """The CUDA code finds an emulated driver and compiler, which keep what they compile in pytest's cache."""
    if shutil.which("c++") is None:
        pytest.skip("the emulation of CUDA needs a C++ compiler, c++")
    if not LIBRARY.exists():
        pytest.skip("the native kernels were not built")
    load_library()
    if not hasattr(native_library(), "mace_md_use_cuda_libraries"):
        pytest.skip("the native library is older than its sources: python setup.py build_ext --inplace")
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("cuda_emulation") if cache is not None else tmp_path_factory.getbasetemp()
    monkeypatch.setenv("MACE_MD_CACHE", str(folder))
    driver = EmulatedDriver(folder)
    driver.use()
    yield driver
    driver.leave()


@pytest.fixture(params=["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def engine(request):
    """Name of what evaluates the op, for `Native`."""
    name = request.param
    if name == "cuda" and request.config.getoption("--gpu-stand-in"):
        name = "emulated"
    if name == "emulated":
        request.getfixturevalue("emulation")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return name
