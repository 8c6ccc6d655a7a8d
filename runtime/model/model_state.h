// What a loaded model owns. Internal to runtime/model.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/thread_pool.h"
#include "runtime/bundle/bundle.h"
#include "runtime/model/dense_rows.h"
#include "runtime/model/model.h"
#include "runtime/model/screened_head.h"
#include "runtime/model/weight_store.h"

namespace bitnet {

// A norm before a product or behind a block; without a gain there is none.
struct NormWeights {
  NormKind kind = NormKind::kRms;
  const float* gain = nullptr;
  const float* bias = nullptr;  // LayerNorm only
  [[nodiscard]] bool exists() const { return gain != nullptr; }
};

// Rows [begin, end) of a product: one tensor's.
struct PartWeights {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  const float* bias = nullptr;  // [end - begin]; null: none
  // Ternary: scales as op epilogue takes them, the projection's own scale multiplied in; BITNET_SCALE_TENSOR's is
  // `scale`. Dense: `scale` multiplies the sums.
  float scale = 1.0F;
  const float* scales = nullptr;
  std::int32_t scale_kind = 0;
  DenseRows dense;  // dense only
};

struct ProductWeights {
  std::int64_t n = 0;  // 0: the layer has no such product
  std::int64_t k = 0;
  std::int32_t group = 0;
  bool ternary = false;
  bool has_bias = false;
  std::size_t shape = 0;                  // ternary: FusedMatrix::shape
  const std::uint8_t* weights = nullptr;  // ternary: packed, [n][k]
  std::vector<PartWeights> parts;
  std::int64_t column = 0;  // of its first output in a row of Graph::y
  NormWeights in_norm;      // of its own input, behind the block's norm
  [[nodiscard]] bool exists() const { return n != 0; }
};

struct LayerWeights {
  std::array<ProductWeights, kRoles> products;  // by FusedMatrix::Role
  NormWeights attn_norm;                        // [hidden]
  NormWeights q_norm;                           // [head_dim]
  NormWeights k_norm;                           // [head_dim]
  NormWeights attn_sub_norm;                    // [heads * head_dim]
  NormWeights post_attn_norm;                   // [hidden]
  NormWeights ffn_norm;                         // [hidden]
  NormWeights ffn_sub_norm;                     // [ffn]
  NormWeights post_ffn_norm;                    // [hidden]
  [[nodiscard]] const ProductWeights& operator[](FusedMatrix::Role role) const {
    return products[static_cast<std::size_t>(role)];
  }
};

struct Model::State {
  gguf::File file;
  ModelConfig config;
  ModelTensors tensors;
  std::unique_ptr<ThreadPool> pool;
  std::mutex pool_mutex;  // one evaluation at a time
  std::optional<Bundle> bundle;
  KernelSet kernels;

  std::vector<LayerWeights> layers;
  NormWeights output_norm;  // [hidden]
  HeadMode head_mode = HeadMode::kScreened;
  // [vocab][hidden] in the format of the kernel of Step::kHead: in `head_memory`, or (any head_mode but kExact) in the
  // mapped file, whose pages whoever reads them gives back now and then.
  DenseRows head;
  ScreenedRows screened;  // not with kExact; to be used after weights.check_head()
  // Rows of token_embd as in the file: there, or the head's copy.
  const std::byte* embedding = nullptr;

  WeightStore weights;              // packed products, and the bytes of `screened`
  Buffer floats;                    // all norms, biases, scales and positions' factors
  Buffer head_memory;               // empty where `head` is in the mapped file
  std::vector<Buffer> dense;        // dense matrices that cannot be used where they lie
  std::uint64_t dense_in_file = 0;  // bytes of those that can
  std::uint64_t parameters = 0;

  [[nodiscard]] bool head_in_file() const { return head.in_file(*tensors.head); }
  [[nodiscard]] bool embedding_in_file() const { return embedding == tensors.token_embd->data.data(); }
};

}  // namespace bitnet
