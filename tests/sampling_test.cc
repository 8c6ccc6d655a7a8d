// The sampler: known probabilities, the order of its steps, and that the same seed gives the same tokens.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "runtime/sampling/recommended.h"
#include "runtime/sampling/sampler.h"
#include "tests/assets.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

SamplingParams neutral() {
  SamplingParams p;
  p.temperature = 1.0F;
  p.top_k = 0;
  p.top_p = 1.0F;
  return p;
}

Sampler made(const SamplingParams& params, std::size_t vocab) {
  auto sampler = Sampler::create(params, static_cast<std::int64_t>(vocab));
  INFO((sampler.ok() ? std::string() : sampler.error().message));
  REQUIRE(sampler.ok());
  return *std::move(sampler);
}

std::int32_t drawn(Sampler& sampler, const std::vector<float>& logits) {
  const auto id = sampler.sample(logits);
  INFO((id.ok() ? std::string() : id.error().message));
  REQUIRE(id.ok());
  return *id;
}

std::vector<double> probabilities(const Sampler& sampler) {
  std::vector<double> result;
  for (const auto& candidate : sampler.candidates()) result.push_back(candidate.probability);
  std::sort(result.rbegin(), result.rend());
  return result;
}

std::vector<float> random_logits(std::size_t vocab, unsigned seed, int levels) {
  std::mt19937 random(seed);
  std::vector<float> logits(vocab);
  for (float& x : logits)
    x = static_cast<float>(static_cast<int>(random() % static_cast<unsigned>(levels))) * 0.01F - 3.0F;
  return logits;
}

TEST_CASE("temperature 0 takes the largest, the lowest id on a tie") {
  SamplingParams p;
  p.temperature = 0.0F;
  Sampler s = made(p, 5);
  CHECK(drawn(s, {1, 3, 2, 3, 0}) == 1);
  CHECK(drawn(s, {-1, -1, -1, -1, -1}) == 0);
  REQUIRE(s.candidates().size() == 1);
  CHECK(s.candidates()[0].id == 0);
}

TEST_CASE("penalties come before the arg max") {
  SamplingParams p;
  p.temperature = 0.0F;
  p.repetition_penalty = 2.0F;
  Sampler s = made(p, 3);
  const std::vector<float> logits = {3, 2, -1};
  CHECK(drawn(s, logits) == 0);
  CHECK(s.accept(0).ok());
  CHECK(drawn(s, logits) == 1);  // 3 / 2 < 2
  CHECK(s.accept(0).ok());
  CHECK(drawn(s, logits) == 1);  // the count does not matter
  s.reset();
  CHECK(drawn(s, logits) == 0);

  p.repetition_penalty = 1.0F;
  p.frequency_penalty = 0.6F;
  Sampler f = made(p, 2);
  CHECK(f.accept(0).ok());
  CHECK(drawn(f, {1, 0}) == 0);  // 0.4
  CHECK(f.accept(0).ok());
  CHECK(drawn(f, {1, 0}) == 1);  // -0.2

  p.frequency_penalty = 0.0F;
  p.presence_penalty = 0.9F;
  Sampler q = made(p, 2);
  CHECK(q.accept(0).ok());
  CHECK(q.accept(0).ok());
  CHECK(drawn(q, {1, 0}) == 0);  // once
}

TEST_CASE("the same seed gives the same tokens, another seed others") {
  const std::vector<float> logits = random_logits(1000, 1, 400);
  SamplingParams p;
  p.seed = 42;
  Sampler a = made(p, logits.size());
  Sampler b = made(p, logits.size());
  p.seed = 43;
  Sampler c = made(p, logits.size());
  std::vector<std::int32_t> from_a;
  std::vector<std::int32_t> from_b;
  std::vector<std::int32_t> from_c;
  for (int i = 0; i < 50; ++i) {
    from_a.push_back(drawn(a, logits));
    from_b.push_back(drawn(b, logits));
    from_c.push_back(drawn(c, logits));
  }
  CHECK(from_a == from_b);
  CHECK(from_a != from_c);
  a.reset();
  CHECK(drawn(a, logits) == from_a.front());
}

TEST_CASE("SplitMix64: the published sequence of seed 1234567") {
  SplitMix64 random(1234567);
  CHECK(random.next() == 6457827717110365317U);
  CHECK(random.next() == 3203168211198807973U);
  CHECK(random.next() == 9817491932198370423U);
  for (int i = 0; i < 1000; ++i) {
    const double u = random.next_unit();
    CHECK((u >= 0.0 && u < 1.0));
  }
}

TEST_CASE("draws follow the probabilities") {
  const std::vector<float> logits = {std::log(0.1F), std::log(0.2F), std::log(0.3F), std::log(0.4F)};
  Sampler s = made(neutral(), 4);
  std::vector<int> counts(4);
  const int n = 20000;
  for (int i = 0; i < n; ++i) ++counts[static_cast<std::size_t>(drawn(s, logits))];
  for (std::size_t i = 0; i < 4; ++i) {
    const double p = 0.1 * static_cast<double>(i + 1);
    CHECK(std::abs(counts[i] - n * p) < 5 * std::sqrt(n * p * (1 - p)));  // five standard deviations, fixed seed
  }
}

TEST_CASE("top-k keeps the same tokens as a full sort, ties by id") {
  for (const std::size_t vocab : {1UL, 2UL, 37UL, 3000UL}) {
    for (const int levels : {3, 500}) {  // many ties, few ties
      const std::vector<float> logits = random_logits(vocab, static_cast<unsigned>(vocab), levels);
      std::vector<std::int32_t> order(vocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
      });
      for (const std::int32_t k : {1, 2, 36, 50, 1024, 1025, 2999}) {
        SamplingParams p = neutral();
        p.top_k = k;
        p.top_p = 0.9999999F;  // sorts where top-k does not
        Sampler s = made(p, vocab);
        (void)drawn(s, logits);
        REQUIRE(s.candidates().size() <= std::min<std::size_t>(static_cast<std::size_t>(k), vocab));
        for (std::size_t i = 0; i < s.candidates().size(); ++i) CHECK(s.candidates()[i].id == order[i]);
      }
    }
  }
}

TEST_CASE("borders of top-p and min-p, each with and without top-k") {
  // Probabilities 0.4, 0.3, 0.2, 0.1; running sums 0.4, 0.7, 0.9, 1; parts of the largest 1, 0.75, 0.5, 0.25.
  const std::vector<float> logits = {std::log(0.1F), std::log(0.2F), std::log(0.3F), std::log(0.4F), -1e30F};
  struct Case {
    float top_p, min_p;
    std::size_t kept;
  };
  for (const Case c : {Case{0.0F, 0.0F, 1}, Case{0.39F, 0.0F, 1}, Case{0.41F, 0.0F, 2}, Case{0.69F, 0.0F, 2},
                       Case{0.71F, 0.0F, 3}, Case{0.89F, 0.0F, 3}, Case{0.91F, 0.0F, 4}, Case{1.0F, 0.24F, 4},
                       Case{1.0F, 0.26F, 3}, Case{1.0F, 0.49F, 3}, Case{1.0F, 0.51F, 2}, Case{1.0F, 0.76F, 1},
                       Case{1.0F, 1.0F, 1}, Case{0.71F, 0.76F, 1}, Case{0.41F, 0.26F, 2}}) {
    for (const std::int32_t k : {0, 4}) {
      SamplingParams p = neutral();
      p.top_k = k;
      p.top_p = c.top_p;
      p.min_p = c.min_p;
      Sampler s = made(p, logits.size());
      INFO("top-p " << c.top_p << ", min-p " << c.min_p << ", top-k " << k);
      const std::int32_t id = drawn(s, logits);
      REQUIRE(s.candidates().size() == c.kept);
      CHECK(id >= 4 - static_cast<std::int32_t>(c.kept));
      double sum = 0;
      for (const auto& candidate : s.candidates()) sum += candidate.probability;
      CHECK(std::abs(sum - 1) < 1e-12);
    }
  }
  // Top-p counts within what top-k left: of 0.4 and 0.3 the first is 0.571.
  SamplingParams p = neutral();
  p.top_k = 2;
  p.top_p = 0.56F;
  Sampler s = made(p, logits.size());
  CHECK(drawn(s, logits) == 3);
  CHECK(s.candidates().size() == 1);
}

TEST_CASE("temperature: probabilities to the power 1/T") {
  SamplingParams p = neutral();
  p.temperature = 0.5F;
  Sampler s = made(p, 3);
  (void)drawn(s, {0.0F, std::log(2.0F), std::log(3.0F)});
  CHECK(std::abs(s.candidates()[0].probability - 1.0 / 14) < 1e-6);
  CHECK(std::abs(s.candidates()[1].probability - 4.0 / 14) < 1e-6);
  CHECK(std::abs(s.candidates()[2].probability - 9.0 / 14) < 1e-6);
}

TEST_CASE("top-p without top-k sorts block by block") {
  const std::vector<float> logits = random_logits(20000, 9, 700);
  SamplingParams sorted = neutral();
  sorted.top_k = 19999;
  SamplingParams blocks = neutral();
  for (const float p : {0.0F, 0.01F, 0.5F, 0.95F, 0.999F}) {
    sorted.top_p = blocks.top_p = p;
    Sampler a = made(sorted, logits.size());
    Sampler b = made(blocks, logits.size());
    (void)drawn(a, logits);
    (void)drawn(b, logits);
    // The 20000th token is missing in one total: the borders may differ by one.
    const auto n = std::min(a.candidates().size(), b.candidates().size());
    CHECK(std::max(a.candidates().size(), b.candidates().size()) - n <= 1);
    for (std::size_t i = 0; i < n; ++i) CHECK(a.candidates()[i].id == b.candidates()[i].id);
  }
}

TEST_CASE("extreme temperatures and logits stay finite") {
  SamplingParams p = neutral();
  p.temperature = 1e-30F;
  Sampler cold = made(p, 3);
  CHECK(drawn(cold, {1e30F, 2e30F, -3e38F}) == 1);
  p.temperature = 1e30F;
  Sampler hot = made(p, 3);
  (void)drawn(hot, {-3e38F, 3e38F, 0});
  for (const auto& candidate : hot.candidates()) CHECK(std::isfinite(candidate.probability));
}

// What a Context makes of a selection, as few tokens as it may: the `top` largest adjusted logits and the adjusted
// ones.
struct Sparse {
  std::vector<std::int32_t> ids;
  std::vector<float> values;
};
Sparse sparse_logits(const std::vector<float>& dense, const Selection& selection) {
  std::vector<float> adjusted = dense;
  for (const std::int32_t id : selection.adjusted) {
    const auto i = static_cast<std::size_t>(id);
    adjusted[i] = selection.adjust(selection.self, id, dense[i]);
  }
  Sparse some;
  some.ids.resize(dense.size());
  std::iota(some.ids.begin(), some.ids.end(), 0);
  std::stable_sort(some.ids.begin(), some.ids.end(), [&](std::int32_t a, std::int32_t b) {
    return adjusted[static_cast<std::size_t>(a)] > adjusted[static_cast<std::size_t>(b)];
  });
  some.ids.resize(static_cast<std::size_t>(selection.top));
  some.ids.insert(some.ids.end(), selection.adjusted.begin(), selection.adjusted.end());
  std::sort(some.ids.begin(), some.ids.end());
  some.ids.erase(std::unique(some.ids.begin(), some.ids.end()), some.ids.end());
  for (const std::int32_t id : some.ids) some.values.push_back(dense[static_cast<std::size_t>(id)]);
  return some;
}

TEST_CASE("the logits of a selection give the tokens, candidates and random numbers of all logits") {
  std::mt19937 random(11);
  std::vector<SamplingParams> all;
  for (const float temperature : {0.0F, 0.8F}) {
    for (const std::int32_t top_k : {1, 5, 50, 1500}) {
      for (const bool penalties : {false, true}) {
        SamplingParams params{.temperature = temperature, .top_k = top_k, .top_p = 0.95F, .min_p = 0.01F, .seed = 5};
        if (penalties) {
          params.repetition_penalty = 1.3F;
          params.frequency_penalty = -0.4F;  // lifts what was seen
          params.presence_penalty = 0.2F;
        }
        all.push_back(params);
      }
    }
  }
  for (const SamplingParams& params : all) {
    constexpr std::size_t kVocab = 2000;
    Result<Sampler> dense = Sampler::create(params, kVocab);
    Result<Sampler> sparse = Sampler::create(params, kVocab);
    REQUIRE(dense.ok());
    REQUIRE(sparse.ok());
    for (int token = 0; token < 40; ++token) {
      std::vector<float> logits(kVocab);
      for (float& value : logits) value = static_cast<float>(static_cast<int>(random() % 400) - 200) / 16.0F;  // ties
      const Selection selection = sparse->selection();
      CHECK(selection.top == (params.temperature == 0.0F ? 1 : params.top_k));
      const Sparse some = sparse_logits(logits, selection);
      const Result<std::int32_t> wanted = dense->sample(logits);
      const Result<std::int32_t> found = sparse->sample(Logits{some.values, some.ids});
      REQUIRE(wanted.ok());
      REQUIRE(found.ok());
      CHECK(*found == *wanted);
      REQUIRE(found.ok());
      bool same = sparse->candidates().size() == dense->candidates().size();
      for (std::size_t i = 0; same && i < dense->candidates().size(); ++i) {
        const Sampler::Candidate& a = dense->candidates()[i];
        const Sampler::Candidate& b = sparse->candidates()[i];
        same = a.id == b.id && a.logit == b.logit && a.probability == b.probability;
      }
      CHECK(same);
      REQUIRE(dense->accept(*wanted).ok());
      REQUIRE(sparse->accept(*found).ok());
    }
  }
}

TEST_CASE("selection: all logits where the draw needs them; accepted tokens only with penalties") {
  const auto selection_of = [](const SamplingParams& params) {
    Result<Sampler> sampler = Sampler::create(params, 100);
    REQUIRE(sampler.ok());
    REQUIRE(sampler->accept(7).ok());
    const Selection selection = sampler->selection();
    return std::pair(selection.top, selection.adjusted.size());
  };
  CHECK(selection_of({.temperature = 0.0F, .top_k = 0}) == std::pair<std::int64_t, std::size_t>(1, 0));
  CHECK(selection_of({.temperature = 1.0F, .top_k = 0}) == std::pair<std::int64_t, std::size_t>(0, 0));
  CHECK(selection_of({.temperature = 1.0F, .top_k = 100}) == std::pair<std::int64_t, std::size_t>(0, 0));
  CHECK(selection_of({.temperature = 1.0F, .top_k = 9, .presence_penalty = 1.0F}) ==
        std::pair<std::int64_t, std::size_t>(9, 1));
}

TEST_CASE("logits of some tokens: too few, unsorted or foreign ids are errors") {
  Result<Sampler> sampler = Sampler::create({.temperature = 1.0F, .top_k = 3}, 10);
  REQUIRE(sampler.ok());
  const std::vector<float> values{1.0F, 2.0F, 3.0F};
  const auto sample = [&](const std::vector<std::int32_t>& ids) {
    const Result<std::int32_t> id = sampler->sample(Logits{values, ids});
    return id.ok() ? std::string("ok") : id.error().message;
  };
  CHECK(sample({1, 4, 9}) == "ok");
  CHECK(sample({1, 4, 10}).find("token 10") != std::string::npos);
  CHECK(sample({1, 4, 4}).find("ascending") != std::string::npos);
  CHECK(sample({-1, 4, 5}).find("ascending") != std::string::npos);
  CHECK(sample({1, 4}).find("as many of each") != std::string::npos);
  Result<Sampler> every = Sampler::create({.temperature = 1.0F, .top_k = 0}, 10);
  REQUIRE(every.ok());
  const std::vector<std::int32_t> ids{1, 4, 9};
  CHECK_FALSE(every->sample(Logits{values, ids}).ok());
}

TEST_CASE("logits that are not finite, or not as many as the vocabulary, are errors") {
  for (const float temperature : {0.0F, 0.7F}) {
    SamplingParams p;
    p.temperature = temperature;
    Sampler s = made(p, 4);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      const auto id = s.sample(std::vector<float>{0, 1, bad, 2});
      REQUIRE_FALSE(id.ok());
      CHECK(id.error().message.find("token 2") != std::string::npos);
    }
    CHECK_FALSE(s.sample(std::vector<float>{0, 1}).ok());
    CHECK(s.sample(std::vector<float>{0, 1, 2, 3}).ok());
  }
  SamplingParams p;
  p.repetition_penalty = 1e-38F;
  Sampler s = made(p, 2);
  CHECK(s.accept(1).ok());
  const auto id = s.sample(std::vector<float>{0, 1e10F});
  REQUIRE_FALSE(id.ok());
  CHECK(id.error().message.find("after penalties") != std::string::npos);
}

TEST_CASE("parameters out of range are named") {
  const auto refused = [](const char* name, auto change) {
    SamplingParams p;
    change(p);
    const auto s = Sampler::create(p, 10);
    REQUIRE_FALSE(s.ok());
    CHECK(s.error().code == ErrorCode::kUsage);
    CHECK(s.error().message.find(name) != std::string::npos);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  refused("temperature", [](SamplingParams& p) { p.temperature = -0.1F; });
  refused("temperature", [&](SamplingParams& p) { p.temperature = nan; });
  refused("top-k", [](SamplingParams& p) { p.top_k = -1; });
  refused("top-p", [](SamplingParams& p) { p.top_p = 1.1F; });
  refused("top-p", [&](SamplingParams& p) { p.top_p = nan; });
  refused("min-p", [](SamplingParams& p) { p.min_p = -0.1F; });
  refused("repetition penalty", [](SamplingParams& p) { p.repetition_penalty = 0.0F; });
  refused("frequency penalty", [&](SamplingParams& p) { p.frequency_penalty = nan; });
  refused("presence penalty", [&](SamplingParams& p) { p.presence_penalty = nan; });
  CHECK_FALSE(Sampler::create({}, 0).ok());
  Sampler s = made({}, 10);
  CHECK_FALSE(s.accept(10).ok());
  CHECK_FALSE(s.accept(-1).ok());
}

// What a file with only these metadata recommends.
template <typename... Settings>
Result<SamplingParams> recommended(const Settings&... settings) {
  const test::TempFolder folder;
  gguf::Writer writer;
  writer.set("general.architecture", "bitnet-b1.58");
  (writer.set(settings.first, settings.second), ...);
  REQUIRE(writer.write(folder.file("x.gguf"), {}).ok());
  const auto file = gguf::File::open(folder.file("x.gguf"));
  REQUIRE(file.ok());
  return recommended_sampling(*file);
}

TEST_CASE("what a model recommends") {
  using std::pair;
  const SamplingParams defaults;
  const auto nothing = recommended();
  REQUIRE(nothing.ok());
  CHECK(nothing->temperature == defaults.temperature);
  CHECK(nothing->top_k == defaults.top_k);
  CHECK(nothing->top_p == defaults.top_p);
  CHECK(nothing->min_p == defaults.min_p);
  CHECK(nothing->repetition_penalty == defaults.repetition_penalty);

  const auto all = recommended(pair{"general.sampling.temp", 0.5F}, pair{"general.sampling.top_k", std::uint32_t{7}},
                               pair{"general.sampling.top_p", 0.25F}, pair{"general.sampling.min_p", 0.125F},
                               pair{"general.sampling.penalty_repeat", 1.5F});
  REQUIRE(all.ok());
  CHECK(all->temperature == 0.5F);
  CHECK(all->top_k == 7);
  CHECK(all->top_p == 0.25F);
  CHECK(all->min_p == 0.125F);
  CHECK(all->repetition_penalty == 1.5F);
  CHECK(all->frequency_penalty == 0.0F);

  const auto fails = [](const Result<SamplingParams>& result, const std::string& part) {
    REQUIRE_FALSE(result.ok());
    CAPTURE(result.error().message);
    CHECK(result.error().message.find(part) != std::string::npos);
  };
  fails(recommended(pair{"general.sampling.temp", "hot"}), "general.sampling.temp");
  fails(recommended(pair{"general.sampling.temp", -1.0F}), "temperature");
  fails(recommended(pair{"general.sampling.penalty_repeat", 0.0F}), "repetition");
  fails(recommended(pair{"general.sampling.top_p", 1.5F}), "top");
  fails(recommended(pair{"general.sampling.top_k", std::int32_t{-1}}), "general.sampling.top_k");
  fails(recommended(pair{"general.sampling.top_k", std::uint64_t{1} << 31}), "2^31 - 1");
}

TEST_CASE("known cases: each sampler alone, and combinations") {
  const auto path = test::asset("numerics/sampler_cases.json", "known sampler cases");
  if (!path) return;
  const auto file = nlohmann::json::parse(std::ifstream(*path));
  int checked = 0;
  for (const auto& test_case : file.at("cases")) {
    const auto name = test_case.at("sampler").get<std::string>();
    SamplingParams p = neutral();
    if (name == "temp") {
      p.temperature = test_case.at("temp").get<float>();
    } else if (name == "top_k") {
      p.top_k = test_case.at("k").get<std::int32_t>();
    } else if (name == "top_p") {
      p.top_p = test_case.at("p").get<float>();
    } else if (name == "min_p") {
      p.min_p = test_case.at("p").get<float>();
    } else if (name == "penalties") {
      p.repetition_penalty = test_case.at("repeat").get<float>();
      p.frequency_penalty = test_case.at("freq").get<float>();
      p.presence_penalty = test_case.at("presence").get<float>();
    } else {
      continue;  // samplers that this one does not have
    }
    std::vector<float> logits;
    for (const double x : test_case.at("probs")) logits.push_back(static_cast<float>(std::log(x)));
    Sampler s = made(p, logits.size());
    if (name == "penalties") {
      for (const std::int32_t id : test_case.at("last_tokens")) CHECK(s.accept(id).ok());
    }
    const auto expected = test_case.at("expected").get<std::vector<double>>();
    INFO(test_case.dump());
    if (name == "temp" && p.temperature == 0.0F) {
      CHECK(drawn(s, logits) ==
            static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    } else {
      (void)drawn(s, logits);
      const std::vector<double> found = probabilities(s);
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::abs(found[i] - expected[i]) < 1e-5);
    }
    ++checked;
  }
  CHECK(checked >= 10);

  int combined = 0;
  for (const auto& test_case : file.at("queue_cases")) {
    const auto sequence = test_case.at("seq").get<std::string>();
    const bool in_our_order = std::is_sorted(sequence.begin(), sequence.end(), [](char a, char b) {
      return std::string("kpm").find(a) < std::string("kpm").find(b);
    });
    if (!in_our_order) continue;
    SamplingParams p = neutral();
    if (sequence.find('k') != std::string::npos) p.top_k = test_case.at("top_k").get<std::int32_t>();
    if (sequence.find('p') != std::string::npos) p.top_p = test_case.at("top_p").get<float>();
    if (sequence.find('m') != std::string::npos) p.min_p = test_case.at("min_p").get<float>();
    std::vector<float> logits(test_case.at("n_vocab").get<std::size_t>());
    logits[0] = -1e30F;  // log 0
    for (std::size_t i = 1; i < logits.size(); ++i) logits[i] = std::log(static_cast<float>(i));
    Sampler s = made(p, logits.size());
    (void)drawn(s, logits);
    INFO(test_case.dump());
    CHECK(s.candidates().size() == test_case.at("kept").get<std::size_t>());
    ++combined;
  }
  CHECK(combined >= 8);
}

}  // namespace
}  // namespace bitnet
