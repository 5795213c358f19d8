// Clebsch-Gordan coefficients between real harmonics, as constants of the compiler: the coupling of Y_l1 of an edge and
// H_l2 of its sender to l3, in e3nn's basis and normalisation (mace_md/model/irreps.py has the same formulas).
#pragma once

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr double constexpr_sqrt(double x) {
  double root = x > 1 ? x : 1;
  for (int i = 0; i < 200 && x > 0; ++i) {
    const double next = 0.5 * (root + x / root);
    if (next == root) break;
    root = next;
  }
  return x > 0 ? root : 0;
}

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }
constexpr double sign_of(int power) { return power % 2 == 0 ? 1.0 : -1.0; }

// <l1 m1 l2 m2 | l3 m1 + m2>, Racah's formula.
constexpr double clebsch_gordan(int l1, int m1, int l2, int m2, int l3) {
  const int m3 = m1 + m2;
  if (m3 > l3 || -m3 > l3) return 0;
  double sum = 0;
  for (int k = 0; k <= l1 + l2 - l3; ++k) {
    const int a = l1 + l2 - l3 - k, b = l1 - m1 - k, c = l2 + m2 - k, d = l3 - l2 + m1 + k, e = l3 - l1 - m2 + k;
    if (a < 0 || b < 0 || c < 0 || d < 0 || e < 0) continue;
    sum += sign_of(k) / (factorial(k) * factorial(a) * factorial(b) * factorial(c) * factorial(d) * factorial(e));
  }
  const double triangle = (2 * l3 + 1) * factorial(l1 + l2 - l3) * factorial(l1 - l2 + l3) * factorial(l2 + l3 - l1) /
                          factorial(l1 + l2 + l3 + 1);
  return sum * constexpr_sqrt(triangle * factorial(l1 + m1) * factorial(l1 - m1) * factorial(l2 + m2) *
                              factorial(l2 - m2) * factorial(l3 + m3) * factorial(l3 - m3));
}

struct Complex {
  double re = 0, im = 0;
};
constexpr Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }

// The real harmonic `real` (0 ... 2l) in the complex one of order m, with e3nn's phase (-i)^l.
constexpr Complex complex_from_real(int l, int m, int real) {
  const double half = constexpr_sqrt(0.5);
  Complex value;
  if (m == 0) {
    value.re = real == l ? 1 : 0;
  } else {
    const int size = m > 0 ? m : -m;
    const double sign = m > 0 ? sign_of(m) : 1;
    if (real == l + size) value.re = sign * half;
    if (real == l - size) value.im = (m > 0 ? sign : -1) * half;
  }
  for (int i = 0; i < l; ++i) value = value * Complex{0, -1};
  return value;
}

// value[m1][m2][m3], times sqrt(2 l3 + 1) and of norm 1 without.
template <int L1, int L2, int L3>
struct Coupling {
  double value[2 * L1 + 1][2 * L2 + 1][2 * L3 + 1] = {};
  constexpr Coupling() {
    double norm2 = 0;
    for (int a = 0; a <= 2 * L1; ++a)
      for (int b = 0; b <= 2 * L2; ++b)
        for (int c = 0; c <= 2 * L3; ++c) {
          double sum = 0;
          for (int m1 = -L1; m1 <= L1; ++m1)
            for (int m2 = -L2; m2 <= L2; ++m2) {
              if (m1 + m2 > L3 || m1 + m2 < -L3) continue;
              const Complex third = complex_from_real(L3, m1 + m2, c);
              const Complex product = complex_from_real(L1, m1, a) * complex_from_real(L2, m2, b);
              const double real = product.re * third.re + product.im * third.im;
              if (real != 0) sum += real * clebsch_gordan(L1, m1, L2, m2, L3);
            }
          value[a][b][c] = sum < 1e-12 && sum > -1e-12 ? 0 : sum;
          norm2 += value[a][b][c] * value[a][b][c];
        }
    const double factor = constexpr_sqrt((2 * L3 + 1) / norm2);
    for (auto& plane : value)
      for (auto& row : plane)
        for (double& entry : row) entry *= factor;
  }
};

template <int L1, int L2, int L3>
struct CouplingTable {
  static constexpr Coupling<L1, L2, L3> value{};
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
