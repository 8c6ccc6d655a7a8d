// What is read back from machine code: counts that can be derived by hand, for both architectures; --emit-asm; --emit
// static; names that do not exist.
#include "codegen/explain.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "codegen/assembly_text.h"
#include "codegen/clang_backend.h"
#include "codegen/compile.h"
#include "codegen/elf_image.h"
#include "codegen/link.h"
#include "codegen/machine_code.h"
#include "codegen/plan.h"
#include "codegen/static_library.h"

namespace bitnet::codegen {
namespace {

const std::string kHead =
    "#include \"runtime/kernels/kernel_abi.h\"\n"
    "typedef int V __attribute__((vector_size(16)));\n"
    "extern \"C\" __attribute__((visibility(\"default\"))) void kernel(const bitnet_gemv_args* a) noexcept ";

CodeSummary summary_of(const std::string& body, Isa isa) {
  const auto object = compile_with_clang(kHead + body, "kernel.cc", target_of(isa));
  REQUIRE_MESSAGE(object.ok(), object.error().message);
  const auto linked = link_image(std::vector<std::string>{object->object}, std::vector<std::string>{"kernel"});
  REQUIRE_MESSAGE(linked.ok(), linked.error().message);
  const auto elf = ElfImage::parse(std::as_bytes(std::span(*linked)));
  REQUIRE(elf.ok());
  const auto flat = elf->flatten();
  REQUIRE(flat.ok());
  const auto summary = summarise_code(*flat, elf->find("kernel")->symbol.st_value, target_of(isa));
  REQUIRE_MESSAGE(summary.ok(), summary.error().message);
  return *summary;
}

// One small matrix, no Halide: what these tests look at is the same for every family.
CompiledBundle small_bundle(const std::vector<std::string>& words) {
  const auto selection = select_targets(words);
  REQUIRE(selection.ok());
  const auto points = default_points();
  REQUIRE(points.ok());
  PlanOptions options;
  options.format = Format::kI2s;
  options.dense = false;
  const auto plan = make_plan({{{64, 256}}, {}}, *selection, *points, options);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  auto bundle = compile(*plan);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  return std::move(*bundle);
}

}  // namespace

TEST_CASE("loads of weights are told from other loads") {
  // 16 bytes of weights and 16 of activations an iteration; the pointer to the weights also goes through an addition.
  const std::string loop =
      "{ const V* w = (const V*)(a->weights + 32 * a->row_begin); const V* x = (const V*)a->x; V sum = {};\n"
      "#pragma clang loop unroll(disable) vectorize(disable)\n"
      "for (long i = 0; i < a->k; ++i) sum += w[i] ^ x[i];\n"
      "*(V*)a->y = sum; }";
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kNeon}) {
    CAPTURE(to_string(isa));
    const CodeSummary summary = summary_of(loop, isa);
    CHECK(summary.loops == 1);
    CHECK(summary.functions == 1);
    CHECK(summary.hot.weight_bytes == 16);
    CHECK(summary.hot.loads == 2);
    CHECK(summary.hot.spills == 0);
    CHECK(summary.hot.instructions >= 5);
    CHECK(summary.hot.instructions <= 9);
    CHECK(summary.hot.mix.at("arithmetic") == 1);
    CHECK(summary.hot.mix.at("logic") == 1);
    CHECK(summary.hot.mix.at("branch") == 1);
  }
  // Activations alone are no weights.
  const CodeSummary none = summary_of(
      "{ V sum = {}; const V* x = (const V*)a->x;\n#pragma clang loop unroll(disable)\n"
      "for (long i = 0; i < a->k; ++i) sum += x[i]; *(V*)a->y = sum; }",
      Isa::kAvx2);
  CHECK(none.hot.weight_bytes == 0);
  CHECK(none.hot.instructions > 0);
  CHECK(summary_of("{ a->y[0] = 3; }", Isa::kNeon).hot.instructions == 0);
}

TEST_CASE("a kernel is explained, for any target on any machine") {
  const auto points = default_points();
  REQUIRE(points.ok());
  for (const char* target : {"avx2", "avx512", "neon-dotprod"}) {
    CAPTURE(target);
    const CompiledBundle bundle = small_bundle({target});
    for (const BundleImage& image : bundle.images) {
      CAPTURE(to_string(image.isa));
      const std::string name = "i2s_gemv_n64k256_" + identifier(image.isa);
      const auto record = find_record(bundle.table, name);
      REQUIRE_MESSAGE(record.ok(), record.error().message);
      const auto explanation = explain(**record, image.bytes, *points, points->provenance);
      REQUIRE_MESSAGE(explanation.ok(), explanation.error().message);
      CHECK(explanation->bits_per_weight == 2.0);
      REQUIRE(explanation->point.has_value());
      CHECK(explanation->files.front() == "generated/i2s_gemv_" + identifier(image.isa) + ".h");
      const LoopSummary& hot = explanation->code.hot;
      // Whole lines of 64 bytes, of one or several streams.
      CHECK(hot.weight_bytes > 0);
      CHECK(hot.weight_bytes % 64 == 0);
      CHECK(hot.mix.at("dot") > 0);
      CHECK(*explanation->instructions_per_byte() < 2);
      CHECK(*explanation->instructions_per_64_weights() == doctest::Approx(*explanation->instructions_per_byte() * 16));
      const std::string text = to_text(*explanation);
      for (const char* part :
           {"formula", "2.000 bits per weight", "templates/gemv.h.j2", "hot loop", "per 64 weights"}) {
        CHECK_MESSAGE(text.find(part) != std::string::npos, text);
      }
      // Points of which the bundle does not speak are not shown as its own.
      const auto foreign = explain(**record, image.bytes, *points, "somebody's");
      REQUIRE(foreign.ok());
      CHECK_FALSE(foreign->point.has_value());
      CHECK(to_text(*foreign).find("give them with --points") != std::string::npos);
      // Code that is none.
      std::vector<std::byte> damaged = image.bytes;
      for (std::size_t i = 0; i < 16; ++i) damaged[(*record)->offset + i] = std::byte{0x06};
      CHECK_FALSE(explain(**record, damaged, *points, points->provenance).ok());
      CHECK_FALSE(explain(**record, std::span(image.bytes).first((*record)->offset), *points, "").ok());
    }
    const auto missing = find_record(bundle.table, "i2s_gemm_n64k256");
    REQUIRE_FALSE(missing.ok());
    CHECK(missing.error().code == ErrorCode::kUsage);
    CHECK(missing.error().message.find("near it: i2s_gemm_n64k256") != std::string::npos);
  }
}

TEST_CASE("assembly names kernels and branch targets") {
  const CompiledBundle bundle = small_bundle({"avx512", "neon-dotprod"});
  for (const BundleImage& image : bundle.images) {
    CAPTURE(to_string(image.isa));
    const auto text = assembly_text(image.bytes, image.isa, bundle.table);
    REQUIRE_MESSAGE(text.ok(), text.error().message);
    for (const KernelRecord& record : bundle.table.kernels) {
      const bool inside = text->find("\n" + record.name + ":\n") != std::string::npos;
      CHECK(inside == (record.kernel.isa == image.isa));
    }
    if (image.isa == Isa::kAvx512) CHECK(text->find("[rip + constant_0x") != std::string::npos);
    CHECK(text->find(image.isa == Isa::kNeon          ? "ret"
                     : image.isa == Isa::kNeonDotprod ? "sdot"
                     : image.isa == Isa::kAvx2        ? "vpmaddubsw"
                                                      : "vpdpbusd") != std::string::npos);
    // Each label that is branched to stands somewhere.
    for (std::size_t at = text->find(" .L0x"); at != std::string::npos; at = text->find(" .L0x", at + 1)) {
      const std::string label = text->substr(at + 1, text->find_first_of(" \n", at + 1) - at - 1);
      CHECK_MESSAGE(text->find("\n" + label + ":\n") != std::string::npos, label);
    }
  }
}

TEST_CASE("a static library holds one architecture, its header every kernel") {
  const CompiledBundle bundle = small_bundle({"avx512"});
  const auto library = make_static_library(bundle, "my-model");
  REQUIRE_MESSAGE(library.ok(), library.error().message);
  CHECK(library->archive.starts_with("!<arch>\n"));
  CHECK(library->header.find("#define MY_MODEL_GEMV(X)") != std::string::npos);
  CHECK(library->header.find("#define BITNET_KERNEL_ABI_VERSION") != std::string::npos);
  CHECK(library->header.find("t2: a line is 64 bytes") != std::string::npos);
  CHECK(library->header.find("t5: ") == std::string::npos);  // a layout that no kernel has
  for (const KernelRecord& record : bundle.table.kernels) {
    CHECK(library->archive.find(record.name) != std::string::npos);
    CHECK(library->header.find("void " + record.name + "(const bitnet_") != std::string::npos);
  }
  const auto again = make_static_library(small_bundle({"avx512"}), "my-model");
  REQUIRE(again.ok());
  CHECK(again->archive == library->archive);
  const auto mixed = make_static_library(small_bundle({"avx2", "neon"}), "m");
  REQUIRE_FALSE(mixed.ok());
  CHECK(mixed.error().code == ErrorCode::kUsage);
  CHECK(mixed.error().message.find("avx2 and neon") != std::string::npos);
}

}  // namespace bitnet::codegen
