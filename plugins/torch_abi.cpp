#include "torch_abi.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>

namespace mace_md::torch_abi {
namespace {

using Status = int32_t;
using Library = void*;

// The interface version that our calls follow: torch 2.10, the first release that exports all of these.
constexpr uint64_t kInterfaceVersion = (uint64_t{2} << 56) | (uint64_t{10} << 48);

#define MACE_MD_TORCH_SYMBOLS(X)                                                                       \
  X(Status, aoti_torch_delete_tensor_object, (TensorHandle))                                           \
  X(Status, aoti_torch_get_data_ptr, (TensorHandle, void**))                                           \
  X(Status, aoti_torch_get_dim, (TensorHandle, int64_t*))                                              \
  X(Status, aoti_torch_get_numel, (TensorHandle, int64_t*))                                            \
  X(Status, aoti_torch_get_size, (TensorHandle, int64_t, int64_t*))                                    \
  X(Status, aoti_torch_get_dtype, (TensorHandle, int32_t*))                                            \
  X(Status, aoti_torch_get_device_type, (TensorHandle, int32_t*))                                      \
  X(Status, aoti_torch_get_device_index, (TensorHandle, int32_t*))                                     \
  X(Status, aoti_torch_is_contiguous, (TensorHandle, bool*))                                           \
  X(Status, aoti_torch_new_tensor_handle, (TensorHandle, TensorHandle*))                               \
  X(Status, aoti_torch_empty_strided,                                                                  \
    (int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, TensorHandle*))               \
  X(int32_t, aoti_torch_device_type_cpu, ())                                                           \
  X(int32_t, aoti_torch_device_type_cuda, ())                                                          \
  X(int32_t, aoti_torch_dtype_float32, ())                                                             \
  X(int32_t, aoti_torch_dtype_float64, ())                                                             \
  X(int32_t, aoti_torch_dtype_int32, ())                                                               \
  X(int32_t, aoti_torch_dtype_int64, ())                                                               \
  X(int32_t, aoti_torch_dtype_uint8, ())                                                               \
  X(Status, aoti_torch_library_init_fragment, (const char*, const char*, uint32_t, Library*))          \
  X(Status, aoti_torch_library_init_impl, (const char*, const char*, const char*, uint32_t, Library*)) \
  X(Status, aoti_torch_library_def, (Library, const char*))                                            \
  X(Status, torch_library_impl, (Library, const char*, Kernel, uint64_t))                              \
  X(Status, torch_call_dispatcher, (const char*, const char*, StableValue*, uint64_t))                 \
  X(Status, torch_parallel_for, (int64_t, int64_t, int64_t, ParallelBody, void*))                      \
  X(Status, torch_get_num_threads, (uint32_t*))

#define MACE_MD_DECLARE(result, name, arguments) result(*name) arguments = nullptr;
MACE_MD_TORCH_SYMBOLS(MACE_MD_DECLARE)
#undef MACE_MD_DECLARE

void check(Status status, const char* call) {
  if (status != 0) throw std::runtime_error(std::string("mace_md: torch reported an error in ") + call);
}

StableValue as_value(void* pointer) { return reinterpret_cast<StableValue>(pointer); }

}  // namespace

void resolve() {
  // torch is already in the process (Python imported it, or the host linked it): no second copy may be loaded.
#ifdef __APPLE__
  void* torch = dlopen("libtorch_cpu.dylib", RTLD_LAZY | RTLD_NOLOAD);
#else
  void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
#endif
  if (torch == nullptr) torch = RTLD_DEFAULT;
#define MACE_MD_RESOLVE(result, name, arguments)                     \
  name = reinterpret_cast<result(*) arguments>(dlsym(torch, #name)); \
  if (name == nullptr)                                               \
    throw std::runtime_error("this torch does not export " #name     \
                             ": the native kernels need torch 2.10 or newer, loaded before them");
  MACE_MD_TORCH_SYMBOLS(MACE_MD_RESOLVE)
#undef MACE_MD_RESOLVE
}

Tensor::~Tensor() {
  if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
}

Tensor Tensor::empty(int64_t n_dims, const int64_t* sizes, int32_t dtype, Device device) {
  int64_t strides[8];
  int64_t stride = 1;
  for (int64_t d = n_dims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= sizes[d];
  }
  TensorHandle handle = nullptr;
  const int32_t type = device.cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
  check(aoti_torch_empty_strided(n_dims, sizes, strides, dtype, type, device.index, &handle), "empty_strided");
  return Tensor(handle);
}

int64_t Tensor::dim() const {
  int64_t result = 0;
  check(aoti_torch_get_dim(handle_, &result), "get_dim");
  return result;
}

int64_t Tensor::numel() const {
  int64_t result = 0;
  check(aoti_torch_get_numel(handle_, &result), "get_numel");
  return result;
}

int64_t Tensor::size(int64_t dimension) const {
  int64_t result = 0;
  check(aoti_torch_get_size(handle_, dimension, &result), "get_size");
  return result;
}

int32_t Tensor::dtype() const {
  int32_t result = 0;
  check(aoti_torch_get_dtype(handle_, &result), "get_dtype");
  return result;
}

bool Tensor::on_cpu() const {
  int32_t result = 0;
  check(aoti_torch_get_device_type(handle_, &result), "get_device_type");
  return result == aoti_torch_device_type_cpu();
}

bool Tensor::on_cuda() const {
  int32_t result = 0;
  check(aoti_torch_get_device_type(handle_, &result), "get_device_type");
  return result == aoti_torch_device_type_cuda();
}

Device Tensor::device() const {
  Device device;
  device.cuda = on_cuda();
  if (device.cuda) check(aoti_torch_get_device_index(handle_, &device.index), "get_device_index");
  return device;
}

bool Tensor::is_contiguous() const {
  bool result = false;
  check(aoti_torch_is_contiguous(handle_, &result), "is_contiguous");
  return result;
}

void* Tensor::data() const {
  void* result = nullptr;
  check(aoti_torch_get_data_ptr(handle_, &result), "get_data_ptr");
  return result;
}

void Tensor::resize(int64_t size) {
  Tensor larger = Tensor::empty(1, &size, dtype());
  std::memcpy(larger.data(), data(), static_cast<size_t>(std::min(size, numel())));
  become(std::move(larger));
}

void Tensor::become(Tensor other) {
  // Not aten::resize_: the storage of a tensor that torch.jit.load made cannot be resized, but it can be replaced.
  TensorHandle self = nullptr;
  check(aoti_torch_new_tensor_handle(handle_, &self), "new_tensor_handle");
  StableValue stack[2] = {as_value(self), as_value(other.release())};  // the call owns them
  check(torch_call_dispatcher("aten::set_", "source_Tensor", stack, kInterfaceVersion), "set_");
  Tensor result(reinterpret_cast<TensorHandle>(stack[0]));
}

TensorHandle Tensor::release() {
  TensorHandle handle = handle_;
  handle_ = nullptr;
  return handle;
}

int32_t dtype_float32() { return aoti_torch_dtype_float32(); }
int32_t dtype_float64() { return aoti_torch_dtype_float64(); }
int32_t dtype_int32() { return aoti_torch_dtype_int32(); }
int32_t dtype_int64() { return aoti_torch_dtype_int64(); }
int32_t dtype_uint8() { return aoti_torch_dtype_uint8(); }

int thread_count() {
  uint32_t count = 1;
  check(torch_get_num_threads(&count), "get_num_threads");
  return static_cast<int>(count);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  check(torch_parallel_for(begin, end, grain, body, context), "parallel_for");
}

void* current_stream(int32_t device) {
  using Function = Status (*)(int32_t, void**);
  static const Function function = [] {
    void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Function>(
        dlsym(torch == nullptr ? RTLD_DEFAULT : torch, "aoti_torch_get_current_cuda_stream"));
  }();
  if (function == nullptr) throw std::runtime_error("mace_md: this torch was built without CUDA");
  void* stream = nullptr;
  check(function(device, &stream), "get_current_cuda_stream");
  return stream;
}

void register_ops(const char* library, const OpDefinition* ops, int n_ops) {
  // The handles are kept for ever: deleting them would take the ops back.
  Library definitions = nullptr;
  Library cpu = nullptr;
  Library cuda = nullptr;
  check(aoti_torch_library_init_fragment(library, __FILE__, __LINE__, &definitions), "library_init_fragment");
  check(aoti_torch_library_init_impl(library, "CPU", __FILE__, __LINE__, &cpu), "library_init_impl");
  check(aoti_torch_library_init_impl(library, "CUDA", __FILE__, __LINE__, &cuda), "library_init_impl");
  for (int i = 0; i < n_ops; ++i) {
    check(aoti_torch_library_def(definitions, ops[i].schema), ops[i].name);
    check(torch_library_impl(cpu, ops[i].name, ops[i].cpu, kInterfaceVersion), ops[i].name);
    if (ops[i].cuda != nullptr)
      check(torch_library_impl(cuda, ops[i].name, ops[i].cuda, kInterfaceVersion), ops[i].name);
  }
}

TensorHandle take_optional(StableValue value) {
  if (value == 0) return nullptr;
  auto* boxed = reinterpret_cast<StableValue*>(value);  // allocated by torch with `new`, ours to free
  auto handle = reinterpret_cast<TensorHandle>(*boxed);
  delete boxed;
  return handle;
}

}  // namespace mace_md::torch_abi
