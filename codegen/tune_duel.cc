// Two kernels against each other, in this process and in fresh ones. Confirming: the part of the search that no luck of
// one process survives.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "codegen/families.h"
#include "codegen/fresh_process.h"
#include "codegen/tune_places.h"
#include "codegen/tune_space.h"
#include "runtime/probe/probes.h"

namespace bitnet::codegen {
namespace {

using probe::median;

// The order of a round's samples, in pairs of neighbours: half of them begin with either kernel.
constexpr bool kSecond[] = {false, true, true, false, true, false, false, true};
// Between challengers of one place: a later one must be faster by more than this.
constexpr double kClearly = 1.01;

struct Sided {
  Trial first;
  Trial second;
};

// The variants of all duels, each once, and the trials of each duel.
struct DuelPlan {
  std::vector<KernelSpec> variants;
  std::vector<Sided> sides;
};

DuelPlan plan_duels(std::span<const Duel> duels) {
  DuelPlan plan;
  std::vector<Duel> made;  // beside plan.variants; `first` is the point
  const auto variant = [&](const TuneShape& shape, const Point& point) {
    const auto known = std::ranges::find_if(made, [&](const Duel& other) {
      return other.shape.n == shape.n && other.shape.k == shape.k && same_kernel(other.first, point);
    });
    if (known != made.end()) return static_cast<std::size_t>(known - made.begin());
    plan.variants.push_back(
        ternary_kernel(point, {shape.n, shape.k}, point.technique + "v" + std::to_string(made.size())));
    made.push_back({shape, point, point, 1, false});
    return made.size() - 1;
  };
  for (const Duel& duel : duels) {
    plan.sides.push_back({{variant(duel.shape, duel.first), duel.tokens, duel.all_threads},
                          {variant(duel.shape, duel.second), duel.tokens, duel.all_threads}});
  }
  return plan;
}

// What may take the place of `standard`, and which of the duels decide on it.
struct Challenge {
  Point standard;
  Point challenger;
  std::size_t first_duel = 0;
  std::size_t duels = 0;
};

struct LayoutChallenge {
  const TuneGroup* group = nullptr;
  TuneShape shape;
  Format standing = Format::kI2s;
  std::size_t first_duel = 0;
  std::size_t duels = 0;
};

// By process: how much longer the standard took, over all uses.
struct Verdict {
  double lead = 0;  // median of processes, less 1
  double least = 0;
  double most = 0;
  bool won = false;
};

Verdict judge(const std::vector<std::vector<double>>& ratios, std::size_t first, std::size_t count, double tie) {
  Verdict verdict;
  std::vector<double> together;
  for (const std::vector<double>& process : ratios) {
    double logs = 0;
    for (std::size_t d = first; d < first + count; ++d) logs += std::log(process[d]);
    together.push_back(std::exp(logs / static_cast<double>(count)));
  }
  verdict.lead = median(together) - 1;
  verdict.least = *std::ranges::min_element(together) - 1;
  verdict.most = *std::ranges::max_element(together) - 1;
  verdict.won = verdict.lead > tie;
  for (std::size_t d = first; d < first + count; ++d) {
    std::vector<double> use;
    for (const std::vector<double>& process : ratios) use.push_back(process[d]);
    if (median(use) < 1 / (1 + tie)) verdict.won = false;  // a gain in one use must not be a loss in another
  }
  return verdict;
}

std::string percent(double fraction) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", fraction * 100);
  return text;
}

std::string lead_text(const Verdict& verdict, std::size_t processes, const std::string& standard) {
  return percent(verdict.lead) + " % faster than " + standard + " (" + percent(verdict.least) + " to " +
         percent(verdict.most) + " in " + std::to_string(processes) + " processes)";
}

bool same_place(const Point& a, const Point& b) {
  return a.isa == b.isa && a.op == b.op && a.format == b.format && a.m == b.m && a.n == b.n && a.k == b.k;
}

class Confirmer {
 public:
  Confirmer(TuneResult& result, std::span<const TuneShape> shapes, const TargetSelection& selection, const Points& base,
            const TuneOptions& options)
      : result_(result),
        shapes_(shapes),
        groups_(groups_of(selection)),
        base_(base),
        options_(options),
        bytes_(memory_bytes(shapes, options)) {}

  Status run(TuneBench& bench) {
    for (const Point& point : result_.points) challenge(point);
    for (const Point& point : result_.others) challenge(point);
    for (const TuneGroup& group : groups_) {
      for (const TuneShape& shape : shapes_) BITNET_RETURN_IF_ERROR(challenge_layout(group, shape));
    }
    std::vector<std::vector<double>> ratios;
    if (!duels_.empty()) {
      BITNET_ASSIGN_OR_RETURN(ratios, time_duels(duels_, bench, options_));
    }
    for (Point& point : result_.points) settle(point, ratios);
    for (const LayoutChallenge& layout : layouts_) settle(layout, ratios);
    result_.others.clear();
    return {};
  }

 private:
  void challenge(const Point& point) {
    const TuneShape shape = {point.n, point.k, 1};
    const Result<Point> standard = choose_point(base_, point, shape);
    if (!standard.ok() || same_kernel(*standard, point)) return;
    Challenge challenge = {*standard, point, duels_.size(), 0};
    for (const Operation& operation : kOperations) {
      if (operation.op != point.op || operation.m != point.m) continue;
      for (const Trial& use : uses_of(operation, options_.more_threads)) {
        duels_.push_back({shape, *standard, point, use.tokens, use.all_threads});
      }
    }
    challenge.duels = duels_.size() - challenge.first_duel;
    challenges_.push_back(std::move(challenge));
  }

  // Both formats by the points that served before.
  Status challenge_layout(const TuneGroup& group, const TuneShape& shape) {
    Points chosen;
    chosen.layouts = result_.layouts;
    const Format standing = chosen_format(base_, group, shape, bytes_);
    const Format format = chosen_format(chosen, group, shape, bytes_);
    if (format == standing) return {};
    LayoutChallenge layout = {&group, shape, standing, duels_.size(), 0};
    for (const Operation& operation : {kOperations[0], kOperations[1]}) {
      BITNET_ASSIGN_OR_RETURN(const std::optional<Point> old, serving(base_, group, shape, operation, standing));
      BITNET_ASSIGN_OR_RETURN(const std::optional<Point> now, serving(base_, group, shape, operation, format));
      if (!old || !now) continue;
      for (const Trial& use : uses_of(operation, options_.more_threads)) {
        if (operation.op == Op::kGemm && use.tokens != kLayoutTokens) continue;
        duels_.push_back({shape, *old, *now, use.tokens, use.all_threads});
      }
    }
    layout.duels = duels_.size() - layout.first_duel;
    layouts_.push_back(layout);
    return {};
  }

  // The best challenger that won takes the place, else the standard.
  void settle(Point& point, const std::vector<std::vector<double>>& ratios) const {
    const Challenge* best = nullptr;
    Verdict verdict;
    bool challenged = false;
    for (const Challenge& challenge : challenges_) {
      if (!same_place(challenge.challenger, point)) continue;
      challenged = true;
      const Verdict now = judge(ratios, challenge.first_duel, challenge.duels, options_.tie);
      if (!now.won || (best != nullptr && 1 + now.lead <= (1 + verdict.lead) * kClearly)) continue;
      best = &challenge;
      verdict = now;
    }
    if (!challenged) return;
    const Point place = point;
    if (best != nullptr) {
      point = best->challenger;
      point.note += "; " + lead_text(verdict, ratios.size(), describe(best->standard));
    } else {
      const auto standard =
          std::ranges::find_if(challenges_, [&](const Challenge& c) { return same_place(c.challenger, place); });
      point = standard->standard;
      point.n = place.n;
      point.k = place.k;
      point.note = "as before: nothing was faster in several processes";
    }
  }

  void settle(const LayoutChallenge& layout, const std::vector<std::vector<double>>& ratios) {
    const Verdict verdict =
        layout.duels == 0 ? Verdict() : judge(ratios, layout.first_duel, layout.duels, options_.tie);
    for (const Target* image : layout.group->images) {
      for (LayoutPoint& row : result_.layouts) {
        if (row.isa != image->isa || row.n != layout.shape.n || row.k != layout.shape.k) continue;
        if (verdict.won) {
          row.note += "; " + lead_text(verdict, ratios.size(), std::string(to_string(layout.standing)));
          continue;
        }
        row.format = has_family(image->isa, layout.standing, "gemv") ? layout.standing : Format::kI2s;
        row.min_model_bytes = row.format == Format::kI2s ? 0 : options_.cached_bytes;
        row.note = "as before: nothing was faster in several processes";
      }
    }
  }

  TuneResult& result_;
  std::span<const TuneShape> shapes_;
  std::vector<TuneGroup> groups_;
  const Points& base_;
  const TuneOptions& options_;
  std::uint64_t bytes_;
  std::vector<Duel> duels_;
  std::vector<Challenge> challenges_;
  std::vector<LayoutChallenge> layouts_;
};

}  // namespace

Result<double> time_ratio(TuneBench& bench, const Trial& first, const Trial& second, int rounds,
                          const std::function<bool()>& stop) {
  std::vector<double> logs;  // of neighbours' ratios: a sample that something else disturbed spoils one of them
  for (int i = 0; i < rounds; ++i) {
    if (stop && stop()) return Error{ErrorCode::kInterrupted, "interrupted; nothing was written"};
    const bool swapped = i % 2 != 0;
    std::vector<Trial> trials;
    for (const bool is_second : kSecond) trials.push_back(is_second != swapped ? second : first);
    BITNET_ASSIGN_OR_RETURN(const std::vector<double> samples, bench.round(trials));
    if (samples.size() != trials.size()) {
      return Error{ErrorCode::kFailure, "tuner: asked for " + std::to_string(trials.size()) + " samples, got " +
                                            std::to_string(samples.size())};
    }
    for (std::size_t s = 0; s < samples.size(); s += 2) {
      const double ratio = samples[s] / samples[s + 1];
      logs.push_back(kSecond[s] != swapped ? -std::log(ratio) : std::log(ratio));
    }
  }
  return std::exp(median(std::move(logs)));
}

Result<std::vector<std::vector<double>>> time_duels(std::span<const Duel> duels, TuneBench& bench,
                                                    const TuneOptions& options) {
  TuneProgress progress;
  progress.total = static_cast<std::size_t>(options.processes);
  const auto say = [&](std::string now) {
    progress.now = std::move(now);
    if (options.progress) options.progress(progress);
  };
  const std::string count = std::to_string(duels.size()) + (duels.size() == 1 ? " comparison" : " comparisons");
  say("compiling for " + count);
  const DuelPlan plan = plan_duels(duels);
  BITNET_RETURN_IF_ERROR(bench.prepare(plan.variants));
  for (std::size_t v = 0; v < plan.variants.size(); ++v) BITNET_RETURN_IF_ERROR(bench.check(v));
  const auto work = [&]() -> Result<std::vector<double>> {
    std::vector<double> ratios;
    for (const Sided& sides : plan.sides) {
      BITNET_ASSIGN_OR_RETURN(const double ratio,
                              time_ratio(bench, sides.first, sides.second, options.duel_rounds, options.stop));
      ratios.push_back(ratio);
    }
    return ratios;
  };
  std::vector<std::vector<double>> ratios;
  for (int process = 0; process < options.processes; ++process) {
    say(count + " in process " + std::to_string(process + 1) + " of " + std::to_string(options.processes));
    BITNET_ASSIGN_OR_RETURN(std::vector<double> answer, in_fresh_process(work, options.stop));
    if (answer.size() != duels.size()) {
      return Error{ErrorCode::kFailure, "tuner: asked a process for " + std::to_string(duels.size()) +
                                            " comparisons, got " + std::to_string(answer.size())};
    }
    ratios.push_back(std::move(answer));
    ++progress.done;
  }
  say("");
  return ratios;
}

void leave_out_known(TuneResult& result, std::span<const TuneShape> shapes, const TargetSelection& selection,
                     const Points& known, const TuneOptions& options) {
  std::erase_if(result.points, [&](const Point& point) {
    const Result<Point> served = choose_point(known, point, {point.n, point.k, 1});
    return served.ok() && same_kernel(*served, point);
  });
  Points tuned;
  tuned.layouts = result.layouts;
  for (const TuneGroup& group : groups_of(selection)) {
    for (const TuneShape& shape : shapes) {
      const std::uint64_t bytes = memory_bytes(shapes, options);
      if (chosen_format(tuned, group, shape, bytes) != chosen_format(known, group, shape, bytes)) continue;
      std::erase_if(result.layouts, [&](const LayoutPoint& row) {
        return row.n == shape.n && row.k == shape.k &&
               std::ranges::any_of(group.images, [&](const Target* image) { return image->isa == row.isa; });
      });
    }
  }
}

Status confirm(TuneResult& result, std::span<const TuneShape> shapes, const TargetSelection& selection,
               const Points& base, TuneBench& bench, const TuneOptions& options) {
  return Confirmer(result, shapes, selection, base, options).run(bench);
}

}  // namespace bitnet::codegen
