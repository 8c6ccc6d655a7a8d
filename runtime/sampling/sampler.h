// Sampler: the next token from the logits of one position.
//
//   penalties -> (temperature 0: arg max, lowest id on a tie) -> temperature -> top-k -> top-p -> min-p -> draw
//
// Penalties, for every token that accept() has seen n > 0 times: the logit is divided by the repetition penalty if it
// is positive and multiplied by it otherwise; then n * frequency and presence are subtracted. Among equal logits the
// lower id comes first everywhere. The draw takes one number u from SplitMix64(seed), one a token: the first candidate
// whose running sum of weights exceeds u * total. All sums are in double and in a fixed order, so that the same seed
// and the same logits give the same tokens, whatever the thread count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/model.h"
#include "runtime/sampling/random.h"

namespace bitnet {

struct SamplingParams {
  float temperature = 0.7F;  // >= 0; 0 takes the arg max
  std::int32_t top_k = 50;   // keep the k largest; 0 keeps all
  float top_p = 0.9F;        // [0, 1]: keep the fewest whose probabilities sum to p, at least one; 1 keeps all
  float min_p = 0.0F;        // [0, 1]: keep those with at least this part of the largest probability; 0 keeps all
  float repetition_penalty = 1.0F;  // > 0; 1 is none
  float frequency_penalty = 0.0F;
  float presence_penalty = 0.0F;
  std::uint64_t seed = 0;
};

// Not thread-safe; one Sampler for each stream. sample(), accept() and reset() allocate nothing.
class Sampler {
 public:
  struct Candidate {
    std::int32_t id = 0;
    float logit = 0.0F;        // with penalties, without temperature
    double probability = 0.0;  // among the candidates
  };

  // vocab: the number of logits, 1 to 2^31-1. kUsage names the parameter that is out of range.
  [[nodiscard]] static Result<Sampler> create(const SamplingParams& params, std::int64_t vocab);

  // Error (kFailure): another number of logits than vocab, or a logit that is not finite (the message names the first).
  // The token is not accepted by itself.
  [[nodiscard]] Result<std::int32_t> sample(std::span<const float> logits) { return sample(Logits{logits, {}}); }
  // The same token, candidates and random numbers from fewer logits: those that Context::logits found for selection().
  // Error (kFailure) also: ids that are not ascending within the vocabulary, or fewer than the sampling needs.
  [[nodiscard]] Result<std::int32_t> sample(const Logits& logits);

  // What the next sample() can choose, for Context::logits. Refers to this sampler: use it before the next accept().
  [[nodiscard]] Selection selection() const;

  // Counts a token of the text so far for the penalties. kUsage if it is outside [0, vocab).
  [[nodiscard]] Status accept(std::int32_t id);

  // Forgets the accepted tokens and starts the random numbers again.
  void reset();

  // What the last successful sample() chose from, by falling logit where top-k or top-p sorted, by id otherwise; one
  // entry at temperature 0.
  [[nodiscard]] std::span<const Candidate> candidates() const { return {candidates_.data(), kept_}; }

 private:
  Sampler(const SamplingParams& params, std::size_t vocab);
  [[nodiscard]] std::int64_t needed() const;  // of the largest logits; 0: all
  [[nodiscard]] float penalized(std::int32_t id, float logit) const;
  [[nodiscard]] std::int32_t id_of(std::size_t index) const {
    return ids_.empty() ? static_cast<std::int32_t>(index) : ids_[index];
  }
  [[nodiscard]] Status check(const Logits& logits) const;
  [[nodiscard]] Status load(const Logits& logits);
  [[nodiscard]] std::size_t select_largest(std::size_t k);
  [[nodiscard]] double weigh(std::size_t count);
  void keep_top_p(double total);
  void keep_min_p();

  SamplingParams params_;
  SplitMix64 random_;
  std::vector<float> logits_;  // [vocab], with penalties; the first count_ are in use
  std::size_t count_ = 0;
  std::span<const std::int32_t> ids_;  // whose logits_ are, while sample() runs; empty: token i's is logits_[i]
  std::vector<Candidate> candidates_;  // [vocab]; the first kept_ are in use
  std::size_t kept_ = 0;
  bool sorted_ = false;                 // candidates_[0, kept_) by falling logit
  std::vector<std::uint32_t> counts_;   // [vocab], of accepted tokens
  std::vector<std::int32_t> accepted_;  // distinct accepted tokens, capacity vocab
};

}  // namespace bitnet
