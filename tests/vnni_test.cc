// avx2-vnni on machines that have its instruction only in the other encoding. The dictionary names no encoding: the
// same text is compiled once with the features of AVX-512VL + VNNI, where vpdpbusd on 256-bit registers is
// EVEX-encoded, and proved there by the kernel tester; and once as the target that ships, whose image is read back:
// vpdpbusd must occur VEX-encoded, and nothing EVEX-encoded, which a CPU with AVX-VNNI alone would refuse. That image
// is executed where the CPU has AVX-VNNI, and where it has not, the log says so.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "codegen/compile.h"
#include "codegen/embedded.h"
#include "codegen/machine_code.h"
#include "codegen/plan.h"
#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/base/sha256.h"
#include "tests/evex_form.h"
#include "tests/kernel_tester.h"

namespace bitnet::codegen {
namespace {

using test::evex_form;

// Tails of N and K, several streams and row tiles, K beyond a flush and beyond L1.
const std::vector<KernelShape> kShapes = {{1, 16},   {15, 1},    {17, 64},    {40, 100},  {64, 63},
                                          {129, 80}, {144, 65},  {160, 1040}, {88, 2560}, {72, 6912},
                                          {33, 256}, {40, 8640}, {112, 2560}};
const std::vector<KernelShape> kGroupShapes = {{88, 256}, {17, 100}, {33, 640}, {160, 1040}};

// avx2-vnni's own image, without that of avx2 that comes along, compiled for `target`.
CompiledBundle compile_for(const Target& target, const std::vector<KernelShape>& shapes,
                           const char* points_text = nullptr, const CompileOptions& options = {}) {
  const auto points = points_text != nullptr ? parse_points(points_text, "test.toml") : default_points();
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  const auto selection = select_targets(std::vector<std::string>{"avx2-vnni"});
  REQUIRE(selection.ok());
  TargetSelection alone = *selection;
  std::erase_if(alone.images, [](const Target* image) { return image->isa != Isa::kAvx2Vnni; });
  auto plan = make_plan({shapes, {}}, alone, *points);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  REQUIRE(plan->images.size() == 1);
  plan->images[0].target = &target;
  auto bundle = compile(*plan, options);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  REQUIRE(bundle->images.size() == 1);
  return std::move(*bundle);
}

bool is_ternary_kernel(const KernelRecord& record) { return is_ternary(record.kernel.op); }

// Failures of the tester over every ternary kernel of the image, which this CPU must execute.
std::vector<std::string> test_image(const CompiledBundle& bundle) {
  const BundleImage& image = bundle.images[0];
  const auto code = CodeImage::load(image.bytes, sha256(image.bytes), "image.avx2-vnni");
  REQUIRE_MESSAGE(code.ok(), code.error().message);
  std::vector<Kernel> kernels;
  for (const KernelRecord& record : bundle.table.kernels) {
    if (!is_ternary_kernel(record)) continue;
    kernels.push_back(record.kernel);
    kernels.back().function = code->at(record.offset);
  }
  REQUIRE_FALSE(kernels.empty());
  std::ranges::stable_sort(kernels, {}, [](const Kernel& k) { return std::tuple(k.k, k.n, k.group); });
  test::KernelTester tester(test::plan_from_environment());
  std::vector<std::string> failures;
  for (const Kernel& kernel : kernels) {
    for (std::string& failure : tester.test(kernel)) failures.push_back(std::move(failure));
  }
  std::printf("avx2-vnni: %zu kernels run\n", kernels.size());
  std::fflush(stdout);
  return failures;
}

struct Encodings {
  std::size_t vex_dots = 0;  // vpdpbusd
  std::size_t evex_dots = 0;
  std::size_t evex = 0;  // any instruction
};

// What one kernel of the image consists of.
Encodings encodings_of(const BundleImage& image, const KernelRecord& record, const Target& target) {
  const auto disassembler = Disassembler::create(target.triple, target.features);
  REQUIRE_MESSAGE(disassembler.ok(), disassembler.error().message);
  const std::vector<std::uint64_t> entry = {record.offset};
  const auto code = trace_code(image.bytes, entry, *disassembler);
  REQUIRE_MESSAGE(code.ok(), code.error().message);
  CHECK_FALSE(code->indirect);
  Encodings found;
  for (const auto& [address, instruction] : code->instructions) {
    // In 64-bit mode 0x62 begins nothing but EVEX, 0xc4 and 0xc5 nothing but VEX; clang sets no prefix before them.
    const auto first = std::to_integer<unsigned>(image.bytes[address]);
    const bool dot = instruction.mnemonic == "vpdpbusd";
    if (first == 0x62) ++found.evex;
    if (dot && first == 0x62) ++found.evex_dots;
    if (dot && (first == 0xC4 || first == 0xC5)) ++found.vex_dots;
  }
  return found;
}

// The first text of the header that is `from` becomes `to`.
std::map<std::string, std::string> planted(const std::string& path, const std::string& from, const std::string& to) {
  const EmbeddedFile* file = find_embedded(path);
  REQUIRE(file != nullptr);
  std::string text(file->text);
  const std::size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, path << " no longer holds '" << from << "': choose another defect");
  return {{path, text.replace(at, from.size(), to)}};
}

// Says so if the EVEX form cannot run here.
bool runs_evex_form(const char* what) {
  if (probe_isa(Isa::kAvx512)) return true;
  std::printf("SKIPPED: %s: this CPU has no AVX-512VL with VNNI\n", what);
  return false;
}

}  // namespace

TEST_CASE("avx2-vnni in its EVEX form equals the scalar reference") {
  if (!runs_evex_form("avx2-vnni in its EVEX form")) return;
  for (const std::string& failure : test_image(compile_for(evex_form(), kShapes))) FAIL_CHECK(failure);
  for (const std::int32_t group : {64, 128, 256}) {
    std::vector<KernelShape> shapes = kGroupShapes;
    for (KernelShape& shape : shapes) shape.group = group;
    for (const std::string& failure : test_image(compile_for(evex_form(), shapes))) FAIL_CHECK(failure);
  }
}

TEST_CASE("avx2-vnni with other points than the defaults is as exact") {
  if (!runs_evex_form("avx2-vnni with other points")) return;
  std::string points =
      "[[point]]\nisa = \"avx2-vnni\"\nop = \"gemv\"\nstreams = 3\nprefetch = 0\n"
      "[[point]]\nisa = \"avx2-vnni\"\nop = \"gemm\"\ntoken_tile = 5\nrow_tiles = 2\n";
  for (const char* m : {"2", "4", "8"}) {
    points += std::string("[[point]]\nisa = \"avx2-vnni\"\nop = \"gemm\"\nm = ") + m + "\nstreams = 3\nprefetch = 64\n";
  }
  const auto bundle = compile_for(evex_form(), {{17, 64}, {40, 100}, {160, 1040}}, points.c_str());
  for (const std::string& failure : test_image(bundle)) FAIL_CHECK(failure);
}

TEST_CASE("a broken kernel of avx2-vnni is caught") {
  if (!runs_evex_form("defects in avx2-vnni")) return;
  struct Defect {
    const char* header;
    const char* from;
    const char* to;
  };
  const Defect defects[] = {
      {"generated/i2s_gemv_avx2_vnni.h", "_mm256_set1_epi8(0x30)", "_mm256_set1_epi8(0x10)"},
      {"generated/i2s_gemv_avx2_vnni.h", "total[s][h][p], 2 * p", "total[s][h][p], 2 * h"},
      {"generated/i2s_gemm_avx2_vnni.h", "_mm256_srli_epi16(bytes, 2 * p)", "_mm256_srli_epi16(bytes, 2 * h)"},
      {"generated/i2s_batch_avx2_vnni.h", "a->x + from * 4", "a->x + from * 2"},
  };
  for (const Defect& defect : defects) {
    CAPTURE(defect.header);
    CAPTURE(defect.to);
    CompileOptions options;
    options.overrides = planted(defect.header, defect.from, defect.to);
    options.self_test = false;
    CHECK_FALSE(test_image(compile_for(evex_form(), {{40, 100}, {64, 256}}, nullptr, options)).empty());
  }
}

TEST_CASE("avx2-vnni ships VEX-encoded vpdpbusd and nothing EVEX-encoded") {
  CHECK(target_of(Isa::kAvx2Vnni).features.find("+avxvnni") != std::string_view::npos);
  CHECK(evex_form().features.find("avxvnni") == std::string_view::npos);
  const auto shipped = compile_for(target_of(Isa::kAvx2Vnni), kShapes);
  const auto other = compile_for(evex_form(), {{40, 100}});
  std::size_t dots = 0;
  for (const KernelRecord& record : shipped.table.kernels) {
    CAPTURE(record.name);
    const Encodings found = encodings_of(shipped.images[0], record, target_of(Isa::kAvx2Vnni));
    CHECK(found.evex == 0);
    if (is_ternary_kernel(record)) CHECK(found.vex_dots > 0);
    dots += found.vex_dots;
  }
  // That these checks can fail, the other form shows.
  for (const KernelRecord& record : other.table.kernels) {
    if (!is_ternary_kernel(record)) continue;
    const Encodings found = encodings_of(other.images[0], record, evex_form());
    CHECK(found.evex_dots > 0);
    CHECK(found.vex_dots == 0);
  }
  std::printf("avx2-vnni: %zu vpdpbusd in %zu kernels, all VEX-encoded\n", dots, shipped.table.kernels.size());
  if (!probe_isa(Isa::kAvx2Vnni)) {
    std::printf("avx2-vnni: VEX image compiled and disassembled, not executed on this CPU\n");
    return;
  }
  for (const std::string& failure : test_image(shipped)) FAIL_CHECK(failure);
}

}  // namespace bitnet::codegen
