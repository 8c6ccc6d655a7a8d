// bitnet-kernel-bench: every ternary kernel of a bundle, or the built-in ones, beside what the machine can do.
//
// One arena of random t2 codes, larger than any cache and in 2 MiB pages, serves all shapes: any cut of it is a valid
// matrix. A gemv run walks over the whole arena, matrix by matrix, so that every weight comes from memory, as in
// decoding; a gemm run multiplies one matrix with a batch of tokens. Each kernel's results are compared with a plain
// loop first. Rounds interleave one pass of every probe variant with one run of every kernel; the figures are medians,
// and a kernel above 1.02 of its probe fails the bench, since that means that the probe is too weak.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "bench/probes.h"
#include "runtime/base/math.h"
#include "runtime/bundle/bundle.h"
#include "runtime/kernels/layout.h"

namespace bitnet::bench {
namespace {

constexpr double kProbeLimit = 1.02;
constexpr std::size_t kMegabyte = std::size_t{1} << 20;

struct Options {
  std::string bundle;
  std::vector<int> threads = {1};
  int rounds = 9;
  std::int64_t tokens = 128;
  std::size_t megabytes = 576;
  std::vector<std::string> shapes = {"640x2560", "2560x2560", "6912x2560", "2560x6912"};
};

struct Shape {
  std::int64_t n = 0;
  std::int64_t k = 0;
};

// One kernel on one shape, its operands and its samples.
struct Case {
  const Kernel* kernel = nullptr;
  Shape shape;
  std::vector<double> samples;
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

// Operands shared by all cases: weights, one activation row per token, packed activations, outputs, scratch.
class Operands {
 public:
  static Result<Operands> create(const Options& options, std::span<const Case> cases, int max_threads) {
    Operands o;
    o.tokens_ = options.tokens;
    std::int64_t n = 0;
    std::int64_t k = 0;
    std::int64_t tile = 1;
    for (const Case& c : cases) {
      n = std::max(n, row_tiles(c.shape.n) * BITNET_TILE_ROWS);
      k = std::max(k, BITNET_ACTIVATION_WIDTH(c.shape.k));
      tile = std::max<std::int64_t>(tile, c.kernel->token_tile);
      o.scratch_bytes_ = std::max(o.scratch_bytes_, round_up<std::size_t>(c.kernel->scratch_bytes, 64));
      o.weight_bytes_ = std::max(o.weight_bytes_, matrix_bytes(Layout::kT2, c.shape.n, c.shape.k));
    }
    o.weight_bytes_ = std::max(o.weight_bytes_, options.megabytes * kMegabyte);
    const std::size_t rows = static_cast<std::size_t>(o.tokens_ + tile);
    const std::size_t padded_k = static_cast<std::size_t>(k);
    BITNET_ASSIGN_OR_RETURN(o.weights_, Buffer::allocate(o.weight_bytes_));
    BITNET_ASSIGN_OR_RETURN(o.rows_, Buffer::allocate(rows * padded_k));
    BITNET_ASSIGN_OR_RETURN(o.packed_, Buffer::allocate(rows * padded_k));
    BITNET_ASSIGN_OR_RETURN(o.y_, Buffer::allocate(rows * static_cast<std::size_t>(n) * sizeof(std::int32_t)));
    BITNET_ASSIGN_OR_RETURN(o.scratch_, Buffer::allocate(o.scratch_bytes_ * static_cast<std::size_t>(max_threads)));
    std::mt19937_64 random(7);
    // 64 KiB of codes 0..2, repeated: random for the kernels, quick to make.
    std::uint8_t* w = o.weights_.as<std::uint8_t>();
    const std::size_t period = std::min<std::size_t>(o.weight_bytes_, 65536 + 64);
    for (std::size_t i = 0; i < period; ++i) {
      for (int p = 0; p < 4; ++p) w[i] = static_cast<std::uint8_t>(w[i] | (random() % 3) << (2 * p));
    }
    for (std::size_t i = period; i < o.weight_bytes_; ++i) w[i] = w[i - period];
    o.values_.resize(rows * padded_k);
    for (std::int8_t& v : o.values_) v = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
    return o;
  }

  // Lays the activation rows out for a case: [tokens][round_up(k, 64)], zero beyond k, and packed for its token tile.
  void prepare(const Case& c) {
    const std::int64_t k = c.shape.k;
    const std::int64_t padded = BITNET_ACTIVATION_WIDTH(k);
    const std::int32_t mr = c.kernel->token_tile;
    sums_.assign(static_cast<std::size_t>(round_up<std::int64_t>(tokens_, mr)), 0);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      for (std::int64_t i = 0; i < padded; ++i) {
        const std::int8_t value = i < k ? values_[static_cast<std::size_t>(t * padded + i)] : std::int8_t{0};
        rows_.as<std::int8_t>()[t * padded + i] = value;
        sums_[static_cast<std::size_t>(t)] += value;
      }
    }
    if (c.kernel->op == Op::kGemm) {
      pack_activations(rows_.as<std::int8_t>(), tokens_, k, mr, 0, ceil_div<std::int64_t>(tokens_, mr),
                       packed_.as<std::int8_t>());
    }
  }

  [[nodiscard]] std::size_t copies(const Case& c) const {
    return weight_bytes_ / matrix_bytes(Layout::kT2, c.shape.n, c.shape.k);
  }

  // Runs the case on matrix `copy` of the arena, rows split over the pool.
  void run(const Case& c, ThreadPool& pool, std::size_t copy) {
    const std::uint8_t* weights = weights_.as<std::uint8_t>(copy * matrix_bytes(Layout::kT2, c.shape.n, c.shape.k));
    pool.parallel_for(c.shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
      if (c.kernel->op == Op::kGemv) {
        (*c.kernel)(bitnet_gemv_args{weights, rows_.as<std::int8_t>(), sums_.data(), y_.as<std::int32_t>(), nullptr,
                                     begin, end, 0, c.shape.n, c.shape.k});
        return;
      }
      void* scratch =
          scratch_bytes_ == 0 ? nullptr : scratch_.as<std::byte>(scratch_bytes_ * static_cast<std::size_t>(thread));
      (*c.kernel)(bitnet_gemm_args{weights, packed_.as<std::int8_t>(), sums_.data(), y_.as<std::int32_t>(), scratch,
                                   begin, end, tokens_, stride(c), 0, 0, c.shape.n, c.shape.k});
    });
  }

  // Compares matrix 0 with a plain loop: all rows of a gemv, the first and the last tile of a gemm for all tokens.
  Status check(const Case& c, ThreadPool& pool) {
    prepare(c);
    std::fill_n(y_.as<std::int32_t>(), (c.kernel->op == Op::kGemm ? tokens_ : 1) * stride(c), 0x55555555);
    run(c, pool, 0);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(c.shape.k));
    const std::int64_t padded = BITNET_ACTIVATION_WIDTH(c.shape.k);
    for (std::int64_t r = 0; r < c.shape.n; ++r) {
      const bool in_middle = r >= BITNET_TILE_ROWS && r < (row_tiles(c.shape.n) - 1) * BITNET_TILE_ROWS;
      if (c.kernel->op == Op::kGemm && in_middle) continue;
      unpack_row(Layout::kT2, weights_.as<std::uint8_t>(), r, c.shape.k, codes.data());
      for (std::int64_t t = 0; t < (c.kernel->op == Op::kGemm ? tokens_ : 1); ++t) {
        std::int32_t expected = 0;
        const std::int8_t* x = rows_.as<std::int8_t>(static_cast<std::size_t>(t * padded));
        for (std::size_t i = 0; i < codes.size(); ++i) expected += (codes[i] - 1) * x[i];
        const std::int32_t found = y_.as<std::int32_t>()[t * stride(c) + r];
        if (found != expected) {
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
  [[nodiscard]] static std::int64_t stride(const Case& c) { return row_tiles(c.shape.n) * BITNET_TILE_ROWS; }

  std::int64_t tokens_ = 0;
  std::size_t weight_bytes_ = 0;
  std::size_t scratch_bytes_ = 0;
  Buffer weights_, rows_, packed_, y_, scratch_;
  std::vector<std::int8_t> values_;
  std::vector<std::int32_t> sums_;
};

// GB/s of weights for a gemv over the whole arena; GOPS for a gemm (the fastest of a few matrices in a row would hide
// the spread, so it is one).
double measure(Operands& operands, const Case& c, ThreadPool& pool, std::int64_t tokens, int round) {
  operands.prepare(c);
  const std::size_t copies = operands.copies(c);
  const auto start = std::chrono::steady_clock::now();
  if (c.kernel->op == Op::kGemv) {
    for (std::size_t copy = 0; copy < copies; ++copy) operands.run(c, pool, copy);
  } else {
    operands.run(c, pool, static_cast<std::size_t>(round) % copies);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (c.kernel->op == Op::kGemv) {
    return static_cast<double>(copies * matrix_bytes(Layout::kT2, c.shape.n, c.shape.k)) / seconds * 1e-9;
  }
  return 2.0 * static_cast<double>(c.shape.n * c.shape.k * tokens) / seconds * 1e-9;
}

// Prints one kernel's line; returns false if it beats its probe.
bool report(const Case& c, const std::vector<double>& probe) {
  const bool gemv = c.kernel->op == Op::kGemv;
  const double limit = median(probe);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < probe.size(); ++i) ratios.push_back(c.samples[i] / probe[i]);
  std::ranges::sort(ratios);
  const double ratio = median(c.samples) / limit;
  const std::string shape = std::to_string(c.shape.n) + "x" + std::to_string(c.shape.k);
  std::printf("  %-40s %-12s %8.1f %s  ratio %.3f  (rounds %.3f .. %.3f)%s\n", c.kernel->name().c_str(), shape.c_str(),
              median(c.samples), gemv ? "GB/s" : "GOPS", ratio, ratios.front(), ratios.back(),
              ratio > kProbeLimit ? "  ABOVE ITS PROBE" : "");
  return ratio <= kProbeLimit;
}

Result<bool> run_isa(const Options& options, Isa isa, std::vector<Case> cases) {
  const int most = *std::ranges::max_element(options.threads);
  BITNET_ASSIGN_OR_RETURN(Operands operands, Operands::create(options, cases, most));
  BITNET_ASSIGN_OR_RETURN(const Probes probes, Probes::create(isa, options.megabytes * kMegabyte));
  bool honest = true;
  for (const int threads : options.threads) {
    BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<ThreadPool> pool, ThreadPool::create(threads));
    for (Case& c : cases) {
      BITNET_RETURN_IF_ERROR(operands.check(c, *pool));
      c.samples.clear();
    }
    ProbeSamples read(probes.read_variants().size());
    ProbeSamples dot(probes.dot_variants().size());
    for (int round = 0; round < options.rounds; ++round) {
      for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(*pool, v));
      for (std::size_t v = 0; v < probes.dot_variants().size(); ++v) dot.add(v, probes.dot_gops(*pool, v));
      for (Case& c : cases) c.samples.push_back(measure(operands, c, *pool, options.tokens, round));
    }
    const std::vector<double>& best_read = read.samples(read.best());
    const std::vector<double>& best_dot = dot.samples(dot.best());
    std::printf("%s, %d thread%s, %d rounds: read probe %.1f GB/s (%s), dot probe %.0f GOPS (%s, %d chains)\n",
                std::string(to_string(isa)).c_str(), threads, threads == 1 ? "" : "s", options.rounds,
                median(best_read), Probes::name(probes.read_variants()[read.best()]).c_str(), median(best_dot),
                probes.dot_instruction(), probes.dot_variants()[dot.best()]);
    for (const Case& c : cases) honest = report(c, c.kernel->op == Op::kGemv ? best_read : best_dot) && honest;
  }
  return honest;
}

// All ternary kernels; one that fits any shape is measured on each of --shapes.
Result<bool> run(const Options& options) {
  std::vector<Shape> shapes;
  for (const std::string& text : options.shapes) {
    BITNET_ASSIGN_OR_RETURN(const Shape shape, parse_shape(text));
    shapes.push_back(shape);
  }
  const std::vector<Isa> usable = executable_isas();
  std::optional<Bundle> bundle;
  std::span<const Kernel> kernels = builtin_kernels();
  if (!options.bundle.empty()) {
    BITNET_ASSIGN_OR_RETURN(bundle, Bundle::open(options.bundle, "", usable));
    kernels = bundle->kernels();
  }
  std::printf("%s; kernels: %s; %lld tokens; %zu MB of weights\n", machine_line().c_str(),
              options.bundle.empty() ? "built in" : options.bundle.c_str(), static_cast<long long>(options.tokens),
              options.megabytes);
  bool honest = true;
  bool any = false;
  for (const Isa isa : usable) {
    std::vector<Case> cases;
    for (const Kernel& kernel : kernels) {
      if (kernel.isa != isa || (kernel.op != Op::kGemv && kernel.op != Op::kGemm)) continue;
      if (kernel.n != 0) {
        cases.push_back({&kernel, {kernel.n, kernel.k}, {}});
        continue;
      }
      for (const Shape& shape : shapes) cases.push_back({&kernel, shape, {}});
    }
    if (cases.empty()) continue;
    any = true;
    BITNET_ASSIGN_OR_RETURN(const bool isa_honest, run_isa(options, isa, std::move(cases)));
    honest = isa_honest && honest;
  }
  if (!any) {
    return Error{ErrorCode::kFailure, "no ternary kernel that this CPU executes in " +
                                          (options.bundle.empty() ? "the built-in list" : options.bundle)};
  }
  return honest;
}

}  // namespace
}  // namespace bitnet::bench

int main(int argc, char** argv) {
  bitnet::bench::Options options;
  CLI::App app{"Measures every ternary kernel beside read and dot-product probes of the same run."};
  app.add_option("--bundle", options.bundle, "kernels of this bundle (default: the built-in ones)");
  app.add_option("--threads", options.threads, "thread counts, e.g. 1,2")->delimiter(',')->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds, "interleaved rounds")->check(CLI::Range(9, 1000));
  app.add_option("--tokens", options.tokens, "batch of the gemm kernels")->check(CLI::Range(1, 4096));
  app.add_option("--megabytes", options.megabytes, "working set of gemv and read probe")->check(CLI::Range(512, 65536));
  app.add_option("--shapes", options.shapes, "NxK for kernels that fit any shape")->delimiter(',');
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
        "quiet; measure again, or mend bench/probe_loops_*.cc\n",
        bitnet::bench::kProbeLimit);
    return 1;
  }
  return 0;
}
