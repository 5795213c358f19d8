// All kernels of an evaluation; op.cpp has their order.
#pragma once

#include "forces.cuh"
#if MACE_MD_JOINED_GROUPS
#include "joined.cuh"
#endif
#if MACE_MD_FUSED_NODES
#include "fused.cuh"
#else
#include "node.cuh"
#endif
