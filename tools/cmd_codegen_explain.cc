// bitnet-codegen explain: finds the kernel in a bundle, or compiles the bundle in memory first.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "codegen/compile.h"
#include "codegen/explain.h"
#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/bundle/bundle_checks.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/tensors.h"
#include "tools/codegen_commands.h"
#include "tools/output.h"
#include "tools/read_options.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

Json mix_json(const codegen::InstructionMix& mix) {
  Json json = Json::object();
  for (const auto& [name, count] : mix) json[name] = count;
  return json;
}

Json code_json(const codegen::Explanation& explanation) {
  const codegen::CodeSummary& code = explanation.code;
  Json json{{"instructions", code.instructions},
            {"bytes", code.bytes},
            {"functions", code.functions},
            {"loops", code.loops},
            {"vector_registers", code.vector_registers},
            {"general_registers", code.general_registers},
            {"complete", !code.indirect},
            {"mix", mix_json(code.mix)}};
  if (code.hot.instructions == 0) return json;
  const codegen::LoopSummary& hot = code.hot;
  json["hot_loop"] = {{"offset", hot.address}, {"instructions", hot.instructions}, {"loads", hot.loads},
                      {"spills", hot.spills},  {"weight_bytes", hot.weight_bytes}, {"mix", mix_json(hot.mix)}};
  if (const auto each = explanation.instructions_per_byte()) {
    json["hot_loop"]["instructions_per_weight_byte"] = *each;
    json["hot_loop"]["instructions_per_64_weights"] = *explanation.instructions_per_64_weights();
  }
  return json;
}

std::string json_text(const codegen::Explanation& explanation) {
  const Kernel& kernel = explanation.record.kernel;
  Json json{{"name", explanation.record.name},
            {"formula", explanation.formula},
            {"op", to_string(kernel.op)},
            {"format", to_string(kernel.format)},
            {"n", kernel.n},
            {"k", kernel.k},
            {"group", kernel.group},
            {"m", kernel.m},
            {"token_tile", kernel.token_tile},
            {"scratch_bytes", kernel.scratch_bytes},
            {"target", explanation.target},
            {"features", explanation.record.features}};
  if (!explanation.layout.empty()) {
    json["layout"] = {{"name", explanation.record.layout},
                      {"text", explanation.layout},
                      {"bits_per_weight", explanation.bits_per_weight},
                      {"bits_with_padding", explanation.bits_with_padding}};
  }
  json["point"] = nullptr;
  if (const auto& point = explanation.point) {
    json["point"] = {{"streams", point->streams},
                     {"prefetch", point->prefetch},
                     {"token_tile", point->token_tile},
                     {"row_tiles", point->row_tiles},
                     {"n", point->n},
                     {"k", point->k},
                     {"note", point->note}};
  }
  json["points"] = explanation.points;
  json["source"] = explanation.files;
  json["code"] = code_json(explanation);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<codegen::Explanation> from_bundle(const ExplainCommand& command, const codegen::Points& points) {
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, bundle_checks::open_container(command.bundle));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_metadata(file));
  BITNET_ASSIGN_OR_RETURN(const bundle_checks::Manifest manifest, bundle_checks::read_manifest(file));
  BITNET_ASSIGN_OR_RETURN(const KernelRecord* record, codegen::find_record(manifest.table, command.name));
  for (const ImageRecord& image : manifest.table.images) {
    if (image.isa != record->kernel.isa) continue;
    BITNET_RETURN_IF_ERROR(bundle_checks::check_image(file, image));
    return codegen::explain(*record, file.find_tensor(image.tensor)->data, points, manifest.points);
  }
  return bundle_checks::refuse(command.bundle, "metadata", "no image for kernel " + record->name);
}

Result<codegen::Explanation> from_model(const ExplainCommand& command, const codegen::Points& points) {
  const std::string words[] = {command.target.empty() ? std::string("native") : command.target};
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection selection, codegen::select_targets(words));
  BITNET_ASSIGN_OR_RETURN(const codegen::PlanOptions options, read_format(command.format));
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(command.model));
  BITNET_ASSIGN_OR_RETURN(const ModelConfig config, read_config(file));
  BITNET_ASSIGN_OR_RETURN(const ModelTensors tensors, map_tensors(file, config, command.read));
  BITNET_ASSIGN_OR_RETURN(const codegen::Plan plan,
                          codegen::make_plan(kernel_shapes(tensors), selection, points, options));
  BITNET_ASSIGN_OR_RETURN(const codegen::CompiledBundle bundle, codegen::compile(plan));
  BITNET_ASSIGN_OR_RETURN(const KernelRecord* record, codegen::find_record(bundle.table, command.name));
  for (const BundleImage& image : bundle.images) {
    if (image.isa == record->kernel.isa) return codegen::explain(*record, image.bytes, points, plan.points);
  }
  return Error{ErrorCode::kFailure, "no image for kernel " + record->name};
}

}  // namespace

void ExplainCommand::add_options(CLI::App& command) {
  command.add_option("name", name, "the kernel's name, as `inspect` lists it")->required();
  command.add_option("bundle", bundle, "the bundle (.bnk), of any target");
  command.add_option("-m,--model", model, "instead of a bundle: the model (.gguf), compiled in memory");
  add_read_options(command, read);
  command.add_option("-t,--target", target, "with --model: the target; default: native");
  command.add_option("--format", format, "with --model: weight layouts, as for compiling")->capture_default_str();
  command.add_option("--points", points, "the tuned points that the bundle was made with, if not the defaults");
  command.add_flag("--json", json, "one JSON object");
}

int ExplainCommand::run() const {
  const auto result = [&]() -> Result<codegen::Explanation> {
    if (bundle.empty() == model.empty()) {
      return Error{ErrorCode::kUsage, "explain: name either a bundle or a model with --model"};
    }
    BITNET_ASSIGN_OR_RETURN(const codegen::Points known, codegen::find_points(points));
    return bundle.empty() ? from_model(*this, known) : from_bundle(*this, known);
  }();
  if (!result.ok()) return report_error("bitnet-codegen", result.error());
  return show_result("bitnet-codegen", json ? json_text(*result) : codegen::to_text(*result));
}

}  // namespace bitnet::tools
