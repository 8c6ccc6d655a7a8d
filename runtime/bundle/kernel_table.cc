// The kernel table as JSON: printed with a fixed key order, parsed strictly. Whatever the table says is called as
// native code later, so nothing is guessed: unknown, missing, doubled or ill-typed fields are errors that name the
// field.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/bundle/bundle.h"
#include "runtime/bundle/bundle_checks.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/kernels/layout.h"

namespace bitnet {
namespace {

using Json = nlohmann::ordered_json;

// Bounds of what a table may claim; far above every real model, so that sizes computed from them cannot overflow.
constexpr std::int64_t kMaxN = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxK = 8'388'607;  // exactness bound of kernel_abi.h
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxTokenTile = 256;
constexpr std::int64_t kMaxGroup = 256;
constexpr std::int64_t kMaxScratch = std::int64_t{1} << 28;
constexpr std::int64_t kMaxOffset = std::int64_t{1} << 40;

class Reader {
 public:
  Reader(std::string_view path) : path_(path) {}

  [[nodiscard]] Error fail(const std::string& field, const std::string& reason) const {
    return bundle_checks::refuse(path_, "metadata", "bitnet.kernels: " + field + ": " + reason);
  }

  // `object` is an object with exactly the fields of `fields`.
  [[nodiscard]] Status shape(const Json& object, const std::string& where,
                             std::initializer_list<const char*> fields) const {
    if (!object.is_object()) return fail(where, std::string("expected an object, found ") + object.type_name());
    for (const char* field : fields) {
      if (!object.contains(field)) return fail(where + "." + field, "missing");
    }
    for (const auto& item : object.items()) {
      const auto known = [&](const char* field) { return item.key() == field; };
      if (std::none_of(fields.begin(), fields.end(), known)) {
        return fail(where + "." + item.key(), "unknown field; the bundle was made for another version of the runtime");
      }
    }
    return {};
  }

  [[nodiscard]] Result<std::string> string(const Json& object, const std::string& where, const char* field) const {
    const Json& value = object[field];
    if (!value.is_string()) {
      return fail(where + "." + field, std::string("expected a string, found ") + value.type_name());
    }
    return value.get<std::string>();
  }

  [[nodiscard]] Result<std::int64_t> integer(const Json& value, const std::string& field, std::int64_t low,
                                             std::int64_t high) const {
    if (!value.is_number_integer()) return fail(field, std::string("expected an integer, found ") + value.type_name());
    const bool fits =
        !value.is_number_unsigned() ||
        value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
      return fail(field, "expected " + std::to_string(low) + " to " + std::to_string(high) + ", found " + value.dump());
    }
    return value.get<std::int64_t>();
  }

  // The named member of an enumeration; `parse` is parse_isa, parse_op or parse_format.
  template <typename Parse>
  [[nodiscard]] auto choice(const Json& object, const std::string& where, const char* field, Parse parse) const
      -> Result<typename std::invoke_result_t<Parse, std::string_view>::value_type> {
    BITNET_ASSIGN_OR_RETURN(const std::string name, string(object, where, field));
    const auto parsed = parse(name);
    if (!parsed) return fail(where + "." + field, "'" + name + "' is not known to this runtime");
    return *parsed;
  }

  [[nodiscard]] Result<ImageRecord> image(const Json& object, const std::string& where) const;
  [[nodiscard]] Result<KernelRecord> kernel(const Json& object, const std::string& where) const;

 private:
  std::string path_;
};

Result<ImageRecord> Reader::image(const Json& object, const std::string& where) const {
  BITNET_RETURN_IF_ERROR(shape(object, where, {"isa", "tensor", "sha256"}));
  ImageRecord record;
  BITNET_ASSIGN_OR_RETURN(record.isa, choice(object, where, "isa", parse_isa));
  BITNET_ASSIGN_OR_RETURN(record.tensor, string(object, where, "tensor"));
  BITNET_ASSIGN_OR_RETURN(record.sha256, string(object, where, "sha256"));
  const std::string expected = "image." + std::string(to_string(record.isa));
  if (record.tensor != expected) {
    return fail(where + ".tensor", "expected '" + expected + "', found '" + record.tensor + "'");
  }
  if (bundle_checks::parse_sha256(record.sha256).empty()) {
    return fail(where + ".sha256", "expected 64 lower-case hexadecimal digits, found '" + record.sha256 + "'");
  }
  return record;
}

Result<KernelRecord> Reader::kernel(const Json& object, const std::string& where) const {
  BITNET_RETURN_IF_ERROR(shape(object, where,
                               {"name", "op", "format", "layout", "n", "k", "group", "m", "token_tile", "tokens", "isa",
                                "technique", "offset", "row_granularity", "scratch_bytes", "features"}));
  const auto number = [&](const char* field, std::int64_t low, std::int64_t high) {
    return integer(object[field], where + "." + field, low, high);
  };
  KernelRecord record;
  Kernel& kernel = record.kernel;
  BITNET_ASSIGN_OR_RETURN(record.name, string(object, where, "name"));
  BITNET_ASSIGN_OR_RETURN(kernel.op, choice(object, where, "op", parse_op));
  BITNET_ASSIGN_OR_RETURN(kernel.format, choice(object, where, "format", parse_format));
  BITNET_ASSIGN_OR_RETURN(record.layout, string(object, where, "layout"));
  BITNET_ASSIGN_OR_RETURN(kernel.n, number("n", 0, kMaxN));
  BITNET_ASSIGN_OR_RETURN(kernel.k, number("k", 0, kMaxK));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t group, number("group", 0, kMaxGroup));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t m, number("m", 0, kMaxTokenTile));
  kernel.group = static_cast<std::int32_t>(group);
  kernel.m = static_cast<std::int32_t>(m);
  BITNET_ASSIGN_OR_RETURN(const std::int64_t tile, number("token_tile", 1, kMaxTokenTile));
  kernel.token_tile = static_cast<std::int32_t>(tile);
  const Json& tokens = object["tokens"];
  if (!tokens.is_array() || tokens.size() != 2) return fail(where + ".tokens", "expected [min, max]");
  BITNET_ASSIGN_OR_RETURN(record.tokens_min, integer(tokens[0], where + ".tokens[0]", 1, kMaxTokens));
  BITNET_ASSIGN_OR_RETURN(record.tokens_max, integer(tokens[1], where + ".tokens[1]", 0, kMaxTokens));
  if (record.tokens_max != 0 && record.tokens_max < record.tokens_min) {
    return fail(where + ".tokens", "the maximum " + std::to_string(record.tokens_max) + " is below the minimum " +
                                       std::to_string(record.tokens_min));
  }
  BITNET_ASSIGN_OR_RETURN(kernel.isa, choice(object, where, "isa", parse_isa));
  BITNET_ASSIGN_OR_RETURN(kernel.technique, string(object, where, "technique"));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t offset, number("offset", 0, kMaxOffset));
  record.offset = static_cast<std::uint64_t>(offset);
  BITNET_ASSIGN_OR_RETURN(record.row_granularity, number("row_granularity", 0, kMaxN));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t scratch, number("scratch_bytes", 0, kMaxScratch));
  kernel.scratch_bytes = static_cast<std::size_t>(scratch);
  BITNET_ASSIGN_OR_RETURN(record.features, string(object, where, "features"));

  const bool ternary = is_ternary(kernel.op);
  if (!is_valid(kernel.op, kernel.format)) {
    return fail(where + ".format", "'" + std::string(to_string(kernel.format)) + "' does not go with op '" +
                                       std::string(to_string(kernel.op)) + "'");
  }
  const std::string layout(ternary ? info(layout_of(kernel.format)).name : "");
  if (record.layout != layout) {
    return fail(where + ".layout", "expected '" + layout + "', found '" + record.layout + "'");
  }
  if (kernel.op != Op::kGemm && kernel.token_tile != 1) {
    return fail(where + ".token_tile", "expected 1 for op '" + std::string(to_string(kernel.op)) + "', found " +
                                           std::to_string(kernel.token_tile));
  }
  const bool group_exists = kernel.group == 64 || kernel.group == 128 || kernel.group == 256;
  if (kernel.group != 0 && (!group_exists || !ternary || !info(layout_of(kernel.format)).k_groups)) {
    return fail(where + ".group", "expected 0, or 64, 128 or 256 for a ternary op on a layout with K-groups, found " +
                                      std::to_string(kernel.group));
  }
  if (kernel.m != 0 && (kernel.op != Op::kGemm || kernel.m != kernel.token_tile)) {
    return fail(where + ".m", "expected 0, or the token tile of a gemm, found " + std::to_string(kernel.m));
  }
  // 0 would pass as a multiple, and a loop that steps by it never ends.
  if (ternary && (record.row_granularity < BITNET_TILE_ROWS || record.row_granularity % BITNET_TILE_ROWS != 0)) {
    return fail(where + ".row_granularity",
                "expected a multiple of 16 that is at least 16, found " + std::to_string(record.row_granularity));
  }
  if (record.name != kernel.name()) {
    return fail(where + ".name", "expected '" + kernel.name() + "' from the other fields, found '" + record.name + "'");
  }
  return record;
}

// The parsed document, or discarded if it is no JSON; `doubled` receives the first key that an object has twice (the
// parser itself would silently keep one of them).
Json parse_document(std::string_view json, std::string& doubled) {
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int depth, Json::parse_event_t event, Json& value) {
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      if (keys.size() <= level + 1) keys.resize(level + 2);
      keys[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto key = value.get<std::string>();
      if (!keys[level].insert(key).second && doubled.empty()) doubled = key;
    }
    return true;
  };
  return Json::parse(json.begin(), json.end(), callback, /*allow_exceptions=*/false);
}

}  // namespace

std::string to_json(const KernelTable& table) {
  Json images = Json::array();
  for (const ImageRecord& image : table.images) {
    images.push_back({{"isa", to_string(image.isa)}, {"tensor", image.tensor}, {"sha256", image.sha256}});
  }
  Json kernels = Json::array();
  for (const KernelRecord& record : table.kernels) {
    const Kernel& kernel = record.kernel;
    Json row;
    row["name"] = record.name;
    row["op"] = to_string(kernel.op);
    row["format"] = to_string(kernel.format);
    row["layout"] = record.layout;
    row["n"] = kernel.n;
    row["k"] = kernel.k;
    row["group"] = kernel.group;
    row["m"] = kernel.m;
    row["token_tile"] = kernel.token_tile;
    row["tokens"] = {record.tokens_min, record.tokens_max};
    row["isa"] = to_string(kernel.isa);
    row["technique"] = kernel.technique;
    row["offset"] = record.offset;
    row["row_granularity"] = record.row_granularity;
    row["scratch_bytes"] = kernel.scratch_bytes;
    row["features"] = record.features;
    kernels.push_back(std::move(row));
  }
  Json document;
  document["images"] = std::move(images);
  document["kernels"] = std::move(kernels);
  // Bytes that are no UTF-8 (a caller's mistake) are replaced rather than thrown about; the name check finds them.
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<KernelTable> parse_kernel_table(std::string_view json, std::string_view path) {
  const Reader reader(path);
  std::string doubled;
  const Json document = parse_document(json, doubled);
  if (document.is_discarded()) return reader.fail("document", "not valid JSON");
  if (!doubled.empty()) return reader.fail(doubled, "the field stands twice in one object");
  BITNET_RETURN_IF_ERROR(reader.shape(document, "document", {"images", "kernels"}));
  for (const char* list : {"images", "kernels"}) {
    if (!document[list].is_array() || document[list].empty()) {
      return reader.fail(list, "expected a list with at least one entry");
    }
  }
  KernelTable table;
  std::set<Isa> isas;
  for (const Json& entry : document["images"]) {
    const std::string where = "images[" + std::to_string(table.images.size()) + "]";
    BITNET_ASSIGN_OR_RETURN(ImageRecord record, reader.image(entry, where));
    if (!isas.insert(record.isa).second) return reader.fail(where + ".isa", "'" + record.tensor + "' stands twice");
    table.images.push_back(std::move(record));
  }
  std::set<std::string> names;
  for (const Json& entry : document["kernels"]) {
    const std::string where = "kernels[" + std::to_string(table.kernels.size()) + "]";
    BITNET_ASSIGN_OR_RETURN(KernelRecord record, reader.kernel(entry, where));
    if (!names.insert(record.name).second) return reader.fail(where + ".name", "'" + record.name + "' stands twice");
    if (!isas.contains(record.kernel.isa)) {
      return reader.fail(where + ".isa",
                         "no image for '" + std::string(to_string(record.kernel.isa)) + "' in the table");
    }
    table.kernels.push_back(std::move(record));
  }
  return table;
}

}  // namespace bitnet
