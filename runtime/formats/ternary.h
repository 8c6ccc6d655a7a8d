// The canonical ternary form: values -1, 0, +1 and scales by tensor, by row or by group of columns, behind every type
// that holds ternary weights. weight[row][column] = scale * (code - 1), code in 0..2.
//
// Types: I2_S (three layouts), TL1, TL2, TQ1_0, TQ2_0, Q2_0 (groups of 64), PQ2_0 (groups of 128), Q1_0 (-1 and +1
// only). The scale kind is the smallest that is exact: blocks whose scales are all equal give kTensor, equal within
// each row kRow. A block of scale 0 holds zeros whatever its codes are, and fits to any scale.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::formats {

enum class ScaleKind : std::uint8_t { kTensor, kRow, kGroup };

// Immutable and cheap to copy. Views the file, which must outlive it. All members are thread-safe.
class TernaryMatrix {
 public:
  // The tensor as a ternary matrix [ne[1]][ne[0]]; nullopt if it is not one and stays what it is: another type, or a
  // block type with codes that mean +2 (its values are then those of decode_floats()). Whole-tensor checks are made
  // here: block types and TL2 are read once. `notes` gets a sentence for everything that was assumed, each once.
  // Errors: kTensorMapping for more than two dimensions or none, a shape that the layout cannot hold, a scale that is
  // not finite (I2_S, TL1, TL2: not positive), missing or impossible tile parameters, TL2 with a sign on a zero or with
  // bytes behind its data; kStrict for an assumed tile table; kFailure or kUsage for an unreadable tile_config.
  [[nodiscard]] static Result<std::optional<TernaryMatrix>> open(const gguf::File& file, const gguf::Tensor& tensor,
                                                                 const ReadOptions& options,
                                                                 std::vector<std::string>& notes);

  [[nodiscard]] std::int64_t n() const;  // rows
  [[nodiscard]] std::int64_t k() const;  // columns
  [[nodiscard]] ScaleKind scale_kind() const;
  // Columns that share a scale: 64, 128 or 256 with kGroup, else 0.
  [[nodiscard]] std::int32_t group() const;
  // kTensor [1], kRow [n], kGroup [k / group][n]. Finite; block types may have negative ones and zeros.
  [[nodiscard]] std::span<const float> scales() const;
  // Codes of rows [row_begin, row_end) into codes [row_end - row_begin][k], each 0..2. Returns how many codes that the
  // type leaves undefined became 1 (weight 0). Precondition: 0 <= row_begin <= row_end <= n.
  std::uint64_t decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const;
  [[nodiscard]] const gguf::Tensor& tensor() const;

  // What decodes one type; defined in codec.h.
  class Decoder;

 private:
  struct State;
  explicit TernaryMatrix(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace bitnet::formats
