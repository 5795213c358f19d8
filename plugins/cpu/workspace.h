// The arrays of one evaluation, in the state buffer.
#pragma once

#include "engine.h"
#include "packed_model.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int64_t kAlign = 64 / sizeof(Real);

// Unit vector and inverse length of r_ij = r_i - r_j, beside the Edge that the convolutions read.
struct EdgeGeometry {
  Real x, y, z, inverse;
};

struct ThreadSums {
  double energy;
  double virial[9];
  int64_t n_edges;
};

template <int ELL, int L>
struct Workspace {
  using Model = PackedModel<ELL, L>;
  static constexpr int kA = Model::kA, kH = Model::kH;

  // One entry an atom or edge. The edges of atom i start at candidate_start[i].
  Edge<ELL>* edges;
  EdgeGeometry* geometry;
  int32_t* n_edges;
  Real *density0, *density1;  // derivatives in knot spacings, an edge; only for models with densities
  Real *scale0, *scale1;      // 1 / (1 + rho), an atom
  Real* a0;                   // block after block, [tile][node order] inside a block
  Real* h;                    // [tile][atom][lm][W]
  Real* skip;                 // [atom][mlp padded]: what M0 adds to the hidden layer of the readout; then its adjoint

  // Private to a thread: sums over all atoms, and scratch for a block.
  struct Thread {
    ThreadSums* sums;
    double* forces;   // [n][3]
    Real* h_adjoint;  // as h
    Real *m0, *h_block, *rows, *phi, *a1, *a1_adjoint, *m1, *hidden, *edge_sums;
  };
  char* threads;
  int64_t thread_bytes;

  int64_t layout(const Model& model, const Dimensions& d, char* base) {
    Pieces pieces(base);
    const int64_t n = d.n_atoms, a_tiles = int64_t{model.tiles_a} * W, h_tiles = int64_t{model.tiles_h} * W;
    edges = pieces.take<Edge<ELL>>(d.n_candidates);
    geometry = pieces.take<EdgeGeometry>(d.n_candidates);
    n_edges = pieces.take<int32_t>(n);
    density0 = pieces.take<Real>(model.has_density0 ? d.n_candidates : 0);
    density1 = pieces.take<Real>(model.has_density1 ? d.n_candidates : 0);
    scale0 = pieces.take<Real>(n);
    scale1 = pieces.take<Real>(n);
    a0 = pieces.take<Real>(n * kA * a_tiles);
    h = pieces.take<Real>(n * kH * h_tiles);
    skip = pieces.take<Real>(n * model.tiles_mlp * W);
    Thread unused;
    thread_bytes = thread_layout(model, d, nullptr, unused);
    threads = pieces.take<char>(thread_bytes * d.n_threads);
    return pieces.used();
  }

  Thread thread(const Model& model, const Dimensions& d, int index) const {
    Thread t;
    thread_layout(model, d, threads + index * thread_bytes, t);
    return t;
  }

 private:
  static int64_t thread_layout(const Model& model, const Dimensions& d, char* base, Thread& t) {
    Pieces pieces(base);
    const int64_t n = d.n_atoms, nb = d.max_block_atoms;
    const int64_t a_tiles = int64_t{model.tiles_a} * W, h_tiles = int64_t{model.tiles_h} * W;
    t.sums = pieces.take<ThreadSums>(1);
    t.forces = pieces.take<double>(3 * n);
    t.h_adjoint = pieces.take<Real>(n * kH * h_tiles);
    t.m0 = pieces.take<Real>(nb * kH * a_tiles);
    t.h_block = pieces.take<Real>(nb * kH * h_tiles);
    t.rows = pieces.take<Real>(kMostTiles * Model::kRowsOfAtom * W);
    t.phi = pieces.take<Real>(nb * Model::kPaths.components * h_tiles);
    t.a1 = pieces.take<Real>(nb * kA * a_tiles);
    t.a1_adjoint = pieces.take<Real>(nb * kA * a_tiles);
    t.m1 = pieces.take<Real>(nb * a_tiles);
    t.hidden = pieces.take<Real>(nb * model.tiles_mlp * W);
    t.edge_sums = pieces.take<Real>(d.max_block_candidates * EdgeSums<ELL>::kSize);
    return pieces.used();
  }
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
