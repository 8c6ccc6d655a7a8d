// bitnet compat-check: whether a model would run here and run right, everything that would fail and not only the first.
//
// With --text every byte layout that goes by the name I2_S is tried: the bytes cannot tell, but a text can, since only
// the true layout gives a model that foretells it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/model/config.h"
#include "runtime/model/likelihood.h"
#include "runtime/model/model.h"
#include "runtime/model/tensors.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/inspect_model.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string path;
  std::string text;
  std::int64_t tokens = 256;
  formats::ReadOptions read;
  bool json = false;
};

enum class Severity : std::uint8_t { kNote, kWarning, kError };

struct Finding {
  Severity severity = Severity::kNote;
  ErrorCode code = ErrorCode::kFailure;  // of errors
  std::string message;
};

struct LayoutScore {
  formats::I2sLayout layout;
  const char* name;
  double perplexity = 0.0;
  std::string error;  // why this layout cannot be scored
};

class Check {
 public:
  explicit Check(const Options& options) : options_(options) {}

  // 0, or the exit code of the gravest finding.
  Result<int> run() {
    Result<gguf::File> file = gguf::File::open(options_.path);
    if (!file.ok()) {
      error(file.error(), ErrorCode::kTensorMapping);
      return show();
    }
    check_model(*file);
    check_tokenizer(*file);
    if (!options_.text.empty()) BITNET_RETURN_IF_ERROR(score_layouts(*file));
    return show();
  }

 private:
  void note(std::string text) { findings_.push_back({Severity::kNote, ErrorCode::kFailure, std::move(text)}); }
  void warn(std::string text) { findings_.push_back({Severity::kWarning, ErrorCode::kFailure, std::move(text)}); }
  void error(const Error& error, ErrorCode code) {
    for (const Finding& known : findings_) {
      if (known.severity == Severity::kError && known.message == error.message) return;
    }
    findings_.push_back({Severity::kError, code, error.message});
  }

  void check_model(const gguf::File& file) {
    const auto config = read_config(file);
    std::vector<std::string> notes;
    if (!config.ok()) {
      error(config.error(), ErrorCode::kTensorMapping);
    } else {
      vocab_ = config->vocab;
      const auto tensors = map_tensors(file, *config, options_.read);
      if (!tensors.ok()) {
        error(tensors.error(), ErrorCode::kTensorMapping);
      } else {
        if (!tensors->any_ternary()) note("a dense model: no ternary weights; it runs on dense kernels, slower");
        if (tensors->any_ternary() && tensors->any_dense()) note("some of its matrices are ternary, others dense");
        notes = tensors->notes;
      }
    }
    // Every ternary tensor, also where the model itself is refused.
    std::vector<std::string> more;
    for (const TernaryRow& row : ternary_census(file, options_.read, more)) {
      has_i2s_ |= row.type == "I2_S";
      if (!row.error.empty()) error({ErrorCode::kTensorMapping, row.error}, ErrorCode::kTensorMapping);
      if (!row.doubt.empty()) warn("tensor " + row.name + ": " + row.doubt);
    }
    notes.insert(notes.end(), more.begin(), more.end());
    std::sort(notes.begin(), notes.end());
    notes.erase(std::unique(notes.begin(), notes.end()), notes.end());
    for (const std::string& text : notes) note(text);
    if (has_i2s_ && options_.text.empty()) {
      note("I2_S has three byte layouts that only a text can tell apart: --text FILE scores them");
    }
    for (const NormRow& row : norm_statistics(file)) {
      if (!row.doubt.empty()) warn("tensor " + row.name + ": " + row.doubt);
    }
  }

  void check_tokenizer(const gguf::File& file) {
    const auto tokenizer = Tokenizer::from_gguf(file);
    if (!tokenizer.ok()) {
      error(tokenizer.error(), ErrorCode::kTokenizer);
      return;
    }
    for (const std::string& text : tokenizer->notes()) note(text);
    const Status pair = vocab_ > 0 ? check_pair(*tokenizer, vocab_, file.path()) : Status();
    if (!pair.ok()) {
      error(pair.error(), ErrorCode::kTokenizer);
    } else if (vocab_ > tokenizer->size()) {
      note("the embedding has " + std::to_string(vocab_ - tokenizer->size()) + " rows more than the tokenizer tokens");
    }
  }

  Status score_layouts(const gguf::File& file) {
    if (!has_i2s_) {
      note("no tensor of type I2_S: there are no layouts to tell apart");
      return {};
    }
    for (const Finding& finding : findings_) {
      if (finding.severity == Severity::kError) return {};  // it would not load
    }
    BITNET_ASSIGN_OR_RETURN(const std::string text, read_file(options_.text));
    BITNET_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::from_gguf(file));
    BITNET_ASSIGN_OR_RETURN(std::vector<std::int32_t> ids, tokenizer.encode(text, tokenizer.adds_bos(), false));
    if (ids.size() > static_cast<std::size_t>(options_.tokens)) ids.resize(static_cast<std::size_t>(options_.tokens));
    if (ids.size() < 16) {
      return Error{ErrorCode::kUsage, options_.text +
                                          ": expected a text of at least 16 tokens to tell layouts apart, " + "found " +
                                          std::to_string(ids.size())};
    }
    using enum formats::I2sLayout;
    scores_ = {{kX86, "x86", 0.0, {}}, {kArm, "arm", 0.0, {}}, {k4Row, "4row", 0.0, {}}};
    for (LayoutScore& score : scores_) {
      const auto perplexity = score_layout(score.layout, ids);
      if (perplexity.ok()) {
        score.perplexity = *perplexity;
      } else {
        score.error = perplexity.error().message;
      }
    }
    for (const LayoutScore& score : scores_) {
      if (!score.error.empty() || !std::isfinite(score.perplexity)) continue;
      if (best_ == nullptr || score.perplexity < best_->perplexity) best_ = &score;
    }
    // A text that no layout foretells better than chance says nothing.
    if (best_ != nullptr && best_->perplexity >= static_cast<double>(vocab_)) {
      best_ = nullptr;
      warn(options_.text + ": no layout foretells it better than chance, so that it does not tell which one it is: " +
           "give a text like those that the model was trained on");
      return {};
    }
    if (best_ == nullptr) {
      error({ErrorCode::kTensorMapping, file.path() + ": no I2_S layout gives finite logits on " + options_.text},
            ErrorCode::kTensorMapping);
    } else if (best_->layout != options_.read.i2s_layout) {
      error({ErrorCode::kTensorMapping, file.path() + ": its I2_S weights are in the layout " + best_->name +
                                            ": load it with --i2s-layout " + best_->name +
                                            ", or convert it once with that option"},
            ErrorCode::kTensorMapping);
    }
    return {};
  }

  Result<double> score_layout(formats::I2sLayout layout, std::span<const std::int32_t> ids) const {
    ModelOptions load;
    load.bundle = "none";
    load.read = options_.read;
    load.read.i2s_layout = layout;
    BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::load(options_.path, load));
    const auto size = static_cast<std::int64_t>(ids.size());
    BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Context> context, Context::create(*model, {.size = size}));
    LikelihoodOptions likelihood;
    likelihood.stride = size;
    BITNET_ASSIGN_OR_RETURN(const Likelihood result, sequence_likelihood(*model, *context, ids, likelihood));
    return result.perplexity();
  }

  [[nodiscard]] int exit_code() const {
    int code = 0;
    for (const Finding& finding : findings_) {
      if (finding.severity != Severity::kError) continue;
      // What the weights need comes before the tokenizer, without which ids can still be given.
      if (code == 0 || finding.code == ErrorCode::kTensorMapping) code = static_cast<int>(finding.code);
    }
    return code;
  }

  static const char* name_of(Severity severity) {
    return severity == Severity::kError ? "error" : severity == Severity::kWarning ? "warning" : "note";
  }

  [[nodiscard]] Result<int> show() const {
    const int code = exit_code();
    if (options_.json) {
      Json findings = Json::array();
      for (const Finding& finding : findings_) {
        findings.push_back({{"severity", name_of(finding.severity)}, {"message", finding.message}});
      }
      Json report = {{"path", options_.path}, {"compatible", code == 0}, {"exit_code", code}, {"findings", findings}};
      if (!scores_.empty()) {
        Json layouts = Json::array();
        for (const LayoutScore& score : scores_) {
          layouts.push_back(
              {{"layout", score.name},
               {"perplexity", std::isfinite(score.perplexity) && score.error.empty() ? Json(score.perplexity) : Json()},
               {"error", score.error.empty() ? Json() : Json(score.error)}});
        }
        report["i2s_layouts"] = std::move(layouts);
        report["i2s_layout"] = best_ == nullptr ? Json() : Json(best_->name);
      }
      BITNET_RETURN_IF_ERROR(write_output(report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
      return code;
    }
    std::string text;
    for (const Finding& finding : findings_)
      text += std::string(name_of(finding.severity)) + ": " + finding.message + "\n";
    for (const LayoutScore& score : scores_) {
      char number[32];
      std::snprintf(number, sizeof number, "%.2f", score.perplexity);
      text += std::string("I2_S layout ") + score.name + ": " +
              (score.error.empty() ? "perplexity " + std::string(number) : score.error) +
              (&score == best_ ? "  <- this one" : "") + "\n";
    }
    text += options_.path + (code == 0 ? ": can be run\n" : ": cannot be run like this\n");
    BITNET_RETURN_IF_ERROR(write_output(text));
    return code;
  }

  const Options& options_;
  std::vector<Finding> findings_;
  std::vector<LayoutScore> scores_;
  const LayoutScore* best_ = nullptr;  // into scores_
  std::int64_t vocab_ = 0;
  bool has_i2s_ = false;
};

}  // namespace

void add_compat_check_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("compat-check", "Say whether a model can be run, and everything that would fail");
  const auto options = std::make_shared<Options>();
  command->add_option("file", options->path, "GGUF file")->required();
  CLI::Option* text = command->add_option(
      "--text", options->text, "A text like those that the model was trained on: each I2_S layout is scored");
  command->add_option("--tokens", options->tokens, "Of the text, for each layout")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{16}, std::int64_t{1} << 20))
      ->needs(text);
  add_read_options(*command, options->read);
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, &exit_code] {
    const Result<int> code = Check(*options).run();
    exit_code = code.ok() ? *code : report(code.error());
  });
}

}  // namespace bitnet::tools
