// The shapes that a bundle is compiled for, and where each product lies in the packed weights. Both follow from the
// tensors (and the products' layouts), so that the compiler, the packer and the loader agree without talking to each
// other.
#include <algorithm>
#include <span>
#include <string>

#include "runtime/base/math.h"
#include "runtime/base/sha256.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/tensors.h"

namespace bitnet {
namespace {

template <typename T>
void sort_unique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

std::string ModelShapes::hash() const {
  std::string lines;
  for (const KernelShape& shape : ternary) {
    lines += "ternary " + std::to_string(shape.n) + " " + std::to_string(shape.k);
    if (shape.group != 0) lines += " " + std::to_string(shape.group);
    lines += "\n";
  }
  for (const std::int64_t k : norm_quantize) lines += "norm_quantize " + std::to_string(k) + "\n";
  const Sha256Digest digest = sha256(std::as_bytes(std::span(lines)));
  return to_hex(digest);
}

ModelShapes kernel_shapes(const ModelTensors& tensors) {
  ModelShapes shapes;
  for (const LayerTensors& layer : tensors.layers) {
    for (const FusedMatrix& product : layer.products) {
      if (!product.ternary()) continue;
      shapes.ternary.push_back({product.n, product.k, product.group});
      shapes.ternary_bytes += matrix_bytes(Layout::kT2, product.n, product.k);
      shapes.norm_quantize.push_back(product.k);  // the input comes out of a norm in nearly every model
    }
  }
  sort_unique(shapes.ternary);
  sort_unique(shapes.norm_quantize);
  return shapes;
}

PackedLayout packed_layout(const ModelTensors& tensors, const ProductLayouts& layouts) {
  PackedLayout layout;
  for (const LayerTensors& layer : tensors.layers) {
    auto& offsets = layout.offsets.emplace_back();
    for (std::size_t p = 0; p < layer.products.size(); ++p) {
      const FusedMatrix& product = layer.products[p];
      offsets[p] = layout.bytes;
      if (!product.ternary()) continue;
      layout.bytes += round_up<std::size_t>(matrix_bytes(layouts[product.shape], product.n, product.k), 64);
    }
  }
  return layout;
}

}  // namespace bitnet
