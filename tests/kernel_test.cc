// Every built-in kernel through the one tester; and the tester itself, which must object to broken kernels.
#include "runtime/kernels/kernel.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "runtime/kernels/layout.h"
#include "tests/broken_kernels.h"
#include "tests/kernel_tester.h"

namespace bitnet::test {

namespace {

// Kernels with K-groups are the same loops over fewer k: the tails of groups, in place of every tail of N and K.
TestPlan group_plan() {
  TestPlan plan = plan_from_environment();
  plan.shapes = quick_plan().shapes;
  const TestPlan::Shape tails[] = {{17, 127}, {1, 129}, {33, 192}, {35, 255}, {16, 257}, {31, 300}, {17, 513}};
  plan.shapes.insert(plan.shapes.end(), std::begin(tails), std::end(tails));
  return plan;
}

}  // namespace

TEST_CASE("every built-in kernel equals the scalar reference") {
  const TestPlan any = plan_from_environment();
  const TestPlan grouped = group_plan();
  const char* emulator = std::getenv("BITNET_TEST_EMULATOR");
  for (const Kernel& kernel : builtin_kernels()) {
    const std::string name = kernel.name();
    if (!probe_isa(kernel.isa)) {
      std::printf("%-34s not run: this CPU does not execute %s\n", name.c_str(),
                  std::string(to_string(kernel.isa)).c_str());
      continue;
    }
    const std::vector<std::string> failures = test_kernel(kernel, kernel.group != 0 ? grouped : any);
    std::printf("%-34s %s%s\n", name.c_str(), emulator != nullptr ? "emulated by " : "run natively",
                emulator != nullptr ? emulator : "");
    std::fflush(stdout);
    for (const std::string& failure : failures) FAIL_CHECK(failure);
  }
}

TEST_CASE("the built-in list has every operation for each of its targets, and each name once") {
  std::set<std::string> names;
  for (const Kernel& kernel : builtin_kernels()) {
    CHECK(names.insert(kernel.name()).second);
    CHECK(kernel.technique == "xsimd");
    CHECK(kernel.function != nullptr);
  }
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2}) {
    for (int op = 0; op <= static_cast<int>(Op::kHeadScreen); ++op) {
      for (int format = 0; format <= static_cast<int>(Format::kQ8); ++format) {
        // Of the ternary formats, the built-in kernels have i2s.
        if (is_ternary(static_cast<Format>(format)) && static_cast<Format>(format) != Format::kI2s) continue;
        if (!is_valid(static_cast<Op>(op), static_cast<Format>(format))) continue;
        CHECK(builtin(static_cast<Op>(op), isa, static_cast<Format>(format)).isa == isa);
      }
    }
  }
  CHECK(builtin(Op::kGemv).name() == "i2s_gemv_scalar_xsimd");
  for (const Op op : {Op::kGemv, Op::kGemm}) {
    for (const std::int32_t group : {64, 128, 256}) {
      const std::vector<Isa> isas = {Isa::kScalar, Isa::kAvx2};
      const Kernel* found = find_kernel(builtin_kernels(), isas, {op, Format::kI2s, 17, 100, group, 0});
      REQUIRE(found != nullptr);
      CHECK(found->group == group);
      CHECK(found->isa == Isa::kAvx2);
    }
  }
}

TEST_CASE("the tester objects to a wrong output") {
  expect_caught(broken<bitnet_gemv_args>(Op::kGemv,
                                         [](const bitnet_gemv_args* a) {
                                           builtin(Op::kGemv)(*a);
                                           if (a->row_begin == 0 && a->k == 17) a->y[a->row_end - 1] += 1;
                                         }),
                "expected");
  expect_caught(broken<bitnet_gemm_args>(Op::kGemm,
                                         [](const bitnet_gemm_args* a) {
                                           builtin(Op::kGemm)(*a);
                                           if (a->tokens == 5) a->y[4 * a->y_stride + a->row_begin] ^= 1;
                                         }),
                "token 4 row");
  // The last bit of one float.
  expect_caught(broken<bitnet_norm_args>(Op::kNorm,
                                         [](const bitnet_norm_args* a) {
                                           builtin(Op::kNorm)(*a);
                                           if (a->k == 33) {
                                             std::uint32_t bits = 0;
                                             std::memcpy(&bits, a->y + 32, 4);
                                             bits ^= 1;
                                             std::memcpy(a->y + 32, &bits, 4);
                                           }
                                         }),
                "k=33");
  // A running sum in another order.
  expect_caught(broken<bitnet_head_args>(Op::kHead,
                                         [](const bitnet_head_args* a) {
                                           builtin(Op::kHead)(*a);
                                           if (a->k < 2560) return;
                                           const auto* w = static_cast<const std::uint16_t*>(a->weights);
                                           // Zero and constant rows agree in every order; a permuted row does not.
                                           for (std::int64_t r = a->row_begin; r < a->row_end; ++r) {
                                             bitnet_head_args one = *a;
                                             std::vector<std::uint16_t> row(w + r * a->k, w + (r + 1) * a->k);
                                             std::vector<float> x(a->x, a->x + a->k);
                                             std::swap(row[0], row[1]);
                                             std::swap(x[0], x[1]);
                                             one.weights = row.data();
                                             one.x = x.data();
                                             one.row_begin = 0;
                                             one.row_end = 1;
                                             one.y = a->y + r;
                                             builtin(Op::kHead)(one);
                                           }
                                         }),
                "expected");
}

TEST_CASE("the tester objects to reading beyond the arrays") {
  expect_caught(broken<bitnet_gemv_args>(Op::kGemv,
                                         [](const bitnet_gemv_args* a) {
                                           builtin(Op::kGemv)(*a);
                                           volatile std::int8_t beyond = a->x[BITNET_ACTIVATION_WIDTH(a->k)];
                                           static_cast<void>(beyond);
                                         }),
                "outside");
  expect_caught(broken<bitnet_gate_args>(Op::kSiluGate,
                                         [](const bitnet_gate_args* a) {
                                           builtin(Op::kSiluGate)(*a);
                                           volatile float beyond = a->gate[round_up<std::int64_t>(a->k, 4)];
                                           static_cast<void>(beyond);
                                         }),
                "outside");
  // Activations beyond K, which are zero by contract, are no offence: the sum is.
  expect_caught(broken<bitnet_quantize_args>(Op::kQuantize,
                                             [](const bitnet_quantize_args* a) {
                                               builtin(Op::kQuantize)(*a);
                                               if (a->k == 15) *a->q_sum += 1;
                                             }),
                "q_sum");
}

TEST_CASE("the tester objects to writing beyond the rows") {
  // Between the rows of two tokens.
  expect_caught(broken<bitnet_gemm_args>(Op::kGemm,
                                         [](const bitnet_gemm_args* a) {
                                           builtin(Op::kGemm)(*a);
                                           a->y[round_up<std::int64_t>(a->n, 16)] = 0;
                                         }),
                "beyond the rows");
  // Before the array.
  expect_caught(broken<bitnet_gemv_args>(Op::kGemv,
                                         [](const bitnet_gemv_args* a) {
                                           builtin(Op::kGemv)(*a);
                                           a->y[-1] = 0;
                                         }),
                "guard bytes");
  // Behind it.
  expect_caught(broken<bitnet_quantize_args>(Op::kQuantize,
                                             [](const bitnet_quantize_args* a) {
                                               builtin(Op::kQuantize)(*a);
                                               a->q[a->k] = 0;
                                             }),
                "outside");
  // Another range's rows.
  expect_caught(broken<bitnet_gemv_args>(Op::kGemv,
                                         [](const bitnet_gemv_args* a) {
                                           bitnet_gemv_args all = *a;
                                           all.row_begin = 0;
                                           builtin(Op::kGemv)(all);
                                         }),
                "row range began at");
  // Scratch.
  Kernel kernel = broken<bitnet_gemm_args>(Op::kGemm, [](const bitnet_gemm_args* a) {
    builtin(Op::kGemm)(*a);
    static_cast<char*>(a->scratch)[-1] = 0;
  });
  kernel.scratch_bytes = 128;
  expect_caught(kernel, "scratch");
}

TEST_CASE("packed activations: token-major blocks, missing tokens zero") {
  const std::int64_t k = 70;
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(k);
  std::vector<std::int8_t> rows(3 * width, 0);
  for (std::int64_t t = 0; t < 3; ++t) {
    for (std::int64_t i = 0; i < k; ++i)
      rows[static_cast<std::size_t>(t * width + i)] = static_cast<std::int8_t>(t * 40 + i);
  }
  std::vector<std::int8_t> out(4 * width, 99);
  pack_activations(rows.data(), 3, k, 2, 0, 1, out.data());
  pack_activations(rows.data(), 3, k, 2, 1, 2, out.data());
  for (std::int64_t t = 0; t < 4; ++t) {
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int8_t found = out[static_cast<std::size_t>(t / 2 * 2 * width + i / 4 * 8 + t % 2 * 4 + i % 4)];
      REQUIRE(found == (t < 3 ? rows[static_cast<std::size_t>(t * width + i)] : 0));
    }
  }
}

}  // namespace bitnet::test
