// CUDA's device language for a C++ compiler: what plugins/cuda/device.h includes in the place of nvcc's built-ins. Every
// CUDA thread is a fibre of emulated_driver.cpp, which runs them in turn and stops them at barriers.
#pragma once

#include <cmath>
#include <cstring>

struct EmulatedIndex {
  unsigned x, y, z;
};

extern "C" {
extern EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;
void emulated_block_barrier();
void* emulated_dynamic_shared();
// Every lane of the warp gives 8 bytes and sees those of all lanes, after all have given theirs.
const unsigned long long* emulated_exchange(unsigned long long value);
}

// Shared memory lies in a section of its own, which the driver fills with 0xff before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

inline void __syncthreads() { emulated_block_barrier(); }

template <class T>
inline unsigned long long emulated_bits(T value) {
  static_assert(sizeof(T) <= 8);
  unsigned long long bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
inline T emulated_value(unsigned long long bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
inline T __shfl_sync(unsigned, T value, int from) {
  return emulated_value<T>(emulated_exchange(emulated_bits(value))[from]);
}

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  const int lane = threadIdx.x % 32;
  return emulated_value<T>(emulated_exchange(emulated_bits(value))[lane ^ mask]);
}

inline void __syncwarp() { emulated_exchange(0); }
inline void __threadfence() {}

inline unsigned __ballot_sync(unsigned, bool vote) {
  const unsigned long long* votes = emulated_exchange(vote);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= static_cast<unsigned>(votes[lane] != 0) << lane;
  return result;
}

inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(emulated_bits(value)); }
inline float __uint_as_float(unsigned bits) { return emulated_value<float>(bits); }

// mma.sync.m16n8k8 of TF32: every lane gives its part of both tiles and gets its part of the sum. Numbers that are not
// TF32 are cut, as the hardware may.
inline void emulated_multiply_tile(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  float a[16][8], b[8][8];
  auto tf32 = [](unsigned bits) { return emulated_value<float>(bits & 0xffffe000u); };
  auto gather = [&](unsigned first, unsigned second, auto&& place) {
    const unsigned long long* all = emulated_exchange(first | static_cast<unsigned long long>(second) << 32);
    for (int lane = 0; lane < 32; ++lane)
      place(lane / 4, lane % 4, tf32(static_cast<unsigned>(all[lane])), tf32(static_cast<unsigned>(all[lane] >> 32)));
  };
  gather(a0, a1, [&](int g, int t, float x, float y) { a[g][t] = x, a[g + 8][t] = y; });
  gather(a2, a3, [&](int g, int t, float x, float y) { a[g][t + 4] = x, a[g + 8][t + 4] = y; });
  gather(b0, b1, [&](int g, int t, float x, float y) { b[t][g] = x, b[t + 4][g] = y; });
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < 8; ++k) d[n] += a[g + n / 2 * 8][k] * b[k][2 * t + n % 2];
}

// Only one fibre runs at a time.
template <class T>
inline T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
inline unsigned long long atomicMax(unsigned long long* at, unsigned long long value) {
  const unsigned long long before = *at;
  if (value > before) *at = value;
  return before;
}
inline unsigned long long atomicOr(unsigned long long* at, unsigned long long value) {
  const unsigned long long before = *at;
  *at = before | value;
  return before;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __float2int_rn(float value) { return static_cast<int>(std::lrint(value)); }
inline long long __double2ll_rn(double value) { return std::llrint(value); }
inline long long __double_as_longlong(double value) { return emulated_value<long long>(emulated_bits(value)); }
inline double __longlong_as_double(long long value) { return emulated_value<double>(emulated_bits(value)); }

using std::exp, std::fabs, std::fmax, std::fmin, std::pow, std::rint, std::sqrt, std::tanh, std::floor, std::ceil;
