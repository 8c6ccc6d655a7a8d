#include "tests/graph_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/formats/encode.h"
#include "runtime/formats/ternary.h"
#include "runtime/model/rope.h"
#include "runtime/reference/reference.h"

namespace bitnet::test {
namespace {

using Floats = std::vector<float>;
using gguf::TensorType;

constexpr std::int64_t kHidden = 256;
constexpr std::int64_t kFfn = 512;
constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kKvHeads = 2;

// ---- models --------------------------------------------------------------------------------------------------------

std::vector<std::byte> bytes_of(const Floats& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Blocks of 64: a float16 factor, then 2-bit codes t + 1, four a byte from the lowest bits on.
std::vector<std::byte> encode_q2(const std::vector<std::int8_t>& signs, const Floats& scales) {
  std::vector<std::byte> bytes;
  for (std::size_t block = 0; block < signs.size() / 64; ++block) {
    const std::uint16_t scale = float_to_half(scales[block]);
    const auto* raw = reinterpret_cast<const std::byte*>(&scale);
    bytes.insert(bytes.end(), raw, raw + 2);
    for (std::size_t i = 0; i < 64; i += 4) {
      unsigned code = 0;
      for (std::size_t j = 0; j < 4; ++j) code |= static_cast<unsigned>(signs[block * 64 + i + j] + 1) << (2 * j);
      bytes.push_back(static_cast<std::byte>(code));
    }
  }
  return bytes;
}

std::vector<std::byte> encode_i2s(const std::vector<std::int8_t>& signs, float scale) {
  std::vector<std::byte> bytes(signs.size() / 4 + 32);
  for (std::size_t i = 0; i < signs.size(); ++i) {
    bytes[i / 128 * 32 + i % 32] |= static_cast<std::byte>((signs[i] + 1) << (6 - 2 * (i % 128 / 32)));
  }
  std::memcpy(bytes.data() + signs.size() / 4, &scale, sizeof scale);
  return bytes;
}

class Maker {
 public:
  Maker(const GraphSpec& spec, std::uint32_t seed, ModelCopy& out) : spec_(spec), random_(seed), out_(out) {}

  void vector(const std::string& name, std::int64_t k, float middle, float spread) {
    std::uniform_real_distribution<float> value(middle - spread, middle + spread);
    Floats values(static_cast<std::size_t>(k));
    for (float& v : values) v = value(random_);
    out_.tensors.push_back({name, TensorType::kF32, {static_cast<std::uint64_t>(k)}, bytes_of(values)});
  }
  void norm(const std::string& name, std::int64_t k) { vector(name, k, 1.0F, 0.5F); }

  void matrix(const std::string& name, std::int64_t n, std::int64_t k) {
    const TensorType type = spec_.type(name);
    CopiedTensor tensor{name + ".weight", type, {static_cast<std::uint64_t>(k), static_cast<std::uint64_t>(n)}, {}};
    const auto count = static_cast<std::size_t>(n * k);
    if (type == TensorType::kQ4_0 || type == TensorType::kQ6_K) {
      tensor.data = random_blocks(type, count);
      out_.tensors.push_back(std::move(tensor));
      return;
    }
    const bool ternary = type == TensorType::kI2_S || type == TensorType::kTQ1_0 || type == TensorType::kTQ2_0 ||
                         type == TensorType::kQ2_0;
    if (!ternary) {
      std::normal_distribution<float> value(0.0F, spec_.magnitude);
      Floats values(count);
      for (float& v : values) v = value(random_);
      tensor.data = encode(type, values);
      out_.tensors.push_back(std::move(tensor));
      return;
    }
    std::vector<std::int8_t> signs(count);
    for (std::int8_t& sign : signs) sign = static_cast<std::int8_t>(static_cast<int>(random_() % 3) - 1);
    const std::size_t block = type == TensorType::kQ2_0 ? 64 : 256;
    Floats scales(count / block);
    std::uniform_real_distribution<float> value(0.5F * spec_.magnitude, 1.5F * spec_.magnitude);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      const bool same = spec_.row_scales && i % (static_cast<std::size_t>(k) / block) != 0;
      scales[i] = same ? scales[i - 1] : half_to_float(float_to_half(value(random_)));
    }
    if (type == TensorType::kI2_S) {
      tensor.data = encode_i2s(signs, spec_.magnitude);
    } else if (type == TensorType::kQ2_0) {
      tensor.data = encode_q2(signs, scales);
    } else {
      Floats values(count);
      for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(signs[i]) * scales[i / block];
      tensor.data = encode(type, values);
    }
    out_.tensors.push_back(std::move(tensor));
  }

  void projection(const std::string& block, const std::string& name, std::int64_t n, std::int64_t k) {
    matrix(block + name, n, k);
    if (spec_.biases) vector(block + name + ".bias", n, 0.0F, 0.2F);
    if (spec_.scales) vector(block + name + ".scale", 1, 1.5F, 0.5F);
    if (spec_.in_norms) norm(block + name + "_norm_in.weight", k);
  }

 private:
  // Any bytes are good ones, but for the float16 factor of each block (Q4_0: at its beginning, Q6_K: at its end).
  std::vector<std::byte> random_blocks(TensorType type, std::uint64_t count) {
    const bool q4 = type == TensorType::kQ4_0;
    const std::size_t bytes_of_block = q4 ? 18 : 210;
    std::vector<std::byte> bytes(*gguf::tensor_bytes(type, std::span(&count, 1)));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    const std::uint16_t factor = float_to_half(spec_.magnitude / (q4 ? 5.0F : 1000.0F));
    for (std::size_t at = 0; at < bytes.size(); at += bytes_of_block) {
      std::memcpy(bytes.data() + at + (q4 ? 0 : bytes_of_block - 2), &factor, sizeof factor);
    }
    return bytes;
  }
  static std::vector<std::byte> encode(TensorType type, const Floats& values) {
    const std::uint64_t count = values.size();
    std::vector<std::byte> bytes(*gguf::tensor_bytes(type, std::span(&count, 1)));
    formats::encode_floats(type, values, bytes.data());
    return bytes;
  }
  const GraphSpec& spec_;
  std::mt19937 random_;
  ModelCopy& out_;
};

// ---- the second pass -----------------------------------------------------------------------------------------------

class Pass {
 public:
  Pass(const std::string& path, const Omission& omission) : omission_(omission) {
    auto file = gguf::File::open(path);
    REQUIRE_MESSAGE(file.ok(), (file.ok() ? "" : file.error().message));
    file_ = std::move(*file);
    auto config = read_config(file_);
    REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().message));
    c_ = *config;
    if (omission.config) omission.config(c_);
    const gguf::Tensor* factors = find("rope_freqs.weight");
    for (const bool window : {false, true}) {
      if (c_.rope == RopeKind::kNone || (window && !c_.has_window_rope())) continue;
      const bool divided = factors != nullptr && !window;
      auto table = RopeTable::make(c_, window, divided ? vector("rope_freqs.weight") : Floats{});
      REQUIRE_MESSAGE(table.ok(), (table.ok() ? "" : table.error().message));
      tables_[window ? 1 : 0] = *table;
    }
    pages_.resize(static_cast<std::size_t>(c_.layers * c_.kv_heads));
  }

  // The next token's state after the output norm.
  Floats state(std::int32_t id) {
    Floats x = row("token_embd.weight", id);
    for (float& v : x) v *= c_.embedding_scale;
    if (find("position_embd.weight") != nullptr) add(x, row("position_embd.weight", position_), 1.0F);
    for (std::int64_t layer = 0; layer < c_.layers; ++layer) {
      add(x, attention_block(layer, norm(block(layer) + "attn_norm", x, true)), c_.residual_scale);
      add(x, ffn_block(layer, norm(block(layer) + "ffn_norm", x, true)), c_.residual_scale);
    }
    ++position_;
    return norm("output_norm", x, true);
  }
  Floats logits(Floats state) {
    for (float& v : state) v *= c_.logit_scale;
    const bool untied = find("output.weight") != nullptr && !c_.tied_only;
    const std::string name = untied ? "output.weight" : "token_embd.weight";
    Floats out(static_cast<std::size_t>(c_.vocab));
    for (std::int64_t r = 0; r < c_.vocab; ++r) {
      out[static_cast<std::size_t>(r)] = reference::dot(dense_row(name, r).data(), state.data(), c_.hidden);
    }
    return out;
  }

 private:
  struct Pages {
    std::vector<std::vector<std::uint16_t>> keys;
    std::vector<std::vector<std::uint16_t>> values;
  };
  static std::string block(std::int64_t layer) { return "blk." + std::to_string(layer) + "."; }
  [[nodiscard]] const gguf::Tensor* find(const std::string& name) const {
    const std::string& omitted = omission_.tensor;
    if (!omitted.empty() && (name == omitted || name.ends_with("." + omitted))) return nullptr;
    return file_.find_tensor(name);
  }
  [[nodiscard]] Floats vector(const std::string& name) const {
    const gguf::Tensor* tensor = find(name);
    Floats values(tensor->ne[0]);
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    return values;
  }
  [[nodiscard]] Floats row(const std::string& name, std::int64_t index) const {
    const gguf::Tensor& tensor = *find(name);
    Floats values(tensor.ne[0]);
    formats::decode_floats(tensor.type, tensor.data.data(), static_cast<std::uint64_t>(index) * tensor.ne[0], values);
    return values;
  }
  // As dense kernels see it: types without a kernel are float16 by then.
  [[nodiscard]] Floats dense_row(const std::string& name, std::int64_t index) const {
    Floats values = row(name, index);
    const TensorType type = find(name)->type;
    const bool own =
        type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16 || type == TensorType::kQ8_0;
    if (!own && !is_large(name)) round_to_half(values);
    return values;
  }
  // Whether float16 cannot hold the tensor.
  [[nodiscard]] bool is_large(const std::string& name) const {
    const auto known = large_.find(name);
    if (known != large_.end()) return known->second;
    bool large = false;
    for (std::uint64_t r = 0; r < find(name)->ne[1]; ++r) {
      for (const float v : row(name, static_cast<std::int64_t>(r))) large = large || std::fabs(v) > 65504.0F;
    }
    return large_[name] = large;
  }
  static void add(Floats& x, const Floats& y, float scale) {
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i] * scale;
  }

  // `name`.weight where it is there; `may_be_layer`: of the kind that the architecture has.
  [[nodiscard]] Floats norm(const std::string& name, Floats x, bool may_be_layer = false) const {
    if (find(name + ".weight") == nullptr) return x;
    const Floats gain = vector(name + ".weight");
    const auto k = static_cast<std::int64_t>(gain.size());
    REQUIRE(x.size() == gain.size());
    Floats y(x.size());
    if (may_be_layer && c_.norm == NormKind::kLayer) {
      const Floats bias = find(name + ".bias") != nullptr ? vector(name + ".bias") : Floats(gain.size());
      reference::layer_norm(x.data(), gain.data(), bias.data(), k, c_.norm_eps, y.data());
    } else {
      reference::norm(x.data(), gain.data(), k, c_.norm_eps, y.data());
    }
    return y;
  }

  [[nodiscard]] Floats project(const std::string& name, const Floats& input) const {
    const Floats x = norm(name + "_norm_in", input);
    const gguf::Tensor& tensor = *find(name + ".weight");
    const auto k = static_cast<std::int64_t>(tensor.ne[0]);
    const auto n = static_cast<std::int64_t>(tensor.ne[1]);
    REQUIRE(static_cast<std::int64_t>(x.size()) == k);
    std::vector<std::string> notes;
    const auto ternary = formats::TernaryMatrix::open(file_, tensor, {}, notes);
    REQUIRE(ternary.ok());
    const float factor = find(name + ".scale") != nullptr ? vector(name + ".scale")[0] : 1.0F;
    Floats y(static_cast<std::size_t>(n));
    if (ternary->has_value()) {
      multiply(**ternary, factor, x, y);
    } else {
      for (std::int64_t r = 0; r < n; ++r) {
        y[static_cast<std::size_t>(r)] = reference::dot(dense_row(name + ".weight", r).data(), x.data(), k) * factor;
      }
    }
    if (find(name + ".bias") != nullptr) add(y, vector(name + ".bias"), 1.0F);
    return y;
  }
  static void multiply(const formats::TernaryMatrix& w, float factor, const Floats& x, Floats& y) {
    const std::int64_t k = w.k();
    std::vector<std::int8_t> q(x.size());
    float scale = 0.0F;
    std::int32_t whole = 0;
    reference::quantize(x.data(), k, q.data(), &scale, &whole);
    Floats scales(w.scales().begin(), w.scales().end());
    for (float& s : scales) s *= factor;
    const std::int64_t group = w.group() == 0 ? k : w.group();
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(k));
    for (std::int64_t r = 0; r < w.n(); ++r) {
      (void)w.decode(r, r + 1, codes.data());
      float sum = 0.0F;
      for (std::int64_t g = 0; g * group < k; ++g) {
        std::int32_t dot = 0;
        for (std::int64_t i = g * group; i < std::min(k, (g + 1) * group); ++i) {
          const auto at = static_cast<std::size_t>(i);
          dot += (static_cast<std::int32_t>(codes[at]) - 1) * q[at];
        }
        const std::int64_t at = w.scale_kind() == formats::ScaleKind::kTensor ? 0
                                : w.scale_kind() == formats::ScaleKind::kRow  ? r
                                                                              : g * w.n() + r;
        const float value = static_cast<float>(dot) * (scales[static_cast<std::size_t>(at)] / scale);
        sum = g == 0 ? value : sum + value;
      }
      y[static_cast<std::size_t>(r)] = sum;
    }
  }

  void rotate(std::int64_t layer, Floats& heads) const {
    if (c_.rope == RopeKind::kNone) return;
    Floats cosines(static_cast<std::size_t>(c_.rope_dim / 2));
    Floats sines(cosines.size());
    const bool own = c_.windowed(layer) && c_.has_window_rope();
    tables_[own ? 1 : 0].angles(position_, cosines.data(), sines.data());
    reference::rope({.x = heads.data(),
                     .cosines = cosines.data(),
                     .sines = sines.data(),
                     .rows = static_cast<std::int64_t>(heads.size()) / c_.head_dim,
                     .stride = c_.head_dim,
                     .rope_dim = c_.rope_dim,
                     .kind = c_.rope == RopeKind::kNorm ? BITNET_ROPE_NORM : BITNET_ROPE_NEOX});
  }
  [[nodiscard]] Floats norm_heads(const std::string& name, Floats heads) const {
    const auto dim = static_cast<std::ptrdiff_t>(c_.head_dim);
    for (auto at = heads.begin(); at != heads.end(); at += dim) {
      const Floats normed = norm(name, Floats(at, at + dim));
      std::copy(normed.begin(), normed.end(), at);
    }
    return heads;
  }
  void store(std::vector<std::vector<std::uint16_t>>& pages, const float* values) const {
    const auto dim = static_cast<std::size_t>(c_.head_dim);
    const std::int64_t at = position_ % BITNET_ATTENTION_CHUNK;
    if (at == 0) pages.emplace_back(BITNET_ATTENTION_CHUNK * dim);
    convert_to_half({values, dim}, pages.back().data() + static_cast<std::size_t>(at) * dim);
  }

  Floats attention_block(std::int64_t layer, const Floats& input) {
    const std::string name = block(layer);
    const std::int64_t dim = c_.head_dim;
    const auto kv = static_cast<std::ptrdiff_t>(c_.kv_heads * dim);
    const auto width = static_cast<std::ptrdiff_t>(c_.heads * dim);
    Floats q;
    Floats k;
    Floats v;
    if (find(name + "attn_qkv.weight") != nullptr) {
      const Floats all = project(name + "attn_qkv", input);
      q.assign(all.begin(), all.begin() + width);
      k.assign(all.begin() + width, all.begin() + width + kv);
      v.assign(all.begin() + width + kv, all.end());
    } else {
      q = project(name + "attn_q", input);
      k = project(name + "attn_k", input);
      v = project(name + "attn_v", input);
    }
    q = norm_heads(name + "attn_q_norm", q);
    k = norm_heads(name + "attn_k_norm", k);
    rotate(layer, q);
    rotate(layer, k);
    round_to_half(q);
    const std::int64_t group = c_.heads / c_.kv_heads;
    Floats attended(q.size());
    for (std::int64_t head = 0; head < c_.kv_heads; ++head) {
      Pages& pages = pages_[static_cast<std::size_t>(layer * c_.kv_heads + head)];
      store(pages.keys, k.data() + head * dim);
      store(pages.values, v.data() + head * dim);
      std::vector<const void*> keys;
      std::vector<const void*> values;
      for (const auto& page : pages.keys) keys.push_back(page.data());
      for (const auto& page : pages.values) values.push_back(page.data());
      Floats scratch(BITNET_ATTENTION_SCRATCH(static_cast<std::size_t>(group), static_cast<std::size_t>(dim)));
      const float scale = c_.attention_scale != 0.0F ? c_.attention_scale : 1.0F / std::sqrt(static_cast<float>(dim));
      reference::attention_f16({.q = q.data() + head * group * dim,
                                .key_pages = keys.data(),
                                .value_pages = values.data(),
                                .y = attended.data() + head * group * dim,
                                .scratch = scratch.data(),
                                .heads = group,
                                .head_dim = dim,
                                .tokens = 1,
                                .past = position_,
                                .window = c_.windowed(layer) ? c_.window : 0,
                                .q_stride = group * dim,
                                .y_stride = group * dim,
                                .next = nullptr,
                                .scale = scale});
    }
    attended = norm(name + "attn_sub_norm", attended);
    return norm(name + "post_attention_norm", project(name + "attn_output", attended));
  }

  Floats ffn_block(std::int64_t layer, const Floats& input) {
    const std::string name = block(layer);
    const Floats up = project(name + "ffn_up", input);
    Floats y(up.size());
    if (!c_.gated) {
      reference::gelu(up.data(), c_.ffn, y.data());
    } else {
      const Floats gate = project(name + "ffn_gate", input);
      const auto act = c_.activation == Activation::kRelu2  ? reference::relu2_gate
                       : c_.activation == Activation::kSilu ? reference::silu_gate
                                                            : reference::gelu_gate;
      act(gate.data(), up.data(), c_.ffn, y.data());
    }
    y = norm(name + "ffn_sub_norm", y);
    return norm(name + "post_ffw_norm", project(name + "ffn_down", y));
  }

  Omission omission_;
  gguf::File file_;
  ModelConfig c_;
  std::array<RopeTable, 2> tables_;
  std::vector<Pages> pages_;  // [layer][kv_head]
  std::int64_t position_ = 0;
  mutable std::map<std::string, bool> large_;
};

}  // namespace

ModelCopy make_model(const TempFolder& folder, const GraphSpec& spec, std::uint32_t seed) {
  ModelCopy model = ModelCopy::read(write_synth(folder, "frame.gguf", "1x128x256x2/1x300"));
  model.metadata.clear();
  model.tensors.clear();
  const std::string prefix = spec.architecture + ".";
  const auto number = [&](const char* key, std::int64_t value) {
    model.set(prefix + key, static_cast<std::uint32_t>(value));
  };
  model.set("general.architecture", std::string_view(spec.architecture));
  number("block_count", spec.layers);
  number("context_length", spec.context);
  number("embedding_length", kHidden);
  number("feed_forward_length", kFfn);
  number("attention.head_count", kHeads);
  number("attention.head_count_kv", kKvHeads);
  number("attention.key_length", spec.head_dim);
  number("attention.value_length", spec.head_dim);
  model.set(
      prefix + (spec.architecture == "gpt2" ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
      1e-5F);
  for (const auto& [key, value] : spec.keys) model.set(prefix + key, value);

  Maker make(spec, seed, model);
  const bool gpt2 = spec.architecture == "gpt2";
  make.matrix("token_embd", spec.vocab, kHidden);
  if (spec.untied) make.matrix("output", spec.vocab, kHidden);
  if (gpt2) make.matrix("position_embd", spec.context, kHidden);
  if (spec.rope_freqs) make.vector("rope_freqs.weight", spec.head_dim / 2, 4.0F, 3.0F);
  make.norm("output_norm.weight", kHidden);
  if (gpt2) make.vector("output_norm.bias", kHidden, 0.0F, 0.2F);
  const std::int64_t q = kHeads * spec.head_dim;
  const std::int64_t kv = kKvHeads * spec.head_dim;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    for (const char* name : {"attn_norm", "ffn_norm"}) {
      make.norm(block + name + ".weight", kHidden);
      if (gpt2) make.vector(block + name + ".bias", kHidden, 0.0F, 0.2F);
    }
    if (spec.stacked_qkv) {
      make.projection(block, "attn_qkv", q + 2 * kv, kHidden);
    } else {
      make.projection(block, "attn_q", q, kHidden);
      make.projection(block, "attn_k", kv, kHidden);
      make.projection(block, "attn_v", kv, kHidden);
    }
    make.projection(block, "attn_output", kHidden, q);
    if (!gpt2) make.projection(block, "ffn_gate", kFfn, kHidden);
    make.projection(block, "ffn_up", kFfn, kHidden);
    make.projection(block, "ffn_down", kHidden, kFfn);
    if (spec.qk_norms) make.norm(block + "attn_q_norm.weight", spec.head_dim);
    if (spec.qk_norms) make.norm(block + "attn_k_norm.weight", spec.head_dim);
    if (spec.sub_norms) make.norm(block + "attn_sub_norm.weight", q);
    if (spec.sub_norms) make.norm(block + "ffn_sub_norm.weight", kFfn);
    if (spec.post_norms) make.norm(block + "post_attention_norm.weight", kHidden);
    if (spec.post_norms) make.norm(block + "post_ffw_norm.weight", kHidden);
  }
  return model;
}

std::vector<std::vector<float>> reference_logits(const std::string& path, const std::vector<std::int32_t>& ids,
                                                 const Omission& omission) {
  Pass pass(path, omission);
  std::vector<std::vector<float>> logits;
  for (const std::int32_t id : ids) logits.push_back(pass.logits(pass.state(id)));
  return logits;
}

std::vector<std::vector<float>> reference_states(const std::string& path, const std::vector<std::int32_t>& ids) {
  Pass pass(path, {});
  std::vector<std::vector<float>> states;
  for (const std::int32_t id : ids) states.push_back(pass.state(id));
  return states;
}

}  // namespace bitnet::test
