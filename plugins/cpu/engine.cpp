// The evaluation: three passes over blocks of receivers, each a parallel region.
//
//   layer_one     edges -> A0 -> M0 -> H, and what M0 adds to the energy and to the last readout
//   layer_two     H -> Phi -> A1 -> M1 -> energy, and back to dE/dH of the senders and the forces of these edges
//   reverse_one   dE/dH summed over threads -> dE/dM0 -> dE/dA0 -> forces
//
// A block is small enough that its intermediate arrays stay in the cache, and only A0, H and dE/dH exist for all atoms.
// Compiled once for each target (see simd.h), named by MACE_MD_TARGET, in precision MACE_MD_REAL.
#include "edges.h"
#include "polynomial.h"

namespace mace_md {
namespace MACE_MD_TARGET {

// Denormal numbers, which the tails of radial functions produce, are flushed to zero inside a region.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

struct Block {
  int begin, n;  // atoms
};

template <int ELL, int L>
class Evaluation {
 public:
  using Model = PackedModel<ELL, L>;
  using Work = Workspace<ELL, L>;
  using Thread = typename Work::Thread;
  static constexpr auto& kPaths = Model::kPaths;
  static constexpr int kA = Model::kA, kH = Model::kH;
  using AllPaths = typename MakeLanes<kPaths.count>::type;

  explicit Evaluation(Step& step) : step_(step) {
    model_.layout(step.blob, const_cast<char*>(step.packed));
    work_.layout(model_, step.dimensions, step.workspace);
    scale_ = static_cast<Real>(step.blob.parameter(kScale));
    edge_model_ = {step.blob.parameter(kRMax),
                   step.blob.parameter(kRMin),
                   step.blob.parameter(kSpacing),
                   model_.rows,
                   model_.types,
                   model_.by_sender0,
                   model_.by_pair1};
  }

  void run() {
    parallel<&Evaluation::layer_one>();
    parallel<&Evaluation::layer_two>();
    parallel<&Evaluation::reverse_one>();
    parallel<&Evaluation::sum_forces>();
    step_.energy = step_.dimensions.n_atoms * step_.blob.parameter(kShift);
    step_.n_edges = 0;
    for (double& v : step_.virial) v = 0;
    for (int t = 0; t < step_.dimensions.n_threads; ++t) {
      const ThreadSums& sums = *thread(t).sums;
      step_.energy += sums.energy;
      step_.n_edges += sums.n_edges;
      for (int i = 0; i < 9; ++i) step_.virial[i] += sums.virial[i];
    }
    if (step_.stages != nullptr && step_.stages->h_adjoint != nullptr) export_h_adjoint();
  }

 private:
  Step& step_;
  Model model_;
  Work work_;
  Real scale_;
  EdgeModel edge_model_;

  template <void (Evaluation::*Pass)(int)>
  void parallel() {
    auto task = [](int index, void* self) {
      FlushDenormals flush;
      (static_cast<Evaluation*>(self)->*Pass)(index);
    };
    step_.parallel(static_cast<int>(step_.dimensions.n_threads), task, this);
  }

  Thread thread(int index) const { return work_.thread(model_, step_.dimensions, index); }

  template <class Body>
  void for_blocks(int thread_index, Body&& body) {
    const AtomArrays& atoms = step_.atoms;
    for (int b = atoms.thread_block[thread_index]; b < atoms.thread_block[thread_index + 1]; ++b)
      body(Block{atoms.block_start[b], atoms.block_start[b + 1] - atoms.block_start[b]});
  }

  // Calls body(type, first, last) for the atoms [first, last) of each type in a block, counted from its begin.
  template <class Body>
  void for_types(Block block, Body&& body) const {
    const int32_t* type = step_.atoms.type + block.begin;
    for (int first = 0; first < block.n;) {
      int last = first + 1;
      while (last < block.n && type[last] == type[first]) ++last;
      body(type[first], first, last);
      first = last;
    }
  }

  Edge<ELL>* edges_of(int i) const { return work_.edges + step_.atoms.candidate_start[i]; }
  EdgeGeometry* geometry_of(int i) const { return work_.geometry + step_.atoms.candidate_start[i]; }
  Real* sums_of(const Thread& t, Block block, int i) const {
    return t.edge_sums +
           (step_.atoms.candidate_start[i] - step_.atoms.candidate_start[block.begin]) * EdgeSums<ELL>::kSize;
  }
  static Real* phi_of(const Thread& t, Block block, int tile) {
    return t.phi + int64_t{tile} * kPaths.components * block.n * W;
  }
  Real* a0_of(Block block) const { return work_.a0 + int64_t{block.begin} * kA * model_.tiles_a * W; }

  // ---- pass 1
  // -----------------------------------------------------------------------------------------------------------

  void layer_one(int index) {
    Thread t = thread(index);
    clear(t);
    for_blocks(index, [&](Block block) {
      for (int i = block.begin; i < block.begin + block.n; ++i) prepare_edges(i, t);
      Real* a0 = a0_of(block);
      for (int tile = 0; tile < model_.tiles_a; ++tile)
        for (int i = block.begin; i < block.begin + block.n; ++i)
          conv1_forward<ELL>(edges_of(i), work_.n_edges[i], model_.table0 + tile * model_.table0_tile, work_.scale0[i],
                             a0 + int64_t{tile} * kA * block.n * W, block.n, i - block.begin);
      for_types(block, [&](int type, int first, int last) {
        for_tiles_and_atoms(first, last, [&](int tile, int atom, auto n) {
          constexpr int N = decltype(n)::value;
          V x[kA][N], m[kH][N];
          gather<ELL, N>(a0 + int64_t{tile} * kA * block.n * W, block.n, atom, x);
          polynomial<N>(model_.program0, weights(model_.w0, model_.weights0, type, tile), x, m);
          scatter<L, N>(m, t.m0 + int64_t{tile} * kH * block.n * W, block.n, atom);
        });
      });
      make_features(block, t);
      first_readout(block, t);
      if (step_.stages != nullptr) export_layer_one(block);
    });
  }

  void clear(Thread& t) {
    *t.sums = ThreadSums{};
    const int64_t n = step_.dimensions.n_atoms;
    for (int64_t i = 0; i < 3 * n; ++i) t.forces[i] = 0;
    const int64_t size = n * kH * model_.tiles_h * W;
    for (int64_t i = 0; i < size; i += W) store(t.h_adjoint + i, zero());
  }

  void prepare_edges(int i, Thread& t) {
    Edge<ELL>* edges = edges_of(i);
    EdgeGeometry* geometry = geometry_of(i);
    const int n = build_edges<ELL>(step_, edge_model_, i, edges, geometry);
    work_.n_edges[i] = n;
    t.sums->n_edges += n;
    work_.scale0[i] = density(i, n, model_.density0, work_.density0);
    work_.scale1[i] = density(i, n, model_.density1, work_.density1);
    if (step_.blob[kZbl]) {
      double weight = step_.blob[kScaleZbl] ? step_.blob.parameter(kScale) : 1.0;
      double energy = add_zbl<ELL>(step_, i, n, edges, geometry, weight, *t.sums, t.forces);
      t.sums->energy += energy;
      if (step_.stages != nullptr && step_.stages->node_energy)
        step_.stages->node_energy[step_.atoms.order[i]] += energy;
    }
  }

  // 1 / (1 + sum_j density), and the derivative of each term.
  Real density(int i, int n, const Real* table, Real* slopes) const {
    if (table == nullptr) return 1;
    const Edge<ELL>* edges = edges_of(i);
    slopes += step_.atoms.candidate_start[i];
    double rho = 0;
    for (int e = 0; e < n; ++e) {
      int64_t pair = int64_t{step_.atoms.type[i]} * model_.types + step_.atoms.type[edges[e].atom];
      const Real* c = table + pair * model_.rows + edges[e].row0 % model_.rows;
      slopes[e] = 0;
      for (int k = 0; k < kSupport; ++k) {
        rho += edges[e].w[k] * c[k];
        slopes[e] += edges[e].dw[k] * c[k];
      }
    }
    return static_cast<Real>(1 / (1 + rho));
  }

  // H = M0 W_h + bias, for all to read.
  void make_features(Block block, Thread& t) {
    const int64_t m0_tile = int64_t{kH} * block.n * W;
    for (int l = 0; l <= L; ++l) {
      const int64_t start = int64_t{l} * l * block.n * W;
      multiply(block.n * (2 * l + 1), t.m0, start, m0_tile, model_.tiles_a, model_.wh[l], t.h_block, start, m0_tile,
               model_.tiles_h);
    }
    const int64_t n = step_.dimensions.n_atoms;
    for (int tile = 0; tile < model_.tiles_h; ++tile)
      for (int atom = 0; atom < block.n; ++atom) {
        Real* out = work_.h + (tile * n + block.begin + atom) * kH * W;
        const Real* from = t.h_block + tile * m0_tile;
        for (int l = 0; l <= L; ++l)
          for (int m = 0; m < 2 * l + 1; ++m)
            store(out + (l * l + m) * W, load(from + node_offset(l, block.n, atom) + m * W));
        const int type = step_.atoms.type[block.begin + atom];
        store(out, load(out) + load(model_.bias_h + (int64_t{type} * model_.tiles_h + tile) * W));
      }
  }

  // e0 = M0 . readout0 + bias, and the part of the last readout's hidden layer that comes from M0.
  void first_readout(Block block, Thread& t) {
    const int64_t m0_tile = int64_t{kH} * block.n * W;
    const double* bias = step_.blob.section<double>(kReadout0Bias);
    for (int atom = 0; atom < block.n; ++atom) {
      V dot = zero();
      for (int tile = 0; tile < model_.tiles_a; ++tile)
        dot += load(t.m0 + tile * m0_tile + atom * W) * load(model_.readout0 + tile * W);
      const int i = block.begin + atom;
      double energy = step_.blob.parameter(kScale) * (sum(dot) + bias[step_.atoms.type[i]]);
      t.sums->energy += energy;
      if (step_.stages != nullptr && step_.stages->node_energy)
        step_.stages->node_energy[step_.atoms.order[i]] += energy;
    }
    const int64_t hidden_tile = int64_t{block.n} * W;
    for_types(block, [&](int type, int first, int last) {
      multiply(last - first, t.m0, int64_t{first} * W, m0_tile, model_.tiles_a, model_.ws + model_.ws_type * type,
               t.hidden, int64_t{first} * W, hidden_tile, model_.tiles_mlp);
      for (int atom = first; atom < last; ++atom)
        for (int tile = 0; tile < model_.tiles_mlp; ++tile)
          store(skip_of(block.begin + atom) + tile * W,
                load(t.hidden + tile * hidden_tile + atom * W) +
                    load(model_.bias_r + (int64_t{type} * model_.tiles_mlp + tile) * W));
    });
  }

  Real* skip_of(int i) const { return work_.skip + int64_t{i} * model_.tiles_mlp * W; }

  // ---- pass 2
  // -----------------------------------------------------------------------------------------------------------

  void layer_two(int index) {
    Thread t = thread(index);
    const int64_t h_tile = step_.dimensions.n_atoms * kH * W;
    for_blocks(index, [&](Block block) {
      for (int tile = 0; tile < model_.tiles_h; ++tile)
        for (int atom = 0; atom < block.n; ++atom) {
          const int i = block.begin + atom;
          conv2_forward<ELL, L>(edges_of(i), work_.n_edges[i], work_.h + tile * h_tile,
                                model_.table1 + tile * model_.table1_tile, t.rows);
          couple<ELL, L>(t.rows, work_.scale1[i], phi_of(t, block, tile), block.n, atom, AllPaths());
        }
      mix(block, t);
      for_types(block, [&](int type, int first, int last) {
        for_tiles_and_atoms(first, last, [&](int tile, int atom, auto n) {
          constexpr int N = decltype(n)::value;
          V x[kA][N], g[kA][N], one[1][N], value[N];
          for (int k = 0; k < N; ++k) one[0][k] = zero() + Real(1);
          const int64_t a_tile = int64_t{kA} * block.n * W;
          gather<ELL, N>(t.a1 + tile * a_tile, block.n, atom, x);
          polynomial_gradient<N, true>(model_.program1, weights(model_.w1, model_.weights1, type, tile), x, kA, one, g,
                                       value);
          scatter<ELL, N>(g, t.a1_adjoint + tile * a_tile, block.n, atom);
          for (int k = 0; k < N; ++k) store(t.m1 + (int64_t{tile} * block.n + atom + k) * W, value[k]);
        });
      });
      last_readout(block, t);
      if (step_.stages != nullptr) export_layer_two(block, t);
      mix_reverse(block, t);
      for_runs_of_tiles<kTiles2<L>>(model_.tiles_h, [&](int tile, auto tiles) {
        constexpr int T = decltype(tiles)::value;
        for (int atom = 0; atom < block.n; ++atom) {
          const int i = block.begin + atom;
          for (int k = 0; k < T; ++k)
            couple_reverse<ELL, L>(phi_of(t, block, tile + k), work_.scale1[i], t.rows + k * Model::kRowsOfAtom * W,
                                   block.n, atom, AllPaths());
          conv2_reverse_tiles<ELL, L, T>(edges_of(i), work_.n_edges[i], work_.h + tile * h_tile, h_tile,
                                         model_.table1 + tile * model_.table1_tile, model_.table1_tile, t.rows,
                                         t.h_adjoint + tile * h_tile, sums_of(t, block, i), tile == 0);
        }
      });
      edge_forces(block, t, model_.has_density1 ? work_.density1 : nullptr, work_.scale1, t.a1, t.a1_adjoint);
    });
  }

  // A1[l3] = Phi[l3] W_a[l3]; and its transpose. Phi is overwritten by its adjoint.
  void mix(Block block, Thread& t) { mix_both(block, t, false); }
  void mix_reverse(Block block, Thread& t) { mix_both(block, t, true); }

  void mix_both(Block block, Thread& t, bool reverse) {
    constexpr int kMaxSegments = 1024;
    int64_t phi_tiles[kMaxSegments], a_tiles[kMaxSegments];
    const int64_t phi_tile = int64_t{kPaths.components} * block.n * W, a_tile = int64_t{kA} * block.n * W;
    auto rows = [&](int l, int type, int first, int last) {
      const int width = 2 * l + 1;
      int n = 0;
      for (int path = 0; path < kPaths.paths_to[l]; ++path)
        for (int tile = 0; tile < model_.tiles_h; ++tile)
          phi_tiles[n++] = tile * phi_tile + int64_t{kPaths.component_start[l] + path * width} * block.n * W +
                           int64_t{first} * width * W;
      for (int tile = 0; tile < model_.tiles_a; ++tile)
        a_tiles[tile] = tile * a_tile + (int64_t{l} * l * block.n + first * width) * W;
      if (reverse)
        gemm((last - first) * width, t.a1_adjoint, a_tiles, model_.tiles_a,
             model_.wa_reverse[l] + model_.wa_type[l] * type, t.phi, phi_tiles, n);
      else
        gemm((last - first) * width, t.phi, phi_tiles, n, model_.wa[l] + model_.wa_type[l] * type, t.a1, a_tiles,
             model_.tiles_a);
    };
    for (int l = 0; l <= ELL; ++l) {
      if (model_.mix_by_type)
        for_types(block, [&](int type, int first, int last) { rows(l, type, first, last); });
      else
        rows(l, 0, 0, block.n);
    }
  }

  // e1 = act(M1 W_r + skip) . v_r; a1_adjoint becomes dE/dA1, skip its own adjoint.
  void last_readout(Block block, Thread& t) {
    const int64_t m1_tile = int64_t{block.n} * W;
    multiply(block.n, t.m1, 0, m1_tile, model_.tiles_a, model_.wr, t.hidden, 0, m1_tile, model_.tiles_mlp);
    const int gate = static_cast<int>(step_.blob[kGate]);
    for (int atom = 0; atom < block.n; ++atom) {
      const int i = block.begin + atom;
      Real* skip = skip_of(i);
      double energy = 0;
      for (int k = 0; k < model_.tiles_mlp * W; ++k) {
        Real* h = t.hidden + k / W * m1_tile + atom * W + k % W;
        Real slope, value = activate(gate, *h + skip[k], slope);
        energy += static_cast<double>(value) * model_.vr[k];
        *h = skip[k] = scale_ * slope * model_.vr[k];
      }
      energy *= step_.blob.parameter(kScale);
      t.sums->energy += energy;
      if (step_.stages != nullptr && step_.stages->node_energy)
        step_.stages->node_energy[step_.atoms.order[i]] += energy;
    }
    multiply(block.n, t.hidden, 0, m1_tile, model_.tiles_mlp, model_.wr_reverse, t.m1, 0, m1_tile, model_.tiles_a);
    for (int tile = 0; tile < model_.tiles_a; ++tile)
      for (int atom = 0; atom < block.n; ++atom) {
        const V factor = load(t.m1 + tile * m1_tile + atom * W);
        for (int l = 0; l <= ELL; ++l)
          for (int m = 0; m < 2 * l + 1; ++m) {
            Real* g = t.a1_adjoint + int64_t{tile} * kA * block.n * W + node_offset(l, block.n, atom) + m * W;
            store(g, load(g) * factor);
          }
      }
  }

  static Real activate(int gate, Real x, Real& slope) {
    if (gate == 1) {
      Real s = 1 / (1 + exponential(-x));
      slope = s * (1 + x * (1 - s));
      return x * s;
    }
    if (gate == 2) {
      Real y = sizeof(Real) == 4 ? Real(__builtin_tanhf(float(x))) : Real(__builtin_tanh(double(x)));
      slope = 1 - y * y;
      return y;
    }
    if (gate == 3) {
      slope = x > 0 ? Real(1) : (x < 0 ? Real(-1) : Real(0));
      return x < 0 ? -x : x;
    }
    slope = 1;
    return x;
  }

  static Real exponential(Real x) {
    return sizeof(Real) == 4 ? Real(__builtin_expf(float(x))) : Real(__builtin_exp(double(x)));
  }

  // Forces of the edges of a block; for models with a density, dE/drho = -scale * sum(adjoint * value) of the scaled
  // sums.
  void edge_forces(Block block, Thread& t, const Real* density_slopes, const Real* scales, const Real* value,
                   const Real* adjoint) {
    for (int atom = 0; atom < block.n; ++atom) {
      const int i = block.begin + atom;
      Real density_adjoint = 0;
      if (density_slopes != nullptr) {
        V dot = zero();
        for (int tile = 0; tile < model_.tiles_a; ++tile)
          for (int l = 0; l <= ELL; ++l)
            for (int m = 0; m < 2 * l + 1; ++m) {
              int64_t at = int64_t{tile} * kA * block.n * W + node_offset(l, block.n, atom) + m * W;
              dot += load(value + at) * load(adjoint + at);
            }
        density_adjoint = -scales[i] * sum(dot);
      }
      add_edge_forces<ELL>(i, work_.n_edges[i], edges_of(i), geometry_of(i), sums_of(t, block, i), model_.q_position,
                           edge_model_.spacing,
                           density_slopes ? density_slopes + step_.atoms.candidate_start[i] : nullptr, density_adjoint,
                           *t.sums, t.forces);
    }
  }

  // ---- pass 3
  // -----------------------------------------------------------------------------------------------------------

  void reverse_one(int index) {
    Thread t = thread(index);
    for_blocks(index, [&](Block block) {
      gather_h_adjoint(block, t);
      const int64_t m0_tile = int64_t{kH} * block.n * W, a_tile = int64_t{kA} * block.n * W;
      for (int l = 0; l <= L; ++l) {
        const int64_t start = int64_t{l} * l * block.n * W;
        multiply(block.n * (2 * l + 1), t.h_block, start, m0_tile, model_.tiles_h, model_.wh_reverse[l], t.m0, start,
                 m0_tile, model_.tiles_a);
      }
      add_readout_adjoint(block, t);
      const Real* a0 = a0_of(block);
      for_types(block, [&](int type, int first, int last) {
        for_tiles_and_atoms(first, last, [&](int tile, int atom, auto n) {
          constexpr int N = decltype(n)::value;
          V x[kA][N], g[kA][N], adjoint[kH][N];
          gather<ELL, N>(a0 + tile * a_tile, block.n, atom, x);
          gather<L, N>(t.m0 + tile * m0_tile, block.n, atom, adjoint);
          polynomial_gradient<N, false>(model_.program0, weights(model_.w0, model_.weights0, type, tile), x, kA,
                                        adjoint, g, nullptr);
          scatter<ELL, N>(g, t.a1_adjoint + tile * a_tile, block.n, atom);
        });
      });
      if (step_.stages != nullptr) export_nodes(step_.stages->a0_adjoint, t.a1_adjoint, block);
      for_runs_of_tiles<kTiles1>(model_.tiles_a, [&](int tile, auto tiles) {
        constexpr int T = decltype(tiles)::value;
        for (int atom = 0; atom < block.n; ++atom) {
          const int i = block.begin + atom;
          conv1_reverse_tiles<ELL, T>(edges_of(i), work_.n_edges[i], model_.table0 + tile * model_.table0_tile,
                                      model_.table0_tile, work_.scale0[i], t.a1_adjoint + tile * a_tile, a_tile,
                                      block.n, atom, sums_of(t, block, i), tile == 0);
        }
      });
      edge_forces(block, t, model_.has_density0 ? work_.density0 : nullptr, work_.scale0, a0, t.a1_adjoint);
    });
  }

  // dE/dH of the block, summed over the threads in their order.
  void gather_h_adjoint(Block block, Thread& t) {
    const int64_t n = step_.dimensions.n_atoms;
    for (int other = 0; other < step_.dimensions.n_threads; ++other) {
      const Real* from = thread(other).h_adjoint;
      for (int tile = 0; tile < model_.tiles_h; ++tile)
        for (int atom = 0; atom < block.n; ++atom)
          for (int l = 0; l <= L; ++l)
            for (int m = 0; m < 2 * l + 1; ++m) {
              V value = load(from + ((tile * n + block.begin + atom) * kH + l * l + m) * W);
              Real* to = t.h_block + int64_t{tile} * kH * block.n * W + node_offset(l, block.n, atom) + m * W;
              store(to, other == 0 ? value : load(to) + value);
            }
    }
  }

  void add_readout_adjoint(Block block, Thread& t) {
    const int64_t m0_tile = int64_t{kH} * block.n * W, hidden_tile = int64_t{block.n} * W;
    for (int atom = 0; atom < block.n; ++atom)
      for (int tile = 0; tile < model_.tiles_mlp; ++tile)
        store(t.hidden + tile * hidden_tile + atom * W, load(skip_of(block.begin + atom) + tile * W));
    for_types(block, [&](int type, int first, int last) {
      multiply(last - first, t.hidden, int64_t{first} * W, hidden_tile, model_.tiles_mlp,
               model_.ws_reverse + model_.ws_type * type, t.m1, int64_t{first} * W, hidden_tile, model_.tiles_a);
    });
    for (int tile = 0; tile < model_.tiles_a; ++tile)
      for (int atom = 0; atom < block.n; ++atom) {
        Real* scalar = t.m0 + tile * m0_tile + atom * W;
        store(scalar,
              load(scalar) + load(model_.readout0 + tile * W) * scale_ + load(t.m1 + tile * hidden_tile + atom * W));
      }
  }

  void sum_forces(int index) {
    const int64_t n = 3 * step_.dimensions.n_atoms, n_threads = step_.dimensions.n_threads;
    const int64_t begin = index * n / n_threads, end = (index + 1) * n / n_threads;
    for (int64_t i = begin; i < end; ++i) step_.forces[i] = 0;
    for (int other = 0; other < n_threads; ++other) {
      const double* from = thread(other).forces;
      for (int64_t i = begin; i < end; ++i) step_.forces[i] += from[i];
    }
  }

  // ---- shared
  // -----------------------------------------------------------------------------------------------------------

  template <int N>
  struct Count {
    static constexpr int value = N;
  };

  // body(tile, atom, Count<N>) for groups of N atoms: four at a time, then singly.
  template <class Body>
  void for_tiles_and_atoms(int first, int last, Body&& body) const {
    for (int tile = 0; tile < model_.tiles_a; ++tile) {
      int atom = first;
      for (; atom + kAtomsAtOnce <= last; atom += kAtomsAtOnce) body(tile, atom, Count<kAtomsAtOnce>());
      for (; atom < last; ++atom) body(tile, atom, Count<1>());
    }
  }

  const Real* weights(const Real* all, int n_weights, int type, int tile) const {
    return all + (int64_t{type} * model_.tiles_a + tile) * n_weights * W;
  }

  template <int LMAX, int N>
  static MACE_MD_INLINE void gather(const Real* from, int n_atoms, int atom, V (*x)[N]) {
    for (int l = 0; l <= LMAX; ++l)
      for (int m = 0; m < 2 * l + 1; ++m)
        for (int k = 0; k < N; ++k) x[l * l + m][k] = load(from + node_offset(l, n_atoms, atom + k) + m * W);
  }

  template <int LMAX, int N>
  static MACE_MD_INLINE void scatter(const V (*x)[N], Real* to, int n_atoms, int atom) {
    for (int l = 0; l <= LMAX; ++l)
      for (int m = 0; m < 2 * l + 1; ++m)
        for (int k = 0; k < N; ++k) store(to + node_offset(l, n_atoms, atom + k) + m * W, x[l * l + m][k]);
  }

  // gemm between arrays whose tiles are a constant distance apart.
  static void multiply(int n_rows, const Real* a, int64_t a_start, int64_t a_tile, int n_in, const Real* packed,
                       Real* c, int64_t c_start, int64_t c_tile, int n_out) {
    constexpr int kMaxTiles = 512;
    int64_t in[kMaxTiles], out[kMaxTiles];
    for (int tile = 0; tile < n_in; ++tile) in[tile] = a_start + tile * a_tile;
    for (int tile = 0; tile < n_out; ++tile) out[tile] = c_start + tile * c_tile;
    gemm(n_rows, a, in, n_in, packed, c, out, n_out);
  }

  // ---- what the tests of the stages see
  // -----------------------------------------------------------------------------------

  template <int LMAX = ELL>
  void export_nodes(double* out, const Real* from, Block block) const {
    if (out == nullptr) return;
    constexpr int kN = squared(LMAX + 1);
    for (int atom = 0; atom < block.n; ++atom)
      for (int l = 0; l <= LMAX; ++l)
        for (int m = 0; m < 2 * l + 1; ++m)
          for (int c = 0; c < model_.channels; ++c)
            out[(int64_t{step_.atoms.order[block.begin + atom]} * kN + l * l + m) * model_.channels + c] =
                from[int64_t{c / W} * kN * block.n * W + node_offset(l, block.n, atom) + m * W + c % W];
  }

  void export_features(double* out, const Real* from, int64_t i) const {
    const int64_t n = step_.dimensions.n_atoms;
    for (int lm = 0; lm < kH; ++lm)
      for (int c = 0; c < model_.conv_channels; ++c)
        out[(int64_t{step_.atoms.order[i]} * kH + lm) * model_.conv_channels + c] +=
            from[((c / W * n + i) * kH + lm) * W + c % W];
  }

  void export_layer_one(Block block) const {
    export_nodes(step_.stages->a0, a0_of(block), block);
    if (step_.stages->h != nullptr)
      for (int i = block.begin; i < block.begin + block.n; ++i) export_features(step_.stages->h, work_.h, i);
  }

  void export_layer_two(Block block, const Thread& t) const { export_nodes(step_.stages->a1, t.a1, block); }

  void export_h_adjoint() const {
    for (int other = 0; other < step_.dimensions.n_threads; ++other)
      for (int64_t i = 0; i < step_.dimensions.n_atoms; ++i)
        export_features(step_.stages->h_adjoint, thread(other).h_adjoint, i);
  }
};

template <int ELL, int L>
struct EngineFor {
  static int64_t packed_bytes(const Blob& blob) {
    PackedModel<ELL, L> model;
    return model.layout(blob, nullptr);
  }
  static void pack(const Blob& blob, char* packed) {
    PackedModel<ELL, L> model;
    model.layout(blob, packed);
    model.fill(blob);
  }
  static int64_t workspace_bytes(const Blob& blob, const Dimensions& dimensions) {
    PackedModel<ELL, L> model;
    model.layout(blob, nullptr);
    Workspace<ELL, L> work;
    return work.layout(model, dimensions, nullptr);
  }
  static void evaluate(Step& step) { Evaluation<ELL, L>(step).run(); }
  static constexpr Engine engine(const char* name) { return {name, packed_bytes, pack, workspace_bytes, evaluate}; }
};

}  // namespace MACE_MD_TARGET

#define MACE_MD_TEXT2(x) #x
#define MACE_MD_TEXT(x) MACE_MD_TEXT2(x)
#define MACE_MD_JOIN2(a, b) a##b
#define MACE_MD_JOIN(a, b) MACE_MD_JOIN2(a, b)

const Engine* MACE_MD_JOIN(engine_, MACE_MD_TARGET)(int max_ell, int max_L) {
  using namespace MACE_MD_TARGET;
  static constexpr const char* kName = MACE_MD_TEXT(MACE_MD_TARGET);
  static const Engine engines[2][3] = {
      {EngineFor<2, 0>::engine(kName), EngineFor<2, 1>::engine(kName), EngineFor<2, 2>::engine(kName)},
      {EngineFor<3, 0>::engine(kName), EngineFor<3, 1>::engine(kName), EngineFor<3, 2>::engine(kName)}};
  if (max_ell < 2 || max_ell > 3 || max_L < 0 || max_L > 2) return nullptr;
  return &engines[max_ell - 2][max_L];
}

}  // namespace mace_md
