"""What the library assumes of CUDA is what NVIDIA's headers and torch's CUDA library say; no GPU."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CHECK = r"""
#include <cuda.h>
#include <nvrtc.h>
#include <type_traits>
#include "plugins/cuda/driver.h"

template <class A, class B>
constexpr bool same() {  // passed in the same way: numbers of one size, or pointers
  return sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;
}
template <class R, class... A, class S, class... B>
constexpr bool agree(R (*)(A...), S (*)(B...)) {
  if constexpr (sizeof...(A) != sizeof...(B)) return false;
  else return same<R, S>() && (same<A, B>() && ...);
}

using namespace mace_md::cuda;
#define FUNCTION(result, member, name, arguments) \
  static_assert(agree(static_cast<result(*) arguments>(nullptr), static_cast<decltype(&PROTOTYPE_##member)>(nullptr)), \
                name);
ALIASES
MACE_MD_DRIVER_FUNCTIONS(FUNCTION)
#undef FUNCTION
#define FUNCTION(result, member, name, arguments) \
  static_assert(agree(static_cast<result(*) arguments>(nullptr), static_cast<decltype(&NVRTC_##member)>(nullptr)), \
                name);
MACE_MD_NVRTC_FUNCTIONS(FUNCTION)

static_assert(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == 16);
static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75);
static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76);
static_assert(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN == 97);
static_assert(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == 8);
static_assert(CUDA_SUCCESS == 0 && CU_STREAM_CAPTURE_STATUS_NONE == 0 && NVRTC_SUCCESS == 0);
"""


def headers() -> Path | None:
    """A folder with NVIDIA's headers: a toolkit's, or that of torch's CUDA packages."""
    packages = Path(torch.__file__).parents[1] / "nvidia"
    candidates = [*packages.glob("cu*/include"), Path("/usr/local/cuda/include")]
    return next((c for c in candidates if (c / "cuda.h").exists() and (c / "nvrtc.h").exists()), None)


def declared(macro: str) -> dict[str, str]:
    """member -> exported name, from the lists of driver.h."""
    text = (ROOT / "plugins" / "cuda" / "driver.h").read_text().split(f"#define {macro}(X)")[1].split("\n\n")[0]
    entries = [part.split(",") for part in text.split("X(")[1:]]
    return {entry[1].strip(): entry[2].strip().strip('"') for entry in entries}


@pytest.mark.skipif(headers() is None, reason="NVIDIA's headers are not installed")
def test_functions_and_constants_are_those_of_the_headers(tmp_path):
    driver, nvrtc = declared("MACE_MD_DRIVER_FUNCTIONS"), declared("MACE_MD_NVRTC_FUNCTIONS")
    assert len(driver) > 10 and len(nvrtc) > 10
    aliases = [f"#define PROTOTYPE_{member} {name}" for member, name in driver.items()]
    aliases += [f"#define NVRTC_{member} {name}" for member, name in nvrtc.items()]
    source = tmp_path / "check.cpp"
    source.write_text(CHECK.replace("ALIASES", "\n".join(aliases)))
    command = ["c++", "-std=c++17", "-fsyntax-only", f"-I{ROOT}", f"-I{headers()}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA")
def test_torch_has_the_function_that_gives_its_stream():
    assert ctypes.CDLL("libtorch_cuda.so").aoti_torch_get_current_cuda_stream
