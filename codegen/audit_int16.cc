// By the grammar of the names: _mm[256|512]_[mask_|maskz_]STEM_epi16 on x86, STEM[_n|_lane|_laneq]_s16 on ARM.
// Not in the table, because one application of them is exact whatever the operands: products of two int8 in 16 bits
// (vmull_s8: at most 128 * 128), sums of two widened int8 (vaddl_s8, vpaddl_s8: at most 256), differences likewise.
#include "codegen/audit_int16.h"

#include <algorithm>
#include <array>

namespace bitnet::codegen {
namespace {

struct Stem {
  std::string_view stem;
  std::string_view hazard;
};

constexpr std::string_view kWraps = "its lanes wrap at 32767";
constexpr std::string_view kSaturates = "its lanes are clamped at 32767, silently";
constexpr std::string_view kPairs = "it adds two products in 16 bits and clamps at 32767, silently";
constexpr std::string_view kAcross = "it adds lanes of 16 bits to each other and wraps at 32767";
constexpr std::string_view kWidens = "it adds products or int8 values to 16-bit lanes, which wrap at 32767";

// x86, results of 16 bits.
constexpr std::array kX86 = {
    Stem{"add", kWraps},     Stem{"sub", kWraps},         Stem{"adds", kSaturates}, Stem{"subs", kSaturates},
    Stem{"hadd", kAcross},   Stem{"hsub", kAcross},       Stem{"hadds", kAcross},   Stem{"hsubs", kAcross},
    Stem{"maddubs", kPairs}, Stem{"reduce_add", kAcross},
};
// ARM, operands of 16 bits.
constexpr std::array kArm16 = {
    Stem{"vadd", kWraps},      Stem{"vaddq", kWraps},      Stem{"vsub", kWraps},      Stem{"vsubq", kWraps},
    Stem{"vqadd", kSaturates}, Stem{"vqaddq", kSaturates}, Stem{"vqsub", kSaturates}, Stem{"vqsubq", kSaturates},
    Stem{"vmla", kWraps},      Stem{"vmlaq", kWraps},      Stem{"vmls", kWraps},      Stem{"vmlsq", kWraps},
    Stem{"vpadd", kAcross},    Stem{"vpaddq", kAcross},    Stem{"vaddv", kAcross},    Stem{"vaddvq", kAcross},
};
// ARM, operands of 8 bits added to 16.
constexpr std::array kArm8 = {
    Stem{"vmlal", kWidens},  Stem{"vmlal_high", kWidens}, Stem{"vmlsl", kWidens}, Stem{"vmlsl_high", kWidens},
    Stem{"vpadal", kWidens}, Stem{"vpadalq", kWidens},    Stem{"vabal", kWidens}, Stem{"vabal_high", kWidens},
    Stem{"vaddw", kWidens},  Stem{"vaddw_high", kWidens}, Stem{"vsubw", kWidens}, Stem{"vsubw_high", kWidens},
};

template <std::size_t N>
std::string_view find(const std::array<Stem, N>& table, std::string_view stem) {
  const auto found = std::ranges::find(table, stem, &Stem::stem);
  return found == table.end() ? std::string_view() : found->hazard;
}

bool drop_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}
bool drop_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

}  // namespace

std::string_view int16_hazard(std::string_view name) {
  std::string_view stem = name;
  if (drop_prefix(stem, "_mm")) {
    if (!drop_prefix(stem, "256")) drop_prefix(stem, "512");
    if (!drop_prefix(stem, "_")) return {};
    if (!drop_prefix(stem, "maskz_")) drop_prefix(stem, "mask_");
    if (!drop_suffix(stem, "_epi16") && !drop_suffix(stem, "_epu16") && !drop_suffix(stem, "_pi16")) return {};
    return find(kX86, stem);
  }
  const bool sixteen = drop_suffix(stem, "_s16") || drop_suffix(stem, "_u16");
  if (!sixteen && !drop_suffix(stem, "_s8") && !drop_suffix(stem, "_u8")) return {};
  if (!drop_suffix(stem, "_n") && !drop_suffix(stem, "_lane")) drop_suffix(stem, "_laneq");
  return sixteen ? find(kArm16, stem) : find(kArm8, stem);
}

}  // namespace bitnet::codegen
