// bitnet inspect: what is inside a GGUF file, a bundle included.
//
// Strings of a file are anyone's bytes. They are printed through the JSON writer, which escapes control characters and
// replaces invalid UTF-8, so that a file can neither end the program nor talk to the terminal.
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "runtime/gguf/gguf.h"
#include "tools/commands.h"
#include "tools/inspect_model.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kWholeArray = 64;  // longer arrays are shortened in JSON unless --full
constexpr std::size_t kFirst = 8;        // entries shown of a shortened array
constexpr std::size_t kTextBytes = 100;  // bytes shown of a string in the text form
constexpr int kKernelTableDepth = 32;    // a real kernel table nests 4 deep
constexpr std::string_view kKernelTableKey = "bitnet.kernels";

struct Options {
  std::string path;
  bool json = false;
  bool full = false;
  bool ternary = false;
  bool ln_stats = false;
  formats::ReadOptions read;
};

std::string dump(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// The shortest decimal that reads back as the same T; JSON has no NaN and no infinities, so those become strings.
template <typename T>
Json number(T value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text) - 1, value);
  *end.ptr = '\0';
  return std::strtod(text, nullptr);
}

Json element(float value) { return number(value); }
Json element(double value) { return number(value); }
Json element(std::string_view value) { return std::string(value); }
template <typename T>
Json element(T value) {
  return value;
}

template <typename Values>
Json list(const Values& values, std::size_t limit) {
  Json result = Json::array();
  for (const auto& value : values) {
    if (result.size() >= limit) break;
    result.push_back(element(value));
  }
  return result;
}

Json elements(const gguf::Array& array, std::size_t limit) {
  using gguf::ValueType;
  switch (array.type) {
    case ValueType::kU8:
      return list(array.values<std::uint8_t>(), limit);
    case ValueType::kI8:
      return list(array.values<std::int8_t>(), limit);
    case ValueType::kU16:
      return list(array.values<std::uint16_t>(), limit);
    case ValueType::kI16:
      return list(array.values<std::int16_t>(), limit);
    case ValueType::kU32:
      return list(array.values<std::uint32_t>(), limit);
    case ValueType::kI32:
      return list(array.values<std::int32_t>(), limit);
    case ValueType::kF32:
      return list(array.values<float>(), limit);
    case ValueType::kBool:
      return list(array.values<bool>(), limit);
    case ValueType::kString:
      return list(array.strings(), limit);
    case ValueType::kU64:
      return list(array.values<std::uint64_t>(), limit);
    case ValueType::kI64:
      return list(array.values<std::int64_t>(), limit);
    case ValueType::kF64:
      return list(array.values<double>(), limit);
    case ValueType::kArray:
      break;  // the reader refuses arrays of arrays
  }
  return Json::array();
}

// A bundle's kernel table is JSON in a string; anything else under its key is shown as the string that it is.
Json kernel_table(std::string_view text) {
  bool too_deep = false;
  const auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kKernelTableDepth;
    return !too_deep;
  };
  Json table = Json::parse(text, watch_depth, /*allow_exceptions=*/false);
  if (table.is_discarded() || too_deep) return std::string(text);
  return table;
}

Json json_value(const gguf::KeyValue& entry, bool full) {
  if (const auto* array = std::get_if<gguf::Array>(&entry.value)) {
    if (full || array->count <= kWholeArray) return elements(*array, array->count);
    return {
        {"type", std::string(to_string(array->type))}, {"count", array->count}, {"first", elements(*array, kFirst)}};
  }
  const auto* text = std::get_if<std::string_view>(&entry.value);
  if (text != nullptr && entry.key == kKernelTableKey) return kernel_table(*text);
  return std::visit(
      [](const auto& value) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, gguf::Array>) {
          return Json();  // handled above
        } else {
          return element(value);
        }
      },
      entry.value);
}

Json shape(const gguf::Tensor& tensor) {
  Json result = Json::array();
  for (std::uint32_t d = 0; d < tensor.n_dims; ++d) result.push_back(tensor.ne[d]);
  return result;
}

Json ternary_json(const gguf::File& file, const formats::ReadOptions& read) {
  std::vector<std::string> notes;
  Json rows = Json::array();
  for (const TernaryRow& row : ternary_census(file, read, notes)) {
    if (!row.error.empty()) {
      rows.push_back({{"name", row.name}, {"type", row.type}, {"error", row.error}});
      continue;
    }
    rows.push_back({{"name", row.name},
                    {"type", row.type},
                    {"rows", row.rows},
                    {"columns", row.columns},
                    {"minus", row.census.minus},
                    {"zero", row.census.zero},
                    {"plus", row.census.plus},
                    {"undefined", row.census.undefined},
                    {"scales", row.scales},
                    {"least_scale", number(row.census.least_scale)},
                    {"largest_scale", number(row.census.largest_scale)},
                    {"doubt", row.doubt.empty() ? Json() : Json(row.doubt)}});
  }
  return {{"tensors", std::move(rows)}, {"notes", notes}};
}

Json norms_json(const gguf::File& file) {
  Json rows = Json::array();
  for (const NormRow& row : norm_statistics(file)) {
    rows.push_back({{"name", row.name},
                    {"count", row.count},
                    {"mean", number(row.mean)},
                    {"rms", number(row.rms)},
                    {"least", number(row.least)},
                    {"largest", number(row.largest)},
                    {"doubt", row.doubt.empty() ? Json() : Json(row.doubt)}});
  }
  return rows;
}

std::string json_report(const gguf::File& file, const Options& options) {
  const bool full = options.full;
  Json metadata = Json::object();
  for (const gguf::KeyValue& entry : file.metadata()) metadata[std::string(entry.key)] = json_value(entry, full);
  Json tensors = Json::array();
  for (const gguf::Tensor& tensor : file.tensors()) {
    tensors.push_back({{"name", std::string(tensor.name)},
                       {"type", std::string(type_name(tensor))},
                       {"ne", shape(tensor)},
                       {"bytes", tensor.bytes},
                       {"offset", tensor.offset}});
  }
  Json report = {{"path", file.path()},
                 {"version", file.version()},
                 {"alignment", file.alignment()},
                 {"file_bytes", file.bytes().size()},
                 {"data_offset", file.data_offset()},
                 {"model", describe_model(file)},
                 {"metadata", std::move(metadata)},
                 {"tensors", std::move(tensors)}};
  if (options.ternary) report["ternary"] = ternary_json(file, options.read);
  if (options.ln_stats) report["norms"] = norms_json(file);
  return dump(report, 2) + "\n";
}

std::string text_string(std::string_view text, bool full) {
  if (full || text.size() <= kTextBytes) return dump(std::string(text), -1);
  std::size_t end = kTextBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;  // not inside a character
  return dump(std::string(text.substr(0, end)), -1) + "... (" + std::to_string(text.size()) + " bytes)";
}

std::string text_value(const gguf::KeyValue& entry, bool full) {
  if (const auto* text = std::get_if<std::string_view>(&entry.value)) return "string " + text_string(*text, full);
  const auto* array = std::get_if<gguf::Array>(&entry.value);
  if (array == nullptr) return std::string(to_string(entry.type)) + " " + dump(json_value(entry, full), -1);
  const bool whole = full || array->count <= kFirst;
  std::string values;
  for (const Json& value : elements(*array, whole ? array->count : kFirst)) {
    values += values.empty() ? "" : ", ";
    values += value.is_string() ? text_string(value.get_ref<const std::string&>(), full) : dump(value, -1);
  }
  return std::string(to_string(array->type)) + "[" + std::to_string(array->count) + "] " + values +
         (whole ? "" : ", ...");
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

// A name without quotes unless it needs them.
std::string name_text(std::string_view name) {
  const std::string quoted = dump(std::string(name), -1);
  return quoted.size() == name.size() + 2 ? std::string(name) : quoted;
}

std::string text_report(const gguf::File& file, bool full) {
  std::string out = name_text(file.path()) + ": GGUF version " + std::to_string(file.version()) + ", alignment " +
                    std::to_string(file.alignment()) + ", " + std::to_string(file.bytes().size()) +
                    " bytes, data from byte " + std::to_string(file.data_offset()) + "\n";
  constexpr std::size_t kWidest = 48;
  std::size_t width = 0;
  for (const gguf::KeyValue& entry : file.metadata()) width = std::max(width, std::min(kWidest, entry.key.size()));
  out += "metadata: " + std::to_string(file.metadata().size()) + "\n";
  for (const gguf::KeyValue& entry : file.metadata()) {
    out += "  " + padded(name_text(entry.key), width) + "  " + text_value(entry, full) + "\n";
  }
  width = 0;
  for (const gguf::Tensor& tensor : file.tensors()) width = std::max(width, std::min(kWidest, tensor.name.size()));
  out += "tensors: " + std::to_string(file.tensors().size()) + "\n";
  for (const gguf::Tensor& tensor : file.tensors()) {
    out += "  " + padded(name_text(tensor.name), width) + "  " + padded(std::string(type_name(tensor)), 6) + "  " +
           padded(dump(shape(tensor), -1), 14) + "  " + std::to_string(tensor.bytes) + " bytes at " +
           std::to_string(tensor.offset) + "\n";
  }
  return out;
}

std::string decimal(double value, const char* format = "%.4g") {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string ternary_text(const gguf::File& file, const formats::ReadOptions& read) {
  std::vector<std::string> notes;
  std::string out;
  const std::vector<TernaryRow> rows = ternary_census(file, read, notes);
  for (const TernaryRow& row : rows) {
    out += "  " + padded(name_text(row.name), 28) + "  " + padded(row.type, 6);
    if (!row.error.empty()) {
      out += "  " + row.error + "\n";
      continue;
    }
    const auto all = static_cast<double>(std::max<std::uint64_t>(1, row.census.weights()));
    const auto share = [&](std::uint64_t count) {
      return decimal(100.0 * static_cast<double>(count) / all, "%5.1f %%");
    };
    out += "  " + padded(std::to_string(row.rows) + " x " + std::to_string(row.columns), 14) + "  -1 " +
           share(row.census.minus) + "  0 " + share(row.census.zero) + "  +1 " + share(row.census.plus) +
           "  scale by " + row.scales + " " + decimal(static_cast<double>(row.census.least_scale)) +
           (row.census.least_scale == row.census.largest_scale
                ? ""
                : " .. " + decimal(static_cast<double>(row.census.largest_scale))) +
           (row.doubt.empty() ? "" : "  ! " + row.doubt) + "\n";
  }
  std::string head = "ternary: " + std::to_string(rows.size()) + "\n";
  for (const std::string& note : notes) head += "  note: " + note + "\n";
  return head + out;
}

std::string norms_text(const gguf::File& file) {
  const std::vector<NormRow> rows = norm_statistics(file);
  std::string out = "norms: " + std::to_string(rows.size()) + "\n";
  for (const NormRow& row : rows) {
    out += "  " + padded(name_text(row.name), 30) + "  " + padded(std::to_string(row.count), 6) + "  mean " +
           decimal(row.mean) + "  rms " + decimal(row.rms) + "  " + decimal(row.least) + " .. " + decimal(row.largest) +
           (row.doubt.empty() ? "" : "  ! " + row.doubt) + "\n";
  }
  return out;
}

Status inspect(const Options& options) {
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(options.path));
  if (options.json) return write_output(json_report(file, options));
  std::string text = text_report(file, options.full);
  const Json model = describe_model(file);
  if (!model.is_null()) text += "model: " + dump(model, -1) + "\n";
  if (options.ternary) text += ternary_text(file, options.read);
  if (options.ln_stats) text += norms_text(file);
  return write_output(text);
}

}  // namespace

void add_inspect_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("inspect", "Show metadata and tensors of a GGUF file (models and bundles)");
  const auto options = std::make_shared<Options>();
  command->add_option("file", options->path, "GGUF file")->required();
  command->add_flag("--json", options->json, "Print JSON; offsets of tensors count from data_offset");
  command->add_flag("--full", options->full, "Show long strings and arrays whole");
  command->add_flag("--ternary", options->ternary, "Count the weights -1, 0 and +1 of every ternary tensor");
  command->add_flag("--ln-stats", options->ln_stats, "Show mean, size and range of the gains of every norm");
  add_read_options(*command, options->read);
  command->callback([options, &exit_code] {
    const Status status = inspect(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
