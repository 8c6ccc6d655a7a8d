// The only generator of code at the user's run time, and it writes no code of its own: instantiations, wrappers of
// Halide pipelines, and the scratch size that the family states as a constant, so that the kernel table is filled from
// the compiled image and not from a second copy of the formula.
#include "codegen/emit.h"

#include <initializer_list>
#include <set>
#include <string_view>

#include "codegen/families.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kExport = "extern \"C\" __attribute__((visibility(\"default\"))) ";

std::string instance(Isa isa, const std::string& function, const std::string& arguments) {
  return "bitnet_kernels::" + identifier(isa) + "_family::" + function +
         (arguments.empty() ? "" : "<" + arguments + ">");
}

std::string kernel_function(const KernelSpec& spec, std::string_view args, const std::string& body) {
  return std::string(kExport) + "void " + spec.name() + "(const bitnet_" + std::string(args) +
         "_args* a) noexcept {\n  " + body + "(a);\n}\n";
}

std::string list(std::initializer_list<std::int64_t> values) {
  std::string text;
  for (const std::int64_t value : values) text.append(text.empty() ? "" : ", ").append(std::to_string(value));
  return text;
}

// The instance of a family and, beside it, the scratch that it needs.
std::string ternary(const KernelSpec& spec) {
  const Kernel& kernel = spec.kernel;
  const Point& point = spec.point;
  const std::string operation(family_operation(kernel));
  const std::string family = std::string(to_string(kernel.format)) + "_" + operation;
  std::string constants;
  std::string scratch = "0";
  if (kernel.op == Op::kGemv) {
    constants = list({kernel.n, kernel.k, kernel.group, point.streams, point.prefetch});
    scratch = instance(kernel.isa, family + "_scratch_bytes", list({kernel.k, kernel.group, point.streams})) + "()";
  } else if (kernel.m != 0) {
    constants = list({kernel.n, kernel.k, kernel.m, point.streams, point.prefetch});
  } else {
    constants = list({kernel.n, kernel.k, kernel.group, point.token_tile, point.row_tiles});
    scratch =
        instance(kernel.isa, family + "_scratch_bytes", list({kernel.k, point.token_tile, point.row_tiles})) + "()";
  }
  return kernel_function(spec, to_string(kernel.op), instance(kernel.isa, family, constants)) + std::string(kExport) +
         "const uint64_t " + spec.scratch_symbol() + " =\n    " + scratch + ";\n";
}

std::string dense(const KernelSpec& spec) {
  const Kernel& kernel = spec.kernel;
  const std::string op(to_string(kernel.op));
  return kernel_function(spec, is_gate(kernel.op) ? "gate" : op,
                         instance(kernel.isa, op + "_" + std::string(to_string(kernel.format)), ""));
}

std::string norm_quantize(const KernelSpec& spec) {
  return "BITNET_HALIDE_NORM_QUANTIZE(" + spec.name() + ", " + spec.pipeline_symbol + ", " +
         std::to_string(spec.kernel.k) + ")\n";
}

// The pipeline behind its wrapper, and the scratch of such kernels: none.
std::string halide_ternary(const KernelSpec& spec) {
  const Kernel& kernel = spec.kernel;
  const bool gemm = kernel.op == Op::kGemm;
  const std::string constants = gemm ? list({kernel.n, kernel.k, spec.point.token_tile, spec.point.row_tiles})
                                     : list({kernel.n, kernel.k, spec.point.streams});
  return std::string(gemm ? "BITNET_HALIDE_GEMM(" : "BITNET_HALIDE_GEMV(") + spec.name() + ", " + spec.pipeline_symbol +
         ", " + constants + ")\n" + std::string(kExport) + "const uint64_t " + spec.scratch_symbol() + " = 0;\n";
}

std::string kernel_text(const KernelSpec& spec) {
  if (is_ternary(spec.kernel.op)) return spec.pipeline.empty() ? ternary(spec) : halide_ternary(spec);
  return spec.pipeline.empty() ? dense(spec) : norm_quantize(spec);
}

// Headers that the kernels of an image come from, each once.
std::set<std::string> headers_of(const ImagePlan& image) {
  std::set<std::string> headers;
  for (const KernelSpec& spec : image.kernels) {
    const Kernel& kernel = spec.kernel;
    if (!spec.pipeline.empty()) {
      headers.insert("schedules/halide_adapter.h");
    } else if (is_ternary(kernel.op)) {
      headers.insert(family_header(kernel.isa, kernel.format, family_operation(kernel)));
    } else {
      for (std::string& header : dense_headers(kernel.isa)) headers.insert(std::move(header));
    }
  }
  return headers;
}

}  // namespace

std::string translation_unit_name(const ImagePlan& image) {
  return "bitnet_kernels_" + identifier(image.target->isa) + ".cc";
}

std::string emit_translation_unit(const ImagePlan& image) {
  std::string text = "// Kernels for target " + std::string(image.target->name) +
                     ", written by bitnet-codegen.\n#include \"runtime/kernels/kernel_abi.h\"\n";
  for (const std::string& header : headers_of(image)) text += "#include \"" + header + "\"\n";
  for (const KernelSpec& spec : image.kernels) text += "\n" + kernel_text(spec);
  return text;
}

}  // namespace bitnet::codegen
