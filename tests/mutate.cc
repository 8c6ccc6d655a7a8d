// bitnet-mutate: does the tester notice? Draws mechanical changes from the text of every rendered kernel family,
// compiles each in process as bitnet-codegen would, and runs the kernels through the checks that guard a bundle:
// compiler, audit, kernel tester (natively; for AArch64 the cross-built tester under an emulator). Each mutant runs in
// a process of its own with a time limit, since a broken loop may never end. A mutant that passes everything has
// survived: the program fails unless its line is one for which mutation_sites.cc proves that nothing changes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "codegen/bundle_writer.h"
#include "codegen/child_process.h"
#include "codegen/compile.h"
#include "codegen/embedded.h"
#include "codegen/families.h"
#include "codegen/plan.h"
#include "codegen/temp_dir.h"
#include "runtime/base/sha256.h"
#include "tests/evex_form.h"
#include "tests/kernel_tester.h"
#include "tests/mutation_sites.h"

namespace bitnet::test {
namespace {

using codegen::CompiledBundle;
using codegen::EmbeddedFile;
using codegen::Target;

struct Options {
  unsigned seed = 1;
  int count = 30;
  int limit_s = 120;
  std::string arm_tester;   // bundle_kernel_test for AArch64, or ""
  std::string arm_sysroot;  // for qemu-aarch64 -L
  std::string family;       // only headers with this text in their path
};

enum class Outcome { kSurvived, kNotCompiled, kWrong, kCrashed, kTimeout, kBroken };
constexpr const char* kOutcomes[] = {"SURVIVED",           "caught: compiler or audit", "caught: tester",
                                     "caught: it crashed", "caught: it does not end",   "ERROR in the harness"};

struct Mutant {
  const EmbeddedFile* file = nullptr;
  const Target* target = nullptr;
  MutationSite site;
};

// The target of a rendered header, by the end of its name; nullptr if it is none.
const Target* target_of_header(std::string_view path) {
  const Target* best = nullptr;
  for (const Target& target : codegen::targets()) {
    const std::string ending = "_" + identifier(target.isa) + ".h";
    if (!path.ends_with(ending)) continue;
    if (best == nullptr || ending.size() > identifier(best->isa).size() + 3) best = &target;
  }
  return path.starts_with("generated/") ? best : nullptr;
}

bool is_arm(const Target& target) { return target.triple.starts_with("aarch64"); }

// Headers whose kernels can be run here, natively or emulated; the others are named.
std::vector<std::pair<const EmbeddedFile*, const Target*>> runnable_headers(const Options& options) {
  std::vector<std::pair<const EmbeddedFile*, const Target*>> headers;
  for (const EmbeddedFile& file : codegen::embedded_files()) {
    const Target* target = target_of_header(file.path);
    if (target == nullptr || file.path.find(options.family) == std::string_view::npos) continue;
    if (target->isa == Isa::kAvx2Vnni && !probe_isa(target->isa) && probe_isa(Isa::kAvx512)) {
      headers.emplace_back(&file, &evex_form());
      continue;
    }
    const bool emulated = is_arm(*target) && !options.arm_tester.empty();
    if (probe_isa(target->isa) || emulated) {
      headers.emplace_back(&file, target);
    } else {
      std::printf("%s: not drawn from, nothing here executes %s\n", std::string(file.path).c_str(),
                  std::string(target->name).c_str());
    }
  }
  return headers;
}

// Shapes that meet every path of a family: tails in N and K and none, whole K-groups, several tiles for every count of
// streams, many lines.
ModelShapes shapes_of(std::int32_t group) {
  ModelShapes shapes = {{{5, 1}, {17, 70}, {16, 97}, {48, 256}, {160, 400}, {33, 8640}, {96, 1040}, {17, 66000}}, {}};
  for (KernelShape& shape : shapes.ternary) shape.group = group;
  return shapes;
}

// With `other_points` streams and row tiles that the defaults do not take, so that what remains of a row range behind
// the last whole group of them is code that runs.
Result<codegen::Plan> plan_of(const Mutant& mutant, std::int32_t group, bool other_points) {
  BITNET_ASSIGN_OR_RETURN(codegen::Points points, codegen::default_points());
  for (codegen::Point& point : points.points) {
    if (!other_points) break;
    if (point.streams != 0) point.streams = point.streams == 3 ? 2 : 3;
    if (point.row_tiles != 0) point.row_tiles = point.row_tiles == 2 ? 3 : 2;
  }
  codegen::TargetSelection selection;
  selection.images = {mutant.target};
  selection.asked = selection.images;
  selection.name = mutant.target->name;
  codegen::PlanOptions options;
  options.every_format = true;
  BITNET_ASSIGN_OR_RETURN(codegen::Plan plan, codegen::make_plan(shapes_of(group), selection, points, options));
  // Only what comes from the mutated header.
  for (codegen::ImagePlan& image : plan.images) {
    std::erase_if(image.kernels, [&](const codegen::KernelSpec& spec) {
      if (!spec.pipeline.empty()) return true;
      if (!is_ternary(spec.kernel.op)) return !mutant.file->path.starts_with("generated/dense_");
      return codegen::family_header(spec.kernel.isa, spec.kernel.format, codegen::family_operation(spec.kernel)) !=
             mutant.file->path;
    });
  }
  std::erase_if(plan.images, [](const codegen::ImagePlan& image) { return image.kernels.empty(); });
  return plan;
}

bool native_kernels_pass(const CompiledBundle& bundle) {
  KernelTester tester(quick_plan());
  for (const BundleImage& image : bundle.images) {
    const auto code = CodeImage::load(image.bytes, sha256(image.bytes), "mutant");
    if (!code.ok()) return false;
    for (const KernelRecord& record : bundle.table.kernels) {
      Kernel kernel = record.kernel;
      kernel.function = code->at(record.offset);
      if (!tester.test(kernel).empty()) return false;
    }
  }
  return true;
}

// The bundle's kernels through the cross-built tester.
Result<bool> emulated_kernels_pass(const CompiledBundle& bundle, const Mutant& mutant, const Options& options) {
  BITNET_ASSIGN_OR_RETURN(const codegen::TempDir folder, codegen::TempDir::create());
  BundleInput input;
  input.shape_hash = shapes_of(0).hash();
  input.model_sha256 = std::string(64, '0');
  input.target = mutant.target->name;
  input.tools = bundle.tools;
  input.points = "defaults";
  input.images = bundle.images;
  input.table = bundle.table;
  BITNET_RETURN_IF_ERROR(write_bundle(input, folder.file("mutant.bnk")));
  setenv("BITNET_TEST_BUNDLE", folder.file("mutant.bnk").c_str(), 1);
  setenv("BITNET_TEST_QUICK", "1", 1);
  std::vector<std::string> command = {"/usr/bin/env", "qemu-aarch64", "-cpu", std::string(mutant.target->qemu_cpu)};
  if (!options.arm_sysroot.empty()) command.insert(command.end(), {"-L", options.arm_sysroot});
  command.push_back(options.arm_tester);
  return codegen::run_program(command, std::chrono::seconds(options.limit_s)).ok();
}

Outcome judge(const Mutant& mutant, const Options& options) {
  codegen::CompileOptions compile_options;
  compile_options.self_test = false;
  std::string text(mutant.file->text);
  text.replace(mutant.site.offset, mutant.site.from.size(), mutant.site.to);
  compile_options.overrides = {{std::string(mutant.file->path), text}};
  for (const auto& [group, other_points] : {std::pair{0, false}, {128, false}, {0, true}, {128, true}}) {
    const auto plan = plan_of(mutant, group, other_points);
    if (!plan.ok()) return Outcome::kBroken;
    if (plan->images.empty()) continue;  // no K-groups in this family
    const auto bundle = codegen::compile(*plan, compile_options);
    if (!bundle.ok()) return Outcome::kNotCompiled;
    if (is_arm(*mutant.target)) {
      const auto passes = emulated_kernels_pass(*bundle, mutant, options);
      if (!passes.ok()) return Outcome::kBroken;
      if (!*passes) return Outcome::kWrong;
    } else if (!native_kernels_pass(*bundle)) {
      return Outcome::kWrong;
    }
  }
  return Outcome::kSurvived;
}

// judge() in a child: its exit status is the outcome.
Outcome judge_apart(const Mutant& mutant, const Options& options) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return Outcome::kBroken;
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    alarm(static_cast<unsigned>(options.limit_s));
    if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(static_cast<int>(Outcome::kBroken));
    _exit(static_cast<int>(judge(mutant, options)));
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return Outcome::kBroken;
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? Outcome::kTimeout : Outcome::kCrashed;
  const int code = WEXITSTATUS(status);
  return code <= static_cast<int>(Outcome::kBroken) ? static_cast<Outcome>(code) : Outcome::kBroken;
}

std::string trimmed(std::string_view line) {
  const std::size_t begin = std::min(line.find_first_not_of(' '), line.size());
  return std::string(line.substr(begin));
}

int run(const Options& options) {
  const auto headers = runnable_headers(options);
  if (headers.empty()) {
    std::fprintf(stderr, "bitnet-mutate: no kernel family whose path has '%s' can be run here\n",
                 options.family.c_str());
    return 2;
  }
  // Headers take turns, so that every family is drawn from; the place in each is the seed's.
  std::mt19937 random(options.seed);
  std::vector<std::size_t> order(headers.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::shuffle(order, random);
  std::printf("bitnet-mutate: seed %u, %d mutants from %zu headers\n", options.seed, options.count, headers.size());
  int survivors = 0;
  int broken = 0;
  int equivalent = 0;
  std::set<std::pair<std::string, std::size_t>> drawn;
  for (int i = 0, draws = 0; i < options.count && draws < options.count * 50; ++draws) {
    const auto& [file, target] = headers[order[static_cast<std::size_t>(draws) % order.size()]];
    const std::vector<MutationSite> sites = mutation_sites(file->text);
    if (sites.empty()) continue;
    const MutationSite& site = sites[random() % sites.size()];
    const std::string line = trimmed(line_at(file->text, site.offset));
    std::string mutated(file->text);
    mutated.replace(site.offset, site.from.size(), site.to);
    const std::string mutated_line = trimmed(line_at(mutated, site.offset));
    if (!drawn.emplace(std::string(file->path) + site.to, site.offset).second) continue;
    const std::string where = std::string(file->path) + ":" + std::to_string(line_number(file->text, site.offset));
    const std::string what =
        std::string(site.kind) + " '" + trimmed(site.from) + "' -> '" + trimmed(site.to) + "' in: ";
    if (const std::string_view proof = equivalence(line, mutated_line, site); !proof.empty()) {
      ++equivalent;
      std::printf("  %s: %s%s\n      equivalent, not counted: %s\n", where.c_str(), what.c_str(), line.c_str(),
                  std::string(proof).c_str());
      continue;
    }
    const Outcome outcome = judge_apart({file, target, site}, options);
    survivors += outcome == Outcome::kSurvived ? 1 : 0;
    broken += outcome == Outcome::kBroken ? 1 : 0;
    ++i;
    std::printf("%2d %s: %s%s\n      %s\n", i, where.c_str(), what.c_str(), line.c_str(),
                kOutcomes[static_cast<std::size_t>(outcome)]);
    std::fflush(stdout);
  }
  std::printf("bitnet-mutate: %d survived, %d errors in the harness, %d equivalent draws\n", survivors, broken,
              equivalent);
  return survivors == 0 && broken == 0 ? 0 : 1;
}

}  // namespace
}  // namespace bitnet::test

int main(int argc, char** argv) {
  bitnet::test::Options options;
  CLI::App app{"Breaks the kernels on purpose and sees whether the tests notice.", "bitnet-mutate"};
  app.add_option("--seed", options.seed, "which mutants are drawn");
  app.add_option("--count", options.count, "how many")->check(CLI::Range(1, 10000));
  app.add_option("--time-limit", options.limit_s, "seconds for one mutant")->check(CLI::Range(1, 3600));
  app.add_option("--family", options.family, "only headers with this text in their path, e.g. t5_gemv");
  app.add_option("--arm-tester", options.arm_tester, "bundle_kernel_test built for AArch64, run under qemu-aarch64");
  app.add_option("--arm-sysroot", options.arm_sysroot, "its libraries");
  CLI11_PARSE(app, argc, argv);
  return bitnet::test::run(options);
}
