// The registry of targets: runtime/kernels/targets.def as data, and the rules by which a user's --target words become
// the list of images of a bundle.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"

namespace bitnet::codegen {

struct Target {
  Isa isa = Isa::kScalar;
  std::string_view name;
  std::string_view triple;
  std::string_view features;       // comma-separated "+name", for clang and the machine-code audit
  std::string_view halide_target;  // without the features that every pipeline gets
  std::string_view implies;        // name of the target packed along with this one, or ""
  std::string_view part_of;        // name of the target that always brings this one along, or ""
  std::string_view qemu_cpu;
};

// All targets, ascending in preference.
[[nodiscard]] std::span<const Target> targets();
[[nodiscard]] const Target& target_of(Isa isa);

// What the user asked for, resolved.
struct TargetSelection {
  std::vector<const Target*> images;  // ascending in preference, implied ones and parts included, each once
  std::vector<const Target*> asked;   // those that the user named, and their parts
  std::string name;                   // the names asked for, "native" resolved: "avx512", or "avx2+avx512"
  bool single = true;                 // one target was asked for
};
// `words`: names from targets.def, or "native" (the best target that this CPU executes). An unknown word is kUsage and
// lists the known ones, as is a part, which comes with its target; no word is kUsage.
[[nodiscard]] Result<TargetSelection> select_targets(std::span<const std::string> words);

}  // namespace bitnet::codegen
