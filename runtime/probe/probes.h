// Probes: what this machine can do at the moment of the measurement, as a yardstick for kernels.
//
// A kernel that streams weights is limited by memory, a batched one by the dot-product units. Absolute figures of both
// wander with the host (2-thread bandwidth by a factor of two within minutes), so a bench interleaves single passes of
// the probe's variants with single runs of the kernel and compares medians. The probe is the best of many variants,
// because a weak probe makes a slow kernel look fast.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/result.h"
#include "runtime/base/thread_pool.h"
#include "runtime/kernels/kernel.h"

namespace bitnet::probe {

// Reads `streams` equal contiguous parts of a thread's bytes side by side, prefetching `prefetch` bytes ahead into L2.
struct ReadVariant {
  int streams = 1;
  int prefetch = 0;
};
inline constexpr int kReadStreams[] = {1, 2, 4, 8};
inline constexpr int kReadPrefetch[] = {0, 1024, 2048};
// Independent accumulators of the dot probe.
inline constexpr int kDotAccumulators[] = {8, 12, 14};

// One instruction set's probe loops, each compiled in a file of its own with that set's flags.
struct ProbeLoops {
  // Reads [data, data + bytes), bytes a multiple of 512; returns something that depends on every line.
  std::uint64_t (*read)(const std::uint8_t* data, std::size_t bytes, int streams, int prefetch);
  // `rounds` times `accumulators` dot instructions; returns something that depends on all of them.
  std::uint64_t (*dot)(std::int64_t rounds, int accumulators);
  double ops_per_dot;  // multiplications and additions of one instruction
  const char* dot_instruction;
};
// The target must be executable on this CPU before its loops are called.
[[nodiscard]] const ProbeLoops& probe_loops(Isa isa);

class Probes {
 public:
  // Loops of `isa` over `bytes` of memory in 2 MiB pages (rounded up to 2 MiB; at least 512 MB for figures that are to
  // be reported). Errors: kUsage if this CPU does not execute the target, kMemory.
  [[nodiscard]] static Result<Probes> create(Isa isa, std::size_t bytes = std::size_t{512} << 20);

  [[nodiscard]] std::span<const ReadVariant> read_variants() const { return variants_; }
  [[nodiscard]] std::span<const int> dot_variants() const { return kDotAccumulators; }
  // One pass of one variant over all bytes, the threads side by side: 10^9 bytes per second.
  [[nodiscard]] double read_gbps(ThreadPool& pool, std::size_t variant) const;
  // About 4 ms of dot instructions on every thread: 10^9 operations (a product or a sum each) per second.
  [[nodiscard]] double dot_gops(ThreadPool& pool, std::size_t variant) const;

  [[nodiscard]] static std::string name(const ReadVariant& variant);  // "4 streams, prefetch 1024"
  [[nodiscard]] const char* dot_instruction() const { return loops_->dot_instruction; }

 private:
  Probes() = default;
  const ProbeLoops* loops_ = nullptr;
  Buffer buffer_;
  std::vector<ReadVariant> variants_;
};

// Median of samples (not empty).
[[nodiscard]] double median(std::vector<double> samples);
// The value below which `fraction` (0..1) of samples (not empty) lie, between two of them by their distance: rank
// fraction * (count - 1), as numpy's default has it. 0 is the smallest, 0.5 the median, 1 the largest.
[[nodiscard]] double percentile(std::vector<double> samples, double fraction);

// Samples of one probe's variants, taken round by round.
class ProbeSamples {
 public:
  explicit ProbeSamples(std::size_t variants) : samples_(variants) {}
  void add(std::size_t variant, double value) { samples_[variant].push_back(value); }
  // The variant with the highest median: what the machine can do.
  [[nodiscard]] std::size_t best() const;
  [[nodiscard]] const std::vector<double>& samples(std::size_t variant) const { return samples_[variant]; }

 private:
  std::vector<std::vector<double>> samples_;
};

}  // namespace bitnet::probe
