// The race among variants: rounds with early stopping, a final, and a duel that has to confirm a lead.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "codegen/tune.h"

namespace bitnet::codegen {
namespace {

constexpr std::size_t kFinalists = 4;
// After so many rounds, those leave whose median is above the best one's by more than the factor.
struct Cut {
  int rounds;
  double factor;
  std::size_t keep;
};
constexpr Cut kCuts[] = {{2, 1.30, 64}, {4, 1.12, 8}, {7, 1.05, kFinalists}};
// Among those that beat the standard, the simplest one within this of the best.
constexpr double kSimpler = 1.01;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 != 0 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Status check_stop(const std::function<bool()>& stop) {
  if (stop && stop()) return Error{ErrorCode::kInterrupted, "interrupted; nothing was written"};
  return {};
}

class Race {
 public:
  Race(TuneBench& bench, std::span<const Contestant> contestants, std::size_t standard, const RaceOptions& options,
       const std::function<bool()>& stop)
      : bench_(bench),
        contestants_(contestants),
        standard_(standard),
        options_(options),
        stop_(stop),
        costs_(contestants.size()) {
    running_.resize(contestants.size());
    std::iota(running_.begin(), running_.end(), std::size_t{0});
  }

  Result<RaceResult> run() {
    int rounds = 0;
    for (const Cut& cut : kCuts) {
      if (running_.size() == 1) break;
      BITNET_RETURN_IF_ERROR(run_rounds(cut.rounds - rounds));
      rounds = cut.rounds;
      leave(cut);
    }
    const std::size_t final_begin = rounds_.size();
    BITNET_RETURN_IF_ERROR(run_rounds(options_.final_rounds));
    std::size_t winner = pick(final_begin);
    if (winner != standard_) {
      // The best of many has been lucky too: the lead must show again.
      running_ = {std::min(winner, standard_), std::max(winner, standard_)};
      const std::size_t duel_begin = rounds_.size();
      BITNET_RETURN_IF_ERROR(run_rounds(options_.final_rounds));
      if (lead(winner, standard_, duel_begin) <= options_.tie) winner = standard_;
    }
    return finish(winner);
  }

 private:
  struct Round {
    std::vector<std::size_t> who;
    std::vector<double> costs;  // beside who
  };

  Status run_rounds(int count) {
    for (int i = 0; i < count; ++i) {
      BITNET_RETURN_IF_ERROR(check_stop(stop_));
      // Each round begins with another one, so that none always follows the same neighbour.
      Round round;
      round.who = running_;
      std::ranges::rotate(round.who,
                          round.who.begin() + static_cast<std::ptrdiff_t>(rounds_.size() % round.who.size()));
      std::vector<Trial> trials;
      for (const std::size_t c : round.who) trials.insert(trials.end(), contestants_[c].begin(), contestants_[c].end());
      BITNET_ASSIGN_OR_RETURN(const std::vector<double> samples, bench_.round(trials));
      if (samples.size() != trials.size()) {
        return Error{ErrorCode::kFailure, "tuner: asked for " + std::to_string(trials.size()) + " samples, got " +
                                              std::to_string(samples.size())};
      }
      std::size_t at = 0;
      for (const std::size_t c : round.who) {
        double logs = 0;
        for (std::size_t t = 0; t < contestants_[c].size(); ++t) logs += std::log(samples[at++]);
        round.costs.push_back(std::exp(logs / static_cast<double>(contestants_[c].size())));
        costs_[c].push_back(round.costs.back());
      }
      rounds_.push_back(std::move(round));
    }
    return {};
  }

  void leave(const Cut& cut) {
    std::vector<std::size_t> order = running_;
    std::ranges::stable_sort(order, {}, [&](std::size_t c) { return median(costs_[c]); });
    const double limit = median(costs_[order.front()]) * cut.factor;
    std::vector<std::size_t> left;
    for (std::size_t place = 0; place < order.size(); ++place) {
      const std::size_t c = order[place];
      if (c == standard_ || (place < cut.keep && median(costs_[c]) <= limit)) left.push_back(c);
    }
    std::ranges::sort(left);
    running_ = std::move(left);
  }

  // Time of b over that of a, less 1: median over the rounds from `from` on in which both ran.
  [[nodiscard]] double lead(std::size_t a, std::size_t b, std::size_t from) const {
    std::vector<double> ratios;
    for (std::size_t r = from; r < rounds_.size(); ++r) {
      const Round& round = rounds_[r];
      const auto in_a = std::ranges::find(round.who, a);
      const auto in_b = std::ranges::find(round.who, b);
      if (in_a == round.who.end() || in_b == round.who.end()) continue;
      ratios.push_back(round.costs[static_cast<std::size_t>(in_b - round.who.begin())] /
                       round.costs[static_cast<std::size_t>(in_a - round.who.begin())]);
    }
    return ratios.empty() ? 0.0 : median(ratios) - 1;
  }

  // Of those in the final: the standard within the tie, else the simplest one that is as good as the best.
  [[nodiscard]] std::size_t pick(std::size_t final_begin) const {
    std::size_t best = running_.front();
    for (const std::size_t c : running_) {
      if (lead(c, best, final_begin) > 0) best = c;
    }
    if (lead(best, standard_, final_begin) <= options_.tie) return standard_;
    for (const std::size_t c : running_) {
      if (c != standard_ && lead(best, c, final_begin) <= kSimpler - 1) return c;
    }
    return best;
  }

  [[nodiscard]] RaceResult finish(std::size_t winner) const {
    RaceResult result;
    result.winner = winner;
    result.runner_up = winner;
    std::size_t most = 0;  // rounds that the runner-up shared with the winner: those cut early know less
    for (std::size_t c = 0; c < contestants_.size(); ++c) {
      result.costs.push_back(median(costs_[c]));
      result.rounds.push_back(static_cast<int>(costs_[c].size()));
      if (c != winner) most = std::max(most, std::min(costs_[c].size(), costs_[winner].size()));
    }
    for (std::size_t c = 0; c < contestants_.size(); ++c) {
      if (c == winner || costs_[c].size() < std::min<std::size_t>(most, 7)) continue;
      if (result.runner_up == winner || lead(winner, c, 0) < lead(winner, result.runner_up, 0)) result.runner_up = c;
    }
    if (result.runner_up != winner) result.lead = lead(winner, result.runner_up, 0);
    return result;
  }

  TuneBench& bench_;
  std::span<const Contestant> contestants_;
  std::size_t standard_;
  const RaceOptions& options_;
  const std::function<bool()>& stop_;
  std::vector<std::size_t> running_;  // ascending
  std::vector<Round> rounds_;
  std::vector<std::vector<double>> costs_;  // of each contestant, by round
};

}  // namespace

Result<RaceResult> race(TuneBench& bench, std::span<const Contestant> contestants, std::size_t standard,
                        const RaceOptions& options, const std::function<bool()>& stop) {
  if (contestants.empty() || standard >= contestants.size()) {
    return Error{ErrorCode::kFailure, "tuner: a race without contestants, or without its standard"};
  }
  return Race(bench, contestants, standard, options, stop).run();
}

Result<double> time_ratio(TuneBench& bench, const Trial& first, const Trial& second, int rounds,
                          const std::function<bool()>& stop) {
  std::vector<double> ratios;
  for (int i = 0; i < rounds; ++i) {
    BITNET_RETURN_IF_ERROR(check_stop(stop));
    const bool swapped = i % 2 != 0;
    const Trial trials[] = {swapped ? second : first, swapped ? first : second};
    BITNET_ASSIGN_OR_RETURN(const std::vector<double> samples, bench.round(trials));
    ratios.push_back(swapped ? samples[1] / samples[0] : samples[0] / samples[1]);
  }
  return median(std::move(ratios));
}

}  // namespace bitnet::codegen
