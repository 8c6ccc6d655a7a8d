// One row per pipeline. Everything a caller can get wrong is found here, before Halide is asked, so that its own errors
// are left for what only it can know.
#include "schedules/pipelines.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <system_error>

#include "schedules/norm_quantize.h"
#include "schedules/ternary.h"

namespace bitnet::schedules {
namespace {

constexpr std::string_view kSymbol = "SYMBOL";

Error usage(std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; }

std::string in_quotes(std::string_view text) { return "'" + std::string(text) + "'"; }

bool is_identifier(std::string_view text) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && text.size() <= 200 && letter(text[0]) &&
         std::ranges::all_of(text, [&](char c) { return letter(c) || digit(c); });
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string range(const Parameter& p) {
  return std::string(p.power_of_two ? (p.minimum == 0 ? "0 or a power of two up to " : "a power of two from ") : "") +
         (p.power_of_two && p.minimum == 0 ? "" : std::to_string(p.minimum) + " to ") + std::to_string(p.maximum);
}

Result<std::int64_t> parse_value(const Pipeline& pipeline, const Parameter& parameter, std::string_view text) {
  std::int64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool number = failure == std::errc() && end == text.data() + text.size();
  if (!number || value < parameter.minimum || value > parameter.maximum ||
      (parameter.power_of_two && value != 0 && !std::has_single_bit(static_cast<std::uint64_t>(value)))) {
    return usage("pipeline " + std::string(pipeline.name) + ": parameter " + std::string(parameter.name) + " must be " +
                 range(parameter) + ", found " + in_quotes(text));
  }
  return value;
}

Pipeline norm_quantize_pipeline() {
  return {"norm_quantize",
          "RMSNorm and int8 quantisation of one float row (op norm_quantize)",
          {{"K", 1, kMaxWidth, 0, true, false, "row length"},
           {"LANES", 0, 16, 0, false, true, "float lanes of a vector, 0: the target's natural width"},
           {"UNROLL", 1, 8, 4, false, true, "vectors in flight per elementwise pass"}},
          [](const Values& values, const Halide::Target& target, const std::string& symbol) {
            NormQuantizePoint point;
            point.k = values.at("K");
            point.lanes = static_cast<int>(values.at("LANES"));
            point.unroll = static_cast<int>(values.at("UNROLL"));
            return norm_quantize(point, target, symbol);
          }};
}

// The two operations differ in the tokens of a block, which only gemm has.
Pipeline ternary_pipeline(std::string_view name, std::string_view meaning, bool gemm) {
  Pipeline pipeline{
      name,
      meaning,
      {{"K", 1, kMaxWidth, 0, true, false, "width of the matrix"},
       {"STREAMS", 1, 8, 1, false, false, "row tiles side by side"},
       {"DOT", 0, 4, 0, false, false,
        "products summed 1: in fours (on AVX-512: with VNNI), 2: in pairs, 3: one by one, 4: by rows; 0: as suits the "
        "target"},
       {"PASSES", 0, 4, 0, false, true, "passes over a tile where products are summed in fours, 0: by registers"},
       {"LANES", 0, 16, 0, false, true, "int32 lanes of a vector, 0: as suits the target"}},
      [gemm](const Values& values, const Halide::Target& target, const std::string& symbol) {
        TernaryPoint point;
        point.k = values.at("K");
        point.streams = static_cast<int>(values.at("STREAMS"));
        point.dot = static_cast<Dot>(values.at("DOT"));
        point.passes = static_cast<int>(values.at("PASSES"));
        point.lanes = static_cast<int>(values.at("LANES"));
        if (!gemm) return i2s_gemv(point, target, symbol);
        point.tokens = static_cast<int>(values.at("TOKENS"));
        return i2s_gemm(point, target, symbol);
      }};
  if (gemm) pipeline.parameters.push_back({"TOKENS", 1, 32, 0, true, false, "tokens of a block of packed activations"});
  return pipeline;
}

}  // namespace

const std::vector<Pipeline>& pipelines() {
  static const std::vector<Pipeline> list = {
      norm_quantize_pipeline(),
      ternary_pipeline("i2s_gemv", "ternary weights in layout t2 times one row of activations (op gemv)", false),
      ternary_pipeline("i2s_gemm", "ternary weights in layout t2 times packed activations (op gemm)", true),
  };
  return list;
}

Result<Request> parse_request(const std::string& text) {
  const std::vector<std::string_view> parts = split(text, ':');
  Request request;
  for (const Pipeline& pipeline : pipelines()) {
    if (pipeline.name == parts[0]) request.pipeline = &pipeline;
  }
  if (request.pipeline == nullptr) {
    return usage("unknown pipeline " + in_quotes(parts[0]) + " in " + in_quotes(text) +
                 "; --list prints those that exist");
  }
  const Pipeline& pipeline = *request.pipeline;
  const std::string where = "pipeline " + std::string(pipeline.name) + ": ";
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    if (equals == std::string_view::npos)
      return usage(where + "expected PARAMETER=VALUE, found " + in_quotes(parts[i]));
    const std::string_view name = parts[i].substr(0, equals);
    const std::string_view value = parts[i].substr(equals + 1);
    const auto parameter = std::ranges::find(pipeline.parameters, name, &Parameter::name);
    if (name != kSymbol && parameter == pipeline.parameters.end()) {
      return usage(where + "unknown parameter " + in_quotes(name) + "; --list prints those that exist");
    }
    if (name == kSymbol ? !request.symbol.empty() : request.values.contains(parameter->name)) {
      return usage(where + "parameter " + std::string(name) + " is given twice");
    }
    if (name == kSymbol) {
      if (!is_identifier(value)) return usage(where + "SYMBOL must be a C identifier, found " + in_quotes(value));
      request.symbol = value;
    } else {
      BITNET_ASSIGN_OR_RETURN(request.values[parameter->name], parse_value(pipeline, *parameter, value));
    }
  }
  for (const Parameter& parameter : pipeline.parameters) {
    if (request.values.contains(parameter.name)) continue;
    if (parameter.required) return usage(where + "parameter " + std::string(parameter.name) + " is missing");
    request.values[parameter.name] = parameter.fallback;
  }
  if (request.symbol.empty()) return usage(where + "parameter SYMBOL is missing");
  return request;
}

Result<Halide::Target> parse_target(const std::string& text) {
  if (text.empty() || !Halide::Target::validate_target_string(text)) {
    return usage("unknown Halide target " + in_quotes(text) + "; expected ARCH-BITS-OS[-FEATURE...], for example " +
                 "x86-64-linux-sse41-avx-avx2-fma-f16c");
  }
  try {
    Halide::Target target(text);
    for (const Halide::Target::Feature feature : {Halide::Target::NoAsserts, Halide::Target::NoBoundsQuery,
                                                  Halide::Target::NoRuntime, Halide::Target::StrictFloat}) {
      target.set_feature(feature);
    }
    return target;
  } catch (const Halide::Error& error) {
    return usage("Halide target " + in_quotes(text) + ": " + error.what());
  }
}

Status compile(const Request& request, const Halide::Target& target, const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / (request.symbol + ".o");
  const std::string where = "pipeline " + std::string(request.pipeline->name) + " for " + target.to_string() + ": ";
  std::error_code failure;
  if (!std::filesystem::is_directory(folder, failure)) {
    return Error{ErrorCode::kFailure, where + "the output folder " + folder.string() + " does not exist"};
  }
  try {
    const Halide::Module module = request.pipeline->build(request.values, target, request.symbol);
    module.compile({{Halide::OutputFileType::object, file.string()}});
  } catch (const Halide::Error& error) {  // no std::exception
    std::filesystem::remove(file, failure);
    return Error{ErrorCode::kFailure, where + error.what()};
  }
  if (std::filesystem::file_size(file, failure) == 0 || failure) {
    return Error{ErrorCode::kFailure, where + "Halide wrote nothing to " + file.string()};
  }
  return {};
}

std::string describe_pipelines() {
  std::string text;
  for (const Pipeline& pipeline : pipelines()) {
    text += std::string(pipeline.name) + "  " + std::string(pipeline.meaning) + "\n";
    for (const Parameter& p : pipeline.parameters) {
      text += "  " + std::string(p.name) + "  " + std::string(p.meaning) + "; " + range(p) +
              (p.required ? ", required" : ", default " + std::to_string(p.fallback)) + "\n";
    }
    text += "  SYMBOL  name of the function and of the object file; a C identifier, required\n";
  }
  return text;
}

}  // namespace bitnet::schedules
