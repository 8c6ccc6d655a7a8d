// Folds the stacks of `perf script` and draws them; see perf.h.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <memory>

#include "tools/bench/perf.h"
#include "tools/bench/svg.h"

namespace bitnet::bench {
namespace {

constexpr std::string_view kUnknown = "[unknown]";

// "  7f00 name(int)+0x13 (/lib/x.so)" -> "name(int)"; "" without a name, or where the line is no frame.
std::string frame_name(std::string_view line) {
  const std::size_t address = line.find_first_not_of(" \t");
  if (address == 0 || address == std::string_view::npos) return {};
  const std::size_t after = line.find(' ', address);
  if (after == std::string_view::npos) return {};
  std::string_view name = line.substr(after + 1);
  // The file, in brackets that may hold others: "(/tmp/x (deleted))".
  if (name.ends_with(')')) {
    int depth = 0;
    std::size_t open = name.size();
    while (open > 0) {
      --open;
      if (name[open] == ')') ++depth;
      if (name[open] == '(' && --depth == 0) break;
    }
    if (depth == 0 && open > 0 && name[open - 1] == ' ') name = name.substr(0, open - 1);
  }
  const std::size_t offset = name.rfind("+0x");
  if (offset != std::string_view::npos) name = name.substr(0, offset);
  if (name == kUnknown) return {};
  std::string folded(name);
  std::ranges::replace(folded, ';', ':');
  return folded;
}

// "bitnet 15395 40317.1: 1001001 cpu-clock:" -> "bitnet"; command names may have blanks, the number ends them.
std::string command_name(std::string_view line) {
  for (std::size_t blank = line.find(' '); blank != std::string_view::npos; blank = line.find(' ', blank + 1)) {
    const std::size_t word = line.find_first_not_of(' ', blank);
    if (word == std::string_view::npos || std::isdigit(static_cast<unsigned char>(line[word])) == 0) continue;
    std::string name(line.substr(0, blank));
    std::ranges::replace(name, ';', ':');
    return name;
  }
  return {};
}

struct Box {
  std::string name;
  std::uint64_t samples = 0;
  std::vector<std::unique_ptr<Box>> inner;

  Box& child(std::string_view wanted) {
    for (const std::unique_ptr<Box>& box : inner) {
      if (box->name == wanted) return *box;
    }
    inner.push_back(std::make_unique<Box>());
    inner.back()->name = wanted;
    return *inner.back();
  }
  [[nodiscard]] std::size_t depth() const {
    std::size_t deepest = 0;
    for (const std::unique_ptr<Box>& box : inner) deepest = std::max(deepest, box->depth());
    return deepest + 1;
  }
};

constexpr double kRow = 18;
constexpr double kWidth = 1200;
constexpr double kTop = 50;

void draw(Svg& svg, const Box& box, double x, double bottom, double per_sample, std::uint64_t all, std::size_t level) {
  const double width = static_cast<double>(box.samples) * per_sample;
  if (width < 0.3) return;
  const double y = bottom - static_cast<double>(level + 1) * kRow;
  char share[64];
  std::snprintf(share, sizeof share, " (%llu samples, %.1f %%)", static_cast<unsigned long long>(box.samples),
                100.0 * static_cast<double>(box.samples) / static_cast<double>(all));
  // Colours only tell neighbours apart; one name has one colour.
  unsigned hash = 0;
  for (const char c : box.name) hash = hash * 31 + static_cast<unsigned char>(c);
  svg.box(x, y, std::max(0.2, width - 0.5), kRow - 1, "pale c" + std::to_string(hash % 6), box.name + share);
  const auto letters = static_cast<std::size_t>(width / 6.6);
  if (letters >= 3) {
    const std::string label = box.name.size() <= letters ? box.name : box.name.substr(0, letters - 2) + "..";
    svg.text(x + 3, y + 13, label);
  }
  for (const std::unique_ptr<Box>& inner : box.inner) {
    draw(svg, *inner, x, bottom, per_sample, all, level + 1);
    x += static_cast<double>(inner->samples) * per_sample;
  }
}

}  // namespace

FoldedStacks fold_stacks(std::string_view script) {
  FoldedStacks stacks;
  std::string command;
  std::vector<std::string> frames;  // the innermost first
  const auto finish = [&] {
    if (command.empty()) return;
    std::string folded = command;
    for (std::size_t i = frames.size(); i-- > 0;) folded += ";" + frames[i];
    if (frames.empty()) folded += ";" + std::string(kUnknown);
    ++stacks[folded];
    command.clear();
    frames.clear();
  };
  while (!script.empty()) {
    const std::size_t end = std::min(script.find('\n'), script.size());
    const std::string_view line = script.substr(0, end);
    script.remove_prefix(std::min(end + 1, script.size()));
    if (line.find_first_not_of(" \t") == std::string_view::npos) {
      finish();
    } else if (line.front() == ' ' || line.front() == '\t') {
      std::string name = frame_name(line);
      if (!name.empty() && !command.empty()) frames.push_back(std::move(name));
    } else if (line.front() != '#') {
      finish();
      command = command_name(line);
    }
  }
  finish();
  return stacks;
}

std::string flamegraph_svg(const FoldedStacks& stacks, std::string_view title) {
  Box root;
  root.name = "all";
  for (const auto& [stack, samples] : stacks) {
    root.samples += samples;
    Box* box = &root;
    for (std::size_t at = 0; at <= stack.size();) {
      const std::size_t end = std::min(stack.find(';', at), stack.size());
      box = &box->child(std::string_view(stack).substr(at, end - at));
      box->samples += samples;
      at = end + 1;
    }
  }
  const double height = kTop + static_cast<double>(root.depth()) * kRow + 10;
  Svg svg(kWidth + 20, height);
  svg.text(10, 20, title, "head");
  svg.text(10, 38, std::to_string(root.samples) + " samples; a box is as wide as its share, its callers are below it",
           "faint");
  draw(svg, root, 10, height - 10, root.samples == 0 ? 0 : kWidth / static_cast<double>(root.samples), root.samples, 0);
  return svg.finish();
}

Status write_flamegraph(const std::string& path, std::string_view script, std::string_view title) {
  const FoldedStacks stacks = fold_stacks(script);
  if (stacks.empty()) {
    return Error{ErrorCode::kFailure, "--flamegraph: perf took no sample; is this process allowed to be sampled?"};
  }
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (path.ends_with(".folded")) {
    for (const auto& [stack, samples] : stacks) file << stack << ' ' << samples << '\n';
  } else {
    file << flamegraph_svg(stacks, title);
  }
  file.flush();
  if (!file) return Error{ErrorCode::kFailure, path + ": the flamegraph cannot be written; is the folder there?"};
  return {};
}

}  // namespace bitnet::bench
