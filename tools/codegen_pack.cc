#include "tools/codegen_pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "runtime/base/mapped_file.h"
#include "runtime/base/math.h"
#include "runtime/model/dense_rows.h"
#include "runtime/model/screened_head.h"

namespace bitnet::tools {

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
    out.push_back(undefined_codes(file_, product_at(index), undefined_[index]) + "; they are read as weight 0");
  }
  return out;
}

std::size_t PackedWeights::bytes_of(std::size_t index) const {
  const FusedMatrix& product = product_at(index);
  return product.ternary() ? matrix_bytes(layouts_[product.shape], product.n, product.k) : 0;
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
    const std::size_t from = std::max(begin, offset);
    const std::size_t to = std::min(begin + bytes_of(index), end);
    if (from >= to) continue;
    BITNET_RETURN_IF_ERROR(pack(index));
    std::memcpy(out.data() + (from - offset), packed_.data() + (from - begin), to - from);
  }
  return {};
}

Status PackedWeights::pack(std::size_t index) {
  if (index == held_) return {};
  const FusedMatrix& product = product_at(index);
  const Layout layout = layouts_[product.shape];
  if (packed_.size() < bytes_of(index)) {
    BITNET_ASSIGN_OR_RETURN(packed_, Buffer::allocate(bytes_of(index)));
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
  const gguf::Tensor& tensor = *tensors_.head;
  const auto hidden = static_cast<std::int64_t>(tensor.ne[0]);
  const auto vocab = static_cast<std::int64_t>(tensor.ne[1]);
  Buffer memory;  // for rows that cannot be used where they lie
  BITNET_ASSIGN_OR_RETURN(const DenseRows rows, dense_rows(tensor, rows_of(tensors_.ternary_head), /*copy=*/false,
                                                           *pool_, memory, [](auto) {}));
  BITNET_ASSIGN_OR_RETURN(head_, Buffer::allocate(screened_layout(vocab, hidden).bytes));
  constexpr std::int64_t kGranule = 16;  // rows; keeps threads off each other's cache lines
  pool_->parallel_for(vocab, kGranule, [&](std::int64_t begin, std::int64_t end, int) {
    make_screened_rows(rows.format, rows.rows, vocab, hidden, begin, end, head_.data());
  });
  if (file_.mapping() != nullptr) file_.mapping()->release(tensor.data);
  return {};
}

}  // namespace bitnet::tools
