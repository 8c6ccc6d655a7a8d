// Damage of our own making: every refusal names file, field, offset, expected and found, and nothing crashes, hangs or
// allocates by a count. Files are handed over in exactly sized heap blocks, so that a sanitizer sees every byte too
// far.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/gguf_files.h"

namespace bitnet::gguf {
namespace {

using test::Bytes;
using test::RawGguf;

// Parses a copy in its own block and touches everything that a reader could: names, values, data.
struct Verdict {
  bool ok = false;
  std::string message;
  std::uint64_t touched = 0;
};
Verdict read(std::span<const std::byte> bytes) {
  const std::unique_ptr<std::byte[]> block(new std::byte[bytes.size()]);
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  const auto parsed = File::parse({block.get(), bytes.size()}, "memory");
  Verdict verdict;
  verdict.ok = parsed.ok();
  if (!parsed.ok()) {
    verdict.message = parsed.error().message;
    return verdict;
  }
  for (const KeyValue& entry : parsed->metadata()) {
    CHECK(parsed->find(entry.key) == &entry);
    if (const auto* array = std::get_if<Array>(&entry.value)) {
      if (array->type == ValueType::kString) {
        for (const std::string_view text : array->strings()) verdict.touched += std::hash<std::string_view>{}(text) & 1;
      }
      for (const std::byte byte : array->bytes) verdict.touched += static_cast<std::uint64_t>(byte);
    }
    if (const auto* text = std::get_if<std::string_view>(&entry.value)) verdict.touched += text->size();
  }
  for (const Tensor& tensor : parsed->tensors()) {
    CHECK(parsed->find_tensor(tensor.name) == &tensor);
    CHECK(tensor.data.size() == tensor.bytes);
    for (const std::byte byte : tensor.data) verdict.touched += static_cast<std::uint64_t>(byte);
  }
  return verdict;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

void check_refused(const Bytes& bytes, std::initializer_list<std::string_view> parts) {
  const Verdict verdict = read(bytes);
  CHECK(!verdict.ok);
  CHECK_MESSAGE(verdict.message.starts_with("memory: "), verdict.message);
  for (const std::string_view part :
       {std::string_view(" at byte "), std::string_view("expected "), std::string_view(", found ")}) {
    CHECK_MESSAGE(contains(verdict.message, part), verdict.message);
  }
  for (const std::string_view part : parts) {
    CHECK_MESSAGE(contains(verdict.message, part), verdict.message);
  }
}

// A file with one of each: scalars, strings, arrays, two tensors. Its last tensor ends with the file.
Bytes sample() {
  RawGguf raw;
  raw.key("general.architecture", ValueType::kString).text("bitnet");
  raw.key("general.alignment", ValueType::kU32).put(32u);
  raw.key("flag", ValueType::kBool).put(std::uint8_t{1});
  raw.key("rate", ValueType::kF64).put(0.5);
  raw.array("ints", ValueType::kI16, 3).put(std::int16_t{1}).put(std::int16_t{2}).put(std::int16_t{3});
  raw.array("words", ValueType::kString, 2).text("one").text("three");
  raw.tensor("norm", {4}, TensorType::kF32, 0);
  raw.tensor("w", {128, 1}, TensorType::kI2_S, 32);
  return raw.finish(32 + 64);
}

TEST_CASE("the undamaged sample is read") {
  const Verdict verdict = read(sample());
  CHECK_MESSAGE(verdict.ok, verdict.message);
}

TEST_CASE("cut short at every byte: refused, with the offset of the cut in reach") {
  const Bytes bytes = sample();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    check_refused(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)), {});
  }
}

TEST_CASE("every byte replaced by every value: read or refused, never worse") {
  const Bytes bytes = sample();
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      Bytes damaged = bytes;
      damaged[at] = static_cast<std::byte>(value);
      const Verdict verdict = read(damaged);
      if (!verdict.ok) ++refused;
      if (!verdict.ok) CHECK(contains(verdict.message, " at byte "));
    }
  }
  CHECK(refused > 10000);
}

TEST_CASE("random damage in several places") {
  const Bytes bytes = sample();
  std::mt19937 random(11);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    Bytes damaged = bytes;
    const int places = 1 + static_cast<int>(random() % 6);
    for (int p = 0; p < places; ++p) {
      const std::size_t at = random() % damaged.size();
      if (random() % 3 == 0 && at + 8 <= damaged.size()) {
        const std::uint64_t word =
            random() % 2 == 0 ? ~std::uint64_t{0} - random() % 64 : std::uint64_t{1} << random() % 64;
        std::memcpy(damaged.data() + at, &word, sizeof(word));
      } else {
        damaged[at] = static_cast<std::byte>(random());
      }
    }
    if (!read(damaged).ok) ++refused;
  }
  CHECK(refused > 5000);
}

TEST_CASE("header") {
  check_refused({}, {"magic at byte 0", "expected 4 bytes, found 0"});
  Bytes bytes = sample();
  bytes[0] = std::byte{'g'};
  check_refused(bytes, {"magic at byte 0", "'gGUF'", "not a GGUF file"});
  for (const std::uint32_t version : {0u, 1u, 4u}) {
    check_refused(RawGguf(version).finish(),
                  {"version at byte 4", "expected 2 or 3, found " + std::to_string(version)});
  }
  check_refused(RawGguf(0x03000000u).finish(), {"big-endian"});
}

TEST_CASE("huge counts are refused before anything is allocated") {
  for (const std::uint64_t count :
       {std::uint64_t{1000}, std::uint64_t{1} << 32, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    const std::string found = ", found " + std::to_string(count);
    check_refused(RawGguf().counts(count, 0).finish(64),
                  {"n_tensors at byte 8", "at most 2 in a file of 96 bytes", found});
    check_refused(RawGguf().counts(0, count).finish(64), {"n_kv at byte 16", "at most 5 in a file of 96 bytes", found});
    for (const ValueType type : {ValueType::kU8, ValueType::kF64, ValueType::kString, ValueType::kBool}) {
      RawGguf raw;
      raw.array("numbers", type, count);
      check_refused(raw.finish(64), {"kv[0] ('numbers').count", found});
    }
    RawGguf text;
    text.key("text", ValueType::kString).put(count);
    check_refused(text.finish(64), {"kv[0] ('text').value length", found});
    RawGguf key;
    key.counts(0, 1).put(count);
    check_refused(key.finish(64), {"kv[0].key length", found});
  }
  // Enough bytes for so many entries, but their tables would dwarf the file.
  RawGguf dense;
  dense.counts(1'000'000, 0);
  check_refused(dense.finish(25'000'000), {"n_tensors and n_kv", "bytes of memory", "found 1000000 and 0"});
}

TEST_CASE("many entries are checked for duplicates in reasonable time") {
  // 100,000 keys of 170 bytes with a long common prefix, the last one double.
  constexpr int kEntries = 100'000;
  const std::string prefix(160, 'k');
  RawGguf raw;
  for (int i = 0; i < kEntries; ++i) raw.key(prefix + std::to_string(i), ValueType::kU8).put(std::uint8_t{0});
  const auto good = File::parse(raw.finish(), "memory");
  CHECK(good.ok());
  raw.key(prefix + "77", ValueType::kU8).put(std::uint8_t{0});
  const Bytes bytes = raw.finish();
  const auto doubled = File::parse(bytes, "memory");
  REQUIRE(!doubled.ok());
  CHECK(contains(doubled.error().message, "kv[100000].key"));
  CHECK(contains(doubled.error().message, "again, as in kv[77]"));
}

TEST_CASE("metadata") {
  const auto with = [](const auto& build) {
    RawGguf raw;
    raw.key("first", ValueType::kU8).put(std::uint8_t{0});
    build(raw);
    return raw.finish(64);
  };
  check_refused(with([](RawGguf& r) { r.key("k", static_cast<ValueType>(13)); }),
                {"kv[1] ('k').type at byte", "expected a value type 0 to 12, found 13"});
  check_refused(with([](RawGguf& r) { r.key("k", static_cast<ValueType>(0xffffffffu)); }), {"found 4294967295"});
  check_refused(with([](RawGguf& r) { r.key("k", ValueType::kBool).put(std::uint8_t{2}); }),
                {"kv[1] ('k').value", "expected 0 or 1, found 2"});
  check_refused(with([](RawGguf& r) { r.array("k", ValueType::kBool, 2).put(std::uint8_t{1}).put(std::uint8_t{9}); }),
                {"kv[1] ('k')[1]", "expected 0 or 1, found 9"});
  check_refused(with([](RawGguf& r) { r.array("k", ValueType::kArray, 1).put(0u).put(std::uint64_t{0}); }),
                {"kv[1] ('k').element type", "arrays of arrays", "found 9"});
  check_refused(with([](RawGguf& r) { r.array("k", static_cast<ValueType>(99), 1); }), {"element type", "found 99"});
  check_refused(with([](RawGguf& r) { r.array("k", ValueType::kString, 2).text("a").put(std::uint64_t{500}); }),
                {"kv[1] ('k')[1] length", "found 500"});
  check_refused(with([](RawGguf& r) { r.key("first", ValueType::kU8).put(std::uint8_t{0}); }),
                {"kv[1].key at byte", "'first' again, as in kv[0]"});
  check_refused(with([](RawGguf& r) { r.key("", ValueType::kU8).put(std::uint8_t{0}); }),
                {"kv[1].key length", "found 0"});
  check_refused(with([](RawGguf& r) { r.key(std::string_view("a\0b", 3), ValueType::kU8).put(std::uint8_t{0}); }),
                {"kv[1].key at byte", "expected no NUL byte, found 'a\\x00b'"});
  check_refused(with([](RawGguf& r) { r.key(std::string(65536, 'k'), ValueType::kU8).put(std::uint8_t{0}); }),
                {"kv[1].key length", "found 65536"});
  // Odd, but only bytes: accepted.
  CHECK(read(with([](RawGguf& r) { r.key("k", ValueType::kString).text("\xff\xc0\x80"); })).ok);
  CHECK(read(with([](RawGguf& r) { r.key("\xff", ValueType::kString).text(std::string_view("\0", 1)); })).ok);
}

TEST_CASE("alignment") {
  for (const std::uint32_t alignment : {0u, 3u, 13u, 33u, 0xffffffffu}) {
    RawGguf raw;
    raw.key("general.alignment", ValueType::kU32).put(alignment);
    check_refused(raw.finish(), {"general.alignment.value at byte", "power of two", std::to_string(alignment)});
  }
  RawGguf wide;
  wide.key("general.alignment", ValueType::kU64).put(std::uint64_t{32});
  check_refused(wide.finish(), {"general.alignment.type", "expected u32, found u64"});
  RawGguf array;
  array.array("general.alignment", ValueType::kU32, 1).put(32u);
  check_refused(array.finish(), {"general.alignment.type", "expected u32, found array"});
  RawGguf largest;
  largest.key("general.alignment", ValueType::kU32).put(0x80000000u).tensor("w", {1}, TensorType::kI8, 0);
  check_refused(largest.finish(64), {"tensor[0] ('w').data at byte 2147483648", "found 0 before the end"});
}

TEST_CASE("tensor table") {
  const auto with = [](const std::vector<std::uint64_t>& ne, TensorType type, std::uint64_t offset = 0) {
    RawGguf raw;
    raw.tensor("w", ne, type, offset);
    return raw.finish(1024);
  };
  const auto huge = std::uint64_t{1} << 63;
  check_refused(with({1, 1, 1, 1, 1}, TensorType::kF32),
                {"tensor[0] ('w').n_dims at byte", "expected 0 to 4, found 5"});
  check_refused(with({4, huge}, TensorType::kF32), {"tensor[0] ('w').ne[1]", "below 2^63", std::to_string(huge)});
  check_refused(with({huge, 0}, TensorType::kF32), {"tensor[0] ('w').ne[0]"});
  check_refused(with({std::uint64_t{1} << 40, std::uint64_t{1} << 20, std::uint64_t{1} << 10, 2}, TensorType::kF32),
                {"tensor[0] ('w').ne[2]"});
  check_refused(with({std::uint64_t{1} << 40, 0, std::uint64_t{1} << 40}, TensorType::kF32), {"tensor[0] ('w').ne[2]"});
  check_refused(with({std::uint64_t{1} << 62}, TensorType::kF32), {"tensor[0] ('w').ne", "a size below 2^63 bytes"});
  check_refused(with({33}, TensorType::kQ8_0),
                {"tensor[0] ('w').ne[0]", "a multiple of 32 for type Q8_0", "found [33]"});
  check_refused(with({6}, TensorType::kI2_S), {"a multiple of 4 for type I2_S"});
  check_refused(with({}, TensorType::kQ8_0), {"a multiple of 32"});
  for (const std::uint32_t id : {4u, 5u, 31u, 32u, 33u, 37u, 43u, 134u, 0xffffffffu}) {
    check_refused(with({32}, static_cast<TensorType>(id)),
                  {"tensor[0] ('w').type at byte", "found id " + std::to_string(id) + ";"});
  }
  check_refused(with({1024}, TensorType::kF32), {"tensor[0] ('w').data at byte 64", "expected 4096 bytes for [1024]"});
  check_refused(with({8}, TensorType::kF32, 32), {"tensor[0] ('w').offset", "expected 0", "found 32"});
  CHECK(read(with({}, TensorType::kF32)).ok);
  CHECK(read(with({0}, TensorType::kF32)).ok);
  CHECK(read(with({2, 2, 2, 2}, TensorType::kF32)).ok);

  const auto named = [](std::string_view first, std::string_view second) {
    RawGguf raw;
    raw.tensor(first, {8}, TensorType::kF32, 0).tensor(second, {8}, TensorType::kF32, 32);
    return raw.finish(64);
  };
  CHECK(read(named("a", "b")).ok);
  CHECK(read(named("a", std::string(63, 'b'))).ok);
  check_refused(named("a", "a"), {"tensor[1].name at byte", "'a' again, as in tensor[0]"});
  check_refused(named("a", ""), {"tensor[1].name length", "found 0"});
  check_refused(named("a", std::string(64, 'b')), {"tensor[1].name length", "expected 1 to 63 bytes, found 64"});
  check_refused(named("a", std::string_view("b\0", 2)), {"tensor[1].name", "NUL"});
}

TEST_CASE("offsets: gaps, overlaps, order, padding") {
  const auto pair = [](std::uint64_t first, std::uint64_t second, std::uint64_t data_bytes) {
    RawGguf raw;
    raw.tensor("a", {10}, TensorType::kF32, first).tensor("b", {3}, TensorType::kF32, second);
    return raw.finish(data_bytes);
  };
  CHECK(read(pair(0, 64, 96)).ok);
  CHECK(read(pair(0, 64, 76)).ok);   // no padding behind the last tensor
  CHECK(read(pair(0, 64, 500)).ok);  // something behind it
  check_refused(pair(0, 64, 75), {"tensor[1] ('b').data", "expected 12 bytes", "found 11 before the end"});
  check_refused(pair(0, 64, 63), {"tensor[1] ('b').data", "found 0 before the end"});
  check_refused(pair(0, 32, 96), {"tensor[1] ('b').offset", "expected 64", "found 32"});
  check_refused(pair(0, 96, 200), {"tensor[1] ('b').offset", "expected 64", "found 96"});
  check_refused(pair(0, 40, 96), {"expected 64", "found 40"});
  check_refused(pair(32, 0, 96), {"tensor[0] ('a').offset", "expected 0", "found 32"});
  check_refused(pair(0, ~std::uint64_t{0}, 96), {"tensor[1] ('b').offset", "found 18446744073709551615"});
}

}  // namespace
}  // namespace bitnet::gguf
