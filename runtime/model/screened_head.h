// Screened rows: an int8 copy of every row of the head, with what is needed to bound how far its product can be from
// the original row's. Half the bytes of float16; head_screen.h chooses with them which rows to read in full.
//
// A row w [hidden] becomes w^ = scale * q, q int8 in [-127, 127], and two norms, both rounded up:
//   error >= ||w - w^||   norm >= ||w^||      (Euclidean, w^ as the real product of the stored scale and q)
// so that |w.x - w^.x^| <= error * ||x|| + norm * ||x - x^|| for any x and x^. A row that cannot be bounded so (weights
// that are not finite, or beyond 2^60) has q = 0 and error = +infinity; one below 2^-60 everywhere has q = 0, scale = 0
// and an error that covers it.
//
// The bytes are one flat block, the same on every CPU: bundles may carry it.
//   rows    [vocab][stride] int8, stride = hidden rounded up to 64, zero beyond hidden
//   scales  [vocab] float
//   errors  [vocab] float
//   norms   [vocab] float
// each part 64-byte aligned, zero between the parts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/kernels/kernel.h"

namespace bitnet {

// Raised when the same weights give other bytes.
inline constexpr std::uint32_t kScreenedVersion = 1;

// Byte offsets from the start of the block, which is 64-byte aligned.
struct ScreenedLayout {
  std::int64_t stride = 0;  // bytes of a row
  std::size_t rows = 0;
  std::size_t scales = 0;
  std::size_t errors = 0;
  std::size_t norms = 0;
  std::size_t bytes = 0;  // of the whole block, a multiple of 64
};

// vocab, hidden >= 1, vocab * hidden < 2^62.
[[nodiscard]] ScreenedLayout screened_layout(std::int64_t vocab, std::int64_t hidden);

// Fills rows [row_begin, row_end) of the block `out`, padding included: after calls that cover [0, vocab) every byte of
// the block is written. `weights` is the whole [vocab][hidden] matrix, row-major, of `format` kF16, kBf16 or kF32,
// aligned to its element, or kQ8. The bytes of a row depend on that row only, so calls may share a block between
// threads as long as their rows differ (rows per call a multiple of 16 keep them off each other's cache lines).
void make_screened_rows(Format format, const std::byte* weights, std::int64_t vocab, std::int64_t hidden,
                        std::int64_t row_begin, std::int64_t row_end, std::byte* out);

// The parts of a block, typed.
struct ScreenedRows {
  std::int64_t vocab = 0;
  std::int64_t hidden = 0;
  const std::int8_t* rows = nullptr;  // [vocab][stride]
  const float* scales = nullptr;      // [vocab]
  const float* errors = nullptr;      // [vocab]
  const float* norms = nullptr;       // [vocab]
};

[[nodiscard]] ScreenedRows screened_rows(const std::byte* block, std::int64_t vocab, std::int64_t hidden);

}  // namespace bitnet
