// Where the features of atoms and the matrices between them lie in memory.
#pragma once

#include "convolution.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

// H, with its bias
static MACE_MD_INLINE void store_h(const Arguments& s, int atom, int type, int lm, int column, Real value) {
  const long long at = (static_cast<long long>(atom) * kH + lm) * C2 + column;
  s.h[at] = lm == 0 ? value + s.bias_h[type * C2 + column] : value;
  if constexpr (MACE_MD_DETERMINISTIC != 0)  // cleared for its sums
    static_cast<long long*>(s.h_adjoint)[at] = 0;
  else
    static_cast<Real*>(s.h_adjoint)[at] = 0;
}

static MACE_MD_INLINE Real load_h_adjoint(const Arguments& s, int atom, int lm, int k) {
  const long long at = (static_cast<long long>(atom) * kH + lm) * C2 + k;
  if constexpr (MACE_MD_DETERMINISTIC != 0)
    return static_cast<Real>(static_cast<double>(static_cast<const long long*>(s.h_adjoint)[at]) / kFixedPoint);
  else
    return static_cast<const Real*>(s.h_adjoint)[at];
}

// Where the matrices of degree l begin in the section of all W_a.
constexpr long long mixing_start(int l) {
  long long start = 0;
  for (int k = 0; k < l; ++k)
    start += static_cast<long long>(MACE_MD_MIX_BY_TYPE ? kTypes : 1) * Table::value.paths_to[k] * C2 * C;
  return start;
}

// Of degree LL for a type, in s.wa or s.wa_reverse.
template <int LL>
static MACE_MD_INLINE const Real* mixing_weight(const Real* all, int type) {
  constexpr long long kStart = mixing_start(LL), kSize = static_cast<long long>(Table::value.paths_to[LL]) * C2 * C;
  return all + kStart + (MACE_MD_MIX_BY_TYPE ? type * kSize : 0);
}

// k: a path to LL, and its channel.
template <int LL>
static MACE_MD_INLINE long long phi_at(int atom, int m, int k) {
  constexpr int kStart = Table::value.component_start[LL];
  return (static_cast<long long>(atom) * kComponents + kStart + k / C2 * (2 * LL + 1) + m) * C2 + k % C2;
}

static MACE_MD_INLINE long long a_at(int atom, int lm, int c) {
  return (static_cast<long long>(atom) * kA + lm) * C + c;
}
static MACE_MD_INLINE long long m0_at(int atom, int lm, int c) {
  return (static_cast<long long>(atom) * kH + lm) * C + c;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
