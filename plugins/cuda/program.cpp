#include "program.h"

#include <cstdio>
#include <stdexcept>

#include "arguments.h"
#include "embedded.h"

#define MACE_MD_TARGET cuda_host
#include "../paths.h"

namespace mace_md::cuda {
namespace {

using cuda_host::Path;
using cuda_host::PathTable;

// Calls body(path table) for a model's shape.
template <class Body>
void with_paths(int max_ell, int max_L, Body&& body) {
  switch (10 * max_ell + max_L) {
    case 20:
      return body(PathTable<2, 0>::value);
    case 21:
      return body(PathTable<2, 1>::value);
    case 22:
      return body(PathTable<2, 2>::value);
    case 30:
      return body(PathTable<3, 0>::value);
    case 31:
      return body(PathTable<3, 1>::value);
    case 32:
      return body(PathTable<3, 2>::value);
  }
  throw std::runtime_error("mace_md::energy_forces: no kernels for max_ell = " + std::to_string(max_ell) +
                           ", max_L = " + std::to_string(max_L));
}

std::string number(int64_t value) { return std::to_string(value); }

std::string exact(double value) {  // hexadecimal: nothing is rounded
  char text[64];
  std::snprintf(text, sizeof text, "Real(%a)", value);
  return text;
}

double coupling_value(const Blob& blob, int64_t i) {
  return blob[kPrecision] == 4 ? blob.section<float>(kClebschValues)[i] : blob.section<double>(kClebschValues)[i];
}

const char* const kOpen = "#pragma once\n#include \"device.h\"\nnamespace mace_md {\nnamespace MACE_MD_TARGET {\n";
const char* const kClose = "}  // namespace MACE_MD_TARGET\n}  // namespace mace_md\n";

// Coupling<path>: rows [2 l1 + 1][2 l2 + 1] of a path to its components [2 l3 + 1] and back.
std::string couplings(const Blob& blob) {
  std::string text = kOpen;
  text += "template <int PATH> struct Coupling;\n";
  const int32_t* entries = blob.section<int32_t>(kClebsch);
  const int64_t n = blob.count(kClebschValues);
  with_paths(static_cast<int>(blob[kMaxEll]), static_cast<int>(blob[kMaxL]), [&](const auto& table) {
    for (int p = 0; p < table.count; ++p) {
      const Path& path = table.path[p];
      const int n_rows = (2 * path.l1 + 1) * (2 * path.l2 + 1), n_components = 2 * path.l3 + 1;
      std::vector<std::string> forward(n_components, "0"), reverse(n_rows, "0");
      for (int64_t i = 0; i < n; ++i) {
        const int row = entries[2 * i] - path.row, component = entries[2 * i + 1] - path.component;
        if (row < 0 || row >= n_rows) continue;
        if (component < 0 || component >= n_components)
          throw std::runtime_error("mace_md::energy_forces: the couplings of the packed model are damaged");
        const std::string value = exact(coupling_value(blob, i));
        forward[component] += " + " + value + " * rows[" + number(row) + "]";
        reverse[row] += " + " + value + " * phi[" + number(component) + "]";
      }
      text += "template <> struct Coupling<" + number(p) + "> {\n";
      text += "  static MACE_MD_INLINE void forward(const Real* rows, Real* phi) {\n";
      for (int m = 0; m < n_components; ++m) text += "    phi[" + number(m) + "] = " + forward[m] + ";\n";
      text += "  }\n  static MACE_MD_INLINE void reverse(const Real* phi, Real* rows) {\n";
      for (int m = 0; m < n_rows; ++m) text += "    rows[" + number(m) + "] = " + reverse[m] + ";\n";
      text += "  }\n};\n";
    }
  });
  return text + kClose;
}

// Writes one polynomial, or its gradient, from the program that polynomial.h describes.
class PolynomialWriter {
 public:
  PolynomialWriter(const int32_t* program, const std::string& name) : program_(program), name_(name) {}

  std::string value() {
    start("(const Real* w, const Values* x, Values* m)");
    for (int o = 0; o < next_; ++o) line("set(m[" + number(o) + "], 0);");
    terms(false);
    return finish();
  }

  std::string gradient(int n_components) {
    start("_gradient(const Real* w, const Values* x, const Values* up, Values* g)");
    for (int i = 0; i < n_components; ++i) line("set(g[" + number(i) + "], 0);");
    terms(true);
    return finish();
  }

 private:
  const int32_t* program_;
  const int32_t* at_ = nullptr;
  std::string name_, text_;
  int weight_ = 0, next_ = 0;

  void line(const std::string& s) { text_ += "  " + s + "\n"; }
  std::string weight() { return "w[" + number(weight_++) + " * C]"; }
  static std::string x(int i) { return "x[" + number(i) + "]"; }
  static std::string g(int i) { return "g[" + number(i) + "]"; }

  void start(const std::string& arguments) {
    text_ = "static MACE_MD_INLINE void " + name_ + arguments + " {\n";
    weight_ = 0;
    next_ = program_[0];
    at_ = program_ + 3;
  }

  std::string finish() { return text_ + "}\n"; }

  void terms(bool gradient) {
    for (int i = 0; i < program_[1]; ++i, at_ += 2) {
      const std::string out = number(at_[0]);
      line(gradient ? "add(" + g(at_[1]) + ", " + weight() + ", up[" + out + "]);"
                    : "add(m[" + out + "], " + weight() + ", " + x(at_[1]) + ");");
    }
    for (int i = 0; i < program_[2]; ++i) pair(gradient);
  }

  void pair(bool gradient) {
    const int a = at_[0], b = at_[1], n_groups = at_[2];
    at_ += 3;
    line("{");
    line("const Values pair = product(" + x(a) + ", " + x(b) + ");");
    if (gradient) line("Values pair_adjoint; set(pair_adjoint, 0);");
    for (int i = 0; i < n_groups; ++i) group(gradient);
    if (gradient) {
      line("add(" + g(a) + ", pair_adjoint, " + x(b) + ");");
      line("add(" + g(b) + ", pair_adjoint, " + x(a) + ");");
    }
    line("}");
  }

  void group(bool gradient) {
    const std::string out = number(at_[0]);
    const bool quadratic = at_[1] != 0;
    const int n_cubic = at_[2];
    at_ += 3;
    line("{");
    line("Values inner; set(inner, " + (quadratic ? weight() : "0") + ");");
    if (gradient && n_cubic > 0) line("const Values scaled = product(up[" + out + "], pair);");
    for (int k = 0; k < n_cubic; ++k, ++at_) {
      const std::string w = weight();
      line("add(inner, " + w + ", " + x(*at_) + ");");
      if (gradient) line("add(" + g(*at_) + ", " + w + ", scaled);");
    }
    line(gradient ? "add(pair_adjoint, up[" + out + "], inner);" : "add(m[" + out + "], pair, inner);");
    line("}");
  }
};

std::string polynomials(const Blob& blob) {
  const int n_components = static_cast<int>((blob[kMaxEll] + 1) * (blob[kMaxEll] + 1));
  std::string text = kOpen;
  for (int layer = 0; layer < 2; ++layer) {
    PolynomialWriter writer(blob.section<int32_t>(layer ? kProgram1 : kProgram0),
                            layer ? "polynomial1" : "polynomial0");
    text += writer.value() + writer.gradient(n_components);
  }
  return text + kClose;
}

std::string defines(const Blob& blob, bool fused, bool small) {
  const int64_t types = blob[kTypes], channels = blob[kChannels];
  const bool density0 = blob.count(kDensity0) > 0, density1 = blob.count(kDensity1) > 0;
  std::string text;
  auto define = [&](const char* name, const std::string& value) {
    text += std::string("#define MACE_MD_") + name + " " + value + "\n";
  };
  define("REAL", blob[kPrecision] == 4 ? "float" : "double");
  define("ELL", number(blob[kMaxEll]));
  define("L", number(blob[kMaxL]));
  define("CHANNELS", number(channels));
  define("CONV_CHANNELS", number(blob[kConvChannels]));
  define("TYPES", number(types));
  define("ROWS", number(blob[kRows]));
  define("WEIGHTS0", number(blob.count(kWeights0) / (types * channels)));
  define("WEIGHTS1", number(blob.count(kWeights1) / (types * channels)));
  define("MLP", number(blob[kMlp]));
  define("GATE", number(blob[kGate]));
  define("BY_SENDER0", number(blob[kRadial0BySender] != 0));
  define("BY_PAIR1", number(blob[kRadial1ByPair] != 0));
  define("MIX_BY_TYPE", number(blob[kMixByType] != 0));
  define("DENSITY0", number(density0));
  define("DENSITY1", number(density1));
  define("ZBL", number(blob[kZbl] != 0));
  define("SCALE_ZBL", number(blob[kScaleZbl] != 0));
  define("DETERMINISTIC", number(blob[kFastSums] == 0));
  define("SHARED_TABLES", number(blob[kSharedTables] != 0));
  define("SMALL", number(small));
  define("JOINED_GROUPS", number(joins_groups(blob, small)));
  define("FUSED_NODES", number(fused));
  define("TENSOR_CORES", number(fused && uses_tensor_cores(blob)));
  define("GROUP_ROWS", number(kGroupRows));
  define("NODE_ATOMS", number(node_atoms(blob[kPrecision])));
  return text;
}

}  // namespace

Program make_program(const Blob& blob, bool fused, bool small) {
  Program program;
  for (const EmbeddedFile* file = kEmbeddedFiles; file->name != nullptr; ++file)
    program.headers.push_back({file->name, file->text});
  program.headers.push_back({"couplings.h", couplings(blob)});
  program.headers.push_back({"polynomials.h", polynomials(blob)});
  program.main = defines(blob, fused, small) + "#include \"kernels.cuh\"\n";
  return program;
}

int group_count(int max_ell, int max_L) {
  int groups = 0;
  with_paths(max_ell, max_L, [&](const auto& table) {
    for (int first = 0; first < table.count; first = table.group_end(first, kGroupRows)) ++groups;
  });
  return groups;
}

int64_t shared_table_bytes(const Blob& blob) {
  const int64_t rows = blob[kRows] * (blob[kRadial1ByPair] ? blob[kTypes] * blob[kTypes] : 1);
  int most = 0;  // paths of a group
  with_paths(static_cast<int>(blob[kMaxEll]), static_cast<int>(blob[kMaxL]), [&](const auto& table) {
    for (int first = 0, end; first < table.count; first = end) {
      end = table.group_end(first, kGroupRows);
      most = end - first > most ? end - first : most;
    }
  });
  return rows * most * 32 * blob[kPrecision];
}

int64_t fused_shared_bytes(const Blob& blob, int max_l) {
  return int64_t{(max_l + 1) * (max_l + 1)} * kFusedAtoms *
         fused_pitch(static_cast<int>(blob[kChannels]), static_cast<int>(blob[kConvChannels])) * blob[kPrecision];
}

bool joins_groups(const Blob& blob, bool small) {
  constexpr int64_t kMostThreads = 512;  // so that each has the registers, and the block the shared memory
  const int64_t groups = group_count(static_cast<int>(blob[kMaxEll]), static_cast<int>(blob[kMaxL]));
  return blob[kJoinedGroups] != 0 && !small && blob[kPrecision] == 4 && blob[kMaxL] == 1 && groups > 1 &&
         groups * ((blob[kConvChannels] + 31) / 32 * 32) <= kMostThreads;
}

bool uses_tensor_cores(const Blob& blob) {
  return blob[kTensorCores] != 0 && blob[kPrecision] == 4 && blob[kChannels] % 16 == 0 && blob[kConvChannels] % 16 == 0;
}

int component_count(int max_ell, int max_L) {
  int components = 0;
  with_paths(max_ell, max_L, [&](const auto& table) { components = table.components; });
  return components;
}

int most_paths_to_one_l(int max_ell, int max_L) {
  int most = 0;
  with_paths(max_ell, max_L, [&](const auto& table) {
    for (int l = 0; l <= max_ell; ++l) most = table.paths_to[l] > most ? table.paths_to[l] : most;
  });
  return most;
}

}  // namespace mace_md::cuda
