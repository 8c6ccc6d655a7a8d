// A model to convert, whatever it comes from: its tensors under GGUF names, each of which can be read row by row as
// ternary codes or as floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/ternary.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::convert {

// What decides the type that a tensor is written in.
enum class Role : std::uint8_t {
  kProjection,  // a matrix of a block: --type
  kEmbedding,   // --embedding
  kHead,        // --head
  kOther,       // norms, biases, tables: float32, or as it is in a GGUF file
};

struct SourceTensor {
  std::string name;  // in GGUF: "blk.3.attn_q.weight"
  Role role = Role::kOther;
  std::vector<std::uint64_t> ne;  // fastest first: {k, n} of a matrix, {n} of a vector
  std::vector<std::string> from;  // what it is made of, the source's names
  std::string type;               // of the first of them, the source's word: "BF16", "TL2"
  std::string place;              // for messages: "FILE: tensor 'NAME'"

  // Ternary: codes [rows][k] in 0..2 of weights scale * (code - 1). Returns how many undefined codes became 1.
  bool ternary = false;
  formats::ScaleKind scale_kind = formats::ScaleKind::kTensor;
  std::int32_t group = 0;     // columns that share a scale, with kGroup
  std::vector<float> scales;  // as of TernaryMatrix::scales()
  std::function<Result<std::uint64_t>(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes)> codes;
  // Otherwise: values [rows][k]; a vector is one row.
  std::function<void(std::int64_t row_begin, std::int64_t row_end, float* values)> floats;
  bool masters = false;  // the model rounds them by their mean magnitude when it runs
  bool assumed = false;  // that they are masters: those of one magnitude are ternary weights as they are
  double error = 0;      // largest difference that is already in the values

  // The bytes of a GGUF tensor, which may be copied as they are.
  std::optional<gguf::TensorType> raw_type;
  std::span<const std::byte> raw;

  std::function<void()> release;  // tells the kernel that what has been read is not needed any more

  [[nodiscard]] std::int64_t columns() const { return static_cast<std::int64_t>(ne.front()); }
  [[nodiscard]] std::int64_t rows() const;  // product of the other dimensions
  [[nodiscard]] std::uint64_t elements() const;
};

// A tensor of the source that the result has no place for, and why.
struct Unmapped {
  std::string name;
  std::string reason;
};

}  // namespace bitnet::convert
