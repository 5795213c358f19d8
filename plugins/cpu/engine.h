// What the portable part of the op (ops.cpp) and the kernels for one instruction set and precision agree on.
#pragma once

#include "../blob.h"
#include "neighbors.h"

namespace mace_md {

struct Dimensions {
  int64_t n_atoms;
  int64_t n_threads;
  int64_t n_blocks;
  int64_t n_candidates;
  int64_t max_block_atoms;
  int64_t max_block_candidates;
};

// Intermediate results for the tests of the stages; a null pointer is not written. Caller's order of atoms, no padding,
// float64.
struct StageOutputs {
  double* a0;           // [n][(max_ell+1)^2][C]  layer-1 convolution
  double* h;            // [n][(max_L+1)^2][C2]   features that layer 2 convolves
  double* a1;           // [n][(max_ell+1)^2][C]
  double* h_adjoint;    // [n][(max_L+1)^2][C2]   dE/dH
  double* a0_adjoint;   // [n][(max_ell+1)^2][C]  dE/dA0
  double* node_energy;  // [n] eV
};

struct Step {
  Blob blob;
  const char* packed;
  char* workspace;
  Dimensions dimensions;
  AtomArrays atoms;
  const Candidate* candidates;
  const double* translations;
  ParallelRunner parallel;
  const StageOutputs* stages;  // null in production
  // results: eV, eV/angstrom in internal order, virial = sum r_ij (x) F_ij in eV
  double energy;
  double* forces;
  double virial[9];
  int64_t n_edges;
};

struct Engine {
  const char* name;
  int64_t (*packed_bytes)(const Blob& blob);
  void (*pack)(const Blob& blob, char* packed);
  int64_t (*workspace_bytes)(const Blob& blob, const Dimensions& dimensions);
  void (*evaluate)(Step& step);
};

// The engine for a model's max_ell (2 or 3) and max_L (0, 1, 2), or null.
#define MACE_MD_DECLARE_ENGINE(target) const Engine* engine_##target(int max_ell, int max_L)
MACE_MD_DECLARE_ENGINE(generic_float);
MACE_MD_DECLARE_ENGINE(generic_double);
MACE_MD_DECLARE_ENGINE(avx2_float);
MACE_MD_DECLARE_ENGINE(avx2_double);
MACE_MD_DECLARE_ENGINE(avx512_float);
MACE_MD_DECLARE_ENGINE(avx512_double);

}  // namespace mace_md
