// Reads tuned points. Every key is checked against the operation that it belongs to, so that a misspelt or misplaced
// key can never be mistaken for a default.
#include "codegen/points.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sstream>
#include <type_traits>
#include <vector>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "codegen/embedded.h"
#include "runtime/base/mapped_file.h"
#include "runtime/model/limits.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kFolder = "schedules/points/";
constexpr std::string_view kEnding = ".toml";
constexpr std::string_view kDefaults = "defaults";

Error bad(const std::string& path, const toml::source_region& where, const std::string& what) {
  return {ErrorCode::kUsage, path + ":" + std::to_string(where.begin.line) + ": " + what};
}

struct IntegerKey {
  std::string_view key;
  std::int64_t low;
  std::int64_t high;
  std::int64_t multiple;
  bool required;
};
constexpr IntegerKey kN = {"n", 1, std::int64_t{1} << 31, 1, false};
constexpr IntegerKey kK = {"k", 1, kMaxWidth, 1, false};
constexpr IntegerKey kMinModelBytes = {"min_model_bytes", 0, std::int64_t{1} << 50, 1, false};
constexpr IntegerKey kM = {"m", 2, 8, 2, false};
constexpr IntegerKey kStreams = {"streams", 1, 8, 1, true};
constexpr IntegerKey kPrefetch = {"prefetch", 0, 65536, 64, true};
constexpr IntegerKey kTokenTile = {"token_tile", 1, 32, 1, true};
constexpr IntegerKey kRowTiles = {"row_tiles", 1, 8, 1, true};

constexpr std::string_view kTechniques[] = {"template", "halide"};

std::string range_text(const IntegerKey& key) {
  std::string text = "an integer " + std::to_string(key.low) + ".." + std::to_string(key.high);
  if (key.multiple != 1) text += " that is a multiple of " + std::to_string(key.multiple);
  return text;
}

// One table of the file, [[point]], [[layout]] or [[dense]]: keys are taken one by one; what is left over is an error.
class Row {
 public:
  Row(const toml::table& table, std::string_view kind, const std::string& path)
      : table_(table), kind_(kind), path_(path) {
    known_.push_back("note");  // provenance of one row, for readers
  }

  [[nodiscard]] Error fail(std::string_view key, const std::string& what) const {
    const toml::node* node = table_.get(key);
    return bad(path_, node == nullptr ? table_.source() : node->source(), what);
  }

  Result<std::string> string(std::string_view key, std::string_view fallback = {}) {
    known_.push_back(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) {
      if (!fallback.empty()) return std::string(fallback);
      return fail(key, std::string(kind_) + " without '" + std::string(key) + "': add it");
    }
    if (!node->is_string()) return fail(key, "key '" + std::string(key) + "' must be a string");
    return node->as_string()->get();
  }

  // `parse` is parse_isa, parse_op or parse_format; `names` lists what is allowed.
  template <typename Parse>
  auto choice(std::string_view key, Parse parse, std::string_view what, const std::string& names,
              std::string_view fallback = {})
      -> Result<typename std::invoke_result_t<Parse, std::string_view>::value_type> {
    BITNET_ASSIGN_OR_RETURN(const std::string text, string(key, fallback));
    const auto parsed = parse(text);
    if (parsed) return *parsed;
    return fail(
        key, "key '" + std::string(key) + "': unknown " + std::string(what) + " '" + text + "' (known: " + names + ")");
  }

  Result<Isa> isa() {
    std::string names;
    for (const Isa each : all_isas()) names.append(names.empty() ? "" : ", ").append(to_string(each));
    return choice("isa", parse_isa, "target", names);
  }

  Result<Format> format(std::string_view fallback) {
    const auto parse = [](std::string_view text) {
      const std::optional<Format> format = parse_format(text);
      return format && is_ternary(*format) ? format : std::nullopt;
    };
    return choice("format", parse, "format", "i2s, t5, tl1, tl2", fallback);
  }

  Result<std::int64_t> integer(const IntegerKey& key) {
    known_.push_back(key.key);
    const toml::node* node = table_.get(key.key);
    if (node == nullptr) {
      if (!key.required) return std::int64_t{0};
      return fail(key.key,
                  std::string(kind_) + " without '" + std::string(key.key) + "': add it (" + range_text(key) + ")");
    }
    const auto* value = node->as_integer();
    if (value == nullptr || value->get() < key.low || value->get() > key.high || value->get() % key.multiple != 0) {
      std::ostringstream found;
      if (value != nullptr) {
        found << value->get();
      } else {
        found << "a value of type " << node->type();
      }
      return fail(key.key,
                  "key '" + std::string(key.key) + "': expected " + range_text(key) + ", found " + found.str());
    }
    return value->get();
  }

  // "template" unless given.
  Result<std::string> technique(std::string_view fallback = "template") {
    BITNET_ASSIGN_OR_RETURN(std::string name, string("technique", fallback));
    if (std::ranges::find(kTechniques, name) != std::end(kTechniques)) return name;
    return fail("technique", "key 'technique': expected template or halide, found '" + name + "'");
  }

  // n and k: both (one shape) or none (every shape).
  Status shape(std::int64_t& n, std::int64_t& k) {
    BITNET_ASSIGN_OR_RETURN(n, integer(kN));
    BITNET_ASSIGN_OR_RETURN(k, integer(kK));
    if ((n == 0) == (k == 0)) return {};
    return bad(path_, table_.source(), "keys 'n' and 'k': give both (one shape) or none (every shape)");
  }

  // Nothing may be left: a misspelt or misplaced key is never mistaken for a default.
  [[nodiscard]] Status finish() const {
    if (const toml::node* note = table_.get("note"); note != nullptr && !note->is_string()) {
      return bad(path_, note->source(), "key 'note' must be a string");
    }
    for (const auto& [key, node] : table_) {
      if (std::ranges::find(known_, key.str()) != known_.end()) continue;
      std::string known;
      for (const std::string_view each : known_) known.append(known.empty() ? "" : ", ").append(each);
      return bad(path_, node.source(),
                 "unknown key '" + std::string(key.str()) + "' in " + std::string(kind_) + " (known: " + known + ")");
    }
    return {};
  }

 private:
  const toml::table& table_;
  std::string_view kind_;
  const std::string& path_;
  std::vector<std::string_view> known_;
};

Result<Point> read_point(const toml::table& table, const std::string& path) {
  const toml::node* op_node = table.get("op");
  const bool gemm = op_node != nullptr && op_node->is_string() && op_node->as_string()->get() == "gemm";
  const bool batch = gemm && table.contains("m");
  Row row(table, batch ? "small-batch gemm point" : gemm ? "gemm point" : "gemv point", path);
  Point point;
  BITNET_ASSIGN_OR_RETURN(point.isa, row.isa());
  BITNET_ASSIGN_OR_RETURN(point.op, row.choice("op", parse_op, "operation", "gemv, gemm"));
  if (!is_ternary(point.op)) {
    return row.fail("op", "key 'op': expected gemv or gemm, found '" + std::string(to_string(point.op)) + "'");
  }
  BITNET_ASSIGN_OR_RETURN(point.format, row.format("i2s"));
  BITNET_RETURN_IF_ERROR(row.shape(point.n, point.k));
  const auto take = [&](const IntegerKey& key, std::int32_t& value) -> Status {
    BITNET_ASSIGN_OR_RETURN(const std::int64_t found, row.integer(key));
    value = static_cast<std::int32_t>(found);
    return {};
  };
  if (batch) BITNET_RETURN_IF_ERROR(take(kM, point.m));
  BITNET_ASSIGN_OR_RETURN(const std::string technique, row.technique());
  const bool halide = technique == "halide";
  if (halide && (batch || point.format != Format::kI2s)) {
    return row.fail("technique", "key 'technique': Halide pipelines multiply i2s only, and have no small batches");
  }
  if (halide) point.technique = technique;
  if (gemm && !batch) {
    BITNET_RETURN_IF_ERROR(take(kTokenTile, point.token_tile));
    BITNET_RETURN_IF_ERROR(take(kRowTiles, point.row_tiles));
  } else {
    BITNET_RETURN_IF_ERROR(take(kStreams, point.streams));
    if (!halide) BITNET_RETURN_IF_ERROR(take(kPrefetch, point.prefetch));
  }
  BITNET_RETURN_IF_ERROR(row.finish());
  if (const auto* note = table.get("note")) point.note = note->as_string()->get();  // finish() has seen its type
  if (point.m == 6) return row.fail("m", "key 'm': expected 2, 4 or 8, found 6");
  return point;
}

Result<LayoutPoint> read_layout(const toml::table& table, const std::string& path) {
  Row row(table, "layout row", path);
  LayoutPoint point;
  BITNET_ASSIGN_OR_RETURN(point.isa, row.isa());
  BITNET_ASSIGN_OR_RETURN(point.format, row.format({}));
  BITNET_RETURN_IF_ERROR(row.shape(point.n, point.k));
  BITNET_ASSIGN_OR_RETURN(point.min_model_bytes, row.integer(kMinModelBytes));
  BITNET_RETURN_IF_ERROR(row.finish());
  if (const auto* note = table.get("note")) point.note = note->as_string()->get();  // finish() has seen its type
  return point;
}

Result<DensePoint> read_dense(const toml::table& table, const std::string& path) {
  Row row(table, "dense row", path);
  DensePoint point;
  BITNET_ASSIGN_OR_RETURN(point.isa, row.isa());
  BITNET_ASSIGN_OR_RETURN(point.op, row.choice("op", parse_op, "operation", "the dense operations"));
  if (is_ternary(point.op)) {
    return row.fail("op", "key 'op': expected a dense operation, found '" + std::string(to_string(point.op)) + "'");
  }
  BITNET_ASSIGN_OR_RETURN(point.technique, row.technique({}));
  if (point.technique == "halide" && point.op != Op::kNormQuantize) {
    return row.fail("technique", "key 'technique': no Halide pipeline does " + std::string(to_string(point.op)) +
                                     "; only norm_quantize has one");
  }
  BITNET_RETURN_IF_ERROR(row.finish());
  return point;
}

bool same_place(const Point& a, const Point& b) {
  return a.isa == b.isa && a.op == b.op && a.format == b.format && a.m == b.m && a.n == b.n && a.k == b.k &&
         a.technique == b.technique;
}
bool same_place(const LayoutPoint& a, const LayoutPoint& b) {
  return a.isa == b.isa && a.n == b.n && a.k == b.k && a.min_model_bytes == b.min_model_bytes;
}
bool same_place(const DensePoint& a, const DensePoint& b) { return a.isa == b.isa && a.op == b.op; }

std::string embedded_path(std::string_view name) { return std::string(kFolder).append(name).append(kEnding); }
const EmbeddedFile* find_shipped(std::string_view name) { return find_embedded(embedded_path(name)); }
std::string shipped_names() {
  std::string names;
  for (const std::string& name : shipped_points()) names.append(names.empty() ? "" : ", ").append(name);
  return names;
}

// Appends the rows of `below` for places that `rows` has no row for.
template <typename T>
void add_rows(std::vector<T>& rows, const std::vector<T>& below) {
  const std::size_t own = rows.size();
  for (const T& row : below) {
    const auto same = [&row](const T& other) { return same_place(row, other); };
    if (std::none_of(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(own), same)) rows.push_back(row);
  }
}

void add_base(Points& points, const Points& below) {
  add_rows(points.points, below.points);
  add_rows(points.layouts, below.layouts);
  add_rows(points.dense, below.dense);
}

// Reads every table of the list `key` with `read` into `out`.
template <typename T, typename Read>
Status read_rows(const toml::table& root, const char* key, const std::string& path, Read read, std::vector<T>& out) {
  const toml::node* list = root.get(key);
  if (list == nullptr) return {};
  if (!list->is_array_of_tables()) {
    return bad(path, list->source(), "'" + std::string(key) + "' must be an array of tables: [[" + key + "]]");
  }
  for (const toml::node& node : *list->as_array()) {
    BITNET_ASSIGN_OR_RETURN(const T row, read(*node.as_table(), path));
    for (const T& other : out) {
      if (same_place(row, other)) {
        return bad(path, node.source(), "a second " + std::string(key) + " for the same place: remove one");
      }
    }
    out.push_back(row);
  }
  return {};
}

}  // namespace

Result<Point> Points::choose(const Kernel& kernel) const {
  const Point* general = nullptr;
  for (const Point& point : points) {
    if (point.isa != kernel.isa || point.op != kernel.op || point.format != kernel.format || point.m != kernel.m) {
      continue;
    }
    if (kernel.technique.empty() ? kernel.group != 0 && !point.technique.empty()
                                 : kernel.technique != point.technique) {
      continue;
    }
    if (point.n == kernel.n && point.k == kernel.k) return point;
    if (point.n == 0 && general == nullptr) general = &point;
  }
  if (general != nullptr) return *general;
  const std::string isa(to_string(kernel.isa));
  const std::string op(to_string(kernel.op));
  const std::string format(to_string(kernel.format));
  const std::string m = kernel.m == 0 ? "" : ", m = " + std::to_string(kernel.m);
  return Error{ErrorCode::kUsage, "points (" + provenance + "): no point for " + format + " " + op + m + " " +
                                      std::to_string(kernel.n) + " x " + std::to_string(kernel.k) + " on " + isa +
                                      ", and no general one: add a [[point]] with isa = \"" + isa + "\", op = \"" + op +
                                      "\", format = \"" + format + "\"" + m +
                                      (kernel.technique.empty() ? "" : ", technique = \"" + kernel.technique + "\"")};
}

std::optional<Format> Points::format(Isa isa, std::int64_t n, std::int64_t k, std::uint64_t model_bytes) const {
  const LayoutPoint* best = nullptr;
  for (const LayoutPoint& point : layouts) {
    const bool exact = point.n == n && point.k == k;
    if (point.isa != isa || (!exact && point.n != 0)) continue;
    if (static_cast<std::uint64_t>(point.min_model_bytes) > model_bytes) continue;
    const bool best_exact = best != nullptr && best->n != 0;
    if (best == nullptr || (exact && !best_exact) ||
        (exact == best_exact && point.min_model_bytes > best->min_model_bytes)) {
      best = &point;
    }
  }
  return best == nullptr ? std::nullopt : std::optional(best->format);
}

std::string Points::technique(Isa isa, Op op) const {
  for (const DensePoint& point : dense) {
    if (point.isa == isa && point.op == op) return point.technique;
  }
  return "template";
}

Result<Points> parse_points(std::string_view text, const std::string& path) {
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) {
    return bad(path, parsed.error().source(), "not valid TOML: " + std::string(parsed.error().description()));
  }
  const toml::table& root = parsed.table();
  Points result;
  result.provenance = std::filesystem::path(path).filename().string();
  std::string base;
  for (const auto& [key, node] : root) {
    if (key == "provenance") {
      if (!node.is_string()) return bad(path, node.source(), "key 'provenance' must be a string");
      result.provenance = node.as_string()->get();
    } else if (key == "base") {
      if (!node.is_string()) return bad(path, node.source(), "key 'base' must be a string");
      base = node.as_string()->get();
      if (find_shipped(base) == nullptr || path == embedded_path(base)) {
        return bad(path, node.source(),
                   "key 'base': expected a shipped file (" + shipped_names() + "), found '" + base + "'");
      }
    } else if (key != "point" && key != "layout" && key != "dense") {
      return bad(
          path, node.source(),
          "unknown key '" + std::string(key.str()) + "' (known: provenance, base, [[point]], [[layout]], [[dense]])");
    }
  }
  if (!root.contains("point")) return Error{ErrorCode::kUsage, path + ": no [[point]]: nothing to choose from"};
  BITNET_RETURN_IF_ERROR(read_rows(root, "point", path, read_point, result.points));
  BITNET_RETURN_IF_ERROR(read_rows(root, "layout", path, read_layout, result.layouts));
  BITNET_RETURN_IF_ERROR(read_rows(root, "dense", path, read_dense, result.dense));
  if (!base.empty()) {
    const EmbeddedFile* file = find_shipped(base);
    BITNET_ASSIGN_OR_RETURN(const Points below, parse_points(file->text, std::string(file->path)));
    add_base(result, below);
  }
  return result;
}

Result<Points> read_points(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  return parse_points({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

Result<Points> default_points() {
  const EmbeddedFile* file = find_shipped(kDefaults);
  if (file == nullptr) {
    return Error{ErrorCode::kFailure, "this build of bitnet-codegen carries no " + embedded_path(kDefaults)};
  }
  BITNET_ASSIGN_OR_RETURN(Points points, parse_points(file->text, std::string(file->path)));
  points.provenance = kDefaults;
  return points;
}

std::vector<std::string> shipped_points() {
  std::vector<std::string> names;
  for (const EmbeddedFile& file : embedded_files()) {
    if (!file.path.starts_with(kFolder) || !file.path.ends_with(kEnding)) continue;
    names.emplace_back(file.path.substr(kFolder.size(), file.path.size() - kFolder.size() - kEnding.size()));
  }
  return names;
}

Result<Points> find_points(const std::string& name_or_path) {
  if (name_or_path.empty() || name_or_path == kDefaults) return default_points();
  if (const EmbeddedFile* file = find_shipped(name_or_path); file != nullptr) {
    return parse_points(file->text, std::string(file->path));
  }
  Result<Points> points = read_points(name_or_path);
  std::error_code ignored;
  if (points.ok() || std::filesystem::exists(name_or_path, ignored)) return points;
  return Error{ErrorCode::kUsage, points.error().message + "; points are a file or one of " + shipped_names()};
}

}  // namespace bitnet::codegen
