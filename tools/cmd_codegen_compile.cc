// bitnet-codegen --model: read the shapes, plan, compile, test, write. The model's SHA-256 (a gigabyte or more) is
// taken beside the compilation.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "codegen/assembly_text.h"
#include "codegen/compile.h"
#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/static_library.h"
#include "codegen/targets.h"
#include "codegen/temp_dir.h"
#include "runtime/base/buffer.h"
#include "runtime/base/sha256.h"
#include "runtime/base/thread_pool.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/kernel_set.h"
#include "runtime/model/tensors.h"
#include "tools/codegen_commands.h"
#include "tools/codegen_pack.h"
#include "tools/output.h"
#include "tools/read_options.h"

namespace bitnet::tools {

Result<codegen::PlanOptions> read_format(const std::string& name) {
  codegen::PlanOptions options;
  if (name == "auto") return options;
  options.format = parse_format(name);
  if (options.format.has_value() && is_ternary(*options.format)) return options;
  std::string known = "auto";
  for (const Layout layout : kAllLayouts) known.append(", ").append(to_string(format_of(layout)));
  return Error{ErrorCode::kUsage, "unknown format '" + name + "' (known: " + known + ")"};
}

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct HashedModel {
  std::string sha256;
  double milliseconds = 0;
};

HashedModel hash_model(const gguf::File& file) {
  const Clock::time_point begin = Clock::now();
  std::string digest = to_hex(sha256_of_file(*file.mapping()));
  return {std::move(digest), milliseconds_since(begin)};
}

// x.gguf -> x.avx512.bnk, or x.bnk for several targets.
std::string default_output(const std::string& model, const codegen::TargetSelection& selection) {
  std::filesystem::path path(model);
  path.replace_extension(selection.single ? "." + selection.name + ".bnk" : ".bnk");
  return path.string();
}

// The layouts that the loader chooses on a CPU that executes every image of the bundle; with images of several
// architectures, of that of the first.
ProductLayouts layouts_to_pack(const ModelTensors& tensors, const codegen::CompiledBundle& bundle) {
  KernelTable table = bundle.table;
  std::vector<Isa> usable;
  table.images.clear();
  for (const BundleImage& image : bundle.images) {
    table.images.push_back({image.isa, {}, {}});
    if (codegen::target_of(image.isa).triple == codegen::target_of(bundle.images.front().isa).triple) {
      usable.push_back(image.isa);
    }
  }
  std::vector<Kernel> kernels;
  for (const KernelRecord* record : select_kernels(table, usable)) kernels.push_back(record->kernel);
  return product_layouts(tensors, kernels, usable);
}

// -o MODEL would replace gigabytes that cannot be made again.
Status check_output(const std::string& output, const std::string& model) {
  std::error_code ignored;  // of files that do not exist yet: they are not the model
  if (!std::filesystem::equivalent(output, model, ignored)) return {};
  return Error{ErrorCode::kUsage, output + " is the model itself; name another file with --output"};
}

Status write_into(const std::string& folder, const std::string& file, const std::string& text) {
  const std::filesystem::path path = std::filesystem::path(folder) / file;
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) return Error{ErrorCode::kFailure, "cannot make " + path.parent_path().string() + ": " + error.message()};
  return codegen::write_file(path.string(), text);
}

Status emit_sources(const codegen::CompiledBundle& bundle, const std::string& folder) {
  for (const codegen::SourceFile& source : bundle.sources) {
    BITNET_RETURN_IF_ERROR(write_into(folder, source.path, source.text));
  }
  return {};
}

Status emit_assembly(const codegen::CompiledBundle& bundle, const std::string& folder) {
  for (const BundleImage& image : bundle.images) {
    BITNET_ASSIGN_OR_RETURN(const std::string text, codegen::assembly_text(image.bytes, image.isa, bundle.table));
    BITNET_RETURN_IF_ERROR(write_into(folder, "bitnet_kernels_" + identifier(image.isa) + ".s", text));
  }
  return {};
}

// libNAME.a and NAME.h, for --emit static.
struct LibraryPaths {
  std::string name;
  std::string archive;
  std::string header;
};
Result<LibraryPaths> library_paths(const CompileCommand& command, const codegen::TargetSelection& selection) {
  std::filesystem::path archive(command.output);
  if (command.output.empty()) {
    std::string file = "lib" + std::filesystem::path(command.model).stem().string() + "_" + selection.name + ".a";
    std::replace(file.begin(), file.end(), '+', '_');
    archive = std::filesystem::path(command.model).replace_filename(file);
  }
  const std::string stem = archive.stem().string();
  if (archive.extension() != ".a" || !stem.starts_with("lib") || stem.size() == 3) {
    return Error{ErrorCode::kUsage,
                 "--emit static writes libNAME.a and NAME.h: expected --output libNAME.a, found " + archive.string()};
  }
  const std::string name = stem.substr(3);
  return LibraryPaths{name, archive.string(), archive.replace_filename(name + ".h").string()};
}

Status emit_static(const codegen::CompiledBundle& bundle, const LibraryPaths& paths) {
  BITNET_ASSIGN_OR_RETURN(const codegen::StaticLibrary library, codegen::make_static_library(bundle, paths.name));
  BITNET_RETURN_IF_ERROR(codegen::write_file(paths.archive, library.archive));
  return codegen::write_file(paths.header, library.header);
}

struct Report {
  std::string output;
  std::string target;
  std::string sha256;
  codegen::CompiledBundle bundle;
  std::size_t packed_bytes = 0;
  std::size_t head_bytes = 0;
  std::vector<std::string> warnings;
  std::string points;  // the file of --tune, or ""
  double total_ms = 0;
};

std::string json_text(const Report& report) {
  nlohmann::ordered_json json;
  json["bundle"] = report.output;
  json["target"] = report.target;
  json["model_sha256"] = report.sha256;
  json["tools"] = report.bundle.tools;
  json["images"] = nlohmann::ordered_json::array();
  for (const BundleImage& image : report.bundle.images) {
    json["images"].push_back({{"isa", to_string(image.isa)}, {"bytes", image.bytes.size()}});
  }
  json["kernels"] = nlohmann::ordered_json::array();
  for (const KernelRecord& record : report.bundle.table.kernels) json["kernels"].push_back(record.name);
  json["self_tested"] = report.bundle.self_tested;
  json["packed_bytes"] = report.packed_bytes;
  json["head_bytes"] = report.head_bytes;
  if (!report.points.empty()) json["points"] = report.points;
  json["warnings"] = report.warnings;
  for (const codegen::PhaseTime& time : report.bundle.times) json["timing_ms"][time.phase] = time.milliseconds;
  json["timing_ms"]["total"] = report.total_ms;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void print_text(const Report& report, int verbosity) {
  std::fprintf(stderr, "bitnet-codegen: %s: %zu kernels in %zu images (%s), %.0f ms\n", report.output.c_str(),
               report.bundle.table.kernels.size(), report.bundle.images.size(), report.target.c_str(), report.total_ms);
  for (const BundleImage& image : report.bundle.images) {
    const std::string name(to_string(image.isa));
    const auto& tested = report.bundle.self_tested;
    if (std::find(tested.begin(), tested.end(), name) == tested.end()) {
      std::fprintf(stderr, "bitnet-codegen: image %s was not self-tested: this CPU does not execute it\n",
                   name.c_str());
    }
  }
  if (verbosity < 1) return;
  for (const codegen::PhaseTime& time : report.bundle.times) {
    std::fprintf(stderr, "  %-20s %8.1f ms\n", time.phase.c_str(), time.milliseconds);
  }
  for (const KernelRecord& record : report.bundle.table.kernels) std::fprintf(stderr, "  %s\n", record.name.c_str());
}

Status tune_first(const CompileCommand& command, const ModelTensors& tensors, const codegen::TargetSelection& selection,
                  const codegen::Points& base, const std::string& output) {
  TuneRequest request;
  request.shapes = shapes_to_tune(tensors);
  request.output = output;
  request.full = command.tune == "full";
  request.quiet = command.quiet;
  request.jobs = command.jobs;
  return tune_to_file(request, selection, base);
}

Result<Report> compile_model(const CompileCommand& command) {
  const Clock::time_point begin = Clock::now();
  Report report;
  BITNET_ASSIGN_OR_RETURN(const codegen::TargetSelection selection, codegen::select_targets(command.targets));
  BITNET_ASSIGN_OR_RETURN(codegen::PlanOptions plan_options, read_format(command.format));
  plan_options.float32_cache = command.float32_cache;
  BITNET_ASSIGN_OR_RETURN(codegen::Points points, codegen::find_points(command.points));
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(command.model));
  BITNET_ASSIGN_OR_RETURN(const ModelConfig config, read_config(file));
  BITNET_ASSIGN_OR_RETURN(const ModelTensors tensors, map_tensors(file, config, command.read));
  if (!tensors.any_ternary()) {
    return Error{ErrorCode::kTensorMapping, file.path() +
                                                ": a dense model: it has no ternary tensor, so there is nothing to "
                                                "compile (it runs on the built-in kernels); its tensors: " +
                                                type_census(file)};
  }

  const bool library = command.emit == "static";
  if (library && command.pack) {
    return Error{ErrorCode::kUsage, "--pack puts weights into a bundle; --emit static writes none"};
  }
  LibraryPaths paths;
  report.output = command.output.empty() ? default_output(command.model, selection) : command.output;
  if (library) {
    BITNET_ASSIGN_OR_RETURN(paths, library_paths(command, selection));
    report.output = paths.archive;
  }
  BITNET_RETURN_IF_ERROR(check_output(report.output, command.model));

  if (!command.tune.empty()) {
    report.points = command.points_out.empty()
                        ? std::filesystem::path(report.output).replace_extension(".points.toml").string()
                        : command.points_out;
    BITNET_RETURN_IF_ERROR(check_output(report.points, command.model));
    BITNET_RETURN_IF_ERROR(tune_first(command, tensors, selection, points, report.points));
    BITNET_ASSIGN_OR_RETURN(points, codegen::read_points(report.points));
  }
  BITNET_ASSIGN_OR_RETURN(const codegen::Plan plan,
                          codegen::make_plan(kernel_shapes(tensors), selection, points, plan_options));
  auto hashed = std::async(std::launch::async, [&] { return hash_model(file); });
  codegen::CompileOptions options;
  options.jobs = command.jobs;
  BITNET_ASSIGN_OR_RETURN(report.bundle, codegen::compile(plan, options));
  const HashedModel model = hashed.get();
  report.bundle.times.push_back({"model sha256", model.milliseconds});
  if (!command.emit_sources.empty()) BITNET_RETURN_IF_ERROR(emit_sources(report.bundle, command.emit_sources));

  if (!command.emit_asm.empty()) BITNET_RETURN_IF_ERROR(emit_assembly(report.bundle, command.emit_asm));
  report.target = plan.target;
  report.sha256 = model.sha256;
  if (library) {
    BITNET_RETURN_IF_ERROR(emit_static(report.bundle, paths));
    report.total_ms = milliseconds_since(begin);
    return report;
  }

  BundleInput input;
  std::unique_ptr<PackedWeights> weights;
  input.shape_hash = plan.shapes.hash();
  input.model_sha256 = model.sha256;
  input.target = plan.target;
  input.tools = report.bundle.tools;
  input.points = plan.points;
  input.images = report.bundle.images;
  input.table = report.bundle.table;
  if (command.pack) {
    const int jobs =
        command.jobs > 0 ? command.jobs : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    input.packed_layouts = layouts_to_pack(tensors, report.bundle);
    BITNET_ASSIGN_OR_RETURN(weights, PackedWeights::create(file, tensors, input.packed_layouts, jobs));
    weights->put_into(input);
  }
  const Clock::time_point write_begin = Clock::now();
  BITNET_RETURN_IF_ERROR(write_bundle(input, report.output));
  report.bundle.times.push_back({"write bundle", milliseconds_since(write_begin)});
  if (weights != nullptr) report.warnings = weights->warnings();
  report.packed_bytes = input.packed_bytes;
  report.head_bytes = input.head_bytes;
  report.total_ms = milliseconds_since(begin);
  return report;
}

}  // namespace

void CompileCommand::add_options(CLI::App& app) {
  app.add_option("-m,--model", model, "the model (.gguf)");
  add_read_options(app, read);
  app.add_option("-t,--target", targets, "a name of list-targets, or native (repeatable: one bundle with all images)");
  app.add_option("-o,--output", output,
                 "the bundle; default: MODEL.TARGET.bnk beside the model, MODEL.bnk for several");
  app.add_option("--format", format, "weight layouts: auto (what the points say for each shape), i2s, t5, tl1 or tl2")
      ->capture_default_str();
  app.add_option("--points", points,
                 "tuned points instead of the defaults: a shipped name (schedules/points) or a TOML file");
  app.add_flag("--tune{quick}", tune, "measure on this machine first: --tune, --tune=quick or --tune=full")
      ->check(CLI::IsMember({"quick", "full"}));
  app.add_option("--points-out", points_out, "where --tune keeps its points; default: beside the bundle, .points.toml");
  app.add_flag("--pack", pack, "put the packed weights into the bundle");
  app.add_flag(
      "--kv-f32", float32_cache,
      "also compile attention to float32 keys and values (run --kv-type f32); without, the runtime's own serves");
  app.add_option("--emit-sources", emit_sources, "also write the generated sources and their headers into this folder");
  app.add_option("--emit-asm", emit_asm,
                 "also write each image as assembly, disassembled from its bytes, into this folder");
  app.add_option(
         "--emit", emit,
         "bundle, or static: a static library (libNAME.a, by --output) and NAME.h for programs without a loader")
      ->check(CLI::IsMember({"bundle", "static"}))
      ->capture_default_str();
  app.add_option("-j,--jobs", jobs, "compilations at once; default: one per CPU")->check(CLI::Range(1, 1024));
  app.add_flag("--json", json, "report as one JSON object on standard output");
  app.add_flag("-v,--verbose", verbosity, "print phases and kernels");
  app.add_flag("-q,--quiet", quiet, "print warnings and errors only");
}

int CompileCommand::run() const {
  if (model.empty()) {
    return report_error("bitnet-codegen", {ErrorCode::kUsage, "no model given: name one with --model, or see --help"});
  }
  const Result<Report> report = compile_model(*this);
  if (!report.ok()) return report_error("bitnet-codegen", report.error());
  for (const std::string& warning : report->warnings) {
    std::fprintf(stderr, "bitnet-codegen: %s\n", warning.c_str());
  }
  if (json) return show_result("bitnet-codegen", json_text(*report));
  if (!quiet) print_text(*report, verbosity);
  return 0;
}

}  // namespace bitnet::tools
