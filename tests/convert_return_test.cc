// From GGUF files to SafeTensors and back: what is written is what our own reader reads, in every type and for every
// architecture; what config.json cannot say is refused before anything is written.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/convert/convert.h"
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
      const gguf::Tensor* same = after.find_tensor(tensor.name);
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

}  // namespace
}  // namespace bitnet
