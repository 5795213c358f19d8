// The ops of the library: arguments are checked, the state is brought up to date, the engine runs, results get OpenMM's
// units.
#include <algorithm>
#include <cmath>
#include <vector>

#include "checks.h"
#include "cuda/op.h"
#include "cpu/state.h"
#include "training/ops.h"

namespace mace_md {
namespace {

using torch_abi::StableValue;
using torch_abi::Tensor;
using torch_abi::TensorHandle;

// ---- instruction sets
// -----------------------------------------------------------------------------------------------------

enum Isa : int64_t { kAuto = 0, kGeneric = 1, kAvx2 = 2, kAvx512 = 3 };
const char* const kIsaNames[] = {"auto", "generic", "avx2", "avx512"};

bool available(int64_t isa) {
  if (isa == kGeneric) return true;
#if defined(__x86_64__)
#ifdef MACE_MD_HAVE_AVX2
  if (isa == kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef MACE_MD_HAVE_AVX512
  if (isa == kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
#endif
  return false;
}

int64_t best_isa() {
  static const int64_t best = available(kAvx512) ? kAvx512 : (available(kAvx2) ? kAvx2 : kGeneric);
  return best;
}

const Engine* find_engine(int64_t isa, bool single, int max_ell, int max_L) {
#ifdef MACE_MD_HAVE_AVX512
  if (isa == kAvx512) return single ? engine_avx512_float(max_ell, max_L) : engine_avx512_double(max_ell, max_L);
#endif
#ifdef MACE_MD_HAVE_AVX2
  if (isa == kAvx2) return single ? engine_avx2_float(max_ell, max_L) : engine_avx2_double(max_ell, max_L);
#endif
  return single ? engine_generic_float(max_ell, max_L) : engine_generic_double(max_ell, max_L);
}

// ---- checks
// -----------------------------------------------------------------------------------------------------------------

void run_parallel(int n_tasks, void (*task)(int, void*), void* context) {
  struct Call {
    void (*task)(int, void*);
    void* context;
  } call{task, context};
  torch_abi::parallel_for(
      0, n_tasks, 1,
      [](int64_t begin, int64_t end, void* p) {
        auto& c = *static_cast<Call*>(p);
        for (int64_t i = begin; i < end; ++i) c.task(static_cast<int>(i), c.context);
      },
      &call);
}

// Positions or a box in angstrom; refuses wrong shapes and types, and values that are not finite.
std::vector<double> lengths(const Tensor& tensor, const char* name, double unit) {
  require(tensor.on_cpu(), name, " must be on the CPU");
  require(tensor.is_contiguous(), name, " must be contiguous");
  const int32_t dtype = tensor.dtype();
  const int64_t n = tensor.numel();
  std::vector<double> values(n);
  if (dtype == torch_abi::dtype_float64())
    std::transform(tensor.data_as<double>(), tensor.data_as<double>() + n, values.begin(),
                   [&](double x) { return x * unit; });
  else if (dtype == torch_abi::dtype_float32())
    std::transform(tensor.data_as<float>(), tensor.data_as<float>() + n, values.begin(),
                   [&](float x) { return x * unit; });
  else
    require(false, name, " must be float32 or float64");
  for (int64_t i = 0; i < n; ++i)
    require(std::isfinite(values[i]), name, " has a value that is not finite (", values[i], " at row ", i / 3,
            "): the simulation has become unstable, or its input was not initialised");
  return values;
}

Blob check_blob(const Tensor& tensor) {
  require(tensor.on_cpu() && tensor.is_contiguous() && tensor.dtype() == torch_abi::dtype_uint8() && tensor.dim() == 1,
          "blob must be a contiguous 1-d uint8 tensor on the CPU");
  return checked_blob(tensor.data(), tensor.numel());
}

void check_types(const Tensor& types, int64_t n_particles, int64_t n_types) {
  require(types.on_cpu() && types.is_contiguous() && types.dtype() == torch_abi::dtype_int32() && types.dim() == 1,
          "types must be a contiguous 1-d int32 tensor on the CPU");
  require(types.numel() == n_particles, "types has ", types.numel(), " entries for ", n_particles, " particles");
  check_type_range(types.data_as<int32_t>(), n_particles, n_types);
}

// ---- evaluation
// -----------------------------------------------------------------------------------------------------------

struct Arguments {
  Tensor positions;
  TensorHandle box_handle;
  Tensor types, blob, state;
  explicit Arguments(StableValue* stack)
      : positions(reinterpret_cast<TensorHandle>(stack[0])),
        box_handle(torch_abi::take_optional(stack[1])),
        types(reinterpret_cast<TensorHandle>(stack[2])),
        blob(reinterpret_cast<TensorHandle>(stack[3])),
        state(reinterpret_cast<TensorHandle>(stack[4])) {}
};

// Checks the arguments, updates the state and calls body(step, state list, unit of energy, unit of length).
template <class Body>
void with_step(Arguments& a, Body&& body) {
  Tensor box_tensor(a.box_handle);
  require(a.positions.dim() == 2 && a.positions.size(1) == 3, "positions must have shape [n_particles, 3]");
  const int64_t n = a.positions.size(0);
  Blob blob = check_blob(a.blob);
  check_types(a.types, n, blob[kTypes]);
  require(
      a.state.on_cpu() && a.state.is_contiguous() && a.state.dtype() == torch_abi::dtype_uint8() && a.state.dim() == 1,
      "state must be a contiguous 1-d uint8 tensor on the CPU");
  const double angstrom = blob.parameter(kLengthUnit);
  std::vector<double> positions = lengths(a.positions, "positions", angstrom), box;
  if (a.box_handle != nullptr) {
    require(box_tensor.dim() == 2 && box_tensor.size(0) == 3 && box_tensor.size(1) == 3, "box must have shape [3, 3]");
    box = lengths(box_tensor, "box", angstrom);
    double inverse[9];
    require(invert(box.data(), inverse), "the box vectors do not span a volume");
  }
  const int64_t isa = blob[kIsa] == kAuto ? best_isa() : blob[kIsa];
  require(isa > 0 && isa <= kAvx512 && available(isa), "instruction set ", blob[kIsa], " is not available here");
  const bool single = blob[kPrecision] == 4;
  const Engine* engine = find_engine(isa, single, static_cast<int>(blob[kMaxEll]), static_cast<int>(blob[kMaxL]));
  require(engine != nullptr, "no kernels for max_ell = ", blob[kMaxEll], ", max_L = ", blob[kMaxL]);

  // Atoms are few for many threads when there is less than a block's worth of work for each.
  const int64_t n_threads = std::max<int64_t>(1, std::min<int64_t>(torch_abi::thread_count(), n / 8));
  State state(a.state, blob, *engine, isa * 16 + blob[kPrecision]);
  const double* box_or_null = box.empty() ? nullptr : box.data();
  state.update(positions.data(), n, a.types.data_as<int32_t>(), box_or_null, static_cast<int>(n_threads), run_parallel);
  std::vector<double> translations(3 * state.list().n_shifts());
  lattice_translations(state.list(), box_or_null, translations.data());
  Step step = state.step();
  step.translations = translations.data();
  step.parallel = run_parallel;
  body(step, state.list(), *engine);
}

template <class T>
void write_forces(const Step& step, double unit, T* out, int64_t n_particles) {
  std::fill(out, out + 3 * n_particles, T(0));
  for (int64_t i = 0; i < step.dimensions.n_atoms; ++i)
    for (int d = 0; d < 3; ++d)
      out[3 * int64_t{step.atoms.order[i]} + d] = static_cast<T>(step.forces[3 * i + d] * unit);
}

void check_result(const Step& step) {
  require(std::isfinite(step.energy), "the energy is not finite (", step.energy,
          "): two atoms coincide, or the structure is far outside what the model was trained for");
}

void energy_forces(StableValue* stack, uint64_t, uint64_t) {
  Arguments a(stack);
  const int64_t n = a.positions.dim() == 2 ? a.positions.size(0) : 0;
  const int64_t force_shape[2] = {n, 3}, virial_shape[2] = {3, 3};
  Tensor energy = Tensor::empty(0, nullptr, torch_abi::dtype_float64());
  Tensor forces = Tensor::empty(2, force_shape, a.positions.dtype());
  Tensor virial = Tensor::empty(2, virial_shape, torch_abi::dtype_float64());
  with_step(a, [&](Step& step, const ListInfo&, const Engine& engine) {
    engine.evaluate(step);
    check_result(step);
    const double energy_unit = step.blob.parameter(kEnergyUnit),
                 force_unit = energy_unit * step.blob.parameter(kLengthUnit);
    *energy.data_as<double>() = step.energy * energy_unit;
    if (a.positions.dtype() == torch_abi::dtype_float64())
      write_forces(step, force_unit, forces.data_as<double>(), n);
    else
      write_forces(step, force_unit, forces.data_as<float>(), n);
    for (int i = 0; i < 9; ++i) virial.data_as<double>()[i] = step.virial[i] * energy_unit;
  });
  stack[0] = reinterpret_cast<StableValue>(energy.release());
  stack[1] = reinterpret_cast<StableValue>(forces.release());
  stack[2] = reinterpret_cast<StableValue>(virial.release());
}

// The edges that a call would use, in the caller's numbering: (sender, receiver) and r_receiver - r_sender in angstrom.
void neighbors(StableValue* stack, uint64_t, uint64_t) {
  Arguments a(stack);
  std::vector<int64_t> senders, receivers;
  std::vector<double> vectors;
  int64_t builds = 0;
  with_step(a, [&](Step& step, const ListInfo& list, const Engine&) {
    builds = list.n_builds;
    const double r_max = step.blob.parameter(kRMax);
    for (int64_t i = 0; i < step.dimensions.n_atoms; ++i)
      for (int64_t c = step.atoms.candidate_start[i]; c < step.atoms.candidate_start[i + 1]; ++c) {
        const Candidate& candidate = step.candidates[c];
        double d[3], r2 = 0;
        for (int k = 0; k < 3; ++k) {
          d[k] = step.atoms.position[3 * i + k] - step.atoms.position[3 * int64_t{candidate.atom} + k] -
                 step.translations[3 * int64_t{candidate.shift} + k];
          r2 += d[k] * d[k];
        }
        if (r2 >= r_max * r_max) continue;
        senders.push_back(step.atoms.order[candidate.atom]);
        receivers.push_back(step.atoms.order[i]);
        vectors.insert(vectors.end(), d, d + 3);
      }
  });
  const int64_t n = static_cast<int64_t>(senders.size());
  const int64_t index_shape[2] = {2, n}, vector_shape[2] = {n, 3};
  Tensor index = Tensor::empty(2, index_shape, torch_abi::dtype_int64());
  Tensor vector = Tensor::empty(2, vector_shape, torch_abi::dtype_float64());
  Tensor count = Tensor::empty(0, nullptr, torch_abi::dtype_int64());
  std::copy(senders.begin(), senders.end(), index.data_as<int64_t>());
  std::copy(receivers.begin(), receivers.end(), index.data_as<int64_t>() + n);
  std::copy(vectors.begin(), vectors.end(), vector.data_as<double>());
  *count.data_as<int64_t>() = builds;
  stack[0] = reinterpret_cast<StableValue>(index.release());
  stack[1] = reinterpret_cast<StableValue>(vector.release());
  stack[2] = reinterpret_cast<StableValue>(count.release());
}

// The intermediate results of an evaluation (see StageOutputs), for the tests of the stages.
void stages(StableValue* stack, uint64_t, uint64_t) {
  Arguments a(stack);
  Blob blob = check_blob(a.blob);
  const int64_t n = a.positions.size(0), n_a = (blob[kMaxEll] + 1) * (blob[kMaxEll] + 1),
                n_h = (blob[kMaxL] + 1) * (blob[kMaxL] + 1);
  const int64_t shapes[6][3] = {{n, n_a, blob[kChannels]},     {n, n_h, blob[kConvChannels]}, {n, n_a, blob[kChannels]},
                                {n, n_h, blob[kConvChannels]}, {n, n_a, blob[kChannels]},     {n, 1, 1}};
  std::vector<Tensor> results;
  double* data[6];
  for (int i = 0; i < 6; ++i) {
    results.push_back(Tensor::empty(3, shapes[i], torch_abi::dtype_float64()));
    data[i] = results[i].data_as<double>();
    std::fill(data[i], data[i] + results[i].numel(), 0.0);
  }
  StageOutputs outputs{data[0], data[1], data[2], data[3], data[4], data[5]};
  with_step(a, [&](Step& step, const ListInfo&, const Engine& engine) {
    step.stages = &outputs;
    engine.evaluate(step);
  });
  for (int i = 0; i < 6; ++i) stack[i] = reinterpret_cast<StableValue>(results[i].release());
}

// What cuda/op.h describes; on the CPU an evaluation that fails says so itself, and lists grow as they must.
void status(StableValue* stack, uint64_t, uint64_t) {
  Tensor state(reinterpret_cast<TensorHandle>(stack[0]));
  const int64_t size = 6;
  Tensor result = Tensor::empty(1, &size, torch_abi::dtype_int64());
  std::fill(result.data_as<int64_t>(), result.data_as<int64_t>() + size, int64_t{0});
  stack[0] = reinterpret_cast<StableValue>(result.release());
}

constexpr torch_abi::OpDefinition kOps[] = {
    {"energy_forces",
     "energy_forces(Tensor positions, Tensor? box, Tensor types, Tensor blob, Tensor(a!) state)"
     " -> (Tensor energy, Tensor forces, Tensor virial)",
     energy_forces, cuda::energy_forces},
    {"neighbors",
     "neighbors(Tensor positions, Tensor? box, Tensor types, Tensor blob, Tensor(a!) state)"
     " -> (Tensor edge_index, Tensor vectors, Tensor n_builds)",
     neighbors, cuda::neighbors},
    {"status", "status(Tensor(a!) state, bool clear) -> Tensor", status, cuda::status},
    {"stages",
     "stages(Tensor positions, Tensor? box, Tensor types, Tensor blob, Tensor(a!) state)"
     " -> (Tensor a0, Tensor h, Tensor a1, Tensor h_adjoint, Tensor a0_adjoint, Tensor node_energy)",
     stages},
    // The code for CUDA on tensors of the CPU, where a test has put an emulation in the place of the driver.
    {"emulated_energy_forces",
     "emulated_energy_forces(Tensor positions, Tensor? box, Tensor types, Tensor blob, Tensor(a!) state)"
     " -> (Tensor energy, Tensor forces, Tensor virial)",
     cuda::emulated_energy_forces},
    {"emulated_neighbors",
     "emulated_neighbors(Tensor positions, Tensor? box, Tensor types, Tensor blob, Tensor(a!) state)"
     " -> (Tensor edge_index, Tensor vectors, Tensor n_builds)",
     cuda::emulated_neighbors},
    {"emulated_status", "emulated_status(Tensor(a!) state, bool clear) -> Tensor", cuda::emulated_status},
};

// Loading the library registers the ops; a host without Python only has to dlopen it after libtorch.
const char* register_at_load() {
  static std::string error;
  try {
    torch_abi::resolve();
    torch_abi::register_ops("mace_md", kOps, static_cast<int>(std::size(kOps)));
    training::register_training_ops(best_isa);
  } catch (const std::exception& exception) {
    error = exception.what();
  }
  return error.c_str();
}

const char* const load_error = register_at_load();

}  // namespace
}  // namespace mace_md

// For Python (ctypes): an empty string when the ops are registered, else why they are not.
extern "C" __attribute__((visibility("default"))) const char* mace_md_load_error() { return mace_md::load_error; }

extern "C" __attribute__((visibility("default"))) void mace_md_forget_lists() { mace_md::forget_lists(); }

extern "C" __attribute__((visibility("default"))) const char* mace_md_instruction_set() {
  return mace_md::kIsaNames[mace_md::best_isa()];
}
