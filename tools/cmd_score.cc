// bitnet score: how well a model foretells a text: negative log likelihood, perplexity, bits per byte.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model/likelihood.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kDefaultContext = 4096;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 24;

struct Options {
  std::string model;
  std::optional<std::string> text;
  std::optional<std::string> file;
  std::vector<std::int32_t> ids;
  ModelOptions load;
  std::int64_t context = 0;
  KvType kv_type = KvType::kF16;
  std::optional<std::int64_t> stride;
  std::string dump_logits;
  bool no_bos = false;
  bool json = false;
  bool quiet = false;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// One line on standard error: redrawn on a terminal, otherwise a line at every quarter of a long run.
class ProgressLine {
 public:
  explicit ProgressLine(bool shown) : shown_(shown) {}
  ~ProgressLine() { end(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update(std::int64_t done, std::int64_t total) {
    const auto step = static_cast<int>(done * (terminal_ ? 100 : 4) / total);
    if (!shown_ || step == step_) return;
    step_ = step;
    if (!terminal_ && seconds_since(start_) < kLongSeconds) return;
    std::fprintf(stderr, "%sbitnet score: %lld of %lld tokens, %.1f tokens/s%s", terminal_ ? "\r" : "",
                 static_cast<long long>(done), static_cast<long long>(total),
                 static_cast<double>(done) / seconds_since(start_), terminal_ ? "\x1b[K" : "\n");
    open_ = terminal_;
  }
  void end() {
    if (open_) std::fputc('\n', stderr);
    open_ = false;
  }

 private:
  static constexpr double kLongSeconds = 10.0;
  bool shown_;
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool open_ = false;  // the terminal's line has no end yet
  int step_ = 0;
  Clock::time_point start_ = Clock::now();
};

class Score {
 public:
  explicit Score(const Options& options) : options_(options) {}
  [[nodiscard]] Status execute();

 private:
  [[nodiscard]] Status read_input();
  [[nodiscard]] Status make_sequence();
  [[nodiscard]] Status choose_windows(const ModelConfig& config);
  [[nodiscard]] Status evaluate();
  [[nodiscard]] Status report_results() const;
  [[nodiscard]] std::optional<double> bits_per_byte() const;
  [[nodiscard]] std::string block() const;
  [[nodiscard]] nlohmann::ordered_json object() const;

  const Options& options_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Context> context_;
  LogitsFile logits_file_;
  std::optional<std::string> text_;  // none with --prompt-ids
  std::vector<std::int32_t> ids_;
  bool begin_token_ = false;  // ids_ begins with the model's
  std::int64_t window_ = 0;
  std::int64_t stride_ = 0;
  Likelihood likelihood_;
  double load_seconds_ = 0.0;
  double seconds_ = 0.0;  // of the evaluation
};

Status Score::read_input() {
  BITNET_RETURN_IF_ERROR(check_standard_output());
  if (!options_.ids.empty()) return {};
  if (options_.text.has_value()) {
    text_ = options_.text;
  } else if (options_.file.has_value()) {
    BITNET_ASSIGN_OR_RETURN(text_, read_file(*options_.file));
  } else {
    BITNET_ASSIGN_OR_RETURN(text_, read_all(std::cin, "standard input"));
  }
  if (!text_->empty()) return {};
  const std::string source = options_.text.has_value() ? "--prompt" : options_.file.value_or("standard input");
  return Error{ErrorCode::kUsage, source + ": the text is empty, there is nothing to score"};
}

Status Score::choose_windows(const ModelConfig& config) {
  window_ = options_.context == 0 ? std::min(config.context, kDefaultContext) : options_.context;
  stride_ = options_.stride.value_or(std::max<std::int64_t>(window_ / 2, 1));
  if (stride_ >= 1 && stride_ <= window_) return {};
  return Error{ErrorCode::kUsage, "--stride: expected 1.." + std::to_string(window_) + " (the context size), found " +
                                      std::to_string(stride_)};
}

// The sequence and its windows, from the file's metadata alone: what is wrong with them is known before the seconds
// that loading may take.
Status Score::make_sequence() {
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(options_.model));
  BITNET_ASSIGN_OR_RETURN(const ModelConfig config, read_config(file));
  BITNET_RETURN_IF_ERROR(choose_windows(config));
  Result<Tokenizer> tokenizer = Tokenizer::from_gguf(file, options_.load.strict);
  if (tokenizer.ok()) {
    BITNET_RETURN_IF_ERROR(check_pair(*tokenizer, config.vocab, options_.model));
    print_tokenizer_notes(*tokenizer);
  }
  if (!text_.has_value()) {
    ids_ = options_.ids;
    BITNET_RETURN_IF_ERROR(check_ids(ids_, config.vocab, "--prompt-ids"));
  } else {
    if (!tokenizer.ok()) {
      return Error{tokenizer.error().code, tokenizer.error().message + "; --prompt-ids works without a tokenizer"};
    }
    // The text is data: the spelling of a control token in it is nothing but its characters.
    BITNET_ASSIGN_OR_RETURN(ids_, tokenizer->encode(*text_, tokenizer->adds_bos() && !options_.no_bos, false));
    BITNET_RETURN_IF_ERROR(check_ids(ids_, config.vocab, "the text, by the model's tokenizer"));
  }
  begin_token_ = tokenizer.ok() && tokenizer->bos() >= 0 && !ids_.empty() && ids_.front() == tokenizer->bos();
  if (ids_.size() >= 2) return {};
  return Error{ErrorCode::kUsage, "expected at least two tokens, the first of which is only given; found " +
                                      std::to_string(ids_.size()) + (text_.has_value() ? "; give a longer text" : "")};
}

Status Score::evaluate() {
  auto start = Clock::now();
  ModelOptions load = options_.load;
  if (load.head == HeadMode::kScreened) load.head = HeadMode::kExact;  // every logit is needed
  print_head_advice(load.head);
  load.log = log_to_stderr(false);
  BITNET_ASSIGN_OR_RETURN(model_, Model::load(options_.model, load));
  BITNET_ASSIGN_OR_RETURN(context_, Context::create(*model_, {.size = window_, .kv_type = options_.kv_type}));
  load_seconds_ = seconds_since(start);

  start = Clock::now();
  ProgressLine line(!options_.quiet);
  LikelihoodOptions likelihood;
  likelihood.stride = stride_;
  likelihood.begin_every_window = begin_token_;
  likelihood.logits = [&](std::span<const float> logits) { return logits_file_.add(logits); };
  likelihood.progress = [&](std::int64_t done, std::int64_t total) -> Status {
    line.update(done, total);
    if (!interrupted()) return {};
    return Error{ErrorCode::kInterrupted,
                 "interrupted after " + std::to_string(done) + " of " + std::to_string(total) + " tokens"};
  };
  BITNET_ASSIGN_OR_RETURN(likelihood_, sequence_likelihood(*model_, *context_, ids_, likelihood));
  seconds_ = seconds_since(start);
  return logits_file_.finish();
}

std::optional<double> Score::bits_per_byte() const {
  if (!text_.has_value()) return std::nullopt;
  return likelihood_.total_nll / std::numbers::ln2 / static_cast<double>(text_->size());
}

std::string Score::block() const {
  std::string text;
  const auto line = [&](const char* format, auto... values) {
    char buffer[256];
    std::snprintf(buffer, sizeof buffer, format, values...);
    text += buffer;
  };
  line("perplexity     %.6g\n", likelihood_.perplexity());
  line("nll per token  %.6f nats, standard deviation %.6f\n", likelihood_.mean_nll, likelihood_.std_nll);
  if (const std::optional<double> bits = bits_per_byte(); bits.has_value()) line("bits per byte  %.6f\n", *bits);
  line("tokens         %lld", static_cast<long long>(likelihood_.tokens));
  if (text_.has_value()) line(" of %zu bytes", text_->size());
  line("\nwindows        %lld of %lld tokens, stride %lld\n", static_cast<long long>(likelihood_.windows),
       static_cast<long long>(window_), static_cast<long long>(stride_));
  line("speed          %.1f tokens/s\n", static_cast<double>(likelihood_.tokens) / seconds_);
  return text;
}

nlohmann::ordered_json Score::object() const {
  nlohmann::ordered_json bits = nullptr;
  nlohmann::ordered_json bytes = nullptr;
  if (text_.has_value()) {
    bits = *bits_per_byte();
    bytes = text_->size();
  }
  return {
      {"mean_nll", likelihood_.mean_nll},
      {"std_nll", likelihood_.std_nll},
      {"perplexity", likelihood_.perplexity()},
      {"bits_per_byte", bits},
      {"total_nll", likelihood_.total_nll},
      {"total_tokens", likelihood_.tokens},
      {"total_bytes", bytes},
      {"ctx_size", window_},
      {"stride", stride_},
      {"windows", likelihood_.windows},
      {"tokens_per_second", static_cast<double>(likelihood_.tokens) / seconds_},
      {"model",
       {{"path", model_->path()},
        {"architecture", model_->config().architecture},
        {"parameters", model_->parameters()}}},
      {"bundle", bundle_json(*model_, context_->kernel_uses())},
  };
}

Status Score::report_results() const {
  using nlohmann::ordered_json;
  // A path may hold any bytes; JSON may not.
  BITNET_RETURN_IF_ERROR(write_output(
      options_.json ? object().dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n" : block()));
  if (options_.quiet) return {};
  std::fprintf(stderr, "bitnet: %s (%s, %.1f M parameters), target %.*s, %s, %d threads, loaded in %.0f ms\n",
               model_->path().c_str(), model_->config().architecture.c_str(),
               static_cast<double>(model_->parameters()) / 1e6, static_cast<int>(model_->target().size()),
               model_->target().data(), describe_kernels(*model_, context_->kernel_uses()).c_str(), model_->threads(),
               load_seconds_ * 1000.0);
  print_bundle_advice(*model_);
  return {};
}

Status Score::execute() {
  BITNET_RETURN_IF_ERROR(read_input());
  BITNET_RETURN_IF_ERROR(make_sequence());
  const std::string inputs[] = {options_.model, options_.load.bundle, options_.file.value_or("")};
  BITNET_RETURN_IF_ERROR(logits_file_.open(options_.dump_logits, inputs));
  BITNET_RETURN_IF_ERROR(evaluate());
  return report_results();
}

int score(const Options& options) {
  catch_interrupt();
  const Status done = Score(options).execute();
  return done.ok() ? 0 : report(done.error());
}

}  // namespace

void add_score_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("score", "Measure how well a model foretells a text: likelihood, perplexity, bits per byte");
  command->alias("perplexity");
  Options& o = *options;
  add_model_option(*command, o.model);
  CLI::Option* file = command->add_option("-f,--file", o.file, "File with the text, bytes as they are");
  CLI::Option* text = command->add_option("-p,--prompt", o.text, "Text; else --file, else standard input");
  CLI::Option* ids =
      add_ids(*command, "--prompt-ids", o.ids, "The whole sequence as token ids, a begin token included (repeatable)");
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  command->add_option("-C,--ctx-size", o.context, "Tokens of a window; 0: the model's context, at most 4096")
      ->check(CLI::Range(std::int64_t{0}, kMaxContext));
  command->add_option("--stride", o.stride,
                      "Tokens from window to window, 1 to the context size; default: half of it. Every token is scored "
                      "once, beyond the first window with at least ctx-size - stride + 1 tokens before it. Where the "
                      "sequence begins with the model's begin token, every window does");
  add_load_options(*command, o.load);
  add_kv_option(*command, o.kv_type);
  command->add_flag("--no-bos", o.no_bos, "No begin token before the text");
  command->add_flag("--json", o.json, "One JSON object instead of text");
  command->add_option("--dump-logits", o.dump_logits, "Writes float32 [scored tokens][vocabulary]");
  command->add_flag("-q,--quiet", o.quiet, "Only the result, and warnings");
  command->callback([options, &exit_code] { exit_code = score(*options); });
}

}  // namespace bitnet::tools
