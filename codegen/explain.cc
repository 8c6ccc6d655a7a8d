// Everything is looked up where it is decided: the record in the bundle's table, the point in the points, the source in
// the banner of the embedded header, the code in the image.
#include "codegen/explain.h"

#include <algorithm>
#include <cstdio>

#include "codegen/embedded.h"
#include "codegen/families.h"
#include "codegen/kernel_words.h"
#include "runtime/kernels/layout.h"

namespace bitnet::codegen {
namespace {

// Letters to insert, delete or change to make one of the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// "templates/gemv.h.j2 and templates/dict/avx2/i2s.j2" from the banner of a rendered header.
std::string templates_of(std::string_view header) {
  constexpr std::string_view kMark = "// GENERATED from ";
  const std::size_t begin = header.find(kMark);
  if (begin == std::string_view::npos) return {};
  const std::size_t end = header.find('\n', begin);
  return std::string(header.substr(begin + kMark.size(), end - begin - kMark.size()));
}

std::vector<std::string> files_of(const Kernel& kernel) {
  std::vector<std::string> candidates;
  if (kernel.technique == "halide") return {"schedules/halide_adapter.h", "a Halide pipeline of schedules/"};
  std::string function;
  if (is_ternary(kernel.op)) {
    candidates = {family_header(kernel.isa, kernel.format, family_operation(kernel))};
  } else {
    candidates = dense_headers(kernel.isa);
    function = " " + std::string(to_string(kernel.op)) + "_" + std::string(to_string(kernel.format)) + "(";
  }
  for (const std::string& path : candidates) {
    const EmbeddedFile* file = find_embedded(path);
    if (file == nullptr || file->text.find(function) == std::string_view::npos) continue;
    return {path, templates_of(file->text)};
  }
  return {};
}

std::string decimal(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string mix_text(const InstructionMix& mix) {
  std::vector<std::pair<std::string, int>> order(mix.begin(), mix.end());
  std::ranges::sort(order, {}, [](const auto& each) { return std::pair(-each.second, std::string_view(each.first)); });
  std::string text;
  for (const auto& [name, count] : order)
    text.append(text.empty() ? "" : ", ").append(std::to_string(count) + " " + name);
  return text;
}

std::string point_text(const Point& point) {
  std::string text;
  if (point.streams != 0) {
    text = std::to_string(point.streams) + " streams, prefetch " + std::to_string(point.prefetch) + " bytes ahead";
  } else {
    text = std::to_string(point.token_tile) + " tokens x " + std::to_string(point.row_tiles) + " row tiles";
  }
  text += point.n != 0 ? " (for this shape)" : " (for every shape of the target)";
  if (!point.note.empty()) text += "\n            " + point.note;
  return text;
}

}  // namespace

std::optional<double> Explanation::instructions_per_byte() const {
  if (code.hot.weight_bytes == 0) return std::nullopt;
  return static_cast<double>(code.hot.instructions) / static_cast<double>(code.hot.weight_bytes);
}

std::optional<double> Explanation::instructions_per_64_weights() const {
  const auto each = instructions_per_byte();
  if (!each || bits_per_weight == 0) return std::nullopt;
  return *each * 64 * bits_per_weight / 8;
}

Result<const KernelRecord*> find_record(const KernelTable& table, std::string_view name) {
  const auto found = std::ranges::find(table.kernels, name, &KernelRecord::name);
  if (found != table.kernels.end()) return &*found;
  constexpr std::size_t kShown = 5;
  std::vector<std::pair<std::size_t, std::string_view>> near;
  for (const KernelRecord& record : table.kernels) near.emplace_back(distance(name, record.name), record.name);
  std::ranges::sort(near);
  std::string list;
  for (std::size_t i = 0; i < std::min(kShown, near.size()); ++i) {
    list.append(list.empty() ? "" : ", ").append(near[i].second);
  }
  return Error{ErrorCode::kUsage, "no kernel '" + std::string(name) + "' among the " +
                                      std::to_string(table.kernels.size()) + " of the bundle; near it: " + list};
}

Result<Explanation> explain(const KernelRecord& record, std::span<const std::byte> image, const Points& points,
                            const std::string& provenance) {
  const Kernel& kernel = record.kernel;
  Explanation out;
  out.record = record;
  out.target = to_string(kernel.isa);
  out.formula = formula_of(kernel.op);
  out.points = provenance;
  if (is_ternary(kernel.op)) {
    const Layout layout = layout_of(kernel.format);
    out.layout = layout_text(layout);
    out.bits_per_weight =
        static_cast<double>(info(layout).line_bytes) * 8 / static_cast<double>(info(layout).line_k * BITNET_TILE_ROWS);
    if (kernel.n > 0 && kernel.k > 0) {
      out.bits_with_padding = static_cast<double>(matrix_bytes(layout, kernel.n, kernel.k)) * 8 /
                              (static_cast<double>(kernel.n) * static_cast<double>(kernel.k));
    }
    if (points.provenance == provenance) {
      const Result<Point> point = points.choose(kernel);
      if (point.ok()) out.point = *point;
    }
  }
  out.files = files_of(kernel);
  const Result<CodeSummary> code = summarise_code(image, record.offset, target_of(kernel.isa));
  if (!code.ok()) return Error{code.error().code, "kernel " + record.name + ": " + code.error().message};
  out.code = *code;
  return out;
}

std::string to_text(const Explanation& explanation) {
  const Kernel& kernel = explanation.record.kernel;
  const CodeSummary& code = explanation.code;
  std::string text = explanation.record.name + "\n";
  const auto line = [&](std::string_view key, const std::string& value) {
    std::string padded(key);
    padded.resize(12, ' ');
    text += padded + value + "\n";
  };
  line("formula", explanation.formula);
  std::string shape = kernel.n != 0 ? "N " + std::to_string(kernel.n) + ", " : "";
  shape += kernel.k != 0 ? "K " + std::to_string(kernel.k) : "any size";
  if (kernel.group != 0) shape += ", K-groups of " + std::to_string(kernel.group);
  if (kernel.op == Op::kGemm) {
    shape += kernel.m != 0 ? ", at most " + std::to_string(kernel.m) + " tokens" : ", any number of tokens";
    shape += ", " + std::to_string(kernel.token_tile) + " a tile";
  }
  line("shape", shape);
  if (kernel.scratch_bytes != 0) line("scratch", std::to_string(kernel.scratch_bytes) + " bytes a call");
  if (!explanation.layout.empty()) {
    std::string layout = explanation.layout.substr(0, explanation.layout.size() - 1);
    for (std::size_t at = layout.find('\n'); at != std::string::npos; at = layout.find('\n', at + 1)) {
      layout.insert(at + 1, 12, ' ');
    }
    line("layout", layout);
    std::string bits = decimal(explanation.bits_per_weight, 3) + " bits per weight";
    if (explanation.bits_with_padding != 0)
      bits += ", " + decimal(explanation.bits_with_padding, 3) + " with the padding of this shape";
    line("", bits);
  }
  line("target", explanation.target + " (" +
                     (explanation.record.features.empty() ? "baseline" : explanation.record.features) + ")");
  if (explanation.point) {
    line("point", point_text(*explanation.point));
  } else if (is_ternary(kernel.op)) {
    line("point", "not known: the bundle was made with other points; give them with --points");
  }
  line("points", explanation.points);
  for (const std::string& file : explanation.files) line(&file == &explanation.files.front() ? "source" : "", file);
  line("code", std::to_string(code.instructions) + " instructions, " + std::to_string(code.bytes) + " bytes, " +
                   std::to_string(code.functions) + (code.functions == 1 ? " function, " : " functions, ") +
                   std::to_string(code.loops) + (code.loops == 1 ? " loop" : " loops") +
                   (code.indirect ? "; what lies behind indirect jumps is not counted" : ""));
  line("", mix_text(code.mix));
  line("registers",
       std::to_string(code.vector_registers) + " vector, " + std::to_string(code.general_registers) + " general");
  const LoopSummary& hot = code.hot;
  if (hot.instructions == 0) {
    line("hot loop", "none: the code is straight");
    return text;
  }
  line("hot loop", std::to_string(hot.instructions) + " instructions, " + std::to_string(hot.loads) +
                       " of them with loads, " + std::to_string(hot.spills) + " with the stack");
  line("", mix_text(hot.mix));
  if (const auto each = explanation.instructions_per_byte()) {
    line("", std::to_string(hot.weight_bytes) + " weight bytes an iteration: " + decimal(*each, 3) +
                 " instructions per weight byte, " + decimal(*explanation.instructions_per_64_weights(), 2) +
                 " per 64 weights");
  } else if (is_ternary(kernel.op)) {
    line("", "reads no packed weights: they were expanded into the scratch before");
  }
  return text;
}

}  // namespace bitnet::codegen
