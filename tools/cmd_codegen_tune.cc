// bitnet-codegen tune: which variants serve the shapes of a model on this machine, by measurement; and --compare, which
// times the choices of two files side by side.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <thread>

#include "codegen/points.h"
#include "codegen/targets.h"
#include "codegen/temp_dir.h"
#include "codegen/tune.h"
#include "codegen/tune_bench.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/tensors.h"
#include "runtime/probe/host.h"
#include "tools/codegen_commands.h"
#include "tools/output.h"
#include "tools/read_options.h"

namespace bitnet::tools {
namespace {

constexpr const char* kProgram = "bitnet-codegen tune";
constexpr const char* kDefaultModels[] = {"2b-4t", "large", "3b"};
// Below this many caches' worth of weights a model may stay in the cache.
constexpr std::uint64_t kCaches = 4;
// Rounds of the duels of --full.
constexpr int kFullDuelRounds = 12;

// Ctrl-C asks the tuner to end; a second one ends the program at once.
volatile std::sig_atomic_t interrupted = 0;
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = SA_RESETHAND;
    ::sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ = {};
};

// A bar with the best so far on a terminal; otherwise one plain line for each result.
class TuneDisplay {
 public:
  explicit TuneDisplay(bool quiet) : quiet_(quiet) {}

  void show(const codegen::TuneProgress& progress) {
    if (quiet_) return;
    if (!terminal_) {
      if (!progress.best.empty() && progress.best != shown_) {
        std::fprintf(stderr, "%s: %zu of %zu: %s\n", kProgram, progress.done, progress.total, progress.best.c_str());
      }
      shown_ = progress.best;
      return;
    }
    constexpr std::size_t kWidth = 24;
    const std::size_t filled = progress.total == 0 ? 0 : std::min(progress.done * kWidth / progress.total, kWidth);
    std::string line = "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') + "] " +
                       std::to_string(progress.done) + "/" + std::to_string(progress.total) + " " + progress.now;
    if (!progress.best.empty()) line += " | " + progress.best;
    struct winsize size = {};
    const std::size_t columns = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
    if (line.size() > columns - 1) line.resize(columns - 1);
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
    drawn_ = true;
  }

  // The cursor to the beginning of an empty line.
  void clear() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
    drawn_ = false;
  }

 private:
  bool quiet_;
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
  std::string shown_;
};

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", ::localtime_r(&now, &local));
  return text;
}

int all_threads() { return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); }

// What this CPU executes of a selection. A target that was asked for must be there; one that only comes along need not.
Result<codegen::TargetSelection> executable(const codegen::TargetSelection& selection, bool quiet) {
  codegen::TargetSelection kept = selection;
  kept.images.clear();
  for (const codegen::Target* image : selection.images) {
    if (probe_isa(image->isa)) {
      kept.images.push_back(image);
      continue;
    }
    const bool asked = std::ranges::find(selection.asked, image) != selection.asked.end() && image->part_of.empty();
    const std::string name(image->name);
    if (asked) {
      return Error{ErrorCode::kUsage, "this CPU does not execute target '" + name +
                                          "', so nothing can be measured for it; tune on a machine that does"};
    }
    if (!quiet) std::fprintf(stderr, "%s: %s is left out: this CPU does not execute it\n", kProgram, name.c_str());
  }
  return kept;
}

Result<std::vector<codegen::TuneShape>> shapes_of_command(const TuneCommand& command) {
  if (!command.model.empty() && !command.shapes.empty()) {
    return Error{ErrorCode::kUsage, "give either --model or --shapes"};
  }
  if (!command.model.empty()) {
    BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(command.model));
    BITNET_ASSIGN_OR_RETURN(const ModelConfig config, read_config(file));
    BITNET_ASSIGN_OR_RETURN(const ModelTensors tensors, map_tensors(file, config, command.read));
    return shapes_to_tune(tensors);
  }
  if (!command.shapes.empty()) {
    BITNET_ASSIGN_OR_RETURN(const std::string text, codegen::read_whole_file(command.shapes));
    return codegen::parse_tune_shapes(text, command.shapes);
  }
  std::vector<codegen::TuneShape> shapes;
  for (const char* model : kDefaultModels) {
    BITNET_ASSIGN_OR_RETURN(const std::vector<codegen::TuneShape> more, codegen::shapes_of_model(model));
    codegen::add_shapes(shapes, more);
  }
  return shapes;
}

codegen::TuneOptions tune_options(TuneDisplay& display, bool full, int threads) {
  codegen::TuneOptions options;
  options.full = full;
  options.halide = full;
  if (full) options.duel_rounds = kFullDuelRounds;
  options.more_threads = threads > 1;
  options.cached_bytes = static_cast<std::int64_t>(kCaches * probe::largest_cache_bytes().value_or(32U << 20));
  options.stop = [] { return interrupted != 0; };
  options.progress = [&display](const codegen::TuneProgress& progress) { display.show(progress); };
  return options;
}

Result<std::unique_ptr<codegen::KernelTuneBench>> make_bench(int jobs) {
  codegen::KernelTuneBenchOptions options;
  options.threads = all_threads();
  options.jobs = jobs;
  return codegen::KernelTuneBench::create(options);
}

// The table of --compare and, below, the worst and the best ratio.
std::string comparison_text(std::span<const codegen::Comparison> rows, const std::string& first,
                            const std::string& second) {
  std::string text = "time of " + first + " over " + second + ", median (least..most) of several processes\n";
  double least = 1;
  double most = 1;
  for (const codegen::Comparison& row : rows) {
    const std::string shape = std::to_string(row.shape.n) + "x" + std::to_string(row.shape.k);
    char line[256];
    if (row.same) {
      std::snprintf(line, sizeof line, "%-7s %-11s %-18s  same   %s\n", row.target.c_str(), shape.c_str(),
                    row.use.c_str(), row.first.c_str());
    } else {
      std::snprintf(line, sizeof line, "%-7s %-11s %-18s  %.3f (%.3f..%.3f)  %s against %s\n", row.target.c_str(),
                    shape.c_str(), row.use.c_str(), row.ratio, row.least, row.most, row.first.c_str(),
                    row.second.c_str());
    }
    text += line;
    least = std::min(least, row.ratio);
    most = std::max(most, row.ratio);
  }
  char summary[96];
  std::snprintf(summary, sizeof summary, "ratios from %.3f to %.3f\n", least, most);
  return text + summary;
}

Result<std::string> compare(const TuneCommand& command) {
  BITNET_ASSIGN_OR_RETURN(const codegen::Points first, codegen::find_points(command.compare));
  BITNET_ASSIGN_OR_RETURN(const codegen::Points second, codegen::find_points(command.against));
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection asked, codegen::select_targets(command.targets));
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection selection, executable(asked, command.quiet));
  BITNET_ASSIGN_OR_RETURN(const std::vector<codegen::TuneShape> shapes, shapes_of_command(command));
  const InterruptGuard guard;
  TuneDisplay display(command.quiet);
  BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<codegen::KernelTuneBench> bench, make_bench(command.jobs));
  const auto rows = codegen::compare_points(shapes, selection, first, second, *bench,
                                            tune_options(display, command.full, all_threads()));
  display.clear();
  if (!rows.ok()) return rows.error();
  return comparison_text(*rows, command.compare, command.against);
}

Status tune(const TuneCommand& command) {
  if (command.output.empty()) {
    return Error{ErrorCode::kUsage, "no file for the points given: name one with --output, for example cpu.toml"};
  }
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection selection, codegen::select_targets(command.targets));
  BITNET_ASSIGN_OR_RETURN(const codegen::Points base, codegen::find_points(command.points));
  TuneRequest request;
  request.output = command.output;
  request.add = command.add;
  request.full = command.full;
  request.jobs = command.jobs;
  request.quiet = command.quiet;
  BITNET_ASSIGN_OR_RETURN(request.shapes, shapes_of_command(command));
  return tune_to_file(request, selection, base);
}

}  // namespace

std::vector<codegen::TuneShape> shapes_to_tune(const ModelTensors& tensors) {
  std::vector<codegen::TuneShape> shapes;
  for (const LayerTensors& layer : tensors.layers) {
    for (const FusedMatrix& product : layer.products) {
      if (!product.ternary() || product.group != 0) continue;  // kernels with K-groups have no points of their own
      const codegen::TuneShape shape = {product.n, product.k, 1};
      codegen::add_shapes(shapes, std::span(&shape, 1));
    }
  }
  return shapes;
}

Status tune_to_file(const TuneRequest& request, const codegen::TargetSelection& asked, const codegen::Points& base) {
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection selection, executable(asked, request.quiet));
  codegen::TuneResult kept;
  std::error_code ignored;
  if (request.add && std::filesystem::exists(request.output, ignored)) {
    BITNET_ASSIGN_OR_RETURN(const std::string old, codegen::read_whole_file(request.output));
    BITNET_ASSIGN_OR_RETURN(kept, codegen::read_tuned(old, request.output, request.shapes));
  }
  const auto begin = std::chrono::steady_clock::now();
  const InterruptGuard guard;
  TuneDisplay display(request.quiet);
  const codegen::TuneOptions options = tune_options(display, request.full, all_threads());
  BITNET_ASSIGN_OR_RETURN(const codegen::Points defaults, codegen::default_points());
  codegen::TuneProvenance provenance;
  const auto search = [&]() -> Result<codegen::TuneResult> {
    codegen::TuneResult found;
    {
      BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<codegen::KernelTuneBench> bench, make_bench(request.jobs));
      BITNET_ASSIGN_OR_RETURN(found, codegen::tune(request.shapes, selection, base, *bench, options));
      provenance.probes = bench->probes();
      provenance.places = found.points.size();
    }  // the bench and its threads are gone before other processes start
    BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<codegen::KernelTuneBench> fresh, make_bench(request.jobs));
    BITNET_RETURN_IF_ERROR(codegen::confirm(found, request.shapes, selection, base, *fresh, options));
    codegen::leave_out_known(found, request.shapes, selection, defaults, options);
    return found;
  };
  const Result<codegen::TuneResult> result = search();
  display.clear();
  if (!result.ok()) return result.error();
  for (const std::string& message : result->inexact) std::fprintf(stderr, "%s: %s\n", kProgram, message.c_str());
  provenance.cpu = probe::cpu_name();
  provenance.date = today();
  provenance.version = BITNET_VERSION;
  provenance.threads = all_threads();
  provenance.full = request.full;
  BITNET_RETURN_IF_ERROR(codegen::write_file_whole(request.output, codegen::points_text(*result, provenance, kept)));
  if (!request.quiet) {
    std::fprintf(stderr, "%s: %s: %zu shapes, %zu places, %zu better than the defaults, %.0f s\n", kProgram,
                 request.output.c_str(), request.shapes.size(), provenance.places, result->points.size(),
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return {};
}

void TuneCommand::add_options(CLI::App& command) {
  command.add_option("-t,--target", targets, "what to tune for; this CPU must execute it")->capture_default_str();
  command.add_option("-m,--model", model, "tune the shapes of this model (.gguf)");
  add_read_options(command, read);
  command.add_option("--shapes", shapes,
                     "tune these shapes: TOML with [[shape]] n, k, layers; default: those of 2b-4t, large and 3b");
  command.add_option("-o,--output", output, "the points (TOML)");
  command.add_flag("--add", add, "keep the rows of other shapes that the output already has");
  auto* quick_flag = command.add_flag("--quick", quick, "what won or came close so far (the default)");
  command.add_flag("--full", full, "the whole space, Halide too, and more rounds")->excludes(quick_flag);
  command.add_option("--points", points, "the points to start from: a shipped name or a file; default: defaults");
  command.add_option("--compare", compare, "tune nothing: time the choices of these points (a shipped name or a file)");
  command.add_option("--against", against, "with --compare: against those of these")->capture_default_str();
  command.add_option("-j,--jobs", jobs, "compilations at once; default: one per CPU")->check(CLI::Range(1, 1024));
  command.add_flag("-q,--quiet", quiet, "no progress");
}

int TuneCommand::run() const {
  if (!compare.empty()) {
    const Result<std::string> text = tools::compare(*this);
    return text.ok() ? show_result(kProgram, *text) : report_error(kProgram, text.error());
  }
  const Status status = tools::tune(*this);
  return status.ok() ? 0 : report_error(kProgram, status.error());
}

}  // namespace bitnet::tools
