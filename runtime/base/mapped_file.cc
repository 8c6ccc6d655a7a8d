// The descriptor is closed as soon as the mapping stands; size and mode are those of the file that was opened (fstat),
// not of whatever the path names a moment later.
#include "runtime/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
  }
  ::close(descriptor);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      world_writable_(std::exchange(other.world_writable_, false)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(world_writable_, other.world_writable_);
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
  // Advice: may be declined.
  if (page_begin < page_end) madvise(reinterpret_cast<void*>(page_begin), page_end - page_begin, MADV_DONTNEED);
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

}  // namespace bitnet
