// The tuner's clock: compiles variants, compares them with the scalar reference, and times them between probe passes.
//
// Weights: one arena of random bytes, larger than any cache and in 2 MiB pages, serves all shapes and layouts (kernels
// take the same time for all bytes). A cursor walks over it from sample to sample, so that every sample finds its
// weights in memory, as decoding does. A sample is many matrices (gemv, small batches: 16 MB at least), or as many rows
// of one as make 2 ms (gemm). Probe passes stand before and behind every few milliseconds of samples.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "codegen/tune.h"

namespace bitnet::codegen {

struct KernelTuneBenchOptions {
  int threads = 1;                               // of trials with all threads
  int jobs = 0;                                  // compilations at once; 0: one per CPU
  std::size_t arena_bytes = 0;                   // 0: four times the largest cache, 256 MB at least
  std::map<std::string, std::string> overrides;  // of CompileOptions: planted defects in tests
};

class KernelTuneBench final : public TuneBench {
 public:
  // Takes no memory and starts no threads yet: the first round does, so a process may be forked before.
  [[nodiscard]] static Result<std::unique_ptr<KernelTuneBench>> create(const KernelTuneBenchOptions& options);
  ~KernelTuneBench() override;

  // kUsage if this CPU does not execute a variant's target; errors of compile().
  [[nodiscard]] Status prepare(const std::vector<KernelSpec>& variants) override;
  [[nodiscard]] Status check(std::size_t variant) override;
  // Errors: kMemory, those of ThreadPool; kFailure in another process than that of the first round.
  [[nodiscard]] Result<std::vector<double>> round(std::span<const Trial> trials) override;

  // What the probes read so far, medians: "avx512 (1 thread): read 33.1 GB/s, dot 466 GOPS; ...".
  [[nodiscard]] std::string probes() const;

 private:
  struct State;
  explicit KernelTuneBench(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace bitnet::codegen
