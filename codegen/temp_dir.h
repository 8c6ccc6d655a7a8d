// A private folder in TMPDIR for what a linker or a child process must read from files; removed with all content when
// the object dies.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace bitnet::codegen {

class TempDir {
 public:
  // kFailure names the folder and the reason.
  [[nodiscard]] static Result<TempDir> create();
  TempDir(TempDir&& other) noexcept;
  TempDir& operator=(TempDir&&) = delete;
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  TempDir() = default;
  std::string path_;
};

[[nodiscard]] Status write_file(const std::string& path, std::string_view bytes);
[[nodiscard]] Result<std::string> read_whole_file(const std::string& path);

}  // namespace bitnet::codegen
