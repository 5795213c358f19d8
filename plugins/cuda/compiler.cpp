#include "compiler.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "driver.h"

namespace mace_md::cuda {
namespace {

uint64_t hash(const std::string& text, uint64_t state) {  // FNV-1a
  for (unsigned char c : text) state = (state ^ c) * 0x100000001b3ull;
  return state;
}

std::string hexadecimal(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// A file of the cache: kFileMagic, hash of the code, the code.
constexpr uint64_t kFileMagic = 0x31'6e'69'62'75'63'4d'4d, kSeed = 0xcbf29ce484222325ull;

std::string read_cached(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t head[2];
  if (!file.read(reinterpret_cast<char*>(head), sizeof head)) return "";
  std::stringstream rest;
  rest << file.rdbuf();
  std::string code = rest.str();
  return head[0] == kFileMagic && head[1] == hash(code, kSeed) ? code : "";  // a damaged file is compiled again
}

void make_folders(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    mkdir(path.substr(0, slash).c_str(), 0777);
  mkdir(path.c_str(), 0777);
}

// A cache that cannot be written costs time, not the run.
void write_cached(const std::string& folder, const std::string& path, const std::string& code) {
  make_folders(folder);
  std::string temporary = path + ".XXXXXX";
  const int descriptor = mkstemp(temporary.data());
  if (descriptor < 0) return;
  const uint64_t head[2] = {kFileMagic, hash(code, kSeed)};
  FILE* file = fdopen(descriptor, "wb");
  bool good = file != nullptr && fwrite(head, sizeof head, 1, file) == 1 &&
              fwrite(code.data(), 1, code.size(), file) == code.size();
  if (file == nullptr)
    close(descriptor);
  else
    good = fclose(file) == 0 && good;
  if (!good || rename(temporary.c_str(), path.c_str()) != 0) unlink(temporary.c_str());
}

struct Target {
  int architecture;
  bool machine_code;  // else PTX, which the driver compiles
};

Target target_for(int architecture) {
  int n = 0;
  std::vector<int> known;
  if (nvrtc().n_architectures(&n) == 0 && n > 0) {
    known.resize(n);
    if (nvrtc().architectures(known.data()) != 0) known.clear();
  }
  if (known.empty() || std::find(known.begin(), known.end(), architecture) != known.end()) return {architecture, true};
  int best = 0;
  for (int candidate : known)
    if (candidate < architecture) best = std::max(best, candidate);
  if (best == 0)
    throw std::runtime_error("mace_md: this NVRTC (" + nvrtc().path + ") has no code for compute capability " +
                             std::to_string(architecture / 10) + "." + std::to_string(architecture % 10) +
                             ": use kernels='reference', or a torch for an older CUDA");
  return {best, false};
}

std::vector<std::string> options(const Target& target) {
  return {std::string("--gpu-architecture=") + (target.machine_code ? "sm_" : "compute_") +
              std::to_string(target.architecture),
          "--std=c++17", "-default-device", "--fmad=true"};
}

void check(Result result, const char* what) {
  if (result != 0)
    throw std::runtime_error(std::string("mace_md: NVRTC error while ") + what + ": " + nvrtc().error_string(result));
}

struct NvrtcProgram {
  Handle handle = nullptr;
  ~NvrtcProgram() {
    if (handle != nullptr) nvrtc().destroy(&handle);
  }
};

std::string compile_now(const Program& source, const Target& target) {
  std::vector<const char*> names, texts, flags;
  for (const SourceFile& file : source.headers) {
    names.push_back(file.name.c_str());
    texts.push_back(file.text.c_str());
  }
  const std::vector<std::string> all = options(target);
  for (const std::string& option : all) flags.push_back(option.c_str());
  NvrtcProgram program;
  check(nvrtc().create(&program.handle, source.main.c_str(), "mace_md.cu", static_cast<int>(names.size()), texts.data(),
                       names.data()),
        "reading the source");
  const Result result = nvrtc().compile(program.handle, static_cast<int>(flags.size()), flags.data());
  if (result != 0) {
    size_t size = 0;
    std::string log;
    if (nvrtc().log_size(program.handle, &size) == 0) {
      log.resize(size);
      nvrtc().log(program.handle, log.data());
    }
    throw std::runtime_error("mace_md: the kernels do not compile for sm_" + std::to_string(target.architecture) +
                             " with " + nvrtc().path + ": " + nvrtc().error_string(result) + "\n" + log.c_str());
  }
  size_t size = 0;
  std::string code;
  if (target.machine_code) {
    check(nvrtc().cubin_size(program.handle, &size), "reading the code");
    code.resize(size);
    check(nvrtc().cubin(program.handle, code.data()), "reading the code");
  } else {
    check(nvrtc().ptx_size(program.handle, &size), "reading the code");
    code.resize(size);
    check(nvrtc().ptx(program.handle, code.data()), "reading the code");
  }
  return code;
}

std::string cache_key(const Program& source, const Target& target) {
  int major = 0, minor = 0;
  check(nvrtc().version(&major, &minor), "asking for its version");
  std::string text = std::to_string(major) + "." + std::to_string(minor) + "\n" + source.main;
  for (const std::string& option : options(target)) text += option + "\n";
  for (const SourceFile& file : source.headers) text += file.name + "\n" + file.text;
  return hexadecimal(hash(text, kSeed)) + hexadecimal(hash(text, ~kSeed));
}

}  // namespace

std::string cache_folder() {
  auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::string folder = variable("MACE_MD_CACHE");
  const std::string home = variable("HOME");
  if (!folder.empty()) return folder[0] == '~' ? home + folder.substr(1) : folder;
  folder = variable("XDG_CACHE_HOME");
  if (!folder.empty()) return folder + "/mace-md";
  return home.empty() ? "" : home + "/.cache/mace-md";
}

std::string compile(const Program& program, int architecture) {
  const Target target = target_for(architecture);
  const std::string cache = cache_folder();
  if (cache.empty()) return compile_now(program, target);
  const std::string folder = cache + "/kernels", path = folder + "/" + cache_key(program, target) + ".cubin";
  std::string code = read_cached(path);
  if (!code.empty()) return code;
  code = compile_now(program, target);
  write_cached(folder, path, code);
  return code;
}

}  // namespace mace_md::cuda
