// The many-body product and its derivatives, for atoms of one type and a vector of channels (cpu/polynomial.h has the
// value and the program).
#pragma once

#include "../cpu/polynomial.h"
#include "kernels.h"

namespace mace_md {
namespace MACE_MD_TARGET {

using training::Product;

// Gradients of sum_LM adjoint[LM] M[LM]: in x, and, where `w_adjoint` is not null, in the weights (added up).
template <int N, bool WEIGHTS>
static MACE_MD_NOINLINE void product_gradient(const int32_t* program, const Real* w, const V (*x)[N], int n_x,
                                              const V (*adjoint)[N], V (*g)[N], Real* w_adjoint) {
  const int n_linear = program[1], n_pairs = program[2];
  program += 3;
  for (int i = 0; i < n_x; ++i) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) g[i][k] = zero();
  auto add_weight = [&](const V* change) {
    V total = load(w_adjoint);
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) total += change[k];
    store(w_adjoint, total);
  };
  for (int i = 0; i < n_linear; ++i, program += 2) {
    const V weight = load(w);
    V change[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      g[program[1]][k] += weight * adjoint[program[0]][k];
      if (WEIGHTS) change[k] = adjoint[program[0]][k] * x[program[1]][k];
    }
    if (WEIGHTS) add_weight(change);
    w += W;
    if (WEIGHTS) w_adjoint += W;
  }
  for (int i = 0; i < n_pairs; ++i) {
    const int ia = program[0], ib = program[1], n_groups = program[2];
    program += 3;
    V pair[N], pair_adjoint[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      pair[k] = x[ia][k] * x[ib][k];
      pair_adjoint[k] = zero();
    }
    for (int group = 0; group < n_groups; ++group) {
      const V* up = adjoint[program[0]];
      const bool quadratic = program[1] != 0;
      const int n_cubic = program[2];
      program += 3;
      V inner[N], scaled[N];
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) {
        inner[k] = zero();
        scaled[k] = up[k] * pair[k];
      }
      if (quadratic) {
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) inner[k] = load(w);
        if (WEIGHTS) add_weight(scaled);
        w += W;
        if (WEIGHTS) w_adjoint += W;
      }
      for (int c = 0; c < n_cubic; ++c) {
        const V* third = x[*program];
        V* gradient = g[*program++];
        const V weight = load(w);
        V change[N];
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) {
          inner[k] += weight * third[k];
          gradient[k] += weight * scaled[k];
          if (WEIGHTS) change[k] = scaled[k] * third[k];
        }
        if (WEIGHTS) add_weight(change);
        w += W;
        if (WEIGHTS) w_adjoint += W;
      }
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) pair_adjoint[k] += up[k] * inner[k];
    }
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      g[ia][k] += pair_adjoint[k] * x[ib][k];
      g[ib][k] += pair_adjoint[k] * x[ia][k];
    }
  }
}

// T = the derivative of M along x_dot, and the gradients of sum_LM adjoint[LM] T[LM] in x and (added up) in the
// weights.
template <int N>
static MACE_MD_NOINLINE void product_second_order(const int32_t* program, const Real* w, const V (*x)[N],
                                                  const V (*x_dot)[N], int n_x, const V (*adjoint)[N], V (*tangent)[N],
                                                  V (*g)[N], Real* w_adjoint) {
  const int n_outputs = program[0], n_linear = program[1], n_pairs = program[2];
  program += 3;
  for (int i = 0; i < n_x; ++i) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) g[i][k] = zero();
  for (int i = 0; i < n_outputs; ++i) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) tangent[i][k] = zero();
  auto add_weight = [&](const V* change) {
    V total = load(w_adjoint);
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) total += change[k];
    store(w_adjoint, total);
    w += W;
    w_adjoint += W;
  };
  for (int i = 0; i < n_linear; ++i, program += 2) {
    const V weight = load(w);
    V change[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      tangent[program[0]][k] += weight * x_dot[program[1]][k];
      change[k] = adjoint[program[0]][k] * x_dot[program[1]][k];
    }
    add_weight(change);
  }
  for (int i = 0; i < n_pairs; ++i) {
    const int ia = program[0], ib = program[1], n_groups = program[2];
    program += 3;
    V pair[N], pair_dot[N], by_pair[N], by_pair_dot[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      pair[k] = x[ia][k] * x[ib][k];
      pair_dot[k] = x_dot[ia][k] * x[ib][k] + x[ia][k] * x_dot[ib][k];
      by_pair[k] = by_pair_dot[k] = zero();
    }
    for (int group = 0; group < n_groups; ++group) {
      const V* up = adjoint[program[0]];
      V* out = tangent[program[0]];
      const bool quadratic = program[1] != 0;
      const int n_cubic = program[2];
      program += 3;
      V inner[N], inner_dot[N], scaled[N], scaled_dot[N];
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) {
        inner[k] = inner_dot[k] = zero();
        scaled[k] = up[k] * pair[k];
        scaled_dot[k] = up[k] * pair_dot[k];
      }
      if (quadratic) {
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) inner[k] = load(w);
        add_weight(scaled_dot);
      }
      for (int c = 0; c < n_cubic; ++c) {
        const V *third = x[*program], *third_dot = x_dot[*program];
        V* gradient = g[*program++];
        const V weight = load(w);
        V change[N];
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) {
          inner[k] += weight * third[k];
          inner_dot[k] += weight * third_dot[k];
          gradient[k] += weight * scaled_dot[k];
          change[k] = scaled_dot[k] * third[k] + scaled[k] * third_dot[k];
        }
        add_weight(change);
      }
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) {
        out[k] += pair_dot[k] * inner[k] + pair[k] * inner_dot[k];
        by_pair[k] += up[k] * inner_dot[k];
        by_pair_dot[k] += up[k] * inner[k];
      }
    }
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) {
      g[ia][k] += by_pair[k] * x[ib][k] + by_pair_dot[k] * x_dot[ib][k];
      g[ib][k] += by_pair[k] * x[ia][k] + by_pair_dot[k] * x_dot[ia][k];
    }
  }
}

template <int N>
static MACE_MD_NOINLINE void product_value(const int32_t* program, const Real* w, const V (*x)[N], V (*m)[N]) {
  const int n_outputs = program[0], n_linear = program[1], n_pairs = program[2];
  program += 3;
  for (int i = 0; i < n_outputs; ++i) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) m[i][k] = zero();
  for (int i = 0; i < n_linear; ++i, program += 2, w += W) MACE_MD_UNROLL
  for (int k = 0; k < N; ++k) m[program[0]][k] += load(w) * x[program[1]][k];
  for (int i = 0; i < n_pairs; ++i) {
    const V *a = x[program[0]], *b = x[program[1]];
    const int n_groups = program[2];
    program += 3;
    V pair[N];
    MACE_MD_UNROLL
    for (int k = 0; k < N; ++k) pair[k] = a[k] * b[k];
    for (int group = 0; group < n_groups; ++group) {
      V* out = m[program[0]];
      const bool quadratic = program[1] != 0;
      const int n_cubic = program[2];
      program += 3;
      V inner[N];
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) inner[k] = quadratic ? load(w) : zero();
      if (quadratic) w += W;
      for (int c = 0; c < n_cubic; ++c, w += W) {
        const V* third = x[*program++];
        const V weight = load(w);
        MACE_MD_UNROLL
        for (int k = 0; k < N; ++k) inner[k] += weight * third[k];
      }
      MACE_MD_UNROLL
      for (int k = 0; k < N; ++k) out[k] += pair[k] * inner[k];
    }
  }
}

class ProductPass {
 public:
  explicit ProductPass(const Product& p) : p_(p) {
    while (squared_(max_l_ + 1) < p.n_components) ++max_l_;
    while (squared_(max_L_ + 1) < p.n_outputs) ++max_L_;
  }

  // Tasks are a type and a vector of channels: they share nothing that is written.
  int n_tasks() const { return static_cast<int>(p_.channels / W) * p_.n_types; }

  void value(int task) {
    for_atoms(task, [&](int64_t atom, const Real* w, Real*, auto n) {
      constexpr int N = decltype(n)::value;
      V x[kMaxComponents][N], m[kMaxComponents][N];
      gather(p_.x, max_l_, atom, x);
      product_value<N>(p_.program, w, x, m);
      scatter(p_.value, max_L_, atom, m);
    });
  }

  void reverse(int task) {
    for_atoms(task, [&](int64_t atom, const Real* w, Real* w_adjoint, auto n) {
      constexpr int N = decltype(n)::value;
      V x[kMaxComponents][N], up[kMaxComponents][N], g[kMaxComponents][N];
      gather(p_.x, max_l_, atom, x);
      gather(p_.adjoint, max_L_, atom, up);
      if (w_adjoint == nullptr)
        product_gradient<N, false>(p_.program, w, x, p_.n_components, up, g, w_adjoint);
      else
        product_gradient<N, true>(p_.program, w, x, p_.n_components, up, g, w_adjoint);
      scatter(p_.gradient, max_l_, atom, g);
    });
  }

  void second(int task) {
    for_atoms(task, [&](int64_t atom, const Real* w, Real* w_adjoint, auto n) {
      constexpr int N = decltype(n)::value;
      V x[kMaxComponents][N], x_dot[kMaxComponents][N], up[kMaxComponents][N], g[kMaxComponents][N];
      V tangent[kMaxComponents][N];
      gather(p_.x, max_l_, atom, x);
      gather(p_.x_dot, max_l_, atom, x_dot);
      gather(p_.adjoint, max_L_, atom, up);
      product_second_order<N>(p_.program, w, x, x_dot, p_.n_components, up, tangent, g, w_adjoint);
      scatter(p_.value, max_L_, atom, tangent);
      scatter(p_.gradient, max_l_, atom, g);
    });
  }

 private:
  template <int N>
  struct Count {
    static constexpr int value = N;
  };

  const Product& p_;
  int max_l_ = 0, max_L_ = 0;
  int64_t channel_ = 0;

  static constexpr int squared_(int n) { return n * n; }

  template <class Body>
  void for_atoms(int task, Body&& body) {
    const int type = task % p_.n_types;
    channel_ = int64_t{task / p_.n_types} * W;
    const int64_t in_weights = int64_t{type} * p_.n_weights * p_.channels + channel_;
    const Real* from = static_cast<const Real*>(p_.weights) + in_weights;
    // The weights of the task side by side, and their gradients: read and written for every few atoms.
    const bool with_adjoint = p_.weights_adjoint != nullptr;
    Real* w =
        static_cast<Real*>(__builtin_alloca_with_align(sizeof(Real) * W * p_.n_weights * (with_adjoint ? 2 : 1), 512));
    Real* w_adjoint = with_adjoint ? w + W * p_.n_weights : nullptr;
    for (int i = 0; i < p_.n_weights; ++i) {
      store(w + i * W, load(from + i * p_.channels));
      if (with_adjoint) store(w_adjoint + i * W, zero());
    }
    int64_t atom = p_.type_start[type];
    const int64_t end = p_.type_start[type + 1];
    for (; atom + kAtomsAtOnce <= end; atom += kAtomsAtOnce) body(atom, w, w_adjoint, Count<kAtomsAtOnce>());
    for (; atom < end; ++atom) body(atom, w, w_adjoint, Count<1>());
    if (with_adjoint)
      for (int i = 0; i < p_.n_weights; ++i)
        store(static_cast<Real*>(p_.weights_adjoint) + in_weights + i * p_.channels, load(w_adjoint + i * W));
  }

  template <int N>
  void gather(const void* const* from, int max_l, int64_t atom, V (*x)[N]) const {
    for (int l = 0; l <= max_l; ++l)
      for (int k = 0; k < N; ++k) {
        const Real* row = static_cast<const Real*>(from[l]) + (atom + k) * (2 * l + 1) * p_.channels + channel_;
        for (int m = 0; m < 2 * l + 1; ++m) x[l * l + m][k] = load(row + m * p_.channels);
      }
  }

  template <int N>
  void scatter(void* const* to, int max_l, int64_t atom, const V (*x)[N]) const {
    for (int l = 0; l <= max_l; ++l)
      for (int k = 0; k < N; ++k) {
        Real* row = static_cast<Real*>(to[l]) + (atom + k) * (2 * l + 1) * p_.channels + channel_;
        for (int m = 0; m < 2 * l + 1; ++m) store(row + m * p_.channels, x[l * l + m][k]);
      }
  }
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
