// Probe loops for AArch64 with dot products (runtime/probe/probes.h).
#include <arm_neon.h>

#include <utility>

#include "runtime/probe/probe_loops.h"

namespace bitnet::probe {
namespace {

// In assembly, so that nothing is folded away or spilt.
inline void dot_step(int32x4_t& sum, int8x16_t factor) {
  __asm__("sdot %0.4s, %1.16b, %1.16b" : "+w"(sum) : "w"(factor));
}

template <int... I>
std::uint64_t dot(std::integer_sequence<int, I...>, std::int64_t rounds) {
  int32x4_t sum[sizeof...(I)];
  ((sum[I] = vdupq_n_s32(I)), ...);
  const int8x16_t factor = vdupq_n_s8(1);
  for (std::int64_t r = 0; r < rounds; ++r) (dot_step(sum[I], factor), ...);
  int32x4_t all = vdupq_n_s32(0);
  ((all = vorrq_s32(all, sum[I])), ...);
  return vgetq_lane_u64(vreinterpretq_u64_s32(all), 0);
}

std::uint64_t dot_any(std::int64_t rounds, int accumulators) {
  if (accumulators == 8) return dot(std::make_integer_sequence<int, 8>(), rounds);
  if (accumulators == 12) return dot(std::make_integer_sequence<int, 12>(), rounds);
  return dot(std::make_integer_sequence<int, 14>(), rounds);
}

}  // namespace

const ProbeLoops kProbeLoopsNeonDotprod = {read_neon, dot_any, 32.0, "sdot 128"};

}  // namespace bitnet::probe
