// Fills a model's WeightStore, and its head: from the bundle where it has what the chosen kernels need, else from the
// model file, all threads at once, the file's pages given back as they are read. Internal to runtime/model.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "runtime/model/model_state.h"

namespace bitnet {

// Tells of long loads only: from 2 s after its making on, ten times a second at most.
class LoadProgress {
 public:
  using Sink = std::function<void(std::uint64_t done, std::uint64_t total)>;
  explicit LoadProgress(const Sink& sink) : sink_(sink) {}

  void expect(std::uint64_t bytes) { total_ += bytes; }
  void add(std::uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  const Sink& sink_;
  Clock::time_point next_ = Clock::now() + std::chrono::seconds(2);
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  bool shown_ = false;
};

// state.layers from the tensors: shapes, norms, biases and scales; the weights themselves are still missing. kMemory.
[[nodiscard]] Status make_layers(Model::State& state);

// make_layers(), and their weights: ternary ones in the layouts of state.kernels, dense ones; then the head: its rows
// (state.head), and its int8 rows (state.screened) unless options.head is kExact. kVerification: packed weights of the
// bundle that are damaged in size or another model's. kStrict: codes 3 with options.strict. kMemory.
[[nodiscard]] Status load_weights(Model::State& state, const ModelOptions& options, LoadProgress& progress);

}  // namespace bitnet
