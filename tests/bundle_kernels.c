// Three small kernels for bundle_test, gathered in one linker section whose bytes serve as a code image: they call
// nothing and use no data, so the section may be copied anywhere (see tests/CMakeLists.txt for the flags).
#include "runtime/kernels/kernel_abi.h"

#define IN_IMAGE __attribute__((section("bundle_image"), used))
#define INLINE static inline __attribute__((always_inline))

INLINE int32_t row_dot(const uint8_t* weights, const int8_t* x, int64_t step, int64_t row, int64_t k) {
  const int64_t lines = (k + 15) / 16;
  const uint8_t* tile = weights + row / 16 * lines * 64 + row % 16 * 4;
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int code = tile[i / 16 * 64 + i % 4] >> (i % 16 / 4 * 2) & 3;
    sum += (code - 1) * x[i / 4 * step + i % 4];
  }
  return sum;
}

INLINE int64_t whole_tiles(int64_t row) { return (row + 15) / 16 * 16; }

IN_IMAGE void bundle_test_gemv(const bitnet_gemv_args* a) {
  for (int64_t r = a->row_begin; r < whole_tiles(a->row_end); ++r) a->y[r] = row_dot(a->weights, a->x, 4, r, a->k);
}

IN_IMAGE void bundle_test_gemm(const bitnet_gemm_args* a) {  // token tile 2
  for (int64_t t = 0; t < a->tokens; ++t) {
    const int8_t* x = a->x + t / 2 * BITNET_ACTIVATION_WIDTH(a->k) * 2 + t % 2 * 4;
    for (int64_t r = a->row_begin; r < whole_tiles(a->row_end); ++r) {
      a->y[t * a->y_stride + r] = row_dot(a->weights, x, 8, r, a->k);
    }
  }
}

// Wrong by one in the last row.
IN_IMAGE void bundle_test_broken_gemv(const bitnet_gemv_args* a) {
  for (int64_t r = a->row_begin; r < whole_tiles(a->row_end); ++r) {
    a->y[r] = row_dot(a->weights, a->x, 4, r, a->k) + (r == a->n - 1);
  }
}
