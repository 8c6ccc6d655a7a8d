// Windows over a sequence. The tokens of a window that only give context are evaluated without their logits: the head
// is the widest product of a small model, and with a stride of half a context half of its work would be thrown away.
#include "runtime/model/likelihood.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace bitnet {
namespace {

// Progress and interrupts come after this many tokens. A token's result does not depend on the pass it came in.
constexpr std::size_t kPiece = 512;

Error usage(const std::string& what) { return Error{ErrorCode::kUsage, what}; }

// Mean and squared deviations by Welford's recurrence: one pass, and no cancellation.
class Statistics {
 public:
  void add(double value) {
    ++count_;
    total_ += value;
    const double delta = value - mean_;
    mean_ += delta / static_cast<double>(count_);
    squares_ += delta * (value - mean_);
  }
  [[nodiscard]] Likelihood result() const {
    Likelihood likelihood;
    likelihood.total_nll = total_;
    likelihood.tokens = count_;
    likelihood.mean_nll = total_ / static_cast<double>(count_);
    likelihood.std_nll = std::sqrt(squares_ / static_cast<double>(count_));
    return likelihood;
  }
  [[nodiscard]] std::int64_t count() const { return count_; }

 private:
  std::int64_t count_ = 0;
  double total_ = 0.0;
  double mean_ = 0.0;
  double squares_ = 0.0;
};

Status check(const Model& model, const Context& context, std::span<const std::int32_t> ids, std::int64_t stride) {
  if (ids.size() < 2) {
    return usage("a sequence of " + std::to_string(ids.size()) +
                 " tokens has none to foretell; give at least two (a begin token counts as one)");
  }
  if (stride < 1 || stride > context.size()) {
    return usage("stride: expected 1.." + std::to_string(context.size()) + " tokens (the context size), found " +
                 std::to_string(stride));
  }
  const std::int64_t vocab = model.config().vocab;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return usage("token id " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
                 " is outside the vocabulary, expected 0.." + std::to_string(vocab - 1));
  }
  return {};
}

}  // namespace

double Likelihood::perplexity() const { return std::exp(mean_nll); }

double negative_log_likelihood(std::span<const float> logits, std::int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + (largest - static_cast<double>(logits[static_cast<std::size_t>(target)]));
}

Result<Likelihood> sequence_likelihood(const Model& model, Context& context, std::span<const std::int32_t> ids,
                                       const LikelihoodOptions& options) {
  BITNET_RETURN_IF_ERROR(check(model, context, ids, options.stride));
  const std::size_t predictions = ids.size() - 1;  // the token at index i is foretold from index i - 1
  const auto window = static_cast<std::size_t>(context.size());
  Statistics statistics;
  std::int64_t evaluated = 0;
  std::int64_t windows = 0;

  // Invariant: the predictions from the indices [0, counted) have been counted.
  std::size_t counted = 0;
  std::vector<std::int32_t> fed(ids.begin(), ids.end());  // ids, but for the first token of the window at hand
  for (std::size_t begin = 0; counted < predictions; begin += static_cast<std::size_t>(options.stride)) {
    const std::size_t end = std::min(begin + window, predictions);
    context.truncate(0);
    ++windows;
    if (options.begin_every_window) fed[begin] = ids[0];
    for (std::size_t at = begin; at < end;) {
      const std::size_t limit = std::min(at + kPiece, at < counted ? counted : end);
      const std::span<const std::int32_t> piece = std::span(fed).subspan(at, limit - at);
      if (at < counted) {
        BITNET_RETURN_IF_ERROR(context.eval(piece));
      } else {
        const auto count = [&](std::int64_t position, std::span<const float> logits) -> Status {
          const std::size_t index = begin + static_cast<std::size_t>(position);
          statistics.add(negative_log_likelihood(logits, ids[index + 1]));
          return options.logits ? options.logits(logits) : Status{};
        };
        BITNET_RETURN_IF_ERROR(context.eval_all(piece, count));
      }
      evaluated += static_cast<std::int64_t>(piece.size());
      at = limit;
      if (options.progress) {
        BITNET_RETURN_IF_ERROR(options.progress(statistics.count(), static_cast<std::int64_t>(predictions)));
      }
    }
    counted = end;
    fed[begin] = ids[begin];
  }
  Likelihood likelihood = statistics.result();
  likelihood.evaluated = evaluated;
  likelihood.windows = windows;
  return likelihood;
}

}  // namespace bitnet
