// Graph: the forward pass over one batch of tokens and every buffer that it needs, allocated once. Internal to
// runtime/model.
//
// Each member function below is one step for all tokens of the batch. With one token a step splits rows over the
// threads, with several it splits tokens (row-wise operations) or rows (products): every float is computed by the same
// kernel from the same inputs in each case, so the split never shows in the result.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kernels/kernel_abi.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/model_state.h"

namespace bitnet {

class NodeDump;

// What the kernel calls of one step did so far.
struct StepUse {
  std::uint64_t calls = 0;       // of the step, however many threads shared it
  std::uint64_t bytes = 0;       // weights, keys and values that had to be read, by all threads
  std::uint64_t operations = 0;  // of ternary products, by all threads
  std::int64_t nanoseconds = 0;  // of thread 0 inside the kernel; only with a profile
};

// Adds the time of its life to `nanoseconds`, if there is one. With nullptr it does not even read the clock.
class Stopwatch {
 public:
  explicit Stopwatch(std::int64_t* nanoseconds) : nanoseconds_(nanoseconds) {
    if (nanoseconds_ != nullptr) start_ = std::chrono::steady_clock::now();
  }
  ~Stopwatch() {
    if (nanoseconds_ == nullptr) return;
    const auto passed = std::chrono::steady_clock::now() - start_;
    *nanoseconds_ += std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::int64_t* nanoseconds_;
  std::chrono::steady_clock::time_point start_;
};

struct Graph {
  Model::State& model;
  const ModelConfig& config;
  ThreadPool& pool;
  std::int64_t context = 0;  // positions in the cache
  std::int64_t batch = 0;    // most tokens in a pass
  KvType kv_type = KvType::kF16;
  std::int64_t past = 0;     // positions already in the cache
  std::int64_t tokens = 0;   // in this pass; their positions are past .. past + tokens - 1
  NodeDump* dump = nullptr;  // null: no dump

  std::int64_t q_width = 0;  // heads * head_dim
  std::int64_t y_width = 0;  // floats of a row of `y`: the widest product, in whole tiles

  // Buffers; [t] counts the tokens of a pass.
  float* x = nullptr;                // [t][hidden] residual stream
  float* y = nullptr;                // [t][y_width] output of qkv, or of gate and up
  float* attended = nullptr;         // [t][q_width] output of attention
  float* result = nullptr;           // [t][hidden] after output_norm
  float* logits = nullptr;           // [kLogitRows][vocab]
  std::array<std::int8_t*, 3> q8{};  // [t][BITNET_ACTIVATION_WIDTH(width)], zero-padded, by Width
  float* s8 = nullptr;               // [t] activation scales
  std::int32_t* sum8 = nullptr;      // [t, rounded up to the token tile] sums of q8
  std::int8_t* packed = nullptr;     // q8 of a pass, packed for the GEMM
  std::int32_t* acc = nullptr;       // [kGemmTokens or 1][y_width] integer products
  float* cosines = nullptr;          // [context][rope_dim / 2]
  float* sines = nullptr;            // the same shape
  std::int64_t angles = 0;           // positions whose cosines and sines are filled
  std::int64_t rows_read = 0;        // of the embedding, since its file pages were given back
  KvCache cache;
  std::vector<std::byte*> scratch;  // one block per thread, 64-byte aligned
  std::vector<Buffer> buffers;      // owner of all of these
  std::array<StepUse, kStepCount> uses{};
  bool profile = false;               // take times
  std::int64_t pass_nanoseconds = 0;  // of evaluations, kernels and all else; only with a profile

  static constexpr std::int64_t kLogitRows = 8;
  // Tokens per GEMM call: enough to hide the decoding of weights, few enough that their activations stay in L2.
  static constexpr std::int64_t kGemmTokens = 128;

  enum Width : std::uint8_t { kHidden, kAttention, kFfn };

  Graph(Model::State& state, std::int64_t positions, std::int64_t batch_tokens, KvType type)
      : model(state), config(state.config), pool(*state.pool), context(positions), batch(batch_tokens), kv_type(type) {}
  Status allocate();

  // forward.cc: the page. Leaves the residual stream of the last layer in x.
  [[nodiscard]] Status forward(std::span<const std::int32_t> ids);
  // Logits of tokens [first, first + count), count <= kLogitRows, into `logits`.
  void head(std::int64_t first, std::int64_t count);

  // steps.cc
  void embed(std::span<const std::int32_t> ids);
  void give_back_rows();  // once for each row of the embedding that is read
  void norm_quantize(Width width, const float* in, const float* gain);  // [t][width] -> q8[width], s8, sum8
  enum class Output : std::uint8_t { kStore, kAddToResidual };
  // y (or x +=) = products of q8 with the layer's weights; store: y [t][y_width].
  void product(FusedMatrix::Role role, const LayerWeights& layer, Output output);
  void rope_and_store(std::int64_t layer);  // y = q|k|v: rotates q, k; rounds q to float16; k, v -> cache
  void attend(std::int64_t layer);          // q in y, cache -> attended
  void gate();                              // y = gate|up -> y = act(gate) * up, [t][y_width]
  void output_norm(std::int64_t first, std::int64_t count);  // x -> result

  [[nodiscard]] const ChosenKernel& chosen(Step step) const { return model.kernels[step]; }
  [[nodiscard]] Step attention_step() const { return kv_type == KvType::kF16 ? Step::kAttention : Step::kAttentionI8; }
  void count(Step step, std::int64_t calls, std::int64_t bytes = 0, std::int64_t operations = 0) {
    StepUse& use = uses[static_cast<std::size_t>(step)];
    use.calls += static_cast<std::uint64_t>(calls);
    use.bytes += static_cast<std::uint64_t>(bytes);
    use.operations += static_cast<std::uint64_t>(operations);
  }
  // Where thread `thread` adds the time that it spends in a step's kernel: a Stopwatch around one call, or around
  // several short ones.
  [[nodiscard]] std::int64_t* clock_of(Step step, int thread) {
    return profile && thread == 0 ? &uses[static_cast<std::size_t>(step)].nanoseconds : nullptr;
  }
  [[nodiscard]] std::int64_t width_of(Width width) const {
    return width == kHidden ? config.hidden : width == kAttention ? q_width : config.ffn;
  }
};

}  // namespace bitnet
