// Writer: metadata is encoded as it is set; header() checks what the reader would refuse, so that nothing is written
// that cannot be read back. write() streams into a file without a name, which gets one, "PATH.tmp.PID.N", when it is
// whole and is then renamed: a reader sees the old file or the whole new one, and neither a failure nor a program that
// is ended halfway leaves anything behind. File systems that know no files without a name get the temporary name at
// once.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "runtime/base/math.h"
#include "runtime/gguf/types.h"

namespace bitnet::gguf {
namespace {

// Every write is this long and begins at a multiple of it: so Linux keeps the file in 2 MiB pages, and whoever maps it
// soon gets them, without a fault for each 4 KiB.
constexpr std::size_t kWriteBuffer = std::size_t{2} << 20;

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto* first = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), first, first + sizeof(T));
}

void append_string(std::vector<std::byte>& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  out.insert(out.end(), first, first + text.size());
}

template <typename T>
std::vector<std::byte> encode_scalar(ValueType type, const T& value) {
  std::vector<std::byte> out;
  append(out, type);
  append(out, value);
  return out;
}

std::vector<std::byte> begin_array(ValueType element, std::size_t count) {
  std::vector<std::byte> out;
  append(out, ValueType::kArray);
  append(out, element);
  append(out, static_cast<std::uint64_t>(count));
  return out;
}

template <typename T>
std::vector<std::byte> encode_array(ValueType element, std::span<const T> values) {
  std::vector<std::byte> out = begin_array(element, values.size());
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

Error writer_error(const std::string& what) { return {ErrorCode::kFailure, "GGUF writer: " + what}; }

Status check_name(const char* what, const std::string& name, std::uint64_t longest) {
  if (name.empty() || name.size() > longest || name.find('\0') != std::string::npos) {
    return writer_error(std::string(what) + " " + quoted(name) + ": expected 1 to " + std::to_string(longest) +
                        " bytes without NUL, found " + std::to_string(name.size()));
  }
  return {};
}

std::string shape_text(const std::vector<std::uint64_t>& ne) {
  std::string text = "[";
  for (std::size_t d = 0; d < ne.size(); ++d) text += (d > 0 ? ", " : "") + std::to_string(ne[d]);
  return text + "]";
}

Result<std::uint64_t> sized(const std::string& name, TensorType type, const std::vector<std::uint64_t>& ne) {
  const auto known = type == TensorType::kTL2OrMXFP4 ? tl2_bytes(ne) : tensor_bytes(type, ne);
  const auto bytes = ne.empty() ? std::nullopt : known;
  if (bytes) return *bytes;
  return writer_error("tensor " + quoted(name) +
                      ": expected 1 to 4 dimensions in whole blocks of a type with a known " + "size, found " +
                      shape_text(ne) + " of type " + std::string(to_string(type)) + " (id " +
                      std::to_string(static_cast<std::uint32_t>(type)) + ")");
}

// The temporary file: closed and removed unless commit() has renamed it.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string target) : target_(std::move(target)) { buffer_.reserve(kWriteBuffer); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  Status open() {
    struct stat status = {};
    if (target_.empty() || target_.find('\0') != std::string::npos) {
      return writer_error(quoted(target_) + ": expected a path, found an empty one or one with a NUL byte");
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

  Status append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t taken = std::min(bytes.size(), kWriteBuffer - buffer_.size());
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
      bytes = bytes.subspan(taken);
      if (buffer_.size() == kWriteBuffer) BITNET_RETURN_IF_ERROR(flush());
    }
    return {};
  }

  Status append_zeros(std::uint64_t count) {
    constexpr std::byte kZeros[4096] = {};
    while (count > 0) {
      const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(count, sizeof(kZeros)));
      BITNET_RETURN_IF_ERROR(append({kZeros, piece}));
      count -= piece;
    }
    return {};
  }

  Status commit() {
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

 private:
  // create(name) makes the file of that name, or returns false and sets errno.
  template <typename Create>
  Status take_name(const Create& create) {
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

  [[nodiscard]] Error failed(const char* what) const {
    return {ErrorCode::kFailure, target_ + ": " + what + ": " + std::strerror(errno) +
                                     "; check the folder, its permissions and the free space"};
  }

  Status flush() {
    BITNET_RETURN_IF_ERROR(write_all(buffer_));
    buffer_.clear();
    return {};
  }

  Status write_all(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return failed("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
  }

  std::string target_;
  std::string path_;
  int descriptor_ = -1;
  std::vector<std::byte> buffer_;
};

}  // namespace

void Writer::set(std::string key, std::uint8_t value) { put(std::move(key), encode_scalar(ValueType::kU8, value)); }
void Writer::set(std::string key, std::uint32_t value) { put(std::move(key), encode_scalar(ValueType::kU32, value)); }
void Writer::set(std::string key, std::int32_t value) { put(std::move(key), encode_scalar(ValueType::kI32, value)); }
void Writer::set(std::string key, std::uint64_t value) { put(std::move(key), encode_scalar(ValueType::kU64, value)); }
void Writer::set(std::string key, float value) { put(std::move(key), encode_scalar(ValueType::kF32, value)); }
void Writer::set(std::string key, bool value) {
  put(std::move(key), encode_scalar(ValueType::kBool, static_cast<std::uint8_t>(value ? 1 : 0)));
}
void Writer::set(std::string key, std::string_view value) {
  std::vector<std::byte> out;
  append(out, ValueType::kString);
  append_string(out, value);
  put(std::move(key), std::move(out));
}
void Writer::set(std::string key, std::span<const std::string> values) {
  std::vector<std::byte> out = begin_array(ValueType::kString, values.size());
  for (const std::string& value : values) append_string(out, value);
  put(std::move(key), std::move(out));
}
void Writer::set(std::string key, std::span<const float> values) {
  put(std::move(key), encode_array(ValueType::kF32, values));
}
void Writer::set(std::string key, std::span<const std::int32_t> values) {
  put(std::move(key), encode_array(ValueType::kI32, values));
}
void Writer::set(std::string key, std::span<const std::uint8_t> values) {
  put(std::move(key), encode_array(ValueType::kU8, values));
}

void Writer::put(std::string key, std::vector<std::byte> encoded) {
  const auto same = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (same != entries_.end()) {
    same->encoded = std::move(encoded);
  } else {
    entries_.push_back({std::move(key), std::move(encoded)});
  }
}

void Writer::add_tensor(std::string name, TensorType type, std::vector<std::uint64_t> ne) {
  tensors_.push_back({std::move(name), type, std::move(ne)});
}

Result<std::vector<std::byte>> Writer::header() const {
  if (!std::has_single_bit(alignment_)) {
    return writer_error("alignment: expected a power of two, found " + std::to_string(alignment_));
  }
  const std::vector<std::byte> alignment_value = encode_scalar(ValueType::kU32, alignment_);
  bool alignment_stated = false;
  for (const Entry& entry : entries_) {
    BITNET_RETURN_IF_ERROR(check_name("key", entry.key, kMaxKeyBytes));
    if (entry.key != kAlignmentKey) continue;
    alignment_stated = true;
    if (entry.encoded != alignment_value) {
      return writer_error("key 'general.alignment': expected the u32 " + std::to_string(alignment_) +
                          " that the writer was made with, found another value or type");
    }
  }
  const bool add_alignment = !alignment_stated && alignment_ != kDefaultAlignment;

  std::vector<std::byte> out;
  append(out, kMagic);
  append(out, kVersion);
  append(out, static_cast<std::uint64_t>(tensors_.size()));
  append(out, static_cast<std::uint64_t>(entries_.size() + (add_alignment ? 1 : 0)));
  for (const Entry& entry : entries_) {
    append_string(out, entry.key);
    out.insert(out.end(), entry.encoded.begin(), entry.encoded.end());
  }
  if (add_alignment) {
    append_string(out, kAlignmentKey);
    out.insert(out.end(), alignment_value.begin(), alignment_value.end());
  }

  std::vector<std::string_view> names;
  std::uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors_) {
    BITNET_RETURN_IF_ERROR(check_name("tensor", tensor.name, kMaxTensorNameBytes));
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t bytes, sized(tensor.name, tensor.type, tensor.ne));
    names.push_back(tensor.name);
    append_string(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.ne.size()));
    for (const std::uint64_t n : tensor.ne) append(out, n);
    append(out, tensor.type);
    append(out, offset);
    constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
    if (bytes > kMost || offset > kMost) {
      return writer_error("tensor " + quoted(tensor.name) + ": the data would exceed 2^62 bytes");
    }
    offset = round_up<std::uint64_t>(offset + bytes, alignment_);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return writer_error("tensor " + quoted(*twice) + ": expected unique names, found it twice");
  }
  return out;
}

Status Writer::write(const std::string& path, const Source& source,
                     const std::function<Status(std::span<std::byte> header)>& patch_header) const {
  BITNET_ASSIGN_OR_RETURN(std::vector<std::byte> head, header());
  if (patch_header) BITNET_RETURN_IF_ERROR(patch_header(head));

  TemporaryFile file(path);
  BITNET_RETURN_IF_ERROR(file.open());
  BITNET_RETURN_IF_ERROR(file.append(head));
  const auto pad = [&](std::uint64_t bytes) {
    return file.append_zeros(round_up<std::uint64_t>(bytes, alignment_) - bytes);
  };
  BITNET_RETURN_IF_ERROR(pad(head.size()));

  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const TensorEntry& tensor = tensors_[i];
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t expected, sized(tensor.name, tensor.type, tensor.ne));
    std::uint64_t received = 0;
    const auto wrong_size = [&](std::uint64_t found) {
      return writer_error(path + ": tensor " + quoted(tensor.name) + ": expected " + std::to_string(expected) +
                          " bytes from its source, found " + std::to_string(found));
    };
    Status sink_status;  // kept, so that a source which ignores a failure of its sink cannot hide it
    const Sink sink = [&](std::span<const std::byte> piece) -> Status {
      if (!sink_status.ok()) return sink_status;
      if (piece.size() > expected - received) {
        sink_status = wrong_size(received + piece.size());
      } else {
        received += piece.size();
        sink_status = file.append(piece);
      }
      return sink_status;
    };
    if (!source) return wrong_size(0);
    BITNET_RETURN_IF_ERROR(source(i, sink));
    BITNET_RETURN_IF_ERROR(sink_status);
    if (received != expected) return wrong_size(received);
    BITNET_RETURN_IF_ERROR(pad(expected));
  }
  return file.commit();
}

}  // namespace bitnet::gguf
