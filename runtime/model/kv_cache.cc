#include "runtime/model/kv_cache.h"

#include <string>

namespace bitnet {
namespace {

constexpr std::int64_t kPageAlign = 64;

std::int64_t page_bytes(KvType type, std::int64_t head_dim) {
  return round_up(BITNET_ATTENTION_CHUNK * kv_row_bytes(type, head_dim), kPageAlign);
}

}  // namespace

std::string_view kv_name(KvType type) {
  constexpr std::string_view kNames[] = {"f16", "i8", "f32"};
  return kNames[static_cast<std::size_t>(type)];
}

std::int64_t kv_row_bytes(KvType type, std::int64_t head_dim) {
  switch (type) {
    case KvType::kF16:
      break;
    case KvType::kI8:
      return head_dim + std::int64_t{sizeof(float)};
    case KvType::kF32:
      return head_dim * std::int64_t{sizeof(float)};
  }
  return head_dim * std::int64_t{sizeof(std::uint16_t)};
}

Result<KvCache> KvCache::create(KvType type, std::int64_t layers, std::int64_t kv_heads, std::int64_t head_dim,
                                std::int64_t positions) {
  KvCache cache;
  cache.type_ = type;
  cache.kv_heads_ = kv_heads;
  cache.head_dim_ = head_dim;
  cache.pages_ = ceil_div<std::int64_t>(positions, BITNET_ATTENTION_CHUNK);
  const std::int64_t tables = layers * kv_heads * 2;
  const std::int64_t page = page_bytes(type, head_dim);
  cache.bytes_ = static_cast<std::uint64_t>(tables * page) * static_cast<std::uint64_t>(cache.pages_);
  Result<Buffer> memory = Buffer::allocate(static_cast<std::size_t>(cache.bytes_));
  if (!memory.ok()) {
    return Error{ErrorCode::kMemory, "the key/value cache of " + std::to_string(positions) + " positions needs " +
                                         std::to_string(cache.bytes_) + " bytes; ask for a smaller context" +
                                         (type == KvType::kI8 ? "" : " or for int8 keys and values") + ": " +
                                         memory.error().message};
  }
  cache.memory_ = std::move(memory).value();
  cache.tables_.resize(static_cast<std::size_t>(tables * cache.pages_));
  for (std::int64_t table = 0; table < tables; ++table) {
    for (std::int64_t p = 0; p < cache.pages_; ++p) {
      cache.tables_[static_cast<std::size_t>(table * cache.pages_ + p)] =
          cache.memory_.data() + (p * tables + table) * page;
    }
  }
  return cache;
}

}  // namespace bitnet
