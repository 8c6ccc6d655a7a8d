// Shapes: the table of known ones, the grammar of the others, and what a shape must satisfy.
#include <array>
#include <charconv>
#include <optional>

#include "runtime/synth/synth.h"

namespace bitnet {
namespace {

struct KnownShape {
  std::string_view name;
  std::string_view architecture;
  std::int64_t layers, hidden, ffn, heads, kv_heads, vocab, context;
  float rope_base;
};

constexpr std::array<KnownShape, 4> kKnownShapes = {{
    {"2b-4t", "bitnet-b1.58", 30, 2560, 6912, 20, 5, 128256, 4096, 500000.0F},
    {"large", "bitnet", 24, 1536, 4096, 16, 16, 32002, 2048, 10000.0F},
    {"3b", "bitnet", 26, 3200, 8640, 32, 32, 32002, 2048, 10000.0F},
    {"tiny", "bitnet-b1.58", 2, 256, 512, 4, 2, 512, 2048, 10000.0F},
}};

constexpr std::array<std::string_view, 3> kArchitectures = {"bitnet", "bitnet-25", "bitnet-b1.58"};

// Upper bounds. 66052: (float) of an I2_S sum of K codes 0..2 times int8 is exact up to this K.
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxWidth = 66052;
constexpr std::int64_t kMinVocab = 260;  // <unk> <s> </s>, 256 bytes, U+2581
constexpr std::int64_t kMaxVocab = 4194304;
constexpr std::int64_t kI2sGroup = 128;

Error usage(const std::string& message) { return {ErrorCode::kUsage, message}; }

Status check_range(const char* what, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return {};
  return usage(std::string(what) + " is " + std::to_string(value) + "; expected " + std::to_string(low) + " to " +
               std::to_string(high));
}

Status check_matrix(const char* name, std::int64_t rows, std::int64_t columns) {
  if (rows * columns % kI2sGroup == 0) return {};
  return usage(std::string(name) + " would have " + std::to_string(rows) + " x " + std::to_string(columns) + " = " +
               std::to_string(rows * columns) +
               " weights; I2_S stores groups of 128, so that the product must be a multiple of 128 (choose hidden, ffn "
               "and head size as multiples of 16)");
}

Error bad_shape(std::string_view text) {
  std::string names;
  for (const KnownShape& shape : kKnownShapes) names += std::string(shape.name) + ", ";
  return usage("shape \"" + std::string(text) + "\" is not known; expected " + names +
               "or LxHxFxQ/KVxV (layers x hidden x ffn x query heads/key-value heads x vocabulary), for example "
               "3x512x1024x4/1x1024");
}

// Decimal digits up to `separator` (or the end, if it is 0), which are taken from `text`.
std::optional<std::int64_t> take_number(std::string_view& text, char separator) {
  std::int64_t value = 0;
  const char* begin = text.data();
  const char* end = begin + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || stop == begin || text.front() == '-') return std::nullopt;
  if (separator == '\0' ? stop != end : stop == end || *stop != separator) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(stop - begin) + (separator == '\0' ? 0U : 1U));
  return value;
}

}  // namespace

Result<SynthSpec> parse_synth_shape(std::string_view text) {
  SynthSpec spec;
  spec.name = text;
  for (const KnownShape& shape : kKnownShapes) {
    if (shape.name != text) continue;
    spec.architecture = shape.architecture;
    spec.layers = shape.layers;
    spec.hidden = shape.hidden;
    spec.ffn = shape.ffn;
    spec.heads = shape.heads;
    spec.kv_heads = shape.kv_heads;
    spec.vocab = shape.vocab;
    spec.context = shape.context;
    spec.rope_base = shape.rope_base;
    return spec;
  }
  spec.architecture = "bitnet-b1.58";
  struct Field {
    std::int64_t* value;
    char separator;
  };
  const std::array<Field, 6> fields = {{{&spec.layers, 'x'},
                                        {&spec.hidden, 'x'},
                                        {&spec.ffn, 'x'},
                                        {&spec.heads, '/'},
                                        {&spec.kv_heads, 'x'},
                                        {&spec.vocab, '\0'}}};
  std::string_view rest = text;
  for (const Field& field : fields) {
    const auto number = take_number(rest, field.separator);
    if (!number) return bad_shape(text);
    *field.value = *number;
  }
  BITNET_RETURN_IF_ERROR(check_synth_spec(spec));
  return spec;
}

Status check_synth_spec(const SynthSpec& spec) {
  bool known = false;
  for (const std::string_view name : kArchitectures) known = known || name == spec.architecture;
  if (!known) {
    return usage("architecture \"" + spec.architecture + "\" is not known; expected bitnet, bitnet-25 or bitnet-b1.58");
  }
  BITNET_RETURN_IF_ERROR(check_range("layers", spec.layers, 1, kMaxLayers));
  BITNET_RETURN_IF_ERROR(check_range("hidden", spec.hidden, 2, kMaxWidth));
  BITNET_RETURN_IF_ERROR(check_range("ffn", spec.ffn, 1, kMaxWidth));
  BITNET_RETURN_IF_ERROR(check_range("query heads", spec.heads, 1, spec.hidden));
  BITNET_RETURN_IF_ERROR(check_range("key-value heads", spec.kv_heads, 1, spec.heads));
  BITNET_RETURN_IF_ERROR(check_range("vocabulary", spec.vocab, kMinVocab, kMaxVocab));
  BITNET_RETURN_IF_ERROR(check_range("context", spec.context, 1, std::int64_t{1} << 24));
  if (!(spec.rope_base >= 1.0F && spec.rope_base <= 1e12F)) {
    return usage("RoPE base is " + std::to_string(spec.rope_base) + "; expected 1 to 1e12");
  }
  if (spec.hidden % spec.heads != 0) {
    return usage("hidden " + std::to_string(spec.hidden) + " is no multiple of the " + std::to_string(spec.heads) +
                 " query heads; expected hidden = heads x head size");
  }
  const std::int64_t head_size = spec.hidden / spec.heads;
  if (head_size % 2 != 0) {
    return usage("the head size " + std::to_string(spec.hidden) + " / " + std::to_string(spec.heads) + " = " +
                 std::to_string(head_size) + " is odd; expected an even one (RoPE turns pairs)");
  }
  if (spec.heads % spec.kv_heads != 0) {
    return usage("the " + std::to_string(spec.kv_heads) + " key-value heads do not divide the " +
                 std::to_string(spec.heads) + " query heads; expected a divisor");
  }
  BITNET_RETURN_IF_ERROR(check_matrix("attn_q and attn_output", spec.hidden, spec.hidden));
  BITNET_RETURN_IF_ERROR(check_matrix("attn_k and attn_v", spec.kv_heads * head_size, spec.hidden));
  BITNET_RETURN_IF_ERROR(check_matrix("ffn_gate, ffn_up and ffn_down", spec.ffn, spec.hidden));
  return {};
}

}  // namespace bitnet
