// The race among variants: rounds with early stopping, and a final that brings candidates forward.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "codegen/tune.h"
#include "runtime/probe/probes.h"

namespace bitnet::codegen {
namespace {

using probe::median;

constexpr std::size_t kFinalists = 4;
// After so many rounds, those leave whose median is above the best one's by more than the factor.
struct Cut {
  int rounds;
  double factor;
  std::size_t keep;
};
constexpr Cut kCuts[] = {{2, 1.30, 64}, {4, 1.12, 8}, {7, 1.05, kFinalists}};
// Among the promising ones, the simplest within this of the best goes first.
constexpr double kSimpler = 1.01;

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
    if (running_.size() > 1 || contestants_.size() == 1) BITNET_RETURN_IF_ERROR(run_rounds(options_.final_rounds));
    return finish(promising());
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
    std::ranges::sort(order, {}, [&](std::size_t c) { return std::pair(median(costs_[c]), c); });
    const double limit = median(costs_[order.front()]) * cut.factor;
    std::vector<std::size_t> left;
    for (std::size_t place = 0; place < order.size(); ++place) {
      const std::size_t c = order[place];
      if (c == standard_ || (place < cut.keep && median(costs_[c]) <= limit)) left.push_back(c);
    }
    std::ranges::sort(left);
    running_ = std::move(left);
  }

  // Time of b over that of a, less 1: median over the rounds in which both ran.
  [[nodiscard]] double lead(std::size_t a, std::size_t b) const {
    std::vector<double> ratios;
    for (const Round& round : rounds_) {
      const auto in_a = std::ranges::find(round.who, a);
      const auto in_b = std::ranges::find(round.who, b);
      if (in_a == round.who.end() || in_b == round.who.end()) continue;
      ratios.push_back(round.costs[static_cast<std::size_t>(in_b - round.who.begin())] /
                       round.costs[static_cast<std::size_t>(in_a - round.who.begin())]);
    }
    return ratios.empty() ? 0.0 : median(ratios) - 1;
  }

  // Of those in the final.
  [[nodiscard]] std::vector<std::size_t> promising() const {
    std::vector<std::size_t> found;
    for (const std::size_t c : running_) {
      if (c != standard_ && lead(c, standard_) > options_.promise) found.push_back(c);
    }
    std::ranges::sort(found, {}, [&](std::size_t c) { return std::pair(-lead(c, standard_), c); });
    if (found.empty()) return found;
    std::size_t first = 0;
    for (std::size_t i = 1; i < found.size(); ++i) {
      if (found[i] < found[first] && lead(found[0], found[i]) <= kSimpler - 1) first = i;
    }
    std::rotate(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(first),
                found.begin() + static_cast<std::ptrdiff_t>(first) + 1);
    if (found.size() > options_.finalists) found.resize(options_.finalists);
    return found;
  }

  [[nodiscard]] RaceResult finish(std::vector<std::size_t> finalists) const {
    const std::size_t winner = finalists.empty() ? standard_ : finalists.front();
    RaceResult result;
    result.winner = winner;
    result.finalists = std::move(finalists);
    result.runner_up = winner;
    std::size_t most = 0;  // rounds that the runner-up shared with the winner: those cut early know less
    for (std::size_t c = 0; c < contestants_.size(); ++c) {
      result.costs.push_back(median(costs_[c]));
      result.rounds.push_back(static_cast<int>(costs_[c].size()));
      if (c != winner) most = std::max(most, std::min(costs_[c].size(), costs_[winner].size()));
    }
    for (std::size_t c = 0; c < contestants_.size(); ++c) {
      if (c == winner || costs_[c].size() < std::min<std::size_t>(most, 7)) continue;
      if (result.runner_up == winner || lead(winner, c) < lead(winner, result.runner_up)) result.runner_up = c;
    }
    if (result.runner_up != winner) result.lead = lead(winner, result.runner_up);
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

}  // namespace bitnet::codegen
