// KernelSet: which kernel does each step of one model's graph. Chosen once, at load, from the bundle's kernels and then
// the built-in ones; every choice has a name that logs, receipts and profiles print.
//
// The ternary products decide the layout of the weights: a product is packed for the best gemv kernel that there is,
// and its other kernels are of the same format.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/tensors.h"

namespace bitnet {

// A step of the graph that a kernel does. The ternary products come first: by number of tokens, and for each of these
// by FusedMatrix::Role.
enum class Step : std::uint8_t {
  kGemv = 0,     // 1 token
  kBatch2 = 4,   // 2 tokens: absent without a kernel for small batches
  kBatch4 = 8,   // 3 and 4
  kBatch8 = 12,  // 5 to 8
  kGemm = 16,    // any number
  kEpilogue = 20,
  kNormQuantizeHidden,
  kNormQuantizeAttention,
  kNormQuantizeFfn,
  kNorm,
  kRope,
  kGate,
  kAttention,      // float16 keys and values
  kAttentionI8,    // int8 keys and values
  kQuantizeHeads,  // of int8 keys and values
  kHead,
  kHeadScreen,  // the head's int8 rows
};
inline constexpr std::size_t kStepCount = static_cast<std::size_t>(Step::kHeadScreen) + 1;
inline constexpr std::size_t kProductSteps = static_cast<std::size_t>(Step::kEpilogue);

[[nodiscard]] constexpr Step product_step(Step tokens, FusedMatrix::Role role) {
  return static_cast<Step>(static_cast<std::uint8_t>(tokens) + static_cast<std::uint8_t>(role));
}

struct ChosenKernel {
  Kernel kernel;
  std::string name;  // kernel.name(); empty: the step has no kernel
  bool from_bundle = false;
  [[nodiscard]] bool exists() const { return !name.empty(); }
};

// A kernel, how often it ran and what its calls had to do.
struct KernelUse {
  std::string name;
  std::uint64_t calls = 0;
  std::uint64_t bytes = 0;       // of weights, keys and values that the calls had to read
  std::uint64_t operations = 0;  // ternary products: multiplications and additions
  double seconds = 0.0;          // in the calls of one thread; only with ContextOptions::profile
};

class KernelSet {
 public:
  // For each step the best kernel of `bundle` (may be empty) or else of builtin_kernels() among the targets in
  // `usable`; small batches, int8 keys and values may stay without one. kFailure names the step for which there is
  // none.
  [[nodiscard]] static Result<KernelSet> choose(const ModelConfig& config, const ModelTensors& tensors,
                                                std::span<const Kernel> bundle, std::span<const Isa> usable);

  [[nodiscard]] const ChosenKernel& operator[](Step step) const { return steps_[static_cast<std::size_t>(step)]; }
  [[nodiscard]] std::span<const ChosenKernel> all() const { return steps_; }
  // The step that multiplies `tokens` >= 1 tokens by a product's weights: its kernel exists.
  [[nodiscard]] Step product(FusedMatrix::Role role, std::int64_t tokens) const;
  // In which the products must be packed.
  [[nodiscard]] const ProductLayouts& layouts() const { return layouts_; }
  // Ternary products that no kernel of the bundle does (the names of the kernels that run instead); empty if the bundle
  // has them all.
  [[nodiscard]] std::vector<std::string> products_without_bundle() const;

 private:
  std::array<ChosenKernel, kStepCount> steps_;
  ProductLayouts layouts_{};
};

// The layouts that choose() would settle on with these kernels; t2 (the built-in kernels') for a product that none of
// them does.
[[nodiscard]] ProductLayouts product_layouts(const ModelTensors& tensors, std::span<const Kernel> kernels,
                                             std::span<const Isa> usable);

}  // namespace bitnet
