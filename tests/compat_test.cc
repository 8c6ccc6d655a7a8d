// `bitnet compat-check`, and what `bitnet inspect` says about models: everything that would fail is named, with the
// exit code of what it is; the byte layout of I2_S weights is found by a text.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/formats/encode.h"
#include "runtime/formats/ternary.h"
#include "runtime/gguf/gguf.h"
#include "tests/programs.h"

namespace bitnet {
namespace {

using nlohmann::json;
using test::Outcome;
using test::Programs;

const std::string kDefaultModel = BITNET_DEFAULT_MODEL;
const std::string kText = BITNET_TEST_TEXT;  // of the kind that the default model was trained on

std::string quoted(const std::string& path) { return "'" + path + "'"; }

json checked(const Programs& programs, const std::string& arguments, int code) {
  const Outcome outcome = programs.bitnet("compat-check", arguments + " --json");
  INFO(arguments, ": ", outcome.out, outcome.err);
  REQUIRE(outcome.code == code);
  json report = json::parse(outcome.out, nullptr, false);
  REQUIRE(!report.is_discarded());
  CHECK(report.at("exit_code") == code);
  CHECK(report.at("compatible") == (code == 0));
  return report;
}

bool has_finding(const json& report, const std::string& severity, const std::string& part) {
  for (const json& finding : report.at("findings")) {
    if (finding.at("severity") == severity &&
        finding.at("message").get<std::string>().find(part) != std::string::npos) {
      return true;
    }
  }
  return false;
}

// A copy of the model with its I2_S weights in another layout: the same file but for those bytes.
void repack(const std::string& from, const std::string& to, formats::I2sLayout layout) {
  std::string bytes = test::read_text(from);
  const auto file = gguf::File::open(from);
  REQUIRE(file.ok());
  for (const gguf::Tensor& tensor : file->tensors()) {
    if (tensor.type != gguf::TensorType::kI2_S) continue;
    std::vector<std::string> notes;
    const auto opened = formats::TernaryMatrix::open(*file, tensor, {}, notes);
    REQUIRE(opened.ok());
    REQUIRE(opened->has_value());
    const formats::TernaryMatrix& matrix = **opened;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(matrix.n() * matrix.k()));
    REQUIRE(matrix.decode(0, matrix.n(), codes.data()) == 0);
    auto encoder = formats::TernaryEncoder::make(
        {.type = tensor.type, .rows = matrix.n(), .columns = matrix.k(), .i2s_layout = layout, .tile = {}},
        matrix.scale_kind(), matrix.group(), matrix.scales());
    REQUIRE(encoder.ok());
    REQUIRE(encoder->add_rows(codes).ok());
    const auto packed = encoder->finish();
    REQUIRE(packed.ok());
    const auto at = static_cast<std::size_t>(tensor.data.data() - file->bytes().data());
    REQUIRE(packed->size() == tensor.bytes);
    std::memcpy(bytes.data() + at, packed->data(), packed->size());
  }
  std::ofstream(to, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

TEST_CASE("a sound model: no error, and its own layout is the best") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const json plain = checked(programs, quoted(kDefaultModel), 0);
  CHECK(has_finding(plain, "note", "--text"));
  const json scored = checked(programs, quoted(kDefaultModel) + " --text " + quoted(kText), 0);
  CHECK(scored.at("i2s_layout") == "x86");
  REQUIRE(scored.at("i2s_layouts").size() == 3);
  const Outcome text = programs.bitnet("compat-check", quoted(kDefaultModel));
  CHECK(text.code == 0);
  CHECK(text.out.find("can be run") != std::string::npos);
}

TEST_CASE("the ARM and the 4-row layout are found by a text") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  for (const auto& [layout, name] : {std::pair{formats::I2sLayout::kArm, "arm"}, {formats::I2sLayout::k4Row, "4row"}}) {
    CAPTURE(name);
    const std::string path = programs.folder.file(std::string(name) + ".gguf");
    repack(kDefaultModel, path, layout);
    const json report = checked(programs, quoted(path) + " --text " + quoted(kText), 3);
    CHECK(report.at("i2s_layout") == name);
    CHECK(has_finding(report, "error", std::string("--i2s-layout ") + name));
    const json told = checked(programs, quoted(path) + " --text " + quoted(kText) + " --i2s-layout " + name, 0);
    CHECK(told.at("i2s_layout") == name);
    double best = 0.0;
    double others = 1e30;
    for (const json& entry : told.at("i2s_layouts")) {
      const double perplexity = entry.at("perplexity");
      if (entry.at("layout") == name) best = perplexity;
      if (entry.at("layout") != name) others = std::min(others, perplexity);
    }
    CHECK(best * 2.0 < others);  // no close call
    // Right again where it is run with the option: the same text as the original.
    const std::string run = " -p 'The licence' -n 8 --greedy --bundle none -q";
    CHECK(programs.bitnet("run", "-m " + quoted(path) + run + " --i2s-layout " + name).out ==
          programs.bitnet("run", "-m " + quoted(kDefaultModel) + run).out);
  }
}

TEST_CASE("what would fail: containers and tensors 3, tokenizers 4, all of it in one go") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const std::string path = programs.folder.file("x.gguf");
  const std::string whole = test::read_text(kDefaultModel);
  const auto write = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  write(whole.substr(0, whole.size() / 2));
  CHECK(checked(programs, quoted(path), 3).at("findings").size() == 1);
  write("not a model");
  checked(programs, quoted(path), 3);

  // A tensor of another name: missing, and one too many.
  std::string renamed = whole;
  const std::size_t name = renamed.find("blk.0.attn_q.weight");
  REQUIRE(name != std::string::npos);
  renamed[name + 4] = '9';
  write(renamed);
  const json missing = checked(programs, quoted(path), 3);
  CHECK(has_finding(missing, "error", "blk.0.attn_q.weight"));

  // A scale that no model has, and a tokenizer that is none: both are told, the weights decide the exit code.
  std::string tokenless = whole;
  const std::size_t key = tokenless.find("tokenizer.ggml.model");
  REQUIRE(key != std::string::npos);
  tokenless[key] = 'T';
  write(tokenless);
  CHECK(has_finding(checked(programs, quoted(path), 4), "error", "tokenizer.ggml.model"));
  const auto file = gguf::File::open(kDefaultModel);
  REQUIRE(file.ok());
  const gguf::Tensor* q = file->find_tensor("blk.0.attn_q.weight");
  REQUIRE(q != nullptr);
  REQUIRE(q->type == gguf::TensorType::kI2_S);
  const auto scale = static_cast<std::size_t>(q->data.data() - file->bytes().data()) + q->bytes - 32;
  std::memset(tokenless.data() + scale, 0xFF, 4);
  write(tokenless);
  const json both = checked(programs, quoted(path), 3);
  CHECK(has_finding(both, "error", "scale"));
  CHECK(has_finding(both, "error", "tokenizer.ggml.model"));

  programs.refuses("compat-check", quoted(path) + " --tokens 20", 2, "--text", "");
}

TEST_CASE("inspect describes the model, counts its weights and looks at its norms") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const Outcome outcome = programs.bitnet("inspect", quoted(kDefaultModel) + " --json --ternary --ln-stats");
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  const json report = json::parse(outcome.out, nullptr, false);
  REQUIRE(!report.is_discarded());
  const json& model = report.at("model");
  CHECK(model.at("architecture") == "bitnet-b1.58");
  CHECK(model.at("activation") == "relu2");
  CHECK(model.at("rope").at("kind") == "neox");
  CHECK(model.at("tied_head") == true);
  CHECK(model.at("kv").at("bytes_per_position").at("f16") ==
        4 * model.at("layers").get<int>() * model.at("kv_heads").get<int>() * model.at("head_dim").get<int>());
  CHECK(model.at("kv").at("bytes_per_position").at("f32") ==
        2 * model.at("kv").at("bytes_per_position").at("f16").get<int>());
  CHECK(model.at("tokenizer").at("tokens") == model.at("vocab"));
  const json& tensors = report.at("ternary").at("tensors");
  CHECK(tensors.size() == model.at("precision").at("ternary_tensors"));
  std::uint64_t weights = 0;
  for (const json& row : tensors) {
    const auto count = [&](const char* key) { return row.at(key).get<std::uint64_t>(); };
    CHECK(count("minus") + count("zero") + count("plus") == count("rows") * count("columns"));
    CHECK(row.at("doubt").is_null());
    CHECK(row.at("scales") == "tensor");
    weights += count("rows") * count("columns");
  }
  CHECK(weights == model.at("precision").at("ternary_weights"));
  const json& norms = report.at("norms");
  CHECK(norms.size() == 4 * model.at("layers").get<std::size_t>() + 1);
  for (const json& row : norms) CHECK(row.at("doubt").is_null());
  const Outcome text = programs.bitnet("inspect", quoted(kDefaultModel) + " --ternary --ln-stats");
  CHECK(text.code == 0);
  CHECK(text.out.find("blk.0.attn_norm.weight") != std::string::npos);
}

TEST_CASE("lists") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  CHECK(programs.bitnet("list-architectures", "").out.find("gemma3") != std::string::npos);
  const json list = json::parse(programs.bitnet("list-architectures", "--json").out, nullptr, false);
  REQUIRE(list.is_array());
  CHECK(list.front().at("name") == "bitnet");
  const json templates =
      json::parse(programs.bitnet("list-templates", "--json -m " + quoted(kDefaultModel)).out, nullptr, false);
  REQUIRE(!templates.is_discarded());
  CHECK(templates.at("templates").size() >= 5);
  CHECK(templates.at("model").at("template") == "raw");
  CHECK(programs.bitnet("list-templates", "").out.find("<|im_start|>user\\n{prompt}") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
