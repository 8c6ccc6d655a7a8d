// What a ternary matrix consists of, for reports and for a warning when it looks like nothing that was ever trained.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/formats/ternary.h"

namespace bitnet::formats {

struct Census {
  std::uint64_t minus = 0;      // weights -1, before the scale
  std::uint64_t zero = 0;       // weights 0, those from undefined codes among them
  std::uint64_t plus = 0;       // weights +1
  std::uint64_t undefined = 0;  // codes that the type leaves undefined
  // Smallest and largest magnitude of the scales that are not 0; 0 if there is none.
  float least_scale = 0;
  float largest_scale = 0;

  [[nodiscard]] std::uint64_t weights() const { return minus + zero + plus; }
  // Adds the counts, widens the range: parts of one matrix, or several matrices.
  Census& operator+=(const Census& other);
};

// Counts rows [row_begin, row_end) in pieces of about 64 KiB; the scales are those of the whole matrix. Thread-safe:
// the parts of a matrix may be counted by several threads and added. Precondition: 0 <= row_begin <= row_end <= n.
[[nodiscard]] Census take_census(const TernaryMatrix& matrix, std::int64_t row_begin, std::int64_t row_end);
[[nodiscard]] Census take_census(const TernaryMatrix& matrix);

// Why these numbers are not those of a trained matrix, or nullopt: undefined codes; scales outside 2^-20 .. 2^10, or
// apart by more than 2^10; in 4096 weights or more, one value with 99 of 100 of them, or three times as many of one
// sign as of the other. A wrong layout of I2_S keeps all these numbers and is not seen here.
[[nodiscard]] std::optional<std::string> implausible(const Census& census);

}  // namespace bitnet::formats
