// Radial functions: quintic B-splines on uniform knots.
//
// A value is the sum of six consecutive rows of the table, with weights that depend on the distance only and are
// computed once an edge. The functions have four continuous derivatives, so forces are smooth. Against piecewise
// polynomials of the same accuracy a value costs 6 multiply-adds instead of 5 (with the derivative 12 instead of 9),
// but the table is six times smaller, since neighbouring intervals share their rows: it stays in the L2 cache and its
// busy part in L1, which decides. A table is [row][path][W] for one tile of channels.
#pragma once

#include "simd.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kSupport = 6;

// Weights of the six rows and their derivatives, t the place in the interval, 0 <= t <= 1.
static MACE_MD_INLINE void spline_weights(Real t, Real* w, Real* dw) {
  // de Boor's recursion on uniform knots; the derivative is a difference of the weights of one degree less.
  Real n[kSupport] = {1, 0, 0, 0, 0, 0};
  MACE_MD_UNROLL
  for (int degree = 1; degree < kSupport; ++degree) {
    if (degree == kSupport - 1) {
      dw[0] = -n[0];
      MACE_MD_UNROLL
      for (int i = 1; i < kSupport - 1; ++i) dw[i] = n[i - 1] - n[i];
      dw[kSupport - 1] = n[kSupport - 2];
    }
    Real saved = 0;
    const Real inverse = Real(1) / degree;
    MACE_MD_UNROLL
    for (int i = 0; i < degree; ++i) {
      Real part = n[i] * inverse;
      n[i] = saved + (i + 1 - t) * part;
      saved = (t + (degree - 1 - i)) * part;
    }
    n[degree] = saved;
  }
  MACE_MD_UNROLL
  for (int i = 0; i < kSupport; ++i) w[i] = n[i];
}

struct SplineWeights {
  V w[kSupport];
};

static MACE_MD_INLINE SplineWeights broadcast(const Real* w) {
  SplineWeights result;
  MACE_MD_UNROLL
  for (int i = 0; i < kSupport; ++i) result.w[i] = zero() + w[i];
  return result;
}

// c: the first of the six rows, at the path; STRIDE from row to row.
template <int STRIDE>
static MACE_MD_INLINE V radial(const Real* c, const SplineWeights& s) {
  V value = s.w[0] * load(c);
  MACE_MD_UNROLL
  for (int i = 1; i < kSupport; ++i) value += s.w[i] * load(c + i * STRIDE);
  return value;
}

// The derivative is in units of the knot spacing.
template <int STRIDE>
static MACE_MD_INLINE V radial(const Real* c, const SplineWeights& s, const SplineWeights& ds, V& derivative) {
  V row = load(c);
  V value = s.w[0] * row;
  derivative = ds.w[0] * row;
  MACE_MD_UNROLL
  for (int i = 1; i < kSupport; ++i) {
    row = load(c + i * STRIDE);
    value += s.w[i] * row;
    derivative += ds.w[i] * row;
  }
  return value;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
