// The symmetric contractions and their gradients: a thread has a channel of kNodeAtoms atoms of one type.
//
// The polynomials are generated, as straight-line code with everything in registers (program.cpp); a weight that was
// loaded serves kNodeAtoms atoms.
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

// What a thread has.
struct NodeBlock {
  int atom[kNodeAtoms];  // -1 for none
  int type, c;
  bool active;  // this thread has a channel
};

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

static MACE_MD_INLINE const Real* weights0(const Arguments& s, int type, int c) {
  return s.weights0 + static_cast<long long>(type) * MACE_MD_WEIGHTS0 * C + c;
}
static MACE_MD_INLINE const Real* weights1(const Arguments& s, int type, int c) {
  return s.weights1 + static_cast<long long>(type) * MACE_MD_WEIGHTS1 * C + c;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
