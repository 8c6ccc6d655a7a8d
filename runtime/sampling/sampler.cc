// Selection instead of sorting: top-k keeps a heap of k while it walks over the logits, top-p over a whole vocabulary
// sorts ever larger blocks until their probabilities reach p. At 128256 logits and the default k = 50 the cost is one
// pass for the check, one for the heap, and 50 exponentials.
#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace bitnet {
namespace {

constexpr std::size_t kLargestHeap = 1024;    // above, nth_element over all is cheaper
constexpr std::size_t kFirstSortBlock = 256;  // of top-p without top-k

bool before(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

Error out_of_range(const char* name, double value, const char* expected) {
  return {ErrorCode::kUsage, std::string(name) + " is " + std::to_string(value) + "; expected " + expected};
}

}  // namespace

Result<Sampler> Sampler::create(const SamplingParams& p, std::int64_t vocab) {
  const auto in_unit = [](float x) { return x >= 0.0F && x <= 1.0F; };
  if (vocab < 1 || vocab > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kUsage, "vocabulary size is " + std::to_string(vocab) + "; expected 1 to 2147483647"};
  }
  if (!std::isfinite(p.temperature) || p.temperature < 0.0F) {
    return out_of_range("temperature", p.temperature, "a finite number >= 0 (0 takes the most probable token)");
  }
  if (p.top_k < 0) return out_of_range("top-k", p.top_k, "0 (all tokens) or more");
  if (!in_unit(p.top_p)) return out_of_range("top-p", p.top_p, "0 to 1");
  if (!in_unit(p.min_p)) return out_of_range("min-p", p.min_p, "0 to 1");
  if (!std::isfinite(p.repetition_penalty) || p.repetition_penalty <= 0.0F) {
    return out_of_range("repetition penalty", p.repetition_penalty, "a finite number > 0 (1 is none)");
  }
  if (!std::isfinite(p.frequency_penalty)) {
    return out_of_range("frequency penalty", p.frequency_penalty, "a finite number");
  }
  if (!std::isfinite(p.presence_penalty)) {
    return out_of_range("presence penalty", p.presence_penalty, "a finite number");
  }
  return Sampler(p, static_cast<std::size_t>(vocab));
}

Sampler::Sampler(const SamplingParams& params, std::size_t vocab)
    : params_(params), random_(params.seed), logits_(vocab), candidates_(vocab), counts_(vocab) {
  accepted_.reserve(vocab);
}

Status Sampler::accept(std::int32_t id) {
  if (id < 0 || static_cast<std::size_t>(id) >= counts_.size()) {
    return Error{ErrorCode::kUsage,
                 "token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(counts_.size())};
  }
  if (counts_[static_cast<std::size_t>(id)]++ == 0) accepted_.push_back(id);
  return {};
}

void Sampler::reset() {
  for (const std::int32_t id : accepted_) counts_[static_cast<std::size_t>(id)] = 0;
  accepted_.clear();
  random_ = SplitMix64(params_.seed);
  kept_ = 0;
}

std::int64_t Sampler::needed() const {
  if (params_.temperature == 0.0F) return 1;
  return static_cast<std::size_t>(params_.top_k) < logits_.size() ? params_.top_k : 0;
}

float Sampler::penalized(std::int32_t id, float logit) const {
  const float x = logit > 0.0F ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
  const auto count = static_cast<float>(counts_[static_cast<std::size_t>(id)]);
  return x - (count * params_.frequency_penalty + params_.presence_penalty);
}

Selection Sampler::selection() const {
  Selection selection;
  selection.top = needed();
  if (params_.repetition_penalty == 1.0F && params_.frequency_penalty == 0.0F && params_.presence_penalty == 0.0F) {
    return selection;
  }
  selection.adjusted = accepted_;
  selection.adjust = [](const void* self, std::int32_t id, float logit) {
    return static_cast<const Sampler*>(self)->penalized(id, logit);
  };
  selection.self = this;
  return selection;
}

Status Sampler::check(const Logits& logits) const {
  const std::size_t vocab = logits_.size();
  if (logits.ids.empty()) {
    if (logits.values.size() == vocab) return {};
    return Error{ErrorCode::kFailure,
                 "found " + std::to_string(logits.values.size()) + " logits; expected " + std::to_string(vocab)};
  }
  const std::size_t least = needed() == 0 ? vocab : static_cast<std::size_t>(needed());
  if (logits.ids.size() != logits.values.size() || logits.ids.size() < least) {
    return Error{ErrorCode::kFailure,
                 "found " + std::to_string(logits.values.size()) + " logits of " + std::to_string(logits.ids.size()) +
                     " tokens; expected as many of each, and " + std::to_string(least) + " at least"};
  }
  std::int32_t previous = -1;
  for (const std::int32_t id : logits.ids) {
    if (id <= previous || static_cast<std::size_t>(id) >= vocab) {
      return Error{ErrorCode::kFailure, "found the logit of token " + std::to_string(id) + " behind that of token " +
                                            std::to_string(previous) + "; expected ascending ids below " +
                                            std::to_string(vocab)};
    }
    previous = id;
  }
  return {};
}

// Copies the logits, applies the penalties and checks that all are finite.
Status Sampler::load(const Logits& logits) {
  BITNET_RETURN_IF_ERROR(check(logits));
  const std::span<const float> values = logits.values;
  ids_ = logits.ids;
  count_ = values.size();
  float poison = 0.0F;  // x * 0 is 0 for finite x and NaN otherwise
  for (std::size_t i = 0; i < count_; ++i) {
    logits_[i] = values[i];
    poison += values[i] * 0.0F;
  }
  for (const std::int32_t id : accepted_) {
    auto i = static_cast<std::size_t>(id);
    if (!ids_.empty()) {
      // Without penalties tokens may be missing here; with them selection() asked for all.
      const auto found = std::lower_bound(ids_.begin(), ids_.end(), id);
      if (found == ids_.end() || *found != id) continue;
      i = static_cast<std::size_t>(found - ids_.begin());
    }
    logits_[i] = penalized(id, logits_[i]);
    poison += logits_[i] * 0.0F;
  }
  if (std::isnan(poison)) {
    for (std::size_t i = 0; i < count_; ++i) {
      if (std::isfinite(values[i]) && std::isfinite(logits_[i])) continue;
      return Error{ErrorCode::kFailure,
                   "the logit of token " + std::to_string(id_of(i)) + " is " + std::to_string(logits_[i]) +
                       (std::isfinite(values[i]) ? " after penalties" : "") + "; expected a finite number"};
    }
  }
  return {};
}

// The k largest logits (0 < k <= count_) into candidates_[0, k), sorted.
std::size_t Sampler::select_largest(std::size_t k) {
  const auto first = candidates_.begin();
  const auto limit = first + static_cast<std::ptrdiff_t>(k);
  const auto candidate = [&](std::size_t i) { return Candidate{id_of(i), logits_[i], 0.0}; };
  if (k > kLargestHeap) {
    for (std::size_t i = 0; i < count_; ++i) candidates_[i] = candidate(i);
    std::nth_element(first, limit, first + static_cast<std::ptrdiff_t>(count_), before);
    std::sort(first, limit, before);
    return k;
  }
  for (std::size_t i = 0; i < k; ++i) candidates_[i] = candidate(i);
  std::make_heap(first, limit, before);  // the last in order is at the front
  for (std::size_t i = k; i < count_; ++i) {
    if (logits_[i] <= first->logit) continue;  // of equal logits the lower id stays
    std::pop_heap(first, limit, before);
    *(limit - 1) = candidate(i);
    std::push_heap(first, limit, before);
  }
  std::sort_heap(first, limit, before);
  return k;
}

// probability = exp((logit - max) / temperature), not normalised; returns the sum over candidates_[0, count).
double Sampler::weigh(std::size_t count) {
  float largest = candidates_[0].logit;
  for (std::size_t i = 1; i < count; ++i) largest = std::max(largest, candidates_[i].logit);
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    const double distance = static_cast<double>(candidates_[i].logit) - static_cast<double>(largest);
    candidates_[i].probability = std::exp(distance / static_cast<double>(params_.temperature));
    total += candidates_[i].probability;
  }
  return total;
}

void Sampler::keep_top_p(double total) {
  const double wanted = static_cast<double>(params_.top_p) * total;
  std::size_t ready = sorted_ ? kept_ : 0;  // candidates_[0, ready) are in order
  std::size_t block = kFirstSortBlock;
  double sum = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) {
    if (i == ready) {
      const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(ready);
      const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept_);
      ready = std::min(ready + block, kept_);
      const auto limit = candidates_.begin() + static_cast<std::ptrdiff_t>(ready);
      if (limit != end) std::nth_element(begin, limit, end, before);
      std::sort(begin, limit, before);
      block *= 4;
    }
    sum += candidates_[i].probability;
    if (sum >= wanted) {
      kept_ = i + 1;
      break;
    }
  }
  sorted_ = true;
}

// The largest weight is exp(0) = 1, so that min_p itself is the bound.
void Sampler::keep_min_p() {
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept_);
  const auto bound = static_cast<double>(params_.min_p);
  std::size_t kept = 0;
  for (auto it = candidates_.begin(); it != end; ++it) {
    if (it->probability >= bound) candidates_[kept++] = *it;
  }
  kept_ = kept;
}

Result<std::int32_t> Sampler::sample(const Logits& logits) {
  kept_ = 0;
  BITNET_RETURN_IF_ERROR(load(logits));
  if (params_.temperature == 0.0F) {
    const auto largest = std::max_element(
        logits_.begin(), logits_.begin() + static_cast<std::ptrdiff_t>(count_));  // the first of equals
    candidates_[0] = {id_of(static_cast<std::size_t>(largest - logits_.begin())), *largest, 1.0};
    kept_ = 1;
    return candidates_[0].id;
  }
  const auto k = static_cast<std::size_t>(params_.top_k);
  sorted_ = k > 0 && k < logits_.size();
  if (sorted_) {
    kept_ = select_largest(k);
  } else {
    kept_ = logits_.size();
    for (std::size_t i = 0; i < kept_; ++i) candidates_[i] = {static_cast<std::int32_t>(i), logits_[i], 0.0};
  }
  const double total = weigh(kept_);
  if (params_.top_p < 1.0F) keep_top_p(total);
  if (params_.min_p > 0.0F) keep_min_p();

  double sum = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) sum += candidates_[i].probability;
  const double target = random_.next_unit() * sum;
  std::size_t drawn = 0;
  double running = candidates_[0].probability;
  while (running <= target && drawn + 1 < kept_) running += candidates_[++drawn].probability;
  for (std::size_t i = 0; i < kept_; ++i) candidates_[i].probability /= sum;
  return candidates_[drawn].id;
}

}  // namespace bitnet
