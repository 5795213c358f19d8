// What happens at an atom between the convolutions, in three kernels instead of seven: a block keeps eight atoms of one
// type in shared memory from one product to the next. For systems that fill the GPU with such blocks.
#pragma once

#include "features.cuh"
#include "polynomial.cuh"
#include "products.cuh"
#include "readout.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

// Threads take channels, and several groups of them atoms.
constexpr int kNodeGroups =
    kFusedThreads / kThreadsA < kFusedAtoms / kNodeAtoms ? kFusedThreads / kThreadsA : kFusedAtoms / kNodeAtoms;
constexpr int kAtomsOfGroup = kFusedAtoms / kNodeGroups;
static_assert(kFusedAtoms % kNodeGroups == 0 && kAtomsOfGroup % kNodeAtoms == 0);

static MACE_MD_INLINE const int* fused_slots(const Arguments& s) { return s.slots + blockIdx.x * kFusedAtoms; }
static MACE_MD_INLINE int fused_type(const Arguments& s) { return s.tile_type[blockIdx.x * kFusedAtoms / kTileAtoms]; }

static MACE_MD_INLINE bool any_atom(const int* slots) {
  for (int n = 0; n < kFusedAtoms; ++n)
    if (slots[n] >= 0) return true;
  return false;
}

// Component lm of atom n of the block.
static MACE_MD_INLINE Real* row_of(Real* rows, int lm, int n) { return rows + (lm * kFusedAtoms + n) * kPitch; }

// Calls body(the atoms, the first of them in the block) for the atoms of this thread's group, kNodeAtoms at a time.
template <class Body>
static MACE_MD_INLINE void for_nodes(const Arguments& s, Body&& body) {
  const int group = threadIdx.x / kThreadsA;
  if (group >= kNodeGroups) return;
  NodeBlock b;
  b.type = fused_type(s);
  b.active = static_cast<int>(threadIdx.x) % kThreadsA < C;
  b.c = b.active ? threadIdx.x % kThreadsA : 0;
  for (int n0 = group * kAtomsOfGroup; n0 < (group + 1) * kAtomsOfGroup; n0 += kNodeAtoms) {
    for (int n = 0; n < kNodeAtoms; ++n) b.atom[n] = fused_slots(s)[n0 + n];
    body(b, n0);
  }
}

template <int N>
static MACE_MD_INLINE void load_rows(const NodeBlock& b, int n0, Real* rows, Values* x) {
  MACE_MD_UNROLL
  for (int lm = 0; lm < N; ++lm) {
    MACE_MD_UNROLL
    for (int n = 0; n < kNodeAtoms; ++n) x[lm].v[n] = row_of(rows, lm, n0 + n)[b.c];
  }
}

template <int N>
static MACE_MD_INLINE void store_rows(const NodeBlock& b, int n0, const Values* x, Real* rows) {
  if (!b.active) return;
  MACE_MD_UNROLL
  for (int lm = 0; lm < N; ++lm) {
    MACE_MD_UNROLL
    for (int n = 0; n < kNodeAtoms; ++n) row_of(rows, lm, n0 + n)[b.c] = x[lm].v[n];
  }
}

// dE/drho (as in node.cuh): what a warp has of it goes to scratch [kFusedAtoms][kFusedWarps], and is added later.
static MACE_MD_INLINE void keep_density_adjoint(const NodeBlock& b, int n0, const Values* x, const Values* g,
                                                double* scratch) {
  for (int n = 0; n < kNodeAtoms; ++n) {
    double dot = 0;
    if (b.active)
      for (int lm = 0; lm < kA; ++lm) dot += static_cast<double>(x[lm].v[n]) * g[lm].v[n];
    dot = warp_sum(dot);
    if (lane() == 0) scratch[(n0 + n) * kFusedWarps + threadIdx.x % kThreadsA / kWarp] = dot;
  }
}

static MACE_MD_INLINE void sum_density_adjoint(const Arguments& s, const double* scratch, const Real* scale,
                                               double* out) {
  __syncthreads();
  const int n = threadIdx.x;
  if (n >= kFusedAtoms || fused_slots(s)[n] < 0) return;
  double dot = 0;
  for (int warp = 0; warp < kThreadsA / kWarp; ++warp) dot += scratch[n * kFusedWarps + warp];
  out[fused_slots(s)[n]] = -static_cast<double>(scale[fused_slots(s)[n]]) * dot;
}

// Calls body(Degree<l>) for l = 0 ... LAST.
template <int LAST, class Body>
static MACE_MD_INLINE void for_degrees(Body&& body) {
  if constexpr (LAST > 0) for_degrees<LAST - 1>(body);
  body(Lanes<LAST>());
}

// rows of component lm and what follows, [width][kFusedAtoms]: in(atom, m, k) of each atom, zero where there is none.
template <class In>
static MACE_MD_INLINE void stage(const int* slots, Real* rows, int width, int n_k, In&& in) {
  for (int at = threadIdx.x; at < width * kFusedAtoms * n_k; at += kFusedThreads) {
    const int k = at % n_k, n = at / n_k % kFusedAtoms, m = at / (n_k * kFusedAtoms), atom = slots[n];
    row_of(rows, m, n)[k] = atom >= 0 ? in(atom, m, k) : Real(0);
  }
}

// M0 = polynomial of A0, H = M0 W_h + bias
MACE_MD_KERNEL_OF_TWO(node0, kFusedThreads) {
  MACE_MD_DYNAMIC_SHARED(Real, rows);  // M0
  const int* slots = fused_slots(s);
  if (!any_atom(slots)) return;
  for_nodes(s, [&](const NodeBlock& b, int n0) {
    Values x[kA], m[kH];
    load_nodes<kA>(b, s.a0, x);
    polynomial0(weights0(s, b.type, b.c), x, m);
    store_rows<kH>(b, n0, m, rows);
    for (int n = 0; n < kNodeAtoms; ++n)  // the readout needs the scalars
      if (b.active && b.atom[n] >= 0) s.m0[m0_at(b.atom[n], 0, b.c)] = m[0].v[n];
  });
  __syncthreads();
  const int type = fused_type(s);
  for_degrees<kL>([&](auto degree) {
    constexpr int l = value_of(decltype(degree)());
    Product<2 * l + 1, C2> product;
    product.template add<C, C2>(row_of(rows, l * l, 0), s.wh + l * C * C2);
    product.write([&](int n, int m, int column, Real value) {
      if (slots[n] >= 0) store_h(s, slots[n], type, l * l + m, column, value);
    });
  });
}

// A1[l] = Phi[l] W_a[l], into rows; Phi is read into the same place, a path at a time.
static MACE_MD_INLINE void mix_rows(const Arguments& s, const int* slots, Real* rows) {
  const int type = fused_type(s);
  for_degrees<kEll>([&](auto degree) {
    constexpr int l = value_of(decltype(degree)()), kPathsTo = Table::value.paths_to[l];
    Real* own = row_of(rows, l * l, 0);
    Product<2 * l + 1, C> product;
    for (int path = 0; path < kPathsTo; ++path) {
      __syncthreads();
      stage(slots, own, 2 * l + 1, C2,
            [&](int atom, int m, int k) { return s.phi[phi_at<l>(atom, m, path * C2 + k)]; });
      __syncthreads();
      product.template add<C2, C>(own, mixing_weight<l>(s.wa, type) + path * C2 * C);
    }
    __syncthreads();
    product.write([&](int n, int m, int column, Real value) { row_of(own, m, n)[column] = value; });
  });
  __syncthreads();
}

// dE/dPhi = dE/dA1 W_a^T, from rows to memory.
static MACE_MD_INLINE void mix_rows_reverse(const Arguments& s, const int* slots, Real* rows) {
  const int type = fused_type(s);
  for_degrees<kEll>([&](auto degree) {
    constexpr int l = value_of(decltype(degree)()), kPathsTo = Table::value.paths_to[l], kLine = kPathsTo * C2;
    for (int path = 0; path < kPathsTo; ++path) {
      Product<2 * l + 1, C2> product;
      product.template add<C, kLine>(row_of(rows, l * l, 0), mixing_weight<l>(s.wa_reverse, type) + path * C2);
      product.write([&](int n, int m, int column, Real value) {
        if (slots[n] >= 0) s.phi[phi_at<l>(slots[n], m, path * C2 + column)] = value;
      });
    }
  });
}

// From Phi to the energy and back: A1, M1, readout, dE/dA1, dE/dPhi.
MACE_MD_KERNEL_OF_TWO(node1, kFusedThreads) {
  MACE_MD_DYNAMIC_SHARED(Real, rows);  // A1, then its adjoint
  __shared__ Real m1[kFusedAtoms * C];
  __shared__ Real hidden_adjoint[kFusedAtoms * kMlp];
  __shared__ double scratch[kFusedAtoms * kFusedWarps];
  const int* slots = fused_slots(s);
  if (!any_atom(slots)) return;
  mix_rows(s, slots, rows);
  for_nodes(s, [&](const NodeBlock& b, int n0) {
    Values x[kA], m[1];
    load_rows<kA>(b, n0, rows, x);
    polynomial1(weights1(s, b.type, b.c), x, m);
    for (int n = 0; n < kNodeAtoms; ++n)
      if (b.active) m1[(n0 + n) * C + b.c] = m[0].v[n];
  });
  __syncthreads();
  const int own = threadIdx.x / kWarp;  // atom of this warp
  if (slots[own] >= 0) read_out(s, slots[own], fused_type(s), m1 + own * C, hidden_adjoint + own * kMlp);
  __syncthreads();
  for_nodes(s, [&](const NodeBlock& b, int n0) {
    Values x[kA], adjoint[1], g[kA];
    load_rows<kA>(b, n0, rows, x);
    for (int n = 0; n < kNodeAtoms; ++n)
      adjoint[0].v[n] = b.active && b.atom[n] >= 0
                            ? read_out_reverse(s, b.atom[n], b.type, b.c, hidden_adjoint + (n0 + n) * kMlp)
                            : Real(0);
    polynomial1_gradient(weights1(s, b.type, b.c), x, adjoint, g);
    store_rows<kA>(b, n0, g, rows);
    if constexpr (MACE_MD_DENSITY1 != 0) keep_density_adjoint(b, n0, x, g, scratch);
  });
  if constexpr (MACE_MD_DENSITY1 != 0) sum_density_adjoint(s, scratch, s.scale1, s.density_adjoint1);
  __syncthreads();
  mix_rows_reverse(s, slots, rows);
}

// dE/dM0 = dE/dH W_h^T and what the readouts add, and dE/dA0
MACE_MD_KERNEL_OF_TWO(node0_reverse, kFusedThreads) {
  MACE_MD_DYNAMIC_SHARED(Real, rows);  // dE/dH, then dE/dM0
  __shared__ double scratch[kFusedAtoms * kFusedWarps];
  const int* slots = fused_slots(s);
  if (!any_atom(slots)) return;
  stage(slots, rows, kH, C2, [&](int atom, int lm, int k) { return load_h_adjoint(s, atom, lm, k); });
  __syncthreads();
  for_degrees<kL>([&](auto degree) {
    constexpr int l = value_of(decltype(degree)());
    Real* own = row_of(rows, l * l, 0);
    Product<2 * l + 1, C> product;
    product.template add<C2, C>(own, s.wh_reverse + l * C * C2);
    __syncthreads();
    product.write([&](int n, int m, int column, Real value) { row_of(own, m, n)[column] = value; });
  });
  __syncthreads();
  for_nodes(s, [&](const NodeBlock& b, int n0) {
    Values x[kA], g[kA], adjoint[kH];
    load_nodes<kA>(b, s.a0, x);
    load_rows<kH>(b, n0, rows, adjoint);
    for (int n = 0; n < kNodeAtoms; ++n)
      if (b.atom[n] >= 0) adjoint[0].v[n] += s.m0_readout_adjoint[static_cast<long long>(b.atom[n]) * C + b.c];
    polynomial0_gradient(weights0(s, b.type, b.c), x, adjoint, g);
    store_nodes<kA>(b, g, s.a_adjoint);
    if constexpr (MACE_MD_DENSITY0 != 0) keep_density_adjoint(b, n0, x, g, scratch);
  });
  if constexpr (MACE_MD_DENSITY0 != 0) sum_density_adjoint(s, scratch, s.scale0, s.density_adjoint0);
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
