// The second convolution backwards with all groups of paths of a receiver in one block, each a team of threads: what
// the groups give to a sender is added in shared memory and goes to memory once, with L = 1 in 4 atomics an edge and
// channel instead of 10.
#pragma once

#include "convolution.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kJoinedThreads = kGroups * kThreadsH, kJoinedWarps = kJoinedThreads / kWarp;
constexpr int kJoinedEdges = 2;  // between two barriers

// Components of H that the groups before `group` read, added up: where its own stand among the contributions.
constexpr int contributions_before(int group) {
  int n = 0, first = 0;
  for (int k = 0; k < group; ++k) {
    const int end = Table::value.group_end(first, MACE_MD_GROUP_ROWS);
    const int l2_first = Table::value.path[first].l2, l2_last = Table::value.path[end - 1].l2;
    n += (l2_last + 1) * (l2_last + 1) - l2_first * l2_first;
    first = end;
  }
  return n;
}

constexpr int most_rows() {
  int most = 0;
  for (int first = 0, end = 0; first < kPaths; first = end) {
    end = Table::value.group_end(first, MACE_MD_GROUP_ROWS);
    const int rows = (end < kPaths ? Table::value.path[end].row : Table::value.rows) - Table::value.path[first].row;
    most = rows > most ? rows : most;
  }
  return most;
}
constexpr int kContributions = contributions_before(kGroups), kMostRows = most_rows();

struct JoinedChunk {
  Edge edges[kChunk];
  Real partial[kJoinedWarps][kChunk * kSums];              // sums over the channels of a warp
  Real given[2][kJoinedEdges][kContributions][kThreadsH];  // to senders: one half is added while the other is filled
};

// What all groups give to component m of the sender's features. given: [kContributions][kThreadsH] at the channel.
template <int FIRST, int INDEX>
static MACE_MD_INLINE Real joined(const Real* given, int m) {
  if constexpr (FIRST < kPaths) {
    constexpr int kEnd = Table::value.group_end(FIRST, MACE_MD_GROUP_ROWS), kBefore = contributions_before(INDEX);
    using G = Group<FIRST, kEnd>;
    const Real own = m >= G::kFirstH && m < G::kEndH ? given[(kBefore + m - G::kFirstH) * kThreadsH] : Real(0);
    return own + joined<kEnd, INDEX + 1>(given, m);
  } else {
    return 0;
  }
}

MACE_MD_KERNEL(conv2_reverse_joined, kJoinedThreads) {
  __shared__ JoinedChunk chunk;
  const int i = blockIdx.x, group = threadIdx.x / kThreadsH, thread = threadIdx.x % kThreadsH;
  const bool active = thread < C2;
  const int c = active ? thread : 0, n = s.n_edges[i];
  const Edge* edges = edges_of(s) + s.candidate_start[i];
  Real* out = s.sums + s.candidate_start[i] * kSums;
  Real g[kMostRows];
  in_group<0, 0>(group, [&](auto own, auto) {
    using G = decltype(own);
    G::load_adjoint(s, i, c, active, g, typename G::Index());
  });
  int half = 0;
  for (int first = 0; first < n; first += kChunk) {
    const int size = n - first < kChunk ? n - first : kChunk;
    copy_edges(edges + first, size, chunk.edges);
    __syncthreads();
    for (int e0 = 0; e0 < size; e0 += kJoinedEdges, half ^= 1) {
      in_group<0, 0>(group, [&](auto own, auto index) {
        using G = decltype(own);
        constexpr int kBefore = contributions_before(value_of(decltype(index)()));
        for (int k = 0; k < kJoinedEdges && e0 + k < size; ++k) {
          Real q[16] = {}, h_adjoint[G::kNumH] = {};
          G::template edge_adjoints<InCache>(s, s.table1 + c, chunk.edges[e0 + k], g, c, h_adjoint, q,
                                             typename G::Index());
          MACE_MD_UNROLL
          for (int m = 0; m < G::kNumH; ++m) chunk.given[half][k][kBefore + m][thread] = h_adjoint[m];
          sum_channels(q, chunk.partial[threadIdx.x / kWarp] + (e0 + k) * kSums);
        }
      });
      __syncthreads();
      for (int item = group; active && item < kJoinedEdges * kH; item += kGroups) {
        const int k = item / kH, m = item % kH;
        if (e0 + k < size)
          add_to_sender(s, chunk.edges[e0 + k].atom, m, c, joined<0, 0>(&chunk.given[half][k][0][thread], m));
      }
    }
    for (int k = threadIdx.x; k < size * kSums; k += kJoinedThreads) {
      Real sum = 0;
      for (int warp = 0; warp < kJoinedWarps; ++warp) sum += chunk.partial[warp][k];
      out[first * kSums + k] = sum;
    }
    __syncthreads();  // senders and sums have been read
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
