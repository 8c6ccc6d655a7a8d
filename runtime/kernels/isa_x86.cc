// The x86-64 probes: cpuid says what the CPU claims, a run of representative instructions says what it does.
#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>

#include "runtime/kernels/isa_probe.h"

namespace bitnet::isa_detail {
namespace {

struct CpuidLeaves {
  unsigned ecx1 = 0;
  unsigned ebx7 = 0;
  unsigned ecx7 = 0;
  unsigned eax7_1 = 0;
  unsigned ecx_ext1 = 0;
  std::uint64_t xcr0 = 0;
};

CpuidLeaves read_cpuid() {
  CpuidLeaves leaves;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) leaves.ecx1 = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
    leaves.ebx7 = ebx;
    leaves.ecx7 = ecx;
    const unsigned last_subleaf = eax;
    if (last_subleaf >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) leaves.eax7_1 = eax;
  }
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0) leaves.ecx_ext1 = ecx;
  if ((leaves.ecx1 & bit_OSXSAVE) != 0) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    leaves.xcr0 = (std::uint64_t{high} << 32) | low;
  }
  return leaves;
}

constexpr bool all(std::uint64_t value, std::uint64_t bits) { return (value & bits) == bits; }

constexpr unsigned kLzcnt = 1U << 5;       // cpuid 0x80000001 ecx
constexpr unsigned kAvxVnni = 1U << 4;     // cpuid 7.1 eax
constexpr unsigned kAvx512Vbmi = 1U << 1;  // cpuid 7.0 ecx

bool claims_avx2(const CpuidLeaves& c) {
  return all(c.ecx1, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C | bit_MOVBE | bit_POPCNT) &&
         all(c.ebx7, bit_AVX2 | bit_BMI | bit_BMI2) && all(c.ecx_ext1, kLzcnt) && all(c.xcr0, 0x6);
}

bool claims_avx512(const CpuidLeaves& c) {
  return claims_avx2(c) && all(c.ebx7, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ | bit_AVX512CD) &&
         all(c.ecx7, bit_AVX512VNNI) && all(c.xcr0, 0xE6);
}

bool claims_avx2_vnni(const CpuidLeaves& c) { return claims_avx2(c) && all(c.eax7_1, kAvxVnni); }

bool claims_avx512_vbmi(const CpuidLeaves& c) { return claims_avx512(c) && all(c.ecx7, kAvx512Vbmi); }

// Inline assembly, so that this file itself is built for the baseline and the compiler cannot move anything out of the
// guarded region. Each block also checks its result: an instruction that runs but computes something else counts as no.
bool run_avx2() {
  alignas(32) std::int16_t sums[16];
  float fused = 0.0F;
  float from_half = 0.0F;
  std::uint64_t bits = 0;
  std::uint64_t zeros = 0;
  // 0x7f bytes times 0x01 bytes: every int16 is 254. half 0x3c00 is 1. 1 * 1 + 1 is 2. pext(0xff0, 0xf0) = 0xf.
  __asm__ volatile(
      "vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\t"
      "vpabsb %%ymm0, %%ymm1\n\t"              // 1
      "vpsrlw $1, %%ymm0, %%ymm2\n\t"          // 0x7fff
      "vpackuswb %%ymm2, %%ymm2, %%ymm2\n\t"   // 0xff
      "vpsrlw $9, %%ymm0, %%ymm3\n\t"          // 0x007f
      "vpackuswb %%ymm3, %%ymm3, %%ymm3\n\t"   // 0x7f
      "vpminub %%ymm2, %%ymm3, %%ymm2\n\t"     // 0x7f
      "vpmaddubsw %%ymm1, %%ymm2, %%ymm2\n\t"  // 254
      "vmovdqa %%ymm2, (%[sums])\n\t"
      "mov $0x3c00, %%eax\n\t"
      "vmovd %%eax, %%xmm0\n\t"
      "vcvtph2ps %%xmm0, %%xmm0\n\t"
      "vmovss %%xmm0, %[from_half]\n\t"
      "vfmadd213ss %%xmm0, %%xmm0, %%xmm0\n\t"
      "vmovss %%xmm0, %[fused]\n\t"
      "vzeroupper\n\t"
      "mov $0xff0, %%rax\n\t"
      "mov $0xf0, %%rcx\n\t"
      "pext %%rcx, %%rax, %[bits]\n\t"
      "andn %%rax, %%rcx, %%rax\n\t"
      "lzcnt %%rax, %[zeros]\n\t"
      : [bits] "=&r"(bits), [zeros] "=&r"(zeros), [fused] "=m"(fused), [from_half] "=m"(from_half)
      : [sums] "r"(sums)
      : "rax", "rcx", "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory");
  bool right = fused == 2.0F && from_half == 1.0F && bits == 0xF && zeros == 52;
  for (const std::int16_t value : sums) right = right && value == 254;
  return right;
}

bool run_avx512() {
  alignas(64) std::int32_t sums[16];
  alignas(32) std::int32_t narrow[8];
  std::uint64_t mask = 0;
  // Each int32 is 4 * 1 * 1 = 4, on 512 and on 256 bits (VL); a byte compare (BW) gives 64 set bits.
  __asm__ volatile(
      "vpternlogd $0xff, %%zmm0, %%zmm0, %%zmm0\n\t"
      "vpabsb %%zmm0, %%zmm1\n\t"
      "vpxord %%zmm2, %%zmm2, %%zmm2\n\t"
      "vpdpbusd %%zmm1, %%zmm1, %%zmm2\n\t"
      "vmovdqa64 %%zmm2, (%[sums])\n\t"
      "vpxord %%ymm18, %%ymm18, %%ymm18\n\t"
      "vmovdqa64 %%ymm1, %%ymm17\n\t"
      "vpdpbusd %%ymm17, %%ymm17, %%ymm18\n\t"
      "vmovdqa32 %%ymm18, (%[narrow])\n\t"
      "vpconflictd %%zmm2, %%zmm3\n\t"
      "vpmullq %%zmm1, %%zmm1, %%zmm3\n\t"
      "vpcmpeqb %%zmm1, %%zmm1, %%k1\n\t"
      "kmovq %%k1, %[mask]\n\t"
      "vzeroupper\n\t"
      : [mask] "=&r"(mask)
      : [sums] "r"(sums), [narrow] "r"(narrow)
      : "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory"
#if defined(__AVX512F__)
        ,
        "k1", "xmm17", "xmm18"
#endif
  );
  bool right = mask == ~std::uint64_t{0};
  for (const std::int32_t value : sums) right = right && value == 4;
  for (const std::int32_t value : narrow) right = right && value == 4;
  return right;
}

bool run_avx2_vnni() {
  alignas(32) std::int32_t sums[8];
  // 0xff is 255 as the unsigned and -1 as the signed operand: each int32 is 4 * 255 * -1, twice. The prefix asks for
  // the VEX encoding, which is what AVX-VNNI adds; the EVEX one belongs to AVX-512.
  __asm__ volatile(
      "vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\t"
      "vpxor %%ymm1, %%ymm1, %%ymm1\n\t"
      "%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm1\n\t"
      "%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm1\n\t"
      "vmovdqa %%ymm1, (%[sums])\n\t"
      "vzeroupper\n\t"
      :
      : [sums] "r"(sums)
      : "xmm0", "xmm1", "memory");
  bool right = true;
  for (const std::int32_t value : sums) right = right && value == 2 * 4 * 255 * -1;
  return right;
}

bool run_avx512_vbmi() {
  std::uint8_t low[64];
  std::uint8_t high[64];
  std::uint8_t index[64];
  std::uint8_t one[64];
  std::uint8_t two[64];
  for (unsigned i = 0; i < 64; ++i) {
    low[i] = static_cast<std::uint8_t>(3 * i + 1);
    high[i] = static_cast<std::uint8_t>(5 * i + 2);
    index[i] = static_cast<std::uint8_t>(7 * i + 11);  // all of 0..127 are met, in no order
  }
  __asm__ volatile(
      "vmovdqu64 (%[low]), %%zmm0\n\t"
      "vmovdqu64 (%[high]), %%zmm1\n\t"
      "vmovdqu64 (%[index]), %%zmm2\n\t"
      "vpermb %%zmm0, %%zmm2, %%zmm3\n\t"
      "vmovdqu64 %%zmm3, (%[one])\n\t"
      "vpermi2b %%zmm1, %%zmm0, %%zmm2\n\t"
      "vmovdqu64 %%zmm2, (%[two])\n\t"
      "vzeroupper\n\t"
      :
      : [low] "r"(low), [high] "r"(high), [index] "r"(index), [one] "r"(one), [two] "r"(two)
      : "xmm0", "xmm1", "xmm2", "xmm3", "memory");
  bool right = true;
  for (unsigned i = 0; i < 64; ++i) {
    const unsigned at = index[i] & 63U;
    right = right && one[i] == low[at] && two[i] == ((index[i] & 64U) == 0 ? low[at] : high[at]);
  }
  return right;
}

}  // namespace

bool probe(Isa isa) {
  static const CpuidLeaves leaves = read_cpuid();
  switch (isa) {
    case Isa::kScalar:
      return true;  // the baseline that this very code is built for
    case Isa::kAvx2:
      return claims_avx2(leaves) && guarded(run_avx2);
    case Isa::kAvx2Vnni:
      return claims_avx2_vnni(leaves) && guarded(run_avx2) && guarded(run_avx2_vnni);
    case Isa::kAvx512:
      return claims_avx512(leaves) && guarded(run_avx512);
    case Isa::kAvx512Vbmi:
      return claims_avx512_vbmi(leaves) && guarded(run_avx512) && guarded(run_avx512_vbmi);
    default:
      return false;  // of another architecture
  }
}

}  // namespace bitnet::isa_detail
#endif
