// Checkpoint directories for tests of bitnet convert. What a tensor holds follows from its name and index, so that a
// test can say what must come out without keeping what went in.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/hf_files.h"

namespace bitnet::test {

using Json = nlohmann::ordered_json;

// Rows of 64 weights: every other row begins within a group of 128.
inline constexpr std::int64_t kLayers = 2, kHidden = 64, kFfn = 96, kHeads = 4, kKvHeads = 2, kVocab = 270;
inline constexpr std::int64_t kKv = kHidden / kHeads * kKvHeads;

inline std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9U;
  return x ^ (x >> 32);
}
inline std::uint64_t mix(std::string_view name, std::int64_t i) {
  std::uint64_t x = static_cast<std::uint64_t>(i) + 1;
  for (const char c : name) x = mix(x ^ static_cast<unsigned char>(c));
  return x;
}

// What a checkpoint's tensors hold, by their name and row-major index.
inline int ternary(std::string_view name, std::int64_t i) { return static_cast<int>(mix(name, i) % 3) - 1; }
inline float scale_of(std::string_view name) { return 0.05F + static_cast<float>(mix(name, -7) % 1000) / 3000.0F; }
inline float value(std::string_view name, std::int64_t i) {
  return (static_cast<float>(mix(name, i) >> 40) * 0x1p-24F - 0.5F) * 0.3F +
         (name.ends_with("norm.weight") ? 1.0F : 0.0F);
}

template <typename T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Packed as training/README.md says.
inline HfTensor packed(const std::string& name, std::int64_t rows, std::int64_t columns) {
  const std::int64_t quarter = rows / 4;
  std::string data(static_cast<std::size_t>(quarter * columns), '\0');
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const int code = ternary(name, row * columns + column) + 1;
      data[static_cast<std::size_t>(row % quarter * columns + column)] |=
          static_cast<char>(code << 2 * (row / quarter));
    }
  }
  return {name, "U8", {quarter, columns}, data};
}

inline HfTensor floats(const std::string& name, std::vector<std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(value(name, i));
  return {name, "F32", std::move(shape), raw(values)};
}

struct Checkpoint {
  Json config = {{"architectures", {"BitNetForCausalLM"}},
                 {"model_type", "bitnet"},
                 {"hidden_size", kHidden},
                 {"intermediate_size", kFfn},
                 {"num_hidden_layers", kLayers},
                 {"num_attention_heads", kHeads},
                 {"num_key_value_heads", kKvHeads},
                 {"hidden_act", "relu2"},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 10000.0},
                 {"max_position_embeddings", 128},
                 {"vocab_size", kVocab},
                 {"tie_word_embeddings", true},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2},
                 {"quantization_config",
                  {{"quant_method", "bitnet"}, {"linear_class", "autobitlinear"}, {"quantization_mode", "offline"}}}};
  std::vector<HfTensor> tensors;
  SpmModel tokenizer;
  std::string tokenizer_config = R"({"add_bos_token": true, "add_eos_token": false})";
  std::map<std::string, std::string> files;  // replaces (or, empty, removes) what is written above

  Checkpoint() {
    tensors.push_back(floats("model.embed_tokens.weight", {kVocab, kHidden}));
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string block = "model.layers." + std::to_string(layer) + ".";
      const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
        tensors.push_back(packed(block + name + ".weight", rows, columns));
        tensors.push_back(
            {block + name + ".weight_scale", "F32", {1}, raw<float>({scale_of(block + name + ".weight")})});
      };
      tensors.push_back(floats(block + "input_layernorm.weight", {kHidden}));
      add("self_attn.q_proj", kHidden, kHidden);
      add("self_attn.k_proj", kKv, kHidden);
      add("self_attn.v_proj", kKv, kHidden);
      tensors.push_back(floats(block + "self_attn.attn_sub_norm.weight", {kHidden}));
      add("self_attn.o_proj", kHidden, kHidden);
      tensors.push_back(floats(block + "post_attention_layernorm.weight", {kHidden}));
      add("mlp.gate_proj", kFfn, kHidden);
      add("mlp.up_proj", kFfn, kHidden);
      tensors.push_back(floats(block + "mlp.ffn_sub_norm.weight", {kFfn}));
      add("mlp.down_proj", kHidden, kFfn);
    }
    tensors.push_back(floats("model.norm.weight", {kHidden}));
    tokenizer.add("\u2581", -1);
    for (const char* letter : {"a", "b", "c", "d", "e", "f", "g"}) tokenizer.add(letter, -2);
    tokenizer.add("ab", -0.5F);
    tokenizer.add("\u2581ab", -0.25F);
    tokenizer.add("abc", -0.75F);
  }

  HfTensor& tensor(const std::string& name) {
    for (HfTensor& candidate : tensors) {
      if (candidate.name == name) return candidate;
    }
    FAIL("no tensor " << name);
    return tensors.front();
  }

  void write(const std::string& directory) const {
    std::filesystem::create_directory(directory);
    std::map<std::string, std::string> all = {{"config.json", config.dump(1)},
                                              {"model.safetensors", safetensors_bytes(tensors)},
                                              {"tokenizer.model", tokenizer.bytes()},
                                              {"tokenizer_config.json", tokenizer_config}};
    for (const auto& [name, bytes] : files) all[name] = bytes;
    for (const auto& [name, bytes] : all) {
      if (!bytes.empty()) write_file(directory + "/" + name, bytes);
    }
  }
};

}  // namespace bitnet::test
