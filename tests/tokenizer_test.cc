// The tokenizer on a small vocabulary made here, and, where the assets are, on real ones with known answers.
#include "runtime/tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/synth/synth.h"
#include "tests/assets.h"

namespace bitnet {
namespace {

using Ids = std::vector<std::int32_t>;

// A vocabulary that tests may damage before it is encoded as a GGUF file in memory.
struct TestVocabulary {
  std::string model = "llama";
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores = {0, 0, 0};
  std::vector<std::int32_t> types = {2, 3, 3};
  std::optional<std::uint32_t> bos = 1;
  std::optional<std::uint32_t> eos = 2;
  std::optional<std::uint32_t> unknown = 0;
  std::optional<std::uint32_t> padding, separator, mask;
  std::optional<std::int32_t> signed_eot, signed_mask;  // as some writers type them
  std::optional<bool> add_space_prefix;
  std::optional<bool> add_bos;

  TestVocabulary() {
    for (unsigned byte = 0; byte < 256; ++byte) {
      char spelling[8];
      std::snprintf(spelling, sizeof spelling, "<0x%02X>", byte);
      add(spelling, 0, 6);
    }
  }
  std::int32_t add(std::string token, float score, std::int32_t type = 1) {
    tokens.push_back(std::move(token));
    scores.push_back(score);
    types.push_back(type);
    return static_cast<std::int32_t>(tokens.size()) - 1;
  }
  Result<Tokenizer> load(bool strict = false) const {
    gguf::Writer writer;
    writer.set("general.architecture", "llama");
    writer.set("tokenizer.ggml.model", std::string_view(model));
    writer.set("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
    writer.set("tokenizer.ggml.scores", std::span<const float>(scores));
    writer.set("tokenizer.ggml.token_type", std::span<const std::int32_t>(types));
    if (bos) writer.set("tokenizer.ggml.bos_token_id", *bos);
    if (eos) writer.set("tokenizer.ggml.eos_token_id", *eos);
    if (unknown) writer.set("tokenizer.ggml.unknown_token_id", *unknown);
    if (padding) writer.set("tokenizer.ggml.padding_token_id", *padding);
    if (separator) writer.set("tokenizer.ggml.seperator_token_id", *separator);
    if (mask) writer.set("tokenizer.ggml.mask_token_id", *mask);
    if (signed_eot) writer.set("tokenizer.ggml.eot_token_id", *signed_eot);
    if (signed_mask) writer.set("tokenizer.ggml.mask_token_id", *signed_mask);
    if (add_space_prefix) writer.set("tokenizer.ggml.add_space_prefix", *add_space_prefix);
    if (add_bos) writer.set("tokenizer.ggml.add_bos_token", *add_bos);
    const auto bytes = writer.header();
    REQUIRE(bytes.ok());
    const auto file = gguf::File::parse(*bytes, "test.gguf");
    INFO((file.ok() ? std::string() : file.error().message));
    REQUIRE(file.ok());
    return Tokenizer::from_gguf(*file, strict);  // file and bytes end here: the tokenizer owns its strings
  }
};

// "ab" and "bc" overlap; "abc" needs "ab" first; U+2581 alone, before "ab", and twice.
struct Letters : TestVocabulary {
  std::int32_t space, a, b, c, d, ab, bc, abc, space_ab, spaces, cedilla, user, turn;
  Letters() {
    space = add("\u2581", -20);
    a = add("a", -21);
    b = add("b", -22);
    c = add("c", -23);
    d = add("d", -24);
    ab = add("ab", -3);
    bc = add("bc", -4);
    abc = add("abc", -5);
    space_ab = add("\u2581ab", -6);
    spaces = add("\u2581\u2581", -7);
    cedilla = add("\u00E7", -25);
    user = add("[USER]", 0, 4);
    turn = add("<|eot_id|>", 0, 3);
  }
};

Tokenizer loaded(const TestVocabulary& vocabulary) {
  auto result = vocabulary.load();
  INFO((result.ok() ? std::string() : result.error().message));
  REQUIRE(result.ok());
  return *std::move(result);
}

Ids encoded(const Tokenizer& tokenizer, std::string_view text, bool add_bos = false, bool parse_special = false) {
  const auto ids = tokenizer.encode(text, add_bos, parse_special);
  REQUIRE(ids.ok());
  return *ids;
}

std::int32_t byte_id(unsigned byte) { return 3 + static_cast<std::int32_t>(byte); }

void check_refused(const TestVocabulary& vocabulary, const char* part) {
  const auto result = vocabulary.load();
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == ErrorCode::kTokenizer);
  INFO(result.error().message);
  CHECK(result.error().message.find(part) != std::string::npos);
  CHECK(result.error().message.find("test.gguf") != std::string::npos);
}

TEST_CASE("pairs merge by score, leftmost first on a tie") {
  Letters v;
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "ab") == Ids{v.space_ab});
  CHECK(encoded(t, "abc") == Ids{v.space, v.abc});  // "ab" (-3), then "abc" (-5) before "_ab" (-6)
  CHECK(encoded(t, "bc") == Ids{v.space, v.bc});
  CHECK(encoded(t, "abab") == Ids{v.space_ab, v.ab});
  CHECK(encoded(t, "ab ab") == Ids{v.space_ab, v.space_ab});
  CHECK(encoded(t, "a  d") == Ids{v.space, v.a, v.spaces, v.d});
  CHECK(encoded(t, "   ") == Ids{v.spaces, v.spaces});
  CHECK(encoded(t, " ") == Ids{v.spaces});
  CHECK(encoded(t, "").empty());

  Letters ties;
  const std::int32_t aa = ties.add("aa", -2);
  const Tokenizer u = loaded(ties);
  CHECK(encoded(u, "aaa") == Ids{ties.space, aa, ties.a});
  CHECK(encoded(u, "aaaaa") == Ids{ties.space, aa, aa, ties.a});
}

TEST_CASE("characters without a piece become bytes, in any text") {
  Letters v;
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "\u00E7") == Ids{v.space, v.cedilla});
  CHECK(encoded(t, "\u00E9") == Ids{v.space, byte_id(0xC3), byte_id(0xA9)});
  CHECK(encoded(t, std::string_view("\0\n", 2)) == Ids{v.space, byte_id(0), byte_id(10)});
  CHECK(encoded(t, "\xFF\xC3") == Ids{v.space, byte_id(0xFF), byte_id(0xC3)});
  // The spelling of a byte or control token in a text is ordinary text.
  CHECK(encoded(t, "<0x41>").size() == 7);
  CHECK(encoded(t, "</s>").size() == 5);
}

TEST_CASE("special tokens") {
  Letters v;
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "ab", true) == Ids{1, v.space_ab});
  CHECK(encoded(t, "", true) == Ids{1});
  CHECK(encoded(t, "ab</s>c", false, true) == Ids{v.space_ab, 2, v.space, v.c});
  CHECK(encoded(t, "<s>", false, true) == Ids{1});
  // User-defined tokens are always found.
  CHECK(encoded(t, "[USER]ab[USER]") == Ids{v.user, v.space_ab, v.user});
  CHECK(encoded(t, "[USER").front() == v.space);
  CHECK(t.bos() == 1);
  CHECK(t.eos() == 2);
  CHECK(t.size() == static_cast<std::int32_t>(v.tokens.size()));
  CHECK(t.adds_bos());
  CHECK(t.is_eos(2));
  CHECK(t.is_eos(v.turn));
  CHECK_FALSE(t.is_eos(v.user));
  CHECK_FALSE(t.is_eos(-1));
  CHECK(t.is_control(v.turn));
  CHECK_FALSE(t.is_control(v.a));
  CHECK(t.piece(v.space_ab) == "\u2581ab");
  CHECK(t.piece(-1).empty());
  CHECK(t.piece(t.size()).empty());
}

TEST_CASE("longest of several special tokens wins") {
  Letters v;
  const std::int32_t longer = v.add("[USER]!", 0, 4);
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "[USER]![USER]") == Ids{longer, v.user});
}

TEST_CASE("flags and missing ids") {
  Letters v;
  v.add_space_prefix = false;
  v.add_bos = false;
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "ab") == Ids{v.ab});
  CHECK_FALSE(t.adds_bos());
  CHECK(t.decode(Ids{v.space_ab}) == " ab");  // no space was put before the text, none is taken

  v.bos = v.eos = std::nullopt;
  CHECK(loaded(v).bos() == 1);  // by spelling
  CHECK(loaded(v).eos() == 2);
  v.tokens[1] = "<begin>";
  CHECK(loaded(v).bos() == -1);
  v.bos = 0xFFFFFFFFU;  // a writer's -1
  v.add_bos = true;
  const Tokenizer without = loaded(v);
  CHECK(without.bos() == -1);
  CHECK_FALSE(without.adds_bos());
  CHECK_FALSE(without.is_eos(without.bos()));
  const auto ids = without.encode("ab", true, false);
  REQUIRE_FALSE(ids.ok());
  CHECK(ids.error().code == ErrorCode::kTokenizer);
}

TEST_CASE("ids that nothing uses are told and ignored where they are wrong; -1 is none") {
  Letters v;
  v.padding = 100000;
  v.separator = 272;
  v.mask = 271;  // the last one
  const Tokenizer t = loaded(v);
  REQUIRE(t.notes().size() == 2);
  CHECK(t.notes()[0] ==
        "tokenizer.ggml.padding_token_id is 100000; expected less than the 272 tokens of the vocabulary; the id is "
        "ignored");
  CHECK(t.notes()[1].find("tokenizer.ggml.seperator_token_id is 272") == 0);
  const auto strict = v.load(true);
  REQUIRE_FALSE(strict.ok());
  CHECK(strict.error().code == ErrorCode::kStrict);
  CHECK(strict.error().message.find("padding_token_id is 100000") != std::string::npos);

  Letters none;
  none.signed_eot = -1;
  none.signed_mask = -1;
  const Tokenizer u = loaded(none);
  CHECK(u.notes().empty());
  CHECK_FALSE(u.data().eot.has_value());
  CHECK_FALSE(u.data().mask.has_value());
  none.signed_eot = none.turn;
  CHECK(loaded(none).data().eot == static_cast<std::uint32_t>(none.turn));
  none.signed_eot = -2;
  check_refused(none, "tokenizer.ggml.eot_token_id");
}

TEST_CASE("a vocabulary with pieces across words is encoded as one text") {
  Letters v;
  v.add("b\u2581", 2);  // better than all others
  const std::int32_t across = v.add("b\u2581a", 1);
  const Tokenizer t = loaded(v);
  CHECK(encoded(t, "ab ab") == Ids{v.space, v.a, across, v.b});
}

TEST_CASE("decoder holds incomplete UTF-8 back") {
  Letters v;
  const Tokenizer t = loaded(v);
  Tokenizer::Decoder d(t);
  CHECK(d.push(1) == "");  // control
  CHECK(d.push(v.space_ab) == "ab");
  CHECK(d.push(v.space_ab) == " ab");
  CHECK(d.push(byte_id(0xF0)) == "");
  CHECK(d.push(byte_id(0x9F)) == "");
  CHECK(d.push(byte_id(0x98)) == "");
  CHECK(d.push(byte_id(0x80)) == "\U0001F600");
  CHECK(d.push(byte_id(0xE2)) == "");
  CHECK(d.push(v.a) == "\uFFFDa");  // proven invalid
  CHECK(d.push(byte_id(0x80)) == "\uFFFD");
  CHECK(d.push(byte_id(0xC0)) == "\uFFFD");
  CHECK(d.push(byte_id(0xE0)) == "");
  CHECK(d.push(byte_id(0x80)) == "\uFFFD\uFFFD");  // overlong: not a continuation of E0
  CHECK(d.push(byte_id(0xED)) == "");
  CHECK(d.push(byte_id(0xA0)) == "\uFFFD\uFFFD");  // a surrogate
  CHECK(d.push(0) == " \u2047 ");
  CHECK(d.push(t.size()) == "\uFFFD");
  CHECK(d.push(-5) == "\uFFFD");
  CHECK(d.push(byte_id(0xF0)) == "");
  CHECK(d.push(byte_id(0x90)) == "");
  CHECK(d.finish() == "\uFFFD");
  CHECK(d.finish() == "");
}

TEST_CASE("leading space") {
  Letters v;
  const Tokenizer t = loaded(v);
  CHECK(t.decode(encoded(t, " ab")) == " ab");
  CHECK(t.decode(Ids{v.spaces, v.a}) == " a");
  CHECK(t.decode(Ids{1, 2, v.space_ab}) == "ab");
  CHECK(t.decode(Ids{byte_id('x'), v.space_ab}) == "x ab");
  Tokenizer::Decoder continued(t, false);
  CHECK(continued.push(v.space_ab) == " ab");
}

TEST_CASE("a decoder outlives its tokenizer") {
  Letters v;
  std::optional<Tokenizer> t = loaded(v);
  Tokenizer::Decoder d(*t);
  t.reset();
  CHECK(d.push(v.abc) == "abc");
}

TEST_CASE("malformed vocabularies are refused") {
  const Letters good;
  {
    Letters v;
    v.model = "rwkv";
    check_refused(v, "rwkv");
    check_refused(v, "--prompt-ids");
  }
  {
    Letters v;
    v.scores.pop_back();
    check_refused(v, "tokenizer.ggml.scores has 271 entries; expected 272");
  }
  {
    Letters v;
    v.types.push_back(1);
    check_refused(v, "tokenizer.ggml.token_type has 273 entries; expected 272");
  }
  {
    Letters v;
    v.types[5] = 7;
    check_refused(v, "token_type[5] is 7");
  }
  {
    Letters v;
    v.types[5] = -1;
    check_refused(v, "token_type[5] is -1");
  }
  {
    Letters v;
    v.scores[9] = std::numeric_limits<float>::quiet_NaN();
    check_refused(v, "scores[9]");
  }
  {
    Letters v;
    v.bos = static_cast<std::uint32_t>(v.tokens.size());
    check_refused(v, "tokenizer.ggml.bos_token_id is 272");
  }
  {
    Letters v;
    v.eos = 100000;
    check_refused(v, "tokenizer.ggml.eos_token_id is 100000");
  }
  {
    Letters v;
    v.unknown = 272;
    check_refused(v, "unknown_token_id");
  }
  {
    Letters v;
    v.types[3 + 0x41] = 1;
    check_refused(v, "<0x41> is missing");
  }
  {
    Letters v;
    v.tokens[3 + 0x41] = "<0x40>";
    check_refused(v, "both byte token <0x40>");
  }
  {
    Letters v;
    v.tokens[3 + 0x41] = "<0xG1>";
    check_refused(v, "<0xG1>");
  }
  {
    Letters v;
    v.tokens.clear();
    v.scores.clear();
    v.types.clear();
    check_refused(v, "0 tokens");
  }
  CHECK(good.load().ok());
}

TEST_CASE("a file without a tokenizer is refused") {
  gguf::Writer writer;
  writer.set("general.architecture", "llama");
  const auto bytes = writer.header();
  REQUIRE(bytes.ok());
  const auto file = gguf::File::parse(*bytes, "test.gguf");
  REQUIRE(file.ok());
  const auto t = Tokenizer::from_gguf(*file);
  REQUIRE_FALSE(t.ok());
  CHECK(t.error().code == ErrorCode::kTokenizer);
  CHECK(t.error().message.find("--prompt-ids") != std::string::npos);
}

// The definition, slowly: look for the best pair of the whole list before each merge.
Ids slow_encode(const TestVocabulary& v, const std::string& text) {
  std::vector<std::string> symbols;
  std::string marked = "\u2581";
  for (const char c : text) {
    if (c == ' ') {
      marked += "\u2581";
    } else {
      marked += c;
    }
  }
  for (const char c : marked) {
    const bool continues = (static_cast<unsigned char>(c) & 0xC0) == 0x80;
    if (!continues) symbols.emplace_back();
    symbols.back() += c;
  }
  const auto find = [&](const std::string& piece) {
    for (std::size_t i = 0; i < v.tokens.size(); ++i) {
      if (v.types[i] == 1 && v.tokens[i] == piece) return static_cast<std::int32_t>(i);
    }
    return std::int32_t{-1};
  };
  while (true) {
    std::size_t best = symbols.size();
    float score = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const std::int32_t id = find(symbols[i] + symbols[i + 1]);
      if (id < 0) continue;
      const float s = v.scores[static_cast<std::size_t>(id)];
      if (best == symbols.size() || s > score) {
        best = i;
        score = s;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const std::int32_t id = find(symbol);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      for (const char c : symbol) ids.push_back(byte_id(static_cast<unsigned char>(c)));
    }
  }
  return ids;
}

TEST_CASE("random vocabularies and texts: equal to the slow definition, and back") {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    TestVocabulary v;
    const std::vector<std::string> alphabet = {"\u2581", "a", "b", "c", "\u00E9"};
    for (const std::string& c : alphabet) {
      // A vocabulary without U+2581 spells it in bytes, which do not come back as a space.
      if (c == "\u2581" || random() % 8 != 0) v.add(c, -30);
    }
    for (int i = 0; i < 30; ++i) {
      std::string piece;
      const unsigned length = 2 + random() % 3;
      const bool across = round % 2 == 1;  // odd rounds: U+2581 anywhere
      for (unsigned j = 0; j < length; ++j)
        piece += alphabet[(across || j == 0 ? 0 : 1) + random() % (across || j == 0 ? 5 : 4)];
      bool known = false;
      for (const std::string& token : v.tokens) known = known || token == piece;
      if (!known) v.add(piece, -static_cast<float>(random() % 10));  // many ties
    }
    const Tokenizer t = loaded(v);
    for (int i = 0; i < 20; ++i) {
      std::string text;
      const unsigned length = 1 + random() % 40;
      const std::vector<std::string> characters = {" ", "a", "b", "c", "\u00E9", "\U0001F600"};
      for (unsigned j = 0; j < length; ++j) text += characters[random() % characters.size()];
      INFO(text);
      const Ids ids = encoded(t, text);
      CHECK(ids == slow_encode(v, text));
      CHECK(t.decode(ids) == text);
    }
  }
}

TEST_CASE("any bytes can be encoded; their bytes come back") {
  Letters v;
  const Tokenizer t = loaded(v);
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const unsigned length = random() % 20;
    for (unsigned i = 0; i < length; ++i) text += static_cast<char>(random() % 256);
    std::string back;
    for (const std::int32_t id : encoded(t, text)) {
      const std::string piece(t.piece(id));
      back += id >= 3 && id < 259 ? std::string(1, static_cast<char>(id - 3)) : piece;
    }
    std::string marked = text.empty() ? "" : "\u2581";
    for (const char c : text) marked += c == ' ' ? std::string("\u2581") : std::string(1, c);
    CHECK(back == marked);
    (void)t.decode(encoded(t, text));
  }
}

TEST_CASE("the synthetic vocabulary: words become words, texts come back") {
  const SynthVocabulary synth = synth_vocabulary(8000);
  TestVocabulary v;
  v.tokens = synth.tokens;
  v.scores = synth.scores;
  v.types = synth.types;
  const Tokenizer t = loaded(v);
  int words = 0;
  for (std::int32_t id = 260; id < t.size(); ++id) {
    const std::string word = t.decode(Ids{id});
    if (!t.piece(id).starts_with("\u2581")) continue;
    CHECK(encoded(t, word) == Ids{id});
    ++words;
  }
  CHECK(words > 7000);
  const std::string text = "Once upon a time, 3 m\u00E4rchen\n\n  were told \U0001F600.";
  CHECK(t.decode(encoded(t, text)) == text);
}

std::string read_all(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Tokenizer opened(const std::string& path) {
  auto t = Tokenizer::open(path);
  INFO((t.ok() ? std::string() : t.error().message));
  REQUIRE(t.ok());
  return *std::move(t);
}

std::optional<Tokenizer> asset_tokenizer(const std::string& relative) {
  const auto path = test::asset(relative, "tokenizer test");
  if (!path) return std::nullopt;
  const auto file = gguf::File::open(*path);
  INFO((file.ok() ? std::string() : file.error().message));
  REQUIRE(file.ok());
  auto t = Tokenizer::from_gguf(*file);
  INFO((t.ok() ? std::string() : t.error().message));
  REQUIRE(t.ok());
  return *std::move(t);
}

// Texts and ids of llama.cpp: `pair`.inp and `pair`.out.
void check_pairs(const Tokenizer& t, const std::string& pair) {
  const auto in = test::asset("tokenizers/" + pair + ".gguf.inp", "known answers");
  const auto out = test::asset("tokenizers/" + pair + ".gguf.out", "known answers");
  if (!in || !out) return;
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string texts = read_all(*in);
  std::istringstream answers(read_all(*out));
  int parts = 0;
  for (std::size_t begin = 0; begin <= texts.size(); ++parts) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    std::getline(answers, line);
    std::istringstream numbers(line);
    const Ids wanted{std::istream_iterator<std::int32_t>(numbers), {}};
    INFO(pair << ", part " << parts << ": " << text);
    const Ids found = encoded(t, text);
    CHECK(found == wanted);
    CHECK(t.decode(found) == text);
  }
  CHECK(parts == 47);
}

TEST_CASE("known answers: vocabularies in GGUF files") {
  for (const char* name : {"ggml-vocab-llama-spm", "ggml-vocab-gpt-2", "ggml-vocab-deepseek-coder"}) {
    const auto t = asset_tokenizer("tokenizers/" + std::string(name) + ".gguf");
    if (t) check_pairs(*t, name);
  }
}

TEST_CASE("known answers: a SentencePiece model and tiktoken ranks") {
  const auto spm = test::asset("tokenizers/llama2_tokenizer.model", "Llama 2 from its own model");
  if (spm) check_pairs(opened(*spm), "ggml-vocab-llama-spm");
  const auto ranks = test::asset("tokenizers/llama3/tokenizer.model", "Llama 3 from its ranks");
  if (!ranks) return;
  const Tokenizer t = opened(*ranks);
  check_pairs(t, "llama3/ggml-vocab-llama-bpe");
  CHECK(t.size() == 128256);
  CHECK(t.data().merges.size() == 280147);  // as in the model's tokenizer.json
  CHECK(t.piece(128255) == "<|reserved_special_token_247|>");
  CHECK(encoded(t, "<|eot_id|>", false, true) == Ids{128009});
  CHECK(t.is_eos(128009));
}

TEST_CASE("known answers: stories260K") {
  const auto t = asset_tokenizer("models/stories260K.gguf");
  const auto path = test::asset("models/stories260K.expected.json", "known answers");
  if (!t || !path) return;
  const auto expected = nlohmann::json::parse(read_all(*path));
  CHECK(!expected.at("prompts").empty());
  for (const auto& prompt : expected.at("prompts")) {
    CHECK(encoded(*t, prompt.at("text").get<std::string>(), true) == prompt.at("ids").get<Ids>());
  }
  Tokenizer::Decoder decoder(*t, false);
  std::string text;
  for (const std::int32_t id : expected.at("greedy_from_bos").get<Ids>()) text += decoder.push(id);
  CHECK(text + decoder.finish() == expected.at("greedy_text").get<std::string>());
}

TEST_CASE("a megabyte of text") {
  const auto t = asset_tokenizer("tokenizers/ggml-vocab-llama-spm.gguf");
  if (!t) return;
  std::string text;
  for (int i = 0; text.size() < (1U << 20); ++i)
    text += "Word" + std::to_string(i * 7919 % 100003) + (i % 3 != 0 ? " " : "");
  CHECK(t->decode(encoded(*t, text)) == text);
  std::string unbroken;
  for (int i = 0; unbroken.size() < (1U << 18); ++i) unbroken += std::to_string(i) + "x";
  CHECK(t->decode(encoded(*t, unbroken)) == unbroken);
}

}  // namespace
}  // namespace bitnet
