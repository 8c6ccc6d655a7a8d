// HeadScreen: the logits that a Selection can choose, from int8 copies of the head's rows and a few original rows.
//
// 1. Every row's int8 copy times int16 activations gives a score, for all tokens of a call in one pass over the rows,
//    and with it bounds: the logit that the exact kernel would give lies within `score +- bound`.
// 2. The adjusted rows, and the `top` rows of the largest scores, are scored by the exact kernel with the original
//    weights. The top-th largest of these values, adjusted, is a threshold: `top` tokens reach it.
// 3. So only rows whose upper bound reaches it can be among the `top` largest; they are scored by the exact kernel too.
//
// The bound, with w^, x^ the copies (screened_head.h), u = 2^-24 and k = hidden:
//   |w.x - w^.x^| <= ||w - w^|| ||x|| + ||w^|| ||x - x^||            Cauchy-Schwarz
//   |exact kernel - w.x| <= g (||w^|| + ||w - w^||) ||x|| + k 2^-149   g = (k/16 + 6) u: a product meets its own
//       rounding, at most k/16 additions of its lane and 4 of the tree; the last term is the products' underflow
//   |score - w^.x^| <= 4u ||w^|| ||x^||                                three roundings, no underflow (see kSmallest)
// and a few u more for the bounds' own arithmetic in floats.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/mapped_file.h"
#include "runtime/base/thread_pool.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/model.h"
#include "runtime/model/screened_head.h"

namespace bitnet {

// Keeps the resident set small where rows are read here and there in a mapped file: gives all pages back after a
// number of them. Without a file a no-op.
class FileRows {
 public:
  FileRows() = default;
  FileRows(const MappedFile* file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}
  [[nodiscard]] const MappedFile* file() const { return file_; }
  void touched(std::int64_t rows) {
    rows_ += rows;
    if (file_ == nullptr || rows_ < kRows) return;
    file_->release(bytes_);
    rows_ = 0;
  }

 private:
  // A touched row brings in up to 4 MiB where the system keeps the file in large pages, else up to 128 KiB.
  static constexpr std::int64_t kRows = 8;
  const MappedFile* file_ = nullptr;
  std::span<const std::byte> bytes_;
  std::int64_t rows_ = 0;
};

// The head's rows in both forms. Everything outlives the HeadScreen.
struct HeadMatrix {
  const std::byte* weights = nullptr;  // [vocab][hidden] in the format of `exact`
  ScreenedRows rows;
  Kernel exact;                   // op head
  Kernel screen;                  // op head_screen
  FileRows* file_rows = nullptr;  // null: `weights` are in memory
};

class HeadScreen {
 public:
  static constexpr std::int64_t kTokens = 8;  // most in one pass

  // Takes all memory that later calls need. kMemory.
  [[nodiscard]] static Result<HeadScreen> create(const HeadMatrix& matrix, ThreadPool& pool);

  // Scores every row with tokens 0 .. tokens - 1 (1 to kTokens) of x [tokens][hidden], which stays until they have been
  // selected from.
  void screen(const float* x, std::int64_t tokens);
  // Whether `token` of the last screen() has scores and bounds: not if its state or a row is not finite or so large or
  // small that float32 could overflow or lose bits on the way.
  [[nodiscard]] bool usable(std::int64_t token) const { return states_[static_cast<std::size_t>(token)].usable; }
  // The scores: [vocab], approximate logits.
  [[nodiscard]] std::span<const float> scores(std::int64_t token) const;

  // The exact logits of all that `selection` (0 < top < vocab, adjusted ids within the vocabulary) can choose or
  // adjusts, for a usable token; ids ascend, and both stay until the next call. `logits` is [vocab] of scratch.
  [[nodiscard]] Logits select(std::int64_t token, const Selection& selection, float* logits);
  // Rows that the last select() scored with the original weights.
  [[nodiscard]] std::int64_t rescored() const { return rescored_; }

 private:
  // Of one token.
  struct State {
    const float* x = nullptr;
    bool usable = false;
    // Of a row's bound: at_error * error + (at_norm * norm + constant).
    float at_error = 0.0F;
    float at_norm = 0.0F;
    float constant = 0.0F;
  };
  struct Scored {
    float score;
    std::int32_t id;
  };

  HeadScreen(const HeadMatrix& matrix, ThreadPool& pool);
  void quantize(std::int64_t token, std::int64_t tokens);
  void score_rows(const State& state, std::span<const std::int32_t> ids, float* logits);
  [[nodiscard]] std::size_t largest_scores(const float* scores, std::size_t many, std::int32_t* ids);
  [[nodiscard]] std::size_t survivors(const State& state, const float* scores, float threshold, std::int32_t* ids);

  HeadMatrix matrix_;
  ThreadPool* pool_;
  std::vector<State> states_;   // [kTokens]
  float largest_norm_ = -1.0F;  // of a row, negative before the first screen(): only then may the rows be read

  std::vector<Buffer> buffers_;       // owner of the following
  std::int16_t* packed_ = nullptr;    // activations as the kernel takes them
  float* x_scales_ = nullptr;         // [kTokens]
  float* scores_ = nullptr;           // [kTokens][vocab]
  std::int32_t* ids_ = nullptr;       // [vocab] chosen so far, then the result
  std::int32_t* unscored_ = nullptr;  // [vocab] of these, without an exact value
  float* values_ = nullptr;           // [2 vocab]
  float* saved_ = nullptr;            // [vocab] scores of the adjusted rows
  std::uint8_t* known_ = nullptr;     // [vocab] whether logits has an exact value; zero between calls
  std::vector<Scored> heaps_;         // [threads][kLargestHeap]
  std::vector<std::size_t> counts_;   // [threads]
  std::int64_t rescored_ = 0;
};

}  // namespace bitnet
