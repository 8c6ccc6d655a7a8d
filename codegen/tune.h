// The tuner: finds by measurement which variant of which family serves each shape on this machine, and writes it down
// as points (codegen/points.h).
//
// For every shape, target and operation it races a space of variants (codegen/tune_space.h) against each other. What it
// measures with is behind TuneBench, so that the search itself can be tested without a clock; KernelTuneBench
// (codegen/tune_bench.h) is the real one. Four rules make the result trustworthy:
//   - a variant is compared with the scalar reference before it may be timed; one that is not exact is reported and
//     left out, however fast;
//   - every round times all variants that are left side by side, each as a ratio to the probe passes around it, and
//     medians decide, so that a slow second of the machine meets all of them;
//   - what a race brings forward is a candidate: where memory lies favours one variant or another for the life of a
//     process, so a candidate has to beat the point that served before in several fresh processes, by more than the
//     noise between them and without a loss in any use;
//   - everything else is a tie and stays with the point that served before: two runs agree, and a tuned shape is not
//     slower than an untuned one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

// A shape and how many layers have it: its weight in sums over a model.
struct TuneShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t layers = 1;
};
// Reads a list of shapes:
//   [[shape]]
//   n = 13824
//   k = 2560
//   layers = 30   # optional: 1
// kUsage names `path`, line and key: unknown or missing keys, values out of range, a shape twice, none at all.
[[nodiscard]] Result<std::vector<TuneShape>> parse_tune_shapes(std::string_view toml, const std::string& path);
// The products of a known model shape (runtime/synth): "2b-4t", "large", "3b", "tiny", or LxHxFxQ/KVxV.
[[nodiscard]] Result<std::vector<TuneShape>> shapes_of_model(std::string_view synth_shape);
// Appends what is not in `shapes` yet; of what is, the layers add up.
void add_shapes(std::vector<TuneShape>& shapes, std::span<const TuneShape> more);
// Bytes of all products in layout t2.
[[nodiscard]] std::uint64_t model_bytes(std::span<const TuneShape> shapes);

// One use of a kernel that is to be timed.
struct Trial {
  std::size_t variant = 0;  // index into what prepare() got
  std::int64_t tokens = 1;  // of a gemm's call
  bool all_threads = false;
};

class TuneBench {
 public:
  virtual ~TuneBench() = default;
  // Compiles the variants, whose names differ; those of an earlier call are forgotten.
  [[nodiscard]] virtual Status prepare(const std::vector<KernelSpec>& variants) = 0;
  // An error unless the variant gives the integers of the scalar reference.
  [[nodiscard]] virtual Status check(std::size_t variant) = 0;
  // One sample of each trial, in this order. A sample is the time that it took over the time that the probe passes
  // around it say it takes at least with layout t2 (its bytes at the read probe's rate or its operations at the dot
  // probe's, whichever is longer; a gemm of any number of tokens: operations): samples of different layouts compare.
  [[nodiscard]] virtual Result<std::vector<double>> round(std::span<const Trial> trials) = 0;
};

// --- the race ---

// A contestant: its cost is the geometric mean of its trials' samples.
using Contestant = std::vector<Trial>;
struct RaceOptions {
  int final_rounds = 8;
  // Who leads the contestant that served before by more than this is worth a second look.
  double promise = 0.01;
  std::size_t finalists = 2;  // at most so many
};
struct RaceResult {
  std::size_t winner = 0;  // finalists.front(), or the standard where there are none
  // Promising contestants: the simplest one that is as good as the best, then by their lead.
  std::vector<std::size_t> finalists;
  std::size_t runner_up = 0;  // the best of the others; the winner itself if there is no other
  double lead = 0;            // time of the runner-up over the winner's, less 1; from the rounds in which both ran
  std::vector<double> costs;  // of each contestant: median of all its rounds
  std::vector<int> rounds;    // that each took part in
};
// Contestants in order of simplicity, the one at `standard` is the one that served before. After 2, 4 and 7 rounds
// those that are clearly slower than the best leave (never the standard); at most 4 reach the final. `stop` is asked
// before each round: true ends the race as kInterrupted.
[[nodiscard]] Result<RaceResult> race(TuneBench& bench, std::span<const Contestant> contestants, std::size_t standard,
                                      const RaceOptions& options, const std::function<bool()>& stop);

// --- the search ---

struct TuneProgress {
  std::size_t done = 0;  // races
  std::size_t total = 0;
  std::string now;   // what is being tuned: "avx512 i2s gemv 13824x2560"
  std::string best;  // the last result, "" before the first
};
struct TuneOptions {
  bool full = false;         // a larger space and more rounds
  bool halide = false;       // Halide's variants too
  bool more_threads = true;  // whether this machine has more than one thread to time gemv and layouts with
  // Layout rows other than i2s get min_model_bytes = this: below it, weights may stay in the cache.
  std::int64_t cached_bytes = 0;
  // Of duels: fresh processes, rounds in each, and the lead (median of the processes) up to which it is a tie.
  // Processes differ by about 2 % here and their median by less than 1 %, so what one run finds faster and another does
  // not is less than 3 % faster.
  int processes = 5;
  int duel_rounds = 6;
  double tie = 0.02;
  std::function<bool()> stop;                         // true: end with kInterrupted; may be empty
  std::function<void(const TuneProgress&)> progress;  // may be empty
};
struct TuneResult {
  std::vector<Point> points;  // of exact shapes, with notes: the front-runner of each place
  std::vector<Point> others;  // second ones, of some places
  std::vector<LayoutPoint> layouts;
  std::vector<std::string> inexact;  // messages: variants that were left out
};
// Races every shape on every image of `selection`, starting from the points in `base`: candidates, to be confirmed. A
// target and its parts choose a layout together, among the formats that have all operations of the one they use today:
// geometric mean of gemv with one thread and with all, and gemm of 128 tokens.
[[nodiscard]] Result<TuneResult> tune(std::span<const TuneShape> shapes, const TargetSelection& selection,
                                      const Points& base, TuneBench& bench, const TuneOptions& options);

// --- duels: two kernels, several processes ---

// One use of two kernels.
struct Duel {
  TuneShape shape;
  Point first;
  Point second;
  std::int64_t tokens = 1;
  bool all_threads = false;
};
// Time of `first` over that of `second`: median of pairs of neighbouring samples, four of them in a round.
[[nodiscard]] Result<double> time_ratio(TuneBench& bench, const Trial& first, const Trial& second, int rounds,
                                        const std::function<bool()>& stop);
// time_ratio of all duels in each of options.processes fresh processes: [process][duel]. Compiles and checks the
// kernels here, once. kVerification if one is not exact. Precondition: `bench` has not measured yet and there are no
// other threads (codegen/fresh_process.h).
[[nodiscard]] Result<std::vector<std::vector<double>>> time_duels(std::span<const Duel> duels, TuneBench& bench,
                                                                  const TuneOptions& options);
// Holds every row of `result` and its second ones against the point that serves the place in `base`, and every layout
// against the one of `base`, by time_duels. What does not win goes back to that point; `others` is empty afterwards.
[[nodiscard]] Status confirm(TuneResult& result, std::span<const TuneShape> shapes, const TargetSelection& selection,
                             const Points& base, TuneBench& bench, const TuneOptions& options);
// Takes out the rows that say what `known` says anyway.
void leave_out_known(TuneResult& result, std::span<const TuneShape> shapes, const TargetSelection& selection,
                     const Points& known, const TuneOptions& options);

// --- two files side by side ---

struct Comparison {
  TuneShape shape;
  std::string target;
  std::string use;  // "gemv, all threads", "gemm, 128 tokens", "gemm, at most 4 tokens"
  std::string first;
  std::string second;
  // Time of `first` over that of `second`: median of several processes, and their least and most; 1 if they are the
  // same.
  double ratio = 1;
  double least = 1;
  double most = 1;
  bool same = false;
};
// What models of these shapes would run by one set of points and by another, timed side by side in fresh processes.
[[nodiscard]] Result<std::vector<Comparison>> compare_points(std::span<const TuneShape> shapes,
                                                             const TargetSelection& selection, const Points& first,
                                                             const Points& second, TuneBench& bench,
                                                             const TuneOptions& options);

// --- the file ---

struct TuneProvenance {
  std::string cpu;      // brand
  std::string date;     // YYYY-MM-DD
  std::string version;  // of this program
  int threads = 1;
  std::string probes;  // "avx512 (1 thread): read 33.1 GB/s, dot 466 GOPS; ..."
  bool full = false;
  std::size_t places = 0;  // that were raced: the rows are what won
};
// TOML that parse_points reads back, with base = "defaults". `kept`: rows of other shapes to stand before the new ones,
// as an earlier file had them.
[[nodiscard]] std::string points_text(const TuneResult& result, const TuneProvenance& provenance,
                                      const TuneResult& kept = {});
// The rows with a shape of their own in a file of the tuner, except those of `shapes`: what --add keeps.
[[nodiscard]] Result<TuneResult> read_tuned(std::string_view toml, const std::string& path,
                                            std::span<const TuneShape> shapes);
// Writes to a temporary file beside `path` and renames it: never half a file.
[[nodiscard]] Status write_file_whole(const std::string& path, std::string_view bytes);

}  // namespace bitnet::codegen
