// The source audit must object: for each rule one kernel that breaks it. And it must not object to any family that is
// rendered, on any target.
#include "codegen/audit_source.h"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "codegen/audit_int16.h"
#include "codegen/clang_backend.h"
#include "codegen/emit.h"
#include "codegen/plan.h"
#include "codegen/targets.h"

namespace bitnet::codegen {
namespace {

const std::string kPrelude =
    "#include \"runtime/kernels/kernel_abi.h\"\n"
    "#define BITNET_INT16_BOUND(chain, product) __attribute__((annotate(\"bitnet.int16_bound\", chain, product)))\n";
const std::string kExport = "extern \"C\" __attribute__((visibility(\"default\"))) ";
const std::string kScratch = kExport + "const uint64_t i2s_gemv_n16k64_ISA_scratch_bytes = 0;\n";

std::string with_isa(std::string text, Isa isa) {
  for (std::size_t at = text.find("ISA"); at != std::string::npos; at = text.find("ISA")) {
    text.replace(at, 3, identifier(isa));
  }
  return text;
}

// A plan of one gemv kernel.
ImagePlan plan_for(Isa isa) {
  ImagePlan plan;
  plan.target = &target_of(isa);
  KernelSpec spec;
  spec.kernel.n = 16;
  spec.kernel.k = 64;
  spec.kernel.isa = isa;
  plan.kernels.push_back(spec);
  return plan;
}

Status audit_text(const std::string& source, Isa isa) {
  const Result<SourceFacts> facts = read_source_facts(with_isa(source, isa), "kernel.cc", target_of(isa));
  if (!facts.ok()) return facts.error();
  return audit_source(*facts, plan_for(isa));
}

// A unit of the planned kernel with `body`, and what stands before it.
std::string unit(const std::string& body, const std::string& before = "") {
  return kPrelude + before + kExport + "void i2s_gemv_n16k64_ISA(const bitnet_gemv_args* a) noexcept { " + body +
         " }\n" + kScratch;
}

Status audit(const std::string& body, const std::string& before = "", Isa isa = Isa::kScalar) {
  return audit_text(unit(body, before), isa);
}

void expect_refusal(const Status& status, const std::string& part) {
  INFO(part);
  REQUIRE_FALSE(status.ok());
  CHECK_MESSAGE(status.error().code == ErrorCode::kVerification, status.error().message);
  CHECK_MESSAGE(status.error().message.find(part) != std::string::npos, status.error().message);
}

void expect_pass(const Status& status) {
  if (!status.ok()) FAIL_CHECK(status.error().message);
}

}  // namespace

TEST_CASE("a clean kernel passes, and its loops are counted") {
  const std::string source = unit(
      "for (long i = 0; i < a->row_end; ++i) { int sum = 0; for (int j = 0; j < kTable[1]; ++j) sum += a->x[j];\n"
      "  a->y[i] = twice(sum); }",
      "namespace { constexpr int kTable[2] = {3, 4};\n"
      "inline int twice(int v) { for (int i = 0; i != 2; ++i) v += 1; return 2 * v; } }\n");
  for (const Target& target : targets()) {
    const auto output = compile_with_clang(with_isa(source, target.isa), "kernel.cc", target);
    REQUIRE(output.ok());
    expect_pass(audit_source(output->facts, plan_for(target.isa)));
    REQUIRE(output->facts.kernels.size() == 1);
    CHECK(output->facts.kernels[0].name == "i2s_gemv_n16k64_" + identifier(target.isa));
    CHECK(output->facts.kernels[0].loops == 3);
    CHECK(output->facts.kernels[0].constant_loops == 2);
  }
}

TEST_CASE("the kernel table is that of the plan") {
  const std::string body = "(const bitnet_gemv_args* a) noexcept { a->y[0] = 0; }\n";
  const auto kernel = [&](const std::string& text) { return audit_text(kPrelude + text + kScratch, Isa::kScalar); };
  expect_pass(kernel(kExport + "void i2s_gemv_n16k64_ISA" + body));
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k32_ISA" + body), "i2s_gemv_n16k32_scalar, which was not planned");
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k64_ISA" + body + kExport + "void helper() noexcept {}\n"),
                 "helper, which was not planned");
  // Hidden, so no export of the image: but with external linkage all the same.
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k64_ISA" + body + "int helper() noexcept { return 1; }\n"),
                 "helper, which was not planned");
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k64_ISA(const bitnet_gemm_args* a) noexcept { a->y[0] = 0; }\n"),
                 "expected void (const bitnet_gemv_args *) noexcept, found void (const bitnet_gemm_args *) noexcept");
  expect_refusal(kernel(kExport + "int i2s_gemv_n16k64_ISA(const bitnet_gemv_args*) noexcept { return 1; }\n"),
                 "found int (const bitnet_gemv_args *) noexcept");
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k64_ISA(const bitnet_gemv_args* a) { a->y[0] = 0; }\n"),
                 "found void (const bitnet_gemv_args *)");
  expect_refusal(kernel("__attribute__((visibility(\"default\"))) void i2s_gemv_n16k64_ISA" + body), "found C++ void");
  expect_refusal(kernel(""), "planned kernel i2s_gemv_n16k64_scalar is missing");
  expect_refusal(audit_text(kPrelude + kExport + "void i2s_gemv_n16k64_ISA" + body, Isa::kScalar),
                 "planned constant i2s_gemv_n16k64_scalar_scratch_bytes is missing");
  expect_refusal(kernel(kExport + "void i2s_gemv_n16k64_ISA" + body + kExport + "const uint64_t other = 3;\n"),
                 "constant other, which was not planned");
}

TEST_CASE("calls stay in the unit") {
  expect_refusal(audit("a->y[0] = puts(\"\");", "extern \"C\" int puts(const char*) noexcept;\n"), "calls puts");
  expect_refusal(audit("a->y[0] = ((int (*)())a->scratch)();"), "a call through a pointer");
  expect_refusal(audit("a->y[0] = f(3);", "static int f(int n) { return n == 0 ? 0 : n + f(n - 1); }\n"), "recursion");
  expect_refusal(audit("a->y[0] = f(3);",
                       "static int g(int);\nstatic int f(int n) { return n == 0 ? 0 : g(n - 1); }\n"
                       "static int g(int n) { return f(n); }\n"),
                 "recursion");
  expect_refusal(audit("__builtin_memcpy(a->y, a->x, (unsigned long)a->n);"), "builtin __builtin_memcpy");
  expect_refusal(audit("if (a->n == 0) __builtin_trap();"), "builtin __builtin_trap");
  expect_refusal(audit("a->y[0] = __atomic_add_fetch(a->y, 1, 0);"), "an atomic");
  expect_refusal(audit("char* p = (char*)__builtin_alloca(a->n); p[0] = 1; a->y[0] = p[0];"), "__builtin_alloca");
  expect_pass(audit("__builtin_prefetch(a->x); a->y[0] = __builtin_expect(a->n > 3, 1);"));

  // The pipelines of the plan are the exception, by name.
  const std::string declared = "extern \"C\" __attribute__((visibility(\"hidden\"))) int pipeline(int) noexcept;\n";
  const auto output = compile_with_clang(with_isa(unit("a->y[0] = pipeline(1);", declared), Isa::kScalar), "kernel.cc",
                                         target_of(Isa::kScalar));
  REQUIRE(output.ok());
  ImagePlan plan = plan_for(Isa::kScalar);
  expect_refusal(audit_source(output->facts, plan), "calls pipeline");
  plan.kernels[0].pipeline_symbol = "pipeline";
  expect_pass(audit_source(output->facts, plan));
}

TEST_CASE("no state") {
  expect_refusal(audit("a->y[0] = ++calls;", "static int calls;\n"), "calls is not constant");
  expect_refusal(audit("static int calls; a->y[0] = ++calls;"), "static local calls is not constant");
  expect_refusal(audit("a->y[0] = ++calls;", "static thread_local int calls;\n"), "thread-local variable calls");
  expect_refusal(audit("a->y[0] = started;", "static const int started = __builtin_readcyclecounter() != 0;\n"),
                 "started is initialised at run time");
  expect_refusal(audit("static const int first = (int)a->n; a->y[0] = first;"), "first is initialised at run time");
  expect_refusal(audit("a->y[0] = outside;", "extern const int outside;\n"), "outside is defined outside the unit");
  expect_refusal(audit("a->y[0] = S::calls;", "struct S { static inline int calls = 3; };\n"), "calls is not constant");
  expect_refusal(audit("int t[a->n]; t[0] = 1; a->y[0] = t[0];"), "a size known only at run time");
  expect_refusal(audit("S s; a->y[0] = 1;", "struct S { ~S() {} };\n"), "destructor");
  expect_pass(audit("static constexpr int kOdd[2] = {1, 3}; a->y[0] = kOdd[a->n & 1] + kEven[a->n & 1];",
                    "static const int kEven[2] = {0, 2};\n"));
}

TEST_CASE("no assembly, no jumps") {
  expect_refusal(audit("asm volatile(\"pause\"); a->y[0] = 0;"), "inline assembly 'pause'");
  expect_refusal(audit("a->y[0] = 0;", "asm(\".section .text\");\n"), "inline assembly outside functions");
  expect_refusal(audit("again: if (--a->y[0] != 0) goto again;"), "goto");
  expect_refusal(audit("a->y[0] = *new int(3);"), "new");
  expect_pass(audit("int v = a->x[0]; asm(\"\" : \"+r\"(v)); a->y[0] = v;"));
}

TEST_CASE("elements beyond a local array are refused") {
  expect_refusal(audit("int t[2]; for (int i = 0; i <= 2; ++i) t[i] = i; a->y[0] = t[1];"),
                 "element 2 of an array of 2 elements");
  expect_refusal(
      audit("int t[2][3]; for (int i = 0; i < 2; ++i) for (int j = 0; j < 4; ++j) t[i][j] = j; a->y[0] = t[1][2];"),
      "element 3 of an array of 3 elements");
  expect_refusal(audit("int t[2] = {1, 2}; a->y[0] = t[2];"), "element 2 of an array of 2 elements");
  expect_pass(
      audit("int t[2][3]; for (int i = 0; i < 2; ++i) for (int j = 0; j < 3; ++j) t[i][j] = j; a->y[0] = t[1][2];"));
  expect_pass(
      audit("int t[4]; for (int i = 0; i <= 3; ++i) t[i] = i; for (int i = 4; i < 4; ++i) t[i] = 0; a->y[0] = t[3];"));
}

TEST_CASE("the end of a loop shows in its head") {
  expect_refusal(audit("for (int i = 0;; ++i) { if (a->x[i] == 0) break; a->y[0] = i; }"), "without a condition");
  expect_refusal(audit("int i = 0; while (a->x[i] != 0) ++i; a->y[0] = i;"), "a while loop");
  expect_refusal(audit("int i = 0; do { ++i; } while (a->x[i] != 0); a->y[0] = i;"), "a do loop");
  expect_refusal(audit("for (int i = 0; a->x[i]; ++i) a->y[0] = i;"), "compares nothing");
  expect_refusal(audit("for (int i = 0; a->x[i] != 0; ++i) a->y[0] = i;"), "does not compare a counter");
  expect_refusal(audit("for (long i = 0; i < a->n; i += a->k) a->y[i] = 0;"), "does not move i by a constant");
  expect_refusal(audit("long s = a->k; for (long i = 0; i < a->n; i += s) a->y[i] = 0;"),
                 "does not move i by a constant");
  expect_refusal(audit("for (long i = 1; i < a->n; i /= 2) a->y[i] = 0;"), "away from its bound");
  expect_refusal(audit("for (long i = 9; i > 0; i /= 1) a->y[i] = 0;"), "does not move i by a constant");
  expect_refusal(audit("for (long i = 0; i * -2 < a->n; ++i) a->y[i] = 0;"), "does not compare a counter");
  expect_refusal(audit("for (long i = 0; i < a->n;) a->y[i] = 0;"), "does not move i by a constant");
  expect_refusal(audit("for (long i = 9; i < a->n; --i) a->y[i & 7] = 0;"), "away from its bound");
  expect_refusal(audit("for (long i = 0; i != a->n; i += 2) a->y[i] = 0;"), "away from its bound, or past it");
  expect_refusal(audit("for (long i = 0; i < a->n; ++i) { a->y[i] = 0; if (a->x[i]) --i; }"), "changes its counter i");
  expect_refusal(audit("for (long i = 0; i < a->n; ++i) { long* p = &i; a->y[i] = 0; *p -= 1; }"),
                 "changes its counter i");
  expect_refusal(audit("long end = a->n; for (long i = 0; i < end; ++i) { a->y[i] = 0; end += a->x[i]; }"),
                 "changes its bound end");
  expect_refusal(audit("f(a->n, a);",
                       "static void f(long n, const bitnet_gemv_args* a) {\n"
                       "  for (long i = 0; i < n; ++i) n += a->x[i]; a->y[0] = (int)n; }\n"),
                 "in f: a loop whose body changes its bound n");
  expect_refusal(audit("\n#pragma GCC unroll 8\nfor (long i = 0; i < a->n; ++i) a->y[i] = 0;"),
                 "trip count is no constant");
  expect_pass(
      audit("\n#pragma GCC unroll 8\nfor (long i = 0; i < 16; i += 4) a->y[i] = 0;\n"
            "\n#pragma GCC unroll 2\nfor (long i = 0; i < a->n; ++i) a->y[i] = 0;\n"
            "for (long i = a->n - 1; i >= 0; --i) a->y[i] = 1;\n"
            "for (long i = 0, j = 1; a->n > i && a->x[i] != 0; ++i, j += 2) a->y[i] = (int)j;\n"
            "const long s = a->k < 1 ? 1 : a->k; for (long i = 3; 2 * (i + 4) <= a->n; i += s) a->y[i] = 0;\n"
            "for (int d = 8; d > 0; d /= 2) a->y[d] = 0;\n"
            "const int t[2] = {1, 2}; for (const int v : t) a->y[v] = v;"));
}

TEST_CASE("sums in 16 bits have a stated bound that holds") {
  const std::string vectors =
      "#include <immintrin.h>\n"
      "static __m256i sum(__m256i p, __m256i q) { return _mm256_add_epi16(p, q); }\n";
  const std::string use = "__m256i* p = (__m256i*)a->scratch; *p = sum(*p, p[1]);";
  expect_refusal(audit(use, vectors, Isa::kAvx2), "in sum: _mm256_add_epi16 (its lanes wrap at 32767) outside");
  const auto bounded = [&](const std::string& bound) {
    return "#include <immintrin.h>\ntemplate <int Chain>\n" + bound +
           "\ninline __m256i sum(__m256i p, __m256i q) { return _mm256_add_epi16(p, q); }\n";
  };
  const std::string instance = "__m256i* p = (__m256i*)a->scratch; *p = sum<64>(*p, p[1]);";
  expect_pass(audit(instance, bounded("BITNET_INT16_BOUND(Chain, 2 * 2 * 127)"), Isa::kAvx2));
  expect_refusal(audit(instance, bounded("BITNET_INT16_BOUND(Chain + 1, 2 * 2 * 127)"), Isa::kAvx2),
                 "65 products of at most 508 can exceed 32767");
  expect_refusal(audit(instance, bounded("BITNET_INT16_BOUND(0, 508)"), Isa::kAvx2), "two positive constants");
  expect_refusal(audit(instance, bounded("__attribute__((annotate(\"bitnet.int16_bound\", 64)))"), Isa::kAvx2),
                 "two positive constants");
  expect_refusal(audit(instance, bounded("__attribute__((annotate(\"something else\", 64, 508)))"), Isa::kAvx2),
                 "outside a function marked");
  // Without intrinsics.
  expect_refusal(audit("V* p = (V*)a->scratch; *p += p[1];", "typedef short V __attribute__((vector_size(16)));\n"),
                 "a sum of vectors of 16 bits");
  expect_refusal(audit("V* p = (V*)a->scratch; *p = p[2] - p[1];",
                       "typedef short V __attribute__((vector_size(16)));\n", Isa::kNeon),
                 "a sum of vectors of 16 bits");
  expect_refusal(audit("short s = 0; for (int i = 0; i < 300; ++i) s += a->x[i]; a->y[0] = s;"), "a sum in 16 bits");
  expect_pass(audit("int s = 0; for (int i = 0; i < 300; ++i) s += a->x[i]; a->y[0] = s;"));
}

TEST_CASE("the table of 16-bit sums reads the names of intrinsics") {
  for (const char* name :
       {"_mm_add_epi16", "_mm256_maddubs_epi16", "_mm512_add_epi16", "_mm512_mask_add_epi16", "_mm256_maskz_adds_epi16",
        "_mm_hadd_epi16", "_mm256_subs_epu16", "vaddq_s16", "vaddq_u16", "vmlal_s8", "vmlal_high_s8", "vmlaq_s16",
        "vmlaq_n_s16", "vmlaq_lane_s16", "vmla_laneq_s16", "vpadalq_s8", "vaddw_u8", "vqaddq_s16", "vpaddq_s16"}) {
    CHECK_MESSAGE(!int16_hazard(name).empty(), name);
  }
  for (const char* name : {"_mm256_add_epi32", "_mm256_madd_epi16", "_mm256_and_si256", "_mm256_srli_epi16",
                           "_mm256_add_epi8", "_mm512_dpbusd_epi32", "vaddq_s32", "vmull_s8", "vmlal_s16",
                           "vpadalq_s16", "vdotq_s32", "vaddl_s8", "vandq_s16", "add_epi16", "_mm", ""}) {
    CHECK_MESSAGE(int16_hazard(name).empty(), name);
  }
}

TEST_CASE("every rendered family passes on every target") {
  std::string toml;
  for (const Target& target : targets()) {
    for (const char* format : {"i2s", "t5", "tl1", "tl2"}) {
      const std::string head = "[[point]]\nisa = \"" + std::string(target.name) + "\"\nformat = \"" + format + "\"\n";
      const std::string streams = "streams = 2\nprefetch = 512\n";
      toml += head + "op = \"gemv\"\n" + streams + head + "op = \"gemm\"\ntoken_tile = 4\nrow_tiles = 1\n";
      for (const char* m : {"2", "4", "8"}) toml += head + "op = \"gemm\"\nm = " + m + "\n" + streams;
    }
  }
  const auto points = parse_points(toml, "test.toml");
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  std::set<Isa> audited;  // an image that comes along with several targets is the same each time
  for (const Target& target : targets()) {
    if (!target.part_of.empty()) continue;  // comes with its target
    CAPTURE(target.name);
    const auto selection = select_targets(std::vector<std::string>{std::string(target.name)});
    REQUIRE(selection.ok());
    for (const std::int32_t group : {0, 64}) {
      const ModelShapes shapes = {{{48, 128, group}, {129, 100, group}}, {128}};
      PlanOptions options;
      options.every_format = group == 0;
      const auto plan = make_plan(shapes, *selection, *points, options);
      REQUIRE_MESSAGE(plan.ok(), plan.error().message);
      for (const ImagePlan& image : plan->images) {
        if (group == 0 ? !audited.insert(image.target->isa).second : image.target != &target) continue;
        const auto facts = read_source_facts(emit_translation_unit(image), translation_unit_name(image), *image.target);
        REQUIRE_MESSAGE(facts.ok(), facts.error().message);
        for (const std::string& violation : facts->violations) MESSAGE(violation);
        expect_pass(audit_source(*facts, image));
      }
    }
  }
}

}  // namespace bitnet::codegen
