// NewFile: a file that appears under its name when it is whole. A reader sees the old file or the whole new one, and
// neither a failure nor a program that is ended halfway leaves anything behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet {

// Use: open(), append() in any pieces, commit(). Without commit() nothing stays. All errors are kFailure and name the
// target. Not thread-safe.
class NewFile {
 public:
  explicit NewFile(std::string target);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  // Errors: no path, a directory or device under the name, a folder that is missing or cannot be written to.
  [[nodiscard]] Status open();
  [[nodiscard]] Status append(std::span<const std::byte> bytes);
  [[nodiscard]] Status append_zeros(std::uint64_t count);
  // What `source` gives to its sink, in any pieces, `size` bytes in all. kFailure: more or fewer, with `what` in the
  // message ("tensor 'x'"); the source's own error; an error of the sink that the source did not pass on.
  using Sink = std::function<Status(std::span<const std::byte>)>;
  using Source = std::function<Status(const Sink& sink)>;
  [[nodiscard]] Status append_from(const Source& source, std::uint64_t size, const std::string& what);
  // Gives the file its name; it replaces a file that has it.
  [[nodiscard]] Status commit();

 private:
  template <typename Create>
  Status take_name(const Create& create);
  [[nodiscard]] Error failed(const char* what) const;
  Status flush();
  Status write_all(std::span<const std::byte> bytes);

  std::string target_;
  std::string path_;  // of the temporary file, while it has a name
  int descriptor_ = -1;
  std::vector<std::byte> buffer_;
};

}  // namespace bitnet
