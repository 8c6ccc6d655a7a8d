// KvCache: keys and values of one sequence, in pages of 256 positions (BITNET_ATTENTION_CHUNK) per layer and key/value
// head, as op attention reads them (kernel_abi.h).
//
// The address space of the whole context is reserved once, so that evaluation never allocates and a context that cannot
// fit is refused when it is made. The pages of one block of 256 positions, of all layers and heads, lie together, block
// after block: whatever the size of the machine's memory pages, only the blocks that the sequence has reached become
// resident, and each block as soon as its first token has passed through the layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/math.h"
#include "runtime/base/result.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/model/model.h"

namespace bitnet {

class KvCache {
 public:
  KvCache() = default;
  // All arguments >= 1. kMemory: the cache does not fit; the message states its size.
  [[nodiscard]] static Result<KvCache> create(KvType type, std::int64_t layers, std::int64_t kv_heads,
                                              std::int64_t head_dim, std::int64_t positions);

  [[nodiscard]] KvType type() const { return type_; }
  // Of all pages, resident or not: positions rounded up to whole pages.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

  // Page tables of one head: page c holds positions 256 c .. 256 c + 255.
  [[nodiscard]] const void* const* key_pages(std::int64_t layer, std::int64_t kv_head) const {
    return tables_.data() + (layer * kv_heads_ + kv_head) * 2 * pages_;
  }
  [[nodiscard]] const void* const* value_pages(std::int64_t layer, std::int64_t kv_head) const {
    return key_pages(layer, kv_head) + pages_;
  }

  // The page of a table that holds `position`, and the row in it.
  struct Slot {
    std::byte* page;
    std::int64_t row;
  };
  [[nodiscard]] Slot key_slot(std::int64_t layer, std::int64_t kv_head, std::int64_t position) const {
    return slot(key_pages(layer, kv_head), position);
  }
  [[nodiscard]] Slot value_slot(std::int64_t layer, std::int64_t kv_head, std::int64_t position) const {
    return slot(value_pages(layer, kv_head), position);
  }

  // Rows of a slot, [head_dim], and the factor behind an int8 page's rows.
  [[nodiscard]] std::uint16_t* half_row(const Slot& slot) const {
    return reinterpret_cast<std::uint16_t*>(slot.page) + slot.row * head_dim_;
  }
  [[nodiscard]] float* float_row(const Slot& slot) const {
    return reinterpret_cast<float*>(slot.page) + slot.row * head_dim_;
  }
  [[nodiscard]] std::int8_t* int8_row(const Slot& slot) const {
    return reinterpret_cast<std::int8_t*>(slot.page) + slot.row * head_dim_;
  }
  [[nodiscard]] float* int8_factor(const Slot& slot) const {
    return reinterpret_cast<float*>(slot.page + BITNET_ATTENTION_CHUNK * head_dim_) + slot.row;
  }

 private:
  [[nodiscard]] static Slot slot(const void* const* pages, std::int64_t position) {
    // The pages are this object's own memory; the tables are const for the kernels.
    return {static_cast<std::byte*>(const_cast<void*>(pages[position / BITNET_ATTENTION_CHUNK])),
            position % BITNET_ATTENTION_CHUNK};
  }

  KvType type_ = KvType::kF16;
  std::int64_t kv_heads_ = 0;
  std::int64_t head_dim_ = 0;
  std::int64_t pages_ = 0;  // per head and table
  std::uint64_t bytes_ = 0;
  Buffer memory_;                    // [page][layer][kv_head][key, value][page bytes]
  std::vector<const void*> tables_;  // [layer][kv_head][key, value][page]
};

}  // namespace bitnet
