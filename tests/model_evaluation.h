// Evaluation in tests: models, contexts and logits; the shapes on which kernels of every kind must agree; bundles made
// by bitnet-codegen.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/model.h"

namespace bitnet::test {

using Logits = std::vector<std::vector<float>>;

inline std::unique_ptr<Model> load(const std::string& path, int threads, const std::string& bundle = "none") {
  auto model = Model::load(path, {.threads = threads, .bundle = bundle, .strict = false, .log = {}});
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
  return std::move(model).value();
}

inline std::unique_ptr<Context> context_of(Model& model, std::int64_t size, std::int64_t batch = 512,
                                           KvType kv_type = KvType::kF16) {
  auto context = Context::create(model, {.size = size, .batch = batch, .kv_type = kv_type});
  REQUIRE_MESSAGE(context.ok(), (context.ok() ? "" : context.error().message));
  return std::move(context).value();
}

inline std::vector<std::int32_t> prompt(std::int64_t length, std::int64_t vocab) {
  std::mt19937 random(11);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab));
  return ids;
}

inline Logits evaluate_all(Context& context, std::span<const std::int32_t> ids) {
  Logits logits;
  const std::int64_t start = context.position();
  const Status status = context.eval_all(ids, [&](std::int64_t position, std::span<const float> row) -> Status {
    REQUIRE(position == start + static_cast<std::int64_t>(logits.size()));
    logits.emplace_back(row.begin(), row.end());
    return {};
  });
  REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().message));
  return logits;
}

inline void check_equal(std::span<const float> ours, const std::vector<float>& expected) {
  REQUIRE(ours.size() == expected.size());
  REQUIRE(std::memcmp(ours.data(), expected.data(), ours.size_bytes()) == 0);
}

struct EvaluationCase {
  const char* shape;
  const char* architecture;
  std::int64_t length;
};
// K = 192 and 320 are odd multiples of 64, head_dim 32, groups of 3; 290 positions need two chunks of attention.
constexpr EvaluationCase kEvaluationCases[] = {{"2x192x320x6/2x300", "bitnet-b1.58", 37},
                                               {"2x256x384x4/4x300", "bitnet", 20},
                                               {"1x128x256x2/1x300", "bitnet-25", 290}};
// bitnet-codegen, or nullopt (and said so) where it is not built.
inline std::optional<std::string> codegen_program(const char* what) {
  const char* bin = std::getenv("BITNET_BIN");
  std::string codegen = std::string(bin == nullptr ? "" : bin) + "/bitnet-codegen";
  if (bin != nullptr && std::filesystem::exists(codegen)) return codegen;
  std::printf("SKIPPED: %s (bitnet-codegen is not built, BITNET_BIN)\n", what);
  return std::nullopt;
}

inline int make_bundle(const std::string& codegen, const std::string& model, const std::string& bundle,
                       const std::string& options) {
  const std::string command = "'" + codegen + "' -q --model '" + model + "' -o '" + bundle + "' " + options;
  return std::system(command.c_str());
}

}  // namespace bitnet::test
