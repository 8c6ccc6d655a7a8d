// A program for riscv64 without any library: I2_S GEMV and GEMM as bitnet-halide compiled them, against plain loops
// over the weights that it packs itself. Raw Linux system calls; exit status 0 if every sum is right, else 1 and a line
// on standard error. tests/riscv_test.sh builds it and runs it under qemu-riscv64, which knows nothing of this project:
// what runs here is what a machine without any dictionary would run.
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"
#include "schedules/halide_adapter.h"

// N, K and the tile sizes come from the script, which asks bitnet-halide for the same.
BITNET_HALIDE_GEMV(kernel_gemv, pipeline_gemv, BITNET_N, BITNET_K, BITNET_STREAMS)
BITNET_HALIDE_GEMM(kernel_gemm, pipeline_gemm, BITNET_N, BITNET_K, BITNET_TOKENS, BITNET_STREAMS)

namespace {

constexpr long kN = BITNET_N;
constexpr long kK = BITNET_K;
constexpr long kMr = BITNET_TOKENS;
constexpr long kMaxTokens = 7;
constexpr long kBlocks = (kMaxTokens + kMr - 1) / kMr;
constexpr long kWidth = BITNET_ACTIVATION_WIDTH(kK);
constexpr long kLines = (kK + 15) / 16;
constexpr long kTiles = (kN + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
constexpr long kRows = kTiles * BITNET_TILE_ROWS;
constexpr int32_t kGuard = 0x5A5A5A5A;

// In static storage, the arguments too: what a compiler zeroes on the stack, it zeroes with memset, and there is none.
uint8_t codes[kRows][kLines * 16];
int8_t activations[kMaxTokens][kK];
alignas(64) uint8_t weights[kTiles * kLines * 64];
alignas(64) int8_t row[kWidth];
alignas(64) int8_t packed[kBlocks * kWidth * kMr];
int32_t sums[kBlocks * kMr];
int32_t output[kMaxTokens + 1][kRows];
bitnet_gemv_args gemv;
bitnet_gemm_args gemm;

long system_call(long number, long a, long b, long c) {
  register long a7 asm("a7") = number;
  register long a0 asm("a0") = a;
  register long a1 asm("a1") = b;
  register long a2 asm("a2") = c;
  asm volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
  return a0;
}

[[noreturn]] void leave(int status) {
  for (;;) system_call(93, status, 0, 0);
}

[[noreturn]] void fail(const char* message) {
  long length = 0;
  while (message[length] != '\0') ++length;
  system_call(64, 2, reinterpret_cast<long>(message), length);
  leave(1);
}

uint32_t state = 1;
uint32_t random_below(uint32_t limit) {
  state = state * 1664525 + 1013904223;
  return (state >> 8) % limit;
}

// Layout t2; rows beyond N and k beyond K are weight 0, code 1.
void pack_weights() {
  for (long r = 0; r < kRows; ++r) {
    for (long k = 0; k < kLines * 16; ++k) {
      const long line = r / 16 * kLines + k / 16;
      weights[line * 64 + r % 16 * 4 + k % 4] |= static_cast<uint8_t>(codes[r][k] << (k % 16 / 4 * 2));
    }
  }
}

int32_t expected(long r, long t) {
  int32_t sum = 0;
  for (long k = 0; k < kK; ++k) sum += (codes[r][k] - 1) * activations[t][k];
  return r < kN ? sum : 0;
}

void fill(bool extreme) {
  for (long i = 0; i < static_cast<long>(sizeof weights); ++i) weights[i] = 0;
  for (long r = 0; r < kRows; ++r) {
    for (long k = 0; k < kLines * 16; ++k) {
      const bool inside = r < kN && k < kK;
      codes[r][k] = static_cast<uint8_t>(!inside ? 1 : extreme ? 2 : random_below(3));
    }
  }
  for (long t = 0; t < kMaxTokens; ++t) {
    sums[t] = 0;
    for (long k = 0; k < kK; ++k) {
      activations[t][k] = static_cast<int8_t>(extreme ? 127 : static_cast<int>(random_below(255)) - 127);
      sums[t] += activations[t][k];
      packed[t / kMr * kWidth * kMr + k / 4 * 4 * kMr + t % kMr * 4 + k % 4] = activations[t][k];
    }
  }
  for (long k = 0; k < kK; ++k) row[k] = activations[0][k];
  pack_weights();
}

void cover_output() {
  for (long t = 0; t <= kMaxTokens; ++t) {
    for (long r = 0; r < kRows; ++r) output[t][r] = kGuard;
  }
}

// Rows up to `rows` of tokens up to `tokens` are right, everything else is untouched.
void check(long tokens, long rows, const char* message) {
  for (long t = 0; t <= kMaxTokens; ++t) {
    for (long r = 0; r < kRows; ++r) {
      const bool inside = t < tokens && r < rows;
      if (output[t][r] != (inside ? expected(r, t) : kGuard)) fail(message);
    }
  }
}

void test_gemv() {
  gemv.weights = weights;
  gemv.x = row;
  gemv.x_sums = sums;
  gemv.y = output[0];
  gemv.n = kN;
  gemv.k = kK;
  cover_output();
  gemv.row_begin = 0;
  gemv.row_end = kN < 16 ? kN : 16;
  kernel_gemv(&gemv);
  check(1, 16, "riscv: gemv: the first tile is wrong\n");
  if (kN <= 16) return;
  gemv.row_begin = 16;
  gemv.row_end = kN;
  kernel_gemv(&gemv);
  check(1, kRows, "riscv: gemv: the other tiles are wrong\n");
}

void test_gemm() {
  gemm.weights = weights;
  gemm.x = packed;
  gemm.x_sums = sums;
  gemm.y = output[0];
  gemm.row_end = kN;
  gemm.y_stride = kRows;
  gemm.n = kN;
  gemm.k = kK;
  for (gemm.tokens = 1; gemm.tokens <= kMaxTokens; ++gemm.tokens) {
    cover_output();
    kernel_gemm(&gemm);
    check(gemm.tokens, kRows, "riscv: gemm: a sum is wrong\n");
  }
}

}  // namespace

extern "C" [[noreturn]] void _start() {
  for (int extreme = 0; extreme < 2; ++extreme) {
    fill(extreme != 0);
    test_gemv();
    test_gemm();
  }
  leave(0);
}
