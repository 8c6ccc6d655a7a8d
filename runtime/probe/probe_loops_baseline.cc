// Probe loops for any x86-64 CPU (SSE2) (runtime/probe/probes.h).
#include <immintrin.h>

#include <utility>

#include "runtime/probe/probe_loops.h"

namespace bitnet::probe {
namespace {

template <int Prefetch>
inline void read_line(const std::uint8_t* line, __m128i& seen) {
  if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line + Prefetch), _MM_HINT_T1);
  const __m128i* q = reinterpret_cast<const __m128i*>(line);
  seen |= (_mm_load_si128(q) | _mm_load_si128(q + 1)) | (_mm_load_si128(q + 2) | _mm_load_si128(q + 3));
}

// Index packs instead of loops: g++ keeps an array in registers only where every index is a constant from the start.
template <int Prefetch, std::size_t... S>
std::uint64_t read(std::index_sequence<S...>, const std::uint8_t* data, std::size_t bytes) {
  const std::size_t part = bytes / sizeof...(S);
  __m128i seen[sizeof...(S)];
  ((seen[S] = _mm_setzero_si128()), ...);
  for (std::size_t i = 0; i < part; i += 64) (read_line<Prefetch>(data + S * part + i, seen[S]), ...);
  const __m128i all = (seen[S] | ...);
  return static_cast<std::uint64_t>(all[0]);
}

template <std::size_t Streams>
std::uint64_t read_streams(const std::uint8_t* data, std::size_t bytes, int prefetch) {
  if (prefetch == 0) return read<0>(std::make_index_sequence<Streams>(), data, bytes);
  if (prefetch == 1024) return read<1024>(std::make_index_sequence<Streams>(), data, bytes);
  return read<2048>(std::make_index_sequence<Streams>(), data, bytes);
}

std::uint64_t read_any(const std::uint8_t* data, std::size_t bytes, int streams, int prefetch) {
  if (streams == 1) return read_streams<1>(data, bytes, prefetch);
  if (streams == 2) return read_streams<2>(data, bytes, prefetch);
  if (streams == 4) return read_streams<4>(data, bytes, prefetch);
  return read_streams<8>(data, bytes, prefetch);
}

// In assembly, because g++ spills the chains otherwise.
inline void dot_step(__m128i& sum, __m128i factor) { __asm__("pmaddwd %1, %0" : "+x"(sum) : "x"(factor)); }

template <int... I>
std::uint64_t dot(std::integer_sequence<int, I...>, std::int64_t rounds) {
  __m128i sum[sizeof...(I)];
  ((sum[I] = _mm_set1_epi16(I)), ...);
  const __m128i factor = _mm_set1_epi16(0x0101);
  for (std::int64_t r = 0; r < rounds; ++r) (dot_step(sum[I], factor), ...);
  const __m128i all = (sum[I] | ...);
  return static_cast<std::uint64_t>(all[0]);
}

std::uint64_t dot_any(std::int64_t rounds, int accumulators) {
  if (accumulators == 8) return dot(std::make_integer_sequence<int, 8>(), rounds);
  if (accumulators == 12) return dot(std::make_integer_sequence<int, 12>(), rounds);
  return dot(std::make_integer_sequence<int, 14>(), rounds);
}

}  // namespace

const ProbeLoops kProbeLoopsBaseline = {read_any, dot_any, 16.0, "pmaddwd 128"};

}  // namespace bitnet::probe
