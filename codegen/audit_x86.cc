// x86 machine code against the target's features. LLVM's disassembler finds where instructions begin and end (it
// decodes every extension, whatever features it is told); which extension an instruction belongs to is read from its
// encoding: legacy, VEX or EVEX, opcode map, mandatory prefix, opcode. The table below gives the exceptions, a default
// per encoding the rest. Opcodes that the table does not know in the small legacy maps are refused, not let through.
#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string>

#include "codegen/audit_code.h"
#include "codegen/machine_code.h"

namespace bitnet::codegen {
namespace {

enum class Encoding : std::uint8_t { kLegacy, kVex, kEvex, kXop, kRex2 };

// Mandatory prefixes as a set.
constexpr unsigned kNp = 1;
constexpr unsigned k66 = 2;
constexpr unsigned kF3 = 4;
constexpr unsigned kF2 = 8;
constexpr unsigned kAnyPrefix = 15;

struct Decoded {
  Encoding encoding = Encoding::kLegacy;
  unsigned map = 0;  // 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A
  unsigned prefix = kNp;
  unsigned opcode = 0;
  int w = 0;  // EVEX.W
};

struct Rule {
  Encoding encoding;
  unsigned map;
  unsigned first;
  unsigned last;
  unsigned prefixes;
  int w;  // -1: any
  std::string_view feature;
};

// Not features of any target: what no kernel may do.
constexpr std::string_view kSystem = "instructions that enter the system or read the machine's state";
constexpr std::string_view kMode = "instructions that change the floating-point or processor state";
constexpr std::string_view kUnknown = "an extension that the audit does not know";

constexpr Encoding L = Encoding::kLegacy;
constexpr Encoding V = Encoding::kVex;
constexpr Encoding E = Encoding::kEvex;

// The first rule that fits holds.
constexpr Rule kRules[] = {
    // One byte: in, out, int n, iret, hlt. int3 (CC) is the linker's padding.
    {L, 0, 0x6C, 0x6F, kAnyPrefix, -1, kSystem},
    {L, 0, 0xCD, 0xCF, kAnyPrefix, -1, kSystem},
    {L, 0, 0xE4, 0xE7, kAnyPrefix, -1, kSystem},
    {L, 0, 0xEC, 0xF0, kAnyPrefix, -1, kSystem},
    {L, 0, 0xF1, 0xF1, kAnyPrefix, -1, kSystem},
    {L, 0, 0xF4, 0xF4, kAnyPrefix, -1, kSystem},
    {L, 0, 0xFA, 0xFB, kAnyPrefix, -1, kSystem},
    // 0F: system group, syscall, msr and counters, cpuid, fxsave/ldmxcsr/xsave/fences, cmpxchg16b/rdrand.
    {L, 1, 0x00, 0x0A, kAnyPrefix, -1, kSystem},
    {L, 1, 0x0C, 0x0F, kAnyPrefix, -1, kUnknown},
    {L, 1, 0x30, 0x37, kAnyPrefix, -1, kSystem},
    {L, 1, 0xA2, 0xA2, kAnyPrefix, -1, kSystem},
    {L, 1, 0xAE, 0xAE, kAnyPrefix, -1, kMode},
    {L, 1, 0xC7, 0xC7, kAnyPrefix, -1, kSystem},
    {L, 1, 0x12, 0x12, kF2 | kF3, -1, "sse3"},
    {L, 1, 0x16, 0x16, kF3, -1, "sse3"},
    {L, 1, 0x7C, 0x7D, kAnyPrefix, -1, "sse3"},
    {L, 1, 0xD0, 0xD0, kAnyPrefix, -1, "sse3"},
    {L, 1, 0xF0, 0xF0, kAnyPrefix, -1, "sse3"},
    {L, 1, 0xB8, 0xB8, kF3, -1, "popcnt"},
    {L, 1, 0xBD, 0xBD, kF3, -1, "lzcnt"},  // F3 BC is also written for bsf, with the same result
    {L, 2, 0x00, 0x0B, kAnyPrefix, -1, "ssse3"},
    {L, 2, 0x1C, 0x1E, kAnyPrefix, -1, "ssse3"},
    {L, 2, 0x37, 0x37, kAnyPrefix, -1, "sse4.2"},
    {L, 2, 0x10, 0x41, kAnyPrefix, -1, "sse4.1"},
    {L, 2, 0xF0, 0xF1, kF2, -1, "crc32"},
    {L, 2, 0xF0, 0xF1, kNp | k66, -1, "movbe"},
    {L, 2, 0x00, 0xFF, kAnyPrefix, -1, kUnknown},
    {L, 3, 0x0F, 0x0F, kAnyPrefix, -1, "ssse3"},
    {L, 3, 0x08, 0x42, kAnyPrefix, -1, "sse4.1"},
    {L, 3, 0x60, 0x63, kAnyPrefix, -1, "sse4.2"},
    {L, 3, 0x00, 0xFF, kAnyPrefix, -1, kUnknown},
    // VEX: mask registers belong to AVX-512.
    {V, 1, 0x41, 0x4B, kAnyPrefix, -1, "avx512f"},
    {V, 1, 0x90, 0x93, kAnyPrefix, -1, "avx512f"},
    {V, 1, 0x98, 0x99, kAnyPrefix, -1, "avx512f"},
    {V, 1, 0xAE, 0xAE, kAnyPrefix, -1, kMode},
    {V, 1, 0x00, 0xFF, kAnyPrefix, -1, "avx"},
    {V, 2, 0x13, 0x13, kAnyPrefix, -1, "f16c"},
    {V, 2, 0x49, 0x4B, kAnyPrefix, -1, "amx-tile"},
    {V, 2, 0x50, 0x53, k66, -1, "avxvnni"},
    {V, 2, 0x50, 0x53, kAnyPrefix, -1, "avxvnniint8"},
    {V, 2, 0x5C, 0x5E, kAnyPrefix, -1, "amx-int8"},
    {V, 2, 0x6C, 0x6C, kAnyPrefix, -1, "amx-complex"},
    {V, 2, 0x72, 0x72, kAnyPrefix, -1, "avxneconvert"},
    {V, 2, 0xB0, 0xB1, kAnyPrefix, -1, "avxneconvert"},
    {V, 2, 0xB4, 0xB5, kAnyPrefix, -1, "avxifma"},
    {V, 2, 0x96, 0xBF, kAnyPrefix, -1, "fma"},
    {V, 2, 0xCB, 0xCD, kAnyPrefix, -1, "sha512"},
    {V, 2, 0xCF, 0xCF, kAnyPrefix, -1, "gfni"},
    {V, 2, 0xD2, 0xD3, kAnyPrefix, -1, "avxvnniint16"},
    {V, 2, 0xDA, 0xDA, kAnyPrefix, -1, "sm4"},
    {V, 2, 0xDB, 0xDF, kAnyPrefix, -1, "vaes"},
    {V, 2, 0xE0, 0xEF, kAnyPrefix, -1, "cmpccxadd"},
    {V, 2, 0xF2, 0xF3, kAnyPrefix, -1, "bmi"},
    {V, 2, 0xF7, 0xF7, kNp, -1, "bmi"},
    {V, 2, 0xF5, 0xF7, kAnyPrefix, -1, "bmi2"},
    {V, 2, 0x00, 0xFF, kAnyPrefix, -1, "avx2"},
    {V, 3, 0x1D, 0x1D, kAnyPrefix, -1, "f16c"},
    {V, 3, 0x30, 0x33, kAnyPrefix, -1, "avx512f"},
    {V, 3, 0x44, 0x44, kAnyPrefix, -1, "vpclmulqdq"},
    {V, 3, 0x5C, 0x5F, kAnyPrefix, -1, "fma4"},
    {V, 3, 0x68, 0x7F, kAnyPrefix, -1, "fma4"},
    {V, 3, 0xCE, 0xCF, kAnyPrefix, -1, "gfni"},
    {V, 3, 0xDE, 0xDF, kAnyPrefix, -1, "vaes"},
    {V, 3, 0xF0, 0xF0, kAnyPrefix, -1, "bmi2"},
    {V, 3, 0x00, 0xFF, kAnyPrefix, -1, "avx2"},
    // EVEX.
    {E, 1, 0x00, 0xFF, kAnyPrefix, -1, "avx512f"},
    {E, 2, 0x50, 0x53, k66, -1, "avx512vnni"},
    {E, 2, 0x52, 0x52, kF3, -1, "avx512bf16"},
    {E, 2, 0x50, 0x53, kAnyPrefix, -1, kUnknown},
    {E, 2, 0x54, 0x54, kAnyPrefix, -1, "avx512bitalg"},
    {E, 2, 0x55, 0x55, kAnyPrefix, -1, "avx512vpopcntdq"},
    {E, 2, 0x62, 0x63, kAnyPrefix, -1, "avx512vbmi2"},
    {E, 2, 0x68, 0x68, kAnyPrefix, -1, "avx512vp2intersect"},
    {E, 2, 0x70, 0x73, k66, -1, "avx512vbmi2"},
    {E, 2, 0x72, 0x72, kF2 | kF3, -1, "avx512bf16"},
    {E, 2, 0x75, 0x75, kAnyPrefix, 0, "avx512vbmi"},
    {E, 2, 0x7D, 0x7D, kAnyPrefix, 0, "avx512vbmi"},
    {E, 2, 0x83, 0x83, kAnyPrefix, -1, "avx512vbmi"},
    {E, 2, 0x8D, 0x8D, kAnyPrefix, 0, "avx512vbmi"},
    {E, 2, 0x8F, 0x8F, kAnyPrefix, -1, "avx512bitalg"},
    {E, 2, 0xB4, 0xB5, kAnyPrefix, -1, "avx512ifma"},
    {E, 2, 0xCF, 0xCF, kAnyPrefix, -1, "gfni"},
    {E, 2, 0xD2, 0xD3, kAnyPrefix, -1, kUnknown},
    {E, 2, 0xDB, 0xDF, kAnyPrefix, -1, "vaes"},
    {E, 2, 0x00, 0xFF, kAnyPrefix, -1, "avx512f"},
    {E, 3, 0x44, 0x44, kAnyPrefix, -1, "vpclmulqdq"},
    {E, 3, 0x70, 0x73, kAnyPrefix, -1, "avx512vbmi2"},
    {E, 3, 0xCE, 0xCF, kAnyPrefix, -1, "gfni"},
    {E, 3, 0x00, 0xFF, kAnyPrefix, -1, "avx512f"},
};

// The fields of one whole instruction of 1..15 bytes in 64-bit mode.
Decoded decode(std::span<const std::uint8_t> bytes) {
  constexpr std::array<unsigned, 4> kPp = {kNp, k66, kF3, kF2};
  const auto at = [&](std::size_t i) -> unsigned { return i < bytes.size() ? bytes[i] : 0U; };
  Decoded result;
  std::size_t i = 0;
  bool has66 = false;
  unsigned repeat = 0;
  for (;; ++i) {
    const unsigned byte = at(i);
    if (byte == 0x66) {
      has66 = true;
    } else if (byte == 0xF2 || byte == 0xF3) {
      repeat = byte == 0xF3 ? kF3 : kF2;
    } else if (byte != 0x67 && byte != 0x2E && byte != 0x36 && byte != 0x3E && byte != 0x26 && byte != 0x64 &&
               byte != 0x65 && byte != 0xF0) {
      break;
    }
  }
  result.prefix = repeat != 0 ? repeat : has66 ? k66 : kNp;
  if (at(i) == 0x62) {
    return {Encoding::kEvex, at(i + 1) & 7U, kPp[at(i + 2) & 3U], at(i + 4), static_cast<int>(at(i + 2) >> 7)};
  }
  if (at(i) == 0xC4) return {Encoding::kVex, at(i + 1) & 31U, kPp[at(i + 2) & 3U], at(i + 3), 0};
  if (at(i) == 0xC5) return {Encoding::kVex, 1, kPp[at(i + 1) & 3U], at(i + 2), 0};
  if (at(i) == 0x8F && (at(i + 1) & 31U) >= 8) return {Encoding::kXop, 0, kNp, at(i), 0};
  if (at(i) == 0xD5) return {Encoding::kRex2, 0, kNp, at(i), 0};
  if ((at(i) & 0xF0U) == 0x40) ++i;  // REX
  if (at(i) != 0x0F) {
    result.opcode = at(i);
    return result;
  }
  ++i;
  result.map = at(i) == 0x38 ? 2 : at(i) == 0x3A ? 3 : 1;
  result.opcode = result.map == 1 ? at(i) : at(i + 1);
  return result;
}

// The feature that the instruction needs; "" for the x86-64 baseline.
std::string_view needed_feature(const Decoded& code) {
  for (const Rule& rule : kRules) {
    if (rule.encoding == code.encoding && rule.map == code.map && rule.first <= code.opcode &&
        code.opcode <= rule.last && (rule.prefixes & code.prefix) != 0 && (rule.w == -1 || rule.w == code.w)) {
      return rule.feature;
    }
  }
  return code.encoding == Encoding::kLegacy ? std::string_view() : kUnknown;
}

std::set<std::string, std::less<>> features_of(const Target& target) {
  std::set<std::string, std::less<>> features = {""};
  for (std::size_t begin = 0; begin < target.features.size();) {
    std::size_t end = target.features.find(',', begin);
    if (end == std::string_view::npos) end = target.features.size();
    features.emplace(target.features.substr(begin + 1, end - begin - 1));  // without the '+'
    begin = end + 1;
  }
  // What a feature brings along, the larger ones first.
  constexpr std::pair<std::string_view, std::string_view> kImplied[] = {
      {"avx512f", "avx2"}, {"avx512f", "fma"},   {"avx512f", "f16c"}, {"avx2", "avx"},     {"avx", "sse4.2"},
      {"avx", "popcnt"},   {"sse4.2", "sse4.1"}, {"sse4.2", "crc32"}, {"sse4.1", "ssse3"}, {"ssse3", "sse3"}};
  for (const auto& [feature, implied] : kImplied) {
    if (features.contains(feature)) features.emplace(implied);
  }
  return features;
}

}  // namespace

Status audit_x86(std::span<const std::byte> code, std::uint64_t address, const Target& target) {
  BITNET_ASSIGN_OR_RETURN(const Disassembler disassembler, Disassembler::create(target.triple, target.features));
  const auto allowed = features_of(target);
  std::array<std::uint8_t, 16> bytes{};
  for (std::size_t at = 0; at < code.size();) {
    const auto instruction = disassembler.decode(code.subspan(at), address + at);
    const std::string where = "at " + hex(address + at) + ": ";
    if (!instruction) return Error{ErrorCode::kVerification, where + "bytes that are no instruction"};
    const std::size_t size = std::min<std::size_t>(instruction->size, bytes.size());
    std::memcpy(bytes.data(), code.data() + at, size);
    const std::string_view needed = needed_feature(decode(std::span(bytes).first(size)));
    if (!allowed.contains(needed)) {
      return Error{ErrorCode::kVerification, where + "'" + instruction->text() + "' needs " + std::string(needed) +
                                                 ", which the target does not have"};
    }
    at += instruction->size;
  }
  return {};
}

}  // namespace bitnet::codegen
