// Executable memory: never writable and executable at once. The digest is taken of the private copy, after nothing can
// change it from outside any more, so a file that changes while it is loaded cannot slip other code in.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/math.h"
#include "runtime/base/sha256.h"
#include "runtime/bundle/bundle.h"

namespace bitnet {

Result<CodeImage> CodeImage::load(std::span<const std::byte> image, std::span<const std::uint8_t> sha256,
                                  std::string_view what) {
  const std::string name(what);
  if (image.empty()) return Error{ErrorCode::kVerification, name + ": the image is empty"};
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t bytes = round_up(image.size(), page);
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return Error{ErrorCode::kMemory,
                 name + ": no memory for " + std::to_string(bytes) + " bytes of code: " + std::strerror(errno)};
  }
  CodeImage result;  // owns the memory from here on
  result.base_ = base;
  result.size_ = bytes;
  std::memcpy(base, image.data(), image.size());

  const Sha256Digest found = bitnet::sha256({static_cast<const std::byte*>(base), image.size()});
  if (!std::ranges::equal(found, sha256)) {
    return Error{ErrorCode::kVerification, name + ": the code does not have its SHA-256: expected " + to_hex(sha256) +
                                               ", found " + to_hex(found)};
  }
  if (mprotect(base, bytes, PROT_READ | PROT_EXEC) != 0) {
    return Error{ErrorCode::kFailure, name + ": this system does not allow executable memory (mprotect: " +
                                          std::strerror(errno) + "); use --bundle none"};
  }
  // Where the instruction cache does not follow writes by itself (AArch64); nothing on x86.
  __builtin___clear_cache(static_cast<char*>(base), static_cast<char*>(base) + bytes);
  return result;
}

CodeImage::CodeImage(CodeImage&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}

CodeImage& CodeImage::operator=(CodeImage&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  return *this;
}

CodeImage::~CodeImage() {
  if (base_ != nullptr) munmap(base_, size_);
}

}  // namespace bitnet
