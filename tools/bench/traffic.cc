// Bytes and operations from the model's shapes; see traffic.h.
#include "tools/bench/traffic.h"

#include <algorithm>

#include "runtime/kernels/layout.h"

namespace bitnet::bench {
namespace {

double number(std::int64_t value) { return static_cast<double>(value); }

// Multiplications and additions of all calls of an operation that is no ternary product; 0 where they do not matter.
double other_operations(Op op, const Traffic& traffic, const HeadUse& head, double positions) {
  const auto rows = static_cast<double>(head.exact_positions) * number(traffic.vocab);
  switch (op) {
    case Op::kHead:
      return 2 * number(traffic.hidden) * (rows + static_cast<double>(head.survivors));
    case Op::kHeadScreen:
      return traffic.head_operations() * static_cast<double>(head.screened_positions + head.int8_positions);
    case Op::kAttention:
      return traffic.kv_operations * positions;
    default:
      return 0;
  }
}

}  // namespace

double limit_seconds(const Work& work, const ProbeReading& probes) {
  return 1e-9 * std::max(work.bytes / probes.read_gbps, work.operations / probes.dot_gops);
}

bool is_memory_bound(const Work& work, const ProbeReading& probes) {
  return work.bytes / probes.read_gbps >= work.operations / probes.dot_gops;
}

Work Traffic::products() const {
  Work work;
  for (const TernaryPart& part : ternary) {
    work.bytes += part.bytes;
    work.operations += part.operations;
  }
  work.bytes += dense_bytes;
  return work;
}

double Traffic::head_exact_bytes() const { return number(vocab) * number(hidden) * head_weight_bytes; }
double Traffic::head_int8_bytes() const { return number(vocab) * number(hidden); }
double Traffic::head_operations() const { return 2 * number(vocab) * number(hidden); }

double Traffic::head_bytes(const HeadUse& use) const {
  return static_cast<double>(use.exact_positions) * head_exact_bytes() +
         static_cast<double>(use.screened_positions + use.int8_positions) * head_int8_bytes() +
         static_cast<double>(use.survivors) * number(hidden) * head_weight_bytes;
}

Result<Traffic> traffic_of(const Model& model, KvType kv_type) {
  const ModelConfig& config = model.config();
  const ModelTensors& tensors = model.tensors();
  Traffic traffic;
  for (const LayerTensors& layer : tensors.layers) {
    for (const FusedMatrix& product : layer.products) {
      if (!product.exists()) continue;
      if (!product.ternary()) {
        for (const MatrixPart& part : product.parts) traffic.dense_bytes += number(Model::dense_bytes(*part.tensor));
        continue;
      }
      const Layout layout = model.kernels().layouts()[product.shape];
      auto part = std::ranges::find(traffic.ternary, info(layout).name, &TernaryPart::layout);
      if (part == traffic.ternary.end()) {
        part = traffic.ternary.insert(part, TernaryPart{std::string(info(layout).name), 0, 0});
      }
      part->bytes += static_cast<double>(matrix_bytes(layout, product.n, product.k));
      part->operations += 2 * number(product.n) * number(product.k);
    }
  }
  traffic.vocab = config.vocab;
  traffic.hidden = config.hidden;
  traffic.head_weight_bytes =
      number(Model::dense_bytes(*tensors.head)) / (number(config.vocab) * number(config.hidden));
  traffic.kv_bytes = 2 * number(config.layers * config.kv_heads) * number(kv_row_bytes(kv_type, config.head_dim));
  traffic.kv_operations = 4 * number(config.layers * config.heads * config.head_dim);
  return traffic;
}

HeadUse difference(const HeadUse& after, const HeadUse& before) {
  return {.exact_positions = after.exact_positions - before.exact_positions,
          .screened_positions = after.screened_positions - before.screened_positions,
          .int8_positions = after.int8_positions - before.int8_positions,
          .survivors = after.survivors - before.survivors};
}

double KernelTime::fraction(const ProbeReading& probes) const {
  if (seconds <= 0) return 0;
  return limit_seconds({bytes, ternary ? operations : 0}, probes) / seconds;
}

double Profile::kernel_seconds() const {
  double sum = 0;
  for (const KernelTime& kernel : kernels) sum += kernel.seconds;
  return sum;
}

double attended(std::int64_t first, std::int64_t count) {
  return number(count) * number(first) + number(count) * number(count + 1) / 2;
}

void add_uses(const KernelSet& kernels, const Traffic& traffic, const Counters& after, const Counters& before,
              double positions, Profile& profile) {
  const HeadUse head = difference(after.head, before.head);
  for (const KernelUse& use : after.kernels) {
    const auto old = std::ranges::find(before.kernels, use.name, &KernelUse::name);
    const KernelUse start = old == before.kernels.end() ? KernelUse{} : *old;
    if (use.calls == start.calls) continue;
    auto kernel = std::ranges::find(profile.kernels, use.name, &KernelTime::name);
    if (kernel == profile.kernels.end()) {
      kernel = profile.kernels.insert(kernel, KernelTime{});
      kernel->name = use.name;
    }
    kernel->calls += use.calls - start.calls;
    kernel->bytes += static_cast<double>(use.bytes - start.bytes);
    kernel->seconds += use.seconds - start.seconds;
    const auto chosen = std::ranges::find(kernels.all(), use.name, &ChosenKernel::name);
    if (chosen == kernels.all().end()) continue;
    kernel->ternary = is_ternary(chosen->kernel.op);
    kernel->operations += kernel->ternary ? static_cast<double>(use.operations - start.operations)
                                          : other_operations(chosen->kernel.op, traffic, head, positions);
  }
  std::ranges::stable_sort(profile.kernels, std::ranges::greater{}, &KernelTime::seconds);
}

}  // namespace bitnet::bench
