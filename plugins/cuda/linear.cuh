// Products of node features with weight matrices, for the atoms of a tile (of one type) and one component (l, m) at a
// time: 32 rows by 64 columns a block of 128 threads, 4 x 4 a thread, through shared memory.
#pragma once

#include "convolution.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kTileColumns = 64, kTileDepth = 16, kLinearThreads = 128;
constexpr int kRowPitch = kTileAtoms + 4, kColumnPitch = kTileColumns + 4;

struct LinearTile {
  int l, width;            // 2l + 1 rows an atom
  const int* slots;        // of the tile
  int first_row;           // the 32 rows of the block among the 32 * width of the tile
  Real *rows, *columns;    // shared: [kTileDepth][kRowPitch], [kTileDepth][kColumnPitch]
};

static MACE_MD_INLINE LinearTile linear_tile(const Arguments& s, Real* rows, Real* columns) {
  LinearTile tile;
  const int component = blockIdx.y;
  tile.l = component >= 9 ? 3 : (component >= 4 ? 2 : (component >= 1 ? 1 : 0));
  tile.width = 2 * tile.l + 1;
  tile.slots = s.slots + blockIdx.x * kTileAtoms;
  tile.first_row = (component - tile.l * tile.l) * kTileAtoms;
  tile.rows = rows;
  tile.columns = columns;
  return tile;
}

// out(atom, m, column, sum_k in(atom, m, k) W[k][column]); weight: [n_k][n_columns], or its transpose.
template <int N_K, int N_COLUMNS, bool TRANSPOSED, class In, class Out>
static MACE_MD_INLINE void multiply(const LinearTile& tile, const Real* weight, In&& in, Out&& out) {
  const int first_column = blockIdx.z * kTileColumns;
  if (first_column >= N_COLUMNS) return;
  const int row0 = threadIdx.x / 16 * 4, column0 = threadIdx.x % 16 * 4;
  Real sum[4][4] = {};
  for (int k0 = 0; k0 < N_K; k0 += kTileDepth) {
    for (int at = threadIdx.x; at < kTileAtoms * kTileDepth; at += kLinearThreads) {
      const int k = at % kTileDepth, row = at / kTileDepth, full = tile.first_row + row;
      const int atom = tile.slots[full / tile.width];
      tile.rows[k * kRowPitch + row] = atom >= 0 && k0 + k < N_K ? in(atom, full % tile.width, k0 + k) : Real(0);
    }
    for (int at = threadIdx.x; at < kTileColumns * kTileDepth; at += kLinearThreads) {
      const int k = TRANSPOSED ? at % kTileDepth : at / kTileColumns;
      const int column = TRANSPOSED ? at / kTileDepth : at % kTileColumns;
      const bool inside = k0 + k < N_K && first_column + column < N_COLUMNS;
      const long long place = TRANSPOSED ? static_cast<long long>(first_column + column) * N_K + k0 + k
                                         : static_cast<long long>(k0 + k) * N_COLUMNS + first_column + column;
      tile.columns[k * kColumnPitch + column] = inside ? weight[place] : Real(0);
    }
    __syncthreads();
    MACE_MD_UNROLL
    for (int k = 0; k < kTileDepth; ++k) {
      Real row[4], column[4];
      MACE_MD_UNROLL
      for (int n = 0; n < 4; ++n) {
        row[n] = tile.rows[k * kRowPitch + row0 + n];
        column[n] = tile.columns[k * kColumnPitch + column0 + n];
      }
      MACE_MD_UNROLL
      for (int a = 0; a < 4; ++a) {
        MACE_MD_UNROLL
        for (int b = 0; b < 4; ++b) sum[a][b] += row[a] * column[b];
      }
    }
    __syncthreads();
  }
  for (int a = 0; a < 4; ++a) {
    const int full = tile.first_row + row0 + a, atom = tile.slots[full / tile.width];
    if (atom < 0) continue;
    for (int b = 0; b < 4; ++b) {
      const int column = first_column + column0 + b;
      if (column < N_COLUMNS) out(atom, full % tile.width, column, sum[a][b]);
    }
  }
}

// Calls body(l as a type) for the l of this block.
template <int LMAX, class Body>
static MACE_MD_INLINE void with_l(int l, Body&& body) {
  if (l == LMAX)
    body(Lanes<LMAX>());
  else if constexpr (LMAX > 0)
    with_l<LMAX - 1>(l, body);
}

template <int N>
static constexpr int value_of(Lanes<N>) {
  return N;
}

// H = M0 W_h + bias, and the adjoint of H cleared for its sums.
MACE_MD_KERNEL(linear_h, kLinearThreads) {
  __shared__ Real rows[kTileDepth * kRowPitch];
  __shared__ Real columns[kTileDepth * kColumnPitch];
  const LinearTile tile = linear_tile(s, rows, columns);
  const int l = tile.l, type = s.tile_type[blockIdx.x];
  multiply<C, C2, false>(
      tile, s.wh + static_cast<long long>(l) * C * C2,
      [&](int atom, int m, int k) { return s.m0[(static_cast<long long>(atom) * kH + l * l + m) * C + k]; },
      [&](int atom, int m, int column, Real value) {
        const long long at = (static_cast<long long>(atom) * kH + l * l + m) * C2 + column;
        s.h[at] = l == 0 ? value + s.bias_h[type * C2 + column] : value;
        if constexpr (MACE_MD_DETERMINISTIC != 0)
          static_cast<long long*>(s.h_adjoint)[at] = 0;
        else
          static_cast<Real*>(s.h_adjoint)[at] = 0;
      });
}

// dE/dM0 = dE/dH W_h^T, and what the readouts add.
MACE_MD_KERNEL(linear_h_reverse, kLinearThreads) {
  __shared__ Real rows[kTileDepth * kRowPitch];
  __shared__ Real columns[kTileDepth * kColumnPitch];
  const LinearTile tile = linear_tile(s, rows, columns);
  const int l = tile.l;
  multiply<C2, C, true>(
      tile, s.wh + static_cast<long long>(l) * C * C2,
      [&](int atom, int m, int k) {
        const long long at = (static_cast<long long>(atom) * kH + l * l + m) * C2 + k;
        if constexpr (MACE_MD_DETERMINISTIC != 0)
          return static_cast<Real>(static_cast<double>(static_cast<const long long*>(s.h_adjoint)[at]) /
                                   kFixedPoint);
        else
          return static_cast<const Real*>(s.h_adjoint)[at];
      },
      [&](int atom, int m, int column, Real value) {
        if (l == 0) value += s.m0_readout_adjoint[static_cast<long long>(atom) * C + column];
        s.m0_adjoint[(static_cast<long long>(atom) * kH + l * l + m) * C + column] = value;
      });
}

// Where the matrices of degree l begin in the section of all W_a.
constexpr long long mixing_start(int l) {
  long long start = 0;
  for (int k = 0; k < l; ++k)
    start += static_cast<long long>(MACE_MD_MIX_BY_TYPE ? kTypes : 1) * Table::value.paths_to[k] * C2 * C;
  return start;
}

template <int LL>
static MACE_MD_INLINE const Real* mixing_weight(const Arguments& s, int type) {
  constexpr long long kStart = mixing_start(LL), kSize = static_cast<long long>(Table::value.paths_to[LL]) * C2 * C;
  return s.wa + kStart + (MACE_MD_MIX_BY_TYPE ? type * kSize : 0);
}

template <int LL>
static MACE_MD_INLINE long long phi_at(int atom, int m, int k) {
  constexpr int kStart = Table::value.component_start[LL];
  return (static_cast<long long>(atom) * kComponents + kStart + k / C2 * (2 * LL + 1) + m) * C2 + k % C2;
}

static MACE_MD_INLINE long long a_at(int atom, int l, int m, int c) {
  return (static_cast<long long>(atom) * kA + l * l + m) * C + c;
}

// A1[l] = Phi[l] W_a[l]
MACE_MD_KERNEL(mix, kLinearThreads) {
  __shared__ Real rows[kTileDepth * kRowPitch];
  __shared__ Real columns[kTileDepth * kColumnPitch];
  const LinearTile tile = linear_tile(s, rows, columns);
  const int type = s.tile_type[blockIdx.x];
  with_l<kEll>(tile.l, [&](auto degree) {
    constexpr int kDegree = value_of(decltype(degree)());
    multiply<Table::value.paths_to[kDegree] * C2, C, false>(
        tile, mixing_weight<kDegree>(s, type),
        [&](int atom, int m, int k) { return s.phi[phi_at<kDegree>(atom, m, k)]; },
        [&](int atom, int m, int column, Real value) { s.a1[a_at(atom, kDegree, m, column)] = value; });
  });
}

// dE/dPhi = dE/dA1 W_a^T
MACE_MD_KERNEL(mix_reverse, kLinearThreads) {
  __shared__ Real rows[kTileDepth * kRowPitch];
  __shared__ Real columns[kTileDepth * kColumnPitch];
  const LinearTile tile = linear_tile(s, rows, columns);
  const int type = s.tile_type[blockIdx.x];
  with_l<kEll>(tile.l, [&](auto degree) {
    constexpr int kDegree = value_of(decltype(degree)());
    multiply<C, Table::value.paths_to[kDegree] * C2, true>(
        tile, mixing_weight<kDegree>(s, type),
        [&](int atom, int m, int k) { return s.a_adjoint[a_at(atom, kDegree, m, k)]; },
        [&](int atom, int m, int column, Real value) { s.phi[phi_at<kDegree>(atom, m, column)] = value; });
  });
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
