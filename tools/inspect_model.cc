#include "tools/inspect_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <span>

#include "runtime/chat/prompt_template.h"
#include "runtime/formats/dense.h"
#include "runtime/formats/ternary.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

bool is_ternary_type(gguf::TensorType type) {
  using enum gguf::TensorType;
  constexpr std::array kTernary = {kI2_S, kTL1, kTL2OrMXFP4, kTQ1_0, kTQ2_0, kQ1_0, kQ2_0, kPQ2_0};
  return std::find(kTernary.begin(), kTernary.end(), type) != kTernary.end();
}

std::uint64_t elements(const gguf::Tensor& tensor) { return tensor.ne[0] * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]; }

Json architecture_json(const gguf::File& file, const ModelConfig& config) {
  Json json = {{"architecture", config.architecture},
               {"activation", to_string(config.activation)},
               {"gated", config.gated},
               {"norm", {{"kind", to_string(config.norm)}, {"eps", config.norm_eps}}},
               {"layers", config.layers},
               {"hidden", config.hidden},
               {"ffn", config.ffn},
               {"heads", config.heads},
               {"kv_heads", config.kv_heads},
               {"head_dim", config.head_dim},
               {"vocab", config.vocab},
               {"context", config.context}};
  if (config.rope == RopeKind::kNone) {
    json["rope"] = nullptr;
  } else {
    json["rope"] = {{"kind", to_string(config.rope)},
                    {"dim", config.rope_dim},
                    {"base", config.rope_base},
                    {"scaling", to_string(config.rope_scaling)},
                    {"factor", config.rope_factor}};
  }
  json["scales"] = {
      {"embedding", config.embedding_scale}, {"residual", config.residual_scale}, {"logit", config.logit_scale}};
  json["tied_head"] = config.tied_only || file.find_tensor("output.weight") == nullptr;
  json["pooling"] = pooling_name(config.pooling);
  return json;
}

// Tensors and weights by type; what of them is ternary.
Json precision_json(const gguf::File& file) {
  struct Sum {
    std::uint64_t tensors = 0;
    std::uint64_t weights = 0;
    std::uint64_t bytes = 0;
  };
  std::map<std::string, Sum> types;
  Sum ternary;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::string name(type_name(tensor));
    const bool is_ternary = is_ternary_type(tensor.type) && name != "MXFP4";
    const auto add = [&](Sum& sum) {
      sum.tensors += 1;
      sum.weights += elements(tensor);
      sum.bytes += tensor.bytes;
    };
    add(types[name]);
    if (is_ternary) add(ternary);
  }
  Json by_type = Json::object();
  for (const auto& [name, sum] : types) {
    by_type[name] = {{"tensors", sum.tensors}, {"weights", sum.weights}, {"bytes", sum.bytes}};
  }
  return {{"ternary_tensors", ternary.tensors}, {"ternary_weights", ternary.weights}, {"types", by_type}};
}

Json kv_json(const ModelConfig& config) {
  std::int64_t windowed = 0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) windowed += config.windowed(layer) ? 1 : 0;
  Json types = Json::array();
  Json bytes = Json::object();
  for (const KvType type : {KvType::kF16, KvType::kI8, KvType::kF32}) {
    types.push_back(kv_name(type));
    bytes[std::string(kv_name(type))] = 2 * config.layers * config.kv_heads * kv_row_bytes(type, config.head_dim);
  }
  return {{"types", types}, {"bytes_per_position", bytes}, {"window", config.window}, {"windowed_layers", windowed}};
}

Json tokenizer_json(const gguf::File& file) {
  const auto text = [&](const char* key) -> Json {
    const auto value = file.get_string(key);
    if (!value.ok()) return nullptr;
    return std::string(*value);
  };
  if (file.find("tokenizer.ggml.model") == nullptr) return nullptr;
  const TemplateChoice choice = choose_prompt_template(file);
  Json json = {{"model", text("tokenizer.ggml.model")},
               {"pre", text("tokenizer.ggml.pre")},
               {"prompt_template", choice.chosen->name},
               {"prompt_template_reason", choice.reason}};
  const auto tokenizer = Tokenizer::from_gguf(file);
  if (!tokenizer.ok()) {
    json["error"] = tokenizer.error().message;
    return json;
  }
  json["tokens"] = tokenizer->size();
  json["bos"] = tokenizer->bos();
  json["eos"] = tokenizer->eos();
  json["add_bos"] = tokenizer->adds_bos();
  json["add_eos"] = tokenizer->adds_eos();
  json["sha256"] = tokenizer->digest();
  return json;
}

void count(const formats::TernaryMatrix& matrix, TernaryRow& row) {
  row.rows = matrix.n();
  row.columns = matrix.k();
  row.scales = matrix.scale_kind() == formats::ScaleKind::kTensor ? "tensor"
               : matrix.scale_kind() == formats::ScaleKind::kRow  ? "row"
                                                                  : "group of " + std::to_string(matrix.group());
  row.census = formats::take_census(matrix);
  row.doubt = formats::implausible(row.census).value_or("");
}

}  // namespace

Json describe_model(const gguf::File& file) {
  if (file.find("general.architecture") == nullptr) return nullptr;
  const auto config = read_config(file);
  Json json;
  if (config.ok()) {
    json = architecture_json(file, *config);
    json["kv"] = kv_json(*config);
  } else {
    json["error"] = config.error().message;
  }
  json["precision"] = precision_json(file);
  json["tokenizer"] = tokenizer_json(file);
  return json;
}

std::vector<TernaryRow> ternary_census(const gguf::File& file, const formats::ReadOptions& options,
                                       std::vector<std::string>& notes) {
  std::vector<TernaryRow> rows;
  for (const gguf::Tensor& tensor : file.tensors()) {
    if (!is_ternary_type(tensor.type)) continue;
    TernaryRow row;
    row.name = tensor.name;
    row.type = type_name(tensor);
    const auto matrix = formats::TernaryMatrix::open(file, tensor, options, notes);
    if (!matrix.ok()) {
      row.error = matrix.error().message;
    } else if (!matrix->has_value()) {
      continue;  // its codes mean more than three values
    } else {
      count(**matrix, row);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<NormRow> norm_statistics(const gguf::File& file) {
  std::vector<NormRow> rows;
  std::vector<float> values;
  for (const gguf::Tensor& tensor : file.tensors()) {
    if (tensor.n_dims != 1 || tensor.name.find("norm") == std::string_view::npos || tensor.ne[0] == 0) continue;
    if (!formats::is_dense(tensor.type)) continue;
    values.resize(tensor.ne[0]);
    formats::decode_floats(tensor.type, tensor.data.data(), 0, values);
    NormRow row;
    row.name = tensor.name;
    row.count = tensor.ne[0];
    row.least = static_cast<double>(values.front());
    row.largest = row.least;
    bool finite = true;
    for (const float value : values) {
      const auto v = static_cast<double>(value);
      finite = finite && std::isfinite(v);
      row.mean += v;
      row.rms += v * v;
      row.least = std::min(row.least, v);
      row.largest = std::max(row.largest, v);
    }
    row.mean /= static_cast<double>(row.count);
    row.rms = std::sqrt(row.rms / static_cast<double>(row.count));
    const bool shift = tensor.name.ends_with(".bias");  // may be anything, also 0
    if (!finite) {
      row.doubt = "not finite";
    } else if (!shift && (row.rms < 1e-4 || row.rms > 1e4)) {
      row.doubt = "gains far from 1: quantised, or scaled twice?";
    } else if (!shift && row.mean <= 0.0) {
      row.doubt = "gains are negative on average";
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace bitnet::tools
