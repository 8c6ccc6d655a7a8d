// Two results of the bench, figure by figure. Absolute rates of different times lie, because the host's bandwidth
// moves: each figure is taken to the probes of the earlier result, as the rate that its fraction means there.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::bench {

struct Comparison {
  std::string figure;                                               // "decode, 1 thread"
  double before = 0;                                                // tokens per second at the earlier result's probes
  double now = 0;                                                   // the same, had the probes stood as then
  [[nodiscard]] double change() const { return now / before - 1; }  // -0.05: 5 % slower
};

// All figures that both results have: decode, decode in a context, prefill and batches with the same number of tokens,
// at the same number of threads. kUsage: not a result of the bench (naming what is missing), nothing in common, or
// results that cannot be compared (model size, head, keys and values, target).
[[nodiscard]] Result<std::vector<Comparison>> compare(const nlohmann::ordered_json& before,
                                                      const nlohmann::ordered_json& now);

// Reads a result. kFailure: no such file; kUsage: not JSON.
[[nodiscard]] Result<nlohmann::ordered_json> read_result(const std::string& path);

// One line for each figure; those slower by more than `tolerance` (0.05: 5 %) are marked.
[[nodiscard]] std::string describe(const std::vector<Comparison>& figures, double tolerance);
[[nodiscard]] bool has_regression(const std::vector<Comparison>& figures, double tolerance);

}  // namespace bitnet::bench
