// `bitnet inspect` as a user sees it: exit codes, both forms, hostile strings. Runs the built program.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/gguf_files.h"

namespace bitnet {
namespace {

using gguf::TensorType;
using gguf::ValueType;
using test::TemporaryFolder;

struct Run {
  int exit_code = -1;
  std::string out;  // standard output and standard error together
};

std::string program(const std::string& name) {
  const char* folder = std::getenv("BITNET_BIN");
  REQUIRE_MESSAGE(folder != nullptr, "BITNET_BIN must name the folder of the built programs");
  return std::string(folder) + "/" + name;
}

// `words` is a shell command in braces, so that both streams of all of it are seen.
Run shell(const std::string& words) {
  const std::string command = "{ " + words + "; } 2>&1";
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Run run;
  char buffer[4096];
  std::size_t count = 0;
  while ((count = fread(buffer, 1, sizeof(buffer), pipe)) > 0) run.out.append(buffer, count);
  const int status = pclose(pipe);
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

Run inspect(const std::string& arguments) { return shell("'" + program("bitnet") + "' inspect " + arguments); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string save(const TemporaryFolder& folder, const std::string& name, const test::Bytes& bytes) {
  const std::string path = folder.path / name;
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return path;
}

test::RawGguf sample() {
  test::RawGguf raw;
  raw.key("general.architecture", ValueType::kString).text("bitnet");
  raw.key("eps", ValueType::kF32).put(1e-5f);
  raw.key("nan", ValueType::kF32).put(std::numeric_limits<float>::quiet_NaN());
  raw.key("big", ValueType::kU64).put(~std::uint64_t{0});
  raw.key("flag", ValueType::kBool).put(std::uint8_t{1});
  raw.key("bytes", ValueType::kString).text("caf\xc3\xa9 \xff\xfe \x1b[31m");
  raw.key("long", ValueType::kString).text(std::string(99, 'x') + "\xc3\xa9" + std::string(500, 'y'));
  raw.key("k\xff", ValueType::kI8).put(std::int8_t{-1});
  raw.array("short", ValueType::kI16, 2).put(std::int16_t{-1}).put(std::int16_t{2});
  raw.array("flags", ValueType::kBool, 2).put(std::uint8_t{0}).put(std::uint8_t{1});
  raw.array("numbers", ValueType::kU32, 65);
  for (std::uint32_t i = 0; i < 65; ++i) raw.put(i);
  raw.tensor("w", {128, 2}, TensorType::kI2_S, 0).tensor("s", {}, TensorType::kF32, 96);
  return raw;
}

TEST_CASE("inspect --json") {
  const TemporaryFolder folder;
  const test::Bytes bytes = sample().finish(128);
  const std::string path = save(folder, "x.gguf", bytes);
  const Run run = inspect("--json '" + path + "'");
  CHECK(run.exit_code == 0);
  const auto json = nlohmann::json::parse(run.out);
  CHECK(json["path"] == path);
  CHECK(json["version"] == 3);
  CHECK(json["alignment"] == 32);
  CHECK(json["file_bytes"] == bytes.size());
  CHECK(json["data_offset"] == bytes.size() - 128);
  const auto& metadata = json["metadata"];
  CHECK(metadata.size() == 11);
  CHECK(metadata["general.architecture"] == "bitnet");
  CHECK(metadata["eps"].dump() == "1e-05");
  CHECK(metadata["nan"] == "nan");
  CHECK(metadata["big"] == ~std::uint64_t{0});
  CHECK(metadata["flag"] == true);
  CHECK(metadata["bytes"] == "caf\xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd \x1b[31m");
  CHECK(metadata["k\xef\xbf\xbd"] == -1);
  CHECK(metadata["short"] == std::vector<int>{-1, 2});
  CHECK(metadata["flags"] == std::vector<bool>{false, true});
  CHECK(metadata["numbers"]["type"] == "u32");
  CHECK(metadata["numbers"]["count"] == 65);
  CHECK(metadata["numbers"]["first"] == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
  REQUIRE(json["tensors"].size() == 2);
  CHECK(json["tensors"][0].dump() == R"({"bytes":96,"name":"w","ne":[128,2],"offset":0,"type":"I2_S"})");
  CHECK(json["tensors"][1].dump() == R"({"bytes":4,"name":"s","ne":[],"offset":96,"type":"F32"})");

  const auto full = nlohmann::json::parse(inspect("--json --full '" + path + "'").out);
  REQUIRE(full["metadata"]["numbers"].is_array());
  CHECK(full["metadata"]["numbers"].size() == 65);
}

TEST_CASE("inspect as text: long values shortened, nothing that a terminal would obey") {
  const TemporaryFolder folder;
  const std::string path = save(folder, "x.gguf", sample().finish(128));
  const Run run = inspect("'" + path + "'");
  CHECK(run.exit_code == 0);
  CHECK(contains(run.out, "GGUF version 3, alignment 32"));
  CHECK(contains(run.out, "u32[65] 0, 1, 2, 3, 4, 5, 6, 7, ...\n"));
  CHECK(contains(run.out, "i16[2] -1, 2\n"));
  CHECK(contains(run.out, "xx\"... (601 bytes)"));
  CHECK(contains(run.out, "I2_S"));
  CHECK(contains(run.out, "96 bytes at 0\n"));
  CHECK(!contains(run.out, "\x1b"));
  CHECK(contains(run.out, "\\u001b[31m"));
  CHECK(!contains(run.out, "\xff"));
  const Run full = inspect("--full '" + path + "'");
  CHECK(contains(full.out, "63, 64\n"));
  CHECK(contains(full.out, std::string(500, 'y') + "\"\n"));
}

TEST_CASE("inspect shows a bundle's kernel table decoded, and anything else under its key as a string") {
  const TemporaryFolder folder;
  const auto table = [&](const std::string& text) {
    test::RawGguf raw;
    raw.key("bitnet.kernels", ValueType::kString).text(text);
    const Run run = inspect("--json '" + save(folder, "x.bnk", raw.finish()) + "'");
    CHECK(run.exit_code == 0);
    return nlohmann::json::parse(run.out)["metadata"]["bitnet.kernels"];
  };
  CHECK(table(R"({"kernels":[{"name":"i2s_gemv_n16k128_avx2","offset":4096}]})")["kernels"][0]["offset"] == 4096);
  CHECK(table("{not json") == "{not json");
  CHECK(table("") == "");
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  CHECK(table(deep) == deep);
}

TEST_CASE("inspect fails with the reader's message and exit code 1") {
  const TemporaryFolder folder;
  test::Bytes bytes = sample().finish(128);
  bytes.resize(bytes.size() - 29);  // cuts into the last tensor
  const std::string path = save(folder, "cut.gguf", bytes);
  const auto parsed = gguf::File::open(path);
  REQUIRE(!parsed.ok());
  for (const std::string flag : {"", "--json "}) {
    const Run run = inspect(flag + "'" + path + "'");
    CHECK(run.exit_code == 1);
    CHECK(run.out == "bitnet: " + parsed.error().message + "\n");
  }
  const Run missing = inspect("'" + (folder.path / "missing").string() + "'");
  CHECK(missing.exit_code == 1);
  CHECK(contains(missing.out, "No such file or directory"));
  CHECK(inspect("").exit_code == 2);
}

TEST_CASE("programs: output that cannot be written is a failure with its reason and leaves nothing") {
  const TemporaryFolder folder;
  const std::string bitnet = "'" + program("bitnet") + "'";
  const std::string model = folder.path / "m.gguf";
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder.path), std::filesystem::directory_iterator());
  };
  const Run limited = shell("ulimit -f 20; " + bitnet + " synth --shape tiny -o '" + model + "'");
  CHECK(limited.exit_code == 1);
  CHECK(contains(limited.out, "cannot write: File too large"));
  CHECK(files() == 0);

  const int unnamed = ::open(folder.path.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
  if (unnamed < 0) std::printf("SKIPPED: a program killed while it writes (no O_TMPFILE in %s)\n", folder.path.c_str());
  if (unnamed >= 0) {
    ::close(unnamed);
    const Run killed = shell(bitnet + " synth --shape large -o '" + model + "' & sleep 0.2; kill -KILL $!; wait $!");
    CHECK(killed.exit_code == 128 + 9);
    CHECK(files() == 0);
  }

  CHECK(shell(bitnet + " synth --shape tiny --seed -1 -o '" + model + "'").exit_code == 2);
  REQUIRE(shell(bitnet + " synth --shape tiny --seed 18446744073709551615 -o '" + model + "'").exit_code == 0);
  CHECK(files() == 1);
  const Run full = shell(bitnet + " inspect '" + model + "' > /dev/full");
  CHECK(full.exit_code == 1);
  CHECK(contains(full.out, "cannot write to standard output"));
}

TEST_CASE("bitnet-codegen: never writes over the model, and says when its output is lost") {
  if (!std::filesystem::exists(program("bitnet-codegen"))) {
    std::printf("SKIPPED: bitnet-codegen is not built\n");
    return;
  }
  const TemporaryFolder folder;
  const std::string codegen = "'" + program("bitnet-codegen") + "'";
  const std::string model = folder.path / "m.gguf";
  REQUIRE(shell("'" + program("bitnet") + "' synth --shape tiny -o '" + model + "'").exit_code == 0);
  const auto bytes = std::filesystem::file_size(model);
  std::filesystem::create_symlink("m.gguf", folder.path / "link");
  for (const char* name : {"m.gguf", "link", "../m.gguf"}) {
    std::filesystem::create_directory(folder.path / "sub");
    const std::string output = folder.path / (name[0] == '.' ? std::string("sub/") + name : name);
    const Run run = shell(codegen + " --model '" + model + "' --target scalar -o '" + output + "'");
    CHECK(run.exit_code == 2);
    CHECK(contains(run.out, "is the model itself"));
  }
  CHECK(std::filesystem::file_size(model) == bytes);
  const Run full = shell(codegen + " list-targets > /dev/full");
  CHECK(full.exit_code == 1);
  CHECK(contains(full.out, "bitnet-codegen: cannot write to standard output"));
}

}  // namespace
}  // namespace bitnet
