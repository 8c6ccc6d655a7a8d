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
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, qemu_cpu) {Isa::id, name},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

constexpr auto kAllIsas = [] {
  std::array<Isa, std::size(kIsas)> isas{};
  std::transform(std::begin(kIsas), std::end(kIsas), isas.begin(), [](const IsaRow& row) { return row.isa; });
  return isas;
}();

// In the order of the enumerators.
constexpr std::string_view kOps[] = {"gemv",       "gemm",      "quantize",  "norm", "norm_quantize",
                                     "relu2_gate", "silu_gate", "attention", "head"};
constexpr std::string_view kFormats[] = {"i2s", "i8", "f16", "f32"};
static_assert(std::size(kOps) == static_cast<std::size_t>(Op::kHead) + 1);
static_assert(std::size(kFormats) == static_cast<std::size_t>(Format::kF32) + 1);

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

std::span<const Isa> all_isas() { return kAllIsas; }

std::string Kernel::name() const {
  std::string text(to_string(format));
  text.append("_").append(to_string(op));
  if (n != 0 || k != 0) {
    text += '_';
    if (n != 0) text.append("n").append(std::to_string(n));
    if (k != 0) text.append("k").append(std::to_string(k));
  }
  text.append("_").append(to_string(isa));
  if (!technique.empty()) text.append("_").append(technique);
  return text;
}

const Kernel* find_kernel(std::span<const Kernel> kernels, std::span<const Isa> usable, Op op, Format format,
                          std::int64_t n, std::int64_t k) {
  const auto fits = [&](const Kernel& kernel) {
    return kernel.op == op && kernel.format == format && (kernel.n == 0 || kernel.n == n) &&
           (kernel.k == 0 || kernel.k == k) && std::find(usable.begin(), usable.end(), kernel.isa) != usable.end();
  };
  const auto last = std::find_if(kernels.rbegin(), kernels.rend(), fits);
  return last == kernels.rend() ? nullptr : &*last;
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
