// What the host knows about a state on the device.
//
// A state is a uint8 tensor without a host object, and a step must not read the device to learn what is in it. So the
// host's part is kept in a table of this process, and the key is the size of the tensor: every layout gets a size
// that no other layout has. A copy of the tensor has the same size and the same contents, hence the same plan; plans
// do not change once they are made. What the key cannot exclude (a state of another process, changed types or
// model), the kernels check: the layout's id, the model's fingerprint and the types are compared on the device.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "../blob.h"
#include "arguments.h"
#include "driver.h"

namespace mace_md::cuda {

using Arguments = ArgumentsOf<void>;

struct Launch {
  Handle function;
  unsigned grid[3], block, shared = 0;
};

struct Sizes {
  int64_t n_particles = 0, n_atoms = 0, n_slots = 0, max_cells = 0, capacity = 0;
  bool small = false;  // few launches matter more than few registers
};

// The compiled kernels of one model on one device.
struct Kernels;

struct Plan {
  int device = 0;
  bool periodic = false;
  int64_t id = 0, bytes = 0, persistent_bytes = 0;
  std::vector<int64_t> header;  // of the blob
  std::vector<int32_t> types;   // of all particles
  Sizes sizes;
  std::shared_ptr<const Kernels> kernels;
  std::vector<Launch> launches;  // of a step, in order

  Blob blob() const { return Blob(header.data()); }

  // Tensors that were compared with this plan before; others are compared by the caller.
  bool knows(const void* state, const void* types, const void* blob) const;
  void remember(const void* state, const void* types, const void* blob);

 private:
  mutable std::mutex mutex_;
  std::set<std::vector<const void*>> known_;
};

// The plan of a state of this size, or null.
std::shared_ptr<Plan> find_plan(int64_t state_bytes);

// A new plan, with kernels compiled and loaded, in the table. blob: on the host. capacity: candidates to make room for.
std::shared_ptr<Plan> make_plan(const Blob& blob, const std::vector<int32_t>& types, bool periodic, int device,
                                int64_t capacity);

// Sizes of the arrays for particles of these types.
Sizes sizes_for(const Blob& blob, const std::vector<int32_t>& types, int64_t capacity);

// Points the arrays of `a` into a state at `base` (null: only measures). Returns the bytes of the state; the first
// `persistent` of them are kept from step to step.
int64_t place_arrays(const Blob& blob, const Sizes& sizes, char* base, Arguments& a, int64_t* persistent = nullptr);

// Points the model of `a` into a blob at `base` of the device; `blob` is its header on the host.
void place_model(const Blob& blob, const char* base, Arguments& a);

// Writes what does not change into a new state.
void initialise(const Plan& plan, char* base, Handle stream);

}  // namespace mace_md::cuda
