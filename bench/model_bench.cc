// bitnet-model-bench: prefill and decode of a whole model beside the honest probes of the same run.
//
// For each thread count the model is loaded once; then every round measures each prefill length, the decoding of some
// tokens after a short prompt, and single passes of all probe variants, in turn, so that all of them see the same
// machine. The figures are medians over rounds. Decode is held against the read probe for the bytes that a token must
// read (packed weights and head), prefill against the dot probe for its ternary multiplications and additions.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "bench/probes.h"
#include "runtime/base/thread_pool.h"
#include "runtime/model/model.h"

namespace {

using bitnet::Status;
using bitnet::bench::median;
using bitnet::bench::ProbeSamples;

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

// Runs of the best probe variant: its median and extremes.
nlohmann::ordered_json probe_json(const ProbeSamples& samples) {
  const std::vector<double>& best = samples.samples(samples.best());
  return {{"median", median(best)},
          {"min", *std::min_element(best.begin(), best.end())},
          {"max", *std::max_element(best.begin(), best.end())}};
}

nlohmann::ordered_json row(const std::vector<double>& tps) {
  return {{"tps", median(tps)},
          {"min", *std::min_element(tps.begin(), tps.end())},
          {"max", *std::max_element(tps.begin(), tps.end())}};
}

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
  BITNET_ASSIGN_OR_RETURN(const auto probes, bitnet::bench::Probes::create(*isa));
  BITNET_ASSIGN_OR_RETURN(auto pool, bitnet::ThreadPool::create(threads));

  const std::int64_t vocab = model->config().vocab;
  std::vector<std::vector<double>> prefill(options.prefill.size());
  std::vector<double> decode;
  ProbeSamples read(probes.read_variants().size());
  ProbeSamples dot(probes.dot_variants().size());
  const auto decode_ids = some_tokens(vocab, options.prompt + options.decode);
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(*pool, v));
    BITNET_ASSIGN_OR_RETURN(const double tps,
                            decode_tps(*context, decode_ids, static_cast<std::size_t>(options.prompt)));
    decode.push_back(tps);
    for (std::size_t v = 0; v < probes.read_variants().size(); ++v) read.add(v, probes.read_gbps(*pool, v));
    for (std::size_t i = 0; i < options.prefill.size(); ++i) {
      for (std::size_t v = 0; v < probes.dot_variants().size(); ++v) dot.add(v, probes.dot_gops(*pool, v));
      BITNET_ASSIGN_OR_RETURN(const double rate, prefill_tps(*context, some_tokens(vocab, options.prefill[i])));
      prefill[i].push_back(rate);
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
  const double token_bytes = static_cast<double>(bitnet::packed_layout(tensors).bytes + tensors.token_embd->bytes);
  nlohmann::ordered_json report;
  report["threads"] = threads;
  report["target"] = model->target();
  report["bundle"] = model->bundle_path();
  report["load_ms"] = load_ms;
  report["probes"] = {{"read_gbps", probe_json(read)}, {"dot_gops", probe_json(dot)}};
  const double read_gbps = report["probes"]["read_gbps"]["median"].get<double>();
  const double dot_gops = report["probes"]["dot_gops"]["median"].get<double>();
  report["decode"] = row(decode);
  report["decode"]["tokens"] = options.decode;
  report["decode"]["bytes_per_token"] = token_bytes;
  report["decode"]["fraction"] = median(decode) * token_bytes / 1e9 / read_gbps;
  for (std::size_t i = 0; i < options.prefill.size(); ++i) {
    nlohmann::ordered_json entry = row(prefill[i]);
    entry["tokens"] = options.prefill[i];
    entry["fraction"] = median(prefill[i]) * ternary_ops / 1e9 / dot_gops;
    report["prefill"].push_back(entry);
  }
  return report;
}

void print(const nlohmann::ordered_json& report) {
  const auto line = [&](const char* what, int tokens, const nlohmann::ordered_json& entry, const char* probe) {
    std::printf("%d thread%s  %-8s %4d tokens  %8.2f tokens/s (%.2f-%.2f)  %.3f of the %s probe\n",
                report["threads"].get<int>(), report["threads"] == 1 ? " " : "s", what, tokens,
                entry["tps"].get<double>(), entry["min"].get<double>(), entry["max"].get<double>(),
                entry["fraction"].get<double>(), probe);
  };
  std::printf("target %s, loaded in %.0f ms; probes: read %.1f GB/s, dot %.0f GOPS\n",
              report["target"].get<std::string>().c_str(), report["load_ms"].get<double>(),
              report["probes"]["read_gbps"]["median"].get<double>(),
              report["probes"]["dot_gops"]["median"].get<double>());
  for (const auto& entry : report["prefill"]) line("prefill", entry["tokens"].get<int>(), entry, "dot");
  line("decode", report["decode"]["tokens"].get<int>(), report["decode"], "read");
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
  nlohmann::ordered_json all;
  all["model"] = options.model;
  for (const int threads : options.threads) {
    auto report = measure(options, threads);
    if (!report.ok()) {
      std::fprintf(stderr, "bitnet-model-bench: %s\n", report.error().message.c_str());
      return static_cast<int>(report.error().code);
    }
    if (!options.json) print(*report);
    all["runs"].push_back(std::move(*report));
  }
  if (options.json) std::printf("%s\n", all.dump(2).c_str());
  return 0;
}
