// MappedFile: a whole regular file, mapped read-only and private. Owns the mapping; movable, not copyable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

  static constexpr std::size_t kUnit = std::size_t{2} << 20;
  // Replaces each unit of kUnit bytes, at addresses that are multiples of it, that lies wholly inside `part` by private
  // memory in one 2 MiB page with the same bytes, at the same address; the file's pages leave the resident set. Returns
  // the bytes moved: less than there are where the system gives no memory, 0 in an empty part. A later change of the
  // file is not seen there, and release() leaves them alone. Nothing may read `part` meanwhile; several threads may
  // move different parts.
  std::size_t move_to_large_pages(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool world_writable_ = false;
  mutable std::vector<std::uint8_t> moved_;  // by unit, from the one that holds data_ on
};

}  // namespace bitnet
