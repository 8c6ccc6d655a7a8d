#include "codegen/tune_bench.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <tuple>
#include <utility>

#include "codegen/compile.h"
#include "runtime/base/math.h"
#include "runtime/base/sha256.h"
#include "runtime/bundle/bundle.h"
#include "runtime/kernels/layout.h"
#include "runtime/probe/host.h"
#include "runtime/probe/probes.h"

namespace bitnet::codegen {
namespace {

using probe::Probes;
using probe::ProbeSamples;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;
constexpr std::size_t kLeastArena = 256 * kMegabyte;
constexpr std::size_t kMostArena = 4096 * kMegabyte;
constexpr std::size_t kProbeBytes = 128 * kMegabyte;
// A sample: long enough for the timer and the fork-join of threads, short enough to interleave.
constexpr std::size_t kSampleBytes = 16 * kMegabyte;
constexpr double kSampleOperations = 1e9;
// Samples between two probe passes.
constexpr double kBetweenProbes = 0.012;
constexpr int kWarmUpRounds = 2;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the machine did just before or behind some samples.
struct Reading {
  double read_gbps = 0;
  double dot_gops = 0;
};

// The probes of one instruction set on one number of threads; the best variant of each is found once.
class ProbePair {
 public:
  // `name` is what describe() calls it: the target that asked first.
  ProbePair(const Probes& probes, ThreadPool& pool, std::string name)
      : probes_(probes), pool_(pool), name_(std::move(name)) {
    ProbeSamples read(probes.read_variants().size());
    ProbeSamples dot(probes.dot_variants().size());
    for (int round = 0; round < kWarmUpRounds; ++round) {
      for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(pool, v));
      for (std::size_t v = 0; v < probes.dot_variants().size(); ++v) dot.add(v, probes.dot_gops(pool, v));
    }
    read_ = read.best();
    dot_ = dot.best();
  }

  // 0 for what is not asked for.
  Reading take(bool read, bool dot) {
    Reading reading;
    if (read) {
      reading.read_gbps = probes_.read_gbps(pool_, read_);
      read_samples_.push_back(reading.read_gbps);
    }
    if (dot) {
      reading.dot_gops = probes_.dot_gops(pool_, dot_);
      dot_samples_.push_back(reading.dot_gops);
    }
    return reading;
  }

  // "avx512 (1 thread): read 33.1 GB/s, dot 466 GOPS", or "" where nothing was read.
  [[nodiscard]] std::string describe() const {
    std::string text;
    char part[48];
    if (!read_samples_.empty()) {
      std::snprintf(part, sizeof part, "read %.1f GB/s", probe::median(read_samples_));
      text = part;
    }
    if (!dot_samples_.empty()) {
      std::snprintf(part, sizeof part, "%sdot %.0f GOPS", text.empty() ? "" : ", ", probe::median(dot_samples_));
      text += part;
    }
    if (text.empty()) return text;
    const int threads = pool_.size();
    return name_ + " (" + std::to_string(threads) + (threads == 1 ? " thread): " : " threads): ") + text;
  }

 private:
  const Probes& probes_;
  ThreadPool& pool_;
  std::string name_;
  std::size_t read_ = 0;
  std::size_t dot_ = 0;
  std::vector<double> read_samples_;
  std::vector<double> dot_samples_;
};

struct Variant {
  Kernel kernel;  // with its code
  [[nodiscard]] Layout layout() const { return layout_of(kernel.format); }
  // A gemm of many tokens reads its weights once for all of them: only its operations count.
  [[nodiscard]] bool streams() const { return kernel.op == Op::kGemv || kernel.m != 0; }
  [[nodiscard]] bool computes() const { return kernel.op == Op::kGemm; }
};

// xorshift64*: the arena is large, and only has to look random.
void fill(Buffer& buffer) {
  std::uint64_t state = 0x9E3779B97F4A7C15U;
  auto* out = buffer.as<std::uint64_t>();
  for (std::size_t i = 0; i < buffer.size() / sizeof(std::uint64_t); ++i) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    out[i] = state * 0x2545F4914F6CDD1DU;
  }
}

// Grows to `bytes`, keeping nothing.
Status grow(Buffer& buffer, std::size_t bytes) {
  if (buffer.size() >= bytes) return {};
  BITNET_ASSIGN_OR_RETURN(buffer, Buffer::allocate(bytes));
  fill(buffer);  // touched, so that no sample meets a page fault
  return {};
}

}  // namespace

struct KernelTuneBench::State {
  KernelTuneBenchOptions options;
  std::unique_ptr<ThreadPool> one;
  std::unique_ptr<ThreadPool> all;
  pid_t process = 0;  // that the threads and the memory were made in
  Buffer arena;
  std::size_t arena_bytes = 0;
  std::size_t cursor = 0;
  Buffer x, sums, y, scratch;
  std::size_t scratch_bytes = 0;  // of a thread
  std::vector<CodeImage> images;
  std::vector<Variant> variants;
  std::map<const probe::ProbeLoops*, std::unique_ptr<Probes>> probes;
  // By loops and whether with all threads. Targets with the same loops share a pair: their samples then stand side by
  // side in a round, as the formats of a layout race must.
  std::map<std::pair<const probe::ProbeLoops*, bool>, std::unique_ptr<ProbePair>> pairs;

  ThreadPool& pool(bool all_threads) { return all_threads ? *all : *one; }

  Result<ProbePair*> pair(Isa isa, bool all_threads) {
    const probe::ProbeLoops* const key = &probe::probe_loops(isa);
    std::unique_ptr<ProbePair>& found = pairs[{key, all_threads}];
    if (found != nullptr) return found.get();
    std::unique_ptr<Probes>& loops = probes[key];
    if (loops == nullptr) {
      BITNET_ASSIGN_OR_RETURN(Probes made, Probes::create(isa, kProbeBytes));
      loops = std::make_unique<Probes>(std::move(made));
    }
    found = std::make_unique<ProbePair>(*loops, pool(all_threads), std::string(to_string(isa)));
    return found.get();
  }

  // Threads and weights, at the first round after prepare(): a process that is forked before it makes its own.
  Status make_ready() {
    if (one == nullptr) {
      BITNET_ASSIGN_OR_RETURN(one, ThreadPool::create(1));
      BITNET_ASSIGN_OR_RETURN(all, ThreadPool::create(options.threads));
      process = ::getpid();
    }
    if (process != ::getpid()) {
      return Error{ErrorCode::kFailure, "tuner: a bench that has measured was carried into another process"};
    }
    BITNET_RETURN_IF_ERROR(grow(arena, round_up<std::size_t>(arena_bytes, 64)));
    return grow(scratch, scratch_bytes * static_cast<std::size_t>(all->size()));
  }

  // Operands for the largest call of a trial.
  Status make_room(const Variant& variant, std::int64_t tokens) {
    const Kernel& kernel = variant.kernel;
    const auto block_tokens = static_cast<std::size_t>(round_up<std::int64_t>(tokens, kernel.token_tile));
    BITNET_RETURN_IF_ERROR(grow(x, block_tokens * static_cast<std::size_t>(BITNET_ACTIVATION_WIDTH(kernel.k))));
    BITNET_RETURN_IF_ERROR(grow(sums, block_tokens * sizeof(std::int32_t)));
    return grow(y,
                block_tokens * static_cast<std::size_t>(row_tiles(kernel.n) * BITNET_TILE_ROWS) * sizeof(std::int32_t));
  }

  void call(const Variant& variant, const std::uint8_t* weights, std::int64_t rows, std::int64_t tokens,
            ThreadPool& threads) {
    const Kernel& kernel = variant.kernel;
    const std::int64_t stride = row_tiles(kernel.n) * BITNET_TILE_ROWS;
    threads.parallel_for(rows, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
      void* const work =
          kernel.scratch_bytes == 0 ? nullptr : scratch.as<std::byte>(scratch_bytes * static_cast<std::size_t>(thread));
      if (kernel.op == Op::kGemv) {
        kernel(bitnet_gemv_args{weights, x.as<std::int8_t>(), sums.as<std::int32_t>(), y.as<std::int32_t>(), work,
                                begin, end, stride, kernel.n, kernel.k});
        return;
      }
      kernel(bitnet_gemm_args{weights, x.as<std::int8_t>(), sums.as<std::int32_t>(), y.as<std::int32_t>(), work, begin,
                              end, tokens, stride, 0, round_up<std::int64_t>(tokens, kernel.token_tile), kernel.n,
                              kernel.k});
    });
  }

  // The next matrix of the arena.
  const std::uint8_t* next_weights(std::size_t bytes) {
    if (cursor + bytes > arena.size()) cursor = 0;
    const std::uint8_t* weights = arena.as<std::uint8_t>(cursor);
    cursor += round_up<std::size_t>(bytes, 64);
    return weights;
  }

  struct Sample {
    double seconds = 0;
    double operations = 0;
    double t2_bytes = 0;
  };

  Sample take(const Variant& variant, std::int64_t tokens, ThreadPool& threads) {
    const Kernel& kernel = variant.kernel;
    const std::size_t bytes = matrix_bytes(variant.layout(), kernel.n, kernel.k);
    const double row_operations = 2.0 * static_cast<double>(kernel.k * tokens);
    std::int64_t rows = kernel.n;
    std::size_t matrices = 1;
    if (variant.streams()) {
      matrices = ceil_div(kSampleBytes, bytes);
    } else {
      const auto enough = static_cast<std::int64_t>(kSampleOperations * threads.size() / row_operations);
      rows = std::min(kernel.n, round_up<std::int64_t>(enough, BITNET_TILE_ROWS));
    }
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < matrices; ++i) call(variant, next_weights(bytes), rows, tokens, threads);
    Sample sample;
    sample.seconds = seconds_since(start);
    sample.operations = row_operations * static_cast<double>(rows) * static_cast<double>(matrices);
    sample.t2_bytes =
        static_cast<double>(matrix_bytes(Layout::kT2, kernel.n, kernel.k)) * static_cast<double>(matrices);
    return sample;
  }
};

KernelTuneBench::KernelTuneBench(std::unique_ptr<State> state) : state_(std::move(state)) {}
KernelTuneBench::~KernelTuneBench() = default;

Result<std::unique_ptr<KernelTuneBench>> KernelTuneBench::create(const KernelTuneBenchOptions& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  state->arena_bytes = options.arena_bytes;
  if (state->arena_bytes == 0) {
    const std::uint64_t cache = probe::largest_cache_bytes().value_or(0);
    state->arena_bytes = std::clamp<std::size_t>(static_cast<std::size_t>(cache) * 4, kLeastArena, kMostArena);
  }
  return std::unique_ptr<KernelTuneBench>(new KernelTuneBench(std::move(state)));
}

Status KernelTuneBench::prepare(const std::vector<KernelSpec>& variants) {
  State& s = *state_;
  s.variants.clear();
  s.images.clear();
  Plan plan;
  std::size_t largest = 0;
  for (const KernelSpec& spec : variants) {
    const Kernel& kernel = spec.kernel;
    if (!probe_isa(kernel.isa)) {
      return Error{ErrorCode::kUsage, "this CPU does not execute target '" + std::string(to_string(kernel.isa)) +
                                          "', so nothing can be measured for it; tune on a machine that does"};
    }
    auto image = std::ranges::find(plan.images, kernel.isa, [](const ImagePlan& i) { return i.target->isa; });
    if (image == plan.images.end()) image = plan.images.insert(image, {&target_of(kernel.isa), {}});
    image->kernels.push_back(spec);
    largest = std::max(largest, matrix_bytes(layout_of(kernel.format), kernel.n, kernel.k));
  }
  CompileOptions compile_options;
  compile_options.jobs = s.options.jobs;
  compile_options.overrides = s.options.overrides;
  compile_options.self_test = false;  // check() does it, one variant at a time
  BITNET_ASSIGN_OR_RETURN(const CompiledBundle compiled, compile(plan, compile_options));
  std::map<std::string, Kernel> kernels;
  for (const BundleImage& image : compiled.images) {
    const Sha256Digest digest = sha256(image.bytes);
    BITNET_ASSIGN_OR_RETURN(CodeImage code,
                            CodeImage::load(image.bytes, digest, "image." + std::string(to_string(image.isa))));
    for (const KernelRecord& record : compiled.table.kernels) {
      if (record.kernel.isa != image.isa) continue;
      Kernel kernel = record.kernel;
      kernel.function = code.at(record.offset);
      s.scratch_bytes = std::max(s.scratch_bytes, round_up<std::size_t>(kernel.scratch_bytes, 64));
      kernels[record.name] = std::move(kernel);
    }
    s.images.push_back(std::move(code));
  }
  for (const KernelSpec& spec : variants) s.variants.push_back({kernels.at(spec.name())});
  // Twice the largest matrix at least: the cursor must not meet the one that it has just left.
  s.arena_bytes = std::max(s.arena_bytes, 2 * round_up<std::size_t>(largest, 64));
  return {};
}

Status KernelTuneBench::check(std::size_t variant) {
  return self_test(std::span(&state_->variants[variant].kernel, 1));
}

Result<std::vector<double>> KernelTuneBench::round(std::span<const Trial> trials) {
  State& s = *state_;
  BITNET_RETURN_IF_ERROR(s.make_ready());
  // Trials of one kind (target, threads, what limits them) share their probe passes and stand together.
  struct Kind {
    ProbePair* pair = nullptr;
    bool read = false;
    bool dot = false;
    bool operator==(const Kind&) const = default;
  };
  std::vector<Kind> kinds;
  for (const Trial& trial : trials) {
    const Variant& variant = s.variants[trial.variant];
    BITNET_RETURN_IF_ERROR(s.make_room(variant, trial.tokens));
    BITNET_ASSIGN_OR_RETURN(ProbePair * pair, s.pair(variant.kernel.isa, trial.all_threads));
    kinds.push_back({pair, variant.streams(), variant.computes()});
  }
  std::vector<double> costs(trials.size());
  std::vector<bool> done(trials.size());
  for (std::size_t first = 0; first < trials.size(); ++first) {
    if (done[first]) continue;
    const Kind kind = kinds[first];
    Reading before = kind.pair->take(kind.read, kind.dot);
    std::vector<std::pair<std::size_t, State::Sample>> waiting;  // for the probe pass behind them
    double waited = 0;
    const auto settle = [&] {
      if (waiting.empty()) return;
      const Reading behind = kind.pair->take(kind.read, kind.dot);
      for (const auto& [trial, sample] : waiting) {
        double least = 0;
        if (kind.read) least = sample.t2_bytes / (before.read_gbps + behind.read_gbps) * 2e-9;
        if (kind.dot) least = std::max(least, sample.operations / (before.dot_gops + behind.dot_gops) * 2e-9);
        costs[trial] = sample.seconds / least;
      }
      waiting.clear();
      waited = 0;
      before = behind;
    };
    for (std::size_t i = first; i < trials.size(); ++i) {
      if (done[i] || kinds[i] != kind) continue;
      done[i] = true;
      const Variant& variant = s.variants[trials[i].variant];
      waiting.emplace_back(i, s.take(variant, trials[i].tokens, s.pool(trials[i].all_threads)));
      waited += waiting.back().second.seconds;
      if (waited > kBetweenProbes) settle();
    }
    settle();
  }
  return costs;
}

std::string KernelTuneBench::probes() const {
  std::string text;
  for (const auto& [key, pair] : state_->pairs) {
    const std::string part = pair->describe();
    if (part.empty()) continue;
    text += (text.empty() ? "" : "; ") + part;
  }
  return text;
}

}  // namespace bitnet::codegen
