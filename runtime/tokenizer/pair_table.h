// A hash table from two 32-bit numbers to two more: rank and result of a merge, or the edges of a trie. Open addressing
// in one array: a vocabulary asks it some million times for a megabyte of text. Private to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bitnet::tokenizer {

class PairTable {
 public:
  struct Value {
    std::uint32_t first;
    std::uint32_t second;
  };

  // Keeps the value that is there already; returns whichever holds now. (2^32-1, 2^32-1) is no key.
  Value& insert(std::uint32_t a, std::uint32_t b, Value value) {
    if ((used_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[place(a, b)];
    if (slot.key == kFree) {
      slot = {key_of(a, b), value};
      ++used_;
    }
    return slot.value;
  }
  // nullptr: not there.
  [[nodiscard]] const Value* find(std::uint32_t a, std::uint32_t b) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[place(a, b)];
    return slot.key == kFree ? nullptr : &slot.value;
  }
  [[nodiscard]] std::size_t size() const { return used_; }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kFree;
    Value value{0, 0};
  };
  static std::uint64_t key_of(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} << 32 | b; }

  [[nodiscard]] std::size_t place(std::uint32_t a, std::uint32_t b) const {
    const std::uint64_t key = key_of(a, b);
    const std::uint64_t mask = slots_.size() - 1;
    std::uint64_t hash = key * std::uint64_t{0x9E3779B97F4A7C15};
    hash ^= hash >> 29;
    for (std::uint64_t i = hash & mask;; i = (i + 1) & mask) {
      if (slots_[i].key == key || slots_[i].key == kFree) return i;
    }
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key == kFree) continue;
      slots_[place(static_cast<std::uint32_t>(slot.key >> 32), static_cast<std::uint32_t>(slot.key))] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two
  std::size_t used_ = 0;
};

// Strings by their prefixes; each ends in an id.
class Trie {
 public:
  static constexpr std::uint32_t kNoId = ~std::uint32_t{0};
  static constexpr std::uint32_t kRoot = 0;

  // Of equal strings the first stays. The text is not empty.
  void insert(std::string_view text, std::uint32_t id) {
    std::uint32_t node = kRoot;
    PairTable::Value* edge = nullptr;
    for (const char c : text) {
      edge = &edges_.insert(node, static_cast<unsigned char>(c), {next_node_, kNoId});
      if (edge->first == next_node_) ++next_node_;
      node = edge->first;
    }
    if (edge != nullptr && edge->second == kNoId) edge->second = id;
  }
  // One byte further: first is the next node, second the id of the string that ends there, or kNoId. nullptr: no string
  // begins like this.
  [[nodiscard]] const PairTable::Value* step(std::uint32_t node, char c) const {
    return edges_.find(node, static_cast<unsigned char>(c));
  }
  [[nodiscard]] bool empty() const { return edges_.size() == 0; }

 private:
  PairTable edges_;
  std::uint32_t next_node_ = 1;
};

}  // namespace bitnet::tokenizer
