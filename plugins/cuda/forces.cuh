// From the adjoints of edges to forces and virial, and the results in the caller's units and order.
#pragma once

#include "convolution.cuh"

namespace mace_md {
namespace MACE_MD_TARGET {

struct EdgeForce {
  double on_receiver[3], virial[9];
};

static MACE_MD_INLINE void add_edge(const Arguments& s, int i, long long e, EdgeForce& total) {
  Real sums[kSums] = {};
  for (int group = 0; group <= kSumParts; ++group) {
    const Real* from = s.sums + (group * s.capacity + e) * kSums;
    MACE_MD_UNROLL
    for (int k = 0; k < kSums; ++k) sums[k] += from[k];
  }
  const Real* geometry = s.geometry + 4 * e;
  const Real x = geometry[0], y = geometry[1], z = geometry[2], inverse = geometry[3];
  Real g[3], radial_part = sums[0];
  harmonics_gradient<kEll>(x, y, z, [&](int lm) { return sums[lm]; }, g);
  if constexpr (MACE_MD_DENSITY0 != 0) radial_part += static_cast<Real>(s.density_adjoint0[i]) * s.slope0[e];
  if constexpr (MACE_MD_DENSITY1 != 0) radial_part += static_cast<Real>(s.density_adjoint1[i]) * s.slope1[e];
  radial_part *= static_cast<Real>(1 / s.spacing);
  const Real along = radial_part - (g[0] * x + g[1] * y + g[2] * z) * inverse;
  const double gradient[3] = {g[0] * inverse + along * x, g[1] * inverse + along * y,
                              g[2] * inverse + along * z};  // dE/dr_ij
  const double r = 1 / static_cast<double>(inverse), d[3] = {r * x, r * y, r * z};
  const long long sender = edges_of(s)[e].atom;
  for (int k = 0; k < 3; ++k) {
    total.on_receiver[k] -= gradient[k];
    fixed_add(s, s.fixed_forces + 3 * sender + k, gradient[k]);
    for (int l = 0; l < 3; ++l) total.virial[3 * k + l] -= d[k] * gradient[l];
  }
}

// One warp: forces and virial of the edges of atom i.
static MACE_MD_INLINE void add_edges(const Arguments& s, int i) {
  EdgeForce total = {};
  const long long start = s.candidate_start[i];
  for (int e = lane(); e < s.n_edges[i]; e += kWarp) add_edge(s, i, start + e, total);
  for (double& f : total.on_receiver) f = warp_sum(f);
  for (double& v : total.virial) v = warp_sum(v);
  if (lane() != 0) return;
  for (int k = 0; k < 3; ++k) fixed_add(s, s.fixed_forces + 3ll * i + k, total.on_receiver[k]);
  for (int k = 0; k < 9; ++k) s.node_virial[9ll * i + k] += total.virial[k];
}

static MACE_MD_INLINE double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }

// One block: energy, virial and the verdict on this step. Atoms are added in the caller's order.
static MACE_MD_INLINE void sum_atoms(const Arguments& s) {
  __shared__ double scratch[32];
  double energy = 0, virial[9] = {}, edges = 0;
  const bool own = is_own_state(s);
  for (int k = threadIdx.x; own && k < s.n_atoms; k += blockDim.x) {
    const int i = s.internal_of[s.selected[k]];
    energy += s.node_energy[i];
    edges += s.n_edges[i];
    for (int d = 0; d < 9; ++d) virial[d] += s.node_virial[9ll * i + d];
  }
  energy = block_sum(energy, scratch);
  edges = block_sum(edges, scratch);
  for (int k = 0; k < 9; ++k) virial[k] = block_sum(virial[k], scratch);
  if (threadIdx.x != 0) return;
  DeviceHeader& h = *s.header;
  if (own) {
    if (!finite(energy)) h.step_status |= kEnergyNotFinite;
    h.status |= h.step_status;
    h.n_edges = static_cast<long long>(edges);
  }
  const bool valid = own && h.step_status == 0;
  *s.energy = valid ? (energy + s.n_atoms * s.shift) * s.energy_unit : not_a_number();
  for (int k = 0; k < 9; ++k) s.virial[k] = valid ? virial[k] * s.energy_unit : not_a_number();
}

static MACE_MD_INLINE void write_force(const Arguments& s, int particle) {
  const double unit = s.energy_unit * s.length_unit / kFixedPoint;
  const bool valid = is_own_state(s) && s.header->step_status == 0;
  const int i = valid ? s.internal_of[particle] : -1;
  for (int d = 0; d < 3; ++d) {
    double force = i >= 0 ? static_cast<double>(s.fixed_forces[3ll * i + d]) * unit : 0.0;
    if (!valid) force = not_a_number();
    const long long at = 3ll * particle + d;
    if (s.positions_double)
      static_cast<double*>(s.forces)[at] = force;
    else
      static_cast<float*>(s.forces)[at] = static_cast<float>(force);
  }
}

// In one block of all that have called it, the last: what all of them wrote before is visible to it.
static MACE_MD_INLINE bool is_last_block(const Arguments& s) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&s.header->finished, 1u) == gridDim.x - 1;
    if (last) s.header->finished = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

#if MACE_MD_SMALL
// Everything after the adjoint of A0: a block is an atom, and the last one to end has the results.
MACE_MD_ANY_KERNEL(conv1_reverse_results, TeamA::kMost, 1) {
  if (is_own_state(s)) {
    conv1_reverse_of(s, blockIdx.x);
    __syncthreads();
    if (threadIdx.x < kWarp) add_edges(s, blockIdx.x);
    if (!is_last_block(s)) return;
  } else if (blockIdx.x > 0) {
    return;
  }
  sum_atoms(s);
  __syncthreads();
  for (int particle = threadIdx.x; particle < s.n_particles; particle += blockDim.x) write_force(s, particle);
}
#else
// A warp an atom.
MACE_MD_KERNEL(edge_forces, 256) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  if (i < s.n_atoms) add_edges(s, i);
}

MACE_MD_ANY_KERNEL(sum_results, 1024) { sum_atoms(s); }

// A thread a particle.
MACE_MD_ANY_KERNEL(write_forces, 256) {
  const int particle = blockIdx.x * blockDim.x + threadIdx.x;
  if (particle < s.n_particles) write_force(s, particle);
}
#endif

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
