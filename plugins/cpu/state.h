// What an op keeps between calls, inside the one tensor that the caller passes as `state`.
//
//   [StateHeader][packed model][arrays of atoms][candidates][workspace of an evaluation]
//
// Everything is found by offsets, so a copy of the tensor (a cloned module) is a state of its own. A state that was not
// made for this model, this processor or these atoms is simply made again. The tensor is grown in place when a part
// does not fit.
#pragma once

#include "engine.h"
#include "../torch_abi.h"

namespace mace_md {

// Every list on the CPU, of whatever state, is built anew at its next evaluation. The sums over neighbours follow the
// order of the list, so two runs agree to the last bit only while they build it at the same steps.
void forget_lists();

struct StateHeader {
  int64_t magic;
  int64_t fingerprint;  // of the blob
  int64_t target;       // instruction set and precision: tiles differ
  int32_t busy;         // an evaluation is running on this state
  int32_t list_valid;
  int64_t n_particles;
  int64_t packed, types, atoms, candidates, workspace, end;  // offsets in bytes
  int64_t candidate_capacity;
  int64_t list_epoch;  // of the build; forget_lists() begins the next one
  ListInfo list;
};

class State {
 public:
  // Makes the state ready for a model; packs the model at the first call.
  State(torch_abi::Tensor& tensor, const Blob& blob, const Engine& engine, int64_t target);
  ~State();

  // Brings the neighbour list up to date. positions: [n_particles][3] angstrom; box: rows in angstrom, or null.
  void update(const double* positions, int64_t n_particles, const int32_t* types, const double* box, int n_threads,
              ParallelRunner parallel);

  // A step whose pointers are set; valid until the next update.
  Step step();
  const ListInfo& list() { return header().list; }

 private:
  torch_abi::Tensor& tensor_;
  const Blob& blob_;
  const Engine& engine_;
  int64_t n_shifts_ = 1;

  char* base() { return static_cast<char*>(tensor_.data()); }
  StateHeader& header() { return *static_cast<StateHeader*>(tensor_.data()); }
  void grow(int64_t bytes);
  AtomArrays atom_arrays();
  Dimensions dimensions();
  void place_atoms(int64_t n_particles, const int32_t* types, int n_threads);
  void rebuild(const double* positions, const int32_t* types, const double* box, ParallelRunner parallel);
};

}  // namespace mace_md
