// mkdtemp below TMPDIR (or /tmp), and plain file reading and writing with messages that name the path.
#include "codegen/temp_dir.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

namespace bitnet::codegen {

Result<TempDir> TempDir::create() {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/bitnet-codegen-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return Error{ErrorCode::kFailure, "cannot make a temporary folder " + pattern + ": " + std::strerror(errno) +
                                          " (set TMPDIR to a writable folder)"};
  }
  TempDir dir;
  dir.path_ = std::move(pattern);
  return dir;
}

TempDir::TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TempDir::~TempDir() {
  if (path_.empty()) return;
  std::error_code ignored;  // nothing can be done about it here, and the name is unique
  std::filesystem::remove_all(path_, ignored);
}

Status write_file(const std::string& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  if (!stream) return Error{ErrorCode::kFailure, "cannot write " + path + ": " + std::strerror(errno)};
  return {};
}

Result<std::string> read_whole_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return Error{ErrorCode::kFailure, "cannot read " + path + ": " + std::strerror(errno)};
  std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (stream.bad()) return Error{ErrorCode::kFailure, "cannot read " + path + ": " + std::strerror(errno)};
  return bytes;
}

}  // namespace bitnet::codegen
