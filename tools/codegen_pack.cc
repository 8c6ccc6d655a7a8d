#include "tools/codegen_pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "runtime/base/mapped_file.h"
#include "runtime/base/math.h"
#include "runtime/model/screened_head.h"

namespace bitnet::tools {
namespace {

Format format_of_rows(gguf::TensorType type) {
  if (type == gguf::TensorType::kF16) return Format::kF16;
  return type == gguf::TensorType::kBF16 ? Format::kBf16 : Format::kF32;
}

}  // namespace

PackedWeights::PackedWeights(const gguf::File& file, const ModelTensors& tensors, const ProductLayouts& layouts)
    : file_(file),
      tensors_(tensors),
      layouts_(layouts),
      layout_(packed_layout(tensors, layouts)),
      undefined_(count()) {}

Result<std::unique_ptr<PackedWeights>> PackedWeights::create(const gguf::File& file, const ModelTensors& tensors,
                                                             const ProductLayouts& layouts, int jobs) {
  std::unique_ptr<PackedWeights> weights(new PackedWeights(file, tensors, layouts));
  BITNET_ASSIGN_OR_RETURN(weights->pool_, ThreadPool::create(jobs));
  BITNET_RETURN_IF_ERROR(weights->make_head());
  return weights;
}

void PackedWeights::put_into(BundleInput& input) {
  input.packed_layouts = layouts_;
  input.packed_bytes = layout_.bytes;
  input.packed_source = [this](std::size_t offset, std::span<std::byte> out) { return read_products(offset, out); };
  input.head_bytes = head_.size();
  input.head_version = kScreenedVersion;
  input.head_source = [this](std::size_t offset, std::span<std::byte> out) -> Status {
    std::memcpy(out.data(), head_.data() + offset, out.size());
    return {};
  };
}

std::vector<std::string> PackedWeights::warnings() const {
  std::vector<std::string> out;
  for (std::size_t index = 0; index < count(); ++index) {
    if (undefined_[index] == 0) continue;
    const FusedMatrix& product = tensors_.layers[index / 4].products[index % 4];
    out.push_back(file_.path() + ": tensor " + std::string(product.parts.front()->name) +
                  (product.parts.size() > 1 ? " and those stacked with it" : "") + ": " +
                  std::to_string(undefined_[index]) +
                  " codes are 3, which I2_S does not define; they are read as weight 0");
  }
  return out;
}

// The last product that begins at or before `offset`.
std::size_t PackedWeights::first_product(std::size_t offset) const {
  std::size_t index = 0;
  while (index + 1 < count() && offset_of(index + 1) <= offset) ++index;
  return index;
}

Status PackedWeights::read_products(std::size_t offset, std::span<std::byte> out) {
  std::memset(out.data(), 0, out.size());
  const std::size_t end = offset + out.size();
  for (std::size_t index = first_product(offset); index < count(); ++index) {
    const std::size_t begin = offset_of(index);
    if (begin >= end) break;
    BITNET_RETURN_IF_ERROR(pack(index));
    const std::size_t from = std::max(begin, offset);
    const std::size_t to = std::min(begin + packed_bytes_, end);
    if (from < to) std::memcpy(out.data() + (from - offset), packed_.data() + (from - begin), to - from);
  }
  return {};
}

Status PackedWeights::pack(std::size_t index) {
  if (index == held_) return {};
  const FusedMatrix& product = tensors_.layers[index / 4].products[index % 4];
  const Layout layout = layouts_[index % 4];
  packed_bytes_ = matrix_bytes(layout, product.n, product.k);
  if (packed_.size() < packed_bytes_) {
    BITNET_ASSIGN_OR_RETURN(packed_, Buffer::allocate(packed_bytes_));
  }
  std::atomic<std::uint64_t> undefined{0};
  pool_->parallel_for(product.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int) {
    undefined += pack_product(product, layout, begin, end, packed_.as<std::uint8_t>());
  });
  undefined_[index] = undefined;  // a product is packed more than once: hashed, then written
  held_ = index;
  return {};
}

Status PackedWeights::make_head() {
  const gguf::Tensor& tensor = *tensors_.token_embd;
  const auto hidden = static_cast<std::int64_t>(tensor.ne[0]);
  const auto vocab = static_cast<std::int64_t>(tensor.ne[1]);
  const Format format = format_of_rows(tensor.type);
  const std::byte* rows = tensor.data.data();
  Buffer aligned;  // for files whose alignment is less than that of an element
  if (reinterpret_cast<std::uintptr_t>(rows) % (format == Format::kF32 ? sizeof(float) : sizeof(std::uint16_t)) != 0) {
    BITNET_ASSIGN_OR_RETURN(aligned, Buffer::allocate(tensor.data.size()));
    std::memcpy(aligned.data(), rows, tensor.data.size());
    rows = aligned.data();
  }
  BITNET_ASSIGN_OR_RETURN(head_, Buffer::allocate(screened_layout(vocab, hidden).bytes));
  constexpr std::int64_t kGranule = 16;  // rows; keeps threads off each other's cache lines
  pool_->parallel_for(vocab, kGranule, [&](std::int64_t begin, std::int64_t end, int) {
    make_screened_rows(format, rows, vocab, hidden, begin, end, head_.data());
  });
  if (file_.mapping() != nullptr) file_.mapping()->release(tensor.data);
  return {};
}

}  // namespace bitnet::tools
