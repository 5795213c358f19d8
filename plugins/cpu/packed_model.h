// The model as the kernels read it: the arrays of the blob, padded and tiled to the vectors of this target.
#pragma once

#include "../blob.h"
#include "convolution.h"
#include "gemm.h"

namespace mace_md {
namespace MACE_MD_TARGET {

// Hands out consecutive 64-byte aligned pieces of a buffer; with a null base it only measures.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

template <int ELL, int L>
struct PackedModel {
  static constexpr auto& kPaths = PathTable<ELL, L>::value;
  static constexpr int kA = squared(ELL + 1), kH = squared(L + 1), kRowsOfAtom = RowTable<ELL, L>::value.total();

  int channels, conv_channels, types, rows, mlp;
  int tiles_a, tiles_h, tiles_mlp;  // tiles of C, C2 and the readout
  bool by_sender0, by_pair1, mix_by_type, has_density0, has_density1;
  int weights0, weights1;              // per type and channel
  const int32_t *program0, *program1;  // in the blob

  Real *table0, *table1;             // [tile][pair * rows][path][W]
  int64_t table0_tile, table1_tile;  // from one tile to the next
  Real *density0, *density1;         // [pair * rows] or null
  Real *w0, *w1;                     // [type][tile][weight][W]
  Real *wh[L + 1], *wh_reverse[L + 1];
  Real* bias_h;  // [type][C2 padded]
  Real *wa[ELL + 1], *wa_reverse[ELL + 1];
  int64_t wa_type[ELL + 1];  // from one type to the next, 0 when they share
  Real *readout0, *wr, *wr_reverse, *ws, *ws_reverse, *bias_r, *vr;
  int64_t ws_type;
  int32_t* q_position;

  // Pointers into `base`; returns the size.
  int64_t layout(const Blob& blob, char* base) {
    channels = static_cast<int>(blob[kChannels]);
    conv_channels = static_cast<int>(blob[kConvChannels]);
    types = static_cast<int>(blob[kTypes]);
    rows = static_cast<int>(blob[kRows]);
    mlp = static_cast<int>(blob[kMlp]);
    tiles_a = tiles(channels);
    tiles_h = tiles(conv_channels);
    tiles_mlp = tiles(mlp);
    by_sender0 = blob[kRadial0BySender] != 0;
    by_pair1 = blob[kRadial1ByPair] != 0;
    mix_by_type = blob[kMixByType] != 0;
    weights0 = static_cast<int>(blob.count(kWeights0) / (int64_t{types} * channels));
    weights1 = static_cast<int>(blob.count(kWeights1) / (int64_t{types} * channels));
    program0 = blob.section<int32_t>(kProgram0);
    program1 = blob.section<int32_t>(kProgram1);
    int64_t pairs0 = by_sender0 ? types : types * types, pairs1 = by_pair1 ? types * types : 1;
    table0_tile = pairs0 * rows * (ELL + 1) * W;
    table1_tile = pairs1 * rows * kPaths.count * W;

    Pieces pieces(base);
    table0 = pieces.take<Real>(table0_tile * tiles_a);
    table1 = pieces.take<Real>(table1_tile * tiles_h);
    has_density0 = blob.count(kDensity0) > 0;
    has_density1 = blob.count(kDensity1) > 0;
    density0 = has_density0 ? pieces.take<Real>(blob.count(kDensity0)) : nullptr;
    density1 = has_density1 ? pieces.take<Real>(blob.count(kDensity1)) : nullptr;
    w0 = pieces.take<Real>(int64_t{types} * tiles_a * weights0 * W);
    w1 = pieces.take<Real>(int64_t{types} * tiles_a * weights1 * W);
    const int64_t square = int64_t{tiles_a} * W * tiles_h * W;
    for (int l = 0; l <= L; ++l) {
      wh[l] = pieces.take<Real>(square);
      wh_reverse[l] = pieces.take<Real>(square);
    }
    bias_h = pieces.take<Real>(int64_t{types} * tiles_h * W);
    for (int l = 0; l <= ELL; ++l) {
      int64_t size = square * kPaths.paths_to[l];
      wa_type[l] = mix_by_type ? size : 0;
      wa[l] = pieces.take<Real>(size * (mix_by_type ? types : 1));
      wa_reverse[l] = pieces.take<Real>(size * (mix_by_type ? types : 1));
    }
    const int64_t narrow = int64_t{tiles_a} * W * tiles_mlp * W;
    readout0 = pieces.take<Real>(tiles_a * W);
    wr = pieces.take<Real>(narrow);
    wr_reverse = pieces.take<Real>(narrow);
    ws_type = narrow;
    ws = pieces.take<Real>(narrow * types);
    ws_reverse = pieces.take<Real>(narrow * types);
    bias_r = pieces.take<Real>(int64_t{types} * tiles_mlp * W);
    vr = pieces.take<Real>(tiles_mlp * W);
    q_position = pieces.take<int32_t>(kA);
    return pieces.used();
  }

  void fill(const Blob& blob) {
    tile_table(blob.section<Real>(kTable0), channels, table0, table0_tile);
    tile_table(blob.section<Real>(kTable1), conv_channels, table1, table1_tile);
    copy(blob.section<Real>(kDensity0), blob.count(kDensity0), density0);
    copy(blob.section<Real>(kDensity1), blob.count(kDensity1), density1);
    tile_weights(blob.section<Real>(kWeights0), weights0, w0);
    tile_weights(blob.section<Real>(kWeights1), weights1, w1);
    const int c = channels, c2 = conv_channels;
    for (int l = 0; l <= L; ++l) {
      const Real* w = blob.section<Real>(kWh) + int64_t{l} * c * c2;
      pack_gemm(c, c2, [&](int k, int column) { return w[k * c2 + column]; }, wh[l]);
      pack_gemm(c2, c, [&](int k, int column) { return w[column * c2 + k]; }, wh_reverse[l]);
    }
    pad_rows(blob.section<Real>(kBiasH), types, c2, bias_h);
    fill_mixing(blob);
    pad_rows(blob.section<Real>(kReadout0), 1, c, readout0);
    const Real* r = blob.section<Real>(kWr);
    pack_gemm(c, mlp, [&](int k, int column) { return r[k * mlp + column]; }, wr);
    pack_gemm(mlp, c, [&](int k, int column) { return r[column * mlp + k]; }, wr_reverse);
    for (int type = 0; type < types; ++type) {
      const Real* s = blob.section<Real>(kWs) + int64_t{type} * c * mlp;
      pack_gemm(c, mlp, [&](int k, int column) { return s[k * mlp + column]; }, ws + ws_type * type);
      pack_gemm(mlp, c, [&](int k, int column) { return s[column * mlp + k]; }, ws_reverse + ws_type * type);
    }
    pad_rows(blob.section<Real>(kBiasR), types, mlp, bias_r);
    pad_rows(blob.section<Real>(kVr), 1, mlp, vr);
    int position[kA];
    EdgeSums<ELL>::q_position(position);
    for (int i = 0; i < kA; ++i) q_position[i] = position[i];
  }

 private:
  static void copy(const Real* from, int64_t n, Real* to) {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }

  static void pad_rows(const Real* from, int n_rows, int n, Real* to) {
    for (int row = 0; row < n_rows; ++row)
      for (int i = 0; i < padded(n); ++i) *to++ = i < n ? from[int64_t{row} * n + i] : Real(0);
  }

  // [row][path][C] -> [tile][row][path][W]
  static void tile_table(const Real* from, int n_channels, Real* to, int64_t tile_size) {
    const int64_t lines = tile_size / W;
    for (int tile = 0; tile < tiles(n_channels); ++tile)
      for (int64_t line = 0; line < lines; ++line)
        for (int lane = 0; lane < W; ++lane) {
          int channel = tile * W + lane;
          to[tile * tile_size + line * W + lane] = channel < n_channels ? from[line * n_channels + channel] : Real(0);
        }
  }

  void tile_weights(const Real* from, int n_weights, Real* to) const {
    for (int type = 0; type < types; ++type)
      for (int tile = 0; tile < tiles_a; ++tile)
        for (int w = 0; w < n_weights; ++w)
          for (int lane = 0; lane < W; ++lane) {
            int channel = tile * W + lane;
            *to++ = channel < channels ? from[(int64_t{type} * n_weights + w) * channels + channel] : Real(0);
          }
  }

  void fill_mixing(const Blob& blob) {
    const Real* from = blob.section<Real>(kWa);
    const int c = channels, c2 = conv_channels, c2_padded = padded(conv_channels);
    for (int l = 0; l <= ELL; ++l)
      for (int type = 0; type < (mix_by_type ? types : 1); ++type) {
        const int n_k = kPaths.paths_to[l] * c2_padded;
        auto element = [&](int k, int column) {
          int channel = k % c2_padded;
          return channel < c2 ? from[(int64_t{k / c2_padded} * c2 + channel) * c + column] : Real(0);
        };
        pack_gemm(n_k, c, element, wa[l] + wa_type[l] * type);
        pack_gemm(c, n_k, [&](int k, int column) { return element(column, k); }, wa_reverse[l] + wa_type[l] * type);
        from += int64_t{kPaths.paths_to[l]} * c2 * c;
      }
  }
};

}  // namespace MACE_MD_TARGET
}  // namespace mace_md
