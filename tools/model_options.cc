// Options that choose a model and its kernels, and words about them; see model_options.h.
#include "tools/model_options.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "tools/progress.h"

namespace bitnet::tools {

std::string default_model() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) return {};
  // Beside an installed program, and of the checkout that a program was built in (build/PRESET/bin).
  for (const char* place : {"../share/bitnet/default.gguf", "../../../models/default.gguf"}) {
    const fs::path path = (program.parent_path() / place).lexically_normal();
    if (fs::is_regular_file(path, error)) return path.string();
  }
  return {};
}

void add_model_option(CLI::App& command, std::string& path, const char* help) {
  path = default_model();
  CLI::Option* option = command.add_option("-m,--model", path, help);
  if (path.empty()) {
    option->required();
  } else {
    option->capture_default_str();
  }
}

void add_load_options(CLI::App& command, ModelOptions& options) {
  command.add_option("-t,--threads", options.threads, "0: as many as there are CPUs")
      ->envname("BITNET_THREADS")
      ->check(CLI::Range(0, 1024));
  add_kernel_options(command, options);
}

void add_kernel_options(CLI::App& command, ModelOptions& options) {
  options.progress = progress_to_stderr();
  add_read_options(command, options.read);
  command.add_option("--bundle", options.bundle, "Kernel bundle: FILE, none, or auto (beside the model)")
      ->capture_default_str();
  command.add_flag("--strict", options.strict, "Refuse whatever would make results less than honest")
      ->envname("BITNET_STRICT_MODE");
  static const std::map<std::string, HeadMode> kHeads{
      {"screened", HeadMode::kScreened}, {"exact", HeadMode::kExact}, {"int8", HeadMode::kInt8}};
  command
      .add_option("--head", options.head,
                  "How the last step finds the next token: screened (the results of exact, at half the bytes), exact, "
                  "or int8, which is approximate")
      ->transform(CLI::CheckedTransformer(kHeads))
      ->option_text("screened|exact|int8");
}

void add_kv_option(CLI::App& command, KvType& type) {
  static const std::map<std::string, KvType> kTypes{{"f16", KvType::kF16}, {"i8", KvType::kI8}, {"f32", KvType::kF32}};
  command
      .add_option(
          "--kv-type", type,
          "Keys and values in the cache: f16; i8, which takes half the memory and is approximate; or f32, which "
          "takes twice the memory and rounds nothing in attention")
      ->transform(CLI::CheckedTransformer(kTypes))
      ->option_text("f16|i8|f32");
}

void print_tokenizer_notes(const Tokenizer& tokenizer) {
  for (const std::string& note : tokenizer.notes()) std::fprintf(stderr, "bitnet: warning: %s\n", note.c_str());
}

LogFn log_to_stderr(bool details) {
  return [details](LogLevel level, std::string_view line) {
    if (level == LogLevel::kInfo && !details) return;
    std::fprintf(stderr, "bitnet: %.*s\n", static_cast<int>(line.size()), line.data());
  };
}

ProgressFn progress_to_stderr() {
  return [line = ProgressLine("load")](std::uint64_t done, std::uint64_t total) mutable { line(done, total); };
}

namespace {

const char* name_of(HeadMode mode) {
  return mode == HeadMode::kScreened ? "screened" : mode == HeadMode::kExact ? "exact" : "int8";
}

double mean_survivors(const HeadUse& use) {
  if (use.screened_positions == 0) return 0.0;
  return static_cast<double>(use.survivors) / static_cast<double>(use.screened_positions);
}

}  // namespace

nlohmann::ordered_json head_json(HeadMode mode, const HeadUse& use) {
  return {{"mode", name_of(mode)},
          {"exact", use.exact_positions},
          {"screened", use.screened_positions},
          {"int8", use.int8_positions},
          {"survivors", mean_survivors(use)}};
}

std::string describe_head(HeadMode mode, const HeadUse& use) {
  char rows[64];
  std::snprintf(rows, sizeof rows, "%.1f", mean_survivors(use));
  std::string text = std::string("head ") + name_of(mode) + ": " + std::to_string(use.exact_positions) +
                     " positions exact, " + std::to_string(use.screened_positions) + " screened";
  if (use.screened_positions != 0) text += std::string(" (") + rows + " rows scored again on average)";
  if (use.int8_positions != 0) text += ", " + std::to_string(use.int8_positions) + " approximate";
  return text;
}

void print_head_advice(HeadMode mode) {
  if (mode != HeadMode::kInt8) return;
  std::fprintf(stderr, "bitnet: --head int8 is approximate: logits come from int8 copies of the head's rows\n");
}

nlohmann::ordered_json bundle_json(const Model& model, std::span<const KernelUse> uses) {
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (const KernelUse& use : uses) kernels.push_back({{"name", use.name}, {"calls", use.calls}});
  nlohmann::ordered_json path = nullptr;
  if (!model.bundle_path().empty()) path = model.bundle_path();
  return {{"path", path}, {"target", model.target()}, {"kernels", kernels}};
}

std::string describe_kernels(const Model& model, std::span<const KernelUse> uses) {
  std::size_t bundled = 0;
  std::size_t built_in = 0;
  for (const KernelUse& use : uses) {
    const auto chosen = model.kernels().all();
    const bool from_bundle = std::any_of(chosen.begin(), chosen.end(), [&](const ChosenKernel& kernel) {
      return kernel.from_bundle && kernel.name == use.name;
    });
    ++(from_bundle ? bundled : built_in);
  }
  std::string kernels = std::to_string(built_in) + " built-in kernels";
  if (bundled != 0)
    return std::to_string(bundled) + " kernels of " + std::string(model.bundle_path()) + " and " + kernels;
  if (model.bundle_path().empty()) kernels += " and no bundle";
  return kernels;
}

void print_bundle_advice(const Model& model) {
  if (!model.bundle_path().empty()) return;
  if (!model.tensors().any_ternary()) {
    std::fprintf(stderr,
                 "bitnet: a dense model, without ternary weights: it runs on dense kernels, which are slower\n");
    return;
  }
  std::fprintf(stderr,
               "bitnet: running on built-in kernels; make faster ones for this model and CPU with "
               "bitnet-codegen --model %s --target native\n",
               model.path().c_str());
}

}  // namespace bitnet::tools
