// I2_S GEMV and GEMM as Halide pipelines: through the tester of all kernels on every target that this CPU executes,
// with every knob of the schedule, with offsets beyond 32 bits, and by the instructions of every target.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/kernels/layout.h"
#include "tests/halide_objects.h"
#include "tests/kernel_tester.h"
#include "tests/quick.h"

namespace bitnet::test {
namespace {

struct Knobs {
  int streams = 1;
  int tokens = 1;
  std::string more;  // ":LANES=4"
};

PipelineKernel ternary(const TargetRow& target, Op op, std::int64_t n, std::int64_t k, const Knobs& knobs) {
  PipelineKernel result;
  result.kernel.op = op;
  result.kernel.n = n;
  result.kernel.k = k;
  result.kernel.isa = target.isa;
  result.kernel.token_tile = op == Op::kGemm ? knobs.tokens : 1;
  result.streams = knobs.streams;
  result.request = "i2s_" + std::string(to_string(op)) + ":K=" + std::to_string(k) +
                   ":STREAMS=" + std::to_string(knobs.streams) + knobs.more;
  if (op == Op::kGemm) result.request += ":TOKENS=" + std::to_string(knobs.tokens);
  result.name = result.request + "_n" + std::to_string(n);
  for (char& c : result.name) {
    if (c == ':' || c == '=') c = '_';
  }
  return result;
}

// Those that this CPU executes; targets that are one to Halide once.
std::vector<TargetRow> distinct_targets() {
  std::vector<TargetRow> rows;
  for (const TargetRow& target : target_rows()) {
    const bool known =
        std::ranges::any_of(rows, [&](const TargetRow& other) { return other.halide_target == target.halide_target; });
    if (!known && executable(target)) rows.push_back(target);
  }
  return rows;
}

// What the planner adds to requests for the target.
std::string dot_of(const TargetRow& target) {
  return target.llvm_features.find("avx512vnni") != std::string::npos ? ":DOT=1" : "";
}

void check_all(const TargetRow& target, const std::vector<PipelineKernel>& kernels) {
  const Folder folder;
  const SharedObject object(target, kernels, folder);
  TestPlan plan = quick_plan();
  plan.tokens = {1, 2, 3, 4, 5, 8, 17, 33};
  KernelTester tester(plan);
  for (const PipelineKernel& each : kernels) {
    for (const std::string& failure : tester.test(object.kernel(each))) FAIL_CHECK(each.name << ": " << failure);
  }
}

// Memory that costs nothing until it is written; nullptr, after saying so, where there is not enough address space.
class Sparse {
 public:
  explicit Sparse(std::size_t bytes) : bytes_(bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) data_ = memory;
    if (data_ == nullptr) std::printf("SKIPPED: no %zu bytes of address space\n", bytes);
  }
  ~Sparse() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  template <typename T>
  [[nodiscard]] T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace

TEST_CASE("ternary pipelines: the tester's verdict on every target") {
  for (const TargetRow& target : distinct_targets()) {
    const std::string dot = dot_of(target);
    std::vector<PipelineKernel> kernels;
    // One line and one row; rests of runs, of streams and of tiles.
    const TestPlan::Shape shapes[] = {{1, 1}, {17, 100}, {40, 257}, {96, 640}, {129, 2576}};
    for (const auto& [n, k] : shapes) {
      if (quick_wanted() && (k == 257 || k == 640)) continue;
      kernels.push_back(ternary(target, Op::kGemv, n, k, {1, 1, dot}));
      kernels.push_back(ternary(target, Op::kGemv, n, k, {2, 1, dot}));
      kernels.push_back(ternary(target, Op::kGemm, n, k, {1, 4, dot}));
      kernels.push_back(ternary(target, Op::kGemm, n, k, {2, 3, dot}));
    }
    kernels.push_back(ternary(target, Op::kGemm, 40, 100, {1, 1, dot}));
    kernels.push_back(ternary(target, Op::kGemm, 40, 100, {3, 16, dot}));
    check_all(target, kernels);
  }
}

TEST_CASE("ternary pipelines: the schedule's knobs change no sum") {
  for (const TargetRow& target : distinct_targets()) {
    std::vector<PipelineKernel> kernels;
    for (const char* knobs : {":DOT=1:PASSES=1", ":DOT=1:PASSES=2", ":DOT=1:PASSES=4", ":DOT=2", ":DOT=3", ":DOT=4"}) {
      for (const char* lanes : {"", ":LANES=1", ":LANES=16"}) {
        const std::string more = std::string(knobs) + lanes;
        if (quick_wanted() && *lanes != '\0' && more.find("DOT=1:PASSES=2") == std::string::npos) continue;
        // With VNNI the compiler may take all of Zen 4: only what the planner asks for is promised to keep from it.
        if (!dot_of(target).empty() && more.starts_with(":DOT=1") && *lanes != '\0') continue;
        kernels.push_back(ternary(target, Op::kGemv, 49, 600, {2, 1, more}));
        if (*lanes == '\0') kernels.push_back(ternary(target, Op::kGemm, 33, 600, {1, 2, more}));
      }
    }
    check_all(target, kernels);
  }
}

// A long token stride, and a second stream more than 2^31 bytes of weights behind the first.
TEST_CASE("ternary pipelines: offsets beyond 32 bits") {
  const TargetRow target = target_rows().front();
  REQUIRE(executable(target));
  constexpr std::int64_t kTokens = 17;
  constexpr std::int64_t kStride = std::int64_t{1} << 28;
  constexpr std::int64_t kK = 132096;
  const std::size_t tile = tile_bytes(Layout::kT2, kK);
  const std::int64_t part = static_cast<std::int64_t>((std::size_t{1} << 31) / tile) + 1;
  const Sparse y(static_cast<std::size_t>(kTokens * kStride) * sizeof(std::int32_t));
  const Sparse weights(static_cast<std::size_t>(2 * part) * tile);
  const Sparse sums(static_cast<std::size_t>(2 * part) * BITNET_TILE_ROWS * sizeof(std::int32_t));
  if (y.data<void>() == nullptr || weights.data<void>() == nullptr || sums.data<void>() == nullptr) return;

  const std::vector<PipelineKernel> kernels = {
      ternary(target, Op::kGemm, 16, 16, {1, 4, ""}),
      ternary(target, Op::kGemv, 2 * part * BITNET_TILE_ROWS, kK, {2, 1, ""}),
  };
  const Folder folder;
  const SharedObject object(target, kernels, folder);

  // Weights 0 but for row 3, which is all 1: y = x_sum there.
  alignas(64) std::array<std::uint8_t, 64> line{};
  line.fill(0x55);
  for (std::size_t j = 0; j < 4; ++j) line[4 * 3 + j] = 0xAA;
  alignas(64) std::array<std::int8_t, 5 * BITNET_ACTIVATION_WIDTH(16) * 4> x{};
  std::array<std::int32_t, 20> x_sums{};
  for (std::int64_t t = 0; t < kTokens; ++t) {
    x_sums[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t + 1);
    x[static_cast<std::size_t>(t / 4 * 4 * BITNET_ACTIVATION_WIDTH(16) + t % 4 * 4)] = static_cast<std::int8_t>(t + 1);
  }
  bitnet_gemm_args gemm{};
  gemm.weights = line.data();
  gemm.x = x.data();
  gemm.x_sums = x_sums.data();
  gemm.y = y.data<std::int32_t>();
  gemm.row_end = 16;
  gemm.tokens = kTokens;
  gemm.y_stride = kStride;
  gemm.n = 16;
  gemm.k = 16;
  object.kernel(kernels[0])(gemm);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    CHECK(y.data<std::int32_t>()[t * kStride + 2] == 0);
    CHECK(y.data<std::int32_t>()[t * kStride + 3] == t + 1);
  }

  // Memory full of zeros is weights of -1; two rows get others: codes 2 (+1) in the first 4 bytes of their first line.
  alignas(64) static std::array<std::int8_t, BITNET_ACTIVATION_WIDTH(kK)> row{};
  for (std::int64_t k = 0; k < 16; ++k) row[static_cast<std::size_t>(k)] = 1;
  const std::int32_t row_sum = 16;
  std::memset(weights.data<std::uint8_t>() + static_cast<std::size_t>(part) * tile, 0xAA, 4);
  std::memset(weights.data<std::uint8_t>() + static_cast<std::size_t>(2 * part - 1) * tile + 60, 0xAA, 4);
  bitnet_gemv_args gemv{};
  gemv.weights = weights.data<std::uint8_t>();
  gemv.x = row.data();
  gemv.x_sums = &row_sum;
  gemv.y = sums.data<std::int32_t>();
  gemv.row_end = 2 * part * BITNET_TILE_ROWS;
  gemv.n = gemv.row_end;
  gemv.k = kK;
  object.kernel(kernels[1])(gemv);
  for (std::int64_t r = 0; r < gemv.n; ++r) {
    const std::int32_t expected = r == part * BITNET_TILE_ROWS || r == gemv.n - 1 ? 16 : -16;
    if (gemv.y[r] != expected) FAIL("row " << r << ": expected " << expected << ", found " << gemv.y[r]);
  }
}

// Which instruction sums the products, read from the disassembly, also where this CPU does not execute it. avx2-vnni
// has that of avx2: Halide 21 emits vpdpbusd for AVX-512 only.
TEST_CASE("ternary pipelines: the dot product instruction of the target is used") {
#ifndef BITNET_TEST_OBJDUMP
  std::printf("SKIPPED: the instructions of ternary pipelines (no llvm-objdump)\n");
#else
  const auto instruction = [](Isa isa) -> const char* {
    switch (isa) {
      case Isa::kScalar:
        return "pmullw";
      case Isa::kAvx2:
      case Isa::kAvx2Vnni:
        return "vpmaddubsw";
      case Isa::kAvx512:
      case Isa::kAvx512Vbmi:
        return "vpdpbusd";
      case Isa::kNeon:
        return "smlal";
      default:
        return "sdot";
    }
  };
  for (const TargetRow& target : target_rows()) {
    const std::vector<PipelineKernel> kernels = {ternary(target, Op::kGemv, 48, 2560, {1, 1, dot_of(target)}),
                                                 ternary(target, Op::kGemm, 48, 2560, {1, 4, dot_of(target)})};
    const Folder folder;
    compile_pipelines(target, kernels, folder);
    for (const PipelineKernel& each : kernels) {
      CAPTURE(target.name);
      CAPTURE(each.name);
      const Outcome text =
          run({BITNET_TEST_OBJDUMP, "--disassemble", "--mattr=+all", folder.file(each.symbol() + ".o")});
      REQUIRE_MESSAGE(text.code == 0, text.output);
      CHECK(text.output.find(instruction(target.isa)) != std::string::npos);
      CHECK(text.output.find("call") == std::string::npos);
    }
  }
#endif
}

}  // namespace bitnet::test
