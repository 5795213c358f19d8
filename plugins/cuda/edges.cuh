// From candidates to the edges of this step: geometry, spline weights, harmonics; densities and the repulsion of pairs.
#pragma once

#include "geometry.h"
#include "list.cuh"
#include "spline.h"

namespace mace_md {
namespace MACE_MD_TARGET {

// What the convolutions read of an edge; a multiple of 16 bytes, so that it is loaded in wide pieces.
struct alignas(16) Edge {
  int atom;  // sender
  int row0;  // first rows of the radial tables of the two layers
  int row1;
  int unused;
  Real w[kSupport], dw[kSupport];  // spline weights and their derivatives
  Real y[kA];
};

static MACE_MD_INLINE Edge* edges_of(const Arguments& s) { return static_cast<Edge*>(s.edges); }

static MACE_MD_INLINE int table_row(const Arguments& s, int type_i, int type_j, double r, Edge& edge) {
  const double place = (r - s.r_min) / s.spacing;
  const int last = kRows - kSupport;
  int knot = place < last ? static_cast<int>(place) : last;
  if (knot < 0) knot = 0;
  const Real t = static_cast<Real>(place - knot);
  spline_weights(t > 0 ? t : Real(0), edge.w, edge.dw);
  if (t < 0)  // closer than the first knot the functions go on linearly
    for (int k = 0; k < kSupport; ++k) edge.w[k] += t * edge.dw[k];
  const int pair = type_i * kTypes + type_j;
  edge.row0 = (MACE_MD_BY_SENDER0 ? type_j : pair) * kRows + knot;
  edge.row1 = (MACE_MD_BY_PAIR1 ? pair * kRows : 0) + knot;
  return knot;
}

static MACE_MD_INLINE double density(const Real* table, int pair, int knot, const Edge& edge, Real& slope) {
  const Real* c = table + pair * kRows + knot;
  double rho = 0;
  slope = 0;
  for (int k = 0; k < kSupport; ++k) {
    rho += edge.w[k] * c[k];
    slope += edge.dw[k] * c[k];
  }
  return rho;
}

struct PairSums {
  double energy, force[3], virial[9];
};

// Ziegler-Biersack-Littmark repulsion of one edge (half of each pair), as in edges.h.
static MACE_MD_INLINE void add_zbl(const Arguments& s, int type_i, int type_j, int sender, double r,
                                   const double* direction, PairSums& sums) {
  const double radius_i = s.zbl_types[2 * type_i], z_i = s.zbl_types[2 * type_i + 1];
  const double radius_j = s.zbl_types[2 * type_j], z_j = s.zbl_types[2 * type_j + 1];
  const double r_cut = radius_i + radius_j, p = s.zbl_cutoff_power;
  if (r >= r_cut) return;
  const double length = s.zbl_length / (pow(z_i, s.zbl_exponent) + pow(z_j, s.zbl_exponent));
  double phi = 0, phi_slope = 0;
  for (int k = 0; k < 4; ++k) {
    const double decay = s.zbl_c[4 + k] / length, term = s.zbl_c[k] * exp(-decay * r);
    phi += term;
    phi_slope -= decay * term;
  }
  const double weight = MACE_MD_SCALE_ZBL ? s.scale : 1.0;
  const double coulomb = 0.5 * weight * s.zbl_prefactor * z_i * z_j / r;
  const double v = coulomb * phi, v_slope = coulomb * (phi_slope - phi / r);
  const double u = r / r_cut, power = pow(u, p - 1);
  const double a = (p + 1) * (p + 2) / 2, b = p * (p + 2), c = p * (p + 1) / 2;
  const double envelope = 1 + power * u * (-a + u * (b - c * u));
  const double envelope_slope = power * (-a * p + u * (b * (p + 1) - c * (p + 2) * u)) / r_cut;
  sums.energy += v * envelope;
  const double slope = v_slope * envelope + v * envelope_slope;
  for (int k = 0; k < 3; ++k) {
    const double force = -slope * direction[k];
    sums.force[k] += force;
    fixed_add(s, s.fixed_forces + 3ll * sender + k, -force);
    for (int l = 0; l < 3; ++l) sums.virial[3 * l + k] += r * direction[l] * force;
  }
}

// A warp an atom; edges keep the order of their candidates.
MACE_MD_KERNEL(make_edges, 256) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  if (i >= s.n_atoms) return;
  const DeviceHeader& h = *s.header;
  const Vector x = load_vector(s.position + 3ll * i);
  const int type_i = s.type[i], count = s.n_candidates[i];
  const long long start = s.candidate_start[i];
  PairSums pair_sums = {};
  double rho0 = 0, rho1 = 0;
  int n = 0;
  for (int c0 = 0; c0 < count; c0 += kWarp) {
    const int c = c0 + lane();
    DeviceCandidate candidate = {0, 0};
    Vector d = {0, 0, 0};
    double r2 = 0;
    if (c < count) {
      candidate = s.candidates[start + c];
      const Vector y = load_vector(s.position + 3ll * candidate.atom);
      Vector t = {0, 0, 0};
      if (s.box != nullptr) t = translation(h, candidate.shift);
      d = {x.x - y.x - t.x, x.y - y.y - t.y, x.z - y.z - t.z};
      r2 = d.x * d.x + d.y * d.y + d.z * d.z;
    }
    const bool near = c < count && r2 < s.r_max * s.r_max;
    const unsigned mask = __ballot_sync(kAllLanes, near);
    if (near) {
      const long long at = start + n + __popc(mask & ((1u << lane()) - 1));
      const int type_j = s.type[candidate.atom];
      const double r = sqrt(r2), inverse = 1 / r, direction[3] = {d.x * inverse, d.y * inverse, d.z * inverse};
      Edge edge;
      edge.atom = candidate.atom;
      edge.unused = 0;
      const int knot = table_row(s, type_i, type_j, r, edge);
      const Real u[3] = {Real(direction[0]), Real(direction[1]), Real(direction[2])};
      harmonics<kEll>(u[0], u[1], u[2], edge.y);
      edges_of(s)[at] = edge;
      Real* geometry = s.geometry + 4 * at;
      geometry[0] = u[0];
      geometry[1] = u[1];
      geometry[2] = u[2];
      geometry[3] = static_cast<Real>(inverse);
      const int pair = type_i * kTypes + type_j;
      if constexpr (MACE_MD_DENSITY0 != 0) rho0 += density(s.density0, pair, knot, edge, s.slope0[at]);
      if constexpr (MACE_MD_DENSITY1 != 0) rho1 += density(s.density1, pair, knot, edge, s.slope1[at]);
      if constexpr (MACE_MD_ZBL != 0) add_zbl(s, type_i, type_j, candidate.atom, r, direction, pair_sums);
    }
    n += __popc(mask);
  }
  if constexpr (MACE_MD_DENSITY0 != 0) rho0 = warp_sum(rho0);
  if constexpr (MACE_MD_DENSITY1 != 0) rho1 = warp_sum(rho1);
  if constexpr (MACE_MD_ZBL != 0) {
    pair_sums.energy = warp_sum(pair_sums.energy);
    for (double& f : pair_sums.force) f = warp_sum(f);
    for (double& v : pair_sums.virial) v = warp_sum(v);
  }
  if (lane() == 0) {
    s.n_edges[i] = n;
    s.scale0[i] = static_cast<Real>(1 / (1 + rho0));
    s.scale1[i] = static_cast<Real>(1 / (1 + rho1));
    s.node_energy[i] = pair_sums.energy;
    for (int k = 0; k < 9; ++k) s.node_virial[9ll * i + k] = pair_sums.virial[k];
    if constexpr (MACE_MD_ZBL != 0)
      for (int k = 0; k < 3; ++k) fixed_add(s, s.fixed_forces + 3ll * i + k, pair_sums.force[k]);
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
