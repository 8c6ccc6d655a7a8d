// SafeTensors container, memory-mapped and strict: an 8-byte header length, a JSON header, then the data of all tensors
// without a gap. Everything is checked before it is used, and a refusal names the file, the place, what was expected
// and what was found. Tensor data is a view into the mapped file and lives as long as the File.
//
// Policy (stricter than the reference implementation where marked *): the header has at most 100 MB, begins with '{',
// is valid UTF-8 without NUL and ends with the object and JSON white space; no key appears twice*; a tensor has exactly
// dtype, shape and data_offsets*, 1 to 65535 bytes of name without NUL*, and at most 64 dimensions*; data_offsets,
// sorted, begin at 0, meet without hole or overlap, end where the file ends, and span exactly shape x dtype; sizes are
// products without overflow. Shapes with zero elements and without dimensions are read. A data section need not be
// aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/mapped_file.h"
#include "runtime/base/result.h"

namespace bitnet::safetensors {

// All element types that the format names.
enum class DType : std::uint8_t {
  kBool,
  kF4,
  kF6_E2M3,
  kF6_E3M2,
  kU8,
  kI8,
  kF8_E5M2,
  kF8_E4M3,
  kF8_E8M0,
  kF8_E4M3FNUZ,
  kF8_E5M2FNUZ,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
[[nodiscard]] std::string_view to_string(DType type);  // as in the file: "BF16"
[[nodiscard]] std::optional<DType> parse_dtype(std::string_view name);
[[nodiscard]] unsigned element_bits(DType type);
// Bytes of a tensor; nullopt if a product overflows or the last element ends within a byte.
[[nodiscard]] std::optional<std::uint64_t> tensor_bytes(DType type, std::span<const std::uint64_t> shape);

struct Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::uint64_t> shape;  // slowest first, as in the file
  std::uint64_t offset = 0;          // from the start of the data section
  std::span<const std::byte> data;   // may be unaligned

  [[nodiscard]] std::uint64_t elements() const;  // 1 without dimensions
};
// "[256, 64]"
[[nodiscard]] std::string shape_text(std::span<const std::uint64_t> shape);

class File {
 public:
  // Every error is kFailure.
  [[nodiscard]] static Result<File> open(const std::string& path);
  // Parses bytes that the caller keeps alive; `name` stands in messages. For tests and fuzzing.
  [[nodiscard]] static Result<File> parse(std::span<const std::byte> bytes, std::string name);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint64_t data_offset() const { return data_offset_; }    // of the data section in the file
  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }  // in the order of their data
  [[nodiscard]] const Tensor* find_tensor(std::string_view name) const;
  // The strings of "__metadata__".
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }
  // The mapping behind an opened file; nullptr after parse().
  [[nodiscard]] const MappedFile* mapping() const { return file_.get(); }

 private:
  friend class Parser;
  std::shared_ptr<MappedFile> file_;
  std::string path_;
  std::uint64_t data_offset_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<std::uint32_t> order_;  // indices of tensors_ sorted by name
  std::map<std::string, std::string, std::less<>> metadata_;
};

// Writer: collects a table of tensors, then streams their data to a file that appears under its name when it is
// complete. The header is sorted: wide element types first, names within them, so that every tensor is aligned to its
// element; the data section begins at a multiple of 8.
class Writer {
 public:
  // A string of "__metadata__"; a key that is set again replaces its value.
  void set(std::string key, std::string value) { metadata_[std::move(key)] = std::move(value); }
  // `shape`: slowest first. Names, dimensions and sizes are checked when writing, by the reader's rules.
  void add_tensor(std::string name, DType dtype, std::vector<std::uint64_t> shape);

  // Length and header. kFailure: a name twice, or anything that File would refuse.
  [[nodiscard]] Result<std::vector<std::byte>> header() const;

  // Receives one tensor's bytes in pieces of any size, in order.
  using Sink = std::function<Status(std::span<const std::byte>)>;
  // Called once per tensor, with its place in the order of add_tensor(), in the order of the data; must hand exactly
  // the tensor's bytes to the sink.
  using Source = std::function<Status(std::size_t tensor_index, const Sink& sink)>;
  [[nodiscard]] Status write(const std::string& path, const Source& source) const;

 private:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<std::uint64_t> shape;
  };
  [[nodiscard]] std::vector<std::size_t> data_order() const;
  std::vector<Entry> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace bitnet::safetensors
