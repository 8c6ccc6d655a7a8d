// All loops over the vocabulary are plain loops over arrays that the compiler vectorises; only the few rows that pass a
// whole block's test are looked at one by one. Nothing is allocated per token.
#include "runtime/model/head_screen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "runtime/base/math.h"
#include "runtime/kernels/kernel_abi.h"

namespace bitnet {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kRounding = 0x1p-24;  // u
// Largest |x| of a state with scores: with these, and the bounds of screened_head.cc on the rows, no product of scales
// is subnormal. Sums of products stay below kLargestLogit.
constexpr float kSmallestState = 0x1p-40F;
constexpr float kLargestState = 0x1p60F;
constexpr double kLargestLogit = 0x1p120;

constexpr std::size_t kLargestHeap = 1024;  // above, nth_element over all scores is cheaper
constexpr std::int64_t kBlock = 64;         // rows

// The smallest float >= value.
float rounded_up(double value) {
  const auto nearest = static_cast<float>(value);
  return static_cast<double>(nearest) >= value ? nearest : std::nextafter(nearest, kInfinity);
}

// Counting is what compilers vectorise where a maximum or an early exit is not.
bool any_above(const float* values, std::int64_t count, float bound) {
  int above = 0;
  for (std::int64_t i = 0; i < count; ++i) above += values[i] > bound ? 1 : 0;
  return above != 0;
}

}  // namespace

HeadScreen::HeadScreen(const HeadMatrix& matrix, ThreadPool& pool) : matrix_(matrix), pool_(&pool) {}

Result<HeadScreen> HeadScreen::create(const HeadMatrix& matrix, ThreadPool& pool) {
  HeadScreen screen(matrix, pool);
  const auto take = [&](auto*& pointer, std::int64_t count) -> Status {
    using T = std::remove_reference_t<decltype(*pointer)>;
    BITNET_ASSIGN_OR_RETURN(Buffer buffer, Buffer::allocate(static_cast<std::size_t>(count) * sizeof(T)));
    pointer = buffer.as<T>();
    screen.buffers_.push_back(std::move(buffer));
    return {};
  };
  const std::int64_t vocab = matrix.rows.vocab;
  BITNET_RETURN_IF_ERROR(take(screen.packed_, kTokens * BITNET_SCREEN_WIDTH(matrix.rows.hidden)));
  BITNET_RETURN_IF_ERROR(take(screen.x_scales_, kTokens));
  BITNET_RETURN_IF_ERROR(take(screen.scores_, kTokens * vocab));
  BITNET_RETURN_IF_ERROR(take(screen.ids_, vocab));
  BITNET_RETURN_IF_ERROR(take(screen.unscored_, vocab));
  BITNET_RETURN_IF_ERROR(take(screen.values_, 2 * vocab));
  BITNET_RETURN_IF_ERROR(take(screen.saved_, vocab));
  BITNET_RETURN_IF_ERROR(take(screen.known_, vocab));
  screen.states_.resize(kTokens);
  screen.heaps_.resize(static_cast<std::size_t>(pool.size()) * kLargestHeap);
  screen.counts_.resize(static_cast<std::size_t>(pool.size()));
  return screen;
}

// x ~ q * scale, |q| <= 32767, and the factors of the rows' bounds.
void HeadScreen::quantize(std::int64_t token, std::int64_t tokens) {
  State& state = states_[static_cast<std::size_t>(token)];
  const std::int64_t k = matrix_.rows.hidden;
  float top = 0.0F;
  float poison = 0.0F;  // x * 0 is 0 for finite x and NaN otherwise
  for (std::int64_t i = 0; i < k; ++i) {
    top = std::max(top, std::fabs(state.x[i]));
    poison += state.x[i] * 0.0F;
  }
  state.usable = poison == 0.0F && top <= kLargestState && (top >= kSmallestState || top == 0.0F);
  // Without scores the kernel still gets numbers: zeros.
  const float scale = state.usable && top > 0.0F ? top / 32767.0F : 0.0F;
  const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
  x_scales_[token] = scale;
  double squares = 0.0;
  double errors = 0.0;
  const std::int64_t width = BITNET_SCREEN_WIDTH(k);
  for (std::int64_t line = 0; line < width; line += 64) {
    std::int16_t* q = packed_ + line * tokens + token * 64;
    for (std::int64_t i = 0; i < 64; ++i) {
      const float x = line + i < k && state.usable ? state.x[line + i] : 0.0F;
      const float nearest = x * inverse + (x < 0.0F ? -0.5F : 0.5F);
      q[i] = static_cast<std::int16_t>(std::clamp(nearest, -32767.0F, 32767.0F));
      const double wide = x;
      const double error = wide - static_cast<double>(q[i]) * static_cast<double>(scale);
      squares += wide * wide;
      errors += error * error;
    }
  }
  // In double, so that 1e-9 covers k roundings; what underflows there is below 2^-500.
  const double length = std::sqrt(squares) * (1.0 + 1e-9);
  const double error = std::sqrt(errors) * (1.0 + 1e-9);
  const double exact_kernel = (static_cast<double>(k) / 16 + 6) * kRounding;
  // 4u of the score, 2u of score +- bound in floats; 8u for the bound's own arithmetic.
  const double own = 1.0 + 8 * kRounding;
  state.at_error = rounded_up(length * (1.0 + exact_kernel) * own);
  state.at_norm = rounded_up((error + (exact_kernel + 6 * kRounding) * (length + error)) * own);
  state.constant = rounded_up(static_cast<double>(k) * 0x1p-140);
  state.usable = state.usable && exact_kernel < 0.01 && static_cast<double>(largest_norm_) * length < kLargestLogit;
}

void HeadScreen::screen(const float* x, std::int64_t tokens) {
  const ScreenedRows& rows = matrix_.rows;
  if (largest_norm_ < 0.0F) {
    largest_norm_ = 0.0F;
    // An infinite one makes every state unusable; NaN cannot be.
    for (std::int64_t r = 0; r < rows.vocab; ++r) {
      largest_norm_ = std::max(largest_norm_, rows.errors[r] + rows.norms[r]);
    }
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    states_[static_cast<std::size_t>(t)].x = x + t * rows.hidden;
    quantize(t, tokens);
  }
  pool_->parallel_for(rows.vocab, kBlock, [&](std::int64_t begin, std::int64_t end, int) {
    matrix_.screen(bitnet_head_screen_args{.weights = rows.rows,
                                           .x = packed_,
                                           .row_scales = rows.scales,
                                           .x_scales = x_scales_,
                                           .y = scores_,
                                           .row_begin = begin,
                                           .row_end = end,
                                           .tokens = tokens,
                                           .y_stride = rows.vocab,
                                           .k = rows.hidden});
  });
}

std::span<const float> HeadScreen::scores(std::int64_t token) const {
  return {scores_ + token * matrix_.rows.vocab, static_cast<std::size_t>(matrix_.rows.vocab)};
}

// logits[id] = the exact kernel's.
void HeadScreen::score_rows(const State& state, std::span<const std::int32_t> ids, float* logits) {
  const auto many = static_cast<std::int64_t>(ids.size());
  pool_->parallel_for(many, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = ids[static_cast<std::size_t>(i)];
      matrix_.exact(bitnet_head_args{matrix_.weights, state.x, logits, row, row + 1, matrix_.rows.hidden});
    }
  });
  rescored_ += many;
  if (matrix_.file_rows != nullptr) matrix_.file_rows->touched(many);
}

// Rows of the `many` largest scores that are not -infinity, in any order; how many there are.
std::size_t HeadScreen::largest_scores(const float* scores, std::size_t many, std::int32_t* ids) {
  const std::int64_t vocab = matrix_.rows.vocab;
  if (many > kLargestHeap) {
    std::int32_t* end = ids;
    for (std::int64_t r = 0; r < vocab; ++r) {
      if (scores[r] > -kInfinity) *end++ = static_cast<std::int32_t>(r);
    }
    const auto found = static_cast<std::size_t>(end - ids);
    if (found <= many) return found;
    std::nth_element(ids, ids + many, end, [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
    return many;
  }
  const auto above = [](const Scored& a, const Scored& b) { return a.score > b.score; };
  std::fill(counts_.begin(), counts_.end(), 0);
  pool_->parallel_for(vocab, kBlock, [&](std::int64_t begin, std::int64_t end, int thread) {
    Scored* heap = heaps_.data() + static_cast<std::size_t>(thread) * kLargestHeap;  // the smallest is in front
    std::size_t count = 0;
    float least = -kInfinity;  // that a row has to exceed
    for (std::int64_t first = begin; first < end; first += kBlock) {
      const std::int64_t last = std::min(first + kBlock, end);
      if (!any_above(scores + first, last - first, least)) continue;
      for (std::int64_t r = first; r < last; ++r) {
        if (scores[r] <= least) continue;
        if (count == many) std::pop_heap(heap, heap + count--, above);
        heap[count++] = {scores[r], static_cast<std::int32_t>(r)};
        std::push_heap(heap, heap + count, above);
        if (count == many) least = heap[0].score;
      }
    }
    counts_[static_cast<std::size_t>(thread)] = count;
  });
  std::size_t found = counts_[0];
  for (std::size_t thread = 1; thread < counts_.size(); ++thread) {
    std::copy_n(heaps_.data() + thread * kLargestHeap, counts_[thread], heaps_.data() + found);
    found += counts_[thread];
  }
  if (found > many) {
    const auto begin = heaps_.begin();
    std::nth_element(begin, begin + static_cast<std::ptrdiff_t>(many), begin + static_cast<std::ptrdiff_t>(found),
                     above);
    found = many;
  }
  for (std::size_t i = 0; i < found; ++i) ids[i] = heaps_[i].id;
  return found;
}

// Rows whose upper bound reaches the threshold, ascending; how many there are.
std::size_t HeadScreen::survivors(const State& state, const float* scores, float threshold, std::int32_t* ids) {
  const ScreenedRows& rows = matrix_.rows;
  const float at_error = state.at_error;
  const float at_norm = state.at_norm;
  const float constant = state.constant;
  const auto reaches = [&](std::int64_t r) {
    return !(scores[r] + (at_error * rows.errors[r] + (at_norm * rows.norms[r] + constant)) < threshold);
  };
  std::fill(counts_.begin(), counts_.end(), 0);
  // Each thread writes where its rows begin.
  pool_->parallel_for(rows.vocab, kBlock, [&](std::int64_t begin, std::int64_t end, int thread) {
    std::int32_t* next = ids + begin;
    for (std::int64_t first = begin; first < end; first += kBlock) {
      const std::int64_t last = std::min(first + kBlock, end);
      int reached = 0;
      for (std::int64_t r = first; r < last; ++r) reached += reaches(r) ? 1 : 0;
      if (reached == 0) continue;
      for (std::int64_t r = first; r < last; ++r) {
        if (reaches(r)) *next++ = static_cast<std::int32_t>(r);
      }
    }
    counts_[static_cast<std::size_t>(thread)] = static_cast<std::size_t>(next - (ids + begin));
  });
  // The parts of parallel_for, closed up.
  std::size_t found = counts_[0];
  const std::int64_t units = ceil_div(rows.vocab, kBlock);
  for (std::size_t thread = 1; thread < counts_.size(); ++thread) {
    const std::int64_t begin = units * static_cast<std::int64_t>(thread) / pool_->size() * kBlock;
    if (counts_[thread] == 0) continue;
    std::memmove(ids + found, ids + begin, counts_[thread] * sizeof(std::int32_t));
    found += counts_[thread];
  }
  return found;
}

Logits HeadScreen::select(std::int64_t token, const Selection& selection, float* logits) {
  const State& state = states_[static_cast<std::size_t>(token)];
  float* const scores = scores_ + token * matrix_.rows.vocab;
  const auto top = static_cast<std::size_t>(selection.top);
  rescored_ = 0;

  // Adjusted rows are out of the race for the largest scores.
  const std::span<const std::int32_t> adjusted = selection.adjusted;
  score_rows(state, adjusted, logits);
  for (std::size_t i = 0; i < adjusted.size(); ++i) {
    const auto id = static_cast<std::size_t>(adjusted[i]);
    saved_[i] = scores[id];
    scores[id] = -kInfinity;
    const float value = selection.adjust(selection.self, adjusted[i], logits[id]);
    values_[i] = std::isnan(value) ? -kInfinity : value;
    known_[id] = 1;
  }
  const std::size_t chosen = largest_scores(scores, top, ids_);
  score_rows(state, {ids_, chosen}, logits);
  std::size_t count = adjusted.size();
  for (std::size_t i = 0; i < chosen; ++i) {
    values_[count++] = logits[ids_[i]];
    known_[ids_[i]] = 1;
    unscored_[i] = ids_[i];  // remembered, to forget below
  }
  float* const limit = values_ + (top - 1);
  std::nth_element(values_, limit, values_ + count, std::greater<>());
  const float threshold = *limit;

  // Adjusted rows are always in the result.
  for (const std::int32_t id : adjusted) scores[id] = kInfinity;
  const std::size_t found = survivors(state, scores, threshold, ids_);
  for (std::size_t i = adjusted.size(); i-- > 0;) scores[adjusted[i]] = saved_[i];

  std::size_t rest = chosen;
  for (std::size_t i = 0; i < found; ++i) {
    if (known_[ids_[i]] == 0) unscored_[rest++] = ids_[i];
  }
  score_rows(state, {unscored_ + chosen, rest - chosen}, logits);
  for (std::size_t i = 0; i < chosen; ++i) known_[unscored_[i]] = 0;
  for (const std::int32_t id : adjusted) known_[id] = 0;
  for (std::size_t i = 0; i < found; ++i) values_[i] = logits[ids_[i]];
  return {{values_, found}, {ids_, found}};
}

}  // namespace bitnet
