// write_test_bundle OUT TARGET GROUP [FEATURES FAMILY]: a bundle for bundle_kernel_test on another machine or CPU,
// which no command of a user makes: every weight format that the target has, with K-groups of GROUP (0: none), odd
// shapes. With FEATURES and FAMILY a wrong one: the image TARGET is compiled with other features and from the
// dictionary of another target, as if its row in targets.def were wrong.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "codegen/bundle_writer.h"
#include "codegen/compile.h"
#include "codegen/embedded.h"
#include "codegen/plan.h"

namespace bitnet::codegen {
namespace {

// N within a tile, K within a line; the last K longer than any chain of int16 sums.
ModelShapes shapes_of(std::int32_t group) { return {{{200, 148, group}, {40, 1040, group}}, {148}}; }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// The headers of `isa`, each with the text of the other family's.
std::map<std::string, std::string> swapped_headers(const std::string& isa, const std::string& other) {
  std::map<std::string, std::string> overrides;
  for (const EmbeddedFile& file : embedded_files()) {
    const std::string path(file.path);
    const std::string ending = "_" + isa + ".h";
    if (!path.starts_with("generated/i2s_") || !path.ends_with(ending)) continue;
    const EmbeddedFile* from = find_embedded(path.substr(0, path.size() - ending.size()) + "_" + other + ".h");
    if (from != nullptr) overrides[path] = replaced(std::string(from->text), other, isa);
  }
  return overrides;
}

Status write(const std::vector<std::string>& arguments) {
  BITNET_ASSIGN_OR_RETURN(const TargetSelection selection, select_targets(std::span(&arguments[1], 1)));
  BITNET_ASSIGN_OR_RETURN(const Points points, default_points());
  PlanOptions plan_options;
  plan_options.every_format = true;
  plan_options.halide = true;
  BITNET_ASSIGN_OR_RETURN(Plan plan,
                          make_plan(shapes_of(std::atoi(arguments[2].c_str())), selection, points, plan_options));
  CompileOptions options;
  Target wrong;
  if (arguments.size() == 5) {
    for (ImagePlan& image : plan.images) {
      if (image.target->name != arguments[1]) continue;
      wrong = *image.target;
      wrong.features = arguments[3];
      image.target = &wrong;
      options.overrides = swapped_headers(identifier(wrong.isa), arguments[4]);
    }
    if (options.overrides.empty()) {
      return Error{ErrorCode::kUsage, "no headers of " + arguments[4] + " to compile for " + arguments[1]};
    }
  }
  BITNET_ASSIGN_OR_RETURN(const CompiledBundle bundle, compile(plan, options));
  BundleInput input;
  input.shape_hash = plan.shapes.hash();
  input.model_sha256 = std::string(64, '0');
  input.target = plan.target;
  input.tools = bundle.tools;
  input.points = plan.points;
  input.images = bundle.images;
  input.table = bundle.table;
  return write_bundle(input, arguments[0]);
}

}  // namespace
}  // namespace bitnet::codegen

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 3 && arguments.size() != 5) {
    std::fprintf(stderr, "usage: write_test_bundle OUT TARGET GROUP [FEATURES FAMILY]\n");
    return 2;
  }
  const bitnet::Status status = bitnet::codegen::write(arguments);
  if (!status.ok()) {
    std::fprintf(stderr, "write_test_bundle: %s\n", status.error().message.c_str());
    return 1;
  }
  return 0;
}
