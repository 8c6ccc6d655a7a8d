// Wraps Halide pipelines as kernels of runtime/kernels/kernel_abi.h: kernel arguments in, halide_buffer_t on the stack,
// one direct call.
//
// clang compiles it in process beside the generated kernels, freestanding: HalideRuntime.h cannot be used there,
// because in C++ it includes <array>, <cstring> and <string_view>. So the three structures are declared here once more,
// under their own names; schedules/halide_adapter_check.cc compares them with the SDK's at build time, field by field.
#ifndef BITNET_SCHEDULES_HALIDE_ADAPTER_H_
#define BITNET_SCHEDULES_HALIDE_ADAPTER_H_

#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

extern "C" {

struct bitnet_halide_type {
  uint8_t code;  // 0 signed integer, 1 unsigned, 2 float
  uint8_t bits;
  uint16_t lanes;
};

struct bitnet_halide_dimension {
  int32_t min;
  int32_t extent;
  int32_t stride;  // in elements
  uint32_t flags;
};

struct bitnet_halide_buffer {
  uint64_t device;
  const void* device_interface;
  uint8_t* host;
  uint64_t flags;
  bitnet_halide_type type;
  int32_t dimensions;
  bitnet_halide_dimension* dim;  // [dimensions]
  void* padding;
};

}  // extern "C"

namespace bitnet_halide {
namespace {

constexpr bitnet_halide_type kInt8 = {0, 8, 1};
constexpr bitnet_halide_type kInt32 = {0, 32, 1};
constexpr bitnet_halide_type kUint8 = {1, 8, 1};
constexpr bitnet_halide_type kFloat32 = {2, 32, 1};

constexpr int kLineK = 16;  // of layout t2
constexpr int kLineBytes = 64;
// Packed activations that meet one row of tiles before the next: they stay in a 1 MiB L2 cache beside the weights.
constexpr long long kActivationBytes = 512 * 1024;

inline bitnet_halide_buffer buffer(const void* host, const bitnet_halide_type& type, bitnet_halide_dimension* dim,
                                   int dimensions) noexcept {
  return {0, nullptr, (uint8_t*)host, 0, type, dimensions, dim, nullptr};
}

// The functions that schedules/ternary.h describes. The fourth argument is the number of row tiles in a stream.
typedef int GemvPipeline(bitnet_halide_buffer* weights, bitnet_halide_buffer* x, int32_t x_sum, int32_t part,
                         bitnet_halide_buffer* y) noexcept;
typedef int GemmPipeline(bitnet_halide_buffer* weights, bitnet_halide_buffer* x, bitnet_halide_buffer* x_sums,
                         int32_t part, bitnet_halide_buffer* y) noexcept;

// Row tiles `first` .. `first + part * streams - 1`: stream s holds tiles first + s * part .. + part - 1.
struct TileRange {
  long long first;
  long long part;
  int streams;
};

template <long long K>
constexpr int kLines = static_cast<int>((K + kLineK - 1) / kLineK);

template <long long K, GemvPipeline* Pipeline>
inline void gemv_tiles(const bitnet_gemv_args* a, const TileRange& tiles) noexcept {
  if (tiles.part == 0) return;
  const int32_t part = static_cast<int32_t>(tiles.part);
  bitnet_halide_dimension w_dim[3] = {
      {0, kLineBytes, 1, 0}, {0, kLines<K>, kLineBytes, 0}, {0, part * tiles.streams, kLines<K> * kLineBytes, 0}};
  bitnet_halide_dimension x_dim[1] = {{0, kLines<K> * kLineK, 1, 0}};
  bitnet_halide_dimension y_dim[3] = {
      {0, BITNET_TILE_ROWS, 1, 0}, {0, part, BITNET_TILE_ROWS, 0}, {0, tiles.streams, part * BITNET_TILE_ROWS, 0}};
  bitnet_halide_buffer w = buffer(a->weights + tiles.first * (kLines<K> * kLineBytes), kUint8, w_dim, 3);
  bitnet_halide_buffer x = buffer(a->x, kInt8, x_dim, 1);
  bitnet_halide_buffer y = buffer(a->y + tiles.first * BITNET_TILE_ROWS, kInt32, y_dim, 3);
  (void)Pipeline(&w, &x, a->x_sums[0], part, &y);
}

// Tokens token .. token + tokens - 1, the first of them the first of a block.
template <long long K, int TokenTile, GemmPipeline* Pipeline>
inline void gemm_tiles(const bitnet_gemm_args* a, long long token, long long tokens, const TileRange& tiles) noexcept {
  if (tiles.part == 0) return;
  constexpr int kDwords = static_cast<int>(BITNET_ACTIVATION_WIDTH(K) / 4);
  const int32_t part = static_cast<int32_t>(tiles.part);
  const int32_t count = static_cast<int32_t>(tokens);
  bitnet_halide_dimension w_dim[3] = {
      {0, kLineBytes, 1, 0}, {0, kLines<K>, kLineBytes, 0}, {0, part * tiles.streams, kLines<K> * kLineBytes, 0}};
  bitnet_halide_dimension x_dim[4] = {{0, 4, 1, 0},
                                      {0, TokenTile, 4, 0},
                                      {0, kDwords, 4 * TokenTile, 0},
                                      {0, (count + TokenTile - 1) / TokenTile, 4 * TokenTile * kDwords, 0}};
  bitnet_halide_dimension sums_dim[1] = {{0, count, 1, 0}};
  bitnet_halide_dimension y_dim[4] = {{0, BITNET_TILE_ROWS, 1, 0},
                                      {0, part, BITNET_TILE_ROWS, 0},
                                      {0, tiles.streams, part * BITNET_TILE_ROWS, 0},
                                      {0, count, static_cast<int32_t>(a->y_stride), 0}};
  bitnet_halide_buffer w = buffer(a->weights + tiles.first * (kLines<K> * kLineBytes), kUint8, w_dim, 3);
  bitnet_halide_buffer x = buffer(a->x + token * (4 * kDwords), kInt8, x_dim, 4);
  bitnet_halide_buffer x_sums = buffer(a->x_sums + token, kInt32, sums_dim, 1);
  bitnet_halide_buffer y = buffer(a->y + token * a->y_stride + tiles.first * BITNET_TILE_ROWS, kInt32, y_dim, 4);
  (void)Pipeline(&w, &x, &x_sums, part, &y);
}

// The row range cut into `Streams` equal parts, and the tiles that are left over.
template <int Streams, typename Work>
inline void for_tiles(long long row_begin, long long row_end, const Work& work) noexcept {
  const long long begin = row_begin / BITNET_TILE_ROWS;
  const long long end = (row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  work(TileRange{begin, part, Streams});
  if constexpr (Streams > 1) work(TileRange{begin + part * Streams, end - begin - part * Streams, 1});
}

template <long long N, long long K>
inline void check_matrix() {
  static_assert(N >= 1 && N <= (1LL << 31) - 16 && K >= 1 && K <= 132104, "matrix out of the pipeline's range");
}

template <long long N, long long K, int Streams, GemvPipeline* Pipeline>
inline void gemv(const bitnet_gemv_args* a) noexcept {
  check_matrix<N, K>();
  static_assert(Streams >= 1 && Streams <= 8, "streams out of the pipeline's range");
  for_tiles<Streams>(a->row_begin, a->row_end, [a](const TileRange& tiles) { gemv_tiles<K, Pipeline>(a, tiles); });
}

template <long long N, long long K, int TokenTile, int Streams, GemmPipeline* Pipeline>
inline void gemm(const bitnet_gemm_args* a) noexcept {
  check_matrix<N, K>();
  static_assert(TokenTile >= 1 && TokenTile <= 32 && Streams >= 1 && Streams <= 8, "tile out of the pipeline's range");
  constexpr long long kFitting = kActivationBytes / (BITNET_ACTIVATION_WIDTH(K) * TokenTile);
  constexpr long long kTokens = (kFitting > 1 ? kFitting : 1) * TokenTile;
  for (long long token = 0; token < a->tokens; token += kTokens) {
    const long long tokens = token + kTokens < a->tokens ? kTokens : a->tokens - token;
    for_tiles<Streams>(a->row_begin, a->row_end, [a, token, tokens](const TileRange& tiles) {
      gemm_tiles<K, TokenTile, Pipeline>(a, token, tokens, tiles);
    });
  }
}

}  // namespace
}  // namespace bitnet_halide

// Define `void KERNEL(const bitnet_gemv_args*)` and `void KERNEL(const bitnet_gemm_args*)` without K-groups for a
// matrix [N][K] over a pipeline of schedules/ternary.h. N, K and the tile sizes are constants; those that the pipeline
// was compiled with must be the same, in the words of bitnet-halide:
//   BITNET_HALIDE_GEMV(KERNEL, PIPELINE, N, K, STREAMS)              i2s_gemv:K=<K>:STREAMS=<STREAMS>:SYMBOL=<PIPELINE>
//   BITNET_HALIDE_GEMM(KERNEL, PIPELINE, N, K, TOKEN_TILE, STREAMS)
//   i2s_gemm:K=<K>:TOKENS=<TOKEN_TILE>:STREAMS=<STREAMS>:
//                                                                    SYMBOL=<PIPELINE>
// and `:DOT=1` in both where the target has AVX-512 VNNI. TOKEN_TILE is the MR of the packed activations. Kernels of
// equal K and tile sizes may share a pipeline, which does not know N. They need no scratch. The pipeline's symbol is
// hidden: the call needs no PLT and the image no relocation. It returns 0 always (compiled with no_asserts). y_stride
// of a gemm must be below 2^31.
#define BITNET_HALIDE_GEMV(KERNEL, PIPELINE, N, K, STREAMS)                                           \
  extern "C" __attribute__((visibility("hidden"))) bitnet_halide::GemvPipeline PIPELINE;              \
  extern "C" __attribute__((visibility("default"))) void KERNEL(const bitnet_gemv_args* a) noexcept { \
    bitnet_halide::gemv<(N), (K), (STREAMS), PIPELINE>(a);                                            \
  }
#define BITNET_HALIDE_GEMM(KERNEL, PIPELINE, N, K, TOKEN_TILE, STREAMS)                               \
  extern "C" __attribute__((visibility("hidden"))) bitnet_halide::GemmPipeline PIPELINE;              \
  extern "C" __attribute__((visibility("default"))) void KERNEL(const bitnet_gemm_args* a) noexcept { \
    bitnet_halide::gemm<(N), (K), (TOKEN_TILE), (STREAMS), PIPELINE>(a);                              \
  }

// Defines `void KERNEL(const bitnet_norm_quantize_args*)` over the pipeline norm_quantize compiled for the same
// constant K as PIPELINE (schedules/norm_quantize.h). The arguments' k and scratch are not used. The pipeline's symbol
// is hidden: the call needs no PLT and the image no relocation. It returns 0 always (compiled with no_asserts).
#define BITNET_HALIDE_NORM_QUANTIZE(KERNEL, PIPELINE, K)                                                       \
  extern "C" __attribute__((visibility("hidden"))) int PIPELINE(                                               \
      bitnet_halide_buffer* x, bitnet_halide_buffer* gain, float eps, bitnet_halide_buffer* q,                 \
      bitnet_halide_buffer* scale, bitnet_halide_buffer* q_sum) noexcept;                                      \
  extern "C" __attribute__((visibility("default"))) void KERNEL(const bitnet_norm_quantize_args* a) noexcept { \
    static_assert((K) >= 1 && (K) <= 132104, "row length out of the pipeline's range");                        \
    bitnet_halide_dimension row = {0, (K), 1, 0};                                                              \
    bitnet_halide_buffer x = bitnet_halide::buffer(a->x, bitnet_halide::kFloat32, &row, 1);                    \
    bitnet_halide_buffer gain = bitnet_halide::buffer(a->gain, bitnet_halide::kFloat32, &row, 1);              \
    bitnet_halide_buffer q = bitnet_halide::buffer(a->q, bitnet_halide::kInt8, &row, 1);                       \
    bitnet_halide_buffer scale = bitnet_halide::buffer(a->scale, bitnet_halide::kFloat32, nullptr, 0);         \
    bitnet_halide_buffer q_sum = bitnet_halide::buffer(a->q_sum, bitnet_halide::kInt32, nullptr, 0);           \
    (void)PIPELINE(&x, &gain, a->eps, &q, &scale, &q_sum);                                                     \
  }

#endif  // BITNET_SCHEDULES_HALIDE_ADAPTER_H_
