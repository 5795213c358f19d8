// Distances of pairs and harmonics of edges, and their derivatives.
#pragma once

#include "../cpu/simd.h"
#include "../geometry.h"
#include "kernels.h"

namespace mace_md {
namespace MACE_MD_TARGET {

using training::Geometry;

struct UnitVector {
  Real x, y, z, r;
};

static MACE_MD_INLINE UnitVector unit_vector(const Real* v) {
  const Real square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
  const Real r = sizeof(Real) == 4 ? Real(__builtin_sqrtf(float(square))) : Real(__builtin_sqrt(double(square)));
  return {v[0] / r, v[1] / r, v[2] / r, r};
}

// body(edge, pair, whether r of the pair is this edge's, unit vector)
template <class Body>
static MACE_MD_INLINE void for_edges(const Geometry& g, Body&& body) {
  const Real* vectors = static_cast<const Real*>(g.vectors);
  for (int64_t e = 0; e < g.graph.n_edges; ++e)
    body(e, g.graph.pair[e] >> 1, (g.graph.pair[e] & 1) == 0, unit_vector(vectors + 3 * e));
}

template <int ELL>
static void edges_forward(const Geometry& g) {
  constexpr int kY = (ELL + 1) * (ELL + 1);
  for_edges(g, [&](int64_t e, int64_t pair, bool first, UnitVector u) {
    harmonics<ELL>(u.x, u.y, u.z, static_cast<Real*>(g.y) + e * kY);
    if (first) static_cast<Real*>(g.r)[pair] = u.r;
  });
}

template <int ELL>
static void edges_reverse(const Geometry& g) {
  constexpr int kY = (ELL + 1) * (ELL + 1);
  for_edges(g, [&](int64_t e, int64_t pair, bool first, UnitVector u) {
    const Real* q = static_cast<const Real*>(g.y_adjoint) + e * kY;
    Real d[3];
    harmonics_gradient<ELL>(u.x, u.y, u.z, [&](int lm) { return q[lm]; }, d);
    const Real along = d[0] * u.x + d[1] * u.y + d[2] * u.z;
    const Real radial = (first ? static_cast<const Real*>(g.r_adjoint)[pair] : Real(0)) - along / u.r;
    Real* out = static_cast<Real*>(g.vectors_adjoint) + 3 * e;
    out[0] = d[0] / u.r + radial * u.x;
    out[1] = d[1] / u.r + radial * u.y;
    out[2] = d[2] / u.r + radial * u.z;
  });
}

template <int ELL>
static void edges_tangent(const Geometry& g) {
  constexpr int kY = (ELL + 1) * (ELL + 1);
  for_edges(g, [&](int64_t e, int64_t pair, bool first, UnitVector u) {
    const Real* v = static_cast<const Real*>(g.vectors_dot) + 3 * e;
    const Real along = v[0] * u.x + v[1] * u.y + v[2] * u.z;
    const Real a = (v[0] - along * u.x) / u.r, b = (v[1] - along * u.y) / u.r, c = (v[2] - along * u.z) / u.r;
    if (first) static_cast<Real*>(g.r)[pair] = along;
    Real* out = static_cast<Real*>(g.y) + e * kY;
    MACE_MD_UNROLL
    for (int lm = 0; lm < kY; ++lm) {
      Real d[3];
      harmonics_gradient<ELL>(u.x, u.y, u.z, [&](int other) { return other == lm ? Real(1) : Real(0); }, d);
      out[lm] = d[0] * a + d[1] * b + d[2] * c;
    }
  });
}

static void geometry(const Geometry& g) { g.max_ell == 2 ? edges_forward<2>(g) : edges_forward<3>(g); }
static void geometry_reverse(const Geometry& g) { g.max_ell == 2 ? edges_reverse<2>(g) : edges_reverse<3>(g); }
static void geometry_tangent(const Geometry& g) { g.max_ell == 2 ? edges_tangent<2>(g) : edges_tangent<3>(g); }

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
