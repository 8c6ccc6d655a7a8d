// What commands that feed a model share: the text or the token ids to feed it with, the file of its logits, and the
// interrupt that ends the work early.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::tools {

// The whole number that is all of the text, or nothing.
template <typename T>
[[nodiscard]] std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// All bytes of a stream, as they are; `name` is for the message. kFailure: it cannot be read (a folder, too).
[[nodiscard]] Result<std::string> read_all(std::istream& stream, const std::string& name);
// The same for a file.
[[nodiscard]] Result<std::string> read_file(const std::string& path);

// An option of token ids: N,N,... and repeatable. "" is refused; CLI11 itself would take it for no ids at all.
CLI::Option* add_ids(CLI::App& command, const std::string& name, std::vector<std::int32_t>& ids,
                     const std::string& help);

// kUsage, naming the option, for an id outside [0, vocab).
[[nodiscard]] Status check_ids(std::span<const std::int32_t> ids, std::int64_t vocab, const char* option);

// kFailure if there is no standard output: a file opened later would become it, and the results would go into it.
[[nodiscard]] Status check_standard_output();

// --dump-logits: float32 [positions][vocab]. Without a path every function does nothing and succeeds.
class LogitsFile {
 public:
  // Empties the file. kUsage if it is one of `inputs` (paths; those that are no files are ignored), kFailure if it
  // cannot be written.
  [[nodiscard]] Status open(const std::string& path, std::span<const std::string> inputs);
  [[nodiscard]] Status add(std::span<const float> logits);
  [[nodiscard]] Status finish();

 private:
  [[nodiscard]] Status check() const;
  std::string path_;
  std::ofstream file_;
};

// From now on Ctrl-C sets interrupted() instead of ending the program; a second one ends it at once.
void catch_interrupt();
// The same for a request to terminate (SIGTERM), of which the first is taken.
void catch_termination();
[[nodiscard]] bool interrupted();

}  // namespace bitnet::tools
