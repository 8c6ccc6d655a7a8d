// The descriptor is closed as soon as the mapping stands; size and mode are those of the file that was opened (fstat),
// not of whatever the path names a moment later.
#include "runtime/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace bitnet {
namespace {

Error file_error(const std::string& path, const std::string& what) { return {ErrorCode::kFailure, path + ": " + what}; }

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  // A path with a NUL inside would silently open another file.
  if (path.empty() || path.find('\0') != std::string::npos) {
    return file_error(path, "cannot open: the path is empty or holds a NUL byte");
  }
  // O_NONBLOCK: opening a FIFO must fail below instead of waiting for its writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return file_error(path, std::string("cannot open: ") + std::strerror(errno));

  struct stat status = {};
  if (fstat(descriptor, &status) != 0) {
    const int reason = errno;
    ::close(descriptor);
    return file_error(path, std::string("cannot stat: ") + std::strerror(reason));
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return file_error(path, std::string("cannot map: expected a regular file, found ") +
                                (S_ISDIR(status.st_mode) ? "a directory" : "a device, pipe or socket"));
  }

  MappedFile file;
  file.world_writable_ = (status.st_mode & S_IWOTH) != 0;
  file.size_ = static_cast<std::size_t>(status.st_size);
  if (file.size_ > 0) {
    void* mapping = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (mapping == MAP_FAILED) {
      const int reason = errno;
      file.size_ = 0;
      ::close(descriptor);
      return file_error(path, "cannot map " + std::to_string(status.st_size) + " bytes: " + std::strerror(reason));
    }
    file.data_ = static_cast<const std::byte*>(mapping);
    const auto first = reinterpret_cast<std::uintptr_t>(mapping);
    file.moved_.resize((first + file.size_ - 1) / kUnit - first / kUnit + 1);
  }
  ::close(descriptor);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      world_writable_(std::exchange(other.world_writable_, false)),
      moved_(std::move(other.moved_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(world_writable_, other.world_writable_);
  std::swap(moved_, other.moved_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (part.empty() || data_ == nullptr) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(data_);
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
  const auto end = begin + part.size();
  // Only pages of this mapping: MADV_DONTNEED on anonymous memory would lose its contents.
  if (begin < first || end > first + size_) return;
  const std::uintptr_t page_begin = (begin + page - 1) / page * page;
  const std::uintptr_t page_end = end / page * page;
  // MADV_DONTNEED would lose the contents of units that were moved.
  for (std::uintptr_t at = page_begin; at < page_end;) {
    std::size_t unit = at / kUnit - first / kUnit;
    const bool moved = moved_[unit] != 0;
    std::uintptr_t run_end = at;
    for (; run_end < page_end && (moved_[unit] != 0) == moved; ++unit) run_end = (run_end / kUnit + 1) * kUnit;
    run_end = std::min(run_end, page_end);
    // Advice: may be declined.
    if (!moved) madvise(reinterpret_cast<void*>(at), run_end - at, MADV_DONTNEED);
    at = run_end;
  }
}

void MappedFile::will_need(std::span<const std::byte> part) const {
#ifdef MADV_POPULATE_READ
  if (part.empty()) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data()) + part.size();
  madvise(reinterpret_cast<void*>(begin), end - begin,
          MADV_POPULATE_READ);  // advice: the pages are mapped when touched
#else
  (void)part;
#endif
}

// A unit is filled aside and then put in the place of the file's pages by one mremap: whoever reads the address sees
// the old page or the new one, both with the same bytes.
std::size_t MappedFile::move_to_large_pages(std::span<const std::byte> part) const {
  const auto first = reinterpret_cast<std::uintptr_t>(data_);
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
  const auto end = begin + part.size();
  if (part.empty() || data_ == nullptr || begin < first || end > first + size_) return 0;
  std::size_t moved = 0;
  for (std::uintptr_t unit = (begin + kUnit - 1) / kUnit * kUnit; unit + kUnit <= end; unit += kUnit) {
    std::uint8_t& is_moved = moved_[unit / kUnit - first / kUnit];
    if (is_moved != 0) continue;
    void* const aside = mmap(nullptr, 2 * kUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (aside == MAP_FAILED) break;
    const auto aside_begin = reinterpret_cast<std::uintptr_t>(aside);
    const std::uintptr_t aligned = (aside_begin + kUnit - 1) / kUnit * kUnit;
    void* const copy = reinterpret_cast<void*>(aligned);
    madvise(copy, kUnit, MADV_HUGEPAGE);  // may be declined: then it is 4 KiB pages that hold the copy
    std::memcpy(copy, reinterpret_cast<const void*>(unit), kUnit);
    void* const target = reinterpret_cast<void*>(unit);
    const bool placed = mprotect(copy, kUnit, PROT_READ) == 0 &&
                        mremap(copy, kUnit, kUnit, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target;
    // What is left of the detour: all of it, or the two ends around the hole that the copy left.
    if (!placed) {
      munmap(aside, 2 * kUnit);
      break;
    }
    if (aligned > aside_begin) munmap(aside, aligned - aside_begin);
    const std::uintptr_t rest = aligned + kUnit;
    if (rest < aside_begin + 2 * kUnit) munmap(reinterpret_cast<void*>(rest), aside_begin + 2 * kUnit - rest);
    is_moved = 1;
    moved += kUnit;
  }
  return moved;
}

}  // namespace bitnet
