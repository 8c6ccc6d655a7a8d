// From the canonical form to bytes in a file. Bytes equal those of bitnet.cpp's converter (I2_S, TL1, TL2; the 28 bytes
// behind the scale are zero) and of ggml's reference quantisation (TQ1_0, TQ2_0) from the same weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/formats/ternary.h"
#include "runtime/formats/tiles.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::formats {

struct TernaryTarget {
  // kI2_S, kTL1, kTL2OrMXFP4 (meaning TL2), or a type of blocks: kTQ1_0, kTQ2_0, kQ2_0, kPQ2_0, kQ1_0.
  gguf::TensorType type = gguf::TensorType::kI2_S;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  I2sLayout i2s_layout = I2sLayout::kX86;
  std::optional<TileShape> tile;  // of TL1 and TL2
};

// Packs one ternary matrix, rows in order; holds the bytes of the whole tensor (at most 1/4 byte a weight).
class TernaryEncoder {
 public:
  // `scales` as of TernaryMatrix. Errors, kTensorMapping: the type does not hold this shape (I2_S: whole groups; TL1
  // and TL2: no tile, or one that does not divide it; types of blocks: whole blocks) or these scales (I2_S, TL1, TL2:
  // one, positive and finite; types of blocks: groups of whole blocks, finite as float16). float16 rounds the scale of
  // a block: scale_loss() says by how much.
  [[nodiscard]] static Result<TernaryEncoder> make(const TernaryTarget& target, ScaleKind kind, std::int32_t group,
                                                   std::span<const float> scales);
  TernaryEncoder(TernaryEncoder&&) noexcept;
  TernaryEncoder& operator=(TernaryEncoder&&) noexcept;
  ~TernaryEncoder();

  // Whole rows of codes 0..2. kTensorMapping for another code, in Q1_0 also for a weight 0 in a block that has others
  // (row and column are named), or more rows than there are.
  [[nodiscard]] Status add_rows(std::span<const std::uint8_t> codes);
  // The tensor's bytes; kTensorMapping if rows are missing. The span lives as long as this object.
  [[nodiscard]] Result<std::span<const std::byte>> finish() const;

  // Largest |stored - scale| / |scale| over the scales: 0 except for types of blocks, there at most 2^-11 for scales
  // above 2^-14.
  [[nodiscard]] double scale_loss() const;

 private:
  struct State;
  explicit TernaryEncoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Types that encode_floats() writes: F32, F16, BF16, Q8_0, TQ1_0, TQ2_0.
[[nodiscard]] bool is_encodable(gguf::TensorType type);
// Bytes of `values`, a whole number of blocks (block_elements() of dense.h), into out, which has room for exactly
// those. F16 and BF16 round to nearest even; Q8_0 by amax/127, TQ1_0 and TQ2_0 by the block's largest magnitude, halves
// away from zero. Values beyond float16 become infinite there. Preconditions: is_encodable(type), finite values for the
// block types. Thread-safe.
void encode_floats(gguf::TensorType type, std::span<const float> values, std::byte* out);

}  // namespace bitnet::formats
