// Context: the buffers of one sequence, and evaluation in passes of at most `batch` tokens.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/graph.h"
#include "runtime/model/node_dump.h"

namespace bitnet {
namespace {

constexpr std::int64_t kDefaultContext = 4096;
constexpr std::int64_t kMaxBatch = 4096;

Error usage(const std::string& what) { return Error{ErrorCode::kUsage, what}; }

Status check_finite(std::int64_t position, std::span<const float> logits) {
  for (const float value : logits) {
    if (!std::isfinite(value)) {
      return Error{ErrorCode::kFailure, "the logits at position " + std::to_string(position) +
                                            " are not finite: the model's weights or norms are damaged, or its "
                                            "activations overflow float32"};
    }
  }
  return {};
}

}  // namespace

struct Context::State {
  Graph graph;
  std::int64_t last_pass = 0;  // tokens whose states the graph still holds, 0 after an error
  std::int64_t pass_end = 0;   // position behind them
  HeadUse head;
  State(Model::State& model, std::int64_t positions, std::int64_t batch, KvType type)
      : graph(model, positions, batch, type) {}
};

Status Graph::allocate() {
  const auto take = [&](auto*& pointer, std::int64_t count_of) -> Status {
    using T = std::remove_reference_t<decltype(*pointer)>;
    BITNET_ASSIGN_OR_RETURN(Buffer buffer, Buffer::allocate(static_cast<std::size_t>(count_of) * sizeof(T)));
    pointer = buffer.as<T>();
    buffers.push_back(std::move(buffer));
    return {};
  };
  q_width = config.heads * config.head_dim;
  for (const ProductShape& shape : model.products) y_width = std::max(y_width, shape.n);
  y_width = round_up<std::int64_t>(y_width, BITNET_TILE_ROWS);

  std::int64_t token_tile = 1;
  std::size_t scratch_bytes =
      sizeof(float) * static_cast<std::size_t>(std::max<std::int64_t>(
                          {config.hidden, q_width, config.ffn,
                           BITNET_ATTENTION_SCRATCH(config.heads / config.kv_heads, config.head_dim)}));
  for (const ChosenKernel& chosen : model.kernels.all().first(kProductSteps)) {
    token_tile = std::max<std::int64_t>(token_tile, chosen.kernel.token_tile);
    scratch_bytes = std::max(scratch_bytes, chosen.kernel.scratch_bytes);
  }
  const std::int64_t rows = round_up<std::int64_t>(batch + token_tile, 64);
  const std::int64_t gemm_rows = std::min(std::max(kGemmTokens, token_tile), round_up(batch, token_tile));

  std::int64_t widest = 0;
  for (const Width width : {kHidden, kAttention, kFfn}) {
    const std::int64_t padded = BITNET_ACTIVATION_WIDTH(width_of(width));
    widest = std::max(widest, padded);
    BITNET_RETURN_IF_ERROR(take(q8[width], batch * padded));
  }
  BITNET_RETURN_IF_ERROR(take(x, batch * config.hidden));
  BITNET_RETURN_IF_ERROR(take(y, batch * y_width));
  BITNET_RETURN_IF_ERROR(take(attended, batch * q_width));
  BITNET_RETURN_IF_ERROR(take(result, batch * config.hidden));
  BITNET_RETURN_IF_ERROR(take(logits, kLogitRows * config.vocab));
  BITNET_RETURN_IF_ERROR(take(s8, rows));
  BITNET_RETURN_IF_ERROR(take(sum8, rows));
  BITNET_RETURN_IF_ERROR(take(packed, rows * widest));
  BITNET_RETURN_IF_ERROR(take(acc, gemm_rows * y_width));
  BITNET_RETURN_IF_ERROR(take(cosines, context * config.rope_dim / 2));
  BITNET_RETURN_IF_ERROR(take(sines, context * config.rope_dim / 2));
  BITNET_ASSIGN_OR_RETURN(cache, KvCache::create(kv_type, config.layers, config.kv_heads, config.head_dim, context));
  for (int thread = 0; thread < pool.size(); ++thread) {
    std::byte* block = nullptr;
    BITNET_RETURN_IF_ERROR(take(block, static_cast<std::int64_t>(scratch_bytes)));
    scratch.push_back(block);
  }
  return {};
}

Context::Context() = default;
Context::~Context() = default;

Result<std::unique_ptr<Context>> Context::create(Model& model, const ContextOptions& options) {
  const std::int64_t size = options.size == 0 ? std::min(model.config().context, kDefaultContext) : options.size;
  // The bound keeps positions exact in float32.
  if (size < 1 || size > (std::int64_t{1} << 24)) {
    return usage("context size: expected 1..16777216 positions, found " + std::to_string(size));
  }
  if (options.batch < 1 || options.batch > kMaxBatch) {
    return usage("batch: expected 1.." + std::to_string(kMaxBatch) + " tokens, found " + std::to_string(options.batch));
  }
  std::unique_ptr<Context> context(new Context);
  context->state_ = std::make_unique<State>(model.state(), size, std::min(options.batch, size), options.kv_type);
  const KernelSet& kernels = model.kernels();
  if (options.kv_type == KvType::kI8 &&
      !(kernels[Step::kAttentionI8].exists() && kernels[Step::kQuantizeHeads].exists())) {
    return Error{ErrorCode::kFailure,
                 "int8 keys and values: no kernel i8_attention or i8_quantize on a target that may be used here; use "
                 "float16 ones"};
  }
  context->state_->graph.profile = options.profile;
  BITNET_RETURN_IF_ERROR(context->state_->graph.allocate());
  return context;
}

Status Context::run(std::span<const std::int32_t> tokens, const LogitsSink* sink, NodeDump* dump) {
  Graph& graph = state_->graph;
  const ModelConfig& config = graph.config;
  if (tokens.empty()) return usage("evaluation of no token; give at least one");
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config.vocab) {
      return usage("token id " + std::to_string(token) + " is outside the vocabulary, expected 0.." +
                   std::to_string(config.vocab - 1));
    }
  }
  const auto many = static_cast<std::int64_t>(tokens.size());
  if (many > graph.context - graph.past) {
    return Error{ErrorCode::kFailure, "context overflow: " + std::to_string(graph.past) + " + " + std::to_string(many) +
                                          " tokens exceed the context of " + std::to_string(graph.context) +
                                          " positions; use a larger --ctx-size"};
  }
  if (dump != nullptr && graph.kv_type != KvType::kF16) {
    return usage("a graph dump shows float16 keys and values; leave out --kv-type i8");
  }
  if (dump != nullptr && many > graph.batch) {
    return usage("a graph dump covers one pass of at most " + std::to_string(graph.batch) + " tokens, found " +
                 std::to_string(many));
  }

  const std::lock_guard<std::mutex> turn(graph.model.pool_mutex);
  const Stopwatch watch(graph.profile ? &graph.pass_nanoseconds : nullptr);
  const std::int64_t start = graph.past;
  const bool every = sink != nullptr || dump != nullptr;
  const auto evaluate = [&]() -> Status {
    for (std::int64_t at = 0; at < many; at += graph.batch) {
      const std::int64_t pass = std::min(graph.batch, many - at);
      graph.dump = dump;
      const Status passed = graph.forward(tokens.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(pass)));
      graph.dump = nullptr;
      BITNET_RETURN_IF_ERROR(passed);
      if (dump != nullptr) {
        graph.output_norm(0, pass);
        dump_result_norm(graph, *dump);
      }
      for (std::int64_t t = 0; every && t < pass; t += Graph::kLogitRows) {
        const std::int64_t rows = std::min(Graph::kLogitRows, pass - t);
        graph.head(t, rows);
        for (std::int64_t i = 0; i < rows; ++i) {
          const std::span<const float> row(graph.logits + i * config.vocab, static_cast<std::size_t>(config.vocab));
          BITNET_RETURN_IF_ERROR(check_finite(graph.past + t + i, row));
          if (sink != nullptr) BITNET_RETURN_IF_ERROR((*sink)(graph.past + t + i, row));
        }
        if (dump != nullptr) dump_result_output(graph, *dump, t, rows);
      }
      graph.past += pass;
    }
    return {};
  };
  state_->last_pass = 0;
  Status done = evaluate();
  if (done.ok()) {
    state_->last_pass = graph.tokens;
    state_->pass_end = graph.past;
    state_->head.exact_positions += every ? tokens.size() : 0;
  } else {
    graph.past = start;
  }
  return done;
}

Status Context::advance(std::span<const std::int32_t> tokens) { return run(tokens, nullptr, nullptr); }

Result<Logits> Context::logits(std::int64_t position, const Selection&) {
  Graph& graph = state_->graph;
  // Tokens of the last pass stand at positions [end - tokens, end); truncation only takes from the end.
  const std::int64_t first = state_->pass_end - state_->last_pass;
  const std::int64_t oldest = std::max(first, state_->pass_end - kKept);
  if (state_->last_pass == 0 || position < oldest || position >= graph.past) {
    return usage("logits of position " + std::to_string(position) + ": expected one of the last " +
                 std::to_string(kKept) + " of the last evaluation" +
                 (state_->last_pass == 0 || oldest >= graph.past
                      ? ", of which there is none"
                      : ", " + std::to_string(oldest) + ".." + std::to_string(graph.past - 1)));
  }
  const std::lock_guard<std::mutex> turn(graph.model.pool_mutex);
  const Stopwatch watch(graph.profile ? &graph.pass_nanoseconds : nullptr);
  graph.head(position - first, 1);
  ++state_->head.exact_positions;
  const std::span<const float> row(graph.logits, static_cast<std::size_t>(graph.config.vocab));
  BITNET_RETURN_IF_ERROR(check_finite(position, row));
  return Logits{row, {}};
}

Result<std::span<const float>> Context::eval(std::span<const std::int32_t> tokens) {
  const std::int64_t start = position();
  BITNET_RETURN_IF_ERROR(advance(tokens));
  const Result<Logits> last = logits(position() - 1);
  if (last.ok()) return last->values;
  truncate(start);
  return last.error();
}

Status Context::eval_all(std::span<const std::int32_t> tokens, const LogitsSink& sink) {
  return run(tokens, &sink, nullptr);
}

Status Context::eval_dump(std::span<const std::int32_t> tokens, NodeDump& dump, const LogitsSink& sink) {
  BITNET_RETURN_IF_ERROR(run(tokens, &sink, &dump));
  return dump.finish();
}

std::int64_t Context::position() const { return state_->graph.past; }
std::int64_t Context::size() const { return state_->graph.context; }
void Context::truncate(std::int64_t position) {
  state_->graph.past = std::clamp<std::int64_t>(position, 0, state_->graph.past);
}
HeadUse Context::head_use() const { return state_->head; }
std::uint64_t Context::kv_bytes() const { return state_->graph.cache.bytes(); }

std::vector<KernelUse> Context::kernel_uses() const {
  const Graph& graph = state_->graph;
  std::map<std::string, KernelUse> by_name;  // one kernel may serve several steps
  for (std::size_t step = 0; step < kStepCount; ++step) {
    const StepUse& done = graph.uses[step];
    if (done.calls == 0) continue;
    const std::string& name = graph.model.kernels[static_cast<Step>(step)].name;
    KernelUse& use = by_name[name];
    use.name = name;
    use.calls += done.calls;
    use.bytes += done.bytes;
    use.operations += done.operations;
    use.seconds += 1e-9 * static_cast<double>(done.nanoseconds);
  }
  std::vector<KernelUse> uses;
  for (auto& [name, use] : by_name) uses.push_back(std::move(use));
  return uses;
}

double Context::profile_seconds() const { return 1e-9 * static_cast<double>(state_->graph.pass_nanoseconds); }

}  // namespace bitnet
