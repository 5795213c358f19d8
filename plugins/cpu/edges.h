// From candidates to edges at the beginning of an evaluation, and from their adjoints to forces at its end.
#pragma once

#include "convolution.h"
#include "../geometry.h"
#include "workspace.h"

namespace mace_md {
namespace MACE_MD_TARGET {

// Constants of the model that the edges need.
struct EdgeModel {
  double r_max, r_min, spacing;
  int rows, types;
  bool by_sender0, by_pair1;
};

constexpr int kChunk = 128;  // candidates handled at once

// Writes the edges of atom i closer than r_max; returns their number.
template <int ELL>
static MACE_MD_NOINLINE int build_edges(const Step& step, const EdgeModel& m, int i, Edge<ELL>* edges,
                                        EdgeGeometry* geometry) {
  const Candidate* candidates = step.candidates;
  const double* x = step.atoms.position;
  const double xi = x[3 * i], yi = x[3 * i + 1], zi = x[3 * i + 2];
  const double r_max2 = m.r_max * m.r_max, inverse_spacing = 1 / m.spacing;
  const int type_i = step.atoms.type[i], last_knot = m.rows - kSupport;
  int n = 0;
  for (int64_t begin = step.atoms.candidate_start[i]; begin < step.atoms.candidate_start[i + 1]; begin += kChunk) {
    const int64_t rest = step.atoms.candidate_start[i + 1] - begin;
    const int size = static_cast<int>(rest < kChunk ? rest : kChunk);
    double dx[kChunk], dy[kChunk], dz[kChunk], r2[kChunk];
    int32_t sender[kChunk];
    int found = 0;
    for (int c = 0; c < size; ++c) {
      const Candidate candidate = candidates[begin + c];
      const double* xj = x + 3 * int64_t{candidate.atom};
      const double* shift = step.translations + 3 * int64_t{candidate.shift};
      double a = xi - xj[0] - shift[0], b = yi - xj[1] - shift[1], d = zi - xj[2] - shift[2];
      double square = a * a + b * b + d * d;
      dx[found] = a;
      dy[found] = b;
      dz[found] = d;
      r2[found] = square;
      sender[found] = candidate.atom;
      found += square < r_max2;
    }
    Real ux[kChunk], uy[kChunk], uz[kChunk], inverse[kChunk], place[kChunk];
    int32_t knot[kChunk];
    for (int e = 0; e < found; ++e) {
      double r = __builtin_sqrt(r2[e]);
      double f = 1 / r;
      ux[e] = static_cast<Real>(dx[e] * f);
      uy[e] = static_cast<Real>(dy[e] * f);
      uz[e] = static_cast<Real>(dz[e] * f);
      inverse[e] = static_cast<Real>(f);
      double x = (r - m.r_min) * inverse_spacing;
      int32_t whole = x < last_knot ? static_cast<int32_t>(x) : last_knot;
      knot[e] = whole > 0 ? whole : 0;
      place[e] = static_cast<Real>(x - knot[e]);  // negative below the first knot
    }
    for (int e = 0; e < found; ++e) {
      Edge<ELL>& edge = edges[n];
      const int type_j = step.atoms.type[sender[e]];
      const int pair = type_i * m.types + type_j;
      edge.atom = sender[e];
      edge.row0 = (m.by_sender0 ? type_j : pair) * m.rows + knot[e];
      edge.row1 = (m.by_pair1 ? pair * m.rows : 0) + knot[e];
      spline_weights(place[e] > 0 ? place[e] : 0, edge.w, edge.dw);
      if (place[e] < 0)  // closer than the first knot the functions go on linearly
        for (int i = 0; i < kSupport; ++i) edge.w[i] += place[e] * edge.dw[i];
      harmonics<ELL>(ux[e], uy[e], uz[e], edge.y);
      geometry[n] = {ux[e], uy[e], uz[e], inverse[e]};
      ++n;
    }
  }
  return n;
}

// Adds the force of each edge of atom i, given the sums of a reverse convolution, to the sums of this thread.
// density: derivative of the density of each edge, in knot spacings, or null; density_adjoint: dE/drho of atom i.
template <int ELL>
static MACE_MD_NOINLINE void add_edge_forces(int i, int n, const Edge<ELL>* edges, const EdgeGeometry* geometry,
                                             const Real* sums, const int32_t* q_position, double spacing,
                                             const Real* density, Real density_adjoint, ThreadSums& totals,
                                             double* forces) {
  const Real inverse_spacing = static_cast<Real>(1 / spacing);
  double fx = 0, fy = 0, fz = 0;
  double* virial = totals.virial;
  for (int e = 0; e < n; ++e) {
    const EdgeGeometry& u = geometry[e];
    const Real* record = sums + static_cast<size_t>(e) * EdgeSums<ELL>::kSize;
    Real g[3];
    harmonics_gradient<ELL>(u.x, u.y, u.z, [&](int lm) { return record[q_position[lm]]; }, g);
    Real radial_part = record[q_position[0]];
    if (density != nullptr) radial_part += density_adjoint * density[e];
    radial_part *= inverse_spacing;
    Real along = radial_part - (g[0] * u.x + g[1] * u.y + g[2] * u.z) * u.inverse;
    double ax = g[0] * u.inverse + along * u.x;  // dE/dr_ij
    double ay = g[1] * u.inverse + along * u.y;
    double az = g[2] * u.inverse + along * u.z;
    fx -= ax;
    fy -= ay;
    fz -= az;
    double* other = forces + 3 * int64_t{edges[e].atom};
    other[0] += ax;
    other[1] += ay;
    other[2] += az;
    double r = 1 / static_cast<double>(u.inverse);
    double dx = r * u.x, dy = r * u.y, dz = r * u.z;
    virial[0] -= dx * ax;
    virial[1] -= dx * ay;
    virial[2] -= dx * az;
    virial[3] -= dy * ax;
    virial[4] -= dy * ay;
    virial[5] -= dy * az;
    virial[6] -= dz * ax;
    virial[7] -= dz * ay;
    virial[8] -= dz * az;
  }
  forces[3 * i] += fx;
  forces[3 * i + 1] += fy;
  forces[3 * i + 2] += fz;
}

// Ziegler-Biersack-Littmark repulsion of the edges of atom i (half of each pair), times `weight`. Returns its energy.
template <int ELL>
static MACE_MD_NOINLINE double add_zbl(const Step& step, int i, int n, const Edge<ELL>* edges,
                                       const EdgeGeometry* geometry, double weight, ThreadSums& totals,
                                       double* forces) {
  const Blob& blob = step.blob;
  const double* types = blob.section<double>(kZblTypes);
  const double p = blob.parameter(kZblCutoffPower), exponent = blob.parameter(kZblExponent);
  const double radius_i = types[2 * step.atoms.type[i]], z_i = types[2 * step.atoms.type[i] + 1];
  double energy = 0;
  for (int e = 0; e < n; ++e) {
    const double* type_j = types + 2 * step.atoms.type[edges[e].atom];
    const double r = 1 / static_cast<double>(geometry[e].inverse), r_cut = radius_i + type_j[0];
    if (r >= r_cut) continue;
    const double length =
        blob.parameter(kZblLength) / (__builtin_pow(z_i, exponent) + __builtin_pow(type_j[1], exponent));
    double phi = 0, phi_slope = 0;
    for (int k = 0; k < 4; ++k) {
      double decay = blob.parameter(kZblC + 4 + k) / length;
      double term = blob.parameter(kZblC + k) * __builtin_exp(-decay * r);
      phi += term;
      phi_slope -= decay * term;
    }
    const double coulomb = 0.5 * weight * blob.parameter(kZblPrefactor) * z_i * type_j[1] / r;
    const double v = coulomb * phi, v_slope = coulomb * (phi_slope - phi / r);
    const double u = r / r_cut, power = __builtin_pow(u, p - 1);
    const double a = (p + 1) * (p + 2) / 2, b = p * (p + 2), c = p * (p + 1) / 2;
    const double envelope = 1 + power * u * (-a + u * (b - c * u));
    const double envelope_slope = power * (-a * p + u * (b * (p + 1) - c * (p + 2) * u)) / r_cut;
    energy += v * envelope;
    const double slope = v_slope * envelope + v * envelope_slope;
    const double n_vector[3] = {geometry[e].x, geometry[e].y, geometry[e].z};
    for (int k = 0; k < 3; ++k) {
      double force = -slope * n_vector[k];
      forces[3 * i + k] += force;
      forces[3 * int64_t{edges[e].atom} + k] -= force;
      for (int l = 0; l < 3; ++l) totals.virial[3 * l + k] += r * n_vector[l] * force;
    }
  }
  return energy;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
