// The file has no name while it is written; it gets one, "PATH.tmp.PID.N", when it is whole and is then renamed. File
// systems that know no files without a name get the temporary name at once.
#include "runtime/base/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace bitnet {
namespace {

// Every write is this long and begins at a multiple of it: so Linux keeps the file in 2 MiB pages, and whoever maps it
// soon gets them, without a fault for each 4 KiB.
constexpr std::size_t kWriteBuffer = std::size_t{2} << 20;

}  // namespace

NewFile::NewFile(std::string target) : target_(std::move(target)) { buffer_.reserve(kWriteBuffer); }

NewFile::~NewFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

Status NewFile::open() {
  struct stat status = {};
  if (target_.empty() || target_.find('\0') != std::string::npos) {
    return Error{ErrorCode::kFailure,
                 "cannot write: expected a path, found an empty one or one with a NUL byte; name a file"};
  }
  // Renaming over a device or directory would replace or fail late.
  if (stat(target_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    return Error{ErrorCode::kFailure,
                 target_ +
                     ": cannot write: expected a regular file or nothing there, found a directory or device; "
                     "name a file"};
  }
  // Never writable for others, even with an open umask: the bundle reader would refuse it.
  constexpr mode_t kMode = 0644;
  const std::size_t slash = target_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : target_.substr(0, slash + 1);
  if (::access("/proc/self/fd", X_OK) == 0) {  // else it could get no name later
    descriptor_ = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, kMode);
    if (descriptor_ >= 0) return {};
  }
  return take_name([this](const char* candidate) {
    descriptor_ = ::open(candidate, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
    return descriptor_ >= 0;
  });
}

Status NewFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t taken = std::min(bytes.size(), kWriteBuffer - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    bytes = bytes.subspan(taken);
    if (buffer_.size() == kWriteBuffer) BITNET_RETURN_IF_ERROR(flush());
  }
  return {};
}

Status NewFile::append_zeros(std::uint64_t count) {
  constexpr std::byte kZeros[4096] = {};
  while (count > 0) {
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(count, sizeof(kZeros)));
    BITNET_RETURN_IF_ERROR(append({kZeros, piece}));
    count -= piece;
  }
  return {};
}

Status NewFile::commit() {
  BITNET_RETURN_IF_ERROR(flush());
  if (path_.empty()) {
    const std::string self = "/proc/self/fd/" + std::to_string(descriptor_);
    BITNET_RETURN_IF_ERROR(take_name([&](const char* candidate) {
      return ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, candidate, AT_SYMLINK_FOLLOW) == 0;
    }));
  }
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0) return failed("cannot write");
  if (::rename(path_.c_str(), target_.c_str()) != 0) return failed("cannot rename the finished file");
  path_.clear();
  return {};
}

// create(name) makes the file of that name, or returns false and sets errno.
template <typename Create>
Status NewFile::take_name(const Create& create) {
  constexpr int kAttempts = 100;
  for (int i = 0; i < kAttempts; ++i) {
    std::string candidate = target_ + ".tmp." + std::to_string(::getpid()) + "." + std::to_string(i);
    if (create(candidate.c_str())) {
      path_ = std::move(candidate);
      return {};
    }
    if (errno != EEXIST) break;
  }
  return failed("cannot create a temporary file beside it");
}

Status NewFile::append_from(const Source& source, std::uint64_t size, const std::string& what) {
  std::uint64_t received = 0;
  const auto wrong_size = [&](std::uint64_t found) {
    return Error{ErrorCode::kFailure, target_ + ": " + what + ": expected " + std::to_string(size) +
                                          " bytes from its source, found " + std::to_string(found)};
  };
  Status sink_status;  // kept, so that a source which ignores a failure of its sink cannot hide it
  const Sink sink = [&](std::span<const std::byte> piece) -> Status {
    if (!sink_status.ok()) return sink_status;
    if (piece.size() > size - received) {
      sink_status = wrong_size(received + piece.size());
    } else {
      received += piece.size();
      sink_status = append(piece);
    }
    return sink_status;
  };
  if (!source) return wrong_size(0);
  BITNET_RETURN_IF_ERROR(source(sink));
  BITNET_RETURN_IF_ERROR(sink_status);
  return received == size ? Status() : Status(wrong_size(received));
}

Error NewFile::failed(const char* what) const {
  return {ErrorCode::kFailure, target_ + ": " + what + ": " + std::strerror(errno) +
                                   "; check the folder, its permissions and the free space"};
}

Status NewFile::flush() {
  BITNET_RETURN_IF_ERROR(write_all(buffer_));
  buffer_.clear();
  return {};
}

Status NewFile::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("cannot write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace bitnet
