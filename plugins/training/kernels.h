// What the ops of the training (ops.cpp) and the kernels for one instruction set and precision agree on.
//
// A model is trained through PyTorch's autograd, whose graph has nodes for whole sums over neighbours and whole
// products instead of their elementary operations. Each of these nodes is a multilinear form or a polynomial, and is
// differentiated twice: the loss holds forces, its gradient is wanted in the weights. docs/decisions/ says what is
// computed when.
//
// Arrays of `Real` travel as void*; channels are the last dimension everywhere, and a multiple of a vector.
#pragma once

#include <cstdint>

namespace mace_md::training {

// Runs task(index, context) for every index < n_tasks, on several threads.
using ParallelRunner = void (*)(int n_tasks, void (*task)(int, void*), void* context);

// The edges of a batch of systems, sorted by receiver. Positions in `order` are those of the atoms of one system after
// those of another; the edges of the atom order[p] are first_edge[p] ... first_edge[p + 1] - 1.
struct GraphIndex {
  int64_t n_atoms, n_edges, n_pairs, n_systems;
  const int32_t *order, *first_edge, *first_position, *sender;
  const int32_t* pair;  // 2 * pair + 1 for the second edge of a pair: radial functions are the same both ways
  const int32_t* edge_of_pair;
};

constexpr int kMaxL = 3;       // of harmonics and messages
constexpr int kMaxPaths = 40;  // of a convolution

// (l1 of the edge) x (l2 of the sender) -> l3 of the receiver.
struct PathShape {
  int n2, n3;     // 2 l2 + 1, 2 l3 + 1
  int h_row;      // l2^2
  int block;      // first entry of the path's matrix [n3][n2] in the blocks of an edge
  int l3, index;  // place among the paths to l3
};

// Phi[l3] = sum over edges of block (R h), and the sums that its derivatives are.
struct Convolution {
  GraphIndex graph;
  int n_paths, paths_to[kMaxL + 1];
  PathShape path[kMaxPaths];
  int64_t channels, h_rows, n_blocks;
  const void *blocks, *h, *r;                    // [n_edges][n_blocks], [n_atoms][h_rows][C], [n_pairs][n_paths][C]
  const void *blocks_dot, *h_dot, *r_dot;        // tangents of these, or null
  const void* adjoint[kMaxL + 1];                // of Phi
  void* phi[kMaxL + 1];                          // [n_atoms][2 l3 + 1][paths_to(l3)][C]
  void *h_adjoint, *r_adjoint, *blocks_adjoint;  // results, or null
  int64_t n_threads;
  ParallelRunner parallel;
};

// Polynomials of the components of A, see cpu/polynomial.h for the program.
struct Product {
  const int32_t* program;
  const int32_t* type_start;  // atoms are sorted by type
  int n_types, n_components, n_outputs, n_weights;
  int64_t n_atoms, channels;
  const void* x[kMaxL + 1];      // A[l]: [n_atoms][2 l + 1][C]
  const void* x_dot[kMaxL + 1];  // its tangent
  const void* adjoint[kMaxL + 1];
  const void* weights;     // [n_types][n_weights][C]
  void* value[kMaxL + 1];  // [n_atoms][2 L + 1][C]
  void* gradient[kMaxL + 1];
  void* weights_adjoint;  // or null
  ParallelRunner parallel;
};

// Unit vectors, harmonics and distances; r and harmonics have the derivatives of exact functions.
struct Geometry {
  GraphIndex graph;
  int max_ell;
  const void* vectors;                // [n_edges][3], from sender to receiver
  const void *r_adjoint, *y_adjoint;  // [n_pairs], [n_edges][(max_ell + 1)^2]
  const void* vectors_dot;
  void *r, *y, *vectors_adjoint;
};

struct Kernels {
  const char* name;
  int lanes;
  void (*convolve)(const Convolution&);          // phi, or its tangent where there are tangents
  void (*convolve_reverse)(const Convolution&);  // h_adjoint and r_adjoint, or their part from the tangents
  void (*convolve_blocks)(const Convolution&);   // blocks_adjoint
  void (*product)(const Product&);
  void (*product_reverse)(const Product&);  // gradient, and weights_adjoint
  void (*product_second)(const Product&);   // value: the tangent; gradient, weights_adjoint: of adjoint . tangent
  void (*geometry)(const Geometry&);
  void (*geometry_reverse)(const Geometry&);
  void (*geometry_tangent)(const Geometry&);
};

#define MACE_MD_DECLARE_TRAINING(target) const Kernels* training_##target()
MACE_MD_DECLARE_TRAINING(generic_float);
MACE_MD_DECLARE_TRAINING(generic_double);
MACE_MD_DECLARE_TRAINING(avx2_float);
MACE_MD_DECLARE_TRAINING(avx2_double);
MACE_MD_DECLARE_TRAINING(avx512_float);
MACE_MD_DECLARE_TRAINING(avx512_double);

}  // namespace mace_md::training
