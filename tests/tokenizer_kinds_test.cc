// Byte-level BPE, unigram and the pipelines before them, on small vocabularies against slow definitions.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/tokenizer/byte_spelling.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

namespace bitnet {
namespace {

using Ids = std::vector<std::int32_t>;

// All bytes, and merges of what there is.
struct ByteVocabulary {
  VocabularyData data;
  explicit ByteVocabulary(const char* pre = "gpt-2") {
    data.model = "gpt2";
    data.pre = pre;
    for (unsigned byte = 0; byte < 256; ++byte) add(tokenizer::spell_bytes(std::string(1, static_cast<char>(byte))));
  }
  std::int32_t add(const std::string& token, std::int32_t type = 1) {
    data.tokens.push_back(token);
    data.types.push_back(type);
    return static_cast<std::int32_t>(data.tokens.size()) - 1;
  }
  // `left` and `right` as plain text.
  std::int32_t merge(const std::string& left, const std::string& right) {
    const std::string a = tokenizer::spell_bytes(left);
    const std::string b = tokenizer::spell_bytes(right);
    data.merges.push_back(a + " " + b);
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
      if (data.tokens[id] == a + b) return static_cast<std::int32_t>(id);
    }
    return add(a + b);
  }
};

Tokenizer made(const VocabularyData& data) {
  auto result = Tokenizer::from_vocabulary(data, "test");
  REQUIRE_MESSAGE(result.ok(), result.error().message);
  return *std::move(result);
}

Ids encoded(const Tokenizer& t, std::string_view text, bool parse_special = false) {
  const auto ids = t.encode(text, false, parse_special);
  REQUIRE_MESSAGE(ids.ok(), ids.error().message);
  return *ids;
}

void refused(const Result<Tokenizer>& result, std::string_view part, ErrorCode code = ErrorCode::kTokenizer) {
  REQUIRE(!result.ok());
  CHECK(result.error().code == code);
  CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
}

std::string bytes_of(const Tokenizer& t, const Ids& ids) {
  std::string bytes;
  for (const std::int32_t id : ids) bytes += tokenizer::unspell_bytes(t.piece(id)).value_or("?");
  return bytes;
}

// Random bytes: characters of several scripts, white space, and bytes that are no UTF-8.
std::string random_text(std::mt19937& random) {
  const std::vector<std::string> parts = {"a",        "b",          "ab",     " ",      "  ", "\n",   "1",
                                          "234",      "\u00E9",     "\u4E2D", "'s",     "!?", "\xFF", "\xC3",
                                          "\xE2\x82", "\U0001F600", "\t",     "\u3000", "Ab"};
  std::string text;
  for (unsigned n = 1 + random() % 20; n > 0; --n) text += parts[random() % parts.size()];
  return text;
}

TEST_CASE("byte-level: merges by rank, leftmost first, in words") {
  ByteVocabulary v;
  const std::int32_t ab = v.merge("a", "b");
  const std::int32_t bc = v.merge("b", "c");
  const std::int32_t abc = v.merge("a", "bc");
  const std::int32_t space_a = v.merge(" ", "a");
  const Tokenizer t = made(v.data);
  CHECK(encoded(t, "abc") == Ids{ab, 'c'});
  CHECK(encoded(t, "bcb") == Ids{bc, 'b'});
  CHECK(encoded(t, "xbc") == Ids{'x', bc});
  CHECK(encoded(t, " a") == Ids{space_a});
  CHECK(encoded(t, "a a") == Ids{'a', space_a});
  CHECK(encoded(t, "").empty());
  CHECK(t.decode(Ids{abc, space_a}) == "abc a");
  // The same with a pre-tokeniser that looks for whole words first.
  v.data.pre = "llama-bpe";
  CHECK(encoded(made(v.data), "abc") == Ids{abc});
}

// The definition: the pair with the lowest rank, leftmost, until there is none.
Ids slow_merges(const VocabularyData& data, const std::string& word) {
  std::vector<std::string> symbols;
  for (const char c : word) symbols.push_back(tokenizer::spell_bytes(std::string(1, c)));
  while (true) {
    std::size_t best = symbols.size();
    std::size_t rank = data.merges.size();
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t r = 0; r < rank; ++r) {
        if (data.merges[r] != symbols[i] + " " + symbols[i + 1]) continue;
        best = i;
        rank = r;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
      if (data.tokens[id] == symbol) ids.push_back(static_cast<std::int32_t>(id));
    }
  }
  return ids;
}

TEST_CASE("byte-level: random merges are those of the slow definition") {
  std::mt19937 random(11);
  for (int round = 0; round < 40; ++round) {
    ByteVocabulary v;
    std::vector<std::string> known = {"a", "b", "c", "\xC3", "\xA9"};
    for (int i = 0; i < 25; ++i) {
      const std::string left = known[random() % known.size()];
      const std::string right = known[random() % known.size()];
      const std::string merge = tokenizer::spell_bytes(left) + " " + tokenizer::spell_bytes(right);
      if (left.size() + right.size() > 8) continue;
      bool again = false;
      for (const std::string& other : v.data.merges) again = again || other == merge;
      if (again) continue;
      v.merge(left, right);
      known.push_back(left + right);
    }
    const Tokenizer t = made(v.data);
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (unsigned n = 1 + random() % 30; n > 0; --n)
        word += std::vector<std::string>{"a", "b", "c", "\u00E9"}[random() % 4];
      CHECK(encoded(t, word) == slow_merges(v.data, word));
    }
  }
}

TEST_CASE("any bytes come back, under every name; steps give the same text as the whole") {
  std::mt19937 random(5);
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "deepseek-coder", "deepseek-llm", "falcon", "falcon3",
                          "starcoder", "refact", "command-r", "olmo", "stablelm2"}) {
    ByteVocabulary v(pre);
    v.merge("a", "b");
    v.merge(" ", "ab");
    v.merge("\xE4", "\xB8");
    const Tokenizer t = made(v.data);
    for (int i = 0; i < 100; ++i) {
      const std::string text = random_text(random);
      const Ids ids = encoded(t, text);
      CHECK(bytes_of(t, ids) == text);
      Tokenizer::Decoder decoder(t);
      std::string steps;
      for (std::size_t n = 0; n < ids.size(); ++n) {
        steps += decoder.push(ids[n]);
        Tokenizer::Decoder end = decoder;
        CHECK(steps + end.finish() == t.decode(std::span(ids).first(n + 1)));
      }
    }
  }
}

TEST_CASE("names of pre-tokenisers") {
  ByteVocabulary v("gpt-5");
  v.merge("a", "b");
  refused(Tokenizer::from_vocabulary(v.data, "test"), "\"gpt-5\"; supported are gpt-2, ");
  refused(Tokenizer::from_vocabulary(v.data, "test"), "command-r; give token ids with --prompt-ids");
  v.data.pre = "default";
  refused(Tokenizer::from_vocabulary(v.data, "test"), "\"default\"; supported are gpt-2, ");
  refused(Tokenizer::from_vocabulary(v.data, "test"), "convert the model from its Hugging Face directory");
  v.data.pre.clear();
  refused(Tokenizer::from_vocabulary(v.data, "test"), "tokenizer.ggml.pre is missing");
  // Only a vocabulary as long as Llama 3's is taken for one.
  while (v.data.tokens.size() < 128256) v.add("<" + std::to_string(v.data.tokens.size()) + ">", 3);
  const Tokenizer assumed = made(v.data);
  REQUIRE(assumed.notes().size() == 1);
  CHECK(assumed.notes()[0].find("assumed") != std::string::npos);
  CHECK(encoded(assumed, "ab12345").size() == 6);
  refused(Tokenizer::from_vocabulary(v.data, "test", true), "strict mode", ErrorCode::kStrict);
  v.data.pre = "llama-bpe";
  CHECK(Tokenizer::from_vocabulary(v.data, "test", true).ok());
  CHECK(made(v.data).notes().empty());
}

TEST_CASE("names that cut like another name") {
  const std::string text = "It's 1234 \u00E9t\u00E9!\r\n  'LL x\n\n\n  y";
  for (const auto& [names, like] :
       {std::pair(std::vector<const char*>{"olmo", "mpt", "jais"}, "gpt-2"),
        std::pair(std::vector<const char*>{"stablelm2", "deepseek-r1-qwen", "megrez"}, "qwen2")}) {
    for (const char* name : names) {
      ByteVocabulary v(name);
      // Merges across all kinds of borders, so that every cut shows.
      for (std::size_t i = 0; i + 1 < text.size(); ++i) v.merge(text.substr(i, 1), text.substr(i + 1, 1));
      const Ids ids = encoded(made(v.data), text);
      CHECK_FALSE(made(v.data).adds_bos());
      v.data.pre = like;
      CHECK_MESSAGE(ids == encoded(made(v.data), text), name);
      v.data.pre = std::string_view(like) == "gpt-2" ? "qwen2" : "gpt-2";
      CHECK_MESSAGE(ids != encoded(made(v.data), text), name);
    }
  }
}

TEST_CASE("token types of byte-level BPE may be missing: all tokens but the special are normal") {
  ByteVocabulary v;
  const std::int32_t ab = v.merge("a", "b");
  const std::int32_t end = v.add("<|endoftext|>", 3);
  v.data.eos = static_cast<std::uint32_t>(end);
  v.data.types.clear();
  const auto through_file = [&](bool strict) {
    gguf::Writer writer;
    set_vocabulary(v.data, writer);
    const auto bytes = writer.header();
    REQUIRE(bytes.ok());
    const auto file = gguf::File::parse(*bytes, "test");
    REQUIRE(file.ok());
    return Tokenizer::from_gguf(*file, strict);
  };
  const auto t = through_file(false);
  REQUIRE_MESSAGE(t.ok(), t.error().message);
  REQUIRE(t->notes().size() == 1);
  CHECK(t->notes()[0].find("tokenizer.ggml.token_type is missing") != std::string::npos);
  CHECK(encoded(*t, "ab<|endoftext|>", true) == Ids{ab, end});
  CHECK(encoded(*t, "ab<|endoftext|>").size() == 14);
  CHECK(encoded(*t, "ab") == Ids{ab});
  CHECK(t->is_eos(end));
  CHECK(t->is_control(end));
  CHECK_FALSE(t->is_control(ab));
  refused(through_file(true), "strict mode", ErrorCode::kStrict);
  v.data.types = {1};
  refused(Tokenizer::from_vocabulary(v.data, "test"), "token_type has 1 entries");
}

TEST_CASE("merges and vocabularies that do not belong together are refused") {
  const auto with = [](const std::string& merge) {
    ByteVocabulary v;
    v.data.merges.push_back(merge);
    return Tokenizer::from_vocabulary(v.data, "test");
  };
  refused(with("a b"), "\"ab\" is no token");
  refused(with("ab c"), "\"ab\" is no token");
  for (const char* merge : {"ab", " a", "a ", "a  b", "a b c", " ", ""}) refused(with(merge), "expected two tokens");
  refused(Tokenizer::from_vocabulary(ByteVocabulary().data, "test"), "tokenizer.ggml.merges is missing");
  ByteVocabulary v;
  v.merge("a", "b");
  v.data.scores = {1.0F};
  refused(Tokenizer::from_vocabulary(v.data, "test"), "tokenizer.ggml.scores has 1 entries");
  v.data.scores.clear();
  v.data.flags = {1};
  refused(Tokenizer::from_vocabulary(v.data, "test"), "token_flags has 1 entries");
  v.data.flags.clear();
  v.data.pipeline = "{}";
  refused(Tokenizer::from_vocabulary(v.data, "test"), "not ByteLevel");
  v.data.pipeline = "{";
  refused(Tokenizer::from_vocabulary(v.data, "test"), "expected JSON");
}

TEST_CASE("a byte without a token is the unknown token, or an error that names it") {
  ByteVocabulary v;
  v.merge("a", "b");
  v.data.tokens['z'] = "zz";  // no byte any more
  const auto ids = made(v.data).encode("xz", false, false);
  REQUIRE(!ids.ok());
  CHECK(ids.error().message.find("0x7A") != std::string::npos);
  const std::int32_t unknown = v.add("<unk>", 2);
  CHECK(encoded(made(v.data), "xz") == Ids{'x', unknown});
}

TEST_CASE("unigram: the best of all ways, and unknown characters") {
  std::mt19937 random(3);
  for (int round = 0; round < 30; ++round) {
    VocabularyData data;
    data.model = "t5";
    data.add_space_prefix = false;
    const auto add = [&](const std::string& token, float score, std::int32_t type) {
      data.tokens.push_back(token);
      data.scores.push_back(score);
      data.types.push_back(type);
    };
    add("<unk>", 0, 2);
    const std::vector<std::string> letters = {"a", "b", "\u00E9"};
    for (const std::string& letter : letters) add(letter, -8.0F - static_cast<float>(random() % 100) / 7.0F, 1);
    for (int i = 0; i < 15; ++i) {
      std::string piece;
      for (unsigned n = 2 + random() % 3; n > 0; --n) piece += letters[random() % 3];
      bool again = false;
      for (const std::string& token : data.tokens) again = again || token == piece;
      if (!again) add(piece, -static_cast<float>(random() % 1000) / 37.0F, 1);
    }
    const Tokenizer t = made(data);
    for (int i = 0; i < 10; ++i) {
      std::string text;
      for (unsigned n = 1 + random() % 12; n > 0; --n) text += letters[random() % 3];
      // The greatest sum over all ways to cut the text, by trying them from the end.
      std::vector<double> best(text.size() + 1, -std::numeric_limits<double>::infinity());
      best[text.size()] = 0;
      for (std::size_t begin = text.size(); begin-- > 0;) {
        for (std::size_t id = 1; id < data.tokens.size(); ++id) {
          if (!std::string_view(text).substr(begin).starts_with(data.tokens[id])) continue;
          best[begin] =
              std::max(best[begin], best[begin + data.tokens[id].size()] + static_cast<double>(data.scores[id]));
        }
      }
      double sum = 0;
      std::string spelled;
      for (const std::int32_t id : encoded(t, text)) {
        sum += static_cast<double>(data.scores[static_cast<std::size_t>(id)]);
        spelled += t.piece(id);
      }
      CHECK(spelled == text);
      CHECK(sum == doctest::Approx(best[0]));
    }
    CHECK(encoded(t, "xyz").size() == 1);  // unknown characters in a row are one
    CHECK(encoded(t, "xayz").size() == 3);
  }
}

TEST_CASE("unigram with bytes, spaces and a map of characters") {
  VocabularyData data;
  data.model = "t5";
  const auto add = [&](const std::string& token, float score, std::int32_t type) {
    data.tokens.push_back(token);
    data.scores.push_back(score);
    data.types.push_back(type);
    return static_cast<std::int32_t>(data.tokens.size()) - 1;
  };
  add("<unk>", 0, 2);
  for (unsigned byte = 0; byte < 256; ++byte) {
    char spelling[8];
    std::snprintf(spelling, sizeof spelling, "<0x%02X>", byte);
    add(spelling, 0, 6);
  }
  const std::int32_t fi = add("\u2581fi", -1, 1);
  const std::int32_t space = add("\u2581", -2, 1);
  CHECK(encoded(made(data), "fi \u00E9") == Ids{fi, space, 1 + 0xC3, 1 + 0xA9});
  CHECK(made(data).decode(Ids{fi, fi}) == "fi fi");
  CHECK(encoded(made(data), " fi").size() == 2);
  data.remove_extra_whitespaces = true;
  CHECK(encoded(made(data), "  fi   fi ") == Ids{fi, fi});
  // A map of one character, U+FB01 (EF AC 81) to "fi": a chain of units in a double array.
  std::vector<std::uint32_t> units(1100);
  const auto put = [&](std::uint32_t at, std::uint32_t label, std::uint32_t next, bool leaf) {
    units[at] = label | (leaf ? 1U << 8 : 0) | (at ^ next) << 10;
  };
  put(0, 0, 256, false);
  put(256 ^ 0xEF, 0xEF, 512, false);
  put(512 ^ 0xAC, 0xAC, 768, false);
  put(768 ^ 0x81, 0x81, 1024, true);
  units[1024] = 1U << 31 | 0;
  const auto bytes = static_cast<std::uint32_t>(units.size() * 4);
  data.charsmap.resize(4 + bytes);
  std::memcpy(data.charsmap.data(), &bytes, 4);
  std::memcpy(data.charsmap.data() + 4, units.data(), bytes);
  for (const char c : {'f', 'i', '\0'}) data.charsmap.push_back(static_cast<std::uint8_t>(c));
  CHECK(encoded(made(data), "\uFB01") == Ids{fi});
  CHECK(encoded(made(data), "\uFB02").size() == 4);
  data.charsmap.back() = 'x';
  refused(Tokenizer::from_vocabulary(data, "test"), "map of characters");
  data.charsmap.resize(3);
  refused(Tokenizer::from_vocabulary(data, "test"), "map of characters");
}

TEST_CASE("regular expressions: the differences between the dialects") {
  const auto matches = [](const char* pattern, std::string_view text) {
    const auto regex = tokenizer::Regex::compile(pattern);
    REQUIRE_MESSAGE(regex.ok(), regex.error().message);
    tokenizer::MatchRoom room;
    std::vector<std::string> found;
    const Status status = regex->find_all(
        text, room, [&](std::size_t begin, std::size_t end) { found.emplace_back(text.substr(begin, end - begin)); });
    REQUIRE_MESSAGE(status.ok(), status.error().message);
    return found;
  };
  using Found = std::vector<std::string>;
  CHECK(matches(R"(\s)", "a\u180Eb\u0085c d") == Found{"\u0085", " "});  // U+180E is no white space
  CHECK(matches(R"([^\S\n]+)", " \n\t\u3000x") == Found{" ", "\t\u3000"});
  CHECK(matches(R"(\S+)", "a\u180E b") == Found{"a\u180E", "b"});
  CHECK(matches(R"(a{,2})", "aaa") == Found{"aa", "a"});
  CHECK(matches(R"(a{2,}?)", "aaaaa") == Found{"aa", "aa"});
  CHECK(matches("x$", "x\nx") == Found{"x", "x"});
  CHECK(matches(R"(\v)", "\x0B\n") == Found{"\x0B"});
  CHECK(matches(R"(\p{^L})", "a1") == Found{"1"});
  CHECK(matches("(?i:'s)", "'S'\u017F") == Found{"'S", "'\u017F"});
  CHECK(matches(R"(\x{6A}+)", "x6Ajj{6A}") == Found{"jj"});
  CHECK(matches(R"(\x6A|\x6|[\x{6B}-\x{6C}\x41]+)", "jkAl\x06z") == Found{"j", "kAl", "\x06"});
  CHECK(matches(R"(\x{85}\u00e9\x{1F600})", "\u0085\u00E9\U0001F600") == Found{"\u0085\u00E9\U0001F600"});
}

TEST_CASE("regular expressions that mean something else elsewhere are refused by name") {
  for (const char* pattern :
       {R"(\w)",         R"(\b)",          R"((a)\1)",       "[[:alpha:]]", "[a&&b]",  "(?<name>a)", "(?m)a",
        R"(a{2}+)",      R"(a{2}?)",       R"(\x)",          R"(\xg)",      R"(\x{})", R"(\x{6A)",   R"(\x{6A 6B})",
        R"(\x{110000})", R"(\x{D800})",    R"(\xE9)",        R"([\xE9])",   R"(\uD8)", R"(\u12g4)",  R"(\x{123456789})",
        R"(\pL)",        R"(\p{No such})", R"(\p{Letters})", "(",           "[a",      "\\",         "(*COMMIT)"}) {
    const auto regex = tokenizer::Regex::compile(pattern);
    CHECK_MESSAGE(!regex.ok(), pattern);
    if (!regex.ok()) CHECK(regex.error().message.find("regular expression") == 0);
  }
}

TEST_CASE("a search that tries exponentially many ways is given up") {
  const auto regex = tokenizer::Regex::compile("(?:a|aa)+b");
  REQUIRE(regex.ok());
  tokenizer::MatchRoom room;
  const Status status = regex->find_all(std::string(200, 'a') + "!b", room, [](std::size_t, std::size_t) {});
  REQUIRE(!status.ok());
  CHECK(status.error().message.find("given up") != std::string::npos);
}

TEST_CASE("white space and word characters") {
  CHECK(tokenizer::is_white_space(0x3000));
  CHECK(!tokenizer::is_white_space(0x180E));
  CHECK(!tokenizer::is_white_space(0x200B));
  CHECK(tokenizer::is_word_character('_'));
  CHECK(tokenizer::is_word_character(0x4E2D));
  CHECK(!tokenizer::is_word_character('-'));
  CHECK(!tokenizer::is_word_character(0x110001));
  CHECK(*tokenizer::normalize(tokenizer::NormalForm::kNfc, "e\u0301") == "\u00E9");
  CHECK(*tokenizer::normalize(tokenizer::NormalForm::kNfkc, "\uFB01") == "fi");
  CHECK(*tokenizer::normalize(tokenizer::NormalForm::kNfd, "\u00E9") == "e\u0301");
}

TEST_CASE("the digest: equal for equal vocabularies, another for every change; a changed file is refused") {
  ByteVocabulary v;
  v.merge("a", "b");
  v.data.bos = 5;
  const std::string first = digest(v.data);
  CHECK(first.size() == 64);
  CHECK(made(v.data).digest() == first);
  const auto changed = [&](auto&& change) {
    VocabularyData other = v.data;
    change(other);
    CHECK(digest(other) != first);
  };
  changed([](VocabularyData& d) { d.model = "llama"; });
  changed([](VocabularyData& d) { d.pre = "qwen2"; });
  changed([](VocabularyData& d) { std::swap(d.tokens[0], d.tokens[1]); });
  changed([](VocabularyData& d) { d.types[0] = 3; });
  changed([](VocabularyData& d) { d.merges.push_back("x y"); });
  changed([](VocabularyData& d) { d.scores.assign(d.tokens.size(), 0.0F); });
  changed([](VocabularyData& d) { d.flags.assign(d.tokens.size(), 0); });
  changed([](VocabularyData& d) { d.bos = 6; });
  changed([](VocabularyData& d) { std::swap(d.bos, d.eos); });
  changed([](VocabularyData& d) { d.add_bos = std::nullopt; });
  changed([](VocabularyData& d) { d.charsmap = {1}; });
  changed([](VocabularyData& d) { d.pipeline = "{}"; });
  VocabularyData talks = v.data;
  talks.chat_template = "{{ x }}";
  CHECK(digest(talks) == first);

  gguf::Writer writer;
  set_vocabulary(talks, writer);
  const auto read = [](gguf::Writer& w) {
    const auto bytes = w.header();
    REQUIRE(bytes.ok());
    const auto file = gguf::File::parse(*bytes, "test");
    REQUIRE(file.ok());
    return Tokenizer::from_gguf(*file);
  };
  const auto whole = read(writer);
  REQUIRE_MESSAGE(whole.ok(), whole.error().message);
  CHECK(whole->data() == talks);
  writer.set("tokenizer.ggml.bos_token_id", std::uint32_t{6});
  refused(read(writer), "bitnet.tokenizer.sha256");
}

TEST_CASE("a tokenizer of more tokens than the model has rows is refused with both numbers") {
  ByteVocabulary v;
  v.merge("a", "b");
  const Tokenizer t = made(v.data);
  CHECK(check_pair(t, 257, "x.gguf").ok());
  CHECK(check_pair(t, 300, "x.gguf").ok());
  const Status status = check_pair(t, 256, "x.gguf");
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kTokenizer);
  CHECK(status.error().message.find("257 tokens") != std::string::npos);
  CHECK(status.error().message.find("256 rows") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
