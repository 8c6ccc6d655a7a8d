// Reads tuned points. Every key is checked against the operation that it belongs to, so that a misspelt or misplaced
// key can never be mistaken for a default.
#include "codegen/points.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sstream>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "codegen/embedded.h"
#include "runtime/base/mapped_file.h"
#include "runtime/model/limits.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kDefaultPoints = "schedules/points/defaults.toml";

Error bad(const std::string& path, const toml::source_region& where, const std::string& what) {
  return {ErrorCode::kUsage, path + ":" + std::to_string(where.begin.line) + ": " + what};
}

struct IntegerKey {
  std::string_view key;
  std::int64_t low;
  std::int64_t high;
  std::int64_t multiple;
  std::optional<Op> op;  // nullopt: any operation
  bool required;
};
constexpr IntegerKey kKeys[] = {
    {"n", 1, std::int64_t{1} << 31, 1, std::nullopt, false},
    {"k", 1, kMaxWidth, 1, std::nullopt, false},
    {"streams", 1, 8, 1, Op::kGemv, true},
    {"prefetch", 0, 65536, 64, Op::kGemv, true},
    {"token_tile", 1, 32, 1, Op::kGemm, true},
    {"row_tiles", 1, 8, 1, Op::kGemm, true},
};

std::string range_text(const IntegerKey& key) {
  std::string text = "an integer " + std::to_string(key.low) + ".." + std::to_string(key.high);
  if (key.multiple != 1) text += " that is a multiple of " + std::to_string(key.multiple);
  return text;
}

Result<std::string> string_of(const toml::table& table, std::string_view key, const std::string& path) {
  const toml::node* node = table.get(key);
  if (node == nullptr) return bad(path, table.source(), "point without '" + std::string(key) + "': add it");
  if (!node->is_string()) return bad(path, node->source(), "key '" + std::string(key) + "' must be a string");
  return node->as_string()->get();
}

class PointReader {
 public:
  PointReader(const toml::table& table, const std::string& path) : table_(table), path_(path) {}

  Result<Point> read() {
    BITNET_ASSIGN_OR_RETURN(const std::string isa, string_of(table_, "isa", path_));
    BITNET_ASSIGN_OR_RETURN(const std::string op, string_of(table_, "op", path_));
    const std::optional<Isa> parsed_isa = parse_isa(isa);
    if (!parsed_isa) {
      std::string known;
      for (const Isa each : all_isas()) known.append(known.empty() ? "" : ", ").append(to_string(each));
      return bad(path_, table_.get("isa")->source(), "key 'isa': unknown target '" + isa + "' (known: " + known + ")");
    }
    const std::optional<Op> parsed_op = parse_op(op);
    if (!parsed_op || (*parsed_op != Op::kGemv && *parsed_op != Op::kGemm)) {
      return bad(path_, table_.get("op")->source(), "key 'op': expected gemv or gemm, found '" + op + "'");
    }
    Point point;
    point.isa = *parsed_isa;
    point.op = *parsed_op;
    BITNET_RETURN_IF_ERROR(check_known_keys(point.op));
    std::int64_t values[std::size(kKeys)] = {};
    for (std::size_t i = 0; i < std::size(kKeys); ++i) {
      if (kKeys[i].op && *kKeys[i].op != point.op) continue;
      BITNET_ASSIGN_OR_RETURN(values[i], integer(kKeys[i], op));
    }
    point.n = values[0];
    point.k = values[1];
    if ((point.n == 0) != (point.k == 0)) {
      return bad(path_, table_.source(), "keys 'n' and 'k': give both (one shape) or none (every shape)");
    }
    point.streams = static_cast<std::int32_t>(values[2]);
    point.prefetch = static_cast<std::int32_t>(values[3]);
    point.token_tile = static_cast<std::int32_t>(values[4]);
    point.row_tiles = static_cast<std::int32_t>(values[5]);
    return point;
  }

 private:
  Status check_known_keys(Op op) const {
    for (const auto& [key, node] : table_) {
      const std::string name(key.str());
      if (name == "isa" || name == "op") continue;
      if (name == "note") {  // provenance of one point, for readers
        if (!node.is_string()) return bad(path_, node.source(), "key 'note' must be a string");
        continue;
      }
      const auto* known = std::ranges::find(kKeys, name, &IntegerKey::key);
      if (known == std::end(kKeys)) {
        return bad(path_, node.source(),
                   "unknown key '" + name +
                       "' (known: isa, op, n, k, note; for gemv streams, prefetch; for gemm token_tile, row_tiles)");
      }
      if (known->op && *known->op != op) {
        return bad(path_, node.source(),
                   "key '" + name + "' belongs to op " + std::string(to_string(*known->op)) + ", not to " +
                       std::string(to_string(op)));
      }
    }
    return {};
  }

  Result<std::int64_t> integer(const IntegerKey& key, const std::string& op) const {
    const toml::node* node = table_.get(key.key);
    if (node == nullptr) {
      if (!key.required) return std::int64_t{0};
      return bad(path_, table_.source(),
                 op + " point without '" + std::string(key.key) + "': add it (" + range_text(key) + ")");
    }
    const auto* value = node->as_integer();
    if (value == nullptr || value->get() < key.low || value->get() > key.high || value->get() % key.multiple != 0) {
      std::ostringstream found;
      if (value != nullptr) {
        found << value->get();
      } else {
        found << "a value of type " << node->type();
      }
      return bad(path_, node->source(),
                 "key '" + std::string(key.key) + "': expected " + range_text(key) + ", found " + found.str());
    }
    return value->get();
  }

  const toml::table& table_;
  const std::string& path_;
};

bool same_place(const Point& a, const Point& b) { return a.isa == b.isa && a.op == b.op && a.n == b.n && a.k == b.k; }

}  // namespace

Result<Point> Points::choose(Isa isa, Op op, std::int64_t n, std::int64_t k) const {
  const Point* general = nullptr;
  for (const Point& point : points) {
    if (point.isa != isa || point.op != op) continue;
    if (point.n == n && point.k == k) return point;
    if (point.n == 0) general = &point;
  }
  if (general != nullptr) return *general;
  return Error{ErrorCode::kUsage, "points (" + provenance + "): no point for " + std::string(to_string(op)) + " " +
                                      std::to_string(n) + " x " + std::to_string(k) + " on " +
                                      std::string(to_string(isa)) +
                                      ", and no general one: add a [[point]] with isa = \"" +
                                      std::string(to_string(isa)) + "\", op = \"" + std::string(to_string(op)) + "\""};
}

Result<Points> parse_points(std::string_view text, const std::string& path) {
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) {
    return bad(path, parsed.error().source(), "not valid TOML: " + std::string(parsed.error().description()));
  }
  const toml::table& root = parsed.table();
  Points result;
  result.provenance = std::filesystem::path(path).filename().string();
  for (const auto& [key, node] : root) {
    if (key == "provenance") {
      if (!node.is_string()) return bad(path, node.source(), "key 'provenance' must be a string");
      result.provenance = node.as_string()->get();
    } else if (key != "point") {
      return bad(path, node.source(), "unknown key '" + std::string(key.str()) + "' (known: provenance, [[point]])");
    }
  }
  const toml::node* list = root.get("point");
  if (list == nullptr) return Error{ErrorCode::kUsage, path + ": no [[point]]: nothing to choose from"};
  if (!list->is_array_of_tables()) return bad(path, list->source(), "'point' must be an array of tables: [[point]]");
  for (const toml::node& node : *list->as_array()) {
    BITNET_ASSIGN_OR_RETURN(const Point point, PointReader(*node.as_table(), path).read());
    for (const Point& other : result.points) {
      if (same_place(point, other)) {
        return bad(path, node.source(), "a second point for the same isa, op, n and k: remove one");
      }
    }
    result.points.push_back(point);
  }
  return result;
}

Result<Points> read_points(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  return parse_points({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

Result<Points> default_points() {
  const EmbeddedFile* file = find_embedded(kDefaultPoints);
  if (file == nullptr) {
    return Error{ErrorCode::kFailure, "this build of bitnet-codegen carries no " + std::string(kDefaultPoints)};
  }
  BITNET_ASSIGN_OR_RETURN(Points points, parse_points(file->text, std::string(file->path)));
  points.provenance = "defaults";
  return points;
}

}  // namespace bitnet::codegen
