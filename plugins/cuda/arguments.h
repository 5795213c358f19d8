// What every kernel receives, by value: the caller's tensors, the sections of the packed model, and the arrays of the
// state. Host and device compile this one definition; the host, which has no need for the element type, with
// Real = void.
#pragma once

namespace mace_md {

// Why the results of an evaluation are not valid. A non-zero status makes energy, forces and virial NaN.
enum DeviceStatus : long long {
  kListOverflow = 1,  // more candidates than the state has room for: no edge was used
  kPositionNotFinite = 2,
  kBoxNotFinite = 4,
  kBoxFlat = 8,        // the cell vectors do not span a volume
  kModelChanged = 16,  // the blob is not the one that the state was laid out for
  kTypesChanged = 32,
  kOutOfRange = 64,  // a force or adjoint does not fit the fixed-point sums
  kEnergyNotFinite = 128,
};

constexpr double kFixedPoint = 1099511627776.0;      // 2^40 steps an eV/angstrom (or eV a unit of a feature)
constexpr double kFixedPointLimit = 4194304.0;       // 2^22: sums of two such values still fit
constexpr int kTileAtoms = 32;                       // atoms of one type that the node kernels treat together
constexpr int kFusedAtoms = 8, kFusedThreads = 256;  // of a block of the fused node kernels
constexpr int kSharedTableThreads = 512;             // of a block that keeps a radial table in shared memory
constexpr int kShiftBits = 10, kShiftOffset = 512;   // a lattice translation is three numbers of ten bits

// Numbers from one row of features to the next in the shared memory of these kernels: 4 banks apart.
constexpr int fused_pitch(int channels, int conv_channels) {
  return ((channels > conv_channels ? channels : conv_channels) + 31) / 32 * 32 + 4;
}

// The first bytes of a state on the device. Zero, but for the id, when it is made.
struct DeviceHeader {
  long long id;               // of the layout, never used twice
  long long status;           // of all steps since it was cleared
  long long step_status;      // of this step; this and the next are cleared at its beginning
  unsigned long long moved2;  // bits of the largest squared displacement since the build, angstrom^2
  long long n_builds, n_candidates;
  long long n_edges;  // of the last step
  long long list_valid, rebuild;
  double box[9], inverse[9];   // angstrom, of this step
  double reference_box[9];     // of the build
  double origin[3], scale[3];  // of the grid, along the coordinates of `reference`
  int cells[3], range[3];
  unsigned finished;  // blocks of the last kernel that are done; zero between steps
};

struct alignas(8) DeviceCandidate {
  int atom;   // sender, in internal order
  int shift;  // packed translation
};

template <class Real>
struct ArgumentsOf {
  // the caller's
  const void *positions, *box;  // nm, float or double; box is null without periodicity
  const int* types;
  double* energy;  // kJ/mol
  void* forces;    // kJ/mol/nm, as positions
  double* virial;
  int positions_double, box_double;
  int n_particles, n_atoms;

  // the packed model (blob.h)
  const long long* fingerprint_at;
  long long fingerprint;
  const Real *table0, *table1, *density0, *density1, *weights0, *weights1, *wh, *wh_reverse, *bias_h, *wa, *wa_reverse,
      *readout0, *wr, *ws, *bias_r, *vr;
  const double *readout0_bias, *zbl_types;
  double r_max, r_min, spacing, skin, scale, shift, energy_unit, length_unit;
  double zbl_prefactor, zbl_length, zbl_exponent, zbl_cutoff_power, zbl_c[8];

  // the state: layout (written once), list, evaluation
  DeviceHeader* header;
  long long id;
  int max_cells, n_slots;
  long long capacity;               // candidates
  const int* selected;              // [n_atoms] particles that belong to the model, ascending
  const int* expected_types;        // [n_particles]
  const int* tile_type;             // [n_slots / kTileAtoms]
  const int* slot_of;               // [n_atoms] slots of the selected particles: by type, then ascending
  int* internal_of;                 // [n_particles] place in internal order, or -1
  int *order, *type, *cell, *slot;  // [n_atoms] in internal order (by cell)
  int *cell_of, *scattered;         // [n_atoms] scratch of a build
  int* cell_start;                  // [max_cells + 1]
  int* cell_cursor;                 // [max_cells]
  int* slots;                       // [n_slots] internal order by type, -1 for the padding of a tile
  double *reference, *position;     // [n_atoms][3] of the build, fractional with a box; of this step, inside the box
  int* image;                   // [n_atoms] lattice translation from `position` to the image near `reference`, packed
  long long* candidate_start;   // [n_atoms] in `candidates`; edges of an atom start at the same place
  int *n_candidates, *n_edges;  // [n_atoms]
  DeviceCandidate* candidates;  // [capacity]
  void* edges;                  // [capacity] Edge
  Real* geometry;               // [capacity][4] unit vector of r_i - r_j, inverse distance
  Real *slope0, *slope1;        // [capacity] derivatives of the densities in knot spacings
  Real *scale0, *scale1;        // [n_atoms] 1 / (1 + rho)
  double *density_adjoint0, *density_adjoint1;  // [n_atoms] dE/drho
  Real *a0, *a_adjoint;                         // [n_atoms][(ell+1)^2][C]; a_adjoint is A1, then dE/dA1, then dE/dA0
  Real *m0, *m0_adjoint;                        // [n_atoms][(L+1)^2][C]
  Real* m0_readout_adjoint;                     // [n_atoms][C]
  Real* h;                                      // [n_atoms][(L+1)^2][C2]
  void* h_adjoint;                              // as h, fixed point (or Real)
  Real* phi;                                    // [n_atoms][components][C2], then its adjoint
  Real* sums;               // [groups + 1][capacity][(ell+1)^2]: dE/dr in knot spacings, dE/dY from l = 1 on
  long long* fixed_forces;  // [n_atoms][3]
  double* node_energy;      // [n_atoms] eV
  double* node_virial;      // [n_atoms][9] eV
};

}  // namespace mace_md
