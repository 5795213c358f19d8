// Vectors of `Real` as wide as the instruction set, through the compiler's vector extension: one source for every
// target.
//
// This header and those that include it are compiled once for each target (instruction set and precision), in its
// namespace, and use nothing inline of the standard library: the linker merges such functions and could keep the copy
// that this machine cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../sequence.h"

#if defined(__AVX512F__)
#define MACE_MD_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define MACE_MD_VECTOR_BYTES 32
#else
#define MACE_MD_VECTOR_BYTES 16
#endif

#define MACE_MD_INLINE inline __attribute__((always_inline))
#define MACE_MD_NOINLINE __attribute__((noinline))
#define MACE_MD_UNROLL _Pragma("GCC unroll 64")

namespace mace_md {
namespace MACE_MD_TARGET {

using Real = MACE_MD_REAL;
typedef Real V __attribute__((vector_size(MACE_MD_VECTOR_BYTES), may_alias));
constexpr int W = MACE_MD_VECTOR_BYTES / sizeof(Real);  // lanes; also the number of channels in a tile
// Accumulators that fit the register file beside the operands of a loop.
constexpr int kAccumulators = MACE_MD_VECTOR_BYTES == 64 ? 24 : 12;

static MACE_MD_INLINE V load(const Real* p) { return *reinterpret_cast<const V*>(p); }
static MACE_MD_INLINE void store(Real* p, V v) { *reinterpret_cast<V*>(p) = v; }
static MACE_MD_INLINE V zero() { return V{}; }

constexpr int padded(int n) { return (n + W - 1) / W * W; }
constexpr int tiles(int n) { return (n + W - 1) / W; }

// One level of a transposing sum: two vectors of partial sums become one, in which there are half as many partial sums
// of twice as many quantities. Chunks of C lanes are added even to odd; below 128 bits the pairing stays inside the
// 128-bit lanes, where shuffles are cheap.
template <int C>
struct Halves {
  static constexpr int kLane = 16 / sizeof(Real);
  static constexpr int kBlock = C >= kLane ? W : kLane;
  static constexpr int source(int position, int odd) {
    int block = position / kBlock, p = position % kBlock, q = p % (kBlock / 2);
    return block * kBlock + (2 * (q / C) + odd) * C + q % C + (p < kBlock / 2 ? 0 : W);
  }
};

template <int C, int... I>
static MACE_MD_INLINE V add_halves(V x, V y, Lanes<I...>) {
  return __builtin_shufflevector(x, y, Halves<C>::source(I, 0)...) +
         __builtin_shufflevector(x, y, Halves<C>::source(I, 1)...);
}

// N vectors to N / 2, then on: first inside the 128-bit lanes, C = 2, 1, then across them, C = W / 2 ... kLane, when
// only a few vectors are left.
template <int N, int C>
static MACE_MD_INLINE void transposing_sum_levels(V* v) {
  constexpr int kLane = Halves<C>::kLane;
  MACE_MD_UNROLL
  for (int i = 0; i < N / 2; ++i) v[i] = add_halves<C>(v[i], v[i + N / 2], typename MakeLanes<W>::type());
  if constexpr (N > 2) transposing_sum_levels<N / 2, C == 1 ? W / 2 : C / 2>(v);
  static_assert(N > 2 || C == (W > kLane ? kLane : 1));
}

// The sums over the lanes of W vectors, in the lanes of one vector: lane n holds the sum of vector sum_order(n).
// Overwrites its input.
static MACE_MD_INLINE V transposing_sum(V* v) {
  transposing_sum_levels<W, Halves<1>::kLane / 2>(v);
  return v[0];
}

// Found by reducing vectors that are marked with their number.
static inline void sum_order(int* order) {
  V marks[W];
  for (int i = 0; i < W; ++i) {
    marks[i] = zero();
    marks[i][0] = static_cast<Real>(i);
  }
  V lanes = transposing_sum(marks);
  for (int lane = 0; lane < W; ++lane) order[lane] = static_cast<int>(lanes[lane]);
}

static MACE_MD_INLINE Real sum(V v) {
  Real total = 0;
  for (int lane = 0; lane < W; ++lane) total += v[lane];
  return total;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
