#include "op.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>

#include "../checks.h"
#include "compiler.h"
#include "plan.h"

namespace mace_md::cuda {
namespace {

using torch_abi::Device;
using torch_abi::StableValue;
using torch_abi::Tensor;
using torch_abi::TensorHandle;

constexpr int64_t kFirstGuess = 64;  // candidates an atom

DevicePointer address(const void* p) { return reinterpret_cast<DevicePointer>(p); }

struct Call {
  bool emulated;
  Tensor positions;
  Tensor box;  // of a null handle without periodicity
  bool periodic;
  Tensor types, blob, state;

  Call(StableValue* stack, bool emulated, TensorHandle box_handle)
      : emulated(emulated),
        positions(reinterpret_cast<TensorHandle>(stack[0])),
        box(box_handle),
        periodic(box_handle != nullptr),
        types(reinterpret_cast<TensorHandle>(stack[2])),
        blob(reinterpret_cast<TensorHandle>(stack[3])),
        state(reinterpret_cast<TensorHandle>(stack[4])) {}
};

void check_tensor(const Call& call, const Tensor& tensor, const char* name) {
  const Device device = call.positions.device(), found = tensor.device();
  require(found.cuda == device.cuda && found.index == device.index, name, " must be on the device of positions");
  require(tensor.is_contiguous(), name, " must be contiguous");
}

bool floating(const Tensor& tensor) {
  return tensor.dtype() == torch_abi::dtype_float32() || tensor.dtype() == torch_abi::dtype_float64();
}

void check_arguments(const Call& call) {
  require(call.emulated != call.positions.on_cuda(), "positions must be on the GPU");
  require(call.positions.dim() == 2 && call.positions.size(1) == 3, "positions must have shape [n_particles, 3]");
  check_tensor(call, call.positions, "positions");
  require(floating(call.positions), "positions must be float32 or float64");
  if (call.periodic) {
    check_tensor(call, call.box, "box");
    require(call.box.dim() == 2 && call.box.size(0) == 3 && call.box.size(1) == 3, "box must have shape [3, 3]");
    require(floating(call.box), "box must be float32 or float64");
  }
  check_tensor(call, call.types, "types");
  require(call.types.dtype() == torch_abi::dtype_int32() && call.types.dim() == 1,
          "types must be a contiguous 1-d int32 tensor");
  require(call.types.numel() == call.positions.size(0), "types has ", call.types.numel(), " entries for ",
          call.positions.size(0), " particles");
  for (const auto& [tensor, name] : {std::pair<const Tensor&, const char*>{call.blob, "blob"}, {call.state, "state"}}) {
    require(tensor.dtype() == torch_abi::dtype_uint8() && tensor.dim() == 1, name,
            " must be a contiguous 1-d uint8 tensor");
    check_tensor(call, tensor, name);
  }
}

// Copies of the device's memory, and its stream.
class Session {
 public:
  explicit Session(const Call& call) : Session(call.positions.device(), call.emulated) {}
  Session(Device device, bool emulated) : device_(device), current_(device.index) {
    require(!emulated || driver().emulated, "the emulated ops need the emulated driver of the tests");
    require(emulated || !driver().emulated, "the driver is an emulation");
    stream_ = emulated ? nullptr : torch_abi::current_stream(device.index);
    int state = 0;
    driver().check(driver().is_capturing(stream_, &state), "asking for the state of the stream");
    capturing_ = state != 0;
  }

  Handle stream() const { return stream_; }
  bool capturing() const { return capturing_; }
  int device() const { return device_.index; }

  template <class T>
  std::vector<T> download(const void* from, int64_t n) const {
    std::vector<T> values(n);
    if (n > 0) {
      driver().check(driver().to_host(values.data(), address(from), n * sizeof(T), stream_), "reading from the GPU");
      driver().check(driver().synchronize(stream_), "evaluating the model");
    }
    return values;
  }

 private:
  Device device_;
  CurrentDevice current_;
  Handle stream_ = nullptr;
  bool capturing_ = false;
};

// Whether the plan is for these arguments; compares what it has not seen before.
bool fits(const Plan& plan, const Call& call, const Session& session) {
  if (plan.device != session.device() || plan.periodic != call.periodic ||
      plan.sizes.n_particles != call.positions.size(0) || plan.blob()[kBytes] != call.blob.numel())
    return false;
  if (plan.knows(call.state.data(), call.types.data(), call.blob.data())) return true;
  if (session.capturing()) return false;
  const int64_t header = 8 * (kHeaderInts + kHeaderDoubles);
  return session.download<int64_t>(call.state.data(), 1)[0] == plan.id && call.blob.numel() >= header &&
         session.download<int64_t>(call.blob.data(), kHeaderInts + kHeaderDoubles) == plan.header &&
         session.download<int32_t>(call.types.data(), plan.sizes.n_particles) == plan.types;
}

Tensor allocate(const Plan& plan, Device device) {
  try {
    return Tensor::empty(1, &plan.bytes, torch_abi::dtype_uint8(), device);
  } catch (const std::runtime_error&) {
    std::ostringstream message;
    message.precision(3);
    message << "mace_md::energy_forces: " << plan.sizes.n_atoms << " atoms with room for " << plan.sizes.capacity
            << " pairs need " << double(plan.bytes) / (int64_t{1} << 30)
            << " GiB of memory on the device, which it did not give: take fewer atoms, a smaller skin, float32 instead "
               "of float64, or a device with more memory";
    throw std::runtime_error(message.str());
  }
}

// A state for these arguments in the place of what the tensor held.
std::shared_ptr<Plan> prepare(Call& call, const Session& session, int64_t capacity) {
  require(!session.capturing(),
          "the first call for a module must not be captured into a CUDA graph: evaluate it once before");
  const std::vector<char> bytes = session.download<char>(call.blob.data(), call.blob.numel());
  const Blob blob = checked_blob(bytes.data(), call.blob.numel());
  const auto types = session.download<int32_t>(call.types.data(), call.types.numel());
  check_type_range(types.data(), call.types.numel(), blob[kTypes]);
  if (capacity == 0) capacity = kFirstGuess * sizes_for(blob, types, 0).n_atoms + 1024;
  std::shared_ptr<Plan> plan = make_plan(blob, types, call.periodic, session.device(), capacity);
  call.state.become(allocate(*plan, call.positions.device()));
  initialise(*plan, static_cast<char*>(call.state.data()), session.stream());
  return plan;
}

struct Results {
  Tensor energy, forces, virial;
};

Results make_results(const Call& call) {
  const int64_t forces[2] = {call.positions.size(0), 3}, virial[2] = {3, 3};
  const Device device = call.positions.device();
  return {Tensor::empty(0, nullptr, torch_abi::dtype_float64(), device),
          Tensor::empty(2, forces, call.positions.dtype(), device),
          Tensor::empty(2, virial, torch_abi::dtype_float64(), device)};
}

void launch(const Plan& plan, const Call& call, const Results& results, const Session& session) {
  const Driver& d = driver();
  const bool is_double = call.positions.dtype() == torch_abi::dtype_float64();
  if (plan.sizes.n_atoms == 0) {
    for (const auto& [tensor, bytes] :
         {std::pair<const Tensor&, int>{results.energy, 8}, {results.forces, is_double ? 8 : 4}, {results.virial, 8}})
      if (tensor.numel() > 0)
        d.check(d.fill(address(tensor.data()), 0, tensor.numel() * bytes, session.stream()), "clearing the results");
    return;
  }
  Arguments a{};
  place_model(plan.blob(), call.blob.data_as<char>(), a);
  place_arrays(plan.blob(), plan.sizes, call.state.data_as<char>(), a);
  a.id = plan.id;
  a.positions = call.positions.data();
  a.positions_double = is_double;
  a.box = call.periodic ? call.box.data() : nullptr;
  a.box_double = call.periodic && call.box.dtype() == torch_abi::dtype_float64();
  a.types = call.types.data_as<int>();
  a.energy = results.energy.data_as<double>();
  a.forces = results.forces.data();
  a.virial = results.virial.data_as<double>();
  static_assert(offsetof(DeviceHeader, moved2) == offsetof(DeviceHeader, step_status) + 8);
  if (!plan.sizes.small)  // else the first kernel does it
    d.check(d.fill(address(&a.header->step_status), 0, 16, session.stream()), "clearing the status");
  void* parameters[1] = {&a};
  for (const Launch& l : plan.launches)
    d.check(d.launch(l.function, l.grid[0], l.grid[1], l.grid[2], l.block, 1, 1, l.shared, session.stream(), parameters,
                     nullptr),
            "launching the kernels");
}

void raise_problems(long long status) {
  require(!(status & kPositionNotFinite),
          "positions has a value that is not finite: the simulation has become "
          "unstable, or its input was not initialised");
  require(!(status & kBoxNotFinite), "box has a value that is not finite");
  require(!(status & kBoxFlat), "the box vectors do not span a volume");
  require(
      !(status & kOutOfRange),
      "a force is out of range: two atoms coincide, or the structure is far outside what the model was trained for");
  require(!(status & kEnergyNotFinite),
          "the energy is not finite: two atoms coincide, or the structure is far outside "
          "what the model was trained for");
}

// The whole call. `use(plan)` sees the state after a valid evaluation.
template <class Use>
Results evaluate(Call& call, Use&& use) {
  check_arguments(call);
  const Session session(call);
  Results results = make_results(call);
  std::shared_ptr<Plan> plan = find_plan(call.state.numel());
  if (plan != nullptr && !fits(*plan, call, session)) plan = nullptr;
  int64_t capacity = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    if (plan == nullptr) plan = prepare(call, session, capacity);
    launch(*plan, call, results, session);
    if (session.capturing() || plan->sizes.n_atoms == 0) return results;
    const auto header = session.download<DeviceHeader>(call.state.data(), 1)[0];
    const long long step = header.step_status;
    if (header.id != plan->id || step & (kModelChanged | kTypesChanged)) {  // known addresses, other contents
      plan = nullptr;
      continue;
    }
    raise_problems(step);
    if (step & kListOverflow) {
      capacity = header.n_candidates + header.n_candidates / 4 + 1024;
      plan = nullptr;
      continue;
    }
    plan->remember(call.state.data(), call.types.data(), call.blob.data());
    use(*plan, session);
    return results;
  }
  require(false, "the state on the GPU changes while it is in use; give each thread its own module");
  return results;
}

void run_energy_forces(StableValue* stack, bool emulated) {
  Call call(stack, emulated, torch_abi::take_optional(stack[1]));
  Results results = evaluate(call, [](const Plan&, const Session&) {});
  stack[0] = reinterpret_cast<StableValue>(results.energy.release());
  stack[1] = reinterpret_cast<StableValue>(results.forces.release());
  stack[2] = reinterpret_cast<StableValue>(results.virial.release());
}

struct EdgeList {
  std::vector<int64_t> senders, receivers;
  std::vector<double> vectors;
  int64_t builds = 0;
};

// The edges that an evaluation used, read back.
EdgeList read_edges(const Plan& plan, const Call& call, const Session& session) {
  Arguments a;
  place_arrays(plan.blob(), plan.sizes, call.state.data_as<char>(), a);
  const int64_t n = plan.sizes.n_atoms;
  const auto header = session.download<DeviceHeader>(a.header, 1)[0];
  const auto order = session.download<int32_t>(a.order, n);
  const auto count = session.download<int32_t>(a.n_candidates, n);
  const auto start = session.download<long long>(a.candidate_start, n);
  const auto position = session.download<double>(a.position, 3 * n);
  const auto image = session.download<int32_t>(a.image, n);
  const auto candidates = session.download<DeviceCandidate>(a.candidates, header.n_candidates);
  const double r_max = plan.blob().parameter(kRMax);
  EdgeList list;
  list.builds = header.n_builds;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = start[i]; k < start[i] + count[i]; ++k) {
      const DeviceCandidate& candidate = candidates[k];
      const int mask = (1 << kShiftBits) - 1, shift = candidate.shift + image[candidate.atom] - image[i];
      double d[3], r2 = 0;
      for (int x = 0; x < 3; ++x) {
        d[x] = position[3 * i + x] - position[3 * int64_t{candidate.atom} + x];
        for (int v = 0; v < 3 && plan.periodic; ++v)
          d[x] -= (((shift >> ((2 - v) * kShiftBits)) & mask) - kShiftOffset) * header.box[3 * v + x];
        r2 += d[x] * d[x];
      }
      if (r2 >= r_max * r_max) continue;
      list.senders.push_back(order[candidate.atom]);
      list.receivers.push_back(order[i]);
      list.vectors.insert(list.vectors.end(), d, d + 3);
    }
  return list;
}

void run_neighbors(StableValue* stack, bool emulated) {
  Call call(stack, emulated, torch_abi::take_optional(stack[1]));
  EdgeList list;
  evaluate(call, [&](const Plan& plan, const Session& session) { list = read_edges(plan, call, session); });
  const int64_t n = static_cast<int64_t>(list.senders.size()), index_shape[2] = {2, n}, vector_shape[2] = {n, 3};
  Tensor index = Tensor::empty(2, index_shape, torch_abi::dtype_int64());
  Tensor vector = Tensor::empty(2, vector_shape, torch_abi::dtype_float64());
  Tensor builds = Tensor::empty(0, nullptr, torch_abi::dtype_int64());
  std::copy(list.senders.begin(), list.senders.end(), index.data_as<int64_t>());
  std::copy(list.receivers.begin(), list.receivers.end(), index.data_as<int64_t>() + n);
  std::copy(list.vectors.begin(), list.vectors.end(), vector.data_as<double>());
  *builds.data_as<int64_t>() = list.builds;
  stack[0] = reinterpret_cast<StableValue>(index.release());
  stack[1] = reinterpret_cast<StableValue>(vector.release());
  stack[2] = reinterpret_cast<StableValue>(builds.release());
}

void run_status(StableValue* stack, bool emulated) {
  Tensor state(reinterpret_cast<TensorHandle>(stack[0]));
  const bool clear = stack[1] != 0;
  const int64_t size = 6;
  Tensor result = Tensor::empty(1, &size, torch_abi::dtype_int64());
  int64_t* out = result.data_as<int64_t>();
  std::fill(out, out + size, int64_t{0});
  if (const auto plan = find_plan(state.numel())) {
    const Session session(state.device(), emulated);
    require(!session.capturing(), "status cannot be read while a CUDA graph is captured");
    const auto header = session.download<DeviceHeader>(state.data(), 1)[0];
    const int64_t values[size] = {header.status,   header.n_candidates, plan->sizes.capacity,
                                  header.n_builds, header.n_edges,      header.list_valid};
    std::copy(values, values + size, out);
    if (clear)
      driver().check(driver().fill(address(&static_cast<DeviceHeader*>(state.data())->status), 0, 8, session.stream()),
                     "clearing the status");
  }
  stack[0] = reinterpret_cast<StableValue>(result.release());
}

}  // namespace

void energy_forces(StableValue* stack, uint64_t, uint64_t) { run_energy_forces(stack, false); }
void neighbors(StableValue* stack, uint64_t, uint64_t) { run_neighbors(stack, false); }
void status(StableValue* stack, uint64_t, uint64_t) { run_status(stack, false); }
void emulated_energy_forces(StableValue* stack, uint64_t, uint64_t) { run_energy_forces(stack, true); }
void emulated_neighbors(StableValue* stack, uint64_t, uint64_t) { run_neighbors(stack, true); }
void emulated_status(StableValue* stack, uint64_t, uint64_t) { run_status(stack, true); }

namespace {

// The kernels that the flags of a packed model ask for, without a system whose size would decide.
Program program_of_flags(const Blob& blob) {
  return make_program(blob, blob[kFusedNodes] == 2, blob[kSmallSystem] > 0);
}

// Runs body and puts its text or its error into message. Returns whether there was no error.
template <class Body>
int32_t report(char* message, int64_t size, Body&& body) {
  std::string text;
  int32_t good = 1;
  try {
    text = body();
  } catch (const std::exception& error) {
    text = error.what();
    good = 0;
  }
  std::snprintf(message, static_cast<size_t>(size), "%s", text.c_str());
  return good;
}

}  // namespace
}  // namespace mace_md::cuda

// For Python (ctypes). Those with a message return 1, or 0 and the reason in the message.
#define MACE_MD_EXPORT extern "C" __attribute__((visibility("default")))

// Paths of libcuda and NVRTC from now on; an empty one stands for the usual places.
MACE_MD_EXPORT void mace_md_use_cuda_libraries(const char* driver, const char* nvrtc) {
  mace_md::cuda::use_libraries(driver, nvrtc);
}

// Compiles the kernels of a packed model for an architecture (90), which needs no GPU; message: size of the code.
MACE_MD_EXPORT int32_t mace_md_compile_kernels(const void* blob, int64_t bytes, int32_t architecture, char* message,
                                               int64_t size) {
  return mace_md::cuda::report(message, size, [&] {
    const mace_md::Blob model = mace_md::checked_blob(blob, bytes);
    const auto program = mace_md::cuda::program_of_flags(model);
    return std::to_string(mace_md::cuda::compile(program, architecture).size());
  });
}

// Writes the source of the kernels of a packed model into a folder, as mace_md.cu and what it includes.
MACE_MD_EXPORT int32_t mace_md_write_kernels(const void* blob, int64_t bytes, const char* folder, char* message,
                                             int64_t size) {
  return mace_md::cuda::report(message, size, [&] {
    const mace_md::Blob model = mace_md::checked_blob(blob, bytes);
    auto program = mace_md::cuda::program_of_flags(model);
    program.headers.push_back({"mace_md.cu", program.main});
    for (const auto& file : program.headers) {
      std::ofstream out(std::string(folder) + "/" + file.name);
      if (!(out << file.text)) throw std::runtime_error("cannot write " + file.name + " in " + folder);
    }
    return std::string();
  });
}

// Bytes of GPU memory that a state needs, for atoms that have this many candidates together (their neighbours within
// r_max + skin).
MACE_MD_EXPORT int32_t mace_md_state_bytes(const void* blob, int64_t bytes, int64_t n_atoms, int64_t n_candidates,
                                           char* message, int64_t size) {
  return mace_md::cuda::report(message, size, [&] {
    const auto model = mace_md::checked_blob(blob, bytes);
    const std::vector<int32_t> types(n_atoms, 0);
    mace_md::cuda::Arguments unused;
    return std::to_string(mace_md::cuda::place_arrays(
        model, mace_md::cuda::sizes_for(model, types, n_candidates + n_candidates / 4 + 1024), nullptr, unused));
  });
}
