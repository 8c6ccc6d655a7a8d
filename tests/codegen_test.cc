// Kernels as bitnet-codegen makes them, through the one tester; planted defects that must be found; determinism; and
// the rules for targets and points.
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "codegen/compile.h"
#include "codegen/embedded.h"
#include "codegen/emit.h"
#include "codegen/halide_backend.h"
#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/targets.h"
#include "codegen/temp_dir.h"
#include "runtime/base/sha256.h"
#include "tests/kernel_tester.h"

namespace bitnet::codegen {
namespace {

Plan plan_of(const ModelShapes& shapes, const std::vector<std::string>& words, const char* points_text = nullptr,
             const PlanOptions& options = {}) {
  const auto selection = select_targets(words);
  REQUIRE(selection.ok());
  const auto points = points_text != nullptr ? parse_points(points_text, "test.toml") : default_points();
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  const auto plan = make_plan(shapes, *selection, *points, options);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  return *plan;
}

const std::vector<std::string> kAllTargets = {"scalar", "avx2", "avx512"};
const ModelShapes kSmall = {{{48, 128}, {96, 64}}, {64, 128}};

// The fused products of the models that the project promises, then every kind of tail.
const ModelShapes k2B4T = {{{2560, 2560}, {2560, 6912}, {3840, 2560}, {13824, 2560}}, {2560, 6912}};
const ModelShapes kLarge = {{{1536, 1536}, {1536, 4096}, {4608, 1536}, {8192, 1536}}, {1536, 4096}};
const ModelShapes kTiny = {{{512, 512}, {512, 1024}, {768, 512}, {2048, 512}}, {512, 1024}};
const ModelShapes kSynthTiny = {{{256, 256}, {256, 512}, {512, 256}, {1024, 256}}, {256, 512}};  // synth --shape tiny
const ModelShapes kTails = {{{1, 16},
                             {15, 1},
                             {16, 64},
                             {17, 64},
                             {31, 100},
                             {40, 100},
                             {40, 8640},
                             {64, 63},
                             {129, 80},
                             {144, 65},
                             {160, 1040}},
                            {1, 7, 16, 17, 63, 100, 8640}};

// Runs the tester over every kernel of `bundle` that this CPU executes; the failures, all together.
std::vector<std::string> test_bundle(const CompiledBundle& bundle) {
  std::vector<std::string> failures;
  const test::TestPlan plan = test::plan_from_environment();
  for (const BundleImage& image : bundle.images) {
    const std::string isa(to_string(image.isa));
    if (!probe_isa(image.isa)) {
      std::printf("SKIPPED: image %s: this CPU does not execute it\n", isa.c_str());
      continue;
    }
    const auto code = CodeImage::load(image.bytes, sha256(image.bytes), "image." + isa);
    REQUIRE_MESSAGE(code.ok(), code.error().message);
    std::size_t count = 0;
    for (const KernelRecord& record : bundle.table.kernels) {
      if (record.kernel.isa != image.isa) continue;
      Kernel kernel = record.kernel;
      kernel.function = code->at(record.offset);
      for (std::string& failure : test::test_kernel(kernel, plan)) failures.push_back(std::move(failure));
      ++count;
    }
    std::printf("image %-8s %zu kernels, %zu failures so far\n", isa.c_str(), count, failures.size());
    std::fflush(stdout);
  }
  return failures;
}

void expect_exact(const ModelShapes& shapes, const char* points = nullptr) {
  const auto bundle = compile(plan_of(shapes, kAllTargets, points));
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  CHECK(bundle->images.size() == kAllTargets.size());
  for (const std::string& failure : test_bundle(*bundle)) FAIL_CHECK(failure);
}

// The embedded header with one text replaced by another.
std::map<std::string, std::string> planted(const std::string& path, const std::string& from, const std::string& to) {
  const EmbeddedFile* file = find_embedded(path);
  REQUIRE(file != nullptr);
  std::string text(file->text);
  const std::size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, path << " no longer holds '" << from << "': choose another defect");
  text.replace(at, from.size(), to);
  return {{path, text}};
}

std::string error_of(const std::string& toml) {
  const auto points = parse_points(toml, "cpu.toml");
  return points.ok() ? "accepted" : points.error().message;
}

}  // namespace

TEST_CASE("bundle kernels of 2b-4t equal the scalar reference") { expect_exact(k2B4T); }
TEST_CASE("bundle kernels of large equal the scalar reference") { expect_exact(kLarge); }
TEST_CASE("bundle kernels of tiny equal the scalar reference") { expect_exact(kTiny); }
TEST_CASE("bundle kernels of synth's tiny equal the scalar reference") { expect_exact(kSynthTiny); }
TEST_CASE("bundle kernels with every tail equal the scalar reference") { expect_exact(kTails); }

TEST_CASE("other points than the defaults are as exact") {
  std::string points;
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    points += std::string("[[point]]\nisa = \"") + isa + "\"\nop = \"gemv\"\nstreams = 3\nprefetch = 0\n" +
              "[[point]]\nisa = \"" + isa + "\"\nop = \"gemm\"\ntoken_tile = 5\nrow_tiles = 2\n";
  }
  expect_exact({{{17, 64}, {40, 100}, {160, 1040}}, {}}, points.c_str());
}

TEST_CASE("a broken kernel is caught by the self-test and by the tester") {
  struct Defect {
    const char* path;
    const char* from;
    const char* to;
    const char* isa;
  };
  const Defect defects[] = {
      {"generated/i2s_gemv_scalar.h", "(byte >> 6)", "(byte >> 7)", "scalar"},
      {"generated/i2s_gemv_avx2.h", "_mm256_set1_epi8(0x0C)", "_mm256_set1_epi8(0x08)", "avx2"},
      {"generated/i2s_gemm_avx2.h", "_mm256_set1_epi8(0x03)", "_mm256_set1_epi8(0x01)", "avx2"},
      {"generated/i2s_gemv_avx512.h", "_mm512_set1_epi8(0x0C)", "_mm512_set1_epi8(0x04)", "avx512"},
  };
  for (const Defect& defect : defects) {
    CAPTURE(defect.path);
    if (!probe_isa(*parse_isa(defect.isa))) {
      std::printf("SKIPPED: defect in %s: this CPU does not execute %s\n", defect.path, defect.isa);
      continue;
    }
    CompileOptions options;
    options.overrides = planted(defect.path, defect.from, defect.to);
    Plan plan = plan_of(kSmall, {defect.isa});
    std::erase_if(plan.images, [&](const ImagePlan& image) { return image.target->name != defect.isa; });
    const auto refused = compile(plan, options);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == ErrorCode::kVerification);
    CHECK_MESSAGE(refused.error().message.find("self-test of image") == 0, refused.error().message);

    options.self_test = false;
    const auto broken = compile(plan, options);
    REQUIRE_MESSAGE(broken.ok(), broken.error().message);
    CHECK_FALSE(test_bundle(*broken).empty());
  }
}

TEST_CASE("equal plans give equal bytes, wherever the compiler runs") {
  const Plan plan = plan_of(kSmall, kAllTargets);
  const auto first = compile(plan);
  REQUIRE_MESSAGE(first.ok(), first.error().message);
  auto folder = TempDir::create();
  REQUIRE(folder.ok());
  const std::filesystem::path before = std::filesystem::current_path();
  const char* tmpdir = std::getenv("TMPDIR");
  const std::string old_tmpdir = tmpdir != nullptr ? tmpdir : "";
  std::filesystem::current_path(folder->path());
  setenv("TMPDIR", folder->path().c_str(), 1);
  CompileOptions one_job;
  one_job.jobs = 1;
  const auto second = compile(plan, one_job);
  const bool left_nothing = std::filesystem::is_empty(folder->path());
  std::filesystem::current_path(before);
  if (tmpdir != nullptr) {
    setenv("TMPDIR", old_tmpdir.c_str(), 1);
  } else {
    unsetenv("TMPDIR");
  }
  REQUIRE_MESSAGE(second.ok(), second.error().message);
  CHECK(left_nothing);
  CHECK(to_json(first->table) == to_json(second->table));
  REQUIRE(first->images.size() == second->images.size());
  for (std::size_t i = 0; i < first->images.size(); ++i) {
    CHECK(first->images[i].bytes == second->images[i].bytes);
    CHECK(first->images[i].bytes.size() % 4096 == 0);
    const std::string text(reinterpret_cast<const char*>(first->images[i].bytes.data()), first->images[i].bytes.size());
    CHECK(text.find("bitnet-codegen-") == std::string::npos);  // no temporary folder's name
  }
}

TEST_CASE("the kernel table states what was compiled") {
  const auto bundle = compile(plan_of(kSmall, {"avx512"}));
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  REQUIRE(bundle->images.size() == 2);  // avx512 brings avx2 along
  CHECK(bundle->images[0].isa == Isa::kAvx2);
  REQUIRE(bundle->table.kernels.size() == 2 * 6);
  for (const KernelRecord& record : bundle->table.kernels) {
    CHECK(record.name == record.kernel.name());
    if (record.kernel.op != Op::kGemm) CHECK(record.kernel.scratch_bytes == 0);
    if (record.kernel.op == Op::kGemm && record.kernel.isa == Isa::kAvx2) {
      // One expanded tile: a byte a weight, 16 rows (generated/i2s_gemm_avx2.h).
      CHECK(record.kernel.scratch_bytes == static_cast<std::size_t>(record.kernel.k) * 16);
    }
  }
  bool has_unit = false;
  bool has_header = false;
  for (const SourceFile& source : bundle->sources) {
    has_unit |= source.path == "bitnet_kernels_avx512.cc";
    has_header |= source.path == "generated/i2s_gemv_avx512.h";
  }
  CHECK(has_unit);
  CHECK(has_header);
}

TEST_CASE("targets") {
  const auto native = select_targets(std::vector<std::string>{"native"});
  REQUIRE(native.ok());
  CHECK(native->single);
  CHECK(parse_isa(native->name).has_value());
  CHECK(probe_isa(*parse_isa(native->name)));
  const auto several = select_targets(std::vector<std::string>{"avx512", "scalar", "avx512"});
  REQUIRE(several.ok());
  CHECK(several->images.size() == 3);
  CHECK(several->name == "scalar+avx512");
  CHECK_FALSE(several->single);
  const auto unknown = select_targets(std::vector<std::string>{"avx10"});
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.error().code == ErrorCode::kUsage);
  CHECK(unknown.error().message ==
        "unknown target 'avx10' (known: native, scalar, avx2, avx2-vnni, avx512, neon, neon-dotprod, neon-i8mm)");
  CHECK_FALSE(select_targets({}).ok());
}

TEST_CASE("points: the exact shape before the general one, and messages for everything that is wrong") {
  const std::string gemv = "[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nstreams = 2\nprefetch = 64\n";
  const auto points = parse_points(gemv +
                                       "[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nn = 48\nk = 128\nstreams = 4\n"
                                       "prefetch = 0\n",
                                   "cpu.toml");
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  CHECK(points->provenance == "cpu.toml");
  Kernel kernel;
  kernel.isa = Isa::kAvx2;
  kernel.n = 48;
  kernel.k = 128;
  CHECK(points->choose(kernel)->streams == 4);
  kernel.k = 64;
  CHECK(points->choose(kernel)->streams == 2);
  kernel.op = Op::kGemm;
  const auto missing = points->choose(kernel);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().message.find("no point for i2s gemm 48 x 64 on avx2") != std::string::npos);

  const auto has = [](const std::string& message, const char* part) {
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  has(error_of("[[point]\n"), "cpu.toml:1: not valid TOML");
  has(error_of(""), "no [[point]]");
  has(error_of("x = 1\n" + gemv), "cpu.toml:1: unknown key 'x'");
  has(error_of(gemv + "unroll = 2\n"), "cpu.toml:6: unknown key 'unroll' in gemv point");
  has(error_of(gemv + "token_tile = 2\n"), "cpu.toml:6: unknown key 'token_tile' in gemv point (known: ");
  has(error_of(gemv + "n = 48\n"), "keys 'n' and 'k'");
  has(error_of(gemv + gemv), "a second point for the same place");
  has(error_of(gemv + "n = 48\nk = 132105\n"), "key 'k': expected an integer 1..132104, found 132105");
  has(error_of("[[point]]\nisa = \"avx3\"\nop = \"gemv\"\n"), "cpu.toml:2: key 'isa': unknown target 'avx3'");
  has(error_of("[[point]]\nisa = \"avx2\"\nop = \"norm\"\n"), "cpu.toml:3: key 'op'");
  has(error_of("[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nstreams = 9\nprefetch = 0\n"),
      "cpu.toml:4: key 'streams': expected an integer 1..8, found 9");
  has(error_of("[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nstreams = 2\nprefetch = 100\n"),
      "cpu.toml:5: key 'prefetch'");
  has(error_of("[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nstreams = \"2\"\nprefetch = 0\n"), "found a value of type");
  has(error_of("[[point]]\nisa = \"avx2\"\nop = \"gemv\"\nprefetch = 0\n"), "gemv point without 'streams'");
  has(error_of("[[point]]\nop = \"gemv\"\n"), "point without 'isa'");
}

TEST_CASE("plans out of range are refused") {
  const auto selection = select_targets(std::vector<std::string>{"scalar"});
  const auto points = default_points();
  REQUIRE((selection.ok() && points.ok()));
  CHECK_FALSE(make_plan({{}, {64}}, *selection, *points).ok());
  CHECK_FALSE(make_plan({{{0, 64}}, {}}, *selection, *points).ok());
  CHECK_FALSE(make_plan({{{64, std::int64_t{1} << 23}}, {}}, *selection, *points).ok());
  CHECK_FALSE(make_plan({{{64, 64}}, {0}}, *selection, *points).ok());
  // 127 * 132104 is the last product that float32 holds exactly; the reason is the model reader's.
  CHECK(make_plan({{{64, 132104}}, {132104}}, *selection, *points).ok());
  for (const ModelShapes& shapes : {ModelShapes{{{64, 132105}}, {}}, ModelShapes{{{64, 64}}, {132105}}}) {
    const auto wide = make_plan(shapes, *selection, *points);
    REQUIRE_FALSE(wide.ok());
    CHECK_MESSAGE(wide.error().message.find("expected a width of at most 132104, found 132105; integer products of "
                                            "wider layers exceed 2^24 and would be rounded") != std::string::npos,
                  wide.error().message);
  }
}

TEST_CASE("Halide's process: missing, failing and hanging tools are messages") {
  const Plan plan = plan_of(kSmall, {"scalar"});
  CompileOptions options;
  options.halide_tool = "/nonexistent/bitnet-halide";
  const auto missing = compile(plan, options);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().message.find("cannot start /nonexistent/bitnet-halide") != std::string::npos);

  const auto folder = TempDir::create();
  REQUIRE(folder.ok());
  const auto script = [&](const char* name, const char* text) {
    const std::string path = folder->file(name);
    REQUIRE(write_file(path, std::string("#!/bin/sh\n") + text).ok());
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  };
  const auto failing = compile_with_halide(script("failing", "echo the reason >&2; exit 3\n"), plan.images[0]);
  REQUIRE_FALSE(failing.ok());
  CHECK(failing.error().message.find("exit status 3") != std::string::npos);
  CHECK(failing.error().message.find("the reason") != std::string::npos);
  const auto killed = compile_with_halide(script("killed", "kill -9 $$\n"), plan.images[0]);
  REQUIRE_FALSE(killed.ok());
  CHECK(killed.error().message.find("signal 9") != std::string::npos);
  const auto empty = compile_with_halide(script("empty", "exit 0\n"), plan.images[0]);
  REQUIRE_FALSE(empty.ok());
  CHECK(empty.error().message.find("cannot read") != std::string::npos);
  const auto hanging =
      compile_with_halide(script("hanging", "exec sleep 60\n"), plan.images[0], std::chrono::milliseconds(200));
  REQUIRE_FALSE(hanging.ok());
  CHECK(hanging.error().message.find("ran longer than 200 ms") != std::string::npos);
}

}  // namespace bitnet::codegen
