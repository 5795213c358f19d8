// How the threads of a block share the edges of an atom, and how they add over channels.
//
// Edges pass through shared memory, kChunk at a time, so that a thread does not wait for each of them. In a small
// system, where a block has a multiprocessor for itself, it has several teams of threads, each with a part of a chunk.
#pragma once

#include "edges.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kSums = kA;   // of an edge: dE/dr in the place of dE/dY_00, which is not needed, then dE/dY
constexpr int kChunk = 16;  // edges in shared memory at a time

// One thread a channel; a block of a small system can have several such teams, up to so many threads.
template <int THREADS>
struct Team {
  static constexpr bool kMany = MACE_MD_SMALL;
  static constexpr int kThreads = THREADS, kWide = sizeof(Real) == 4 ? 512 : 256;
  static constexpr int kMost = kMany && kWide > THREADS ? kWide : THREADS;
  static MACE_MD_INLINE int count() { return kMany ? blockDim.x / THREADS : 1; }
  static MACE_MD_INLINE int index() { return kMany ? threadIdx.x / THREADS : 0; }
  static MACE_MD_INLINE int thread() { return kMany ? threadIdx.x % THREADS : threadIdx.x; }
};
using TeamA = Team<kThreadsA>;
using TeamH = Team<kThreadsH>;

// Most threads of a block and, where many teams want it, all registers for one block.
#if MACE_MD_SMALL
#define MACE_MD_TEAM_KERNEL(name, T) MACE_MD_KERNEL(name, T::kMost, 1)
#else
#define MACE_MD_TEAM_KERNEL(name, T) MACE_MD_KERNEL(name, T::kMost)
#endif

// ---- sums over channels

// One level: of 2 * HALF numbers a lane keeps half and sends the others to its partner.
template <int HALF>
static MACE_MD_INLINE void halve(Real* v) {
  const bool upper = (threadIdx.x & (2 * HALF)) != 0;
  MACE_MD_UNROLL
  for (int k = 0; k < HALF; ++k) {
    const Real kept = upper ? v[k + HALF] : v[k], sent = upper ? v[k] : v[k + HALF];
    v[k] = kept + __shfl_xor_sync(kAllLanes, sent, 2 * HALF);
  }
  if constexpr (HALF > 1) halve<HALF / 2>(v);
}

// Sums over the warp of 16 numbers of every lane: lane i gets that of number i / 2. Overwrites v.
static MACE_MD_INLINE Real transposing_sum(Real* v) {
  halve<8>(v);
  return v[0] + __shfl_xor_sync(kAllLanes, v[0], 1);
}

// One edge: q[16] (zero from kA on) of this thread's channel, summed over the warp into `partial`.
static MACE_MD_INLINE void sum_channels(Real* q, Real* partial) {
  const Real sum = transposing_sum(q);
  if (lane() % 2 == 0 && lane() / 2 < kSums) partial[lane() / 2] = sum;
}

// The same, to `out` of one receiver that only this warp writes: the first slice of channels replaces, others add.
static MACE_MD_INLINE void add_sums(Real* q, bool first, Real* out) {
  const Real sum = transposing_sum(q);
  if (lane() % 2 == 0 && lane() / 2 < kSums) out[lane() / 2] = first ? sum : out[lane() / 2] + sum;
}

// ---- edges through shared memory

// Copies in pieces of 16 bytes. The whole block.
static MACE_MD_INLINE void copy_edges(const Edge* from, int n, Edge* to) {
  struct alignas(16) Piece {
    int part[4];
  };
  const int pieces = n * static_cast<int>(sizeof(Edge) / sizeof(Piece));
  for (int k = threadIdx.x; k < pieces; k += blockDim.x)
    reinterpret_cast<Piece*>(to)[k] = reinterpret_cast<const Piece*>(from)[k];
}

// Calls body(edge, place in the chunk) for the edges of this thread's team, and after(first, size) when all teams are
// through with a chunk. staged: shared, [kChunk]. The whole block.
template <class T, class Body, class After>
static MACE_MD_INLINE void for_edges(const Arguments& s, int i, Edge* staged, Body&& body, After&& after) {
  const Edge* edges = edges_of(s) + s.candidate_start[i];
  const int n = s.n_edges[i];
  for (int first = 0; first < n; first += kChunk) {
    const int size = n - first < kChunk ? n - first : kChunk;
    copy_edges(edges + first, size, staged);
    __syncthreads();
    for (int e = T::index(); e < size; e += T::count()) body(staged[e], e);
    __syncthreads();
    after(first, size);
  }
}

// What a forward convolution has in shared memory.
constexpr int kExchange = 8;  // numbers a thread that teams add at once
template <class T>
struct ForwardChunk {
  Edge edges[kChunk];
  Real exchange[T::kMany ? kExchange : 1][T::kThreads];
};

// Adds N numbers of the threads of a channel in every team, in order, to those of the first team.
template <int N, class T>
static MACE_MD_INLINE void add_teams(Real* v, ForwardChunk<T>& chunk) {
  for (int from = 1; from < T::count(); ++from) {
    MACE_MD_UNROLL
    for (int first = 0; first < N; first += kExchange) {
      if (T::index() == from) {
        MACE_MD_UNROLL
        for (int k = first; k < N && k < first + kExchange; ++k) chunk.exchange[k - first][T::thread()] = v[k];
      }
      __syncthreads();
      if (T::index() == 0) {
        MACE_MD_UNROLL
        for (int k = first; k < N && k < first + kExchange; ++k) v[k] += chunk.exchange[k - first][T::thread()];
      }
      __syncthreads();
    }
  }
}

// What a reverse convolution has in shared memory.
template <class T>
struct ReverseChunk {
  Edge edges[kChunk];
  Real partial[T::kThreads / kWarp][kChunk * kSums];  // sums over the channels of a warp
};

// Adds over warps, to `out` [n][kSums].
template <class T>
static MACE_MD_INLINE void combine_warps(const ReverseChunk<T>& chunk, int n, Real* out) {
  for (int k = threadIdx.x; k < n * kSums; k += blockDim.x) {
    Real sum = 0;
    for (int warp = 0; warp < T::kThreads / kWarp; ++warp) sum += chunk.partial[warp][k];
    out[k] = sum;
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
