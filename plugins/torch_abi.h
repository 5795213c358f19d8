// The part of torch's stable C interface that the op needs, declared here and resolved when the library is loaded.
//
// These functions are exported by libtorch_cpu with C linkage and are documented as stable from torch 2.10 on
// (torch/csrc/stable/c/shim.h, torch/csrc/inductor/aoti_torch/c/shim.h). Declaring the twenty of them that we call,
// instead of including torch's headers, means that building needs no torch and that one binary serves every torch that
// has them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mace_md::torch_abi {

using TensorHandle = void*;
using StableValue = uint64_t;  // one argument or result on the boxed stack

// Resolves every symbol; throws std::runtime_error naming the first one that this torch does not have.
void resolve();

struct Device {
  bool cuda = false;
  int32_t index = 0;
};

// A tensor argument or a new tensor. Owns one reference.
class Tensor {
 public:
  explicit Tensor(TensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor();

  // A new tensor with uninitialised contents.
  static Tensor empty(int64_t n_dims, const int64_t* sizes, int32_t dtype, Device device = {});

  int64_t dim() const;
  int64_t numel() const;
  int64_t size(int64_t dimension) const;
  int32_t dtype() const;
  bool on_cpu() const;
  bool on_cuda() const;
  Device device() const;
  bool is_contiguous() const;
  void* data() const;
  template <class T>
  T* data_as() const {
    return static_cast<T*>(data());
  }

  // Gives a 1-d tensor on the CPU another size in place; contents up to the smaller size are kept.
  void resize(int64_t size);
  // Makes this tensor one with the storage and shape of another.
  void become(Tensor other);
  TensorHandle release();

 private:
  TensorHandle handle_;
};

int32_t dtype_float32();
int32_t dtype_float64();
int32_t dtype_int32();
int32_t dtype_int64();
int32_t dtype_uint8();

// torch's own thread pool: no second OpenMP runtime is loaded and torch.set_num_threads holds here too.
int thread_count();
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

// The stream on which torch queues work for a CUDA device.
void* current_stream(int32_t device);

using Kernel = void (*)(StableValue* stack, uint64_t n_arguments, uint64_t n_results);
struct OpDefinition {
  const char* name;
  const char* schema;
  Kernel cpu;
  Kernel cuda = nullptr;
};
// Defines the ops in namespace `library` and gives each its kernels. The registration lives as long as the process.
void register_ops(const char* library, const OpDefinition* ops, int n_ops);

// Takes the value of an optional tensor argument off the stack: a handle, or null.
TensorHandle take_optional(StableValue value);

}  // namespace mace_md::torch_abi
