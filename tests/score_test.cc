// bitnet score and the likelihood behind it, against the definition written out naively: for every token, a fresh
// context of its own, evaluated from the beginning of the window that counts the token.
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "runtime/model/likelihood.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/model_files.h"
#include "tests/programs.h"
#include "tests/sanitizers.h"

namespace bitnet {
namespace {

using nlohmann::json;
using test::Outcome;
using test::Programs;

std::unique_ptr<Model> load(const std::string& path, int threads = 1, const std::string& bundle = "none") {
  ModelOptions options;
  options.threads = threads;
  options.bundle = bundle;
  auto model = Model::load(path, options);
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
  return *std::move(model);
}

std::unique_ptr<Context> make_context(Model& model, std::int64_t size, std::int64_t batch = 512) {
  auto context = Context::create(model, {.size = size, .batch = batch});
  REQUIRE_MESSAGE(context.ok(), (context.ok() ? "" : context.error().message));
  return *std::move(context);
}

std::vector<std::int32_t> some_ids(std::size_t count, std::int32_t vocab) {
  std::vector<std::int32_t> ids(count);
  std::uint32_t state = 12345;
  for (std::int32_t& id : ids) {
    state = state * 1664525 + 1013904223;
    id = static_cast<std::int32_t>((state >> 8) % static_cast<std::uint32_t>(vocab));
  }
  return ids;
}

// -log softmax in long double, without the usual shift by the largest logit: logits of these models are small.
double naive_nll(std::span<const float> logits, std::int32_t target) {
  long double sum = 0.0L;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
  const long double probability = std::exp(static_cast<long double>(logits[static_cast<std::size_t>(target)])) / sum;
  return static_cast<double>(-std::log(probability));
}

struct Naive {
  std::vector<double> nll;    // of the tokens 1, 2, ...
  std::vector<float> logits;  // that foretold them
  std::int64_t windows = 0;
  [[nodiscard]] double total() const { return std::accumulate(nll.begin(), nll.end(), 0.0); }
  [[nodiscard]] double mean() const { return total() / static_cast<double>(nll.size()); }
  [[nodiscard]] double deviation() const {
    double squares = 0.0;
    for (const double value : nll) squares += (value - mean()) * (value - mean());
    return std::sqrt(squares / static_cast<double>(nll.size()));
  }
};

Naive naive_likelihood(Model& model, const std::vector<std::int32_t>& ids, std::int64_t window, std::int64_t stride,
                       bool begin_every_window) {
  Naive naive;
  for (std::int64_t i = 1; i < static_cast<std::int64_t>(ids.size()); ++i) {
    std::int64_t k = 0;
    while (k * stride + window < i) ++k;  // the first window that foretells token i
    naive.windows = k + 1;
    // What the header promises about the tokens before it.
    CHECK(i - k * stride >= (k == 0 ? i : window - stride + 1));
    CHECK(i - k * stride <= window);
    const auto context = make_context(model, window);
    std::vector<std::int32_t> before(ids.begin() + k * stride, ids.begin() + i);
    if (begin_every_window) before.front() = ids.front();
    const auto logits = context->eval(before);
    REQUIRE(logits.ok());
    naive.nll.push_back(naive_nll(*logits, ids[static_cast<std::size_t>(i)]));
    naive.logits.insert(naive.logits.end(), logits->begin(), logits->end());
  }
  return naive;
}

struct Scored {
  Likelihood likelihood;
  std::vector<float> logits;
};

Scored score(Model& model, Context& context, const std::vector<std::int32_t>& ids, std::int64_t stride,
             bool begin_every_window = false) {
  Scored scored;
  LikelihoodOptions options;
  options.stride = stride;
  options.begin_every_window = begin_every_window;
  options.logits = [&](std::span<const float> logits) -> Status {
    scored.logits.insert(scored.logits.end(), logits.begin(), logits.end());
    return {};
  };
  const auto likelihood = sequence_likelihood(model, context, ids, options);
  REQUIRE_MESSAGE(likelihood.ok(), (likelihood.ok() ? "" : likelihood.error().message));
  scored.likelihood = *likelihood;
  return scored;
}

// Summation in another order and precision: some 1e3 roundings of 2^-53 each, far below 1e-10.
doctest::Approx about(double value) { return doctest::Approx(value).epsilon(1e-10); }

std::vector<float> read_floats(const std::string& path) {
  const std::string bytes = test::read_text(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

TEST_CASE("likelihood: negative_log_likelihood of known distributions") {
  const std::vector<float> equal(7, -3.5F);
  CHECK(negative_log_likelihood(equal, 4) == about(std::log(7.0)));
  // Probabilities 1/8, 2/8, 5/8; a common shift changes nothing, not even where exp would overflow or vanish.
  for (const float shift : {0.0F, 8192.0F, -8192.0F}) {
    const std::vector<float> logits = {0.0F + shift, 0.6875F + shift, 1.609375F + shift};
    const double sum = 1.0 + std::exp(0.6875) + std::exp(1.609375);
    CHECK(negative_log_likelihood(logits, 0) == about(std::log(sum)));
    CHECK(negative_log_likelihood(logits, 1) == about(std::log(sum) - 0.6875));
    CHECK(negative_log_likelihood(logits, 2) == about(std::log(sum) - 1.609375));
  }
  const std::vector<float> certain = {1000.0F, 0.0F};
  CHECK(negative_log_likelihood(certain, 0) == 0.0);
  CHECK(negative_log_likelihood(certain, 1) == 1000.0);
  // In double: float32 would lose the small one beside the large one.
  const std::vector<float> far = {0.0F, -20.0F};
  CHECK(negative_log_likelihood(far, 0) == doctest::Approx(std::exp(-20.0)).epsilon(1e-6));
}

TEST_CASE("likelihood: windows score every token once, from the logits of the definition") {
  const test::TempFolder folder;
  const auto model = load(write_synth(folder, "m.gguf", "2x128x256x2/1x300"));
  const std::vector<std::int32_t> ids = some_ids(40, 300);
  struct Case {
    std::int64_t window, stride, windows;
  };
  for (const Case c : {Case{8, 8, 5},
                       {8, 1, 32},
                       {8, 3, 12},
                       {8, 4, 9},
                       {13, 13, 3},
                       {38, 1, 2},
                       {39, 20, 1},
                       {40, 7, 1},
                       {64, 32, 1},
                       {1, 1, 39},
                       {2, 1, 38},
                       {2, 2, 20}}) {
    CAPTURE(c.window);
    CAPTURE(c.stride);
    const bool begin = c.window % 2 == 0;  // both ways, over the cases
    const Naive naive = naive_likelihood(*model, ids, c.window, c.stride, begin);
    const auto context = make_context(*model, c.window);
    const Scored scored = score(*model, *context, ids, c.stride, begin);
    const Likelihood& likelihood = scored.likelihood;
    CHECK(likelihood.windows == c.windows);
    CHECK(naive.windows == c.windows);
    CHECK(likelihood.tokens == 39);
    CHECK(likelihood.total_nll == about(naive.total()));
    CHECK(likelihood.mean_nll == about(naive.mean()));
    CHECK(likelihood.std_nll == about(naive.deviation()));
    CHECK(likelihood.perplexity() == about(std::exp(naive.mean())));
    CHECK(scored.logits == naive.logits);
    if (c.windows == 1) CHECK(likelihood.evaluated == 39);
    // Once more on the same context: nothing is left from before.
    CHECK(score(*model, *context, ids, c.stride, begin).likelihood.total_nll == likelihood.total_nll);
  }
}

TEST_CASE("likelihood: the same bits whatever the threads and the batch") {
  const test::TempFolder folder;
  const std::string path = write_synth(folder, "m.gguf", "1x128x256x2/1x300");
  // More tokens than one piece of 512, with and without their logits.
  const std::vector<std::int32_t> ids = some_ids(1300, 300);
  std::optional<Scored> first;
  for (const int threads : {1, 3}) {
    const auto model = load(path, threads);
    for (const std::int64_t batch : {512, 64, 7}) {
      const auto context = make_context(*model, 1100, batch);
      const Scored scored = score(*model, *context, ids, 300);
      CHECK(scored.likelihood.windows == 2);
      CHECK(scored.likelihood.evaluated == 1100 + 999);
      if (!first.has_value()) first = scored;
      CHECK(scored.likelihood.total_nll == first->likelihood.total_nll);
      CHECK(scored.likelihood.std_nll == first->likelihood.std_nll);
      CHECK(scored.logits == first->logits);
    }
  }
}

TEST_CASE("likelihood: a model that knows nothing has the perplexity of its vocabulary") {
  const test::TempFolder folder;
  test::ModelCopy copy = test::ModelCopy::read(write_synth(folder, "m.gguf", "1x128x256x2/1x300"));
  std::fill(copy.tensor("token_embd.weight").data.begin(), copy.tensor("token_embd.weight").data.end(), std::byte{0});
  copy.write(folder.file("zero.gguf"));
  const auto model = load(folder.file("zero.gguf"));
  const auto context = make_context(*model, 16);
  const Likelihood likelihood = score(*model, *context, some_ids(50, 300), 8).likelihood;
  CHECK(std::abs(likelihood.perplexity() - 300.0) < 1e-6);
  CHECK(likelihood.std_nll < 1e-12);
}

TEST_CASE("likelihood: errors, and callbacks that end the work") {
  const test::TempFolder folder;
  const auto model = load(write_synth(folder, "m.gguf", "1x128x256x2/1x300"));
  const auto context = make_context(*model, 8);
  const auto fails = [&](const std::vector<std::int32_t>& ids, std::int64_t stride, const std::string& part) {
    const auto result = sequence_likelihood(*model, *context, ids, {.stride = stride, .logits = {}, .progress = {}});
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().code == ErrorCode::kUsage);
    CAPTURE(result.error().message);
    CHECK(result.error().message.find(part) != std::string::npos);
  };
  fails({}, 4, "0 tokens");
  fails({1}, 4, "1 tokens");
  fails({1, 2}, 0, "expected 1..8");
  fails({1, 2}, 9, "found 9");
  fails({1, 2}, -1, "found -1");
  fails({1, 2, 300}, 4, "token id 300 at index 2");  // foretold only, never evaluated
  fails({-1, 2, 3}, 4, "token id -1 at index 0");

  const std::vector<std::int32_t> ids = some_ids(100, 300);
  int calls = 0;
  LikelihoodOptions options;
  options.stride = 4;
  options.logits = [&](std::span<const float>) -> Status {
    if (++calls < 5) return {};
    return Error{ErrorCode::kFailure, "the fifth"};
  };
  auto result = sequence_likelihood(*model, *context, ids, options);
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().message == "the fifth");
  CHECK(calls == 5);

  std::int64_t last = 0;
  options.logits = {};
  options.progress = [&](std::int64_t counted, std::int64_t total) -> Status {
    CHECK(total == 99);
    CHECK(counted >= last);
    last = counted;
    if (counted < 50) return {};
    return Error{ErrorCode::kInterrupted, "enough"};
  };
  result = sequence_likelihood(*model, *context, ids, options);
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == ErrorCode::kInterrupted);
  CHECK(last == 52);
}

TEST_CASE("bitnet score: text from everywhere, JSON, logits") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x400");
  const std::string base = "-m '" + model + "' -q ";
  const auto result_of = [&](const std::string& arguments, const std::string& before = "") {
    const Outcome outcome = programs.bitnet("score", base + "--json " + arguments, before);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(outcome.err.empty());
    json result = json::parse(outcome.out);
    result.erase("tokens_per_second");
    return result;
  };

  // Bytes as they are: line ends of all kinds, bytes that are no UTF-8, the spelling of a control token, no newline.
  const std::string text = "Once upon a time\r\nthere was </s> a caf\xc3\xa9 \xff\n\n of  old";
  std::ofstream(programs.folder.file("text"), std::ios::binary) << text;
  const std::string logits_path = programs.folder.file("logits");
  const json from_file = result_of("-f '" + programs.folder.file("text") + "' --dump-logits '" + logits_path + "'");
  CHECK(result_of("", "cat '" + programs.folder.file("text") + "' |") == from_file);
  CHECK(result_of("-p \"$(cat '" + programs.folder.file("text") + "')\" -t 3") == from_file);

  const auto file = gguf::File::open(model);
  REQUIRE(file.ok());
  const auto tokenizer = Tokenizer::from_gguf(*file);
  REQUIRE(tokenizer.ok());
  REQUIRE(tokenizer->adds_bos());
  const auto ids = tokenizer->encode(text, true, false);
  REQUIRE(ids.ok());
  const auto tokens = static_cast<std::int64_t>(ids->size()) - 1;
  CHECK(std::count(ids->begin(), ids->end(), tokenizer->eos()) == 0);
  CHECK(from_file["total_tokens"] == tokens);
  CHECK(from_file["total_bytes"] == text.size());
  CHECK(from_file["ctx_size"] == 2048);
  CHECK(from_file["stride"] == 1024);
  CHECK(from_file["windows"] == 1);
  CHECK(result_of("--no-bos -f '" + programs.folder.file("text") + "'")["total_tokens"] == tokens - 1);

  // The logits file, and the figures from it by the definition.
  const std::vector<float> logits = read_floats(logits_path);
  REQUIRE(logits.size() == static_cast<std::size_t>(tokens) * 400);
  Naive naive;
  for (std::int64_t i = 0; i < tokens; ++i) {
    naive.nll.push_back(naive_nll(std::span(logits).subspan(static_cast<std::size_t>(i) * 400, 400),
                                  (*ids)[static_cast<std::size_t>(i) + 1]));
  }
  CHECK(double{from_file["total_nll"]} == about(naive.total()));
  CHECK(double{from_file["mean_nll"]} == about(naive.mean()));
  CHECK(double{from_file["std_nll"]} == about(naive.deviation()));
  CHECK(double{from_file["perplexity"]} == about(std::exp(naive.mean())));
  CHECK(double{from_file["bits_per_byte"]} == about(naive.total() / std::log(2.0) / static_cast<double>(text.size())));
  CHECK(from_file["model"]["path"] == model);
  CHECK(from_file["model"]["architecture"] == "bitnet-b1.58");
  CHECK(from_file["model"]["parameters"] > 0);
  CHECK(from_file["bundle"]["path"].is_null());
  CHECK(from_file["bundle"]["kernels"].size() > 3);
  CHECK_FALSE(std::string(from_file["bundle"]["target"]).empty());

  // Ids are the whole sequence; the logits are those of bitnet run, whose last row foretells nothing here.
  std::string list;
  for (const std::int32_t id : *ids) list += (list.empty() ? "" : ",") + std::to_string(id);
  const json from_ids = result_of("--prompt-ids " + list);
  CHECK(from_ids["total_nll"] == from_file["total_nll"]);
  CHECK(from_ids["bits_per_byte"].is_null());
  CHECK(from_ids["total_bytes"].is_null());
  const std::string run_path = programs.folder.file("run_logits");
  REQUIRE(programs.bitnet("run", base + "--prompt-ids " + list + " -n 0 --dump-logits '" + run_path + "'").code == 0);
  std::vector<float> run_logits = read_floats(run_path);
  REQUIRE(run_logits.size() == logits.size() + 400);
  run_logits.resize(logits.size());
  CHECK(run_logits == logits);

  // Windows, by option and by default; the alias; the readable form.
  const json windows = result_of("-C 16 --stride 4 --prompt-ids " + list);
  CHECK(windows["ctx_size"] == 16);
  CHECK(windows["stride"] == 4);
  CHECK(windows["windows"] == 1 + (tokens - 16 + 3) / 4);
  const auto library = load(model);
  CHECK(double{windows["total_nll"]} == about(naive_likelihood(*library, *ids, 16, 4, true).total()));
  CHECK(result_of("-C 16 --prompt-ids " + list)["stride"] == 8);
  CHECK(result_of("-C 1 --prompt-ids " + list)["stride"] == 1);
  const Outcome readable =
      programs.bitnet("perplexity", "-m '" + model + "' -f '" + programs.folder.file("text") + "'");
  CHECK(readable.code == 0);
  CHECK(readable.out.find("perplexity ") == 0);
  CHECK(readable.out.find("bits per byte ") != std::string::npos);
  CHECK(readable.out.find(std::to_string(tokens) + " of " + std::to_string(text.size()) + " bytes") !=
        std::string::npos);
  CHECK(readable.err.find("built-in kernels and no bundle") != std::string::npos);
  CHECK(readable.err.find("bitnet-codegen --model " + model) != std::string::npos);

  // Without a tokenizer ids still work.
  const std::string bare = programs.folder.file("bare.gguf");
  test::ModelCopy::read(model).write(bare);
  const Outcome no_tokenizer = programs.bitnet("score", "-m '" + bare + "' -q --json --prompt-ids " + list);
  CHECK(no_tokenizer.code == 0);
  CHECK(json::parse(no_tokenizer.out)["total_nll"] == from_file["total_nll"]);
  CHECK(programs.bitnet("score", "-m '" + bare + "' -p hello").code == 4);
}

TEST_CASE("bitnet score: errors and their exit codes") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const std::string base = "-m '" + model + "' ";
  const auto fails = [&](const std::string& arguments, int code, const std::string& part,
                         const std::string& before = "") { programs.refuses("score", arguments, code, part, before); };
  fails("-p x -m", 2, "--model");
  fails(base + "-p x -f y", 2, "excludes");
  fails(base + "-p x --prompt-ids 1,2", 2, "excludes");
  fails(base + "-p x --ctx-size -1", 2, "--ctx-size");
  fails(base + "-p x --ctx-size 16777217", 2, "--ctx-size");
  fails(base + "-p x --ctx-size 1x", 2, "--ctx-size");
  fails(base + "-p x --stride 0", 2, "expected 1..2048");
  fails(base + "-p x --stride -1", 2, "found -1");
  fails(base + "-p x -C 8 --stride 9", 2, "expected 1..8");
  fails(base + "--prompt-ids 1,300", 2, "token id 300");
  fails(base + "--prompt-ids 1,-1", 2, "token id -1");
  fails(base + "--prompt-ids 7", 2, "at least two tokens");
  for (const char* ids : {"''", ",,", "1,,2", "x"})
    fails(base + "--prompt-ids " + ids, 2, "--prompt-ids", "printf text |");
  fails(base + "-p x --bundle '" + model + "'", 15, "refused");
  fails(base + "-p x --strict", 8, "strict mode");
  fails(base + "-p x", 2, "BITNET_FORCE_ISA", "BITNET_FORCE_ISA=sse9");
  fails(base + "-p x --dump-logits /nonexistent/file", 1, "/nonexistent/file");
  fails(base + "-p x --dump-logits '" + model + "'", 2, "overwrite");
  std::ofstream(programs.folder.file("text")) << "text";
  fails(base + "-f '" + programs.folder.file("text") + "' --dump-logits '" + programs.folder.file("text") + "'", 2,
        "overwrite");
  CHECK(test::read_text(programs.folder.file("text")) == "text");
  // What needs no model is reported before the model is even looked for.
  const std::string absent = "-m '" + programs.folder.file("absent.gguf") + "' ";
  fails(absent + "-p x", 1, "absent.gguf");
  fails(absent + "-p ''", 2, "--prompt: the text is empty");
  fails(absent, 2, "standard input: the text is empty", "printf '' |");
  fails(absent + "-f /dev/null", 2, "/dev/null: the text is empty");
  fails(absent + "-f '" + programs.folder.file("absent.txt") + "'", 1, "absent.txt");
  fails(absent + "-f ''", 1, "cannot be read", "printf text |");
  fails(absent + "-f /", 1, "/: cannot be read");
  // What needs no weights, before they are packed: this bundle would be refused.
  fails(base + "--bundle '" + model + "' -p x --stride 5000", 2, "--stride");
  fails(base + "--bundle '" + model + "' --prompt-ids 1,300", 2, "token id 300");
  test::ModelCopy copy = test::ModelCopy::read(model);
  copy.remove("output_norm.weight");
  copy.write(programs.folder.file("broken.gguf"));
  fails("-m '" + programs.folder.file("broken.gguf") + "' --prompt-ids 1,2", 3, "output_norm.weight");
  for (const char* form : {"", "--json"}) {
    for (const char* target : {">/dev/full", ">&-"}) {
      fails(base + "-q -p x --dump-logits '" + programs.folder.file("logits") + "' " + form + " " + target, 1,
            "standard output");
    }
  }
  fails(base + "-q -p x --dump-logits /dev/full", 1, "/dev/full: cannot be written");
}

TEST_CASE("bitnet score: a context that does not fit is exit code 10") {
#if BITNET_TEST_SANITIZED
  std::printf("SKIPPED: a context beyond the address space (sanitizers need more of it than the test leaves)\n");
#else
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  const std::string arguments = "-m '" + model + "' -t 1 -p x";
  const Outcome fits = programs.bitnet("score", arguments, "ulimit -v 4000000;");
  CHECK_MESSAGE(fits.code == 0, fits.err);
  // 2 caches * 64 values * 2 bytes * 2^24 positions.
  const Outcome outcome = programs.bitnet("score", arguments + " -C 16777216", "ulimit -v 4000000;");
  CHECK(outcome.code == 10);
  CHECK(outcome.out.empty());
  CHECK_MESSAGE(outcome.err.find("bytes") != std::string::npos, outcome.err);
#endif
}

TEST_CASE("bitnet score: an interrupt ends with 130 and without a result") {
  if (test::program("bitnet").empty()) return;
  const Programs programs;
  const std::string model = write_synth(programs.folder, "m.gguf", "1x128x256x2/1x300");
  std::ofstream text(programs.folder.file("text"));
  for (int i = 0; i < 200000; ++i) text << "once upon a time ";
  text.close();
  // The interrupt comes when the first logits have been written.
  const std::string logits = programs.folder.file("logits");
  const Outcome outcome =
      programs.shell("'" + test::program("bitnet") + "' score -m '" + model + "' -f '" + programs.folder.file("text") +
                     "' --json -t 1 --dump-logits '" + logits + "' & p=$!; while [ ! -s '" + logits +
                     "' ] && kill -0 $p; do sleep 0.01; done; kill -INT $p; wait $p");
  CHECK(outcome.code == 130);
  CHECK(outcome.out.empty());
  CHECK_MESSAGE(outcome.err.find("interrupted after ") != std::string::npos, outcome.err);
}

TEST_CASE("bitnet score: a bundle's kernels give the same numbers as the built-in ones") {
  const std::string codegen = test::program("bitnet-codegen");
  if (test::program("bitnet").empty() || codegen.empty()) return;
  const Programs programs;
  const std::string model = write_synth(programs.folder, "m.gguf", "2x128x256x2/1x400");
  const Outcome made = programs.shell("'" + codegen + "' --model '" + model + "' --target native");
  REQUIRE_MESSAGE(made.code == 0, made.err);
  const std::string arguments = "-m '" + model +
                                "' -q --json -C 32 -p 'Once upon a time there was a model that knew nothing at all of "
                                "what it said, and said it all the same' ";
  const Outcome with = programs.bitnet("score", arguments + "--strict");  // finds the bundle beside the model
  const Outcome without = programs.bitnet("score", arguments + "--bundle none");
  REQUIRE_MESSAGE(with.code == 0, with.err);
  REQUIRE_MESSAGE(without.code == 0, without.err);
  const json a = json::parse(with.out);
  const json b = json::parse(without.out);
  REQUIRE(a["bundle"]["path"].is_string());
  const std::string bundle = a["bundle"]["path"];
  CHECK(bundle.starts_with(programs.folder.file("m.")));
  CHECK(a["bundle"]["kernels"] != b["bundle"]["kernels"]);
  CHECK(programs.bitnet("score", arguments + "--bundle '" + bundle + "'").code == 0);
  CHECK(b["bundle"]["path"].is_null());
  CHECK(a["windows"] > 1);
  for (const char* key : {"total_nll", "mean_nll", "std_nll", "perplexity", "bits_per_byte", "total_tokens"}) {
    CHECK(a[key] == b[key]);
  }
}

}  // namespace
}  // namespace bitnet
