// The symmetric contractions and their gradients: a block is kNodeAtoms atoms of one type, a thread a channel.
//
// The polynomials themselves are generated, as straight-line code with everything in registers (program.cpp); a weight
// that was loaded serves kNodeAtoms atoms.
#pragma once

#include "device.h"

namespace mace_md {
namespace MACE_MD_TARGET {

#ifndef MACE_MD_NODE_ATOMS
#define MACE_MD_NODE_ATOMS (sizeof(Real) == 4 ? 2 : 1)
#endif
constexpr int kNodeAtoms = MACE_MD_NODE_ATOMS;
static_assert(kTileAtoms % kNodeAtoms == 0);

// One number for each of the atoms.
struct Values {
  Real v[kNodeAtoms];
};

// The steps that generated code is made of.
static MACE_MD_INLINE void set(Values& a, Real value) {
  MACE_MD_UNROLL
  for (int n = 0; n < kNodeAtoms; ++n) a.v[n] = value;
}
static MACE_MD_INLINE Values product(const Values& a, const Values& b) {
  Values result;
  MACE_MD_UNROLL
  for (int n = 0; n < kNodeAtoms; ++n) result.v[n] = a.v[n] * b.v[n];
  return result;
}
static MACE_MD_INLINE void add(Values& sum, Real weight, const Values& a) {
  MACE_MD_UNROLL
  for (int n = 0; n < kNodeAtoms; ++n) sum.v[n] += weight * a.v[n];
}
static MACE_MD_INLINE void add(Values& sum, const Values& a, const Values& b) {
  MACE_MD_UNROLL
  for (int n = 0; n < kNodeAtoms; ++n) sum.v[n] += a.v[n] * b.v[n];
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md

#include "polynomials.h"  // generated: polynomial0, polynomial0_gradient, polynomial1, polynomial1_gradient

namespace mace_md {
namespace MACE_MD_TARGET {

struct NodeBlock {
  int atom[kNodeAtoms];  // -1 for none
  int type, c;
  bool active;           // this thread has a channel
};

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

template <int N>
static MACE_MD_INLINE void load_nodes(const NodeBlock& b, const Real* from, Values* x) {
  MACE_MD_UNROLL
  for (int m = 0; m < N; ++m) {
    MACE_MD_UNROLL
    for (int n = 0; n < kNodeAtoms; ++n)
      x[m].v[n] = b.atom[n] >= 0 ? from[(static_cast<long long>(b.atom[n]) * N + m) * C + b.c] : Real(0);
  }
}

template <int N>
static MACE_MD_INLINE void store_nodes(const NodeBlock& b, const Values* x, Real* to) {
  if (!b.active) return;
  MACE_MD_UNROLL
  for (int m = 0; m < N; ++m) {
    MACE_MD_UNROLL
    for (int n = 0; n < kNodeAtoms; ++n)
      if (b.atom[n] >= 0) to[(static_cast<long long>(b.atom[n]) * N + m) * C + b.c] = x[m].v[n];
  }
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
  polynomial0(s.weights0 + static_cast<long long>(b.type) * MACE_MD_WEIGHTS0 * C + b.c, x, m);
  store_nodes<kH>(b, m, s.m0);
}

// M1 = polynomial of A1, scalars only
MACE_MD_KERNEL(contract1, kThreadsA) {
  NodeBlock b;
  if (!node_block(s, b)) return;
  Values x[kA], m[1];
  load_nodes<kA>(b, s.a1, x);
  polynomial1(s.weights1 + static_cast<long long>(b.type) * MACE_MD_WEIGHTS1 * C + b.c, x, m);
  store_nodes<1>(b, m, s.m1);
}

// dE/dA1
MACE_MD_KERNEL(contract1_reverse, kThreadsA) {
  __shared__ double scratch[32];
  NodeBlock b;
  if (!node_block(s, b)) return;
  Values x[kA], g[kA], adjoint[1];
  load_nodes<kA>(b, s.a1, x);
  load_nodes<1>(b, s.m1_adjoint, adjoint);
  polynomial1_gradient(s.weights1 + static_cast<long long>(b.type) * MACE_MD_WEIGHTS1 * C + b.c, x, adjoint, g);
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
  polynomial0_gradient(s.weights0 + static_cast<long long>(b.type) * MACE_MD_WEIGHTS0 * C + b.c, x, adjoint, g);
  store_nodes<kA>(b, g, s.a_adjoint);
  if constexpr (MACE_MD_DENSITY0 != 0) store_density_adjoint(b, x, g, s.scale0, s.density_adjoint0, scratch);
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
