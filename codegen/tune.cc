// The order of the search: for each shape, one compilation of all variants; then for each target a race per format and
// operation, formats that cannot win any more left out; last a race of layouts, the formats' best kernels side by side.
// What comes out of the races is confirmed in tune_duel.cc.
#include "codegen/tune.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "codegen/families.h"
#include "codegen/tune_places.h"
#include "codegen/tune_space.h"
#include "runtime/kernels/layout.h"

namespace bitnet::codegen {
namespace {

constexpr Format kFormats[] = {Format::kI2s, Format::kT5, Format::kTl1, Format::kTl2};
// A format whose gemv is slower than the best one's by more than this cannot win as a layout: its other operations are
// not tuned (except in a full run; i2s always is, since other CPUs and --format i2s need it).
constexpr double kHopeless = 1.10;

std::string place_name(const Point& place) {
  std::string name = std::string(to_string(place.isa)) + " " + std::string(to_string(place.format)) + " " +
                     std::string(to_string(place.op));
  if (place.m != 0) name += " m = " + std::to_string(place.m);
  return name;
}

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string slower(double lead) { return lead < 0.005 ? "the same" : number("%.0f %% slower", lead * 100); }

// One place (isa, format, op, m) of a shape: its variants and, once raced, the winner.
struct Place {
  Point point;  // isa, op, format, m
  const Operation* operation = nullptr;
  std::vector<Point> space;
  std::size_t standard = 0;
  std::size_t first_variant = 0;  // of its space, among all of the shape
  bool done = false;
  std::size_t winner = 0;
  double cost = 0;  // of the winner
};

struct FormatPlaces {
  const Target* target = nullptr;
  Format format = Format::kI2s;
  std::vector<std::size_t> places;  // in the order of kOperations, gemv first
};

struct GroupPlaces {
  const TuneGroup* group = nullptr;
  std::vector<FormatPlaces> formats;
};

class Tuner {
 public:
  Tuner(const TargetSelection& selection, const Points& base, TuneBench& bench, const TuneOptions& options)
      : groups_(groups_of(selection)), base_(base), bench_(bench), options_(options) {
    race_options_.final_rounds = options.full ? 16 : 8;
    race_options_.finalists = options.full ? 3 : 2;
  }

  Result<TuneResult> run(std::span<const TuneShape> shapes) {
    bytes_ = memory_bytes(shapes, options_);
    for (const TuneShape& shape : shapes) {
      for (const GroupPlaces& group : plan_shape(shape)) {
        for (const FormatPlaces& format : group.formats) progress_.total += format.places.size();
        ++progress_.total;  // the layout
      }
    }
    for (const TuneShape& shape : shapes) BITNET_RETURN_IF_ERROR(tune_shape(shape));
    progress_.now.clear();
    report();
    return std::move(result_);
  }

 private:
  static std::size_t operations_of(const Target& target, Format format) {
    return static_cast<std::size_t>(std::ranges::count_if(
        kOperations, [&](const Operation& operation) { return has_family(target.isa, format, operation.family); }));
  }
  static std::size_t most_operations(const TuneGroup& group, Format format) {
    std::size_t most = 0;
    for (const Target* image : group.images) most = std::max(most, operations_of(*image, format));
    return most;
  }

  // Fills places_ with what there is to race for a shape.
  std::vector<GroupPlaces> plan_shape(const TuneShape& shape) {
    places_.clear();
    std::size_t variants = 0;
    std::vector<GroupPlaces> plan;
    for (const TuneGroup& group : groups_) {
      GroupPlaces& in_group = plan.emplace_back();
      in_group.group = &group;
      const std::size_t needed = most_operations(group, chosen_format(base_, group, shape, bytes_));
      for (const Target* target : group.images) {
        for (const Format format : kFormats) {
          if (!has_family(target->isa, format, "gemv")) continue;
          // A format that cannot take the shape is for those who ask for it by name: a full run's affair. I2_S always
          // is raced, since other CPUs of the group need it.
          if (!options_.full && format != Format::kI2s && operations_of(*target, format) < needed) continue;
          FormatPlaces& in_format = in_group.formats.emplace_back();
          in_format.target = target;
          in_format.format = format;
          for (const Operation& operation : kOperations) {
            if (!has_family(target->isa, format, operation.family)) continue;
            in_format.places.push_back(places_.size());
            places_.push_back(make_place(*target, format, operation, shape));
            places_.back().first_variant = variants;
            variants += places_.back().space.size();
          }
        }
      }
    }
    return plan;
  }

  Place make_place(const Target& target, Format format, const Operation& operation, const TuneShape& shape) {
    Place place;
    place.operation = &operation;
    place.point.isa = target.isa;
    place.point.op = operation.op;
    place.point.format = format;
    place.point.m = operation.m;
    const Result<Point> known = choose_point(base_, place.point, shape);
    std::vector<Point> serving;
    if (known.ok()) serving.push_back(*known);
    place.space = tune_space(place.point, serving, options_.full, options_.halide);
    for (std::size_t i = 0; i < place.space.size(); ++i) {
      if (known.ok() && same_kernel(place.space[i], *known)) place.standard = i;
    }
    return place;
  }

  Status tune_shape(const TuneShape& shape) {
    const std::vector<GroupPlaces> plan = plan_shape(shape);
    say("compiling variants for " + shape_name(shape));
    if (options_.stop && options_.stop()) return Error{ErrorCode::kInterrupted, "interrupted; nothing was written"};
    std::vector<KernelSpec> variants;
    for (const Place& place : places_) {
      for (std::size_t i = 0; i < place.space.size(); ++i) {
        const Point& point = place.space[i];
        variants.push_back(ternary_kernel(point, {shape.n, shape.k}, point.technique + "v" + std::to_string(i)));
      }
    }
    BITNET_RETURN_IF_ERROR(bench_.prepare(variants));
    for (const GroupPlaces& group : plan) {
      std::optional<double> best;
      for (const FormatPlaces& format : group.formats) {
        BITNET_RETURN_IF_ERROR(race_place(shape, places_[format.places.front()]));
        const Place& gemv = places_[format.places.front()];
        if (gemv.done && (!best || gemv.cost < *best)) best = gemv.cost;
      }
      for (const FormatPlaces& format : group.formats) {
        const Place& gemv = places_[format.places.front()];
        const bool hopeful = gemv.done && gemv.cost <= *best * kHopeless;
        for (std::size_t i = 1; i < format.places.size(); ++i) {
          if (hopeful || options_.full || format.format == Format::kI2s) {
            BITNET_RETURN_IF_ERROR(race_place(shape, places_[format.places[i]]));
          } else {
            ++progress_.done;
          }
        }
      }
      BITNET_RETURN_IF_ERROR(race_layouts(shape, group));
    }
    return {};
  }

  [[nodiscard]] Contestant trials_of(const Place& place, std::size_t variant) const {
    Contestant trials = uses_of(*place.operation, options_.more_threads);
    for (Trial& trial : trials) trial.variant = place.first_variant + variant;
    return trials;
  }

  Status race_place(const TuneShape& shape, Place& place) {
    say(place_name(place.point) + " " + shape_name(shape));
    std::vector<std::size_t> exact;  // of the space
    std::vector<Contestant> contestants;
    std::size_t standard = 0;
    for (std::size_t i = 0; i < place.space.size(); ++i) {
      const Status right = bench_.check(place.first_variant + i);
      if (!right.ok()) {
        if (right.error().code != ErrorCode::kVerification) return right.error();
        result_.inexact.push_back(place_name(place.point) + " " + shape_name(shape) + ", " + describe(place.space[i]) +
                                  ": left out, " + right.error().message);
        continue;
      }
      if (i == place.standard) standard = exact.size();
      exact.push_back(i);
      contestants.push_back(trials_of(place, i));
    }
    ++progress_.done;
    if (exact.empty()) return {};  // reported above; the place has no winner
    BITNET_ASSIGN_OR_RETURN(const RaceResult raced, race(bench_, contestants, standard, race_options_, options_.stop));
    place.done = true;
    place.winner = exact[raced.winner];
    place.cost = raced.costs[raced.winner];
    Point point = row_of(place, shape, place.winner, note(place, shape, raced, exact));
    progress_.best =
        place_name(point) + " " + shape_name(shape) + ": " + describe(point) + ", " + figure(point, shape, place.cost);
    result_.points.push_back(std::move(point));
    for (std::size_t i = 1; i < raced.finalists.size(); ++i) {
      const std::size_t other = exact[raced.finalists[i]];
      result_.others.push_back(row_of(place, shape, other,
                                      figure(place.space[other], shape, raced.costs[raced.finalists[i]]) +
                                          "; best of " + std::to_string(exact.size())));
    }
    return {};
  }

  static Point row_of(const Place& place, const TuneShape& shape, std::size_t variant, std::string note) {
    Point point = place.space[variant];
    point.n = shape.n;
    point.k = shape.k;
    point.note = std::move(note);
    return point;
  }

  // "0.953 of the read probe": what the winner reaches of its own limit.
  static std::string figure(const Point& point, const TuneShape& shape, double cost) {
    double fraction = 1 / cost;
    if (point.op == Op::kGemv) {
      const Layout layout = layout_of(point.format);
      fraction *= static_cast<double>(matrix_bytes(layout, shape.n, shape.k)) /
                  static_cast<double>(matrix_bytes(Layout::kT2, shape.n, shape.k));
      return number("%.3f of the read probe", fraction);
    }
    return number(point.m != 0 ? "%.3f of the lower limit" : "%.3f of the dot probe", fraction);
  }

  static std::string note(const Place& place, const TuneShape& shape, const RaceResult& raced,
                          const std::vector<std::size_t>& exact) {
    const Point& winner = place.space[place.winner];
    std::string text = figure(winner, shape, place.cost);
    if (raced.runner_up != raced.winner) {
      text += "; " + describe(place.space[exact[raced.runner_up]]) + ": " +
              (raced.lead < 0 ? "within the noise" : slower(raced.lead));
    }
    text += "; best of " + std::to_string(exact.size());
    return text;
  }

  // Whether a format has every operation that another one has: a layout without small batches would take them away from
  // speculation and serving, whatever it gains elsewhere.
  [[nodiscard]] static bool serves_all_of(const FormatPlaces& format, const FormatPlaces& other) {
    return format.places.size() >= other.places.size();
  }

  // The formats whose gemv and gemm have winners, as whole layouts.
  Status race_layouts(const TuneShape& shape, const GroupPlaces& group) {
    std::vector<const FormatPlaces*> runners;
    std::vector<Contestant> contestants;
    std::size_t standard = 0;
    const Format standing = chosen_format(base_, *group.group, shape, bytes_);
    const auto today = std::ranges::find(group.formats, standing, &FormatPlaces::format);
    for (const FormatPlaces& format : group.formats) {
      const Place& gemv = places_[format.places[0]];
      const Place& gemm = places_[format.places[1]];
      if (!gemv.done || !gemm.done) continue;
      if (today != group.formats.end() && !serves_all_of(format, *today)) continue;
      Contestant trials = {{gemv.first_variant + gemv.winner, 1, false}};
      if (options_.more_threads) trials.push_back({gemv.first_variant + gemv.winner, 1, true});
      trials.push_back({gemm.first_variant + gemm.winner, kLayoutTokens, false});
      if (format.format == standing) standard = runners.size();
      runners.push_back(&format);
      contestants.push_back(std::move(trials));
    }
    ++progress_.done;
    if (runners.empty()) return {};
    say(group.group->name + " layout of " + shape_name(shape));
    BITNET_ASSIGN_OR_RETURN(const RaceResult raced, race(bench_, contestants, standard, race_options_, options_.stop));
    const Format winner = runners[raced.winner]->format;
    std::string note = "gemv with 1 thread and all, gemm: ";
    if (raced.runner_up != raced.winner) {
      note += std::string(to_string(runners[raced.runner_up]->format)) + " " +
              (raced.lead < 0 ? "within the noise" : slower(raced.lead));
    } else {
      note += "no other format came near";
    }
    progress_.best =
        group.group->name + " layout of " + shape_name(shape) + ": " + std::string(to_string(winner)) + ", " + note;
    // Every image of the group gets a row: one without the family leaves the shape to the others.
    for (const Target* image : group.group->images) {
      LayoutPoint row;
      row.isa = image->isa;
      row.format = has_family(image->isa, winner, "gemv") ? winner : Format::kI2s;
      row.n = shape.n;
      row.k = shape.k;
      row.min_model_bytes = row.format == Format::kI2s ? 0 : options_.cached_bytes;
      row.note = row.format == winner ? note : "where there is no " + std::string(to_string(winner));
      result_.layouts.push_back(std::move(row));
    }
    return {};
  }

  void say(std::string now) {
    progress_.now = std::move(now);
    report();
  }
  void report() const {
    if (options_.progress) options_.progress(progress_);
  }

  std::vector<TuneGroup> groups_;
  const Points& base_;
  TuneBench& bench_;
  const TuneOptions& options_;
  RaceOptions race_options_;
  std::uint64_t bytes_ = 0;  // of the model
  TuneProgress progress_;
  std::vector<Place> places_;  // of the shape at hand
  TuneResult result_;
};

}  // namespace

Result<TuneResult> tune(std::span<const TuneShape> shapes, const TargetSelection& selection, const Points& base,
                        TuneBench& bench, const TuneOptions& options) {
  BITNET_RETURN_IF_ERROR(check_tune_shapes(shapes));
  return Tuner(selection, base, bench, options).run(shapes);
}

}  // namespace bitnet::codegen
