// Loading: container, configuration, tensors, targets, bundle, kernels, and then the weights (load_weights.cc).
#include "runtime/model/model.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "runtime/model/load_weights.h"
#include "runtime/model/logger.h"
#include "runtime/model/model_state.h"

namespace bitnet {
namespace {

int available_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string join(std::span<const std::string> items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

// executable_isas() already obeys BITNET_FORCE_ISA; here a bad value becomes an error.
Result<std::vector<Isa>> usable_targets() {
  const char* forced = std::getenv("BITNET_FORCE_ISA");
  if (forced != nullptr && *forced != '\0') {
    std::vector<std::string> names;
    for (const Isa isa : all_isas()) {
      if (probe_isa(isa)) names.emplace_back(to_string(isa));
    }
    const std::optional<Isa> isa = parse_isa(forced);
    if (!isa.has_value() || !probe_isa(*isa)) {
      return Error{ErrorCode::kUsage,
                   std::string("BITNET_FORCE_ISA: \"") + forced + "\" is " +
                       (isa.has_value() ? "a target that this CPU does not execute" : "not a known target") +
                       "; this CPU executes " + join(names)};
    }
  }
  std::vector<Isa> usable = executable_isas();
  if (usable.empty()) return Error{ErrorCode::kFailure, "this CPU executes none of the kernel targets"};
  return usable;
}

// Where "auto" looks, best target first: x.avx512.bnk, ..., x.bnk, for the model's name with and without ".gguf".
std::vector<std::string> bundle_candidates(const std::string& model_path) {
  std::vector<std::string> stems;
  if (model_path.ends_with(".gguf")) stems.push_back(model_path.substr(0, model_path.size() - 5));
  stems.push_back(model_path);
  std::vector<std::string> candidates;
  const std::span<const Isa> isas = all_isas();
  for (std::size_t i = isas.size(); i-- > 0;) {
    for (const std::string& stem : stems) candidates.push_back(stem + "." + std::string(to_string(isas[i])) + ".bnk");
  }
  for (const std::string& stem : stems) candidates.push_back(stem + ".bnk");
  return candidates;
}

Error strict_refusal(const Error& refusal) {
  return Error{ErrorCode::kStrict, "strict mode: beside the model: " + refusal.message};
}

Status load_bundle(Model::State& state, const ModelOptions& options, std::span<const Isa> usable,
                   const std::string& shape_hash, const Logger& log) {
  // A dense model has no products that a bundle could serve.
  if (!state.tensors.any_ternary() && (options.bundle == "auto" || options.bundle == "none")) return {};
  const bool read_ahead = state.pool->size() > 1;  // else there is no CPU for it
  if (options.bundle == "none") {
    if (options.strict) return Error{ErrorCode::kStrict, "strict mode: a kernel bundle is needed, but none was wanted"};
    return {};
  }
  if (options.bundle != "auto") {
    Result<Bundle> bundle = Bundle::open(options.bundle, shape_hash, usable, read_ahead);
    if (!bundle.ok()) return Error{ErrorCode::kVerification, bundle.error().message};
    state.bundle.emplace(std::move(bundle).value());
    return {};
  }
  for (const std::string& candidate : bundle_candidates(state.file.path())) {
    std::error_code ignored;
    if (!std::filesystem::exists(candidate, ignored)) continue;
    Result<Bundle> bundle = Bundle::open(candidate, shape_hash, usable, read_ahead);
    if (bundle.ok()) {
      state.bundle.emplace(std::move(bundle).value());
      return {};
    }
    if (options.strict) {
      return strict_refusal(bundle.error());
    }
    log.warning(bundle.error().message + "; built-in kernels run instead");
  }
  if (options.strict) {
    return Error{ErrorCode::kStrict, "strict mode: no kernel bundle beside " + state.file.path() +
                                         "; make one with bitnet-codegen --model " + state.file.path() +
                                         " --target native"};
  }
  return {};
}

// The kernels of the bundle (where there is one) and the built-in ones that serve this model.
Status choose_kernels(Model::State& state, std::span<const Isa> usable) {
  const std::span<const Kernel> bundled =
      state.bundle.has_value() ? state.bundle->kernels() : std::span<const Kernel>{};
  BITNET_ASSIGN_OR_RETURN(state.kernels, KernelSet::choose(state.config, state.tensors, bundled, usable));
  return {};
}

// What the model is made of, where that is not obvious.
void log_weights(const Model::State& state, const Logger& log) {
  for (const std::string& note : state.tensors.notes) log.warning(state.file.path() + ": " + note);
  for (const std::string& note : state.tensors.usual_notes) log.info(state.file.path() + ": " + note);
  if (!state.tensors.any_ternary()) {
    log.info("dense model: no ternary weights; it runs on dense kernels, which are slower (" + type_census(state.file) +
             ")");
    return;
  }
  std::size_t dense = 0;
  std::string_view example;
  for (const LayerTensors& layer : state.tensors.layers) {
    for (const FusedMatrix& product : layer.products) {
      if (!product.exists() || product.ternary()) continue;
      if (dense == 0) example = product.parts.front().tensor->name;
      dense += product.parts.size();
    }
  }
  if (dense == 0) return;
  log.info(std::to_string(dense) + " matrices are not ternary and run on dense kernels (" + std::string(example) +
           (dense > 1 ? ", ...)" : ")"));
}

formats::ReadOptions read_options(const ModelOptions& options) {
  formats::ReadOptions read = options.read;
  read.strict = read.strict || options.strict;
  return read;
}

void log_kernels(const Model::State& state, const Logger& log) {
  std::vector<std::string> names;
  for (const ChosenKernel& chosen : state.kernels.all()) {
    if (!chosen.exists()) continue;
    if (std::find(names.begin(), names.end(), chosen.name) == names.end()) names.push_back(chosen.name);
  }
  if (state.bundle.has_value()) {
    std::string images;
    for (const Isa isa : state.bundle->loaded()) images += (images.empty() ? "" : ", ") + std::string(to_string(isa));
    log.info("kernels of " + state.bundle->path() + " (" + images + "), others built in: " + join(names));
  } else if (!state.tensors.any_ternary()) {
    log.info("a dense model, running on built-in kernels: " + join(names));
  } else {
    log.info("no kernel bundle, running on built-in kernels (make one with bitnet-codegen --model " +
             state.file.path() + " --target native): " + join(names));
  }
}

}  // namespace

Model::Model() = default;
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::load(const std::string& path, const ModelOptions& options) {
  const Logger log{options.log};
  LoadProgress progress(options.progress);
  BITNET_ASSIGN_OR_RETURN(const std::vector<Isa> usable, usable_targets());
  std::unique_ptr<Model> model(new Model);
  model->state_ = std::make_unique<State>();
  State& state = *model->state_;
  BITNET_ASSIGN_OR_RETURN(state.file, gguf::File::open(path));
  BITNET_ASSIGN_OR_RETURN(state.config, read_config(state.file));
  BITNET_ASSIGN_OR_RETURN(state.tensors, map_tensors(state.file, state.config, read_options(options)));
  const int threads = options.threads == 0 ? available_cpus() : options.threads;
  BITNET_ASSIGN_OR_RETURN(state.pool, ThreadPool::create(threads));
  BITNET_RETURN_IF_ERROR(load_bundle(state, options, usable, kernel_shapes(state.tensors).hash(), log));

  log_weights(state, log);
  BITNET_RETURN_IF_ERROR(choose_kernels(state, usable));
  Status packed = load_weights(state, options, progress);
  if (!packed.ok() && packed.error().code == ErrorCode::kVerification && options.bundle == "auto") {
    if (options.strict) return strict_refusal(packed.error());
    log.warning(packed.error().message + "; built-in kernels run instead");
    state.weights = WeightStore();
    state.bundle.reset();
    BITNET_RETURN_IF_ERROR(choose_kernels(state, usable));
    packed = load_weights(state, options, progress);
  }
  BITNET_RETURN_IF_ERROR(packed);
  if (options.strict && !state.kernels.products_without_bundle().empty()) {
    return Error{ErrorCode::kStrict, "strict mode: " + state.bundle->path() + " has no kernel for some products; " +
                                         "built-in ones would run: " + join(state.kernels.products_without_bundle())};
  }
  for (const gguf::Tensor* tensor : state.tensors.used) state.parameters += tensor->ne[0] * tensor->ne[1];
  log_kernels(state, log);
  return model;
}

const std::string& Model::path() const { return state_->file.path(); }
const gguf::File& Model::file() const { return state_->file; }
const ModelConfig& Model::config() const { return state_->config; }
const ModelTensors& Model::tensors() const { return state_->tensors; }
const KernelSet& Model::kernels() const { return state_->kernels; }
std::int64_t Model::dense_bytes(const gguf::Tensor& tensor) {
  const auto k = static_cast<std::int64_t>(tensor.ne[0]);
  return static_cast<std::int64_t>(tensor.ne[1] * row_bytes(dense_format(tensor.type), k));
}
int Model::threads() const { return state_->pool->size(); }
std::string_view Model::target() const { return to_string(state_->kernels.isa()); }
std::string_view Model::bundle_path() const {
  return state_->bundle.has_value() ? std::string_view(state_->bundle->path()) : std::string_view();
}
std::uint64_t Model::parameters() const { return state_->parameters; }
std::uint64_t Model::weight_bytes() const {
  std::uint64_t bytes =
      state_->weights.bytes() + state_->floats.size() + state_->head_memory.size() + state_->dense_in_file;
  for (const Buffer& rows : state_->dense) bytes += rows.size();
  return bytes;
}

}  // namespace bitnet
