// Timing and choice of the probes; the loops themselves are in probe_loops_*.cc.
#include "runtime/probe/probes.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "runtime/base/math.h"
#include "runtime/probe/probe_loops.h"

namespace bitnet::probe {
namespace {

constexpr std::size_t kPage = std::size_t{2} << 20;
// Long enough that a timer and a fork-join (under 1 us) do not matter, short enough to interleave.
constexpr std::int64_t kDotInstructions = 16'000'000;

double seconds_of(ThreadPool& pool, const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  pool.run(work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

const ProbeLoops& probe_loops(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx2:
    case Isa::kAvx2Vnni:  // vpdpbusd on 256 bits starts as often as vpmaddubsw and multiplies as much
      return kProbeLoopsAvx2;
    case Isa::kAvx512:
    case Isa::kAvx512Vbmi:
      return kProbeLoopsAvx512;
    default:
      return kProbeLoopsBaseline;
  }
#else
  switch (isa) {
    case Isa::kNeonDotprod:
      return kProbeLoopsNeonDotprod;
    case Isa::kNeonI8mm:
      return kProbeLoopsNeonI8mm;
    default:
      return kProbeLoopsNeon;
  }
#endif
}

Result<Probes> Probes::create(Isa isa, std::size_t bytes) {
  if (!probe_isa(isa)) {
    return Error{ErrorCode::kUsage, "probe: this CPU does not execute target '" + std::string(to_string(isa)) +
                                        "'; choose one of bitnet-codegen list-targets"};
  }
  Probes probes;
  probes.loops_ = &probe_loops(isa);
  BITNET_ASSIGN_OR_RETURN(probes.buffer_, Buffer::allocate(round_up(bytes, kPage)));
  // Touched, so that reads meet memory and not the one shared zero page.
  std::memset(probes.buffer_.data(), 0x55, probes.buffer_.size());
  for (const int streams : kReadStreams) {
    for (const int prefetch : kReadPrefetch) probes.variants_.push_back({streams, prefetch});
  }
  return probes;
}

double Probes::read_gbps(ThreadPool& pool, std::size_t variant) const {
  const ReadVariant v = variants_[variant];
  const std::size_t pages = buffer_.size() / kPage;
  const std::size_t threads = static_cast<std::size_t>(pool.size());
  std::atomic<std::uint64_t> sink{0};
  const double seconds = seconds_of(pool, [&](int thread) {
    const std::size_t t = static_cast<std::size_t>(thread);
    const std::size_t begin = pages * t / threads * kPage;
    const std::size_t end = pages * (t + 1) / threads * kPage;
    sink += loops_->read(buffer_.as<std::uint8_t>(begin), end - begin, v.streams, v.prefetch);
  });
  return static_cast<double>(buffer_.size()) / seconds * 1e-9;
}

double Probes::dot_gops(ThreadPool& pool, std::size_t variant) const {
  const int accumulators = kDotAccumulators[variant];
  const std::int64_t rounds = kDotInstructions / accumulators;
  std::atomic<std::uint64_t> sink{0};
  const double seconds = seconds_of(pool, [&](int) { sink += loops_->dot(rounds, accumulators); });
  return static_cast<double>(rounds * accumulators * pool.size()) * loops_->ops_per_dot / seconds * 1e-9;
}

std::string Probes::name(const ReadVariant& variant) {
  return std::to_string(variant.streams) + (variant.streams == 1 ? " stream" : " streams") + ", prefetch " +
         std::to_string(variant.prefetch);
}

double median(std::vector<double> samples) {
  std::ranges::sort(samples);
  const std::size_t half = samples.size() / 2;
  return samples.size() % 2 != 0 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
}

double percentile(std::vector<double> samples, double fraction) {
  std::ranges::sort(samples);
  const double rank = fraction * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(rank);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (samples[above] - samples[below]) * (rank - static_cast<double>(below));
}

std::size_t ProbeSamples::best() const {
  std::size_t best = 0;
  for (std::size_t v = 1; v < samples_.size(); ++v) {
    if (median(samples_[v]) > median(samples_[best])) best = v;
  }
  return best;
}

}  // namespace bitnet::probe
