// Handmade GGUF bytes for tests: RawGguf writes what it is told, right or wrong.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/gguf/gguf.h"

namespace bitnet::test {

using Bytes = std::vector<std::byte>;

class RawGguf {
 public:
  explicit RawGguf(std::uint32_t version = 3) {
    put_text("GGUF").put(version).put(std::uint64_t{0}).put(std::uint64_t{0});
  }

  template <typename T>
  RawGguf& put(T value) {
    const std::size_t end = bytes_.size();
    bytes_.resize(end + sizeof(T));
    std::memcpy(bytes_.data() + end, &value, sizeof(T));
    return *this;
  }
  RawGguf& put_text(std::string_view text) {
    const std::size_t end = bytes_.size();
    bytes_.resize(end + text.size());
    if (!text.empty()) std::memcpy(bytes_.data() + end, text.data(), text.size());
    return *this;
  }
  // A length-prefixed string.
  RawGguf& text(std::string_view text) { return put(static_cast<std::uint64_t>(text.size())).put_text(text); }
  // Key and type; the value follows with put() or text().
  RawGguf& key(std::string_view key, gguf::ValueType type) {
    ++n_kv_;
    return text(key).put(type);
  }
  RawGguf& array(std::string_view name, gguf::ValueType element, std::uint64_t count) {
    return key(name, gguf::ValueType::kArray).put(element).put(count);
  }
  RawGguf& tensor(std::string_view name, const std::vector<std::uint64_t>& ne, gguf::TensorType type,
                  std::uint64_t offset) {
    ++n_tensors_;
    text(name).put(static_cast<std::uint32_t>(ne.size()));
    for (const std::uint64_t n : ne) put(n);
    return put(type).put(offset);
  }
  RawGguf& counts(std::uint64_t n_tensors, std::uint64_t n_kv) {
    n_tensors_ = n_tensors;
    n_kv_ = n_kv;
    return *this;
  }

  // Fills in the counts, pads to the alignment and appends `data_bytes` of data.
  [[nodiscard]] Bytes finish(std::uint64_t data_bytes = 0, std::uint64_t alignment = 32) const {
    Bytes result = bytes_;
    std::memcpy(result.data() + 8, &n_tensors_, sizeof(n_tensors_));
    std::memcpy(result.data() + 16, &n_kv_, sizeof(n_kv_));
    result.resize((result.size() + alignment - 1) / alignment * alignment);
    result.resize(result.size() + data_bytes, std::byte{0x11});
    return result;
  }

 private:
  Bytes bytes_;
  std::uint64_t n_tensors_ = 0;
  std::uint64_t n_kv_ = 0;
};

struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "bitnet_gguf_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

}  // namespace bitnet::test
