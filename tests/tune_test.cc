// The tuner without a clock: a bench that answers from a table, so that what is asserted is the search, not the
// machine. One test at the end compiles and times real variants and asserts nothing about the times.
#include "codegen/tune.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "codegen/embedded.h"
#include "codegen/fresh_process.h"
#include "codegen/temp_dir.h"
#include "codegen/tune_bench.h"
#include "codegen/tune_places.h"
#include "codegen/tune_space.h"
#include "tests/programs.h"
#include "tests/quick.h"

namespace bitnet::codegen {
namespace {

// Costs by kernel; noise that is the same in every run.
class FakeBench final : public TuneBench {
 public:
  std::function<double(const KernelSpec&, const Trial&)> cost = [](const KernelSpec&, const Trial&) { return 1.0; };
  std::function<bool(const KernelSpec&)> exact = [](const KernelSpec&) { return true; };
  double noise = 0;

  Status prepare(const std::vector<KernelSpec>& variants) override {
    ++prepared;
    specs = variants;
    std::set<std::string> names;
    for (const KernelSpec& spec : variants) CHECK_MESSAGE(names.insert(spec.name()).second, spec.name());
    checked.assign(variants.size(), false);
    return {};
  }
  Status check(std::size_t variant) override {
    checked.at(variant) = exact(specs.at(variant));
    if (checked[variant]) return {};
    return Error{ErrorCode::kVerification, "self-test: kernel " + specs[variant].name() + " is wrong"};
  }
  Result<std::vector<double>> round(std::span<const Trial> trials) override {
    std::vector<double> costs;
    const double weather = 1 + noise * symmetric();  // a slow second of the machine meets all of a round
    for (const Trial& trial : trials) {
      CHECK_MESSAGE(checked.at(trial.variant), "timed before it was shown to be exact: ", specs[trial.variant].name());
      ++samples[specs[trial.variant].name()];
      costs.push_back(cost(specs[trial.variant], trial) * weather * (1 + noise * 0.2 * symmetric()));
    }
    return costs;
  }

  std::vector<KernelSpec> specs;
  std::vector<bool> checked;
  std::map<std::string, int> samples;
  int prepared = 0;

 private:
  double symmetric() {  // in [-1, 1)
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<double>(state_ >> 11) * 0x1p-52 - 1;
  }
  std::uint64_t state_ = 1;
};

TargetSelection select(const std::string& word) {
  auto selection = select_targets(std::vector<std::string>{word});
  REQUIRE_MESSAGE(selection.ok(), selection.error().message);
  return std::move(selection).value();
}

Points defaults() {
  auto points = default_points();
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  return std::move(points).value();
}

constexpr TuneShape kShape = {64, 128, 3};

const Point& find(const TuneResult& result, Isa isa, Format format, Op op, std::int32_t m = 0) {
  const auto found = std::ranges::find_if(result.points, [&](const Point& point) {
    return point.isa == isa && point.format == format && point.op == op && point.m == m;
  });
  REQUIRE(found != result.points.end());
  return *found;
}

TuneResult tuned(FakeBench& bench, const std::string& target, TuneOptions options = {}) {
  auto result = tune(std::span(&kShape, 1), select(target), defaults(), bench, options);
  REQUIRE_MESSAGE(result.ok(), result.error().message);
  return std::move(result).value();
}

// Race of contestants with the costs given, one trial each.
RaceResult raced(FakeBench& bench, const std::vector<double>& costs, std::size_t standard) {
  std::vector<KernelSpec> specs;
  std::vector<Contestant> contestants;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    specs.push_back(ternary_kernel({}, {16, 64}, "v" + std::to_string(i)));
    contestants.push_back({{i, 1, false}});
  }
  REQUIRE(bench.prepare(specs).ok());
  for (std::size_t i = 0; i < costs.size(); ++i) REQUIRE(bench.check(i).ok());
  bench.cost = [costs](const KernelSpec&, const Trial& trial) { return costs[trial.variant]; };
  auto result = race(bench, contestants, standard, {}, {});
  REQUIRE_MESSAGE(result.ok(), result.error().message);
  return std::move(result).value();
}

}  // namespace

TEST_CASE("race: the fastest wins, clearly slower ones stop early, and the standard never does") {
  for (const double noise : {0.0, 0.1}) {
    FakeBench bench;
    bench.noise = noise;
    const RaceResult result = raced(bench, {1.20, 1.5, 1.0, 1.09, 2.0, 3.0, 1.6}, 4);
    CHECK(result.winner == 2);
    CHECK(result.runner_up == 3);
    CHECK(result.lead == doctest::Approx(0.09).epsilon(0.03));
    CHECK(result.rounds[1] == 2);  // 50 % slower: gone after the first look
    CHECK(result.rounds[5] == 2);
    CHECK(result.rounds[4] == result.rounds[2]);  // the standard: to the end
    CHECK(result.rounds[3] < result.rounds[2]);
    CHECK(result.finalists == std::vector<std::size_t>{2});
  }
}

TEST_CASE("race: who promises more than the standard goes on, the simplest of equals first") {
  FakeBench bench;
  CHECK(raced(bench, {1.0, 1.008, 1.005}, 1).winner == 1);  // 0.8 % slower: no promise
  CHECK(raced(bench, {1.0, 1.008, 1.005}, 1).finalists.empty());
  CHECK(raced(bench, {1.0, 1.03, 1.005}, 1).winner == 0);
  CHECK(raced(bench, {1.0, 1.03, 1.005}, 1).finalists == std::vector<std::size_t>{0, 2});
  CHECK(raced(bench, {1.005, 1.0, 1.1}, 2).winner == 0);
  CHECK(raced(bench, {1.02, 1.0, 1.1}, 2).finalists == std::vector<std::size_t>{1, 0});
  CHECK(raced(bench, {1.02, 1.0, 1.03, 1.1}, 3).finalists == std::vector<std::size_t>{1, 0});  // two at most
  CHECK(raced(bench, {1.0}, 0).winner == 0);
}

TEST_CASE("race: interrupted between rounds") {
  FakeBench bench;
  REQUIRE(bench.prepare({ternary_kernel({}, {16, 64}, "v0")}).ok());
  REQUIRE(bench.check(0).ok());
  int asked = 0;
  const Contestant contestants[] = {{{0, 1, false}}};
  const auto result = race(bench, contestants, 0, {}, [&] { return ++asked == 3; });
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == ErrorCode::kInterrupted);
  CHECK(bench.samples.begin()->second == 2);
  CHECK_FALSE(race(bench, contestants, 1, {}, {}).ok());
  CHECK_FALSE(race(bench, {}, 0, {}, {}).ok());
}

TEST_CASE("time_ratio: of paired rounds, in either order") {
  FakeBench bench;
  bench.noise = 0.3;
  REQUIRE(bench.prepare({ternary_kernel({}, {16, 64}, "v0"), ternary_kernel({}, {16, 64}, "v1")}).ok());
  REQUIRE((bench.check(0).ok() && bench.check(1).ok()));
  bench.cost = [](const KernelSpec&, const Trial& trial) { return trial.variant == 0 ? 2.0 : 1.0; };
  const auto ratio = time_ratio(bench, {0, 1, false}, {1, 1, false}, 21, {});
  REQUIRE(ratio.ok());
  CHECK(*ratio == doctest::Approx(2.0).epsilon(0.05));

  // A machine that slows down from sample to sample favours neither.
  FakeBench tiring;
  REQUIRE(tiring.prepare({ternary_kernel({}, {16, 64}, "v0"), ternary_kernel({}, {16, 64}, "v1")}).ok());
  REQUIRE((tiring.check(0).ok() && tiring.check(1).ok()));
  double tired = 1;
  tiring.cost = [&](const KernelSpec&, const Trial& trial) {
    return (tired *= 1.05) * (trial.variant == 0 ? 1.1 : 1.0);
  };
  for (const int rounds : {1, 2, 3}) {
    const auto fair = time_ratio(tiring, {0, 1, false}, {1, 1, false}, rounds, {});
    REQUIRE(fair.ok());
    CHECK(*fair == doctest::Approx(1.1).epsilon(1e-9));
  }
}

namespace {

// A bench for a confirmation: in each process the memory lies elsewhere, so `favour(process, spec)` times the cost.
struct Processes {
  FakeBench bench;
  TuneOptions options;

  Processes(const std::function<double(const KernelSpec&, const Trial&)>& cost,
            const std::function<double(std::size_t, const KernelSpec&)>& favour) {
    bench.noise = 0.02;
    // A child has the number that was current when it was forked.
    options.progress = [this](const TuneProgress& progress) { process = progress.done; };
    bench.cost = [this, cost, favour](const KernelSpec& spec, const Trial& trial) {
      return cost(spec, trial) * favour(process, spec);
    };
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  std::size_t process = 0;
};

double no_favour(std::size_t, const KernelSpec&) { return 1.0; }

// Point of avx2's gemv for i2s after a confirmation of one candidate: 4 streams, prefetch 512.
Point confirmed(Processes&& processes) {
  TuneResult result;
  Point candidate;
  candidate.isa = Isa::kAvx2;
  candidate.n = kShape.n;
  candidate.k = kShape.k;
  candidate.streams = 4;
  candidate.prefetch = 512;
  candidate.note = "raced";
  result.points = {candidate};
  candidate.streams = 8;
  result.others = {candidate};
  const Points base = defaults();
  const TargetSelection selection = select("avx2");
  const Status status = confirm(result, std::span(&kShape, 1), selection, base, processes.bench, processes.options);
  REQUIRE_MESSAGE(status.ok(), status.error().message);
  REQUIRE(result.points.size() == 1);
  CHECK(result.others.empty());
  CHECK(result.points[0].n == kShape.n);
  const Point point = result.points[0];
  leave_out_known(result, std::span(&kShape, 1), selection, base, processes.options);
  const auto standard = choose_point(base, point, kShape);
  REQUIRE(standard.ok());
  CHECK(result.points.empty() == same_kernel(*standard, point));
  return point;
}

std::function<double(const KernelSpec&, const Trial&)> streams_cost(double four, double eight, double four_all) {
  return [=](const KernelSpec& spec, const Trial& trial) {
    if (spec.point.streams == 8) return eight;
    if (spec.point.streams == 4) return trial.all_threads ? four_all : four;
    return 1.0;
  };
}

}  // namespace

TEST_CASE("confirm: a candidate takes the place where it is faster in most processes and slower in no use") {
  CHECK(confirmed(Processes(streams_cost(0.9, 1.5, 0.9), no_favour)).streams == 4);
  CHECK(confirmed(Processes(streams_cost(0.985, 1.5, 0.985), no_favour)).streams == 2);  // a tie: the default stays
  CHECK(confirmed(Processes(streams_cost(0.9, 0.8, 0.9), no_favour)).streams == 8);      // the second one was better
  CHECK(confirmed(Processes(streams_cost(0.9, 0.895, 0.9), no_favour)).streams == 4);    // but not clearly
  CHECK(confirmed(Processes(streams_cost(0.8, 1.5, 1.05), no_favour)).streams == 2);     // slower with all threads
  const Point point = confirmed(Processes(streams_cost(0.9, 1.5, 0.9), no_favour));
  CHECK_MESSAGE(point.note.starts_with("raced; 11."), point.note);
  CHECK_MESSAGE(point.note.find("% faster than 2 streams, prefetch 512 (1") != std::string::npos, point.note);

  // The memory of single processes favours it by 10 %: in two of five that decides nothing, in three it does.
  const auto lucky = [](std::size_t processes) {
    return [=](std::size_t process, const KernelSpec& spec) {
      return spec.point.streams == 4 && process < processes ? 0.9 : 1.0;
    };
  };
  CHECK(confirmed(Processes(streams_cost(1.0, 1.5, 1.0), lucky(2))).streams == 2);
  CHECK(confirmed(Processes(streams_cost(1.0, 1.5, 1.0), lucky(3))).streams == 4);
}

TEST_CASE("confirm: a tile that gains on long prompts and loses on a short one does not win") {
  for (const double short_prompt : {0.95, 1.05}) {
    TuneResult result;
    result.points.resize(1);
    Point& point = result.points[0];
    point.isa = Isa::kAvx2;
    point.op = Op::kGemm;
    point.n = kShape.n;
    point.k = kShape.k;
    point.token_tile = 6;
    point.row_tiles = 1;
    const auto cost = [=](const KernelSpec& spec, const Trial& trial) {
      return spec.point.token_tile != 6 ? 1.0 : trial.tokens == 16 ? short_prompt : 0.9;
    };
    Processes processes(cost, no_favour);
    const Points base = defaults();
    const Status status =
        confirm(result, std::span(&kShape, 1), select("avx2"), base, processes.bench, processes.options);
    REQUIRE_MESSAGE(status.ok(), status.error().message);
    CHECK(point.token_tile == (short_prompt < 1 ? 6 : 4));
  }
}

TEST_CASE("confirm: layouts, errors of a process, and nothing to do") {
  const auto layout = [](double t5) {
    const auto cost = [=](const KernelSpec& spec, const Trial&) {
      return spec.kernel.format == Format::kT5 ? t5 : 1.0;
    };
    TuneResult result;
    for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi}) {
      const bool i2s = isa != Isa::kAvx512Vbmi;
      result.layouts.push_back({isa, i2s ? Format::kI2s : Format::kT5, kShape.n, kShape.k, i2s ? 0 : 1000, "raced"});
    }
    const Points base = defaults();
    Processes processes(cost, no_favour);
    processes.options.cached_bytes = 1000;
    const Status status =
        confirm(result, std::span(&kShape, 1), select("avx512"), base, processes.bench, processes.options);
    REQUIRE_MESSAGE(status.ok(), status.error().message);
    CHECK(result.layouts[0].note == "raced");  // avx2: as it was
    const LayoutPoint row = result.layouts.back();
    leave_out_known(result, std::span(&kShape, 1), select("avx512"), base, processes.options);
    CHECK(result.layouts.size() == (row.format == Format::kT5 ? 2 : 0));
    return row;
  };
  CHECK(layout(0.9).format == Format::kT5);
  CHECK(layout(0.9).min_model_bytes == 1000);
  CHECK(layout(0.99).format == Format::kI2s);
  CHECK(layout(0.99).min_model_bytes == 0);

  TuneResult result;
  FakeBench bench;
  const Points base = defaults();
  CHECK(confirm(result, std::span(&kShape, 1), select("avx2"), base, bench, {}).ok());
  CHECK(bench.prepared == 0);
  result.points.resize(1);
  result.points[0].isa = Isa::kAvx2;
  result.points[0].n = kShape.n;
  result.points[0].k = kShape.k;
  result.points[0].streams = 7;
  TuneOptions options;
  options.stop = [] { return true; };
  const Status stopped = confirm(result, std::span(&kShape, 1), select("avx2"), base, bench, options);
  REQUIRE_FALSE(stopped.ok());
  CHECK(stopped.error().code == ErrorCode::kInterrupted);  // told by the child
  CHECK(bench.prepared == 1);
  CHECK(bench.samples.empty());
  bench.exact = [](const KernelSpec& spec) { return spec.point.streams != 7; };
  const Status wrong = confirm(result, std::span(&kShape, 1), select("avx2"), base, bench, {});
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.error().code == ErrorCode::kVerification);
}

TEST_CASE("a fresh process: its answer, its error, its end") {
  int here = 0;
  const auto answer = in_fresh_process([&]() -> Result<std::vector<double>> {
    here = 1;
    return std::vector<double>(2000, 0.1);
  });
  REQUIRE_MESSAGE(answer.ok(), answer.error().message);
  CHECK(*answer == std::vector<double>(2000, 0.1));
  CHECK(here == 0);
  const auto none = in_fresh_process([]() -> Result<std::vector<double>> { return std::vector<double>(); });
  REQUIRE(none.ok());
  CHECK(none->empty());
  const auto error = in_fresh_process(
      []() -> Result<std::vector<double>> { return Error{ErrorCode::kVerification, "kernel x is wrong"}; });
  REQUIRE_FALSE(error.ok());
  CHECK(error.error().code == ErrorCode::kVerification);
  CHECK(error.error().message == "kernel x is wrong");
  const auto killed = in_fresh_process([]() -> Result<std::vector<double>> {
    ::raise(SIGKILL);
    return std::vector<double>();
  });
  REQUIRE_FALSE(killed.ok());
  CHECK(killed.error().message == "a child process was ended by signal 9");
}

TEST_CASE("the space: no doubles, simplest first, today's point among them, Halide only where it can serve") {
  Point place;
  place.isa = Isa::kAvx2;
  for (const Op op : {Op::kGemv, Op::kGemm}) {
    for (const std::int32_t m : {0, 4}) {
      for (const bool full : {false, true}) {
        place.op = op;
        place.m = op == Op::kGemv ? 0 : m;
        Point known = place;
        known.streams = place.op == Op::kGemm && place.m == 0 ? 0 : 5;
        known.prefetch = known.streams == 0 ? 0 : 320;
        known.token_tile = known.streams == 0 ? 7 : 0;
        known.row_tiles = known.streams == 0 ? 5 : 0;
        known.n = 48;
        known.k = 64;
        const std::vector<Point> space = tune_space(place, {known}, full, true);
        std::size_t halide = 0;
        std::size_t same = 0;
        for (std::size_t i = 0; i < space.size(); ++i) {
          CHECK(space[i].n == 0);
          halide += space[i].technique == "halide" ? 1 : 0;
          same += same_kernel(space[i], known) ? 1 : 0;
          for (std::size_t j = 0; j < i; ++j) CHECK_FALSE(same_kernel(space[i], space[j]));
        }
        CHECK(same == 1);
        CHECK((halide != 0) == (place.m == 0));
        CHECK(space.front().streams + space.front().token_tile <= 4);
        CHECK(tune_space(place, {known}, full, false).size() == space.size() - halide);
      }
    }
  }
  CHECK(tune_space(place, {}, true, false).size() > tune_space(place, {}, false, false).size());
}

TEST_CASE("tune: the fastest exact variant of every place, and never one that is not exact") {
  FakeBench bench;
  // 3 streams would be in no quick space, 2 streams with prefetch 2048 are fastest but wrong.
  bench.exact = [](const KernelSpec& spec) { return spec.point.streams != 2 || spec.point.prefetch != 2048; };
  bench.cost = [](const KernelSpec& spec, const Trial&) {
    const Point& point = spec.point;
    if (point.streams == 2 && point.prefetch == 2048) return 0.1;
    if (point.streams == 4 && point.prefetch == 512) return 0.8;
    if (point.token_tile == 8 && point.row_tiles == 2) return 0.7;
    return 1.0;
  };
  const TuneResult result = tuned(bench, "avx2");
  CHECK(bench.prepared == 1);
  const Point& gemv = find(result, Isa::kAvx2, Format::kI2s, Op::kGemv);
  CHECK(gemv.streams == 4);
  CHECK(gemv.prefetch == 512);
  CHECK(gemv.n == kShape.n);
  CHECK(gemv.k == kShape.k);
  CHECK_MESSAGE(gemv.note.find("25 % slower") != std::string::npos, gemv.note);
  const Point& gemm = find(result, Isa::kAvx2, Format::kI2s, Op::kGemm);
  CHECK(gemm.token_tile == 8);
  CHECK(gemm.row_tiles == 2);
  for (const std::int32_t m : {2, 4, 8}) CHECK(find(result, Isa::kAvx2, Format::kI2s, Op::kGemm, m).streams == 4);
  REQUIRE_FALSE(result.inexact.empty());
  CHECK_MESSAGE(
      result.inexact.front().find("2 streams, prefetch 2048: left out, self-test: kernel") != std::string::npos,
      result.inexact.front());
  for (const auto& [name, count] : bench.samples) CHECK(count > 0);
}

TEST_CASE("tune: where nothing is faster, the points stay what they were") {
  FakeBench bench;
  bench.noise = 0.05;
  const Points base = defaults();
  for (const char* target : {"avx2", "avx512"}) {
    const TuneResult result = tuned(bench, target);
    for (const Point& point : result.points) {
      const auto before = choose_point(base, point, kShape);
      REQUIRE(before.ok());
      CHECK_MESSAGE(same_kernel(point, *before), describe(point));
    }
  }
}

TEST_CASE("tune: a place without any exact variant gets no row, and no layout either") {
  FakeBench bench;
  bench.exact = [](const KernelSpec& spec) { return spec.kernel.isa != Isa::kAvx512Vbmi; };
  bench.cost = [](const KernelSpec& spec, const Trial&) { return spec.kernel.format == Format::kT5 ? 0.5 : 1.0; };
  const TuneResult result = tuned(bench, "avx512");
  for (const Point& point : result.points) CHECK(point.isa != Isa::kAvx512Vbmi);
  for (const LayoutPoint& layout : result.layouts) CHECK(layout.format == Format::kI2s);
  CHECK_FALSE(result.inexact.empty());
}

TEST_CASE("tune: layouts by gemv with one thread and all and by gemm, for a target and its parts") {
  const auto layouts = [](double t5_gemv, double t5_all, double t5_gemm) {
    FakeBench bench;
    bench.cost = [=](const KernelSpec& spec, const Trial& trial) {
      if (spec.kernel.format == Format::kTl2 || spec.kernel.format == Format::kTl1) return 1.3;
      if (spec.kernel.format != Format::kT5) return 1.0;
      return spec.kernel.op == Op::kGemm ? t5_gemm : trial.all_threads ? t5_all : t5_gemv;
    };
    TuneOptions options;
    options.cached_bytes = 1000;
    const TuneResult result = tuned(bench, "avx512", options);
    std::map<Isa, LayoutPoint> by_isa;
    for (const LayoutPoint& layout : result.layouts) by_isa[layout.isa] = layout;
    CHECK(by_isa.size() == 3);  // avx2, avx512, avx512-vbmi
    CHECK(by_isa[Isa::kAvx2].format == Format::kI2s);
    CHECK(by_isa[Isa::kAvx512].format == Format::kI2s);
    // Lookup layouts are out of the question: their gemm was not raced.
    CHECK(std::ranges::none_of(
        result.points, [](const Point& point) { return point.format == Format::kTl2 && point.op == Op::kGemm; }));
    return by_isa[Isa::kAvx512Vbmi];
  };
  const LayoutPoint faster = layouts(0.86, 0.86, 1.0);
  CHECK(faster.format == Format::kT5);
  CHECK(faster.min_model_bytes == 1000);
  CHECK(faster.n == kShape.n);
  const LayoutPoint slower = layouts(1.05, 1.05, 1.0);
  CHECK(slower.format == Format::kI2s);
  CHECK(slower.min_model_bytes == 0);
  CHECK(layouts(0.95, 1.20, 1.0).format == Format::kI2s);  // all threads count
  CHECK(layouts(0.99, 0.99, 1.3).format == Format::kI2s);  // prefill counts

  // A lookup layout has no small batches: it takes no shape from one that has them, however fast.
  FakeBench bench;
  bench.cost = [](const KernelSpec& spec, const Trial&) { return spec.kernel.format == Format::kTl2 ? 0.5 : 1.0; };
  TuneOptions options;
  options.full = true;  // its gemm is raced too
  for (const LayoutPoint& layout : tuned(bench, "avx2", options).layouts) CHECK(layout.format == Format::kI2s);
}

TEST_CASE("tune: interrupted, failing and empty") {
  FakeBench bench;
  TuneOptions options;
  int asked = 0;
  options.stop = [&] { return ++asked > 40; };
  const auto stopped = tune(std::span(&kShape, 1), select("avx2"), defaults(), bench, options);
  REQUIRE_FALSE(stopped.ok());
  CHECK(stopped.error().code == ErrorCode::kInterrupted);
  CHECK_FALSE(tune({}, select("avx2"), defaults(), bench, {}).ok());
}

TEST_CASE("tune: progress counts to its total and names the best so far") {
  FakeBench bench;
  TuneOptions options;
  std::vector<TuneProgress> seen;
  options.progress = [&](const TuneProgress& progress) { seen.push_back(progress); };
  (void)tuned(bench, "avx512", options);
  REQUIRE_FALSE(seen.empty());
  CHECK(seen.back().done == seen.back().total);
  CHECK(std::ranges::is_sorted(seen, {}, &TuneProgress::done));
  CHECK_MESSAGE(seen.back().best.find("layout of 64x128: i2s") != std::string::npos, seen.back().best);
}

TEST_CASE("the file: read back as it was, with provenance, and with the rows of other shapes kept") {
  FakeBench bench;
  bench.cost = [](const KernelSpec& spec, const Trial&) {
    return spec.kernel.format == Format::kT5 ? 0.8 : spec.point.streams == 1 ? 0.9 : 1.0;
  };
  TuneOptions options;
  options.cached_bytes = std::int64_t{1} << 27;
  const TuneResult result = tuned(bench, "avx512", options);
  const TuneProvenance provenance = {
      "A \"CPU\" \\ 1", "2026-01-02", "9.8.7", 2, "avx2 (1 thread): read 30 GB/s", false, 84};
  const std::string text = points_text(result, provenance);
  const auto points = parse_points(text, "cpu.toml");
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  CHECK(points->provenance == "A \"CPU\" \\ 1, 2 threads, 2026-01-02, bitnet-codegen 9.8.7 tune --quick");
  for (const Point& point : result.points) {
    const auto read = choose_point(*points, point, kShape);
    REQUIRE(read.ok());
    CHECK(same_kernel(point, *read));
    CHECK(read->note == point.note);
    CHECK(read->n == kShape.n);
  }
  CHECK(points->format(Isa::kAvx512Vbmi, 64, 128, std::uint64_t{1} << 27) == Format::kT5);
  CHECK(points->format(Isa::kAvx512Vbmi, 64, 128, (std::uint64_t{1} << 27) - 1) == std::nullopt);
  // Other shapes have the defaults.
  Point place;
  place.isa = Isa::kNeon;
  CHECK(choose_point(*points, place, {32, 32, 1}).ok());

  const TuneShape other = {32, 64, 1};
  const auto kept = read_tuned(text, "cpu.toml", std::span(&other, 1));
  REQUIRE(kept.ok());
  CHECK(kept->points.size() == result.points.size());
  CHECK(kept->layouts.size() == result.layouts.size());
  CHECK(points_text({}, provenance, *kept).ends_with(text.substr(text.find("\n[["))));
  CHECK(text.find("# Last run: " + std::to_string(result.points.size()) + " of 84 places won. Probes (quick): avx2") !=
        std::string::npos);
  const auto replaced = read_tuned(text, "cpu.toml", std::span(&kShape, 1));
  REQUIRE(replaced.ok());
  CHECK(replaced->points.empty());
  CHECK(replaced->layouts.empty());
}

TEST_CASE("the file is written whole or not at all") {
  const auto folder = TempDir::create();
  REQUIRE(folder.ok());
  const std::string path = folder->file("cpu.toml");
  REQUIRE(write_file_whole(path, "old").ok());
  REQUIRE(write_file_whole(path, "new text").ok());
  CHECK(read_whole_file(path).value() == "new text");
  CHECK(std::distance(std::filesystem::directory_iterator(folder->path()), {}) == 1);
  const Status missing = write_file_whole(folder->file("no/such/cpu.toml"), "text");
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().message.find("no/such/cpu.toml") != std::string::npos);
  std::filesystem::create_directory(folder->file("taken"));
  CHECK_FALSE(write_file_whole(folder->file("taken"), "text").ok());
  CHECK(std::distance(std::filesystem::directory_iterator(folder->path()), {}) == 2);  // no temporary file left
}

TEST_CASE("shapes: of files, of known models, and messages for what is wrong") {
  const auto good = parse_tune_shapes("[[shape]]\nn = 64\nk = 128\nlayers = 3\n[[shape]]\nn = 1\nk = 16\n", "s.toml");
  REQUIRE_MESSAGE(good.ok(), good.error().message);
  REQUIRE(good->size() == 2);
  CHECK((*good)[0].layers == 3);
  CHECK((*good)[1].layers == 1);
  const auto error_of = [](const std::string& text) {
    const auto parsed = parse_tune_shapes(text, "s.toml");
    REQUIRE_FALSE(parsed.ok());
    CHECK(parsed.error().code == ErrorCode::kUsage);
    return parsed.error().message;
  };
  const auto has = [](const std::string& message, const char* part) {
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  has(error_of("[[shape]\n"), "s.toml:1: not valid TOML");
  has(error_of(""), "s.toml: no [[shape]]");
  has(error_of("shape = 3\n"), "s.toml:1: 'shape' must be an array of tables");
  has(error_of("[[point]]\n"), "s.toml:1: unknown key 'point'");
  has(error_of("[[shape]]\nn = 64\n"), "s.toml:1: shape without 'k'");
  has(error_of("[[shape]]\nn = 64\nk = 0\n"), "s.toml:3: key 'k': expected an integer 1..132104, found 0");
  has(error_of("[[shape]]\nn = \"64\"\nk = 1\n"),
      "s.toml:2: key 'n': expected an integer 1..2147483632, found a value");
  has(error_of("[[shape]]\nn = 64\nk = 64\nlayers = 1025\n"), "s.toml:4: key 'layers'");
  has(error_of("[[shape]]\nn = 64\nk = 64\nrows = 3\n"), "s.toml:4: unknown key 'rows' in shape");
  has(error_of("[[shape]]\nn = 64\nk = 64\n[[shape]]\nn = 64\nk = 64\n"), "s.toml:4: a second shape of 64 x 64");

  const auto model = shapes_of_model("2b-4t");
  REQUIRE(model.ok());
  REQUIRE(model->size() == 4);
  CHECK((*model)[0].n == 3840);
  CHECK((*model)[2].n == 13824);
  CHECK((*model)[3].k == 6912);
  CHECK(model_bytes(*model) == 30ULL * (3840 * 2560 + 2560 * 2560 + 13824 * 2560 + 2560 * 6912) / 4);
  CHECK_FALSE(shapes_of_model("4b").ok());
}

TEST_CASE("compare: same kernels are not timed, others by their ratio, layouts included") {
  const auto cost = [](const KernelSpec& spec, const Trial& trial) {
    if (spec.kernel.format == Format::kT5) return trial.all_threads ? 0.8 : 0.9;
    return spec.point.streams == 1 ? 2.0 : 1.0;
  };
  const auto favour = [](std::size_t process, const KernelSpec& spec) {
    return spec.point.streams == 1 ? 1 + static_cast<double>(process) : 1.0;
  };
  Processes processes(cost, favour);
  const auto first = parse_points(
      "base = \"defaults\"\n[[point]]\nisa = \"avx512\"\nop = \"gemv\"\nn = 64\nk = 128\nstreams = 1\nprefetch = 0\n"
      "[[layout]]\nisa = \"avx512-vbmi\"\nformat = \"t5\"\nn = 32\nk = 64\n",
      "cpu.toml");
  REQUIRE_MESSAGE(first.ok(), first.error().message);
  const TuneShape shapes[] = {kShape, {32, 64, 1}};
  const auto rows = compare_points(shapes, select("avx512"), *first, defaults(), processes.bench, processes.options);
  REQUIRE_MESSAGE(rows.ok(), rows.error().message);
  std::size_t differ = 0;
  for (const Comparison& row : *rows) {
    if (row.same) {
      CHECK(row.ratio == 1);
      CHECK(row.first == row.second);
      continue;
    }
    ++differ;
    CHECK(row.target == "avx512");
    if (row.shape.n == 64) {
      CHECK(row.use.starts_with("gemv"));
      CHECK(row.ratio == doctest::Approx(6.0).epsilon(0.01));  // processes 0 to 4: 2 to 10
      CHECK(row.least == doctest::Approx(2.0).epsilon(0.01));
      CHECK(row.most == doctest::Approx(10.0).epsilon(0.01));
    } else {
      CHECK(row.first.starts_with("t5"));
      CHECK(row.ratio == doctest::Approx(row.use == "gemv, all threads" ? 0.8 : 0.9).epsilon(0.01));
    }
  }
  CHECK(rows->size() == 2 * 2 * 8);  // shapes x targets x (gemv twice, gemm three times, three batches)
  CHECK(differ == 2 + 8);
}

TEST_CASE("the command: messages, exit codes, and Ctrl-C leaves no file") {
  const std::string codegen = test::program("bitnet-codegen");
  if (codegen.empty()) return;
  const test::Programs programs;
  const std::string shapes = programs.folder.file("shapes.toml");
  const std::string output = programs.folder.file("cpu.toml");
  REQUIRE(write_file(shapes, "[[shape]]\nn = 16\nk = 64\n").ok());
  const auto refuses = [&](const std::string& arguments, int code, const std::string& part) {
    const test::Outcome outcome = programs.shell("'" + codegen + "' tune " + arguments);
    CHECK_MESSAGE(outcome.code == code, outcome.err);
    CHECK_MESSAGE(outcome.err.find(part) != std::string::npos, outcome.err);
    CHECK_FALSE(std::filesystem::exists(output));
  };
  refuses("--shapes " + shapes, 2, "name one with --output");
  refuses("--shapes " + programs.folder.file("none.toml") + " -o " + output, 1, "none.toml");
  refuses("--shapes " + shapes + " --model x.gguf -o " + output, 2, "either --model or --shapes");
  refuses("--quick --full -o " + output, 2, "--quick");
  refuses("--points zen9 -o " + output, 2, "points are a file or one of defaults");
  refuses("--compare zen9", 2, "points are a file or one of defaults");
  refuses("--target mips -o " + output, 2, "unknown target 'mips'");
  REQUIRE(write_file(shapes, "[[shape]]\nn = 16\nk = none\n").ok());
  refuses("--shapes " + shapes + " -o " + output, 2, "shapes.toml:3: ");
  REQUIRE(write_file(shapes, "[[shape]]\nn = 16\nk = 64\n[[shape]]\nn = 32\nk = 64\n").ok());
  const test::Outcome stopped = programs.shell("timeout --preserve-status -s INT 0.3 '" + codegen +
                                               "' tune --target scalar --shapes " + shapes + " -o " + output);
  CHECK_MESSAGE(stopped.code == 130, stopped.err);
  CHECK_MESSAGE(stopped.err.find("interrupted; nothing was written") != std::string::npos, stopped.err);
  CHECK_FALSE(std::filesystem::exists(output));
  CHECK(std::distance(std::filesystem::directory_iterator(programs.folder.file(".")), {}) == 3);  // shapes, out, err
}

// Real kernels: a planted defect makes the variants with 4 streams wrong. They are quicker than right ones would be,
// for they leave out work, and must not be chosen.
TEST_CASE("real variants are compiled, checked and timed; a wrong one that is fast is left out") {
  if (!probe_isa(Isa::kAvx2)) {
    MESSAGE("SKIPPED: this CPU does not execute avx2");
    return;
  }
  const EmbeddedFile* header = find_embedded("generated/i2s_gemv_avx2.h");
  REQUIRE(header != nullptr);
  std::string broken(header->text);
  const std::string loop = "for (long long t = 0; t < count; ++t, ++tile) {";
  const std::size_t at = broken.find(loop);
  REQUIRE(at != std::string::npos);
  broken.insert(at + loop.size(), "\n    if constexpr (Streams == 4) continue;");
  KernelTuneBenchOptions bench_options;
  bench_options.threads = 2;
  bench_options.arena_bytes = std::size_t{4} << 20;
  bench_options.overrides["generated/i2s_gemv_avx2.h"] = broken;
  auto bench = KernelTuneBench::create(bench_options);
  REQUIRE_MESSAGE(bench.ok(), bench.error().message);
  const KernelShape shape = {176, 128};  // more tiles than streams, so that a check meets all of them
  std::vector<KernelSpec> specs;
  std::vector<Point> space;
  for (const auto& [op, m] : {std::pair{Op::kGemv, 0}, {Op::kGemm, 0}, {Op::kGemm, 4}}) {
    Point place;
    place.isa = Isa::kAvx2;
    place.op = op;
    place.m = m;
    const std::int64_t widest = test::quick_wanted() ? 2 : 6;
    for (const Point& point : tune_space(place, {}, false, false)) {
      if (op == Op::kGemm && m == 0 && point.token_tile > widest) continue;  // compile time
      space.push_back(point);
      specs.push_back(ternary_kernel(point, shape, "v" + std::to_string(specs.size())));
    }
  }
  const Status prepared = (*bench)->prepare(specs);
  REQUIRE_MESSAGE(prepared.ok(), prepared.error().message);
  std::vector<Trial> trials;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const bool wrong = space[i].op == Op::kGemv && space[i].streams == 4;
    const Status checked = (*bench)->check(i);
    CHECK_MESSAGE(checked.ok() != wrong, specs[i].name());
    if (wrong) {
      CHECK(checked.error().code == ErrorCode::kVerification);
    } else if (trials.size() < 4 || i + 1 == specs.size()) {
      trials.push_back({i, space[i].op == Op::kGemv ? 1 : 4, space[i].op == Op::kGemv && i % 2 == 1});
    }
  }
  const auto costs = (*bench)->round(trials);
  REQUIRE_MESSAGE(costs.ok(), costs.error().message);
  CHECK(costs->size() == trials.size());
  for (const double cost : *costs) CHECK(cost > 0);
  CHECK((*bench)->probes().find("avx2 (1 thread): read ") != std::string::npos);
}

}  // namespace bitnet::codegen
