// The neighbour list: built with a skin, kept while it is provably complete, and valid for any lattice and any
// wrapping.
//
// Atoms keep their fractional coordinates (Cartesian without a box) of the last build as reference. A later position is
// taken as the image nearest to its reference, so a host may wrap molecules or move atoms by lattice vectors between
// calls. With u = displacement from the reference carried along by the box, F = h0^-1 h the deformation of the box
// since the build, a pair within r_max now was within |F^-1| (r_max + 2 max|u|) then; the list holds while that is
// below r_max + skin.
#pragma once

#include <cstdint>
#include <vector>

namespace mace_md {

struct Candidate {
  int32_t atom;   // sender, in internal order
  int32_t shift;  // index into the table of lattice translations
};

// The part of the list that is small: plain data, kept in the header of the state buffer.
struct ListInfo {
  int32_t n_atoms = 0;
  int32_t periodic = 0;
  int32_t n_threads = 0;
  int32_t n_blocks = 0;
  int32_t shift_range = 0;  // translations have components in [-shift_range, shift_range]
  int64_t n_candidates = 0;
  int64_t n_builds = 0;
  double reach = 0;  // r_max + skin
  double box[9] = {0};
  int n_shifts() const {
    int width = 2 * shift_range + 1;
    return width * width * width;
  }
};

// The arrays of atoms, owned by the state buffer. All in internal order: spatial, then by type inside a block.
struct AtomArrays {
  int32_t* order;            // [n] internal -> index among the particles of the caller
  int32_t* type;             // [n]
  double* reference;         // [n][3] fractional with a box, else Cartesian
  double* position;          // [n][3] unwrapped, angstrom
  int64_t* candidate_start;  // [n + 1]
  int32_t* block_start;      // [n_blocks + 1], at most n + 1
  int32_t* thread_block;     // [n_threads + 1] first block of each thread
};

// What a build knows before the candidates have a place to go.
struct ListPlan {
  std::vector<double> sorted;         // positions by cell
  std::vector<int32_t> sorted_index;  // cell order -> caller
  std::vector<int32_t> cell_start;
  std::vector<int32_t> internal_of;  // cell order -> internal order
  std::vector<int32_t> cell_of;      // by cell order
  int cells[3] = {1, 1, 1};
  int range[3] = {0, 0, 0};
};

using ParallelRunner = void (*)(int n_tasks, void (*task)(int index, void* context), void* context);

// First half: sorts the atoms, counts candidates, divides atoms among threads and blocks; fills `info` and `atoms`.
// positions: [n][3] angstrom of the selected atoms, selected: their indices, types: of all particles; box rows or null.
ListPlan plan_list(ListInfo& info, const AtomArrays& atoms, const double* positions, const int32_t* selected,
                   const int32_t* types, const double* box, int block_size, ParallelRunner parallel);

// Second half: writes the candidates of every atom, those of one sender type together.
void fill_list(const ListInfo& info, const AtomArrays& atoms, const ListPlan& plan, int n_types, Candidate* candidates,
               ParallelRunner parallel);

// Moves `atoms.position` to the caller's positions. Returns false when the list may no longer be complete.
bool update_positions(const ListInfo& info, const AtomArrays& atoms, const double* positions, double r_max,
                      const double* box);

// The Cartesian translations, [n_shifts][3].
void lattice_translations(const ListInfo& info, const double* box, double* translations);

// False when the cell vectors do not span a volume.
bool invert(const double* box, double* inverse);

}  // namespace mace_md
