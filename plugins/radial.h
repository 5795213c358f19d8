// Radial functions: piecewise polynomials of degree 5 in t, the fraction of a knot interval.
//
// The pieces are quintic Hermite interpolants (value, first and second derivative at the knots), so the functions and the forces
// are smooth; stored as coefficients they need one broadcast (t) and 5 or 9 multiply-adds for the value or the value
// and derivative. Against a cubic of the same accuracy the table is a third of the size, which keeps it in the L2 cache.
// A table is [row][path][6][W] for one tile of channels; row 0 continues the functions linearly below the first knot.
#pragma once

#include "simd.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kCoefficients = 6;
constexpr int kRadialStride = kCoefficients * W;  // from one path to the next

static MACE_MD_INLINE V radial(const Real* c, V t) {
  V value = load(c + 5 * W);
  MACE_MD_UNROLL
  for (int k = 4; k >= 0; --k) value = value * t + load(c + k * W);
  return value;
}

// The derivative is with respect to t.
static MACE_MD_INLINE V radial(const Real* c, V t, V& derivative) {
  V value = load(c + 5 * W);
  derivative = value;
  value = value * t + load(c + 4 * W);
  MACE_MD_UNROLL
  for (int k = 3; k >= 0; --k) {
    derivative = derivative * t + value;
    value = value * t + load(c + k * W);
  }
  return value;
}

// One function without channels (the density).
static MACE_MD_INLINE Real radial_scalar(const Real* c, Real t, Real& derivative) {
  Real value = c[5];
  derivative = 0;
  for (int k = 4; k >= 0; --k) {
    derivative = derivative * t + value;
    value = value * t + c[k];
  }
  return value;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
