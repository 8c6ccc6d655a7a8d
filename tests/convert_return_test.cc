// From GGUF files to SafeTensors and back: what is written is what our own reader reads, in every type and for every
// architecture; what config.json cannot say is refused before anything is written.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/plan.h"
#include "runtime/convert/stream.h"
#include "runtime/convert/verify.h"
#include "runtime/model/model.h"
#include "tests/graph_model.h"
#include "tests/hf_checkpoint.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using gguf::TensorType;
using test::GraphSpec;
using test::ModelCopy;
using test::TempFolder;

gguf::File opened(const std::string& path) {
  auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  return *std::move(file);
}

ConvertOptions to(const std::string& type) {
  ConvertOptions options;
  options.type = parse_target_type(type);
  REQUIRE(options.type);
  options.weights_only = true;  // of a directory: no tokenizer
  return options;
}

ConvertReport converted(const std::string& input, const std::string& output, const ConvertOptions& options) {
  auto report = convert_model(input, output, options);
  REQUIRE_MESSAGE(report.ok(), report.error().message);
  return *std::move(report);
}

std::string refusal(const std::string& input, const std::string& output, const ConvertOptions& options) {
  const auto result = convert_model(input, output, options);
  CHECK(!result.ok());
  return result.ok() ? std::string() : result.error().message;
}

nlohmann::json config_of(const std::string& directory) {
  return nlohmann::json::parse(std::ifstream(directory + "/config.json"));
}

GraphSpec spec_of(const std::string& architecture, TensorType matrices = TensorType::kI2_S) {
  GraphSpec spec;
  spec.architecture = architecture;
  spec.type = [matrices](const std::string& name) { return name.starts_with("blk.") ? matrices : TensorType::kF32; };
  spec.sub_norms = architecture.starts_with("bitnet");
  spec.qk_norms = architecture == "qwen3" || architecture == "gemma3";
  spec.post_norms = architecture == "gemma3";
  spec.stacked_qkv = architecture == "gpt2";
  spec.biases = architecture == "gpt2";
  return spec;
}

// A GGUF file of the spec, and what becomes of it on the way to SafeTensors and back.
struct Trip {
  TempFolder folder;
  ModelCopy model;

  explicit Trip(const GraphSpec& spec) : model(test::make_model(folder, spec)) { model.write(path()); }
  [[nodiscard]] std::string path() const { return folder.file("model.gguf"); }
  [[nodiscard]] std::string out() const { return folder.file("hf"); }
  [[nodiscard]] std::string back_path() const { return folder.file("back.gguf"); }

  ConvertReport out(const std::string& type) const { return out(to(type)); }
  ConvertReport out(const ConvertOptions& options) const {
    fs::remove_all(out());
    fs::create_directory(out());
    return converted(path(), out() + "/model.safetensors", options);
  }
  ConvertReport back(const ConvertOptions& options) const { return converted(out(), back_path(), options); }

  // All tensors as floats, and the configuration, are those of the first file.
  void check_equal() const {
    converted(path(), folder.file("before.gguf"), floats());
    converted(back_path(), folder.file("after.gguf"), floats());
    const gguf::File before = opened(folder.file("before.gguf"));
    const gguf::File after = opened(folder.file("after.gguf"));
    for (const gguf::Tensor& tensor : before.tensors()) {
      CAPTURE(std::string(tensor.name));
      // One norm, two names.
      std::string name(tensor.name);
      for (const auto& [alone, usual] :
           {std::pair("attn_output_norm_in", "attn_sub_norm"), {"ffn_down_norm_in", "ffn_sub_norm"}}) {
        const std::size_t at = name.find(alone);
        if (at != name.npos) name.replace(at, std::string(alone).size(), usual);
      }
      const gguf::Tensor* same = after.find_tensor(name);
      REQUIRE(same != nullptr);
      CHECK(same->ne == tensor.ne);
      REQUIRE(same->data.size() == tensor.data.size());
      int wrong = 0;
      for (std::size_t i = 0; i < tensor.data.size(); i += sizeof(float)) {
        wrong += std::memcmp(same->data.data() + i, tensor.data.data() + i, sizeof(float)) != 0 ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
    CHECK(after.tensors().size() == before.tensors().size());
  }

 private:
  static ConvertOptions floats() {
    ConvertOptions options = to("f32");
    options.embedding = options.head = TensorType::kF32;
    return options;
  }
};

TEST_CASE("a BitNet model in every type of SafeTensors: read again, run, and ternary as before") {
  const Trip trip(spec_of("bitnet-b1.58"));
  for (const char* type : {"i2_s", "f32", "f16", "bf16"}) {
    CAPTURE(type);
    ConvertOptions options = to(type);
    if (std::string(type) == "i2_s") options.embedding = TensorType::kF32;
    const ConvertReport report = trip.out(options);
    const auto found = verify_conversion(trip.path(), trip.out() + "/model.safetensors", options, report);
    REQUIRE_MESSAGE(found.ok(), found.error().message);
    CHECK(found->cosine > 0.99);
    if (report.lossless()) CHECK(found->largest_difference == 0.0);

    const bool packed = std::string(type) == "i2_s";
    CHECK(config_of(trip.out()).contains("quantization_config") == packed);
    // Without --type: what they were, found by their values, and said.
    ConvertOptions unsaid;
    unsaid.weights_only = true;
    unsaid.embedding = TensorType::kF32;
    const ConvertReport back = trip.back(unsaid);
    bool said = false;
    for (const std::string& warning : back.warnings) said = said || warning.find("quantization_config") != warning.npos;
    CHECK(said == !packed);
    for (const ConvertedTensor& tensor : back.tensors) CHECK(!tensor.rounded);
    const gguf::File before = opened(trip.path());
    const gguf::File after = opened(trip.back_path());
    for (const gguf::Tensor& tensor : before.tensors()) {
      if (tensor.type != TensorType::kI2_S) continue;
      const gguf::Tensor* same = after.find_tensor(tensor.name);
      REQUIRE(same != nullptr);
      REQUIRE(same->type == TensorType::kI2_S);
      const bool exact = std::string(type) == "i2_s" || std::string(type) == "f32";
      CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size() - (exact ? 28 : 32)) == 0);
    }
    if (packed || std::string(type) == "f32") trip.check_equal();
  }
}

TEST_CASE("floats of a BitNet class that are not ternary are rounded on request only") {
  const Trip trip(spec_of("bitnet", TensorType::kF32));
  trip.out("f32");
  ConvertOptions options;
  options.weights_only = true;
  const std::string message = refusal(trip.out(), trip.back_path(), options);
  CHECK_MESSAGE(message.find("--ternarize absmean") != std::string::npos, message);
  CHECK_MESSAGE(message.find("--type f16") != std::string::npos, message);
  options.ternarize = true;
  CHECK(!trip.back(options).lossless());
  trip.back(to("f32"));
  trip.check_equal();
}

gguf::Value number(std::uint32_t value) { return value; }
gguf::Value number(float value) { return value; }

TEST_CASE("every architecture to SafeTensors and back") {
  struct Case {
    GraphSpec spec;
    std::vector<const char*> types;
  };
  std::vector<Case> cases;
  const auto add = [&](GraphSpec spec, std::vector<const char*> types) { cases.push_back({std::move(spec), types}); };
  add(spec_of("bitnet"), {"i2_s", "f32"});
  add(spec_of("bitnet-25"), {"i2_s"});
  GraphSpec llama = spec_of("llama");
  llama.untied = true;
  llama.keys = {{"rope.scaling.type", std::string_view("linear")}, {"rope.scaling.factor", number(2.0F)}};
  add(llama, {"i2_s", "f32"});
  llama.biases = true;
  llama.keys = {{"attention.sliding_window", number(5U)}};
  add(llama, {"i2_s", "f32"});
  GraphSpec qwen = spec_of("qwen2");
  qwen.biases = true;
  qwen.keys = {{"attention.sliding_window", number(7U)}};
  add(qwen, {"i2_s", "f32"});
  qwen = spec_of("qwen3");
  qwen.in_norms = true;
  qwen.layers = 4;
  qwen.keys = {{"attention.sliding_window", number(7U)}, {"attention.sliding_window_pattern", number(2U)}};
  add(qwen, {"i2_s", "f32"});
  GraphSpec gemma = spec_of("gemma3");
  gemma.keys = {{"attention.sliding_window", number(5U)},
                {"attention.sliding_window_pattern", number(2U)},
                {"attention.scale", number(0.11F)}};
  add(gemma, {"i2_s", "f32"});
  GraphSpec minicpm = spec_of("minicpm");
  minicpm.keys = {{"embedding_scale", number(3.3F)},
                  {"residual_scale", number(0.7F)},
                  {"logit_scale", number(1.0F)},
                  {"rope.scaling.type", std::string_view("yarn")},
                  {"rope.scaling.factor", number(4.0F)},
                  {"rope.scaling.original_context_length", number(64U)},
                  {"rope.scaling.yarn_beta_slow", number(2.0F)}};
  add(minicpm, {"i2_s"});
  for (const Case& one : cases) {
    const Trip trip(one.spec);
    for (const char* type : one.types) {
      CAPTURE(one.spec.architecture);
      CAPTURE(type);
      ConvertOptions options = to(type);
      options.embedding = TensorType::kF32;
      const ConvertReport report = trip.out(options);
      const auto found = verify_conversion(trip.path(), trip.out() + "/model.safetensors", options, report);
      REQUIRE_MESSAGE(found.ok(), found.error().message);
      CHECK(found->cosine > 0.98);
      if (report.lossless()) CHECK(found->largest_difference == 0.0);
      CHECK((report.lossless() || std::string(type) == "f32" || one.spec.biases || report.config_rounded));
      ConvertOptions unsaid;
      unsaid.weights_only = true;
      unsaid.embedding = TensorType::kF32;
      if (!one.spec.architecture.starts_with("bitnet") && !one.spec.in_norms) unsaid.type = TensorType::kI2_S;
      const ConvertReport back = trip.back(unsaid);
      for (const ConvertedTensor& tensor : back.tensors) CHECK(!tensor.rounded);
      // A bias of packed weights goes through a quotient, which some values do not survive.
      if (!one.spec.biases || std::string(type) != "i2_s") trip.check_equal();
      const auto before = read_config(opened(trip.path()));
      const auto after = read_config(opened(trip.back_path()));
      REQUIRE(before.ok());
      REQUIRE(after.ok());
      for (std::int64_t layer = 0; layer < before->layers; ++layer) {
        CHECK(before->windowed(layer) == after->windowed(layer));
      }
      CHECK(before->window == after->window);
      CHECK(before->rope_scaling == after->rope_scaling);
      CHECK(before->residual_scale == after->residual_scale);
    }
  }
}

TEST_CASE("biases of packed weights: within the rounding of a quotient") {
  GraphSpec spec = spec_of("llama");
  spec.biases = true;
  const Trip trip(spec);
  ConvertOptions options = to("i2_s");
  options.embedding = TensorType::kF32;
  const ConvertReport report = trip.out(options);
  trip.back(options);
  const gguf::File before = opened(trip.path());
  const gguf::File after = opened(trip.back_path());
  for (const gguf::Tensor& tensor : before.tensors()) {
    if (!tensor.name.ends_with(".bias")) continue;
    CAPTURE(std::string(tensor.name));
    const gguf::Tensor* same = after.find_tensor(tensor.name);
    REQUIRE(same != nullptr);
    double worst = 0;
    for (std::size_t i = 0; i < tensor.data.size(); i += sizeof(float)) {
      float a = 0;
      float b = 0;
      std::memcpy(&a, tensor.data.data() + i, sizeof a);
      std::memcpy(&b, same->data.data() + i, sizeof b);
      worst = std::max(worst, std::fabs(static_cast<double>(a) - static_cast<double>(b)));
      CHECK(b == doctest::Approx(a).epsilon(2e-7));
    }
    for (const ConvertedTensor& converted : report.tensors) {
      if (converted.from.front() == tensor.name) CHECK(converted.max_error == worst);
    }
  }
}

TEST_CASE("biases and norms that transformers' classes have are stated, others told") {
  const auto told = [](const GraphSpec& spec, std::string_view part, nlohmann::json& config) {
    const Trip trip(spec);
    const ConvertReport report = trip.out("f32");
    config = config_of(trip.out());
    return std::ranges::any_of(report.warnings, [&](const std::string& line) { return line.find(part) != line.npos; });
  };
  nlohmann::json config;
  GraphSpec spec = spec_of("llama", TensorType::kF32);
  spec.biases = true;
  CHECK_FALSE(told(spec, "no place", config));
  CHECK(config["attention_bias"] == true);
  CHECK(config["mlp_bias"] == true);
  spec.architecture = "qwen3";
  spec.qk_norms = true;
  CHECK(told(spec, "biases of the feed-forward", config));
  CHECK(config["attention_bias"] == true);
  CHECK_FALSE(config.contains("mlp_bias"));
  spec = spec_of("llama", TensorType::kF32);
  spec.qk_norms = true;
  CHECK(told(spec, "norms of queries and keys", config));
  spec = spec_of("qwen3");
  spec.in_norms = true;
  CHECK(told(spec, "norms in front of single products", config));
  spec = spec_of("gemma3", TensorType::kF32);
  CHECK_FALSE(told(spec, "no place", config));
  CHECK(config["layer_types"] == nlohmann::json({"full_attention", "full_attention"}));
  CHECK_FALSE(config.contains("sliding_window_pattern"));
}

TEST_CASE("a bias that the scale of packed weights cannot hold is refused by name") {
  GraphSpec spec = spec_of("llama");
  spec.biases = true;
  Trip trip(spec);
  const float large = 1e38F;
  std::memcpy(trip.model.tensor("blk.1.attn_q.bias").data.data(), &large, sizeof large);
  trip.model.write(trip.path());
  fs::create_directory(trip.out());
  const std::string message = refusal(trip.path(), trip.out() + "/model.safetensors", to("i2_s"));
  CHECK_MESSAGE(message.find("'blk.1.attn_q.bias'") != message.npos, message);
  CHECK_MESSAGE(message.find("--type f16") != message.npos, message);
  CHECK(fs::is_empty(trip.out()));
}

TEST_CASE("what config.json has no words for is refused before anything is written") {
  const auto refused = [](GraphSpec spec, std::string_view part) {
    const Trip trip(spec);
    fs::create_directory(trip.out());
    const std::string message = refusal(trip.path(), trip.out() + "/model.safetensors", to("f32"));
    CHECK_MESSAGE(message.find(part) != message.npos, message);
    CHECK_MESSAGE(message.find("config.json") != message.npos, message);
    CHECK(fs::is_empty(trip.out()));
  };
  GraphSpec spec = spec_of("llama");
  spec.keys = {{"attention.sliding_window", number(5U)}, {"attention.sliding_window_pattern", number(2U)}};
  refused(spec, "window of layer 0");
  spec.keys = {{"attention.scale", number(0.2F)}};
  refused(spec, "attention scale");
  spec.keys = {{"embedding_scale", number(2.0F)}};
  refused(spec, "embedding scale");
  spec.keys = {{"rope.dimension_count", number(32U)}};
  refused(spec, "RoPE dimensions");
  spec.keys.clear();
  spec.rope_freqs = true;  // random
  refused(spec, "no llama3 scaling");
  spec = spec_of("bitnet-b1.58");
  spec.keys = {{"attention.sliding_window", number(5U)}};
  refused(spec, "window of layer 0");
  refused(spec_of("gpt2", TensorType::kF32), "key-value heads 2");
}

// Every tensor of the source stands in the report once, under the result's name and with what became of it.
void check_names(const ConvertReport& report) {
  std::set<std::string> sources;
  for (const ConvertedTensor& tensor : report.tensors) {
    CAPTURE(tensor.to);
    for (const std::string& name : tensor.from) CHECK(sources.insert(name).second);
    CHECK((tensor.to.starts_with("model.") || tensor.to == "lm_head.weight"));
    CHECK(tensor.to_type == "F32");
    CHECK(tensor.to.ends_with("norm.weight") == (tensor.shape.size() == 1));
  }
  for (const auto& [name, reason] : report.unmapped) CHECK(sources.insert(name).second);
}

// rope_freqs.weight of the usual scalings, worked out here in float32 as well, which is how other programs do it.
TEST_CASE("llama3 scaling: found again in the factors") {
  struct Case {
    float factor, low, high;
    std::int64_t original;
    bool wide;
  };
  for (const Case& one : {Case{8, 1, 4, 8192, true},
                          {32, 1, 4, 8192, true},
                          {8, 1, 4, 8192, false},
                          {32, 1, 4, 8192, false},
                          {4, 2, 5, 2048, true},
                          {16, 1, 8, 1000, true}}) {
    CAPTURE(one.factor);
    CAPTURE(one.wide);
    GraphSpec spec = spec_of("llama", TensorType::kF32);
    spec.head_dim = 128;
    spec.rope_freqs = true;
    spec.keys = {{"rope.freq_base", number(500000.0F)}};
    Trip trip(spec);
    std::vector<float> factors;
    for (int i = 0; i < 64; ++i) {
      double frequency = std::pow(500000.0, -2.0 * i / 128.0);
      if (!one.wide) frequency = static_cast<double>(1.0F / std::pow(500000.0F, static_cast<float>(2 * i) / 128.0F));
      const double wavelength = 2.0 * 3.141592653589793 / frequency;
      const double smooth = (static_cast<double>(one.original) / wavelength - static_cast<double>(one.low)) /
                            static_cast<double>(one.high - one.low);
      double factor = 1.0 / ((1.0 - smooth) / static_cast<double>(one.factor) + smooth);
      if (smooth < 0.0) factor = static_cast<double>(one.factor);
      if (smooth > 1.0) factor = 1.0;
      factors.push_back(static_cast<float>(factor));
    }
    std::memcpy(trip.model.tensor("rope_freqs.weight").data.data(), factors.data(), 64 * sizeof(float));
    trip.model.write(trip.path());
    const ConvertReport report = trip.out("f32");
    check_names(report);
    CHECK(std::ranges::any_of(report.unmapped, [](const auto& tensor) { return tensor.first == "rope_freqs.weight"; }));
    const nlohmann::json scaling = config_of(trip.out())["rope_scaling"];
    CHECK(scaling["rope_type"] == "llama3");
    CHECK(scaling["factor"] == one.factor);
    if (one.original == 8192 || one.original == 2048) {
      // Only their ratios follow from the factors.
      const double unit = scaling["original_max_position_embeddings"].get<double>() / static_cast<double>(one.original);
      CHECK(scaling["low_freq_factor"].get<double>() == doctest::Approx(static_cast<double>(one.low) * unit));
      CHECK(scaling["high_freq_factor"].get<double>() == doctest::Approx(static_cast<double>(one.high) * unit));
    }
    trip.back(to("f32"));
    const gguf::File back = opened(trip.back_path());
    const gguf::Tensor* tensor = back.find_tensor("rope_freqs.weight");
    REQUIRE(tensor != nullptr);
    int wrong = 0;
    for (std::size_t i = 0; i < factors.size(); ++i) {
      float found = 0;
      std::memcpy(&found, tensor->data.data() + i * sizeof found, sizeof found);
      CHECK(found == doctest::Approx(factors[i]).epsilon(5e-6));
      wrong += found == factors[i] ? 0 : 1;
    }
    CHECK(report.config_rounded == (wrong != 0));
    if (one.wide && one.original != 1000) CHECK(wrong == 0);
    const auto found = verify_conversion(trip.path(), trip.out() + "/model.safetensors", to("f32"), report);
    REQUIRE_MESSAGE(found.ok(), found.error().message);
    CHECK(found->cosine > 0.99999);

    // The file that a conversion wrote remembers what it was told, even where the factors alone would not tell.
    nlohmann::json told = config_of(trip.out());
    told["rope_scaling"]["low_freq_factor"] = 1.3;
    told["rope_scaling"]["high_freq_factor"] = 3.7;
    told["rope_scaling"]["original_max_position_embeddings"] = 9000;
    std::ofstream(trip.out() + "/config.json") << told.dump();
    trip.back(to("f32"));
    fs::remove_all(trip.out());
    fs::create_directory(trip.out());
    const ConvertReport again = converted(trip.back_path(), trip.out() + "/model.safetensors", to("f32"));
    CHECK(!again.config_rounded);
    CHECK(config_of(trip.out())["rope_scaling"]["original_max_position_embeddings"] == 9000);
    CHECK(config_of(trip.out())["rope_scaling"]["low_freq_factor"] == doctest::Approx(1.3));
  }
}

TEST_CASE("the model's name, and a head that is none") {
  GraphSpec spec = spec_of("llama");
  Trip trip(spec);
  ConvertOptions options = to("f16");
  options.name = "a name";
  trip.out(options);
  CHECK(config_of(trip.out())["_name_or_path"] == "a name");
  CHECK(trip.back(to("f16")).name == "a name");
  const auto has_warning = [](const ConvertReport& report) {
    bool said = false;
    for (const std::string& warning : report.warnings) said = said || warning.find("--head") != warning.npos;
    return said;
  };
  options.head = TensorType::kQ8_0;
  CHECK(has_warning(converted(trip.path(), trip.folder.file("x.gguf"), options)));

  spec.untied = true;
  const Trip untied(spec);
  const auto head = [&] { return opened(untied.folder.file("x.gguf")).find_tensor("output.weight")->type; };
  CHECK(!has_warning(converted(untied.path(), untied.folder.file("x.gguf"), options)));
  CHECK(head() == TensorType::kQ8_0);
  options.head.reset();
  options.embedding = TensorType::kBF16;
  converted(untied.path(), untied.folder.file("x.gguf"), options);
  CHECK(head() == TensorType::kBF16);
}

TEST_CASE("GGUF files that are no whole models are refused, with every name in the report") {
  const Trip trip(spec_of("llama"));
  const auto refused = [&](const std::function<void(ModelCopy&)>& edit, ConvertReport& report) {
    ModelCopy copy = trip.model;
    edit(copy);
    copy.write(trip.folder.file("part.gguf"));
    std::string message;
    for (const char* output : {"x.gguf", "x.safetensors"}) {
      const Status status = convert_model(trip.folder.file("part.gguf"), trip.folder.file(output), to("f16"), report);
      REQUIRE(!status.ok());
      CHECK(!fs::exists(trip.folder.file(output)));
      CHECK_MESSAGE(status.error().message.find(trip.folder.file("part.gguf")) == 0, status.error().message);
      message = status.error().message;
    }
    return message;
  };
  ConvertReport report;
  std::string message = refused(
      [](ModelCopy& copy) {
        for (const char* name : {"blk.1.ffn_norm.weight", "blk.0.ffn_down.weight", "blk.1.attn_k.weight"}) {
          copy.remove(name);
        }
        copy.add_floats("blk.0.attn_gate.weight", 16);
      },
      report);
  CHECK_MESSAGE(message.find("missing: 'blk.0.ffn_down.weight', 'blk.1.attn_k.weight', 'blk.1.ffn_norm.weight'; ") !=
                    message.npos,
                message);
  CHECK_MESSAGE(message.find("not part of this model: 'blk.0.attn_gate.weight'") != message.npos, message);
  CHECK(report.missing ==
        std::vector<std::string>{"blk.0.ffn_down.weight", "blk.1.attn_k.weight", "blk.1.ffn_norm.weight"});
  CHECK(report.unexpected == std::vector<std::string>{"blk.0.attn_gate.weight"});
  CHECK(report.config.architecture == "llama");
  // The others have their places, though none was converted.
  CHECK(report.tensors.size() == trip.model.tensors.size() - report.missing.size());
  for (const ConvertedTensor& tensor : report.tensors) {
    CHECK(tensor.from == std::vector<std::string>{tensor.to});
    CHECK(tensor.to_type.empty());
    CHECK(tensor.to != "blk.0.attn_gate.weight");
  }

  // What one block has, all must have.
  refused([](ModelCopy& copy) { copy.add_floats("blk.1.attn_q.bias", 256); }, report);
  CHECK(report.missing == std::vector<std::string>{"blk.0.attn_q.bias"});
  refused([](ModelCopy& copy) { copy.remove("output_norm.weight"); }, report);
  CHECK(report.missing == std::vector<std::string>{"output_norm.weight"});
  refused([](ModelCopy& copy) { copy.remove("token_embd.weight"); }, report);
  CHECK(report.missing == std::vector<std::string>{"token_embd.weight"});

  message = refused(
      [](ModelCopy& copy) {
        copy.set("split.count", std::uint32_t{3});
        copy.set("split.no", std::uint32_t{0});
      },
      report);
  CHECK_MESSAGE(message.find("found a part number 0 (from 0) of 3; merge the parts") != message.npos, message);
  message = refused(
      [](ModelCopy& copy) {
        copy.remove("output_norm.weight");
        copy.add_floats("output_norm.weight", 128);
      },
      report);
  CHECK_MESSAGE(message.find("tensor output_norm.weight: expected shape [256]") != message.npos, message);
}

TEST_CASE("a matrix of zeros has any scale") {
  const Trip trip(spec_of("bitnet-b1.58"));
  for (const TensorType type :
       {TensorType::kTQ1_0, TensorType::kTQ2_0, TensorType::kQ2_0, TensorType::kPQ2_0, TensorType::kQ1_0}) {
    CAPTURE(gguf::to_string(type));
    ModelCopy copy = trip.model;
    test::CopiedTensor& tensor = copy.tensor("blk.0.ffn_up.weight");
    tensor.type = type;
    tensor.data.assign(*gguf::tensor_bytes(type, tensor.ne), std::byte{0});
    copy.write(trip.path());
    converted(trip.path(), trip.folder.file("x.gguf"), to("i2_s"));
    const gguf::File file = opened(trip.folder.file("x.gguf"));
    const gguf::Tensor* zeros = file.find_tensor("blk.0.ffn_up.weight");
    REQUIRE(zeros->type == TensorType::kI2_S);
    int other = 0;  // than four codes of 0
    for (const std::byte byte : zeros->data.first(zeros->data.size() - 32)) other += byte != std::byte{0x55} ? 1 : 0;
    CHECK(other == 0);
    float scale = 0;
    std::memcpy(&scale, zeros->data.data() + zeros->data.size() - 32, sizeof scale);
    CHECK(scale == 1.0F);
    trip.out("i2_s");
    trip.back(to("i2_s"));  // a scale of 0 is refused there
  }
}

// A Qwen3 checkpoint as Ternary-Bonsai's: float16, t * scale with a scale for each 128 columns.
TEST_CASE("K-groups of 64 and 128 in floats: kept exactly, and run") {
  const Trip trip(spec_of("qwen3", TensorType::kF16));
  for (const auto& [group, type, other] : {std::tuple(128, "pq2_0", "tq2_0"), {64, "q2_0", "pq2_0"}}) {
    CAPTURE(type);
    ModelCopy copy = trip.model;
    std::uint32_t random = 1;
    for (test::CopiedTensor& tensor : copy.tensors) {
      if (tensor.type != TensorType::kF16) continue;
      for (std::size_t i = 0; i < tensor.data.size() / 2; ++i) {
        random = random * 1664525 + 1013904223;
        const std::size_t index = i / static_cast<std::size_t>(group);
        const int sign = static_cast<int>((random >> 16) % 3) - 1;
        const float scale = 0.03F + 0.001F * static_cast<float>(index * 7 % 31);
        const std::uint16_t half = float_to_half(static_cast<float>(sign) * half_to_float(float_to_half(scale)));
        std::memcpy(tensor.data.data() + 2 * i, &half, 2);
      }
    }
    copy.write(trip.path());
    trip.out("f16");
    const std::string message = refusal(trip.out(), trip.back_path(), to(other));
    CHECK_MESSAGE(message.find(std::string("--type ") + type + " keeps") != message.npos, message);
    CHECK(refusal(trip.out(), trip.back_path(), to("i2_s")).find(std::string("--type ") + type + " keeps") !=
          std::string::npos);
    if (group == 128) {
      CHECK(refusal(trip.out(), trip.back_path(), to("q1_0")).find("expected -1 or +1") != std::string::npos);
    }
    const ConvertReport report = trip.back(to(type));
    for (const ConvertedTensor& tensor : report.tensors) {
      CHECK((tensor.max_error == 0.0 || tensor.to == "token_embd.weight"));
      if (tensor.to == "blk.1.ffn_up.weight") CHECK(tensor.to_type == (group == 64 ? "Q2_0" : "PQ2_0"));
    }
    ConvertOptions floats = to("f16");
    converted(trip.back_path(), trip.folder.file("f16.gguf"), floats);
    const gguf::File before = opened(trip.path());
    const gguf::File after = opened(trip.folder.file("f16.gguf"));
    for (const gguf::Tensor& tensor : before.tensors()) {
      if (tensor.type != TensorType::kF16) continue;
      const gguf::Tensor* same = after.find_tensor(tensor.name);
      REQUIRE(same != nullptr);
      REQUIRE(same->data.size() == tensor.data.size());
      int wrong = 0;
      for (std::size_t i = 0; i < tensor.data.size() / 2; ++i) {
        std::uint16_t a = 0;
        std::uint16_t b = 0;
        std::memcpy(&a, tensor.data.data() + 2 * i, 2);
        std::memcpy(&b, same->data.data() + 2 * i, 2);
        wrong += a != b && ((a | b) & 0x7fff) != 0 ? 1 : 0;  // -0 becomes 0
      }
      CHECK(wrong == 0);
    }
    const auto found =
        verify_conversion(trip.out(), trip.back_path(), to(type), converted(trip.out(), trip.back_path(), to(type)));
    REQUIRE_MESSAGE(found.ok(), found.error().message);
    CHECK(found->cosine > 0.9999);  // the embedding in float16
    const auto model = Model::load(trip.back_path(), [] {
      ModelOptions options;
      options.bundle = "none";
      return options;
    }());
    REQUIRE_MESSAGE(model.ok(), model.error().message);
    // From GGUF to GGUF and back: the same bytes.
    converted(trip.folder.file("f16.gguf"), trip.folder.file("again.gguf"), to(type));
    const gguf::File again = opened(trip.folder.file("again.gguf"));
    const gguf::File first = opened(trip.back_path());
    for (const gguf::Tensor& tensor : first.tensors()) {
      const gguf::Tensor* same = again.find_tensor(tensor.name);
      REQUIRE(same->data.size() == tensor.data.size());
      CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size()) == 0);
    }
  }
}

// What no file of a whole model holds, straight to the functions.
TEST_CASE("types that cannot be read are no targets, and rows without columns end at once") {
  convert::SourceTensor source;
  source.name = "blk.0.ffn_up.weight";
  source.role = convert::Role::kProjection;
  source.ne = {256, 4};
  source.type = "MXFP4";
  source.place = "x.gguf: tensor 'blk.0.ffn_up.weight'";
  source.raw_type = TensorType::kTL2OrMXFP4;
  source.release = [] {};
  convert::PlanOptions options;
  options.type = TensorType::kTL2OrMXFP4;
  options.keep_types = true;
  std::vector<std::string> warnings;
  const auto targets = convert::plan_targets({source}, options, warnings);
  REQUIRE_FALSE(targets.ok());
  CHECK_MESSAGE(targets.error().message.find("found MXFP4") != std::string::npos, targets.error().message);
  source.ternary = true;
  source.type = "TL2";
  CHECK_FALSE(convert::is_copied(source, {TensorType::kTL2OrMXFP4, std::nullopt, false, false}));
  source.raw_type = TensorType::kTQ2_0;
  CHECK(convert::is_copied(source, {TensorType::kTQ2_0, std::nullopt, false, false}));

  source = {};
  source.ne = {0, std::uint64_t{1} << 62};
  source.floats = [](std::int64_t, std::int64_t, float*) { FAIL("nothing to read"); };
  source.release = [] {};
  int calls = 0;
  const convert::Sink sink = [&](std::span<const std::byte> bytes) -> Status {
    calls += bytes.empty() ? 0 : 1;
    return {};
  };
  const convert::Step step = [&](std::uint64_t) -> Status {
    return ++calls < 100 ? Status() : Status(Error{ErrorCode::kInterrupted, "without end"});
  };
  ConvertedTensor report;
  CHECK(convert::stream_tensor(source, {TensorType::kF16, std::nullopt, false, false}, sink, step, report, warnings)
            .ok());
  CHECK(calls == 0);
}

TEST_CASE("rows that Q8_0 cannot hold keep their values") {
  GraphSpec spec = spec_of("llama", TensorType::kF32);
  const Trip trip(spec);
  ModelCopy copy = trip.model;
  // 80 wide heads' worth of columns do not come in blocks of 32: an ffn of 500.
  copy.set("llama.feed_forward_length", std::uint32_t{500});
  for (const char* layer : {"0", "1"}) {
    for (const char* name : {"ffn_gate", "ffn_up", "ffn_down"}) {
      test::CopiedTensor& tensor = copy.tensor("blk." + std::string(layer) + "." + name + ".weight");
      tensor.ne =
          std::string(name) == "ffn_down" ? std::vector<std::uint64_t>{500, 256} : std::vector<std::uint64_t>{256, 500};
      tensor.data.resize(500 * 256 * 4);
    }
  }
  copy.write(trip.path());
  const ConvertReport report = converted(trip.path(), trip.folder.file("x.gguf"), to("q8_0"));
  const gguf::File file = opened(trip.folder.file("x.gguf"));
  CHECK(file.find_tensor("blk.1.ffn_up.weight")->type == TensorType::kQ8_0);
  const gguf::Tensor* down = file.find_tensor("blk.1.ffn_down.weight");
  CHECK(down->type == TensorType::kF32);
  CHECK(std::memcmp(down->data.data(), copy.tensor("blk.1.ffn_down.weight").data.data(), down->data.size()) == 0);
  bool said = false;
  for (const std::string& warning : report.warnings)
    said = said || warning.find("no whole blocks of Q8_0") != warning.npos;
  CHECK(said);
}

}  // namespace
}  // namespace bitnet
