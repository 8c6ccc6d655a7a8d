// JSON and text; see report.h.
#include "tools/bench/report.h"

#include <cstdarg>
#include <cstdio>

namespace bitnet::bench {
namespace {

using nlohmann::ordered_json;

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* pattern, ...) {
  char text[400];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

double megabytes(double bytes) { return bytes * 1e-6; }
double megabytes(std::uint64_t bytes) { return static_cast<double>(bytes) * 1e-6; }
const char* plural(std::int64_t n) { return n == 1 ? "" : "s"; }

ordered_json kernels_json(const Profile& profile, const ProbeReading& probes) {
  ordered_json kernels = ordered_json::array();
  const bool timed = profile.kernel_seconds() > 0;
  for (const KernelTime& kernel : profile.kernels) {
    ordered_json share = nullptr;
    ordered_json fraction = nullptr;
    // With several threads a kernel may never have run on the one whose time is taken: its share of that is 0.
    if (timed) share = kernel.seconds / profile.seconds;
    if (const double reached = kernel.fraction(probes); reached > 0) fraction = reached;
    kernels.push_back({{"name", kernel.name},
                       {"calls", kernel.calls},
                       {"share", share},
                       {"fraction", fraction},
                       {"seconds", kernel.seconds},
                       {"bytes", kernel.bytes},
                       {"operations", kernel.operations}});
  }
  return kernels;
}

ordered_json kernel_share(const Profile& profile) {
  if (profile.seconds <= 0 || profile.kernel_seconds() <= 0) return nullptr;
  return profile.kernel_seconds() / profile.seconds;
}

ordered_json pass_json(const Figure& figure) {
  return {{"tokens", figure.tokens},
          {"tps", figure.tps.median},
          {"fraction", figure.fraction},
          {"tps_min", figure.tps.min},
          {"tps_max", figure.tps.max},
          {"limited_by", figure.memory_bound ? "read" : "dot"},
          {"bytes_per_pass", figure.work.bytes},
          {"operations_per_pass", figure.work.operations},
          {"kernel_share", kernel_share(figure.profile)},
          {"kernels", kernels_json(figure.profile, figure.profile_probes)}};
}

ordered_json decode_json(const DecodeFigure& figure) {
  return {{"tokens", figure.tokens},
          {"tps", figure.tps.median},
          {"bytes_per_token", figure.work.bytes},
          {"fraction", figure.fraction},
          {"tps_min", figure.tps.min},
          {"tps_max", figure.tps.max},
          {"ms_p50", figure.p50_ms},
          {"ms_p90", figure.p90_ms},
          {"ms_p99", figure.p99_ms},
          {"context", figure.context},
          {"ternary_bytes_per_token", figure.work.bytes - figure.head_bytes},
          {"head_bytes_per_token", figure.head_bytes},
          {"kv_bytes_per_token", figure.kv_bytes},
          {"operations_per_token", figure.work.operations},
          {"head",
           {{"positions", figure.positions},
            {"screened", figure.head.screened_positions},
            {"exact", figure.head.exact_positions},
            {"int8", figure.head.int8_positions},
            {"survivors", figure.head.survivors}}}};
}

// What the head did in the decoding: "screened, 41.3 survivors a token".
std::string head_words(const DecodeFigure& figure) {
  std::string words;
  const auto add = [&](std::uint64_t positions, const char* name) {
    if (positions == 0) return;
    if (!words.empty()) words += ", ";
    words += static_cast<std::int64_t>(positions) == figure.positions
                 ? std::string(name)
                 : format("%s for %llu of %lld tokens", name, static_cast<unsigned long long>(positions),
                          static_cast<long long>(figure.positions));
  };
  add(figure.head.screened_positions, "screened");
  add(figure.head.exact_positions, "exact");
  add(figure.head.int8_positions, "int8 (approximate)");
  if (figure.head.screened_positions != 0) {
    words += format(", %.1f rows a token scored again",
                    static_cast<double>(figure.head.survivors) / static_cast<double>(figure.head.screened_positions));
  }
  return words;
}

std::string row(const std::string& name, const Figure& figure, const std::string& more) {
  return format("  %-22s %9.2f tokens/s  (%.2f .. %.2f)  fraction %.3f of %s%s\n", name.c_str(), figure.tps.median,
                figure.tps.min, figure.tps.max, figure.fraction, figure.memory_bound ? "read" : "dot", more.c_str());
}

std::string decode_row(const std::string& name, const DecodeFigure& figure) {
  return row(name, figure,
             format("; a token %.2f ms, p90 %.2f, p99 %.2f", figure.p50_ms, figure.p90_ms, figure.p99_ms));
}

std::string kernel_rows(const Run& run) {
  const Profile& profile = run.decode.profile;
  if (profile.kernel_seconds() <= 0) {
    return "kernels in decode: no times were taken in this context\n";
  }
  std::string text =
      format("kernels in decode: %.1f %% of the time of a thread\n", 100 * profile.kernel_seconds() / profile.seconds);
  text += format("  %-48s %8s %7s %9s %9s  %s\n", "kernel", "calls", "share", "GB/s", "GOPS", "fraction");
  for (const KernelTime& kernel : profile.kernels) {
    const double reached = kernel.fraction(run.decode.profile_probes);
    text += format("  %-48s %8llu %5.1f %%", kernel.name.c_str(), static_cast<unsigned long long>(kernel.calls),
                   100 * kernel.seconds / profile.seconds);
    if (reached > 0) {
      text += format(" %9.1f %9.0f  %.3f", kernel.bytes / kernel.seconds * 1e-9,
                     kernel.operations / kernel.seconds * 1e-9, reached);
    }
    text += "\n";
  }
  return text;
}

// Tokens per second that the probes allow.
double limit_tps(const Work& work, double tokens, const ProbeReading& probes) {
  return tokens / limit_seconds(work, probes);
}

std::string limit_row(const std::string& name, const Figure& figure, double limit) {
  return format("  %-22s %9.1f tokens/s  %9.2f  (%.3f)\n", name.c_str(), limit, figure.tps.median, figure.fraction);
}

}  // namespace

std::string_view to_string(HeadMode head) {
  return head == HeadMode::kScreened ? "screened" : head == HeadMode::kExact ? "exact" : "int8";
}

ordered_json to_json(const Run& run) {
  ordered_json out;
  out["model"] = run.model;
  out["target"] = run.target;
  out["threads"] = run.threads;
  out["probes"] = {{"read_gbps", run.read_gbps.median},
                   {"dot_gops", run.dot_gops.median},
                   {"read_gbps_min", run.read_gbps.min},
                   {"read_gbps_max", run.read_gbps.max},
                   {"dot_gops_min", run.dot_gops.min},
                   {"dot_gops_max", run.dot_gops.max},
                   {"read_variant", run.read_variant},
                   {"dot_instruction", run.dot_instruction},
                   {"bytes", run.probe_bytes}};
  out["decode"] = decode_json(run.decode);
  out["prefill"] = ordered_json::array();
  for (const Figure& figure : run.prefill) out["prefill"].push_back(pass_json(figure));
  out["batch"] = ordered_json::array();
  for (const Figure& figure : run.batch) out["batch"].push_back(pass_json(figure));
  out["load_ms"] = run.load_ms;
  out["rss_bytes"] = run.memory.resident;
  out["kernels"] = kernels_json(run.decode.profile, run.decode.profile_probes);
  out["kernel_share"] = kernel_share(run.decode.profile);
  if (run.context_decode.has_value()) {
    ordered_json& deep = out["context_decode"] = decode_json(*run.context_decode);
    deep["of_start"] = run.context_decode->fraction / run.decode.fraction;
    deep["kernel_share"] = kernel_share(run.context_decode->profile);
    deep["kernels"] = kernels_json(run.context_decode->profile, run.context_decode->profile_probes);
  }
  out["first_token_ms"] = run.first_token_ms;
  out["peak_rss_bytes"] = run.peak_known ? ordered_json(run.memory.peak) : ordered_json(nullptr);
  out["weight_bytes"] = run.weight_bytes;
  out["kv_bytes"] = run.kv_bytes;
  out["head"] = to_string(run.head);
  out["kv_type"] = kv_name(run.kv_type);
  out["rounds"] = run.rounds;
  out["architecture"] = run.architecture;
  out["parameters"] = run.parameters;
  out["bundle"] = run.bundle.empty() ? ordered_json(nullptr) : ordered_json(run.bundle);
  out["cpu"] = run.cpu;
  out["emulated"] = run.emulated;
  out["implausible"] = run.implausible();
  return out;
}

ordered_json to_json(std::span<const Run> runs) {
  if (runs.size() == 1) return to_json(runs.front());
  ordered_json out;
  out["model"] = runs.empty() ? "" : runs.front().model;
  out["runs"] = ordered_json::array();
  for (const Run& run : runs) out["runs"].push_back(to_json(run));
  return out;
}

std::string table(const Run& run) {
  std::string text = format("%s (%s, %.1f M parameters), target %s, %s, %d thread%s, %d rounds, %s\n",
                            run.model.c_str(), run.architecture.c_str(), static_cast<double>(run.parameters) * 1e-6,
                            run.target.c_str(), run.bundle.empty() ? "no bundle" : run.bundle.c_str(), run.threads,
                            plural(run.threads), run.rounds, run.cpu.c_str());
  if (run.emulated) text += "this CPU is emulated: times and fractions below mean nothing\n";
  text += format("probes: read %.1f GB/s (%.1f .. %.1f; %s), dot %.0f GOPS (%.0f .. %.0f; %s)\n", run.read_gbps.median,
                 run.read_gbps.min, run.read_gbps.max, run.read_variant.c_str(), run.dot_gops.median, run.dot_gops.min,
                 run.dot_gops.max, run.dot_instruction.c_str());
  for (const Figure& figure : run.prefill) text += row("prefill " + std::to_string(figure.tokens), figure, "");
  text += decode_row("decode " + std::to_string(run.decode.tokens), run.decode);
  if (run.context_decode.has_value()) {
    const DecodeFigure& deep = *run.context_decode;
    text += decode_row("  after " + std::to_string(deep.context), deep);
    text += format("  %-22s %9.3f of the fraction at the start\n", "", deep.fraction / run.decode.fraction);
  }
  for (const Figure& figure : run.batch) text += row("batches of " + std::to_string(figure.tokens), figure, "");
  text += format("  %-22s %9.1f MB a token: weights %.1f, head %.1f; keys and values %.1f beside them\n", "bytes",
                 megabytes(run.decode.work.bytes), megabytes(run.decode.work.bytes - run.decode.head_bytes),
                 megabytes(run.decode.head_bytes), megabytes(run.decode.kv_bytes));
  text += format("  %-22s %s\n", "head", head_words(run.decode).c_str());
  text += format("  %-22s %9.0f ms, first token of a prompt of %lld after %.0f ms\n", "load", run.load_ms,
                 static_cast<long long>(run.decode.context), run.first_token_ms);
  text += format("  %-22s %9.0f MB resident then, at most %s\n", "memory", megabytes(run.memory.resident),
                 run.peak_known ? format("%.0f MB", megabytes(run.memory.peak)).c_str() : "unknown");
  return text + kernel_rows(run);
}

std::string roofline_text(const Run& run) {
  const ProbeReading probes = run.probes();
  std::string text = format("a decoded token (%s, %d thread%s)\n  %-32s %10s %10s %12s\n", run.target.c_str(),
                            run.threads, plural(run.threads), "part", "MB", "M ops", "limit, ms");
  const auto part = [&](const std::string& name, double bytes, double operations) {
    text += format("  %-32s %10.2f %10.1f %12.3f\n", name.c_str(), megabytes(bytes), operations * 1e-6,
                   1e3 * limit_seconds({bytes, 0}, probes));
  };
  for (const TernaryPart& ternary : run.traffic.ternary) {
    part("ternary weights, " + ternary.layout, ternary.bytes, ternary.operations);
  }
  // As it was read: an int8 or an original row is multiplied once.
  const HeadUse& head = run.decode.head;
  const double positions = static_cast<double>(run.decode.positions);
  const double again = static_cast<double>(head.survivors) * static_cast<double>(run.traffic.hidden);
  const double small = static_cast<double>(head.screened_positions + head.int8_positions) / positions;
  const double full = static_cast<double>(head.exact_positions) / positions;
  if (small > 0) part("head, int8 rows", small * run.traffic.head_int8_bytes(), small * run.traffic.head_operations());
  if (again > 0)
    part("head, rows scored again", again * run.traffic.head_weight_bytes / positions, 2 * again / positions);
  if (full > 0) part("head, every row", full * run.traffic.head_exact_bytes(), full * run.traffic.head_operations());
  const auto kv = [&](const DecodeFigure& figure) {
    part("keys and values at " + std::to_string(figure.context + figure.tokens / 2), figure.kv_bytes,
         figure.kv_bytes / run.traffic.kv_bytes * run.traffic.kv_operations);
  };
  kv(run.decode);
  if (run.context_decode.has_value()) kv(*run.context_decode);

  text += format("limits that the probes set (read %.1f GB/s, dot %.0f GOPS), and what was reached\n", probes.read_gbps,
                 probes.dot_gops);
  text += format("  %-22s %18s  %9s  %s\n", "", "limit", "reached", "(fraction)");
  text += limit_row("decode", run.decode, limit_tps({run.decode.work.bytes, 0}, 1, probes));
  if (run.context_decode.has_value()) {
    const DecodeFigure& deep = *run.context_decode;
    text += limit_row("  after " + std::to_string(deep.context), deep, limit_tps({deep.work.bytes, 0}, 1, probes));
    text += format("  %-22s %9.1f tokens/s with the keys and values counted\n", "",
                   limit_tps({deep.work.bytes + deep.kv_bytes, 0}, 1, probes));
  }
  for (const Figure& figure : run.prefill) {
    text += limit_row("prefill " + std::to_string(figure.tokens), figure,
                      limit_tps(figure.work, static_cast<double>(figure.tokens), probes));
  }
  for (const Figure& figure : run.batch) {
    text += limit_row("batches of " + std::to_string(figure.tokens), figure,
                      limit_tps(figure.work, static_cast<double>(figure.tokens), probes));
  }
  return text;
}

}  // namespace bitnet::bench
