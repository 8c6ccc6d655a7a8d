// Kernels without a runtime: a plain C program that links the static library which `bitnet-codegen --emit static`
// wrote, packs a ternary matrix in layout t2, and multiplies it by a vector with every GEMV kernel in the library for
// the targets named on its command line. Each result is compared with a loop.
//
// model_kernels.h is generated; it holds the argument structs, the layouts in words, a declaration of every kernel, and
// for each operation a list macro.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_kernels.h"

struct gemv_kernel {
  const char* name;
  void (*function)(const bitnet_gemv_args*);
  const char* format;
  const char* target;
  int64_t n, k, group;
  size_t scratch_bytes;
};

static const struct gemv_kernel kernels[] = {
#define ROW(name, format, target, n, k, group, m, token_tile, scratch_bytes) \
  {#name, name, #format, #target, n, k, group, scratch_bytes},
    MODEL_KERNELS_GEMV(ROW)
#undef ROW
};

static uint32_t next_random(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

// Zeroed memory at a multiple of 64 bytes, or the end of the program.
static void* aligned_zeros(size_t bytes) {
  const size_t whole = (bytes + 64) / 64 * 64;
  void* memory = aligned_alloc(64, whole);
  if (memory == NULL) {
    fprintf(stderr, "no memory for %zu bytes\n", whole);
    exit(1);
  }
  return memset(memory, 0, whole);
}

// Layout t2: line i of a tile of 16 rows is 64 bytes; byte 4r+j, bits 2p+1..2p, is code t+1 of row r, k = 16i + 4p + j.
static uint8_t* pack_t2(const int8_t* weights, int64_t n, int64_t k) {
  const int64_t tiles = (n + 15) / 16;
  const int64_t lines = (k + 15) / 16;
  uint8_t* packed = aligned_zeros((size_t)(tiles * lines * 64));
  for (int64_t row = 0; row < tiles * 16; ++row) {
    for (int64_t column = 0; column < lines * 16; ++column) {
      const int weight = row < n && column < k ? weights[row * k + column] : 0;
      const int64_t line = row / 16 * lines + column / 16;
      uint8_t* byte = packed + line * 64 + row % 16 * 4 + column % 4;
      *byte = (uint8_t)(*byte | (weight + 1) << (column % 16 / 4 * 2));
    }
  }
  return packed;
}

// 1 if the kernel and the loop agree.
static int check(const struct gemv_kernel* kernel) {
  const int64_t n = kernel->n;
  const int64_t k = kernel->k;
  uint32_t seed = 7;
  int8_t* weights = aligned_zeros((size_t)(n * k));
  for (int64_t i = 0; i < n * k; ++i) weights[i] = (int8_t)(next_random(&seed) % 3 - 1);
  int8_t* x = aligned_zeros(BITNET_ACTIVATION_WIDTH((size_t)k));
  int32_t x_sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    x[i] = (int8_t)((int)(next_random(&seed) % 255) - 127);
    x_sum += x[i];
  }
  uint8_t* packed = pack_t2(weights, n, k);
  int32_t* y = aligned_zeros((size_t)(n + 15) / 16 * 16 * sizeof *y);
  void* scratch = kernel->scratch_bytes == 0 ? NULL : aligned_zeros(kernel->scratch_bytes);

  const bitnet_gemv_args args = {.weights = packed,
                                 .x = x,
                                 .x_sums = &x_sum,
                                 .y = y,
                                 .scratch = scratch,
                                 .row_begin = 0,
                                 .row_end = n,
                                 .n = n,
                                 .k = k};
  kernel->function(&args);

  int64_t wrong = 0;
  for (int64_t row = 0; row < n; ++row) {
    int32_t expected = 0;
    for (int64_t i = 0; i < k; ++i) expected += weights[row * k + i] * x[i];
    wrong += y[row] != expected;
  }
  printf("%s: %lld rows, %lld differ from the loop\n", kernel->name, (long long)n, (long long)wrong);
  free(weights);
  free(x);
  free(packed);
  free(y);
  free(scratch);
  return wrong == 0;
}

int main(int argc, char** argv) {
  int ran = 0;
  int good = 1;
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; ++i) {
    int wanted = strcmp(kernels[i].format, "i2s") == 0 && kernels[i].group == 0;
    int named = 0;
    for (int a = 1; a < argc; ++a) named |= strcmp(kernels[i].target, argv[a]) == 0;
    if (!wanted || !named) continue;
    good &= check(&kernels[i]);
    ++ran;
  }
  if (ran == 0) fprintf(stderr, "usage: %s TARGET...: no i2s GEMV kernel of these targets in the library\n", argv[0]);
  return ran != 0 && good ? 0 : 1;
}
