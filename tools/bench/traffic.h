// What a token costs by arithmetic alone: the bytes that must be read for it and its multiplications and additions, by
// part of the model. Measured rates divided by what the probes allow for this traffic are the bench's fractions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/model.h"

namespace bitnet::bench {

// Of one pass: bytes that it must read at least, multiplications and additions of its ternary products.
struct Work {
  double bytes = 0;
  double operations = 0;
};

// What the machine did around a measurement.
struct ProbeReading {
  double read_gbps = 0;  // 10^9 bytes per second
  double dot_gops = 0;   // 10^9 multiplications and additions per second
};

// The shortest time, in seconds, that the probes allow: the longer of the times of its bytes and of its operations.
[[nodiscard]] double limit_seconds(const Work& work, const ProbeReading& probes);
[[nodiscard]] bool is_memory_bound(const Work& work, const ProbeReading& probes);

struct TernaryPart {
  std::string layout;     // "t5"
  double bytes = 0;       // packed, of all layers' products in this layout
  double operations = 0;  // a product and a sum for each weight, padding left out
};

struct Traffic {
  std::vector<TernaryPart> ternary;  // one for each layout in use
  double dense_bytes = 0;            // of all matrices of the layers that are not ternary
  std::int64_t vocab = 0;            // rows of the head
  std::int64_t hidden = 0;           // weights of a row
  double head_weight_bytes = 0;      // of one original weight
  double kv_bytes = 0;               // of one position's keys and values in all layers
  double kv_operations = 0;          // of one position's part in the attention of one token

  // Of one token: all matrices of the layers, and the operations of the ternary ones.
  [[nodiscard]] Work products() const;
  [[nodiscard]] double head_exact_bytes() const;
  [[nodiscard]] double head_int8_bytes() const;  // the rows; their scales and norms are less than 1 % beside them
  [[nodiscard]] double head_operations() const;
  // Bytes that the head read for what it did: every original row, every int8 row, and the rows that were scored again.
  [[nodiscard]] double head_bytes(const HeadUse& use) const;
};

[[nodiscard]] Result<Traffic> traffic_of(const Model& model, KvType kv_type);

// What changed between two states of one context.
[[nodiscard]] HeadUse difference(const HeadUse& after, const HeadUse& before);

// A kernel in a profile: its calls, and what these had to read and to multiply.
struct KernelTime {
  std::string name;
  std::uint64_t calls = 0;
  double bytes = 0;
  double operations = 0;  // of any type
  bool ternary = false;   // operations that the dot probe limits
  double seconds = 0;     // of one thread

  // Of the time that the probes allow; 0 for a kernel that neither streams weights, keys and values nor multiplies
  // ternary weights, or without times.
  [[nodiscard]] double fraction(const ProbeReading& probes) const;
};
struct Profile {
  double seconds = 0;  // of the passes, in kernels and outside
  std::vector<KernelTime> kernels;
  [[nodiscard]] double kernel_seconds() const;
};

// What a context did up to some moment, as far as it counts itself.
struct Counters {
  std::vector<KernelUse> kernels;
  HeadUse head;
  [[nodiscard]] static Counters of(const Context& context) { return {context.kernel_uses(), context.head_use()}; }
};

// Positions that `count` tokens attend to, the first of them at position `first`: each to itself and all before.
[[nodiscard]] double attended(std::int64_t first, std::int64_t count);

// Adds the kernels that ran between two moments of one context to `profile`. KernelUse counts the operations of ternary
// products only; those of the head follow from its rows, those of attention from `positions` (attended(), summed).
void add_uses(const KernelSet& kernels, const Traffic& traffic, const Counters& after, const Counters& before,
              double positions, Profile& profile);

}  // namespace bitnet::bench
