#include "neighbors.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mace_md {
namespace {

struct Vector {
  double x, y, z;
};

Vector times(const double* row, const double* matrix) {  // row vector times 3x3 matrix
  return {row[0] * matrix[0] + row[1] * matrix[3] + row[2] * matrix[6],
          row[0] * matrix[1] + row[1] * matrix[4] + row[2] * matrix[7],
          row[0] * matrix[2] + row[1] * matrix[5] + row[2] * matrix[8]};
}

// Cells half as wide as the reach: five cells a side are searched, with less empty volume than three wide ones.
constexpr double kCellsPerReach = 2.0;

void choose_grid(ListPlan& plan, const double heights[3], double reach, bool periodic, int n_atoms) {
  double limit = std::max(64.0, 4.0 * n_atoms);
  double n[3];
  for (int d = 0; d < 3; ++d) n[d] = std::max(1.0, std::floor(heights[d] * kCellsPerReach / reach));
  while (n[0] * n[1] * n[2] > limit) {  // a small cluster in a huge volume must not make millions of empty cells
    int widest = n[0] >= n[1] && n[0] >= n[2] ? 0 : (n[1] >= n[2] ? 1 : 2);
    n[widest] = std::max(1.0, std::floor(n[widest] / 2));
  }
  for (int d = 0; d < 3; ++d) {
    plan.cells[d] = static_cast<int>(n[d]);
    plan.range[d] = static_cast<int>(std::ceil(reach / (heights[d] / n[d])));
    if (!periodic) plan.range[d] = std::min(plan.range[d], plan.cells[d] - 1);
  }
}

int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Calls visit(sorted index of the sender, shift index) for every candidate of the atom at `receiver` in cell order.
template <class Visit>
void search(const ListInfo& info, const ListPlan& plan, const double* translations, int receiver, Visit&& visit) {
  const double* x = &plan.sorted[3 * receiver];
  const int32_t* home = &plan.cell_of[3 * receiver];
  const double reach2 = info.reach * info.reach;
  const int width = 2 * info.shift_range + 1;
  int begin[3], end[3];
  for (int d = 0; d < 3; ++d) {
    begin[d] = home[d] - plan.range[d];
    end[d] = home[d] + plan.range[d];
    if (!info.periodic) {
      begin[d] = std::max(begin[d], 0);
      end[d] = std::min(end[d], plan.cells[d] - 1);
    }
  }
  for (int a = begin[0]; a <= end[0]; ++a) {
    int sa = floor_divide(a, plan.cells[0]);
    for (int b = begin[1]; b <= end[1]; ++b) {
      int sb = floor_divide(b, plan.cells[1]);
      for (int c = begin[2]; c <= end[2]; ++c) {
        int sc = floor_divide(c, plan.cells[2]);
        int cell = ((a - sa * plan.cells[0]) * plan.cells[1] + b - sb * plan.cells[1]) * plan.cells[2] + c -
                   sc * plan.cells[2];
        int shift = ((sa + info.shift_range) * width + sb + info.shift_range) * width + sc + info.shift_range;
        const double* t = translations + 3 * shift;
        double ox = x[0] - t[0], oy = x[1] - t[1], oz = x[2] - t[2];
        bool own_image = sa == 0 && sb == 0 && sc == 0;
        for (int j = plan.cell_start[cell]; j < plan.cell_start[cell + 1]; ++j) {
          const double* y = &plan.sorted[3 * j];
          double dx = ox - y[0], dy = oy - y[1], dz = oz - y[2];
          if (dx * dx + dy * dy + dz * dz < reach2 && !(own_image && j == receiver)) visit(j, shift);
        }
      }
    }
  }
}

struct TaskContext {
  const ListInfo* info;
  const ListPlan* plan;
  const double* translations;
  std::vector<int32_t>* counts;
  const AtomArrays* atoms;
  Candidate* candidates;
  const std::vector<int32_t>* sorted_of;
  int n_types;
};

void count_task(int task, void* context) {
  auto& c = *static_cast<TaskContext*>(context);
  int64_t n = c.info->n_atoms, threads = c.info->n_threads;
  for (int64_t i = task * n / threads; i < (task + 1) * n / threads; ++i) {
    int32_t count = 0;
    search(*c.info, *c.plan, c.translations, static_cast<int>(i), [&](int, int) { ++count; });
    (*c.counts)[i] = count;
  }
}

void fill_task(int task, void* context) {
  auto& c = *static_cast<TaskContext*>(context);
  int64_t n = c.info->n_atoms, threads = c.info->n_threads;
  std::vector<Candidate> found;
  for (int64_t i = task * n / threads; i < (task + 1) * n / threads; ++i) {
    found.clear();
    search(*c.info, *c.plan, c.translations, (*c.sorted_of)[i],
           [&](int j, int shift) { found.push_back({c.plan->internal_of[j], shift}); });
    Candidate* out = c.candidates + c.atoms->candidate_start[i];
    for (int type = 0; type < c.n_types; ++type)  // one sender type after the other: they share a radial table
      for (const Candidate& candidate : found)
        if (c.atoms->type[candidate.atom] == type) *out++ = candidate;
  }
}

// Contiguous ranges of about equal work for the threads, cut into blocks; inside a block atoms are grouped by type.
std::vector<int32_t> divide(ListInfo& info, const AtomArrays& atoms, const std::vector<int32_t>& counts,
                            const std::vector<int32_t>& type_of_sorted, int block_size) {
  const int n = info.n_atoms;
  constexpr double kAtomCost = 16;  // the work of an atom without neighbours, in edges
  double total = 0;
  for (int count : counts) total += count + kAtomCost;
  std::vector<int32_t> sorted_of(n);
  std::iota(sorted_of.begin(), sorted_of.end(), 0);
  info.n_blocks = 0;
  int first = 0;
  double done = 0;
  for (int thread = 0; thread < info.n_threads; ++thread) {
    atoms.thread_block[thread] = info.n_blocks;
    int last = first;
    double target = total * (thread + 1) / info.n_threads;
    while (last < n && (thread + 1 == info.n_threads || done + 0.5 * (counts[last] + kAtomCost) < target))
      done += counts[last++] + kAtomCost;
    int n_blocks = (last - first + block_size - 1) / block_size;
    for (int block = 0; block < n_blocks; ++block) {
      int begin = first + static_cast<int>(int64_t{last - first} * block / n_blocks);
      int end = first + static_cast<int>(int64_t{last - first} * (block + 1) / n_blocks);
      atoms.block_start[info.n_blocks++] = begin;
      std::stable_sort(sorted_of.begin() + begin, sorted_of.begin() + end,
                       [&](int32_t a, int32_t b) { return type_of_sorted[a] < type_of_sorted[b]; });
    }
    first = last;
  }
  atoms.block_start[info.n_blocks] = n;
  atoms.thread_block[info.n_threads] = info.n_blocks;
  return sorted_of;
}

}  // namespace

bool invert(const double* m, double* inverse) {
  double c0 = m[4] * m[8] - m[5] * m[7], c1 = m[5] * m[6] - m[3] * m[8], c2 = m[3] * m[7] - m[4] * m[6];
  double determinant = m[0] * c0 + m[1] * c1 + m[2] * c2;
  double size = 0;
  for (int i = 0; i < 9; ++i) size = std::max(size, std::fabs(m[i]));
  if (!(std::fabs(determinant) > 1e-9 * size * size * size)) return false;
  double f = 1 / determinant;
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

ListPlan plan_list(ListInfo& info, const AtomArrays& atoms, const double* positions, const int32_t* selected,
                   const int32_t* types, const double* box, int block_size, ParallelRunner parallel) {
  const int n = info.n_atoms;
  ListPlan plan;
  // Coordinates along the cell vectors (or the axes of the bounding box), and the heights of the cell.
  std::vector<double> along(3 * n);
  double heights[3], origin[3] = {0, 0, 0}, scale[3] = {1, 1, 1};
  if (box != nullptr) {
    double inverse[9];
    invert(box, inverse);
    for (int d = 0; d < 3; ++d)
      heights[d] =
          1 / std::sqrt(inverse[d] * inverse[d] + inverse[3 + d] * inverse[3 + d] + inverse[6 + d] * inverse[6 + d]);
    for (int i = 0; i < n; ++i) {
      Vector s = times(positions + 3 * i, inverse);
      along[3 * i] = s.x - std::floor(s.x);
      along[3 * i + 1] = s.y - std::floor(s.y);
      along[3 * i + 2] = s.z - std::floor(s.z);
    }
    std::copy(box, box + 9, info.box);
  } else {
    std::copy(positions, positions + 3 * n, along.begin());
    for (int d = 0; d < 3; ++d) {
      double low = n ? 1e300 : 0, high = n ? -1e300 : 1;
      for (int i = 0; i < n; ++i) {
        low = std::min(low, along[3 * i + d]);
        high = std::max(high, along[3 * i + d]);
      }
      heights[d] = std::max(high - low, 1e-6) * (1 + 1e-9);
      origin[d] = low;
      scale[d] = 1 / heights[d];
    }
  }
  choose_grid(plan, heights, info.reach, box != nullptr, n);
  info.shift_range = 0;
  if (box != nullptr)
    for (int d = 0; d < 3; ++d)
      info.shift_range = std::max(info.shift_range, (plan.range[d] + plan.cells[d] - 1) / plan.cells[d]);

  // Counting sort into cells.
  std::vector<int32_t> cell(n);
  plan.cell_start.assign(plan.cells[0] * plan.cells[1] * plan.cells[2] + 1, 0);
  for (int i = 0; i < n; ++i) {
    int c[3];
    for (int d = 0; d < 3; ++d) {
      double fraction = (along[3 * i + d] - origin[d]) * scale[d];
      c[d] = std::min(std::max(static_cast<int>(fraction * plan.cells[d]), 0), plan.cells[d] - 1);
    }
    cell[i] = (c[0] * plan.cells[1] + c[1]) * plan.cells[2] + c[2];
    ++plan.cell_start[cell[i] + 1];
  }
  for (size_t c = 1; c < plan.cell_start.size(); ++c) plan.cell_start[c] += plan.cell_start[c - 1];
  std::vector<int32_t> cursor(plan.cell_start.begin(), plan.cell_start.end() - 1), input_of(n);
  for (int i = 0; i < n; ++i) input_of[cursor[cell[i]]++] = i;
  plan.sorted.resize(3 * n);
  plan.sorted_index.resize(n);
  plan.cell_of.resize(3 * n);
  std::vector<int32_t> type_of_sorted(n);
  for (int k = 0; k < n; ++k) {
    int i = input_of[k];
    Vector x = box != nullptr ? times(&along[3 * i], box) : Vector{along[3 * i], along[3 * i + 1], along[3 * i + 2]};
    plan.sorted[3 * k] = x.x;
    plan.sorted[3 * k + 1] = x.y;
    plan.sorted[3 * k + 2] = x.z;
    plan.sorted_index[k] = selected[i];
    type_of_sorted[k] = types[selected[i]];
    plan.cell_of[3 * k] = cell[i] / (plan.cells[1] * plan.cells[2]);
    plan.cell_of[3 * k + 1] = cell[i] / plan.cells[2] % plan.cells[1];
    plan.cell_of[3 * k + 2] = cell[i] % plan.cells[2];
  }

  std::vector<double> translations(3 * info.n_shifts());
  lattice_translations(info, box, translations.data());
  std::vector<int32_t> counts(n);
  TaskContext context{&info, &plan, translations.data(), &counts, nullptr, nullptr, nullptr, 0};
  parallel(info.n_threads, count_task, &context);

  std::vector<int32_t> sorted_of = divide(info, atoms, counts, type_of_sorted, block_size);
  plan.internal_of.resize(n);
  atoms.candidate_start[0] = 0;
  for (int i = 0; i < n; ++i) {
    int k = sorted_of[i];
    plan.internal_of[k] = i;
    atoms.order[i] = plan.sorted_index[k];
    atoms.type[i] = type_of_sorted[k];
    atoms.candidate_start[i + 1] = atoms.candidate_start[i] + counts[k];
    for (int d = 0; d < 3; ++d) {
      atoms.reference[3 * i + d] = along[3 * input_of[k] + d];
      atoms.position[3 * i + d] = plan.sorted[3 * k + d];
    }
  }
  info.n_candidates = atoms.candidate_start[n];
  ++info.n_builds;
  return plan;
}

void fill_list(const ListInfo& info, const AtomArrays& atoms, const ListPlan& plan, int n_types, Candidate* candidates,
               ParallelRunner parallel) {
  std::vector<double> translations(3 * info.n_shifts());
  lattice_translations(info, info.periodic ? info.box : nullptr, translations.data());
  std::vector<int32_t> sorted_of(info.n_atoms);
  for (int k = 0; k < info.n_atoms; ++k) sorted_of[plan.internal_of[k]] = k;
  TaskContext context{&info, &plan, translations.data(), nullptr, &atoms, candidates, &sorted_of, n_types};
  parallel(info.n_threads, fill_task, &context);
}

bool update_positions(const ListInfo& info, const AtomArrays& atoms, const double* positions, double r_max,
                      const double* box) {
  double moved2 = 0;
  double stretch = 1;
  if (box != nullptr) {
    double inverse[9], back[9];
    invert(box, inverse);
    // |F^-1| <= 1 + |F^-1 - 1|, with F^-1 = h^-1 h0
    double deviation = 0;
    for (int i = 0; i < 3; ++i) {
      Vector row = times(inverse + 3 * i, info.box);
      back[3 * i] = row.x;
      back[3 * i + 1] = row.y;
      back[3 * i + 2] = row.z;
    }
    for (int i = 0; i < 9; ++i) {
      double d = back[i] - (i % 4 == 0 ? 1 : 0);
      deviation += d * d;
    }
    stretch = 1 + std::sqrt(deviation);
    for (int i = 0; i < info.n_atoms; ++i) {
      const double* reference = atoms.reference + 3 * i;
      Vector s = times(positions + 3 * atoms.order[i], inverse);
      double d[3] = {s.x - reference[0], s.y - reference[1], s.z - reference[2]};
      for (double& component : d) component -= std::nearbyint(component);
      Vector u = times(d, box);
      moved2 = std::max(moved2, u.x * u.x + u.y * u.y + u.z * u.z);
      double image[3] = {reference[0] + d[0], reference[1] + d[1], reference[2] + d[2]};
      Vector x = times(image, box);
      atoms.position[3 * i] = x.x;
      atoms.position[3 * i + 1] = x.y;
      atoms.position[3 * i + 2] = x.z;
    }
  } else {
    for (int i = 0; i < info.n_atoms; ++i) {
      double u2 = 0;
      for (int d = 0; d < 3; ++d) {
        double x = positions[3 * atoms.order[i] + d];
        double u = x - atoms.reference[3 * i + d];
        u2 += u * u;
        atoms.position[3 * i + d] = x;
      }
      moved2 = std::max(moved2, u2);
    }
  }
  return stretch * (r_max + 2 * std::sqrt(moved2)) <= info.reach;
}

void lattice_translations(const ListInfo& info, const double* box, double* translations) {
  const int range = info.shift_range, width = 2 * range + 1;
  for (int a = 0; a < width; ++a)
    for (int b = 0; b < width; ++b)
      for (int c = 0; c < width; ++c) {
        double s[3] = {double(a - range), double(b - range), double(c - range)};
        Vector t = box != nullptr ? times(s, box) : Vector{0, 0, 0};
        double* out = translations + 3 * ((a * width + b) * width + c);
        out[0] = t.x;
        out[1] = t.y;
        out[2] = t.z;
      }
}

}  // namespace mace_md
