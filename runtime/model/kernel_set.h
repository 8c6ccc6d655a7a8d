// KernelSet: which kernel does each step of one model's graph. Chosen once, at load, from the bundle's kernels and then
// the built-in ones; every choice has a name that logs, receipts and profiles print.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/config.h"

namespace bitnet {

// A step of the graph that a kernel does. The ternary products come first, in the order of FusedMatrix::Role.
enum class Step : std::uint8_t {
  kGemvQkv,
  kGemvAttentionOutput,
  kGemvGateUp,
  kGemvDown,
  kGemmQkv,
  kGemmAttentionOutput,
  kGemmGateUp,
  kGemmDown,
  kNormQuantizeHidden,
  kNormQuantizeAttention,
  kNormQuantizeFfn,
  kNorm,
  kGate,
  kAttention,
  kHead,
};
inline constexpr std::size_t kStepCount = 15;

[[nodiscard]] constexpr Step gemv_step(FusedMatrix::Role role) { return static_cast<Step>(role); }
[[nodiscard]] constexpr Step gemm_step(FusedMatrix::Role role) {
  return static_cast<Step>(static_cast<std::uint8_t>(role) + 4);
}

struct ChosenKernel {
  Kernel kernel;
  std::string name;  // kernel.name()
  bool from_bundle = false;
};

// A kernel and how often it ran.
struct KernelUse {
  std::string name;
  std::uint64_t calls = 0;
};

class KernelSet {
 public:
  // For each step the best kernel of `bundle` (may be empty) or else of builtin_kernels() among the targets in
  // `usable`. kFailure names the step for which there is none.
  [[nodiscard]] static Result<KernelSet> choose(const ModelConfig& config, const ModelTensors& tensors,
                                                std::span<const Kernel> bundle, std::span<const Isa> usable);

  [[nodiscard]] const ChosenKernel& operator[](Step step) const { return steps_[static_cast<std::size_t>(step)]; }
  [[nodiscard]] std::span<const ChosenKernel> all() const { return steps_; }
  // Ternary products that no kernel of the bundle does (their shapes, "6912x2560"); empty if the bundle has them all.
  [[nodiscard]] std::vector<std::string> products_without_bundle() const;

 private:
  std::array<ChosenKernel, kStepCount> steps_;
};

}  // namespace bitnet
