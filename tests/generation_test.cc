// The generator: with any drafter the text, the logits and the end are those of plain decoding. The n-gram drafter
// against a naive search of the text.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "runtime/generation/generator.h"
#include "runtime/generation/ngram_draft.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kVocab = 400;
const Ids kPrompt = {1, 17, 5, 230, 17, 5, 9};

std::unique_ptr<Model> load(const std::string& path, int threads) {
  ModelOptions options;
  options.threads = threads;
  options.bundle = "none";
  auto model = Model::load(path, options);
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
  return std::move(model).value();
}

// What a generation gave: its tokens, how it ended, the logits that a sink saw, and what the context then holds.
struct Outcome {
  Ids tokens;
  FinishReason reason = FinishReason::kNone;
  std::vector<float> logits;
  std::vector<float> after;  // of a token evaluated behind the end
  std::int64_t held = 0;     // positions at the end
  GenerationStats stats;

  // What must not depend on the drafter; `after` and the last position only where both hold the same text.
  void check_equals(const Outcome& plain) const {
    CHECK(tokens == plain.tokens);
    CHECK(reason == plain.reason);
    CHECK(logits == plain.logits);
    CHECK(stats.generated == plain.stats.generated);
    CHECK(stats.decoded == plain.stats.decoded);
    CHECK(stats.accepted <= stats.proposed);
    CHECK(after == plain.after);
  }
};

struct Setting {
  SamplingParams sampling;
  std::int64_t max_tokens = 40;
  std::int64_t context = 64;
  std::int32_t end = -1;       // token that ends
  std::size_t stop_after = 0;  // the caller stops then; 0: never
  bool sink = false;
};

Outcome generate(Model& model, const Setting& setting, Drafter* drafter, const Ids& prompt = kPrompt) {
  auto context = Context::create(model, {.size = setting.context});
  REQUIRE(context.ok());
  auto sampler = Sampler::create(setting.sampling, model.config().vocab);
  REQUIRE(sampler.ok());
  Outcome outcome;
  GenerationOptions options;
  options.max_tokens = setting.max_tokens;
  options.drafter = drafter;
  options.ends = [&](std::int32_t id) { return id == setting.end; };
  if (setting.sink) {
    options.logits = [&](std::int64_t position, std::span<const float> logits) -> Status {
      CHECK(position * static_cast<std::int64_t>(logits.size()) == std::ssize(outcome.logits));
      outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
      return {};
    };
  }
  Generator generator(**context, *sampler, options);
  const Status prefilled = generator.prefill(prompt);
  REQUIRE_MESSAGE(prefilled.ok(), (prefilled.ok() ? "" : prefilled.error().message));
  while (true) {
    const auto token = generator.next();
    REQUIRE_MESSAGE(token.ok(), (token.ok() ? "" : token.error().message));
    if (!token->has_value()) break;
    outcome.tokens.push_back(**token);
    if (outcome.tokens.size() == setting.stop_after) generator.stop();
  }
  CHECK(generator.finished());
  CHECK_FALSE(generator.next()->has_value());  // and stays so
  outcome.reason = generator.reason();
  outcome.stats = generator.stats();

  // The context holds the text and nothing else, but perhaps not its last token.
  outcome.held = (*context)->position();
  const auto text = static_cast<std::int64_t>(prompt.size() + outcome.tokens.size());
  CHECK(outcome.held == text - (generator.pending().has_value() ? 1 : 0));
  if (setting.sink) {
    // Of all that is evaluated: the text, but a last token that an end or a full context leaves over.
    CHECK(std::ssize(outcome.logits) == outcome.held * model.config().vocab);
    if (outcome.reason == FinishReason::kLength && setting.max_tokens > 0) CHECK_FALSE(generator.pending().has_value());
  }
  if (generator.pending().has_value()) CHECK(*generator.pending() == outcome.tokens.back());
  Ids more;
  if (generator.pending().has_value()) more.push_back(*generator.pending());
  more.push_back(3);
  if ((*context)->size() - outcome.held >= std::ssize(more)) {
    const auto logits = (*context)->eval(more);
    REQUIRE(logits.ok());
    outcome.after.assign(logits->begin(), logits->end());
  }
  return outcome;
}

// Drafts from a text that it was given, with every so-manieth token wrong: what a drafter may be at its best, its
// worst (every token wrong) and anything between.
class Script final : public Drafter {
 public:
  Script(Ids text, std::size_t wrong_every, std::uint32_t seed)
      : text_(std::move(text)), wrong_every_(wrong_every), random_(seed) {}

  void append(std::int32_t id) override {
    if (at_ < text_.size()) CHECK(id == text_[at_]);
    ++at_;
  }
  std::size_t propose(std::span<std::int32_t> out) override {
    const std::size_t count = std::min<std::size_t>(out.size(), random_() % (Generator::kMostDrafted + 1));
    for (std::size_t i = 0; i < count; ++i) {
      out[i] = at_ + i < text_.size() ? text_[at_ + i] : static_cast<std::int32_t>(random_() % kVocab);
      if (wrong_every_ > 0 && random_() % wrong_every_ == 0) out[i] = (out[i] + 1) % kVocab;
    }
    return count;
  }
  void measured(std::size_t tokens, double seconds) override {
    CHECK(tokens >= 1);
    CHECK(tokens <= 1 + Generator::kMostDrafted);
    CHECK(seconds > 0.0);
  }

 private:
  Ids text_;
  std::size_t wrong_every_;
  std::size_t at_ = 0;
  std::mt19937 random_;
};

Ids joined(const Ids& a, const Ids& b) {
  Ids ids = a;
  ids.insert(ids.end(), b.begin(), b.end());
  return ids;
}

std::vector<SamplingParams> samplings() {
  const auto params = [](float temperature, std::int32_t top_k, float top_p, float repetition, float frequency) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = top_k;
    p.top_p = top_p;
    p.repetition_penalty = repetition;
    p.frequency_penalty = frequency;
    return p;
  };
  return {params(0.0F, 0, 1.0F, 1.0F, 0.0F), params(0.0F, 0, 1.0F, 1.3F, 0.1F), params(1.0F, 0, 1.0F, 1.0F, 0.0F),
          params(0.8F, 50, 0.9F, 1.1F, 0.0F), params(0.3F, 3, 1.0F, 1.0F, -0.2F)};
}

TEST_CASE("drafts: the text of plain decoding, for every way to sample, number of threads and quality of the drafts") {
  const test::TempFolder folder;
  const std::string path = write_synth(folder, "m.gguf", "2x128x256x2/1x400");
  const std::unique_ptr<Model> one = load(path, 1);
  const std::unique_ptr<Model> three = load(path, 3);
  std::size_t accepted = 0;
  std::size_t rejected = 0;
  std::size_t ngram_accepted = 0;
  std::uint32_t run = 0;
  for (SamplingParams sampling : samplings()) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      sampling.seed = seed;
      const Setting setting{.sampling = sampling, .sink = seed == 2};
      const Outcome plain = generate(*one, setting, nullptr);
      CHECK(plain.tokens.size() == 40);
      CHECK(plain.reason == FinishReason::kLength);
      CHECK(plain.stats.proposed == 0);
      for (const std::size_t wrong_every : {0U, 1U, 3U, 8U}) {
        CAPTURE(wrong_every);
        Script script(joined(kPrompt, plain.tokens), wrong_every, ++run);
        const Outcome drafted = generate(wrong_every == 3 ? *three : *one, setting, &script);
        drafted.check_equals(plain);
        if (wrong_every == 0) CHECK(drafted.stats.accepted == drafted.stats.proposed);
        if (wrong_every == 1) CHECK(drafted.stats.accepted == 0);
        accepted += drafted.stats.accepted;
        rejected += drafted.stats.proposed - drafted.stats.accepted;
      }
      NgramDraft ngram;
      ngram.measured(1, 1.0);  // nothing is dearer than a plain pass
      ngram.measured(1, 1.0);
      const Outcome drafted = generate(*three, setting, &ngram);
      drafted.check_equals(plain);
      ngram_accepted += drafted.stats.accepted;
    }
  }
  CHECK(accepted > 500);  // so that all this was about something
  CHECK(rejected > 500);
  CHECK(ngram_accepted > 0);
}

TEST_CASE("drafts: the default model, where it repeats and where it does not") {
  const std::unique_ptr<Model> model = load(BITNET_DEFAULT_MODEL, 2);
  const auto tokenizer = Tokenizer::from_gguf(model->file());
  REQUIRE(tokenizer.ok());
  std::string text;
  for (int i = 0; i < 6; ++i) text += "Nurse:\nI do not know it.\n\n";
  const auto prompt = tokenizer->encode(text, tokenizer->adds_bos(), false);
  REQUIRE(prompt.ok());
  for (const SamplingParams& sampling : samplings()) {
    CAPTURE(sampling.temperature);
    const Setting setting{.sampling = sampling, .max_tokens = 100, .context = 256};
    const Outcome plain = generate(*model, setting, nullptr, *prompt);
    NgramDraft ngram;
    const Outcome drafted = generate(*model, setting, &ngram, *prompt);
    drafted.check_equals(plain);
    Script script(joined(*prompt, plain.tokens), 5, 1);
    generate(*model, setting, &script, *prompt).check_equals(plain);
    if (sampling.temperature > 0.0F || sampling.repetition_penalty != 1.0F) continue;
    // Greedy it goes on with the line, and then all drafts hit: how many there are is a matter of times.
    CHECK(drafted.stats.accepted == drafted.stats.proposed);
    CHECK(tokenizer->decode(plain.tokens).find("Nurse:\nI do not know it.") != std::string::npos);
  }
}

TEST_CASE("drafts: end tokens, stops, full contexts and lengths inside a draft") {
  const test::TempFolder folder;
  const std::unique_ptr<Model> model = load(write_synth(folder, "m.gguf", "1x128x256x2/1x400"), 1);
  SamplingParams sampling;
  sampling.temperature = 1.0F;
  sampling.top_k = 0;
  sampling.seed = 5;
  const Outcome whole = generate(*model, {.sampling = sampling}, nullptr);
  const Ids text = joined(kPrompt, whole.tokens);
  std::uint32_t run = 0;
  const auto compare = [&](const Setting& setting, FinishReason reason, std::size_t tokens) {
    const Outcome plain = generate(*model, setting, nullptr);
    CHECK(plain.reason == reason);
    CHECK(plain.tokens.size() == tokens);
    for (const std::size_t wrong_every : {0U, 0U, 1U, 4U, 8U}) {
      Script script(text, wrong_every, ++run);
      generate(*model, setting, &script).check_equals(plain);
    }
  };
  for (std::size_t at = 0; at < 20; ++at) {
    CAPTURE(at);
    const std::int32_t end = whole.tokens[at];
    const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), end) - whole.tokens.begin();
    compare({.sampling = sampling, .end = end}, FinishReason::kEndToken, static_cast<std::size_t>(first));
    compare({.sampling = sampling, .stop_after = at + 1}, FinishReason::kStopped, at + 1);
    compare({.sampling = sampling, .max_tokens = static_cast<std::int64_t>(at), .sink = at % 2 == 0},
            FinishReason::kLength, at);
    // The token behind a full context has been chosen, but not evaluated.
    const auto room = static_cast<std::int64_t>(kPrompt.size() + at);
    compare({.sampling = sampling, .max_tokens = -1, .context = room, .sink = at % 2 == 0}, FinishReason::kContextFull,
            at + 1);
  }
}

TEST_CASE("generator: an interrupt, further prompts, errors") {
  const test::TempFolder folder;
  const std::unique_ptr<Model> model = load(write_synth(folder, "m.gguf", "1x128x256x2/1x400"), 1);
  auto context = Context::create(*model, {.size = 640});
  REQUIRE(context.ok());
  SamplingParams greedy;
  greedy.temperature = 0.0F;
  auto sampler = Sampler::create(greedy, kVocab);
  REQUIRE(sampler.ok());
  int calls = 0;
  int allowed = 1000000;
  GenerationOptions options;
  options.max_tokens = 6;
  options.interrupted = [&] { return ++calls > allowed; };

  Generator generator(**context, *sampler, options);
  CHECK(generator.next().error().code == ErrorCode::kUsage);
  CHECK_FALSE(generator.finished());
  CHECK(generator.prefill({}).error().code == ErrorCode::kUsage);
  const Ids wrong = {1, kVocab};
  CHECK(generator.prefill(wrong).error().code == ErrorCode::kUsage);
  CHECK(generator.finished());
  CHECK((*context)->position() == 0);
  const Ids long_prompt(641, 4);
  const Status too_long = generator.prefill(long_prompt);
  REQUIRE_FALSE(too_long.ok());
  CHECK(too_long.error().message.find("641 tokens") != std::string::npos);
  CHECK(too_long.error().message.find("640 positions") != std::string::npos);

  const auto take = [&] {
    Ids ids;
    while (true) {
      const auto token = generator.next();
      REQUIRE(token.ok());
      if (!token->has_value()) return ids;
      ids.push_back(**token);
    }
  };
  // Two turns are one text, and the last token of the first turn is evaluated with the second.
  REQUIRE(generator.prefill(kPrompt).ok());
  const Ids first = take();
  CHECK(generator.reason() == FinishReason::kLength);
  const Ids turn = {7, 8};
  REQUIRE(generator.prefill(turn).ok());
  const Ids second = take();
  CHECK(first.size() == 6);
  CHECK(second.size() == 6);
  CHECK(generator.stats().generated == 12);
  CHECK(generator.stats().prefilled == 9);
  const Outcome fresh =
      generate(*model, {.sampling = greedy, .max_tokens = 6}, nullptr, joined(joined(kPrompt, first), turn));
  CHECK(second == fresh.tokens);

  // Between tokens, then between the pieces of a prompt.
  allowed = calls + 3;
  REQUIRE(generator.prefill(turn).ok());
  CHECK(take().size() == 2);
  CHECK(generator.reason() == FinishReason::kInterrupted);
  const std::int64_t before = (*context)->position();
  allowed = calls + 1;
  const Ids pieces(600, 4);
  REQUIRE(generator.prefill(pieces).ok());
  CHECK(generator.reason() == FinishReason::kInterrupted);
  CHECK((*context)->position() == before + 1 + 512);
  CHECK_FALSE(generator.next()->has_value());

  CHECK(std::string(finish_name(FinishReason::kEndToken)) == "stop");
  CHECK(std::string(finish_name(FinishReason::kStopped)) == "stop");
  CHECK(std::string(finish_name(FinishReason::kLength)) == "length");
  CHECK(std::string(finish_name(FinishReason::kContextFull)) == "length");
  CHECK(std::string(finish_name(FinishReason::kInterrupted)) == "interrupted");
}

TEST_CASE("generator: errors of the sink and of a drafter end it, and only text stays in the context") {
  const test::TempFolder folder;
  const std::unique_ptr<Model> model = load(write_synth(folder, "m.gguf", "1x128x256x2/1x400"), 1);
  auto context = Context::create(*model, {.size = 64});
  auto sampler = Sampler::create({}, kVocab);
  REQUIRE(context.ok());
  REQUIRE(sampler.ok());
  GenerationOptions options;
  options.logits = [&](std::int64_t position, std::span<const float>) -> Status {
    if (position < 9) return {};
    return Error{ErrorCode::kFailure, "the sink is full"};
  };
  Generator generator(**context, *sampler, options);
  REQUIRE(generator.prefill(kPrompt).ok());
  for (int i = 0; i < 3; ++i) CHECK(generator.next().ok());
  const auto failed = generator.next();
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().message == "the sink is full");
  CHECK(generator.reason() == FinishReason::kFailed);
  CHECK_FALSE(generator.next()->has_value());

  class Outside final : public Drafter {
   public:
    void append(std::int32_t /*id*/) override {}
    std::size_t propose(std::span<std::int32_t> out) override {
      std::fill(out.begin(), out.end(), kVocab);
      return out.size();
    }
    void measured(std::size_t /*tokens*/, double /*seconds*/) override {}
  } outside;
  (*context)->truncate(0);
  GenerationOptions drafted;
  drafted.drafter = &outside;
  Generator second(**context, *sampler, drafted);
  REQUIRE(second.prefill(kPrompt).ok());
  CHECK(second.next().ok());
  const auto refused = second.next();
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kUsage);
  CHECK((*context)->position() == std::ssize(kPrompt));
}

// The longest of the last kLongest..kShortest tokens that stand somewhere before, there the latest place, and all that
// matches in front of it: by looking at every place.
NgramDraft::Match naive_match(const Ids& text) {
  for (std::size_t n = NgramDraft::kLongest; n >= NgramDraft::kShortest; --n) {
    for (std::size_t end = text.size() - 1; end >= n && end < text.size(); --end) {
      std::size_t length = 0;
      while (length < end && length < NgramDraft::kCounted &&
             text[end - length - 1] == text[text.size() - length - 1]) {
        ++length;
      }
      if (length >= n) return {n < NgramDraft::kLongest ? n : length, end};
    }
  }
  return {};
}

TEST_CASE("n-gram drafts: the matches of a naive search, while the index grows") {
  std::mt19937 random(3);
  for (const std::size_t expected : {0U, 5000U}) {
    for (const std::int32_t letters : {1, 2, 5, 30, 2000000000}) {
      CAPTURE(letters);
      NgramDraft draft(expected);
      Ids text;
      std::size_t matches = 0;
      while (text.size() < 1500) {
        // Now and then a piece of the text so far, else a letter.
        const bool copy = text.size() > 10 && random() % 16 == 0;
        const std::size_t from = copy ? random() % text.size() : 0;
        const std::size_t count = copy ? 1 + random() % 40 : 1;
        for (std::size_t i = 0; i < count; ++i) {
          text.push_back(copy ? text[from + i]
                              : static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(letters)));
          draft.append(text.back());
          if (text.size() % 7 != 0 && text.size() > 400) continue;
          const NgramDraft::Match match = draft.match();
          const NgramDraft::Match naive = naive_match(text);
          REQUIRE(match.length == naive.length);
          if (match.length == 0) continue;
          ++matches;
          REQUIRE(match.next == naive.next);
          Ids longer = text;
          for (std::size_t t = 0; t < 20; ++t) longer.push_back(longer[match.next + t]);
          Ids followed(20);
          draft.follow(followed);
          REQUIRE(std::equal(followed.begin(), followed.end(), longer.end() - 20));
        }
      }
      CHECK(matches > 100);
    }
  }
}

// A drafter in a text of a period, with passes of 2, 4 and 8 tokens that take so many times a plain one.
struct Periodic {
  NgramDraft draft;
  std::array<double, 9> seconds{};
  std::mt19937 random{11};

  explicit Periodic(const std::array<double, 4>& costs) {
    seconds[1] = costs[0];
    seconds[2] = costs[1];
    seconds[4] = costs[2];
    seconds[8] = costs[3];
    for (int i = 0; i < 4; ++i) draft.measured(1, seconds[1]);
  }
  // Passes over `tokens` tokens of text; token(i) is the i-th. Returns the passes; `spent` is what they took.
  template <typename Token>
  std::size_t passes(std::size_t tokens, const Token& token) {
    std::size_t count = 0;
    std::array<std::int32_t, 7> out{};
    for (std::size_t at = 0; at < tokens; ++count) {
      const std::size_t drafted = draft.propose(out);
      REQUIRE((drafted == 0 || drafted == 1 || drafted == 3 || drafted == 7));
      std::size_t hits = 0;
      while (hits < drafted && out[hits] == token(at + hits)) ++hits;
      for (std::size_t i = 0; i <= hits; ++i) draft.append(token(at + i));
      at += hits + 1;
      draft.measured(1 + drafted, seconds[1 + drafted]);
      spent += seconds[1 + drafted];
    }
    return count;
  }
  double spent = 0.0;
};

TEST_CASE("n-gram drafts: long where they hit, none where they miss or do not pay") {
  const auto repeated = [](std::size_t i) { return static_cast<std::int32_t>(i % 11); };
  CHECK(Periodic({1.0, 1.3, 2.0, 3.0}).passes(400, repeated) < 80);        // nearly all of 8
  CHECK(Periodic({1.0, 1.1, 1.3, 9.0}).passes(400, repeated) < 130);       // nearly all of 4
  CHECK(Periodic({1e-4, 1.3e-4, 2e-4, 3e-4}).passes(400, repeated) < 80);  // seconds of any size
  CHECK(Periodic({1e3, 1.3e3, 2e3, 3e3}).passes(400, repeated) < 80);

  // Batches that do not pay: given up before much is lost.
  Periodic dear({1.0, 2.2, 4.6, 9.0});
  CHECK(dear.passes(2000, repeated) > 1800);
  CHECK(dear.spent < 2000 * 1.03);

  // Pairs that have come before, but with another token behind them: after some misses nothing is proposed.
  Periodic misleading({1.0, 1.3, 2.0, 3.0});
  std::vector<std::int32_t> text;
  std::mt19937 random(5);
  for (std::int32_t i = 0; i < 600; ++i) {
    text.push_back(1);
    text.push_back(2);
    text.push_back(1000 + i);
  }
  const auto pairs = [&](std::size_t i) { return text[i]; };
  (void)misleading.passes(300, pairs);
  std::array<std::int32_t, 7> out{};
  std::size_t proposed = 0;
  for (std::size_t i = 300; i < 1500; ++i) {
    misleading.draft.append(text[i]);
    proposed += text[i] == 2 ? misleading.draft.propose(out) : 0;
  }
  CHECK(proposed == 0);
  // And it notices at once that repetitions have begun.
  CHECK(misleading.passes(400, repeated) < 90);

  // No room, no proposal; a little room, what fills a kernel.
  Periodic roomless({1.0, 1.3, 2.0, 3.0});
  (void)roomless.passes(100, repeated);
  CHECK(roomless.draft.propose({}) == 0);
  CHECK(roomless.draft.propose(std::span(out).first(1)) == 1);
  CHECK(roomless.draft.propose(std::span(out).first(2)) == 1);
  CHECK(roomless.draft.propose(std::span(out).first(6)) == 3);
  CHECK(roomless.draft.propose(out) == 7);
}

}  // namespace
}  // namespace bitnet
