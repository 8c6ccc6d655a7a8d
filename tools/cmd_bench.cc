// bitnet bench: how fast a model runs here, beside what the machine can do at that moment.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/compare.h"
#include "tools/bench/perf.h"
#include "tools/bench/report.h"
#include "tools/bench/run.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

// Exit codes that no library error has.
constexpr int kImplausible = 9;
constexpr int kRegression = 17;

struct Options {
  bench::Plan plan;
  std::vector<int> threads = {0};
  std::int64_t probe_megabytes = 512;
  std::string compare;
  std::string with;
  double tolerance = 5;  // per cent
  std::string plot;
  bool roofline = false;
  bool json = false;
  bool quiet = false;
};

// What is being measured, on a terminal.
class Progress {
 public:
  explicit Progress(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  Status operator()(std::string_view what) {
    if (interrupted()) return Error{ErrorCode::kInterrupted, "interrupted: nothing is reported"};
    if (shown_ && what != last_) {
      last_ = what;
      std::fprintf(stderr, "\r\033[Kbitnet bench: %s", last_.c_str());
    }
    return {};
  }
  void clear() {
    if (shown_ && !last_.empty()) std::fprintf(stderr, "\r\033[K");
    last_.clear();
  }

 private:
  bool shown_;
  std::string last_;
};

Status write_file(const std::string& path, const std::string& text, const char* what) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << std::flush;
  if (!file) return Error{ErrorCode::kFailure, path + ": " + what + " cannot be written; is the folder there?"};
  return {};
}

// "x.svg" for one run, "x.2.svg" for the run with 2 threads of several.
std::string path_for(const std::string& path, int threads, std::size_t runs) {
  if (path.empty() || runs == 1) return path;
  const std::size_t slash = path.rfind('/');
  const std::size_t dot = path.rfind('.');
  const bool has_end = dot != std::string::npos && (slash == std::string::npos || dot > slash);
  const std::size_t at = has_end ? dot : path.size();
  return path.substr(0, at) + "." + std::to_string(threads) + path.substr(at);
}

// The result of the comparison; `text` gets what is said about it.
Result<int> compare_results(const Options& options, const nlohmann::ordered_json& before,
                            const nlohmann::ordered_json& now, std::string& text) {
  BITNET_ASSIGN_OR_RETURN(const std::vector<bench::Comparison> figures, bench::compare(before, now));
  const double tolerance = options.tolerance / 100;
  text = bench::describe(figures, tolerance);
  return bench::has_regression(figures, tolerance) ? kRegression : 0;
}

// --compare A --with B: nothing is measured.
Result<int> compare_files(const Options& options) {
  BITNET_ASSIGN_OR_RETURN(const nlohmann::ordered_json before, bench::read_result(options.compare));
  BITNET_ASSIGN_OR_RETURN(const nlohmann::ordered_json now, bench::read_result(options.with));
  std::string text;
  BITNET_ASSIGN_OR_RETURN(const int code, compare_results(options, before, now, text));
  BITNET_RETURN_IF_ERROR(write_output(text));
  return code;
}

Result<std::vector<bench::Run>> measure_all(const Options& options) {
  Progress progress(options.quiet);
  std::vector<bench::Run> runs;
  for (const int threads : options.threads) {
    bench::Plan plan = options.plan;
    plan.flamegraph = path_for(plan.flamegraph, threads, options.threads.size());
    const bench::Step step = [&](std::string_view what) -> Status {
      return progress(options.threads.size() == 1 ? std::string(what)
                                                  : std::to_string(threads) + " threads: " + std::string(what));
    };
    BITNET_ASSIGN_OR_RETURN(bench::Run run, bench::measure(plan, threads, step));
    if (!options.plot.empty()) {
      BITNET_RETURN_IF_ERROR(
          write_file(path_for(options.plot, threads, options.threads.size()), bench::roofline_svg(run), "the picture"));
    }
    if (!options.json) {
      progress.clear();
      BITNET_RETURN_IF_ERROR(write_output(bench::table(run)));
      if (options.roofline) BITNET_RETURN_IF_ERROR(write_output(bench::roofline_text(run)));
    }
    runs.push_back(std::move(run));
  }
  return runs;
}

// The exit code.
Result<int> run_bench(Options options) {
  if (!options.with.empty()) {
    if (options.compare.empty()) return Error{ErrorCode::kUsage, "--with needs --compare FILE: the earlier result"};
    return compare_files(options);
  }
  BITNET_RETURN_IF_ERROR(check_standard_output());
  // Whatever can be wrong without a measurement is found before the minutes that it takes.
  nlohmann::ordered_json before;
  if (!options.compare.empty()) {
    BITNET_ASSIGN_OR_RETURN(before, bench::read_result(options.compare));
  }
  if (!options.plan.flamegraph.empty()) BITNET_RETURN_IF_ERROR(bench::PerfRecording::check());
  std::erase(options.plan.prefill, 0);
  std::erase(options.plan.batch, 0);
  options.plan.probe_bytes = static_cast<std::size_t>(options.probe_megabytes) << 20;
  options.plan.load.log = log_to_stderr(false);
  catch_interrupt();
  BITNET_ASSIGN_OR_RETURN(const std::vector<bench::Run> runs, measure_all(options));

  const nlohmann::ordered_json result = bench::to_json(runs);
  if (options.json) BITNET_RETURN_IF_ERROR(write_output(result.dump(2) + "\n"));
  if (options.json && options.roofline) {
    for (const bench::Run& run : runs) std::fputs(bench::roofline_text(run).c_str(), stderr);
  }
  int code = 0;
  if (!options.compare.empty()) {
    std::string text;
    BITNET_ASSIGN_OR_RETURN(code, compare_results(options, before, result, text));
    if (options.json) {
      std::fputs(text.c_str(), stderr);
    } else {
      BITNET_RETURN_IF_ERROR(write_output(text));
    }
  }
  for (const bench::Run& run : runs) {
    for (const std::string& figure : run.implausible()) {
      std::fprintf(stderr,
                   "bitnet: implausible: %s; nothing can exceed %.2f: the machine was not quiet, or the probe is too "
                   "weak, and no fraction of this run counts; measure again\n",
                   figure.c_str(), bench::kProbeLimit);
      code = kImplausible;
    }
  }
  return code;
}

void add_figure_options(CLI::App& command, Options& options) {
  bench::Plan& plan = options.plan;
  command.add_option("--prefill", plan.prefill, "Prompt lengths, e.g. 128,512; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--batch", plan.batch, "Tokens of a small batch with all their logits, 1..8; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{0}, Context::kKept))
      ->capture_default_str();
  command.add_option("--decode", plan.decode, "Tokens decoded one by one")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--prompt", plan.prompt, "Tokens before them")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--context", plan.context, "Decode again after so many tokens; 0: do not")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--rounds", plan.rounds, "Interleaved rounds; figures are their medians")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      .add_option("--probe-mb", options.probe_megabytes,
                  "Memory that the read probe reads; less than 512 is for tests only")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
}

void add_output_options(CLI::App& command, Options& options) {
  command.add_flag("--json", options.json, "Print JSON instead of a table");
  command.add_flag("--roofline", options.roofline, "Print bytes and operations of a token, and the probes' limits");
  command.add_option("--plot", options.plot, "Draw the roofline and every kernel in it: FILE.svg");
  command.add_option("--flamegraph", options.plan.flamegraph,
                     "Where the time of decoding goes, sampled by perf: FILE.svg, or FILE.folded for folded stacks");
  command.add_flag("--perf-map", options.plan.perf_map,
                   "Leave /tmp/perf-PID.map with the addresses of the bundle's kernels, for a perf of your own");
  command.add_option("--compare", options.compare,
                     "An earlier --json: exit 17 if a figure, as a fraction of the probes, is slower");
  command.add_option("--with", options.with, "Compare this --json instead of measuring");
  command.add_option("--tolerance", options.tolerance, "Per cent that a figure may be slower")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_flag("-q,--quiet", options.quiet, "No progress");
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure prefill, decode and batches beside probes of the machine");
  command->alias("benchmark");
  add_model_option(*command, options->plan.model);
  command->add_option("-t,--threads", options->threads, "Thread counts, e.g. 1,2; 0: as many as there are CPUs")
      ->delimiter(',')
      ->envname("BITNET_THREADS")
      ->check(CLI::Range(0, 1024));
  add_kernel_options(*command, options->plan.load);
  add_kv_option(*command, options->plan.kv_type);
  add_figure_options(*command, *options);
  add_output_options(*command, *options);
  command->callback([options, &exit_code] {
    const Result<int> code = run_bench(*options);
    exit_code = code.ok() ? *code : report(code.error());
  });
}

}  // namespace bitnet::tools
