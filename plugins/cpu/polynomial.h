// The symmetric contraction: M[LM] = sum over monomials of w * A[lm] A[lm'] A[lm''], a sparse polynomial in each
// channel.
//
// The monomials come as a program that shares the products of pairs: a cubic term is a pair times a third factor, so
//   M[LM] = sum w x_a + sum over pairs p = x_a x_b of p * (w2 + sum_c w3 x_c)
// The program is interpreted for four atoms of one type at a time, which makes its decoding and the loads of the
// weights cheap: as fast as generated straight-line code (which spills its 32 gradients and inputs) without code for
// each shape.
//
// int32 program: n_outputs, n_linear, n_pairs; linear: (LM, a); pair: a, b, n_groups; group: LM, quadratic (0 or 1),
// n_cubic, then the third factors. Weights follow the program: one a linear term, then for each group the quadratic and
// the cubic ones.
#pragma once

#include "simd.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kAtomsAtOnce = 4;
constexpr int kMaxComponents = 16;

// N atoms: x[component][N] -> m[LM][N]
template <int N>
static MACE_MD_INLINE void polynomial(const int32_t* program, const Real* w, const V (*x)[N], V (*m)[N]) {
  const int n_outputs = program[0], n_linear = program[1], n_pairs = program[2];
  program += 3;
  for (int o = 0; o < n_outputs; ++o) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) m[o][k] = zero();
  for (int i = 0; i < n_linear; ++i, program += 2, w += W) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) m[program[0]][k] += load(w) * x[program[1]][k];
  for (int i = 0; i < n_pairs; ++i) {
    const V *a = x[program[0]], *b = x[program[1]];
    int n_groups = program[2];
    program += 3;
    V pair[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) pair[k] = a[k] * b[k];
    for (int group = 0; group < n_groups; ++group) {
      V* out = m[program[0]];
      bool quadratic = program[1] != 0;
      int n_cubic = program[2];
      program += 3;
      V inner[N];
      V first = quadratic ? load(w) : zero();
      if (quadratic) w += W;
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) inner[k] = first;
      for (int c = 0; c < n_cubic; ++c, w += W) {
        const V* third = x[*program++];
        V weight = load(w);
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) inner[k] += weight * third[k];
      }
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) out[k] += pair[k] * inner[k];
    }
  }
}

// The gradient g[component][N] of sum_LM adjoint[LM] M[LM]; with one output also the value m[0][N].
template <int N, bool VALUE>
static MACE_MD_INLINE void polynomial_gradient(const int32_t* program, const Real* w, const V (*x)[N], int n_x,
                                               const V (*adjoint)[N], V (*g)[N], V* value) {
  const int n_linear = program[1], n_pairs = program[2];
  program += 3;
  for (int i = 0; i < n_x; ++i) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) g[i][k] = zero();
  if (VALUE) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) value[k] = zero();
  for (int i = 0; i < n_linear; ++i, program += 2, w += W) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) {
    g[program[1]][k] += load(w) * adjoint[program[0]][k];
    if (VALUE) value[k] += load(w) * x[program[1]][k];
  }
  for (int i = 0; i < n_pairs; ++i) {
    const int ia = program[0], ib = program[1];
    int n_groups = program[2];
    program += 3;
    V pair[N], pair_adjoint[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      pair[k] = x[ia][k] * x[ib][k];
      pair_adjoint[k] = zero();
    }
    for (int group = 0; group < n_groups; ++group) {
      const V* up = adjoint[program[0]];
      bool quadratic = program[1] != 0;
      int n_cubic = program[2];
      program += 3;
      V inner[N], scaled[N];
      V first = quadratic ? load(w) : zero();
      if (quadratic) w += W;
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) {
        inner[k] = first;
        scaled[k] = up[k] * pair[k];
      }
      for (int c = 0; c < n_cubic; ++c, w += W) {
        const V* third = x[*program];
        V* gradient = g[*program++];
        V weight = load(w);
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) {
          inner[k] += weight * third[k];
          gradient[k] += weight * scaled[k];
        }
      }
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) {
        pair_adjoint[k] += up[k] * inner[k];
        if (VALUE) value[k] += pair[k] * inner[k];
      }
    }
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      g[ia][k] += pair_adjoint[k] * x[ib][k];
      g[ib][k] += pair_adjoint[k] * x[ia][k];
    }
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
