// SentencePiece's tokenizer.model: what was written is read, what is wrong is refused with field and byte, damage never
// does worse; and a real model gives what llama.cpp's converter made of it.
#include "runtime/tokenizer/sentencepiece.h"

#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/base/mapped_file.h"
#include "runtime/gguf/gguf.h"
#include "tests/assets.h"
#include "tests/hf_files.h"
#include "tests/quick.h"

namespace bitnet::tokenizer {
namespace {

using test::bytes_field;
using test::float_field;
using test::number_field;
using test::SpmModel;
using test::varint;

// In a block of exactly this size.
Result<SentencePieceModel> parse(std::string_view bytes) {
  const std::unique_ptr<std::byte[]> block(new std::byte[bytes.size()]);
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  return parse_sentencepiece({block.get(), bytes.size()}, "memory");
}

SentencePieceModel parsed(const SpmModel& model) {
  auto result = parse(model.bytes());
  REQUIRE_MESSAGE(result.ok(), result.error().message);
  return *std::move(result);
}

void refused(std::string_view bytes, std::initializer_list<std::string_view> parts) {
  const auto result = parse(bytes);
  REQUIRE(!result.ok());
  const std::string& message = result.error().message;
  CHECK(result.error().code == ErrorCode::kTokenizer);
  CHECK_MESSAGE(message.starts_with("memory: "), message);
  for (const std::string_view part :
       {std::string_view(": expected "), std::string_view(", found "), std::string_view("; ")}) {
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  }
  for (const std::string_view part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, message);
}

TEST_CASE("pieces, scores, types and flags are what was written") {
  SpmModel spm;
  spm.add("\u2581the", -1.5F);
  spm.add("[USER]", 0, 4);
  spm.add("rare", -7, 5);
  const SentencePieceModel model = parsed(spm);
  REQUIRE(model.pieces.size() == 262);
  CHECK(model.pieces[0] == "<unk>");
  CHECK(model.types[0] == 2);
  CHECK(model.types[2] == 3);
  CHECK(model.pieces[3] == "<0x00>");
  CHECK(model.types[258] == 6);
  CHECK(model.pieces[259] == "\u2581the");
  CHECK(model.scores[259] == -1.5F);
  CHECK(model.types[259] == 1);
  CHECK(model.types[260] == 4);
  CHECK(model.types[261] == 5);
  CHECK(model.unknown == 0);
  CHECK(model.bos_piece == "<s>");
  CHECK(model.eos_piece == "</s>");
  CHECK(model.normalizer == "identity");
  CHECK(model.charsmap.empty());
  CHECK(!model.denormalizes);
  CHECK(model.add_dummy_prefix);
  CHECK(!model.remove_extra_whitespaces);
}

TEST_CASE("what is not stated has SentencePiece's defaults") {
  SpmModel spm;
  spm.normalizer.clear();
  const SentencePieceModel model = parsed(spm);
  CHECK(model.add_dummy_prefix);
  CHECK(model.remove_extra_whitespaces);
  CHECK(model.normalizer.empty());
  spm.normalizer = number_field(3, 0) + bytes_field(2, "map") + bytes_field(1, "nmt_nfkc");
  spm.trainer += bytes_field(46, "<bos>") + bytes_field(47, "<eos>");
  spm.more = bytes_field(5, bytes_field(2, "map"));
  const SentencePieceModel other = parsed(spm);
  CHECK(!other.add_dummy_prefix);
  CHECK(other.charsmap == "map");
  CHECK(other.denormalizes);
  CHECK(other.normalizer == "nmt_nfkc");
  CHECK(other.bos_piece == "<bos>");
  CHECK(other.eos_piece == "<eos>");
}

TEST_CASE("fields that do not matter are skipped, whatever their type") {
  SpmModel spm;
  spm.trainer = number_field(1, 7) + bytes_field(2, "x") + float_field(10, 0.5F) + varint(100 << 3 | 1) +
                std::string(8, '\xff') + spm.trainer + number_field(41, -1);
  spm.more = bytes_field(4, "self test") + varint(200 << 3 | 1) + std::string(8, '\1') + number_field(201, -1);
  CHECK(parsed(spm).pieces.size() == 259);
}

TEST_CASE("unigram models, with and without bytes") {
  SpmModel spm;
  spm.trainer = number_field(35, 1);  // unigram is the default
  CHECK(parsed(spm).kind == SentencePieceModel::Kind::kUnigram);
  CHECK(parsed(spm).byte_fallback);
  spm.trainer = number_field(3, 1);
  CHECK(!parsed(spm).byte_fallback);
  CHECK(vocabulary_of(parsed(spm)).model == "t5");
  CHECK(vocabulary_of(parsed(SpmModel())).model == "llama");
}

TEST_CASE("models of another kind are refused") {
  SpmModel spm;
  spm.trainer = number_field(3, 3) + number_field(35, 1);
  refused(spm.bytes(), {"trainer_spec.model_type", "1 (unigram) or 2 (BPE)", "found 3", "byte fall-back"});
  spm.trainer = number_field(3, 2);
  refused(spm.bytes(), {"trainer_spec.byte_fallback", "expected 1, found 0"});
  spm.trainer = number_field(3, 2) + number_field(35, 0);
  refused(spm.bytes(), {"trainer_spec.byte_fallback"});
  spm.trainer = number_field(3, 2) + number_field(35, 1) + number_field(24, 1);
  refused(spm.bytes(), {"treat_whitespace_as_suffix"});
  spm = SpmModel();
  spm.normalizer = number_field(5, 0);
  refused(spm.bytes(), {"escape_whitespaces"});
  refused("", {"trainer_spec", "end of the file"});
  refused("{\"model\": 1}", {"model at byte 0", "wire type"});
}

TEST_CASE("pieces that are wrong are refused") {
  const auto with = [](const std::string& fields) { return SpmModel().bytes() + bytes_field(1, fields); };
  refused(with(""), {"pieces[259].piece", "at least one character"});
  refused(with(bytes_field(1, "")), {"pieces[259].piece"});
  refused(with(bytes_field(1, "\xff")), {"pieces[259].piece", "UTF-8", "\\xff"});
  refused(with(bytes_field(1, "\xe2\x96")), {"UTF-8"});
  refused(with(bytes_field(1, "a") + bytes_field(1, "b")), {"pieces[259].piece", "it again"});
  refused(with(bytes_field(1, "a") + float_field(2, 0) + float_field(2, 0)), {"pieces[259].score", "it again"});
  refused(with(bytes_field(1, "a") + number_field(2, 0)), {"pieces[259].score", "wire type 5, found 0"});
  refused(with(bytes_field(1, "a") + float_field(2, std::numeric_limits<float>::infinity())), {"finite"});
  refused(with(bytes_field(1, "a") + float_field(2, std::numeric_limits<float>::quiet_NaN())), {"finite"});
  refused(with(bytes_field(1, "a") + number_field(3, 0)), {"pieces[259].type", "from 1 to 6", "found 0"});
  refused(with(bytes_field(1, "a") + number_field(3, 7)), {"found 7"});
  refused(with(bytes_field(1, "a") + number_field(3, -1)), {"found 18446744073709551615"});
  refused(with(number_field(1, 5)), {"pieces[259].piece", "wire type 2, found 0"});
  refused(SpmModel().bytes() + number_field(1, 5), {"pieces[259]", "wire type 2"});
  refused(with(bytes_field(1, "<unk>2") + number_field(3, 2)), {"pieces[259]", "one more after pieces[0]"});
  refused(with(bytes_field(1, "<s>") + number_field(3, 3)), {"pieces[259]", "'<s>' again"});
  CHECK(parse(with(bytes_field(1, "<s>"))).ok());  // ordinary text of the same spelling is another name
  refused(with(bytes_field(1, "a")) + bytes_field(1, bytes_field(1, "a")), {"pieces[260]", "'a' again"});
  SpmModel spm;
  spm.pieces[0].type = 3;
  refused(spm.bytes(), {"one piece of type 2 (unknown), found none"});
}

TEST_CASE("damage to the wire format is refused") {
  const std::string good = SpmModel().bytes();
  refused(good + varint(0) + varint(0), {"model at byte", "field number"});
  refused(good + varint((std::uint64_t{1} << 29) << 3) + varint(0), {"field number"});
  refused(good + varint(9 << 3 | 3), {"wire type 0, 1, 2 or 5, found 3"});
  refused(good + varint(9 << 3 | 6), {"found 6"});
  refused(good + varint(9 << 3 | 2) + varint(5) + "abcd", {"5 more bytes, found 4"});
  refused(good + varint(9 << 3 | 2) + varint(~std::uint64_t{0}), {"18446744073709551615 more bytes, found 0"});
  refused(good + varint(9 << 3 | 5) + "abc", {"4 more bytes, found 3"});
  refused(good + varint(9 << 3 | 1) + "abcdefg", {"8 more bytes, found 7"});
  refused(good + varint(9 << 3), {"1 more bytes, found 0"});
  refused(good + "\x80", {"1 more bytes"});
  refused(good + varint(9 << 3) + std::string(9, '\xff') + '\2', {"at most 64 bits"});
  CHECK(parse(good + varint(9 << 3) + std::string(9, '\xff') + '\1').ok());
  refused(good + bytes_field(2, SpmModel().trainer), {"field 2", "it again"});
  refused(good + bytes_field(3, ""), {"field 3", "it again"});
  SpmModel spm;
  spm.trainer += number_field(35, 1);
  refused(spm.bytes(), {"trainer_spec.byte_fallback", "it again"});
  spm = SpmModel();
  spm.normalizer = number_field(3, 2);
  refused(spm.bytes(), {"normalizer_spec.add_dummy_prefix", "0 or 1, found 2"});
  // A field that claims more than its message has, although the file goes on.
  refused(bytes_field(1, varint(1 << 3 | 2) + varint(50) + "a") + good, {"pieces[0]", "50 more bytes, found 1"});
}

TEST_CASE("cut short or changed anywhere: read or refused, never worse") {
  SpmModel spm;
  spm.add("\u2581a", -1);
  const std::string bytes = spm.bytes();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const auto result = parse(std::string_view(bytes).substr(0, length));
    if (!result.ok()) CHECK(result.error().code == ErrorCode::kTokenizer);
  }
  std::mt19937 random(3);
  int bad = 0;
  const int rounds = test::quick_wanted() ? 500 : 5000;
  for (int i = 0; i < rounds; ++i) {
    std::string damaged = bytes;
    for (unsigned places = 1 + random() % 4; places > 0; --places) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    if (!parse(damaged).ok()) ++bad;
  }
  CHECK(bad > rounds * 2 / 5);
}

TEST_CASE("a real model: the tokens, scores and types that llama.cpp wrote") {
  const auto model_path = test::asset("tokenizers/llama2_tokenizer.model", "the Llama-2 tokenizer");
  const auto gguf_path = test::asset("tokenizers/ggml-vocab-llama-spm.gguf", "the Llama-2 vocabulary");
  if (!model_path || !gguf_path) return;
  const auto mapped = MappedFile::open(*model_path);
  REQUIRE(mapped.ok());
  const auto model = parse_sentencepiece(mapped->bytes(), *model_path);
  REQUIRE_MESSAGE(model.ok(), model.error().message);
  const auto file = gguf::File::open(*gguf_path);
  REQUIRE(file.ok());
  const auto tokens = file->get_array("tokenizer.ggml.tokens", gguf::ValueType::kString);
  const auto scores = file->get_array("tokenizer.ggml.scores", gguf::ValueType::kF32);
  const auto types = file->get_array("tokenizer.ggml.token_type", gguf::ValueType::kI32);
  REQUIRE((tokens.ok() && scores.ok() && types.ok()));
  const auto texts = tokens->strings();
  REQUIRE(texts.size() == 32000);
  CHECK(std::equal(texts.begin(), texts.end(), model->pieces.begin(), model->pieces.end()));
  CHECK(scores->values<float>() == model->scores);
  CHECK(types->values<std::int32_t>() == model->types);
  CHECK(model->unknown == 0);
  CHECK(model->add_dummy_prefix);
  CHECK(model->charsmap.empty());
}

}  // namespace
}  // namespace bitnet::tokenizer
