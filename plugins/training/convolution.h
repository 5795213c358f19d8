// Sums over neighbours for one receiver, one path and a range of channels, and their derivatives.
//
// With a = R h (element by element over channels) a path gives Phi[m3] = sum_e sum_m2 block[m3][m2] a[m2]. This is
// linear in block, h and R, so its tangent is the sum over the three of the same form with one of them replaced, and
// the adjoints are p[m2] = sum_m3 block[m3][m2] G[m3], with h' = R p and R' = sum_m2 h p.
#pragma once

#include "../cpu/simd.h"
#include "kernels.h"

namespace mace_md {
namespace MACE_MD_TARGET {

using training::Convolution;
using training::GraphIndex;
using training::PathShape;

// Where the arrays of a path begin for one receiver and channel.
struct PathArrays {
  const int32_t *sender, *pair;  // of the first edge
  int n_edges;
  const Real *blocks, *blocks_dot;  // of the first edge
  const Real *h, *h_dot, *r, *r_dot;
  Real *h_adjoint, *r_adjoint;
  const Real* g;
  Real* phi;
  int64_t n_blocks, channels, h_stride, r_stride, phi_stride;  // phi: from m3 to m3
  int64_t width;                                               // channels to do
};

// Loops over channels are innermost, so that every array is walked along its memory; N_EDGES edges at once share what
// is loaded and stored of the receiver.
template <int N2, int N3, bool TANGENT, bool H_DOT, int N_EDGES, int TV>
static MACE_MD_INLINE void edges_forward_step(const PathArrays& p, int first, int64_t c) {
  V a[N_EDGES][N2][TV], a_dot[N_EDGES][N2][TV];
  const Real *b[N_EDGES], *b_dot[N_EDGES];
  MACE_MD_UNROLL
  for (int e = 0; e < N_EDGES; ++e) {
    const int64_t in_r = (p.pair[first + e] >> 1) * p.r_stride + c, in_h = p.sender[first + e] * p.h_stride + c;
    b[e] = p.blocks + (first + e) * p.n_blocks;
    b_dot[e] = TANGENT ? p.blocks_dot + (first + e) * p.n_blocks : nullptr;
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < N2; ++m2) {
      MACE_MD_UNROLL
      for (int t = 0; t < TV; ++t) {
        const V h = load(p.h + in_h + m2 * p.channels + t * W), r = load(p.r + in_r + t * W);
        a[e][m2][t] = r * h;
        if (TANGENT) a_dot[e][m2][t] = load(p.r_dot + in_r + t * W) * h;
        if (H_DOT) a_dot[e][m2][t] += r * load(p.h_dot + in_h + m2 * p.channels + t * W);
      }
    }
  }
  MACE_MD_UNROLL
  for (int m3 = 0; m3 < N3; ++m3) {
    Real* phi = p.phi + m3 * p.phi_stride + c;
    V total[TV];
    MACE_MD_UNROLL
    for (int t = 0; t < TV; ++t) total[t] = load(phi + t * W);
    MACE_MD_UNROLL
    for (int e = 0; e < N_EDGES; ++e) {
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < N2; ++m2) {
        const Real factor = b[e][m3 * N2 + m2], factor_dot = TANGENT ? b_dot[e][m3 * N2 + m2] : Real(0);
        MACE_MD_UNROLL
        for (int t = 0; t < TV; ++t) {
          total[t] += (TANGENT ? a_dot[e][m2][t] : a[e][m2][t]) * factor;
          if (TANGENT) total[t] += a[e][m2][t] * factor_dot;
        }
      }
    }
    MACE_MD_UNROLL
    for (int t = 0; t < TV; ++t) store(phi + t * W, total[t]);
  }
}

template <int N2, int N3, bool TANGENT, bool H_DOT>
static MACE_MD_NOINLINE void path_forward(const PathArrays& p) {
  constexpr int kUsed = N2 * (TANGENT ? 2 : 1), TV = kUsed <= 6 ? 2 : 1, kEdges = kUsed == 1 ? 4 : (kUsed <= 3 ? 2 : 1);
  for (int m3 = 0; m3 < N3; ++m3)
    for (int64_t c = 0; c < p.width; c += W) store(p.phi + m3 * p.phi_stride + c, zero());
  int e = 0;
  for (; e + kEdges <= p.n_edges; e += kEdges) {
    int64_t c = 0;
    for (; c + TV * W <= p.width; c += TV * W) edges_forward_step<N2, N3, TANGENT, H_DOT, kEdges, TV>(p, e, c);
    for (; c < p.width; c += W) edges_forward_step<N2, N3, TANGENT, H_DOT, kEdges, 1>(p, e, c);
  }
  for (; e < p.n_edges; ++e)
    for (int64_t c = 0; c < p.width; c += W) edges_forward_step<N2, N3, TANGENT, H_DOT, 1, 1>(p, e, c);
}

template <int N2, int N3, bool TANGENT, bool H_DOT, int N_EDGES, int TV>
static MACE_MD_INLINE void edges_reverse_step(const PathArrays& p, int first, int64_t c) {
  V q[N_EDGES][N2][TV], q_dot[N_EDGES][N2][TV];
  const Real *b[N_EDGES], *b_dot[N_EDGES];
  MACE_MD_UNROLL
  for (int e = 0; e < N_EDGES; ++e) {
    b[e] = p.blocks + (first + e) * p.n_blocks;
    b_dot[e] = TANGENT ? p.blocks_dot + (first + e) * p.n_blocks : nullptr;
    MACE_MD_UNROLL
    for (int m2 = 0; m2 < N2; ++m2) {
      MACE_MD_UNROLL
      for (int t = 0; t < TV; ++t) q[e][m2][t] = q_dot[e][m2][t] = zero();
    }
  }
  MACE_MD_UNROLL
  for (int m3 = 0; m3 < N3; ++m3) {
    V g[TV];
    MACE_MD_UNROLL
    for (int t = 0; t < TV; ++t) g[t] = load(p.g + m3 * p.phi_stride + c + t * W);
    MACE_MD_UNROLL
    for (int e = 0; e < N_EDGES; ++e) {
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < N2; ++m2) {
        const Real factor = b[e][m3 * N2 + m2], factor_dot = TANGENT ? b_dot[e][m3 * N2 + m2] : Real(0);
        MACE_MD_UNROLL
        for (int t = 0; t < TV; ++t) {
          q[e][m2][t] += g[t] * factor;
          if (TANGENT) q_dot[e][m2][t] += g[t] * factor_dot;
        }
      }
    }
  }
  MACE_MD_UNROLL
  for (int e = 0; e < N_EDGES; ++e) {
    const int64_t in_r = (p.pair[first + e] >> 1) * p.r_stride + c, in_h = p.sender[first + e] * p.h_stride + c;
    const bool second = (p.pair[first + e] & 1) != 0;
    MACE_MD_UNROLL
    for (int t = 0; t < TV; ++t) {
      V total = second ? load(p.r_adjoint + in_r + t * W) : zero();
      MACE_MD_UNROLL
      for (int m2 = 0; m2 < N2; ++m2) {
        const int64_t at = in_h + m2 * p.channels + t * W;
        total += load(p.h + at) * (TANGENT ? q_dot[e][m2][t] : q[e][m2][t]);
        if (H_DOT) total += load(p.h_dot + at) * q[e][m2][t];
        if (p.h_adjoint != nullptr) {
          V change = load(p.h_adjoint + at) + load(p.r + in_r + t * W) * (TANGENT ? q_dot[e][m2][t] : q[e][m2][t]);
          if (TANGENT) change += load(p.r_dot + in_r + t * W) * q[e][m2][t];
          store(p.h_adjoint + at, change);
        }
      }
      store(p.r_adjoint + in_r + t * W, total);
    }
  }
}

template <int N2, int N3, bool TANGENT, bool H_DOT>
static MACE_MD_NOINLINE void path_reverse(const PathArrays& p) {
  constexpr int kUsed = N2 * (TANGENT ? 2 : 1), TV = kUsed <= 6 ? 2 : 1, kEdges = kUsed <= 2 ? 2 : 1;
  int e = 0;
  for (; e + kEdges <= p.n_edges; e += kEdges) {
    int64_t c = 0;
    for (; c + TV * W <= p.width; c += TV * W) edges_reverse_step<N2, N3, TANGENT, H_DOT, kEdges, TV>(p, e, c);
    for (; c < p.width; c += W) edges_reverse_step<N2, N3, TANGENT, H_DOT, kEdges, 1>(p, e, c);
  }
  for (; e < p.n_edges; ++e)
    for (int64_t c = 0; c < p.width; c += W) edges_reverse_step<N2, N3, TANGENT, H_DOT, 1, 1>(p, e, c);
}

// The adjoint of the block of each edge, for all channels: sum over channels of a[m2] G[m3]; K3 of the m3 at a time.
template <int N2, int N3>
static MACE_MD_NOINLINE void path_blocks(const PathArrays& p, Real* out) {
  constexpr int K3 = N2 == 1 ? N3 : (N2 == 3 ? (N3 < 3 ? N3 : 3) : (N3 < 2 ? N3 : 2));
  for (int e = 0; e < p.n_edges; ++e, out += p.n_blocks) {
    const Real* r = p.r + (p.pair[e] >> 1) * p.r_stride;
    const Real* h = p.h + p.sender[e] * p.h_stride;
    MACE_MD_UNROLL
    for (int first = 0; first < N3; first += K3) {
      const Real* g = p.g + first * p.phi_stride;
      V acc[K3][N2];
      MACE_MD_UNROLL
      for (int k = 0; k < K3; ++k) {
        MACE_MD_UNROLL
        for (int m2 = 0; m2 < N2; ++m2) acc[k][m2] = zero();
      }
      for (int64_t c = 0; c < p.channels; c += W) {
        const V rv = load(r + c);
        V a[N2];
        MACE_MD_UNROLL
        for (int m2 = 0; m2 < N2; ++m2) a[m2] = rv * load(h + m2 * p.channels + c);
        MACE_MD_UNROLL
        for (int k = 0; k < K3; ++k) {
          if (first + k < N3) {
            const V gv = load(g + k * p.phi_stride + c);
            MACE_MD_UNROLL
            for (int m2 = 0; m2 < N2; ++m2) acc[k][m2] += a[m2] * gv;
          }
        }
      }
      MACE_MD_UNROLL
      for (int k = 0; k < K3; ++k) {
        MACE_MD_UNROLL
        for (int m2 = 0; m2 < N2; ++m2)
          if (first + k < N3) out[(first + k) * N2 + m2] = sum(acc[k][m2]);
      }
    }
  }
}

template <int N>
struct Size {
  static constexpr int value = N;
};

// body(Size<n2>, Size<n3>) for the sizes of a path.
template <class N2, class Body>
static MACE_MD_INLINE void for_n3(int n3, N2 n2, Body&& body) {
  if (n3 == 1) body(n2, Size<1>());
  if (n3 == 3) body(n2, Size<3>());
  if (n3 == 5) body(n2, Size<5>());
  if (n3 == 7) body(n2, Size<7>());
}

template <class Body>
static MACE_MD_INLINE void for_sizes(const PathShape& path, Body&& body) {
  if (path.n2 == 1) for_n3(path.n3, Size<1>(), body);
  if (path.n2 == 3) for_n3(path.n3, Size<3>(), body);
  if (path.n2 == 5) for_n3(path.n3, Size<5>(), body);
  if (path.n2 == 7) for_n3(path.n3, Size<7>(), body);
}

class ConvolutionPass {
 public:
  explicit ConvolutionPass(const Convolution& c) : c_(c), graph_(c.graph) {
    // Enough ranges of channels for all threads, none shorter than a cache line or two.
    const int64_t most = (c.channels + kShortest - 1) / kShortest;
    int64_t ranges = (2 * c.n_threads + graph_.n_systems - 1) / graph_.n_systems;
    if (c.n_threads <= 1 || ranges < 1) ranges = 1;
    if (ranges > most) ranges = most;
    width_ = (c.channels / W + ranges - 1) / ranges * W;
    n_ranges_ = (c.channels + width_ - 1) / width_;
  }

  int n_tasks() const { return static_cast<int>(n_ranges_ * graph_.n_systems); }

  // Tasks are a system and a range of channels: they share nothing that is written.
  void forward(int task) {
    for_atoms_and_paths(task, [&](const PathArrays& p, const PathShape& path) {
      for_sizes(path, [&](auto n2, auto n3) {
        constexpr int N2 = decltype(n2)::value, N3 = decltype(n3)::value;
        if (p.r_dot == nullptr)
          path_forward<N2, N3, false, false>(p);
        else if (p.h_dot == nullptr)
          path_forward<N2, N3, true, false>(p);
        else
          path_forward<N2, N3, true, true>(p);
      });
    });
  }

  void reverse(int task) {
    if (c_.h_adjoint != nullptr) clear(task);
    for_atoms_and_paths(task, [&](const PathArrays& p, const PathShape& path) {
      for_sizes(path, [&](auto n2, auto n3) {
        constexpr int N2 = decltype(n2)::value, N3 = decltype(n3)::value;
        if (p.r_dot == nullptr)
          path_reverse<N2, N3, false, false>(p);
        else if (p.h_dot == nullptr)
          path_reverse<N2, N3, true, false>(p);
        else
          path_reverse<N2, N3, true, true>(p);
      });
    });
  }

  // Tasks are atoms.
  void blocks(int position) {
    for (int i = 0; i < c_.n_paths; ++i) {
      const PathShape& path = c_.path[i];
      PathArrays p = arrays(position, i, 0);
      Real* out = static_cast<Real*>(c_.blocks_adjoint) + graph_.first_edge[position] * c_.n_blocks + path.block;
      for_sizes(path, [&](auto n2, auto n3) { path_blocks<decltype(n2)::value, decltype(n3)::value>(p, out); });
    }
  }

 private:
  const Convolution& c_;
  const GraphIndex& graph_;
  int64_t width_, n_ranges_;
  static constexpr int64_t kShortest = 128 / sizeof(Real);

  int64_t range_begin(int task) const { return task / graph_.n_systems * width_; }
  int64_t range_width(int task) const {
    const int64_t rest = c_.channels - range_begin(task);
    return rest < width_ ? rest : width_;
  }

  template <class Body>
  void for_atoms_and_paths(int task, Body&& body) {
    const int64_t system = task % graph_.n_systems;
    for (int64_t position = graph_.first_position[system]; position < graph_.first_position[system + 1]; ++position)
      for (int i = 0; i < c_.n_paths; ++i) {
        PathArrays p = arrays(position, i, range_begin(task));
        p.width = range_width(task);
        body(p, c_.path[i]);
      }
  }

  void clear(int task) {
    const int64_t system = task % graph_.n_systems, begin = range_begin(task), end = begin + range_width(task);
    Real* h_adjoint = static_cast<Real*>(c_.h_adjoint);
    for (int64_t position = graph_.first_position[system]; position < graph_.first_position[system + 1]; ++position)
      for (int64_t row = 0; row < c_.h_rows; ++row)
        for (int64_t c = begin; c < end; c += W)
          store(h_adjoint + (graph_.order[position] * c_.h_rows + row) * c_.channels + c, zero());
  }

  PathArrays arrays(int64_t position, int i, int64_t channel) const {
    const PathShape& path = c_.path[i];
    const int64_t first = graph_.first_edge[position], channels = c_.channels;
    PathArrays p;
    p.sender = graph_.sender + first;
    p.pair = graph_.pair + first;
    p.n_edges = static_cast<int>(graph_.first_edge[position + 1] - first);
    p.n_blocks = c_.n_blocks;
    p.channels = p.width = channels;
    p.h_stride = c_.h_rows * channels;
    p.r_stride = c_.n_paths * channels;
    const int64_t in_blocks = first * c_.n_blocks + path.block, in_h = path.h_row * channels + channel;
    const int64_t in_r = i * channels + channel;
    p.blocks = at(c_.blocks, in_blocks);
    p.blocks_dot = at(c_.blocks_dot, in_blocks);
    p.h = at(c_.h, in_h);
    p.h_dot = at(c_.h_dot, in_h);
    p.r = at(c_.r, in_r);
    p.r_dot = at(c_.r_dot, in_r);
    p.h_adjoint = const_cast<Real*>(at(c_.h_adjoint, in_h));
    p.r_adjoint = const_cast<Real*>(at(c_.r_adjoint, in_r));
    p.phi_stride = c_.paths_to[path.l3] * channels;
    const int64_t in_phi = graph_.order[position] * path.n3 * p.phi_stride + path.index * channels + channel;
    p.g = at(c_.adjoint[path.l3], in_phi);
    p.phi = const_cast<Real*>(at(c_.phi[path.l3], in_phi));
    return p;
  }

  static const Real* at(const void* array, int64_t offset) {
    return array == nullptr ? nullptr : static_cast<const Real*>(array) + offset;
  }
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
