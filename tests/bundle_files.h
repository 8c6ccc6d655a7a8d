// Files for the tests of bundles: temporary folders, reading and writing whole files, and the digest of a changed
// bundle made right again, so that a test reaches the check behind it.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/sha256.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::test {

using Bytes = std::vector<std::byte>;

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "bitnet-test-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline Bytes read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline void write_file(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  REQUIRE_MESSAGE(out.good(), path);
}

// Position of `text` in the file; it must be there.
inline std::size_t find_text(std::span<const std::byte> bytes, std::string_view text) {
  const auto found = std::ranges::search(bytes, std::as_bytes(std::span(text)));
  REQUIRE_MESSAGE(!found.empty(), text);
  return static_cast<std::size_t>(found.begin() - bytes.begin());
}

// Puts the right digest over header, metadata and tensor table.
inline void redigest(Bytes& bytes) {
  const Result<gguf::File> file = gguf::File::parse(bytes, "redigest");
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  const std::size_t at = file->find("bitnet.bundle.digest")->value_offset;
  const std::size_t size = file->header_bytes();
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), 32, std::byte{0});
  const Sha256Digest digest = sha256(std::span(bytes).first(size));
  std::memcpy(bytes.data() + at, digest.data(), digest.size());
}

// Sets a u32 metadata value and the digest.
inline void set_u32(Bytes& bytes, std::string_view key, std::uint32_t value) {
  const Result<gguf::File> file = gguf::File::parse(bytes, "set_u32");
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  std::memcpy(bytes.data() + file->find(key)->value_offset, &value, sizeof value);
  redigest(bytes);
}

}  // namespace bitnet::test
