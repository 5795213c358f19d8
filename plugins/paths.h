// The tensor-product paths (l1 of Y) x (l2 of H) -> l3 of layer 2, known to the compiler for each (max_ell, max_L).
//
// Order: by l2, then l1, then l3. A path owns (2 l1 + 1)(2 l2 + 1) rows, numbered m1 * (2 l2 + 1) + m2, in which
// products R * Y * H are summed over neighbours before any Clebsch-Gordan coefficient is applied; and 2 l3 + 1
// components of Phi. Components are numbered by l3, then path, then m3.
#pragma once

namespace mace_md {
namespace MACE_MD_TARGET {

struct Path {
  int l1, l2, l3;
  int row;        // first row
  int component;  // first component of Phi
};

template <int ELL, int L>
struct Paths {
  static constexpr int kMax = 32;
  Path path[kMax] = {};
  int count = 0;
  int rows = 0;
  int components = 0;
  int paths_to[ELL + 1] = {};         // number of paths that end in l3
  int component_start[ELL + 2] = {};  // first component of l3

  constexpr Paths() {
    for (int l2 = 0; l2 <= L; ++l2)
      for (int l1 = 0; l1 <= ELL; ++l1)
        for (int l3 = 0; l3 <= ELL; ++l3) {
          bool triangle = l3 <= l1 + l2 && l3 >= l1 - l2 && l3 >= l2 - l1;
          if (!triangle || (l1 + l2 + l3) % 2 != 0) continue;
          path[count].l1 = l1;
          path[count].l2 = l2;
          path[count].l3 = l3;
          path[count].row = rows;
          rows += (2 * l1 + 1) * (2 * l2 + 1);
          ++count;
        }
    for (int l3 = 0; l3 <= ELL; ++l3) {
      component_start[l3] = components;
      for (int p = 0; p < count; ++p)
        if (path[p].l3 == l3) {
          path[p].component = components;
          components += 2 * l3 + 1;
          ++paths_to[l3];
        }
    }
    component_start[ELL + 1] = components;
  }

  // The end of the longest run of paths from `first` whose rows fit `limit` accumulators (at least one path).
  constexpr int group_end(int first, int limit) const {
    int end = first, used = 0;
    while (end < count) {
      int n = (2 * path[end].l1 + 1) * (2 * path[end].l2 + 1);
      if (end > first && used + n > limit) break;
      used += n;
      ++end;
    }
    return end;
  }
};

template <int ELL, int L>
struct PathTable {
  static constexpr Paths<ELL, L> value{};
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
