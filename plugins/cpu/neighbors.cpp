#include "neighbors.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#define MACE_MD_TARGET list_on_cpu
#define MACE_MD_INLINE inline
#include "../lattice.h"

namespace mace_md {

using namespace list_on_cpu;

namespace {

// Calls visit(sorted index of the sender, shift index) for every candidate of the atom at `receiver` in cell order.
template <class Visit>
void search(const ListInfo& info, const ListPlan& plan, const double* translations, int receiver, Visit&& visit) {
  const Vector x = load_vector(&plan.sorted[3 * receiver]);
  const double reach2 = info.reach * info.reach;
  const int width = 2 * info.shift_range + 1;
  visit_cells(
      plan.cells, plan.range, info.periodic, plan.cell_of[receiver], [&](int first, int last, int a, int b, int c) {
        const int shift = ((a + info.shift_range) * width + b + info.shift_range) * width + c + info.shift_range;
        const Vector origin = minus(x, load_vector(translations + 3 * shift));
        const bool own_image = a == 0 && b == 0 && c == 0;
        for (int j = plan.cell_start[first]; j < plan.cell_start[last]; ++j)
          if (square(minus(origin, load_vector(&plan.sorted[3 * j]))) < reach2 && !(own_image && j == receiver))
            visit(j, shift);
      });
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

bool invert(const double* box, double* inverse) { return invert_box(box, inverse); }

ListPlan plan_list(ListInfo& info, const AtomArrays& atoms, const double* positions, const int32_t* selected,
                   const int32_t* types, const double* box, int block_size, ParallelRunner parallel) {
  const int n = info.n_atoms;
  ListPlan plan;
  // Coordinates along the cell vectors (or the axes of the bounding box), and the heights of the cell.
  std::vector<double> along(3 * n);
  double heights[3], origin[3] = {0, 0, 0}, scale[3] = {1, 1, 1};
  if (box != nullptr) {
    double inverse[9] = {};  // the caller has checked that there is one
    invert(box, inverse);
    box_heights(inverse, heights);
    for (int i = 0; i < n; ++i) {
      const Vector s = times(load_vector(positions + 3 * i), inverse);
      store_vector(&along[3 * i], minus(s, floor_of(s)));
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
  info.shift_range = choose_grid(heights, info.reach, box != nullptr, std::max(64, 4 * n), plan.cells, plan.range);

  // Counting sort into cells.
  std::vector<int32_t> cell(n);
  plan.cell_start.assign(plan.cells[0] * plan.cells[1] * plan.cells[2] + 1, 0);
  for (int i = 0; i < n; ++i) {
    int c[3];
    for (int d = 0; d < 3; ++d) c[d] = cell_of((along[3 * i + d] - origin[d]) * scale[d], plan.cells[d]);
    cell[i] = (c[0] * plan.cells[1] + c[1]) * plan.cells[2] + c[2];
    ++plan.cell_start[cell[i] + 1];
  }
  for (size_t c = 1; c < plan.cell_start.size(); ++c) plan.cell_start[c] += plan.cell_start[c - 1];
  std::vector<int32_t> cursor(plan.cell_start.begin(), plan.cell_start.end() - 1), input_of(n);
  for (int i = 0; i < n; ++i) input_of[cursor[cell[i]]++] = i;
  plan.sorted.resize(3 * n);
  plan.sorted_index.resize(n);
  plan.cell_of.resize(n);
  std::vector<int32_t> type_of_sorted(n);
  for (int k = 0; k < n; ++k) {
    int i = input_of[k];
    const Vector x = load_vector(&along[3 * i]);
    store_vector(&plan.sorted[3 * k], box != nullptr ? times(x, box) : x);
    plan.sorted_index[k] = selected[i];
    type_of_sorted[k] = types[selected[i]];
    plan.cell_of[k] = cell[i];
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
  double moved2 = 0, factor = 1, inverse[9];
  if (box != nullptr) {
    invert(box, inverse);
    factor = stretch(inverse, info.box);
  }
  for (int i = 0; i < info.n_atoms; ++i) {
    const Vector reference = load_vector(atoms.reference + 3 * i);
    Vector x = load_vector(positions + 3 * atoms.order[i]), moved = minus(x, reference);
    if (box != nullptr) {
      Vector d = minus(times(x, inverse), reference);
      d = {d.x - std::nearbyint(d.x), d.y - std::nearbyint(d.y), d.z - std::nearbyint(d.z)};
      moved = times(d, box);
      x = times({reference.x + d.x, reference.y + d.y, reference.z + d.z}, box);
    }
    moved2 = std::max(moved2, square(moved));
    store_vector(atoms.position + 3 * i, x);
  }
  return factor * (r_max + 2 * std::sqrt(moved2)) <= info.reach;
}

void lattice_translations(const ListInfo& info, const double* box, double* translations) {
  const int range = info.shift_range, width = 2 * range + 1;
  for (int a = 0; a < width; ++a)
    for (int b = 0; b < width; ++b)
      for (int c = 0; c < width; ++c) {
        const Vector s = {double(a - range), double(b - range), double(c - range)};
        store_vector(translations + 3 * ((a * width + b) * width + c),
                     box != nullptr ? times(s, box) : Vector{0, 0, 0});
      }
}

}  // namespace mace_md
