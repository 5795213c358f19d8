#include "driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace mace_md::cuda {
namespace {

struct Paths {
  std::string driver, nvrtc;
};

Paths& chosen() {
  static Paths paths;
  return paths;
}

std::mutex& lock() {
  static std::mutex mutex;
  return mutex;
}

// torch's CUDA packages lie beside torch itself: .../torch/lib/libtorch_cpu.so -> .../nvidia/*/lib.
std::string packages_folder() {
  void* symbol = dlsym(RTLD_DEFAULT, "aoti_torch_device_type_cpu");
  if (symbol == nullptr) {
    if (void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD))
      symbol = dlsym(torch, "aoti_torch_device_type_cpu");
  }
  Dl_info info;
  if (symbol == nullptr || dladdr(symbol, &info) == 0 || info.dli_fname == nullptr) return "";
  std::string path = info.dli_fname;
  for (int i = 0; i < 3; ++i) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return "";
    path.resize(slash);
  }
  return path;
}

std::vector<std::string> nvrtc_candidates() {
  if (!chosen().nvrtc.empty()) return {chosen().nvrtc};
  std::vector<std::string> names = {"libnvrtc.so.13", "libnvrtc.so.12"}, all;
  const std::string packages = packages_folder();
  if (!packages.empty()) {
    all.push_back(packages + "/nvidia/cu13/lib/libnvrtc.so.13");
    all.push_back(packages + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    for (const std::string& name : names) all.push_back(packages + "/../../" + name);  // of a conda environment
  }
  all.insert(all.end(), names.begin(), names.end());
  all.push_back("/usr/local/cuda/lib64/libnvrtc.so");
  return all;
}

void* function(void* library, const char* name, const char* what) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) throw std::runtime_error(std::string("mace_md: ") + what + " does not have " + name);
  return symbol;
}

Driver open_driver() {
  const std::string path = chosen().driver.empty() ? "libcuda.so.1" : chosen().driver;
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr)
    throw std::runtime_error("mace_md: the CUDA driver cannot be opened (" + path +
                             "): install the NVIDIA driver, or use kernels='reference'");
  Driver loaded;
#define MACE_MD_LOAD(result, member, name, arguments) \
  loaded.member = reinterpret_cast<result(*) arguments>(function(library, name, "the CUDA driver"));
  MACE_MD_DRIVER_FUNCTIONS(MACE_MD_LOAD)
  loaded.emulated = dlsym(library, "mace_md_emulated_driver") != nullptr;
  loaded.check(loaded.init(0), "starting the driver");
  return loaded;
}

Nvrtc open_nvrtc() {
  for (const std::string& path : nvrtc_candidates()) {
    void* library = dlopen(path.c_str(), RTLD_NOW);
    if (library == nullptr) continue;
    Nvrtc loaded;
    MACE_MD_NVRTC_FUNCTIONS(MACE_MD_LOAD)
#undef MACE_MD_LOAD
    loaded.path = path;
    return loaded;
  }
  throw std::runtime_error(
      "mace_md: NVRTC, which compiles the kernels, was not found. It comes with torch's CUDA packages: install "
      "nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12, or use kernels='reference'");
}

}  // namespace

void Driver::check(Result result, const char* what) const {
  if (result == 0) return;
  const char* text = nullptr;
  if (error_string(result, &text) != 0 || text == nullptr) text = "unknown error";
  throw std::runtime_error(std::string("mace_md: CUDA error while ") + what + ": " + text);
}

void use_libraries(const std::string& driver, const std::string& nvrtc) {
  std::lock_guard<std::mutex> guard(lock());
  chosen() = {driver, nvrtc};
}

const Driver& driver() {
  static std::map<std::string, Driver> opened;  // by path; never closed
  std::lock_guard<std::mutex> guard(lock());
  auto found = opened.find(chosen().driver);
  return found != opened.end() ? found->second : opened.emplace(chosen().driver, open_driver()).first->second;
}

const Nvrtc& nvrtc() {
  static std::map<std::string, Nvrtc> opened;
  std::lock_guard<std::mutex> guard(lock());
  auto found = opened.find(chosen().nvrtc);
  return found != opened.end() ? found->second : opened.emplace(chosen().nvrtc, open_nvrtc()).first->second;
}

CurrentDevice::CurrentDevice(int index) : driver_(driver()) {
  static std::mutex mutex;
  static std::map<std::pair<const Driver*, int>, Handle> contexts;
  std::lock_guard<std::mutex> guard(mutex);
  Handle& context = contexts[{&driver_, index}];
  if (context == nullptr) driver_.check(driver_.retain_context(&context, index), "taking the device's context");
  driver_.check(driver_.push_context(context), "entering the device's context");
}

CurrentDevice::~CurrentDevice() {
  Handle context;
  driver_.pop_context(&context);
}

namespace {

int attribute(int which, int device) {  // CU_DEVICE_ATTRIBUTE_*
  int value = 0;
  driver().check(driver().device_attribute(&value, which, device), "asking for the device's properties");
  return value;
}

}  // namespace

int architecture(int device) { return 10 * attribute(75, device) + attribute(76, device); }
int multiprocessors(int device) { return attribute(16, device); }
int shared_memory(int device) { return attribute(97, device); }

}  // namespace mace_md::cuda
