// The graph of every architecture and every kind of weights: logits equal, bit for bit, those of a second forward pass
// over the scalar reference (tests/graph_model.h), whatever the threads, the passes, prefill or decode; and what the
// model has is not left out: the second pass without it gives others.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "runtime/model/model.h"
#include "runtime/model/node_dump.h"
#include "tests/graph_model.h"
#include "tests/model_evaluation.h"
#include "tests/model_files.h"
#include "tests/quick.h"

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
                   {.architecture = "qwen2", .type = types(TensorType::kTQ2_0, TensorType::kBF16), .biases = true},
                   {without("attn_q.bias"), without("attn_v.bias"), without("attn_output.bias"),
                    without("ffn_gate.bias"), without("ffn_down.bias")}});
  cases.push_back({"qwen3: norms of heads, scales by row, ternary embedding and head",
                   {.architecture = "qwen3",
                    .head_dim = 128,
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
                   {without("attn_q_norm_in.weight"), without("attn_k_norm_in.weight"),
                    without("attn_v_norm_in.weight"), without("ffn_gate_norm_in.weight"),
                    without("ffn_up_norm_in.weight"), without("attn_v.scale"), without("ffn_up.scale")}});
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
  cases.push_back(
      {"gpt2: LayerNorm, learned positions, stacked q, k and v, no gate, dense",
       {.architecture = "gpt2", .type = types(TensorType::kF16, TensorType::kF32), .stacked_qkv = true, .biases = true},
       {without("position_embd.weight"), without("attn_qkv.bias"), without("ffn_norm.bias"),
        without("output_norm.bias"), with("RMSNorm", [](ModelConfig& c) { c.norm = NormKind::kRms; })}});
  cases.push_back({"gpt2, ternary",
                   {.architecture = "gpt2",
                    .type = types(TensorType::kI2_S, TensorType::kF32),
                    .stacked_qkv = true,
                    .biases = true},
                   {without("attn_norm.bias")}});
  cases.push_back(
      {"minicpm: scales of embedding, residual and logits, blocks of 64",
       {.architecture = "minicpm",
        .type = types(TensorType::kQ2_0, TensorType::kF16),
        .keys = {{"embedding_scale", value(3.0F)}, {"residual_scale", value(0.3F)}, {"logit_scale", value(0.25F)}}},
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
  cases.push_back({"dense matrices and rows of types without kernels of their own, some beyond float16",
                   {.architecture = "llama",
                    .type =
                        [](const std::string& name) {
                          if (name == "blk.0.attn_q" || name == "blk.1.ffn_down") return TensorType::kQ4_0;
                          if (name == "blk.0.ffn_gate" || name == "output") return TensorType::kQ6_K;
                          if (name == "blk.1.attn_output") return TensorType::kTQ2_0;
                          return name == "token_embd" ? TensorType::kQ4_0 : TensorType::kQ8_0;
                        },
                    .untied = true},
                   {}});
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
    const std::vector<int> teams = test::quick_wanted() ? std::vector{1, 3} : std::vector{1, 2, 3, 5};
    for (const int threads : teams) {
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

TEST_CASE("a head beyond float16 is expanded to float32") {
  const TempFolder folder;
  GraphSpec spec{.architecture = "llama", .type = types(TensorType::kI2_S, TensorType::kQ4_0)};
  spec.layers = 1;
  test::ModelCopy model = test::make_model(folder, spec);
  const std::uint16_t factor = 0x7800;  // 32768: weights of up to 8 times that
  std::memcpy(model.tensor("token_embd.weight").data.data() + 18 * 5, &factor, sizeof factor);
  const std::string path = folder.file("m.gguf");
  model.write(path);
  const std::vector<std::int32_t> ids = prompt(5, spec.vocab);
  const auto loaded = test::load(path, 2);
  CHECK(loaded->kernels()[Step::kHead].name.starts_with("f32_head_"));
  const Logits expected = test::reference_logits(path, ids);
  const Logits ours = evaluate_all(*context_of(*loaded, 8), ids);
  for (std::size_t i = 0; i < ids.size(); ++i) check_equal(ours[i], expected[i]);
}

TEST_CASE("tensors that lie unaligned in the file") {
  const TempFolder folder;
  GraphSpec spec{.architecture = "gpt2",
                 .layers = 1,
                 .type =
                     [](const std::string& name) {
                       return name == "token_embd" || name == "blk.0.ffn_up" ? TensorType::kQ8_0 : TensorType::kF32;
                     },
                 .stacked_qkv = true,
                 .biases = true};
  spec.vocab = 301;  // an odd number of blocks of 34 bytes
  test::ModelCopy model = test::make_model(folder, spec);
  const std::string path = folder.file("m.gguf");
  model.write(path, /*alignment=*/2);
  const auto loaded = test::load(path, 2);
  const auto address =
      reinterpret_cast<std::uintptr_t>(loaded->file().find_tensor("blk.0.attn_qkv.weight")->data.data());
  REQUIRE(address % sizeof(float) != 0);
  const std::vector<std::int32_t> ids = prompt(5, spec.vocab);
  const Logits expected = test::reference_logits(path, ids);
  const Logits ours = evaluate_all(*context_of(*loaded, 8), ids);
  for (std::size_t i = 0; i < ids.size(); ++i) check_equal(ours[i], expected[i]);
}

TEST_CASE("learned positions bound the context") {
  const TempFolder folder;
  GraphSpec spec{
      .architecture = "gpt2", .layers = 1, .context = 20, .type = types(TensorType::kI2_S, TensorType::kF32)};
  const auto model = test::load(write(folder, spec), 1);
  const auto refused = Context::create(*model, {.size = 21});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kUsage);
  CHECK(refused.error().message.find("learned positions 0..19") != std::string::npos);
  CHECK(Context::create(*model, {.size = 20}).ok());
}

TEST_CASE("embeddings: states behind the output norm, pooled") {
  const TempFolder folder;
  GraphSpec spec{.architecture = "qwen3", .type = types(TensorType::kI2_S, TensorType::kF16), .qk_norms = true};
  spec.keys["logit_scale"] = gguf::Value(1.0F);
  const std::string path = write(folder, spec);
  const std::vector<std::int32_t> ids = prompt(11, spec.vocab);
  const Logits states = test::reference_states(path, ids);
  const auto model = test::load(path, 3);
  for (const std::int64_t batch : {1, 4, 32}) {
    const auto context = context_of(*model, 32, batch);
    REQUIRE(context->advance({&ids[3], 1}).ok());  // embed() begins anew
    const auto last = context->embed(ids, Pooling::kLast, /*normalize=*/false);
    REQUIRE(last.ok());
    check_equal(*last, states.back());
    CHECK(context->position() == 11);
    const auto unit = context->embed(ids, Pooling::kLast, /*normalize=*/true);
    const auto mean = context->embed(ids, Pooling::kMean, /*normalize=*/false);
    REQUIRE(unit.ok());
    REQUIRE(mean.ok());
    double squares = 0.0;
    for (const float x : *last) squares += static_cast<double>(x) * static_cast<double>(x);
    for (std::size_t i = 0; i < last->size(); ++i) {
      CHECK((*unit)[i] == doctest::Approx((*last)[i] / std::sqrt(squares)));
      double sum = 0.0;
      for (const auto& state : states) sum += static_cast<double>(state[i]);
      CHECK((*mean)[i] == static_cast<float>(sum / 11));
    }
    for (const KernelUse& use : context->kernel_uses()) CHECK(use.name.find("_head_") == std::string::npos);
  }
  const auto context = context_of(*model, 8);
  CHECK(context->embed(ids, Pooling::kNone, true).error().code == ErrorCode::kUsage);
  CHECK_FALSE(context->embed({}, Pooling::kMean, true).ok());
  CHECK_FALSE(context->embed(ids, Pooling::kMean, true).ok());  // 11 tokens in 8 positions
}

// A dump's nodes by "NAME.OP", in the order of the list.
struct Nodes {
  explicit Nodes(const std::string& folder) {
    std::ifstream list(folder + "/nodes.txt");
    std::string index;
    std::string name;
    std::string op;
    std::string rest;
    while (list >> index >> name >> op && std::getline(list, rest)) {
      std::string file = name;
      for (char& c : file) {
        if (c == '(' || c == ')') c = '_';
      }
      op = op.substr(3);
      std::ifstream data(folder + "/t." + index + "." + file + "." + op + ".f32", std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(data)), {});
      std::vector<float>& values = by_name[name + "." + op];
      values.resize(bytes.size() / sizeof(float));
      if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());  // views have no data of their own
    }
  }
  [[nodiscard]] const std::vector<float>& operator[](const std::string& name) const {
    REQUIRE_MESSAGE(by_name.contains(name), name);
    return by_name.at(name);
  }
  std::map<std::string, std::vector<float>> by_name;
};

TEST_CASE("node dumps show every layer, and change nothing") {
  const TempFolder folder;
  for (const GraphCase& c : graph_cases()) {
    INFO(c.name);
    const std::string path = write(folder, c.spec);
    const auto model = test::load(path, 2);
    const ModelConfig& config = model->config();
    for (const std::int64_t tokens : {1, 4}) {
      const std::vector<std::int32_t> ids = prompt(tokens, c.spec.vocab);
      const Logits expected = test::reference_logits(path, ids);
      const std::string into = folder.file("nodes" + std::to_string(tokens));
      std::filesystem::remove_all(into);
      auto dump = NodeDump::create(into, std::nullopt);
      REQUIRE(dump.ok());
      Logits ours;
      const Status done =
          context_of(*model, 32)->eval_dump(ids, *dump, [&](std::int64_t, std::span<const float> row) -> Status {
            ours.emplace_back(row.begin(), row.end());
            return {};
          });
      REQUIRE(done.ok());
      CHECK(equal(ours, expected));
      const Nodes nodes(into);
      std::vector<float> x = nodes["inp_embd.GET_ROWS"];
      for (std::int64_t layer = 0; layer < config.layers; ++layer) {
        const std::string at = "-" + std::to_string(layer);
        CHECK(nodes["Qcur" + at + ".MUL_MAT"].size() ==
              static_cast<std::size_t>(tokens * config.heads * config.head_dim));
        CHECK(nodes["kqv_out" + at + ".CONT"].size() == nodes["Qcur" + at + ".MUL_MAT"].size());
        const auto plus = [&](std::vector<float> sum, const std::string& plain, const std::string& normed) {
          const std::vector<float>& added = nodes[(c.spec.post_norms ? normed : plain)];
          REQUIRE(added.size() == sum.size());
          for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += added[i] * config.residual_scale;
          return sum;
        };
        x = plus(x, "attn_o_out" + at + ".MUL_MAT", "attn_post_norm" + at + ".MUL");
        CHECK(x == nodes["ffn_inp" + at + ".ADD"]);
        x = plus(x, "ffn_down" + at + ".MUL_MAT", "ffn_post_norm" + at + ".MUL");
        CHECK(x == nodes["l_out" + at + ".ADD"]);
      }
      CHECK(nodes.by_name.contains("Qcur_normed-1.MUL") == c.spec.qk_norms);
      CHECK(nodes.by_name.contains("attn_sub_norm-1.MUL") == (c.spec.sub_norms || c.spec.in_norms));
    }
  }
  // Only the layers that are asked for.
  const auto model = test::load(write(folder, graph_cases().front().spec), 1);
  auto dump = NodeDump::create(folder.file("some"), std::vector<std::int64_t>{1});
  REQUIRE(dump.ok());
  const std::vector<std::int32_t> ids{1, 2};
  const auto ignore = [](std::int64_t, std::span<const float>) -> Status { return {}; };
  REQUIRE(context_of(*model, 8)->eval_dump(ids, *dump, ignore).ok());
  const Nodes nodes(folder.file("some"));
  CHECK_FALSE(nodes.by_name.contains("Qcur-0.MUL_MAT"));
  CHECK(nodes.by_name.contains("Qcur-1.MUL_MAT"));
  CHECK(nodes.by_name.contains("l_out-0.ADD"));
}

TEST_CASE("node dumps with float32 keys and values; none with int8 ones") {
  const TempFolder folder;
  const GraphSpec spec = graph_cases().front().spec;
  const auto model = test::load(write(folder, spec), 2);
  const ModelConfig& config = model->config();
  constexpr std::int64_t kTokens = 4;
  const std::vector<std::int32_t> ids = prompt(kTokens, spec.vocab);
  const auto dumped = [&](KvType type, Logits& logits) -> Status {
    BITNET_ASSIGN_OR_RETURN(auto dump, NodeDump::create(folder.file("kv"), std::nullopt));
    return context_of(*model, 32, 512, type)
        ->eval_dump(ids, dump, [&](std::int64_t, std::span<const float> row) -> Status {
          logits.emplace_back(row.begin(), row.end());
          return {};
        });
  };
  Logits ours;
  REQUIRE(dumped(KvType::kF32, ours).ok());
  CHECK(equal(ours, evaluate_all(*context_of(*model, 32, 512, KvType::kF32), ids)));
  // What attention gave is the mean of the values by the weights shown, up to the order of sums.
  const Nodes nodes(folder.file("kv"));
  const std::vector<float>& values = nodes["Vcur-0.MUL_MAT"];               // [token][kv_heads * head_dim]
  const std::vector<float>& weights = nodes["kq_soft_max_ext-0.SOFT_MAX"];  // [head][token][32]
  const std::vector<float>& attended = nodes["kqv_out-0.CONT"];             // [token][heads * head_dim]
  const std::int64_t dim = config.head_dim;
  REQUIRE(weights.size() == static_cast<std::size_t>(config.heads * kTokens * 32));
  for (std::int64_t i = 0; i < kTokens * config.heads * dim; ++i) {
    const std::int64_t token = i / (config.heads * dim);
    const std::int64_t head = i / dim % config.heads;
    double expected = 0.0;
    double size = 0.0;
    for (std::int64_t j = 0; j < kTokens; ++j) {
      const std::int64_t kv_head = head / (config.heads / config.kv_heads);
      const auto value = values[static_cast<std::size_t>((j * config.kv_heads + kv_head) * dim + i % dim)];
      const auto weight = weights[static_cast<std::size_t>((head * kTokens + token) * 32 + j)];
      expected += static_cast<double>(weight) * static_cast<double>(value);
      size += std::fabs(static_cast<double>(weight) * static_cast<double>(value));
    }
    // A dozen roundings of 2^-24.
    REQUIRE(std::fabs(static_cast<double>(attended[static_cast<std::size_t>(i)]) - expected) <= 1e-6 * size);
  }

  std::filesystem::remove_all(folder.file("kv"));
  const Status refused = dumped(KvType::kI8, ours);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message.find("--kv-type i8") != std::string::npos);
}

TEST_CASE("bundles, packed too, give the logits of the built-in kernels") {
  const auto codegen = test::codegen_program("bundles of every architecture");
  if (!codegen.has_value()) return;
  const TempFolder folder;
  // Shapes with and without K-groups, and a dense one between them.
  GraphSpec spec{.architecture = "llama", .layers = 1, .type = [](const std::string& name) {
                   if (name == "blk.0.attn_k") return TensorType::kQ8_0;
                   if (name == "blk.0.ffn_up" || name == "blk.0.ffn_down") return TensorType::kQ2_0;
                   return name.starts_with("blk.") ? TensorType::kI2_S : TensorType::kF16;
                 }};
  const std::string path = write(folder, spec);
  const std::vector<std::int32_t> ids = prompt(9, spec.vocab);
  const Logits expected = test::reference_logits(path, ids);
  const std::string bundle = folder.file("m.bnk");
  REQUIRE(test::make_bundle(*codegen, path, bundle, "--target native --pack") == 0);
  const auto model = test::load(path, 2, bundle);
  CHECK(model->kernels().layouts().size() == 5);
  CHECK(model->kernels().products_without_bundle().empty());
  const Logits ours = evaluate_all(*context_of(*model, 16), ids);
  for (std::size_t i = 0; i < ids.size(); ++i) check_equal(ours[i], expected[i]);
  const auto step = context_of(*model, 16);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto logits = step->eval({&ids[i], 1});
    REQUIRE(logits.ok());
    check_equal(*logits, expected[i]);
  }
}

}  // namespace
}  // namespace bitnet
