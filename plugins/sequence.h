// 0, 1, ..., N-1 as a type (std::integer_sequence would do; simd.h says why the standard library is not used).
#pragma once

namespace mace_md {
namespace MACE_MD_TARGET {

template <int... I>
struct Lanes {};
template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};
template <int... I>
struct MakeLanes<0, I...> {
  using type = Lanes<I...>;
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
