// The ops of the training: arguments are checked and handed to the kernels (kernels.h says what they compute).
//
// Tensors are contiguous, float32 or float64, with the channels last; a tensor without elements stands for one that is
// not given. `graph` is int32: n_atoms, n_edges, n_pairs, n_systems, then the arrays of GraphIndex one after another.
// `paths` is int64 [n_paths, 6], the fields of PathShape.
#include "ops.h"

#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "kernels.h"

namespace mace_md::training {
namespace {

using torch_abi::StableValue;
using torch_abi::Tensor;
using torch_abi::TensorHandle;

IsaChoice choose_isa = nullptr;

template <class... Parts>
void require(bool condition, Parts&&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "mace_md, training: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

const Kernels& kernels_for(bool single) {
  const int64_t isa = choose_isa();
#ifdef MACE_MD_HAVE_AVX512
  if (isa == 3) return single ? *training_avx512_float() : *training_avx512_double();
#endif
#ifdef MACE_MD_HAVE_AVX2
  if (isa == 2) return single ? *training_avx2_float() : *training_avx2_double();
#endif
  (void)isa;
  return single ? *training_generic_float() : *training_generic_double();
}

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

// The arguments of a call, in their order; results are put back in theirs.
class Stack {
 public:
  Stack(StableValue* values, int n_tensors) : values_(values) {
    for (int i = 0; i < n_tensors; ++i) tensors_.emplace_back(reinterpret_cast<TensorHandle>(values[i]));
  }
  const Tensor& operator[](int i) const { return tensors_[i]; }
  int64_t integer(int i) const { return static_cast<int64_t>(values_[i]); }

  // A new tensor that will be result number `i`.
  void* result(std::initializer_list<int64_t> sizes, int32_t dtype) {
    results_.push_back(Tensor::empty(static_cast<int64_t>(sizes.size()), sizes.begin(), dtype));
    return results_.back().data();
  }
  void* no_result(int32_t dtype) { return result({0}, dtype), nullptr; }
  void finish() {
    for (size_t i = 0; i < results_.size(); ++i) values_[i] = reinterpret_cast<StableValue>(results_[i].release());
  }

 private:
  StableValue* values_;
  std::vector<Tensor> tensors_, results_;
};

int32_t real_type(const Tensor& tensor) {
  const int32_t dtype = tensor.dtype();
  require(dtype == torch_abi::dtype_float32() || dtype == torch_abi::dtype_float64(), "float32 or float64 is needed");
  return dtype;
}

// The data of a tensor with so many elements; null for one without any, where that is allowed.
const void* data_of(const Tensor& tensor, int64_t numel, int32_t dtype, const char* name, bool optional = false) {
  if (optional && tensor.numel() == 0) return nullptr;
  require(tensor.on_cpu() && tensor.is_contiguous(), name, " must be contiguous and on the CPU");
  require(tensor.dtype() == dtype, name, " has another dtype than the rest");
  require(tensor.numel() == numel, name, " has ", tensor.numel(), " elements, not ", numel);
  require(reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0 || numel == 0, name, " is not aligned");
  return tensor.data();
}

GraphIndex graph_of(const Tensor& tensor) {
  require(
      tensor.on_cpu() && tensor.is_contiguous() && tensor.dtype() == torch_abi::dtype_int32() && tensor.numel() >= 4,
      "graph must be a contiguous int32 tensor on the CPU");
  const int32_t* data = tensor.data_as<int32_t>();
  GraphIndex g;
  g.n_atoms = data[0];
  g.n_edges = data[1];
  g.n_pairs = data[2];
  g.n_systems = data[3];
  const int64_t size = 4 + g.n_atoms + (g.n_atoms + 1) + (g.n_systems + 1) + 2 * g.n_edges + g.n_pairs;
  require(tensor.numel() == size, "graph has ", tensor.numel(), " elements, not ", size);
  g.order = data + 4;
  g.first_edge = g.order + g.n_atoms;
  g.first_position = g.first_edge + g.n_atoms + 1;
  g.sender = g.first_position + g.n_systems + 1;
  g.pair = g.sender + g.n_edges;
  g.edge_of_pair = g.pair + g.n_edges;
  return g;
}

// ---- convolution

// Arguments 0 ... 7: graph, paths, blocks, h, r and the tangents of the last three.
Convolution convolution_of(const Stack& s, int32_t dtype) {
  Convolution c{};
  c.graph = graph_of(s[0]);
  const Tensor &paths = s[1], &blocks = s[2], &h = s[3], &r = s[4];
  require(paths.dtype() == torch_abi::dtype_int64() && paths.is_contiguous() && paths.dim() == 2 && paths.size(1) == 6,
          "paths must be int64 [n_paths, 6]");
  require(blocks.dim() == 2 && h.dim() == 3 && r.dim() == 3, "blocks, h and r must have 2, 3 and 3 dimensions");
  c.n_paths = static_cast<int>(paths.size(0));
  require(c.n_paths <= kMaxPaths, "a convolution has ", c.n_paths, " paths, more than ", kMaxPaths);
  c.channels = h.size(2);
  c.h_rows = h.size(1);
  c.n_blocks = blocks.size(1);
  const int64_t* fields = paths.data_as<int64_t>();
  for (int i = 0; i < c.n_paths; ++i, fields += 6) {
    PathShape& p = c.path[i];
    p = {static_cast<int>(fields[0]), static_cast<int>(fields[1]), static_cast<int>(fields[2]),
         static_cast<int>(fields[3]), static_cast<int>(fields[4]), static_cast<int>(fields[5])};
    require(p.l3 >= 0 && p.l3 <= kMaxL && p.n3 == 2 * p.l3 + 1 && p.h_row + p.n2 <= c.h_rows &&
                p.block + p.n2 * p.n3 <= c.n_blocks && p.index == c.paths_to[p.l3],
            "path ", i, " does not fit");
    ++c.paths_to[p.l3];
  }
  const int lanes = kernels_for(dtype == torch_abi::dtype_float32()).lanes;
  require(c.channels % lanes == 0, "the number of channels must be a multiple of ", lanes);
  const int64_t in_blocks = c.graph.n_edges * c.n_blocks, in_h = c.graph.n_atoms * c.h_rows * c.channels;
  const int64_t in_r = c.graph.n_pairs * c.n_paths * c.channels;
  c.blocks = data_of(blocks, in_blocks, dtype, "blocks");
  c.h = data_of(h, in_h, dtype, "h");
  c.r = data_of(r, in_r, dtype, "r");
  c.blocks_dot = data_of(s[5], in_blocks, dtype, "blocks_dot", true);
  c.h_dot = data_of(s[6], in_h, dtype, "h_dot", true);
  c.r_dot = data_of(s[7], in_r, dtype, "r_dot", true);
  require((c.blocks_dot == nullptr) == (c.r_dot == nullptr) && (c.h_dot == nullptr || c.r_dot != nullptr),
          "tangents come together");
  c.n_threads = torch_abi::thread_count();
  c.parallel = run_parallel;
  return c;
}

int64_t phi_size(const Convolution& c, int l) { return c.graph.n_atoms * (2 * l + 1) * c.paths_to[l] * c.channels; }

void take_adjoint(Convolution& c, const Stack& s, int first, int32_t dtype) {
  for (int l = 0; l <= kMaxL; ++l) c.adjoint[l] = data_of(s[first + l], phi_size(c, l), dtype, "an adjoint");
}

void convolve(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 8);
  const int32_t dtype = real_type(s[3]);
  Convolution c = convolution_of(s, dtype);
  for (int l = 0; l <= kMaxL; ++l) c.phi[l] = s.result({c.graph.n_atoms, 2 * l + 1, c.paths_to[l] * c.channels}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).convolve(c);
  s.finish();
}

void convolve_reverse(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 12);
  const int32_t dtype = real_type(s[3]);
  const bool with_h = s.integer(12) != 0;
  Convolution c = convolution_of(s, dtype);
  take_adjoint(c, s, 8, dtype);
  c.h_adjoint = with_h ? s.result({c.graph.n_atoms, c.h_rows, c.channels}, dtype) : s.no_result(dtype);
  c.r_adjoint = s.result({c.graph.n_pairs, c.n_paths, c.channels}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).convolve_reverse(c);
  s.finish();
}

void convolve_blocks(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 12);
  const int32_t dtype = real_type(s[3]);
  Convolution c = convolution_of(s, dtype);
  take_adjoint(c, s, 8, dtype);
  c.blocks_adjoint = s.result({c.graph.n_edges, c.n_blocks}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).convolve_blocks(c);
  s.finish();
}

// ---- product

// Arguments 0 ... 6: program, type_start, A for l = 0 ... 3, weights.
Product product_of(const Stack& s, int32_t dtype) {
  Product p{};
  const Tensor &program = s[0], &start = s[1], &weights = s[6];
  require(program.dtype() == torch_abi::dtype_int32() && start.dtype() == torch_abi::dtype_int32() &&
              program.is_contiguous() && start.is_contiguous() && program.numel() >= 3,
          "program and type_start must be contiguous int32 tensors");
  require(weights.dim() == 3, "weights must be [n_types, n_weights, channels]");
  p.program = program.data_as<int32_t>();
  p.type_start = start.data_as<int32_t>();
  p.n_types = static_cast<int>(start.numel() - 1);
  p.n_outputs = p.program[0];
  p.n_weights = static_cast<int>(weights.size(1));
  p.channels = weights.size(2);
  p.n_atoms = p.type_start[p.n_types];
  require(weights.size(0) == p.n_types, "weights are for ", weights.size(0), " types, not ", p.n_types);
  const int lanes = kernels_for(dtype == torch_abi::dtype_float32()).lanes;
  require(p.channels % lanes == 0, "the number of channels must be a multiple of ", lanes);
  p.weights = data_of(weights, weights.numel(), dtype, "weights");
  for (int l = 0; l <= kMaxL; ++l) {
    if (s[2 + l].numel() == 0) continue;
    p.x[l] = data_of(s[2 + l], p.n_atoms * (2 * l + 1) * p.channels, dtype, "A");
    p.n_components = (l + 1) * (l + 1);
  }
  p.parallel = run_parallel;
  return p;
}

int output_l(const Product& p) {
  int l = 0;
  while ((l + 1) * (l + 1) < p.n_outputs) ++l;
  return l;
}

void take_values(Product& p, Stack& s, int32_t dtype) {
  for (int l = 0; l <= 2; ++l)
    p.value[l] = l <= output_l(p) ? s.result({p.n_atoms, 2 * l + 1, p.channels}, dtype) : s.no_result(dtype);
}

void take_gradients(Product& p, Stack& s, int32_t dtype) {
  for (int l = 0; l <= kMaxL; ++l)
    p.gradient[l] = p.x[l] != nullptr ? s.result({p.n_atoms, 2 * l + 1, p.channels}, dtype) : s.no_result(dtype);
}

void take_output_adjoint(Product& p, const Stack& s, int first, int32_t dtype) {
  for (int l = 0; l <= output_l(p); ++l)
    p.adjoint[l] = data_of(s[first + l], p.n_atoms * (2 * l + 1) * p.channels, dtype, "an adjoint");
}

void product(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 7);
  const int32_t dtype = real_type(s[6]);
  Product p = product_of(s, dtype);
  take_values(p, s, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).product(p);
  s.finish();
}

void product_reverse(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 10);
  const int32_t dtype = real_type(s[6]);
  const bool with_weights = s.integer(10) != 0;
  Product p = product_of(s, dtype);
  take_output_adjoint(p, s, 7, dtype);
  take_gradients(p, s, dtype);
  p.weights_adjoint = with_weights ? s.result({p.n_types, p.n_weights, p.channels}, dtype) : s.no_result(dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).product_reverse(p);
  s.finish();
}

void product_second(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 14);
  const int32_t dtype = real_type(s[6]);
  Product p = product_of(s, dtype);
  take_output_adjoint(p, s, 7, dtype);
  for (int l = 0; l <= kMaxL; ++l)
    if (p.x[l] != nullptr) p.x_dot[l] = data_of(s[10 + l], p.n_atoms * (2 * l + 1) * p.channels, dtype, "a tangent");
  take_values(p, s, dtype);
  take_gradients(p, s, dtype);
  p.weights_adjoint = s.result({p.n_types, p.n_weights, p.channels}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).product_second(p);
  s.finish();
}

// ---- geometry

Geometry geometry_of(const Stack& s, int64_t max_ell, int32_t dtype) {
  require(max_ell == 2 || max_ell == 3, "max_ell is ", max_ell, ", not 2 or 3");
  Geometry g{};
  g.graph = graph_of(s[0]);
  g.max_ell = static_cast<int>(max_ell);
  require(s[1].dtype() == dtype && s[1].is_contiguous() && s[1].numel() == 3 * g.graph.n_edges,
          "vectors must be [n_edges, 3]");
  g.vectors = s[1].data();
  return g;
}

int64_t n_harmonics(const Geometry& g) { return (g.max_ell + 1) * (g.max_ell + 1); }

void geometry(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 2);
  const int32_t dtype = real_type(s[1]);
  Geometry g = geometry_of(s, s.integer(2), dtype);
  g.r = s.result({g.graph.n_pairs, 1}, dtype);
  g.y = s.result({g.graph.n_edges, n_harmonics(g)}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).geometry(g);
  s.finish();
}

void geometry_reverse(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 4);
  const int32_t dtype = real_type(s[1]);
  Geometry g = geometry_of(s, s.integer(4), dtype);
  g.r_adjoint = data_of(s[2], g.graph.n_pairs, dtype, "the adjoint of r");
  g.y_adjoint = data_of(s[3], g.graph.n_edges * n_harmonics(g), dtype, "the adjoint of the harmonics");
  g.vectors_adjoint = s.result({g.graph.n_edges, 3}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).geometry_reverse(g);
  s.finish();
}

void geometry_tangent(StableValue* stack, uint64_t, uint64_t) {
  Stack s(stack, 3);
  const int32_t dtype = real_type(s[1]);
  Geometry g = geometry_of(s, s.integer(3), dtype);
  g.vectors_dot = data_of(s[2], 3 * g.graph.n_edges, dtype, "the tangent of the vectors");
  g.r = s.result({g.graph.n_pairs, 1}, dtype);
  g.y = s.result({g.graph.n_edges, n_harmonics(g)}, dtype);
  kernels_for(dtype == torch_abi::dtype_float32()).geometry_tangent(g);
  s.finish();
}

#define MACE_MD_SUM_ARGUMENTS \
  "Tensor graph, Tensor paths, Tensor blocks, Tensor h, Tensor r, Tensor blocks_dot, Tensor h_dot, Tensor r_dot"
#define MACE_MD_PHI_ARGUMENTS "Tensor g0, Tensor g1, Tensor g2, Tensor g3"
#define MACE_MD_PRODUCT_ARGUMENTS \
  "Tensor program, Tensor type_start, Tensor a0, Tensor a1, Tensor a2, Tensor a3, Tensor weights"

constexpr torch_abi::OpDefinition kOps[] = {
    {"train_convolve", "train_convolve(" MACE_MD_SUM_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)", convolve},
    {"train_convolve_reverse",
     "train_convolve_reverse(" MACE_MD_SUM_ARGUMENTS ", " MACE_MD_PHI_ARGUMENTS ", int with_h) -> (Tensor, Tensor)",
     convolve_reverse},
    {"train_convolve_blocks", "train_convolve_blocks(" MACE_MD_SUM_ARGUMENTS ", " MACE_MD_PHI_ARGUMENTS ") -> Tensor",
     convolve_blocks},
    {"train_product", "train_product(" MACE_MD_PRODUCT_ARGUMENTS ") -> (Tensor, Tensor, Tensor)", product},
    {"train_product_reverse",
     "train_product_reverse(" MACE_MD_PRODUCT_ARGUMENTS
     ", Tensor m0, Tensor m1, Tensor m2, int with_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
     product_reverse},
    {"train_product_second",
     "train_product_second(" MACE_MD_PRODUCT_ARGUMENTS
     ", Tensor m0, Tensor m1, Tensor m2, Tensor d0, Tensor d1, Tensor d2, Tensor d3)"
     " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
     product_second},
    {"train_geometry", "train_geometry(Tensor graph, Tensor vectors, int max_ell) -> (Tensor, Tensor)", geometry},
    {"train_geometry_reverse",
     "train_geometry_reverse(Tensor graph, Tensor vectors, Tensor r, Tensor y, int max_ell) -> Tensor",
     geometry_reverse},
    {"train_geometry_tangent",
     "train_geometry_tangent(Tensor graph, Tensor vectors, Tensor vectors_dot, int max_ell) -> (Tensor, Tensor)",
     geometry_tangent},
};

}  // namespace

void register_training_ops(IsaChoice best_isa) {
  choose_isa = best_isa;
  torch_abi::register_ops("mace_md", kOps, static_cast<int>(std::size(kOps)));
}

}  // namespace mace_md::training
