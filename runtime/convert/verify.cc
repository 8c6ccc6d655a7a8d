// Only one model is in memory at a time; what is kept of the first are its logits.
#include "runtime/convert/verify.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/convert/gguf_source.h"
#include "runtime/convert/stream.h"
#include "runtime/model/model.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using gguf::TensorType;

constexpr std::int64_t kPositions = 16;

// Removes the file at the end of its scope.
class ScopedFile {
 public:
  explicit ScopedFile(std::string path) : path_(std::move(path)) {}
  ~ScopedFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  ScopedFile(const ScopedFile&) = delete;
  ScopedFile& operator=(const ScopedFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Result<std::vector<float>> logits_of(const std::string& path, const formats::ReadOptions& read) {
  ModelOptions options;
  options.bundle = "none";
  options.head = HeadMode::kExact;
  options.read = read;
  BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::load(path, options));
  ContextOptions context_options;
  context_options.size = std::min(kPositions, model->config().context);
  BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Context> context, Context::create(*model, context_options));
  std::vector<std::int32_t> prompt;
  for (std::int64_t i = 0; i < context_options.size; ++i) {
    constexpr std::int64_t kFirst = 7;
    constexpr std::int64_t kStride = 31;
    prompt.push_back(static_cast<std::int32_t>((kFirst + kStride * i) % model->config().vocab));
  }
  std::vector<float> all;
  BITNET_RETURN_IF_ERROR(context->eval_all(prompt, [&](std::int64_t, std::span<const float> logits) -> Status {
    all.insert(all.end(), logits.begin(), logits.end());
    return {};
  }));
  return all;
}

// By its first bytes: a file may have any name.
bool is_gguf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> magic{};
  return file.read(magic.data(), magic.size()) && std::string_view(magic.data(), magic.size()) == "GGUF";
}

// The logits of a model of any form. `type`: that of an exact image of a checkpoint.
Result<std::vector<float>> logits_of_any(const std::string& path, TensorType type, const ConvertOptions& made,
                                         const std::string& beside) {
  if (is_gguf(path)) return logits_of(path, made.read);
  const ScopedFile image(beside + ".verify." + std::to_string(::getpid()) + ".gguf");
  ConvertOptions options;
  options.type = type;
  options.embedding = options.head = TensorType::kF32;
  options.format = ConvertFormat::kGguf;
  options.ternarize = made.ternarize;
  options.weights_only = true;
  options.interrupted = made.interrupted;
  const auto converted = convert_model(path, image.path(), options);
  if (!converted.ok()) return converted.error();
  return logits_of(image.path(), {});
}

}  // namespace

Result<Verification> verify_conversion(const std::string& input, const std::string& output,
                                       const ConvertOptions& options, const ConvertReport& report) {
  // A checkpoint is run as what its result is: ternary weights with quantised activations, or floats.
  TensorType type = TensorType::kF32;
  for (const ConvertedTensor& tensor : report.tensors) {
    if (tensor.to_type == "U8") type = TensorType::kI2_S;  // packed
    if (convert::role_of(tensor.to) != convert::Role::kProjection) continue;
    for (const TensorType blocks : {TensorType::kTQ2_0, TensorType::kQ2_0, TensorType::kPQ2_0, TensorType::kQ1_0}) {
      if (tensor.to_type == gguf::to_string(blocks)) type = blocks;
    }
    if (tensor.to_type == "TQ1_0") type = TensorType::kTQ2_0;
    if (tensor.to_type == "I2_S" || tensor.to_type == "TL1" || tensor.to_type == "TL2") {
      type = TensorType::kI2_S;
    }
  }
  ConvertOptions result_options = options;
  if (!options.tile_config.empty()) result_options.read.tile_config = options.tile_config;
  result_options.read.i2s_layout = formats::I2sLayout::kX86;
  BITNET_ASSIGN_OR_RETURN(const std::vector<float> before, logits_of_any(input, type, options, output));
  BITNET_ASSIGN_OR_RETURN(const std::vector<float> after, logits_of_any(output, type, result_options, output));
  if (before.size() != after.size() || before.empty()) {
    return Error{ErrorCode::kVerification, output + ": expected " + std::to_string(before.size()) + " logits as of " +
                                               input + ", found " + std::to_string(after.size())};
  }
  Verification result;
  result.positions = std::min(kPositions, report.config.context);
  const std::size_t vocab = before.size() / static_cast<std::size_t>(result.positions);
  for (std::size_t first = 0; first < before.size(); first += vocab) {
    double product = 0;
    double square_before = 0;
    double square_after = 0;
    for (std::size_t i = first; i < first + vocab; ++i) {
      const auto a = static_cast<double>(before[i]);
      const auto b = static_cast<double>(after[i]);
      product += a * b;
      square_before += a * a;
      square_after += b * b;
      result.largest_difference = std::max(result.largest_difference, std::fabs(a - b));
    }
    const double norms = std::sqrt(square_before) * std::sqrt(square_after);
    result.cosine = std::min(result.cosine, norms > 0.0 ? product / norms : 0.0);
  }
  return result;
}

}  // namespace bitnet
