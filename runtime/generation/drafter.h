// Drafter: guesses the tokens that come next, so that a Generator can evaluate several positions in one pass. A guess
// never changes the text, only how many passes it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bitnet {

// Not thread-safe; one Drafter for each sequence.
class Drafter {
 public:
  Drafter() = default;
  Drafter(const Drafter&) = delete;
  Drafter& operator=(const Drafter&) = delete;
  virtual ~Drafter() = default;

  // The text goes on with `id`: called for each token of the prompt, then of the output, in order.
  virtual void append(std::int32_t id) = 0;

  // Writes the tokens that may follow the text so far to the front of `out` and returns how many, 0..out.size().
  // Ids must lie in the model's vocabulary. `out` holds 0 to Generator::kMostDrafted tokens.
  [[nodiscard]] virtual std::size_t propose(std::span<std::int32_t> out) = 0;

  // A pass over `tokens` tokens (1 and what was proposed) took so many seconds, with the choice of its tokens.
  virtual void measured(std::size_t tokens, double seconds) = 0;
};

}  // namespace bitnet
