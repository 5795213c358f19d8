// Checks of arguments that the ops for the CPU and for CUDA share.
#pragma once

#include <sstream>
#include <stdexcept>

#include "blob.h"
#include "torch_abi.h"

namespace mace_md {

template <class... Parts>
void require(bool condition, Parts&&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "mace_md::energy_forces: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// The packed model in `data`, which has `bytes` bytes and is on the host.
inline Blob checked_blob(const void* data, int64_t bytes) {
  const int64_t header = 8 * (kHeaderInts + kHeaderDoubles);
  require(bytes >= header, "blob has ", bytes, " bytes, fewer than its header");
  Blob blob(data);
  require(blob[kMagic] == kBlobMagic, "blob is not a packed model");
  require(blob[kVersion] == kBlobVersion, "blob has format version ", blob[kVersion], ", this library reads version ",
          kBlobVersion, ": export the potential again");
  require(blob[kBytes] == bytes, "blob should have ", blob[kBytes], " bytes, it has ", bytes);
  return blob;
}

inline void check_type_range(const int32_t* type, int64_t n_particles, int64_t n_types) {
  for (int64_t i = 0; i < n_particles; ++i)
    require(type[i] < n_types, "particle ", i, " has type ", type[i], ", but the model was packed for ", n_types,
            " types");
}

}  // namespace mace_md
