// The packed model: what mace_md/ops/energy_forces.py writes and the engine reads.
//
// One uint8 tensor: int64 header[96], double parameters[64], then sections, each aligned to 64 bytes. Section offsets
// are in bytes from the start. `Real` is the precision of the run (header[precision] bytes). Lengths in angstrom,
// energies in eV. Channels are stored without padding; the engine pads and tiles them for the instruction set that it
// runs on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mace_md {

constexpr int64_t kBlobMagic = 0x31304444'4543414d;  // "MACEDD01"
constexpr int64_t kBlobVersion = 3;
constexpr int kHeaderInts = 96;
constexpr int kHeaderDoubles = 64;

enum HeaderInt : int {
  kMagic,
  kVersion,
  kFingerprint,
  kBytes,
  kPrecision,  // precision: 4 or 8 bytes
  kMaxEll,
  kMaxL,
  kChannels,
  kConvChannels,
  kTypes,            // channels of the products (C) and of the layer-2 convolution (C2)
  kRows,             // rows of a radial table: knots + 4
  kRadial0BySender,  // layer-1 tables depend on the sender's type only
  kRadial1ByPair,    // layer-2 tables depend on the pair of types
  kMixByType,        // W_a depends on the receiver's type
  kMlp,
  kGate,  // width and gate of the last readout; gate: 0 none, 1 silu, 2 tanh, 3 abs
  kZbl,
  kScaleZbl,  // a ZBL term exists; it is multiplied by `scale`
  kIsa,       // 0: best that the processor has; 1 generic, 2 avx2, 3 avx512
  kSections,  // first of the section offsets, in the order of enum Section
  // CUDA only
  kJoinedGroups = kHeaderInts - 6,  // 1: conv2_reverse with all groups of paths in one block, where that is possible
  kSmallSystem = kHeaderInts - 5,   // most atoms of a system that is evaluated with the fewest launches
  kTensorCores = kHeaderInts - 4,   // 1: the products of fused kernels on tensor cores, as three products of TF32
  kFusedNodes = kHeaderInts - 3,    // what happens at an atom in three kernels: 0 in large systems, 1 never, 2 always
  kSharedTables = kHeaderInts - 2,  // 1: radial tables of layer 2 in shared memory where they fit
  kFastSums = kHeaderInts - 1       // 1: sums of floating-point numbers in any order, rather than of fixed-point numbers
};

enum Section : int {
  kTable0,    // Real [pairs0][rows][max_ell+1][C]   spline coefficients, see radial.h
  kTable1,    // Real [pairs1][rows][paths][C2]
  kDensity0,  // Real [T*T][rows], or absent
  kDensity1,  // Real [T*T][rows], or absent
  kProgram0,  // int32, see polynomial.h
  kProgram1,
  kWeights0,  // Real [T][weights of program 0][C], in program order
  kWeights1,
  kWh,       // Real [max_L+1][C][C2]
  kBiasH,    // Real [T][C2]
  kClebsch,  // int32 [n][2] (row, component) sorted by component, then by row; see convolution.h for both numberings
  kClebschValues,  // Real [n]
  kWa,             // Real, for each l3: [T or 1][paths(l3)*C2][C]
  kReadout0,       // Real [C]
  kReadout0Bias,   // double [T]
  kWr,             // Real [C][mlp]
  kWs,             // Real [T][C][mlp]
  kBiasR,          // Real [T][mlp]
  kVr,             // Real [mlp]
  kZblTypes,       // double [T][2]: covalent radius, atomic number
  kWhReverse,      // Real [max_L+1][C2][C]             CUDA only: W_h and W_a, each matrix transposed
  kWaReverse,      // Real, for each l3: [T or 1][C][paths(l3)*C2]
  kSectionCount
};
static_assert(kSections + 2 * kSectionCount <= kJoinedGroups);  // offset and element count of each

enum HeaderDouble : int {
  kRMax,
  kRMin,
  kSpacing,
  kSkin,
  kScale,
  kShift,
  kEnergyUnit,
  kLengthUnit,  // kJ/mol per eV, angstrom per nm
  kZblPrefactor,
  kZblLength,
  kZblExponent,
  kZblCutoffPower,
  kZblC  // 4 coefficients, 4 exponents
};
static_assert(kZblC + 8 <= kHeaderDoubles);

class Blob {
 public:
  Blob() = default;
  explicit Blob(const void* data) : bytes_(static_cast<const char*>(data)) {}
  int64_t operator[](HeaderInt field) const { return ints()[field]; }
  double parameter(int field) const { return doubles()[field]; }
  int64_t count(Section section) const { return ints()[kSections + 2 * section + 1]; }
  template <class T>
  const T* section(Section section) const {
    return reinterpret_cast<const T*>(bytes_ + ints()[kSections + 2 * section]);
  }

 private:
  const int64_t* ints() const { return reinterpret_cast<const int64_t*>(bytes_); }
  const double* doubles() const { return reinterpret_cast<const double*>(bytes_ + 8 * kHeaderInts); }
  const char* bytes_ = nullptr;
};

}  // namespace mace_md
