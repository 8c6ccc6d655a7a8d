// bitnet convert on checkpoints that are made here: every tensor of the result is decoded by code of this file and
// compared element by element with what went in, the result runs, and outputs that would do harm are refused. What is
// wrong with a checkpoint is the matter of convert_refusal_test.cc.
#include "runtime/convert/convert.h"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/convert/output.h"
#include "runtime/model/model.h"
#include "runtime/sampling/recommended.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/assets.h"
#include "tests/hf_checkpoint.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using namespace test;

ConvertReport converted(const std::string& directory, const std::string& output, const ConvertOptions& options = {}) {
  auto report = convert_model(directory, output, options);
  REQUIRE_MESSAGE(report.ok(), report.error().message);
  return *std::move(report);
}

gguf::File opened(const std::string& path) {
  auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  return *std::move(file);
}

const gguf::Tensor& tensor_of(const gguf::File& file, const std::string& name) {
  const gguf::Tensor* tensor = file.find_tensor(name);
  REQUIRE_MESSAGE(tensor != nullptr, name);
  return *tensor;
}

template <typename T>
T element(const gguf::Tensor& tensor, std::int64_t i) {
  T result{};
  REQUIRE(static_cast<std::size_t>(i + 1) * sizeof(T) <= tensor.data.size());
  std::memcpy(&result, tensor.data.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
  return result;
}

// Weight i of an I2_S tensor, after FORMATS.md 2a (x86): groups of 128, bits 7:6 first.
int decoded(const gguf::Tensor& tensor, std::int64_t i) {
  const auto byte = static_cast<unsigned>(tensor.data[static_cast<std::size_t>(i / 128 * 32 + i % 128 % 32)]);
  return static_cast<int>(byte >> (6 - 2 * (i % 128 / 32)) & 3U) - 1;
}

// The float16 nearest to x, ties to even, by arithmetic on doubles.
float nearest_half(float x) {
  if (x == 0) return x;
  const int exponent = std::max(std::ilogb(x), -14);
  const double unit = std::ldexp(1.0, exponent - 10);
  return static_cast<float>(std::nearbyint(static_cast<double>(x) / unit) * unit);
}

void check_ternary(const gguf::File& file, const std::string& gguf_name, const std::string& name, std::int64_t rows,
                   std::int64_t columns) {
  CAPTURE(name);
  const gguf::Tensor& tensor = tensor_of(file, gguf_name);
  CHECK(tensor.type == gguf::TensorType::kI2_S);
  REQUIRE(tensor.ne[0] == static_cast<std::uint64_t>(columns));
  REQUIRE(tensor.ne[1] == static_cast<std::uint64_t>(rows));
  REQUIRE(tensor.data.size() == static_cast<std::size_t>(rows * columns / 4 + 32));
  int wrong = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i) wrong += decoded(tensor, i) != ternary(name, i) ? 1 : 0;
  CHECK(wrong == 0);
  CHECK(element<float>(tensor, rows * columns / 16) == scale_of(name));
  for (std::size_t i = tensor.data.size() - 28; i < tensor.data.size(); ++i) CHECK(tensor.data[i] == std::byte{0});
}

void check_norm(const gguf::File& file, const std::string& gguf_name, const std::string& name, std::int64_t size) {
  CAPTURE(name);
  const gguf::Tensor& tensor = tensor_of(file, gguf_name);
  CHECK(tensor.type == gguf::TensorType::kF32);
  REQUIRE(tensor.ne[0] == static_cast<std::uint64_t>(size));
  for (std::int64_t i = 0; i < size; ++i) CHECK(element<float>(tensor, i) == value(name, i));
}

TEST_CASE("every element of every tensor arrives") {
  const TempFolder folder;
  Checkpoint().write(folder.file("hf"));
  const ConvertReport report = converted(folder.file("hf"), folder.file("x.gguf"));
  CHECK(report.bytes == fs::file_size(folder.file("x.gguf")));
  for (const std::string& warning : report.warnings) FAIL_CHECK(warning);
  const gguf::File file = opened(folder.file("x.gguf"));
  CHECK(file.tensors().size() == 2 + kLayers * 11);

  const gguf::Tensor& embedding = tensor_of(file, "token_embd.weight");
  CHECK(embedding.type == gguf::TensorType::kF16);
  REQUIRE(embedding.ne[0] == kHidden);
  REQUIRE(embedding.ne[1] == kVocab);
  int rounded = 0;
  for (std::int64_t i = 0; i < kVocab * kHidden; ++i) {
    const float exact = value("model.embed_tokens.weight", i);
    const float half = half_to_float(element<std::uint16_t>(embedding, i));
    CHECK(half == nearest_half(exact));
    rounded += half != exact ? 1 : 0;
  }
  CHECK(rounded > 1000);
  for (std::int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string to = "blk." + std::to_string(layer) + ".";
    const std::string from = "model.layers." + std::to_string(layer) + ".";
    check_norm(file, to + "attn_norm.weight", from + "input_layernorm.weight", kHidden);
    check_norm(file, to + "ffn_norm.weight", from + "post_attention_layernorm.weight", kHidden);
    check_norm(file, to + "attn_sub_norm.weight", from + "self_attn.attn_sub_norm.weight", kHidden);
    check_norm(file, to + "ffn_sub_norm.weight", from + "mlp.ffn_sub_norm.weight", kFfn);
    check_ternary(file, to + "attn_q.weight", from + "self_attn.q_proj.weight", kHidden, kHidden);
    check_ternary(file, to + "attn_k.weight", from + "self_attn.k_proj.weight", kKv, kHidden);
    check_ternary(file, to + "attn_v.weight", from + "self_attn.v_proj.weight", kKv, kHidden);
    check_ternary(file, to + "attn_output.weight", from + "self_attn.o_proj.weight", kHidden, kHidden);
    check_ternary(file, to + "ffn_gate.weight", from + "mlp.gate_proj.weight", kFfn, kHidden);
    check_ternary(file, to + "ffn_up.weight", from + "mlp.up_proj.weight", kFfn, kHidden);
    check_ternary(file, to + "ffn_down.weight", from + "mlp.down_proj.weight", kHidden, kFfn);
  }
  check_norm(file, "output_norm.weight", "model.norm.weight", kHidden);
}

TEST_CASE("metadata: keys and order are those of synthetic models") {
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.config["rope_theta"] = 500000;
  checkpoint.config["rms_norm_eps"] = 1e-6;
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const gguf::File file = opened(folder.file("x.gguf"));
  const gguf::File synthetic = opened(test::write_synth(folder, "synth.gguf", "2x64x96x4/2x270"));
  std::vector<std::string> keys;
  for (const gguf::KeyValue& entry : file.metadata()) {
    if (entry.key != "tokenizer.ggml.add_space_prefix") keys.emplace_back(entry.key);
  }
  std::vector<std::string> synthetic_keys;
  for (const gguf::KeyValue& entry : synthetic.metadata()) synthetic_keys.emplace_back(entry.key);
  CHECK(keys == synthetic_keys);
  const std::string arch = "bitnet-b1.58.";
  CHECK(keys == std::vector<std::string>{"general.architecture",
                                         "general.name",
                                         "general.file_type",
                                         arch + "vocab_size",
                                         arch + "context_length",
                                         arch + "embedding_length",
                                         arch + "block_count",
                                         arch + "feed_forward_length",
                                         arch + "rope.dimension_count",
                                         arch + "attention.head_count",
                                         arch + "attention.head_count_kv",
                                         arch + "attention.layer_norm_rms_epsilon",
                                         arch + "rope.freq_base",
                                         "tokenizer.ggml.model",
                                         "tokenizer.ggml.pre",
                                         "tokenizer.ggml.tokens",
                                         "tokenizer.ggml.scores",
                                         "tokenizer.ggml.token_type",
                                         "tokenizer.ggml.bos_token_id",
                                         "tokenizer.ggml.eos_token_id",
                                         "tokenizer.ggml.unknown_token_id",
                                         "tokenizer.ggml.add_bos_token",
                                         "bitnet.tokenizer.sha256",
                                         "general.quantization_version"});
  CHECK(*file.get_uint("general.file_type") == 40);
  CHECK(*file.get_uint(arch + "rope.dimension_count") == 16);
  CHECK(*file.get_string("tokenizer.ggml.pre") == "default");
  REQUIRE(file.tensors().size() == synthetic.tensors().size());
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    CHECK(file.tensors()[i].name == synthetic.tensors()[i].name);
    CHECK(file.tensors()[i].ne == synthetic.tensors()[i].ne);
  }
  CHECK(*file.get_string("general.name") == "hf");
  const auto config = read_config(file);
  REQUIRE_MESSAGE(config.ok(), config.error().message);
  CHECK(config->architecture == "bitnet-b1.58");
  CHECK(config->layers == kLayers);
  CHECK(config->kv_heads == kKvHeads);
  CHECK(config->context == 128);
  CHECK(config->vocab == kVocab);
  CHECK(config->norm_eps == 1e-6F);
  CHECK(config->rope_base == 500000.0F);
}

TEST_CASE("the result runs, and another checkpoint gives other logits") {
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.write(folder.file("a"));
  checkpoint.tensor("model.layers.1.mlp.down_proj.weight_scale").data = raw<float>({0.5F});
  checkpoint.write(folder.file("b"));
  std::vector<std::vector<float>> logits;
  for (const char* name : {"a", "b"}) {
    const std::string path = folder.file(std::string(name) + ".gguf");
    converted(folder.file(name), path);
    ModelOptions options;
    options.threads = 1;
    options.bundle = "none";
    auto model = Model::load(path, options);
    REQUIRE_MESSAGE(model.ok(), model.error().message);
    const auto tokenizer = Tokenizer::from_gguf((*model)->file());
    REQUIRE(tokenizer.ok());
    const auto ids = tokenizer->encode("ab abc", true, false);
    REQUIRE(ids.ok());
    CHECK(ids->front() == 1);
    CHECK(tokenizer->decode(*ids) == "ab abc");
    auto context = Context::create(**model, {});
    REQUIRE(context.ok());
    const auto result = (*context)->eval(*ids);
    REQUIRE_MESSAGE(result.ok(), result.error().message);
    REQUIRE(result->size() == kVocab);
    logits.emplace_back(result->begin(), result->end());
    for (const float logit : logits.back()) CHECK(std::isfinite(logit));
  }
  CHECK(logits[0] != logits[1]);
}

TEST_CASE("heads that are wider than the model") {
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.config["head_dim"] = 32;
  for (const char* layer : {"0", "1"}) {
    const std::string block = "model.layers." + std::string(layer) + ".self_attn.";
    checkpoint.tensor(block + "q_proj.weight") = packed(block + "q_proj.weight", 128, kHidden);
    checkpoint.tensor(block + "k_proj.weight") = packed(block + "k_proj.weight", 64, kHidden);
    checkpoint.tensor(block + "v_proj.weight") = packed(block + "v_proj.weight", 64, kHidden);
    checkpoint.tensor(block + "o_proj.weight") = packed(block + "o_proj.weight", kHidden, 128);
    checkpoint.tensor(block + "attn_sub_norm.weight") = floats(block + "attn_sub_norm.weight", {128});
  }
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const auto model = Model::load(folder.file("x.gguf"), {.threads = 1, .bundle = "none", .strict = false, .log = {}});
  REQUIRE_MESSAGE(model.ok(), model.error().message);
  CHECK((*model)->config().head_dim == 32);
  check_ternary((*model)->file(), "blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight", kHidden, 128);
}

TEST_CASE("element types: BF16 norms, scales and embeddings, F16 embeddings") {
  const TempFolder folder;
  Checkpoint checkpoint;
  HfTensor& norm = checkpoint.tensor("model.norm.weight");
  norm.dtype = "BF16";
  std::vector<std::uint16_t> halves;
  for (std::int64_t i = 0; i < kHidden; ++i) halves.push_back(static_cast<std::uint16_t>(0x3f00 + i));  // 0.5 + i / 256
  norm.data = raw(halves);
  HfTensor& scale = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight_scale");
  scale.dtype = "BF16";
  scale.data = raw<std::uint16_t>({0x3e20});
  HfTensor& embedding = checkpoint.tensor("model.embed_tokens.weight");
  std::vector<std::uint16_t> rows;
  for (std::int64_t i = 0; i < kVocab * kHidden; ++i)
    rows.push_back(static_cast<std::uint16_t>(mix("rows", i) % 0x7c00));
  SUBCASE("F16: the same bits") {
    embedding.dtype = "F16";
    embedding.data = raw(rows);
  }
  SUBCASE("BF16: rounded") {
    for (std::uint16_t& bits : rows) bits = static_cast<std::uint16_t>(0x3400 + bits % 0x1000);  // 2^-23 to 2^9
    embedding.dtype = "BF16";
    embedding.data = raw(rows);
  }
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const gguf::File file = opened(folder.file("x.gguf"));
  const gguf::Tensor& out = tensor_of(file, "output_norm.weight");
  for (std::int64_t i = 0; i < kHidden; ++i) CHECK(element<float>(out, i) == 0.5F + static_cast<float>(i) / 256.0F);
  CHECK(element<float>(tensor_of(file, "blk.0.attn_q.weight"), kHidden * kHidden / 16) == 0.15625F);
  const gguf::Tensor& embd = tensor_of(file, "token_embd.weight");
  for (std::int64_t i = 0; i < kVocab * kHidden; ++i) {
    const std::uint16_t bits = rows[static_cast<std::size_t>(i)];
    if (embedding.dtype == "F16") {
      CHECK(element<std::uint16_t>(embd, i) == bits);
    } else {
      CHECK(half_to_float(element<std::uint16_t>(embd, i)) ==
            nearest_half(std::bit_cast<float>(std::uint32_t{bits} << 16)));
    }
  }
}

TEST_CASE("float16: ties to even, the largest number, and one beyond") {
  const TempFolder folder;
  Checkpoint checkpoint;
  HfTensor& embedding = checkpoint.tensor("model.embed_tokens.weight");
  const auto set = [&](std::int64_t row, std::int64_t column, float x) {
    std::memcpy(embedding.data.data() + (row * kHidden + column) * 4, &x, 4);
  };
  set(0, 0, 1.0F + 0x1p-11F);      // halfway to 1 + 2^-10: down to even
  set(0, 1, 1.0F + 3 * 0x1p-11F);  // up to even
  set(0, 2, 65519.996F);           // the largest that rounds to 65504
  set(0, 3, -65504.0F);
  set(0, 4, 0x1p-25F);  // half of the smallest: to zero
  set(0, 5, std::nextafter(0x1p-25F, 1.0F));
  set(0, 6, -0.0F);
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const gguf::File file = opened(folder.file("x.gguf"));
  const gguf::Tensor& embd = tensor_of(file, "token_embd.weight");
  const std::vector<std::uint16_t> expected = {0x3c00, 0x3c02, 0x7bff, 0xfbff, 0x0000, 0x0001, 0x8000};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(element<std::uint16_t>(embd, static_cast<std::int64_t>(i)) == expected[i]);
  }
  for (const float bad :
       {65520.0F, -65520.0F, 1e30F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    set(7, 5, bad);
    checkpoint.write(folder.file("hf"));
    const auto refused = convert_model(folder.file("hf"), folder.file("y.gguf"), {});
    REQUIRE(!refused.ok());
    CHECK(refused.error().code == ErrorCode::kTensorMapping);
    CHECK_MESSAGE(
        refused.error().message.find("'model.embed_tokens.weight': row 7, column 5: expected") != std::string::npos,
        refused.error().message);
    CHECK(!fs::exists(folder.file("y.gguf")));
  }
}

TEST_CASE("same directory, same bytes; names; progress; files of their own in the directory") {
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.files["master.safetensors"] = "not looked at";
  checkpoint.write(folder.file("hf"));
  ConvertOptions options;
  std::uint64_t last = 0;
  std::uint64_t total = 0;
  options.progress = [&](std::uint64_t done, std::uint64_t all) {
    CHECK(done > last);
    last = done;
    total = all;
  };
  converted(folder.file("hf"), folder.file("a.gguf"), options);
  CHECK(last == total);
  CHECK(total > 0);
  converted(folder.file("hf") + "/", folder.file("hf") + "/b.gguf");
  CHECK(test::read_file(folder.file("a.gguf")) == test::read_file(folder.file("hf") + "/b.gguf"));
  converted(folder.file("hf"), folder.file("hf") + "/b.gguf");  // an older result may be replaced
  checkpoint.config["_name_or_path"] = "somebody/model";
  checkpoint.write(folder.file("hf"));
  CHECK(converted(folder.file("hf"), folder.file("a.gguf")).name == "somebody/model");
  CHECK(*opened(folder.file("a.gguf")).get_string("general.name") == "somebody/model");
  options = {};
  options.name = "mine";
  CHECK(converted(folder.file("hf"), folder.file("a.gguf"), options).name == "mine");
  CHECK(*opened(folder.file("a.gguf")).get_string("general.name") == "mine");
}

bool has_warning(const ConvertReport& report, std::string_view part) {
  for (const std::string& warning : report.warnings) {
    if (warning.find(part) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("the tokenizer: flags, ids, padding, and a warning for what cannot be expressed") {
  const TempFolder folder;
  Checkpoint checkpoint;
  const auto write = [&] {
    fs::remove_all(folder.file("hf"));
    checkpoint.write(folder.file("hf"));
    return converted(folder.file("hf"), folder.file("x.gguf"));
  };
  CHECK(write().warnings.empty());
  {
    const gguf::File file = opened(folder.file("x.gguf"));
    CHECK(*file.get_bool("tokenizer.ggml.add_bos_token"));
    CHECK(*file.get_bool("tokenizer.ggml.add_space_prefix"));
    CHECK(*file.get_uint("tokenizer.ggml.unknown_token_id") == 0);
    const auto tokens = file.get_array("tokenizer.ggml.tokens", gguf::ValueType::kString)->strings();
    REQUIRE(tokens.size() == kVocab);
    for (std::size_t i = 0; i < tokens.size(); ++i) CHECK(tokens[i] == checkpoint.tokenizer.pieces[i].piece);
    CHECK(file.get_array("tokenizer.ggml.scores", gguf::ValueType::kF32)->values<float>().back() == -0.75F);
  }
  checkpoint.tokenizer.normalizer =
      test::bytes_field(1, "nmt_nfkc") + test::bytes_field(2, "map") + test::number_field(3, 0);
  checkpoint.tokenizer.more = test::bytes_field(5, test::bytes_field(2, "map"));
  checkpoint.tokenizer.pieces.resize(267);
  checkpoint.tokenizer_config = R"({"add_eos_token": true, "add_bos_token": null})";
  checkpoint.config["bos_token_id"] = 2;
  checkpoint.config["eos_token_id"] = 1;
  checkpoint.files["added_tokens.json"] = "{}";
  const ConvertReport report = write();
  for (const char* part : {"normalizer 'nmt_nfkc' changes text", "denormalizer", "removes extra spaces",
                           "add_bos_token is missing", "bos_token_id is 2, but the tokenizer's '<s>' is 1",
                           "eos_token_id is 1", "267 pieces for a vocabulary of 270"}) {
    CHECK_MESSAGE(has_warning(report, part), part);
  }
  CHECK(report.warnings.size() == 7);
  const gguf::File file = opened(folder.file("x.gguf"));
  CHECK(!*file.get_bool("tokenizer.ggml.add_space_prefix"));
  CHECK(*file.get_uint("tokenizer.ggml.bos_token_id") == 2);
  const auto tokens = file.get_array("tokenizer.ggml.tokens", gguf::ValueType::kString)->strings();
  REQUIRE(tokens.size() == kVocab);
  CHECK(tokens[266] == checkpoint.tokenizer.pieces[266].piece);
  CHECK(tokens[267] == "[PAD267]");
  CHECK(tokens[269] == "[PAD269]");
  CHECK(file.get_array("tokenizer.ggml.token_type", gguf::ValueType::kI32)->values<std::int32_t>()[269] == 5);
  CHECK(Model::load(folder.file("x.gguf"), {.threads = 1, .bundle = "none", .strict = false, .log = {}}).ok());
}

TEST_CASE("generation_config.json becomes the recommended sampling") {
  const TempFolder folder;
  Checkpoint checkpoint;
  const auto recommended = [&]() -> Result<SamplingParams> {
    fs::remove_all(folder.file("hf"));
    checkpoint.write(folder.file("hf"));
    const auto report = convert_model(folder.file("hf"), folder.file("x.gguf"), {});
    if (!report.ok()) return report.error();
    return recommended_sampling(opened(folder.file("x.gguf")));
  };
  REQUIRE(recommended().ok());
  CHECK(opened(folder.file("x.gguf")).find("general.sampling.temp") == nullptr);

  checkpoint.files["generation_config.json"] =
      R"({"temperature": 0.5, "top_k": 9, "top_p": 1, "repetition_penalty": 1.25, "max_length": 7})";
  auto found = recommended();
  REQUIRE(found.ok());
  CHECK(found->temperature == 0.5F);
  CHECK(found->top_k == 9);
  CHECK(found->top_p == 1.0F);
  CHECK(found->repetition_penalty == 1.25F);
  CHECK(found->min_p == SamplingParams{}.min_p);
  checkpoint.files["generation_config.json"] = R"({"do_sample": false, "temperature": 0.5})";
  found = recommended();
  REQUIRE(found.ok());
  CHECK(found->temperature == 0.0F);

  for (const char* text : {R"({"temperature": "hot"})", R"({"top_k": -1})", R"({"top_p": 2})", R"({"do_sample": 1})",
                           R"({"repetition_penalty": 0})", "[]", "{"}) {
    CAPTURE(text);
    checkpoint.files["generation_config.json"] = text;
    const auto refused = recommended();
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("generation_config.json") != std::string::npos);
  }
}

TEST_CASE("a real tokenizer") {
  const auto path = test::asset("tokenizers/llama2_tokenizer.model", "conversion with the Llama-2 tokenizer");
  if (!path) return;
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.config["vocab_size"] = 32002;
  checkpoint.tensor("model.embed_tokens.weight") = floats("model.embed_tokens.weight", {32002, kHidden});
  checkpoint.files["tokenizer.model"] = test::read_file(*path);
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const auto tokenizer = Tokenizer::from_gguf(opened(folder.file("x.gguf")));
  REQUIRE(tokenizer.ok());
  const auto ids = tokenizer->encode("Hello world", true, false);
  REQUIRE(ids.ok());
  CHECK(*ids == std::vector<std::int32_t>{1, 15043, 3186});
}

TEST_CASE("outputs") {
  const TempFolder folder;
  Checkpoint().write(folder.file("hf"));
  const auto fails = [&](const std::string& directory, const std::string& output, ErrorCode code,
                         std::string_view part) {
    const auto result = convert_model(directory, output, {});
    REQUIRE(!result.ok());
    CHECK_MESSAGE(result.error().code == code, result.error().message);
    CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
  };
  const std::string weights = test::read_file(folder.file("hf/model.safetensors"));
  fails(folder.file("none"), folder.file("x.gguf"), ErrorCode::kUsage, "found nothing");
  fails(folder.file("hf/config.json"), folder.file("x.gguf"), ErrorCode::kUsage, "found a file");
  fails(folder.file("hf"), folder.file("none/x.gguf"), ErrorCode::kFailure, "expected a folder");
  fails(folder.file("hf"), folder.file("hf"), ErrorCode::kFailure, "directory");
  fails(folder.file("hf"), folder.file("hf/model.safetensors"), ErrorCode::kUsage,
        "the checkpoint's model.safetensors");
  fails(folder.file("hf"), folder.file("hf/../hf/tokenizer.model"), ErrorCode::kUsage, "tokenizer.model");
  fs::create_symlink(folder.file("hf/config.json"), folder.file("link"));
  fails(folder.file("hf"), folder.file("link"), ErrorCode::kUsage, "config.json");
  fs::create_hard_link(folder.file("hf/model.safetensors"), folder.file("hard"));
  fails(folder.file("hf"), folder.file("hard"), ErrorCode::kUsage, "model.safetensors");
  CHECK(test::read_file(folder.file("hf/model.safetensors")) == weights);

  CHECK(convert::check_space(folder.file("x.gguf"), 1).ok());
  CHECK(convert::check_space("x.gguf", 1).ok());
  const Status full = convert::check_space(folder.file("x.gguf"), std::uint64_t{1} << 62);
  REQUIRE(!full.ok());
  CHECK(full.error().message.find("expected 4611686018427387904 bytes of free space") != std::string::npos);
}

TEST_CASE("the command: exit codes and output") {
  const char* programs = std::getenv("BITNET_BIN");
  if (programs == nullptr || !fs::exists(std::string(programs) + "/bitnet")) {
    MESSAGE("SKIPPED: the command (BITNET_BIN names no folder with the program bitnet)");
    return;
  }
  const TempFolder folder;
  Checkpoint checkpoint;
  checkpoint.write(folder.file("hf"));
  const auto exit_of = [&](const std::string& arguments) {
    const std::string command = "'" + std::string(programs) + "/bitnet' convert " + arguments + " >'" +
                                folder.file("out") + "' 2>'" + folder.file("err") + "'";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string in = "'" + folder.file("hf") + "'";
  const std::string out = " -o '" + folder.file("x.gguf") + "'";
  CHECK(exit_of(in + out) == 0);
  CHECK(test::read_file(folder.file("out")) ==
        folder.file("x.gguf") + ": bitnet-b1.58, 2 layers, hidden 64, ffn 96, heads 4/2, vocabulary 270, " +
            std::to_string(fs::file_size(folder.file("x.gguf"))) + " bytes\n");
  CHECK(test::read_file(folder.file("err")).empty());
  CHECK(exit_of(in + out + " -q --name 'my model'") == 0);
  CHECK(*opened(folder.file("x.gguf")).get_string("general.name") == "my model");
  CHECK(exit_of(in) == 2);
  CHECK(exit_of(out) == 2);
  CHECK(exit_of("'" + folder.file("none") + "'" + out) == 2);
  CHECK(exit_of(in + " -o '" + folder.file("hf/config.json") + "'") == 2);
  CHECK(exit_of(in + " -o /dev/null") == 1);
  checkpoint.tokenizer.pieces.resize(268);
  checkpoint.write(folder.file("hf"));
  CHECK(exit_of(in + out) == 0);
  CHECK(test::read_file(folder.file("err")).find("bitnet convert: warning: ") == 0);
  checkpoint.tokenizer.trainer = test::number_field(3, 3);
  checkpoint.write(folder.file("hf"));
  CHECK(exit_of(in + out) == 4);
  checkpoint.tensors.pop_back();
  checkpoint.write(folder.file("hf"));
  CHECK(exit_of(in + out) == 3);
  CHECK(test::read_file(folder.file("err")).find("'model.norm.weight'") != std::string::npos);
  checkpoint.config["model_type"] = "llama";
  checkpoint.write(folder.file("hf"));
  CHECK(exit_of(in + out) == 1);
}

}  // namespace
}  // namespace bitnet
