// See compare.h.
#include "tools/bench/compare.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>

#include "tools/bench/traffic.h"

namespace bitnet::bench {
namespace {

using nlohmann::ordered_json;

// One figure of a result.
struct Entry {
  std::string key;  // "decode", "prefill 128": equal for figures that can be compared
  Work work;
  double tokens = 1;  // of the work
  double fraction = 0;
};
struct Side {
  std::int64_t threads = 0;
  ProbeReading probes;
  std::vector<Entry> entries;
  std::string kind;  // what must be equal
};

Error not_a_result(const std::string& which, const std::string& what) {
  return Error{ErrorCode::kUsage,
               "--compare: the " + which + " result is not one that bitnet bench --json wrote: " + what};
}

// Throws what nlohmann::json throws where a key is missing or of another type; read_side() turns it into an error.
Side parse_side(const ordered_json& run) {
  Side side;
  side.threads = run.at("threads").get<std::int64_t>();
  side.probes = {run.at("probes").at("read_gbps").get<double>(), run.at("probes").at("dot_gops").get<double>()};
  for (const char* key : {"target", "architecture", "parameters", "head", "kv_type"}) {
    side.kind += (side.kind.empty() ? "" : ", ") + std::string(key) + " " + run.at(key).dump();
  }
  const auto decode = [&](const ordered_json& figure, const std::string& key) {
    side.entries.push_back(
        {key, {figure.at("bytes_per_token").get<double>(), 0}, 1, figure.at("fraction").get<double>()});
  };
  const auto pass = [&](const ordered_json& figure, const std::string& name) {
    const auto tokens = figure.at("tokens").get<std::int64_t>();
    side.entries.push_back({name + " " + std::to_string(tokens),
                            {figure.at("bytes_per_pass").get<double>(), figure.at("operations_per_pass").get<double>()},
                            static_cast<double>(tokens),
                            figure.at("fraction").get<double>()});
  };
  decode(run.at("decode"), "decode");
  if (run.contains("context_decode")) {
    const ordered_json& deep = run.at("context_decode");
    decode(deep, "decode after " + std::to_string(deep.at("context").get<std::int64_t>()));
  }
  for (const ordered_json& figure : run.at("prefill")) pass(figure, "prefill");
  for (const ordered_json& figure : run.at("batch")) pass(figure, "batches of");
  return side;
}

Result<std::vector<Side>> read_sides(const ordered_json& result, const std::string& which) {
  std::vector<Side> sides;
  try {
    if (result.contains("runs")) {
      for (const ordered_json& run : result.at("runs")) sides.push_back(parse_side(run));
    } else {
      sides.push_back(parse_side(result));
    }
  } catch (const nlohmann::json::exception& error) {
    return not_a_result(which, error.what());
  }
  for (const Side& side : sides) {
    bool positive = side.probes.read_gbps > 0 && side.probes.dot_gops > 0;
    for (const Entry& entry : side.entries) positive = positive && entry.fraction > 0 && entry.work.bytes > 0;
    if (!positive) return not_a_result(which, "a probe, a fraction or a number of bytes is not above 0");
  }
  return sides;
}

double rate_at(const Entry& entry, const ProbeReading& probes) {
  return entry.fraction * entry.tokens / limit_seconds(entry.work, probes);
}

}  // namespace

Result<std::vector<Comparison>> compare(const ordered_json& before, const ordered_json& now) {
  BITNET_ASSIGN_OR_RETURN(const std::vector<Side> earlier, read_sides(before, "earlier"));
  BITNET_ASSIGN_OR_RETURN(const std::vector<Side> later, read_sides(now, "later"));
  std::vector<Comparison> figures;
  for (const Side& side : earlier) {
    const auto other = std::ranges::find(later, side.threads, &Side::threads);
    if (other == later.end()) continue;
    if (side.kind != other->kind) {
      return Error{ErrorCode::kUsage, "--compare: the two results are of different things: " + side.kind + " against " +
                                          other->kind + "; measure the same model with the same options"};
    }
    for (const Entry& entry : side.entries) {
      const auto match = std::ranges::find(other->entries, entry.key, &Entry::key);
      if (match == other->entries.end()) continue;
      figures.push_back({entry.key + ", " + std::to_string(side.threads) + (side.threads == 1 ? " thread" : " threads"),
                         rate_at(entry, side.probes), rate_at(*match, side.probes)});
    }
  }
  if (figures.empty()) {
    return Error{ErrorCode::kUsage,
                 "--compare: the two results have no figure in common; give the same -t, --prefill and --batch"};
  }
  return figures;
}

Result<ordered_json> read_result(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error{ErrorCode::kFailure, path + ": cannot be read; give a file that bitnet bench --json wrote"};
  ordered_json result = ordered_json::parse(file, nullptr, false);
  if (result.is_discarded() || !result.is_object()) {
    return Error{ErrorCode::kUsage, path + ": is not a JSON object; give a file that bitnet bench --json wrote"};
  }
  return result;
}

std::string describe(const std::vector<Comparison>& figures, double tolerance) {
  std::string text = "compared at the earlier result's probes, tokens/s\n";
  for (const Comparison& figure : figures) {
    char line[200];
    std::snprintf(line, sizeof line, "  %-32s %9.2f -> %9.2f  %+6.1f %%%s\n", figure.figure.c_str(), figure.before,
                  figure.now, 100 * figure.change(), figure.change() < -tolerance ? "  SLOWER" : "");
    text += line;
  }
  return text;
}

bool has_regression(const std::vector<Comparison>& figures, double tolerance) {
  return std::ranges::any_of(figures, [&](const Comparison& figure) { return figure.change() < -tolerance; });
}

}  // namespace bitnet::bench
