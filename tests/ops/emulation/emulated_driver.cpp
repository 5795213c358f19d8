// The part of the CUDA driver and of NVRTC that plugins/cuda/driver.h names, on a CPU. Programs are compiled by the C++
// compiler; device memory is memory of the host; the threads of a block are fibres that run one at a time, so that a
// block's result can be checked for its dependence on their order (EMULATED_ORDER=reverse).
//
// It is strict where hardware is lenient: all 32 lanes must meet in every warp operation, all threads of a block
// in every barrier, and shared memory starts as NaN.
#include <dlfcn.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct EmulatedIndex {
  unsigned x, y, z;
};
EXPORT EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;
EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

EXPORT int mace_md_emulated_driver;
int mace_md_emulated_driver = 1;

// What the tests look at.
EXPORT long long emulated_counts[4];  // launches, synchronisations, copies, programs compiled
long long emulated_counts[4];
EXPORT long long emulated_launches_of(const char* kernel);
EXPORT int emulated_capturing;
int emulated_capturing = 0;

namespace {

// ---- fibres

constexpr size_t kStack = 256 * 1024;
constexpr int kMostThreads = 1024;

enum class Wait { kNothing, kWarp, kBlock, kDone };

struct Fibre {
  ucontext_t context;
  jmp_buf place;
  bool started;
  Wait wait;
  int parity;  // of its warp operations
};

using Kernel = void (*)(const void*);

Fibre fibres[kMostThreads];
unsigned long long exchanged[kMostThreads / 32][2][32];
char* stacks = nullptr;
constexpr unsigned kDynamicShared = 232448;  // as an H100 has it
alignas(16) char dynamic_shared[kDynamicShared];
jmp_buf scheduler;
int current = 0, n_threads = 0;
Kernel kernel = nullptr;
const void* kernel_arguments = nullptr;
std::string failure;
std::map<std::string, long long> launches_of;

void leave(Wait reason) {
  Fibre& fibre = fibres[current];
  fibre.wait = reason;
  if (_setjmp(fibre.place) == 0) _longjmp(scheduler, 1);
}

void fibre_main() {
  kernel(kernel_arguments);
  fibres[current].wait = Wait::kDone;
  _longjmp(scheduler, 1);
}

void resume(int thread) {
  current = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  Fibre& fibre = fibres[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fibre.started) _longjmp(fibre.place, 1);
  fibre.started = true;
  setcontext(&fibre.context);
}

// Lets go those that wait together; false when some wait for what will not come.
bool release(int begin, int end, Wait kind) {
  int waiting = 0, done = 0;
  for (int t = begin; t < end; ++t) {
    waiting += fibres[t].wait == kind;
    done += fibres[t].wait == Wait::kDone;
  }
  if (waiting < end - begin) return !(waiting > 0 && done > 0);
  for (int t = begin; t < end; ++t) fibres[t].wait = Wait::kNothing;
  return true;
}

bool run_block(bool reverse) {
  for (int t = 0; t < n_threads; ++t) {
    Fibre& fibre = fibres[t];
    fibre.started = false;
    fibre.wait = Wait::kNothing;
    fibre.parity = 0;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stacks + t * kStack;
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
  }
  for (;;) {
    int ran = 0, done = 0;
    for (int k = 0; k < n_threads; ++k) {
      const int t = reverse ? n_threads - 1 - k : k;
      if (fibres[t].wait == Wait::kDone) ++done;
      if (fibres[t].wait != Wait::kNothing) continue;
      resume(t);
      ++ran;
    }
    if (done == n_threads) return true;
    bool good = true;
    for (int t = 0; t < n_threads; t += 32) good = release(t, t + 32, Wait::kWarp) && good;
    good = release(0, n_threads, Wait::kBlock) && good;
    if (!good || ran == 0) {
      failure = "threads of one block wait at different places, or for one that has ended";
      return false;
    }
  }
}

// ---- modules: a shared object in memory

struct Module {
  void* library;
  char *shared_begin, *shared_end;
};

struct Function {
  Kernel kernel;
  Module* module;
  std::string name;
};

struct Program {
  std::string main, code, log;
  std::map<std::string, std::string> headers;
};

}  // namespace

long long emulated_launches_of(const char* name) { return launches_of[name]; }

EXPORT void emulated_block_barrier() { leave(Wait::kBlock); }
EXPORT void* emulated_dynamic_shared() { return dynamic_shared; }

EXPORT const unsigned long long* emulated_exchange(unsigned long long value) {
  Fibre& fibre = fibres[current];
  unsigned long long* slots = exchanged[current / 32][fibre.parity];
  fibre.parity ^= 1;
  slots[current % 32] = value;
  leave(Wait::kWarp);
  return slots;
}

// ---- the driver

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuGetErrorString(int, const char** text) {
  *text = failure.c_str();
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == 16 ? 4 : (which == 97 ? static_cast<int>(kDynamicShared) : 0);  // multiprocessors, shared memory
  return 0;
}
EXPORT int cuFuncSetAttribute(void*, int, int) { return 0; }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
  static int only;
  *context = &only;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void*) { return 0; }
EXPORT int cuCtxPopCurrent_v2(void**) { return 0; }

EXPORT int cuModuleLoadData(void** module, const void* image) {
  // symbols of this library must be visible to the program
  Dl_info self;
  dladdr(reinterpret_cast<void*>(&cuInit), &self);
  dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  unsigned long long size;
  std::memcpy(&size, image, sizeof size);
  char path[] = P_tmpdir "/emulated_module_XXXXXX";
  const int file = mkstemp(path);
  const char* code = static_cast<const char*>(image) + sizeof size;
  if (file < 0 || write(file, code, size) != static_cast<ssize_t>(size)) return 1;
  close(file);
  auto* loaded = new Module{};
  loaded->library = dlopen(path, RTLD_NOW);
  unlink(path);
  if (loaded->library == nullptr) {
    failure = dlerror();
    return 1;
  }
  loaded->shared_begin = *static_cast<char**>(dlsym(loaded->library, "emulated_shared_begin"));
  loaded->shared_end = *static_cast<char**>(dlsym(loaded->library, "emulated_shared_end"));
  *module = loaded;
  return 0;
}

EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  auto* from = static_cast<Module*>(module);
  auto address = reinterpret_cast<Kernel>(dlsym(from->library, name));
  if (address == nullptr) {
    failure = std::string("no kernel ") + name;
    return 1;
  }
  *function = new Function{address, from, name};
  return 0;
}

EXPORT int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void*, void** parameters, void**) {
  ++emulated_counts[0];
  const auto& f = *static_cast<Function*>(function);
  ++launches_of[f.name];
  if (by != 1 || bz != 1 || bx % 32 != 0 || bx == 0 || bx > kMostThreads || gx == 0 || gy == 0 || gz == 0 ||
      gy > 65535 || gz > 65535 || shared > kDynamicShared) {
    failure = "the launch of " + f.name + " has a shape that is not allowed";
    return 1;
  }
  if (stacks == nullptr)
    stacks = static_cast<char*>(mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  const char* order = std::getenv("EMULATED_ORDER");
  const bool reverse = order != nullptr && std::strcmp(order, "reverse") == 0;
  kernel = f.kernel;
  kernel_arguments = parameters[0];
  blockDim = {bx, by, bz};
  gridDim = {gx, gy, gz};
  n_threads = static_cast<int>(bx);
  const unsigned long long n_blocks = 1ull * gx * gy * gz;
  for (unsigned long long k = 0; k < n_blocks; ++k) {
    const unsigned long long b = reverse ? n_blocks - 1 - k : k;
    blockIdx = {static_cast<unsigned>(b % gx), static_cast<unsigned>(b / gx % gy), static_cast<unsigned>(b / gx / gy)};
    std::memset(f.module->shared_begin, 0xff, f.module->shared_end - f.module->shared_begin);
    std::memset(dynamic_shared, 0xff, shared);
    if (!run_block(reverse)) {
      failure += " (in " + f.name + ")";
      return 1;
    }
  }
  return 0;
}

EXPORT int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t size, void*) {
  ++emulated_counts[2];
  std::memcpy(to, reinterpret_cast<void*>(from), size);
  return 0;
}
EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t size, void*) {
  ++emulated_counts[2];
  std::memcpy(reinterpret_cast<void*>(to), from, size);
  return 0;
}
EXPORT int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t size, void*) {
  std::memset(reinterpret_cast<void*>(to), value, size);
  return 0;
}
EXPORT int cuStreamSynchronize(void*) {
  ++emulated_counts[1];
  return 0;
}
EXPORT int cuStreamIsCapturing(void*, int* state) {
  *state = emulated_capturing;
  return 0;
}

// ---- NVRTC

EXPORT int nvrtcVersion(int* major, int* minor) {
  *major = 0;
  *minor = EMULATION_VERSION;  // of these files: what an older emulation compiled is not taken from the cache
  return 0;
}
EXPORT const char* nvrtcGetErrorString(int) { return "the C++ compiler failed"; }
EXPORT int nvrtcGetNumSupportedArchs(int* n) {
  *n = 1;
  return 0;
}
EXPORT int nvrtcGetSupportedArchs(int* architectures) {
  architectures[0] = 0;
  return 0;
}
EXPORT int nvrtcCreateProgram(void** program, const char* source, const char*, int n, const char* const* texts,
                              const char* const* names) {
  auto* made = new Program;
  made->main = source;
  for (int i = 0; i < n; ++i) made->headers[names[i]] = texts[i];
  *program = made;
  return 0;
}
EXPORT int nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  return 0;
}

EXPORT int nvrtcCompileProgram(void* program, int, const char* const*) {
  ++emulated_counts[3];
  auto& p = *static_cast<Program*>(program);
  char folder[] = P_tmpdir "/emulated_program_XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  const std::string base = std::string(folder) + "/";
  for (const auto& [name, text] : p.headers) std::ofstream(base + name) << text;
  std::ofstream(base + "program.cpp") << "#define MACE_MD_EMULATION 1\n" << p.main << R"(
extern "C" char __start_emulated_shared[], __stop_emulated_shared[];
extern "C" {
__attribute__((visibility("default"))) char* emulated_shared_begin = __start_emulated_shared;
__attribute__((visibility("default"))) char* emulated_shared_end = __stop_emulated_shared;
}
)";
  const std::string command = std::string("c++ -std=c++17 -O0 -shared -fPIC -fvisibility=hidden -w -I") + folder +
                              " -I" EMULATION_FOLDER " " + base + "program.cpp -o " + base + "program.so > " + base +
                              "log 2>&1";
  const int status = std::system(command.c_str());
  auto read = [&](const char* name) {
    std::ifstream file(base + name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  p.log = read("log");
  const std::string library = read("program.so");
  const unsigned long long size = library.size();
  p.code.assign(reinterpret_cast<const char*>(&size), sizeof size);
  p.code += library;
  if (std::getenv("EMULATED_KEEP") == nullptr && std::system(("rm -r " + std::string(folder)).c_str()) != 0) return 1;
  return status == 0 ? 0 : 6;
}

EXPORT int nvrtcGetProgramLogSize(void* program, size_t* size) {
  *size = static_cast<Program*>(program)->log.size() + 1;
  return 0;
}
EXPORT int nvrtcGetProgramLog(void* program, char* log) {
  std::strcpy(log, static_cast<Program*>(program)->log.c_str());
  return 0;
}
EXPORT int nvrtcGetCUBINSize(void* program, size_t* size) {
  *size = static_cast<Program*>(program)->code.size();
  return 0;
}
EXPORT int nvrtcGetCUBIN(void* program, char* code) {
  const auto& p = *static_cast<Program*>(program);
  std::memcpy(code, p.code.data(), p.code.size());
  return 0;
}
EXPORT int nvrtcGetPTXSize(void*, size_t*) { return 1; }
EXPORT int nvrtcGetPTX(void*, char*) { return 1; }
