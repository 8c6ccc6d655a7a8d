// Conversions between the types of GGUF files: bytes against those of bitnet.cpp's own tools, metadata untouched,
// values against what they were; the way to SafeTensors and back; interrupts and full disks leave nothing.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/verify.h"
#include "runtime/safetensors/safetensors.h"
#include "tests/assets.h"
#include "tests/hf_checkpoint.h"
#include "tests/model_files.h"
#include "tests/programs.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using gguf::TensorType;
using test::asset;
using test::Programs;
using test::TempFolder;

gguf::File opened(const std::string& path) {
  auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  return *std::move(file);
}

ConvertOptions to(const std::string& type, const std::string& tiles = "", const std::string& output_tiles = "") {
  ConvertOptions options;
  options.type = parse_target_type(type);
  REQUIRE(options.type);
  options.read.tile_config = tiles;
  options.tile_config = output_tiles;
  return options;
}

ConvertReport converted(const std::string& input, const std::string& output, const ConvertOptions& options) {
  auto report = convert_model(input, output, options);
  REQUIRE_MESSAGE(report.ok(), report.error().message);
  return *std::move(report);
}

void refused(const std::string& input, const std::string& output, const ConvertOptions& options, ErrorCode code,
             std::string_view part) {
  const auto result = convert_model(input, output, options);
  REQUIRE(!result.ok());
  CHECK_MESSAGE(result.error().code == code, result.error().message);
  CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
}

// The same tensors in the same types; of ternary ones all bytes but the 28 behind the scale, which are zero in `ours`.
void same_tensors(const std::string& ours_path, const std::string& theirs_path) {
  const gguf::File ours = opened(ours_path);
  const gguf::File theirs = opened(theirs_path);
  REQUIRE(ours.tensors().size() == theirs.tensors().size());
  for (const gguf::Tensor& tensor : theirs.tensors()) {
    CAPTURE(std::string(tensor.name));
    const gguf::Tensor* same = ours.find_tensor(tensor.name);
    REQUIRE(same != nullptr);
    CHECK(same->type == tensor.type);
    CHECK(same->ne == tensor.ne);
    REQUIRE(same->data.size() == tensor.data.size());
    const bool ternary =
        tensor.type == TensorType::kI2_S || tensor.type == TensorType::kTL1 || tensor.type == TensorType::kTL2OrMXFP4;
    const std::size_t compared = tensor.data.size() - (ternary ? 28 : 0);
    CHECK(std::memcmp(same->data.data(), tensor.data.data(), compared) == 0);
    for (std::size_t i = compared; i < same->data.size(); ++i) CHECK(same->data[i] == std::byte{0});
  }
}

void same_metadata(const std::string& ours_path, const std::string& theirs_path) {
  const gguf::File ours = opened(ours_path);
  const gguf::File theirs = opened(theirs_path);
  REQUIRE(ours.metadata().size() == theirs.metadata().size());
  for (std::size_t i = 0; i < ours.metadata().size(); ++i) {
    const gguf::KeyValue& a = ours.metadata()[i];
    const gguf::KeyValue& b = theirs.metadata()[i];
    CAPTURE(std::string(b.key));
    CHECK(a.key == b.key);
    CHECK(a.type == b.type);
    if (b.key == "general.file_type") continue;
    if (const auto* array = std::get_if<gguf::Array>(&b.value)) {
      const auto& mine = std::get<gguf::Array>(a.value);
      CHECK(mine.type == array->type);
      CHECK(mine.count == array->count);
      REQUIRE(mine.bytes.size() == array->bytes.size());
      CHECK(std::memcmp(mine.bytes.data(), array->bytes.data(), mine.bytes.size()) == 0);
    } else if (const auto* text = std::get_if<std::string_view>(&b.value)) {
      CHECK(std::get<std::string_view>(a.value) == *text);
    } else {
      const auto bytes = [](const gguf::File& file, const gguf::KeyValue& entry) {
        return file.bytes().subspan(entry.value_offset, 1)[0];
      };
      CHECK(bytes(ours, a) == bytes(theirs, b));
    }
  }
}

TEST_CASE("I2_S, TL1 and TL2 of bitnet.cpp, each from each") {
  const auto i2s = asset("bitnet_cpp/tiny.b158.i2_s.gguf", "conversions between bitnet.cpp's types");
  const auto tl1 = asset("bitnet_cpp/tiny.b158.tl1.gguf", "conversions between bitnet.cpp's types");
  const auto tl2 = asset("bitnet_cpp/tiny.b158.tl2.gguf", "conversions between bitnet.cpp's types");
  const auto tl1_tiles = asset("bitnet_cpp/tl1.ini", "conversions between bitnet.cpp's types");
  const auto tl2_tiles = asset("bitnet_cpp/tl2.ini", "conversions between bitnet.cpp's types");
  if (!i2s || !tl1 || !tl2 || !tl1_tiles || !tl2_tiles) return;
  const TempFolder folder;
  const struct {
    const char* type;
    std::string file, tiles;
  } forms[] = {{"i2_s", *i2s, ""}, {"tl1", *tl1, *tl1_tiles}, {"tl2", *tl2, *tl2_tiles}};
  for (const auto& from : forms) {
    for (const auto& target : forms) {
      CAPTURE(from.type);
      CAPTURE(target.type);
      const ConvertReport report =
          converted(from.file, folder.file("x.gguf"), to(target.type, from.tiles, target.tiles));
      CHECK(report.lossless());
      same_tensors(folder.file("x.gguf"), target.file);
      same_metadata(folder.file("x.gguf"), from.file);
      CHECK(*opened(folder.file("x.gguf")).get_uint("general.file_type") == (target.tiles.empty()         ? 40U
                                                                             : target.tiles == *tl1_tiles ? 38U
                                                                                                          : 39U));
    }
  }
  refused(*i2s, folder.file("y.gguf"), to("tl1"), ErrorCode::kTensorMapping, "--tile-config");
  refused(*i2s, folder.file("y.gguf"), to("tl1", *tl1_tiles + ".none"), ErrorCode::kFailure, "tl1.ini.none");
  refused(*i2s, *i2s, to("i2_s"), ErrorCode::kUsage, "name another file");
  refused(*i2s, folder.file("y.gguf"), {}, ErrorCode::kUsage, "--type");
  CHECK(!fs::exists(folder.file("y.gguf")));

  // Blocks with float16 scales: the same codes, and an error that the report states.
  for (const char* type : {"tq1_0", "tq2_0"}) {
    const ConvertReport report = converted(*i2s, folder.file("tq.gguf"), to(type));
    for (const ConvertedTensor& tensor : report.tensors) CHECK(tensor.relative_error < 0x1p-11);
    const ConvertReport back = converted(folder.file("tq.gguf"), folder.file("back.gguf"), to("i2_s"));
    CHECK(back.lossless());
    const gguf::File result = opened(folder.file("back.gguf"));
    const gguf::File original = opened(*i2s);
    for (const gguf::Tensor& tensor : original.tensors()) {
      if (tensor.type != TensorType::kI2_S) continue;
      const gguf::Tensor* same = result.find_tensor(tensor.name);
      CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size() - 32) == 0);
      float before = 0;
      float after = 0;
      std::memcpy(&before, tensor.data.data() + tensor.data.size() - 32, 4);
      std::memcpy(&after, same->data.data() + tensor.data.size() - 32, 4);
      CHECK(after == half_to_float(float_to_half(before)));
    }
  }
}

// A model with matrices that a test may fill: hidden 256, ffn 512.
struct Filled {
  TempFolder folder;
  test::ModelCopy copy;

  Filled() {
    const std::string path = test::write_synth(folder, "synth.gguf", "1x256x512x4/2x300");
    converted(path, folder.file("f32.gguf"), to("f32"));
    copy = test::ModelCopy::read(folder.file("f32.gguf"));
  }
  void fill(const std::string& name, const std::function<float(std::size_t row, std::size_t column)>& weight) {
    test::CopiedTensor& tensor = copy.tensor(name);
    const std::size_t columns = tensor.ne[0];
    for (std::size_t i = 0; i < columns * tensor.ne[1]; ++i) {
      const float value = weight(i / columns, i % columns);
      std::memcpy(tensor.data.data() + i * sizeof value, &value, sizeof value);
    }
  }
  [[nodiscard]] std::string write() const {
    copy.write(folder.file("filled.gguf"));
    return folder.file("filled.gguf");
  }
};

float magnitude(std::size_t i, float scale) { return scale * static_cast<float>(static_cast<int>(i * 7 % 3) - 1); }

TEST_CASE("ternary weights in floats: found again, by tensor, by rows and by groups") {
  Filled model;
  // What a synthetic model's I2_S weights say, through float32, float16-exact or not, and back: the same bytes.
  converted(model.write(), model.folder.file("back.gguf"), to("i2_s"));
  const gguf::File original = opened(model.folder.file("synth.gguf"));
  const gguf::File back = opened(model.folder.file("back.gguf"));
  for (const gguf::Tensor& tensor : original.tensors()) {
    if (tensor.type != TensorType::kI2_S) continue;
    const gguf::Tensor* same = back.find_tensor(tensor.name);
    REQUIRE(same != nullptr);
    CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size() - 28) == 0);
  }
  const std::string down = "blk.0.ffn_down.weight";  // 256 x 512
  const std::string path = model.folder.file("x.gguf");
  const auto value_of = [&](const std::string& type, std::size_t row, std::size_t column) {
    converted(path, model.folder.file(type), to("f32"));
    float value = 0;
    std::memcpy(&value, opened(model.folder.file(type)).find_tensor(down)->data.data() + (row * 512 + column) * 4, 4);
    return value;
  };
  model.fill(down,
             [](std::size_t row, std::size_t column) { return magnitude(row + column, row < 100 ? 0.25F : 0.5F); });
  refused(model.write(), path, to("i2_s"), ErrorCode::kTensorMapping, "'blk.0.ffn_down.weight'");
  CHECK(converted(model.write(), path, to("tq2_0")).tensors.size() == original.tensors().size());
  CHECK(value_of("rows", 99, 2) == magnitude(101, 0.25F));
  CHECK(value_of("rows", 100, 2) == magnitude(102, 0.5F));

  model.fill(down,
             [](std::size_t row, std::size_t column) { return magnitude(row + column, column < 256 ? 0.25F : 0.5F); });
  refused(model.write(), path, to("i2_s"), ErrorCode::kTensorMapping, "'blk.0.ffn_down.weight'");
  converted(model.write(), path, to("tq1_0"));
  CHECK(value_of("groups", 7, 255) == magnitude(262, 0.25F));
  CHECK(value_of("groups", 7, 256) == magnitude(263, 0.5F));

  // One weight whose magnitude is 2e-6 off, and one that is 5e-7 off.
  for (const auto& [off, right] : {std::pair(2e-6, false), {5e-7, true}}) {
    model.fill(down, [odd = static_cast<float>(0.5 * (1.0 - off))](std::size_t row, std::size_t column) {
      if (row == 3 && column == 17) return odd;
      return magnitude(row + column, 0.5F);
    });
    if (right) converted(model.write(), path, to("i2_s"));
    if (!right) refused(model.write(), path, to("i2_s"), ErrorCode::kTensorMapping, "not ternary");
  }
}

TEST_CASE("a matrix that is not ternary is rounded on request only, and the report has its error") {
  Filled model;
  const std::string name = "blk.0.attn_output.weight";
  model.fill(name, [](std::size_t row, std::size_t column) {
    return 0.001F * static_cast<float>(static_cast<int>((row * 31 + column * 17) % 41) - 20);
  });
  const std::string input = model.write();
  const std::string path = model.folder.file("x.gguf");
  refused(input, path, to("i2_s"), ErrorCode::kTensorMapping, "--ternarize absmean");
  CHECK(!fs::exists(path));
  ConvertOptions options = to("i2_s");
  options.ternarize = true;
  const ConvertReport report = converted(input, path, options);
  CHECK(!report.lossless());
  int rounded = 0;
  for (const ConvertedTensor& tensor : report.tensors) {
    rounded += tensor.rounded ? 1 : 0;
    CHECK(tensor.rounded == (tensor.to == name));
    CHECK((tensor.max_error > 0.0) == (tensor.to == name));
  }
  CHECK(rounded == 1);
  // The error, worked out from the mean magnitude.
  double sum = 0;
  std::vector<double> weights;
  for (std::size_t row = 0; row < 256; ++row) {
    for (std::size_t column = 0; column < 256; ++column) {
      weights.push_back(
          static_cast<double>(0.001F * static_cast<float>(static_cast<int>((row * 31 + column * 17) % 41) - 20)));
      sum += std::fabs(weights.back());
    }
  }
  const double mean = sum / static_cast<double>(weights.size());
  double squares = 0;
  double energy = 0;
  for (const double weight : weights) {
    const double code = std::clamp(std::nearbyint(weight / mean), -1.0, 1.0);
    squares += (weight - code * mean) * (weight - code * mean);
    energy += weight * weight;
  }
  const nlohmann::json json = nlohmann::json::parse(report.json("in", "out", ""));
  CHECK(json["lossless"] == false);
  CHECK(json["tensors"].size() == report.tensors.size());
  bool found = false;
  for (const nlohmann::json& tensor : json["tensors"]) {
    if (tensor["to"] != name) continue;
    found = true;
    CHECK(tensor["type"] == "I2_S");
    CHECK(tensor["rounded"] == true);
    CHECK(tensor["error"]["relative"].get<double>() == doctest::Approx(std::sqrt(squares / energy)).epsilon(1e-4));
  }
  CHECK(found);
  converted(input, path, to("f16"));  // needs no rounding
}

TEST_CASE("what no option speaks of keeps its bytes, ternary blocks too") {
  Filled model;
  ConvertOptions options = to("i2_s");
  options.embedding = TensorType::kTQ2_0;
  options.ternarize = true;
  converted(model.write(), model.folder.file("a.gguf"), options);
  const ConvertReport report = converted(model.folder.file("a.gguf"), model.folder.file("b.gguf"), to("tq1_0"));
  const gguf::File a = opened(model.folder.file("a.gguf"));
  const gguf::File b = opened(model.folder.file("b.gguf"));
  const gguf::Tensor* before = a.find_tensor("token_embd.weight");
  const gguf::Tensor* after = b.find_tensor("token_embd.weight");
  CHECK(before->type == TensorType::kTQ2_0);
  REQUIRE(after->type == TensorType::kTQ2_0);
  CHECK(std::memcmp(before->data.data(), after->data.data(), before->data.size()) == 0);
  CHECK(report.tensors.size() == a.tensors().size());
}

TEST_CASE("types of embedding and head") {
  const TempFolder folder;
  const std::string path = test::write_synth(folder, "synth.gguf", "1x64x96x4/2x300");
  const auto embedding = [&](const ConvertOptions& options) {
    converted(path, folder.file("x.gguf"), options);
    return opened(folder.file("x.gguf")).find_tensor("token_embd.weight")->type;
  };
  CHECK(embedding(to("i2_s")) == TensorType::kF16);
  CHECK(embedding(to("bf16")) == TensorType::kBF16);
  CHECK(embedding(to("q8_0")) == TensorType::kF16);
  ConvertOptions options = to("i2_s");
  options.embedding = TensorType::kQ8_0;
  CHECK(embedding(options) == TensorType::kQ8_0);
  options.embedding = TensorType::kI2_S;
  refused(path, folder.file("y.gguf"), options, ErrorCode::kUsage, "--embedding");
  refused(path, folder.file("y.gguf"), to("tq2_0"), ErrorCode::kTensorMapping, "blocks of TQ2_0");
  refused(path, folder.file("y.safetensors"), to("q8_0"), ErrorCode::kUsage, "for SafeTensors");
  CHECK(!fs::exists(folder.file("y.gguf")));
  CHECK(!fs::exists(folder.file("config.json")));
}

TEST_CASE("to SafeTensors and back") {
  const TempFolder folder;
  test::Checkpoint checkpoint;
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("a.gguf"), {});
  const std::string directory = folder.file("out");
  fs::create_directory(directory);
  converted(folder.file("a.gguf"), directory + "/model.safetensors", to("i2_s"));
  for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {  // the tokenizer is the first directory's
    fs::copy_file(folder.file("hf/" + std::string(name)), directory + "/" + name);
  }
  ConvertOptions options = to("i2_s");
  options.name = "hf";
  converted(directory, folder.file("b.gguf"), options);
  CHECK(test::read_file(folder.file("a.gguf")) == test::read_file(folder.file("b.gguf")));
  // The packed matrices are the first ones, byte for byte.
  const auto before = safetensors::File::open(folder.file("hf/model.safetensors"));
  const auto after = safetensors::File::open(directory + "/model.safetensors");
  REQUIRE(before.ok());
  REQUIRE(after.ok());
  CHECK(after->data_offset() % 8 == 0);
  for (const safetensors::Tensor& tensor : before->tensors()) {
    const safetensors::Tensor* same = after->find_tensor(tensor.name);
    REQUIRE_MESSAGE(same != nullptr, tensor.name);
    if (tensor.name == "model.embed_tokens.weight") continue;  // float16 by now
    CHECK(same->shape == tensor.shape);
    REQUIRE(same->dtype == tensor.dtype);
    CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size()) == 0);
  }
  refused(folder.file("a.gguf"), directory + "/other.safetensors", to("i2_s"), ErrorCode::kUsage, "config.json");

  // Plain values of ternary matrices, which the way back finds out.
  fs::create_directory(folder.file("plain"));
  converted(folder.file("a.gguf"), folder.file("plain/model.safetensors"), to("f32"));
  CHECK(!nlohmann::json::parse(std::ifstream(folder.file("plain/config.json"))).contains("quantization_config"));
}

TEST_CASE("a Llama model to SafeTensors and back: rows are permuted both ways") {
  const auto path = asset("models/stories260K.gguf", "a Llama model as a checkpoint");
  if (!path) return;
  const TempFolder folder;
  fs::create_directory(folder.file("hf"));
  converted(*path, folder.file("hf/model.safetensors"), to("f32"));
  ConvertOptions options = to("f32");
  options.weights_only = true;
  converted(folder.file("hf"), folder.file("back.gguf"), options);
  const gguf::File back = opened(folder.file("back.gguf"));
  const gguf::File original = opened(*path);
  for (const gguf::Tensor& tensor : original.tensors()) {
    CAPTURE(std::string(tensor.name));
    const gguf::Tensor* same = back.find_tensor(tensor.name);
    REQUIRE(same != nullptr);
    REQUIRE(same->data.size() == tensor.data.size());
    CHECK(std::memcmp(same->data.data(), tensor.data.data(), tensor.data.size()) == 0);
  }
  // In between they lie as the other way round has them.
  const auto file = safetensors::File::open(folder.file("hf/model.safetensors"));
  REQUIRE(file.ok());
  const safetensors::Tensor* q = file->find_tensor("model.layers.0.self_attn.q_proj.weight");
  const gguf::Tensor* gguf_q = original.find_tensor("blk.0.attn_q.weight");
  // Heads of 8: row 1 of the checkpoint is pair 1's first, row 2 of the GGUF file.
  CHECK(std::memcmp(q->data.data() + 64 * 4, gguf_q->data.data() + 2 * 64 * 4, 64 * 4) == 0);
}

// The logits of both models; `least`: of the cosine, exact ones are equal bit for bit.
void check_logits(const std::string& input, const std::string& output, const ConvertOptions& options, double least) {
  const ConvertReport report = converted(input, output, options);
  const auto found = verify_conversion(input, output, options, report);
  REQUIRE_MESSAGE(found.ok(), found.error().message);
  CHECK(found->positions == 16);
  CHECK(found->cosine >= least);
  if (report.lossless()) CHECK(found->largest_difference == 0.0);
}

TEST_CASE("stories260K in F32, F16, BF16 and Q8_0: its logits") {
  const auto path = asset("models/stories260K.gguf", "logits of converted dense models");
  if (!path) return;
  const TempFolder folder;
  for (const char* type : {"f32", "f16", "bf16", "q8_0"}) {
    CAPTURE(type);
    check_logits(*path, folder.file("x.gguf"), to(type), 0.9999);
  }
  fs::create_directory(folder.file("hf"));
  check_logits(*path, folder.file("hf/model.safetensors"), to("f32"), 0.999999);
}

TEST_CASE("bitnet.cpp's tiny models: the same logits in each type") {
  const auto i2s = asset("bitnet_cpp/tiny.b158.i2_s.gguf", "logits of converted ternary models");
  const auto tl1_tiles = asset("bitnet_cpp/tl1.ini", "logits of converted ternary models");
  const auto tl2_tiles = asset("bitnet_cpp/tl2.ini", "logits of converted ternary models");
  if (!i2s || !tl1_tiles || !tl2_tiles) return;
  const TempFolder folder;
  check_logits(*i2s, folder.file("tl1.gguf"), to("tl1", "", *tl1_tiles), 0.999999);
  check_logits(folder.file("tl1.gguf"), folder.file("tl2.gguf"), to("tl2", *tl1_tiles, *tl2_tiles), 0.999999);
  fs::create_directory(folder.file("hf"));
  check_logits(folder.file("tl2.gguf"), folder.file("hf/model.safetensors"), to("i2_s", *tl2_tiles), 0.999999);
  check_logits(*i2s, folder.file("tq.gguf"), to("tq2_0"), 0.99);
}

// llama2.c's version 0: 7 int32 (dim, hidden, layers, heads, KV heads, vocabulary, context), then float32 tensors, all
// layers of one kind together. A negative vocabulary means an untied head. The matrices of this file are not in plain
// row-major order: each has been read in columns and written in rows once for each of the 5 layers, so that element n
// of [rows][columns] stands at n * columns^5 modulo (size - 1). With that, every value is the GGUF file's, bit for bit.
TEST_CASE("stories260K.bin holds the weights of stories260K.gguf") {
  const auto bin = asset("models/stories260K.bin", "weights of stories260K in both forms");
  const auto path = asset("models/stories260K.gguf", "weights of stories260K in both forms");
  if (!bin || !path) return;
  const std::string bytes = test::read_file(*bin);
  std::int32_t header[7];
  REQUIRE(bytes.size() > sizeof header);
  std::memcpy(header, bytes.data(), sizeof header);
  const auto dim = static_cast<std::size_t>(header[0]);
  const auto ffn = static_cast<std::size_t>(header[1]);
  const auto layers = static_cast<std::size_t>(header[2]);
  const std::size_t kv = dim / static_cast<std::size_t>(header[3]) * static_cast<std::size_t>(header[4]);
  const auto vocab = static_cast<std::size_t>(std::abs(header[5]));
  const gguf::File file = opened(*path);
  std::size_t at = sizeof header;
  const auto compare = [&](const std::string& name, std::size_t rows, std::size_t columns, bool reordered) {
    CAPTURE(name);
    const gguf::Tensor* tensor = file.find_tensor(name);
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->type == TensorType::kF32);
    const std::size_t count = rows * columns;
    REQUIRE(tensor->data.size() == count * 4);
    REQUIRE(bytes.size() >= at + count * 4);
    std::size_t stride = 1;
    for (std::size_t i = 0; reordered && i < layers; ++i) stride = stride * columns % (count - 1);
    int wrong = 0;
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t place = n + 1 == count ? n : n * stride % (count - 1);
      wrong += std::memcmp(tensor->data.data() + n * 4, bytes.data() + at + place * 4, 4) != 0 ? 1 : 0;
    }
    CHECK(wrong == 0);
    at += count * 4;
  };
  const auto each_layer = [&](const std::string& name, std::size_t rows, std::size_t columns) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      compare("blk." + std::to_string(layer) + "." + name, rows, columns, rows > 1);
    }
  };
  compare("token_embd.weight", vocab, dim, false);
  each_layer("attn_norm.weight", 1, dim);
  each_layer("attn_q.weight", dim, dim);
  each_layer("attn_k.weight", kv, dim);
  each_layer("attn_v.weight", kv, dim);
  each_layer("attn_output.weight", dim, dim);
  each_layer("ffn_norm.weight", 1, dim);
  each_layer("ffn_gate.weight", ffn, dim);
  each_layer("ffn_down.weight", dim, ffn);
  each_layer("ffn_up.weight", ffn, dim);
  compare("output_norm.weight", 1, dim, false);
}

TEST_CASE("interrupted at any point: an error, and nothing left") {
  const TempFolder folder;
  test::Checkpoint().write(folder.file("hf"));
  fs::create_directory(folder.file("out"));
  converted(folder.file("hf"), folder.file("a.gguf"), {});
  for (const auto& [input, type, name] : {std::tuple(folder.file("hf"), "i2_s", "out/x.gguf"),
                                          {folder.file("a.gguf"), "f16", "out/x.gguf"},
                                          {folder.file("a.gguf"), "i2_s", "out/x.safetensors"}}) {
    int pieces = 0;
    for (int allowed = 0;; ++allowed) {
      int left = allowed;
      ConvertOptions options = to(type);
      options.interrupted = [&left] { return left-- == 0; };
      const auto result = convert_model(input, folder.file(name), options);
      if (result.ok()) break;
      CHECK_MESSAGE(result.error().code == ErrorCode::kInterrupted, result.error().message);
      CHECK(fs::is_empty(folder.file("out")));
      pieces = allowed;
    }
    CHECK(pieces > 20);
    fs::remove_all(folder.file("out"));
    fs::create_directory(folder.file("out"));
  }
}

TEST_CASE("the command: report, types, formats, a disk that is full") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const auto file = [&](const char* name) { return programs.folder.file(name); };
  test::Checkpoint checkpoint;
  checkpoint.write(file("hf"));
  const std::string in = "-i '" + file("hf") + "'";
  const std::string out = " -o '" + file("x.gguf") + "'";
  auto outcome = programs.bitnet("convert", in + out + " --report '" + file("r.json") + "' --type i2_s");
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  auto report = nlohmann::json::parse(test::read_text(file("r.json")));
  CHECK(report["lossless"] == false);  // the embedding was rounded to float16
  CHECK(report["tensors"].size() == 2 + test::kLayers * 11);
  CHECK(report["unmapped"].empty());
  CHECK(report["missing"].empty());
  for (const auto& tensor : report["tensors"]) {
    if (tensor["to"] != "blk.1.ffn_up.weight") continue;
    CHECK(tensor["from"] ==
          nlohmann::json({"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight_scale"}));
    CHECK(tensor["from_type"] == "U8");
    CHECK(tensor["shape"] == nlohmann::json({test::kHidden, test::kFfn}));
  }
  outcome = programs.bitnet("convert", in + out + " --verify --embedding f32");
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK_MESSAGE(outcome.out.find("largest difference 0, conversion lossless") != std::string::npos, outcome.out);
  // What is missing is in the report of a failure too.
  checkpoint.tensors.pop_back();
  checkpoint.write(file("hf"));
  outcome = programs.bitnet("convert", in + out + " --report '" + file("r.json") + "'");
  CHECK(outcome.code == 3);
  report = nlohmann::json::parse(test::read_text(file("r.json")));
  CHECK(report["missing"] == nlohmann::json({"model.norm.weight"}));
  CHECK(report["error"].get<std::string>().find("model.norm.weight") != std::string::npos);

  const std::string gguf = "-i '" + file("x.gguf") + "' -o '" + file("y.gguf") + "'";
  programs.refuses("convert", gguf + " --type q5_1", 2, "--type: expected i2_s, tl1", "");
  programs.refuses("convert", gguf, 2, "--type", "");
  programs.refuses("convert", gguf + " --type i2_s '" + file("hf") + "'", 2, "found --input and a positional one", "");
  programs.refuses("convert", gguf + " --type f16 --ternarize nearest", 2, "ternarize", "");
  programs.refuses("convert", gguf + " --type f32", 1, "cannot write", "ulimit -f 40;");
  CHECK(!fs::exists(file("y.gguf")));
  for (const auto& entry : fs::directory_iterator(programs.folder.file("."))) {
    CHECK_MESSAGE(entry.path().string().find(".tmp.") == std::string::npos, entry.path().string());
  }
}

}  // namespace
}  // namespace bitnet
