// Context: the buffers of one sequence, and evaluation in passes of at most `batch` tokens.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>

#include "runtime/model/graph.h"
#include "runtime/model/head_screen.h"
#include "runtime/model/node_dump.h"

namespace bitnet {
namespace {

constexpr std::int64_t kDefaultContext = 4096;
constexpr std::int64_t kMaxBatch = 4096;

Error usage(const std::string& what) { return Error{ErrorCode::kUsage, what}; }

Status check(const Selection& selection, std::int64_t vocab) {
  if (selection.top < 0) return usage("selection of the " + std::to_string(selection.top) + " largest; expected >= 0");
  if (selection.adjusted.empty()) return {};
  if (selection.adjust == nullptr || static_cast<std::int64_t>(selection.adjusted.size()) > vocab) {
    return usage("selection with " + std::to_string(selection.adjusted.size()) + " adjusted tokens of " +
                 std::to_string(vocab) + (selection.adjust == nullptr ? " and no function that adjusts them" : ""));
  }
  for (const std::int32_t id : selection.adjusted) {
    if (id >= 0 && id < vocab) continue;
    return usage("selection: adjusted token " + std::to_string(id) + ", expected 0.." + std::to_string(vocab - 1));
  }
  return {};
}

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
  FileRows file_rows;
  std::optional<HeadScreen> screen;  // not with HeadMode::kExact
  // Tokens of the last pass that `screen` holds scores of.
  std::int64_t screened_first = 0;
  std::int64_t screened_end = 0;
  State(Model::State& model, std::int64_t positions, std::int64_t batch, KvType type)
      : graph(model, positions, batch, type) {}

  [[nodiscard]] Status create_screen();
  // Scores of tokens [first, last) of the pass, at most kKept; those that are there already stay.
  [[nodiscard]] Status screen_tokens(std::int64_t first, std::int64_t last);
  // Logits of all rows for tokens [first, first + rows) of the pass, valid until the next call: approximate ones where
  // the model's head is and that is allowed.
  [[nodiscard]] Status all_rows(std::int64_t first, std::int64_t rows, bool may_approximate,
                                std::span<std::span<const float>> logits);
  // What `selection` needs of a token of the pass; nothing if screening cannot tell.
  [[nodiscard]] Result<std::optional<Logits>> selected(std::int64_t token, const Selection& selection);
};

Status Context::State::create_screen() {
  Model::State& model = graph.model;
  if (model.head_mode == HeadMode::kExact) return {};
  if (model.head_in_file()) file_rows = FileRows(model.file.mapping(), model.tensors.head->data);
  BITNET_ASSIGN_OR_RETURN(HeadScreen made, HeadScreen::create({.weights = model.head.rows,
                                                               .rows = model.screened,
                                                               .exact = model.kernels[Step::kHead].kernel,
                                                               .screen = model.kernels[Step::kHeadScreen].kernel,
                                                               .file_rows = &file_rows},
                                                              graph.pool));
  screen.emplace(std::move(made));
  return {};
}

Status Context::State::screen_tokens(std::int64_t first, std::int64_t last) {
  if (first >= screened_first && last <= screened_end) return {};
  BITNET_RETURN_IF_ERROR(graph.model.weights.check_head(graph.pool));
  screened_end = screened_first = 0;
  graph.output_norm(first, last - first);
  graph.scale_result(first, last - first);
  {
    const Stopwatch watch(graph.clock_of(Step::kHeadScreen, 0));
    screen->screen(graph.result + first * graph.config.hidden, last - first);
  }
  const ScreenedLayout layout = screened_layout(graph.config.vocab, graph.config.hidden);
  graph.count(Step::kHeadScreen, 1, static_cast<std::int64_t>(layout.errors));
  screened_first = first;
  screened_end = last;
  return {};
}

Status Context::State::all_rows(std::int64_t first, std::int64_t rows, bool may_approximate,
                                std::span<std::span<const float>> logits) {
  const auto vocab = static_cast<std::size_t>(graph.config.vocab);
  bool approximate = may_approximate && graph.model.head_mode == HeadMode::kInt8;
  if (approximate) {
    BITNET_RETURN_IF_ERROR(screen_tokens(first, first + rows));
    for (std::int64_t i = 0; i < rows; ++i) approximate = approximate && screen->usable(first - screened_first + i);
  }
  if (!approximate) graph.head(first, rows);
  (approximate ? head.int8_positions : head.exact_positions) += static_cast<std::uint64_t>(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    logits[static_cast<std::size_t>(i)] = approximate
                                              ? screen->scores(first - screened_first + i)
                                              : std::span<const float>(graph.logits + i * graph.config.vocab, vocab);
  }
  return {};
}

Result<std::optional<Logits>> Context::State::selected(std::int64_t token, const Selection& selection) {
  const ModelConfig& config = graph.config;
  if (graph.model.head_mode != HeadMode::kScreened || selection.top == 0 || selection.top >= config.vocab) {
    return std::optional<Logits>();
  }
  // Whoever asks for a token is likely to ask for those behind it too: they share one pass over the rows.
  BITNET_RETURN_IF_ERROR(screen_tokens(token, graph.past - (pass_end - last_pass)));
  const std::int64_t index = token - screened_first;
  if (!screen->usable(index)) return std::optional<Logits>();
  const Stopwatch watch(graph.clock_of(Step::kHead, 0));
  const Logits found = screen->select(index, selection, graph.logits);
  const auto row_bytes = static_cast<std::int64_t>(graph.model.head.row_bytes);
  graph.count(Step::kHead, 1, screen->rescored() * row_bytes);
  ++head.screened_positions;
  head.survivors += static_cast<std::uint64_t>(screen->rescored());
  return std::optional<Logits>(found);
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
  const gguf::Tensor* positions = model.state().tensors.position_embd;
  if (positions != nullptr && size > static_cast<std::int64_t>(positions->ne[1])) {
    return usage("context size: the model has learned positions 0.." + std::to_string(positions->ne[1] - 1) +
                 ", found a context of " + std::to_string(size));
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
  if (options.kv_type == KvType::kF32 && !kernels[Step::kAttentionF32].exists()) {
    return Error{
        ErrorCode::kFailure,
        "float32 keys and values: no kernel f32_attention on a target that may be used here; use float16 ones"};
  }
  context->state_->graph.profile = options.profile;
  BITNET_RETURN_IF_ERROR(context->state_->graph.allocate());
  BITNET_RETURN_IF_ERROR(context->state_->create_screen());
  return context;
}

Status Context::run(std::span<const std::int32_t> tokens, const LogitsSink* sink, NodeDump* dump,
                    const StateSink* states) {
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
  if (dump != nullptr && graph.kv_type == KvType::kI8) {
    return usage("a graph dump shows float16 or float32 keys and values; leave out --kv-type i8");
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
      state_->screened_first = state_->screened_end = 0;  // they count the tokens of a pass
      graph.dump = dump;
      const Status passed = graph.forward(tokens.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(pass)));
      graph.dump = nullptr;
      BITNET_RETURN_IF_ERROR(passed);
      if (dump != nullptr) {
        graph.output_norm(0, pass);
        dump_result_norm(graph, *dump);
      }
      if (states != nullptr) {
        graph.output_norm(0, pass);
        for (std::int64_t t = 0; t < pass; ++t) {
          const float* state = graph.result + t * config.hidden;
          BITNET_RETURN_IF_ERROR((*states)(graph.past + t, {state, static_cast<std::size_t>(config.hidden)}));
        }
      }
      for (std::int64_t t = 0; every && t < pass; t += Graph::kLogitRows) {
        const std::int64_t rows = std::min(Graph::kLogitRows, pass - t);
        std::array<std::span<const float>, Graph::kLogitRows> logits;
        BITNET_RETURN_IF_ERROR(state_->all_rows(t, rows, dump == nullptr, logits));
        for (std::int64_t i = 0; i < rows; ++i) {
          const std::span<const float> row = logits[static_cast<std::size_t>(i)];
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
  state_->screened_first = state_->screened_end = 0;
  Status done = evaluate();
  if (done.ok()) {
    state_->last_pass = graph.tokens;
    state_->pass_end = graph.past;
  } else {
    graph.past = start;
  }
  return done;
}

Status Context::advance(std::span<const std::int32_t> tokens) { return run(tokens, nullptr, nullptr); }

Result<Logits> Context::logits(std::int64_t position, const Selection& selection) {
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
  BITNET_RETURN_IF_ERROR(check(selection, graph.config.vocab));
  const std::lock_guard<std::mutex> turn(graph.model.pool_mutex);
  const Stopwatch watch(graph.profile ? &graph.pass_nanoseconds : nullptr);
  BITNET_ASSIGN_OR_RETURN(const std::optional<Logits> some, state_->selected(position - first, selection));
  if (some.has_value()) return *some;
  std::array<std::span<const float>, 1> row;
  BITNET_RETURN_IF_ERROR(state_->all_rows(position - first, 1, true, row));
  BITNET_RETURN_IF_ERROR(check_finite(position, row[0]));
  return Logits{row[0], {}};
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

Status Context::eval_states(std::span<const std::int32_t> tokens, const StateSink& sink) {
  return run(tokens, nullptr, nullptr, &sink);
}

Result<std::vector<float>> Context::embed(std::span<const std::int32_t> tokens, Pooling pooling, bool normalize) {
  if (pooling == Pooling::kNone) {
    return usage("an embedding needs a pooling of the tokens' states: the mean, or the last one");
  }
  truncate(0);
  const auto last = static_cast<std::int64_t>(tokens.size()) - 1;
  std::vector<double> sums(static_cast<std::size_t>(state_->graph.config.hidden));
  BITNET_RETURN_IF_ERROR(eval_states(tokens, [&](std::int64_t position, std::span<const float> state) -> Status {
    if (pooling == Pooling::kLast && position != last) return {};
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<double>(state[i]);
    return {};
  }));
  double squares = 0.0;
  for (double& value : sums) {
    if (pooling == Pooling::kMean) value /= static_cast<double>(tokens.size());
    squares += value * value;
  }
  const double length = std::sqrt(squares);
  if (!std::isfinite(length) || (normalize && length == 0.0)) {
    return Error{ErrorCode::kFailure,
                 "the embedding is not finite or zero: the model's weights or norms are damaged, or its activations "
                 "overflow float32"};
  }
  std::vector<float> embedding(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    embedding[i] = static_cast<float>(normalize ? sums[i] / length : sums[i]);
  }
  return embedding;
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
  for (std::size_t step = 0; step < graph.uses.size(); ++step) {
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
