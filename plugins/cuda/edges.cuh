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

// A pair within the cutoff that waits for its turn.
struct NearPair {
  double x, y, z;  // r_i - r_j
  int atom;
};

// What a warp needs in shared memory to make the edges of an atom.
union EdgeScratch {
  DeviceCandidate keys[kKeyRoom];
  NearPair queue[2 * kWarp];
};

struct AtomSums {
  double rho0, rho1;
  PairSums pairs;
};

static MACE_MD_INLINE void make_edge(const Arguments& s, int type_i, const NearPair& near, long long at,
                                     AtomSums& sums) {
  const int type_j = s.type[near.atom], pair = type_i * kTypes + type_j;
  const double r = sqrt(near.x * near.x + near.y * near.y + near.z * near.z), inverse = 1 / r;
  const double direction[3] = {near.x * inverse, near.y * inverse, near.z * inverse};
  Edge edge;
  edge.atom = near.atom;
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
  if constexpr (MACE_MD_DENSITY0 != 0) sums.rho0 += density(s.density0, pair, knot, edge, s.slope0[at]);
  if constexpr (MACE_MD_DENSITY1 != 0) sums.rho1 += density(s.density1, pair, knot, edge, s.slope1[at]);
  if constexpr (MACE_MD_ZBL != 0) add_zbl(s, type_i, type_j, near.atom, r, direction, sums.pairs);
}

// One warp: the edges of atom i in the order of its candidates, 32 at a time, so that no lane is idle and the lane of
// an edge, hence the order of sums, depends on the edges alone. Returns their number.
static MACE_MD_INLINE int make_edges_of(const Arguments& s, int i, NearPair* queue, AtomSums& sums) {
  const Vector x = load_vector(s.position + 3ll * i);
  const int type_i = s.type[i], count = s.n_candidates[i];
  const long long start = s.candidate_start[i];
  int n = 0, waiting = 0;
  for (int c0 = 0; c0 < count || waiting > 0; c0 += kWarp) {
    const int c = c0 + lane();
    NearPair pair = {0, 0, 0, 0};
    bool near = c < count;
    if (near) {
      const DeviceCandidate candidate = s.candidates[start + c];
      const Vector y = load_vector(s.position + 3ll * candidate.atom);
      const Vector d = minus(minus(x, y), translation(s, candidate, i));
      pair = {d.x, d.y, d.z, candidate.atom};
      near = square(d) < s.r_max * s.r_max;
    }
    const unsigned mask = __ballot_sync(kAllLanes, near);
    if (near) queue[waiting + __popc(mask & ((1u << lane()) - 1))] = pair;
    waiting += __popc(mask);
    __syncwarp();
    if (waiting < kWarp && c0 + kWarp < count) continue;
    const int size = waiting < kWarp ? waiting : kWarp;
    if (lane() < size) make_edge(s, type_i, queue[lane()], start + n + lane(), sums);
    n += size;
    waiting -= size;
    __syncwarp();
    if (lane() < waiting) queue[lane()] = queue[kWarp + lane()];
    __syncwarp();
  }
  return n;
}

// One warp: the edges of atom i, after its candidates when the list is due, and what is summed over them.
static MACE_MD_INLINE void prepare_atom(const Arguments& s, int i, EdgeScratch& scratch) {
  if (s.header->rebuild) build_candidates(s, i, scratch.keys);
  AtomSums sums = {};
  const int n = make_edges_of(s, i, scratch.queue, sums);
  if constexpr (MACE_MD_DENSITY0 != 0) sums.rho0 = warp_sum(sums.rho0);
  if constexpr (MACE_MD_DENSITY1 != 0) sums.rho1 = warp_sum(sums.rho1);
  if constexpr (MACE_MD_ZBL != 0) {
    sums.pairs.energy = warp_sum(sums.pairs.energy);
    for (double& f : sums.pairs.force) f = warp_sum(f);
    for (double& v : sums.pairs.virial) v = warp_sum(v);
  }
  if (lane() == 0) {
    s.n_edges[i] = n;
    s.scale0[i] = static_cast<Real>(1 / (1 + sums.rho0));
    s.scale1[i] = static_cast<Real>(1 / (1 + sums.rho1));
    s.node_energy[i] = sums.pairs.energy;
    for (int k = 0; k < 9; ++k) s.node_virial[9ll * i + k] = sums.pairs.virial[k];
    if constexpr (MACE_MD_ZBL != 0)
      for (int k = 0; k < 3; ++k) fixed_add(s, s.fixed_forces + 3ll * i + k, sums.pairs.force[k]);
  }
}

#if !MACE_MD_SMALL
// A warp an atom.
MACE_MD_KERNEL(make_edges, 256, 3) {
  __shared__ EdgeScratch scratch[256 / kWarp];
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  if (i < s.n_atoms) prepare_atom(s, i, scratch[threadIdx.x / kWarp]);
}
#endif

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
