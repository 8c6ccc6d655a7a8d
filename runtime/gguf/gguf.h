// GGUF container, versions 2 and 3, memory-mapped and strict: every count, length, type, alignment and offset is
// checked before it is used, and a refusal names the file, the field, its offset, what was expected and what was found.
// Nothing is copied: names, strings and arrays are views into the mapped file and live as long as the File.
//
// Policy (stricter than ggml where noted): tensor offsets are exactly the running padded sum in file order; names are
// 1..63 bytes and unique; general.alignment is a uint32 power of two; dimension and size products are checked for
// overflow; arrays of arrays are refused. Missing padding after the last tensor is tolerated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/base/mapped_file.h"
#include "runtime/base/result.h"

namespace bitnet::gguf {

enum class ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
[[nodiscard]] std::string_view to_string(ValueType type);

// Tensor element types by GGUF id. Two ids have several meanings, which the reader tells apart by the space that the
// file gives the tensor: 39 (see type_name), and 42, which is Q2_0 (groups of 64) or, in files older than that type,
// what is now PQ2_0 (groups of 128): such a tensor is read as kPQ2_0. Ids not listed are refused by the reader (the
// message gives the id and the tensor).
enum class TensorType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kI2_S = 36,
  kTL1 = 38,
  kTL2OrMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
  kPQ2_0 = 142,
};
[[nodiscard]] std::string_view to_string(TensorType type);
// Bytes of a tensor of this type and shape, or nullopt if the type is unknown, ne[0] is not a multiple of its block, or
// the product overflows. I2_S and TL1: K*M/4 + 32. TL2 is decided by the file size available (FORMATS.md section 4).
[[nodiscard]] std::optional<std::uint64_t> tensor_bytes(TensorType type, std::span<const std::uint64_t> ne);

// A homogeneous array: scalars as raw little-endian bytes, strings as length-prefixed records (checked at open).
struct Array {
  ValueType type = ValueType::kU8;
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;  // unaligned; for strings: the records

  [[nodiscard]] std::vector<std::string_view> strings() const;  // precondition: type == kString
  template <typename T>
  [[nodiscard]] std::vector<T> values() const;  // precondition: T is exactly the element type (float for kF32, ...)
};

using Value = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float,
                           bool, std::string_view, Array, std::uint64_t, std::int64_t, double>;

struct KeyValue {
  std::string_view key;
  ValueType type = ValueType::kU8;
  Value value;
  std::uint64_t value_offset = 0;  // file offset of the value's first byte (arrays: of the first element)
};

struct Tensor {
  std::string_view name;
  TensorType type = TensorType::kF32;
  std::uint32_t n_dims = 0;
  std::array<std::uint64_t, 4> ne{1, 1, 1, 1};  // ne[0] is the fastest (K of a weight matrix), ne[1] = rows
  std::uint64_t offset = 0;                     // from the start of the data section
  std::uint64_t bytes = 0;
  std::span<const std::byte> data;
};
// Like to_string(tensor.type), with id 39 told apart by the size that the reader found: "TL2" or "MXFP4".
[[nodiscard]] std::string_view type_name(const Tensor& tensor);
[[nodiscard]] bool is_tl2(const Tensor& tensor);

class File {
 public:
  [[nodiscard]] static Result<File> open(const std::string& path);
  // Parses bytes that the caller keeps alive; `name` stands in messages. For tests and fuzzing.
  [[nodiscard]] static Result<File> parse(std::span<const std::byte> bytes, std::string name);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] std::uint64_t alignment() const { return alignment_; }
  [[nodiscard]] std::uint64_t data_offset() const { return data_offset_; }    // start of tensor data
  [[nodiscard]] std::uint64_t header_bytes() const { return header_bytes_; }  // header + metadata + tensor table
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }   // the whole file
  [[nodiscard]] std::span<const KeyValue> metadata() const { return metadata_; }
  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }

  [[nodiscard]] const KeyValue* find(std::string_view key) const;
  [[nodiscard]] const Tensor* find_tensor(std::string_view name) const;
  // The mapping behind an opened file (madvise, fstat); nullptr after parse().
  [[nodiscard]] const MappedFile* mapping() const { return file_.get(); }

  // Typed access. get_uint/get_int/get_float accept any integer (float) width whose value fits; a missing key or a
  // wrong type is an error that names the file, the key, the type expected and the type found.
  [[nodiscard]] Result<std::uint64_t> get_uint(std::string_view key) const;
  [[nodiscard]] Result<double> get_float(std::string_view key) const;
  [[nodiscard]] Result<bool> get_bool(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> get_string(std::string_view key) const;
  [[nodiscard]] Result<Array> get_array(std::string_view key, ValueType element) const;

 private:
  friend class Parser;
  std::shared_ptr<MappedFile> file_;
  std::string path_;
  std::span<const std::byte> bytes_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::uint64_t data_offset_ = 0;
  std::uint64_t header_bytes_ = 0;
  std::vector<KeyValue> metadata_;
  std::vector<Tensor> tensors_;
  std::vector<std::uint32_t> key_order_;     // indices of metadata_ sorted by key
  std::vector<std::uint32_t> tensor_order_;  // indices of tensors_ sorted by name
};

// Writer: collects metadata and a tensor table, lays out offsets, then streams tensor data to a temporary file beside
// the target which is renamed when complete, so that a reader never sees half a file.
class Writer {
 public:
  explicit Writer(std::uint32_t alignment = 32) : alignment_(alignment) {}

  void set(std::string key, std::uint8_t value);
  void set(std::string key, std::uint32_t value);
  void set(std::string key, std::int32_t value);
  void set(std::string key, std::uint64_t value);
  void set(std::string key, float value);
  void set(std::string key, bool value);
  void set(std::string key, std::string_view value);
  void set(std::string key, const char* value) { set(std::move(key), std::string_view(value)); }
  void set(std::string key, std::span<const std::string> values);
  void set(std::string key, std::span<const float> values);
  void set(std::string key, std::span<const std::int32_t> values);
  void set(std::string key, std::span<const std::uint8_t> values);
  // A key of another file with its type and value, whatever they are.
  void copy(const KeyValue& entry);

  // `ne` has 1..4 entries, fastest first. Bytes follow from tensor_bytes(); an unknown type or bad shape is an error
  // when writing. Tensors are written in the order in which they were added. `bytes` tells what id 39 means, TL2 or
  // MXFP4; 0: TL2.
  void add_tensor(std::string name, TensorType type, std::vector<std::uint64_t> ne, std::uint64_t bytes = 0);

  // Header, metadata and tensor table, without the padding before the data.
  [[nodiscard]] Result<std::vector<std::byte>> header() const;

  // Receives one tensor's bytes in pieces of any size, in order.
  using Sink = std::function<Status(std::span<const std::byte>)>;
  // Called once per tensor in order; must hand exactly its bytes to the sink.
  using Source = std::function<Status(std::size_t tensor_index, const Sink& sink)>;
  // `patch_header`, if given, may change bytes of the header (not its size) before it is written: digests.
  [[nodiscard]] Status write(const std::string& path, const Source& source,
                             const std::function<Status(std::span<std::byte> header)>& patch_header = {}) const;

 private:
  struct Entry {
    std::string key;
    std::vector<std::byte> encoded;  // value type and value, as in the file
  };
  struct TensorEntry {
    std::string name;
    TensorType type;
    std::vector<std::uint64_t> ne;
    std::uint64_t bytes;
  };
  [[nodiscard]] static Result<std::uint64_t> size_of(const TensorEntry& tensor);
  void put(std::string key, std::vector<std::byte> encoded);
  std::uint32_t alignment_;
  std::vector<Entry> entries_;
  std::vector<TensorEntry> tensors_;
};

}  // namespace bitnet::gguf
