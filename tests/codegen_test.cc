// Kernels as bitnet-codegen makes them, through the one tester; planted defects that must be found; determinism; and
// the rules for targets and points.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
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
#include "tests/quick.h"

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

const std::vector<std::string> kAllTargets = {"scalar", "avx2", "avx512"};  // and their parts
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
                             {160, 1040},
                             {18, 132104}},  // the widest
                            {1, 7, 16, 17, 63, 100, 8640}};

// The quick plan runs under sanitizers, whose subject is the compiler and not the shapes: of those alike one is left.
bool quick_shapes() { return test::quick_wanted(); }

// The other shapes of the models that people run. N only sets how often the row loop runs, so those above 96 rows are
// cut to five tiles and a part of one; BITNET_TEST_FULL takes all rows.
ModelShapes other_models() {
  const std::pair<std::int64_t, std::vector<std::int64_t>> by_k[] = {{3200, {3200, 8640, 9600}},
                                                                     {8640, {3200}},
                                                                     {4096, {1024, 4096, 6144, 14336, 28672}},
                                                                     {14336, {4096}},
                                                                     {2048, {256, 1024, 2048, 8192, 13312}},
                                                                     {8192, {2048}},
                                                                     {3072, {1024, 3072, 9216, 23040}},
                                                                     {9216, {3072}},
                                                                     {23040, {3072}},
                                                                     {13312, {2048}},
                                                                     {1024, {1024, 2048, 3072}},
                                                                     {640, {256, 1024, 2048}}};
  const char* full = std::getenv("BITNET_TEST_FULL");
  const bool whole = full != nullptr && *full != '\0';
  ModelShapes shapes;
  for (const auto& [k, rows] : by_k) {
    for (const std::int64_t n : whole ? rows : std::vector<std::int64_t>{rows.front() < 96 ? rows.front() : 88}) {
      shapes.ternary.push_back({n, k});
    }
    shapes.norm_quantize.push_back(k);
  }
  if (quick_shapes()) shapes.ternary.resize(1);
  return shapes;
}

// Shapes that nobody chose, from a seed that is printed; BITNET_TEST_SEED repeats one.
ModelShapes random_shapes() {
  const char* given = std::getenv("BITNET_TEST_SEED");
  const unsigned seed = given != nullptr && *given != '\0' ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                                                           : std::random_device{}();
  std::printf("random shapes: BITNET_TEST_SEED=%u\n", seed);
  std::mt19937 random(seed);
  ModelShapes shapes;
  for (int i = 0; i < (quick_shapes() ? 2 : 6); ++i) {
    const std::int64_t n = 1 + static_cast<std::int64_t>(random() % 200);
    // Few or many lines, mostly with a tail.
    const std::int64_t k = 1 + static_cast<std::int64_t>(random() % (i % 2 == 0 ? 150 : 3000));
    const bool again = std::ranges::any_of(shapes.ternary, [&](const KernelShape& s) { return s.n == n && s.k == k; });
    if (!again) shapes.ternary.push_back({n, k});
  }
  return shapes;
}

// Runs the tester over every kernel of `bundle` that this CPU executes; the failures, all together. Kernels of one
// shape follow each other, so that they share the tester's problems.
std::vector<std::string> test_bundle(const CompiledBundle& bundle) {
  std::vector<std::string> failures;
  std::vector<CodeImage> codes;
  std::vector<Kernel> kernels;
  for (const BundleImage& image : bundle.images) {
    const std::string isa(to_string(image.isa));
    if (!probe_isa(image.isa)) {
      for (const KernelRecord& record : bundle.table.kernels) {
        if (record.kernel.isa != image.isa) continue;
        std::printf("%-52s not run: this CPU does not execute %s\n", record.name.c_str(), isa.c_str());
      }
      continue;
    }
    auto code = CodeImage::load(image.bytes, sha256(image.bytes), "image." + isa);
    REQUIRE_MESSAGE(code.ok(), code.error().message);
    for (const KernelRecord& record : bundle.table.kernels) {
      if (record.kernel.isa != image.isa) continue;
      kernels.push_back(record.kernel);
      kernels.back().function = code->at(record.offset);
    }
    codes.push_back(std::move(*code));
  }
  std::ranges::stable_sort(kernels, {}, [](const Kernel& k) { return std::tuple(k.k, k.n, k.group); });
  test::KernelTester tester(test::plan_from_environment());
  for (const Kernel& kernel : kernels) {
    std::printf("%-52s native\n", kernel.name().c_str());
    for (std::string& failure : tester.test(kernel)) failures.push_back(std::move(failure));
  }
  std::fflush(stdout);
  return failures;
}

// For the quick plan: one matrix, five tiles and a part of one. N only sets how often the row loop runs.
ModelShapes few_rows(ModelShapes shapes) {
  if (!quick_shapes()) return shapes;
  shapes.ternary.resize(1);
  shapes.ternary.front().n = std::min<std::int64_t>(shapes.ternary.front().n, 88);
  return shapes;
}

// Of kTails for the quick plan: a single row, a single k, a part of a tile, K below, on and beyond a line, the widest.
ModelShapes tails() {
  if (!quick_shapes()) return kTails;
  return {{{1, 16}, {15, 1}, {17, 64}, {64, 63}, {129, 80}, {160, 1040}, {18, 132104}}, kTails.norm_quantize};
}

// Every family that a target has, beside each other.
void expect_exact(const ModelShapes& shapes, bool dense = false) {
  PlanOptions options;
  options.every_format = true;
  options.dense = dense;
  const auto bundle = compile(plan_of(shapes, kAllTargets, nullptr, options));
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
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

TEST_CASE("bundle kernels of 2b-4t equal the scalar reference") { expect_exact(few_rows(k2B4T)); }
TEST_CASE("bundle kernels of large equal the scalar reference") { expect_exact(few_rows(kLarge)); }
TEST_CASE("bundle kernels of tiny equal the scalar reference") { expect_exact(few_rows(kTiny)); }
TEST_CASE("bundle kernels of synth's tiny equal the scalar reference") { expect_exact(few_rows(kSynthTiny)); }
TEST_CASE("bundle kernels with every tail equal the scalar reference") { expect_exact(tails(), true); }
TEST_CASE("bundle kernels of other models equal the scalar reference") { expect_exact(other_models()); }
TEST_CASE("bundle kernels of random shapes equal the scalar reference") { expect_exact(random_shapes()); }
TEST_CASE("bundle kernels with K-groups equal the scalar reference") {
  // One matrix with several sizes of groups, and without, in one bundle.
  for (const std::int32_t group : {64, 128, 256}) {
    if (quick_shapes()) {
      expect_exact({{{17, 100, group}, {17, 100}, {160, 1040, group}}, {}});
      continue;
    }
    expect_exact(
        {{{88, 256, group}, {17, 100, group}, {17, 100}, {33, 640, group}, {160, 1040, group}, {40, 8640, group}}, {}});
  }
}

TEST_CASE("the required cells exist, the others are refused by name") {
  const std::map<std::string, std::string> required = {
      {"i2s", "scalar avx2 avx2-vnni avx512 neon neon-dotprod"},
      {"t5", "scalar avx512"},
      {"tl1", "scalar avx2 neon neon-dotprod"},
      {"tl2", "scalar avx2 avx512"},
  };
  const auto points = default_points();
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  for (const auto& [name, cells] : required) {
    const Format format = *parse_format(name);
    for (const Target& target : targets()) {
      if (!target.part_of.empty()) continue;
      CAPTURE(name);
      CAPTURE(target.name);
      const auto selection = select_targets(std::vector<std::string>{std::string(target.name)});
      REQUIRE(selection.ok());
      PlanOptions options;
      options.format = format;
      const auto plan = make_plan(kSmall, *selection, *points, options);
      std::istringstream words(cells);
      bool wanted = false;
      for (std::string word; words >> word;) wanted |= word == target.name;
      if (wanted) CHECK_MESSAGE(plan.ok(), plan.error().message);
      if (plan.ok()) continue;
      CHECK_MESSAGE(plan.error().message.find("format " + name + " has no kernels for target " +
                                              std::string(target.name) + " (targets that have it: ") == 0,
                    plan.error().message);
    }
  }
}

TEST_CASE("K-groups: t5 and tl2 are never chosen, and the reason is given") {
  const auto selection = select_targets(std::vector<std::string>{"scalar", "avx512"});
  const auto points = default_points();
  REQUIRE((selection.ok() && points.ok()));
  const ModelShapes grouped = {{{16, 256, 128}, {48, 128}}, {}};
  for (const Format format : {Format::kT5, Format::kTl2}) {
    PlanOptions options;
    options.format = format;
    const auto refused = make_plan(grouped, *selection, *points, options);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("cannot serve K-groups of 128: a line of") != std::string::npos);
  }
  PlanOptions options;
  options.every_format = true;
  const auto plan = make_plan(grouped, *selection, *points, options);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  for (const ImagePlan& image : plan->images) {
    for (const KernelSpec& spec : image.kernels) {
      if (!is_ternary(spec.kernel.op)) continue;
      if (spec.kernel.k == 256) CHECK((spec.kernel.format == Format::kI2s || spec.kernel.format == Format::kTl1));
      CHECK(spec.kernel.group == (spec.kernel.k == 256 ? 128 : 0));
    }
  }
  // Points that name t5 for every shape leave the shapes with groups to i2s.
  const auto vbmi = select_targets(std::vector<std::string>{"avx512"});
  REQUIRE(vbmi.ok());
  const auto chosen = make_plan({{{16, 80}, {16, 256, 64}}, {}, std::uint64_t{1} << 40}, *vbmi, *points, {});
  REQUIRE_MESSAGE(chosen.ok(), chosen.error().message);
  bool t5 = false;
  bool groups = false;
  for (const ImagePlan& image : chosen->images) {
    for (const KernelSpec& spec : image.kernels) {
      if (!is_ternary(spec.kernel.op)) continue;
      if (spec.kernel.group != 0) CHECK(spec.kernel.format == Format::kI2s);
      groups |= spec.name() == "i2s_gemv_n16k256g64_avx512_vbmi" || spec.name() == "i2s_gemv_n16k256g64_avx512";
      t5 |= spec.kernel.format == Format::kT5;
    }
  }
  CHECK(t5);
  CHECK(groups);
  CHECK_FALSE(make_plan({{{16, 80, 96}}, {}}, *selection, *points, options).ok());
}

TEST_CASE("other points than the defaults are as exact") {
  std::string points;
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512-vbmi"}) {
    for (const char* format : {"i2s", "t5", "tl1", "tl2"}) {
      const std::string place = std::string("[[point]]\nisa = \"") + isa + "\"\nformat = \"" + format + "\"\n";
      points += place + "op = \"gemv\"\nstreams = 3\nprefetch = 0\n";
      points += place + "op = \"gemm\"\ntoken_tile = 5\nrow_tiles = 2\n";
      for (const char* m : {"2", "4", "8"}) {
        points += place + "op = \"gemm\"\nm = " + m + "\nstreams = 3\nprefetch = 512\n";
      }
    }
  }
  PlanOptions options;
  options.every_format = true;
  options.dense = false;
  ModelShapes shapes = {{{40, 100}, {160, 1040}}, {}};
  if (!quick_shapes()) shapes.ternary.push_back({17, 64});
  const auto bundle = compile(plan_of(shapes, kAllTargets, points.c_str(), options));
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  for (const std::string& failure : test_bundle(*bundle)) FAIL_CHECK(failure);
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
    PlanOptions no_dense;
    no_dense.dense = false;
    Plan plan = plan_of(kSmall, {defect.isa}, nullptr, no_dense);
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
  const Plan plan = plan_of(kSmall, {"avx2", "neon-dotprod"});
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

TEST_CASE("attention to float32 keys and values is compiled on request alone") {
  const auto has_it = [](const PlanOptions& options) {
    const Plan plan = plan_of(k2B4T, {"avx512"}, nullptr, options);
    std::size_t images = 0;
    for (const ImagePlan& image : plan.images) {
      images += std::ranges::any_of(image.kernels, [](const KernelSpec& spec) {
        return spec.kernel.op == Op::kAttention && spec.kernel.format == Format::kF32;
      });
    }
    return images;
  };
  CHECK(has_it({}) == 0);
  PlanOptions options;
  options.float32_cache = true;
  CHECK(has_it(options) == 2);  // avx512-vbmi has no dense operations of its own
}

TEST_CASE("the kernel table states what was compiled") {
  const auto bundle = compile(plan_of(kSmall, {"avx512"}));
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  REQUIRE(bundle->images.size() == 2);  // avx512 brings avx2 along
  CHECK(bundle->images[0].isa == Isa::kAvx2);
  for (const BundleImage& image : bundle->images) {
    for (const KernelShape& shape : kSmall.ternary) {
      for (const auto& [op, m] :
           {std::pair{Op::kGemv, 0}, {Op::kGemm, 0}, {Op::kGemm, 2}, {Op::kGemm, 4}, {Op::kGemm, 8}}) {
        const auto found = std::ranges::count_if(bundle->table.kernels, [&](const KernelRecord& record) {
          const Kernel& kernel = record.kernel;
          return kernel.isa == image.isa && kernel.op == op && kernel.m == m && kernel.n == shape.n &&
                 kernel.k == shape.k && kernel.format == Format::kI2s;
        });
        CHECK(found == 1);
      }
    }
  }
  for (const KernelRecord& record : bundle->table.kernels) {
    CHECK(record.name == record.kernel.name());
    if (!is_ternary(record.kernel.op)) CHECK(record.kernel.scratch_bytes == 0);
    CHECK(record.layout == (is_ternary(record.kernel.op) ? "t2" : ""));
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
  CHECK(several->images.size() == 4);  // avx512 brings avx2 and its part avx512-vbmi along
  CHECK(several->name == "scalar+avx512");
  CHECK_FALSE(several->single);
  const auto unknown = select_targets(std::vector<std::string>{"avx10"});
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.error().code == ErrorCode::kUsage);
  CHECK(unknown.error().message ==
        "unknown target 'avx10' (known: native, scalar, avx2, avx2-vnni, avx512, neon, neon-dotprod, neon-i8mm)");
  const auto part = select_targets(std::vector<std::string>{"avx512-vbmi"});
  REQUIRE_FALSE(part.ok());
  CHECK(part.error().message == "target 'avx512-vbmi' is a part of avx512 and comes with it: ask for --target avx512");
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

TEST_CASE("points: layouts by the model's size, a base, and shipped names") {
  const std::string gemv =
      "[[point]]\nisa = \"avx512-vbmi\"\nop = \"gemv\"\nformat = \"t5\"\nstreams = 3\nprefetch = 0\n";
  const std::string row = "[[layout]]\nisa = \"avx512-vbmi\"\n";
  const auto points =
      parse_points(gemv + row + "format = \"t5\"\nmin_model_bytes = 1000\n" + row +
                       "format = \"i2s\"\nmin_model_bytes = 5000\n" + row + "format = \"i2s\"\nn = 48\nk = 128\n",
                   "cpu.toml");
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  const auto format = [&](std::int64_t n, std::uint64_t bytes) {
    return points->format(Isa::kAvx512Vbmi, n, 128, bytes);
  };
  CHECK(format(64, 999) == std::nullopt);
  CHECK(format(64, 1000) == Format::kT5);
  CHECK(format(64, 5000) == Format::kI2s);  // the largest bound that is reached
  CHECK(format(48, 1000) == Format::kI2s);  // the exact shape goes before all general ones
  CHECK(points->format(Isa::kAvx512, 64, 128, 1000) == std::nullopt);
  Kernel kernel;
  kernel.isa = Isa::kAvx2;
  CHECK_FALSE(points->choose(kernel).ok());

  const auto based = parse_points("base = \"defaults\"\n" + gemv, "cpu.toml");
  REQUIRE_MESSAGE(based.ok(), based.error().message);
  CHECK(based->provenance == "cpu.toml");
  const auto defaults = default_points();
  REQUIRE(defaults.ok());
  CHECK(based->points.size() == defaults->points.size());  // one place is its own
  CHECK(based->choose(kernel)->streams == defaults->choose(kernel)->streams);
  kernel.isa = Isa::kAvx512Vbmi;
  kernel.format = Format::kT5;
  CHECK(based->choose(kernel)->streams == 3);
  CHECK(defaults->choose(kernel)->streams != 3);

  const auto has = [](const std::string& message, const char* part) {
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  has(error_of("base = 3\n" + gemv), "cpu.toml:1: key 'base' must be a string");
  has(error_of("base = \"zen9\"\n" + gemv), "cpu.toml:1: key 'base': expected a shipped file (defaults");
  has(error_of(gemv + row + "format = \"t5\"\nmin_model_bytes = -1\n"), "cpu.toml:10: key 'min_model_bytes'");
  has(error_of(gemv + row + "format = \"t5\"\n" + row + "format = \"i2s\"\n"), "a second layout for the same place");

  // Every shipped file can be named, and holds what the program can read.
  const std::vector<std::string> shipped = shipped_points();
  CHECK(std::ranges::find(shipped, "defaults") != shipped.end());
  for (const std::string& name : shipped) {
    const auto found = find_points(name);
    CHECK_MESSAGE(found.ok(), found.error().message);
  }
  CHECK(find_points("")->provenance == "defaults");
  const auto missing = find_points("zen9");
  REQUIRE_FALSE(missing.ok());
  has(missing.error().message, "points are a file or one of defaults");
}

TEST_CASE("t5 serves models whose weights come from memory, t2 those that stay in a cache") {
  const auto formats = [](std::uint64_t bytes) {
    ModelShapes shapes = k2B4T;
    shapes.ternary_bytes = bytes;
    std::vector<std::string> found;
    for (const ImagePlan& image : plan_of(shapes, {"avx512"}).images) {
      for (const KernelSpec& spec : image.kernels) {
        if (spec.kernel.op == Op::kGemv) {
          found.push_back(std::string(image.target->name) + " " + std::string(to_string(spec.kernel.format)));
        }
      }
    }
    std::ranges::sort(found);
    found.erase(std::ranges::unique(found).begin(), found.end());
    return found;
  };
  const std::vector<std::string> small = {"avx2 i2s", "avx512 i2s"};
  const std::vector<std::string> large = {"avx2 i2s", "avx512 i2s", "avx512-vbmi t5"};
  CHECK(formats(0) == small);  // not known
  CHECK(formats(std::uint64_t{1} << 20) == small);
  CHECK(formats(std::uint64_t{520} << 20) == large);
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
  PlanOptions everything;
  everything.every_format = true;
  const Plan plan = plan_of(kSmall, {"scalar"}, nullptr, everything);
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
