// Parser: one pass over header, metadata and tensor table, then one over the table for the data layout.
//
// Nothing is believed before it is compared with the bytes that are there: a count is refused if the rest of the file
// could not hold so many of the smallest entry, so no loop runs longer than the file, and the tables that are allocated
// are bounded by the file's own size (or 16 MiB, where that is more). Duplicates are found by sorting.
//
// Where the specification leaves room:
//  - bool bytes other than 0 and 1 are refused (the specification calls them invalid; a C++ bool must not hold them);
//  - keys and tensor names that are empty or hold a NUL are refused: C programs, ggml among them, see them cut short,
//  so
//    that two names which differ here would be one name there;
//  - invalid UTF-8 in string values is accepted: byte-level vocabularies hold pieces of characters. Whoever prints a
//    string must expect it;
//  - bytes behind the last tensor are accepted, and so is missing padding there.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "runtime/base/math.h"
#include "runtime/gguf/types.h"

namespace bitnet::gguf {
namespace {

constexpr std::uint64_t kTableBytesAlwaysAllowed = std::uint64_t{16} << 20;
constexpr std::uint64_t kSmallestEntry = 8 + 1 + 4 + 1;       // key length, key, type, value
constexpr std::uint64_t kSmallestTensor = 8 + 1 + 4 + 4 + 8;  // name length, name, dimensions, type, offset
constexpr const char* kDamaged = "the file is damaged or cut short: fetch or convert it again";
constexpr const char* kWriterFault =
    "the program that wrote this file is at fault: convert the model again with a current one";

std::string indexed(const char* what, std::uint64_t index) { return what + ("[" + std::to_string(index) + "]"); }

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (std::uint32_t d = 0; d < tensor.n_dims; ++d) text += (d > 0 ? ", " : "") + std::to_string(tensor.ne[d]);
  return text + "]";
}

}  // namespace

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string name) {
    file_.bytes_ = bytes;
    file_.path_ = std::move(name);
  }

  Result<File> run() {
    BITNET_RETURN_IF_ERROR(read_header());
    for (std::uint64_t i = 0; i < n_kv_; ++i) BITNET_RETURN_IF_ERROR(read_key_value(i));
    BITNET_RETURN_IF_ERROR(check_keys());
    for (std::uint64_t i = 0; i < n_tensors_; ++i) BITNET_RETURN_IF_ERROR(read_tensor(i));
    file_.header_bytes_ = at_;
    file_.data_offset_ = round_up(at_, file_.alignment_);
    BITNET_RETURN_IF_ERROR(check_tensor_names());
    BITNET_RETURN_IF_ERROR(lay_out_tensors());
    return std::move(file_);
  }

 private:
  [[nodiscard]] std::uint64_t size() const { return file_.bytes_.size(); }
  [[nodiscard]] std::uint64_t left() const { return size() - at_; }

  [[nodiscard]] Error refuse(std::uint64_t offset, const std::string& field, const std::string& expected,
                             const std::string& found, const char* advice) const {
    return {ErrorCode::kFailure, file_.path_ + ": " + field + " at byte " + std::to_string(offset) + ": expected " +
                                     expected + ", found " + found + "; " + advice};
  }

  // `field` is a callable, so that its text is only made for a message.
  template <typename T, typename Field>
  Status read(T& value, const Field& field) {
    if (left() < sizeof(T)) {
      return refuse(at_, field(), std::to_string(sizeof(T)) + " bytes",
                    std::to_string(left()) + " before the end of the file", kDamaged);
    }
    std::memcpy(&value, file_.bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return {};
  }

  template <typename Field>
  Status read_string(std::string_view& value, const Field& field) {
    const std::uint64_t start = at_;
    std::uint64_t length = 0;
    BITNET_RETURN_IF_ERROR(read(length, [&] { return field() + " length"; }));
    if (length > left()) {
      return refuse(start, field() + " length", "at most the " + std::to_string(left()) + " bytes left in the file",
                    std::to_string(length), kDamaged);
    }
    value = {reinterpret_cast<const char*>(file_.bytes_.data() + at_), static_cast<std::size_t>(length)};
    at_ += length;
    return {};
  }

  template <typename Field>
  Status read_name(std::string_view& name, std::uint64_t longest, const Field& field) {
    const std::uint64_t start = at_;
    BITNET_RETURN_IF_ERROR(read_string(name, field));
    if (name.empty() || name.size() > longest) {
      return refuse(start, field() + " length", "1 to " + std::to_string(longest) + " bytes",
                    std::to_string(name.size()), name.empty() ? kDamaged : kWriterFault);
    }
    if (name.find('\0') != std::string_view::npos) {
      return refuse(start + 8, field(), "no NUL byte", quoted(name), kWriterFault);
    }
    return {};
  }

  Status read_header();
  Status read_key_value(std::uint64_t index);
  template <typename Field>
  Status read_value(KeyValue& entry, const Field& field);
  template <typename T, typename Field>
  Status read_scalar(KeyValue& entry, const Field& field);
  template <typename Field>
  Status read_bool(bool& value, const Field& field);
  template <typename Field>
  Status read_array(KeyValue& entry, const Field& field);
  Status check_keys();
  Status read_alignment(const KeyValue& entry);
  Status read_tensor(std::uint64_t index);
  Status check_tensor_names();
  Status lay_out_tensors();
  // Two meanings of one type id.
  using Readings = std::array<Reading, 2>;
  // Which of them the tensor's space allows; both if it is as good for the one as for the other.
  [[nodiscard]] std::uint64_t space_of(std::size_t index) const;
  [[nodiscard]] std::array<bool, 2> fitting(std::size_t index, const Readings& readings) const;
  Status decide_reading(std::size_t index);
  [[nodiscard]] std::optional<std::size_t> settle(TensorType id);

  [[nodiscard]] std::string tensor_field(std::uint64_t index, const char* field) const {
    return indexed("tensor", index) + " (" + quoted(file_.tensors_[index].name) + ")" + field;
  }
  // Where fields of a tensor that is already in the table stand: behind its name, which is a view into the file.
  [[nodiscard]] std::uint64_t offset_of(std::string_view text) const {
    return static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(text.data()) - file_.bytes_.data());
  }
  [[nodiscard]] std::uint64_t dims_at(const Tensor& tensor) const {
    return offset_of(tensor.name) + tensor.name.size() + 4;
  }
  [[nodiscard]] std::uint64_t type_at(const Tensor& tensor) const {
    return dims_at(tensor) + std::uint64_t{8} * tensor.n_dims;
  }

  File file_;
  std::uint64_t at_ = 0;
  std::map<TensorType, std::optional<std::size_t>> settled_;  // what settle() found
  std::vector<std::pair<std::size_t, TensorType>> decided_;   // tensors whose id had two meanings
  std::uint64_t n_tensors_ = 0;
  std::uint64_t n_kv_ = 0;
};

Status Parser::read_header() {
  std::uint32_t magic = 0;
  BITNET_RETURN_IF_ERROR(read(magic, [] { return std::string("magic"); }));
  if (magic != kMagic) {
    return refuse(0, "magic", "'GGUF'", quoted({reinterpret_cast<const char*>(file_.bytes_.data()), 4}),
                  "this is not a GGUF file");
  }
  BITNET_RETURN_IF_ERROR(read(file_.version_, [] { return std::string("version"); }));
  if (file_.version_ != 2 && file_.version_ != 3) {
    const bool swapped = file_.version_ != 0 && (file_.version_ & 0xffffu) == 0;
    return refuse(4, "version", "2 or 3", std::to_string(file_.version_),
                  swapped ? "big-endian files are not supported: convert the model for little-endian machines"
                          : "convert the model again with a current converter");
  }
  const std::uint64_t tensors_at = at_;
  BITNET_RETURN_IF_ERROR(read(n_tensors_, [] { return std::string("n_tensors"); }));
  const std::uint64_t kv_at = at_;
  BITNET_RETURN_IF_ERROR(read(n_kv_, [] { return std::string("n_kv"); }));

  const auto at_most = [this](std::uint64_t most) {
    return "at most " + std::to_string(most) + " in a file of " + std::to_string(size()) + " bytes";
  };
  if (n_kv_ > left() / kSmallestEntry) {
    return refuse(kv_at, "n_kv", at_most(left() / kSmallestEntry), std::to_string(n_kv_), kDamaged);
  }
  if (n_tensors_ > left() / kSmallestTensor) {
    return refuse(tensors_at, "n_tensors", at_most(left() / kSmallestTensor), std::to_string(n_tensors_), kDamaged);
  }
  // Both counts are below 2^60 here, so that nothing overflows.
  const std::uint64_t budget = std::max(size(), kTableBytesAlwaysAllowed);
  const std::uint64_t kv_bytes = n_kv_ * (sizeof(KeyValue) + sizeof(std::uint32_t));
  const std::uint64_t tensor_table_bytes = n_tensors_ * (sizeof(Tensor) + sizeof(std::uint32_t));
  if (kv_bytes + tensor_table_bytes > budget || n_kv_ > UINT32_MAX || n_tensors_ > UINT32_MAX) {
    return refuse(
        tensors_at, "n_tensors and n_kv", "tables that take at most " + std::to_string(budget) + " bytes of memory",
        std::to_string(n_tensors_) + " and " + std::to_string(n_kv_), "the file is damaged or made to do harm");
  }
  file_.metadata_.reserve(n_kv_);
  file_.tensors_.reserve(n_tensors_);
  return {};
}

Status Parser::read_key_value(std::uint64_t index) {
  KeyValue entry;
  BITNET_RETURN_IF_ERROR(read_name(entry.key, kMaxKeyBytes, [&] { return indexed("kv", index) + ".key"; }));
  const auto field = [&](const char* part) { return indexed("kv", index) + " (" + quoted(entry.key) + ")" + part; };
  const std::uint64_t type_offset = at_;
  BITNET_RETURN_IF_ERROR(read(entry.type, [&] { return field(".type"); }));
  if (!is_known(entry.type)) {
    return refuse(type_offset, field(".type"), "a value type 0 to 12",
                  std::to_string(static_cast<std::uint32_t>(entry.type)), kDamaged);
  }
  entry.value_offset = at_;
  BITNET_RETURN_IF_ERROR(read_value(entry, field));
  file_.metadata_.push_back(entry);
  return {};
}

template <typename T, typename Field>
Status Parser::read_scalar(KeyValue& entry, const Field& field) {
  T value{};
  BITNET_RETURN_IF_ERROR(read(value, [&] { return field(".value"); }));
  entry.value.emplace<T>(value);
  return {};
}

template <typename Field>
Status Parser::read_bool(bool& value, const Field& field) {
  const std::uint64_t offset = at_;
  std::uint8_t byte = 0;
  BITNET_RETURN_IF_ERROR(read(byte, field));
  if (byte > 1) return refuse(offset, field(), "0 or 1", std::to_string(byte), kDamaged);
  value = byte == 1;
  return {};
}

template <typename Field>
Status Parser::read_value(KeyValue& entry, const Field& field) {
  switch (entry.type) {
    case ValueType::kU8:
      return read_scalar<std::uint8_t>(entry, field);
    case ValueType::kI8:
      return read_scalar<std::int8_t>(entry, field);
    case ValueType::kU16:
      return read_scalar<std::uint16_t>(entry, field);
    case ValueType::kI16:
      return read_scalar<std::int16_t>(entry, field);
    case ValueType::kU32:
      return read_scalar<std::uint32_t>(entry, field);
    case ValueType::kI32:
      return read_scalar<std::int32_t>(entry, field);
    case ValueType::kF32:
      return read_scalar<float>(entry, field);
    case ValueType::kU64:
      return read_scalar<std::uint64_t>(entry, field);
    case ValueType::kI64:
      return read_scalar<std::int64_t>(entry, field);
    case ValueType::kF64:
      return read_scalar<double>(entry, field);
    case ValueType::kBool: {
      bool value = false;
      BITNET_RETURN_IF_ERROR(read_bool(value, [&] { return field(".value"); }));
      entry.value.emplace<bool>(value);
      return {};
    }
    case ValueType::kString: {
      std::string_view text;
      BITNET_RETURN_IF_ERROR(read_string(text, [&] { return field(".value"); }));
      entry.value.emplace<std::string_view>(text);
      return {};
    }
    case ValueType::kArray:
      break;
  }
  return read_array(entry, field);
}

template <typename Field>
Status Parser::read_array(KeyValue& entry, const Field& field) {
  Array array;
  const std::uint64_t type_offset = at_;
  BITNET_RETURN_IF_ERROR(read(array.type, [&] { return field(".element type"); }));
  if (!is_known(array.type) || array.type == ValueType::kArray) {
    return refuse(type_offset, field(".element type"), "a value type 0 to 12 other than 9 (arrays of arrays)",
                  std::to_string(static_cast<std::uint32_t>(array.type)), kDamaged);
  }
  const std::uint64_t count_offset = at_;
  BITNET_RETURN_IF_ERROR(read(array.count, [&] { return field(".count"); }));
  const bool strings = array.type == ValueType::kString;
  const std::uint64_t most = left() / (strings ? sizeof(std::uint64_t) : scalar_bytes(array.type));
  if (array.count > most) {
    return refuse(
        count_offset, field(".count"),
        "at most " + std::to_string(most) + " elements in the " + std::to_string(left()) + " bytes left in the file",
        std::to_string(array.count), kDamaged);
  }
  const std::uint64_t begin = at_;
  entry.value_offset = begin;
  if (strings || array.type == ValueType::kBool) {
    for (std::uint64_t i = 0; i < array.count; ++i) {
      const auto element = [&] { return field(("[" + std::to_string(i) + "]").c_str()); };
      std::string_view text;
      bool flag = false;
      BITNET_RETURN_IF_ERROR(strings ? read_string(text, element) : read_bool(flag, element));
    }
  } else {
    at_ += array.count * scalar_bytes(array.type);
  }
  array.bytes = file_.bytes_.subspan(begin, at_ - begin);
  entry.value.emplace<Array>(array);
  return {};
}

Status Parser::check_keys() {
  auto& order = file_.key_order_;
  order.resize(file_.metadata_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
    const int by_key = file_.metadata_[a].key.compare(file_.metadata_[b].key);
    return by_key != 0 ? by_key < 0 : a < b;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::string_view key = file_.metadata_[order[i]].key;
    if (key == file_.metadata_[order[i - 1]].key) {
      return refuse(offset_of(key), indexed("kv", order[i]) + ".key", "a key that was not used before",
                    quoted(key) + " again, as in " + indexed("kv", order[i - 1]), kWriterFault);
    }
  }
  const KeyValue* alignment = file_.find(kAlignmentKey);
  return alignment == nullptr ? Status() : read_alignment(*alignment);
}

Status Parser::read_alignment(const KeyValue& entry) {
  const auto* value = std::get_if<std::uint32_t>(&entry.value);
  if (value == nullptr) {
    return refuse(entry.value_offset, std::string(kAlignmentKey) + ".type", "u32", std::string(to_string(entry.type)),
                  kWriterFault);
  }
  if (!std::has_single_bit(*value)) {
    return refuse(entry.value_offset, std::string(kAlignmentKey) + ".value", "a power of two", std::to_string(*value),
                  kWriterFault);
  }
  file_.alignment_ = *value;
  return {};
}

Status Parser::read_tensor(std::uint64_t index) {
  Tensor tensor;
  BITNET_RETURN_IF_ERROR(
      read_name(tensor.name, kMaxTensorNameBytes, [&] { return indexed("tensor", index) + ".name"; }));
  const auto field = [&](const char* part) {
    return indexed("tensor", index) + " (" + quoted(tensor.name) + ")" + part;
  };
  const std::uint64_t n_dims_at = at_;
  BITNET_RETURN_IF_ERROR(read(tensor.n_dims, [&] { return field(".n_dims"); }));
  if (tensor.n_dims > kMaxDims) {
    return refuse(n_dims_at, field(".n_dims"), "0 to 4", std::to_string(tensor.n_dims), kDamaged);
  }
  for (std::uint32_t d = 0; d < tensor.n_dims; ++d) {
    const auto dimension = [&] { return field((".ne[" + std::to_string(d) + "]").c_str()); };
    BITNET_RETURN_IF_ERROR(read(tensor.ne[d], dimension));
    if (!checked_extent(std::span(tensor.ne).first(d + 1))) {
      return refuse(at_ - 8, dimension(), "dimensions whose product is below 2^63", std::to_string(tensor.ne[d]),
                    kDamaged);
    }
  }
  BITNET_RETURN_IF_ERROR(read(tensor.type, [&] { return field(".type"); }));
  if (!is_known(tensor.type)) {
    return refuse(at_ - 4, field(".type"), "a tensor type that this program knows",
                  "id " + std::to_string(static_cast<std::uint32_t>(tensor.type)),
                  "the type was removed from GGUF or is newer than this program: convert the model to another type");
  }
  if (!two_readings(tensor)) {
    const auto shape = std::span(tensor.ne).first(tensor.n_dims);
    const std::uint64_t granule = row_granule(tensor.type);
    if ((tensor.n_dims == 0 ? 1 : tensor.ne[0]) % granule != 0) {
      return refuse(dims_at(tensor), field(".ne[0]"),
                    "a multiple of " + std::to_string(granule) + " for type " + std::string(to_string(tensor.type)),
                    shape_text(tensor), kDamaged);
    }
    const auto bytes = tensor_bytes(tensor.type, shape);
    if (!bytes) {
      return refuse(dims_at(tensor), field(".ne"), "a size below 2^63 bytes",
                    shape_text(tensor) + " of type " + std::string(to_string(tensor.type)), kDamaged);
    }
    tensor.bytes = *bytes;
  }
  BITNET_RETURN_IF_ERROR(read(tensor.offset, [&] { return field(".offset"); }));
  file_.tensors_.push_back(tensor);
  return {};
}

Status Parser::check_tensor_names() {
  auto& order = file_.tensor_order_;
  order.resize(file_.tensors_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
    const int by_name = file_.tensors_[a].name.compare(file_.tensors_[b].name);
    return by_name != 0 ? by_name < 0 : a < b;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::string_view name = file_.tensors_[order[i]].name;
    if (name == file_.tensors_[order[i - 1]].name) {
      return refuse(offset_of(name), indexed("tensor", order[i]) + ".name", "a name that was not used before",
                    quoted(name) + " again, as in " + indexed("tensor", order[i - 1]), kWriterFault);
    }
  }
  return {};
}

// Offsets must be the running sum of padded sizes. Every tensor lies inside the file before the next one is looked at,
// so the sum cannot overflow.
Status Parser::lay_out_tensors() {
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < file_.tensors_.size(); ++i) {
    Tensor& tensor = file_.tensors_[i];
    if (tensor.offset != expected) {
      return refuse(type_at(tensor) + 4, tensor_field(i, ".offset"),
                    std::to_string(expected) + " (the end of the tensors before it, padded to " +
                        std::to_string(file_.alignment_) + ")",
                    std::to_string(tensor.offset), kDamaged);
    }
    if (two_readings(tensor)) BITNET_RETURN_IF_ERROR(decide_reading(i));
    const std::uint64_t begin = file_.data_offset_ + tensor.offset;
    const std::uint64_t available = begin < size() ? size() - begin : 0;
    if (tensor.bytes > available) {
      return refuse(begin, tensor_field(i, ".data"),
                    std::to_string(tensor.bytes) + " bytes for " + shape_text(tensor) + " of type " +
                        std::string(type_name(tensor)),
                    std::to_string(available) + " before the end of the file", kDamaged);
    }
    if (tensor.bytes > 0) tensor.data = file_.bytes_.subspan(begin, tensor.bytes);
    expected = round_up(tensor.offset + tensor.bytes, file_.alignment_);
  }
  for (const auto& [index, type] : decided_) file_.tensors_[index].type = type;
  return {};
}

// The space of a tensor reaches to the next one's offset, or to the end of the file (whose padding may be missing).
std::array<bool, 2> Parser::fitting(std::size_t index, const Readings& readings) const {
  const bool last = index + 1 == file_.tensors_.size();
  const std::uint64_t space = space_of(index);
  const auto fits = [&](const Reading& reading) {
    if (!reading.bytes) return false;
    const std::uint64_t padded = round_up(*reading.bytes, file_.alignment_);
    return last ? *reading.bytes <= space && space <= padded : padded == space;
  };
  return {fits(readings[0]), fits(readings[1])};
}

std::uint64_t Parser::space_of(std::size_t index) const {
  const bool last = index + 1 == file_.tensors_.size();
  const std::uint64_t begin = file_.tensors_[index].offset;
  const std::uint64_t end = last ? size() - std::min(size(), file_.data_offset_) : file_.tensors_[index + 1].offset;
  return end > begin ? end - begin : 0;
}

// A small tensor may leave both readings open. The writer of a file knows one of them: the one that the file's other
// tensors of this id must have, else the one that belongs to its architecture.
std::optional<std::size_t> Parser::settle(TensorType id) {
  const auto known = settled_.find(id);
  if (known != settled_.end()) return known->second;
  std::array<bool, 2> seen = {false, false};
  for (std::size_t i = 0; i < file_.tensors_.size(); ++i) {
    const auto readings = file_.tensors_[i].type == id ? two_readings(file_.tensors_[i]) : std::nullopt;
    if (!readings) continue;
    const auto fits = fitting(i, *readings);
    if (fits[0] != fits[1]) seen[fits[0] ? 0 : 1] = true;
  }
  std::optional<std::size_t> choice;
  if (seen[0] != seen[1]) choice = seen[0] ? 0 : 1;
  if (!seen[0] && !seen[1] && id == TensorType::kTL2OrMXFP4) {
    const KeyValue* entry = file_.find("general.architecture");
    const auto* architecture = entry == nullptr ? nullptr : std::get_if<std::string_view>(&entry->value);
    if (architecture != nullptr && architecture->starts_with("bitnet")) choice = 0;
  }
  settled_.insert({id, choice});
  return choice;
}

Status Parser::decide_reading(std::size_t index) {
  Tensor& tensor = file_.tensors_[index];
  const Readings readings = *two_readings(tensor);
  const auto fits = fitting(index, readings);
  std::optional<std::size_t> choice;
  if (fits[0] != fits[1]) choice = fits[0] ? 0 : 1;
  if (fits[0] && fits[1]) choice = readings[0].bytes == readings[1].bytes ? 0 : settle(tensor.type);
  if (choice) {
    tensor.bytes = *readings[*choice].bytes;
    decided_.push_back({index, readings[*choice].type});
    return {};
  }
  const auto text = [](const Reading& reading) {
    return std::string(reading.name) + " (" +
           (reading.bytes ? std::to_string(*reading.bytes) + " bytes" : "impossible in this shape") + ")";
  };
  return refuse(type_at(tensor), tensor_field(index, ".type"),
                "for id " + std::to_string(static_cast<std::uint32_t>(tensor.type)) + " and " + shape_text(tensor) +
                    " the space of exactly one of " + text(readings[0]) + " and " + text(readings[1]),
                std::to_string(space_of(index)) + " bytes" + (fits[0] ? ", which fits both" : ", which fits neither"),
                "convert the model to another type");
}

Result<File> File::parse(std::span<const std::byte> bytes, std::string name) {
  return Parser(bytes, std::move(name)).run();
}

}  // namespace bitnet::gguf
