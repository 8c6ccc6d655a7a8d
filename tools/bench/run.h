// One run of the bench: a model with one number of threads, every figure of it measured between passes of the probes.
//
// Bandwidth changes by a factor of two within a minute on shared hosts. Every round measures each figure once, with
// passes of all probe variants before and behind it; a figure's fraction in a round is its rate by the limit that the
// mean of the two passes sets (of the variant that is best over the run), and the fraction of the figure is the median
// of these. Absolute rates of two runs cannot be compared, fractions can.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/process_memory.h"
#include "runtime/base/result.h"
#include "runtime/model/model.h"
#include "runtime/probe/host.h"
#include "tools/bench/traffic.h"

namespace bitnet::bench {

// A rate above this fraction of its probe means that the probe is too weak: no fraction of the run is worth anything.
inline constexpr double kProbeLimit = 1.02;

struct Plan {
  std::string model;
  ModelOptions load;  // `threads` is set for each run
  KvType kv_type = KvType::kF16;
  std::vector<std::int64_t> prefill = {128, 512};
  std::vector<std::int64_t> batch = {2, 4, 8};  // each at most Context::kKept
  std::int64_t decode = 64;
  std::int64_t prompt = 8;
  std::int64_t context = 2048;  // tokens before the second decoding; 0: none
  int rounds = 5;
  std::size_t probe_bytes = std::size_t{512} << 20;
  std::string flamegraph;  // --flamegraph, "" for none
  bool perf_map = false;   // leave /tmp/perf-PID.map behind
};

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};
[[nodiscard]] Spread spread(const std::vector<double>& values);

struct Figure {
  std::int64_t tokens = 0;  // of a pass; decoding: one after the other
  Spread tps;               // tokens per second
  Work work;                // of a pass; decoding: of one token
  double fraction = 0;      // of the limit that the probes set
  bool memory_bound = false;
  Profile profile;              // of one pass more, where the kernels' times are taken
  ProbeReading profile_probes;  // around it
};

struct DecodeFigure : Figure {
  std::int64_t context = 0;    // tokens before the first one
  double head_bytes = 0;       // of work.bytes
  double kv_bytes = 0;         // per token, in the middle of the decoding; not in work.bytes
  HeadUse head;                // over all rounds
  std::int64_t positions = 0;  // over all rounds
  double p50_ms = 0;           // percentiles of the time of a token
  double p90_ms = 0;
  double p99_ms = 0;
};

struct Run {
  std::string model;
  std::string architecture;
  std::uint64_t parameters = 0;
  std::string target;
  std::string bundle;  // "" without one
  std::string cpu;
  bool emulated = false;
  int threads = 0;
  int rounds = 0;
  HeadMode head = HeadMode::kScreened;
  KvType kv_type = KvType::kF16;
  Traffic traffic;
  std::optional<std::uint64_t> cache_bytes;

  Spread read_gbps;
  Spread dot_gops;
  std::string read_variant;
  std::string dot_instruction;
  std::uint64_t probe_bytes = 0;

  DecodeFigure decode;
  std::optional<DecodeFigure> context_decode;
  std::vector<Figure> prefill;
  std::vector<Figure> batch;

  double load_ms = 0;         // model and context
  double first_token_ms = 0;  // load, the prompt and its logits
  ProcessMemory memory;       // then, before the probes take theirs
  bool peak_known = true;
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;  // of the context, resident or not

  [[nodiscard]] ProbeReading probes() const { return {read_gbps.median, dot_gops.median}; }
  // Whether what a pass reads can stay in a cache: the read probe is no limit then.
  [[nodiscard]] bool fits_in_cache(const Figure& figure) const;
  // Figures above kProbeLimit of a limit that binds them, in words; none in an emulation, where times mean nothing.
  [[nodiscard]] std::vector<std::string> implausible() const;
};

// Called before every pass with what is measured; its error ends the run.
using Step = std::function<Status(std::string_view what)>;

// Errors: those of Model::load, Context::create and Probes::create, what `step` returns, and those of the flamegraph.
[[nodiscard]] Result<Run> measure(const Plan& plan, int threads, const Step& step);

}  // namespace bitnet::bench
