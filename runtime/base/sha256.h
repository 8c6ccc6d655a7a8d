// SHA-256 (libcrypto): of bytes at once, or fed in pieces.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace bitnet {

class MappedFile;

using Sha256Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  [[nodiscard]] Sha256Digest finish();  // call once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

[[nodiscard]] Sha256Digest sha256(std::span<const std::byte> bytes);
// Of a whole file, in parts that leave the resident set once they are hashed: a model may be larger than the memory.
[[nodiscard]] Sha256Digest sha256_of_file(const MappedFile& file);
[[nodiscard]] std::string to_hex(std::span<const std::uint8_t> bytes);  // lower case

}  // namespace bitnet
