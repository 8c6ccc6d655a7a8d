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
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, qemu_cpu) id,
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

enum class Op : std::uint8_t {
  kGemv,
  kGemm,
  kQuantize,
  kNorm,
  kNormQuantize,
  kRelu2Gate,
  kSiluGate,
  kAttention,
  kHead,
};

// Format of the operand that gives a kernel its prefix: ternary weights (i2s = layout t2), int8 output, float rows.
//   gemv, gemm                            i2s
//   quantize, norm_quantize               i8
//   norm, relu2_gate, silu_gate           f32
//   attention (keys and values)           f16
//   head (weight rows)                    f16, f32
enum class Format : std::uint8_t { kI2s, kI8, kF16, kF32 };

[[nodiscard]] std::string_view to_string(Isa isa);
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
  std::int32_t token_tile = 1;  // gemm: tokens per tile (MR) of the packed activations
  Isa isa = Isa::kScalar;
  std::string technique;          // "" (template), "xsimd", "halide", "static" ...
  std::size_t scratch_bytes = 0;  // private scratch per call of a gemm kernel, 64-byte aligned
  void* function = nullptr;       // void (*)(const bitnet_<op>_args*)

  // NAME := <fmt>_<op>[_n<N>k<K>]_<isa>[_<technique>]; n and k are left out where they are 0. Printed, never parsed.
  [[nodiscard]] std::string name() const;

  template <typename Args>
  void operator()(const Args& args) const {
    reinterpret_cast<void (*)(const Args*)>(function)(&args);
  }
};

// The kernels compiled into the runtime, in ascending order of preference, whether or not this CPU executes them.
[[nodiscard]] std::span<const Kernel> builtin_kernels();

// The last kernel of `kernels` that does `op` on `format`, fits n and k (0 in the kernel fits all) and runs on a target
// of `usable`; nullptr if none.
[[nodiscard]] const Kernel* find_kernel(std::span<const Kernel> kernels, std::span<const Isa> usable, Op op,
                                        Format format, std::int64_t n, std::int64_t k);

// The targets that this CPU executes, ascending in preference, restricted by BITNET_FORCE_ISA (a target's name: that
// target and those below it; unknown or not executable: the list is empty, never a silent replacement, and the caller
// reports the error, see runtime/model).
[[nodiscard]] std::vector<Isa> executable_isas();

}  // namespace bitnet
