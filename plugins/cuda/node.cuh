// What happens at an atom between the convolutions: contractions and readout here, products with weights in linear.cuh,
// one kernel after the other, each with as many blocks as it can have. A block is kNodeAtoms atoms of one type.
#pragma once

#include "linear.cuh"
#include "polynomial.cuh"
#include "readout.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

// False when the block has no atom.
static MACE_MD_INLINE bool node_block(const Arguments& s, NodeBlock& b) {
  const int slot = blockIdx.x * kNodeAtoms;
  b.type = s.tile_type[slot / kTileAtoms];
  b.active = static_cast<int>(threadIdx.x) < C;
  b.c = b.active ? threadIdx.x : 0;
  bool any = false;
  for (int n = 0; n < kNodeAtoms; ++n) {
    b.atom[n] = s.slots[slot + n];
    any = any || b.atom[n] >= 0;
  }
  return any;
}

// dE/drho = -scale * sum over components and channels of (scaled sum * its adjoint).
static MACE_MD_INLINE void store_density_adjoint(const NodeBlock& b, const Values* x, const Values* g,
                                                 const Real* scale, double* out, double* scratch) {
  for (int n = 0; n < kNodeAtoms; ++n) {
    double dot = 0;
    if (b.active)
      for (int m = 0; m < kA; ++m) dot += static_cast<double>(x[m].v[n]) * g[m].v[n];
    dot = block_sum(dot, scratch);
    if (threadIdx.x == 0 && b.atom[n] >= 0) out[b.atom[n]] = -static_cast<double>(scale[b.atom[n]]) * dot;
  }
}

// M0 = polynomial of A0
MACE_MD_KERNEL(contract0, kThreadsA) {
  NodeBlock b;
  if (!node_block(s, b)) return;
  Values x[kA], m[kH];
  load_nodes<kA>(b, s.a0, x);
  polynomial0(weights0(s, b.type, b.c), x, m);
  store_nodes<kH>(b, m, s.m0);
}

// M1 = polynomial of A1 (scalars only), the energy, and dE/dA1 in the place of A1
MACE_MD_KERNEL(node_energy, kThreadsA) {
  __shared__ Real m1[kNodeAtoms * C];
  __shared__ Real hidden_adjoint[kNodeAtoms * kMlp];
  __shared__ double scratch[32];
  NodeBlock b;
  if (!node_block(s, b)) return;
  Values x[kA], m[1], g[kA];
  load_nodes<kA>(b, s.a_adjoint, x);
  polynomial1(weights1(s, b.type, b.c), x, m);
  if (b.active)
    for (int n = 0; n < kNodeAtoms; ++n) m1[n * C + b.c] = m[0].v[n];
  __syncthreads();
  const int* slots = s.slots + blockIdx.x * kNodeAtoms;
  for (int n = threadIdx.x / kWarp; n < kNodeAtoms; n += kThreadsA / kWarp)
    if (slots[n] >= 0) read_out(s, slots[n], b.type, m1 + n * C, hidden_adjoint + n * kMlp);
  __syncthreads();
  for (int n = 0; n < kNodeAtoms; ++n)
    m[0].v[n] =
        b.active && b.atom[n] >= 0 ? read_out_reverse(s, b.atom[n], b.type, b.c, hidden_adjoint + n * kMlp) : Real(0);
  polynomial1_gradient(weights1(s, b.type, b.c), x, m, g);
  store_nodes<kA>(b, g, s.a_adjoint);
  if constexpr (MACE_MD_DENSITY1 != 0) store_density_adjoint(b, x, g, s.scale1, s.density_adjoint1, scratch);
}

// dE/dA0
MACE_MD_KERNEL(contract0_reverse, kThreadsA) {
  __shared__ double scratch[32];
  NodeBlock b;
  if (!node_block(s, b)) return;
  Values x[kA], g[kA], adjoint[kH];
  load_nodes<kA>(b, s.a0, x);
  load_nodes<kH>(b, s.m0_adjoint, adjoint);
  polynomial0_gradient(weights0(s, b.type, b.c), x, adjoint, g);
  store_nodes<kA>(b, g, s.a_adjoint);
  if constexpr (MACE_MD_DENSITY0 != 0) store_density_adjoint(b, x, g, s.scale0, s.density_adjoint0, scratch);
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
