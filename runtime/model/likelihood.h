// The likelihood of a token sequence under a model, teacher-forced: how well the model foretells each token when all
// the tokens before it are the true ones. The measure of a model's quality, and of what a conversion did to it.
//
// A sequence longer than the context is covered by overlapping windows. Every window is a fresh context (positions from
// 0) that begins at sequence index b, is fed the tokens [b, b + C) and foretells [b + 1, b + C], C = context size; the
// next one begins `stride` tokens later and counts only what no window has counted before. So every token but the first
// counts exactly once, and beyond the first window always with at least C - stride + 1 tokens before it: a small stride
// measures a model with a long memory, stride = C is the fastest. Models that were trained with a begin token in front
// are poor without it, so each window can have it in the place of its first token.
//
//   window 0   [b = 0 ............ C)
//   window 1           [b = S ............ S + C)      counts what lies right of window 0
//   window 2                   [b = 2 S ............ 2 S + C)
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/base/result.h"
#include "runtime/model/model.h"

namespace bitnet {

struct LikelihoodOptions {
  std::int64_t stride = 0;          // tokens between the beginnings of windows, 1..context size
  bool begin_every_window = false;  // ids[0] is a begin token: it stands in the place of each window's first token
  // Receives the logits of every counted token, [vocab] float32, in the order of the sequence; valid in the call.
  std::function<Status(std::span<const float> logits)> logits;
  // Called after every 512 evaluated tokens at most, with how many tokens have been counted and how many will be. An
  // error from here or from `logits` ends the work and is returned; so it also serves to interrupt.
  std::function<Status(std::int64_t counted, std::int64_t total)> progress;
};

struct Likelihood {
  double total_nll = 0.0;      // nats, the sum over the counted tokens
  double mean_nll = 0.0;       // nats per token
  double std_nll = 0.0;        // nats, population standard deviation over the counted tokens
  std::int64_t tokens = 0;     // counted: those of the sequence less one
  std::int64_t evaluated = 0;  // fed to the model, those that only give context included
  std::int64_t windows = 0;
  [[nodiscard]] double perplexity() const;  // exp(mean_nll); infinity beyond a double
};

// -log(softmax(logits)[target]) in nats. Everything from the float32 logits on is in double, summed in order.
// Preconditions: logits finite, 0 <= target < logits.size().
[[nodiscard]] double negative_log_likelihood(std::span<const float> logits, std::int32_t target);

// Scores `ids`, which include the begin token if there is to be one, with windows of the size of `context`, a context
// of `model` that is emptied first. Logits are never kept: memory does not grow with the sequence. The result does not
// depend on the number of threads, nor on the context's batch.
// Errors: kUsage for fewer than two ids, an id outside [0, vocab) or a stride out of range; those of Context::eval_all;
// those of the callbacks. After an error the context holds a part of a window.
[[nodiscard]] Result<Likelihood> sequence_likelihood(const Model& model, Context& context,
                                                     std::span<const std::int32_t> ids,
                                                     const LikelihoodOptions& options);

}  // namespace bitnet
