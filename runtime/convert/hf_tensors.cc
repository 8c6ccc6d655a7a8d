// The set of tensors is closed, as in the runtime: what is missing and what does not belong are both named.
#include "runtime/convert/hf_tensors.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "runtime/base/math.h"
#include "runtime/convert/values.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

using gguf::quoted;
using safetensors::DType;
using safetensors::shape_text;

constexpr const char* kAdvice = "does the checkpoint belong to its config.json? Export it again";

std::uint64_t size_of(std::int64_t n) { return static_cast<std::uint64_t>(n); }

// Rows of floats, in the order of the result.
class FloatRows {
 public:
  FloatRows(const safetensors::Tensor& tensor, const TensorRule& rule) : tensor_(tensor), rule_(rule) {}

  void operator()(std::int64_t row_begin, std::int64_t row_end, float* out) const {
    const std::int64_t columns = rule_.columns;
    const auto rows = static_cast<std::size_t>(row_end - row_begin);
    const std::span<float> all(out, rows * static_cast<std::size_t>(columns));
    if (rule_.transposed) {
      gather(row_begin, rows, out);
    } else if (rule_.permuted_heads != 0 && rule_.rows == 0) {
      permute_vector(out);
    } else if (rule_.permuted_heads != 0) {
      for (std::int64_t row = row_begin; row < row_end; ++row) {
        const std::int64_t from = row_before_permutation(row, rule_.rows, rule_.permuted_heads);
        load_floats(
            tensor_, size_of(from * columns),
            all.subspan(static_cast<std::size_t>((row - row_begin) * columns), static_cast<std::size_t>(columns)));
      }
    } else {
      load_floats(tensor_, size_of(row_begin * columns), all);
    }
    if (!rule_.less_one) return;
    for (float& value : all) value += 1.0F;
  }

 private:
  // Column c of the result is row c of the checkpoint's matrix.
  void gather(std::int64_t row_begin, std::size_t rows, float* out) const {
    std::vector<float> piece(rows);
    for (std::int64_t column = 0; column < rule_.columns; ++column) {
      load_floats(tensor_, size_of(column * rule_.rows + row_begin), piece);
      for (std::size_t r = 0; r < rows; ++r)
        out[r * static_cast<std::size_t>(rule_.columns) + size_of(column)] = piece[r];
    }
  }
  void permute_vector(float* out) const {
    for (std::int64_t i = 0; i < rule_.columns; ++i) {
      const std::int64_t from = row_before_permutation(i, rule_.columns, rule_.permuted_heads);
      load_floats(tensor_, size_of(from), {out + i, 1});
    }
  }

  const safetensors::Tensor& tensor_;
  TensorRule rule_;
};

// Rows of codes of a packed matrix: row r of the packed bytes holds rows r, r + quarter, ... in its pairs of bits.
class PackedRows {
 public:
  PackedRows(const safetensors::Tensor& tensor, std::string place, const TensorRule& rule)
      : tensor_(tensor), place_(std::move(place)), rule_(rule), quarter_(ceil_div<std::int64_t>(rule.rows, 4)) {}

  Result<std::uint64_t> operator()(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* out) const {
    const auto columns = static_cast<std::size_t>(rule_.columns);
    for (std::int64_t row = row_begin; row < row_end; ++row, out += columns) {
      const std::int64_t from =
          rule_.permuted_heads == 0 ? row : row_before_permutation(row, rule_.rows, rule_.permuted_heads);
      const std::byte* bytes = tensor_.data.data() + size_of(from % quarter_) * columns;
      const auto shift = static_cast<unsigned>(2 * (from / quarter_));
      unsigned undefined = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        const unsigned code = static_cast<unsigned>(bytes[c]) >> shift & 3U;
        undefined |= code & code >> 1;
        out[c] = static_cast<std::uint8_t>(code);
      }
      if (undefined == 0) continue;
      const auto column = std::find(out, out + columns, std::uint8_t{3}) - out;
      return Error{ErrorCode::kTensorMapping,
                   place_ + ": row " + std::to_string(from) + ", column " + std::to_string(column) +
                       ": expected code 0, 1 or 2, found the undefined code 3; the checkpoint is damaged or packed in "
                       "another way: export it again"};
    }
    return std::uint64_t{0};
  }

 private:
  const safetensors::Tensor& tensor_;
  std::string place_;
  TensorRule rule_;
  std::int64_t quarter_;
};

class Mapper {
 public:
  Mapper(const Checkpoint& checkpoint, HfConfig& config) : checkpoint_(checkpoint), config_(config) {
    if (config.family == Family::kGpt2) {
      prefix_ = checkpoint.find("wte.weight") == nullptr ? "transformer." : "";
    } else {
      prefix_ = checkpoint.find("embed_tokens.weight") == nullptr ? "model." : "";
    }
  }

  Result<HfTensors> run() {
    const std::vector<TensorRule> rules = tensor_rules(config_);
    find_own_norms(rules);
    const auto layered = [](const TensorRule& rule) { return rule.in_layer; };
    const auto first = std::find_if(rules.begin(), rules.end(), layered);
    const auto last = std::find_if_not(first, rules.end(), layered);
    for (auto rule = rules.begin(); rule != first; ++rule) BITNET_RETURN_IF_ERROR(add(*rule, -1));
    for (std::int64_t layer = 0; layer < config_.model.layers; ++layer) {
      for (auto rule = first; rule != last; ++rule) BITNET_RETURN_IF_ERROR(add(*rule, layer));
    }
    for (auto rule = last; rule != rules.end(); ++rule) BITNET_RETURN_IF_ERROR(add(*rule, -1));
    add_rope_factors();
    look_at_the_rest();
    return std::move(result_);
  }

 private:
  [[nodiscard]] std::string full_name(const std::string& name, const TensorRule& rule, std::int64_t layer) const {
    if (rule.outside) return name;
    if (layer < 0) return prefix_ + name;
    return prefix_ + (config_.family == Family::kGpt2 ? "h." : "layers.") + std::to_string(layer) + "." + name;
  }

  // Only layers that quantise have norms of their own, so that plain floats beside them are masters.
  void find_own_norms(const std::vector<TensorRule>& rules) {
    if (config_.storage != Storage::kPlain) return;
    for (const TensorRule& rule : rules) {
      for (const std::string& name : rule.hf) {
        if (!name.ends_with("_proj.norm.weight") && !name.ends_with("_proj.rms_norm.weight")) continue;
        if (checkpoint_.find(full_name(name, rule, 0)) == nullptr) continue;
        config_.storage = Storage::kMasters;
        masters_assumed_ = true;
        config_.warnings.push_back("its projections have norms of their own (" + full_name(name, rule, 0) +
                                   "): weights that are not ternary are rounded by their mean magnitude, as such "
                                   "layers do");
        return;
      }
    }
  }

  Status add(const TensorRule& rule, std::int64_t layer) {
    const Checkpoint::Place* found = nullptr;
    for (const std::string& candidate : rule.hf) {
      const Checkpoint::Place* place = checkpoint_.find(full_name(candidate, rule, layer));
      if (place == nullptr) continue;
      if (found != nullptr) {
        return Error{ErrorCode::kTensorMapping, place_of(*place->file, place->tensor->name) + ": expected one tensor " +
                                                    "for " + rule.gguf + ", found " + quoted(found->tensor->name) +
                                                    " too; the runtime has one norm there"};
      }
      found = place;
    }
    if (found == nullptr) {
      if (!rule.required) return {};
      const std::string name = full_name(rule.hf.front(), rule, layer);
      result_.missing.push_back(name);
      if (rule.role != Role::kProjection || config_.storage != Storage::kPacked || unquantised(name)) return {};
      if (checkpoint_.find(name + "_scale") == nullptr) result_.missing.push_back(name + "_scale");
      return {};
    }
    const safetensors::Tensor& tensor = *found->tensor;
    used_.insert(tensor.name);
    SourceTensor source;
    source.name = (layer < 0 ? "" : "blk." + std::to_string(layer) + ".") + rule.gguf;
    source.role = rule.role;
    source.ne = {size_of(rule.columns)};
    if (rule.rows != 0) source.ne.push_back(size_of(rule.rows));
    source.from = {tensor.name};
    source.type = to_string(tensor.dtype);
    source.place = place_of(*found->file, tensor.name);
    source.release = [file = found->file, data = tensor.data] {
      if (file->mapping() != nullptr) file->mapping()->release(data);
    };
    const bool plain =
        rule.role != Role::kProjection || config_.storage != Storage::kPacked || unquantised(tensor.name);
    if (plain) {
      BITNET_RETURN_IF_ERROR(check_floats(*found, rule));
      source.floats = FloatRows(tensor, rule);
      source.masters =
          rule.role == Role::kProjection && config_.storage == Storage::kMasters && !unquantised(tensor.name);
      source.assumed = masters_assumed_;
      BITNET_RETURN_IF_ERROR(scale_bias(rule, layer, source));
    } else {
      BITNET_RETURN_IF_ERROR(add_packed(*found, rule, source));
    }
    result_.tensors.push_back(std::move(source));
    return {};
  }

  // By the scale of the weights that a bias belongs to.
  Status scale_bias(const TensorRule& rule, std::int64_t layer, SourceTensor& source) {
    if (rule.scaled_by.empty() || unquantised(source.from.front())) return {};
    const std::string name = full_name(rule.scaled_by, rule, layer);
    const Checkpoint::Place* place = checkpoint_.find(name);
    if (place == nullptr) return {};  // named as missing with its weights
    BITNET_ASSIGN_OR_RETURN(const float scale, read_scale(*place));
    source.from.push_back(name);
    source.floats = [floats = std::move(source.floats), scale, columns = source.columns()](
                        std::int64_t begin, std::int64_t end, float* out) {
      floats(begin, end, out);
      for (std::int64_t i = 0; i < (end - begin) * columns; ++i) out[i] *= scale;
    };
    return {};
  }

  // What the codes of a packed matrix are multiplied by.
  [[nodiscard]] Result<float> read_scale(const Checkpoint::Place& scale) const {
    if (!is_float(scale.tensor->dtype)) {
      return refuse(scale, "type F32, BF16 or F16", std::string(to_string(scale.tensor->dtype)));
    }
    BITNET_RETURN_IF_ERROR(check_shape(scale, {1}));
    float stated = 0.0F;
    load_floats(*scale.tensor, 0, {&stated, 1});
    const float value = config_.scale_divides ? 1.0F / stated : stated;
    if (!std::isfinite(stated) || !std::isfinite(value) || !(value > 0.0F)) {
      return refuse(scale,
                    "a finite number above 0" + std::string(config_.scale_divides ? ", and its inverse too" : ""),
                    std::to_string(stated));
    }
    return value;
  }

  // As transformers matches them.
  [[nodiscard]] bool unquantised(const std::string& name) const {
    return std::any_of(config_.unquantised.begin(), config_.unquantised.end(),
                       [&](const std::string& module) { return name.find(module) != std::string::npos; });
  }

  [[nodiscard]] static Error refuse(const Checkpoint::Place& place, const std::string& expected,
                                    const std::string& found, const char* advice = kAdvice) {
    return {ErrorCode::kTensorMapping,
            place_of(*place.file, place.tensor->name) + ": expected " + expected + ", found " + found + "; " + advice};
  }
  [[nodiscard]] static Status check_shape(const Checkpoint::Place& place, const std::vector<std::uint64_t>& shape) {
    if (place.tensor->shape == shape) return {};
    return refuse(place, "shape " + shape_text(shape), shape_text(place.tensor->shape));
  }

  [[nodiscard]] static Status check_floats(const Checkpoint::Place& place, const TensorRule& rule) {
    if (!is_float(place.tensor->dtype)) {
      const bool packed = rule.role == Role::kProjection && place.tensor->dtype == DType::kU8;
      const char* advice = kAdvice;
      if (packed) advice = "its config.json says nothing of packed weights (quantization_config): export it again";
      if (place.tensor->dtype == DType::kI8) {
        advice =
            "weights that are quantised to 8 bits cannot be read, since their scales follow no common rule: "
            "export the checkpoint as bfloat16";
      }
      return refuse(place, "type F32, BF16 or F16", std::string(to_string(place.tensor->dtype)), advice);
    }
    std::vector<std::uint64_t> shape = {size_of(rule.columns)};
    if (rule.rows != 0) shape.insert(rule.transposed ? shape.end() : shape.begin(), size_of(rule.rows));
    return check_shape(place, shape);
  }

  Status add_packed(const Checkpoint::Place& place, const TensorRule& rule, SourceTensor& source) {
    const safetensors::Tensor& tensor = *place.tensor;
    if (is_float(tensor.dtype) || tensor.dtype == DType::kF64) {
      return refuse(place, "packed ternary weights (U8)",
                    std::string(to_string(tensor.dtype)) + " " + shape_text(tensor.shape),
                    "this is a float checkpoint, and its config.json says that it is packed: say "
                    "quantization_mode online there if these are the weights that its layers round");
    }
    if (tensor.dtype != DType::kU8) {
      return refuse(place, "packed ternary weights (U8)", std::string(to_string(tensor.dtype)),
                    "weights that are quantised to 8 bits cannot be read: export the checkpoint again, packed or as "
                    "bfloat16");
    }
    BITNET_RETURN_IF_ERROR(check_shape(place, {size_of(ceil_div<std::int64_t>(rule.rows, 4)), size_of(rule.columns)}));
    const std::string scale_name = tensor.name + "_scale";
    const Checkpoint::Place* scale = checkpoint_.find(scale_name);
    source.ternary = true;
    source.codes = PackedRows(tensor, source.place, rule);
    if (scale == nullptr) {
      result_.missing.push_back(scale_name);
      return {};
    }
    source.from.push_back(scale_name);
    used_.insert(scale->tensor->name);
    BITNET_ASSIGN_OR_RETURN(const float value, read_scale(*scale));
    source.scales = {value};
    return {};
  }

  void add_factors(const char* name, const char* key, const std::vector<float>& factors) {
    if (factors.empty()) return;
    SourceTensor source;
    source.name = name;
    source.ne = {factors.size()};
    source.from = {key};
    source.type = "F32";
    source.place = "config.json: " + std::string(key);
    source.floats = [factors](std::int64_t, std::int64_t, float* out) {
      std::copy(factors.begin(), factors.end(), out);
    };
    source.release = [] {};
    result_.tensors.push_back(std::move(source));
  }
  void add_rope_factors() {
    add_factors("rope_freqs.weight", "rope_scaling", config_.rope_factors);
    add_factors("rope_factors_long.weight", "rope_scaling.long_factor", config_.rope_long);
    add_factors("rope_factors_short.weight", "rope_scaling.short_factor", config_.rope_short);
  }

  void look_at_the_rest() {
    for (const auto& [name, place] : checkpoint_.tensors()) {
      if (used_.contains(name)) continue;
      if (name.ends_with(".rotary_emb.inv_freq")) {
        result_.unmapped.push_back({name, "RoPE frequencies follow from config.json"});
      } else if (config_.family == Family::kGpt2 &&
                 (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))) {
        result_.unmapped.push_back({name, "a causal mask, which is no weight"});
      } else if (config_.tied && name == "lm_head.weight") {
        result_.unmapped.push_back({name, "config.json ties the head to the embedding"});
      } else {
        result_.unexpected.push_back(name);
      }
    }
  }

  const Checkpoint& checkpoint_;
  HfConfig& config_;
  std::string prefix_;
  bool masters_assumed_ = false;
  HfTensors result_;
  std::set<std::string_view> used_;
};

std::string list(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kShown; ++i) text += (i > 0 ? ", " : "") + quoted(names[i]);
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

}  // namespace

std::int64_t SourceTensor::rows() const {
  std::uint64_t rows = 1;
  for (std::size_t d = 1; d < ne.size(); ++d) rows *= ne[d];
  return static_cast<std::int64_t>(rows);
}

std::uint64_t SourceTensor::elements() const { return ne.front() * size_of(rows()); }

Result<HfTensors> map_checkpoint(const Checkpoint& checkpoint, HfConfig& config) {
  return Mapper(checkpoint, config).run();
}

Status refuse_names(const std::string& path, const std::vector<std::string>& missing,
                    const std::vector<std::string>& unexpected, std::string_view advice) {
  if (missing.empty() && unexpected.empty()) return {};
  std::string what;
  if (!missing.empty()) what += "missing: " + list(missing);
  if (!unexpected.empty()) what += (what.empty() ? "" : "; ") + ("not part of this model: " + list(unexpected));
  return Error{ErrorCode::kTensorMapping, path + ": tensors " + what + "; " + std::string(advice)};
}

Status check_names(const Checkpoint& checkpoint, const HfTensors& tensors) {
  return refuse_names(checkpoint.path(), tensors.missing, tensors.unexpected, kAdvice);
}

}  // namespace bitnet::convert
