// Graph: the forward pass over one batch of tokens and every buffer that it needs, allocated once. Internal to
// runtime/model.
//
// A pass is one parallel region: every thread walks through all steps of all layers, does its share of each and meets
// the others where data crosses threads. Products split rows. What is done to each token's row as a whole (norms, gate,
// quantisation) splits tokens, if there are several; of a single token every thread computes all of it, into buffers of
// its own, which takes about as long as another meeting would. Every float is computed by the same kernel from the same
// inputs in each case, so the split never shows in the result.
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kernels/kernel_abi.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/model_state.h"
#include "runtime/model/rope.h"

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

// Which thread of how many does a step's share.
struct Share {
  int thread = 0;
  int threads = 1;
  // Contiguous parts of [0, count) with borders at multiples of `granule`: calls fn(begin, end) if this one's is not
  // empty.
  template <typename Fn>
  void of(std::int64_t count, std::int64_t granule, Fn&& fn) const {
    const std::int64_t units = (count + granule - 1) / granule;
    const std::int64_t begin = units * thread / threads * granule;
    const std::int64_t limit = units * (thread + 1) / threads * granule;
    const std::int64_t end = limit < count ? limit : count;
    if (begin < end) fn(begin, end);
  }
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
  std::int64_t y_width = 0;  // floats of a row of `y`: q|k|v or gate|up or any other product, in whole tiles
  std::int64_t widest = 0;   // of hidden, q_width and ffn

  // Buffers; [t] counts the tokens of a pass.
  float* x = nullptr;         // [t][hidden] residual stream
  float* y = nullptr;         // [t][y_width] output of qkv, or of gate and up
  float* attended = nullptr;  // [t][q_width] output of attention
  float* added = nullptr;     // [t][hidden] output of attention or ffn, where it is not added to x at once
  float* result = nullptr;    // [t][hidden] after output_norm
  float* logits = nullptr;    // [kLogitRows][vocab]
  // Quantised inputs of the next product. A single token's are each thread's own: thread 0 has them here, the others
  // in `own`.
  struct Quantized {
    std::array<std::int8_t*, 3> q{};  // [t][BITNET_ACTIVATION_WIDTH(width)], zero-padded, by Width
    float* scales = nullptr;          // [t]
    // Sums of q: [t, rounded up to the token tile]; with K-groups [groups][sums_stride], of a single token [groups].
    std::int32_t* sums = nullptr;
  };
  Quantized q8;
  std::vector<Quantized> own;     // of thread i + 1, one token each
  std::int64_t sums_stride = 0;   // tokens
  std::int8_t* packed = nullptr;  // q8 of a pass, packed for the GEMM
  // Inputs of dense products: rows [t][k] of all tokens; a single token's is each thread's own.
  float* dense_inputs = nullptr;          // [t][widest]; null: no dense products, or no passes of several tokens
  std::vector<const float*> dense_input;  // [threads], [k]
  std::int32_t* acc = nullptr;            // [y_width] integer products of a single token
  // Angles of the layers that see everything, and of those with a window where theirs differ.
  struct Angles {
    RopeTable table;
    float* cosines = nullptr;  // [context][rope_dim / 2]
    float* sines = nullptr;    // the same shape
  };
  std::array<Angles, 2> rope_angles;
  std::int64_t angles = 0;     // positions whose cosines and sines are filled
  std::int64_t rows_read = 0;  // of the embedding, since its file pages were given back
  KvCache cache;
  std::vector<std::byte*> scratch;  // one block per thread, 64-byte aligned
  std::vector<float*> gated;        // [ffn] per thread: act(gate) * up of the token in work
  std::vector<float*> normed;       // [widest] per thread: the token in work between two steps
  // Per thread: y_width unused elements, so that a row's number may be subtracted from the address of what follows, the
  // integer products of several tokens, or of one token and several K-groups, [tokens of a call][groups][rows of a
  // call]. Empty without both.
  std::vector<std::int32_t*> acc_blocks;
  std::vector<Buffer> buffers;        // owner of all of these
  std::vector<StepUse> uses;          // by Step
  bool profile = false;               // take times
  std::int64_t pass_nanoseconds = 0;  // of evaluations, kernels and all else; only with a profile

  static constexpr std::int64_t kLogitRows = 8;
  // How a product of several tokens, or with K-groups, is cut into calls.
  struct Calls {
    std::int64_t tokens;     // of a call, whole token tiles
    std::int64_t rows;       // of a call, whole row tiles
    std::int64_t most_sums;  // integer products of a call, whatever the number of tokens
  };
  [[nodiscard]] static Calls calls_of(const Kernel& kernel, std::int64_t groups, std::int64_t tokens);

  enum Width : std::uint8_t { kHidden, kAttention, kFfn };

  Graph(Model::State& state, std::int64_t positions, std::int64_t batch_tokens, KvType type)
      : model(state), config(state.config), pool(*state.pool), context(positions), batch(batch_tokens), kv_type(type) {}
  Status allocate();
  Status make_angles();  // the tables of rope_angles

  // forward.cc: the page. Leaves the residual stream of the last layer in x.
  [[nodiscard]] Status forward(std::span<const std::int32_t> ids);
  void run_layer(std::int64_t index, int thread);
  // Logits of tokens [first, first + count), count <= kLogitRows, into `logits`.
  void head(std::int64_t first, std::int64_t count);

  // steps.cc
  void embed(std::span<const std::int32_t> ids);
  void give_back_rows();  // once for each row of the embedding that is read
  // y = q|k|v: norms of heads, rotates q, k; rounds q; k, v -> cache
  void rope_and_store(std::int64_t index, const LayerWeights& layer, const Share& share);
  void attend(std::int64_t layer, const Share& share);        // q in y, cache -> attended
  void output_norm(std::int64_t first, std::int64_t count);   // x -> result
  void scale_result(std::int64_t first, std::int64_t count);  // for the head: result * logit_scale
  // One row of `k` floats; y may be x.
  void norm_row(const NormWeights& norm, const float* x, float* y, std::int64_t k, int thread);

  // products.cc
  // The input of the product `role`: x, attended, or act(gate) * up of y = gate|up; normed, where the model norms it,
  // and quantised into q8 and, with several tokens, packed; or as floats where the product is dense. Meets the others
  // at the end if several threads' shares are needed.
  void make_input(FusedMatrix::Role role, const LayerWeights& layer, const Share& share);
  enum class Output : std::uint8_t { kStore, kAddToResidual };
  // y (or x +=) = products of the input with the layer's weights; store: y [t][y_width]. With a post norm the result
  // stays in `added`, for add_normed_block() after a meeting.
  void product(FusedMatrix::Role role, const LayerWeights& layer, Output output, const Share& share);
  void add_normed_block(const NormWeights& norm, const Share& share);  // x += norm(added)
  [[nodiscard]] const float* input_row(Width width, std::int64_t t, int thread);
  void quantize_row(const ProductWeights& product, const NormWeights& norm, Width width, std::int64_t t, int thread);
  void pack_inputs(const ProductWeights& product, const NormWeights& norm, Width width, const Share& share);
  struct Target;
  void count_norms(const ProductWeights& product, const NormWeights& norm, Width width);
  void ternary_product(const ProductWeights& product, Width input, const Target& target, const Share& share);
  void dense_product(const ProductWeights& product, const Target& target, const Share& share);
  void finish_rows(const ProductWeights& product, const Target& target, std::int64_t t, std::int64_t begin,
                   std::int64_t end);

  [[nodiscard]] const ChosenKernel& chosen(Step step) const { return model.kernels[step]; }
  [[nodiscard]] Step attention_step() const {
    if (kv_type == KvType::kF32) return Step::kAttentionF32;
    return kv_type == KvType::kF16 ? Step::kAttention : Step::kAttentionI8;
  }
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
  [[nodiscard]] const Quantized& quantized_by(int thread) const {
    return thread == 0 ? q8 : own[static_cast<std::size_t>(thread - 1)];
  }
  // Whether the threads that store keys and values of a single token are those that attend to them.
  [[nodiscard]] bool same_heads() const { return tokens == 1 && config.kv_heads % pool.size() == 0; }
  [[nodiscard]] const Angles& angles_of(std::int64_t layer) const {
    return rope_angles[config.windowed(layer) && config.has_window_rope() ? 1 : 0];
  }
  [[nodiscard]] std::int64_t window_of(std::int64_t layer) const { return config.windowed(layer) ? config.window : 0; }
  [[nodiscard]] float attention_scale() const {
    return config.attention_scale != 0.0F ? config.attention_scale
                                          : 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  }
  [[nodiscard]] std::int64_t width_of(Width width) const {
    return width == kHidden ? config.hidden : width == kAttention ? q_width : config.ffn;
  }
};

}  // namespace bitnet
