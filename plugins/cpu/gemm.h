// C = A B for node arrays: A and C stay in their tiled layout, B is packed once when the model is loaded.
//
// A is given as K-segments of W channels; within a segment consecutive rows are W apart, so an element of A is one
// broadcast from a constant offset. B is packed in column blocks of up to kBlockTiles tiles: [block][k][tiles * W].
#pragma once

#include "simd.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kBlockTiles = MACE_MD_VECTOR_BYTES == 64 ? 4 : 3;

// Column blocks of n tiles, as equal as possible: 8 -> 4 + 4, 6 -> 3 + 3.
constexpr int column_blocks(int n) { return (n + kBlockTiles - 1) / kBlockTiles; }
constexpr int column_block_begin(int n, int block) { return n * block / column_blocks(n); }

// b(k, column) for k < n_k, column < n_columns; k and columns are padded with zeros to multiples of W.
template <class Element>
static inline void pack_gemm(int n_k, int n_columns, Element&& element, Real* packed) {
  int n = tiles(n_columns);
  for (int block = 0; block < column_blocks(n); ++block) {
    int begin = column_block_begin(n, block) * W, end = column_block_begin(n, block + 1) * W;
    for (int k = 0; k < padded(n_k); ++k)
      for (int column = begin; column < end; ++column)
        *packed++ = k < n_k && column < n_columns ? static_cast<Real>(element(k, column)) : Real(0);
  }
}

template <int ROWS, int TILES>
static MACE_MD_INLINE void gemm_block(const Real* a, const int64_t* segments, int n_segments, const Real* b, Real* c,
                                      const int64_t* out) {
  V acc[ROWS][TILES];
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    MACE_MD_UNROLL
    for (int t = 0; t < TILES; ++t) acc[r][t] = zero();
  }
  for (int s = 0; s < n_segments; ++s) {
    const Real* x = a + segments[s];
    for (int k = 0; k < W; ++k) {
      V column[TILES];
      MACE_MD_UNROLL
      for (int t = 0; t < TILES; ++t) column[t] = load(b + t * W);
      MACE_MD_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        Real value = x[r * W + k];
        MACE_MD_UNROLL
        for (int t = 0; t < TILES; ++t) acc[r][t] += column[t] * value;
      }
      b += TILES * W;
    }
  }
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    MACE_MD_UNROLL
    for (int t = 0; t < TILES; ++t) store(c + out[t] + r * W, acc[r][t]);
  }
}

template <int TILES>
static MACE_MD_NOINLINE void gemm_columns(int n_rows, const Real* a, const int64_t* segments, int n_segments,
                                          const Real* b, Real* c, const int64_t* out) {
  constexpr int kRows = MACE_MD_VECTOR_BYTES == 64 ? (TILES == 4   ? 6
                                                      : TILES == 3 ? 8
                                                      : TILES == 2 ? 12
                                                                   : 16)
                                                   : (TILES == 3   ? 4
                                                      : TILES == 2 ? 6
                                                                   : 10);
  int row = 0;
  for (; row + kRows <= n_rows; row += kRows)
    gemm_block<kRows, TILES>(a + row * W, segments, n_segments, b, c + row * W, out);
  for (; row + 4 <= n_rows; row += 4) gemm_block<4, TILES>(a + row * W, segments, n_segments, b, c + row * W, out);
  for (; row < n_rows; ++row) gemm_block<1, TILES>(a + row * W, segments, n_segments, b, c + row * W, out);
}

// segments[n_segments]: offsets into a; out[n_out]: offset of each tile of columns into c. Overwrites c.
static inline void gemm(int n_rows, const Real* a, const int64_t* segments, int n_segments, const Real* packed, Real* c,
                        const int64_t* out, int n_out) {
  for (int block = 0; block < column_blocks(n_out); ++block) {
    int begin = column_block_begin(n_out, block), n = column_block_begin(n_out, block + 1) - begin;
    if (n == 4) gemm_columns<4>(n_rows, a, segments, n_segments, packed, c, out + begin);
    if (n == 3) gemm_columns<3>(n_rows, a, segments, n_segments, packed, c, out + begin);
    if (n == 2) gemm_columns<2>(n_rows, a, segments, n_segments, packed, c, out + begin);
    if (n == 1) gemm_columns<1>(n_rows, a, segments, n_segments, packed, c, out + begin);
    packed += static_cast<size_t>(n_segments) * W * n * W;
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
