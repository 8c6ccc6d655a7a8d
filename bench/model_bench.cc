// bitnet-model-bench: prefill and decode of a whole model beside the honest probes of the same run.
//
// For each thread count the model is loaded once; then every round measures each prefill length, the decoding of some
// tokens after a short prompt, and single passes of all probe variants before and after each, in turn. Memory bandwidth
// changes by a factor of two within a minute on shared hosts, so every measurement is divided by the probe passes
// around it (of the variant that is best over the run), and the fraction is the median of these quotients. Decode is
// held against the read probe for the bytes that a token must read (packed weights and head), prefill against the dot
// probe for its ternary multiplications and additions.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "runtime/model/model.h"
#include "runtime/probe/probes.h"

namespace {

using bitnet::Status;
using bitnet::probe::median;
using bitnet::probe::ProbeSamples;

struct Options {
  std::string model;
  std::string bundle = "auto";
  std::vector<int> threads{1, 2};
  std::vector<int> prefill{128, 512};
  int decode = 64;
  int prompt = 8;
  int rounds = 5;
  bool json = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> some_tokens(std::int64_t vocab, int count) {
  std::mt19937 random(7);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab)));
  return ids;
}

// Tokens per second of `ids` in one evaluation of an empty context.
bitnet::Result<double> prefill_tps(bitnet::Context& context, const std::vector<std::int32_t>& ids) {
  context.truncate(0);
  const auto start = std::chrono::steady_clock::now();
  if (auto logits = context.eval(ids); !logits.ok()) return logits.error();
  return static_cast<double>(ids.size()) / seconds_since(start);
}

// Tokens per second of ids[prompt..], one by one, after the first `prompt` of them.
bitnet::Result<double> decode_tps(bitnet::Context& context, const std::vector<std::int32_t>& ids, std::size_t prompt) {
  context.truncate(0);
  const std::span<const std::int32_t> all(ids);
  if (auto logits = context.eval(all.first(prompt)); !logits.ok()) return logits.error();
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = prompt; i < ids.size(); ++i) {
    if (auto logits = context.eval(all.subspan(i, 1)); !logits.ok()) return logits.error();
  }
  return static_cast<double>(ids.size() - prompt) / seconds_since(start);
}

nlohmann::ordered_json row(const std::vector<double>& values) {
  return {{"median", median(values)},
          {"min", *std::min_element(values.begin(), values.end())},
          {"max", *std::max_element(values.begin(), values.end())}};
}

// What was measured in the rounds: its rates, and how many probe passes of each variant there were when it began.
struct Series {
  std::vector<double> rates;
  std::vector<std::size_t> passes_before;

  // Median over rounds of rate / (mean of the probe passes just before and just after), in the probe's unit per `work`.
  [[nodiscard]] double fraction(const ProbeSamples& probe, double work) const {
    const std::vector<double>& passes = probe.samples(probe.best());
    std::vector<double> fractions;
    for (std::size_t i = 0; i < rates.size(); ++i) {
      const double around = (passes[passes_before[i] - 1] + passes[passes_before[i]]) / 2;
      fractions.push_back(rates[i] * work / 1e9 / around);
    }
    return median(fractions);
  }
};

bitnet::Result<nlohmann::ordered_json> measure(const Options& options, int threads) {
  const auto start = std::chrono::steady_clock::now();
  bitnet::ModelOptions model_options;
  model_options.threads = threads;
  model_options.bundle = options.bundle;
  BITNET_ASSIGN_OR_RETURN(auto model, bitnet::Model::load(options.model, model_options));
  BITNET_ASSIGN_OR_RETURN(auto context, bitnet::Context::create(*model, {.size = 1024}));
  const double load_ms = 1e3 * seconds_since(start);

  const auto isa = bitnet::parse_isa(model->target());
  if (!isa) return bitnet::Error{bitnet::ErrorCode::kFailure, "no probe for target " + std::string(model->target())};
  BITNET_ASSIGN_OR_RETURN(const auto probes, bitnet::probe::Probes::create(*isa));
  BITNET_ASSIGN_OR_RETURN(auto pool, bitnet::ThreadPool::create(threads));

  const std::int64_t vocab = model->config().vocab;
  std::vector<Series> prefill(options.prefill.size());
  Series decode;
  ProbeSamples read(probes.read_variants().size());
  ProbeSamples dot(probes.dot_variants().size());
  const auto run_read = [&] {
    for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(*pool, v));
  };
  const auto run_dot = [&] {
    for (std::size_t v = 0; v < probes.dot_variants().size(); ++v) dot.add(v, probes.dot_gops(*pool, v));
  };
  const auto decode_ids = some_tokens(vocab, options.prompt + options.decode);
  for (int round = 0; round < options.rounds; ++round) {
    run_read();
    decode.passes_before.push_back(read.samples(0).size());
    BITNET_ASSIGN_OR_RETURN(const double tps,
                            decode_tps(*context, decode_ids, static_cast<std::size_t>(options.prompt)));
    decode.rates.push_back(tps);
    run_read();
    for (std::size_t i = 0; i < options.prefill.size(); ++i) {
      run_dot();
      prefill[i].passes_before.push_back(dot.samples(0).size());
      BITNET_ASSIGN_OR_RETURN(const double rate, prefill_tps(*context, some_tokens(vocab, options.prefill[i])));
      prefill[i].rates.push_back(rate);
      run_dot();
    }
  }

  // A token multiplies every ternary weight once (a product and a sum each) and reads the packed weights and the head.
  double ternary_ops = 0;
  BITNET_ASSIGN_OR_RETURN(const auto tensors, bitnet::map_tensors(model->file(), model->config()));
  for (const bitnet::LayerTensors& layer : tensors.layers) {
    for (const bitnet::FusedMatrix& product : layer.products) {
      ternary_ops += 2.0 * static_cast<double>(product.n) * static_cast<double>(product.k);
    }
  }
  const double token_bytes =
      static_cast<double>(bitnet::packed_layout(tensors, model->kernels().layouts()).bytes + tensors.token_embd->bytes);
  nlohmann::ordered_json report;
  report["threads"] = threads;
  report["target"] = model->target();
  report["bundle"] = model->bundle_path();
  report["load_ms"] = load_ms;
  report["probes"] = {{"read_gbps", row(read.samples(read.best()))}, {"dot_gops", row(dot.samples(dot.best()))}};
  const auto result = [](const Series& series, int tokens, double fraction) {
    const nlohmann::ordered_json tps = row(series.rates);
    return nlohmann::ordered_json{{"tokens", tokens},
                                  {"tps", tps["median"]},
                                  {"tps_min", tps["min"]},
                                  {"tps_max", tps["max"]},
                                  {"fraction", fraction}};
  };
  report["decode"] = result(decode, options.decode, decode.fraction(read, token_bytes));
  report["decode"]["bytes_per_token"] = token_bytes;
  for (std::size_t i = 0; i < options.prefill.size(); ++i) {
    report["prefill"].push_back(result(prefill[i], options.prefill[i], prefill[i].fraction(dot, ternary_ops)));
  }
  return report;
}

void print(const nlohmann::ordered_json& report) {
  const auto line = [&](const char* what, const nlohmann::ordered_json& entry, const char* probe) {
    std::printf("%d thread%s  %-8s %4d tokens  %8.2f tokens/s (%.2f-%.2f)  %.3f of the %s probe\n",
                report["threads"].get<int>(), report["threads"] == 1 ? " " : "s", what, entry["tokens"].get<int>(),
                entry["tps"].get<double>(), entry["tps_min"].get<double>(), entry["tps_max"].get<double>(),
                entry["fraction"].get<double>(), probe);
  };
  const auto& read = report["probes"]["read_gbps"];
  const auto& dot = report["probes"]["dot_gops"];
  std::printf("target %s, loaded in %.0f ms; probes: read %.1f GB/s (%.1f-%.1f), dot %.0f GOPS (%.0f-%.0f)\n",
              report["target"].get<std::string>().c_str(), report["load_ms"].get<double>(),
              read["median"].get<double>(), read["min"].get<double>(), read["max"].get<double>(),
              dot["median"].get<double>(), dot["min"].get<double>(), dot["max"].get<double>());
  for (const auto& entry : report["prefill"]) line("prefill", entry, "dot");
  line("decode", report["decode"], "read");
}

// A model above its probe means that the probe is too weak, and every fraction is worth nothing.
bool plausible(const nlohmann::ordered_json& report) {
  bool good = report["decode"]["fraction"].get<double>() <= 1.02;
  for (const auto& entry : report["prefill"]) good = good && entry["fraction"].get<double>() <= 1.02;
  if (!good) std::fprintf(stderr, "bitnet-model-bench: a figure above 1.02 of its probe: the probe is too weak\n");
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Prefill and decode of a model beside the probes of the same run.", "bitnet-model-bench"};
  app.add_option("-m,--model", options.model, "GGUF model")->required();
  app.add_option("--bundle", options.bundle, "bundle file, auto or none");
  app.add_option("-t,--threads", options.threads, "thread counts")->delimiter(',')->check(CLI::Range(1, 1024));
  app.add_option("--prefill", options.prefill, "prompt lengths")->delimiter(',')->check(CLI::Range(1, 1024));
  app.add_option("--decode", options.decode, "tokens decoded one by one")->check(CLI::Range(1, 512));
  app.add_option("--rounds", options.rounds, "interleaved rounds")->check(CLI::Range(1, 1000));
  app.add_flag("--json", options.json, "print JSON");
  CLI11_PARSE(app, argc, argv);
  bool good = true;
  nlohmann::ordered_json all;
  all["model"] = options.model;
  for (const int threads : options.threads) {
    auto report = measure(options, threads);
    if (!report.ok()) {
      std::fprintf(stderr, "bitnet-model-bench: %s\n", report.error().message.c_str());
      return static_cast<int>(report.error().code);
    }
    if (!options.json) print(*report);
    good = plausible(*report) && good;
    all["runs"].push_back(std::move(*report));
  }
  if (options.json) std::printf("%s\n", all.dump(2).c_str());
  return good ? 0 : 1;
}
