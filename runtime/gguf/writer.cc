// Writer: metadata is encoded as it is set; header() checks what the reader would refuse, so that nothing is written
// that cannot be read back, and write() streams into a NewFile.
#include <algorithm>
#include <type_traits>
#include <utility>
#include <variant>

#include "runtime/base/math.h"
#include "runtime/base/new_file.h"
#include "runtime/gguf/types.h"

namespace bitnet::gguf {
namespace {

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto* first = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), first, first + sizeof(T));
}

void append_string(std::vector<std::byte>& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  out.insert(out.end(), first, first + text.size());
}

template <typename T>
std::vector<std::byte> encode_scalar(ValueType type, const T& value) {
  std::vector<std::byte> out;
  append(out, type);
  append(out, value);
  return out;
}

std::vector<std::byte> begin_array(ValueType element, std::size_t count) {
  std::vector<std::byte> out;
  append(out, ValueType::kArray);
  append(out, element);
  append(out, static_cast<std::uint64_t>(count));
  return out;
}

template <typename T>
std::vector<std::byte> encode_array(ValueType element, std::span<const T> values) {
  std::vector<std::byte> out = begin_array(element, values.size());
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

Error writer_error(const std::string& what) { return {ErrorCode::kFailure, "GGUF writer: " + what}; }

Status check_name(const char* what, const std::string& name, std::uint64_t longest) {
  if (name.empty() || name.size() > longest || name.find('\0') != std::string::npos) {
    return writer_error(std::string(what) + " " + quoted(name) + ": expected 1 to " + std::to_string(longest) +
                        " bytes without NUL, found " + std::to_string(name.size()));
  }
  return {};
}

std::string shape_text(const std::vector<std::uint64_t>& ne) {
  std::string text = "[";
  for (std::size_t d = 0; d < ne.size(); ++d) text += (d > 0 ? ", " : "") + std::to_string(ne[d]);
  return text + "]";
}

}  // namespace

void Writer::set(std::string key, std::uint8_t value) { put(std::move(key), encode_scalar(ValueType::kU8, value)); }
void Writer::set(std::string key, std::uint32_t value) { put(std::move(key), encode_scalar(ValueType::kU32, value)); }
void Writer::set(std::string key, std::int32_t value) { put(std::move(key), encode_scalar(ValueType::kI32, value)); }
void Writer::set(std::string key, std::uint64_t value) { put(std::move(key), encode_scalar(ValueType::kU64, value)); }
void Writer::set(std::string key, float value) { put(std::move(key), encode_scalar(ValueType::kF32, value)); }
void Writer::set(std::string key, bool value) {
  put(std::move(key), encode_scalar(ValueType::kBool, static_cast<std::uint8_t>(value ? 1 : 0)));
}
void Writer::set(std::string key, std::string_view value) {
  std::vector<std::byte> out;
  append(out, ValueType::kString);
  append_string(out, value);
  put(std::move(key), std::move(out));
}
void Writer::set(std::string key, std::span<const std::string> values) {
  std::vector<std::byte> out = begin_array(ValueType::kString, values.size());
  for (const std::string& value : values) append_string(out, value);
  put(std::move(key), std::move(out));
}
void Writer::set(std::string key, std::span<const float> values) {
  put(std::move(key), encode_array(ValueType::kF32, values));
}
void Writer::set(std::string key, std::span<const std::int32_t> values) {
  put(std::move(key), encode_array(ValueType::kI32, values));
}
void Writer::set(std::string key, std::span<const std::uint8_t> values) {
  put(std::move(key), encode_array(ValueType::kU8, values));
}

void Writer::copy(const KeyValue& entry) {
  std::vector<std::byte> out;
  std::visit(
      [&](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, Array>) {
          out = begin_array(value.type, value.count);
          out.insert(out.end(), value.bytes.begin(), value.bytes.end());
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          append(out, ValueType::kString);
          append_string(out, value);
        } else if constexpr (std::is_same_v<T, bool>) {
          out = encode_scalar(ValueType::kBool, static_cast<std::uint8_t>(value ? 1 : 0));
        } else {
          out = encode_scalar(entry.type, value);
        }
      },
      entry.value);
  put(std::string(entry.key), std::move(out));
}

void Writer::put(std::string key, std::vector<std::byte> encoded) {
  const auto same = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (same != entries_.end()) {
    same->encoded = std::move(encoded);
  } else {
    entries_.push_back({std::move(key), std::move(encoded)});
  }
}

void Writer::add_tensor(std::string name, TensorType type, std::vector<std::uint64_t> ne, std::uint64_t bytes) {
  tensors_.push_back({std::move(name), type, std::move(ne), bytes});
}

Result<std::uint64_t> Writer::size_of(const TensorEntry& tensor) {
  const std::span<const std::uint64_t> ne = tensor.ne;
  if (tensor.type == TensorType::kTL2OrMXFP4) {
    const auto tl2 = tl2_bytes(ne);
    if (tl2 && (tensor.bytes == 0 || tensor.bytes == *tl2)) return *tl2;
    if (tensor.bytes != 0 && mxfp4_bytes(ne) == tensor.bytes) return tensor.bytes;
  } else if (const auto bytes = ne.empty() ? std::nullopt : tensor_bytes(tensor.type, ne)) {
    return *bytes;
  }
  return writer_error("tensor " + quoted(tensor.name) +
                      ": expected 1 to 4 dimensions in whole blocks of a type with a known size, found " +
                      shape_text(tensor.ne) + " of type " + std::string(to_string(tensor.type)) + " (id " +
                      std::to_string(static_cast<std::uint32_t>(tensor.type)) + ")");
}

Result<std::vector<std::byte>> Writer::header() const {
  if (!std::has_single_bit(alignment_)) {
    return writer_error("alignment: expected a power of two, found " + std::to_string(alignment_));
  }
  const std::vector<std::byte> alignment_value = encode_scalar(ValueType::kU32, alignment_);
  bool alignment_stated = false;
  for (const Entry& entry : entries_) {
    BITNET_RETURN_IF_ERROR(check_name("key", entry.key, kMaxKeyBytes));
    if (entry.key != kAlignmentKey) continue;
    alignment_stated = true;
    if (entry.encoded != alignment_value) {
      return writer_error("key 'general.alignment': expected the u32 " + std::to_string(alignment_) +
                          " that the writer was made with, found another value or type");
    }
  }
  const bool add_alignment = !alignment_stated && alignment_ != kDefaultAlignment;

  std::vector<std::byte> out;
  append(out, kMagic);
  append(out, kVersion);
  append(out, static_cast<std::uint64_t>(tensors_.size()));
  append(out, static_cast<std::uint64_t>(entries_.size() + (add_alignment ? 1 : 0)));
  for (const Entry& entry : entries_) {
    append_string(out, entry.key);
    out.insert(out.end(), entry.encoded.begin(), entry.encoded.end());
  }
  if (add_alignment) {
    append_string(out, kAlignmentKey);
    out.insert(out.end(), alignment_value.begin(), alignment_value.end());
  }

  std::vector<std::string_view> names;
  std::uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors_) {
    BITNET_RETURN_IF_ERROR(check_name("tensor", tensor.name, kMaxTensorNameBytes));
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t bytes, size_of(tensor));
    names.push_back(tensor.name);
    append_string(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.ne.size()));
    for (const std::uint64_t n : tensor.ne) append(out, n);
    append(out, tensor.type);
    append(out, offset);
    constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
    if (bytes > kMost || offset > kMost) {
      return writer_error("tensor " + quoted(tensor.name) + ": the data would exceed 2^62 bytes");
    }
    offset = round_up<std::uint64_t>(offset + bytes, alignment_);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return writer_error("tensor " + quoted(*twice) + ": expected unique names, found it twice");
  }
  return out;
}

Status Writer::write(const std::string& path, const Source& source,
                     const std::function<Status(std::span<std::byte> header)>& patch_header) const {
  BITNET_ASSIGN_OR_RETURN(std::vector<std::byte> head, header());
  if (patch_header) BITNET_RETURN_IF_ERROR(patch_header(head));

  NewFile file(path);
  BITNET_RETURN_IF_ERROR(file.open());
  BITNET_RETURN_IF_ERROR(file.append(head));
  const auto pad = [&](std::uint64_t bytes) {
    return file.append_zeros(round_up<std::uint64_t>(bytes, alignment_) - bytes);
  };
  BITNET_RETURN_IF_ERROR(pad(head.size()));

  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const TensorEntry& tensor = tensors_[i];
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t expected, size_of(tensor));
    NewFile::Source one;
    if (source) one = [&](const NewFile::Sink& sink) { return source(i, sink); };
    BITNET_RETURN_IF_ERROR(file.append_from(one, expected, "tensor " + quoted(tensor.name)));
    BITNET_RETURN_IF_ERROR(pad(expected));
  }
  return file.commit();
}

}  // namespace bitnet::gguf
