// The neighbour list on the device, by the rules of neighbors.h: positions are followed from their reference, and
// the list is rebuilt when it may no longer be complete. The kernels of a rebuild return at once when it is not due, so
// that every step launches the same kernels.
//
// Atoms are stored by cell, so that neighbours are near in memory, but no result may depend on when the list was built:
// a run that is continued from a checkpoint builds it at other positions. So candidates are sorted by the slot of the
// sender (by type, then by the caller's order) and the translation; an atom is taken at its place inside the box of
// this step, whatever image the list knew it by; and sums over atoms follow the caller's order.
#pragma once

#include "device.h"
#include "lattice.h"

namespace mace_md {
namespace MACE_MD_TARGET {

static MACE_MD_INLINE bool finite(double x) { return x - x == 0; }

static MACE_MD_INLINE double length_at(const Arguments& s, const void* from, int is_double, long long i) {
  return (is_double ? static_cast<const double*>(from)[i] : static_cast<double>(static_cast<const float*>(from)[i])) *
         s.length_unit;
}

static MACE_MD_INLINE Vector caller_position(const Arguments& s, int particle) {
  const long long at = 3 * static_cast<long long>(particle);
  return {length_at(s, s.positions, s.positions_double, at), length_at(s, s.positions, s.positions_double, at + 1),
          length_at(s, s.positions, s.positions_double, at + 2)};
}

static MACE_MD_INLINE void load_box(const Arguments& s, double* box) {
  for (int i = 0; i < 9; ++i) box[i] = length_at(s, s.box, s.box_double, i);
}

// One thread: what this step knows before anything is computed, and whether the list must be built.
static MACE_MD_INLINE bool decide(const Arguments& s) {
  DeviceHeader& h = *s.header;
  long long problem = h.step_status;
  if (*s.fingerprint_at != s.fingerprint) problem |= kModelChanged;
  double factor = 1;
  if (s.box != nullptr) {
    load_box(s, h.box);
    for (int i = 0; i < 9; ++i)
      if (!finite(h.box[i])) problem |= kBoxNotFinite;
    if (!(problem & kBoxNotFinite) && !invert_box(h.box, h.inverse)) problem |= kBoxFlat;
    if (problem == 0) factor = stretch(h.inverse, h.reference_box);
  }
  h.step_status = problem;
  if (problem != 0) h.list_valid = 0;
  const double moved = sqrt(__longlong_as_double(static_cast<long long>(h.moved2)));
  const bool keep = h.list_valid && factor * (s.r_max + 2 * moved) <= s.r_max + s.skin;
  h.rebuild = problem == 0 && !keep;
  return h.rebuild;
}

// One thread: the grid for a box, or a bounding box, of these heights.
static MACE_MD_INLINE void set_grid(const Arguments& s, const double* heights) {
  constexpr int kMostImages = kShiftOffset - 4;  // an atom that crossed the box since the build adds two
  DeviceHeader& h = *s.header;
  if (choose_grid(heights, s.r_max + s.skin, s.box != nullptr, s.max_cells, h.cells, h.range) > kMostImages) {
    raise(s, kBoxFlat);
    h.rebuild = 0;
  }
}

// The bounding box of the atoms, by one block; scratch [warps][6].
static MACE_MD_INLINE void bounding_box(const Arguments& s, double* scratch) {
  double low[3] = {1e300, 1e300, 1e300}, high[3] = {-1e300, -1e300, -1e300};
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) {
    const Vector x = caller_position(s, s.selected[k]);
    const double v[3] = {x.x, x.y, x.z};
    for (int d = 0; d < 3; ++d) {
      low[d] = fmin(low[d], v[d]);
      high[d] = fmax(high[d], v[d]);
    }
  }
  for (int d = 0; d < 3; ++d)
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      low[d] = fmin(low[d], __shfl_xor_sync(kAllLanes, low[d], offset));
      high[d] = fmax(high[d], __shfl_xor_sync(kAllLanes, high[d], offset));
    }
  const int warp = threadIdx.x / kWarp;
  if (lane() == 0)
    for (int d = 0; d < 3; ++d) {
      scratch[6 * warp + d] = low[d];
      scratch[6 * warp + 3 + d] = high[d];
    }
  __syncthreads();
  if (threadIdx.x == 0) {
    double heights[3];
    for (int d = 0; d < 3; ++d) {
      for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
        scratch[d] = fmin(scratch[d], scratch[6 * w + d]);
        scratch[3 + d] = fmax(scratch[3 + d], scratch[6 * w + 3 + d]);
      }
      heights[d] = fmax(scratch[3 + d] - scratch[d], 1e-6) * (1 + 1e-9);
      s.header->origin[d] = scratch[d];
      s.header->scale[d] = 1 / heights[d];
    }
    set_grid(s, heights);
  }
}

static MACE_MD_INLINE void periodic_grid(const Arguments& s) {
  DeviceHeader& h = *s.header;
  double heights[3];
  box_heights(h.inverse, heights);
  for (int d = 0; d < 3; ++d) {
    h.origin[d] = 0;
    h.scale[d] = 1;
  }
  for (int i = 0; i < 9; ++i) h.reference_box[i] = h.box[i];
  set_grid(s, heights);
}

// Coordinates along the cell vectors, in [0, 1); Cartesian without a box.
static MACE_MD_INLINE Vector along_axes(const Arguments& s, int particle) {
  Vector x = caller_position(s, particle);
  if (s.box == nullptr) return x;
  x = times(x, s.header->inverse);
  return minus(x, floor_of(x));
}

static MACE_MD_INLINE int cell_at(const DeviceHeader& h, Vector along) {
  const double v[3] = {along.x, along.y, along.z};
  int c[3];
  for (int d = 0; d < 3; ++d) c[d] = cell_of((v[d] - h.origin[d]) * h.scale[d], h.cells[d]);
  return (c[0] * h.cells[1] + c[1]) * h.cells[2] + c[2];
}

// cell_start: counts in, starts out (n + 1 of them); cursors set to the starts. One block; scratch: one int a thread.
static MACE_MD_INLINE void scan_cells(const Arguments& s, int n_cells, int* scratch) {
  const int threads = blockDim.x, per_thread = (n_cells + threads - 1) / threads;
  const int begin = threadIdx.x * per_thread, end = begin + per_thread < n_cells ? begin + per_thread : n_cells;
  int total = 0;
  for (int c = begin; c < end; ++c) total += s.cell_start[c];
  scratch[threadIdx.x] = total;
  __syncthreads();
  for (int offset = 1; offset < threads; offset *= 2) {
    const int before = static_cast<int>(threadIdx.x) >= offset ? scratch[threadIdx.x - offset] : 0;
    __syncthreads();
    scratch[threadIdx.x] += before;
    __syncthreads();
  }
  int start = scratch[threadIdx.x] - total;
  for (int c = begin; c < end; ++c) {
    const int count = s.cell_start[c];
    s.cell_start[c] = s.cell_cursor[c] = start;
    start += count;
  }
  if (threadIdx.x == 0) s.cell_start[n_cells] = s.n_atoms;
}

// An atom that was scattered into its cell gets its place there from its number, so that the order is always the same.
static MACE_MD_INLINE void place_atom(const Arguments& s, int k) {
  const int cell = s.cell_of[k];
  int i = s.cell_start[cell];
  for (int other = s.cell_start[cell]; other < s.cell_start[cell + 1]; ++other) i += s.scattered[other] < k;
  const int particle = s.selected[k];
  s.order[i] = particle;
  s.internal_of[particle] = i;
  s.slot[i] = s.slot_of[k];
  s.slots[s.slot_of[k]] = i;
  s.type[i] = s.expected_types[particle];
  s.cell[i] = cell;
  store_vector(s.reference + 3ll * i, along_axes(s, particle));
}

// Where atom i is in this step. Returns the square of its displacement since the build. Not inlined: there must be one
// code, hence one rounding, whether the list is built in this step or not.
static MACE_MD_NOINLINE double follow_atom(const Arguments& s, int i) {
  for (int d = 0; d < 3; ++d) s.fixed_forces[3ll * i + d] = 0;
  Vector x = caller_position(s, s.order[i]);
  if (!(finite(x.x) && finite(x.y) && finite(x.z))) {
    raise(s, kPositionNotFinite);
    return 0;
  }
  const Vector reference = load_vector(s.reference + 3ll * i);
  Vector moved = minus(x, reference);
  int image = 0;
  if (s.box != nullptr) {
    double box[9], inverse[9];
    load_box(s, box);
    if (!invert_box(box, inverse)) return 0;  // `decide` says so
    const Vector f = times(x, inverse), whole = floor_of(f), d = minus(f, reference);
    const Vector nearest = {rint(d.x), rint(d.y), rint(d.z)}, crossed = minus(whole, nearest);
    image = (static_cast<int>(crossed.x) * (1 << (2 * kShiftBits))) + static_cast<int>(crossed.y) * (1 << kShiftBits) +
            static_cast<int>(crossed.z);
    moved = times(minus(d, nearest), box);
    x = times(minus(f, whole), box);
  }
  store_vector(s.position + 3ll * i, x);
  s.image[i] = image;
  return square(moved);
}

// Where the build found atom i, as the image that translations of candidates refer to.
static MACE_MD_INLINE Vector built_position(const Arguments& s, int i) {
  const Vector reference = load_vector(s.reference + 3ll * i);
  return s.box != nullptr ? times(reference, s.header->box) : reference;
}

static MACE_MD_INLINE int packed_shift(int a, int b, int c) {
  return ((a + kShiftOffset) << (2 * kShiftBits)) | ((b + kShiftOffset) << kShiftBits) | (c + kShiftOffset);
}

// What d = x_i - x_j - translation takes for positions inside the box: lattice vectors, in three numbers of ten bits
// that add and subtract as one.
static MACE_MD_INLINE Vector translation(const Arguments& s, DeviceCandidate candidate, int i) {
  if (s.box == nullptr) return {0, 0, 0};
  const int shift = candidate.shift + s.image[candidate.atom] - s.image[i], mask = (1 << kShiftBits) - 1;
  const int a = shift >> (2 * kShiftBits), b = (shift >> kShiftBits) & mask, c = shift & mask;
  return times({double(a - kShiftOffset), double(b - kShiftOffset), double(c - kShiftOffset)}, s.header->box);
}

// ---- one warp: the candidates of an atom

// Writes those that there is room for, with the slot of the sender in the place of its number, and returns how many
// there are.
static MACE_MD_INLINE int find_candidates(const Arguments& s, int i, DeviceCandidate* out, int room) {
  const DeviceHeader& h = *s.header;
  const Vector x = built_position(s, i);
  const double reach = s.r_max + s.skin;
  int count = 0;
  visit_cells(h.cells, h.range, s.box != nullptr, s.cell[i], [&](int first, int last, int a, int b, int c) {
    const Vector origin = s.box != nullptr ? minus(x, times({double(a), double(b), double(c)}, h.box)) : x;
    const bool own_image = a == 0 && b == 0 && c == 0;
    const int stop = s.cell_start[last];
    for (int j0 = s.cell_start[first]; j0 < stop; j0 += kWarp) {
      const int j = j0 + lane();
      const bool hit =
          j < stop && !(own_image && j == i) && square(minus(origin, built_position(s, j))) < reach * reach;
      const unsigned hits = __ballot_sync(kAllLanes, hit);
      const int place = count + __popc(hits & ((1u << lane()) - 1));
      if (hit && place < room) out[place] = {s.slot[j], packed_shift(a, b, c)};
      count += __popc(hits);
    }
  });
  return count;
}

static MACE_MD_INLINE bool before(DeviceCandidate a, DeviceCandidate b) {
  return a.atom < b.atom || (a.atom == b.atom && a.shift < b.shift);
}

// Bitonic sort of n candidates in place; every exchange puts the smaller one first, so that n need not be a power of 2.
static MACE_MD_INLINE void sort_candidates(DeviceCandidate* keys, int n) {
  auto exchange = [&](int flip) {
    for (int a = lane(); a < n; a += kWarp) {
      const int b = a ^ flip;
      if (b <= a || b >= n) continue;
      const DeviceCandidate low = keys[a], high = keys[b];
      if (!before(high, low)) continue;
      keys[a] = high;
      keys[b] = low;
    }
    __syncwarp();
  };
  __syncwarp();
  for (int size = 2; size < 2 * n; size *= 2) {
    exchange(size - 1);
    for (int flip = size / 4; flip > 0; flip /= 2) exchange(flip);
  }
}

constexpr int kKeyRoom = 256;  // candidates that are sorted in shared memory, 2 kB a warp

// Finds, sorts and stores the candidates of atom i. keys: shared, [kKeyRoom].
static MACE_MD_INLINE void build_candidates(const Arguments& s, int i, DeviceCandidate* keys) {
  const int count = find_candidates(s, i, keys, kKeyRoom);
  long long start = 0;
  if (lane() == 0)
    start = static_cast<long long>(atomicAdd(reinterpret_cast<unsigned long long*>(&s.header->n_candidates),
                                             static_cast<unsigned long long>(count)));
  start = __shfl_sync(kAllLanes, start, 0);
  const bool fits = start + count <= s.capacity;  // the count goes on, so that the host learns what is needed
  if (lane() == 0) {
    s.candidate_start[i] = fits ? start : 0;
    s.n_candidates[i] = fits ? count : 0;
    if (!fits) {
      s.header->list_valid = 0;
      raise(s, kListOverflow);
    }
  }
  if (fits) {
    DeviceCandidate* out = s.candidates + start;
    if (count > kKeyRoom) {
      keys = out;
      find_candidates(s, i, keys, count);
    }
    sort_candidates(keys, count);
    for (int c = lane(); c < count; c += kWarp) out[c] = {s.slots[keys[c].atom], keys[c].shift};
  }
  __syncwarp();
}

// ---- one block: the atoms of a list that is due

static MACE_MD_INLINE void sort_atoms(const Arguments& s) {
  __shared__ int scratch[1024];
  __shared__ double corners[6 * 32];
  if (s.box != nullptr) {
    if (threadIdx.x == 0) periodic_grid(s);
  } else {
    bounding_box(s, corners);
  }
  __syncthreads();
  DeviceHeader& h = *s.header;
  if (!h.rebuild) return;  // the grid found a problem
  const int n_cells = h.cells[0] * h.cells[1] * h.cells[2];
  for (int c = threadIdx.x; c < n_cells; c += blockDim.x) s.cell_start[c] = 0;
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) {
    s.cell_of[k] = cell_at(h, along_axes(s, s.selected[k]));
    atomicAdd(s.cell_start + s.cell_of[k], 1);
  }
  __syncthreads();
  scan_cells(s, n_cells, scratch);
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) s.scattered[atomicAdd(s.cell_cursor + s.cell_of[k], 1)] = k;
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) place_atom(s, k);
  __syncthreads();
  for (int i = threadIdx.x; i < s.n_atoms; i += blockDim.x) follow_atom(s, i);
  if (threadIdx.x == 0) {
    h.list_valid = 1;
    h.n_candidates = 0;
    ++h.n_builds;
  }
}

// The block's share of the particles, one a thread: follows atoms to the caller's positions, and clears sums.
static MACE_MD_INLINE void follow_particles(const Arguments& s, int first) {
  const int i = first + threadIdx.x;
  if (i < s.n_particles && s.types[i] != s.expected_types[i]) raise(s, kTypesChanged);
  double moved2 = i < s.n_atoms ? follow_atom(s, i) : 0.0;
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    moved2 = fmax(moved2, __shfl_xor_sync(kAllLanes, moved2, offset));
  // the bits of numbers that are not negative are ordered as the numbers are
  if (lane() == 0 && moved2 > 0)
    atomicMax(&s.header->moved2, static_cast<unsigned long long>(__double_as_longlong(moved2)));
}

static MACE_MD_INLINE void build_if_due(const Arguments& s) {
  __shared__ int due;
  if (threadIdx.x == 0) due = decide(s);
  __syncthreads();
  if (due) sort_atoms(s);
}

// ---- kernels

#if MACE_MD_SMALL
// All in one block; the status of the step is cleared here too.
MACE_MD_KERNEL(update_list, 1024) {
  if (threadIdx.x == 0) s.header->step_status = s.header->moved2 = 0;
  __syncthreads();
  for (int first = 0; first < s.n_particles; first += blockDim.x) follow_particles(s, first);
  __syncthreads();
  build_if_due(s);
}
#else
MACE_MD_KERNEL(follow_positions, 256) { follow_particles(s, blockIdx.x * blockDim.x); }

// One block: decides, and sorts the atoms into cells when the list is due.
MACE_MD_KERNEL(build_list, 1024) { build_if_due(s); }
#endif

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
