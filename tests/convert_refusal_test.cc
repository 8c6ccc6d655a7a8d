// Everything that can be wrong with a checkpoint: bitnet convert refuses it with its exit code, a message that names
// the place, and nothing left behind.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "runtime/convert/convert.h"
#include "tests/hf_checkpoint.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using namespace test;

// Makes a checkpoint, changes it, and converts it: refused with this code and these parts, and nothing is left behind.
void refused(ErrorCode code, const std::function<void(Checkpoint&)>& change,
             std::initializer_list<std::string_view> parts) {
  const TempFolder folder;
  Checkpoint checkpoint;
  change(checkpoint);
  checkpoint.write(folder.file("hf"));
  fs::create_directory(folder.file("out"));
  const auto result = convert_model(folder.file("hf"), folder.file("out/x.gguf"), {});
  REQUIRE(!result.ok());
  const std::string& message = result.error().message;
  CHECK_MESSAGE(result.error().code == code, message);
  CHECK_MESSAGE(message.starts_with(folder.file("hf") + "/"), message);
  for (const std::string_view part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  CHECK(fs::is_empty(folder.file("out")));
}

TEST_CASE("configurations of another kind are refused") {
  const auto with = [](const char* key, const Json& found, std::initializer_list<std::string_view> parts) {
    refused(ErrorCode::kFailure, [&](Checkpoint& c) { c.config[Json::json_pointer(key)] = found; }, parts);
  };
  with("/model_type", "falcon_mamba",
       {"key 'model_type': expected one of bitnet, llama, mistral", "gpt2", "found \"falcon_mamba\""});
  with("/model_type", "llama", {"architectures", "one of BitnetForCausalLM, LlamaForCausalLM", "BitNetForCausalLM"});
  with("/architectures", {"BitNetForSequenceClassification"}, {"architectures", "BitNetForCausalLM"});
  with("/architectures", "BitNetForCausalLM", {"architectures", "an array of strings"});
  with("/hidden_act", "gelu", {"hidden_act", "expected \"relu2\" or \"silu\", found \"gelu\""});
  with("/tie_word_embeddings", false, {"tie_word_embeddings", "expected true, found false"});
  with("/quantization_config", 5, {"quantization_config.quant_method", "no such key"});
  with("/quantization_config/quant_method", "gptq", {"expected \"bitnet\", found \"gptq\""});
  with("/quantization_config/linear_class", "nibble", {"linear_class", "\"autobitlinear\"", "\"nibble\""});
  with("/quantization_config/quantization_mode", "later", {"quantization_mode", "\"offline\"", "\"later\""});
  with("/quantization_config/use_rms_norm", true, {"rms_norm_eps", "that of the model"});
  with("/rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}, {"rope_scaling.type", "llama3", "found \"dynamic\""});
  with("/rope_scaling", {{"rope_type", "linear"}, {"factor", 0.5}}, {"rope_scaling.factor", "1 to 65536"});
  with("/rope_scaling", {{"rope_type", "linear"}}, {"rope_scaling.factor", "no such key"});
  with("/rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 1}},
       {"high_freq_factor", "above low_freq_factor"});
  with("/rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1}}, {"long_factor", {1}}},
       {"short_factor", "8 numbers, one for each pair"});
  with("/rope_parameters", Json::object(), {"rope_parameters.rope_theta"});
  with("/sliding_window", 1024, {"sliding_window"});
  with("/partial_rotary_factor", 0.5, {"partial_rotary_factor", "1.0 or no such key"});
  with("/num_local_experts", 8, {"num_local_experts", "0 or no such key, found 8"});
  with("/final_logit_softcapping", 30.0, {"final_logit_softcapping", "found 30.0"});
  with("/_name_or_path", 5, {"_name_or_path", "a string"});
}

TEST_CASE("numbers of the configuration: missing, of another type, out of range") {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "max_position_embeddings", "vocab_size", "rms_norm_eps", "rope_theta",
                          "model_type", "architectures", "hidden_act", "tie_word_embeddings"}) {
    refused(ErrorCode::kFailure, [&](Checkpoint& c) { c.config.erase(key); }, {"config.json: key", key, "no such key"});
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "max_position_embeddings", "vocab_size"}) {
    for (const Json& bad : {Json(0), Json(-4), Json(64.0), Json("64"), Json(true), Json::array({64}),
                            Json(18446744073709551615U), Json(4000000000)}) {
      refused(ErrorCode::kFailure, [&](Checkpoint& c) { c.config[key] = bad; }, {key, "a whole number from 1 to"});
    }
  }
  for (const char* key : {"rms_norm_eps", "rope_theta"}) {
    for (const Json& bad : {Json(0), Json(-1.5), Json("1"), Json(1e300), Json(1e-300), Json(false)}) {
      refused(ErrorCode::kFailure, [&](Checkpoint& c) { c.config[key] = bad; }, {key, "a finite number above 0"});
    }
  }
  for (const Json& bad : {Json(-1), Json(kVocab), Json("2")}) {
    refused(ErrorCode::kFailure, [&](Checkpoint& c) { c.config["eos_token_id"] = bad; },
            {"eos_token_id", "from 0 to 269"});
  }
  const auto sizes = [](std::int64_t hidden, std::int64_t heads, std::int64_t kv,
                        std::initializer_list<std::string_view> parts) {
    refused(
        ErrorCode::kFailure,
        [&](Checkpoint& c) {
          c.config["hidden_size"] = hidden;
          c.config["num_attention_heads"] = heads;
          c.config["num_key_value_heads"] = kv;
        },
        parts);
  };
  sizes(64, 4, 3, {"num_key_value_heads", "a divisor of the 4 attention heads, found 3"});
  sizes(64, 4, 8, {"num_key_value_heads", "from 1 to 4"});
  sizes(66, 4, 2, {"hidden_size", "a multiple of the 4 attention heads, found 66"});
  sizes(12, 4, 2, {"heads of an even width", "4 heads of 3"});
  sizes(8192, 1, 1, {"up to 4096", "1 heads of 8192"});
  refused(ErrorCode::kFailure, [](Checkpoint& c) { c.config["head_dim"] = 15; }, {"4 heads of 15"});
}

TEST_CASE("files that are missing, damaged or of another kind") {
  const auto file = [](ErrorCode code, const char* name, const std::string& bytes,
                       std::initializer_list<std::string_view> parts) {
    refused(code, [&](Checkpoint& c) { c.files[name] = bytes; }, parts);
  };
  file(ErrorCode::kFailure, "config.json", "", {"config.json: cannot open"});
  file(ErrorCode::kFailure, "model.safetensors", "", {"model.safetensors: cannot open"});
  file(ErrorCode::kTokenizer, "tokenizer.model", "",
       {"tokenizer.model: cannot open", "export the checkpoint with its"});
  refused(ErrorCode::kTokenizer,
          [](Checkpoint& c) {
            c.files["tokenizer.model"] = "";
            c.files["tokenizer.json"] = "{}";
          },
          {"tokenizer.json", "'model'"});
  refused(ErrorCode::kFailure,
          [](Checkpoint& c) {
            c.files["model.safetensors"] = "";
            c.files["model.safetensors.index.json"] = "{}";
          },
          {"model.safetensors.index.json: key 'weight_map': expected an object of strings"});
  const std::string config = Checkpoint().config.dump();
  file(ErrorCode::kFailure, "config.json", config.substr(0, config.size() - 1), {"config.json: expected JSON"});
  file(ErrorCode::kFailure, "config.json", config + "x", {"expected JSON"});
  file(ErrorCode::kFailure, "config.json", config + std::string(1, '\0'), {"a NUL at byte"});
  file(ErrorCode::kFailure, "config.json", "[]", {"expected an object"});
  file(ErrorCode::kFailure, "config.json", "{\"model_type\":\"bitnet\"," + config.substr(1), {"'model_type' twice"});
  file(ErrorCode::kFailure, "config.json", "{\"x\":{\"a\":1,\"a\":1}," + config.substr(1), {"'a' twice"});
  file(ErrorCode::kFailure, "config.json", "{\"x\":" + std::string(100000, '['), {"64 levels"});
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  file(ErrorCode::kFailure, "config.json", objects, {"64 levels"});
  file(ErrorCode::kFailure, "config.json", std::string(17 << 20, ' '), {"at most 16777216 bytes"});
  file(ErrorCode::kTokenizer, "tokenizer_config.json", "[]", {"expected an object"});
  file(ErrorCode::kTokenizer, "tokenizer_config.json", R"({"add_bos_token": 1})", {"'add_bos_token'", "true or false"});
  const std::string weights = test::safetensors_bytes(Checkpoint().tensors);
  for (const std::size_t length : {std::size_t{4}, std::size_t{100}, weights.size() - 1}) {
    file(ErrorCode::kFailure, "model.safetensors", weights.substr(0, length), {"model.safetensors: ", "cut short"});
  }
  file(ErrorCode::kTokenizer, "tokenizer.model", "garbage", {"tokenizer.model: "});
}

TEST_CASE("tensors: missing, unexpected, of another type or shape") {
  const auto change = [](const char* name, const std::function<void(HfTensor&)>& edit,
                         std::initializer_list<std::string_view> parts) {
    refused(ErrorCode::kTensorMapping, [&](Checkpoint& c) { edit(c.tensor(name)); }, parts);
  };
  const char* q = "model.layers.1.self_attn.q_proj.weight";
  const char* scale = "model.layers.1.self_attn.q_proj.weight_scale";
  for (const HfTensor& tensor : Checkpoint().tensors) {
    refused(ErrorCode::kTensorMapping,
            [&](Checkpoint& c) { std::erase_if(c.tensors, [&](const HfTensor& t) { return t.name == tensor.name; }); },
            {"tensors missing: '" + tensor.name + "'"});
  }
  refused(ErrorCode::kTensorMapping,
          [](Checkpoint& c) {
            c.tensors.push_back(floats("model.layers.0.self_attn.r_proj.weight", {kVocab, kHidden}));
            c.tensors.push_back(floats("model.layers.0.self_attn.q_proj.gain", {kHidden}));
          },
          {"not part of this model: ", "'model.layers.0.self_attn.r_proj.weight'",
           "'model.layers.0.self_attn.q_proj.gain'"});
  refused(ErrorCode::kTensorMapping,
          [](Checkpoint& c) { c.tensors.push_back(floats("model.layers.0.mlp.down_proj.norm.weight", {kFfn})); },
          {"'model.layers.0.mlp.down_proj.norm.weight': expected one tensor for ffn_sub_norm.weight"});
  change(q, [](HfTensor& t) { t.name += "s"; },
         {"missing: 'model.layers.1.self_attn.q_proj.weight'; not part", "weights'"});
  refused(ErrorCode::kTensorMapping, [](Checkpoint& c) { c.config["num_hidden_layers"] = 3; },
          {"missing: 'model.layers.2.input_layernorm.weight'", "and 10 more"});
  change(q, [](HfTensor& t) { t.shape = {32, 32}; }, {q, "expected shape [16, 64], found [32, 32]"});
  change(q, [](HfTensor& t) { t.shape = {16, 64, 1}; }, {"found [16, 64, 1]"});
  change(q, [](HfTensor& t) { t.dtype = "I8"; }, {q, "packed ternary weights (U8), found I8", "quantised to 8 bits"});
  change(scale, [](HfTensor& t) { t.shape = {}; }, {scale, "expected shape [1], found []"});
  change(scale, [](HfTensor& t) { t.dtype = "I32"; }, {scale, "F32, BF16 or F16", "found I32"});
  change("model.norm.weight", [](HfTensor& t) { t.shape = {kHidden / 2, 2}; },
         {"'model.norm.weight': expected shape [64]"});
  change("model.norm.weight",
         [](HfTensor& t) {
           t.dtype = "I16";
           t.data.resize(kHidden * 2);
         },
         {"F32, BF16 or F16, found I16"});
  change("model.embed_tokens.weight", [](HfTensor& t) { t.shape = {kHidden, kVocab}; },
         {"expected shape [270, 64], found [64, 270]"});
  change("model.embed_tokens.weight", [](HfTensor& t) { t.dtype = "I32"; }, {"F32, BF16 or F16, found I32"});
  refused(ErrorCode::kTensorMapping, [](Checkpoint& c) { c.config["intermediate_size"] = 97; },
          {"ffn_sub_norm", "expected shape [97], found [96]"});
  // Weights that are no whole groups of I2_S: 97 x 64.
  refused(ErrorCode::kTensorMapping,
          [](Checkpoint& c) {
            c.config["intermediate_size"] = 97;
            for (const char* layer : {"0", "1"}) {
              const std::string mlp = "model.layers." + std::string(layer) + ".mlp.";
              for (const char* name : {"gate_proj.weight", "up_proj.weight"}) {
                c.tensor(mlp + name) = packed(mlp + name, 100, kHidden);
              }
              c.tensor(mlp + "ffn_sub_norm.weight") = floats(mlp + "ffn_sub_norm.weight", {97});
              c.tensor(mlp + "down_proj.weight") = packed(mlp + "down_proj.weight", kHidden, 97);
            }
          },
          {"'model.layers.0.mlp.gate_proj.weight': ", "128"});
}

TEST_CASE("a float checkpoint is refused as such") {
  refused(ErrorCode::kTensorMapping,
          [](Checkpoint& c) {
            std::erase_if(c.tensors, [](const HfTensor& t) { return t.name.ends_with("_scale"); });
            for (HfTensor& t : c.tensors) {
              if (t.dtype == "U8") t = floats(t.name, {t.shape[0] * 4, t.shape[1]});
            }
          },
          {"'model.layers.0.self_attn.q_proj.weight'", "found F32 [64, 64]", "this is a float checkpoint"});
  // And a packed one whose config.json has no word about that.
  refused(ErrorCode::kTensorMapping, [](Checkpoint& c) { c.config.erase("quantization_config"); },
          {"'model.layers.0.self_attn.q_proj.weight'", "found U8", "config.json says nothing of packed weights"});
}

TEST_CASE("values that the file cannot hold, by their place") {
  const auto change = [](const char* name, const std::function<void(HfTensor&)>& edit,
                         std::initializer_list<std::string_view> parts) {
    refused(ErrorCode::kTensorMapping, [&](Checkpoint& c) { edit(c.tensor(name)); }, parts);
  };
  const char* down = "model.layers.1.mlp.down_proj.weight";  // 64 x 96, packed 16 x 96
  const auto undefined = [&](std::size_t byte, unsigned pair, const char* place) {
    change(down, [&](HfTensor& t) { t.data[byte] |= static_cast<char>(3U << 2 * pair); },
           {"'model.layers.1.mlp.down_proj.weight': ", place, "code 3"});
  };
  undefined(0, 0, "row 0, column 0: ");
  undefined(5 * 96 + 7, 2, "row 37, column 7: ");
  undefined(16 * 96 - 1, 3, "row 63, column 95: ");
  for (const float bad :
       {0.0F, -1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    change("model.layers.0.mlp.up_proj.weight_scale", [&](HfTensor& t) { t.data = raw<float>({bad}); },
           {"'model.layers.0.mlp.up_proj.weight_scale': expected a finite number above 0"});
    if (std::isfinite(bad)) continue;
    change("model.norm.weight", [&](HfTensor& t) { std::memcpy(t.data.data() + 4 * 9, &bad, 4); },
           {"'model.norm.weight': element 9: expected a finite number"});
  }
}

TEST_CASE("tokenizers that do not fit are refused with the tokenizer's code") {
  refused(ErrorCode::kTokenizer, [](Checkpoint& c) { c.tokenizer.add("more", -9); },
          {"tokenizer.model: expected at most the 270 tokens", "found 271 pieces"});
  refused(ErrorCode::kTokenizer,
          [](Checkpoint& c) {
            c.tokenizer.pieces.resize(260);
            c.config["eos_token_id"] = 260;
          },
          {"eos_token_id 260", "260 pieces"});
  refused(ErrorCode::kTokenizer, [](Checkpoint& c) { c.tokenizer.pieces[3 + 0x41].type = 1; },
          {"tokenizer.model: byte token <0x41> is missing"});
  refused(ErrorCode::kTokenizer, [](Checkpoint& c) { c.tokenizer.trainer = test::number_field(3, 3); }, {"unigram"});
}

}  // namespace
}  // namespace bitnet
