// Quintic B-splines on uniform knots: the weights of the rows of a radial table. For the CPU and for CUDA; `Real`,
// MACE_MD_INLINE and MACE_MD_UNROLL come from simd.h or cuda/device.h.
#pragma once

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

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
