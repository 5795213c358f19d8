// Compiles the kernels of a model with NVRTC, once for each architecture, and keeps the result in the user's cache.
#pragma once

#include <string>

#include "program.h"

namespace mace_md::cuda {

// Machine code (cubin) of the program for an architecture (90 for sm_90), from the cache where it is there and intact.
// An architecture that this NVRTC does not know gets PTX of the newest one that it does. Throws std::runtime_error with
// the compiler's messages.
std::string compile(const Program& program, int architecture);

// $MACE_MD_CACHE, or mace-md in the user's cache folder; empty when there is no home.
std::string cache_folder();

}  // namespace mace_md::cuda
