// What metadata says about a model's graph: read for every architecture, and refused by key.
#include "runtime/model/config.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/model/rope.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using test::TempFolder;

constexpr std::uint32_t kVocab = 10;
constexpr std::uint32_t kHidden = 64;

// A file of the architecture with its necessary keys, what `change` adds, and an embedding.
Result<ModelConfig> read(const TempFolder& folder, const std::string& architecture,
                         const std::function<void(gguf::Writer&, const std::string& prefix)>& change = {},
                         std::uint32_t layers = 12) {
  gguf::Writer writer;
  const std::string prefix = architecture + ".";
  writer.set("general.architecture", std::string_view(architecture));
  const auto set = [&](const char* key, std::uint32_t value) { writer.set(prefix + key, value); };
  set("block_count", layers);
  set("embedding_length", kHidden);
  set("feed_forward_length", 128);
  set("context_length", 4096);
  set("attention.head_count", 4);
  writer.set(prefix + (architecture == "gpt2" ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
             1e-6F);
  if (change) change(writer, prefix);
  writer.add_tensor("token_embd.weight", gguf::TensorType::kF32, {kHidden, kVocab});
  const std::string path = folder.file("config.gguf");
  const std::vector<float> zeros(std::size_t{kHidden} * kVocab);
  const Status written = writer.write(
      path, [&](std::size_t, const gguf::Writer::Sink& sink) { return sink(std::as_bytes(std::span(zeros))); });
  REQUIRE(written.ok());
  const auto file = gguf::File::open(path);
  REQUIRE(file.ok());
  return read_config(*file);
}

ModelConfig good(const TempFolder& folder, const std::string& architecture,
                 const std::function<void(gguf::Writer&, const std::string& prefix)>& change = {},
                 std::uint32_t layers = 12) {
  const Result<ModelConfig> config = read(folder, architecture, change, layers);
  REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().message));
  return *config;
}

void check_refused(const Result<ModelConfig>& config, const std::vector<std::string>& parts) {
  REQUIRE(!config.ok());
  for (const std::string& part : parts) {
    CHECK_MESSAGE(config.error().message.find(part) != std::string::npos, config.error().message, " lacks ", part);
  }
}

TEST_CASE("every architecture of the list is read, with its traits") {
  const TempFolder folder;
  for (const Architecture& entry : architectures()) {
    const ModelConfig config = good(folder, std::string(entry.name));
    CHECK(config.architecture == entry.name);
    CHECK(config.activation == entry.activation);
    CHECK(config.gated == entry.gated);
    CHECK(config.norm == entry.norm);
    CHECK(config.rope == entry.rope);
    CHECK(config.learned_positions == entry.learned_positions);
    CHECK(config.tied_only == entry.tied_only);
    CHECK(config.heads == 4);
    CHECK(config.kv_heads == 4);
    CHECK(config.head_dim == 16);
    CHECK(config.rope_dim == (entry.rope == RopeKind::kNone ? 0 : 16));
    CHECK(config.norm_eps == 1e-6F);
    CHECK(config.vocab == kVocab);
    CHECK(config.window == 0);
    CHECK(config.pooling == Pooling::kNone);
    CHECK_FALSE(config.windowed(0));
    CHECK_FALSE(config.has_window_rope());
  }
  check_refused(read(folder, "mamba"), {"general.architecture", "'mamba'", "bitnet-b1.58", "gpt2", "llama"});
}

TEST_CASE("activations, norms and RoPE of the architectures are those of their models") {
  const auto traits = [](const char* name) {
    const Architecture* found = find_architecture(name);
    REQUIRE(found != nullptr);
    return *found;
  };
  CHECK(traits("bitnet").activation == Activation::kSilu);
  CHECK(traits("bitnet-25").activation == Activation::kRelu2);
  CHECK(traits("bitnet-b1.58").activation == Activation::kRelu2);
  CHECK(traits("llama").rope == RopeKind::kNorm);
  CHECK(traits("minicpm").rope == RopeKind::kNorm);
  CHECK(traits("qwen3").rope == RopeKind::kNeox);
  CHECK(traits("gemma3").activation == Activation::kGelu);
  CHECK(traits("gemma3").scaled_embedding);
  CHECK(traits("gpt2").norm == NormKind::kLayer);
  CHECK_FALSE(traits("gpt2").gated);
  CHECK(find_architecture("") == nullptr);
}

TEST_CASE("windows, scales, pooling") {
  const TempFolder folder;
  const auto window = [](std::uint32_t size) {
    return [size](gguf::Writer& w, const std::string& p) { w.set(p + "attention.sliding_window", size); };
  };
  const ModelConfig gemma = good(folder, "gemma3", window(512));
  CHECK(gemma.window == 512);
  for (std::int64_t layer = 0; layer < 12; ++layer) CHECK(gemma.windowed(layer) == (layer != 5 && layer != 11));
  CHECK(gemma.has_window_rope());
  CHECK(gemma.window_rope_base == 10000.0F);
  CHECK(gemma.embedding_scale == 8.0F);  // sqrt(64)
  const ModelConfig mistral = good(folder, "llama", window(100));
  CHECK(mistral.windowed(5));
  CHECK_FALSE(mistral.has_window_rope());
  const ModelConfig stated = good(folder, "gemma3", [&](gguf::Writer& w, const std::string& p) {
    window(16)(w, p);
    w.set(p + "attention.sliding_window_pattern", std::uint32_t{2});
    w.set(p + "rope.freq_base_swa", 500.0F);
    w.set(p + "attention.scale", 0.25F);
    w.set(p + "pooling_type", std::uint32_t{3});
  });
  CHECK(stated.windowed(0));
  CHECK_FALSE(stated.windowed(1));
  CHECK(stated.window_rope_base == 500.0F);
  CHECK(stated.attention_scale == 0.25F);
  CHECK(stated.pooling == Pooling::kLast);

  // Gemma 3 27B, by its 62 layers, has the scale of hidden / heads = 16 and not of its heads' 64; a stated one wins.
  const auto heads = [](float scale) {
    return [scale](gguf::Writer& w, const std::string& p) {
      w.set(p + "attention.key_length", std::uint32_t{64});
      if (scale != 0.0F) w.set(p + "attention.scale", scale);
    };
  };
  CHECK(good(folder, "gemma3", heads(0.0F)).attention_scale == 0.0F);
  CHECK(good(folder, "gemma3", heads(0.0F), 62).attention_scale == 0.25F);
  CHECK(good(folder, "gemma3", heads(0.125F), 62).attention_scale == 0.125F);
  CHECK(good(folder, "llama", heads(0.0F), 62).attention_scale == 0.0F);

  const ModelConfig old = good(folder, "minicpm");
  CHECK(old.embedding_scale == 12.0F);
  CHECK(old.residual_scale == 1.4F / std::sqrt(12.0F));
  CHECK(old.logit_scale == 4.0F);  // 256 / 64
  const ModelConfig minicpm = good(folder, "minicpm", [](gguf::Writer& w, const std::string& p) {
    w.set(p + "embedding_scale", 3.0F);
    w.set(p + "residual_scale", 0.5F);
    w.set(p + "logit_scale", 8.0F);
  });
  CHECK(minicpm.embedding_scale == 3.0F);
  CHECK(minicpm.residual_scale == 0.5F);
  CHECK(minicpm.logit_scale == 0.125F);
  CHECK(good(folder, "llama").logit_scale == 1.0F);
}

TEST_CASE("longrope without an original context has the model's own") {
  const TempFolder folder;
  const ModelConfig config = good(
      folder, "minicpm", [](gguf::Writer& w, const std::string& p) { w.set(p + "rope.scaling.type", "longrope"); });
  CHECK(config.rope_scaling == RopeScaling::kLongrope);
  CHECK(config.rope_original_context == 4096);
}

TEST_CASE("what would change the graph unseen is refused by its key") {
  const TempFolder folder;
  const auto refused = [&](const char* key, gguf::Value value, std::vector<std::string> parts) {
    CAPTURE(key);
    const auto set = [&](gguf::Writer& w, const std::string& p) {
      std::visit(
          [&](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, std::uint32_t> || std::is_same_v<T, float> || std::is_same_v<T, bool> ||
                          std::is_same_v<T, std::string_view>) {
              w.set(p + key, v);
            }
          },
          value);
    };
    parts.emplace_back(key);
    check_refused(read(folder, "llama", set), parts);
  };
  refused("expert_count", std::uint32_t{8}, {"found 8"});
  refused("attn_logit_softcapping", 50.0F, {"not implement"});
  refused("final_logit_softcapping", 30.0F, {"not implement"});
  refused("attention.causal", false, {"found false"});
  refused("use_parallel_residual", true, {"found true"});
  refused("pooling_type", std::uint32_t{2}, {"found 2", "mean"});
  refused("rope.scaling.type", std::string_view("ntk"), {"'ntk'", "yarn"});
  refused("rope.scaling.factor", 0.5F, {"1..65536"});
  refused("rope.scaling.factor", std::nanf(""), {"1..65536"});
  refused("rope.dimension_count", std::uint32_t{7}, {"found 7"});
  refused("rope.scaling.yarn_ext_factor", 0.5F, {"expected 1"});
  refused("rope.freq_base", 0.5F, {"at least 1"});
  refused("embedding_scale", -1.0F, {"above 0"});
  refused("attention.sliding_window", std::uint32_t{1} << 30, {"positions"});
  check_refused(read(folder, "llama",
                     [](gguf::Writer& w, const std::string& p) {
                       w.set(p + "rope.scaling.type", "yarn");
                       w.set(p + "rope.scaling.factor", 4.0F);
                     }),
                {"original_context_length"});
}

// Angles of one position by the definitions, in double.
std::vector<double> angles(const ModelConfig& config, std::int64_t position, std::span<const float> factors) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < config.rope_dim / 2; ++i) {
    const double plain = static_cast<double>(position) * std::pow(static_cast<double>(config.rope_base),
                                                                  -2.0 * static_cast<double>(i) / config.rope_dim);
    double angle = plain;
    if (config.rope_scaling == RopeScaling::kLinear) angle = plain / config.rope_factor;
    if (config.rope_scaling == RopeScaling::kYarn) {
      // Turns of this pair within the original context; between the two betas (in whole pairs) the mix is linear.
      const auto pair = [&](double turns) {
        return config.rope_dim * std::log(config.rope_original_context / (turns * 2.0 * M_PI)) /
               (2.0 * std::log(static_cast<double>(config.rope_base)));
      };
      const double low = std::max(0.0, std::floor(pair(config.yarn_beta_fast)));
      const double high = std::min(static_cast<double>(config.rope_dim - 1), std::ceil(pair(config.yarn_beta_slow)));
      const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
      angle = plain / config.rope_factor * ramp + plain * (1.0 - ramp);
    }
    if (!factors.empty()) angle /= factors[static_cast<std::size_t>(i)];
    result.push_back(angle);
  }
  return result;
}

TEST_CASE("RoPE tables: plain ones are rope_angles, stretched ones follow their definition") {
  ModelConfig config;
  config.rope_dim = 64;
  config.rope_base = 500000.0F;
  config.rope_original_context = 8192;
  std::vector<float> factors(32);
  for (std::size_t i = 0; i < factors.size(); ++i) factors[i] = 1.0F + 0.25F * static_cast<float>(i);
  std::vector<float> cosines(32);
  std::vector<float> sines(32);

  const auto plain = RopeTable::make(config, false, {});
  REQUIRE(plain.ok());
  std::vector<float> wanted_cosines(32);
  std::vector<float> wanted_sines(32);
  for (const std::int64_t position : {0, 1, 777, 100000}) {
    plain->angles(position, cosines.data(), sines.data());
    rope_angles(position, 64, 500000.0F, wanted_cosines.data(), wanted_sines.data());
    CHECK(cosines == wanted_cosines);
    CHECK(sines == wanted_sines);
  }

  const auto check = [&](RopeScaling scaling, float factor, std::span<const float> with, double magnitude) {
    config.rope_scaling = scaling;
    config.rope_factor = factor;
    const auto table = RopeTable::make(config, false, with);
    REQUIRE_MESSAGE(table.ok(), (table.ok() ? "" : table.error().message));
    for (const std::int64_t position : {0, 1, 100, 3000}) {
      table->angles(position, cosines.data(), sines.data());
      const std::vector<double> expected = angles(config, position, with);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        // float32 angles: a relative 2^-24 for each of up to 32 multiplications and a division.
        const double bound = expected[i] * 40.0 * 0x1p-24 + 1e-6;
        CHECK(std::abs(cosines[i] - magnitude * std::cos(expected[i])) <= bound * magnitude);
        CHECK(std::abs(sines[i] - magnitude * std::sin(expected[i])) <= bound * magnitude);
      }
    }
  };
  check(RopeScaling::kLinear, 4.0F, {}, 1.0);
  check(RopeScaling::kYarn, 8.0F, {}, 1.0 + 0.1 * std::log(8.0));
  check(RopeScaling::kNone, 1.0F, factors, 1.0);  // Llama 3
  config.rope_attention_factor = 1.25F;
  check(RopeScaling::kLongrope, 1.0F, factors, 1.25);

  // Layers with a window are never stretched, and have their own base.
  config.window = 16;
  config.window_rope_base = 10000.0F;
  const auto window = RopeTable::make(config, true, factors);
  REQUIRE(window.ok());
  window->angles(77, cosines.data(), sines.data());
  rope_angles(77, 64, 10000.0F, wanted_cosines.data(), wanted_sines.data());
  CHECK(cosines == wanted_cosines);

  factors.pop_back();
  CHECK_FALSE(RopeTable::make(config, false, factors).ok());
  factors.push_back(0.5F);
  CHECK_FALSE(RopeTable::make(config, false, factors).ok());
  CHECK_FALSE(RopeTable::make(config, false, {}).ok());  // longrope without factors
}

}  // namespace
}  // namespace bitnet
