// The Halide variants of I2_S products as bitnet-codegen makes them: beside the templates in the same images and the
// same list, exact, audited on every target; and the points that ask for them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "codegen/compile.h"
#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/base/sha256.h"
#include "tests/kernel_tester.h"
#include "tests/quick.h"

namespace bitnet::codegen {
namespace {

Plan plan_of(const ModelShapes& shapes, const std::vector<std::string>& targets, const std::string& toml,
             const PlanOptions& options) {
  const auto selection = select_targets(targets);
  REQUIRE(selection.ok());
  const auto points = toml.empty() ? default_points() : parse_points(toml, "test.toml");
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  auto plan = make_plan(shapes, *selection, *points, options);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  return std::move(*plan);
}

PlanOptions with_halide() {
  PlanOptions options;
  options.halide = true;
  options.dense = false;
  return options;
}

std::string point(const std::string& op, const std::string& rest) {
  return "[[point]]\nisa = \"scalar\"\nop = \"" + op + "\"\n" + rest + "\n";
}

const std::string kTemplates =
    point("gemv", "streams = 1\nprefetch = 0") + point("gemm", "token_tile = 2\nrow_tiles = 1") +
    point("gemm", "m = 2\nstreams = 1\nprefetch = 0") + point("gemm", "m = 4\nstreams = 1\nprefetch = 0") +
    point("gemm", "m = 8\nstreams = 1\nprefetch = 0");
const std::string kHalide = point("gemv", "technique = \"halide\"\nstreams = 3") +
                            point("gemm", "technique = \"halide\"\ntoken_tile = 5\nrow_tiles = 2");

std::vector<std::string> names(const Plan& plan) {
  std::vector<std::string> list;
  for (const KernelSpec& spec : plan.images.at(0).kernels) list.push_back(spec.name());
  return list;
}

bool contains(const std::vector<std::string>& list, const std::string& name) {
  return std::ranges::find(list, name) != list.end();
}

}  // namespace

// Compiling is auditing: machine code within the target's features, no import, no relocation.
TEST_CASE("Halide variants of every target are exact and pass the audit") {
  ModelShapes shapes = {{{1, 16}, {15, 1}, {31, 100}, {40, 100}, {129, 80}, {160, 1040}, {48, 2560}, {33, 6912}}, {}};
  if (test::quick_wanted()) shapes = {{{15, 1}, {40, 100}, {160, 1040}}, {}};
  for (const std::vector<std::string>& asked : {std::vector<std::string>{"scalar"}, {"avx512"}, {"neon-i8mm"}}) {
    const Plan plan = plan_of(shapes, asked, "", with_halide());
    const auto bundle = compile(plan);
    REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
    for (const BundleImage& image : bundle->images) {
      const auto mine = [&](const KernelRecord& record) {
        return record.kernel.isa == image.isa && record.kernel.technique == "halide";
      };
      CHECK(std::ranges::count_if(bundle->table.kernels, mine) == static_cast<long>(2 * shapes.ternary.size()));
      if (!probe_isa(image.isa)) {
        std::printf("NOT RUN: Halide variants of %s (this CPU does not execute it)\n",
                    std::string(to_string(image.isa)).c_str());
        continue;
      }
      const auto code = CodeImage::load(image.bytes, sha256(image.bytes), "image");
      REQUIRE_MESSAGE(code.ok(), code.error().message);
      test::KernelTester tester(test::plan_from_environment());
      for (const KernelRecord& record : bundle->table.kernels) {
        if (!mine(record)) continue;
        CHECK(record.kernel.scratch_bytes == 0);
        Kernel kernel = record.kernel;
        kernel.function = code->at(record.offset);
        for (const std::string& failure : tester.test(kernel)) FAIL_CHECK(failure);
      }
    }
  }
}

TEST_CASE("Halide variants: kernels of equal width share a pipeline") {
  const Plan plan = plan_of({{{16, 64}, {32, 64}, {16, 80}}, {}}, {"scalar"}, kTemplates + kHalide, with_halide());
  std::set<std::string> symbols;
  std::vector<std::string> pipelines;
  for (const KernelSpec& spec : plan.images.at(0).kernels) {
    if (spec.kernel.technique != "halide") continue;
    CHECK(spec.kernel.token_tile == (spec.kernel.op == Op::kGemm ? 5 : 1));
    symbols.insert(spec.pipeline_symbol);
    pipelines.push_back(spec.pipeline);
  }
  CHECK(symbols == std::set<std::string>{"halide_i2s_gemv_k64s3_scalar", "halide_i2s_gemm_k64t5s2_scalar",
                                         "halide_i2s_gemv_k80s3_scalar", "halide_i2s_gemm_k80t5s2_scalar"});
  CHECK(pipelines.size() == 6);
  CHECK(contains(pipelines, "i2s_gemv:K=64:STREAMS=3"));
  CHECK(contains(pipelines, "i2s_gemm:K=80:TOKENS=5:STREAMS=2"));
  const Plan vnni = plan_of({{{16, 64}}, {}}, {"avx512"}, "", with_halide());
  for (const ImagePlan& image : vnni.images) {
    const bool avx512 = image.target->features.find("avx512vnni") != std::string_view::npos;
    for (const KernelSpec& spec : image.kernels) {
      if (spec.pipeline.empty()) continue;
      CHECK((spec.pipeline.find(":DOT=1") != std::string::npos) == avx512);
    }
  }
}

TEST_CASE("points: the first technique of a place is used, never Halide for K-groups") {
  const ModelShapes shapes = {{{16, 64}}, {}};
  PlanOptions options;
  options.dense = false;
  const auto defaults = names(plan_of(shapes, {"scalar"}, "", options));
  CHECK(contains(defaults, "i2s_gemv_n16k64_scalar"));
  CHECK_FALSE(contains(defaults, "i2s_gemv_n16k64_scalar_halide"));
  CHECK(names(plan_of(shapes, {"scalar"}, kTemplates + kHalide, options)) ==
        names(plan_of(shapes, {"scalar"}, kTemplates, options)));

  const auto halide = names(plan_of(shapes, {"scalar"}, kHalide + kTemplates, options));
  CHECK(contains(halide, "i2s_gemv_n16k64_scalar_halide"));
  CHECK(contains(halide, "i2s_gemm_n16k64_scalar_halide"));
  CHECK_FALSE(contains(halide, "i2s_gemv_n16k64_scalar"));
  // Chosen and asked for beside: once.
  CHECK(names(plan_of(shapes, {"scalar"}, kHalide + kTemplates, with_halide())) == halide);

  const auto groups = names(plan_of({{{16, 64, 64}}, {}}, {"scalar"}, kHalide + kTemplates, options));
  CHECK(contains(groups, "i2s_gemv_n16k64g64_scalar"));
  CHECK_FALSE(contains(groups, "i2s_gemv_n16k64g64_scalar_halide"));

  // A point for the shape goes before a general one of any technique.
  const std::string exact = point("gemv", "n = 16\nk = 64\ntechnique = \"halide\"\nstreams = 2");
  CHECK(contains(names(plan_of(shapes, {"scalar"}, kTemplates + exact, options)), "i2s_gemv_n16k64_scalar_halide"));
}

TEST_CASE("points of Halide: what is wrong is said") {
  const auto error = [](const std::string& toml) {
    const auto points = parse_points(toml, "cpu.toml");
    return points.ok() ? std::string("accepted") : points.error().message;
  };
  const auto expect = [&](const std::string& toml, const std::string& message) {
    const std::string found = error(toml);
    CHECK_MESSAGE(found.find(message) != std::string::npos, message << "; found: " << found);
  };
  CHECK(error(kTemplates + kHalide) == "accepted");
  expect(kHalide + kHalide, "a second point for the same place");
  expect(point("gemv", "technique = \"magic\"\nstreams = 1\nprefetch = 0"),
         "expected template or halide, found 'magic'");
  expect(point("gemv", "technique = \"halide\"\nstreams = 1\nprefetch = 64"), "unknown key 'prefetch'");
  expect(point("gemv", "technique = \"halide\""), "without 'streams'");
  expect(point("gemm", "technique = \"halide\"\nm = 2\nstreams = 1\nprefetch = 0"), "multiply i2s only");
  expect(point("gemv", "technique = \"halide\"\nformat = \"tl2\"\nstreams = 1"), "multiply i2s only");

  const auto selection = select_targets(std::vector<std::string>{"scalar"});
  const auto points = parse_points(kTemplates, "cpu.toml");
  REQUIRE((selection.ok() && points.ok()));
  const auto plan = make_plan({{{16, 64}}, {}}, *selection, *points, with_halide());
  REQUIRE_FALSE(plan.ok());
  CHECK_MESSAGE(plan.error().message.find("technique = \"halide\"") != std::string::npos, plan.error().message);
}

}  // namespace bitnet::codegen
