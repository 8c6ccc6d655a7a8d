// Kernel: what the runtime knows of one kernel, built in or from a bundle. One list of these feeds dispatch, self-test,
// tests and bench, so that no kernel can exist untested.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet {

enum class Isa : std::uint8_t {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) id,
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

// In the order of kOps in kernel.cc.
enum class Op : std::uint8_t {
  kGemv,
  kGemm,
  kEpilogue,
  kQuantize,
  kNorm,
  kNormQuantize,
  kRope,
  kAttention,
  kSoftmax,
  kRelu2Gate,
  kSiluGate,
  kGeluGate,
  kGelu,
  kLayerNorm,
  kHead,
  kHeadScreen,
};

// Format of the operand that gives a kernel its prefix: packed ternary weights, int8 output, float rows.
//   gemv, gemm                                          i2s (layout t2), t5, tl1, tl2
//   quantize, norm_quantize (output), head_screen (rows)  i8
//   norm, layer_norm, rope, softmax, gelu, relu2_gate, silu_gate, gelu_gate, epilogue  f32
//   attention (keys and values)                         f16, i8, f32
//   head (weight rows)                                  f16, bf16, f32, q8 (blocks of 32 int8 with a float16 factor)
enum class Format : std::uint8_t { kI2s, kT5, kTl1, kTl2, kI8, kF16, kBf16, kF32, kQ8 };

[[nodiscard]] constexpr bool is_ternary(Op op) { return op == Op::kGemv || op == Op::kGemm; }
// y = act(gate) * up, by bitnet_gate_args.
[[nodiscard]] constexpr bool is_gate(Op op) {
  return op == Op::kRelu2Gate || op == Op::kSiluGate || op == Op::kGeluGate;
}
[[nodiscard]] constexpr bool is_ternary(Format format) { return format <= Format::kTl2; }
// Whether kernels of `op` on `format` can exist: the table above.
[[nodiscard]] bool is_valid(Op op, Format format);

[[nodiscard]] std::string_view to_string(Isa isa);
// The target's name as part of a C identifier: "neon_dotprod". In kernel names, file names and namespaces.
[[nodiscard]] std::string identifier(Isa isa);
[[nodiscard]] std::string_view to_string(Op op);
[[nodiscard]] std::string_view to_string(Format format);
[[nodiscard]] std::optional<Isa> parse_isa(std::string_view name);
[[nodiscard]] std::optional<Op> parse_op(std::string_view name);
[[nodiscard]] std::optional<Format> parse_format(std::string_view name);
[[nodiscard]] std::span<const Isa> all_isas();

// True where this CPU really executes the target: its instructions are run once, under a SIGILL guard; the answer is
// kept. BITNET_FORCE_ISA is not consulted here. Thread-safe.
[[nodiscard]] bool probe_isa(Isa isa);

struct Kernel {
  Format format = Format::kI2s;
  Op op = Op::kGemv;
  std::int64_t n = 0;           // outputs; 0 = any (N is read from the arguments) or not applicable
  std::int64_t k = 0;           // inputs; 0 = any
  std::int32_t group = 0;       // ternary: K-group of 64, 128 or 256; 0 = one sum over K
  std::int32_t m = 0;           // gemm: the most tokens of a call (small-batch kernels); 0 = any number
  std::int32_t token_tile = 1;  // gemm: tokens per tile (MR) of the packed activations
  Isa isa = Isa::kScalar;
  std::string technique;          // "" (template), "xsimd", "halide", "static" ...
  std::size_t scratch_bytes = 0;  // private scratch per call of a ternary kernel, 64-byte aligned
  void* function = nullptr;       // void (*)(const bitnet_<op>_args*)

  // NAME := <fmt>_<op>[_n<N>k<K>g<G>m<M>]_<isa>[_<technique>]; what is 0 is left out. Printed, never parsed.
  [[nodiscard]] std::string name() const;

  template <typename Args>
  void operator()(const Args& args) const {
    reinterpret_cast<void (*)(const Args*)>(function)(&args);
  }
};

// The kernels compiled into the runtime, in ascending order of preference, whether or not this CPU executes them.
[[nodiscard]] std::span<const Kernel> builtin_kernels();

// What a caller needs done.
struct KernelRequest {
  Op op = Op::kGemv;
  Format format = Format::kI2s;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int32_t group = 0;
  std::int32_t tokens = 0;  // gemm: a small-batch kernel that takes this many (its m >= tokens); 0: one with m = 0
};
// The last kernel of `kernels` that does what is asked for, fits n and k (0 in the kernel fits all) and runs on a
// target of `usable`; among small-batch kernels the smallest m that suffices goes first. nullptr if none.
[[nodiscard]] const Kernel* find_kernel(std::span<const Kernel> kernels, std::span<const Isa> usable,
                                        const KernelRequest& request);

// The targets that this CPU executes, ascending in preference, restricted by BITNET_FORCE_ISA (a target's name: that
// target and those below it; unknown or not executable: the list is empty, never a silent replacement, and the caller
// reports the error, see runtime/model).
[[nodiscard]] std::vector<Isa> executable_isas();

}  // namespace bitnet
