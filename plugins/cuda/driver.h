// The CUDA driver and NVRTC, opened when a CUDA tensor arrives: building needs no CUDA, loading needs no GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mace_md::cuda {

using Result = int;
using DevicePointer = unsigned long long;
using Handle = void*;

// The functions that are called, with the names under which the libraries export them.
#define MACE_MD_DRIVER_FUNCTIONS(X)                                                                         \
  X(Result, init, "cuInit", (unsigned))                                                                     \
  X(Result, error_string, "cuGetErrorString", (Result, const char**))                                       \
  X(Result, device_attribute, "cuDeviceGetAttribute", (int*, int, int))                                     \
  X(Result, retain_context, "cuDevicePrimaryCtxRetain", (Handle*, int))                                     \
  X(Result, push_context, "cuCtxPushCurrent_v2", (Handle))                                                  \
  X(Result, pop_context, "cuCtxPopCurrent_v2", (Handle*))                                                   \
  X(Result, load_module, "cuModuleLoadData", (Handle*, const void*))                                        \
  X(Result, get_function, "cuModuleGetFunction", (Handle*, Handle, const char*))                            \
  X(Result, set_attribute, "cuFuncSetAttribute", (Handle, int, int))                                        \
  X(Result, launch, "cuLaunchKernel",                                                                       \
    (Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**)) \
  X(Result, to_host, "cuMemcpyDtoHAsync_v2", (void*, DevicePointer, size_t, Handle))                        \
  X(Result, to_device, "cuMemcpyHtoDAsync_v2", (DevicePointer, const void*, size_t, Handle))                \
  X(Result, fill, "cuMemsetD8Async", (DevicePointer, unsigned char, size_t, Handle))                        \
  X(Result, synchronize, "cuStreamSynchronize", (Handle))                                                   \
  X(Result, is_capturing, "cuStreamIsCapturing", (Handle, int*))

#define MACE_MD_NVRTC_FUNCTIONS(X)                                                    \
  X(Result, version, "nvrtcVersion", (int*, int*))                                    \
  X(const char*, error_string, "nvrtcGetErrorString", (Result))                       \
  X(Result, n_architectures, "nvrtcGetNumSupportedArchs", (int*))                     \
  X(Result, architectures, "nvrtcGetSupportedArchs", (int*))                          \
  X(Result, create, "nvrtcCreateProgram",                                             \
    (Handle*, const char*, const char*, int, const char* const*, const char* const*)) \
  X(Result, destroy, "nvrtcDestroyProgram", (Handle*))                                \
  X(Result, compile, "nvrtcCompileProgram", (Handle, int, const char* const*))        \
  X(Result, log_size, "nvrtcGetProgramLogSize", (Handle, size_t*))                    \
  X(Result, log, "nvrtcGetProgramLog", (Handle, char*))                               \
  X(Result, cubin_size, "nvrtcGetCUBINSize", (Handle, size_t*))                       \
  X(Result, cubin, "nvrtcGetCUBIN", (Handle, char*))                                  \
  X(Result, ptx_size, "nvrtcGetPTXSize", (Handle, size_t*))                           \
  X(Result, ptx, "nvrtcGetPTX", (Handle, char*))

#define MACE_MD_MEMBER(result, member, name, arguments) result(*member) arguments = nullptr;

struct Driver {
  MACE_MD_DRIVER_FUNCTIONS(MACE_MD_MEMBER)
  bool emulated = false;  // the tests' emulation, which takes memory of the host

  // Throws std::runtime_error with the driver's text when a call fails.
  void check(Result result, const char* what) const;
};

struct Nvrtc {
  MACE_MD_NVRTC_FUNCTIONS(MACE_MD_MEMBER)
  std::string path;
};

#undef MACE_MD_MEMBER

// Where to find the libraries from now on; an empty path stands for the usual places.
void use_libraries(const std::string& driver, const std::string& nvrtc);

// Opened when first asked for; std::runtime_error says what is missing.
const Driver& driver();
const Nvrtc& nvrtc();

// Makes the primary context of a device current, as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  const Driver& driver_;
};

// Compute capability of a device, as 10 * major + minor.
int architecture(int device);

// Its multiprocessors, and the shared memory that a block can ask for, in bytes.
int multiprocessors(int device);
int shared_memory(int device);

}  // namespace mace_md::cuda
