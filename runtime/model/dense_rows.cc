#include "runtime/model/dense_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/model/kernel_set.h"
#include "runtime/model/rope.h"

namespace bitnet {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{16} << 20;  // between two releases of the file's pages
constexpr std::int64_t kGranule = 16;                       // rows; keeps threads off each other's cache lines
constexpr float kLargestHalf = 65504.0F;

std::size_t alignment(Format format) {
  return format == Format::kF32 ? sizeof(float) : format == Format::kQ8 ? 1 : sizeof(std::uint16_t);
}

// Calls fn(row_begin, row_end) with all threads, piece by piece.
template <typename Fn>
void for_rows(const gguf::Tensor& tensor, ThreadPool& pool, const RowsRead& read, Fn&& fn) {
  const auto rows = static_cast<std::int64_t>(tensor.ne[1]);
  const std::size_t bytes = row_bytes(tensor);
  const std::int64_t piece = round_up(static_cast<std::int64_t>(kPieceBytes / bytes) + 1, kGranule);
  for (std::int64_t at = 0; at < rows; at += piece) {
    const std::int64_t many = std::min(piece, rows - at);
    pool.parallel_for(many, kGranule, [&](std::int64_t begin, std::int64_t end, int) { fn(at + begin, at + end); });
    read(tensor.data.subspan(static_cast<std::size_t>(at) * bytes, static_cast<std::size_t>(many) * bytes));
  }
}

// False: a value is too large for float16.
bool expand(const gguf::Tensor& tensor, const formats::TernaryMatrix* ternary, Format format, ThreadPool& pool,
            std::byte* out, const RowsRead& read) {
  const auto k = static_cast<std::size_t>(tensor.ne[0]);
  const std::size_t bytes = row_bytes(format, static_cast<std::int64_t>(k));
  std::atomic<bool> fits{true};
  for_rows(tensor, pool, read, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> values(k);
    for (std::int64_t row = begin; row < end; ++row) {
      std::byte* to = out + static_cast<std::size_t>(row) * bytes;
      decode_row(tensor, ternary, tensor.data.data(), row, values);
      if (format == Format::kF32) {
        std::memcpy(to, values.data(), bytes);
        continue;
      }
      const bool large = std::any_of(values.begin(), values.end(), [](float x) { return std::fabs(x) > kLargestHalf; });
      if (large) fits = false;
      convert_to_half(values, reinterpret_cast<std::uint16_t*>(to));
    }
  });
  return fits;
}

}  // namespace

std::size_t row_bytes(const gguf::Tensor& tensor) {
  return tensor.data.size() / static_cast<std::size_t>(tensor.ne[1]);
}

std::size_t row_bytes(Format format, std::int64_t k) {
  constexpr std::size_t kQ8Block = 32;
  constexpr std::size_t kQ8Bytes = 34;
  const auto elements = static_cast<std::size_t>(k);
  if (format == Format::kQ8) return elements / kQ8Block * kQ8Bytes;
  return elements * (format == Format::kF32 ? sizeof(float) : sizeof(std::uint16_t));
}

bool usable_in_file(const gguf::Tensor& tensor) {
  return has_dense_kernels(tensor.type) &&
         reinterpret_cast<std::uintptr_t>(tensor.data.data()) % alignment(dense_format(tensor.type)) == 0;
}

Result<DenseRows> dense_rows(const gguf::Tensor& tensor, const formats::TernaryMatrix* ternary, bool copy,
                             ThreadPool& pool, Buffer& memory, const RowsRead& read) {
  const auto n = static_cast<std::size_t>(tensor.ne[1]);
  const auto k = static_cast<std::int64_t>(tensor.ne[0]);
  DenseRows out{tensor.data.data(), dense_format(tensor.type), row_bytes(tensor)};
  if (!copy && usable_in_file(tensor)) return out;
  if (has_dense_kernels(tensor.type)) {
    BITNET_ASSIGN_OR_RETURN(memory, Buffer::allocate(tensor.data.size()));
    for_rows(tensor, pool, read, [&](std::int64_t begin, std::int64_t end) {
      const std::size_t from = static_cast<std::size_t>(begin) * out.row_bytes;
      std::memcpy(memory.data() + from, tensor.data.data() + from,
                  static_cast<std::size_t>(end - begin) * out.row_bytes);
    });
    out.rows = memory.data();
    return out;
  }
  for (const Format format : {Format::kF16, Format::kF32}) {
    out.format = format;
    out.row_bytes = row_bytes(format, k);
    BITNET_ASSIGN_OR_RETURN(memory, Buffer::allocate(n * out.row_bytes));
    if (expand(tensor, ternary, format, pool, memory.data(), read) || format == Format::kF32) break;
  }
  out.rows = memory.data();
  return out;
}

void decode_row(const gguf::Tensor& tensor, const formats::TernaryMatrix* ternary, const std::byte* rows,
                std::int64_t row, std::span<float> out) {
  if (ternary != nullptr) {
    std::vector<std::uint8_t> codes(out.size());
    ternary->decode(row, row + 1, codes.data());
    const std::span<const float> scales = ternary->scales();
    const auto at = static_cast<std::size_t>(row);
    const auto rows_of_group = static_cast<std::size_t>(ternary->n());
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::size_t scale = 0;
      if (ternary->scale_kind() == formats::ScaleKind::kRow) scale = at;
      if (ternary->scale_kind() == formats::ScaleKind::kGroup) {
        scale = i / static_cast<std::size_t>(ternary->group()) * rows_of_group + at;
      }
      out[i] = scales[scale] * (static_cast<float>(codes[i]) - 1.0F);
    }
    return;
  }
  const std::byte* from = rows + static_cast<std::size_t>(row) * row_bytes(tensor);
  formats::decode_floats(tensor.type, from, 0, out);
}

}  // namespace bitnet
