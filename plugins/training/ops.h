// The ops of the training, see ops.cpp.
#pragma once

#include "../torch_abi.h"

namespace mace_md::training {

// Instruction sets by their number in a packed model; 0 is the best that the processor has.
using IsaChoice = int64_t (*)();

// Defines the ops; `best_isa` says which kernels this processor runs.
void register_training_ops(IsaChoice best_isa);

}  // namespace mace_md::training
