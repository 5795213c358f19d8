// The two convolutions over neighbours, forward and reverse, for one receiver and one tile of channels.
//
// Both directions are owned by the receiver: forward keeps its sums in registers through the loop over edges, reverse
// keeps its adjoints (registers or L1) and scatters the adjoint of the sender's features. Per edge the reverse also
// yields, summed over channels, q[lm] = dE/dY_lm and the derivative of the energy with respect to the distance, in knot
// spacings.
#pragma once

#include "../paths.h"
#include "radial.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int squared(int n) { return n * n; }

template <int ELL>
struct alignas(64) Edge {
  int32_t atom;  // sender
  int32_t row0;  // first rows of the radial tables of the two layers
  int32_t row1;
  Real w[kSupport], dw[kSupport];  // spline weights and their derivatives
  Real y[squared(ELL + 1)];
};

// Sums of the reverse over channels, one record an edge: q in the order of q_position(), then the derivative by lanes.
template <int ELL>
struct EdgeSums {
  static constexpr int kBatches = tiles(squared(ELL + 1));
  static constexpr int kSize = (kBatches + 1) * W;
  static MACE_MD_INLINE void add(Real* record, V* q, V derivative, bool first) {
    MACE_MD_UNROLL
    for (int batch = 0; batch < kBatches; ++batch) {
      V sums = transposing_sum(q + batch * W);
      store(record + batch * W, first ? sums : load(record + batch * W) + sums);
    }
    Real* lanes = record + kBatches * W;
    store(lanes, first ? derivative : load(lanes) + derivative);
  }
  // position[lm]: where the sum for lm is in the record
  static void q_position(int* position) {
    int order[W];
    sum_order(order);
    for (int lm = 0; lm < squared(ELL + 1); ++lm)
      for (int lane = 0; lane < W; ++lane)
        if (order[lane] == lm % W) position[lm] = lm / W * W + lane;
  }
};

// Node arrays of a block of n atoms: [l][atom][m][W], so that the rows (atom, m) of one l follow each other.
static MACE_MD_INLINE size_t node_offset(int l, int n_atoms, int atom) {
  return (static_cast<size_t>(l) * l * n_atoms + static_cast<size_t>(atom) * (2 * l + 1)) * W;
}

// ---- layer 1: A[lm] = sum_j R_l Y_lm
// ------------------------------------------------------------------------------------

template <int ELL, int LFIRST, int LLAST>
static MACE_MD_INLINE void conv1_forward_group(const Edge<ELL>* edges, int n, const Real* table, Real scale, Real* out,
                                               int n_atoms, int atom) {
  constexpr int kFirst = LFIRST * LFIRST, kRows = squared(LLAST + 1) - kFirst;
  constexpr int kRow = (ELL + 1) * W;
  V a[kRows];
  MACE_MD_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = zero();
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row0) * kRow;
    const SplineWeights w = broadcast(edges[e].w);
    MACE_MD_UNROLL
    for (int l = LFIRST; l <= LLAST; ++l) {
      V r = radial<kRow>(c + l * W, w);
      MACE_MD_UNROLL
      for (int m = l * l; m < (l + 1) * (l + 1); ++m) a[m - kFirst] += r * edges[e].y[m];
    }
  }
  MACE_MD_UNROLL
  for (int l = LFIRST; l <= LLAST; ++l) {
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * l + 1; ++m)
      store(out + node_offset(l, n_atoms, atom) + m * W, a[l * l + m - kFirst] * scale);
  }
}

template <int ELL>
static MACE_MD_NOINLINE void conv1_forward(const Edge<ELL>* edges, int n, const Real* table, Real scale, Real* out,
                                           int n_atoms, int atom) {
  if constexpr (squared(ELL + 1) <= kAccumulators) {
    conv1_forward_group<ELL, 0, ELL>(edges, n, table, scale, out, n_atoms, atom);
  } else {
    conv1_forward_group<ELL, 0, ELL - 1>(edges, n, table, scale, out, n_atoms, atom);
    conv1_forward_group<ELL, ELL, ELL>(edges, n, table, scale, out, n_atoms, atom);
  }
}

// adjoint: dE/dA in node order; sums: one record an edge, overwritten by the first tile and added to by the others.
template <int ELL>
static MACE_MD_NOINLINE void conv1_reverse(const Edge<ELL>* edges, int n, const Real* table, Real scale,
                                           const Real* adjoint, int n_atoms, int atom, Real* sums, bool first) {
  constexpr int kRows = squared(ELL + 1);
  constexpr int kRow = (ELL + 1) * W;
  V g[kRows];
  MACE_MD_UNROLL
  for (int l = 0; l <= ELL; ++l) {
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * l + 1; ++m) g[l * l + m] = load(adjoint + node_offset(l, n_atoms, atom) + m * W) * scale;
  }
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row0) * kRow;
    const Real* y = edges[e].y;
    const SplineWeights w = broadcast(edges[e].w), dw = broadcast(edges[e].dw);
    V q[EdgeSums<ELL>::kBatches * W];
    V derivative = zero();
    MACE_MD_UNROLL
    for (int l = 0; l <= ELL; ++l) {
      V d, p = zero();
      V r = radial<kRow>(c + l * W, w, dw, d);
      MACE_MD_UNROLL
      for (int m = l * l; m < (l + 1) * (l + 1); ++m) {
        p += g[m] * y[m];
        q[m] = r * g[m];
      }
      derivative += d * p;
    }
    MACE_MD_UNROLL
    for (int m = kRows; m < EdgeSums<ELL>::kBatches * W; ++m) q[m] = zero();
    EdgeSums<ELL>::add(sums + static_cast<size_t>(e) * EdgeSums<ELL>::kSize, q, derivative, first);
  }
}

// ---- layer 2: rows[path, m1, m2] = sum_j R_path Y_l1m1 H_l2m2
// -------------------------------------------------------------

template <int ELL, int L, int P, int FIRST, int M2FIRST, int M2LAST>
static MACE_MD_INLINE void conv2_forward_path(const Real* c, const SplineWeights& w, const Real* y, const Real* h,
                                              V* acc) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kL1 = path.l1, kN1 = 2 * kL1 + 1;
  constexpr int kFirst = M2FIRST, kN2 = (M2LAST < 0 ? 2 * path.l2 + 1 : M2LAST) - M2FIRST;
  constexpr int kRow = path.row - PathTable<ELL, L>::value.path[FIRST].row;
  V r = radial<PathTable<ELL, L>::value.count * W>(c + P * W, w);
  V a[kN2];
  MACE_MD_UNROLL
  for (int m2 = 0; m2 < kN2; ++m2) a[m2] = r * load(h + (path.l2 * path.l2 + kFirst + m2) * W);
  MACE_MD_UNROLL
  for (int m1 = 0; m1 < kN1; ++m1) {
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) acc[kRow + m1 * kN2 + m2] += a[m2] * y[kL1 * kL1 + m1];
  }
}

// Paths P... (a run from FIRST) for m2 in [M2FIRST, M2LAST), M2LAST < 0 meaning all.
template <int ELL, int L, int FIRST, int M2FIRST, int M2LAST, int ROWS, int... P>
static MACE_MD_INLINE void conv2_forward_group(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                               Real* rows, Lanes<P...>) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  constexpr int kRow = kPaths.count * W;
  constexpr size_t kAtom = squared(L + 1) * W;
  V acc[ROWS];
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) acc[r] = zero();
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row1) * kRow;
    const Real* h = features + edges[e].atom * kAtom;
    const SplineWeights w = broadcast(edges[e].w);
    (conv2_forward_path<ELL, L, FIRST + P, FIRST, M2FIRST, M2LAST>(c, w, edges[e].y, h, acc), ...);
  }
  constexpr int kN2 = 2 * kPaths.path[FIRST].l2 + 1, kUsed = (M2LAST < 0 ? kN2 : M2LAST) - M2FIRST;
  Real* out = rows + kPaths.path[FIRST].row * W;
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) store(out + (M2LAST < 0 ? r : r / kUsed * kN2 + M2FIRST + r % kUsed) * W, acc[r]);
}

// A path with more rows than accumulators is walked in several passes, each for some of the m2.
template <int ELL, int L, int P, int M2FIRST>
static MACE_MD_INLINE void conv2_forward_split(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                               Real* rows) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1;
  constexpr int kPasses = (kN1 * kN2 + kAccumulators - 1) / kAccumulators;
  constexpr int kWide = (kN2 + kPasses - 1) / kPasses;
  constexpr int kLast = M2FIRST + kWide < kN2 ? M2FIRST + kWide : kN2;
  conv2_forward_group<ELL, L, P, M2FIRST, kLast, kN1*(kLast - M2FIRST)>(edges, n, features, table, rows, Lanes<0>());
  if constexpr (kLast < kN2) conv2_forward_split<ELL, L, P, kLast>(edges, n, features, table, rows);
}

template <int ELL, int L, int FIRST = 0>
static MACE_MD_INLINE void conv2_forward_groups(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                                Real* rows) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  if constexpr (FIRST < kPaths.count) {
    constexpr int kEnd = kPaths.group_end(FIRST, kAccumulators);
    constexpr int kRows = (kEnd < kPaths.count ? kPaths.path[kEnd].row : kPaths.rows) - kPaths.path[FIRST].row;
    if constexpr (kRows > kAccumulators)
      conv2_forward_split<ELL, L, FIRST, 0>(edges, n, features, table, rows);
    else
      conv2_forward_group<ELL, L, FIRST, 0, -1, kRows>(edges, n, features, table, rows,
                                                       typename MakeLanes<kEnd - FIRST>::type());
    conv2_forward_groups<ELL, L, kEnd>(edges, n, features, table, rows);
  }
}

// features: [atom][lm][W] of one tile, all atoms; rows: [rows][W].
template <int ELL, int L>
static MACE_MD_NOINLINE void conv2_forward(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                           Real* rows) {
  conv2_forward_groups<ELL, L>(edges, n, features, table, rows);
}

template <int ELL, int L, int P, int L1>
static MACE_MD_INLINE void conv2_reverse_path(const Real* c, const SplineWeights& w, const SplineWeights& dw,
                                              const Real* y, const Real* g, const Real* h, V* h_adjoint, V* q,
                                              V& derivative) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  if constexpr (path.l1 == L1) {
    constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kFirst = path.l2 * path.l2;
    V d, p[kN2], a[kN2];
    V r = radial<PathTable<ELL, L>::value.count * W>(c + P * W, w, dw, d);
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      a[m2] = r * load(h + (kFirst + m2) * W);
      p[m2] = zero();
    }
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) {
      Real y1 = y[path.l1 * path.l1 + m1];
      V sum = q[m1];
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) {
        V adjoint = load(g + (path.row + m1 * kN2 + m2) * W);
        p[m2] += adjoint * y1;
        sum += a[m2] * adjoint;
      }
      q[m1] = sum;
    }
    V s = zero();
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      h_adjoint[kFirst + m2] += r * p[m2];
      s += load(h + (kFirst + m2) * W) * p[m2];
    }
    derivative += d * s;
  }
}

template <int ELL, int L, int L1, int... P>
static MACE_MD_INLINE void conv2_reverse_l1(const Real* c, const SplineWeights& w, const SplineWeights& dw,
                                            const Real* y, const Real* g, const Real* h, V* h_adjoint, V* q,
                                            V& derivative, Lanes<P...> paths) {
  if constexpr (L1 <= ELL) {
    V sums[2 * L1 + 1];
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * L1 + 1; ++m) sums[m] = zero();
    (conv2_reverse_path<ELL, L, P, L1>(c, w, dw, y, g, h, h_adjoint, sums, derivative), ...);
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * L1 + 1; ++m) q[L1 * L1 + m] = sums[m];
    conv2_reverse_l1<ELL, L, L1 + 1>(c, w, dw, y, g, h, h_adjoint, q, derivative, paths);
  }
}

// adjoint: [rows][W] of the receiver; features_adjoint: as features, added to; sums: as in conv1_reverse.
template <int ELL, int L>
static MACE_MD_NOINLINE void conv2_reverse(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                           const Real* adjoint, Real* features_adjoint, Real* sums, bool first) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  constexpr int kRow = kPaths.count * W;
  constexpr int kH = squared(L + 1), kRows = squared(ELL + 1);
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row1) * kRow;
    const Real* h = features + edges[e].atom * static_cast<size_t>(kH * W);
    Real* out = features_adjoint + edges[e].atom * static_cast<size_t>(kH * W);
    const SplineWeights w = broadcast(edges[e].w), dw = broadcast(edges[e].dw);
    V h_adjoint[kH], q[EdgeSums<ELL>::kBatches * W];
    V derivative = zero();
    MACE_MD_UNROLL
    for (int m = 0; m < kH; ++m) h_adjoint[m] = load(out + m * W);
    conv2_reverse_l1<ELL, L, 0>(c, w, dw, edges[e].y, adjoint, h, h_adjoint, q, derivative,
                                typename MakeLanes<kPaths.count>::type());
    MACE_MD_UNROLL
    for (int m = 0; m < kH; ++m) store(out + m * W, h_adjoint[m]);
    MACE_MD_UNROLL
    for (int m = kRows; m < EdgeSums<ELL>::kBatches * W; ++m) q[m] = zero();
    EdgeSums<ELL>::add(sums + static_cast<size_t>(e) * EdgeSums<ELL>::kSize, q, derivative, first);
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
