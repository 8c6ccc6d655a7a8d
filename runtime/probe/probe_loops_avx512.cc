// Probe loops for AVX-512 with VNNI (runtime/probe/probes.h).
#include <immintrin.h>

#include <utility>

#include "runtime/probe/probe_loops.h"

namespace bitnet::probe {
namespace {

template <int Prefetch>
inline void read_line(const std::uint8_t* line, __m512i& seen) {
  if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line + Prefetch), _MM_HINT_T1);
  seen |= _mm512_load_si512(line);
}

// Index packs instead of loops: g++ keeps an array in registers only where every index is a constant from the start.
template <int Prefetch, std::size_t... S>
std::uint64_t read(std::index_sequence<S...>, const std::uint8_t* data, std::size_t bytes) {
  const std::size_t part = bytes / sizeof...(S);
  __m512i seen[sizeof...(S)];
  ((seen[S] = _mm512_setzero_si512()), ...);
  for (std::size_t i = 0; i < part; i += 64) (read_line<Prefetch>(data + S * part + i, seen[S]), ...);
  const __m512i all = (seen[S] | ...);
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
inline void dot_step(__m512i& sum, __m512i factor) { __asm__("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(factor)); }

template <int... I>
std::uint64_t dot(std::integer_sequence<int, I...>, std::int64_t rounds) {
  __m512i sum[sizeof...(I)];
  ((sum[I] = _mm512_set1_epi16(I)), ...);
  const __m512i factor = _mm512_set1_epi16(0x0101);
  for (std::int64_t r = 0; r < rounds; ++r) (dot_step(sum[I], factor), ...);
  const __m512i all = (sum[I] | ...);
  return static_cast<std::uint64_t>(all[0]);
}

std::uint64_t dot_any(std::int64_t rounds, int accumulators) {
  if (accumulators == 8) return dot(std::make_integer_sequence<int, 8>(), rounds);
  if (accumulators == 12) return dot(std::make_integer_sequence<int, 12>(), rounds);
  return dot(std::make_integer_sequence<int, 14>(), rounds);
}

}  // namespace

const ProbeLoops kProbeLoopsAvx512 = {read_any, dot_any, 128.0, "vpdpbusd 512"};

}  // namespace bitnet::probe
