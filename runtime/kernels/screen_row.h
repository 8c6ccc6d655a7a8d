// Quantises one row of the head to int8 and sums up what the norms of screened_head.h need. Written over the Lanes of
// the built-in kernels, so that each of their units has it in its own instructions, with the same bits everywhere: all
// sums are per lane in ascending order and of fixed length.
//
// Included by builtin_family.h only.
#pragma once

#include "generated/dense_lanes_xsimd.h"
#include "runtime/kernels/builtin.h"

namespace bitnet::builtin {
namespace {

namespace lanes = bitnet_kernels::xsimd_family::dense_detail;

// Blocks of 16 whose sums of squares of int8 stay exact in the floats of a lane: 1024 * 127^2 < 2^24.
constexpr long long kScreenChunk = 1024 * lanes::kLanes;

[[gnu::always_inline]] inline double total(const lanes::Lanes& sums) {
  float parts[lanes::kLanes];
  lanes::store(parts, sums, lanes::Full{});
  double result = 0.0;
  for (const float part : parts) result += static_cast<double>(part);
  return result;
}

template <typename T>
void screen_row(const void* weights, long long k, float smallest, float largest, int8_t* q,
                ScreenedSums* out) noexcept {
  using lanes::Lanes;
  const T* w = static_cast<const T*>(weights);
  Lanes most = lanes::broadcast(0.0F);
  Lanes more = most;
  long long i = 0;
  for (; i + 2 * lanes::kLanes <= k; i += 2 * lanes::kLanes) {
    most = lanes::maximum(most, lanes::magnitude(lanes::load(w + i, lanes::Full{})));
    more = lanes::maximum(more, lanes::magnitude(lanes::load(w + i + lanes::kLanes, lanes::Full{})));
  }
  for (; i + lanes::kLanes <= k; i += lanes::kLanes) {
    most = lanes::maximum(most, lanes::magnitude(lanes::load(w + i, lanes::Full{})));
  }
  if (i < k) more = lanes::maximum(more, lanes::magnitude(lanes::load(w + i, lanes::Tail{k - i})));
  // A NaN may be lost on the way; then the sum of squares below shows it.
  const float top = lanes::top_lane(lanes::maximum(most, more));
  *out = {top, 0.0F, 0.0, 0.0};
  if (!(top >= smallest && top <= largest)) return;

  out->scale = top / 127.0F;
  const Lanes inverse = lanes::broadcast(1.0F / out->scale);
  for (long long first = 0; first < k; first += kScreenChunk) {
    Lanes errors = lanes::broadcast(0.0F);
    Lanes squares = errors;
    const auto add = [&](long long at, auto extent) {
      const Lanes r = lanes::load(w + at, extent) * inverse;
      const lanes::IntLanes rounded = lanes::round_to_int(r);
      const Lanes value = lanes::to_float(rounded);
      const Lanes e = r - value;
      errors = errors + e * e;
      squares = squares + value * value;
      lanes::store_bytes(q + at, rounded, lanes::Full{});  // a tail's zeros fall into the padding
    };
    const long long end = first + kScreenChunk < k ? first + kScreenChunk : k;
    long long at = first;
    for (; at + lanes::kLanes <= end; at += lanes::kLanes) add(at, lanes::Full{});
    if (at < end) add(at, lanes::Tail{end - at});
    out->errors += total(errors);
    out->squares += total(squares);
  }
}

}  // namespace
}  // namespace bitnet::builtin
