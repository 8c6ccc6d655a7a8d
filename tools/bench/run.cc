// Measures; see run.h. Token ids are random, because the time of a token does not depend on its value.
#include "tools/bench/run.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "runtime/base/thread_pool.h"
#include "runtime/probe/probes.h"
#include "tools/bench/perf.h"

namespace bitnet::bench {
namespace {

using probe::median;
using probe::Probes;
using probe::ProbeSamples;

constexpr Selection kGreedy{1, {}, nullptr, nullptr};
constexpr std::int64_t kFillPiece = 512;  // tokens between two chances to interrupt
constexpr double kFlamegraphSeconds = 2;  // at least

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> random_tokens(std::int64_t vocab, std::int64_t count) {
  std::mt19937 random(7);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab)));
  }
  return ids;
}

// All variants of both probes, pass by pass.
class ProbeLog {
 public:
  ProbeLog(const Probes& probes, ThreadPool& pool)
      : probes_(probes), pool_(pool), read_(probes.read_variants().size()), dot_(probes.dot_variants().size()) {}

  void take() {
    for (std::size_t v = 0; v < probes_.read_variants().size(); ++v) read_.add(v, probes_.read_gbps(pool_, v));
    for (std::size_t v = 0; v < probes_.dot_variants().size(); ++v) dot_.add(v, probes_.dot_gops(pool_, v));
  }
  [[nodiscard]] std::size_t passes() const { return read_.samples(0).size(); }
  [[nodiscard]] const std::vector<double>& read() const { return read_.samples(read_.best()); }
  [[nodiscard]] const std::vector<double>& dot() const { return dot_.samples(dot_.best()); }
  [[nodiscard]] std::string read_name() const { return Probes::name(probes_.read_variants()[read_.best()]); }
  // The mean of the passes before and behind what began after `before` passes.
  [[nodiscard]] ProbeReading around(std::size_t before) const {
    return {(read()[before - 1] + read()[before]) / 2, (dot()[before - 1] + dot()[before]) / 2};
  }

 private:
  const Probes& probes_;
  ThreadPool& pool_;
  ProbeSamples read_;
  ProbeSamples dot_;
};

// A figure's rates, and how many probe passes there were before each.
struct Series {
  std::string name;
  std::vector<double> rates;
  std::vector<std::size_t> passes_before;
  std::vector<double> token_seconds;  // of decoding
  HeadUse head;
};

class Bench {
 public:
  Bench(const Plan& plan, int threads, const Step& step) : plan_(plan), threads_(threads), step_(step) {}
  Result<Run> execute();

 private:
  Status load();
  Status fill(Context& context);
  Status rounds();
  Status profiles();
  Status flamegraph();
  // One measurement of a figure, between two passes of the probes.
  Status take(Series& series, const std::function<Result<double>()>& measurement);
  // Seconds of one measurement each.
  Result<double> prefill(Context& context, std::int64_t tokens);
  Result<double> decode(Context& context, std::int64_t start, Series* series);
  Result<double> batch(Context& context, std::int64_t tokens);
  Status advance_prompt(Context& context);
  Status profiled(Context& context, Figure& figure, double positions, const std::function<Result<double>()>& pass);
  void fill_in(Figure& figure, const Series& series, std::int64_t tokens_of_work, bool by_bytes_alone);
  void finish_decode(DecodeFigure& figure, const Series& series, std::int64_t context);
  [[nodiscard]] std::int64_t batch_passes(std::int64_t tokens) const {
    return std::max<std::int64_t>(1, plan_.decode / tokens);
  }

  const Plan& plan_;
  int threads_;
  const Step& step_;
  Run run_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Context> context_;  // of every figure but the next two
  std::unique_ptr<Context> deep_;     // holds `plan.context` tokens; profiled, since filling it twice would take long
  std::unique_ptr<ThreadPool> pool_;
  std::optional<Probes> probes_;
  std::optional<ProbeLog> log_;
  std::vector<std::int32_t> ids_;
  Series decode_{"decode", {}, {}, {}, {}};
  Series deep_decode_;
  std::vector<Series> prefill_;
  std::vector<Series> batch_;
};

Status Bench::load() {
  BITNET_RETURN_IF_ERROR(step_("load"));
  const bool fresh_peak = reset_peak_memory();
  run_.peak_known = fresh_peak;
  const auto start = std::chrono::steady_clock::now();
  ModelOptions options = plan_.load;
  options.threads = threads_;
  BITNET_ASSIGN_OR_RETURN(model_, Model::load(plan_.model, options));
  std::int64_t positions = plan_.prompt + plan_.decode + Context::kKept;
  for (const std::int64_t tokens : plan_.prefill) positions = std::max(positions, tokens);
  BITNET_ASSIGN_OR_RETURN(context_, Context::create(*model_, {.size = positions, .kv_type = plan_.kv_type}));
  run_.load_ms = 1e3 * seconds_since(start);
  ids_ = random_tokens(model_->config().vocab, std::max(positions, plan_.context + plan_.decode));
  BITNET_RETURN_IF_ERROR(step_("first token"));
  BITNET_RETURN_IF_ERROR(advance_prompt(*context_));
  run_.first_token_ms = 1e3 * seconds_since(start);
  run_.memory = process_memory();
  run_.weight_bytes = model_->weight_bytes();
  run_.kv_bytes = context_->kv_bytes();
  BITNET_ASSIGN_OR_RETURN(run_.traffic, traffic_of(*model_, plan_.kv_type));

  const std::optional<Isa> isa = parse_isa(model_->target());
  if (!isa.has_value()) {
    return Error{ErrorCode::kFailure, "no probe for target '" + std::string(model_->target()) + "'"};
  }
  BITNET_ASSIGN_OR_RETURN(Probes probes, Probes::create(*isa, plan_.probe_bytes));
  probes_.emplace(std::move(probes));
  BITNET_ASSIGN_OR_RETURN(pool_, ThreadPool::create(model_->threads()));
  log_.emplace(*probes_, *pool_);
  if (plan_.context > 0) {
    BITNET_ASSIGN_OR_RETURN(
        deep_,
        Context::create(*model_, {.size = plan_.context + plan_.decode, .kv_type = plan_.kv_type, .profile = true}));
    BITNET_RETURN_IF_ERROR(fill(*deep_));
  }
  return {};
}

Status Bench::fill(Context& context) {
  const std::span<const std::int32_t> all = std::span(ids_).first(static_cast<std::size_t>(plan_.context));
  for (std::size_t at = 0; at < all.size(); at += kFillPiece) {
    BITNET_RETURN_IF_ERROR(step_("filling a context of " + std::to_string(plan_.context) + " tokens"));
    BITNET_RETURN_IF_ERROR(context.advance(all.subspan(at, std::min<std::size_t>(kFillPiece, all.size() - at))));
  }
  return {};
}

Status Bench::advance_prompt(Context& context) {
  context.truncate(0);
  BITNET_RETURN_IF_ERROR(context.advance(std::span(ids_).first(static_cast<std::size_t>(plan_.prompt))));
  BITNET_RETURN_IF_ERROR(context.logits(plan_.prompt - 1, kGreedy));
  return {};
}

Result<double> Bench::prefill(Context& context, std::int64_t tokens) {
  context.truncate(0);
  const auto start = std::chrono::steady_clock::now();
  BITNET_RETURN_IF_ERROR(context.advance(std::span(ids_).first(static_cast<std::size_t>(tokens))));
  BITNET_RETURN_IF_ERROR(context.logits(tokens - 1, kGreedy));
  return seconds_since(start);
}

// The tokens after the first `start` ones, which the context holds, one by one.
Result<double> Bench::decode(Context& context, std::int64_t start, Series* series) {
  const HeadUse before = context.head_use();
  double seconds = 0;
  for (std::int64_t i = start; i < start + plan_.decode; ++i) {
    BITNET_RETURN_IF_ERROR(step_(start == plan_.prompt ? "decode" : "decode in a long context"));
    const auto begin = std::chrono::steady_clock::now();
    BITNET_RETURN_IF_ERROR(context.advance(std::span(ids_).subspan(static_cast<std::size_t>(i), 1)));
    BITNET_RETURN_IF_ERROR(context.logits(i, kGreedy));
    const double token = seconds_since(begin);
    seconds += token;
    if (series != nullptr) series->token_seconds.push_back(token);
  }
  if (series != nullptr) {
    const HeadUse done = difference(context.head_use(), before);
    series->head.exact_positions += done.exact_positions;
    series->head.screened_positions += done.screened_positions;
    series->head.int8_positions += done.int8_positions;
    series->head.survivors += done.survivors;
  }
  return seconds;
}

// Passes of `tokens` after the prompt, which the context holds, with the logits of every token.
Result<double> Bench::batch(Context& context, std::int64_t tokens) {
  double seconds = 0;
  for (std::int64_t pass = 0; pass < batch_passes(tokens); ++pass) {
    BITNET_RETURN_IF_ERROR(step_("batches of " + std::to_string(tokens)));
    const std::int64_t first = plan_.prompt + pass * tokens;
    const auto begin = std::chrono::steady_clock::now();
    BITNET_RETURN_IF_ERROR(
        context.advance(std::span(ids_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(tokens))));
    for (std::int64_t t = first; t < first + tokens; ++t) {
      BITNET_RETURN_IF_ERROR(context.logits(t, kGreedy));
    }
    seconds += seconds_since(begin);
  }
  return seconds;
}

Status Bench::take(Series& series, const std::function<Result<double>()>& measurement) {
  BITNET_RETURN_IF_ERROR(step_(series.name));
  series.passes_before.push_back(log_->passes());
  BITNET_ASSIGN_OR_RETURN(const double rate, measurement());
  series.rates.push_back(rate);
  log_->take();
  return {};
}

Status Bench::rounds() {
  deep_decode_.name = "decode in a long context";
  for (const std::int64_t n : plan_.prefill) prefill_.push_back({"prefill " + std::to_string(n), {}, {}, {}, {}});
  for (const std::int64_t n : plan_.batch) batch_.push_back({"batches of " + std::to_string(n), {}, {}, {}, {}});
  BITNET_RETURN_IF_ERROR(step_("probes"));
  log_->take();
  const auto decode_once = [&]() -> Result<double> {
    BITNET_RETURN_IF_ERROR(advance_prompt(*context_));
    BITNET_ASSIGN_OR_RETURN(const double seconds, decode(*context_, plan_.prompt, &decode_));
    return static_cast<double>(plan_.decode) / seconds;
  };
  const auto decode_deep = [&]() -> Result<double> {
    deep_->truncate(plan_.context);
    const Counters before = Counters::of(*deep_);
    BITNET_ASSIGN_OR_RETURN(const double seconds, decode(*deep_, plan_.context, &deep_decode_));
    run_.context_decode->profile.seconds += seconds;
    add_uses(model_->kernels(), run_.traffic, Counters::of(*deep_), before, attended(plan_.context, plan_.decode),
             run_.context_decode->profile);
    return static_cast<double>(plan_.decode) / seconds;
  };
  const auto prefill_once = [&](std::int64_t tokens) -> Result<double> {
    BITNET_ASSIGN_OR_RETURN(const double seconds, prefill(*context_, tokens));
    return static_cast<double>(tokens) / seconds;
  };
  const auto batches = [&](std::int64_t tokens) -> Result<double> {
    BITNET_RETURN_IF_ERROR(advance_prompt(*context_));
    BITNET_ASSIGN_OR_RETURN(const double seconds, batch(*context_, tokens));
    return static_cast<double>(tokens * batch_passes(tokens)) / seconds;
  };
  for (int round = 0; round < plan_.rounds; ++round) {
    BITNET_RETURN_IF_ERROR(take(decode_, decode_once));
    if (deep_ != nullptr) BITNET_RETURN_IF_ERROR(take(deep_decode_, decode_deep));
    for (std::size_t i = 0; i < prefill_.size(); ++i) {
      BITNET_RETURN_IF_ERROR(take(prefill_[i], [&, i] { return prefill_once(plan_.prefill[i]); }));
    }
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      BITNET_RETURN_IF_ERROR(take(batch_[i], [&, i] { return batches(plan_.batch[i]); }));
    }
  }
  return {};
}

Status Bench::profiled(Context& context, Figure& figure, double positions,
                       const std::function<Result<double>()>& pass) {
  const Counters before = Counters::of(context);
  const std::size_t passes = log_->passes();
  BITNET_ASSIGN_OR_RETURN(figure.profile.seconds, pass());
  log_->take();
  figure.profile_probes = log_->around(passes);
  add_uses(model_->kernels(), run_.traffic, Counters::of(context), before, positions, figure.profile);
  return {};
}

// One measurement more of each figure, with clocks around the kernels.
Status Bench::profiles() {
  BITNET_ASSIGN_OR_RETURN(
      const std::unique_ptr<Context> context,
      Context::create(*model_, {.size = context_->size(), .kv_type = plan_.kv_type, .profile = true}));
  BITNET_RETURN_IF_ERROR(step_("profile"));
  BITNET_RETURN_IF_ERROR(advance_prompt(*context));
  BITNET_RETURN_IF_ERROR(profiled(*context, run_.decode, attended(plan_.prompt, plan_.decode),
                                  [&] { return decode(*context, plan_.prompt, nullptr); }));
  for (Figure& figure : run_.prefill) {
    BITNET_RETURN_IF_ERROR(
        profiled(*context, figure, attended(0, figure.tokens), [&] { return prefill(*context, figure.tokens); }));
  }
  for (Figure& figure : run_.batch) {
    BITNET_RETURN_IF_ERROR(advance_prompt(*context));
    BITNET_RETURN_IF_ERROR(profiled(*context, figure,
                                    attended(plan_.prompt, batch_passes(figure.tokens) * figure.tokens),
                                    [&] { return batch(*context, figure.tokens); }));
  }
  return {};
}

Status Bench::flamegraph() {
  if (plan_.flamegraph.empty() && !plan_.perf_map) return {};
  BITNET_ASSIGN_OR_RETURN(PerfMap map, PerfMap::write(*model_));
  if (plan_.perf_map) map.keep();
  if (plan_.flamegraph.empty()) return {};
  BITNET_RETURN_IF_ERROR(step_("flamegraph"));
  BITNET_ASSIGN_OR_RETURN(PerfRecording recording, PerfRecording::start());
  for (double seconds = 0; seconds < kFlamegraphSeconds;) {
    BITNET_RETURN_IF_ERROR(advance_prompt(*context_));
    BITNET_ASSIGN_OR_RETURN(const double pass, decode(*context_, plan_.prompt, nullptr));
    seconds += pass;
  }
  BITNET_ASSIGN_OR_RETURN(const std::string script, recording.finish());
  return write_flamegraph(
      plan_.flamegraph, script,
      "decode, " + run_.target + ", " + std::to_string(threads_) + (threads_ == 1 ? " thread" : " threads"));
}

void Bench::fill_in(Figure& figure, const Series& series, std::int64_t tokens_of_work, bool by_bytes_alone) {
  figure.tps = spread(series.rates);
  std::vector<double> fractions;
  const Work limiting{figure.work.bytes, by_bytes_alone ? 0 : figure.work.operations};
  for (std::size_t i = 0; i < series.rates.size(); ++i) {
    const double limit = limit_seconds(limiting, log_->around(series.passes_before[i]));
    fractions.push_back(series.rates[i] * limit / static_cast<double>(tokens_of_work));
  }
  figure.fraction = median(fractions);
  figure.memory_bound = is_memory_bound(limiting, run_.probes());
}

void Bench::finish_decode(DecodeFigure& figure, const Series& series, std::int64_t context) {
  figure.tokens = plan_.decode;
  figure.context = context;
  figure.positions = plan_.decode * plan_.rounds;
  figure.head = series.head;
  figure.work = run_.traffic.products();
  figure.head_bytes = run_.traffic.head_bytes(series.head) / static_cast<double>(figure.positions);
  figure.work.bytes += figure.head_bytes;
  figure.kv_bytes = run_.traffic.kv_bytes * (static_cast<double>(context) + static_cast<double>(plan_.decode + 1) / 2);
  fill_in(figure, series, 1, true);
  figure.p50_ms = 1e3 * probe::percentile(series.token_seconds, 0.5);
  figure.p90_ms = 1e3 * probe::percentile(series.token_seconds, 0.9);
  figure.p99_ms = 1e3 * probe::percentile(series.token_seconds, 0.99);
}

Result<Run> Bench::execute() {
  if (plan_.context > 0) run_.context_decode.emplace();
  BITNET_RETURN_IF_ERROR(load());
  run_.model = plan_.model;
  run_.architecture = model_->config().architecture;
  run_.parameters = model_->parameters();
  run_.target = model_->target();
  run_.bundle = model_->bundle_path();
  run_.cpu = probe::cpu_name();
  run_.emulated = probe::is_emulated();
  run_.threads = model_->threads();
  run_.rounds = plan_.rounds;
  run_.head = plan_.load.head;
  run_.kv_type = plan_.kv_type;
  run_.cache_bytes = probe::largest_cache_bytes();
  for (const std::int64_t tokens : plan_.prefill) run_.prefill.emplace_back().tokens = tokens;
  for (const std::int64_t tokens : plan_.batch) run_.batch.emplace_back().tokens = tokens;

  BITNET_RETURN_IF_ERROR(rounds());
  const std::size_t measured = log_->passes();
  BITNET_RETURN_IF_ERROR(profiles());
  BITNET_RETURN_IF_ERROR(flamegraph());

  const auto first_passes = [&](const std::vector<double>& passes) {
    return spread({passes.begin(), passes.begin() + static_cast<std::ptrdiff_t>(measured)});
  };
  run_.read_gbps = first_passes(log_->read());
  run_.dot_gops = first_passes(log_->dot());
  run_.read_variant = log_->read_name();
  run_.dot_instruction = probes_->dot_instruction();
  run_.probe_bytes = plan_.probe_bytes;
  finish_decode(run_.decode, decode_, plan_.prompt);
  if (run_.context_decode.has_value()) {
    finish_decode(*run_.context_decode, deep_decode_, plan_.context);
    run_.context_decode->profile_probes = run_.probes();
  }
  const Work products = run_.traffic.products();
  for (std::size_t i = 0; i < prefill_.size(); ++i) {
    Figure& figure = run_.prefill[i];
    figure.work = {products.bytes, products.operations * static_cast<double>(figure.tokens)};
    fill_in(figure, prefill_[i], figure.tokens, false);
  }
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    // The head's rows once for all tokens of a pass: more than that is the head's own doing.
    Figure& figure = run_.batch[i];
    figure.work = {products.bytes + (plan_.load.head == HeadMode::kExact ? run_.traffic.head_exact_bytes()
                                                                         : run_.traffic.head_int8_bytes()),
                   products.operations * static_cast<double>(figure.tokens)};
    fill_in(figure, batch_[i], figure.tokens, false);
  }
  return std::move(run_);
}

}  // namespace

Spread spread(const std::vector<double>& values) {
  return {median(values), *std::ranges::min_element(values), *std::ranges::max_element(values)};
}

bool Run::fits_in_cache(const Figure& figure) const {
  constexpr double kUnknownCache = 32 << 20;
  const double cache = cache_bytes.has_value() ? static_cast<double>(*cache_bytes) : kUnknownCache;
  return figure.work.bytes < 2 * cache;  // not all of it is evicted between two passes
}

std::vector<std::string> Run::implausible() const {
  std::vector<std::string> found;
  if (emulated) return found;
  const auto check = [&](const Figure& figure, const std::string& name) {
    if (figure.fraction <= kProbeLimit || (figure.memory_bound && fits_in_cache(figure))) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s at %d thread%s: %.3f of the %s probe", name.c_str(), threads,
                  threads == 1 ? "" : "s", figure.fraction, figure.memory_bound ? "read" : "dot");
    found.emplace_back(text);
  };
  check(decode, "decode");
  if (context_decode.has_value()) check(*context_decode, "decode after " + std::to_string(context_decode->context));
  for (const Figure& figure : prefill) check(figure, "prefill " + std::to_string(figure.tokens));
  for (const Figure& figure : batch) check(figure, "batch " + std::to_string(figure.tokens));
  return found;
}

Result<Run> measure(const Plan& plan, int threads, const Step& step) { return Bench(plan, threads, step).execute(); }

}  // namespace bitnet::bench
