// What the testers of dense operations share.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/kernel_tester_support.h"

namespace bitnet::test {

inline constexpr const char* kFault = "it touched memory outside its arrays";

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

inline std::string at(std::int64_t k, FloatKind kind) {
  return "k=" + std::to_string(k) + ", values " + to_string(kind);
}

inline std::vector<std::int64_t> widths_of(const Kernel& kernel, const TestPlan& plan) {
  return kernel.k != 0 ? std::vector<std::int64_t>{kernel.k} : plan.widths;
}

template <typename T>
T* place_copy(Region& region, const std::vector<T>& values) {
  auto* data = region.place<T>(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), data);
  return data;
}

inline void check_intact(std::initializer_list<const Region*> regions, const std::string& where, Failures& failures) {
  for (const Region* region : regions) {
    if (!region->intact()) failures.add(where, "guard bytes were overwritten");
  }
}

void test_attention(const Kernel& kernel, const TestPlan& plan, Failures& failures);  // kernel_tester_attention.cc
void test_head(const Kernel& kernel, const TestPlan& plan, Failures& failures);       // kernel_tester_head.cc

}  // namespace bitnet::test
