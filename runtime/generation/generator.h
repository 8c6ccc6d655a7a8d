// Generator: prompt ids in, tokens out one by one. It owns the loop
//
//   prefill -> { logits -> sample -> accept -> advance }
//
// and everything that may end it: an end token, enough tokens, a full context, an interrupt, the caller.
//
//   Generator generator(context, sampler, {.max_tokens = 100, .ends = is_end});
//   auto status = generator.prefill(prompt);
//   while (!generator.finished()) {
//     const auto token = generator.next();  // Result<std::optional<std::int32_t>>; nothing once it has ended
//     ...
//   }
//
// With a Drafter a pass evaluates [last token, drafted tokens...] at once. Its positions are then sampled one after the
// other, with the sampler's own state, for as long as the sampled token is the drafted one; at the first other token
// the context is truncated to what was really chosen. Every token is sampled from the same logits, penalties and random
// numbers as without a drafter, so the text is the same; a logit does not depend on how many tokens share its pass.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "runtime/base/result.h"
#include "runtime/generation/drafter.h"
#include "runtime/model/model.h"
#include "runtime/sampling/sampler.h"

namespace bitnet {

enum class FinishReason : std::uint8_t {
  kNone,         // it goes on
  kEndToken,     // GenerationOptions::ends said so
  kStopped,      // the caller's stop()
  kLength,       // max_tokens
  kContextFull,  // no room for another token
  kInterrupted,  // GenerationOptions::interrupted said so
  kFailed,       // prefill() or next() returned an error
};

// In the words that users know: "stop", "length", "interrupted"; "" for kNone and kFailed.
[[nodiscard]] const char* finish_name(FinishReason reason);

struct GenerationOptions {
  std::int64_t max_tokens = -1;  // to give out since prefill(); negative: until the context is full
  // Whether a sampled token ends the generation. It is neither given out nor evaluated. Empty: none does.
  std::function<bool(std::int32_t id)> ends;
  // Asked before every pass and every token; may be set from a signal or another thread. Empty: never.
  std::function<bool()> interrupted;
  // Receives the logits, [vocab], of every position of the prompt and of every token that was given out, in order, also
  // of the last one that max_tokens allows. Empty: logits are computed only where a token is sampled.
  Context::LogitsSink logits;
  // Receives the graph's nodes of the prompt, which must then fit in one pass of the context.
  NodeDump* node_dump = nullptr;
  Drafter* drafter = nullptr;  // none: one token a pass
};

// Since the Generator was made.
struct GenerationStats {
  std::size_t prefilled = 0;     // tokens evaluated by prefill()
  std::size_t generated = 0;     // tokens given out
  std::size_t decoded = 0;       // positions whose logits were used behind the prompt's last one
  double prefill_seconds = 0.0;  // evaluation of prompts, and the choice of the token behind them
  double decode_seconds = 0.0;   // the rest of the time inside next(); the caller's own work is not in it
  std::size_t draft_passes = 0;  // passes with drafted tokens
  std::size_t proposed = 0;      // drafted tokens evaluated
  std::size_t accepted = 0;      // of these, tokens that were given out
};

// One sequence on one context; not thread-safe. The context, the sampler and what the options point to must outlive it,
// and only it may use them meanwhile. next() allocates nothing itself (Drafters grow with the text).
class Generator {
 public:
  // Drafted tokens of a pass: with the last token they are as many as have logits kept.
  static constexpr std::size_t kMostDrafted = Context::kKept - 1;

  // sampler: for the vocabulary of the context's model.
  Generator(Context& context, Sampler& sampler, GenerationOptions options);

  // Evaluates `prompt` behind what the context holds and begins to count max_tokens anew. May be called again once the
  // generation has ended (a chat's next turn): the last token given out is evaluated first if it has not been yet.
  // finished() afterwards: interrupted, and the context holds the part of the prompt that was evaluated.
  // Errors: kUsage for an empty prompt or ids outside the vocabulary, kFailure for a prompt longer than the context has
  // room for, and those of Context::advance, eval_all and eval_dump and of the sink.
  [[nodiscard]] Status prefill(std::span<const std::int32_t> prompt);

  // The next token, or nothing where the generation has ended: reason() says why. Before prefill(): kUsage.
  // Errors: those of Context::advance and logits, of Sampler::sample and of the sink, kUsage for a drafted id outside
  // the vocabulary. They end the generation.
  [[nodiscard]] Result<std::optional<std::int32_t>> next();

  // Ends the generation behind the last token given out.
  void stop();

  // Whether next() will evaluate tokens first, and not only choose from what is evaluated: time to show text.
  [[nodiscard]] bool needs_pass() const { return pending_.has_value(); }
  [[nodiscard]] bool finished() const { return reason_ != FinishReason::kNone; }
  [[nodiscard]] FinishReason reason() const { return reason_; }
  [[nodiscard]] const GenerationStats& stats() const { return stats_; }
  // The last token given out, while the context does not hold it. Behind the end the context holds the prompts and all
  // tokens given out but this one.
  [[nodiscard]] std::optional<std::int32_t> pending() const { return pending_; }

 private:
  [[nodiscard]] Status evaluate_prompt(std::span<const std::int32_t> ids);
  [[nodiscard]] Result<std::optional<std::int32_t>> step();
  [[nodiscard]] Status pass();
  [[nodiscard]] Result<Logits> position_logits();
  [[nodiscard]] Status show_last_logits();
  [[nodiscard]] bool interrupted() const { return options_.interrupted && options_.interrupted(); }
  [[nodiscard]] std::size_t drafted() const { return pass_tokens_ > 0 ? pass_tokens_ - 1 : 0; }
  [[nodiscard]] std::size_t draft(std::span<std::int32_t> out);
  std::optional<std::int32_t> finish(FinishReason reason);

  Context& context_;
  Sampler& sampler_;
  GenerationOptions options_;
  GenerationStats stats_;
  FinishReason reason_ = FinishReason::kNone;
  std::int64_t given_ = 0;                            // tokens since prefill()
  std::int64_t kept_ = 0;                             // positions of the context that are certainly text
  std::optional<std::int32_t> pending_;               // chosen, not evaluated
  bool first_ = false;                                // the token behind the prompt has not been chosen
  std::array<std::int32_t, Context::kKept> batch_{};  // [last token, drafted tokens...] of the pass
  std::size_t pass_tokens_ = 0;                       // of batch_; 0 behind the prompt and behind the end
  std::size_t matched_ = 0;                           // drafted tokens of the pass that were found to be text
  double pass_seconds_ = 0.0;                         // of the pass so far
};

}  // namespace bitnet
