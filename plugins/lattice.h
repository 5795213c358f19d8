// Cell vectors, and the grid of cells in which neighbours are found. For the CPU and for CUDA; MACE_MD_TARGET and
// MACE_MD_INLINE come from the file that includes this one, or from cuda/device.h.
#pragma once

namespace mace_md {
namespace MACE_MD_TARGET {

struct Vector {
  double x, y, z;
};

// A row times a 3x3 matrix.
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

static MACE_MD_INLINE Vector floor_of(Vector v) { return {floor(v.x), floor(v.y), floor(v.z)}; }
static MACE_MD_INLINE Vector minus(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
static MACE_MD_INLINE double square(Vector v) { return v.x * v.x + v.y * v.y + v.z * v.z; }

// False when the cell vectors do not span a volume.
static MACE_MD_INLINE bool invert_box(const double* m, double* inverse) {
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

// |F^-1| <= 1 + |F^-1 - 1|, with F^-1 = h^-1 h0 the deformation of the box since the build.
static MACE_MD_INLINE double stretch(const double* inverse, const double* reference_box) {
  double deviation = 0;
  for (int i = 0; i < 3; ++i) {
    const Vector row = times(load_vector(inverse + 3 * i), reference_box);
    deviation += square({row.x - (i == 0), row.y - (i == 1), row.z - (i == 2)});
  }
  return 1 + sqrt(deviation);
}

// Distances between opposite faces of the box.
static MACE_MD_INLINE void box_heights(const double* inverse, double* heights) {
  for (int d = 0; d < 3; ++d)
    heights[d] = 1 / sqrt(inverse[d] * inverse[d] + inverse[3 + d] * inverse[3 + d] + inverse[6 + d] * inverse[6 + d]);
}

// Numbers of cells along each axis, and how many to each side can hold neighbours. Returns the largest component of a
// lattice translation that a neighbour can have. Cells are half as wide as the reach: five cells a side are searched,
// with less empty volume than three wide ones.
static MACE_MD_INLINE int choose_grid(const double* heights, double reach, bool periodic, int max_cells, int* cells,
                                      int* range) {
  double n[3];
  for (int d = 0; d < 3; ++d) n[d] = fmax(1.0, floor(heights[d] * 2 / reach));
  while (n[0] * n[1] * n[2] > max_cells) {  // a small cluster in a huge volume must not make millions of empty cells
    const int widest = n[0] >= n[1] && n[0] >= n[2] ? 0 : (n[1] >= n[2] ? 1 : 2);
    n[widest] = fmax(1.0, floor(n[widest] / 2));
  }
  int most_images = 0;
  for (int d = 0; d < 3; ++d) {
    cells[d] = static_cast<int>(n[d]);
    range[d] = static_cast<int>(fmin(ceil(reach / (heights[d] / n[d])), 1e6));
    if (!periodic && range[d] > cells[d] - 1) range[d] = cells[d] - 1;
    const int images = (range[d] + cells[d] - 1) / cells[d];
    if (periodic && images > most_images) most_images = images;
  }
  return most_images;
}

// The cell along one axis of a coordinate in [0, 1].
static MACE_MD_INLINE int cell_of(double along, int cells) {
  const double place = along * cells;
  return place > 0 ? static_cast<int>(fmin(place, cells - 1.0)) : 0;
}

static MACE_MD_INLINE int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Calls visit(first, end, a, b, c) for the cells that can hold neighbours of an atom in the cell `home`: runs of cells
// [first, end) that follow each other, as seen through the lattice translation (a, b, c). Cells are numbered
// (x * cells[1] + y) * cells[2] + z.
template <class Visit>
static MACE_MD_INLINE void visit_cells(const int* cells, const int* range, bool periodic, int home, Visit&& visit) {
  const int at[3] = {home / (cells[1] * cells[2]), home / cells[2] % cells[1], home % cells[2]};
  int begin[3], end[3];
  for (int d = 0; d < 3; ++d) {
    begin[d] = at[d] - range[d];
    end[d] = at[d] + range[d];
    if (!periodic && begin[d] < 0) begin[d] = 0;
    if (!periodic && end[d] > cells[d] - 1) end[d] = cells[d] - 1;
  }
  for (int x = begin[0]; x <= end[0]; ++x) {
    const int a = floor_divide(x, cells[0]);
    for (int y = begin[1]; y <= end[1]; ++y) {
      const int b = floor_divide(y, cells[1]);
      const int row = ((x - a * cells[0]) * cells[1] + y - b * cells[1]) * cells[2];
      for (int z = begin[2]; z <= end[2];) {
        const int c = floor_divide(z, cells[2]), first = z - c * cells[2];
        const int rest = end[2] - z, last = first + rest < cells[2] ? first + rest : cells[2] - 1;
        visit(row + first, row + last + 1, a, b, c);
        z += last - first + 1;
      }
    }
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
