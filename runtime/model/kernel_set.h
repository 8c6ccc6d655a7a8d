// KernelSet: which kernel does each step of one model's graph. Chosen once, at load, from the bundle's kernels and then
// the built-in ones; every choice has a name that logs, receipts and profiles print.
//
// The ternary products decide the layout of the weights: those of one shape are packed for the best gemv kernel that
// there is, and the shape's other kernels are of the same format.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/tensors.h"

namespace bitnet {

// A step of the graph that a kernel does. Behind those named here come the ternary products: for each of
// kernel_shapes().ternary one step by number of tokens (KernelSet::product).
enum class Step : std::uint16_t {
  kEpilogue,
  kNormQuantizeHidden,
  kNormQuantizeAttention,
  kNormQuantizeFfn,
  kQuantize,   // of an input without a norm
  kNorm,       // RMSNorm of any width
  kLayerNorm,  // absent unless the model has it
  kRope,       // absent in a model without
  kGate,
  kAttention,      // float16 keys and values
  kAttentionI8,    // int8 keys and values
  kAttentionF32,   // float32 keys and values
  kQuantizeHeads,  // of int8 keys and values
  kDenseF16,       // products of dense matrices, by the format of their rows; absent unless the model has some
  kDenseBf16,
  kDenseF32,
  kDenseQ8,
  kHead,
  kHeadScreen,  // the head's int8 rows
};
inline constexpr std::size_t kStepCount = static_cast<std::size_t>(Step::kHeadScreen) + 1;
// 1 token; 2; 3 and 4; 5 to 8 (these three absent without kernels for small batches); any number.
inline constexpr std::size_t kProductSteps = 5;

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

// The format in which the rows of a dense tensor meet `head` kernels: its own if there are kernels for it, else float16
// (to which the rows are expanded).
[[nodiscard]] Format dense_format(gguf::TensorType type);
[[nodiscard]] bool has_dense_kernels(gguf::TensorType type);
[[nodiscard]] Step dense_step(Format format);

class KernelSet {
 public:
  // For each step the best kernel of `bundle` (may be empty) or else of builtin_kernels() among the targets in
  // `usable`; small batches, int8 keys and values may stay without one. kFailure names the step for which there is
  // none.
  [[nodiscard]] static Result<KernelSet> choose(const ModelConfig& config, const ModelTensors& tensors,
                                                std::span<const Kernel> bundle, std::span<const Isa> usable);

  [[nodiscard]] const ChosenKernel& operator[](Step step) const { return steps_[static_cast<std::size_t>(step)]; }
  [[nodiscard]] std::span<const ChosenKernel> all() const { return steps_; }  // by Step
  // Of the products alone: those of shape s are kProductSteps s .. kProductSteps (s + 1) - 1.
  [[nodiscard]] std::span<const ChosenKernel> products() const { return all().subspan(kStepCount); }
  // The step that multiplies `tokens` >= 1 tokens by the weights of a ternary product: its kernel exists.
  [[nodiscard]] Step product(std::size_t shape, std::int64_t tokens) const;
  // In which the products must be packed.
  [[nodiscard]] const ProductLayouts& layouts() const { return layouts_; }
  // Ternary products that no kernel of the bundle does (the names of the kernels that run instead); empty if the bundle
  // has them all.
  [[nodiscard]] std::vector<std::string> products_without_bundle() const;
  // The head's rows have been expanded to `format`. Precondition: !has_dense_kernels() of their own type.
  void expand_head(Format format);
  // Of the ternary kernels; in a dense model of the head's.
  [[nodiscard]] Isa isa() const;

 private:
  std::vector<ChosenKernel> steps_;
  ProductLayouts layouts_;
};

// The layouts that choose() would settle on with these kernels; t2 (the built-in kernels') for a product that none of
// them does.
[[nodiscard]] ProductLayouts product_layouts(const ModelTensors& tensors, std::span<const Kernel> kernels,
                                             std::span<const Isa> usable);

}  // namespace bitnet
