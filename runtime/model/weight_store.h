// WeightStore: where the packed products and the head's int8 rows lie, and whether they may be used yet.
//
// They come from one of two places. Packed from the model file at load, they are the store's own memory in 2 MiB pages
// and can be used at once. In a bundle made with --pack they are used where they lie, in the mapped file: nothing is
// copied before the first token. Then each MiB is hashed before its first use: by the bundle's own thread while the
// rest of the model is loaded, and from the first pass on just before the kernel that reads it next (check_layer,
// check_head), which brings it into the cache. Addresses never change. (Replacing the file's pages by copies in 2 MiB
// pages once the first token is out was measured and did not pay: the page cache is as fast, and processes share it.)
//
// Calls take turns, like the passes that they belong to (Model::State::pool_mutex).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base/buffer.h"
#include "runtime/base/result.h"
#include "runtime/base/thread_pool.h"
#include "runtime/bundle/bundle.h"
#include "runtime/model/tensors.h"

namespace bitnet {

class WeightStore {
 public:
  WeightStore() = default;

  // Memory for `layout.bytes` of packed products, to be filled by the caller.
  [[nodiscard]] Status allocate_packed(PackedLayout layout);
  // Memory for `bytes` of the head's int8 rows, to be filled by the caller.
  [[nodiscard]] Status allocate_head(std::size_t bytes);
  // The bundle's own bytes; precondition: of these sizes. `bundle` outlives the store and does not move.
  void map_packed(PackedLayout layout, const Bundle& bundle);
  void map_head(const Bundle& bundle);

  [[nodiscard]] std::byte* own_packed() const { return packed_memory_.data(); }  // null: mapped
  [[nodiscard]] std::byte* own_head() const { return head_memory_.data(); }
  [[nodiscard]] const std::uint8_t* product(std::size_t layer, std::size_t role) const;
  [[nodiscard]] const std::byte* head() const;  // null: none
  [[nodiscard]] const PackedLayout& layout() const { return layout_; }
  [[nodiscard]] std::size_t bytes() const;  // of products and head

  // Whether the products of every layer have been checked: check_layer has nothing left to do.
  [[nodiscard]] bool checked() const { return packed_.unchecked == 0; }
  // Before the first use of a layer's products, and of the head's int8 rows. kVerification: bytes of a bundle that do
  // not have their hash; nothing of them may be used, and asking again gives the same answer.
  [[nodiscard]] Status check_layer(ThreadPool& pool, std::size_t layer);
  [[nodiscard]] Status check_head(ThreadPool& pool);

 private:
  // Mapped bytes; without a source everything is in the store's own memory.
  struct Section {
    const HashedBytes* source = nullptr;
    std::vector<std::uint8_t> is_checked;  // by block
    std::size_t unchecked = 0;             // blocks
  };
  static void start(Section& section, const HashedBytes& source);
  // Once, before the first check: what the bundle's own thread has checked, which ends now.
  void take_read_ahead();
  [[nodiscard]] Status check(ThreadPool& pool, Section& section, std::size_t begin, std::size_t end);

  PackedLayout layout_;
  const Bundle* bundle_ = nullptr;
  bool read_ahead_taken_ = false;
  Buffer packed_memory_;
  Buffer head_memory_;
  Section packed_;
  Section head_;
};

}  // namespace bitnet
