// Distances, unit vectors, spherical harmonics and their gradients.
//
// Harmonics are those of e3nn: real, in the order and axes of e3nn, normalised so that sum_m Y_lm^2 = 2l + 1.
// For the CPU and for CUDA; `Real` and MACE_MD_INLINE come from simd.h or cuda/device.h.
#pragma once

namespace mace_md {
namespace MACE_MD_TARGET {

// Square roots of rationals that occur in the harmonics.
constexpr double kSqrt3 = 1.7320508075688772, kSqrt5 = 2.23606797749979, kSqrt7 = 2.6457513110645907,
                 kSqrt5_6 = 0.9128709291752769, kSqrt3_8 = 0.6123724356957945;

// y[lm] for one unit vector, l <= ELL <= 3.
template <int ELL>
static MACE_MD_INLINE void harmonics(Real x, Real y, Real z, Real* out) {
  constexpr Real s3 = kSqrt3;
  out[0] = 1;
  out[1] = s3 * x;
  out[2] = s3 * y;
  out[3] = s3 * z;
  if constexpr (ELL >= 2) {
    constexpr Real a = kSqrt5 * kSqrt3, b = kSqrt5, c = kSqrt5 * kSqrt3 / 2;
    Real y2 = y * y, r2 = x * x + z * z;
    out[4] = a * x * z;
    out[5] = a * x * y;
    out[6] = b * (y2 - Real(0.5) * r2);
    out[7] = a * y * z;
    out[8] = c * (z * z - x * x);
    if constexpr (ELL >= 3) {
      constexpr Real d = kSqrt7 * kSqrt5_6 * kSqrt3, e = kSqrt7 * kSqrt5 * kSqrt3, f = kSqrt7 * kSqrt3_8,
                     g = kSqrt7 / 2;
      Real half = Real(0.5) * (z * z - x * x), f4 = 4 * y2 - r2;
      out[9] = d * x * (z * z + half);
      out[10] = e * x * y * z;
      out[11] = f * x * f4;
      out[12] = g * y * (2 * y2 - 3 * r2);
      out[13] = f * z * f4;
      out[14] = e * y * half;
      out[15] = d * z * (half - x * x);
    }
  }
}

// sum_lm q[lm] dY_lm/dn for the polynomials above, not yet projected on the sphere.
template <int ELL, class Sum>
static MACE_MD_INLINE void harmonics_gradient(Real x, Real y, Real z, Sum&& q, Real* out) {
  constexpr Real s3 = kSqrt3;
  Real gx = s3 * q(1), gy = s3 * q(2), gz = s3 * q(3);
  if constexpr (ELL >= 2) {
    constexpr Real a = kSqrt5 * kSqrt3, b = kSqrt5;
    Real q4 = a * q(4), q5 = a * q(5), q6 = b * q(6), q7 = a * q(7), q8 = a * q(8);
    gx += q4 * z + q5 * y - q6 * x - q8 * x;
    gy += q5 * x + 2 * q6 * y + q7 * z;
    gz += q4 * x - q6 * z + q7 * y + q8 * z;
    if constexpr (ELL >= 3) {
      constexpr Real d = kSqrt7 * kSqrt5_6 * kSqrt3, e = kSqrt7 * kSqrt5 * kSqrt3, f = kSqrt7 * kSqrt3_8,
                     g = kSqrt7 / 2;
      Real x2 = x * x, y2 = y * y, z2 = z * z, r2 = x2 + z2, f4 = 4 * y2 - r2;
      Real q9 = d * q(9), q10 = e * q(10), q11 = f * q(11), q12 = g * q(12), q13 = f * q(13), q14 = e * q(14),
           q15 = d * q(15);
      Real u = Real(1.5) * (z2 - x2);
      gx += q9 * u + q10 * y * z + q11 * (f4 - 2 * x2) - 6 * q12 * x * y - 2 * q13 * x * z - q14 * x * y -
            3 * q15 * x * z;
      gy += q10 * x * z + 8 * q11 * x * y + q12 * (6 * y2 - 3 * r2) + 8 * q13 * y * z + Real(0.5) * q14 * (z2 - x2);
      gz += 3 * q9 * x * z + q10 * x * y - 2 * q11 * x * z - 6 * q12 * y * z + q13 * (f4 - 2 * z2) + q14 * y * z +
            q15 * u;
    }
  }
  out[0] = gx;
  out[1] = gy;
  out[2] = gz;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
