// The pipelines that bitnet-halide compiles, by name, and their parameters as text: NAME:PARAMETER=VALUE:...
#pragma once

#include <Halide.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::schedules {

struct Parameter {
  std::string_view name;
  std::int64_t minimum;
  std::int64_t maximum;
  std::int64_t fallback;  // value if not given; 0 with required
  bool required;
  bool power_of_two;  // or 0, where 0 is in the range
  std::string_view meaning;
};

// One value per parameter of the pipeline, checked against its range.
using Values = std::map<std::string_view, std::int64_t>;

struct Pipeline {
  std::string_view name;
  std::string_view meaning;
  std::vector<Parameter> parameters;
  std::function<Halide::Module(const Values&, const Halide::Target&, const std::string& symbol)> build;
};

[[nodiscard]] const std::vector<Pipeline>& pipelines();

struct Request {
  const Pipeline* pipeline = nullptr;
  Values values;
  std::string symbol;  // a C identifier: name of the function and, with ".o", of the file
};

// "norm_quantize:K=2560:SYMBOL=name". Errors (kUsage): unknown pipeline or parameter, a value that is no number or out
// of range, a parameter twice or missing, a symbol that is no C identifier.
[[nodiscard]] Result<Request> parse_request(const std::string& text);

// A Halide target string plus the features that every pipeline gets: no_asserts, no_bounds_query, no_runtime,
// strict_float. Errors: kUsage if Halide does not know it.
[[nodiscard]] Result<Halide::Target> parse_target(const std::string& text);

// Compiles and writes `folder`/SYMBOL.o; equal requests give equal bytes. Errors: kFailure with Halide's message, or if
// the file cannot be written.
[[nodiscard]] Status compile(const Request& request, const Halide::Target& target, const std::filesystem::path& folder);

// The text of `bitnet-halide --list`.
[[nodiscard]] std::string describe_pipelines();

}  // namespace bitnet::schedules
