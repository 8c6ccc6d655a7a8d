// The graph of every architecture and every kind of weights: logits equal, bit for bit, those of a second forward pass
// over the scalar reference (tests/graph_model.h), whatever the threads, the passes, prefill or decode; and what the
// model has is not left out: the second pass without it gives others.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/model/model.h"
#include "runtime/model/node_dump.h"
#include "tests/graph_model.h"
#include "tests/model_evaluation.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using gguf::TensorType;
using test::check_equal;
using test::context_of;
using test::evaluate_all;
using test::GraphSpec;
using test::Logits;
using test::Omission;
using test::prompt;
using test::TempFolder;

// One type for all projections, one for the embedding and head.
auto types(TensorType matrices, TensorType rows) {
  return [=](const std::string& name) { return name.starts_with("blk.") ? matrices : rows; };
}

struct GraphCase {
  std::string name;
  GraphSpec spec;
  std::vector<std::pair<std::string, Omission>> omissions;  // what must show
};

std::vector<GraphCase> graph_cases() {
  const auto without = [](const std::string& tensor) { return std::pair{tensor, Omission{tensor, {}}}; };
  const auto with = [](const std::string& what, std::function<void(ModelConfig&)> change) {
    return std::pair{what, Omission{"", std::move(change)}};
  };
  const auto value = [](auto number) { return gguf::Value(number); };
  std::vector<GraphCase> cases;
  cases.push_back({"llama: interleaved RoPE with factors, untied head",
                   {.architecture = "llama",
                    .type = types(TensorType::kI2_S, TensorType::kF16),
                    .untied = true,
                    .rope_freqs = true},
                   {without("output.weight"), without("rope_freqs.weight"),
                    with("NEOX", [](ModelConfig& c) { c.rope = RopeKind::kNeox; })}});
  cases.push_back({"qwen2: biases, scales by block of 256, a bfloat16 embedding",
                   {.architecture = "qwen2",
                    .type = types(TensorType::kTQ2_0, TensorType::kBF16),
                    .biases = true},
                   {without("attn_q.bias"), without("attn_v.bias"), without("attn_output.bias"),
                    without("ffn_gate.bias"), without("ffn_down.bias")}});
  cases.push_back({"qwen3: norms of heads, scales by row, ternary embedding and head",
                   {.architecture = "qwen3",
                    .head_dim = 96,
                    .type = types(TensorType::kTQ1_0, TensorType::kTQ2_0),
                    .row_scales = true,
                    .untied = true,
                    .qk_norms = true},
                   {without("attn_q_norm.weight"), without("attn_k_norm.weight")}});
  cases.push_back({"qwen3: a norm for each projection",
                   {.architecture = "qwen3",
                    .type = types(TensorType::kI2_S, TensorType::kF32),
                    .biases = true,
                    .scales = true,
                    .qk_norms = true,
                    .in_norms = true},
                   {without("attn_q.in_norm.weight"), without("attn_k.in_norm.weight"),
                    without("attn_v.in_norm.weight"), without("ffn_gate.in_norm.weight"),
                    without("ffn_up.in_norm.weight"), without("attn_v.scale"), without("ffn_up.scale")}});
  cases.push_back({"gemma3: norms behind the blocks, windows with angles of their own, gelu",
                   {.architecture = "gemma3",
                    .layers = 3,
                    .head_dim = 32,
                    .type = types(TensorType::kI2_S, TensorType::kQ8_0),
                    .qk_norms = true,
                    .post_norms = true,
                    .keys = {{"attention.sliding_window", value(std::uint32_t{5})},
                             {"attention.sliding_window_pattern", value(std::uint32_t{2})},
                             {"rope.freq_base", value(1e6F)},
                             {"rope.freq_base_swa", value(1e4F)}}},
                   {without("post_attention_norm.weight"), without("post_ffw_norm.weight"),
                    with("no window", [](ModelConfig& c) { c.window = 0; }),
                    with("one RoPE base", [](ModelConfig& c) { c.window_rope_base = c.rope_base; }),
                    with("silu", [](ModelConfig& c) { c.activation = Activation::kSilu; }),
                    with("no embedding scale", [](ModelConfig& c) { c.embedding_scale = 1; })}});
  cases.push_back({"gpt2: LayerNorm, learned positions, stacked q, k and v, no gate, dense",
                   {.architecture = "gpt2",
                    .type = types(TensorType::kF16, TensorType::kF32),
                    .stacked_qkv = true,
                    .biases = true},
                   {without("position_embd.weight"), without("attn_qkv.bias"), without("ffn_norm.bias"),
                    without("output_norm.bias"), with("RMSNorm", [](ModelConfig& c) { c.norm = NormKind::kRms; })}});
  cases.push_back({"gpt2, ternary",
                   {.architecture = "gpt2",
                    .type = types(TensorType::kI2_S, TensorType::kF32),
                    .stacked_qkv = true,
                    .biases = true},
                   {without("attn_norm.bias")}});
  cases.push_back({"minicpm: scales of embedding, residual and logits, blocks of 64",
                   {.architecture = "minicpm",
                    .type = types(TensorType::kQ2_0, TensorType::kF16),
                    .keys = {{"embedding_scale", value(3.0F)},
                             {"residual_scale", value(0.3F)},
                             {"logit_scale", value(0.25F)}}},
                   {with("embedding", [](ModelConfig& c) { c.embedding_scale = 1; }),
                    with("residual", [](ModelConfig& c) { c.residual_scale = 1; }),
                    with("logits", [](ModelConfig& c) { c.logit_scale = 1; })}});
  cases.push_back({"dense and ternary matrices beside each other, other ones in each layer",
                   {.architecture = "bitnet",
                    .layers = 3,
                    .type =
                        [](const std::string& name) {
                          if (name == "blk.0.attn_k" || name == "blk.1.ffn_down") return TensorType::kQ8_0;
                          if (name == "blk.0.ffn_up") return TensorType::kTQ2_0;
                          if (name == "blk.1.attn_output" || name == "blk.2.ffn_gate") return TensorType::kF16;
                          if (name == "blk.1.attn_v" || name == "blk.2.ffn_up") return TensorType::kBF16;
                          if (name == "blk.2.attn_v" || name == "blk.2.attn_q") return TensorType::kF32;
                          if (name == "blk.2.attn_k") return TensorType::kQ2_0;
                          return name.starts_with("blk.") ? TensorType::kI2_S : TensorType::kF16;
                        },
                    .scales = true,
                    .sub_norms = true},
                   {without("attn_sub_norm.weight"), without("ffn_sub_norm.weight"), without("attn_k.scale"),
                    without("ffn_down.scale")}});
  return cases;
}

std::string write(const TempFolder& folder, const GraphSpec& spec) {
  std::string path = folder.file("m.gguf");
  test::make_model(folder, spec).write(path);
  return path;
}

bool equal(const Logits& a, const Logits& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
  });
}

TEST_CASE("logits of every architecture equal those of the scalar pass") {
  const TempFolder folder;
  for (const GraphCase& c : graph_cases()) {
    INFO(c.name);
    const std::string path = write(folder, c.spec);
    const std::vector<std::int32_t> ids = prompt(19, c.spec.vocab);
    const Logits expected = test::reference_logits(path, ids);
    for (const int threads : {1, 2, 3, 5}) {
      INFO(threads, " threads");
      const auto model = test::load(path, threads);
      for (const std::int64_t batch : {1, 2, 5, 7, 64}) {
        INFO("batch ", batch);
        const Logits ours = evaluate_all(*context_of(*model, 32, batch), ids);
        for (std::size_t i = 0; i < ids.size(); ++i) {
          INFO("token ", i);
          check_equal(ours[i], expected[i]);
        }
        if (threads == 5) break;
      }
    }
    // Prefill, then decode; and forgetting.
    const auto model = test::load(path, 2);
    const auto context = context_of(*model, 32);
    REQUIRE(context->eval(std::span(ids).first(9)).ok());
    for (std::size_t i = 9; i < ids.size(); ++i) {
      const auto logits = context->eval({&ids[i], 1});
      REQUIRE(logits.ok());
      check_equal(*logits, expected[i]);
    }
    context->truncate(4);
    const auto again = context->eval(std::span(ids).subspan(4));
    REQUIRE(again.ok());
    check_equal(*again, expected.back());
    // Screening the head chooses what scoring every row does.
    Selection one;
    one.top = 1;
    const auto best = context->logits(context->position() - 1, one);
    REQUIRE(best.ok());
    const auto largest = std::ranges::max_element(expected.back()) - expected.back().begin();
    REQUIRE_FALSE(best->ids.empty());
    const auto chosen = std::ranges::max_element(best->values) - best->values.begin();
    CHECK(best->ids[static_cast<std::size_t>(chosen)] == largest);

    for (const auto& [what, omission] : c.omissions) {
      CHECK_MESSAGE(!equal(test::reference_logits(path, ids, omission), expected), what << " does not show");
    }
  }
}

}  // namespace
}  // namespace bitnet
