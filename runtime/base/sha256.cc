// libcrypto's EVP interface. Its only failure, a context or digest that cannot be made, is reported like an allocation
// that fails in a container: by an exception of the standard library. A digest is never invented.
#include "runtime/base/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <stdexcept>

#include "runtime/base/mapped_file.h"

namespace bitnet {

struct Sha256::State {
  struct Free {
    void operator()(EVP_MD_CTX* made) const { EVP_MD_CTX_free(made); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (state_->context == nullptr || EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("libcrypto offers no SHA-256 on this machine");
  }
}

Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) != 1) {
    throw std::runtime_error("libcrypto failed in SHA-256");
  }
}

Sha256Digest Sha256::finish() {
  Sha256Digest digest{};
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(state_->context.get(), digest.data(), &size) != 1 || size != digest.size()) {
    throw std::runtime_error("libcrypto failed in SHA-256, or finish() was called twice");
  }
  return digest;
}

Sha256Digest sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

Sha256Digest sha256_of_file(const MappedFile& file) {
  constexpr std::size_t kPart = std::size_t{16} << 20;
  Sha256 hash;
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    const std::span<const std::byte> part = rest.first(std::min(kPart, rest.size()));
    hash.update(part);
    file.release(part);
    rest = rest.subspan(part.size());
  }
  return hash.finish();
}

std::string to_hex(std::span<const std::uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

}  // namespace bitnet
