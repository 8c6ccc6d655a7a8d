// The audit must object: for each rule one kernel that breaks it, compiled and linked like any other.
#include "codegen/audit.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "codegen/clang_backend.h"
#include "codegen/elf_image.h"
#include "codegen/link.h"
#include "codegen/targets.h"

namespace bitnet::codegen {
namespace {

const std::string kKernel = "extern \"C\" __attribute__((visibility(\"default\"))) void kernel(int* p) noexcept ";
const std::vector<std::string> kExports = {"kernel"};

Result<std::string> build(const std::string& source, Isa isa, const std::vector<std::string>& exports = kExports) {
  BITNET_ASSIGN_OR_RETURN(const ClangOutput output, compile_with_clang(source, "kernel.cc", target_of(isa)));
  return link_image(std::vector<std::string>{output.object}, exports);
}

Status audit(const std::string& source, Isa isa, const std::vector<std::string>& kernels = kExports,
             const std::vector<std::string>& constants = {}, const std::vector<std::string>& linked = kExports) {
  BITNET_ASSIGN_OR_RETURN(const std::string image, build(source, isa, linked));
  BITNET_ASSIGN_OR_RETURN(const ElfImage elf, ElfImage::parse(std::as_bytes(std::span(image))));
  return audit_image(elf, target_of(isa), kernels, constants);
}

void expect_refusal(const Status& status, const std::string& part) {
  REQUIRE_FALSE(status.ok());
  CHECK_MESSAGE(status.error().message.find(part) != std::string::npos, status.error().message);
}

// A kernel for `isa` that contains one function compiled for another feature.
std::string with_feature(const std::string& feature, const std::string& body) {
  return "typedef int v4si __attribute__((vector_size(16)));\n"
         "typedef int v8si __attribute__((vector_size(32)));\n"
         "typedef int v16si __attribute__((vector_size(64)));\n"
         "typedef char v16qi __attribute__((vector_size(16)));\n"
         "typedef char v64qi __attribute__((vector_size(64)));\n"
         "__attribute__((target(\"" +
         feature + "\"), noinline)) static void inner(int* p) { " + body + " }\n" + kKernel + "{ inner(p); }";
}

}  // namespace

TEST_CASE("a clean kernel passes for every target") {
  const std::string source = kKernel +
                             "{ for (int i = 0; i < 64; ++i) p[i] = p[i] * 3 + i; }\n"
                             "extern \"C\" __attribute__((visibility(\"default\"))) const unsigned long size = 8;";
  for (const Target& target : targets()) {
    const Status status = audit(source, target.isa, {"kernel"}, {"size"}, {"kernel", "size"});
    CHECK_MESSAGE(status.ok(), status.error().message);
  }
}

TEST_CASE("state is refused") {
  expect_refusal(audit("static int counter;\n" + kKernel + "{ *p = ++counter; }", Isa::kScalar), "writable data");
  expect_refusal(audit("static int table[4] = {1, 2, 3, 4};\n" + kKernel + "{ *p = table[*p & 3]++; }", Isa::kScalar),
                 "writable data");
  expect_refusal(
      audit("static thread_local int calls __attribute__((used, retain));\n" + kKernel + "{ *p = 0; }", Isa::kScalar),
      "thread-local storage");
  // In use, it needs __tls_get_addr, which already the linker misses.
  expect_refusal(audit("static thread_local int calls;\n" + kKernel + "{ *p = ++calls; }", Isa::kScalar),
                 "__tls_get_addr");
}

TEST_CASE("initialisers are refused") {
  const std::string source =
      "struct Start { Start() { asm volatile(\"nop\"); } };\n"
      "static Start start;\n" +
      kKernel + "{ *p = 0; }";
  expect_refusal(audit(source, Isa::kScalar), "initialisers");
}

TEST_CASE("imports are refused") {
  // A strong one by the linker, a weak one by the audit.
  expect_refusal(audit("extern \"C\" int puts(const char*);\n" + kKernel + "{ *p = puts(\"\"); }", Isa::kScalar),
                 "puts");
  expect_refusal(audit("extern \"C\" __attribute__((weak, visibility(\"default\"))) int hook();\n" + kKernel +
                           "{ if (hook) *p = hook(); }",
                       Isa::kScalar),
                 "undefined symbol hook");
  // What a compiler may turn into a call of memset or memcpy stays inside.
  const std::string loops = kKernel +
                            "{ for (int i = 0; i < 100000; ++i) p[i] = 0;\n"
                            "  for (int i = 0; i < 100000; ++i) p[200000 + i] = p[i]; }";
  for (const Target& target : targets()) {
    const Status status = audit(loops, target.isa);
    CHECK_MESSAGE(status.ok(), status.error().message);
  }
}

TEST_CASE("relocations are refused") {
  const std::string source =
      "static const int a = 1, b = 2;\n"
      "static const int* const table[2] __attribute__((used, retain)) = {&a, &b};\n" +
      kKernel + "{ *p = 0; }";
  expect_refusal(audit(source, Isa::kScalar), "dynamic relocations");
}

TEST_CASE("exports are exactly the planned ones") {
  const std::string two = kKernel +
                          "{ *p = 0; }\n"
                          "extern \"C\" __attribute__((visibility(\"default\"))) void other() noexcept {}";
  expect_refusal(audit(two, Isa::kScalar, {"kernel"}, {}, {"kernel", "other"}), "exports other, which was not planned");
  expect_refusal(audit(two, Isa::kScalar, {"kernel", "third"}, {}, {"kernel"}), "planned symbol third is missing");
  expect_refusal(audit(two, Isa::kScalar, {"kernel", "third"}, {}, {"kernel", "third"}), "third");
  expect_refusal(audit(two, Isa::kScalar, {}, {"kernel"}), "constant kernel is not an object");
  const std::string data = kKernel +
                           "{ *p = 0; }\n"
                           "extern \"C\" __attribute__((visibility(\"default\"))) const unsigned long value = 8;";
  expect_refusal(audit(data, Isa::kScalar, {"kernel", "value"}, {}, {"kernel", "value"}),
                 "kernel value is not a function");
  CHECK(audit(two, Isa::kScalar).ok());
}

TEST_CASE("machine code beyond the target is refused, and allowed where the target has it") {
  struct Case {
    const char* feature;
    const char* body;
    Isa refused;
    const char* needs;
    bool last_target_too;  // avx512 has it not either
  };
  const Case cases[] = {
      {"ssse3", "*(v16qi*)p = __builtin_ia32_pshufb128(*(v16qi*)p, *(v16qi*)(p + 4));", Isa::kScalar, "ssse3", false},
      {"sse4.1", "*(v4si*)p = *(v4si*)p * *(v4si*)(p + 4);", Isa::kScalar, "sse4.1", false},
      {"popcnt", "*p = __builtin_popcount(*p);", Isa::kScalar, "popcnt", false},
      {"avx", "*(v8si*)p = *(v8si*)(p + 8);", Isa::kScalar, "avx", false},
      {"avx2", "*(v8si*)p = *(v8si*)p + *(v8si*)(p + 8);", Isa::kScalar, "avx", false},
      {"avx512f,evex512", "*(v16si*)p = *(v16si*)p + *(v16si*)(p + 16);", Isa::kAvx2, "avx512f", false},
      {"avx512f,evex512", "*(unsigned short*)p = __builtin_ia32_knothi(*(unsigned short*)p);", Isa::kAvx2, "avx512f",
       false},
      {"avx512vnni,evex512",
       "*(v16si*)p = __builtin_ia32_vpdpbusd512(*(v16si*)p, *(v16si*)(p + 16), *(v16si*)(p + 32));", Isa::kAvx2,
       "avx512", false},
      {"avxvnni", "*(v8si*)p = __builtin_ia32_vpdpbusd256(*(v8si*)p, *(v8si*)(p + 8), *(v8si*)(p + 16));", Isa::kAvx2,
       "avxvnni", true},
      {"avx512vbmi,evex512", "*(v64qi*)p = __builtin_ia32_permvarqi512(*(v64qi*)p, *(v64qi*)(p + 16));", Isa::kAvx512,
       "avx512vbmi", true},
      {"avx512vpopcntdq,evex512", "*(v16si*)p = __builtin_ia32_vpopcntd_512(*(v16si*)p);", Isa::kAvx512,
       "avx512vpopcntdq", true},
  };
  for (const Case& each : cases) {
    CAPTURE(each.feature);
    const std::string source = with_feature(each.feature, each.body);
    expect_refusal(audit(source, each.refused), std::string("needs ") + each.needs);
    if (!each.last_target_too) {
      const Status allowed = audit(source, Isa::kAvx512);
      CHECK_MESSAGE(allowed.ok(), allowed.error().message);
    }
  }
}

TEST_CASE("the two encodings of vpdpbusd, and the byte permutations, go to the targets that have them") {
  const std::string dot = "*(v8si*)p = __builtin_ia32_vpdpbusd256(*(v8si*)p, *(v8si*)(p + 8), *(v8si*)(p + 16));";
  const std::string vex = with_feature("avxvnni", dot);
  CHECK(audit(vex, Isa::kAvx2Vnni).ok());
  expect_refusal(audit(vex, Isa::kAvx2), "needs avxvnni");
  expect_refusal(audit(vex, Isa::kAvx512Vbmi), "needs avxvnni");
  const std::string evex = with_feature("avx512vl,avx512vnni", dot);
  CHECK(audit(evex, Isa::kAvx512).ok());
  expect_refusal(audit(evex, Isa::kAvx2), "needs avx512");
  // clang takes the VEX form where both exist.
  const std::string named =
      with_feature("avx512vl,avx512vnni", "asm volatile(\"{evex} vpdpbusd %ymm1, %ymm2, %ymm3\");");
  expect_refusal(audit(named, Isa::kAvx2Vnni), "needs avx512vnni");
  for (const char* permutation : {"__builtin_ia32_permvarqi512(*(v64qi*)p, *(v64qi*)(p + 16))",
                                  "__builtin_ia32_vpermi2varqi512(*(v64qi*)p, *(v64qi*)(p + 16), *(v64qi*)(p + 32))",
                                  "__builtin_ia32_vpmultishiftqb512(*(v64qi*)p, *(v64qi*)(p + 16))"}) {
    CAPTURE(permutation);
    const std::string source = with_feature("avx512vbmi,evex512", "*(v64qi*)p = " + std::string(permutation) + ";");
    expect_refusal(audit(source, Isa::kAvx512), "needs avx512vbmi");
    const Status allowed = audit(source, Isa::kAvx512Vbmi);
    CHECK_MESSAGE(allowed.ok(), allowed.error().message);
  }
}

TEST_CASE("AArch64 code decodes with exactly the features of its target") {
  const auto with = [](const std::string& extension, const std::string& instruction) {
    return kKernel + "{ asm volatile(\".arch_extension " + extension + "\\n" + instruction +
           "\" : : \"r\"(p) : \"v0\", \"x1\", \"memory\"); *p = 0; }";
  };
  const std::string dot = with("dotprod", "sdot v0.4s, v1.16b, v2.16b");
  expect_refusal(audit(dot, Isa::kNeon), "'sdot v0.4s, v1.16b, v2.16b' needs more than +neon");
  CHECK(audit(dot, Isa::kNeonDotprod).ok());
  CHECK(audit(dot, Isa::kNeonI8mm).ok());
  const std::string matrix = with("i8mm", "smmla v0.4s, v1.16b, v2.16b");
  expect_refusal(audit(matrix, Isa::kNeonDotprod), "'smmla v0.4s, v1.16b, v2.16b' needs more than +neon,+dotprod");
  CHECK(audit(matrix, Isa::kNeonI8mm).ok());
  expect_refusal(audit(with("fp16", "fadd v0.8h, v1.8h, v2.8h"), Isa::kNeonI8mm), "needs more than");
  expect_refusal(audit(with("sve", "ptrue p0.b"), Isa::kNeonI8mm), "needs more than");
  expect_refusal(audit(with("lse", "ldadd w1, w1, [x0]"), Isa::kNeonI8mm), "needs more than");
  expect_refusal(audit(kKernel + "{ asm volatile(\".inst 0xffffffff\"); *p = 0; }", Isa::kNeon), "no instruction");
}

TEST_CASE("AArch64 code neither enters the system, nor changes modes, nor synchronises, nor traps") {
  const std::pair<const char*, const char*> cases[] = {
      {"svc #0", "enters the system"},
      {"hlt #1", "enters the system"},
      {"mrs x1, cntvct_el0", "enters the system"},
      {"mrs x1, tpidr_el0", "enters the system"},
      {"msr fpcr, x1", "enters the system"},
      {"wfi", "enters the system"},
      {"yield", "enters the system"},
      {"dmb ish", "enters the system"},
      {"isb", "enters the system"},
      {"dc zva, x1", "enters the system"},
      {"brk #1", "traps"},
      {"udf #0", "traps"},
      {"ldxr w1, [x0]", "synchronises"},
      {"stxr w2, w1, [x0]", "synchronises"},
      {"ldar w1, [x0]", "synchronises"},
      {"stlr w1, [x0]", "synchronises"},
  };
  for (const auto& [instruction, offence] : cases) {
    CAPTURE(instruction);
    const std::string source = kKernel + "{ asm volatile(\"" + instruction + "\" : : : \"x1\", \"memory\"); *p = 0; }";
    expect_refusal(audit(source, Isa::kNeon), offence);
  }
  CHECK(audit(kKernel + "{ asm volatile(\"nop\"); *p = 0; }", Isa::kNeon).ok());
}

TEST_CASE("RISC-V code by exact features; unknown architectures are refused") {
  Target target;
  target.name = "riscv64";
  target.triple = "riscv64-unknown-linux-gnu";
  target.features = "+m,+f,+d";
  const auto judge = [&](std::uint32_t word) { return audit_code(std::as_bytes(std::span(&word, 1)), 0, target); };
  CHECK(judge(0x00B50533).ok());                                   // add a0, a0, a1
  CHECK(judge(0x02B50533).ok());                                   // mul a0, a0, a1
  expect_refusal(judge(0x00000073), "'ecall' enters the system");  // and csr instructions with it
  expect_refusal(judge(0x00302573), "enters the system");          // frcsr a0
  expect_refusal(judge(0x0FF0000F), "'fence' synchronises");
  expect_refusal(judge(0x02008057), "no instruction of this target");  // a vector instruction
  target.features = "+f,+d";
  expect_refusal(judge(0x02B50533), "no instruction of this target");
  target.triple = "wasm32-unknown-unknown";
  expect_refusal(judge(0x00B50533), "no rules for machine code of wasm32");
}

TEST_CASE("a kernel neither enters the system nor changes the floating-point mode") {
  expect_refusal(audit(kKernel + "{ asm volatile(\"syscall\" : : : \"memory\"); *p = 0; }", Isa::kAvx512),
                 "enter the system");
  expect_refusal(audit(kKernel + "{ *p = (int)__builtin_ia32_rdtsc(); }", Isa::kAvx512), "enter the system");
  expect_refusal(audit(kKernel + "{ __builtin_ia32_ldmxcsr(*p); }", Isa::kScalar), "floating-point");
  expect_refusal(audit(kKernel + "{ asm volatile(\"vldmxcsr (%0)\" : : \"r\"(p)); }", Isa::kAvx2), "floating-point");
  expect_refusal(audit(kKernel + "{ asm volatile(\".byte 0x06\"); *p = 0; }", Isa::kScalar), "no instruction");
}

TEST_CASE("a damaged ELF file is an error, not a crash") {
  const Result<std::string> image = build(kKernel + "{ *p = 0; }", Isa::kScalar);
  REQUIRE(image.ok());
  for (std::size_t size = 0; size < image->size(); size += 61) {
    const Result<ElfImage> elf = ElfImage::parse(std::as_bytes(std::span(*image).first(size)));
    if (elf.ok()) (void)elf->flatten().ok();
  }
  for (std::size_t i = 0; i < 2000 && i < image->size(); ++i) {
    std::string damaged = *image;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
    const Result<ElfImage> elf = ElfImage::parse(std::as_bytes(std::span(damaged)));
    if (elf.ok()) (void)elf->flatten().ok();
  }
}

TEST_CASE("clang's messages come back") {
  const Result<ClangOutput> output = compile_with_clang("void f() { return 1; }", "kernel.cc", target_of(Isa::kScalar));
  REQUIRE_FALSE(output.ok());
  CHECK(output.error().message.find("kernel.cc:1:") != std::string::npos);
  const Result<ClangOutput> include = compile_with_clang("#include <stdio.h>\n", "kernel.cc", target_of(Isa::kScalar));
  REQUIRE_FALSE(include.ok());  // no header of the machine is seen
  CHECK(include.error().message.find("'stdio.h' file not found") != std::string::npos);
}

}  // namespace bitnet::codegen
