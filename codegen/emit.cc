// The only generator of code at the user's run time, and it writes no code of its own: instantiations, wrappers of
// Halide pipelines, and the scratch size that the family states as a constant, so that the kernel table is filled from
// the compiled image and not from a second copy of the formula.
#include "codegen/emit.h"

#include <algorithm>

namespace bitnet::codegen {
namespace {

constexpr std::string_view kExport = "extern \"C\" __attribute__((visibility(\"default\"))) ";

std::string instance(Isa isa, std::string_view function, std::string_view arguments) {
  std::string text = "bitnet_kernels::";
  text.append(to_string(isa)).append("_family::").append(function).append("<").append(arguments).append(">");
  return text;
}

std::string gemv(const KernelSpec& spec) {
  const Kernel& kernel = spec.kernel;
  const std::string arguments = std::to_string(kernel.n) + ", " + std::to_string(kernel.k) + ", " +
                                std::to_string(spec.point.streams) + ", " + std::to_string(spec.point.prefetch);
  return std::string(kExport) + "void " + spec.name() + "(const bitnet_gemv_args* a) noexcept {\n  " +
         instance(kernel.isa, "i2s_gemv", arguments) + "(a);\n}\n";
}

std::string gemm(const KernelSpec& spec) {
  const Kernel& kernel = spec.kernel;
  const std::string blocks = std::to_string(spec.point.token_tile) + ", " + std::to_string(spec.point.row_tiles);
  const std::string k = std::to_string(kernel.k);
  return std::string(kExport) + "void " + spec.name() + "(const bitnet_gemm_args* a) noexcept {\n  " +
         instance(kernel.isa, "i2s_gemm", std::to_string(kernel.n) + ", " + k + ", " + blocks) + "(a);\n}\n" +
         std::string(kExport) + "const uint64_t " + spec.scratch_symbol() + " =\n    " +
         instance(kernel.isa, "i2s_gemm_scratch_bytes", k + ", " + blocks) + "();\n";
}

std::string norm_quantize(const KernelSpec& spec) {
  return "BITNET_HALIDE_NORM_QUANTIZE(" + spec.name() + ", " + spec.pipeline_symbol + ", " +
         std::to_string(spec.kernel.k) + ")\n";
}

}  // namespace

std::string translation_unit_name(const ImagePlan& image) {
  return "bitnet_kernels_" + std::string(image.target->name) + ".cc";
}

std::string emit_translation_unit(const ImagePlan& image) {
  const std::string isa(image.target->name);
  const auto has = [&](Op op) {
    return std::ranges::any_of(image.kernels, [op](const KernelSpec& spec) { return spec.kernel.op == op; });
  };
  std::string text =
      "// Kernels for target " + isa + ", written by bitnet-codegen.\n#include \"runtime/kernels/kernel_abi.h\"\n";
  if (has(Op::kGemv)) text += "#include \"generated/i2s_gemv_" + isa + ".h\"\n";
  if (has(Op::kGemm)) text += "#include \"generated/i2s_gemm_" + isa + ".h\"\n";
  if (has(Op::kNormQuantize)) text += "#include \"schedules/halide_adapter.h\"\n";
  for (const KernelSpec& spec : image.kernels) {
    text += '\n';
    switch (spec.kernel.op) {
      case Op::kGemv:
        text += gemv(spec);
        break;
      case Op::kGemm:
        text += gemm(spec);
        break;
      default:
        text += norm_quantize(spec);
        break;
    }
  }
  return text;
}

}  // namespace bitnet::codegen
