// File: opening, look-up by name (binary search in the orders that the parser sorted), typed access to metadata.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "runtime/gguf/types.h"

namespace bitnet::gguf {
namespace {

std::string type_text(const KeyValue& entry) {
  if (const auto* array = std::get_if<Array>(&entry.value)) return "array of " + std::string(to_string(array->type));
  return std::string(to_string(entry.type));
}

Error wrong_type(const File& file, const KeyValue& entry, const std::string& expected, const std::string& found) {
  return {ErrorCode::kFailure, file.path() + ": key " + quoted(entry.key) + " at byte " +
                                   std::to_string(entry.value_offset) + ": expected " + expected + ", found " + found +
                                   "; convert the model again with a current converter"};
}

Result<const KeyValue*> require(const File& file, std::string_view key, const std::string& expected) {
  if (const KeyValue* entry = file.find(key)) return entry;
  return Error{ErrorCode::kFailure, file.path() + ": key " + quoted(key) + ": expected " + expected +
                                        ", found no such key; is this the kind of file that is wanted here?"};
}

}  // namespace

Result<File> File::open(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(path));
  auto owner = std::make_shared<MappedFile>(std::move(mapped));
  BITNET_ASSIGN_OR_RETURN(File file, parse(owner->bytes(), path));
  file.file_ = std::move(owner);
  return file;
}

const KeyValue* File::find(std::string_view key) const {
  const auto found = std::lower_bound(key_order_.begin(), key_order_.end(), key,
                                      [this](std::uint32_t i, std::string_view k) { return metadata_[i].key < k; });
  return found != key_order_.end() && metadata_[*found].key == key ? &metadata_[*found] : nullptr;
}

const Tensor* File::find_tensor(std::string_view name) const {
  const auto found = std::lower_bound(tensor_order_.begin(), tensor_order_.end(), name,
                                      [this](std::uint32_t i, std::string_view n) { return tensors_[i].name < n; });
  return found != tensor_order_.end() && tensors_[*found].name == name ? &tensors_[*found] : nullptr;
}

Result<std::uint64_t> File::get_uint(std::string_view key) const {
  const std::string expected = "a non-negative integer";
  BITNET_ASSIGN_OR_RETURN(const KeyValue* entry, require(*this, key, expected));
  return std::visit(
      [&](const auto& value) -> Result<std::uint64_t> {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::is_unsigned_v<T> || value >= T{0}) return static_cast<std::uint64_t>(value);
          return wrong_type(*this, *entry, expected, std::to_string(value));
        } else {
          return wrong_type(*this, *entry, expected, type_text(*entry));
        }
      },
      entry->value);
}

Result<double> File::get_float(std::string_view key) const {
  const std::string expected = "a floating-point number";
  BITNET_ASSIGN_OR_RETURN(const KeyValue* entry, require(*this, key, expected));
  if (const auto* value = std::get_if<float>(&entry->value)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<double>(&entry->value)) return *value;
  return wrong_type(*this, *entry, expected, type_text(*entry));
}

Result<bool> File::get_bool(std::string_view key) const {
  BITNET_ASSIGN_OR_RETURN(const KeyValue* entry, require(*this, key, "a bool"));
  if (const auto* value = std::get_if<bool>(&entry->value)) return *value;
  return wrong_type(*this, *entry, "a bool", type_text(*entry));
}

Result<std::string_view> File::get_string(std::string_view key) const {
  BITNET_ASSIGN_OR_RETURN(const KeyValue* entry, require(*this, key, "a string"));
  if (const auto* value = std::get_if<std::string_view>(&entry->value)) return *value;
  return wrong_type(*this, *entry, "a string", type_text(*entry));
}

Result<Array> File::get_array(std::string_view key, ValueType element) const {
  const std::string expected = "an array of " + std::string(to_string(element));
  BITNET_ASSIGN_OR_RETURN(const KeyValue* entry, require(*this, key, expected));
  const auto* array = std::get_if<Array>(&entry->value);
  if (array != nullptr && array->type == element) return *array;
  return wrong_type(*this, *entry, expected, type_text(*entry));
}

}  // namespace bitnet::gguf
