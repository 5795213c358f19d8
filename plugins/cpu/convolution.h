// The two convolutions over neighbours, forward and reverse, for one receiver and one tile of channels.
//
// Both directions are owned by the receiver: forward keeps its sums in registers through the loop over edges, reverse
// keeps its adjoints (registers or L1) and scatters the adjoint of the sender's features. Per edge the reverse also
// yields, summed over channels, q[lm] = dE/dY_lm and the derivative of the energy with respect to the distance, in knot
// spacings.
#pragma once

#include "../couplings.h"
#include "../paths.h"
#include "radial.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int squared(int n) { return n * n; }

// Tiles of channels that the reverse convolutions take at once: the sums over lanes, and the record of an edge, are
// then made once for all of them.
constexpr int kMostTiles = 4;
constexpr int kTiles1 = MACE_MD_VECTOR_BYTES == 64 ? 3 : 4;
template <int L>
constexpr int kTiles2 = L == 0 ? kTiles1 : (MACE_MD_VECTOR_BYTES == 64 ? 1 : 2);

template <int ELL>
struct alignas(64) Edge {
  int32_t atom;  // sender
  int32_t row0;  // first rows of the radial tables of the two layers
  int32_t row1;
  Real w[kSupport], dw[kSupport];  // spline weights and their derivatives
  Real y[squared(ELL + 1)];
};

// Sums of the reverse over channels, one record an edge: dE/dY_lm in the order of q_position(). Y_00 is a constant, and
// its place has the derivative with respect to the distance.
template <int ELL>
struct EdgeSums {
  static constexpr int kBatches = tiles(squared(ELL + 1));
  static constexpr int kPlaces = kBatches * W, kSize = kBatches * W;
  // Adds up the lanes of q[1] ... and of the derivative; overwrites q.
  static MACE_MD_INLINE void add(Real* record, V* q, V derivative, bool first) {
    q[0] = derivative;
    MACE_MD_UNROLL
    for (int m = squared(ELL + 1); m < kPlaces; ++m) q[m] = zero();
    MACE_MD_UNROLL
    for (int batch = 0; batch < kBatches; ++batch) {
      V sums = transposing_sum(q + batch * W);
      store(record + batch * W, first ? sums : load(record + batch * W) + sums);
    }
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

// adjoint: dE/dA in node order, the tiles a_tile apart; table: of the first tile, the next table_tile further on; sums:
// one record an edge, overwritten by the first tiles and added to by the others.
template <int ELL, int T>
static MACE_MD_NOINLINE void conv1_reverse_tiles(const Edge<ELL>* edges, int n, const Real* table, size_t table_tile,
                                                 Real scale, const Real* adjoint, size_t a_tile, int n_atoms, int atom,
                                                 Real* sums, bool first) {
  constexpr int kRow = (ELL + 1) * W;
  V g[squared(ELL + 1)][T];
  for (int t = 0; t < T; ++t)
    for (int l = 0; l <= ELL; ++l)
      for (int m = 0; m < 2 * l + 1; ++m)
        g[l * l + m][t] = load(adjoint + t * a_tile + node_offset(l, n_atoms, atom) + m * W) * scale;
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row0) * kRow;
    const Real* y = edges[e].y;
    V r[ELL + 1][T], d[ELL + 1][T];
    radial_of_tiles<ELL + 1, T>(c, table_tile, edges[e].w, edges[e].dw, r, d);
    V q[EdgeSums<ELL>::kPlaces], derivative = zero();
    MACE_MD_UNROLL
    for (int l = 0; l <= ELL; ++l) {
      V p[T];
      MACE_MD_UNROLL
      for (int t = 0; t < T; ++t) p[t] = l == 0 ? g[0][t] : zero();  // Y_00 = 1
      MACE_MD_UNROLL
      for (int m = l == 0 ? 1 : l * l; m < (l + 1) * (l + 1); ++m) {
        V sum = zero();
        MACE_MD_UNROLL
        for (int t = 0; t < T; ++t) {
          p[t] += g[m][t] * y[m];
          sum += r[l][t] * g[m][t];
        }
        q[m] = sum;
      }
      MACE_MD_UNROLL
      for (int t = 0; t < T; ++t) derivative += d[l][t] * p[t];
    }
    EdgeSums<ELL>::add(sums + static_cast<size_t>(e) * EdgeSums<ELL>::kSize, q, derivative, first);
  }
}

// ---- layer 2: rows[path, m1, m2] = sum_j R_path Y_l1m1 H_l2m2
// -------------------------------------------------------------

// Two equal l couple to a scalar as a dot product.
constexpr bool is_dot(const Path& path) { return path.l3 == 0 && path.l1 > 0; }

// The rows that an atom sums for its paths: (2 l1 + 1)(2 l2 + 1) of each, numbered m1 * (2 l2 + 1) + m2, or one for a
// dot product.
template <int ELL, int L>
struct Rows {
  static constexpr auto& kPaths = PathTable<ELL, L>::value;
  int first[kPaths.count + 1] = {};
  constexpr Rows() {
    for (int p = 0; p < kPaths.count; ++p) {
      const Path& path = kPaths.path[p];
      first[p + 1] = first[p] + (is_dot(path) ? 1 : (2 * path.l1 + 1) * (2 * path.l2 + 1));
    }
  }
  constexpr int total() const { return first[kPaths.count]; }
  // The end of the longest run of paths from `path` whose rows fit `limit` accumulators (at least one path).
  constexpr int group_end(int path, int limit) const {
    int end = path + 1;
    while (end < kPaths.count && first[end + 1] - first[path] <= limit) ++end;
    return end;
  }
};

template <int ELL, int L>
struct RowTable {
  static constexpr Rows<ELL, L> value{};
};

template <int ELL, int L, int P, int FIRST, int M2FIRST, int M2LAST>
static MACE_MD_INLINE void conv2_forward_path(V r, const Real* y, const Real* h, V* acc) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kL1 = path.l1, kN1 = 2 * kL1 + 1;
  constexpr int kN2 = (M2LAST < 0 ? 2 * path.l2 + 1 : M2LAST) - M2FIRST;
  acc += RowTable<ELL, L>::value.first[P] - RowTable<ELL, L>::value.first[FIRST];
  h += (path.l2 * path.l2 + M2FIRST) * W;
  if constexpr (is_dot(path)) {
    V dot = load(h) * y[kL1 * kL1];
    MACE_MD_UNROLL
    for (int m = 1; m < kN1; ++m) dot += load(h + m * W) * y[kL1 * kL1 + m];
    acc[0] += r * dot;
  } else if constexpr (kL1 == 0) {  // Y_00 = 1
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) acc[m2] += r * load(h + m2 * W);
  } else {
    V a[kN2];
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) a[m2] = r * load(h + m2 * W);
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) {
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) acc[m1 * kN2 + m2] += a[m2] * y[kL1 * kL1 + m1];
    }
  }
}

// Paths P... (a run from FIRST) for m2 in [M2FIRST, M2LAST), M2LAST < 0 meaning all. The rows go on from what they are
// unless they are fresh.
template <int ELL, int L, int FIRST, int M2FIRST, int M2LAST, int ROWS, int... P>
static MACE_MD_INLINE void conv2_forward_group(const Edge<ELL>* edges, int n, const Real* features, const V* values,
                                               Real* rows, bool fresh, Lanes<P...>) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  constexpr int kN2 = 2 * kPaths.path[FIRST].l2 + 1, kUsed = (M2LAST < 0 ? kN2 : M2LAST) - M2FIRST;
  constexpr size_t kAtom = squared(L + 1) * W;
  rows += RowTable<ELL, L>::value.first[FIRST] * W;
  auto row = [&](int r) { return rows + (M2LAST < 0 ? r : r / kUsed * kN2 + M2FIRST + r % kUsed) * W; };
  V acc[ROWS];
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) acc[r] = fresh ? zero() : load(row(r));
  for (int e = 0; e < n; ++e, values += kPaths.count) {
    const Real* h = features + edges[e].atom * kAtom;
    (conv2_forward_path<ELL, L, FIRST + P, FIRST, M2FIRST, M2LAST>(values[FIRST + P], edges[e].y, h, acc), ...);
  }
  MACE_MD_UNROLL
  for (int r = 0; r < ROWS; ++r) store(row(r), acc[r]);
}

// A path with more rows than accumulators is walked in several passes, each for some of the m2.
template <int ELL, int L, int P, int M2FIRST>
static MACE_MD_INLINE void conv2_forward_split(const Edge<ELL>* edges, int n, const Real* features, const V* values,
                                               Real* rows, bool fresh) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1;
  constexpr int kPasses = (kN1 * kN2 + kAccumulators - 1) / kAccumulators;
  constexpr int kWide = (kN2 + kPasses - 1) / kPasses;
  constexpr int kLast = M2FIRST + kWide < kN2 ? M2FIRST + kWide : kN2;
  conv2_forward_group<ELL, L, P, M2FIRST, kLast, kN1*(kLast - M2FIRST)>(edges, n, features, values, rows, fresh,
                                                                        Lanes<0>());
  if constexpr (kLast < kN2) conv2_forward_split<ELL, L, P, kLast>(edges, n, features, values, rows, fresh);
}

template <int ELL, int L, int FIRST = 0>
static MACE_MD_INLINE void conv2_forward_groups(const Edge<ELL>* edges, int n, const Real* features, const V* values,
                                                Real* rows, bool fresh) {
  constexpr auto& kRows = RowTable<ELL, L>::value;
  constexpr int kCount = PathTable<ELL, L>::value.count;
  if constexpr (FIRST < kCount) {
    constexpr int kEnd = kRows.group_end(FIRST, kAccumulators), kN = kRows.first[kEnd] - kRows.first[FIRST];
    if constexpr (kN > kAccumulators)
      conv2_forward_split<ELL, L, FIRST, 0>(edges, n, features, values, rows, fresh);
    else
      conv2_forward_group<ELL, L, FIRST, 0, -1, kN>(edges, n, features, values, rows, fresh,
                                                    typename MakeLanes<kEnd - FIRST>::type());
    conv2_forward_groups<ELL, L, kEnd>(edges, n, features, values, rows, fresh);
  }
}

constexpr int kEdgesAtOnce = 32;  // whose radial functions are kept in the L1 cache for all groups of paths

// features: [atom][lm][W] of one tile, all atoms; rows: [rows][W].
template <int ELL, int L>
static MACE_MD_NOINLINE void conv2_forward(const Edge<ELL>* edges, int n, const Real* features, const Real* table,
                                           Real* rows) {
  constexpr int kCount = PathTable<ELL, L>::value.count;
  V values[kEdgesAtOnce * kCount];
  int begin = 0;
  do {
    const int size = n - begin < kEdgesAtOnce ? n - begin : kEdgesAtOnce;
    for (int e = 0; e < size; ++e) {
      const Edge<ELL>& edge = edges[begin + e];
      const SplineWeights w = broadcast(edge.w);
      const Real* c = table + static_cast<size_t>(edge.row1) * (kCount * W);
      MACE_MD_UNROLL
      for (int path = 0; path < kCount; ++path) values[e * kCount + path] = radial<kCount * W>(c + path * W, w);
    }
    conv2_forward_groups<ELL, L>(edges + begin, size, features, values, rows, begin == 0);
    begin += size;
  } while (begin < n);
}

// ---- Phi[path, m3] = sum of Clebsch-Gordan coefficients times rows, once for an atom rather than for an edge
// -------------------------------------------------------------

// The components of path P in the arrays of a block: [component of the first m3][atom][m3].
template <int ELL, int L, int P>
static MACE_MD_INLINE size_t component_offset(int n_atoms, int atom) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  return (static_cast<size_t>(path.component) * n_atoms + static_cast<size_t>(atom) * (2 * path.l3 + 1)) * W;
}

template <int ELL, int L, int P>
static MACE_MD_INLINE void couple_path(const Real* rows, Real scale, Real* phi, int n_atoms, int atom) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kN3 = 2 * path.l3 + 1;
  constexpr auto& c = CouplingTable<path.l1, path.l2, path.l3>::value.value;
  rows += RowTable<ELL, L>::value.first[P] * W;
  phi += component_offset<ELL, L, P>(n_atoms, atom);
  if constexpr (is_dot(path)) {
    store(phi, load(rows) * (Real(c[0][0][0]) * scale));
  } else {
    V sums[kN3];
    MACE_MD_UNROLL
    for (int m3 = 0; m3 < kN3; ++m3) sums[m3] = zero();
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      const V row = load(rows + (m1 * kN2 + m2) * W);
      MACE_MD_UNROLL
      for (int m3 = 0; m3 < kN3; ++m3)
        if (c[m1][m2][m3] != 0) sums[m3] += row * Real(c[m1][m2][m3]);
    }
    MACE_MD_UNROLL
    for (int m3 = 0; m3 < kN3; ++m3) store(phi + m3 * W, sums[m3] * scale);
  }
}

template <int ELL, int L, int P>
static MACE_MD_INLINE void couple_path_reverse(const Real* phi, Real scale, Real* rows, int n_atoms, int atom) {
  constexpr Path path = PathTable<ELL, L>::value.path[P];
  constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kN3 = 2 * path.l3 + 1;
  constexpr auto& c = CouplingTable<path.l1, path.l2, path.l3>::value.value;
  rows += RowTable<ELL, L>::value.first[P] * W;
  phi += component_offset<ELL, L, P>(n_atoms, atom);
  if constexpr (is_dot(path)) {
    store(rows, load(phi) * (Real(c[0][0][0]) * scale));
  } else {
    V adjoint[kN3];
    MACE_MD_UNROLL
    for (int m3 = 0; m3 < kN3; ++m3) adjoint[m3] = load(phi + m3 * W) * scale;
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      V row = zero();
      MACE_MD_UNROLL
      for (int m3 = 0; m3 < kN3; ++m3)
        if (c[m1][m2][m3] != 0) row += adjoint[m3] * Real(c[m1][m2][m3]);
      store(rows + (m1 * kN2 + m2) * W, row);
    }
  }
}

// Rows [rows][W] of an atom to Phi times `scale`, and adjoints of Phi to those of the rows.
template <int ELL, int L, int... P>
static MACE_MD_NOINLINE void couple(const Real* rows, Real scale, Real* phi, int n_atoms, int atom, Lanes<P...>) {
  (couple_path<ELL, L, P>(rows, scale, phi, n_atoms, atom), ...);
}
template <int ELL, int L, int... P>
static MACE_MD_NOINLINE void couple_reverse(const Real* phi, Real scale, Real* rows, int n_atoms, int atom,
                                            Lanes<P...>) {
  (couple_path_reverse<ELL, L, P>(phi, scale, rows, n_atoms, atom), ...);
}

// r, d: radial functions of an edge and their derivatives; g: adjoints of the rows of its receiver; h: features of its
// sender, h_adjoint their adjoint; q: sums for the m of L1.
template <int ELL, int L, int T, int P, int L1>
static MACE_MD_INLINE void conv2_reverse_path(const V (*r)[T], const V (*d)[T], const Real* y, const Real* g,
                                              const Real* h, size_t h_tile, V (*h_adjoint)[T], V* q, V& derivative) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  constexpr Path path = kPaths.path[P];
  if constexpr (path.l1 == L1) {
    constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kFirst = path.l2 * path.l2;
    MACE_MD_UNROLL
    for (int t = 0; t < T; ++t) {
      const Real* rows = g + (t * RowTable<ELL, L>::value.total() + RowTable<ELL, L>::value.first[P]) * W;
      if constexpr (is_dot(path)) {
        const V g0 = load(rows), u = r[P][t] * g0;
        V dot = zero();
        MACE_MD_UNROLL
        for (int m = 0; m < kN1; ++m) {
          const V hm = load(h + t * h_tile + (kFirst + m) * W);
          const Real y1 = y[kFirst + m];
          dot += hm * y1;
          q[m] += u * hm;
          h_adjoint[kFirst + m][t] += u * y1;
        }
        derivative += d[P][t] * (dot * g0);
        continue;
      }
      V p[kN2], a[kN2];
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) {
        a[m2] = r[P][t] * load(h + t * h_tile + (kFirst + m2) * W);
        p[m2] = path.l1 == 0 ? load(rows + m2 * W) : zero();  // Y_00 = 1
      }
      MACE_MD_UNROLL
      for (int m1 = 0; m1 < (path.l1 == 0 ? 0 : kN1); ++m1) {
        Real y1 = y[path.l1 * path.l1 + m1];
        V sum = q[m1];
        MACE_MD_UNROLL
        for (int m2 = 0; m2 < kN2; ++m2) {
          V adjoint = load(rows + (m1 * kN2 + m2) * W);
          p[m2] += adjoint * y1;
          sum += a[m2] * adjoint;
        }
        q[m1] = sum;
      }
      V s = zero();
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) {
        h_adjoint[kFirst + m2][t] += r[P][t] * p[m2];
        s += load(h + t * h_tile + (kFirst + m2) * W) * p[m2];
      }
      derivative += d[P][t] * s;
    }
  }
}

template <int ELL, int L, int T, int L1, int... P>
static MACE_MD_INLINE void conv2_reverse_l1(const V (*r)[T], const V (*d)[T], const Real* y, const Real* g,
                                            const Real* h, size_t h_tile, V (*h_adjoint)[T], V* q, V& derivative,
                                            Lanes<P...> paths) {
  if constexpr (L1 <= ELL) {
    V sums[2 * L1 + 1];
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * L1 + 1; ++m) sums[m] = zero();
    (conv2_reverse_path<ELL, L, T, P, L1>(r, d, y, g, h, h_tile, h_adjoint, sums, derivative), ...);
    MACE_MD_UNROLL
    for (int m = 0; m < 2 * L1 + 1; ++m) q[L1 * L1 + m] = sums[m];
    conv2_reverse_l1<ELL, L, T, L1 + 1>(r, d, y, g, h, h_tile, h_adjoint, q, derivative, paths);
  }
}

// adjoint: [T][rows][W] of the receiver; features_adjoint: as features, added to, tiles h_tile apart; the rest as in
// conv1_reverse_tiles.
template <int ELL, int L, int T>
static MACE_MD_NOINLINE void conv2_reverse_tiles(const Edge<ELL>* edges, int n, const Real* features, size_t h_tile,
                                                 const Real* table, size_t table_tile, const Real* adjoint,
                                                 Real* features_adjoint, Real* sums, bool first) {
  constexpr auto& kPaths = PathTable<ELL, L>::value;
  constexpr int kH = squared(L + 1);
  for (int e = 0; e < n; ++e) {
    const Real* c = table + static_cast<size_t>(edges[e].row1) * (kPaths.count * W);
    const Real* h = features + edges[e].atom * static_cast<size_t>(kH * W);
    Real* out = features_adjoint + edges[e].atom * static_cast<size_t>(kH * W);
    V r[kPaths.count][T], d[kPaths.count][T];
    radial_of_tiles<kPaths.count, T>(c, table_tile, edges[e].w, edges[e].dw, r, d);
    V h_adjoint[kH][T], q[EdgeSums<ELL>::kPlaces], derivative = zero();
    MACE_MD_UNROLL
    for (int m = 0; m < kH; ++m) MACE_MD_UNROLL
    for (int t = 0; t < T; ++t) h_adjoint[m][t] = load(out + t * h_tile + m * W);
    conv2_reverse_l1<ELL, L, T, 0>(r, d, edges[e].y, adjoint, h, h_tile, h_adjoint, q, derivative,
                                   typename MakeLanes<kPaths.count>::type());
    MACE_MD_UNROLL
    for (int m = 0; m < kH; ++m) MACE_MD_UNROLL
    for (int t = 0; t < T; ++t) store(out + t * h_tile + m * W, h_adjoint[m][t]);
    EdgeSums<ELL>::add(sums + static_cast<size_t>(e) * EdgeSums<ELL>::kSize, q, derivative, first);
  }
}

// Calls body(first tile, Tiles<T>) for runs of at most MOST tiles, as equal as possible.
template <int T>
struct Tiles {
  static constexpr int value = T;
};
template <int MOST, class Body>
static inline void for_runs_of_tiles(int n_tiles, Body&& body) {
  const int runs = (n_tiles + MOST - 1) / MOST;
  for (int run = 0; run < runs; ++run) {
    const int tile = n_tiles * run / runs, n = n_tiles * (run + 1) / runs - tile;
    if constexpr (MOST >= 4)
      if (n == 4) body(tile, Tiles<4>());
    if constexpr (MOST >= 3)
      if (n == 3) body(tile, Tiles<3>());
    if constexpr (MOST >= 2)
      if (n == 2) body(tile, Tiles<2>());
    if (n == 1) body(tile, Tiles<1>());
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
