// Rows of dense tensors as `head` kernels take them: where they lie in the file if there are kernels for their type,
// else expanded to float16 (to float32 where a value is too large for it). Internal to runtime/model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "runtime/base/buffer.h"
#include "runtime/base/result.h"
#include "runtime/base/thread_pool.h"
#include "runtime/formats/ternary.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/kernel.h"

namespace bitnet {

struct DenseRows {
  const std::byte* rows = nullptr;  // [n][row_bytes], aligned to its element
  Format format = Format::kF16;
  std::size_t row_bytes = 0;
  [[nodiscard]] bool in_file(const gguf::Tensor& tensor) const { return rows == tensor.data.data(); }
};

// Called behind each piece of the tensor's data that has been read for good.
using RowsRead = std::function<void(std::span<const std::byte>)>;

// Bytes of a row of the tensor; its bytes are whole rows.
[[nodiscard]] std::size_t row_bytes(const gguf::Tensor& tensor);
// Bytes of a row of k elements in `format` (kF16, kBf16, kF32 or kQ8).
[[nodiscard]] std::size_t row_bytes(Format format, std::int64_t k);
// Whether the rows can be used where they lie.
[[nodiscard]] bool usable_in_file(const gguf::Tensor& tensor);

// All rows of the tensor; `memory` takes them where they cannot stay in the file, or with `copy`. `ternary`: the same
// tensor where its type is no dense one (I2_S, TL1, TL2), else null. kMemory.
[[nodiscard]] Result<DenseRows> dense_rows(const gguf::Tensor& tensor, const formats::TernaryMatrix* ternary, bool copy,
                                           ThreadPool& pool, Buffer& memory, const RowsRead& read);

// Row `row` of the tensor as floats [ne[0]]: of `ternary`, or of a dense or ternary block type from `rows`, which is
// the tensor's data or a copy of it.
void decode_row(const gguf::Tensor& tensor, const formats::TernaryMatrix* ternary, const std::byte* rows,
                std::int64_t row, std::span<float> out);

}  // namespace bitnet
