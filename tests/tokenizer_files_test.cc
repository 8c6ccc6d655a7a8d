// tokenizer.json, ranks and directories: what is read, what is refused by name, and the command `bitnet tokenize`.
#include <doctest/doctest.h>

#include <array>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/tokenizer/byte_spelling.h"
#include "runtime/tokenizer/directory.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/hf_files.h"
#include "tests/programs.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

// Byte-level BPE: the 256 bytes (id = byte), "ab" = 256, special tokens behind.
Json byte_level() {
  Json vocab = Json::object();
  for (unsigned byte = 0; byte < 256; ++byte)
    vocab[tokenizer::spell_bytes(std::string(1, static_cast<char>(byte)))] = byte;
  vocab["ab"] = 256;
  const auto token = [](int id, const char* content, bool special) {
    return Json{{"id", id},        {"content", content},   {"special", special},    {"lstrip", false},
                {"rstrip", false}, {"single_word", false}, {"normalized", !special}};
  };
  return {{"version", "1.0"},
          {"added_tokens", {token(257, "<s>", true), token(258, "</s>", true), token(260, "[USER]", false)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b"}}}}};
}

Result<Tokenizer> read(const Json& json) { return Tokenizer::from_json(json.dump(), "tokenizer.json"); }

Tokenizer made(const Json& json) {
  auto result = read(json);
  REQUIRE_MESSAGE(result.ok(), result.error().message);
  return *std::move(result);
}

Ids encoded(const Tokenizer& t, std::string_view text, bool parse_special = true) {
  const auto ids = t.encode(text, false, parse_special);
  REQUIRE_MESSAGE(ids.ok(), ids.error().message);
  return *ids;
}

TEST_CASE("tokenizer.json: tokens, special and added ones, gaps") {
  const Tokenizer t = made(byte_level());
  CHECK(t.size() == 261);
  CHECK(t.data().pre == "gpt-2");
  CHECK(t.data().pipeline.empty());
  CHECK(t.piece(259) == "[PAD259]");
  CHECK(encoded(t, "ab[USER]b<s>") == Ids{256, 260, 'b', 257});
  CHECK(encoded(t, "<s>", false) == Ids{'<', 's', '>'});
  CHECK(encoded(t, "[USER]", false) == Ids{260});
  CHECK(t.is_control(257));
  CHECK(t.is_eos(258));
  CHECK(!t.adds_bos());
  CHECK(t.decode(Ids{257, 256, 260}) == "ab[USER]");
}

TEST_CASE("tokenizer.json: flags of added tokens") {
  Json json = byte_level();
  Json& user = json["added_tokens"][2];
  user["lstrip"] = true;
  CHECK(encoded(made(json), "a \n[USER] b") == Ids{'a', 260, ' ', 'b'});
  user["lstrip"] = false;
  user["rstrip"] = true;
  CHECK(encoded(made(json), "a [USER] \u3000b") == Ids{'a', ' ', 260, 'b'});
  user["rstrip"] = false;
  user["content"] = "word";
  user["single_word"] = true;
  const Tokenizer t = made(json);
  CHECK(encoded(t, "word").size() == 1);
  CHECK(encoded(t, "-word-").size() == 3);
  CHECK(encoded(t, "words").size() == 5);
  CHECK(encoded(t, "\u00E9word").size() == 6);
}

TEST_CASE("tokenizer.json: an added token that is a piece, too, may be found by the model") {
  Json json = byte_level();
  json["model"] = {{"type", "Unigram"},
                   {"unk_id", 0},
                   {"vocab", Json::parse(R"([["<unk>", 0], ["word", -1], ["end", -1], ["s", -2], ["x", -2]])")}};
  const auto token = [](int id, const char* content, bool special) {
    return Json{{"id", id}, {"content", content}, {"special", special}, {"single_word", true}, {"normalized", false}};
  };
  json["added_tokens"] = {token(1, "word", false), token(2, "end", true), token(5, "new", false)};
  json["pre_tokenizer"] = json["decoder"] = nullptr;
  const Tokenizer t = made(json);
  CHECK(encoded(t, "word") == Ids{1});
  CHECK(encoded(t, "words") == Ids{1, 3});
  CHECK(encoded(t, "xword") == Ids{4, 1});
  CHECK(encoded(t, "new") == Ids{5});
  CHECK(encoded(t, "news") == Ids{0, 3});  // the model does not know it
  CHECK(encoded(t, "ends") == Ids{2, 3});
  CHECK(encoded(t, "ends", false) == Ids{0, 3});  // nothing becomes a control token that was not asked for
  // Characters that merge: "ab" is a piece, "b" one of its characters.
  json["model"] = {{"type", "BPE"},
                   {"unk_token", "<unk>"},
                   {"vocab", {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}, {"x", 4}}},
                   {"merges", {"a b"}}};
  json["added_tokens"] = {token(2, "b", false), token(3, "ab", true), token(5, "n", false)};
  const Tokenizer merged = made(json);
  CHECK(encoded(merged, "xb") == Ids{4, 2});
  CHECK(encoded(merged, "xab") == Ids{4, 3});
  CHECK(encoded(merged, "xab", false) == Ids{4, 1, 2});
  CHECK(encoded(merged, "xn") == Ids{4, 0});
  CHECK(encoded(merged, "n") == Ids{5});
}

TEST_CASE("tokenizer.json: what the post_processor adds") {
  Json json = byte_level();
  const auto special = [](const char* name) { return Json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}}; };
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {special("<s>"), {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, special("</s>")}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {257}}}}, {"</s>", {{"id", "</s>"}, {"ids", {258}}}}}}};
  const Tokenizer t = made(json);
  CHECK(t.adds_bos());
  CHECK(t.adds_eos());
  CHECK(t.bos() == 257);
  const auto ids = t.encode("ab", true, false, true);
  REQUIRE(ids.ok());
  CHECK(*ids == Ids{257, 256, 258});
  json["post_processor"]["single"].push_back(special("<s>"));
  CHECK(!read(json).ok());
}

TEST_CASE("tokenizer.json: everything else is refused by name") {
  const auto refused = [](const std::function<void(Json&)>& edit, std::string_view part) {
    Json json = byte_level();
    edit(json);
    const auto result = read(json);
    REQUIRE_MESSAGE(!result.ok(), part);
    CHECK(result.error().code == ErrorCode::kTokenizer);
    CHECK_MESSAGE(result.error().message.find("tokenizer.json: ") == 0, result.error().message);
    CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
  };
  refused([](Json& j) { j["model"]["type"] = "WordPiece"; }, "\"WordPiece\"");
  refused([](Json& j) { j["model"]["type"] = 5; }, "'type'");
  refused([](Json& j) { j.erase("model"); }, "'model'");
  refused([](Json& j) { j["model"]["merges"] = Json::array(); }, "merges");
  refused([](Json& j) { j["model"]["merges"] = {5}; }, "merges[0]");
  refused([](Json& j) { j["model"]["merges"] = {"a c"}; }, "\"ac\" is no token");
  refused([](Json& j) { j["model"]["vocab"]["x y"] = "1"; }, "expected an id");
  refused([](Json& j) { j["model"]["vocab"]["x y"] = 4; }, "have both the id 4");
  refused([](Json& j) { j["model"]["vocab"]["x y"] = 4000000000U; }, "expected less than");
  refused([](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout");
  refused([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
  refused([](Json& j) { j["model"]["unk_token"] = "none"; }, "unknown token");
  refused([](Json& j) { j["normalizer"] = {{"type", "BertNormalizer"}}; }, "\"BertNormalizer\"");
  refused([](Json& j) { j["normalizer"] = 1; }, "'normalizer'");
  refused([](Json& j) { j["pre_tokenizer"] = {{"type", "BertPreTokenizer"}}; }, "\"BertPreTokenizer\"");
  refused([](Json& j) { j["decoder"] = {{"type", "WordPiece"}}; }, "\"WordPiece\"");
  refused([](Json& j) { j["post_processor"] = {{"type", "Other"}}; }, "\"Other\"");
  refused([](Json& j) { j["added_tokens"][0]["id"] = -1; }, "'id'");
  refused([](Json& j) { j["added_tokens"][0]["id"] = 97; }, "have both the id 97");
  refused([](Json& j) { j["added_tokens"] = "x"; }, "'added_tokens'");
  refused(
      [](Json& j) {
        j["decoder"] = nullptr;
        j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Isolated"}};
      },
      "\\w is not supported");
  refused([](Json& j) { j = Json::array(); }, "JSON object");
  const std::string text = byte_level().dump();
  const auto cut = Tokenizer::from_json(std::string_view(text).substr(0, text.size() - 1), "tokenizer.json");
  CHECK(!cut.ok());
  const auto deep = Tokenizer::from_json(std::string(100000, '['), "tokenizer.json");
  REQUIRE(!deep.ok());
  CHECK(deep.error().message.find("32 deep") != std::string::npos);
}

// 128000 ranks: the bytes, then pairs and triples of them.
std::vector<std::string> rank_lines() {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<std::string> lines;
  for (std::size_t rank = 0; rank < 128000; ++rank) {
    std::string bytes(1, static_cast<char>(rank % 256));
    for (std::size_t rest = rank / 256; rest > 0; rest /= 256) bytes += static_cast<char>((rest - 1) % 256);
    std::string line;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
      std::uint32_t bits = 0;
      for (std::size_t j = 0; j < 3; ++j) {
        bits = bits << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
      }
      for (std::size_t j = 0; j < 4; ++j) line += i + j <= bytes.size() ? kDigits[bits >> (18 - 6 * j) & 63] : '=';
    }
    lines.push_back(line + " " + std::to_string(rank) + "\n");
  }
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

TEST_CASE("tiktoken ranks: read, or refused with the line") {
  const std::vector<std::string> lines = rank_lines();
  const auto t = Tokenizer::from_tiktoken(joined(lines), "ranks");
  REQUIRE_MESSAGE(t.ok(), t.error().message);
  CHECK(t->size() == 128256);
  CHECK(t->bos() == 128000);
  CHECK(t->piece(128009) == "<|eot_id|>");
  CHECK(t->piece(128002) == "<|reserved_special_token_0|>");
  CHECK(t->adds_bos());
  CHECK(encoded(*t, "a") == Ids{'a'});
  CHECK(t->decode(encoded(*t, "any text \u00E9\n")) == "any text \u00E9\n");
  const auto refused = [&](std::size_t line, const std::string& text, std::string_view part) {
    std::vector<std::string> other = lines;
    other[line] = text;
    const auto result = Tokenizer::from_tiktoken(joined(other), "ranks");
    REQUIRE(!result.ok());
    CHECK(result.error().code == ErrorCode::kTokenizer);
    CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
  };
  refused(3, "Aw==\n", "line 4: expected a token in base64, a space");
  refused(3, "Aw= 3\n", "line 4: expected base64");
  refused(3, "A!== 3\n", "line 4: expected base64");
  refused(3, "Aw== 4\n", "line 4: expected rank 3");
  refused(3, "Aw== 3x\n", "line 4: expected rank 3");
  refused(3, "Ag== 3\n", "ranks 2 and 3 are the same token");
  refused(3, "\n", "line 4");
  refused(127999, "", "found 127999");
  refused(127999, lines[127999] + "AAAAAAAA 128000\n", "at most 128000");
}

struct Folder {
  std::string path;
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "bitnet_tokenizer_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const char* name) const { return path + "/" + name; }
  void write(const char* name, const std::string& text) const { test::write_file(file(name), text); }
};

TEST_CASE("a directory with tokenizer.json: flags, ids, template, padding") {
  const Folder folder;
  folder.write("tokenizer.json", byte_level().dump());
  folder.write(
      "tokenizer_config.json",
      R"({"add_bos_token": true, "bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ m }}",)"
      R"("added_tokens_decoder": {"262": {"content": "<|im_end|>", "special": true}}})");
  folder.write("config.json", R"({"eos_token_id": [258, 262], "vocab_size": 300})");
  std::vector<std::string> warnings;
  const auto data = read_tokenizer_directory(folder.path, 300, warnings);
  REQUIRE_MESSAGE(data.ok(), data.error().message);
  CHECK(data->tokens.size() == 300);
  CHECK(data->tokens[299] == "[PAD299]");
  CHECK(data->types[299] == 5);
  CHECK(data->flags.size() == 300);
  CHECK(data->bos == 257U);
  CHECK(data->eos == 258U);
  CHECK(data->eot == 262U);
  CHECK(data->add_bos == true);
  CHECK(data->chat_template == "{{ m }}");
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find("263 pieces for a vocabulary of 300") != std::string::npos);
  CHECK(!read_tokenizer_directory(folder.path, 260, warnings).ok());
  folder.write("chat_template.jinja", "other");
  CHECK(read_tokenizer_directory(folder.path, 0, warnings)->chat_template == "other");
}

TEST_CASE("a directory with several files: tokenizer.json first, the model in its place if it is refused") {
  const Folder folder;
  std::vector<std::string> warnings;
  const auto none = read_tokenizer_directory(folder.path, 0, warnings);
  REQUIRE(!none.ok());
  CHECK(none.error().code == ErrorCode::kTokenizer);
  test::SpmModel spm;
  spm.add("\u2581a", -1);
  folder.write("tokenizer.model", spm.bytes());
  CHECK(read_tokenizer_directory(folder.path, 0, warnings)->model == "llama");
  Json json = byte_level();
  folder.write("tokenizer.json", json.dump());
  CHECK(read_tokenizer_directory(folder.path, 0, warnings)->model == "gpt2");
  json["model"]["type"] = "WordPiece";
  folder.write("tokenizer.json", json.dump());
  warnings.clear();
  CHECK(read_tokenizer_directory(folder.path, 0, warnings)->model == "llama");
  CHECK(warnings.front().find("WordPiece") != std::string::npos);
  fs::remove(folder.file("tokenizer.model"));
  CHECK(!read_tokenizer_directory(folder.path, 0, warnings).ok());
}

TEST_CASE("the turns of a SentencePiece model's conversations are control tokens, and end an answer") {
  const Folder folder;
  test::SpmModel spm;
  spm.add("\u2581a", -1);
  const auto start = static_cast<std::int32_t>(spm.pieces.size());
  for (const char* piece : {"<start_of_turn>", "<end_of_turn>", "<table>", "[tool]"}) spm.add(piece, 0, 4);
  folder.write("tokenizer.model", spm.bytes());
  const auto types_of = [&](std::vector<std::int32_t> wanted) {
    std::vector<std::string> warnings;
    const auto data = read_tokenizer_directory(folder.path, 0, warnings);
    REQUIRE_MESSAGE(data.ok(), data.error().message);
    CHECK(std::vector<std::int32_t>(data->types.begin() + start, data->types.end()) == wanted);
    CHECK(data->eot == static_cast<std::uint32_t>(start + 1));
    const auto t = Tokenizer::from_vocabulary(*data, "gemma");
    REQUIRE_MESSAGE(t.ok(), t.error().message);
    CHECK(t->is_eos(start + 1));
    CHECK(t->is_control(start + 1));
    CHECK(t->decode(Ids{start, start - 1, start + 1}) == "a");  // nothing of the turns is shown
    CHECK(encoded(*t, "<end_of_turn>") == Ids{start + 1});
    CHECK(encoded(*t, "<end_of_turn>", false).size() > 1);  // not to be forged in a text
    CHECK(encoded(*t, "<table>", false) == Ids{start + 2});
  };
  types_of({3, 3, 4, 4});
  const std::string tool = std::to_string(start + 3);
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {")" + tool + R"(": {"content": "[tool]", "special": true}, ")" +
                   std::to_string(start + 2) + R"(": {"content": "<table>", "special": false}}})");
  types_of({3, 3, 4, 3});
}

TEST_CASE("a character BPE in tokenizer.json with the SentencePiece model beside it: the scores of the model") {
  const Folder folder;
  test::SpmModel spm;
  for (const char* piece : {"a", "b", "\u2581", "ab"}) spm.add(piece, -7);
  Json vocab = Json::object();
  for (std::size_t id = 0; id < spm.pieces.size(); ++id) vocab[spm.pieces[id].piece] = id;
  Json json = byte_level();
  json["added_tokens"] = Json::array();
  json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  json["pre_tokenizer"] = json["decoder"] = nullptr;
  json["model"] = {{"type", "BPE"},        {"vocab", vocab},        {"merges", Json::array({Json::array({"a", "b"})})},
                   {"unk_token", "<unk>"}, {"byte_fallback", true}, {"fuse_unk", true}};
  folder.write("tokenizer.json", json.dump());
  std::vector<std::string> warnings;
  const auto alone = read_tokenizer_directory(folder.path, 0, warnings);
  REQUIRE_MESSAGE(alone.ok(), alone.error().message);
  CHECK(alone->scores[262] == -1.0F);
  folder.write("tokenizer.model", spm.bytes());
  const auto both = read_tokenizer_directory(folder.path, 0, warnings);
  REQUIRE_MESSAGE(both.ok(), both.error().message);
  CHECK(both->scores[262] == -7.0F);
  CHECK(both->merges.size() == 1);
}

TEST_CASE("the command: ids, pieces, exit codes") {
  if (test::program("bitnet").empty()) return;
  const test::Programs programs;
  const std::string path = programs.folder.file("tokenizer.json");
  const std::string text = programs.folder.file("text");
  test::write_file(path, byte_level().dump());
  test::write_file(text, "ab<s>\n");
  const std::string model = "-m '" + path + "' ";
  const test::Outcome all = programs.bitnet("tokenize", model + "--json --parse-special -f '" + text + "'");
  REQUIRE_MESSAGE(all.code == 0, all.err);
  const Json report = Json::parse(all.out);
  CHECK(report["tokens"] == Json({256, 257, 10}));
  CHECK(report["pieces"] == Json({"ab", "<s>", "\u010A"}));
  CHECK(report["count"] == 3);
  CHECK(report["tokenizer"]["sha256"] == made(byte_level()).digest());
  CHECK(programs.bitnet("tokenize", model + "-p ab").out == "256\t\"ab\"\n");
  CHECK(programs.bitnet("tokenize", model, "printf ab |").out == "256\t\"ab\"\n");
  programs.refuses("tokenize", model + "-p a -f b", 2, "excludes", "");
  CHECK(programs.bitnet("tokenize", "--help").out.find("tokenizer.json") != std::string::npos);
  // What the vocabulary puts around a text, unless it is told not to.
  Json framed = byte_level();
  const auto special = [](const char* name) { return Json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}}; };
  framed["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {special("<s>"), {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, special("</s>")}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {257}}}}, {"</s>", {{"id", "</s>"}, {"ids", {258}}}}}}};
  test::write_file(path, framed.dump());
  CHECK(programs.bitnet("tokenize", model + "-p ab").out == "257\t\"<s>\"\n256\t\"ab\"\n258\t\"</s>\"\n");
  CHECK(programs.bitnet("tokenize", model + "-p ab --no-bos").out == "256\t\"ab\"\n258\t\"</s>\"\n");
  CHECK(programs.bitnet("tokenize", model + "-p ab --no-eos").out == "257\t\"<s>\"\n256\t\"ab\"\n");
  CHECK(programs.bitnet("tokenize", model + "-p ab --no-eos --no-bos").out == "256\t\"ab\"\n");
  programs.refuses("tokenize", "-m /nonexistent -p ab", 1, "/nonexistent", "");
  test::write_file(path, "{}");
  programs.refuses("tokenize", model + "-p ab", 4, "'model'", "");
}

}  // namespace
}  // namespace bitnet
