#include "state.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

namespace mace_md {
namespace {

constexpr int64_t kStateMagic = 0x3145'5441'5453'444d;
constexpr int kBlockAtoms = 16;  // a block's arrays stay in the L2 cache beside the radial tables (16, 32, 64 measured)

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Offsets of the arrays of AtomArrays, for n atoms; the last one is the size.
struct AtomLayout {
  int64_t order, type, reference, position, candidate_start, block_start, thread_block, forces, end;
  AtomLayout(int64_t n, int64_t n_threads) {
    int64_t used = 0;
    auto take = [&](int64_t bytes) {
      int64_t at = used;
      used += aligned(bytes);
      return at;
    };
    order = take(4 * n);
    type = take(4 * n);
    reference = take(24 * n);
    position = take(24 * n);
    candidate_start = take(8 * (n + 1));
    block_start = take(4 * (n + 1));
    thread_block = take(4 * (n_threads + 1));
    forces = take(24 * n);
    end = used;
  }
};

std::atomic<int64_t> current_epoch{0};

// The arrays are read in an order for which small pages are too many: large ones save 6 % of an evaluation of 777 atoms
// (AVX2). `used` bytes have been written already. Where the system has none to give, nothing happens.
void prefer_large_pages(char* data, int64_t used, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096, kLargePage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (end < begin + kLargePage) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which C libraries do not name yet
  const uintptr_t written = (reinterpret_cast<uintptr_t>(data) + used) / kPage * kPage;
  if (written > begin) madvise(reinterpret_cast<void*>(begin), written - begin, kCollapse);
#endif
}

}  // namespace

void forget_lists() { ++current_epoch; }

State::State(torch_abi::Tensor& tensor, const Blob& blob, const Engine& engine, int64_t target)
    : tensor_(tensor), blob_(blob), engine_(engine) {
  const int64_t size = tensor.numel();
  const bool usable =
      reinterpret_cast<uintptr_t>(tensor.data()) % 64 == 0;  // vectors are loaded from whole cache lines
  const bool mine = usable && size >= static_cast<int64_t>(sizeof(StateHeader)) && header().magic == kStateMagic &&
                    size >= header().end;
  if (mine && header().busy)
    throw std::runtime_error(
        "mace_md::energy_forces: this state is in use by another call; give each thread its own module");
  if (!mine || header().fingerprint != blob[kFingerprint] || header().target != target) {
    const int64_t packed = aligned(sizeof(StateHeader)), bytes = engine.packed_bytes(blob);
    if (size < packed + bytes || !usable) {
      tensor.resize(packed + bytes);
      prefer_large_pages(base(), 0, packed + bytes);
    }
    std::memset(base(), 0, sizeof(StateHeader));
    new (&header().list) ListInfo();
    header().magic = kStateMagic;
    header().fingerprint = blob[kFingerprint];
    header().target = target;
    header().packed = packed;
    header().types = aligned(packed + bytes);
    header().end = packed + bytes;
    header().n_particles = -1;
    engine.pack(blob, base() + packed);
  }
  header().busy = 1;
}

State::~State() { header().busy = 0; }

void State::grow(int64_t bytes) {
  const int64_t before = tensor_.numel();
  if (before >= bytes) return;
  tensor_.resize(bytes);
  prefer_large_pages(base(), before, bytes);
}

AtomArrays State::atom_arrays() {
  const StateHeader& h = header();
  AtomLayout at(h.list.n_atoms, h.list.n_threads);
  char* p = base() + h.atoms;
  return {reinterpret_cast<int32_t*>(p + at.order),           reinterpret_cast<int32_t*>(p + at.type),
          reinterpret_cast<double*>(p + at.reference),        reinterpret_cast<double*>(p + at.position),
          reinterpret_cast<int64_t*>(p + at.candidate_start), reinterpret_cast<int32_t*>(p + at.block_start),
          reinterpret_cast<int32_t*>(p + at.thread_block)};
}

Dimensions State::dimensions() {
  const ListInfo& list = header().list;
  AtomArrays atoms = atom_arrays();
  Dimensions d{list.n_atoms, list.n_threads, list.n_blocks, header().candidate_capacity, 0, 0};
  for (int b = 0; b < list.n_blocks; ++b) {
    int begin = atoms.block_start[b], end = atoms.block_start[b + 1];
    d.max_block_atoms = std::max<int64_t>(d.max_block_atoms, end - begin);
    d.max_block_candidates =
        std::max(d.max_block_candidates, atoms.candidate_start[end] - atoms.candidate_start[begin]);
  }
  return d;
}

void State::place_atoms(int64_t n_particles, const int32_t* types, int n_threads) {
  int64_t n_atoms = std::count_if(types, types + n_particles, [](int32_t type) { return type >= 0; });
  const int64_t types_at = header().types, atoms_at = aligned(types_at + 4 * n_particles);
  AtomLayout layout(n_atoms, n_threads);
  grow(atoms_at + layout.end);
  StateHeader& h = header();
  h.atoms = atoms_at;
  h.candidates = atoms_at + layout.end;
  h.candidate_capacity = 0;
  h.n_particles = n_particles;
  int64_t builds = h.list.n_builds;
  h.list = ListInfo();
  h.list.n_builds = builds;
  h.list.n_atoms = static_cast<int32_t>(n_atoms);
  h.list.n_threads = n_threads;
  std::copy(types, types + n_particles, reinterpret_cast<int32_t*>(base() + types_at));
}

void State::rebuild(const double* positions, const int32_t* types, const double* box, ParallelRunner parallel) {
  header().list_valid = 0;
  header().list_epoch = current_epoch.load();
  header().list.periodic = box != nullptr;
  header().list.reach = blob_.parameter(kRMax) + blob_.parameter(kSkin);
  const int n = header().list.n_atoms;
  std::vector<double> selected_positions(3 * n);
  std::vector<int32_t> selected(n);
  for (int64_t i = 0, k = 0; i < header().n_particles; ++i)
    if (types[i] >= 0) {
      std::copy(positions + 3 * i, positions + 3 * i + 3, &selected_positions[3 * k]);
      selected[k++] = static_cast<int32_t>(i);
    }
  ListPlan plan = plan_list(header().list, atom_arrays(), selected_positions.data(), selected.data(), types, box,
                            kBlockAtoms, parallel);
  const int64_t n_candidates = header().list.n_candidates;
  if (n_candidates > header().candidate_capacity) header().candidate_capacity = n_candidates + n_candidates / 8;
  const int64_t workspace = aligned(header().candidates + header().candidate_capacity * int64_t{sizeof(Candidate)});
  const int64_t end = workspace + engine_.workspace_bytes(blob_, dimensions());
  grow(end);
  header().workspace = workspace;
  header().end = end;
  fill_list(header().list, atom_arrays(), plan, static_cast<int>(blob_[kTypes]),
            reinterpret_cast<Candidate*>(base() + header().candidates), parallel);
  header().list_valid = 1;
}

void State::update(const double* positions, int64_t n_particles, const int32_t* types, const double* box, int n_threads,
                   ParallelRunner parallel) {
  const bool same_atoms = header().n_particles == n_particles && header().list.n_threads == n_threads &&
                          std::equal(types, types + n_particles, reinterpret_cast<int32_t*>(base() + header().types));
  if (!same_atoms) {
    header().list_valid = 0;
    place_atoms(n_particles, types, n_threads);
  }
  const bool keep = header().list_valid && header().list_epoch == current_epoch.load() &&
                    header().list.periodic == (box != nullptr) &&
                    update_positions(header().list, atom_arrays(), positions, blob_.parameter(kRMax), box);
  if (!keep) rebuild(positions, types, box, parallel);
}

Step State::step() {
  Step step{};
  step.blob = blob_;
  step.packed = base() + header().packed;
  step.workspace = base() + header().workspace;
  step.dimensions = dimensions();
  step.atoms = atom_arrays();
  step.candidates = reinterpret_cast<const Candidate*>(base() + header().candidates);
  step.forces = reinterpret_cast<double*>(base() + header().atoms +
                                          AtomLayout(header().list.n_atoms, header().list.n_threads).forces);
  return step;
}

}  // namespace mace_md
