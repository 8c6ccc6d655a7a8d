// The registry is expanded from targets.def: nothing about a target is written twice.
#include "codegen/targets.h"

#include <algorithm>
#include <array>

namespace bitnet::codegen {
namespace {

constexpr std::array kTargets = {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) \
  Target{Isa::id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

const Target* find(std::string_view name) {
  const auto* found = std::ranges::find(kTargets, name, &Target::name);
  return found == kTargets.end() ? nullptr : found;
}

std::string known_targets() {
  std::string list = "native";
  for (const Target& target : kTargets) {
    if (target.part_of.empty()) list.append(", ").append(target.name);
  }
  return list;
}

const Target* native() {
  const Target* best = nullptr;
  for (const Target& target : kTargets) {
    if (target.part_of.empty() && probe_isa(target.isa)) best = &target;
  }
  return best;
}

}  // namespace

std::span<const Target> targets() { return kTargets; }

const Target& target_of(Isa isa) { return kTargets[static_cast<std::size_t>(isa)]; }

Result<TargetSelection> select_targets(std::span<const std::string> words) {
  if (words.empty()) {
    return Error{ErrorCode::kUsage, "no target given: name one with --target (known: " + known_targets() + ")"};
  }
  std::array<bool, kTargets.size()> asked{};
  std::array<bool, kTargets.size()> wanted{};
  for (const std::string& word : words) {
    const Target* target = word == "native" ? native() : find(word);
    if (target == nullptr) {
      return Error{ErrorCode::kUsage, word == "native"
                                          ? "target native: this CPU executes none of " + known_targets()
                                          : "unknown target '" + word + "' (known: " + known_targets() + ")"};
    }
    if (!target->part_of.empty()) {
      return Error{ErrorCode::kUsage, "target '" + word + "' is a part of " + std::string(target->part_of) +
                                          " and comes with it: ask for --target " + std::string(target->part_of)};
    }
    asked[static_cast<std::size_t>(target->isa)] = true;
    for (; target != nullptr; target = target->implies.empty() ? nullptr : find(target->implies)) {
      wanted[static_cast<std::size_t>(target->isa)] = true;
    }
  }
  TargetSelection selection;
  for (const Target& target : kTargets) {
    const auto index = static_cast<std::size_t>(target.isa);
    const Target* whole = target.part_of.empty() ? &target : find(target.part_of);
    const auto whole_index = static_cast<std::size_t>(whole->isa);
    if (wanted[index] || (whole != &target && wanted[whole_index])) selection.images.push_back(&target);
    if (asked[whole_index]) selection.asked.push_back(&target);
    if (asked[index]) selection.name.append(selection.name.empty() ? "" : "+").append(target.name);
  }
  selection.single = std::ranges::count(asked, true) == 1;
  return selection;
}

}  // namespace bitnet::codegen
