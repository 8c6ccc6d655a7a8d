// Opening, the length field, and the layout: entries sorted by their offsets must tile the data section exactly.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <tuple>
#include <utility>

#include "runtime/gguf/types.h"
#include "runtime/safetensors/header.h"
#include "runtime/safetensors/safetensors.h"
#include "runtime/tokenizer/utf8.h"

namespace bitnet::safetensors {
namespace {

using gguf::quoted;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100000000;  // the reference implementation's
constexpr const char* kAdvice = "the file is damaged, cut short or not a SafeTensors file: fetch or export it again";

struct TypeInfo {
  std::string_view name;
  DType type;
  unsigned bits;
};
constexpr std::array<TypeInfo, 22> kTypes = {{
    {"BOOL", DType::kBool, 8},
    {"F4", DType::kF4, 4},
    {"F6_E2M3", DType::kF6_E2M3, 6},
    {"F6_E3M2", DType::kF6_E3M2, 6},
    {"U8", DType::kU8, 8},
    {"I8", DType::kI8, 8},
    {"F8_E5M2", DType::kF8_E5M2, 8},
    {"F8_E4M3", DType::kF8_E4M3, 8},
    {"F8_E8M0", DType::kF8_E8M0, 8},
    {"F8_E4M3FNUZ", DType::kF8_E4M3FNUZ, 8},
    {"F8_E5M2FNUZ", DType::kF8_E5M2FNUZ, 8},
    {"I16", DType::kI16, 16},
    {"U16", DType::kU16, 16},
    {"F16", DType::kF16, 16},
    {"BF16", DType::kBF16, 16},
    {"I32", DType::kI32, 32},
    {"U32", DType::kU32, 32},
    {"F32", DType::kF32, 32},
    {"C64", DType::kC64, 64},
    {"F64", DType::kF64, 64},
    {"I64", DType::kI64, 64},
    {"U64", DType::kU64, 64},
}};
static_assert([] {
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}());

// The first byte that is NUL or belongs to no character, or the end.
std::size_t first_bad_byte(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto sequence = tokenizer::next_utf8(text.substr(at));
    if (text[at] == '\0' || sequence.kind != tokenizer::Utf8Kind::kComplete) return at;
    at += sequence.bytes;
  }
  return text.size();
}

std::string offsets_text(const Entry& entry) {
  return "[" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
}

}  // namespace

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string name) : bytes_(bytes) { file_.path_ = std::move(name); }

  Result<File> run() {
    BITNET_ASSIGN_OR_RETURN(const std::string_view text, header_text());
    BITNET_ASSIGN_OR_RETURN(Header header,
                            parse_header(text, [this](const auto& place, const auto& wanted, const auto& found) {
                              return refuse(place, wanted, found);
                            }));
    file_.metadata_ = std::move(header.metadata);
    BITNET_RETURN_IF_ERROR(lay_out(std::move(header.entries)));
    BITNET_RETURN_IF_ERROR(index_names());
    return std::move(file_);
  }

 private:
  [[nodiscard]] Error refuse(const std::string& place, const std::string& expected, const std::string& found) const {
    return {ErrorCode::kFailure,
            file_.path_ + ": " + place + ": expected " + expected + ", found " + found + "; " + kAdvice};
  }

  Result<std::string_view> header_text() {
    if (bytes_.size() < kLengthBytes) {
      return refuse("header length at byte 0", "8 bytes", std::to_string(bytes_.size()) + " in the file");
    }
    std::uint64_t length = 0;
    static_assert(std::endian::native == std::endian::little);
    std::memcpy(&length, bytes_.data(), sizeof length);
    const std::uint64_t left = bytes_.size() - kLengthBytes;
    if (length > std::min(left, kMaxHeaderBytes)) {
      return refuse("header length at byte 0",
                    "at most " + (left < kMaxHeaderBytes ? std::to_string(left) + ", the bytes behind it"
                                                         : std::to_string(kMaxHeaderBytes)),
                    std::to_string(length));
    }
    file_.data_offset_ = kLengthBytes + length;
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes,
                                static_cast<std::size_t>(length));
    if (!text.starts_with('{')) {
      return refuse("header at byte 8", "'{'", text.empty() ? "an empty header" : quoted(text.substr(0, 1)));
    }
    const std::size_t bad = first_bad_byte(text);
    if (bad < text.size()) {
      return refuse("header at byte " + std::to_string(kLengthBytes + bad), "UTF-8 without NUL",
                    quoted(text.substr(bad, 1)));
    }
    return text;
  }

  Status lay_out(std::vector<Entry> entries) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    const std::uint64_t available = bytes_.size() - file_.data_offset_;
    std::uint64_t at = 0;
    file_.tensors_.reserve(entries.size());
    for (Entry& entry : entries) {
      const std::string place = "tensor " + quoted(entry.name);
      if (entry.begin != at || entry.end < entry.begin) {
        return refuse(place + ".data_offsets",
                      "a range that begins at " + std::to_string(at) + ", the end of the tensors before it",
                      offsets_text(entry));
      }
      if (entry.end > available) {
        return refuse(place + ".data_offsets", "an end within the " + std::to_string(available) + " bytes of data",
                      offsets_text(entry));
      }
      const auto bytes = tensor_bytes(entry.dtype, entry.shape);
      if (!bytes) {
        return refuse(place + ".shape", "a size in whole bytes whose product of dimensions is below 2^64 bits",
                      shape_text(entry.shape) + " of type " + std::string(to_string(entry.dtype)));
      }
      if (entry.end - entry.begin != *bytes) {
        return refuse(place + ".data_offsets",
                      std::to_string(*bytes) + " bytes for " + shape_text(entry.shape) + " of type " +
                          std::string(to_string(entry.dtype)),
                      offsets_text(entry) + ", which is " + std::to_string(entry.end - entry.begin));
      }
      at = entry.end;
      file_.tensors_.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape), entry.begin,
                                bytes_.subspan(file_.data_offset_ + entry.begin, *bytes)});
    }
    if (at != available) {
      return refuse("data", std::to_string(at) + " bytes, the end of the last tensor", std::to_string(available));
    }
    return {};
  }

  Status index_names() {
    auto& order = file_.order_;
    order.resize(file_.tensors_.size());
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(),
              [this](std::uint32_t a, std::uint32_t b) { return file_.tensors_[a].name < file_.tensors_[b].name; });
    const auto same = std::adjacent_find(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
      return file_.tensors_[a].name == file_.tensors_[b].name;
    });
    if (same != order.end()) {
      return refuse("header: tensor " + quoted(file_.tensors_[*same].name), "a name that was not used before",
                    "it again");
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  File file_;
};

std::string_view to_string(DType type) { return kTypes[static_cast<std::size_t>(type)].name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (const TypeInfo& info : kTypes) {
    if (info.name == name) return info.type;
  }
  return std::nullopt;
}

unsigned element_bits(DType type) { return kTypes[static_cast<std::size_t>(type)].bits; }

// Multiplied in the order of the shape.
std::optional<std::uint64_t> tensor_bytes(DType type, std::span<const std::uint64_t> shape) {
  std::uint64_t bits = 1;
  for (const std::uint64_t n : shape) {
    if (__builtin_mul_overflow(bits, n, &bits)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bits, std::uint64_t{element_bits(type)}, &bits)) return std::nullopt;
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

std::uint64_t Tensor::elements() const {
  std::uint64_t product = 1;
  for (const std::uint64_t n : shape) product *= n;
  return product;
}

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

Result<File> File::open(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(path));
  auto owner = std::make_shared<MappedFile>(std::move(mapped));
  BITNET_ASSIGN_OR_RETURN(File file, parse(owner->bytes(), path));
  file.file_ = std::move(owner);
  return file;
}

Result<File> File::parse(std::span<const std::byte> bytes, std::string name) {
  return Parser(bytes, std::move(name)).run();
}

const Tensor* File::find_tensor(std::string_view name) const {
  const auto found = std::lower_bound(order_.begin(), order_.end(), name,
                                      [this](std::uint32_t i, std::string_view n) { return tensors_[i].name < n; });
  return found != order_.end() && tensors_[*found].name == name ? &tensors_[*found] : nullptr;
}

}  // namespace bitnet::safetensors
