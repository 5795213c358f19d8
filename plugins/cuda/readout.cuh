// The energy of an atom from M0 and M1, and its derivatives: e = scale * (M0 . readout0 + bias0 + v_r . gate(M1 W_r +
// M0 W_s + b_r)). A part of the kernels that hold M1 in shared memory.
#pragma once

#include "device.h"

namespace mace_md {
namespace MACE_MD_TARGET {

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

// One atom, by a warp: adds its energy, writes the adjoints of the hidden units, [kMlp]. m1: [C] of the atom.
static MACE_MD_INLINE void read_out(const Arguments& s, int atom, int type, const Real* m1, Real* hidden_adjoint) {
  constexpr int kUnits = kMlp < kWarp ? kMlp : kWarp, kParts = kWarp / kUnits;  // of the channels, that lanes share
  const Real* m0 = s.m0 + static_cast<long long>(atom) * kH * C;
  const Real* ws = s.ws + static_cast<long long>(type) * C * kMlp;
  const Real scale = static_cast<Real>(s.scale);
  const int unit = lane() % kUnits, part = lane() / kUnits;
  double energy = 0;
  for (int c = lane(); c < C; c += kWarp) energy += static_cast<double>(m0[c]) * s.readout0[c];
  for (int first = 0; first < kMlp; first += kUnits) {
    const int k = first + unit;
    const bool active = part < kParts && k < kMlp;
    Real sum = 0, total = 0;
    for (int c = part; active && c < C; c += kParts) sum += m1[c] * s.wr[c * kMlp + k] + m0[c] * ws[c * kMlp + k];
    for (int p = 0; p < kParts; ++p) total += __shfl_sync(kAllLanes, sum, p * kUnits + unit);
    if (!active || part != 0) continue;
    Real slope;
    const Real value = activate(total + s.bias_r[type * kMlp + k], slope);
    energy += static_cast<double>(value) * s.vr[k];
    hidden_adjoint[k] = slope * s.vr[k] * scale;
  }
  energy = warp_sum(energy);
  if (lane() == 0) s.node_energy[atom] += s.scale * (energy + s.readout0_bias[type]);
}

// dE/dM1 of one channel; what the readouts add to dE/dM0 goes to memory.
static MACE_MD_INLINE Real read_out_reverse(const Arguments& s, int atom, int type, int c, const Real* hidden_adjoint) {
  const Real* ws = s.ws + (static_cast<long long>(type) * C + c) * kMlp;
  Real m1_adjoint = 0, m0_adjoint = s.readout0[c] * static_cast<Real>(s.scale);
  for (int k = 0; k < kMlp; ++k) {
    m1_adjoint += s.wr[c * kMlp + k] * hidden_adjoint[k];
    m0_adjoint += ws[k] * hidden_adjoint[k];
  }
  s.m0_readout_adjoint[static_cast<long long>(atom) * C + c] = m0_adjoint;
  return m1_adjoint;
}

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
