// Model: a GGUF made ready to run, of ternary weights or dense: configuration, packed weights, kernels (a bundle's or
// the built-in ones) and one thread pool. Context: one sequence on it, with its key/value cache.
//
//   auto model = Model::load("x.gguf", {});
//   auto context = Context::create(**model, {});
//   auto logits = (*context)->eval(tokens);   // [vocab], of the last token
//
// A Model may be used by many contexts from many threads (evaluations take turns on its pool); a Context by one at a
// time. Contexts must not outlive their model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/config.h"
#include "runtime/model/kernel_set.h"
#include "runtime/model/tensors.h"

namespace bitnet {

class ThreadPool;

enum class LogLevel : std::uint8_t { kInfo, kWarning };
// Receives one line without a newline. Called from the loading thread only.
using LogFn = std::function<void(LogLevel, std::string_view)>;
// Receives how many of the bytes to be packed are done. Called from the loading thread only, when loading takes more
// than 2 s; last with done = total.
using ProgressFn = std::function<void(std::uint64_t done, std::uint64_t total)>;

// How the last step, from a token's state to its logits, is done.
//   kScreened  int8 copies of the rows tell which rows can still be chosen, and these are scored with the original
//              weights: what a Selection can tell apart is that of kExact, bit for bit
//   kExact     every row with the original weights
//   kInt8      every row with its int8 copy only: approximate
enum class HeadMode : std::uint8_t { kScreened, kExact, kInt8 };

struct ModelOptions {
  int threads = 0;              // 0: the CPUs that this process may use
  std::string bundle = "auto";  // a path | "none" | "auto": <model>.<target>.bnk, then <model>.bnk beside the model
  // Refuses (kStrict) what would otherwise only be logged: no bundle or a refused one, a product without a bundle
  // kernel, weights with undefined codes, an assumed tile table.
  bool strict = false;
  HeadMode head = HeadMode::kScreened;
  formats::ReadOptions read = {};  // what the file does not say about its ternary weights
  LogFn log = nullptr;
  ProgressFn progress = nullptr;
};

class Model {
 public:
  // Errors: everything of gguf::File::open, read_config and map_tensors; a refused `bundle` given by path
  // (kVerification); an unknown or not executable BITNET_FORCE_ISA (kUsage); not enough memory (kMemory).
  [[nodiscard]] static Result<std::unique_ptr<Model>> load(const std::string& path, const ModelOptions& options);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] const std::string& path() const;
  [[nodiscard]] const gguf::File& file() const;
  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] const ModelTensors& tensors() const;  // into file()
  [[nodiscard]] const KernelSet& kernels() const;
  // What dense kernels read of a tensor, where it lies or expanded (to float16; to float32 it is twice as much).
  [[nodiscard]] static std::int64_t dense_bytes(const gguf::Tensor& tensor);
  [[nodiscard]] int threads() const;
  [[nodiscard]] std::string_view target() const;       // of the ternary kernels in use, e.g. "avx512"
  [[nodiscard]] std::string_view bundle_path() const;  // "" without a bundle
  [[nodiscard]] std::uint64_t parameters() const;      // elements of all tensors that are used
  // Of the packed products, norms and head in memory, and of dense matrices wherever they are.
  [[nodiscard]] std::uint64_t weight_bytes() const;

  struct State;
  [[nodiscard]] State& state() const { return *state_; }  // for Context

 private:
  Model();
  std::unique_ptr<State> state_;
};

// The directory and file names of a graph dump; see node_dump.h.
class NodeDump;

// Keys and values in the cache: float16; int8 with a scale per head and position, which takes half the memory and is
// approximate; or float32, which takes twice the memory and rounds neither keys, values, queries nor the weights of
// attention. The logits of one are not those of another.
enum class KvType : std::uint8_t { kF16, kI8, kF32 };
[[nodiscard]] std::string_view kv_name(KvType type);  // "f16"
// A row of head_dim keys or values of one head and position.
[[nodiscard]] std::int64_t kv_row_bytes(KvType type, std::int64_t head_dim);

// What a caller will choose from a token's logits, so that the head need not score rows that cannot be chosen.
struct Selection {
  std::int64_t top = 0;  // the `top` largest adjusted logits, of equal ones those with the lower ids; 0: all of them
  // Tokens whose logits the caller changes before it chooses (penalties, biases), distinct, any order; `adjust` gives
  // the changed value. Every other token keeps its logit.
  std::span<const std::int32_t> adjusted;
  float (*adjust)(const void* self, std::int32_t id, float logit) = nullptr;
  const void* self = nullptr;
};

// Logits of one position, not adjusted. Valid until the next call to the context.
struct Logits {
  std::span<const float> values;
  // Empty: values[i] belongs to token i, [vocab]. Else values[i] belongs to token ids[i], ascending: all that the
  // Selection can choose, all that it adjusts, and perhaps more.
  std::span<const std::int32_t> ids;
};

// What the head did in a context so far.
struct HeadUse {
  std::uint64_t exact_positions = 0;     // scored with every original row
  std::uint64_t screened_positions = 0;  // scored by screening
  std::uint64_t int8_positions = 0;      // approximate
  std::uint64_t survivors = 0;           // rows scored again, over all screened positions
};

struct ContextOptions {
  std::int64_t size = 0;     // positions; 0: the model's context length, at most 4096
  std::int64_t batch = 512;  // tokens per pass of the graph, 1..4096; bounds the memory of prefill
  KvType kv_type = KvType::kF16;
  bool profile = false;  // take the time of every kernel call: KernelUse::seconds, profile_seconds()
};

class Context {
 public:
  // kUsage: size < 1 or batch out of range. kMemory: the cache does not fit; the message states its size. kFailure: no
  // kernels for int8 keys and values on the targets in use.
  [[nodiscard]] static Result<std::unique_ptr<Context>> create(Model& model, const ContextOptions& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Positions whose logits can be asked for after advance(): the last ones of its tokens.
  static constexpr std::int64_t kKept = 8;

  // Appends `tokens` to the sequence. Errors, which leave the sequence as it was: no token, a token id outside
  // [0, vocab), more tokens than the context has room for (kFailure, with the numbers).
  [[nodiscard]] Status advance(std::span<const std::int32_t> tokens);
  // The logits at `position`, one of the last kKept of the last advance() that have not been truncated since (else
  // kUsage). Without a selection, or with top = 0, all [vocab]. kFailure: logits that are not finite.
  [[nodiscard]] Result<Logits> logits(std::int64_t position, const Selection& selection = {});

  // advance(), and the logits of the last token, [vocab], valid until the next call. Errors, which leave the sequence
  // as it was: no token, a token id outside [0, vocab), more tokens than the context has room for (kFailure, with the
  // numbers), logits that are not finite.
  [[nodiscard]] Result<std::span<const float>> eval(std::span<const std::int32_t> tokens);

  // The same, with the logits of every token, in order: position in the sequence and [vocab] floats, valid in the call.
  using LogitsSink = std::function<Status(std::int64_t position, std::span<const float> logits)>;
  [[nodiscard]] Status eval_all(std::span<const std::int32_t> tokens, const LogitsSink& sink);

  // The same, and writes the graph's nodes. One pass: at most `batch` tokens. kUsage with int8 keys and values.
  [[nodiscard]] Status eval_dump(std::span<const std::int32_t> tokens, NodeDump& dump, const LogitsSink& sink);

  // advance(), with the state of every token behind the output norm, in order: position and [hidden] floats, valid in
  // the call. No logits are computed.
  using StateSink = std::function<Status(std::int64_t position, std::span<const float> state)>;
  [[nodiscard]] Status eval_states(std::span<const std::int32_t> tokens, const StateSink& sink);

  // The embedding of a text, [hidden]: begins a new sequence of `tokens` and pools their states behind the output norm,
  // kMean: the mean, kLast: that of the last token; with `normalize` divided by its Euclidean length. Errors: those of
  // advance(); kUsage with kNone; kFailure where the result is not finite.
  [[nodiscard]] Result<std::vector<float>> embed(std::span<const std::int32_t> tokens, Pooling pooling, bool normalize);

  [[nodiscard]] std::int64_t position() const;  // tokens in the sequence
  [[nodiscard]] std::int64_t size() const;
  void truncate(std::int64_t position);  // forgets everything from `position` on; no-op beyond the end
  // Of the cache's pages for the whole context; they become resident as the sequence grows.
  [[nodiscard]] std::uint64_t kv_bytes() const;
  // Kernels that really ran in this context, with their call counts: one call per product or row operation, however
  // many threads shared it.
  [[nodiscard]] std::vector<KernelUse> kernel_uses() const;
  // Time in advance(), logits(), eval...(), inside kernels and outside; 0 without ContextOptions::profile.
  [[nodiscard]] double profile_seconds() const;
  [[nodiscard]] HeadUse head_use() const;

 private:
  Context();
  [[nodiscard]] Status run(std::span<const std::int32_t> tokens, const LogitsSink* sink, NodeDump* dump,
                           const StateSink* states = nullptr);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitnet
