// Products of node features with weight matrices, for the atoms of a tile (of one type) and one component (l, m) at a
// time: 32 rows by 64 columns a block of 128 threads, 4 x 4 a thread, through shared memory.
#pragma once

#include "features.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kTileColumns = 64, kTileDepth = 16, kLinearThreads = 128;
constexpr int kRowPitch = kTileAtoms + 4, kColumnPitch = kTileColumns + 4;
constexpr int kRowLoads = kTileAtoms * kTileDepth / kLinearThreads;
constexpr int kColumnLoads = kTileColumns * kTileDepth / kLinearThreads;

// What a block has in shared memory: two pieces of either factor, one in use and one on its way.
struct LinearMemory {
  alignas(16) Real rows[2][kTileDepth * kRowPitch];
  alignas(16) Real columns[2][kTileDepth * kColumnPitch];
};

struct LinearTile {
  int l, width;      // 2l + 1 rows an atom
  const int* slots;  // of the tile
  int first_row;     // the 32 rows of the block among the 32 * width of the tile
};

static MACE_MD_INLINE LinearTile linear_tile(const Arguments& s) {
  LinearTile tile;
  const int component = blockIdx.y;
  tile.l = component >= 9 ? 3 : (component >= 4 ? 2 : (component >= 1 ? 1 : 0));
  tile.width = 2 * tile.l + 1;
  tile.slots = s.slots + blockIdx.x * kTileAtoms;
  tile.first_row = (component - tile.l * tile.l) * kTileAtoms;
  return tile;
}

// out(atom, m, column, sum_k in(atom, m, k) weight[k][column]); weight: [N_K][N_COLUMNS].
template <int N_K, int N_COLUMNS, class In, class Out>
static MACE_MD_INLINE void multiply(const LinearTile& tile, LinearMemory& memory, const Real* weight, In&& in,
                                    Out&& out) {
  const int first_column = blockIdx.z * kTileColumns;
  if (first_column >= N_COLUMNS) return;
  Real row_piece[kRowLoads], column_piece[kColumnLoads];
  auto load = [&](int k0) {
    MACE_MD_UNROLL
    for (int n = 0; n < kRowLoads; ++n) {
      const int at = threadIdx.x + n * kLinearThreads, k = k0 + at % kTileDepth,
                full = tile.first_row + at / kTileDepth;
      const int atom = tile.slots[full / tile.width];
      row_piece[n] = atom >= 0 && k < N_K ? in(atom, full % tile.width, k) : Real(0);
    }
    MACE_MD_UNROLL
    for (int n = 0; n < kColumnLoads; ++n) {
      const int at = threadIdx.x + n * kLinearThreads;
      const int k = k0 + at / kTileColumns, column = first_column + at % kTileColumns;
      column_piece[n] = k < N_K && column < N_COLUMNS ? weight[k * N_COLUMNS + column] : Real(0);
    }
  };
  auto store = [&](int half) {
    MACE_MD_UNROLL
    for (int n = 0; n < kRowLoads; ++n) {
      const int at = threadIdx.x + n * kLinearThreads;
      memory.rows[half][at % kTileDepth * kRowPitch + at / kTileDepth] = row_piece[n];
    }
    MACE_MD_UNROLL
    for (int n = 0; n < kColumnLoads; ++n) {
      const int at = threadIdx.x + n * kLinearThreads;
      memory.columns[half][at / kTileColumns * kColumnPitch + at % kTileColumns] = column_piece[n];
    }
  };
  const int row0 = threadIdx.x / 16 * 4, column0 = threadIdx.x % 16 * 4;
  Real sum[4][4] = {};
  load(0);
  store(0);
  __syncthreads();
  for (int k0 = 0; k0 < N_K; k0 += kTileDepth) {
    const int half = k0 / kTileDepth % 2;
    const bool more = k0 + kTileDepth < N_K;
    if (more) load(k0 + kTileDepth);  // while this piece is multiplied
    MACE_MD_UNROLL
    for (int k = 0; k < kTileDepth; ++k) {
      Real row[4], column[4];
      load4(memory.rows[half] + k * kRowPitch + row0, row);
      load4(memory.columns[half] + k * kColumnPitch + column0, column);
      MACE_MD_UNROLL
      for (int a = 0; a < 4; ++a) {
        MACE_MD_UNROLL
        for (int b = 0; b < 4; ++b) sum[a][b] += row[a] * column[b];
      }
    }
    if (more) store(1 - half);
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

// H = M0 W_h + bias
MACE_MD_KERNEL(linear_h, kLinearThreads) {
  __shared__ LinearMemory memory;
  const LinearTile tile = linear_tile(s);
  const int l = tile.l, type = s.tile_type[blockIdx.x];
  multiply<C, C2>(
      tile, memory, s.wh + l * C * C2, [&](int atom, int m, int k) { return s.m0[m0_at(atom, l * l + m, k)]; },
      [&](int atom, int m, int column, Real value) { store_h(s, atom, type, l * l + m, column, value); });
}

// dE/dM0 = dE/dH W_h^T, and what the readouts add
MACE_MD_KERNEL(linear_h_reverse, kLinearThreads) {
  __shared__ LinearMemory memory;
  const LinearTile tile = linear_tile(s);
  const int l = tile.l;
  multiply<C2, C>(
      tile, memory, s.wh_reverse + l * C * C2,
      [&](int atom, int m, int k) { return load_h_adjoint(s, atom, l * l + m, k); },
      [&](int atom, int m, int column, Real value) {
        if (l == 0) value += s.m0_readout_adjoint[static_cast<long long>(atom) * C + column];
        s.m0_adjoint[m0_at(atom, l * l + m, column)] = value;
      });
}

// A1[l] = Phi[l] W_a[l]
MACE_MD_KERNEL(mix, kLinearThreads) {
  __shared__ LinearMemory memory;
  const LinearTile tile = linear_tile(s);
  const int type = s.tile_type[blockIdx.x];
  with_l<kEll>(tile.l, [&](auto degree) {
    constexpr int kDegree = value_of(decltype(degree)());
    multiply<Table::value.paths_to[kDegree] * C2, C>(
        tile, memory, mixing_weight<kDegree>(s.wa, type),
        [&](int atom, int m, int k) { return s.phi[phi_at<kDegree>(atom, m, k)]; },
        [&](int atom, int m, int column, Real value) {
          s.a_adjoint[a_at(atom, kDegree * kDegree + m, column)] = value;
        });
  });
}

// dE/dPhi = dE/dA1 W_a^T
MACE_MD_KERNEL(mix_reverse, kLinearThreads) {
  __shared__ LinearMemory memory;
  const LinearTile tile = linear_tile(s);
  const int type = s.tile_type[blockIdx.x];
  with_l<kEll>(tile.l, [&](auto degree) {
    constexpr int kDegree = value_of(decltype(degree)());
    multiply<C, Table::value.paths_to[kDegree] * C2>(
        tile, memory, mixing_weight<kDegree>(s.wa_reverse, type),
        [&](int atom, int m, int k) { return s.a_adjoint[a_at(atom, kDegree * kDegree + m, k)]; },
        [&](int atom, int m, int column, Real value) { s.phi[phi_at<kDegree>(atom, m, column)] = value; });
  });
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
