// Samples of this process by Linux's `perf`, and the map that gives it the names of a bundle's kernels: their machine
// code is in anonymous memory, for which perf looks into /tmp/perf-PID.map.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/model.h"

namespace bitnet::bench {

// /tmp/perf-PID.map with the chosen kernels of the model's bundle (none: an empty file). Each one reaches to the next,
// the last one of an image to the end of its memory. Removed with the object, unless kept.
class PerfMap {
 public:
  [[nodiscard]] static Result<PerfMap> write(const Model& model);
  PerfMap(PerfMap&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  PerfMap& operator=(PerfMap&&) = delete;
  PerfMap(const PerfMap&) = delete;
  PerfMap& operator=(const PerfMap&) = delete;
  ~PerfMap();
  void keep() { path_.clear(); }

 private:
  explicit PerfMap(std::string path) : path_(std::move(path)) {}
  std::string path_;  // "": nothing to remove
};

// Entry of a map: names [address, address + bytes).
struct MapEntry {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::string name;
};
// Lines of /proc/PID/maps that are executable, as [begin, end).
struct CodeRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
[[nodiscard]] std::vector<CodeRange> parse_code_ranges(std::string_view proc_maps);
// Kernels (address and name, bytes not yet known, any order) with their sizes; those outside of every range are left
// out.
[[nodiscard]] std::vector<MapEntry> size_entries(std::vector<MapEntry> kernels, const std::vector<CodeRange>& ranges);
[[nodiscard]] std::string format_map(const std::vector<MapEntry>& entries);

// perf record on this process, all threads, 999 times a second.
class PerfRecording {
 public:
  // kFailure: no perf (with the package to install), or it may not run (with what it said and how to allow it).
  [[nodiscard]] static Status check();  // a short trial, before minutes are spent
  [[nodiscard]] static Result<PerfRecording> start();
  // Ends it. The text of `perf script`.
  [[nodiscard]] Result<std::string> finish();
  PerfRecording(PerfRecording&& other) noexcept;
  PerfRecording& operator=(PerfRecording&&) = delete;
  PerfRecording(const PerfRecording&) = delete;
  PerfRecording& operator=(const PerfRecording&) = delete;
  ~PerfRecording();

 private:
  PerfRecording() = default;
  std::string folder_;
  pid_t child_ = -1;
};

// Folded stacks: "command;outermost;...;innermost" and how many samples were in it. Frames without a name are left out;
// a stack of none but these is "command;[unknown]". `script` is what perf script prints with its default fields. Lines
// that are neither a sample's head nor a frame are passed over.
using FoldedStacks = std::map<std::string, std::uint64_t>;
[[nodiscard]] FoldedStacks fold_stacks(std::string_view script);

// The picture: one box per frame, as wide as its share of the samples, callers below callees.
[[nodiscard]] std::string flamegraph_svg(const FoldedStacks& stacks, std::string_view title);

// Writes the picture, or folded stacks where the path ends in ".folded". kFailure: no samples, or the file cannot be
// written.
[[nodiscard]] Status write_flamegraph(const std::string& path, std::string_view script, std::string_view title);

}  // namespace bitnet::bench
