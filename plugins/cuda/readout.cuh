// The energy of an atom from M0 and M1, and its derivatives. A block is an atom.
#pragma once

#include "device.h"

namespace mace_md {
namespace MACE_MD_TARGET {

constexpr int kReadoutThreads = 128;

static MACE_MD_INLINE Real activate(Real x, Real& slope) {
  if constexpr (MACE_MD_GATE == 1) {  // silu
    const Real sigmoid = 1 / (1 + exp(-x));
    slope = sigmoid * (1 + x * (1 - sigmoid));
    return x * sigmoid;
  } else if constexpr (MACE_MD_GATE == 2) {
    const Real y = tanh(x);
    slope = 1 - y * y;
    return y;
  } else if constexpr (MACE_MD_GATE == 3) {
    slope = x > 0 ? Real(1) : (x < 0 ? Real(-1) : Real(0));
    return x < 0 ? -x : x;
  } else {
    slope = 1;
    return x;
  }
}

// e = scale * (M0 . readout0 + bias0 + act(M1 W_r + M0 W_s + b_r) . v_r)
MACE_MD_KERNEL(readout, kReadoutThreads) {
  __shared__ Real m0[C];
  __shared__ Real m1[C];
  __shared__ Real hidden_adjoint[kMlp];
  __shared__ double scratch[kReadoutThreads / kWarp];
  const long long i = blockIdx.x;
  const int type = s.type[i], warp = threadIdx.x / kWarp;
  const Real scale = static_cast<Real>(s.scale);
  const Real* ws = s.ws + static_cast<long long>(type) * C * kMlp;
  for (int c = threadIdx.x; c < C; c += kReadoutThreads) {
    m0[c] = s.m0[i * kH * C + c];
    m1[c] = s.m1[i * C + c];
  }
  __syncthreads();
  double energy = 0;
  for (int c = threadIdx.x; c < C; c += kReadoutThreads) energy += static_cast<double>(m0[c]) * s.readout0[c];
  for (int k = warp; k < kMlp; k += kReadoutThreads / kWarp) {
    Real sum = 0;
    for (int c = lane(); c < C; c += kWarp) sum += m1[c] * s.wr[c * kMlp + k] + m0[c] * ws[c * kMlp + k];
    sum = warp_sum(sum);
    if (lane() == 0) {
      Real slope;
      const Real value = activate(sum + s.bias_r[type * kMlp + k], slope);
      energy += static_cast<double>(value) * s.vr[k];
      hidden_adjoint[k] = scale * slope * s.vr[k];
    }
  }
  energy = block_sum(energy, scratch);
  if (threadIdx.x == 0) s.node_energy[i] += s.scale * (energy + s.readout0_bias[type]);
  __syncthreads();
  for (int c = threadIdx.x; c < C; c += kReadoutThreads) {
    Real on_m1 = 0, on_m0 = scale * s.readout0[c];
    for (int k = 0; k < kMlp; ++k) {
      on_m1 += hidden_adjoint[k] * s.wr[c * kMlp + k];
      on_m0 += hidden_adjoint[k] * ws[c * kMlp + k];
    }
    s.m1_adjoint[i * C + c] = on_m1;
    s.m0_readout_adjoint[i * C + c] = on_m0;
  }
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
