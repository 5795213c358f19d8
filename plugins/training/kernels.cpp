// The kernels of the training for one target (see cpu/simd.h), named by MACE_MD_TARGET, in precision MACE_MD_REAL.
#include "kernels.h"

#include "convolution.h"
#include "harmonics.h"
#include "product.h"

namespace mace_md {
namespace MACE_MD_TARGET {

// Runs (pass.*Method)(task) for all tasks. A pass that keeps something between its loops is copied for each.
template <class Pass, void (Pass::*Method)(int)>
static void run(training::ParallelRunner parallel, int n_tasks, const Pass& pass) {
  parallel(
      n_tasks,
      [](int task, void* context) {
        Pass mine(*static_cast<const Pass*>(context));
        (mine.*Method)(task);
      },
      const_cast<Pass*>(&pass));
}

static void convolve(const Convolution& c) {
  ConvolutionPass pass(c);
  run<ConvolutionPass, &ConvolutionPass::forward>(c.parallel, pass.n_tasks(), pass);
}
static void convolve_reverse(const Convolution& c) {
  ConvolutionPass pass(c);
  run<ConvolutionPass, &ConvolutionPass::reverse>(c.parallel, pass.n_tasks(), pass);
}
static void convolve_blocks(const Convolution& c) {
  ConvolutionPass pass(c);
  run<ConvolutionPass, &ConvolutionPass::blocks>(c.parallel, static_cast<int>(c.graph.n_atoms), pass);
}
static void product(const Product& p) {
  ProductPass pass(p);
  run<ProductPass, &ProductPass::value>(p.parallel, pass.n_tasks(), pass);
}
static void product_reverse(const Product& p) {
  ProductPass pass(p);
  run<ProductPass, &ProductPass::reverse>(p.parallel, pass.n_tasks(), pass);
}
static void product_second(const Product& p) {
  ProductPass pass(p);
  run<ProductPass, &ProductPass::second>(p.parallel, pass.n_tasks(), pass);
}

}  // namespace MACE_MD_TARGET

#define MACE_MD_TEXT2(x) #x
#define MACE_MD_TEXT(x) MACE_MD_TEXT2(x)
#define MACE_MD_JOIN2(a, b) a##b
#define MACE_MD_JOIN(a, b) MACE_MD_JOIN2(a, b)

const training::Kernels* training::MACE_MD_JOIN(training_, MACE_MD_TARGET)() {
  using namespace MACE_MD_TARGET;
  static const Kernels kernels = {MACE_MD_TEXT(MACE_MD_TARGET),
                                  W,
                                  convolve,
                                  convolve_reverse,
                                  convolve_blocks,
                                  product,
                                  product_reverse,
                                  product_second,
                                  geometry,
                                  geometry_reverse,
                                  geometry_tangent};
  return &kernels;
}

}  // namespace mace_md
