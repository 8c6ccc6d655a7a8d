// Names of targets, operations and formats, the grammar of kernel names, and the choice among kernels.
#include "runtime/kernels/kernel.h"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace bitnet {
namespace {

struct IsaRow {
  Isa isa;
  std::string_view name;
};
constexpr IsaRow kIsas[] = {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) {Isa::id, name},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

constexpr auto kAllIsas = [] {
  std::array<Isa, std::size(kIsas)> isas{};
  std::transform(std::begin(kIsas), std::end(kIsas), isas.begin(), [](const IsaRow& row) { return row.isa; });
  return isas;
}();

// In the order of the enumerators.
constexpr std::string_view kOps[] = {"gemv", "gemm",       "epilogue", "quantize",   "norm",      "norm_quantize",
                                     "rope", "attention",  "softmax",  "relu2_gate", "silu_gate", "gelu_gate",
                                     "gelu", "layer_norm", "head",     "head_screen"};
constexpr std::string_view kFormats[] = {"i2s", "t5", "tl1", "tl2", "i8", "f16", "bf16", "f32", "q8"};
static_assert(std::size(kOps) == static_cast<std::size_t>(Op::kHeadScreen) + 1);
static_assert(std::size(kFormats) == static_cast<std::size_t>(Format::kQ8) + 1);

template <typename Enum>
std::optional<Enum> parse(std::span<const std::string_view> names, std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}

}  // namespace

std::string_view to_string(Isa isa) { return kIsas[static_cast<std::size_t>(isa)].name; }
std::string_view to_string(Op op) { return kOps[static_cast<std::size_t>(op)]; }
std::string_view to_string(Format format) { return kFormats[static_cast<std::size_t>(format)]; }

std::optional<Isa> parse_isa(std::string_view name) {
  for (const IsaRow& row : kIsas) {
    if (row.name == name) return row.isa;
  }
  return std::nullopt;
}
std::optional<Op> parse_op(std::string_view name) { return parse<Op>(kOps, name); }
std::optional<Format> parse_format(std::string_view name) { return parse<Format>(kFormats, name); }

std::string identifier(Isa isa) {
  std::string text(to_string(isa));
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

bool is_valid(Op op, Format format) {
  switch (op) {
    case Op::kGemv:
    case Op::kGemm:
      return is_ternary(format);
    case Op::kQuantize:
    case Op::kNormQuantize:
    case Op::kHeadScreen:
      return format == Format::kI8;
    case Op::kAttention:
      return format == Format::kF16 || format == Format::kI8 || format == Format::kF32;
    case Op::kHead:
      return format == Format::kF16 || format == Format::kBf16 || format == Format::kF32 || format == Format::kQ8;
    case Op::kEpilogue:
    case Op::kNorm:
    case Op::kRope:
    case Op::kSoftmax:
    case Op::kRelu2Gate:
    case Op::kSiluGate:
    case Op::kGeluGate:
    case Op::kGelu:
    case Op::kLayerNorm:
      return format == Format::kF32;
  }
  return false;
}

std::span<const Isa> all_isas() { return kAllIsas; }

std::string Kernel::name() const {
  std::string text(to_string(format));
  text.append("_").append(to_string(op));
  if (n != 0 || k != 0 || group != 0 || m != 0) text += '_';
  if (n != 0) text.append("n").append(std::to_string(n));
  if (k != 0) text.append("k").append(std::to_string(k));
  if (group != 0) text.append("g").append(std::to_string(group));
  if (m != 0) text.append("m").append(std::to_string(m));
  text.append("_").append(identifier(isa));
  if (!technique.empty()) text.append("_").append(technique);
  return text;
}

const Kernel* find_kernel(std::span<const Kernel> kernels, std::span<const Isa> usable, const KernelRequest& request) {
  const Kernel* best = nullptr;
  for (const Kernel& kernel : kernels) {
    const bool fits = kernel.op == request.op && kernel.format == request.format &&
                      (kernel.n == 0 || kernel.n == request.n) && (kernel.k == 0 || kernel.k == request.k) &&
                      kernel.group == request.group &&
                      (request.tokens == 0 ? kernel.m == 0 : kernel.m >= request.tokens) &&
                      std::find(usable.begin(), usable.end(), kernel.isa) != usable.end();
    if (fits && (best == nullptr || kernel.m <= best->m)) best = &kernel;
  }
  return best;
}

std::vector<Isa> executable_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (probe_isa(isa)) isas.push_back(isa);
  }
  const char* forced = std::getenv("BITNET_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return isas;
  const std::optional<Isa> top = parse_isa(forced);
  // Never a silent replacement: a target that does not exist or does not run here leaves nothing to run.
  if (!top || std::find(isas.begin(), isas.end(), *top) == isas.end()) return {};
  std::erase_if(isas, [&](Isa isa) { return isa > *top; });
  return isas;
}

}  // namespace bitnet
