// The ops on CUDA tensors, with the schemas of ops.cpp.
//
// A call outside a CUDA graph looks at the verdict of the device when its kernels are done (one 300-byte copy; the host
// of a simulation waits for the energy anyway): errors are raised as on the CPU, and a list that outgrew its room is
// redone with more. A call that is being captured neither waits nor allocates in the state, and must follow a call that
// was not; what happens in replays is in the energy (NaN) and in `status`.
//
// status(state, clear) -> int64[6] on the CPU: bits of DeviceStatus since they were cleared, candidates of the last
// build, candidates that there is room for, builds, edges of the last step, whether the list is valid.
#pragma once

#include "../torch_abi.h"

namespace mace_md::cuda {

void energy_forces(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);
void neighbors(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);
void status(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);

// The same on tensors of the CPU, where the driver is the tests' emulation.
void emulated_energy_forces(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);
void emulated_neighbors(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);
void emulated_status(torch_abi::StableValue* stack, uint64_t n_arguments, uint64_t n_results);

}  // namespace mace_md::cuda
