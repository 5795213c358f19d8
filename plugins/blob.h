// The packed model: what mace_md/model/fast/packing.py writes and the engines read. This file is its manual; a test
// reads the lists below against Python's.
//
// One uint8 tensor: int64 header[96], double parameters[64], then sections, each aligned to 64 bytes. Section offsets
// are in bytes from the start. `Real` is the precision of the run (header[kPrecision] bytes). Lengths in angstrom,
// energies in eV. T types, C channels of the products, C2 of the layer-2 convolution. Channels are stored without
// padding; the engine pads and tiles them for the instruction set that it runs on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mace_md {

constexpr int64_t kBlobMagic = 0x31304444'4543414d;  // "MACEDD01"
constexpr int64_t kBlobVersion = 3;
constexpr int kHeaderInts = 96;
constexpr int kHeaderDoubles = 64;

enum HeaderInt : int {
  kMagic,            // kBlobMagic
  kVersion,          // kBlobVersion
  kFingerprint,      // hash of everything else
  kBytes,            // of the whole tensor
  kPrecision,        // bytes of a Real: 4 or 8
  kMaxEll,           // highest l of the harmonics: 2 or 3
  kMaxL,             // highest l of the features that layer 2 convolves: 0, 1 or 2
  kChannels,         // C
  kConvChannels,     // C2
  kTypes,            // T
  kRows,             // rows of a radial table: knots + 4
  kRadial0BySender,  // 1: layer-1 tables depend on the sender's type only
  kRadial1ByPair,    // 1: layer-2 tables depend on the pair of types
  kMixByType,        // 1: W_a depends on the receiver's type
  kMlp,              // width of the last readout
  kGate,             // of the last readout: 0 none, 1 silu, 2 tanh, 3 abs
  kZbl,              // 1: there is a ZBL term
  kScaleZbl,         // 1: which is multiplied by `scale`
  kIsa,              // 0: best that the processor has; 1 generic, 2 avx2, 3 avx512
  kSections,         // first of the offsets (bytes) and counts (elements) of all sections, in the order of enum Section
  // CUDA only
  kJoinedGroups = kHeaderInts - 6,  // 1: conv2_reverse with all groups of paths in one block, where that is possible
  kSmallSystem = kHeaderInts - 5,   // most atoms of a system that is evaluated with the fewest launches
  kTensorCores = kHeaderInts - 4,   // 1: the products of fused kernels on tensor cores, as three products of TF32
  kFusedNodes = kHeaderInts - 3,    // what happens at an atom in three kernels: 0 in large systems, 1 never, 2 always
  kSharedTables = kHeaderInts - 2,  // 1: radial tables of layer 2 in shared memory where they fit
  kFastSums = kHeaderInts - 1  // 1: sums of floating-point numbers in any order, rather than of fixed-point numbers
};

enum Section : int {
  kTable0,         // Real [pairs0][rows][max_ell+1][C], spline coefficients (spline.h); pairs0: T * T or T (by sender)
  kTable1,         // Real [pairs1][rows][paths][C2]; pairs1: T * T or 1; paths in the order of paths.h
  kDensity0,       // Real [T*T][rows], or absent
  kDensity1,       // Real [T*T][rows], or absent
  kProgram0,       // int32, polynomials of layer 1, see cpu/polynomial.h
  kProgram1,       // int32, of layer 2
  kWeights0,       // Real [T][weights of program 0][C], in program order
  kWeights1,       // Real [T][weights of program 1][C]
  kWh,             // Real [max_L+1][C][C2], from products of layer 1 to the features that layer 2 convolves
  kBiasH,          // Real [T][C2], constant part of the scalar ones
  kClebsch,        // int32 [n][2] (row, component), both as in paths.h, sorted by component, then by row; CUDA only
  kClebschValues,  // Real [n]; CUDA only, the CPU has them as constants (couplings.h)
  kWa,             // Real, for each l3: [T or 1][paths(l3)*C2][C], mixing after the sum over neighbours of layer 2
  kReadout0,       // Real [C], first readout
  kReadout0Bias,   // double [T], eV before `scale`
  kWr,             // Real [C][mlp], last readout: from the products of layer 2
  kWs,             // Real [T][C][mlp], and from those of layer 1
  kBiasR,          // Real [T][mlp]
  kVr,             // Real [mlp]
  kZblTypes,       // double [T][2]: covalent radius (angstrom), atomic number
  kWhReverse,      // Real [max_L+1][C2][C], W_h transposed; CUDA only
  kWaReverse,      // Real, for each l3: [T or 1][C][paths(l3)*C2], W_a transposed; CUDA only
  kSectionCount
};
static_assert(kSections + 2 * kSectionCount <= kJoinedGroups);  // offset and element count of each

enum HeaderDouble : int {
  kRMax,            // angstrom, cutoff
  kRMin,            // angstrom, first knot; below, radial functions go on linearly
  kSpacing,         // angstrom, between knots
  kSkin,            // angstrom, by which the neighbour list reaches beyond r_max
  kScale,           // of the interaction energies
  kShift,           // eV an atom
  kEnergyUnit,      // kJ/mol per eV
  kLengthUnit,      // angstrom per nm
  kZblPrefactor,    // eV angstrom
  kZblLength,       // angstrom
  kZblExponent,     // of the atomic numbers
  kZblCutoffPower,  // p of the polynomial cutoff
  kZblC             // 4 coefficients, then 4 exponents
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
