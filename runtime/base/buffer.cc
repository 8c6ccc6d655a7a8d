// Small buffers come from the allocator (so that an address sanitizer sees their borders), large ones from mmap: a
// mapping is made 2 MiB too long, trimmed to a 2 MiB border and offered to the kernel for huge pages. The offer may be
// declined without harm, so its result is not looked at.
#include "runtime/base/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "runtime/base/math.h"

namespace bitnet {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMappedFrom = std::size_t{1} << 20;

Error out_of_memory(std::size_t bytes, const char* reason) {
  return {ErrorCode::kMemory, "cannot allocate " + std::to_string(bytes) + " bytes of memory: " + reason +
                                  "; free memory, raise the limit (ulimit -v), or use a smaller model or context"};
}

}  // namespace

Result<Buffer> Buffer::allocate(std::size_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) return out_of_memory(bytes, "the size is impossible");

  if (bytes < kMappedFrom) {
    const std::size_t rounded = round_up(bytes, kCacheLine);
    void* memory = std::aligned_alloc(kCacheLine, rounded);
    if (memory == nullptr) return out_of_memory(bytes, std::strerror(ENOMEM));
    std::memset(memory, 0, rounded);
    buffer.data_ = static_cast<std::byte*>(memory);
    buffer.size_ = bytes;
    return buffer;
  }

  const std::size_t length = round_up(bytes, kHugePage);
  const std::size_t reserved = length + kHugePage;
  void* mapping = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return out_of_memory(bytes, std::strerror(errno));
  auto* const first = static_cast<std::byte*>(mapping);
  const std::size_t head = (kHugePage - reinterpret_cast<std::uintptr_t>(first) % kHugePage) % kHugePage;
  const std::size_t tail = reserved - head - length;
  if (head > 0) munmap(first, head);
  if (tail > 0) munmap(first + head + length, tail);
  madvise(first + head, length, MADV_HUGEPAGE);
  buffer.data_ = first + head;
  buffer.size_ = bytes;
  buffer.mapping_ = first + head;
  buffer.mapping_size_ = length;
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_(std::exchange(other.mapping_size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_size_, other.mapping_size_);
  return *this;
}

Buffer::~Buffer() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapping_size_);
  } else {
    std::free(data_);
  }
}

}  // namespace bitnet
