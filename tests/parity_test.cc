// Parity with bitnet.cpp on two small models: every node of layer 0, computed by our kernels from the reference's own
// inputs, and whole prompts end to end. Each set of kernels goes through the same checks: the built-in ones of every
// target that this CPU executes, and those of a bundle where bitnet-codegen has been built.
//
// Bounds. Ternary products: the integers are equal, and two or three float32 roundings differ, 3 * 2^-24 < 1e-6
// relative to each element. Other nodes: sums of up to 1024 float32 products in another order, within 1e-5 of the
// node's largest value. That holds for the head too, because bitnet.cpp rounds the head's input (and probabilities) to
// float16 only when it evaluates a single token, and these nodes are those of a batch. Attention rounds its weights
// itself, 4 times finer than that: tests/layer_kernels.h has its bounds.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>

#include "runtime/model/model.h"
#include "runtime/model/rope.h"
#include "tests/assets.h"
#include "tests/layer_kernels.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using test::check_near;
using test::check_product;
using test::Floats;
using test::Layer;
using test::sum;

struct ReferenceModel {
  const char* name;  // file name without .i2_s.gguf
  std::vector<std::int32_t> prompt_a;
  bool relu2;
  bool prompt_b;  // there is a reference for ids 1..33
};
const std::array<ReferenceModel, 2> kModels = {{{"tiny.b158", {5, 300, 17, 900, 33, 42, 700}, true, true},
                                                {"tiny.bitnet", {5, 300, 17, 400, 33, 42, 500}, false, false}}};

std::optional<std::string> reference_folder() { return test::asset("bitnet_cpp", "parity with bitnet.cpp"); }

void check_attention(const Layer& layer, const test::NodeFiles& nodes, std::int64_t tokens) {
  const ModelConfig& c = layer.config();
  const std::int64_t dim = c.head_dim;
  const std::int64_t kv_width = c.kv_heads * dim;
  const Floats q = nodes("Qcur-0.ROPE");
  const Floats k = nodes("Kcur-0.ROPE");
  const Floats v = nodes("Vcur-0.MUL_MAT");
  check_near("Qcur-0 ROPE", layer.rope(nodes("Qcur-0.MUL_MAT"), c.heads), q, 1e-5);
  check_near("Kcur-0 ROPE", layer.rope(nodes("Kcur-0.MUL_MAT"), c.kv_heads), k, 1e-5);

  // kq and its softmax are [head][token][padded positions]; kqv is [head][token][dim].
  const Floats kq_reference = nodes("kq-0.MUL_MAT");
  const std::int64_t padded = static_cast<std::int64_t>(kq_reference.size()) / (c.heads * tokens);
  Floats q16 = q;
  round_to_half(q16);
  Floats kq(kq_reference.size());
  Floats probabilities(kq_reference.size());
  Floats kqv(q.size());
  // The probabilities are the attention over one-hot values.
  REQUIRE(tokens <= dim);
  std::vector<std::uint16_t> one_hot(static_cast<std::size_t>(c.kv_heads * tokens * dim));
  for (std::int64_t i = 0; i < c.kv_heads * tokens; ++i)
    one_hot[static_cast<std::size_t>(i * dim + i % tokens)] = 0x3C00;
  const Floats weights = layer.attention(q, k, v, &one_hot);
  const Floats attended = layer.attention(q, k, v);
  for (std::int64_t head = 0; head < c.heads; ++head) {
    const std::int64_t kv_head = head / (c.heads / c.kv_heads);
    std::vector<std::uint16_t> keys(static_cast<std::size_t>(tokens * dim));
    convert_to_half(Layer::columns(k, kv_width, kv_head * dim, dim), keys.data());
    const Floats scores = layer.head(keys.data(), tokens, Layer::columns(q16, c.heads * dim, head * dim, dim), dim);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t row = head * tokens + t;
      const std::int64_t from = (t * c.heads + head) * dim;
      std::copy_n(scores.begin() + t * tokens, tokens, kq.begin() + row * padded);
      std::copy_n(weights.begin() + from, tokens, probabilities.begin() + row * padded);
      std::copy_n(attended.begin() + from, dim, kqv.begin() + row * dim);
    }
  }
  check_near("kq-0", kq, kq_reference, 1e-5);
  check_near("kq_soft_max_ext-0", probabilities, nodes("kq_soft_max_ext-0.SOFT_MAX"), test::kProbabilityBound);
  check_near("kqv-0", kqv, nodes("kqv-0.MUL_MAT"), test::kAttentionBound);
  check_near("kqv_out-0", attended, nodes("kqv_out-0.CONT"), test::kAttentionBound);
}

void check_layer(const Layer& layer, const test::NodeFiles& nodes, const ReferenceModel& model) {
  using Role = FusedMatrix::Role;
  const ModelConfig& c = layer.config();
  const auto tokens = static_cast<std::int64_t>(model.prompt_a.size());
  const auto check_norm = [&](const std::string& name, int occurrence, const Floats& input, const gguf::Tensor& gain) {
    const Floats ones(gain.ne[0], 1.0F);
    check_near("norm-0", layer.norm(input, ones), nodes("norm-0.RMS_NORM", occurrence), 1e-5);
    check_near(name, layer.norm(input, Layer::gain(gain)), nodes(name + ".MUL"), 1e-5);
  };
  const Floats embedding = nodes("inp_embd.GET_ROWS");
  check_norm("attn_norm-0", 1, embedding, *layer.tensors().attn_norm);
  const std::int64_t q_width = c.heads * c.head_dim;
  const std::int64_t kv_width = c.kv_heads * c.head_dim;
  const std::int64_t stride = q_width + 2 * kv_width;
  const Floats qkv = layer.product(Role::kQkv, nodes("attn_norm-0.MUL"));
  check_product("Qcur-0", Layer::columns(qkv, stride, 0, q_width), nodes("Qcur-0.MUL_MAT"));
  check_product("Kcur-0", Layer::columns(qkv, stride, q_width, kv_width), nodes("Kcur-0.MUL_MAT"));
  check_product("Vcur-0", Layer::columns(qkv, stride, q_width + kv_width, kv_width), nodes("Vcur-0.MUL_MAT"));
  check_attention(layer, nodes, tokens);
  check_norm("attn_sub_norm-0", 2, nodes("kqv_out-0.CONT"), *layer.tensors().attn_sub_norm);
  check_product("attn_o_out-0", layer.product(Role::kAttentionOutput, nodes("attn_sub_norm-0.MUL")),
                nodes("attn_o_out-0.MUL_MAT"));
  check_near("ffn_inp-0", sum(nodes("attn_o_out-0.MUL_MAT"), embedding), nodes("ffn_inp-0.ADD"), 1e-5);
  check_norm("ffn_norm-0", 3, nodes("ffn_inp-0.ADD"), *layer.tensors().ffn_norm);
  const Floats gate_up = layer.product(Role::kGateUp, nodes("ffn_norm-0.MUL"));
  const Floats gate = nodes("ffn_gate-0.MUL_MAT");
  const Floats up = nodes("ffn_up-0.MUL_MAT");
  check_product("ffn_gate-0", Layer::columns(gate_up, 2 * c.ffn, 0, c.ffn), gate);
  check_product("ffn_up-0", Layer::columns(gate_up, 2 * c.ffn, c.ffn, c.ffn), up);
  const Floats activation = nodes(model.relu2 ? "ffn_sqr_relu_-0.SQR" : "ffn_silu-0.UNARY");
  const std::string gated = model.relu2 ? "ffn_out-0.MUL" : "ffn_sub_out-0.MUL";
  check_near("activation", layer.gate(gate, Floats(gate.size(), 1.0F)), activation, 1e-5);
  check_near(gated, layer.gate(gate, up), nodes(gated), 1e-5);
  check_norm("ffn_sub_norm-0", 4, nodes(gated), *layer.tensors().ffn_sub_norm);
  check_product("ffn_down-0", layer.product(Role::kDown, nodes("ffn_sub_norm-0.MUL")), nodes("ffn_down-0.MUL_MAT"));
  check_near("l_out-0", sum(nodes("ffn_down-0.MUL_MAT"), nodes("ffn_inp-0.ADD")), nodes("l_out-0.ADD"), 1e-5);
  check_near("result_norm", layer.norm(nodes("l_out-" + std::to_string(c.layers - 1) + ".ADD"), layer.output_gain()),
             nodes("result_norm.MUL"), 1e-5);
  check_near("result_output", layer.logits(nodes("result_norm.MUL")), nodes("result_output.MUL_MAT"), 1e-5);
}

TEST_CASE("every node of layer 0, fed with bitnet.cpp's own inputs") {
  const auto folder = reference_folder();
  if (!folder.has_value()) return;
  for (const ReferenceModel& model : kModels) {
    const std::string path = *folder + "/" + model.name + ".i2_s.gguf";
    const auto file = gguf::File::open(path);
    REQUIRE(file.ok());
    const test::KernelChoices choices(path);
    for (const test::KernelChoice& choice : choices.all()) {
      INFO(model.name, ", ", choice.label);
      const Layer layer(*file, choice);
      check_layer(layer, test::NodeFiles(*folder + "/ref/" + model.name + ".i2_s.A.f16.batch."), model);
    }
  }
}

std::vector<std::int32_t> read_greedy(const std::string& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, path);
  std::vector<std::int32_t> ids;
  std::int32_t id = 0;
  double logit = 0.0;
  while (file >> id >> logit) ids.push_back(id);
  return ids;
}

void check_prompt(Model& model, const std::string& beginning, const std::vector<std::int32_t>& prompt) {
  auto created = Context::create(model, {.size = 128});
  REQUIRE(created.ok());
  Context& context = **created;
  const auto vocab = static_cast<std::size_t>(model.config().vocab);
  Floats all;
  const Status done = context.eval_all(prompt, [&](std::int64_t, std::span<const float> logits) -> Status {
    all.insert(all.end(), logits.begin(), logits.end());
    return {};
  });
  REQUIRE(done.ok());
  const std::size_t expected_tokens = read_greedy(beginning + "batch.greedy.txt").size();
  std::vector<std::int32_t> greedy;
  Floats last(all.end() - static_cast<std::ptrdiff_t>(vocab), all.end());
  while (greedy.size() < expected_tokens) {
    greedy.push_back(test::arg_max(last));
    const auto logits = context.eval({&greedy.back(), 1});
    REQUIRE(logits.ok());
    last.assign(logits->begin(), logits->end());
  }
  for (const std::string mode : {"batch", "step"}) {
    const Floats reference = test::read_array<float>(beginning + mode + ".logits.f32");
    REQUIRE(reference.size() == all.size());
    double lowest = 1.0;
    for (std::size_t t = 0; t < prompt.size(); ++t) {
      const double similarity =
          test::cosine(std::span(all).subspan(t * vocab, vocab), std::span(reference).subspan(t * vocab, vocab));
      CHECK_MESSAGE(similarity >= 0.999, mode, " position ", t);
      lowest = std::min(lowest, similarity);
    }
    const std::vector<std::int32_t> expected = read_greedy(beginning + mode + ".greedy.txt");
    REQUIRE_FALSE(expected.empty());
    CHECK_MESSAGE(greedy.front() == expected.front(), mode);
    std::size_t agree = 0;
    while (agree < std::min(greedy.size(), expected.size()) && greedy[agree] == expected[agree]) ++agree;
    std::printf("%s%s on %s: lowest cosine %.6f, the first %zu of %zu greedy tokens agree\n",
                std::filesystem::path(beginning).filename().c_str(), mode.c_str(), std::string(model.target()).c_str(),
                lowest, agree, expected.size());
  }
}

TEST_CASE("whole prompts against bitnet.cpp") {
  const auto folder = reference_folder();
  if (!folder.has_value()) return;
  for (const ReferenceModel& reference : kModels) {
    const std::string path = *folder + "/" + reference.name + ".i2_s.gguf";
    std::vector<std::string> bundles{"none"};
    if (const auto bundle = test::bundle_of(path); bundle.has_value()) bundles.push_back(*bundle);
    for (const std::string& bundle : bundles) {
      ModelOptions options;
      options.threads = 2;
      options.bundle = bundle;
      const auto model = Model::load(path, options);
      REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
      const std::string beginning = *folder + "/ref/" + reference.name + ".i2_s.";
      check_prompt(**model, beginning + "A.f16.", reference.prompt_a);
      if (!reference.prompt_b) continue;
      std::vector<std::int32_t> prompt_b(33);
      for (std::size_t i = 0; i < prompt_b.size(); ++i) prompt_b[i] = static_cast<std::int32_t>(i + 1);
      check_prompt(**model, beginning + "B.f16.", prompt_b);
    }
  }
}

}  // namespace
}  // namespace bitnet
