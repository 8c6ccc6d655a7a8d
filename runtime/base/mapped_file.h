// MappedFile: a whole regular file, mapped read-only and private. Owns the mapping; movable, not copyable.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "runtime/base/result.h"

namespace bitnet {

class MappedFile {
 public:
  // Errors: not found, not a regular file, unreadable (errno text), each with the path. An empty file maps to no bytes.
  [[nodiscard]] static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] bool world_writable() const { return world_writable_; }
  // Tells the kernel that these bytes (whole pages inside them) are not needed soon: they leave the resident set and
  // are read again from the file on the next touch.
  void release(std::span<const std::byte> part) const;
  // Tells the kernel that these bytes are needed now: their pages are mapped in one call instead of one fault for each.
  void will_need(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool world_writable_ = false;
};

}  // namespace bitnet
