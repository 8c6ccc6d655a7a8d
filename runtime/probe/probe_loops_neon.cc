// Probe loops for any AArch64 CPU (runtime/probe/probes.h). Reading needs no more than this on CPUs with dot products:
// their loops (probe_loops_neon_dotprod.cc, probe_loops_neon_i8mm.cc) take read_neon from here.
#include <arm_neon.h>

#include <utility>

#include "runtime/probe/probe_loops.h"

namespace bitnet::probe {
namespace {

template <int Prefetch>
inline void read_line(const std::uint8_t* line, uint8x16_t& seen) {
  if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
  const uint8x16_t low = vorrq_u8(vld1q_u8(line), vld1q_u8(line + 16));
  const uint8x16_t high = vorrq_u8(vld1q_u8(line + 32), vld1q_u8(line + 48));
  seen = vorrq_u8(seen, vorrq_u8(low, high));
}

// Index packs instead of loops: g++ keeps an array in registers only where every index is a constant from the start.
template <int Prefetch, std::size_t... S>
std::uint64_t read(std::index_sequence<S...>, const std::uint8_t* data, std::size_t bytes) {
  const std::size_t part = bytes / sizeof...(S);
  uint8x16_t seen[sizeof...(S)];
  ((seen[S] = vdupq_n_u8(0)), ...);
  for (std::size_t i = 0; i < part; i += 64) (read_line<Prefetch>(data + S * part + i, seen[S]), ...);
  uint8x16_t all = vdupq_n_u8(0);
  ((all = vorrq_u8(all, seen[S])), ...);
  return vgetq_lane_u64(vreinterpretq_u64_u8(all), 0);
}

template <std::size_t Streams>
std::uint64_t read_streams(const std::uint8_t* data, std::size_t bytes, int prefetch) {
  if (prefetch == 0) return read<0>(std::make_index_sequence<Streams>(), data, bytes);
  if (prefetch == 1024) return read<1024>(std::make_index_sequence<Streams>(), data, bytes);
  return read<2048>(std::make_index_sequence<Streams>(), data, bytes);
}

// In assembly, so that nothing is folded away or spilt.
inline void dot_step(int16x8_t& sum, int8x8_t factor) {
  __asm__("smlal %0.8h, %1.8b, %1.8b" : "+w"(sum) : "w"(factor));
}

template <int... I>
std::uint64_t dot(std::integer_sequence<int, I...>, std::int64_t rounds) {
  int16x8_t sum[sizeof...(I)];
  ((sum[I] = vdupq_n_s16(I)), ...);
  const int8x8_t factor = vdup_n_s8(1);
  for (std::int64_t r = 0; r < rounds; ++r) (dot_step(sum[I], factor), ...);
  int16x8_t all = vdupq_n_s16(0);
  ((all = vorrq_s16(all, sum[I])), ...);
  return vgetq_lane_u64(vreinterpretq_u64_s16(all), 0);
}

std::uint64_t dot_any(std::int64_t rounds, int accumulators) {
  if (accumulators == 8) return dot(std::make_integer_sequence<int, 8>(), rounds);
  if (accumulators == 12) return dot(std::make_integer_sequence<int, 12>(), rounds);
  return dot(std::make_integer_sequence<int, 14>(), rounds);
}

}  // namespace

std::uint64_t read_neon(const std::uint8_t* data, std::size_t bytes, int streams, int prefetch) {
  if (streams == 1) return read_streams<1>(data, bytes, prefetch);
  if (streams == 2) return read_streams<2>(data, bytes, prefetch);
  if (streams == 4) return read_streams<4>(data, bytes, prefetch);
  return read_streams<8>(data, bytes, prefetch);
}

const ProbeLoops kProbeLoopsNeon = {read_neon, dot_any, 16.0, "smlal 128"};

}  // namespace bitnet::probe
