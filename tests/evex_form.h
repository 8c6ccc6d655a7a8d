// avx2-vnni on a CPU that has its instruction only in the other encoding. The dictionary names no encoding, so the same
// text compiled with the features of AVX-512VL + VNNI runs where those are: its vpdpbusd on 256-bit registers is then
// EVEX-encoded.
#pragma once

#include <string>
#include <string_view>

#include "codegen/targets.h"

namespace bitnet::test {

// The registry's row of avx2-vnni with AVX-512's features in place of AVX-VNNI; nothing that this target runs on
// (Isa::kAvx512) is asked here. The registry keeps +avxvnni in the row, or vnni_test fails.
inline const codegen::Target& evex_form() {
  static const std::string features = [] {
    constexpr std::string_view kVex = "+avxvnni";
    std::string text(codegen::target_of(Isa::kAvx2Vnni).features);
    const std::size_t at = text.find(kVex);
    if (at != std::string::npos) text.replace(at, kVex.size(), "+avx512f,+avx512vl,+avx512bw,+avx512vnni");
    return text;
  }();
  static const codegen::Target target = [] {
    codegen::Target changed = codegen::target_of(Isa::kAvx2Vnni);
    changed.features = features;
    return changed;
  }();
  return target;
}

}  // namespace bitnet::test
