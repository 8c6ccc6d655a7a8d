#include "tests/layer_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/kernel_set.h"
#include "runtime/model/rope.h"

namespace bitnet::test {
namespace {

Buffer allocate(std::size_t bytes) {
  auto buffer = Buffer::allocate(bytes);
  REQUIRE(buffer.ok());
  return std::move(buffer).value();
}

// Rows of `width` floats without a rest.
std::int64_t row_count(const Floats& x, std::int64_t width) {
  REQUIRE(x.size() % static_cast<std::size_t>(width) == 0);
  return static_cast<std::int64_t>(x.size()) / width;
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

Quantized empty_rows(std::int64_t tokens, std::int64_t k) {
  Quantized rows;
  rows.tokens = tokens;
  rows.k = k;
  rows.padded = BITNET_ACTIVATION_WIDTH(k);
  rows.q = allocate(static_cast<std::size_t>(tokens * rows.padded));
  rows.scales.resize(static_cast<std::size_t>(tokens));
  rows.sums.resize(static_cast<std::size_t>(tokens));
  return rows;
}

}  // namespace

NodeFiles::NodeFiles(std::string beginning) : beginning_(std::move(beginning)) {
  std::ifstream list(beginning_ + "nodes.txt");
  REQUIRE_MESSAGE(list, beginning_, "nodes.txt cannot be read");
  std::string line;
  while (std::getline(list, line)) {
    std::istringstream words(line);
    std::string index;
    std::string name;
    std::string operation;
    std::string shape;
    words >> index >> name >> operation >> shape;
    unsigned long ne[4] = {};
    REQUIRE_MESSAGE((words && operation.starts_with("op=") &&
                     std::sscanf(shape.c_str(), "ne=[%lu,%lu,%lu,%lu]", &ne[0], &ne[1], &ne[2], &ne[3]) == 4),
                    line);
    for (char& c : name) {
      if (c == '(' || c == ')') c = '_';
    }
    const std::string key = name.append(".").append(operation, 3);
    nodes_.push_back(
        {key, std::string("t.").append(index).append(".").append(key).append(".f32"), ne[0] * ne[1] * ne[2] * ne[3]});
  }
}

Floats NodeFiles::operator()(const std::string& key, int occurrence) const {
  for (const Node& node : nodes_) {
    if (node.key != key || --occurrence != 0) continue;
    Floats data = read_array<float>(beginning_ + node.file);
    REQUIRE_MESSAGE(data.size() == node.elements, node.file);
    return data;
  }
  FAIL("no node " << key << " in " << beginning_);
  return {};
}

double difference_to_largest(const std::string& node, std::span<const float> ours, std::span<const float> reference) {
  REQUIRE_MESSAGE(ours.size() == reference.size(), node);
  REQUIRE_MESSAGE((all_finite(ours) && all_finite(reference)), node);
  double largest = 0.0;
  double magnitude = 0.0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(ours[i]) - static_cast<double>(reference[i])));
    magnitude = std::max(magnitude, std::abs(static_cast<double>(reference[i])));
  }
  return largest == 0.0 ? 0.0 : largest / magnitude;
}

double difference_by_element(const std::string& node, std::span<const float> ours, std::span<const float> reference) {
  REQUIRE_MESSAGE(ours.size() == reference.size(), node);
  REQUIRE_MESSAGE((all_finite(ours) && all_finite(reference)), node);
  double largest = 0.0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double difference = std::abs(static_cast<double>(ours[i]) - static_cast<double>(reference[i]));
    if (difference > 0.0) largest = std::max(largest, difference / std::abs(static_cast<double>(reference[i])));
  }
  return largest;
}

double check_near(const std::string& node, const Floats& ours, const Floats& reference, double bound) {
  const double difference = difference_to_largest(node, ours, reference);
  CHECK_MESSAGE(difference <= bound, node, ": ", difference, " of the largest value");
  return difference;
}

double check_product(const std::string& node, const Floats& ours, const Floats& reference) {
  const double difference = difference_by_element(node, ours, reference);
  CHECK_MESSAGE(difference <= 1e-6, node, ": ", difference, " of an element");
  return difference;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

std::int32_t arg_max(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Floats sum(Floats a, const Floats& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

std::optional<std::string> bundle_of(const std::string& model) {
  static const TempFolder folder;
  static std::map<std::string, std::string> made;
  if (const auto found = made.find(model); found != made.end()) return found->second;
  const char* bin = std::getenv("BITNET_BIN");
  const std::string tool = bin == nullptr ? std::string() : std::string(bin) + "/bitnet-codegen";
  if (bin == nullptr || !std::filesystem::exists(tool)) {
    std::printf("SKIPPED: parity of bundle kernels (bitnet-codegen has not been built)\n");
    return std::nullopt;
  }
  const std::string output = folder.file("model" + std::to_string(made.size()) + ".bnk");
  const std::string command =
      "'" + tool + "' --model '" + model + "' --target native -o '" + output + "' > '" + folder.file("log") + "' 2>&1";
  REQUIRE_MESSAGE(std::system(command.c_str()) == 0, command);
  made[model] = output;
  return output;
}

const Kernel& KernelChoice::find(Op op, Format format, std::int64_t n, std::int64_t k) const {
  const Kernel* kernel = find_kernel(first, usable, {op, format, n, k});
  if (kernel == nullptr) kernel = find_kernel(builtin_kernels(), usable, {op, format, n, k});
  REQUIRE_MESSAGE(kernel != nullptr, label);
  return *kernel;
}

KernelChoices::KernelChoices(const std::string& model) {
  for (const Isa isa : all_isas()) {
    const bool listed = std::any_of(builtin_kernels().begin(), builtin_kernels().end(),
                                    [&](const Kernel& kernel) { return kernel.isa == isa; });
    if (!listed) continue;
    if (probe_isa(isa)) {
      choices_.push_back({"built-in " + std::string(to_string(isa)), {}, {isa}});
    } else {
      std::printf("SKIPPED: parity of built-in %s (this CPU does not execute it)\n",
                  std::string(to_string(isa)).c_str());
    }
  }
  const auto path = bundle_of(model);
  if (!path.has_value()) return;
  auto opened = Bundle::open(*path, "", executable_isas());
  REQUIRE_MESSAGE(opened.ok(), (opened.ok() ? "" : opened.error().message));
  bundle_.emplace(std::move(opened).value());
  choices_.push_back({"bundle", bundle_->kernels(), executable_isas()});
  bundles_.push_back(*path);
}

Floats Quantized::values() const {
  Floats floats;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto* row = q.as<std::int8_t>(static_cast<std::size_t>(t * padded));
    floats.insert(floats.end(), row, row + k);
  }
  return floats;
}

Quantized Quantized::from(const Floats& values, Floats scales) {
  const auto tokens = static_cast<std::int64_t>(scales.size());
  REQUIRE((tokens > 0 && values.size() % scales.size() == 0));
  Quantized rows = empty_rows(tokens, static_cast<std::int64_t>(values.size()) / tokens);
  REQUIRE(std::all_of(values.begin(), values.end(),
                      [](float q) { return q == std::nearbyint(q) && std::abs(q) <= 127.0F; }));
  const float* next = values.data();
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto* row = rows.q.as<std::int8_t>(static_cast<std::size_t>(t * rows.padded));
    for (std::int64_t i = 0; i < rows.k; ++i) {
      row[i] = static_cast<std::int8_t>(*next++);
      rows.sums[static_cast<std::size_t>(t)] += row[i];
    }
  }
  rows.scales = std::move(scales);
  return rows;
}

Layer::Layer(const gguf::File& file, const KernelChoice& kernels, std::int64_t index)
    : kernels_(kernels), index_(static_cast<std::size_t>(index)) {
  auto config = read_config(file);
  REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().message));
  config_ = *config;
  auto tensors = map_tensors(file, config_);
  REQUIRE_MESSAGE(tensors.ok(), (tensors.ok() ? "" : tensors.error().message));
  tensors_ = *tensors;
  REQUIRE(index_ < tensors_.layers.size());
}

Floats Layer::gain(const gguf::Tensor& tensor) {
  Floats values(tensor.ne[0]);
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

const FusedMatrix& Layer::matrix(FusedMatrix::Role role) const {
  return tensors().products[static_cast<std::size_t>(role)];
}

Floats Layer::norm(const Floats& x, const Floats& gains) const {
  const auto k = static_cast<std::int64_t>(gains.size());
  const Kernel& kernel = kernels_.find(Op::kNorm, Format::kF32, 0, k);
  const std::int64_t tokens = row_count(x, k);
  Floats y(x.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    kernel(bitnet_norm_args{x.data() + t * k, gains.data(), y.data() + t * k, k, config_.norm_eps});
  }
  return y;
}

Quantized Layer::quantize(const Floats& x, std::int64_t k) const {
  const Kernel& kernel = kernels_.find(Op::kQuantize, Format::kI8, 0, k);
  Quantized rows = empty_rows(row_count(x, k), k);
  for (std::int64_t t = 0; t < rows.tokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    kernel(bitnet_quantize_args{x.data() + t * k, rows.q.as<std::int8_t>(at * static_cast<std::size_t>(rows.padded)),
                                &rows.scales[at], &rows.sums[at], k});
  }
  return rows;
}

Quantized Layer::norm_quantize(const Floats& x, const Floats& gains) const {
  const auto k = static_cast<std::int64_t>(gains.size());
  const Kernel& kernel = kernels_.find(Op::kNormQuantize, Format::kI8, 0, k);
  Quantized rows = empty_rows(row_count(x, k), k);
  const Buffer scratch = allocate(gains.size() * sizeof(float));
  for (std::int64_t t = 0; t < rows.tokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    kernel(bitnet_norm_quantize_args{x.data() + t * k, gains.data(),
                                     rows.q.as<std::int8_t>(at * static_cast<std::size_t>(rows.padded)),
                                     &rows.scales[at], &rows.sums[at], scratch.as<float>(), k, config_.norm_eps});
  }
  return rows;
}

std::vector<std::int32_t> Layer::integer_product(FusedMatrix::Role role, const Quantized& x) const {
  const FusedMatrix& matrix = this->matrix(role);
  const std::int64_t n = matrix.n;
  const std::int64_t k = matrix.k;
  REQUIRE(x.k == k);
  const std::int64_t stride = round_up<std::int64_t>(n, BITNET_TILE_ROWS);
  const Layout layout = product_layouts(tensors_, kernels_.first, kernels_.usable)[matrix.shape];
  const Kernel& gemv = kernels_.find(Op::kGemv, format_of(layout), n, k);
  const Kernel& gemm = kernels_.find(Op::kGemm, format_of(layout), n, k);
  const std::int64_t tile = gemm.token_tile;
  const std::int64_t rows = round_up(x.tokens, tile);
  const Buffer weights = allocate(matrix_bytes(layout, n, k));
  REQUIRE(pack_product(matrix, layout, 0, n, weights.as<std::uint8_t>()) == 0);
  const Buffer packed = allocate(static_cast<std::size_t>(rows * x.padded));
  const Buffer one = allocate(static_cast<std::size_t>(stride) * 4);
  const Buffer all = allocate(static_cast<std::size_t>(x.tokens * stride) * 4);
  const Buffer scratch = allocate(std::max(gemv.scratch_bytes, gemm.scratch_bytes) + 64);
  std::vector<std::int32_t> sums = x.sums;
  sums.resize(static_cast<std::size_t>(rows));
  pack_activations(x.q.as<std::int8_t>(), x.tokens, k, gemm.token_tile, 0, rows / tile, packed.as<std::int8_t>());
  gemm(bitnet_gemm_args{weights.as<std::uint8_t>(), packed.as<std::int8_t>(), sums.data(), all.as<std::int32_t>(),
                        scratch.data(), 0, n, x.tokens, stride, 0, 0, n, k});
  std::vector<std::int32_t> y;
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    gemv(bitnet_gemv_args{weights.as<std::uint8_t>(), x.q.as<std::int8_t>(static_cast<std::size_t>(t * x.padded)),
                          &x.sums[static_cast<std::size_t>(t)], one.as<std::int32_t>(), scratch.data(), 0, n, 0, n, k});
    const std::int32_t* row = all.as<std::int32_t>() + t * stride;
    REQUIRE(std::memcmp(one.data(), row, static_cast<std::size_t>(n) * 4) == 0);
    y.insert(y.end(), row, row + n);
  }
  return y;
}

Floats Layer::scaled(FusedMatrix::Role role, const std::vector<std::int32_t>& sums, const Quantized& x) const {
  Floats y;
  const std::int32_t* next = sums.data();
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    for (const MatrixPart& part : matrix(role).parts) {
      REQUIRE(part.ternary->scale_kind() == formats::ScaleKind::kTensor);
      const float factor = part.ternary->scales()[0] / x.scales[static_cast<std::size_t>(t)];
      for (std::int64_t r = 0; r < part.rows; ++r) y.push_back(static_cast<float>(*next++) * factor);
    }
  }
  return y;
}

Floats Layer::product(FusedMatrix::Role role, const Floats& x) const {
  const Quantized rows = quantize(x, matrix(role).k);
  return scaled(role, integer_product(role, rows), rows);
}

Floats Layer::columns(const Floats& x, std::int64_t stride, std::int64_t first, std::int64_t width) {
  Floats y;
  for (std::int64_t at = first; at < static_cast<std::int64_t>(x.size()); at += stride) {
    y.insert(y.end(), x.begin() + at, x.begin() + at + width);
  }
  return y;
}

Floats Layer::rope(Floats x, std::int64_t heads) const {
  const auto half = static_cast<std::size_t>(config_.rope_dim / 2);
  Floats cosines(half);
  Floats sines(half);
  const std::int64_t width = heads * config_.head_dim;
  const Kernel& kernel = kernels_.find(Op::kRope, Format::kF32, 0, config_.rope_dim);
  for (std::int64_t t = 0; t < row_count(x, width); ++t) {
    rope_angles(t, config_.rope_dim, config_.rope_base, cosines.data(), sines.data());
    kernel(bitnet_rope_args{x.data() + t * width, cosines.data(), sines.data(), heads, config_.head_dim,
                            config_.rope_dim, BITNET_ROPE_NEOX});
  }
  return x;
}

Floats Layer::attention(Floats q, const Floats& k, const Floats& v, const std::vector<std::uint16_t>* values) const {
  const std::int64_t dim = config_.head_dim;
  const std::int64_t kv_width = config_.kv_heads * dim;
  const std::int64_t group = config_.heads / config_.kv_heads;
  const std::int64_t tokens = row_count(k, kv_width);
  const Kernel& kernel = kernels_.find(Op::kAttention, Format::kF16, 0, dim);
  round_to_half(q);
  const Buffer scratch = allocate(static_cast<std::size_t>(BITNET_ATTENTION_SCRATCH(group, dim)) * 4);
  Floats y(q.size());
  // Keys and values share one stride, so both are given in the same arrangement: those of one head without gaps.
  std::vector<std::uint16_t> keys(static_cast<std::size_t>(tokens * dim));
  std::vector<std::uint16_t> rows(keys.size());
  for (std::int64_t head = 0; head < config_.kv_heads; ++head) {
    convert_to_half(columns(k, kv_width, head * dim, dim), keys.data());
    if (values == nullptr) {
      convert_to_half(columns(v, kv_width, head * dim, dim), rows.data());
    } else {
      std::copy_n(values->begin() + head * tokens * dim, tokens * dim, rows.begin());
    }
    std::vector<const void*> key_pages;
    std::vector<const void*> value_pages;
    for (std::int64_t j = 0; j < tokens; j += BITNET_ATTENTION_CHUNK) {
      key_pages.push_back(keys.data() + j * dim);
      value_pages.push_back(rows.data() + j * dim);
    }
    const std::int64_t first = head * group * dim;
    const std::int64_t stride = config_.heads * dim;
    kernel(bitnet_attention_args{q.data() + first, key_pages.data(), value_pages.data(), y.data() + first,
                                 scratch.as<float>(), group, dim, tokens, 0, 0, stride, stride, nullptr,
                                 1.0F / std::sqrt(static_cast<float>(dim))});
  }
  return y;
}

Floats Layer::gate(const Floats& gates, const Floats& up) const {
  const Op op = config_.activation == Activation::kRelu2 ? Op::kRelu2Gate : Op::kSiluGate;
  const Kernel& kernel = kernels_.find(op, Format::kF32, 0, config_.ffn);
  Floats y(gates.size());
  for (std::int64_t t = 0; t < row_count(gates, config_.ffn); ++t) {
    const std::int64_t at = t * config_.ffn;
    kernel(bitnet_gate_args{gates.data() + at, up.data() + at, y.data() + at, config_.ffn});
  }
  return y;
}

Floats Layer::head(const std::uint16_t* rows, std::int64_t n, const Floats& x, std::int64_t k) const {
  const Kernel& kernel = kernels_.find(Op::kHead, Format::kF16, n, k);
  const std::int64_t tokens = row_count(x, k);
  Floats y(static_cast<std::size_t>(tokens * n));
  for (std::int64_t t = 0; t < tokens; ++t) {
    kernel(bitnet_head_args{rows, x.data() + t * k, y.data() + t * n, 0, n, k});
  }
  return y;
}

const std::uint16_t* Layer::embedding_rows() const {
  REQUIRE(tensors_.token_embd->type == gguf::TensorType::kF16);
  return reinterpret_cast<const std::uint16_t*>(tensors_.token_embd->data.data());
}

Floats Layer::logits(const Floats& x) const { return head(embedding_rows(), config_.vocab, x, config_.hidden); }

Floats Layer::embedding(std::span<const std::int32_t> ids) const {
  Floats y;
  for (const std::int32_t id : ids) {
    REQUIRE((id >= 0 && id < config_.vocab));
    const std::uint16_t* row = embedding_rows() + id * config_.hidden;
    for (std::int64_t i = 0; i < config_.hidden; ++i) y.push_back(half_to_float(row[i]));
  }
  return y;
}

}  // namespace bitnet::test
