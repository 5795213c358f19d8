// The neighbour list on the device, by the rules of neighbors.h: positions are followed from their reference, and
// the list is rebuilt when it may no longer be complete. The kernels of a rebuild return at once when it is not due, so
// that every step launches the same kernels.
#pragma once

#include "device.h"

namespace mace_md {
namespace MACE_MD_TARGET {

struct Vector {
  double x, y, z;
};

static MACE_MD_INLINE Vector times(Vector row, const double* matrix) {
  return {row.x * matrix[0] + row.y * matrix[3] + row.z * matrix[6],
          row.x * matrix[1] + row.y * matrix[4] + row.z * matrix[7],
          row.x * matrix[2] + row.y * matrix[5] + row.z * matrix[8]};
}

static MACE_MD_INLINE Vector load_vector(const double* p) { return {p[0], p[1], p[2]}; }
static MACE_MD_INLINE void store_vector(double* p, Vector v) {
  p[0] = v.x;
  p[1] = v.y;
  p[2] = v.z;
}

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

// False when the cell vectors do not span a volume.
static MACE_MD_INLINE bool invert(const double* m, double* inverse) {
  const double c0 = m[4] * m[8] - m[5] * m[7], c1 = m[5] * m[6] - m[3] * m[8], c2 = m[3] * m[7] - m[4] * m[6];
  const double determinant = m[0] * c0 + m[1] * c1 + m[2] * c2;
  double size = 0;
  for (int i = 0; i < 9; ++i) size = fmax(size, fabs(m[i]));
  if (!(fabs(determinant) > 1e-9 * size * size * size)) return false;
  const double f = 1 / determinant;
  inverse[0] = c0 * f;
  inverse[3] = c1 * f;
  inverse[6] = c2 * f;
  inverse[1] = (m[2] * m[7] - m[1] * m[8]) * f;
  inverse[4] = (m[0] * m[8] - m[2] * m[6]) * f;
  inverse[7] = (m[1] * m[6] - m[0] * m[7]) * f;
  inverse[2] = (m[1] * m[5] - m[2] * m[4]) * f;
  inverse[5] = (m[2] * m[3] - m[0] * m[5]) * f;
  inverse[8] = (m[0] * m[4] - m[1] * m[3]) * f;
  return true;
}

static MACE_MD_INLINE void load_box(const Arguments& s, double* box) {
  for (int i = 0; i < 9; ++i) box[i] = length_at(s, s.box, s.box_double, i);
}

// |F^-1| <= 1 + |F^-1 - 1|, with F^-1 = h^-1 h0 the deformation of the box since the build.
static MACE_MD_INLINE double stretch(const double* inverse, const double* reference_box) {
  double deviation = 0;
  for (int i = 0; i < 3; ++i) {
    const Vector row = times(load_vector(inverse + 3 * i), reference_box);
    const double d[3] = {row.x - (i == 0), row.y - (i == 1), row.z - (i == 2)};
    deviation += d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
  }
  return 1 + sqrt(deviation);
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
    if (!(problem & kBoxNotFinite) && !invert(h.box, h.inverse)) problem |= kBoxFlat;
    if (problem == 0) factor = stretch(h.inverse, h.reference_box);
  }
  h.step_status = problem;
  if (problem != 0) h.list_valid = 0;
  const double moved = sqrt(__longlong_as_double(static_cast<long long>(h.moved2)));
  const bool keep = h.list_valid && factor * (s.r_max + 2 * moved) <= s.r_max + s.skin;
  h.rebuild = problem == 0 && !keep;
  return h.rebuild;
}

// Cells half as wide as the reach: five cells a side are searched, with less empty volume than three wide ones.
static MACE_MD_INLINE void choose_grid(const Arguments& s, const double* heights) {
  DeviceHeader& h = *s.header;
  const double reach = s.r_max + s.skin;
  const bool periodic = s.box != nullptr;
  double n[3];
  for (int d = 0; d < 3; ++d) n[d] = fmax(1.0, floor(heights[d] * 2 / reach));
  while (n[0] * n[1] * n[2] > s.max_cells) {  // a small cluster in a huge volume must not make millions of empty cells
    const int widest = n[0] >= n[1] && n[0] >= n[2] ? 0 : (n[1] >= n[2] ? 1 : 2);
    n[widest] = fmax(1.0, floor(n[widest] / 2));
  }
  h.shift_range = 0;
  for (int d = 0; d < 3; ++d) {
    h.cells[d] = static_cast<int>(n[d]);
    h.range[d] = static_cast<int>(fmin(ceil(reach / (heights[d] / n[d])), 1e6));
    if (!periodic && h.range[d] > h.cells[d] - 1) h.range[d] = h.cells[d] - 1;
    const int images = (h.range[d] + h.cells[d] - 1) / h.cells[d];
    if (periodic && images > h.shift_range) h.shift_range = images;
  }
  if (h.shift_range >= kShiftOffset - 1) {
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
    choose_grid(s, heights);
  }
}

static MACE_MD_INLINE void periodic_grid(const Arguments& s) {
  DeviceHeader& h = *s.header;
  double heights[3];
  for (int d = 0; d < 3; ++d) {
    heights[d] = 1 / sqrt(h.inverse[d] * h.inverse[d] + h.inverse[3 + d] * h.inverse[3 + d] +
                          h.inverse[6 + d] * h.inverse[6 + d]);
    h.origin[d] = 0;
    h.scale[d] = 1;
  }
  for (int i = 0; i < 9; ++i) h.reference_box[i] = h.box[i];
  choose_grid(s, heights);
}

// Coordinates along the cell vectors, in [0, 1); Cartesian without a box.
static MACE_MD_INLINE Vector along_axes(const Arguments& s, int particle) {
  Vector x = caller_position(s, particle);
  if (s.box == nullptr) return x;
  x = times(x, s.header->inverse);
  return {x.x - floor(x.x), x.y - floor(x.y), x.z - floor(x.z)};
}

static MACE_MD_INLINE int cell_at(const DeviceHeader& h, Vector along) {
  const double v[3] = {along.x, along.y, along.z};
  int c[3];
  for (int d = 0; d < 3; ++d) {
    const double place = (v[d] - h.origin[d]) * h.scale[d] * h.cells[d];
    c[d] = place > 0 ? static_cast<int>(fmin(place, h.cells[d] - 1.0)) : 0;
  }
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
  const Vector along = along_axes(s, particle);
  s.order[i] = particle;
  s.internal_of[particle] = i;
  s.type[i] = s.expected_types[particle];
  s.cell[i] = cell;
  store_vector(s.reference + 3ll * i, along);
  store_vector(s.position + 3ll * i, s.box != nullptr ? times(along, s.header->box) : along);
}

static MACE_MD_INLINE int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// One warp: the candidates of atom i, appended to `out` (counted only when it is null). Returns their number.
static MACE_MD_INLINE int find_candidates(const Arguments& s, int i, DeviceCandidate* out) {
  const DeviceHeader& h = *s.header;
  const Vector x = load_vector(s.position + 3ll * i);
  const double reach = s.r_max + s.skin;
  const int home[3] = {s.cell[i] / (h.cells[1] * h.cells[2]), s.cell[i] / h.cells[2] % h.cells[1],
                       s.cell[i] % h.cells[2]};
  int begin[3], end[3];
  for (int d = 0; d < 3; ++d) {
    begin[d] = home[d] - h.range[d];
    end[d] = home[d] + h.range[d];
    if (s.box == nullptr) {
      begin[d] = begin[d] > 0 ? begin[d] : 0;
      end[d] = end[d] < h.cells[d] - 1 ? end[d] : h.cells[d] - 1;
    }
  }
  int count = 0;
  for (int a = begin[0]; a <= end[0]; ++a) {
    const int sa = floor_divide(a, h.cells[0]);
    for (int b = begin[1]; b <= end[1]; ++b) {
      const int sb = floor_divide(b, h.cells[1]);
      const int row = ((a - sa * h.cells[0]) * h.cells[1] + b - sb * h.cells[1]) * h.cells[2];
      for (int c = begin[2]; c <= end[2];) {  // the cells of one image of a row follow each other
        const int sc = floor_divide(c, h.cells[2]), first = c - sc * h.cells[2];
        const int rest = end[2] - c, last = first + rest < h.cells[2] ? first + rest : h.cells[2] - 1;
        c += last - first + 1;
        Vector o = x;
        if (s.box != nullptr) {
          const Vector t = times({double(sa), double(sb), double(sc)}, h.box);
          o = {x.x - t.x, x.y - t.y, x.z - t.z};
        }
        const bool own_image = sa == 0 && sb == 0 && sc == 0;
        const int shift = ((sa + kShiftOffset) << (2 * kShiftBits)) | ((sb + kShiftOffset) << kShiftBits) |
                          (sc + kShiftOffset);
        const int stop = s.cell_start[row + last + 1];
        for (int j0 = s.cell_start[row + first]; j0 < stop; j0 += kWarp) {
          const int j = j0 + lane();
          bool hit = j < stop && !(own_image && j == i);
          if (hit) {
            const Vector y = load_vector(s.position + 3ll * j);
            const double dx = o.x - y.x, dy = o.y - y.y, dz = o.z - y.z;
            hit = dx * dx + dy * dy + dz * dz < reach * reach;
          }
          const unsigned hits = __ballot_sync(kAllLanes, hit);
          if (hit && out != nullptr) out[count + __popc(hits & ((1u << lane()) - 1))] = {j, shift};
          count += __popc(hits);
        }
      }
    }
  }
  return count;
}

static MACE_MD_INLINE Vector translation(const DeviceHeader& h, int shift) {
  const int mask = (1 << kShiftBits) - 1;
  return times({double((shift >> (2 * kShiftBits)) - kShiftOffset), double(((shift >> kShiftBits) & mask) - kShiftOffset),
                double((shift & mask) - kShiftOffset)},
               h.box);
}

// ---- kernels

// A thread a particle: follows atoms from their reference to the caller's positions, and clears sums.
MACE_MD_KERNEL(follow_positions, 256) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < s.n_particles && s.types[i] != s.expected_types[i]) raise(s, kTypesChanged);
  if (i >= s.n_atoms) return;
  for (int d = 0; d < 3; ++d) s.fixed_forces[3ll * i + d] = 0;
  Vector x = caller_position(s, s.order[i]);
  if (!(finite(x.x) && finite(x.y) && finite(x.z))) {
    raise(s, kPositionNotFinite);
    return;
  }
  const Vector reference = load_vector(s.reference + 3ll * i);
  Vector moved = {x.x - reference.x, x.y - reference.y, x.z - reference.z};
  if (s.box != nullptr) {
    double box[9], inverse[9];
    load_box(s, box);
    if (!invert(box, inverse)) return;  // build_list says so
    const Vector f = times(x, inverse);
    Vector d = {f.x - reference.x, f.y - reference.y, f.z - reference.z};
    d = {d.x - rint(d.x), d.y - rint(d.y), d.z - rint(d.z)};
    moved = times(d, box);
    x = times({reference.x + d.x, reference.y + d.y, reference.z + d.z}, box);
  }
  store_vector(s.position + 3ll * i, x);
  const double moved2 = moved.x * moved.x + moved.y * moved.y + moved.z * moved.z;
  // the bits of numbers that are not negative are ordered as the numbers are
  atomicMax(&s.header->moved2, static_cast<unsigned long long>(__double_as_longlong(moved2)));
}

// One block: decides, and sorts the atoms into cells and by type when the list is due.
MACE_MD_KERNEL(build_list, 1024) {
  __shared__ int due;
  __shared__ int scratch[1024];
  __shared__ double corners[6 * 32];
  __shared__ int cursor[kTypes];
  if (threadIdx.x == 0) due = decide(s);
  __syncthreads();
  if (!due) return;
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
  for (int t = threadIdx.x; t < kTypes; t += blockDim.x) cursor[t] = s.type_start[t];
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) {
    s.cell_of[k] = cell_at(h, along_axes(s, s.selected[k]));
    atomicAdd(s.cell_start + s.cell_of[k], 1);
  }
  __syncthreads();
  scan_cells(s, n_cells, scratch);
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x)
    s.scattered[atomicAdd(s.cell_cursor + s.cell_of[k], 1)] = k;
  __syncthreads();
  for (int k = threadIdx.x; k < s.n_atoms; k += blockDim.x) place_atom(s, k);
  __syncthreads();
  for (int i = threadIdx.x; i < s.n_atoms; i += blockDim.x) s.slots[atomicAdd(cursor + s.type[i], 1)] = i;
  if (threadIdx.x == 0) {
    h.list_valid = 1;
    h.n_candidates = 0;
    ++h.n_builds;
  }
}

// A warp an atom.
MACE_MD_KERNEL(find_neighbors, 256) {
  if (!s.header->rebuild) return;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  if (i >= s.n_atoms) return;
  const int count = find_candidates(s, i, nullptr);
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
  if (fits) find_candidates(s, i, s.candidates + start);
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
