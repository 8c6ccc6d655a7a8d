// What --pack puts into a bundle: the model's packed products and the int8 rows of its head, made while the bundle is
// written.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codegen/bundle_writer.h"
#include "runtime/base/buffer.h"
#include "runtime/base/thread_pool.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/tensors.h"

namespace bitnet::tools {

class PackedWeights {
 public:
  // `file` and `tensors` outlive the object. kUsage: jobs out of range. kMemory: no room for the int8 rows.
  [[nodiscard]] static Result<std::unique_ptr<PackedWeights>> create(const gguf::File& file,
                                                                     const ModelTensors& tensors,
                                                                     const ProductLayouts& layouts, int jobs);

  // Sizes, layouts and sources; the object must outlive the writing.
  void put_into(BundleInput& input);

  // One for each product with undefined codes among those read so far, worded as at load: what loads the bundle does
  // not see those codes any more.
  [[nodiscard]] std::vector<std::string> warnings() const;

 private:
  PackedWeights(const gguf::File& file, const ModelTensors& tensors, const ProductLayouts& layouts);

  // Dense and absent products take no bytes.
  [[nodiscard]] std::size_t count() const { return tensors_.layers.size() * kRoles; }
  [[nodiscard]] std::size_t offset_of(std::size_t index) const {
    return layout_.offsets[index / kRoles][index % kRoles];
  }
  [[nodiscard]] const FusedMatrix& product_at(std::size_t index) const {
    return tensors_.layers[index / kRoles].products[index % kRoles];
  }
  [[nodiscard]] std::size_t bytes_of(std::size_t index) const;
  [[nodiscard]] std::size_t first_product(std::size_t offset) const;
  [[nodiscard]] Status read_products(std::size_t offset, std::span<std::byte> out);
  [[nodiscard]] Status pack(std::size_t index);
  [[nodiscard]] Status make_head();

  const gguf::File& file_;
  const ModelTensors& tensors_;
  ProductLayouts layouts_;
  PackedLayout layout_;
  std::vector<std::uint64_t> undefined_;  // codes 3 of each product
  std::unique_ptr<ThreadPool> pool_;
  // Bytes come in ascending order, so only the product that is being read is held.
  Buffer packed_;
  std::size_t held_ = static_cast<std::size_t>(-1);
  Buffer head_;  // the whole block
};

}  // namespace bitnet::tools
