// Targets: names, the probe against what the environment says the CPU is, and BITNET_FORCE_ISA.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kernels/isa_probe.h"
#include "runtime/kernels/kernel.h"

namespace bitnet {
namespace {

// Sets BITNET_FORCE_ISA for one scope.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char* value) {
    const char* old = std::getenv("BITNET_FORCE_ISA");
    had_ = old != nullptr;
    if (had_) old_ = old;
    setenv("BITNET_FORCE_ISA", value, 1);
  }
  ~ForcedIsa() {
    if (had_) {
      setenv("BITNET_FORCE_ISA", old_.c_str(), 1);
    } else {
      unsetenv("BITNET_FORCE_ISA");
    }
  }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;

 private:
  bool had_ = false;
  std::string old_;
};

Kernel kernel_of(Isa isa, std::int64_t n, std::int64_t k) {
  Kernel kernel;
  kernel.isa = isa;
  kernel.n = n;
  kernel.k = k;
  return kernel;
}

}  // namespace

TEST_CASE("names of targets, operations and formats read back") {
  for (const Isa isa : all_isas()) CHECK(parse_isa(to_string(isa)) == isa);
  for (int i = 0; i <= static_cast<int>(Op::kHeadScreen); ++i)
    CHECK(parse_op(to_string(static_cast<Op>(i))) == static_cast<Op>(i));
  for (int i = 0; i <= static_cast<int>(Format::kF32); ++i) {
    CHECK(parse_format(to_string(static_cast<Format>(i))) == static_cast<Format>(i));
  }
  CHECK_FALSE(parse_isa("avx1024").has_value());
  CHECK_FALSE(parse_isa("").has_value());
  CHECK_FALSE(parse_op("GEMV").has_value());
  CHECK_FALSE(parse_format("q4_0").has_value());
}

TEST_CASE("kernel names follow the grammar") {
  Kernel kernel = kernel_of(Isa::kAvx512, 6912, 2560);
  CHECK(kernel.name() == "i2s_gemv_n6912k2560_avx512");
  kernel.n = 0;
  kernel.op = Op::kNormQuantize;
  kernel.format = Format::kI8;
  kernel.technique = "halide";
  CHECK(kernel.name() == "i8_norm_quantize_k2560_avx512_halide");
  kernel.k = 0;
  CHECK(kernel.name() == "i8_norm_quantize_avx512_halide");
}

TEST_CASE("find_kernel takes the last kernel that fits") {
  const std::vector<Kernel> kernels = {kernel_of(Isa::kScalar, 0, 0), kernel_of(Isa::kAvx2, 0, 0),
                                       kernel_of(Isa::kAvx2, 64, 32), kernel_of(Isa::kAvx512, 64, 32)};
  const std::vector<Isa> all = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};
  const std::vector<Isa> narrow = {Isa::kScalar, Isa::kAvx2};
  CHECK(find_kernel(kernels, all, {Op::kGemv, Format::kI2s, 64, 32}) == &kernels[3]);
  CHECK(find_kernel(kernels, narrow, {Op::kGemv, Format::kI2s, 64, 32}) == &kernels[2]);
  CHECK(find_kernel(kernels, narrow, {Op::kGemv, Format::kI2s, 64, 33}) == &kernels[1]);
  CHECK(find_kernel(kernels, std::vector<Isa>{Isa::kScalar}, {Op::kGemv, Format::kI2s, 64, 32}) == &kernels[0]);
  CHECK(find_kernel(kernels, {}, {Op::kGemv, Format::kI2s, 64, 32}) == nullptr);
  CHECK(find_kernel(kernels, all, {Op::kGemm, Format::kI2s, 64, 32}) == nullptr);
  CHECK(find_kernel(kernels, all, {Op::kGemv, Format::kI8, 64, 32}) == nullptr);
}

TEST_CASE("the probe agrees with the CPU that the environment names") {
  const char* expected = std::getenv("BITNET_TEST_EXPECT_ISAS");
  std::string found;
  for (const Isa isa : all_isas()) {
    std::printf("target %-8s %s\n", std::string(to_string(isa)).c_str(),
                probe_isa(isa) ? "executes" : "does not execute on this CPU");
    if (probe_isa(isa)) found.append(found.empty() ? "" : " ").append(to_string(isa));
  }
  CHECK(probe_isa(Isa::kScalar));
  if (expected == nullptr) {
    std::printf("SKIPPED: comparison with a known CPU (BITNET_TEST_EXPECT_ISAS is not set)\n");
    return;
  }
  CHECK(found == expected);
}

TEST_CASE("the probe leaves the handler of SIGILL as it was, and threads may ask at once") {
  std::vector<std::thread> threads;
  std::vector<char> answers(8, 0);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([&answers, i] { answers[i] = probe_isa(Isa::kAvx2) ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::all_of(answers.begin(), answers.end(), [&](char a) { return a == answers[0]; }));
  // doctest has one handler for all fatal signals; the probe, which has run by now, only borrows that of SIGILL.
  struct sigaction illegal = {};
  struct sigaction fault = {};
  REQUIRE(sigaction(SIGILL, nullptr, &illegal) == 0);
  REQUIRE(sigaction(SIGSEGV, nullptr, &fault) == 0);
  CHECK((illegal.sa_handler == fault.sa_handler));
}

TEST_CASE("a probe that meets an illegal instruction or a wrong result answers no") {
  (void)probe_isa(Isa::kScalar);  // the probes have run: nobody else is inside the guard
  CHECK(isa_detail::guarded([] { return true; }));
  CHECK_FALSE(isa_detail::guarded([] { return false; }));
  const auto illegal = [] {
    raise(SIGILL);
    return true;
  };
  CHECK_FALSE(isa_detail::guarded(illegal));
  CHECK_FALSE(isa_detail::guarded(illegal));  // the first left the guard in order
#if defined(__x86_64__)
  CHECK_FALSE(isa_detail::guarded([] {
    __asm__ volatile("ud2");
    return true;
  }));
#endif
}

TEST_CASE("BITNET_FORCE_ISA restricts and never replaces") {
  const std::vector<Isa> all = [] {
    ForcedIsa none("");
    return executable_isas();
  }();
  REQUIRE_FALSE(all.empty());
  CHECK(std::is_sorted(all.begin(), all.end()));
  {
    ForcedIsa scalar("scalar");
    CHECK(executable_isas() == std::vector<Isa>{Isa::kScalar});
  }
  for (const char* unknown : {"avx1024", "AVX2", " avx2"}) {
    ForcedIsa forced(unknown);
    CHECK(executable_isas().empty());
  }
  for (const Isa isa : all_isas()) {
    ForcedIsa forced(std::string(to_string(isa)).c_str());
    const std::vector<Isa> restricted = executable_isas();
    if (!probe_isa(isa)) {
      CHECK(restricted.empty());
    } else {
      REQUIRE_FALSE(restricted.empty());
      CHECK(restricted.back() == isa);
    }
  }
}

}  // namespace bitnet
