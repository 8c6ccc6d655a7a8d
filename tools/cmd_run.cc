// bitnet run: text (or token ids) in, generated text out.
#include <cctype>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/process_memory.h"
#include "runtime/chat/prompt_template.h"
#include "runtime/generation/generator.h"
#include "runtime/generation/ngram_draft.h"
#include "runtime/model/model.h"
#include "runtime/model/node_dump.h"
#include "runtime/sampling/recommended.h"
#include "runtime/sampling/sampler.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/text_stream.h"

namespace bitnet::tools {
namespace {

// "all" (nullopt) or "0,3,7".
Result<std::optional<std::vector<std::int64_t>>> layers_to_dump(std::string_view text) {
  if (text == "all") return std::optional<std::vector<std::int64_t>>();
  std::vector<std::int64_t> layers;
  for (const char* next = text.data(); next != text.data() + text.size() + 1; ++next) {
    const char* const end = text.data() + text.size();
    const auto [after, error] = std::from_chars(next, end, layers.emplace_back());
    if (error != std::errc() || layers.back() < 0 || (after != end && *after != ',')) {
      return Error{ErrorCode::kUsage, "--dump-layers: expected all or numbers of layers with commas between, found \"" +
                                          std::string(text) + "\""};
    }
    next = after;
  }
  return std::optional(std::move(layers));
}

enum class Draft : std::uint8_t { kNone, kNgram };

// What the user chose; the rest is what the model's file recommends, or else the sampler's default.
struct SamplingChoice {
  std::optional<float> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<std::int32_t> top_k;
  bool greedy = false;

  void apply(SamplingParams& params) const {
    params.temperature = greedy ? 0.0F : temperature.value_or(params.temperature);
    params.top_k = top_k.value_or(params.top_k);
    params.top_p = top_p.value_or(params.top_p);
    params.min_p = min_p.value_or(params.min_p);
    params.repetition_penalty = repetition_penalty.value_or(params.repetition_penalty);
    params.frequency_penalty = frequency_penalty.value_or(params.frequency_penalty);
    params.presence_penalty = presence_penalty.value_or(params.presence_penalty);
  }
};

struct Options {
  std::string model;
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::vector<std::int32_t> prompt_ids;
  std::string prompt_template = "auto";
  std::optional<std::string> system_prompt;
  std::int64_t max_tokens = 128;
  SamplingChoice sampling;
  std::optional<std::uint64_t> seed;
  ModelOptions load;
  std::int64_t context = 0;
  KvType kv_type = KvType::kF16;
  Draft draft = Draft::kNone;
  std::vector<std::string> stops;
  std::vector<std::int32_t> stop_ids;
  std::string dump_logits;
  std::string dump_nodes;
  std::string dump_layers = "0";
  bool no_bos = false;
  bool ignore_eos = false;
  bool json = false;
  bool jsonl = false;
  bool metrics = false;
  bool verbose = false;
  bool quiet = false;
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double rate(std::size_t tokens, double seconds) { return seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0; }

// One run: what the user asked for, what was made of it, and what it cost.
class Run {
 public:
  explicit Run(const Options& options) : options_(options), filter_(options.stops) {}

  Status execute();
  [[nodiscard]] bool was_interrupted() const { return generator_->reason() == FinishReason::kInterrupted; }

 private:
  Status prepare();
  Status load();
  Status read_prompt();
  Status frame_prompt();
  [[nodiscard]] Status tell_unknown_template(const TemplateChoice& choice) const;
  Status prefill();
  Status generate();
  [[nodiscard]] Status show(std::string_view text);
  [[nodiscard]] Status show_token(std::int32_t id, std::string_view text);
  [[nodiscard]] Status show_rest(std::string_view text);
  [[nodiscard]] Status report_results();
  [[nodiscard]] nlohmann::ordered_json results() const;
  void print_summary() const;
  [[nodiscard]] bool ends(std::int32_t id) const;

  const Options& options_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Context> context_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Sampler> sampler_;
  NgramDraft draft_;
  std::optional<Generator> generator_;
  SamplingParams sampling_;
  HeadMode head_ = HeadMode::kScreened;
  LogitsFile logits_file_;
  std::optional<NodeDump> node_dump_;
  StopFilter filter_;
  std::string prompt_;
  std::vector<std::int32_t> prompt_ids_;
  std::vector<std::int32_t> generated_;
  std::string text_;
  double load_ms_ = 0.0;
  double tokenize_ms_ = 0.0;
  double total_ms_ = 0.0;
};

// What is generated is shown as UTF-8, so that a stop string of other bytes would never come.
Status check_stop(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const tokenizer::Utf8Sequence sequence = tokenizer::next_utf8(text.substr(at));
    if (sequence.kind != tokenizer::Utf8Kind::kComplete) {
      char byte[8];
      std::snprintf(byte, sizeof byte, "0x%02X", static_cast<unsigned>(static_cast<unsigned char>(text[at])));
      return Error{ErrorCode::kUsage, std::string("--stop: expected UTF-8, found byte ") + byte + " at position " +
                                          std::to_string(at) +
                                          "; write the text in UTF-8, or name tokens with --stop-id"};
    }
    at += sequence.bytes;
  }
  return {};
}

// Whatever can be wrong without the model is found here, before the seconds that loading may take.
Status Run::prepare() {
  BITNET_RETURN_IF_ERROR(check_standard_output());
  for (const std::string& stop : options_.stops) BITNET_RETURN_IF_ERROR(check_stop(stop));
  options_.sampling.apply(sampling_);
  sampling_.seed = options_.seed.has_value() ? *options_.seed : std::random_device{}();
  BITNET_RETURN_IF_ERROR(Sampler::create(sampling_, 1));  // checks the parameters; the vocabulary is not known yet
  if (!options_.prompt_file.empty()) {
    BITNET_ASSIGN_OR_RETURN(prompt_, read_file(options_.prompt_file));
  }
  const std::string inputs[] = {options_.model, options_.load.bundle, options_.prompt_file};
  BITNET_RETURN_IF_ERROR(logits_file_.open(options_.dump_logits, inputs));
  if (!options_.dump_nodes.empty()) {
    BITNET_ASSIGN_OR_RETURN(std::optional<std::vector<std::int64_t>> layers, layers_to_dump(options_.dump_layers));
    BITNET_ASSIGN_OR_RETURN(NodeDump dump, NodeDump::create(options_.dump_nodes, std::move(layers)));
    node_dump_.emplace(std::move(dump));
  }
  return {};
}

Status Run::load() {
  const auto start = std::chrono::steady_clock::now();
  ModelOptions load = options_.load;
  // What needs every logit takes the exact head anyway, and reads its rows faster from memory than from the file.
  const bool all_logits = sampling_.temperature > 0.0F && sampling_.top_k == 0;
  if (load.head == HeadMode::kScreened &&
      (all_logits || !options_.dump_logits.empty() || !options_.dump_nodes.empty())) {
    load.head = HeadMode::kExact;
  }
  head_ = load.head;
  if (options_.quiet) load.progress = nullptr;
  load.log = log_to_stderr(options_.metrics || options_.verbose);  // the summary says in short what runs
  BITNET_ASSIGN_OR_RETURN(model_, Model::load(options_.model, load));
  BITNET_ASSIGN_OR_RETURN(context_, Context::create(*model_, {.size = options_.context, .kv_type = options_.kv_type}));
  Result<Tokenizer> tokenizer = Tokenizer::from_gguf(model_->file(), options_.load.strict);
  if (tokenizer.ok()) {
    BITNET_RETURN_IF_ERROR(check_pair(*tokenizer, model_->config().vocab, options_.model));
    if (!options_.quiet) print_tokenizer_notes(*tokenizer);
    tokenizer_.emplace(std::move(tokenizer).value());
  } else if (options_.prompt_ids.empty()) {
    return Error{tokenizer.error().code, tokenizer.error().message + "; --prompt-ids works without a tokenizer"};
  } else if (!options_.quiet) {
    std::fprintf(stderr, "bitnet: token ids are printed, because there is no tokenizer: %s\n",
                 tokenizer.error().message.c_str());
  }
  const std::uint64_t seed = sampling_.seed;
  BITNET_ASSIGN_OR_RETURN(sampling_, recommended_sampling(model_->file()));
  sampling_.seed = seed;
  options_.sampling.apply(sampling_);
  BITNET_ASSIGN_OR_RETURN(Sampler sampler, Sampler::create(sampling_, model_->config().vocab));
  sampler_.emplace(std::move(sampler));
  load_ms_ = milliseconds_since(start);
  return {};
}

Status Run::read_prompt() {
  BITNET_RETURN_IF_ERROR(check_ids(options_.stop_ids, model_->config().vocab, "--stop-id"));
  BITNET_RETURN_IF_ERROR(check_ids(options_.prompt_ids, model_->config().vocab, "--prompt-ids"));
  if (!options_.prompt_ids.empty()) {
    prompt_ids_ = options_.prompt_ids;
    if (tokenizer_.has_value()) prompt_ = tokenizer_->decode(prompt_ids_);
    return {};
  }
  if (options_.prompt.has_value()) {
    prompt_ = *options_.prompt;
  } else if (options_.prompt_file.empty()) {
    BITNET_ASSIGN_OR_RETURN(prompt_, read_all(std::cin, "standard input"));
  }
  BITNET_RETURN_IF_ERROR(frame_prompt());
  const auto start = std::chrono::steady_clock::now();
  const bool add_bos = tokenizer_->adds_bos() && !options_.no_bos;
  BITNET_ASSIGN_OR_RETURN(prompt_ids_, tokenizer_->encode(prompt_, add_bos, true));
  tokenize_ms_ = milliseconds_since(start);
  if (prompt_ids_.empty())
    return Error{ErrorCode::kUsage, "the prompt is empty; give -p, -f or text on standard input"};
  return {};
}

// Puts the prompt into the frame of a conversation, if the user or the model's file names one.
Status Run::frame_prompt() {
  const PromptTemplate* frame = find_prompt_template(options_.prompt_template);
  if (options_.prompt_template == "auto") {
    const TemplateChoice choice = choose_prompt_template(model_->file());
    frame = choice.chosen;
    if (choice.unknown) BITNET_RETURN_IF_ERROR(tell_unknown_template(choice));
    if (!options_.quiet && frame->name != "raw") {
      std::fprintf(stderr, "bitnet: prompt template %s, since %s; --prompt-template raw takes the text as it is\n",
                   std::string(frame->name).c_str(), choice.reason.c_str());
    }
  }
  std::vector<Message> messages;
  if (options_.system_prompt.has_value()) messages.push_back({Role::kSystem, *options_.system_prompt});
  if (prompt_.empty()) {
    if (!options_.system_prompt.has_value()) return {};  // there is nothing to answer
    return Error{ErrorCode::kUsage, "--system-prompt: expected a prompt to answer, found an empty one"};
  }
  if (options_.system_prompt.has_value() && frame->name == "raw") {
    return Error{ErrorCode::kUsage,
                 "--system-prompt: expected a prompt template with a place for it, found raw; choose "
                 "one with --prompt-template, or put the text into the prompt"};
  }
  messages.push_back({Role::kUser, prompt_});
  BITNET_ASSIGN_OR_RETURN(prompt_, format_prompt(*frame, messages));
  std::vector<std::string> stops = options_.stops;
  if (!frame->stop.empty()) stops.emplace_back(frame->stop);
  filter_ = StopFilter(std::move(stops));
  return {};
}

// The text goes in as it is, which is not what the model was trained with: told, and refused in strict mode.
Status Run::tell_unknown_template(const TemplateChoice& choice) const {
  const std::string what = model_->path() + ": " + choice.reason +
                           ": expected one of those that list-templates shows, found none; choose one with "
                           "--prompt-template";
  if (options_.load.strict) return Error{ErrorCode::kStrict, what + ", or raw, which strict mode does not assume"};
  std::fprintf(stderr, "bitnet: warning: %s; the text goes in as it is\n", what.c_str());
  return {};
}

bool Run::ends(std::int32_t id) const {
  if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end()) return true;
  if (options_.ignore_eos) return false;
  if (tokenizer_.has_value()) return tokenizer_->is_eos(id);
  const Result<std::uint64_t> eos = model_->file().get_uint("tokenizer.ggml.eos_token_id");
  return eos.ok() && *eos == static_cast<std::uint64_t>(id);
}

Status Run::prefill() {
  GenerationOptions generation;
  generation.max_tokens = options_.max_tokens;
  generation.ends = [this](std::int32_t id) { return ends(id); };
  generation.interrupted = interrupted;
  if (!options_.dump_logits.empty()) {
    generation.logits = [this](std::int64_t, std::span<const float> logits) { return logits_file_.add(logits); };
  }
  if (node_dump_.has_value()) generation.node_dump = &*node_dump_;
  if (options_.draft == Draft::kNgram) generation.drafter = &draft_;
  generator_.emplace(*context_, *sampler_, std::move(generation));
  return generator_->prefill(prompt_ids_);
}

// Into the results, and to standard output at the latest when the next pass begins.
Status Run::show(std::string_view text) {
  text_ += text;
  if (options_.json || options_.jsonl) return {};
  return buffer_output(text);
}

Status Run::show_token(std::int32_t id, std::string_view text) {
  BITNET_RETURN_IF_ERROR(show(text));
  if (!options_.jsonl) return {};
  const nlohmann::ordered_json line = {{"token", id}, {"text", text}};
  return buffer_output(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

// What was held back, an incomplete character or the beginning of a stop string: of no token in particular.
Status Run::show_rest(std::string_view text) {
  BITNET_RETURN_IF_ERROR(show(text));
  if (!options_.jsonl || text.empty()) return {};
  const nlohmann::ordered_json line = {{"token", nullptr}, {"text", text}};
  return buffer_output(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

Status Run::generate() {
  std::optional<Tokenizer::Decoder> decoder;
  if (tokenizer_.has_value()) decoder.emplace(*tokenizer_, false);
  while (true) {
    if (generator_->needs_pass()) BITNET_RETURN_IF_ERROR(write_output({}));
    BITNET_ASSIGN_OR_RETURN(const std::optional<std::int32_t> id, generator_->next());
    if (!id.has_value()) break;
    generated_.push_back(*id);
    const std::string piece =
        decoder.has_value() ? decoder->push(*id) : (generated_.size() > 1 ? " " : "") + std::to_string(*id);
    BITNET_RETURN_IF_ERROR(show_token(*id, filter_.push(piece)));
    if (filter_.stopped()) generator_->stop();
  }
  if (generator_->reason() == FinishReason::kContextFull && !options_.quiet) {
    std::fprintf(stderr, "\nbitnet: the context of %lld positions is full; --ctx-size makes it larger\n",
                 static_cast<long long>(context_->size()));
  }
  std::string rest = decoder.has_value() ? filter_.push(decoder->finish()) : std::string();
  rest += filter_.finish();
  BITNET_RETURN_IF_ERROR(show_rest(rest));
  return write_output({});
}

nlohmann::ordered_json Run::results() const {
  std::string format(type_name(*model_->tensors().layers.front().products.front().parts.front().tensor));  // "i2_s"
  for (char& c : format) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const GenerationStats& stats = generator_->stats();
  const ProcessMemory memory = process_memory();
  return {
      {"prompt", prompt_},
      {"text", text_},
      {"tokens", generated_},
      {"finish_reason", finish_name(generator_->reason())},
      {"counts", {{"prompt", prompt_ids_.size()}, {"generated", generated_.size()}}},
      {"timing_ms",
       {{"load", load_ms_},
        {"tokenize", tokenize_ms_},
        {"prefill", stats.prefill_seconds * 1e3},
        {"decode", stats.decode_seconds * 1e3},
        {"total", total_ms_}}},
      {"throughput",
       {{"prefill_tps", rate(stats.prefilled, stats.prefill_seconds)},
        {"decode_tps", rate(stats.decoded, stats.decode_seconds)}}},
      {"draft", {{"proposed", stats.proposed}, {"accepted", stats.accepted}, {"passes", stats.draft_passes}}},
      {"memory", {{"rss_bytes", memory.resident}, {"peak_bytes", memory.peak}, {"kv_bytes", context_->kv_bytes()}}},
      {"model",
       {{"path", model_->path()},
        {"architecture", model_->config().architecture},
        {"parameters", model_->parameters()},
        {"format", format}}},
      {"bundle", bundle_json(*model_, context_->kernel_uses())},
      {"head", head_json(head_, context_->head_use())},
      {"threads", model_->threads()},
      {"sampling",
       {{"temperature", sampling_.temperature},
        {"top_k", sampling_.top_k},
        {"top_p", sampling_.top_p},
        {"min_p", sampling_.min_p},
        {"repetition_penalty", sampling_.repetition_penalty},
        {"frequency_penalty", sampling_.frequency_penalty},
        {"presence_penalty", sampling_.presence_penalty}}},
      {"seed", sampling_.seed},
  };
}

void Run::print_summary() const {
  const GenerationStats& stats = generator_->stats();
  const std::string kernels = describe_kernels(*model_, context_->kernel_uses());
  std::fprintf(stderr,
               "bitnet: %s (%s, %.1f M parameters), target %.*s, %s, %d threads, loaded in %.0f ms, prefill %zu tokens "
               "at %.1f tokens/s, decode %zu tokens at %.1f tokens/s\n",
               model_->path().c_str(), model_->config().architecture.c_str(),
               static_cast<double>(model_->parameters()) / 1e6, static_cast<int>(model_->target().size()),
               model_->target().data(), kernels.c_str(), model_->threads(), load_ms_, stats.prefilled,
               rate(stats.prefilled, stats.prefill_seconds), stats.decoded, rate(stats.decoded, stats.decode_seconds));
  print_bundle_advice(*model_);
  print_head_advice(head_);
  if (!options_.metrics) return;
  const ProcessMemory memory = process_memory();
  std::fprintf(stderr,
               "bitnet: tokenize %.2f ms, prefill %.2f ms, decode %.2f ms, total %.2f ms, weights %llu bytes, "
               "key/value cache %llu bytes, resident %llu bytes, at most %llu bytes\n",
               tokenize_ms_, stats.prefill_seconds * 1e3, stats.decode_seconds * 1e3, total_ms_,
               static_cast<unsigned long long>(model_->weight_bytes()),
               static_cast<unsigned long long>(context_->kv_bytes()), static_cast<unsigned long long>(memory.resident),
               static_cast<unsigned long long>(memory.peak));
  if (options_.draft != Draft::kNone) {
    std::fprintf(stderr, "bitnet: drafted %zu tokens in %zu passes, %zu of them accepted\n", stats.proposed,
                 stats.draft_passes, stats.accepted);
  }
  std::fprintf(stderr, "bitnet: %s\n", describe_head(head_, context_->head_use()).c_str());
  for (const KernelUse& use : context_->kernel_uses()) {
    std::fprintf(stderr, "bitnet: %10llu calls of %s\n", static_cast<unsigned long long>(use.calls), use.name.c_str());
  }
}

Status Run::report_results() {
  if (options_.json || options_.jsonl) {
    using nlohmann::ordered_json;
    // A prompt may hold any bytes; JSON may not.
    const int indent = options_.json ? 2 : -1;
    BITNET_RETURN_IF_ERROR(
        write_output(results().dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n"));
  } else if (!text_.empty() && text_.back() != '\n') {
    BITNET_RETURN_IF_ERROR(write_output("\n"));
  }
  if (!options_.quiet || options_.metrics) print_summary();
  return {};
}

Status Run::execute() {
  const auto start = std::chrono::steady_clock::now();
  BITNET_RETURN_IF_ERROR(prepare());
  BITNET_RETURN_IF_ERROR(load());
  BITNET_RETURN_IF_ERROR(read_prompt());
  BITNET_RETURN_IF_ERROR(prefill());
  BITNET_RETURN_IF_ERROR(generate());
  total_ms_ = milliseconds_since(start);
  BITNET_RETURN_IF_ERROR(report_results());
  return logits_file_.finish();
}

int run(const Options& options) {
  catch_interrupt();
  Run job(options);
  const Status done = job.execute();
  if (!done.ok()) return report(done.error());
  return job.was_interrupted() ? static_cast<int>(ErrorCode::kInterrupted) : 0;
}

void add_draft(CLI::App& command, Draft& draft) {
  static const std::map<std::string, Draft> kDrafts{{"none", Draft::kNone}, {"ngram", Draft::kNgram}};
  command
      .add_option("--draft", draft,
                  "ngram: guess tokens from the text's own repetitions and check several in one pass; faster where "
                  "text repeats, never another text")
      ->transform(CLI::CheckedTransformer(kDrafts))
      ->option_text("none|ngram");
}

void add_seed(CLI::App& command, std::optional<std::uint64_t>& seed) {
  const auto parse = [&seed](const std::string& value) {
    seed = parse_number<std::uint64_t>(value);
    if (!seed.has_value()) {
      throw CLI::ValidationError("--seed", "expected a whole number from 0 to 2^64-1, found \"" + value + "\"");
    }
  };
  command.add_option_function<std::string>("--seed", parse, "Same seed, same text; default: a random one")
      ->type_name("UINT");
}

}  // namespace

void add_run_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("run", "Generate text with a model");
  for (const char* alias : {"generate", "infer", "inference"}) command->alias(alias);
  Options& o = *options;
  add_model_option(*command, o.model);
  CLI::Option* prompt = command->add_option("-p,--prompt", o.prompt, "Prompt; else --file, else standard input");
  CLI::Option* file = command->add_option("-f,--file", o.prompt_file, "File with the prompt, bytes as they are");
  CLI::Option* ids = add_ids(*command, "--prompt-ids", o.prompt_ids, "Prompt as token ids (repeatable)");
  prompt->excludes(file)->excludes(ids);
  file->excludes(ids);
  const CLI::Validator known(
      [](const std::string& name) {
        if (name == "auto" || find_prompt_template(name) != nullptr) return std::string();
        return "expected auto or one of " + known_prompt_templates() + "; found \"" + name + "\"";
      },
      "NAME");
  command
      ->add_option("--prompt-template", o.prompt_template,
                   "Frame around the prompt, see list-templates; auto: the one that the model's file points to")
      ->capture_default_str()
      ->check(known)
      ->excludes(ids);
  command->add_option("--system-prompt", o.system_prompt, "A system message before the prompt")->excludes(ids);
  command
      ->add_option("-n,--max-tokens,--max-new-tokens,--n-predict", o.max_tokens,
                   "Tokens to generate; -1: until the context is full")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 24));
  command->add_option("--temperature", o.sampling.temperature,
                      "0 is greedy; default, here and below: what the model recommends, else 0.7");
  command->add_option("--top-k", o.sampling.top_k, "0: all; else 50");
  command->add_option("--top-p", o.sampling.top_p, "else 0.9");
  command->add_option("--min-p", o.sampling.min_p, "else 0");
  command->add_option("--repetition-penalty", o.sampling.repetition_penalty, "1: none; else 1");
  command->add_option("--frequency-penalty", o.sampling.frequency_penalty, "else 0");
  command->add_option("--presence-penalty", o.sampling.presence_penalty, "else 0");
  add_seed(*command, o.seed);
  command->add_flag("--greedy", o.sampling.greedy, "Temperature 0: always the most likely token, after penalties");
  add_load_options(*command, o.load);
  add_kv_option(*command, o.kv_type);
  add_draft(*command, o.draft);
  command->add_option("-C,--ctx-size", o.context, "Positions; 0: the model's, at most 4096");
  command->add_option("--stop", o.stops, "Text that ends the generation (repeatable), UTF-8")->allow_extra_args(false);
  add_ids(*command, "--stop-id", o.stop_ids, "Token ids that end the generation (repeatable)");
  command->add_flag("--no-bos", o.no_bos, "No begin token before the prompt");
  command->add_flag("--ignore-eos", o.ignore_eos, "Go on after an end token");
  CLI::Option* json = command->add_flag("--json", o.json, "One JSON object instead of text");
  command
      ->add_flag("--jsonl", o.jsonl,
                 "One JSON line a token, one without a token for text held back, then the object of --json")
      ->excludes(json);
  command->add_flag("--metrics", o.metrics, "Times, memory and kernel calls on standard error");
  command->add_option("--dump-logits", o.dump_logits, "Writes float32 [positions][vocabulary]");
  command->add_option("--dump-nodes", o.dump_nodes, "Writes the graph's nodes of the prompt into this folder");
  command->add_option("--dump-layers", o.dump_layers, "Layers that --dump-nodes shows whole: N,N,... or all")
      ->capture_default_str();
  command->add_flag("-v,--verbose", o.verbose, "Also names every kernel, on standard error");
  command->add_flag("-q,--quiet", o.quiet, "Only the text, and warnings");
  command->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace bitnet::tools
