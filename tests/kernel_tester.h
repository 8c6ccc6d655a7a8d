// One tester for every kernel, built in or from a bundle: each operation is compared bit for bit with the scalar
// reference, on shapes, values, token counts and row ranges that a plan names. Inputs end at an inaccessible page and
// outputs lie between guard bytes, so that reading or writing outside the contract of kernel_abi.h is a failure too.
// Failures are returned, not asserted, so that a deliberately broken kernel can be shown to be caught.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"

namespace bitnet::test {

struct TestPlan {
  struct Shape {
    std::int64_t n = 0;
    std::int64_t k = 0;
  };
  // Ternary kernels of any shape run all of these; a kernel with constant N and K runs its own shape.
  std::vector<Shape> shapes;
  // Tokens of a GEMM, ascending.
  std::vector<std::int64_t> tokens;
  // Dense kernels of any k run all of these widths; a kernel with constant k its own.
  std::vector<std::int64_t> widths;
  // Attention: every combination. Chunks have 256 positions.
  std::vector<std::int64_t> heads;
  std::vector<std::int64_t> head_dims;
  std::vector<std::int64_t> lengths;
  // Rows of the head per width.
  std::vector<std::int64_t> head_rows;
  // Testing of one kernel ends after this many failures.
  std::size_t max_failures = 5;
};

// Everything that the project promises, and a subset for emulators. `plan_from_environment` takes the second where
// BITNET_TEST_QUICK is set.
[[nodiscard]] TestPlan full_plan();
[[nodiscard]] TestPlan quick_plan();
[[nodiscard]] TestPlan plan_from_environment();

// Tests kernels one after the other. Kernels of one shape share their problems, so ask for them in the order of shapes.
// Not to be used from two threads at once: it installs handlers for SIGSEGV and SIGBUS while it tests.
class KernelTester {
 public:
  explicit KernelTester(TestPlan plan);
  ~KernelTester();
  // Empty if the kernel is right. Each message names the kernel, shape, token, row or index, the expected and the found
  // value. The CPU must execute the kernel's target.
  [[nodiscard]] std::vector<std::string> test(const Kernel& kernel);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One kernel on its own.
[[nodiscard]] std::vector<std::string> test_kernel(const Kernel& kernel, const TestPlan& plan);

}  // namespace bitnet::test
