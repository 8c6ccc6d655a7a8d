// The loop of generation. Between two calls of next() the context holds kept_ positions of text and behind them the
// drafted tokens that have not been compared yet; finish() and the first difference cut these off.
#include "runtime/generation/generator.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace bitnet {
namespace {

// Prefill looks for an interrupt after this many tokens.
constexpr std::size_t kPrefillPiece = 512;

// Adds the seconds of its life to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  ~Stopwatch() { sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& sum_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
    case FinishReason::kStopped:
      return "stop";
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "length";
    case FinishReason::kInterrupted:
      return "interrupted";
    case FinishReason::kNone:
    case FinishReason::kFailed:
      break;
  }
  return "";
}

Generator::Generator(Context& context, Sampler& sampler, GenerationOptions options)
    : context_(context), sampler_(sampler), options_(std::move(options)), kept_(context.position()) {}

Status Generator::prefill(std::span<const std::int32_t> prompt) {
  const Stopwatch watch(stats_.prefill_seconds);
  (void)finish(FinishReason::kFailed);  // until it has succeeded
  if (prompt.empty()) return Error{ErrorCode::kUsage, "the prompt has no tokens; give at least one"};
  const auto room = static_cast<std::size_t>(context_.size() - context_.position());
  if (prompt.size() + (pending_.has_value() ? 1 : 0) > room) {
    return Error{ErrorCode::kFailure, "the prompt has " + std::to_string(prompt.size()) +
                                          " tokens and the context only " + std::to_string(room) +
                                          " positions; give a larger --ctx-size"};
  }
  reason_ = FinishReason::kNone;
  Status done;
  if (pending_.has_value()) {
    const std::int32_t last = *pending_;
    done = options_.logits ? context_.eval_all({&last, 1}, options_.logits) : context_.advance({&last, 1});
    if (done.ok()) pending_.reset();
  }
  if (done.ok()) done = evaluate_prompt(prompt);
  kept_ = context_.position();
  given_ = 0;
  first_ = done.ok() && !finished();
  if (!done.ok()) reason_ = FinishReason::kFailed;
  return done;
}

Status Generator::evaluate_prompt(std::span<const std::int32_t> ids) {
  const Context::LogitsSink nowhere = [](std::int64_t, std::span<const float>) { return Status(); };
  const auto evaluate = [&](std::span<const std::int32_t> piece) -> Status {
    if (options_.node_dump != nullptr) {
      return context_.eval_dump(piece, *options_.node_dump, options_.logits ? options_.logits : nowhere);
    }
    if (options_.logits) return context_.eval_all(piece, options_.logits);
    return context_.advance(piece);
  };
  const std::size_t piece = options_.node_dump != nullptr ? ids.size() : kPrefillPiece;
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    if (interrupted()) {
      (void)finish(FinishReason::kInterrupted);
      return {};
    }
    const std::span<const std::int32_t> part = ids.subspan(at, std::min(piece, ids.size() - at));
    BITNET_RETURN_IF_ERROR(evaluate(part));
    kept_ = context_.position();
    stats_.prefilled += part.size();
    for (const std::int32_t id : part) {
      BITNET_RETURN_IF_ERROR(sampler_.accept(id));
      if (options_.drafter != nullptr) options_.drafter->append(id);
    }
  }
  return {};
}

Result<std::optional<std::int32_t>> Generator::next() {
  if (finished()) return std::optional<std::int32_t>();
  if (!first_ && !pending_.has_value() && pass_tokens_ == 0) {
    return Error{ErrorCode::kUsage, "generation without a prompt; call prefill() first"};
  }
  double seconds = 0.0;
  const bool behind_prompt = first_;
  Result<std::optional<std::int32_t>> token = std::optional<std::int32_t>();
  {
    const Stopwatch watch(seconds);
    token = step();
  }
  (behind_prompt ? stats_.prefill_seconds : stats_.decode_seconds) += seconds;
  pass_seconds_ += seconds;
  if (!token.ok()) (void)finish(FinishReason::kFailed);
  return token;
}

Result<std::optional<std::int32_t>> Generator::step() {
  if (given_ == options_.max_tokens) {
    BITNET_RETURN_IF_ERROR(show_last_logits());
    return finish(FinishReason::kLength);
  }
  if (interrupted()) return finish(FinishReason::kInterrupted);
  if (pending_.has_value()) {
    if (context_.position() == context_.size()) return finish(FinishReason::kContextFull);
    BITNET_RETURN_IF_ERROR(pass());
  }
  BITNET_ASSIGN_OR_RETURN(const Logits logits, position_logits());
  BITNET_ASSIGN_OR_RETURN(const std::int32_t id, sampler_.sample(logits));
  first_ = false;
  if (options_.ends && options_.ends(id)) return finish(FinishReason::kEndToken);
  BITNET_RETURN_IF_ERROR(sampler_.accept(id));
  if (options_.drafter != nullptr) options_.drafter->append(id);
  ++given_;
  ++stats_.generated;
  if (matched_ < drafted() && batch_[1 + matched_] == id) {
    ++matched_;
    ++kept_;
    ++stats_.accepted;
  } else {
    context_.truncate(kept_);
    pending_ = id;
  }
  return std::optional<std::int32_t>(id);
}

// Tokens that may follow the pending one, to the front of `out` [kMostDrafted].
std::size_t Generator::draft(std::span<std::int32_t> out) {
  if (options_.drafter == nullptr) return 0;
  if (pass_tokens_ > 0) options_.drafter->measured(pass_tokens_, pass_seconds_);
  // No more than the context has room for, nor than may be given out: d drafted tokens bring at most d + 1.
  const std::int64_t room = context_.size() - context_.position() - 1;
  const std::int64_t wanted = options_.max_tokens < 0 ? room : options_.max_tokens - given_ - 1;
  const std::int64_t most = std::clamp<std::int64_t>(std::min(room, wanted), 0, std::ssize(out));
  out = out.first(static_cast<std::size_t>(most));
  return std::min(options_.drafter->propose(out), out.size());
}

// Evaluates the pending token and those that are drafted behind it.
Status Generator::pass() {
  batch_[0] = *pending_;
  const std::size_t tokens = 1 + draft(std::span(batch_).subspan(1));
  pass_tokens_ = 0;
  matched_ = 0;
  pass_seconds_ = 0.0;
  BITNET_RETURN_IF_ERROR(context_.advance(std::span(batch_).first(tokens)));
  pass_tokens_ = tokens;
  pending_.reset();
  ++kept_;
  stats_.proposed += drafted();
  stats_.draft_passes += drafted() > 0 ? 1 : 0;
  return {};
}

// The logits at the last position of text: all for a sink, else those that can be sampled.
Result<Logits> Generator::position_logits() {
  const Selection selection = options_.logits ? Selection{} : sampler_.selection();
  BITNET_ASSIGN_OR_RETURN(const Logits logits, context_.logits(kept_ - 1, selection));
  if (first_) return logits;  // the sink has them from prefill()
  ++stats_.decoded;
  if (options_.logits) BITNET_RETURN_IF_ERROR(options_.logits(kept_ - 1, logits.values));
  return logits;
}

// A sink also wants the logits of the last token, from which nothing is sampled.
Status Generator::show_last_logits() {
  if (!options_.logits || first_) return {};
  if (pending_.has_value()) {
    if (context_.position() == context_.size()) return {};
    BITNET_RETURN_IF_ERROR(pass());
  }
  const Result<Logits> logits = position_logits();
  return logits.ok() ? Status() : Status(logits.error());
}

std::optional<std::int32_t> Generator::finish(FinishReason reason) {
  reason_ = reason;
  context_.truncate(kept_);
  pass_tokens_ = 0;
  return std::nullopt;
}

void Generator::stop() {
  if (!finished()) (void)finish(FinishReason::kStopped);
}

}  // namespace bitnet
