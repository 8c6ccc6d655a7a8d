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
#include "runtime/model/model.h"
#include "runtime/model/screened_head.h"
#include "runtime/model/weight_store.h"

namespace bitnet {

// One ternary product, the same shape in every layer; its weights differ.
struct ProductShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::vector<std::int64_t> part_ends;  // rows [part_ends[i-1], part_ends[i]) belong to part i
};

struct LayerWeights {
  struct Product {
    const std::uint8_t* weights = nullptr;  // packed, [n][k]
    std::array<float, 3> scales{};          // of the parts
  };
  std::array<Product, 4> products;       // by FusedMatrix::Role
  const float* attn_norm = nullptr;      // [hidden]
  const float* attn_sub_norm = nullptr;  // [heads * head_dim]
  const float* ffn_norm = nullptr;       // [hidden]
  const float* ffn_sub_norm = nullptr;   // [ffn]
};

struct Model::State {
  gguf::File file;
  ModelConfig config;
  ModelTensors tensors;
  std::unique_ptr<ThreadPool> pool;
  std::mutex pool_mutex;  // one evaluation at a time
  std::optional<Bundle> bundle;
  KernelSet kernels;

  std::array<ProductShape, 4> products;  // by FusedMatrix::Role
  std::vector<LayerWeights> layers;
  const float* output_norm = nullptr;  // [hidden]
  HeadMode head_mode = HeadMode::kScreened;
  // [vocab][hidden] in the format of the kernel of Step::kHead, also the embedding: in `embedding`, or (any head_mode
  // but kExact) in the mapped file, whose pages whoever reads them gives back now and then.
  const std::byte* head = nullptr;
  ScreenedRows screened;  // not with kExact; to be used after weights.check_head()

  WeightStore weights;  // packed products, and the bytes of `screened`
  Buffer norms;         // all norm gains
  Buffer embedding;     // token_embd, as in the file; empty where `head` is in the mapped file
  std::uint64_t parameters = 0;
};

}  // namespace bitnet
