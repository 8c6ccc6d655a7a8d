// bitnet-kernel-bench: every ternary kernel of some bundles, or the built-in ones, beside what the machine can do.
//
// One arena of random weights for each layout, larger than any cache and in 2 MiB pages, serves all shapes: any cut of
// it is a valid matrix. A gemv or a small batch walks over the whole arena, matrix by matrix, so that every weight
// comes from memory, as in decoding; a gemm multiplies one matrix with many tokens. Each kernel's results are compared
// with a plain loop first.
//
// The limit of a run is the longer of two times: its bytes at the read probe's rate, its operations at the dot probe's
// (a gemm of many tokens: the dot probe's alone). A warm-up chooses the best variant of each probe; then every run has
// a pass of both probes before and behind it, and its fraction is limit / time with the mean of the two. The figures
// are medians over the rounds. A kernel above 1.02 of its limit fails the bench: then the probe is too weak.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/base/math.h"
#include "runtime/bundle/bundle.h"
#include "runtime/kernels/layout.h"
#include "runtime/probe/probes.h"

namespace bitnet::bench {
namespace {

using probe::median;
using probe::Probes;
using probe::ProbeSamples;

constexpr double kProbeLimit = 1.02;
constexpr int kWarmUpRounds = 3;
constexpr std::size_t kMegabyte = std::size_t{1} << 20;

struct Options {
  std::vector<std::string> bundles;
  std::vector<int> threads = {1};
  int rounds = 9;
  std::int64_t tokens = 128;
  std::size_t megabytes = 576;
  std::vector<std::string> shapes = {"640x2560", "2560x2560", "6912x2560", "2560x6912"};
  std::string filter;
};

struct Shape {
  std::int64_t n = 0;
  std::int64_t k = 0;
};

// One kernel on one shape and its samples.
struct Case {
  const Kernel* kernel = nullptr;
  Shape shape;
  std::int64_t tokens = 1;
  std::vector<double> seconds;    // of one matrix
  std::vector<double> fractions;  // of the limit
};

// What the machine did just before or behind a run.
struct ProbeReading {
  double read_gbps = 0;
  double dot_gops = 0;
};

Result<Shape> parse_shape(const std::string& text) {
  Shape shape;
  char rest = 0;
  long long n = 0;
  long long k = 0;
  if (std::sscanf(text.c_str(), "%lldx%lld%c", &n, &k, &rest) != 2 || n < 1 || k < 1 || n > 1 << 20 || k > 1 << 18) {
    return Error{ErrorCode::kUsage, "--shapes: expected NxK with 1 <= N <= 1048576 and 1 <= K <= 262144, found '" +
                                        text + "'; give e.g. 6912x2560"};
  }
  shape.n = n;
  shape.k = k;
  return shape;
}

std::string machine_line() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

Layout layout(const Case& c) { return layout_of(c.kernel->format); }
std::int64_t groups(const Case& c) { return group_count(c.shape.k, c.kernel->group); }
std::int64_t rows_of(const Case& c) { return row_tiles(c.shape.n) * BITNET_TILE_ROWS; }
std::size_t bytes_of(const Case& c) { return matrix_bytes(layout(c), c.shape.n, c.shape.k); }
double operations_of(const Case& c) { return 2.0 * static_cast<double>(c.shape.n * c.shape.k * c.tokens); }
// A gemm of many tokens reads its weights once for all of them: only its operations count.
bool streams_weights(const Case& c) { return c.kernel->op == Op::kGemv || c.kernel->m != 0; }

double limit_seconds(const Case& c, const ProbeReading& probe) {
  const double compute = operations_of(c) / probe.dot_gops * 1e-9;
  if (!streams_weights(c)) return compute;
  return std::max(compute, static_cast<double>(bytes_of(c)) / probe.read_gbps * 1e-9);
}

// Operands shared by all cases: weights of each layout, activation rows, packed activations, outputs, scratch.
class Operands {
 public:
  static Result<Operands> create(const Options& options, std::span<const Case> cases, int max_threads) {
    Operands o;
    std::size_t outputs = 0;
    for (const Case& c : cases) {
      const std::int64_t tile = c.kernel->token_tile;
      const auto rows = static_cast<std::size_t>(round_up<std::int64_t>(c.tokens, tile));
      o.row_count_ = std::max(o.row_count_, rows);
      o.width_ = std::max(o.width_, static_cast<std::size_t>(BITNET_ACTIVATION_WIDTH(c.shape.k)));
      o.scratch_bytes_ = std::max(o.scratch_bytes_, round_up<std::size_t>(c.kernel->scratch_bytes, 64));
      outputs = std::max(outputs, rows * static_cast<std::size_t>(rows_of(c) * groups(c)));
      std::size_t& bytes = o.arena_bytes_[layout(c)];
      bytes = std::max({bytes, options.megabytes * kMegabyte, bytes_of(c)});
    }
    BITNET_ASSIGN_OR_RETURN(o.rows_, Buffer::allocate(o.row_count_ * o.width_));
    BITNET_ASSIGN_OR_RETURN(o.packed_, Buffer::allocate(o.row_count_ * o.width_));
    BITNET_ASSIGN_OR_RETURN(o.y_, Buffer::allocate(outputs * sizeof(std::int32_t)));
    BITNET_ASSIGN_OR_RETURN(o.scratch_, Buffer::allocate(o.scratch_bytes_ * static_cast<std::size_t>(max_threads)));
    std::mt19937_64 random(7);
    for (const auto& [which, bytes] : o.arena_bytes_) {
      BITNET_ASSIGN_OR_RETURN(o.arenas_[which], Buffer::allocate(bytes));
      fill_arena(which, o.arenas_[which].as<std::uint8_t>(), bytes, random);
    }
    o.values_.resize(o.row_count_ * o.width_);
    for (std::int8_t& v : o.values_) v = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
    return o;
  }

  // Lays the activation rows out for a case: [tokens][width], zero beyond k, and packed for its token tile.
  void prepare(const Case& c) {
    const std::int64_t k = c.shape.k;
    const std::int64_t width = BITNET_ACTIVATION_WIDTH(k);
    const std::int32_t mr = c.kernel->token_tile;
    const std::int64_t group = c.kernel->group == 0 ? k : c.kernel->group;
    sums_stride_ = round_up<std::int64_t>(c.tokens, mr);
    sums_.assign(static_cast<std::size_t>(sums_stride_ * groups(c)), 0);
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      std::int8_t* row = rows_.as<std::int8_t>() + t * width;
      for (std::int64_t i = 0; i < width; ++i) {
        row[i] = i < k ? values_[static_cast<std::size_t>(t * width + i)] : std::int8_t{0};
        if (i < k) sums_[static_cast<std::size_t>(i / group * sums_stride_ + t)] += row[i];
      }
    }
    if (c.kernel->op == Op::kGemm) {
      pack_activations(rows_.as<std::int8_t>(), c.tokens, k, mr, 0, ceil_div<std::int64_t>(c.tokens, mr),
                       packed_.as<std::int8_t>());
    }
  }

  [[nodiscard]] std::size_t copies(const Case& c) const { return arena_bytes_.at(layout(c)) / bytes_of(c); }

  // Runs the case on matrix `copy` of its arena, rows split over the pool.
  void run(const Case& c, ThreadPool& pool, std::size_t copy) {
    const std::uint8_t* weights = arenas_.at(layout(c)).as<std::uint8_t>(copy * bytes_of(c));
    pool.parallel_for(c.shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
      void* scratch =
          scratch_bytes_ == 0 ? nullptr : scratch_.as<std::byte>(scratch_bytes_ * static_cast<std::size_t>(thread));
      if (c.kernel->op == Op::kGemv) {
        (*c.kernel)(bitnet_gemv_args{weights, rows_.as<std::int8_t>(), sums_.data(), y_.as<std::int32_t>(), scratch,
                                     begin, end, rows_of(c), c.shape.n, c.shape.k});
        return;
      }
      (*c.kernel)(bitnet_gemm_args{weights, packed_.as<std::int8_t>(), sums_.data(), y_.as<std::int32_t>(), scratch,
                                   begin, end, c.tokens, rows_of(c) * groups(c), rows_of(c), sums_stride_, c.shape.n,
                                   c.shape.k});
    });
  }

  // Compares matrix 0 with a plain loop: all rows of a gemv, the first and the last tile of a gemm for all tokens.
  Status check(const Case& c, ThreadPool& pool) {
    prepare(c);
    const std::int64_t stride = rows_of(c) * groups(c);
    std::fill_n(y_.as<std::int32_t>(), c.tokens * stride, 0x55555555);
    run(c, pool, 0);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(c.shape.k));
    const std::int64_t width = BITNET_ACTIVATION_WIDTH(c.shape.k);
    const std::int64_t group = c.kernel->group == 0 ? c.shape.k : c.kernel->group;
    for (std::int64_t r = 0; r < c.shape.n; ++r) {
      const bool in_middle = r >= BITNET_TILE_ROWS && r < rows_of(c) - BITNET_TILE_ROWS;
      if (c.kernel->op == Op::kGemm && in_middle) continue;
      unpack_row(layout(c), arenas_.at(layout(c)).as<std::uint8_t>(), r, c.shape.k, codes.data());
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        for (std::int64_t g = 0; g < groups(c); ++g) {
          std::int32_t expected = 0;
          const std::int8_t* x = rows_.as<std::int8_t>() + t * width;
          for (std::int64_t i = g * group; i < std::min((g + 1) * group, c.shape.k); ++i) {
            expected += (codes[static_cast<std::size_t>(i)] - 1) * x[i];
          }
          const std::int32_t found = y_.as<std::int32_t>()[t * stride + g * rows_of(c) + r];
          if (found == expected) continue;
          return Error{ErrorCode::kVerification, c.kernel->name() + ": wrong result before timing, token " +
                                                     std::to_string(t) + ", row " + std::to_string(r) + ": expected " +
                                                     std::to_string(expected) + ", found " + std::to_string(found) +
                                                     "; the kernel is broken, do not use it"};
        }
      }
    }
    return {};
  }

 private:
  // A period of whole lines, repeated: random for the kernels, quick to make.
  static void fill_arena(Layout which, std::uint8_t* out, std::size_t bytes, std::mt19937_64& random) {
    constexpr std::int64_t kLines = 1009;
    const std::int64_t k = kLines * info(which).line_k;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(k * BITNET_TILE_ROWS));
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % 3);
    std::vector<std::uint8_t> period(tile_bytes(which, k));
    pack_codes(which, codes.data(), 0, BITNET_TILE_ROWS, k, period.data());
    for (std::size_t at = 0; at < bytes; at += period.size()) {
      std::memcpy(out + at, period.data(), std::min(period.size(), bytes - at));
    }
  }

  std::size_t row_count_ = 1;
  std::size_t width_ = 0;
  std::size_t scratch_bytes_ = 0;
  std::int64_t sums_stride_ = 0;
  std::map<Layout, std::size_t> arena_bytes_;
  std::map<Layout, Buffer> arenas_;
  Buffer rows_, packed_, y_, scratch_;
  std::vector<std::int8_t> values_;
  std::vector<std::int32_t> sums_;
};

// Seconds of one matrix: over the whole arena where weights are streamed, else one of its matrices.
double measure(Operands& operands, const Case& c, ThreadPool& pool, int round) {
  operands.prepare(c);
  const std::size_t copies = operands.copies(c);
  const std::size_t first = streams_weights(c) ? 0 : static_cast<std::size_t>(round) % copies;
  const std::size_t count = streams_weights(c) ? copies : 1;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t copy = first; copy < first + count; ++copy) operands.run(c, pool, copy);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return seconds / static_cast<double>(count);
}

// Prints one kernel's line; returns false if it beats its limit.
bool report(const Case& c) {
  std::vector<double> fractions = c.fractions;
  std::ranges::sort(fractions);
  const double fraction = median(fractions);
  const double seconds = median(c.seconds);
  const std::string shape = std::to_string(c.shape.n) + "x" + std::to_string(c.shape.k);
  std::printf("  %-44s %-11s %7.1f GB/s %7.0f GOPS  fraction %.3f  (rounds %.3f .. %.3f)%s\n", c.kernel->name().c_str(),
              shape.c_str(), static_cast<double>(bytes_of(c)) / seconds * 1e-9, operations_of(c) / seconds * 1e-9,
              fraction, fractions.front(), fractions.back(), fraction > kProbeLimit ? "  ABOVE ITS PROBE" : "");
  return fraction <= kProbeLimit;
}

// One line for each family: its shapes weighted by bytes, and weights per second.
void report_families(std::span<const Case> cases) {
  struct Sum {
    double weight = 0;
    double fraction = 0;
    double lowest = 1e9;
    double weights = 0;
    double seconds = 0;
  };
  std::map<std::string, Sum> sums;
  for (const Case& c : cases) {
    Kernel family = *c.kernel;
    family.n = 0;
    family.k = 0;
    Sum& sum = sums[family.name()];
    const auto bytes = static_cast<double>(bytes_of(c));
    const double fraction = median(c.fractions);
    sum.weight += bytes;
    sum.fraction += bytes * fraction;
    sum.lowest = std::min(sum.lowest, fraction);
    sum.weights += static_cast<double>(c.shape.n * c.shape.k);
    sum.seconds += median(c.seconds);
  }
  for (const auto& [name, sum] : sums) {
    std::printf("  = %-42s all shapes by bytes: fraction %.3f, lowest %.3f, %.1f G weights/s\n", name.c_str(),
                sum.fraction / sum.weight, sum.lowest, sum.weights / sum.seconds * 1e-9);
  }
}

// The best variants of both probes, after a warm-up.
class ProbePair {
 public:
  ProbePair(const Probes& probes, ThreadPool& pool) : probes_(probes), pool_(pool) {
    ProbeSamples read(probes.read_variants().size());
    ProbeSamples dot(probes.dot_variants().size());
    for (int round = 0; round < kWarmUpRounds; ++round) {
      for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(pool, v));
      for (std::size_t v = 0; v < probes.dot_variants().size(); ++v) dot.add(v, probes.dot_gops(pool, v));
    }
    read_ = read.best();
    dot_ = dot.best();
  }
  ProbeReading take() {
    const ProbeReading reading = {probes_.read_gbps(pool_, read_), probes_.dot_gops(pool_, dot_)};
    read_samples_.push_back(reading.read_gbps);
    dot_samples_.push_back(reading.dot_gops);
    return reading;
  }
  [[nodiscard]] std::string describe() const {
    char text[200];
    std::snprintf(text, sizeof text, "read probe %.1f GB/s (%s), dot probe %.0f GOPS (%s, %d chains)",
                  median(read_samples_), Probes::name(probes_.read_variants()[read_]).c_str(), median(dot_samples_),
                  probes_.dot_instruction(), probes_.dot_variants()[dot_]);
    return text;
  }

 private:
  const Probes& probes_;
  ThreadPool& pool_;
  std::size_t read_ = 0;
  std::size_t dot_ = 0;
  std::vector<double> read_samples_;
  std::vector<double> dot_samples_;
};

Result<bool> run_isa(const Options& options, Isa isa, std::vector<Case> cases) {
  const int most = *std::ranges::max_element(options.threads);
  BITNET_ASSIGN_OR_RETURN(Operands operands, Operands::create(options, cases, most));
  BITNET_ASSIGN_OR_RETURN(const Probes probes, Probes::create(isa, options.megabytes * kMegabyte));
  bool honest = true;
  for (const int threads : options.threads) {
    BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<ThreadPool> pool, ThreadPool::create(threads));
    for (Case& c : cases) {
      BITNET_RETURN_IF_ERROR(operands.check(c, *pool));
      c.seconds.clear();
      c.fractions.clear();
    }
    ProbePair pair(probes, *pool);
    ProbeReading before = pair.take();
    for (int round = 0; round < options.rounds; ++round) {
      for (Case& c : cases) {
        const double seconds = measure(operands, c, *pool, round);
        const ProbeReading behind = pair.take();
        const ProbeReading mean = {(before.read_gbps + behind.read_gbps) / 2, (before.dot_gops + behind.dot_gops) / 2};
        c.seconds.push_back(seconds);
        c.fractions.push_back(limit_seconds(c, mean) / seconds);
        before = behind;
      }
    }
    std::printf("%s, %d thread%s, %d rounds: %s\n", std::string(to_string(isa)).c_str(), threads,
                threads == 1 ? "" : "s", options.rounds, pair.describe().c_str());
    for (const Case& c : cases) honest = report(c) && honest;
    report_families(cases);
  }
  return honest;
}

// All ternary kernels whose name has the filter in it; one that fits any shape is measured on each of --shapes.
Result<bool> run(const Options& options) {
  std::vector<Shape> shapes;
  for (const std::string& text : options.shapes) {
    BITNET_ASSIGN_OR_RETURN(const Shape shape, parse_shape(text));
    shapes.push_back(shape);
  }
  const std::vector<Isa> usable = executable_isas();
  std::vector<Bundle> bundles;
  std::vector<Kernel> kernels;
  std::string sources;
  for (const std::string& path : options.bundles) {
    BITNET_ASSIGN_OR_RETURN(Bundle bundle, Bundle::open(path, "", usable));
    for (const Kernel& kernel : bundle.kernels()) {
      const bool known = std::ranges::any_of(kernels, [&](const Kernel& k) { return k.name() == kernel.name(); });
      if (!known) kernels.push_back(kernel);
    }
    sources += " " + path;
    bundles.push_back(std::move(bundle));
  }
  if (options.bundles.empty()) kernels.assign(builtin_kernels().begin(), builtin_kernels().end());
  std::printf("%s; kernels:%s; %lld tokens; %zu MB of weights\n", machine_line().c_str(),
              options.bundles.empty() ? " built in" : sources.c_str(), static_cast<long long>(options.tokens),
              options.megabytes);
  bool honest = true;
  bool any = false;
  for (const Isa isa : usable) {
    std::vector<Case> cases;
    for (const Kernel& kernel : kernels) {
      if (kernel.isa != isa || !is_ternary(kernel.op) || kernel.name().find(options.filter) == std::string::npos) {
        continue;
      }
      const std::int64_t tokens = kernel.op == Op::kGemv ? 1 : kernel.m != 0 ? kernel.m : options.tokens;
      if (kernel.n != 0) {
        cases.push_back({&kernel, {kernel.n, kernel.k}, tokens, {}, {}});
        continue;
      }
      for (const Shape& shape : shapes) cases.push_back({&kernel, shape, tokens, {}, {}});
    }
    if (cases.empty()) continue;
    any = true;
    BITNET_ASSIGN_OR_RETURN(const bool isa_honest, run_isa(options, isa, std::move(cases)));
    honest = isa_honest && honest;
  }
  if (!any) {
    return Error{ErrorCode::kFailure,
                 "no ternary kernel that this CPU executes" +
                     (options.filter.empty() ? "" : " and whose name has '" + options.filter + "'") + " in" +
                     (options.bundles.empty() ? " the built-in list" : sources)};
  }
  return honest;
}

}  // namespace
}  // namespace bitnet::bench

int main(int argc, char** argv) {
  bitnet::bench::Options options;
  CLI::App app{"Measures every ternary kernel beside read and dot-product probes of the same run."};
  app.add_option("--bundle", options.bundles, "kernels of these bundles (default: the built-in ones)");
  app.add_option("--threads", options.threads, "thread counts, e.g. 1,2")->delimiter(',')->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds, "interleaved rounds")->check(CLI::Range(9, 1000));
  app.add_option("--tokens", options.tokens, "batch of the gemm kernels")->check(CLI::Range(1, 4096));
  app.add_option("--megabytes", options.megabytes, "working set of gemv and read probe")->check(CLI::Range(512, 65536));
  app.add_option("--shapes", options.shapes, "NxK for kernels that fit any shape")->delimiter(',');
  app.add_option("--filter", options.filter, "only kernels with this text in their name, e.g. _gemv_");
  CLI11_PARSE(app, argc, argv);
  const bitnet::Result<bool> honest = bitnet::bench::run(options);
  if (!honest.ok()) {
    std::fprintf(stderr, "bitnet-kernel-bench: %s\n", honest.error().message.c_str());
    return static_cast<int>(honest.error().code);
  }
  if (!*honest) {
    std::fprintf(
        stderr,
        "bitnet-kernel-bench: a kernel is above %.2f of its probe: the probe is too weak or the machine was not "
        "quiet; measure again, or mend runtime/probe/probe_loops_*.cc\n",
        bitnet::bench::kProbeLimit);
    return static_cast<int>(bitnet::ErrorCode::kFailure);
  }
  return 0;
}
