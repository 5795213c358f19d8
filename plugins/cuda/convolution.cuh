// The two convolutions over neighbours, forward and reverse: a block is a receiver, a thread a channel.
//
// Forward keeps its sums in registers through the loop over edges; reverse keeps the adjoints of these sums in
// registers and scatters the adjoint of the sender's features. The rows (path, m1, m2) of the second layer are divided
// into groups of paths that fit the registers, one group a block. Clebsch-Gordan coefficients are applied once an atom.
#pragma once

#include "couplings.h"  // generated: Coupling<path>
#include "paths.h"
#include "teams.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

#ifndef MACE_MD_GROUP_ROWS
#define MACE_MD_GROUP_ROWS 40  // rows that a thread keeps in registers
#endif

using Table = PathTable<kEll, kL>;
constexpr int kPaths = Table::value.count, kComponents = Table::value.components;

constexpr int group_count() {
  int n = 0;
  for (int first = 0; first < kPaths; first = Table::value.group_end(first, MACE_MD_GROUP_ROWS)) ++n;
  return n;
}
constexpr int kGroups = group_count();
constexpr int kSumParts = MACE_MD_JOINED_GROUPS ? 1 : kGroups;  // that layer 2 writes of the sums of an edge
constexpr int kReverseThreads = sizeof(Real) == 4 ? 768 : 384;  // of a multiprocessor, in large systems
constexpr int kTableRows = kRows * (MACE_MD_BY_PAIR1 ? kTypes * kTypes : 1);

template <int N>
static constexpr int value_of(Lanes<N>) {
  return N;
}

// The value of a radial function; c: its first row at this channel, STRIDE from row to row.
template <int STRIDE>
static MACE_MD_INLINE Real radial(const Real* c, const Real* w) {
  Real value = w[0] * c[0];
  MACE_MD_UNROLL
  for (int k = 1; k < kSupport; ++k) value += w[k] * c[k * STRIDE];
  return value;
}

// The derivative is in units of the knot spacing.
template <int STRIDE>
static MACE_MD_INLINE Real radial(const Real* c, const Real* w, const Real* dw, Real& derivative) {
  Real row = c[0], value = w[0] * row;
  derivative = dw[0] * row;
  MACE_MD_UNROLL
  for (int k = 1; k < kSupport; ++k) {
    row = c[k * STRIDE];
    value += w[k] * row;
    derivative += dw[k] * row;
  }
  return value;
}

// ---- layer 1: A0[lm] = sum_j R_l Y_lm

static MACE_MD_INLINE void conv1_forward_of(const Arguments& s, int i) {
  using T = TeamA;
  __shared__ ForwardChunk<T> chunk;
  const int c = T::thread() < C ? T::thread() : 0;
  Real a[kA] = {};
  for_edges<T>(
      s, i, chunk.edges,
      [&](const Edge& edge, int) {
        const Real* table = s.table0 + static_cast<long long>(edge.row0) * (kEll + 1) * C + c;
        MACE_MD_UNROLL
        for (int l = 0; l <= kEll; ++l) {
          const Real r = radial<(kEll + 1) * C>(table + l * C, edge.w);
          MACE_MD_UNROLL
          for (int m = l * l; m < (l + 1) * (l + 1); ++m) a[m] += r * edge.y[m];
        }
      },
      [](int, int) {});
  add_teams<kA>(a, chunk);
  if (static_cast<int>(threadIdx.x) >= C) return;
  const Real scale = s.scale0[i];
  MACE_MD_UNROLL
  for (int m = 0; m < kA; ++m) s.a0[(static_cast<long long>(i) * kA + m) * C + c] = a[m] * scale;
}

static MACE_MD_INLINE void conv1_reverse_of(const Arguments& s, int i) {
  using T = TeamA;
  __shared__ ReverseChunk<T> chunk;
  const bool active = T::thread() < C;
  const int c = active ? T::thread() : 0;
  Real* out = s.sums + (kSumParts * s.capacity + s.candidate_start[i]) * kSums;
  const Real scale = active ? s.scale0[i] : Real(0);
  Real g[kA];
  MACE_MD_UNROLL
  for (int m = 0; m < kA; ++m) g[m] = s.a_adjoint[(static_cast<long long>(i) * kA + m) * C + c] * scale;
  for_edges<T>(
      s, i, chunk.edges,
      [&](const Edge& edge, int e) {
        const Real* table = s.table0 + static_cast<long long>(edge.row0) * (kEll + 1) * C + c;
        Real q[16] = {}, derivative = 0;
        MACE_MD_UNROLL
        for (int l = 0; l <= kEll; ++l) {
          Real d, p = 0;
          const Real r = radial<(kEll + 1) * C>(table + l * C, edge.w, edge.dw, d);
          MACE_MD_UNROLL
          for (int m = l * l; m < (l + 1) * (l + 1); ++m) {
            p += g[m] * edge.y[m];
            q[m] = r * g[m];
          }
          derivative += d * p;
        }
        q[0] = derivative;
        sum_channels(q, chunk.partial[T::thread() / kWarp] + e * kSums);
      },
      [&](int first, int size) { combine_warps(chunk, size, out + first * kSums); });
}

#if MACE_MD_SMALL
// The edges of the atom too, by the first warp.
MACE_MD_TEAM_KERNEL(edges_conv1_forward, TeamA) {
  __shared__ EdgeScratch scratch;
  if (threadIdx.x < kWarp) prepare_atom(s, blockIdx.x, scratch);
  __syncthreads();
  conv1_forward_of(s, blockIdx.x);
}
#else
MACE_MD_TEAM_KERNEL(conv1_forward, TeamA) { conv1_forward_of(s, blockIdx.x); }

MACE_MD_TEAM_KERNEL(conv1_reverse, TeamA) { conv1_reverse_of(s, blockIdx.x); }
#endif

// ---- layer 2: rows[path, m1, m2] = sum_j R_path Y_l1m1 H_l2m2

// Where a group finds the radial functions of its paths: in the table of the model, through the caches, or in a copy of
// one slice of kWarp channels in shared memory.
struct InCache {
  static constexpr int kRow = kPaths * C2;
  static constexpr int path(int p, int) { return p * C2; }
};
template <int N_PATHS>
struct InShared {
  static constexpr int kRow = N_PATHS * kWarp;
  static constexpr int path(int p, int first) { return (p - first) * kWarp; }
};

static MACE_MD_INLINE void add_to_sender(const Arguments& s, int atom, int lm, int c, Real adjoint) {
  const long long at = (static_cast<long long>(atom) * kH + lm) * C2 + c;
  if constexpr (MACE_MD_DETERMINISTIC != 0)
    fixed_add(s, static_cast<long long*>(s.h_adjoint) + at, adjoint);
  else
    atomicAdd(static_cast<Real*>(s.h_adjoint) + at, adjoint);
}

// One group of paths, FIRST to END.
template <int FIRST, int END>
struct Group {
  static constexpr int kFirstRow = Table::value.path[FIRST].row;
  static constexpr int kGroupRows =
      (END < kPaths ? Table::value.path[END < kPaths ? END : 0].row : Table::value.rows) - kFirstRow;
  // paths are ordered by l2: the components of H that the group reads are [kFirstH, kEndH)
  static constexpr int kL2First = Table::value.path[FIRST].l2, kL2Last = Table::value.path[END - 1].l2;
  static constexpr int kFirstH = kL2First * kL2First, kEndH = (kL2Last + 1) * (kL2Last + 1);
  static constexpr int kNumH = kEndH - kFirstH;
  using Index = typename MakeLanes<END - FIRST>::type;

  template <int P, class View>
  static MACE_MD_INLINE void forward_path(const Real* table, const Edge& edge, const Real* h, Real* rows) {
    constexpr Path path = Table::value.path[P];
    constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kRow = path.row - kFirstRow;
    constexpr int kAt = View::path(P, FIRST);
    const Real r = radial<View::kRow>(table + kAt, edge.w);
    Real a[kN2];
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) a[m2] = r * h[path.l2 * path.l2 - kFirstH + m2];
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) {
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) rows[kRow + m1 * kN2 + m2] += a[m2] * edge.y[path.l1 * path.l1 + m1];
    }
  }

  template <int P>
  static MACE_MD_INLINE Real* phi_of(const Arguments& s, int i, int c) {
    return s.phi + (static_cast<long long>(i) * kComponents + Table::value.path[P].component) * C2 + c;
  }

  template <int P>
  static MACE_MD_INLINE void couple(const Arguments& s, int i, int c, Real scale, const Real* rows) {
    constexpr Path path = Table::value.path[P];
    constexpr int kN3 = 2 * path.l3 + 1, kRow = path.row - kFirstRow;
    Real phi[kN3];
    Coupling<P>::forward(rows + kRow, phi);
    Real* out = phi_of<P>(s, i, c);
    MACE_MD_UNROLL
    for (int m = 0; m < kN3; ++m) out[m * C2] = phi[m] * scale;
  }

  static MACE_MD_INLINE void load_features(const Arguments& s, int atom, int c, Real* h) {
    MACE_MD_UNROLL
    for (int m = 0; m < kNumH; ++m) h[m] = s.h[(static_cast<long long>(atom) * kH + kFirstH + m) * C2 + c];
  }

  // One edge. table: at the thread's channel.
  template <class View, int... P>
  static MACE_MD_INLINE void forward_edge(const Arguments& s, const Real* table, const Edge& edge, int c, Real* rows,
                                          Lanes<P...>) {
    Real h[kNumH];
    load_features(s, edge.atom, c, h);
    (forward_path<FIRST + P, View>(table + static_cast<long long>(edge.row1) * View::kRow, edge, h, rows), ...);
  }

  template <int... P>
  static MACE_MD_INLINE void store_rows(const Arguments& s, int i, int c, const Real* rows, Lanes<P...>) {
    (couple<FIRST + P>(s, i, c, s.scale1[i], rows), ...);
  }

  // A block with all channels of receiver i.
  template <class T>
  static MACE_MD_INLINE void forward(const Arguments& s, int i, ForwardChunk<T>& chunk) {
    const int c = T::thread() < C2 ? T::thread() : 0;
    Real rows[kGroupRows] = {};
    for_edges<T>(
        s, i, chunk.edges,
        [&](const Edge& edge, int) { forward_edge<InCache>(s, s.table1 + c, edge, c, rows, Index()); },
        [](int, int) {});
    add_teams<kGroupRows>(rows, chunk);
    if (static_cast<int>(threadIdx.x) < C2) store_rows(s, i, c, rows, Index());
  }

  template <int P>
  static MACE_MD_INLINE void couple_reverse(const Arguments& s, int i, int c, Real scale, Real* rows) {
    constexpr Path path = Table::value.path[P];
    constexpr int kN3 = 2 * path.l3 + 1, kRow = path.row - kFirstRow;
    Real phi[kN3];
    const Real* from = phi_of<P>(s, i, c);
    MACE_MD_UNROLL
    for (int m = 0; m < kN3; ++m) phi[m] = from[m * C2] * scale;
    Coupling<P>::reverse(phi, rows + kRow);
  }

  template <int P, class View>
  static MACE_MD_INLINE void reverse_path(const Real* table, const Edge& edge, const Real* h, const Real* g,
                                          Real* h_adjoint, Real* q) {
    constexpr Path path = Table::value.path[P];
    constexpr int kN1 = 2 * path.l1 + 1, kN2 = 2 * path.l2 + 1, kRow = path.row - kFirstRow;
    constexpr int kFirst = path.l2 * path.l2 - kFirstH;
    constexpr int kAt = View::path(P, FIRST);
    Real d, p[kN2], a[kN2];
    const Real r = radial<View::kRow>(table + kAt, edge.w, edge.dw, d);
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      a[m2] = r * h[kFirst + m2];
      p[m2] = 0;
    }
    MACE_MD_UNROLL
    for (int m1 = 0; m1 < kN1; ++m1) {
      const int lm = path.l1 * path.l1 + m1;
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < kN2; ++m2) {
        const Real adjoint = g[kRow + m1 * kN2 + m2];
        p[m2] += adjoint * edge.y[lm];
        if (lm > 0) q[lm] += a[m2] * adjoint;
      }
    }
    Real sum = 0;
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < kN2; ++m2) {
      h_adjoint[kFirst + m2] += r * p[m2];
      sum += h[kFirst + m2] * p[m2];
    }
    q[0] += d * sum;
  }

  // One edge: adds to the adjoints of its sender's features, and to q.
  template <class View, int... P>
  static MACE_MD_INLINE void edge_adjoints(const Arguments& s, const Real* table, const Edge& edge, const Real* g,
                                           int c, Real* h_adjoint, Real* q, Lanes<P...>) {
    Real h[kNumH];
    load_features(s, edge.atom, c, h);
    (reverse_path<FIRST + P, View>(table + static_cast<long long>(edge.row1) * View::kRow, edge, h, g, h_adjoint, q),
     ...);
  }

  // One edge: the adjoint of its features goes to the sender, the others are added to q.
  template <class View>
  static MACE_MD_INLINE void reverse_edge(const Arguments& s, const Real* table, const Edge& edge, const Real* g, int c,
                                          bool active, Real* q) {
    Real h_adjoint[kNumH] = {};
    edge_adjoints<View>(s, table, edge, g, c, h_adjoint, q, Index());
    if (!active) return;
    MACE_MD_UNROLL
    for (int m = 0; m < kNumH; ++m) add_to_sender(s, edge.atom, kFirstH + m, c, h_adjoint[m]);
  }

  template <int... P>
  static MACE_MD_INLINE void load_adjoint(const Arguments& s, int i, int c, bool active, Real* g, Lanes<P...>) {
    (couple_reverse<FIRST + P>(s, i, c, active ? s.scale1[i] : Real(0), g), ...);
  }

  // A block with all channels of receiver i.
  template <class T>
  static MACE_MD_INLINE void reverse(const Arguments& s, int group, int i, ReverseChunk<T>& chunk) {
    const bool active = T::thread() < C2;
    const int c = active ? T::thread() : 0;
    Real* out = s.sums + (group * s.capacity + s.candidate_start[i]) * kSums;
    Real g[kGroupRows];
    load_adjoint(s, i, c, active, g, Index());
    for_edges<T>(
        s, i, chunk.edges,
        [&](const Edge& edge, int e) {
          Real q[16] = {};
          reverse_edge<InCache>(s, s.table1 + c, edge, g, c, active, q);
          sum_channels(q, chunk.partial[T::thread() / kWarp] + e * kSums);
        },
        [&](int first, int size) { combine_warps(chunk, size, out + first * kSums); });
  }

  // ---- with the table of a slice of channels in shared memory: a warp a receiver, a lane a channel

  using View = InShared<END - FIRST>;

  // Copies the slice of channels from `slice` on. The whole block.
  static MACE_MD_INLINE void load_table(const Arguments& s, int slice, Real* table) {
    __syncthreads();  // the slice before is no longer read
    const int c = slice + lane();
    for (int line = threadIdx.x / kWarp; line < kTableRows * (END - FIRST); line += blockDim.x / kWarp) {
      const int row = line / (END - FIRST), path = FIRST + line % (END - FIRST);
      table[line * kWarp + lane()] =
          c < C2 ? s.table1[(static_cast<long long>(row) * kPaths + path) * C2 + c] : Real(0);
    }
    __syncthreads();
  }

  // Calls body(receiver, slice, channel of this lane, whether there is one) for every slice and the receivers of this
  // warp; a receiver has the same warp in every slice.
  template <class Body>
  static MACE_MD_INLINE void for_slices(const Arguments& s, Real* table, Body&& body) {
    const int warps_here = blockDim.x / kWarp, first = blockIdx.x * warps_here + threadIdx.x / kWarp;
    for (int slice = 0; slice < C2; slice += kWarp) {
      load_table(s, slice, table);
      const bool active = slice + lane() < C2;
      for (int i = first; i < s.n_atoms; i += gridDim.x * warps_here)
        body(i, slice, active ? slice + lane() : 0, active);
    }
  }

  static MACE_MD_INLINE void forward_shared(const Arguments& s, Real* table) {
    for_slices(s, table, [&](int i, int, int c, bool active) {
      const Edge* edges = edges_of(s) + s.candidate_start[i];
      const int n = s.n_edges[i];
      Real rows[kGroupRows] = {};
      for (int e = 0; e < n; ++e) forward_edge<View>(s, table + lane(), Edge(edges[e]), c, rows, Index());
      if (active) store_rows(s, i, c, rows, Index());
    });
  }

  static MACE_MD_INLINE void reverse_shared(const Arguments& s, int group, Real* table) {
    for_slices(s, table, [&](int i, int slice, int c, bool active) {
      const Edge* edges = edges_of(s) + s.candidate_start[i];
      Real* out = s.sums + (group * s.capacity + s.candidate_start[i]) * kSums;
      const int n = s.n_edges[i];
      Real g[kGroupRows];
      load_adjoint(s, i, c, active, g, Index());
      for (int e = 0; e < n; ++e, out += kSums) {
        Real q[16] = {};
        reverse_edge<View>(s, table + lane(), Edge(edges[e]), g, c, active, q);
        add_sums(q, slice == 0, out);
      }
    });
  }
};

// Calls body(Group, its index as a type) for one of the groups.
template <int FIRST, int INDEX, class Body>
static MACE_MD_INLINE void in_group(int group, Body&& body) {
  if constexpr (FIRST < kPaths) {
    constexpr int kEnd = Table::value.group_end(FIRST, MACE_MD_GROUP_ROWS);
    if (group == INDEX)
      body(Group<FIRST, kEnd>(), Lanes<INDEX>());
    else
      in_group<kEnd, INDEX + 1>(group, body);
  }
}

MACE_MD_TEAM_KERNEL(conv2_forward, TeamH) {
  __shared__ ForwardChunk<TeamH> chunk;
  in_group<0, 0>(blockIdx.y, [&](auto group, auto) { decltype(group)::forward(s, blockIdx.x, chunk); });
}

MACE_MD_KERNEL(conv2_reverse, TeamH::kMost, MACE_MD_SMALL ? 1 : kReverseThreads / TeamH::kMost) {
  __shared__ ReverseChunk<TeamH> chunk;
  in_group<0, 0>(blockIdx.y, [&](auto group, auto) { decltype(group)::reverse(s, blockIdx.y, blockIdx.x, chunk); });
}

#if MACE_MD_SHARED_TABLES
// Blocks that stay: each has one group of paths and every gridDim.x-th set of receivers.
MACE_MD_KERNEL(conv2_forward_shared, kSharedTableThreads) {
  MACE_MD_DYNAMIC_SHARED(Real, table);
  in_group<0, 0>(blockIdx.y, [&](auto group, auto) { decltype(group)::forward_shared(s, table); });
}

MACE_MD_KERNEL(conv2_reverse_shared, kSharedTableThreads) {
  MACE_MD_DYNAMIC_SHARED(Real, table);
  in_group<0, 0>(blockIdx.y, [&](auto group, auto) { decltype(group)::reverse_shared(s, blockIdx.y, table); });
}
#endif

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
