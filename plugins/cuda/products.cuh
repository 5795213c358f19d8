// Products of weights with the features of a few atoms that a block has in shared memory.
//
// rows [WIDTH][kFusedAtoms][kPitch], WIDTH = 2l + 1 components of degree l, times weight [K][COLUMNS] of that degree.
// Two ways to do it, with the same interface: sums of one atom a warp with multiply-adds, or tiles of tensor cores.
#pragma once

#include "device.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kFusedWarps = kFusedThreads / kWarp;
constexpr int kPitch = fused_pitch(C, C2);
static_assert(kFusedWarps == kFusedAtoms && kTileAtoms % kFusedAtoms == 0);

// A warp has an atom, a lane every 32nd column. A weight that was loaded serves WIDTH sums, a row of weights the warps
// one after the other, from L1.
template <int WIDTH, int COLUMNS>
struct MultiplyAdd {
  static constexpr int kPer = warps(COLUMNS);
  Real sum[WIDTH][kPer] = {};

  // LINE: from one row of the weights to the next.
  template <int K, int LINE>
  MACE_MD_INLINE void add(const Real* rows, const Real* weight) {
    const Real* x_at = rows + threadIdx.x / kWarp * kPitch;
    for (int k0 = 0; k0 < K; k0 += 4) {
      Real x[WIDTH][4];
      MACE_MD_UNROLL
      for (int m = 0; m < WIDTH; ++m) load4(x_at + m * kFusedAtoms * kPitch + k0, x[m]);
      MACE_MD_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (K % 4 != 0 && k0 + k >= K) break;
        MACE_MD_UNROLL
        for (int j = 0; j < kPer; ++j) {
          const int column = lane() + j * kWarp;
          const Real w = COLUMNS % kWarp == 0 || column < COLUMNS ? weight[(k0 + k) * LINE + column] : Real(0);
          MACE_MD_UNROLL
          for (int m = 0; m < WIDTH; ++m) sum[m][j] += x[m][k] * w;
        }
      }
    }
  }

  // Calls out(atom of the block, m, column, sum).
  template <class Out>
  MACE_MD_INLINE void write(Out&& out) const {
    MACE_MD_UNROLL
    for (int j = 0; j < kPer; ++j) {
      const int column = lane() + j * kWarp;
      if (COLUMNS % kWarp != 0 && column >= COLUMNS) continue;
      MACE_MD_UNROLL
      for (int m = 0; m < WIDTH; ++m) out(static_cast<int>(threadIdx.x / kWarp), m, column, sum[m][j]);
    }
  }
};

#if MACE_MD_TENSOR_CORES

// A float as the sum of two numbers of TF32: 11 bits of its mantissa, and the 11 that follow.
struct Split {
  unsigned big, small;
  explicit MACE_MD_INLINE Split(float value) {
    constexpr unsigned kKept = 0xffffe000u;
    big = __float_as_uint(value) & kKept;
    small = __float_as_uint(value - __uint_as_float(big)) & kKept;
  }
};

// d += a b for a tile of 16 x 8 numbers, 8 deep, by a warp. With g = lane / 4 and t = lane % 4: a holds (g, t), (g + 8,
// t), (g, t + 4), (g + 8, t + 4); b holds (t, g), (t + 4, g); d holds (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t +
// 1).
static MACE_MD_INLINE void multiply_tile(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                         unsigned b1) {
#ifdef MACE_MD_EMULATION
  emulated_multiply_tile(d, a0, a1, a2, a3, b0, b1);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

// 3xTF32: of the four products of two split factors the three that matter (Ootomo and Yokota, Int. J. High Perform.
// Comput. Appl. 36, 475 (2022)). Tensor cores cut off what they add, so they add 24 terms, and the sums are made
// outside. A warp has 16 columns (the rows of a tile) of all atoms (its columns), one component at a time.
template <int WIDTH, int COLUMNS>
struct TensorCores {
  static constexpr int kTile = 16, kDepth = 8, kPer = (COLUMNS / kTile + kFusedWarps - 1) / kFusedWarps;
  static_assert(COLUMNS % kTile == 0);
  float sum[kPer][WIDTH][4] = {};

  static MACE_MD_INLINE int first_column(int j) {
    return (static_cast<int>(threadIdx.x / kWarp) + j * kFusedWarps) * kTile;
  }

  template <int K, int LINE>
  MACE_MD_INLINE void add(const float* rows, const float* weight) {
    static_assert(K % kDepth == 0);
    const int g = lane() / 4, t = lane() % 4;
    MACE_MD_UNROLL
    for (int j = 0; j < kPer; ++j) {
      if (first_column(j) >= COLUMNS) continue;
      const float* w = weight + t * LINE + first_column(j) + g;
      const float* x = rows + g * kPitch + t;
      MACE_MD_UNROLL_BY(2)
      for (int k0 = 0; k0 < K; k0 += kDepth, w += kDepth * LINE, x += kDepth) {
        const Split a0(w[0]), a1(w[8]), a2(w[4 * LINE]), a3(w[4 * LINE + 8]);
        MACE_MD_UNROLL
        for (int m = 0; m < WIDTH; ++m) {
          const Split b0(x[m * kFusedAtoms * kPitch]), b1(x[m * kFusedAtoms * kPitch + 4]);
          float d[4] = {};
          multiply_tile(d, a0.small, a1.small, a2.small, a3.small, b0.big, b1.big);
          multiply_tile(d, a0.big, a1.big, a2.big, a3.big, b0.small, b1.small);
          multiply_tile(d, a0.big, a1.big, a2.big, a3.big, b0.big, b1.big);
          MACE_MD_UNROLL
          for (int n = 0; n < 4; ++n) sum[j][m][n] += d[n];
        }
      }
    }
  }

  template <class Out>
  MACE_MD_INLINE void write(Out&& out) const {
    MACE_MD_UNROLL
    for (int j = 0; j < kPer; ++j) {
      if (first_column(j) >= COLUMNS) continue;
      MACE_MD_UNROLL
      for (int m = 0; m < WIDTH; ++m) {
        MACE_MD_UNROLL
        for (int n = 0; n < 4; ++n)
          out(lane() % 4 * 2 + n % 2, m, first_column(j) + lane() / 4 + n / 2 * 8, sum[j][m][n]);
      }
    }
  }
};

template <int WIDTH, int COLUMNS>
using Product = TensorCores<WIDTH, COLUMNS>;
#else
template <int WIDTH, int COLUMNS>
using Product = MultiplyAdd<WIDTH, COLUMNS>;
#endif

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
