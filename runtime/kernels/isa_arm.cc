// Targets of AArch64: what the kernel reports (HWCAP) and what the instructions do. Advanced SIMD is part of the
// baseline that this very file is built for; the reports are asked nevertheless, as the same rule for every target.
#include "runtime/kernels/isa_probe.h"

#if defined(__aarch64__)

#include <asm/hwcap.h>
#include <sys/auxv.h>

#include <cstdint>

namespace bitnet::isa_detail {
namespace {

// Inline assembly, so that this file is built for the baseline and the compiler cannot move anything out of the guarded
// region. Each block also checks its result. What the baseline's assembler does not know stands as its encoding.
bool run_neon() {
  alignas(16) std::int32_t sums[4] = {};
  alignas(16) std::uint8_t found[16] = {};
  // 2 * 127 in every int16, pairs of them added: 508. A lookup of index 15 in bytes of 127.
  __asm__ volatile(
      "movi v0.16b, #2\n\t"
      "movi v1.16b, #127\n\t"
      "smull v2.8h, v0.8b, v1.8b\n\t"
      "movi v3.4s, #0\n\t"
      "sadalp v3.4s, v2.8h\n\t"
      "str q3, [%[sums]]\n\t"
      "movi v4.16b, #15\n\t"
      "tbl v5.16b, {v1.16b}, v4.16b\n\t"
      "str q5, [%[found]]\n\t"
      :
      : [sums] "r"(sums), [found] "r"(found)
      : "v0", "v1", "v2", "v3", "v4", "v5", "memory");
  bool right = true;
  for (const std::int32_t value : sums) right = right && value == 508;
  for (const std::uint8_t value : found) right = right && value == 127;
  return right;
}

bool run_dotprod() {
  alignas(16) std::int32_t sums[4] = {};
  // 4 * 2 * -127 = -1016, by vector and by lane: twice.
  __asm__ volatile(
      "movi v0.16b, #2\n\t"
      "movi v1.16b, #129\n\t"
      "movi v2.4s, #0\n\t"
      ".inst 0x4e819402\n\t"  // sdot v2.4s, v0.16b, v1.16b
      ".inst 0x4fa1e802\n\t"  // sdot v2.4s, v0.16b, v1.4b[3]
      "str q2, [%[sums]]\n\t"
      :
      : [sums] "r"(sums)
      : "v0", "v1", "v2", "memory");
  bool right = true;
  for (const std::int32_t value : sums) right = right && value == -2032;
  return right;
}

bool run_i8mm() {
  alignas(16) std::int32_t sums[4] = {};
  // Rows of eight: 8 * 2 * -127.
  __asm__ volatile(
      "movi v0.16b, #2\n\t"
      "movi v1.16b, #129\n\t"
      "movi v2.4s, #0\n\t"
      ".inst 0x4e81a402\n\t"  // smmla v2.4s, v0.16b, v1.16b
      "str q2, [%[sums]]\n\t"
      :
      : [sums] "r"(sums)
      : "v0", "v1", "v2", "memory");
  bool right = true;
  for (const std::int32_t value : sums) right = right && value == -2032;
  return right;
}

}  // namespace

bool probe(Isa isa) {
  const unsigned long claims = getauxval(AT_HWCAP);
  const unsigned long claims2 = getauxval(AT_HWCAP2);
  const bool neon = (claims & HWCAP_ASIMD) != 0;
  const bool dotprod = neon && (claims & HWCAP_ASIMDDP) != 0;
  switch (isa) {
    case Isa::kScalar:
      return true;  // the baseline that this very code is built for
    case Isa::kNeon:
      return neon && guarded(run_neon);
    case Isa::kNeonDotprod:
      return dotprod && guarded(run_neon) && guarded(run_dotprod);
    case Isa::kNeonI8mm:
      return dotprod && (claims2 & HWCAP2_I8MM) != 0 && guarded(run_neon) && guarded(run_dotprod) && guarded(run_i8mm);
    default:
      return false;  // a target of another architecture
  }
}

}  // namespace bitnet::isa_detail

#endif  // __aarch64__
