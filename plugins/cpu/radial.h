// Radial functions: quintic B-splines on uniform knots.
//
// A value is the sum of six consecutive rows of the table, with weights that depend on the distance only and are
// computed once an edge. The functions have four continuous derivatives, so forces are smooth. Against piecewise
// polynomials of the same accuracy a value costs 6 multiply-adds instead of 5 (with the derivative 12 instead of 9),
// but the table is six times smaller, since neighbouring intervals share their rows: it stays in the L2 cache and its
// busy part in L1, which decides. A table is [row][path][W] for one tile of channels.
#pragma once

#include "simd.h"
#include "../spline.h"

namespace mace_md {
namespace MACE_MD_TARGET {

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

// N functions of T tiles of an edge, and their derivatives in units of the knot spacing. c: the first of the six rows
// in the first tile.
template <int N, int T>
static MACE_MD_INLINE void radial_of_tiles(const Real* c, size_t table_tile, const Real* weights,
                                           const Real* derivatives, V (*values)[T], V (*slopes)[T]) {
  const SplineWeights w = broadcast(weights), dw = broadcast(derivatives);
  MACE_MD_UNROLL
  for (int t = 0; t < T; ++t) MACE_MD_UNROLL
  for (int f = 0; f < N; ++f) {
    const Real* first = c + t * table_tile + f * W;
    V row = load(first), value = w.w[0] * row, slope = dw.w[0] * row;
    MACE_MD_UNROLL
    for (int i = 1; i < kSupport; ++i) {
      row = load(first + i * N * W);
      value += w.w[i] * row;
      slope += dw.w[i] * row;
    }
    values[f][t] = value;
    slopes[f][t] = slope;
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
