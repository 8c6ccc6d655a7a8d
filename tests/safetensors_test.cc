// The SafeTensors reader: what it reads is what was written, and every way in which a file can be wrong is refused with
// a message that says where. Files are handed over in exactly sized heap blocks, so that a sanitizer sees every byte
// too far.
#include "runtime/safetensors/safetensors.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/assets.h"
#include "tests/hf_files.h"
#include "tests/model_files.h"

namespace bitnet::safetensors {
namespace {

using test::safetensors_bytes;

struct Verdict {
  bool ok = false;
  std::string message;
  std::size_t tensors = 0;
  unsigned touched = 0;
};

Verdict read(std::string_view bytes) {
  const std::unique_ptr<std::byte[]> block(new std::byte[bytes.size()]);
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  const auto parsed = File::parse({block.get(), bytes.size()}, "memory");
  Verdict verdict;
  verdict.ok = parsed.ok();
  if (!parsed.ok()) {
    verdict.message = parsed.error().message;
    return verdict;
  }
  verdict.tensors = parsed->tensors().size();
  for (const Tensor& tensor : parsed->tensors()) {
    CHECK(parsed->find_tensor(tensor.name) == &tensor);
    CHECK(tensor.data.size() * 8 == tensor.elements() * element_bits(tensor.dtype));
    for (const std::byte byte : tensor.data) verdict.touched += static_cast<unsigned>(byte);
  }
  return verdict;
}

void check_refused(std::string_view bytes, std::initializer_list<std::string_view> parts) {
  const Verdict verdict = read(bytes);
  CAPTURE(bytes);
  CHECK(!verdict.ok);
  for (const std::string_view part : {std::string_view("memory: "), std::string_view(": expected "),
                                      std::string_view(", found "), std::string_view("; the file is damaged")}) {
    CHECK_MESSAGE(verdict.message.find(part) != std::string::npos, verdict.message);
  }
  for (const std::string_view part : parts) {
    CHECK_MESSAGE(verdict.message.find(part) != std::string::npos, verdict.message);
  }
}

// One tensor "t" whose fields are given as JSON.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t bytes) {
  return safetensors_bytes("{\"t\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
                           std::string(bytes, '\x05'));
}

// Metadata, a matrix, a scalar and an empty tensor; the header names them in another order than their data.
std::string sample() {
  return safetensors_bytes(
      R"({"b":{"dtype":"F32","shape":[],"data_offsets":[6,10]},"__metadata__":{"format":"pt","note":"\u00e9"},)"
      R"("a":{"data_offsets":[0,6],"dtype":"U8","shape":[3,2]},"e":{"dtype":"BF16","shape":[0,7],"data_offsets":[6,6]}} )",
      std::string_view("\1\2\3\4\5\6\0\0\x80\x3f", 10));
}

TEST_CASE("tensors, metadata and data are what was written") {
  const std::string bytes = sample();
  const auto file = File::parse(std::as_bytes(std::span(bytes)), "memory");
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  REQUIRE(file->tensors().size() == 3);
  CHECK(file->tensors()[0].name == "a");  // in the order of their data
  CHECK(file->tensors()[1].name == "e");
  CHECK(file->tensors()[2].name == "b");
  const Tensor* a = file->find_tensor("a");
  REQUIRE(a != nullptr);
  CHECK(a->dtype == DType::kU8);
  CHECK(a->shape == std::vector<std::uint64_t>{3, 2});
  REQUIRE(a->data.size() == 6);
  CHECK(a->data[5] == std::byte{6});
  const Tensor* b = file->find_tensor("b");
  REQUIRE(b != nullptr);
  CHECK(b->shape.empty());
  CHECK(b->elements() == 1);
  float value = 0;
  REQUIRE(b->data.size() == 4);
  std::memcpy(&value, b->data.data(), 4);
  CHECK(value == 1.0F);
  CHECK(b->offset == 6);
  CHECK(file->data_offset() + 10 == bytes.size());
  CHECK(file->find_tensor("e")->elements() == 0);
  CHECK(file->find_tensor("c") == nullptr);
  CHECK(file->find_tensor("") == nullptr);
  REQUIRE(file->metadata().size() == 2);
  CHECK(file->metadata().find("note")->second == "\u00e9");
  CHECK(file->mapping() == nullptr);
  CHECK(shape_text(a->shape) == "[3, 2]");
}

TEST_CASE("every element type has its size") {
  const std::vector<std::pair<std::string, unsigned>> types = {
      {"BOOL", 8},        {"U8", 8},    {"I8", 8},      {"F8_E5M2", 8},    {"F8_E4M3", 8}, {"F8_E8M0", 8},
      {"F8_E4M3FNUZ", 8}, {"F4", 4},    {"F6_E2M3", 6}, {"F6_E3M2", 6},    {"I16", 16},    {"U16", 16},
      {"F16", 16},        {"BF16", 16}, {"I32", 32},    {"U32", 32},       {"F32", 32},    {"C64", 64},
      {"F64", 64},        {"I64", 64},  {"U64", 64},    {"F8_E5M2FNUZ", 8}};
  for (const auto& [name, bits] : types) {
    CAPTURE(name);
    const auto type = parse_dtype(name);
    REQUIRE(type.has_value());
    CHECK(to_string(*type) == name);
    CHECK(element_bits(*type) == bits);
    const unsigned bytes = bits * 4 / 8;
    const std::string text = std::to_string(bytes);
    CHECK(read(one("\"" + name + "\"", "[4]", "[0," + text + "]", bytes)).ok);
    check_refused(one("\"" + name + "\"", "[4]", "[0," + std::to_string(bytes - 1) + "]", bytes - 1),
                  {"tensor 't'.data_offsets", "expected " + text + " bytes for [4] of type " + name});
  }
  check_refused(one("\"F4\"", "[3]", "[0,2]", 2), {"tensor 't'.shape", "whole bytes", "[3] of type F4"});
  CHECK(!parse_dtype("f32").has_value());
  CHECK(!parse_dtype("").has_value());
}

TEST_CASE("the length of the header") {
  check_refused("", {"header length at byte 0", "expected 8 bytes", "found 0"});
  check_refused(std::string(7, '\0'), {"found 7"});
  check_refused(safetensors_bytes(""), {"header at byte 8", "'{'", "an empty header"});
  CHECK(read(safetensors_bytes("{}")).ok);
  CHECK(read(safetensors_bytes("{} \t\r\n")).ok);
  CHECK(read(safetensors_bytes("{}")).tensors == 0);
  check_refused(test::little_endian(std::uint64_t{3}) + "{}", {"header length", "at most 2", "found 3"});
  check_refused(test::little_endian(~std::uint64_t{0}) + "{}", {"at most 2", "found 18446744073709551615"});
  check_refused(test::little_endian(~std::uint64_t{0} - 7) + "{}", {"at most 2"});
  // More than 100 MB, in a file that has them.
  std::string large = safetensors_bytes("{}");
  large.resize(8 + 100000001, ' ');
  const std::uint64_t length = 100000001;
  std::memcpy(large.data(), &length, 8);
  const auto refused = File::parse(std::as_bytes(std::span(large)), "memory");
  REQUIRE(!refused.ok());
  CHECK(refused.error().message.find("at most 100000000, found 100000001") != std::string::npos);
}

TEST_CASE("the text of the header") {
  check_refused(safetensors_bytes(" {}"), {"header at byte 8", "'{'", "' '"});
  check_refused(safetensors_bytes("\xef\xbb\xbf{}"), {"header at byte 8"});
  check_refused(safetensors_bytes("[]"), {"'{'"});
  check_refused(safetensors_bytes("{\"a\xff\":0}"), {"header at byte 11", "UTF-8", "\\xff"});
  check_refused(safetensors_bytes("{}\xe2\x96"), {"header at byte 10", "UTF-8"});
  check_refused(safetensors_bytes(std::string_view("{}\0", 3)), {"header at byte 10", "UTF-8 without NUL"});
  check_refused(safetensors_bytes(std::string_view("{}\0{", 4)), {"UTF-8 without NUL"});
  check_refused(safetensors_bytes("{"), {"expected JSON"});
  check_refused(safetensors_bytes("{}}"), {"header at byte 10", "expected JSON"});
  check_refused(safetensors_bytes("{}{}"), {"expected JSON"});
  check_refused(safetensors_bytes("{,}"), {"header at byte 9", "expected JSON"});
  check_refused(safetensors_bytes("{\"a\":"), {"expected JSON"});
  check_refused(safetensors_bytes("{'a':{}}"), {"expected JSON"});
  check_refused(safetensors_bytes("{\"\\ud800\":{}}"), {"expected JSON"});
  check_refused(safetensors_bytes("{/**/}"), {"expected JSON"});
  check_refused(safetensors_bytes("{\"t\":{\"shape\":[1e999]}}"), {"expected JSON"});
}

TEST_CASE("the form of the header") {
  for (const char* value : {"null", "true", "1", "-1", "1.5", "\"x\"", "[]"}) {
    check_refused(safetensors_bytes("{\"t\":" + std::string(value) + "}"), {"header: tensor 't'", "an object"});
    check_refused(safetensors_bytes("{\"__metadata__\":" + std::string(value) + "}"),
                  {"header: __metadata__", "an object"});
  }
  for (const char* value : {"null", "true", "1", "{}", "[]"}) {
    check_refused(safetensors_bytes("{\"__metadata__\":{\"k\":" + std::string(value) + "}}"),
                  {"header: __metadata__ key 'k'", "a string"});
    check_refused(one(value, "[4]", "[0,16]", 16), {"tensor 't'.dtype", "a string"});
  }
  for (const char* value : {"null", "true", "4", "{}", "\"4\"", "[-1]", "[1.0]", "[\"4\"]", "[[4]]", "[null]", "[{}]",
                            "[18446744073709551616]"}) {
    check_refused(one("\"F32\"", value, "[0,16]", 16), {"tensor 't'.shape", "whole numbers"});
  }
  for (const char* value :
       {"null", "0", "{}", "[]", "[0]", "[0,16,16]", "[0,-16]", "[0,16.0]", "[[0,16]]", "[\"0\",16]"}) {
    check_refused(one("\"F32\"", "[4]", value, 16), {"tensor 't'.data_offsets", "two whole numbers"});
  }
  check_refused(one("\"F33\"", "[4]", "[0,16]", 16), {"tensor 't'.dtype", "element type", "'F33'"});
  check_refused(safetensors_bytes("{\"t\":{}}"), {"tensor 't'", "no dtype"});
  check_refused(safetensors_bytes(R"({"t":{"dtype":"F32","data_offsets":[0,0]}})"), {"no shape"});
  check_refused(safetensors_bytes(R"({"t":{"dtype":"F32","shape":[0]}})"), {"no data_offsets"});
  check_refused(safetensors_bytes(R"({"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})"), {"'x'"});
  check_refused(safetensors_bytes("{\"\":{}}"), {"name", "1 to 65535 bytes"});
  check_refused(safetensors_bytes("{\"a\\u0000b\":{}}"), {"without NUL", "a\\x00b"});
  check_refused(safetensors_bytes("{\"" + std::string(65536, 'n') + "\":{}}"), {"65536 bytes"});
  std::string dims = "[0";
  for (int i = 1; i < 64; ++i) dims += ",1";
  CHECK(read(one("\"F32\"", dims + "]", "[0,0]", 0)).ok);
  check_refused(one("\"F32\"", dims + ",1]", "[0,0]", 0), {"at most 64 dimensions"});
  check_refused(safetensors_bytes(std::string(1000000, '[')), {"'{'"});
  check_refused(safetensors_bytes("{\"t\":" + std::string(1000000, '[')), {"an object", "an array"});
}

TEST_CASE("nothing stands in a header twice") {
  const std::string empty = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  CHECK(read(safetensors_bytes("{\"t\":" + empty + ",\"u\":" + empty + "}")).tensors == 2);
  check_refused(safetensors_bytes("{\"t\":" + empty + ",\"t\":" + empty + "}"), {"tensor 't'", "it again"});
  check_refused(safetensors_bytes("{\"t\":" + empty + ",\"\\u0074\":" + empty + "}"), {"tensor 't'", "it again"});
  for (const char* field : {"\"dtype\":\"F32\"", "\"shape\":[0]", "\"data_offsets\":[0,0]"}) {
    check_refused(
        safetensors_bytes(R"({"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0],)" + std::string(field) + "}}"),
        {"tensor 't'.", "it again"});
  }
  check_refused(safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})"), {"__metadata__", "it again"});
  check_refused(safetensors_bytes(R"({"__metadata__":{"a":"1","a":"1"}})"), {"__metadata__ key 'a'", "it again"});
}

TEST_CASE("shapes and offsets") {
  CHECK(read(one("\"F32\"", "[2,2]", "[0,16]", 16)).touched == 16 * 5);
  check_refused(one("\"F32\"", "[2,2]", "[0,16]", 15), {"within the 15 bytes of data", "[0, 16]"});
  check_refused(one("\"F32\"", "[2,2]", "[0,16]", 17), {"data: expected 16 bytes", "found 17"});
  check_refused(safetensors_bytes("{}", "x"), {"data: expected 0 bytes", "found 1"});
  check_refused(one("\"F32\"", "[2,2]", "[1,17]", 17), {"begins at 0", "[1, 17]"});
  check_refused(one("\"F32\"", "[2,2]", "[16,0]", 16), {"begins at 0", "[16, 0]"});
  check_refused(one("\"F32\"", "[2,2]", "[0,18446744073709551615]", 16), {"within the 16 bytes"});
  check_refused(one("\"F32\"", "[2,3]", "[0,16]", 16), {"expected 24 bytes for [2, 3] of type F32", "which is 16"});
  check_refused(one("\"F32\"", "[2,18446744073709551615]", "[0,16]", 16), {"tensor 't'.shape", "below 2^64 bits"});
  // 2^62 elements of 4 bytes: the product of elements is fine, that of bytes is 2^64 = 0.
  check_refused(one("\"F32\"", "[4611686018427387904]", "[0,0]", 0), {"below 2^64 bits"});
  check_refused(one("\"U8\"", "[4294967296,4294967296,0]", "[0,0]", 0), {"below 2^64 bits"});
  CHECK(read(one("\"U8\"", "[0,18446744073709551615]", "[0,0]", 0)).ok);

  const auto two = [](const char* first, const char* second, std::size_t bytes) {
    return safetensors_bytes("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + std::string(first) +
                                 "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}",
                             std::string(bytes, 'x'));
  };
  CHECK(read(two("[0,4]", "[4,8]", 8)).ok);
  CHECK(read(two("[4,8]", "[0,4]", 8)).ok);
  check_refused(two("[0,4]", "[0,4]", 4), {"tensor 'b'", "begins at 4", "[0, 4]"});    // the same
  check_refused(two("[0,4]", "[3,7]", 7), {"tensor 'b'", "begins at 4", "[3, 7]"});    // overlap
  check_refused(two("[0,4]", "[5,9]", 9), {"tensor 'b'", "begins at 4", "[5, 9]"});    // hole
  check_refused(two("[4,8]", "[8,12]", 12), {"tensor 'a'", "begins at 0", "[4, 8]"});  // hole at the start
}

TEST_CASE("cut short at every byte: refused") {
  const std::string bytes = sample();
  for (std::size_t length = 0; length < bytes.size(); ++length)
    check_refused(std::string_view(bytes).substr(0, length), {});
}

TEST_CASE("every byte replaced by every value: read or refused, never worse") {
  const std::string bytes = sample();
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(value);
      if (!read(damaged).ok) ++refused;
    }
  }
  CHECK(refused > 10000);
}

TEST_CASE("random damage in several places") {
  const std::string bytes = sample();
  std::mt19937 random(5);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = bytes;
    for (unsigned places = 1 + random() % 6; places > 0; --places) {
      damaged[random() % damaged.size()] = bytes[random() % bytes.size()];  // JSON's own characters reach deeper
    }
    if (!read(damaged).ok) ++refused;
  }
  CHECK(refused > 10000);
}

TEST_CASE("files on disk") {
  std::string folder = (std::filesystem::temp_directory_path() / "bitnet_safetensors_XXXXXX").string();
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  const std::string path = folder + "/x.safetensors";
  test::write_file(path, sample());
  {
    const auto file = File::open(path);
    REQUIRE_MESSAGE(file.ok(), file.error().message);
    CHECK(file->mapping() != nullptr);
    CHECK(file->path() == path);
    CHECK(file->find_tensor("a")->data[0] == std::byte{1});
    const File copy = *file;  // shares the mapping
    CHECK(copy.find_tensor("a")->data.data() == file->find_tensor("a")->data.data());
  }
  for (const std::string& wrong : {folder, folder + "/none"}) {
    const auto refused = File::open(wrong);
    REQUIRE(!refused.ok());
    CHECK(refused.error().message.find(wrong) == 0);
  }
  test::write_file(path, "");
  CHECK(!File::open(path).ok());
  std::filesystem::remove_all(folder);
}

TEST_CASE("the collected files get their verdicts") {
  const auto cases = test::asset("safetensors/cases.json", "the collected SafeTensors files");
  if (!cases) return;
  std::ifstream stream(*cases);
  const auto list = nlohmann::json::parse(stream);
  std::size_t tried = 0;
  for (const auto& entry : list.at("cases")) {
    const std::string name = entry.at("file");
    const std::string expected = entry.at("expect");
    CAPTURE(name);
    const auto path = test::asset("safetensors/" + name, name.c_str());
    REQUIRE(path.has_value());
    const auto file = File::open(*path);
    CHECK_MESSAGE(file.ok() == (expected == "ok"), (file.ok() ? "read" : file.error().message));
    ++tried;
  }
  CHECK(tried >= 9);
}

TEST_CASE("the writer: sorted and aligned, read back equal, and what is refused") {
  const test::TempFolder folder;
  const std::string path = folder.file("x.safetensors");
  safetensors::Writer writer;
  writer.set("format", "pt");
  writer.add_tensor("b", DType::kU8, {3});
  writer.add_tensor("a \"quoted\" \xC3\xA4", DType::kF32, {2, 1});
  writer.add_tensor("c", DType::kBF16, {});
  writer.add_tensor("none", DType::kF32, {0, 5});
  const auto fill = [](std::size_t index, const safetensors::Writer::Sink& sink) -> Status {
    constexpr std::size_t kBytes[] = {3, 8, 2, 0};
    const std::vector<std::byte> bytes(kBytes[index], static_cast<std::byte>(index + 1));
    for (const std::byte& byte : bytes) BITNET_RETURN_IF_ERROR(sink({&byte, 1}));
    return {};
  };
  REQUIRE(writer.write(path, fill).ok());
  const auto file = File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  CHECK(file->data_offset() % 8 == 0);
  CHECK(file->metadata().at("format") == "pt");
  REQUIRE(file->tensors().size() == 4);
  CHECK(file->tensors()[0].elements() * element_bits(file->tensors()[0].dtype) <= 64);
  for (const auto& [name, index, size] :
       {std::tuple("b", 1, 3U), {"a \"quoted\" \xC3\xA4", 2, 8U}, {"c", 3, 2U}, {"none", 4, 0U}}) {
    const Tensor* tensor = file->find_tensor(name);
    REQUIRE(tensor != nullptr);
    CHECK(tensor->data.size() == size);
    CHECK(tensor->offset % (element_bits(tensor->dtype) / 8) == 0);
    for (const std::byte byte : tensor->data) CHECK(byte == static_cast<std::byte>(index));
  }
  const std::string bytes = test::read_file(path);

  const auto refuses = [&](const safetensors::Writer& bad, const safetensors::Writer::Source& source,
                           std::string_view part) {
    const Status status = bad.write(path, source);
    REQUIRE(!status.ok());
    CHECK_MESSAGE(status.error().message.find(part) != std::string::npos, status.error().message);
    CHECK(test::read_file(path) == bytes);  // the old file stays
  };
  refuses(
      writer, [](std::size_t, const safetensors::Writer::Sink&) -> Status { return {}; }, "8 bytes from its source");
  refuses(
      writer,
      [](std::size_t, const safetensors::Writer::Sink& sink) -> Status {
        (void)sink(std::vector<std::byte>(9));
        return {};
      },
      "found 9");
  safetensors::Writer twice = writer;
  twice.add_tensor("b", DType::kU8, {1});
  refuses(twice, fill, "found it twice");
  safetensors::Writer large = writer;
  large.add_tensor("large", DType::kF32, {std::uint64_t{1} << 40, std::uint64_t{1} << 40});
  refuses(large, fill, "below 2^64");
  safetensors::Writer nameless = writer;
  nameless.add_tensor("", DType::kU8, {1});
  refuses(nameless, fill, "1 to 65535 bytes");
  safetensors::Writer foreign = writer;
  foreign.add_tensor("\xFF", DType::kU8, {1});
  refuses(foreign, fill, "a name in UTF-8");
}

}  // namespace
}  // namespace bitnet::safetensors
