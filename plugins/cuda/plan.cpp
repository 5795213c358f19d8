#include "plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <tuple>

#include "compiler.h"

namespace mace_md::cuda {

struct Kernels {
  Handle module = nullptr;
};

namespace {

constexpr int kWarp = 32, kWideBlock = 256, kOneBlock = 1024, kLinearBlock = 128;
constexpr int kLinearColumns = 64;

int64_t over(int64_t n, int64_t per) { return (n + per - 1) / per; }
int whole_warps(int64_t channels) { return static_cast<int>(over(channels, kWarp) * kWarp); }

std::shared_ptr<const Kernels> load_kernels(const Blob& blob, bool fused, bool small, int device) {
  static std::mutex mutex;
  using Key = std::tuple<const Driver*, int, std::string>;
  static std::map<Key, std::shared_ptr<const Kernels>> loaded;  // for the life of the process
  const Program program = make_program(blob, fused, small);
  std::string key = program.main;
  for (const SourceFile& file : program.headers) key += file.text;
  std::lock_guard<std::mutex> guard(mutex);
  auto& entry = loaded[Key(&driver(), device, key)];
  if (entry == nullptr) {
    const std::string code = compile(program, architecture(device));
    auto kernels = std::make_shared<Kernels>();
    driver().check(driver().load_module(&kernels->module, code.data()), "loading the kernels");
    entry = kernels;
  }
  return entry;
}

// The launches of a step.
class Launches {
 public:
  Launches(const Kernels& kernels, int device) : kernels_(kernels), device_(device) {}

  void add(const char* name, int64_t block, int64_t x, int64_t y = 1, int64_t z = 1, int64_t shared = 0) {
    constexpr int kMostDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    const Driver& d = driver();
    Launch launch = {nullptr, {unsigned(x), unsigned(y), unsigned(z)}, unsigned(block), unsigned(shared)};
    d.check(d.get_function(&launch.function, kernels_.module, name), "finding the kernels");
    if (shared > 0)
      d.check(d.set_attribute(launch.function, kMostDynamicShared, static_cast<int>(shared)),
              "asking for shared memory");
    all_.push_back(launch);
  }

  bool fits(int64_t shared) const { return shared <= shared_memory(device_); }
  std::vector<Launch> take() { return std::move(all_); }

 private:
  const Kernels& kernels_;
  int device_;
  std::vector<Launch> all_;
};

// Whether the node kernels of a system of this size are the fused ones.
bool fuses_nodes(const Blob& blob, const Sizes& sizes, int device) {
  constexpr int kBlocksEach =
      2;  // a multiprocessor must get at least, or the many small blocks of the others are faster
  const int64_t kept = (blob[kChannels] + blob[kMlp]) * kFusedAtoms * blob[kPrecision] + 1024;  // m1, readout, scratch
  const int64_t most = fused_shared_bytes(blob, static_cast<int>(std::max(blob[kMaxEll], blob[kMaxL]))) + kept;
  if (blob[kFusedNodes] == 1 || most > shared_memory(device)) return false;
  return blob[kFusedNodes] == 2 || sizes.n_atoms / kFusedAtoms >= kBlocksEach * multiprocessors(device);
}

// Teams of threads that share the edges of an atom in a small system: as many as are at work at the same time on a GPU
// of 132 multiprocessors. Not that of the device, whose number of teams would be seen in the last bits.
int64_t teams(const Sizes& sizes, int64_t team, int64_t groups, int64_t precision) {
  constexpr int64_t kMostTeams = 4, kThreadsAtOnce = 132 * 768;
  const int64_t most_threads = precision == 4 ? 512 : 256;  // as in convolution.cuh
  int64_t teams = 1;
  while (sizes.small && teams < kMostTeams && 2 * teams * team <= most_threads &&
         2 * teams * team * groups * sizes.n_atoms <= kThreadsAtOnce)
    teams *= 2;
  return teams;
}

std::vector<Launch> launches(const Blob& blob, const Sizes& sizes, const Kernels& kernels, bool fused, int device) {
  const int ell = static_cast<int>(blob[kMaxEll]), max_L = static_cast<int>(blob[kMaxL]);
  const int64_t a = (ell + 1) * (ell + 1), h = (max_L + 1) * (max_L + 1);
  const int64_t c = blob[kChannels], c2 = blob[kConvChannels], n = sizes.n_atoms;
  const int64_t tiles = sizes.n_slots / kTileAtoms, pairs = sizes.n_slots / node_atoms(blob[kPrecision]);
  const int64_t groups = group_count(ell, max_L), a_threads = whole_warps(c), h_threads = whole_warps(c2);
  const int64_t a_columns = over(c, kLinearColumns), h_columns = over(c2, kLinearColumns);
  const int64_t phi_columns = over(most_paths_to_one_l(ell, max_L) * c2, kLinearColumns);
  const int64_t table = shared_table_bytes(blob);
  const int64_t eights = sizes.n_slots / kFusedAtoms, a_bytes = fused_shared_bytes(blob, ell);
  const int64_t h_bytes = fused_shared_bytes(blob, max_L);
  const int64_t a_teams = a_threads * teams(sizes, a_threads, 1, blob[kPrecision]);
  const int64_t h_teams = h_threads * teams(sizes, h_threads, groups, blob[kPrecision]);
  Launches step(kernels, device);
  const bool shared_tables = blob[kSharedTables] != 0 && step.fits(table);
  auto convolve = [&](const char* name, const char* shared_name) {
    if (shared_tables)  // blocks that stay
      step.add(shared_name, kSharedTableThreads, std::max<int64_t>(1, multiprocessors(device) / groups), groups, 1,
               table);
    else
      step.add(name, h_teams, n, groups);
  };
  if (sizes.small) {
    step.add("update_list", kOneBlock, 1);
    step.add("edges_conv1_forward", a_teams, n);
  } else {
    step.add("follow_positions", kWideBlock, over(sizes.n_particles, kWideBlock));
    step.add("build_list", kOneBlock, 1);
    step.add("make_edges", kWideBlock, over(n * kWarp, kWideBlock));
    step.add("conv1_forward", a_threads, n);
  }
  if (fused) {
    step.add("node0", kFusedThreads, eights, 1, 1, h_bytes);
  } else {
    step.add("contract0", a_threads, pairs);
    step.add("linear_h", kLinearBlock, tiles, h, h_columns);
  }
  convolve("conv2_forward", "conv2_forward_shared");
  if (fused) {
    step.add("node1", kFusedThreads, eights, 1, 1, a_bytes);
  } else {
    step.add("mix", kLinearBlock, tiles, a, a_columns);
    step.add("node_energy", a_threads, pairs);
    step.add("mix_reverse", kLinearBlock, tiles, a, phi_columns);
  }
  if (joins_groups(blob, sizes.small))
    step.add("conv2_reverse_joined", groups * h_threads, n);
  else
    convolve("conv2_reverse", "conv2_reverse_shared");
  if (fused) {
    step.add("node0_reverse", kFusedThreads, eights, 1, 1, h_bytes);
  } else {
    step.add("linear_h_reverse", kLinearBlock, tiles, h, a_columns);
    step.add("contract0_reverse", a_threads, pairs);
  }
  if (sizes.small) {
    step.add("conv1_reverse_results", a_teams, n);
  } else {
    step.add("conv1_reverse", a_threads, n);
    step.add("edge_forces", kWideBlock, over(n * kWarp, kWideBlock));
    step.add("sum_results", kOneBlock, 1);
    step.add("write_forces", kWideBlock, over(sizes.n_particles, kWideBlock));
  }
  return step.take();
}

struct Registry {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<Plan>> plans;  // by size of the state
};

Registry& registry() {
  static Registry all;
  return all;
}

int64_t new_id() {
  static std::atomic<int64_t> next{std::chrono::system_clock::now().time_since_epoch().count() | 1};
  return next.fetch_add(2);
}

// Hands out consecutive pieces of a state.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(reinterpret_cast<uintptr_t>(base)) {}
  template <class T>
  void take(T*& piece, int64_t bytes) {
    piece = reinterpret_cast<T*>(base_ + used_);
    used_ += over(bytes, 256) * 256;
  }
  int64_t used() const { return used_; }

 private:
  uintptr_t base_;
  int64_t used_ = 0;
};

// The atoms of the model in tiles of one type.
struct Tiles {
  std::vector<int32_t> type;  // of each tile
  std::vector<int32_t> slot;  // of each particle that belongs to the model
  explicit Tiles(const Blob& blob, const std::vector<int32_t>& types) {
    std::vector<int64_t> count(blob[kTypes], 0);
    for (int32_t t : types)
      if (t >= 0) ++count[t];
    std::vector<int32_t> next;  // slot of each type
    for (size_t t = 0; t < count.size(); ++t) {
      next.push_back(static_cast<int32_t>(type.size()) * kTileAtoms);
      type.insert(type.end(), over(count[t], kTileAtoms), static_cast<int32_t>(t));
    }
    for (int32_t t : types)
      if (t >= 0) slot.push_back(next[t]++);
  }
};

}  // namespace

bool Plan::knows(const void* state, const void* types, const void* blob) const {
  std::lock_guard<std::mutex> guard(mutex_);
  return known_.count({state, types, blob}) > 0;
}

void Plan::remember(const void* state, const void* types, const void* blob) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (known_.size() >= 64) known_.clear();  // callers who make new tensors all the time
  known_.insert({state, types, blob});
}

std::shared_ptr<Plan> find_plan(int64_t state_bytes) {
  std::lock_guard<std::mutex> guard(registry().mutex);
  auto found = registry().plans.find(state_bytes);
  return found == registry().plans.end() ? nullptr : found->second;
}

Sizes sizes_for(const Blob& blob, const std::vector<int32_t>& types, int64_t capacity) {
  Sizes sizes;
  sizes.n_particles = static_cast<int64_t>(types.size());
  sizes.n_atoms = std::count_if(types.begin(), types.end(), [](int32_t type) { return type >= 0; });
  sizes.n_slots = static_cast<int64_t>(Tiles(blob, types).type.size()) * kTileAtoms;
  sizes.max_cells = std::max<int64_t>(64, 4 * sizes.n_atoms);
  sizes.capacity = capacity;
  sizes.small = sizes.n_atoms <= blob[kSmallSystem] && sizes.n_particles <= 4 * blob[kSmallSystem];
  return sizes;
}

std::shared_ptr<Plan> make_plan(const Blob& blob, const std::vector<int32_t>& types, bool periodic, int device,
                                int64_t capacity) {
  auto plan = std::make_shared<Plan>();
  const int64_t words = kHeaderInts + kHeaderDoubles;
  plan->header.resize(words);
  for (int i = 0; i < kHeaderInts; ++i) plan->header[i] = blob[static_cast<HeaderInt>(i)];
  for (int i = 0; i < kHeaderDoubles; ++i) {
    const double value = blob.parameter(i);
    std::copy_n(reinterpret_cast<const char*>(&value), 8, reinterpret_cast<char*>(&plan->header[kHeaderInts + i]));
  }
  plan->device = device;
  plan->periodic = periodic;
  plan->types = types;
  plan->id = new_id();
  plan->sizes = sizes_for(blob, types, capacity);
  const bool fused = fuses_nodes(blob, plan->sizes, device);
  if (uses_tensor_cores(blob) && !driver().emulated && architecture(device) < 80)
    throw std::runtime_error("mace_md: this GPU has no tensor cores for TF32: pack the model without tensor_cores");
  plan->kernels = load_kernels(blob, fused, plan->sizes.small, device);
  plan->launches = launches(blob, plan->sizes, *plan->kernels, fused, device);
  Arguments unused;
  plan->bytes = place_arrays(blob, plan->sizes, nullptr, unused, &plan->persistent_bytes);
  std::lock_guard<std::mutex> guard(registry().mutex);
  while (registry().plans.count(plan->bytes) > 0) ++plan->bytes;  // a size that no other plan has
  registry().plans[plan->bytes] = plan;
  return plan;
}

int64_t place_arrays(const Blob& blob, const Sizes& sizes, char* base, Arguments& a, int64_t* persistent) {
  const int64_t real = blob[kPrecision], n = sizes.n_atoms, edges = sizes.capacity;
  const int ell = static_cast<int>(blob[kMaxEll]), max_L = static_cast<int>(blob[kMaxL]);
  const int64_t n_a = (ell + 1) * (ell + 1), n_h = (max_L + 1) * (max_L + 1);
  const int64_t c = blob[kChannels], c2 = blob[kConvChannels];
  const int64_t edge_bytes = over(16 + (12 + n_a) * real, 16) * 16;
  Pieces pieces(base);
  pieces.take(a.header, sizeof(DeviceHeader));
  pieces.take(a.selected, 4 * n);
  pieces.take(a.expected_types, 4 * sizes.n_particles);
  pieces.take(a.tile_type, 4 * sizes.n_slots / kTileAtoms);
  pieces.take(a.slot_of, 4 * n);
  pieces.take(a.internal_of, 4 * sizes.n_particles);
  pieces.take(a.order, 4 * n);
  pieces.take(a.type, 4 * n);
  pieces.take(a.cell, 4 * n);
  pieces.take(a.slot, 4 * n);
  pieces.take(a.slots, 4 * sizes.n_slots);
  pieces.take(a.reference, 24 * n);
  pieces.take(a.candidate_start, 8 * n);
  pieces.take(a.n_candidates, 4 * n);
  if (persistent != nullptr) *persistent = pieces.used();
  pieces.take(a.candidates, static_cast<int64_t>(sizeof(DeviceCandidate)) * edges);
  pieces.take(a.cell_of, 4 * n);
  pieces.take(a.scattered, 4 * n);
  pieces.take(a.cell_start, 4 * (sizes.max_cells + 1));
  pieces.take(a.cell_cursor, 4 * sizes.max_cells);
  pieces.take(a.position, 24 * n);
  pieces.take(a.image, 4 * n);
  pieces.take(a.n_edges, 4 * n);
  pieces.take(a.edges, edge_bytes * edges);
  pieces.take(a.geometry, 4 * real * edges);
  pieces.take(a.slope0, blob.count(kDensity0) > 0 ? real * edges : 0);
  pieces.take(a.slope1, blob.count(kDensity1) > 0 ? real * edges : 0);
  pieces.take(a.scale0, real * n);
  pieces.take(a.scale1, real * n);
  pieces.take(a.density_adjoint0, 8 * n);
  pieces.take(a.density_adjoint1, 8 * n);
  pieces.take(a.a0, real * n * n_a * c);
  pieces.take(a.a_adjoint, real * n * n_a * c);
  pieces.take(a.m0, real * n * n_h * c);
  pieces.take(a.m0_adjoint, real * n * n_h * c);
  pieces.take(a.m0_readout_adjoint, real * n * c);
  pieces.take(a.h, real * n * n_h * c2);
  pieces.take(a.h_adjoint, (blob[kFastSums] ? real : 8) * n * n_h * c2);
  pieces.take(a.phi, real * n * component_count(ell, max_L) * c2);
  pieces.take(a.sums, real * (group_count(ell, max_L) + 1) * edges * n_a);
  pieces.take(a.fixed_forces, 24 * n);
  pieces.take(a.node_energy, 8 * n);
  pieces.take(a.node_virial, 72 * n);
  a.n_particles = static_cast<int>(sizes.n_particles);
  a.n_atoms = static_cast<int>(n);
  a.n_slots = static_cast<int>(sizes.n_slots);
  a.max_cells = static_cast<int>(sizes.max_cells);
  a.capacity = edges;
  return pieces.used();
}

void place_model(const Blob& blob, const char* base, Arguments& a) {
  auto at = [&](Section section) -> const void* {
    return base + blob[static_cast<HeaderInt>(kSections + 2 * section)];
  };
  a.fingerprint_at = reinterpret_cast<const long long*>(base) + kFingerprint;
  a.fingerprint = blob[kFingerprint];
  a.table0 = at(kTable0);
  a.table1 = at(kTable1);
  a.density0 = at(kDensity0);
  a.density1 = at(kDensity1);
  a.weights0 = at(kWeights0);
  a.weights1 = at(kWeights1);
  a.wh = at(kWh);
  a.wh_reverse = at(kWhReverse);
  a.bias_h = at(kBiasH);
  a.wa = at(kWa);
  a.wa_reverse = at(kWaReverse);
  a.readout0 = at(kReadout0);
  a.readout0_bias = static_cast<const double*>(at(kReadout0Bias));
  a.wr = at(kWr);
  a.ws = at(kWs);
  a.bias_r = at(kBiasR);
  a.vr = at(kVr);
  a.zbl_types = static_cast<const double*>(at(kZblTypes));
  a.r_max = blob.parameter(kRMax);
  a.r_min = blob.parameter(kRMin);
  a.spacing = blob.parameter(kSpacing);
  a.skin = blob.parameter(kSkin);
  a.scale = blob.parameter(kScale);
  a.shift = blob.parameter(kShift);
  a.energy_unit = blob.parameter(kEnergyUnit);
  a.length_unit = blob.parameter(kLengthUnit);
  a.zbl_prefactor = blob.parameter(kZblPrefactor);
  a.zbl_length = blob.parameter(kZblLength);
  a.zbl_exponent = blob.parameter(kZblExponent);
  a.zbl_cutoff_power = blob.parameter(kZblCutoffPower);
  for (int i = 0; i < 8; ++i) a.zbl_c[i] = blob.parameter(kZblC + i);
}

void initialise(const Plan& plan, char* base, Handle stream) {
  Arguments a;
  place_arrays(plan.blob(), plan.sizes, base, a);
  const Driver& d = driver();
  auto address = [](const void* p) { return reinterpret_cast<DevicePointer>(p); };
  d.check(d.fill(address(base), 0, plan.persistent_bytes, stream), "clearing the state");
  d.check(d.fill(address(a.internal_of), 0xff, 4 * plan.sizes.n_particles, stream), "clearing the state");
  if (plan.sizes.n_slots > 0)
    d.check(d.fill(address(a.slots), 0xff, 4 * plan.sizes.n_slots, stream), "clearing the state");
  auto upload = [&](const void* to, const void* from, int64_t bytes) {
    if (bytes > 0) d.check(d.to_device(address(to), from, bytes, stream), "writing the state");
  };
  std::vector<int32_t> selected;
  for (int64_t i = 0; i < plan.sizes.n_particles; ++i)
    if (plan.types[i] >= 0) selected.push_back(static_cast<int32_t>(i));
  const Tiles tiles(plan.blob(), plan.types);
  upload(&a.header->id, &plan.id, 8);
  upload(a.selected, selected.data(), 4 * plan.sizes.n_atoms);
  upload(a.order, selected.data(), 4 * plan.sizes.n_atoms);
  upload(a.expected_types, plan.types.data(), 4 * plan.sizes.n_particles);
  upload(a.tile_type, tiles.type.data(), 4 * static_cast<int64_t>(tiles.type.size()));
  upload(a.slot_of, tiles.slot.data(), 4 * static_cast<int64_t>(tiles.slot.size()));
  d.check(d.synchronize(stream), "writing the state");  // the sources of the copies end here
}

}  // namespace mace_md::cuda
