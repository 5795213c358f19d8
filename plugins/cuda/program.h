// The source of the kernels for one model: the files that are embedded in the library, with the model's constants
// defined, its couplings and its polynomials written out as code.
#pragma once

#include <string>
#include <vector>

#include "../blob.h"

namespace mace_md::cuda {

struct SourceFile {
  std::string name, text;
};

struct Program {
  std::string main;                 // defines the constants, includes kernels.cuh
  std::vector<SourceFile> headers;  // everything that main includes
};

// blob: in memory of the host. fused: with the fused node kernels in the place of the separate ones.
// small: with the kernels of a small system.
Program make_program(const Blob& blob, bool fused, bool small);

// Groups of paths of the second convolution, as convolution.cuh has them.
int group_count(int max_ell, int max_L);
// Bytes of shared memory that a slice of 32 channels of the tables of the largest group takes.
int64_t shared_table_bytes(const Blob& blob);
// Dynamic shared memory of a fused node kernel that keeps components up to degree max_l.
int64_t fused_shared_bytes(const Blob& blob, int max_l);
// Whether conv2_reverse has all groups of paths of a receiver in one block: asked for, and possible for this shape.
bool joins_groups(const Blob& blob, bool small);
// Whether the products of fused kernels are made on tensor cores: asked for, and possible for this shape.
bool uses_tensor_cores(const Blob& blob);
int component_count(int max_ell, int max_L);
int most_paths_to_one_l(int max_ell, int max_L);
constexpr int kGroupRows = 40;

// Atoms that a thread of the contractions treats.
constexpr int node_atoms(int64_t precision) { return precision == 4 ? 2 : 1; }

}  // namespace mace_md::cuda
