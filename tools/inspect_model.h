// What a GGUF file says about a model, beyond its list of keys and tensors: the description that the runtime makes of
// it, the census of its ternary weights, and its norms.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/census.h"
#include "runtime/formats/options.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::tools {

// {architecture, layers, ..., precision {...}, kv {...}, tokenizer {...}}; null members where the file has no such
// thing; {error} in the place of what the runtime refuses. Null for a file without general.architecture of a model.
[[nodiscard]] nlohmann::ordered_json describe_model(const gguf::File& file);

struct TernaryRow {
  std::string name;
  std::string type;
  std::string error;  // why it cannot be read; the rest is 0 then
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::string scales;  // "tensor", "row", "group of 128"
  formats::Census census;
  std::string doubt;  // why the numbers are not those of a trained model; empty: they may be
};
// Every tensor that is ternary or should be; reads all of their data. `notes`: what was assumed.
[[nodiscard]] std::vector<TernaryRow> ternary_census(const gguf::File& file, const formats::ReadOptions& options,
                                                     std::vector<std::string>& notes);

struct NormRow {
  std::string name;
  std::uint64_t count = 0;
  double mean = 0.0;
  double rms = 0.0;
  double least = 0.0;
  double largest = 0.0;
  std::string doubt;  // empty: plausible
};
// Gains and shifts of all norms (tensors of one dimension whose name has "norm").
[[nodiscard]] std::vector<NormRow> norm_statistics(const gguf::File& file);

}  // namespace bitnet::tools
