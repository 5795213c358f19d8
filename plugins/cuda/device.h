// The language of the kernels: CUDA, or (MACE_MD_EMULATION, in the tests) C++ in which every CUDA thread is a fibre.
//
// Sources are compiled for one model. Defined before: MACE_MD_REAL, MACE_MD_ELL, MACE_MD_L, MACE_MD_CHANNELS,
// MACE_MD_CONV_CHANNELS, MACE_MD_TYPES, MACE_MD_ROWS, MACE_MD_WEIGHTS0/1, MACE_MD_MLP, MACE_MD_GATE and the flags
// MACE_MD_BY_SENDER0, MACE_MD_BY_PAIR1, MACE_MD_MIX_BY_TYPE, MACE_MD_DENSITY0/1, MACE_MD_ZBL, MACE_MD_SCALE_ZBL,
// MACE_MD_DETERMINISTIC, MACE_MD_SMALL, MACE_MD_SHARED_TABLES, MACE_MD_JOINED_GROUPS, MACE_MD_FUSED_NODES,
// MACE_MD_TENSOR_CORES (program.cpp).
#pragma once

#define MACE_MD_TARGET device

#ifdef MACE_MD_EMULATION
#include "emulation.h"
#define MACE_MD_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulated_dynamic_shared())
#define MACE_MD_INLINE inline
#define MACE_MD_NOINLINE __attribute__((noinline))
#define MACE_MD_UNROLL
#define MACE_MD_UNROLL_BY(n)
#define MACE_MD_ENTRY(name, bounds, condition)                                         \
  static void name##_body(const Arguments& s);                                         \
  extern "C" __attribute__((visibility("default"))) void name(const void* arguments) { \
    const Arguments& s = *static_cast<const Arguments*>(arguments);                    \
    if (condition) name##_body(s);                                                     \
  }                                                                                    \
  static void name##_body(const Arguments& s)
#else
#define MACE_MD_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define MACE_MD_INLINE __device__ __forceinline__
#define MACE_MD_NOINLINE __device__ __noinline__
#define MACE_MD_PRAGMA(text) _Pragma(#text)
#define MACE_MD_UNROLL _Pragma("unroll")
#define MACE_MD_UNROLL_BY(n) MACE_MD_PRAGMA(unroll n)
#define MACE_MD_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define MACE_MD_ENTRY(name, bounds, condition)                                                 \
  static MACE_MD_INLINE void name##_body(const Arguments& s);                                  \
  extern "C" __global__ void MACE_MD_BOUNDS bounds name(const __grid_constant__ Arguments s) { \
    if (condition) name##_body(s);                                                             \
  }                                                                                            \
  static MACE_MD_INLINE void name##_body(const Arguments& s)
#endif

// A kernel, and one that does nothing when the memory that it got is not the state that the arguments describe. After
// the name: most threads of a block, and how many blocks should have registers at the same time, where the compiler's
// own choice is poor.
#define MACE_MD_ANY_KERNEL(name, ...) MACE_MD_ENTRY(name, (__VA_ARGS__), true)
#define MACE_MD_KERNEL(name, ...) MACE_MD_ENTRY(name, (__VA_ARGS__), is_own_state(s))
// One that uses so few registers that a multiprocessor can have two blocks (in float32; in float64 it needs them).
#define MACE_MD_KERNEL_OF_TWO(name, threads) MACE_MD_ENTRY(name, (threads, sizeof(Real) == 4 ? 2 : 1), is_own_state(s))

#include "arguments.h"
#include "sequence.h"

namespace mace_md {
namespace MACE_MD_TARGET {

using Real = MACE_MD_REAL;
using Arguments = ArgumentsOf<Real>;

constexpr int kEll = MACE_MD_ELL, kL = MACE_MD_L, kA = (kEll + 1) * (kEll + 1), kH = (kL + 1) * (kL + 1);
constexpr int C = MACE_MD_CHANNELS, C2 = MACE_MD_CONV_CHANNELS;  // channels of the products, of the second convolution
constexpr int kMlp = MACE_MD_MLP, kTypes = MACE_MD_TYPES, kRows = MACE_MD_ROWS;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int warps(int threads) { return (threads + kWarp - 1) / kWarp; }
constexpr int kThreadsA = warps(C) * kWarp, kThreadsH = warps(C2) * kWarp;  // one thread a channel, in whole warps

static MACE_MD_INLINE bool is_own_state(const Arguments& s) { return s.header->id == s.id; }

static MACE_MD_INLINE int lane() { return threadIdx.x % kWarp; }

// Four numbers from an address that is a multiple of 16 bytes, in wide pieces.
static MACE_MD_INLINE void load4(const Real* from, Real* to) {
#ifdef MACE_MD_EMULATION
  for (int n = 0; n < 4; ++n) to[n] = from[n];
#else
  if constexpr (sizeof(Real) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
  } else {
    const double2 low = reinterpret_cast<const double2*>(from)[0], high = reinterpret_cast<const double2*>(from)[1];
    to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
  }
#endif
}

// The same total in every lane, added in the same order always.
template <class T>
static MACE_MD_INLINE T warp_sum(T value) {
  MACE_MD_UNROLL
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Sum over the threads of a block, in thread 0. scratch: one number a warp.
static MACE_MD_INLINE double block_sum(double value, double* scratch) {
  value = warp_sum(value);
  if (lane() == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) total += scratch[warp];
  __syncthreads();
  return total;
}

static MACE_MD_INLINE void raise(const Arguments& s, long long status) {
  atomicOr(reinterpret_cast<unsigned long long*>(&s.header->step_status), static_cast<unsigned long long>(status));
}

static MACE_MD_INLINE long long fixed_point(double value) { return __double2ll_rn(value * kFixedPoint); }

// The same number from two conversions of 32 bits, which every GPU makes at full speed: those of 64 bits run at a
// quarter of it, or at a thirtieth on cards that are not for computing. Both parts are exact but for the rounding of
// the second.
static MACE_MD_INLINE long long fixed_point(float value) {
  constexpr float kPart = 512;  // below kFixedPointLimit the first part has 31 bits, the second has 30
  constexpr long long kRest = static_cast<long long>(kFixedPoint) / 512;
  const float whole = rintf(value * kPart);
  const float rest = fmaf(whole, -1 / kPart, value);
  return __float2int_rn(whole) * kRest + __float2int_rn(rest * static_cast<float>(kFixedPoint));
}

// Sums in fixed point do not depend on the order of their terms.
template <class T>
static MACE_MD_INLINE void fixed_add(const Arguments& s, long long* sum, T value) {
  if (!(fabs(value) < static_cast<T>(kFixedPointLimit))) {
    raise(s, kOutOfRange);
    return;
  }
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(fixed_point(value)));
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
