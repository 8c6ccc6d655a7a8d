// Kernels that are wrong on purpose, and what the tester must say of them.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "tests/kernel_tester.h"

namespace bitnet::test {

// The first built-in kernel of the operation, or the one of a format.
inline const Kernel& builtin(Op op, Isa isa = Isa::kScalar, std::optional<Format> format = {}) {
  const auto kernels = builtin_kernels();
  const auto found = std::find_if(kernels.begin(), kernels.end(), [&](const Kernel& kernel) {
    return kernel.op == op && kernel.isa == isa && kernel.format == format.value_or(kernel.format);
  });
  REQUIRE(found != kernels.end());
  return *found;
}

// A kernel that does the right thing first and something wrong after it.
template <typename Args>
Kernel broken(Op op, void (*function)(const Args*), std::optional<Format> format = {}) {
  Kernel kernel = builtin(op, Isa::kScalar, format);
  kernel.technique = "broken";
  kernel.function = reinterpret_cast<void*>(function);
  return kernel;
}

inline void expect_caught(const Kernel& kernel, const char* message) {
  const std::vector<std::string> failures = test_kernel(kernel, quick_plan());
  REQUIRE_FALSE(failures.empty());
  CHECK_MESSAGE(failures.front().find(message) != std::string::npos, failures.front());
  CHECK_MESSAGE(failures.front().find(kernel.name()) == 0, failures.front());
}

}  // namespace bitnet::test
