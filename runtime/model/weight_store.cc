#include "runtime/model/weight_store.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>

#include "runtime/base/mapped_file.h"

namespace bitnet {

Status WeightStore::allocate_packed(PackedLayout layout) {
  BITNET_ASSIGN_OR_RETURN(packed_memory_, Buffer::allocate(layout.bytes));
  layout_ = std::move(layout);
  packed_ = {};
  return {};
}

Status WeightStore::allocate_head(std::size_t bytes) {
  BITNET_ASSIGN_OR_RETURN(head_memory_, Buffer::allocate(bytes));
  head_ = {};
  return {};
}

void WeightStore::start(Section& section, const HashedBytes& source) {
  section = {};
  section.source = &source;
  section.unchecked = source.hashes.size();
  section.is_checked.assign(section.unchecked, 0);
}

void WeightStore::map_packed(PackedLayout layout, const Bundle& bundle) {
  layout_ = std::move(layout);
  bundle_ = &bundle;
  packed_memory_ = Buffer();
  start(packed_, bundle.packed());
}

void WeightStore::map_head(const Bundle& bundle) {
  bundle_ = &bundle;
  head_memory_ = Buffer();
  start(head_, bundle.head());
}

const std::uint8_t* WeightStore::product(std::size_t layer, std::size_t role) const {
  const std::byte* base = packed_.source != nullptr ? packed_.source->bytes.data() : packed_memory_.data();
  return reinterpret_cast<const std::uint8_t*>(base) + layout_.offsets[layer][role];
}

const std::byte* WeightStore::head() const {
  return head_.source != nullptr ? head_.source->bytes.data() : head_memory_.data();
}

std::size_t WeightStore::bytes() const {
  return layout_.bytes + (head_.source != nullptr ? head_.source->bytes.size() : head_memory_.size());
}

void WeightStore::take_read_ahead() {
  if (std::exchange(read_ahead_taken_, true)) return;
  const Bundle::Matching matching = bundle_->end_read_ahead();
  for (const auto& [section, blocks] : {std::pair{&packed_, matching.packed}, std::pair{&head_, matching.head}}) {
    if (section->source == nullptr) continue;
    std::fill_n(section->is_checked.begin(), blocks, std::uint8_t{1});
    section->unchecked -= blocks;
  }
}

Status WeightStore::check_layer(ThreadPool& pool, std::size_t layer) {
  if (packed_.unchecked == 0) return {};
  take_read_ahead();
  const std::size_t end = layer + 1 < layout_.offsets.size() ? layout_.offsets[layer + 1][0] : layout_.bytes;
  return check(pool, packed_, layout_.offsets[layer][0], end);
}

Status WeightStore::check_head(ThreadPool& pool) {
  if (head_.unchecked == 0) return {};
  take_read_ahead();
  return check(pool, head_, 0, head_.source->bytes.size());
}

Status WeightStore::check(ThreadPool& pool, Section& section, std::size_t begin, std::size_t end) {
  const std::size_t first = begin / kPackedHashBlock;
  const std::size_t last = (end + kPackedHashBlock - 1) / kPackedHashBlock;
  const MappedFile* file = bundle_->file().mapping();
  std::atomic<std::size_t> next{first};
  std::atomic<std::size_t> bad{std::numeric_limits<std::size_t>::max()};
  pool.run([&](int) {
    for (std::size_t block = next++; block < last; block = next++) {
      if (section.is_checked[block] != 0) continue;
      file->will_need(section.source->block(block));
      if (section.source->matches(block)) {
        section.is_checked[block] = 1;
        continue;
      }
      std::size_t seen = bad.load();
      while (block < seen && !bad.compare_exchange_weak(seen, block)) {
      }
    }
  });
  section.unchecked = static_cast<std::size_t>(std::ranges::count(section.is_checked, 0));
  if (bad >= last) return {};
  const Error error = bundle_->block_error(*section.source, bad);
  return Error{error.code, error.message +
                               "; the file was damaged or changed: make it again with bitnet-codegen --pack, "
                               "or go on without it (--bundle none)"};
}

}  // namespace bitnet
