// Lists of shapes: from a file, or those of a known model.
#include <algorithm>
#include <map>
#include <sstream>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "codegen/tune.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/limits.h"
#include "runtime/synth/synth.h"

namespace bitnet::codegen {
namespace {

constexpr std::int64_t kMaxRows = (std::int64_t{1} << 31) - 16;
constexpr std::int64_t kMaxLayers = 1024;

Error bad(const std::string& path, const toml::source_region& where, const std::string& what) {
  return {ErrorCode::kUsage, path + ":" + std::to_string(where.begin.line) + ": " + what};
}

Result<std::int64_t> integer(const toml::table& table, const std::string& path, const char* key, std::int64_t most,
                             std::int64_t fallback) {
  const toml::node* node = table.get(key);
  const std::string expected = "key '" + std::string(key) + "': expected an integer 1.." + std::to_string(most);
  if (node == nullptr) {
    if (fallback != 0) return fallback;
    return bad(path, table.source(),
               "shape without '" + std::string(key) + "': add it (an integer 1.." + std::to_string(most) + ")");
  }
  const auto* value = node->as_integer();
  if (value != nullptr && value->get() >= 1 && value->get() <= most) return value->get();
  std::ostringstream found;
  if (value != nullptr) {
    found << value->get();
  } else {
    found << "a value of type " << node->type();
  }
  return bad(path, node->source(), expected + ", found " + found.str());
}

}  // namespace

Result<std::vector<TuneShape>> parse_tune_shapes(std::string_view text, const std::string& path) {
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) {
    return bad(path, parsed.error().source(), "not valid TOML: " + std::string(parsed.error().description()));
  }
  for (const auto& [key, node] : parsed.table()) {
    if (key != "shape") {
      return bad(path, node.source(), "unknown key '" + std::string(key.str()) + "' (known: [[shape]])");
    }
    if (!node.is_array_of_tables()) {
      return bad(path, node.source(), "'shape' must be an array of tables: [[shape]]");
    }
  }
  std::vector<TuneShape> shapes;
  const toml::node* list = parsed.table().get("shape");
  if (list == nullptr) return Error{ErrorCode::kUsage, path + ": no [[shape]]: nothing to tune"};
  for (const toml::node& node : *list->as_array()) {
    const toml::table& table = *node.as_table();
    for (const auto& [key, value] : table) {
      if (key != "n" && key != "k" && key != "layers") {
        return bad(path, value.source(), "unknown key '" + std::string(key.str()) + "' in shape (known: n, k, layers)");
      }
    }
    TuneShape shape;
    BITNET_ASSIGN_OR_RETURN(shape.n, integer(table, path, "n", kMaxRows, 0));
    BITNET_ASSIGN_OR_RETURN(shape.k, integer(table, path, "k", kMaxWidth, 0));
    BITNET_ASSIGN_OR_RETURN(shape.layers, integer(table, path, "layers", kMaxLayers, 1));
    const auto same = [&shape](const TuneShape& other) { return other.n == shape.n && other.k == shape.k; };
    if (std::ranges::any_of(shapes, same)) {
      return bad(path, table.source(),
                 "a second shape of " + std::to_string(shape.n) + " x " + std::to_string(shape.k) +
                     ": remove one, or add up their layers");
    }
    shapes.push_back(shape);
  }
  return shapes;
}

void add_shapes(std::vector<TuneShape>& shapes, std::span<const TuneShape> more) {
  for (const TuneShape& shape : more) {
    const auto same = std::ranges::find_if(
        shapes, [&shape](const TuneShape& other) { return other.n == shape.n && other.k == shape.k; });
    if (same == shapes.end()) {
      shapes.push_back(shape);
    } else {
      same->layers += shape.layers;
    }
  }
}

Result<std::vector<TuneShape>> shapes_of_model(std::string_view synth_shape) {
  BITNET_ASSIGN_OR_RETURN(const SynthSpec spec, parse_synth_shape(synth_shape));
  const std::int64_t head = spec.hidden / spec.heads;
  std::vector<TuneShape> shapes;
  for (const auto& [n, k] : {std::pair{spec.hidden + 2 * spec.kv_heads * head, spec.hidden},
                             {spec.hidden, spec.hidden},
                             {2 * spec.ffn, spec.hidden},
                             {spec.hidden, spec.ffn}}) {
    const TuneShape shape = {n, k, spec.layers};
    add_shapes(shapes, std::span(&shape, 1));
  }
  return shapes;
}

std::uint64_t model_bytes(std::span<const TuneShape> shapes) {
  std::uint64_t bytes = 0;
  for (const TuneShape& shape : shapes) {
    bytes += matrix_bytes(Layout::kT2, shape.n, shape.k) * static_cast<std::uint64_t>(shape.layers);
  }
  return bytes;
}

}  // namespace bitnet::codegen
