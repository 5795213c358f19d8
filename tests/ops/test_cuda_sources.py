"""The CUDA sources compile for every architecture that matters, by NVRTC as in production and by nvcc; no GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cuda_emulation import blob_arguments, native_library, report
from native import KINDS, make_model, needs_library, packed

from mace_md.model.fast.folded import fold
from mace_md.model.fast.packing import HEADER_INTS, INTS, pack
from mace_md.ops.energy_forces import load_library

pytestmark = needs_library
ARCHITECTURES = [80, 90, 100, 120]
LARGE = {"small_system": 0}
FUSED = LARGE | {"fused_nodes": True}
TENSOR_CORES = FUSED | {"tensor_cores": True}
SHARED = {"shared_tables": True, "fast_sums": True}
JOINED = LARGE | {"joined_groups": True}
VARIANTS = {80: FUSED, 90: JOINED | {"shared_tables": True}, 100: LARGE | {"fast_sums": True}, 120: TENSOR_CORES}


@pytest.fixture(scope="module")
def nvrtc():
    """NVRTC, as the library finds it; skips when there is none."""
    load_library()
    if not hasattr(native_library(), "mace_md_compile_kernels"):
        pytest.skip("the native library is older than its sources: python setup.py build_ext --inplace")
    with pytest.raises(RuntimeError) as none:  # for an architecture that there never was
        report("mace_md_compile_kernels", *blob_arguments(blob("scalars", torch.float32)), 10)
    if "was not found" in str(none.value):
        pytest.skip("NVRTC is not installed (it comes with torch's CUDA packages)")


def blob(kind, dtype, variant=None, **changes):
    return packed(fold(make_model(kind, **changes)), dtype, 0.5, "auto", **(variant or {}))


def test_flags_of_pack_are_those_that_the_tests_set():
    flags = {"small_system": 7, "fused_nodes": False}
    flags |= dict.fromkeys(["joined_groups", "tensor_cores", "shared_tables", "fast_sums"], True)
    model = fold(make_model("scalars", num_channels=16))
    found = pack(model, dtype=torch.float32, skin=0.5, **flags)[: 8 * HEADER_INTS].view(torch.int64)
    expected = packed(model, torch.float32, 0.5, "auto", **flags)[: 8 * HEADER_INTS].view(torch.int64)
    found[INTS.index("fingerprint")] = expected[INTS.index("fingerprint")]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc(nvrtc, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    model = blob("scalars", torch.float32, VARIANTS[architecture])
    size = report("mace_md_compile_kernels", *blob_arguments(model), architecture)
    assert int(size) > 50_000  # bytes of machine code


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_nvrtc_of_every_kind_of_model(nvrtc, kind, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    for variant in ({}, LARGE, LARGE | {"shared_tables": True, "fast_sums": True}, FUSED):
        report("mace_md_compile_kernels", *blob_arguments(blob(kind, dtype, variant)), 90)


def test_a_newer_gpu_gets_code_that_its_driver_compiles(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    report("mace_md_compile_kernels", *blob_arguments(blob("scalars", torch.float32)), 999)
    (file,) = (tmp_path / "kernels").iterdir()
    assert b".target sm_" in file.read_bytes()  # PTX, not machine code
    with pytest.raises(RuntimeError, match=r"no code for compute capability 1\.0"):
        report("mace_md_compile_kernels", *blob_arguments(blob("scalars", torch.float32)), 10)


def test_the_compilers_words_reach_the_user(nvrtc, monkeypatch, tmp_path):
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    broken = blob("scalars", torch.float32).clone()
    broken.view(torch.int64)[INTS.index("mlp")] = -3
    with pytest.raises(RuntimeError, match=r"do not compile for sm_90(.|\n)*error"):
        report("mace_md_compile_kernels", *blob_arguments(broken), 90)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", [{}, LARGE, SHARED, FUSED, TENSOR_CORES, JOINED],
                         ids=["small", "large", "shared", "fused", "tensor cores", "joined"])  # fmt: skip
def test_nvcc_with_hardly_a_spill(architecture, variant, tmp_path):
    """The shape of a medium model (128 channels) fits the registers in float32."""
    load_library()
    model = blob("vectors", torch.float32, variant, num_channels=128, MLP_channels=16)
    report("mace_md_write_kernels", *blob_arguments(model), str(tmp_path).encode())
    command = ["nvcc", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-cubin", f"-arch=sm_{architecture}"]
    done = subprocess.run(
        [*command, "-I", tmp_path, tmp_path / "mace_md.cu", "-o", tmp_path / "out.cubin"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr)]
    assert len(spilled) >= done.stderr.count("Compiling entry") >= 12  # and functions that are not inlined
    # one kernel of two variants does, a little, for sm_100 and 120
    assert max(spilled) <= (16 if variant in (SHARED, FUSED, TENSOR_CORES) and architecture >= 100 else 0)


def test_every_device_source_is_embedded(tmp_path):
    load_library()
    report("mace_md_write_kernels", *blob_arguments(blob("scalars", torch.float32)), str(tmp_path).encode())
    sources = Path(__file__).parents[2] / "plugins" / "cuda"
    for path in sources.glob("*.cuh"):
        assert (tmp_path / path.name).read_text() == path.read_text(), "the library is older than its sources"
