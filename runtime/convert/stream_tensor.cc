// Streaming: floats through a buffer of 256 Ki elements, ternary matrices row by row. A row of the matrix is one pair
// of bits of one row of packed bytes; its codes are those of I2_S already (t + 1), so that packing only moves them: 128
// consecutive codes of the flattened matrix to 32 bytes, code j of a group to byte j mod 32, bits 6 - 2 (j div 32).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/convert/tensors.h"
#include "runtime/convert/values.h"

namespace bitnet::convert {
namespace {

using safetensors::DType;

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
constexpr std::size_t kPieceFloats = kPieceBytes / sizeof(float);

template <typename T>
T load(const std::byte* at) {
  T value{};
  std::memcpy(&value, at, sizeof value);
  return value;
}

class Streamer {
 public:
  Streamer(const safetensors::File& file, const SourceTensor& tensor, const gguf::Writer::Sink& sink)
      : file_(file), tensor_(tensor), weight_(*tensor.weight), sink_(sink) {}

  Status floats() {
    const std::uint64_t count = weight_.elements();
    const bool half = tensor_.plan.type == gguf::TensorType::kF16;
    std::vector<float> values(static_cast<std::size_t>(std::min<std::uint64_t>(count, kPieceFloats)));
    std::vector<std::uint16_t> halves(half ? values.size() : 0);
    for (std::uint64_t first = 0; first < count; first += values.size()) {
      values.resize(static_cast<std::size_t>(std::min<std::uint64_t>(count - first, kPieceFloats)));
      load_floats(weight_, first, values);
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) return bad_value(first + i, "a finite number", values[i]);
        if (!half) continue;
        halves[i] = float_to_half(values[i]);
        if (!std::isfinite(half_to_float(halves[i]))) {
          return bad_value(first + i, "a number that float16 can hold (below 65520)", values[i]);
        }
      }
      BITNET_RETURN_IF_ERROR(half ? sink_(std::as_bytes(std::span(halves).first(values.size())))
                                  : sink_(std::as_bytes(std::span(values))));
      const std::size_t width = element_bits(weight_.dtype) / 8;
      release(weight_.data.subspan(static_cast<std::size_t>(first) * width, values.size() * width));
    }
    return {};
  }

  Status ternary() {
    const auto columns = static_cast<std::size_t>(tensor_.plan.ne[0]);
    const auto rows = static_cast<std::size_t>(tensor_.plan.ne[1]);
    std::vector<std::uint8_t> codes;  // of rows that are not written yet, less than a group before each row
    codes.reserve(columns + kI2sGroup);
    std::vector<std::byte> packed;
    packed.reserve(kPieceBytes + (columns + kI2sGroup) / 4);
    for (std::size_t row = 0; row < rows; ++row) {
      BITNET_RETURN_IF_ERROR(append_row(row, rows / 4, columns, codes));
      pack_groups(codes, packed);
      if (packed.size() < kPieceBytes) continue;
      BITNET_RETURN_IF_ERROR(sink_(packed));
      packed.clear();
    }
    std::byte tail[kI2sTailBytes] = {};
    std::memcpy(tail, &tensor_.scale, sizeof tensor_.scale);
    packed.insert(packed.end(), std::begin(tail), std::end(tail));
    BITNET_RETURN_IF_ERROR(sink_(packed));
    release(weight_.data);
    return {};
  }

 private:
  void release(std::span<const std::byte> part) const {
    if (file_.mapping() != nullptr) file_.mapping()->release(part);
  }

  [[nodiscard]] Error bad_value(std::uint64_t index, const char* expected, float found) const {
    const std::uint64_t columns = tensor_.plan.ne[0];
    const std::string place = tensor_.plan.ne.size() == 1 ? "element " + std::to_string(index)
                                                          : "row " + std::to_string(index / columns) + ", column " +
                                                                std::to_string(index % columns);
    return tensor_error(file_, weight_.name,
                        place + ": expected " + expected + ", found " + std::to_string(found) +
                            "; the checkpoint is damaged or was trained to no end: export it again");
  }

  // Appends the codes of a row of the matrix.
  Status append_row(std::size_t row, std::size_t quarter, std::size_t columns, std::vector<std::uint8_t>& codes) const {
    const std::byte* bytes = weight_.data.data() + row % quarter * columns;
    const auto shift = static_cast<unsigned>(2 * (row / quarter));
    const std::size_t begin = codes.size();
    codes.resize(begin + columns);
    unsigned undefined = 0;
    for (std::size_t c = 0; c < columns; ++c) {
      const unsigned code = static_cast<unsigned>(bytes[c]) >> shift & 3U;
      undefined |= code & code >> 1;
      codes[begin + c] = static_cast<std::uint8_t>(code);
    }
    if (undefined == 0) return {};
    const auto at = std::find(codes.begin() + static_cast<std::ptrdiff_t>(begin), codes.end(), std::uint8_t{3});
    return tensor_error(file_, weight_.name,
                        "row " + std::to_string(row) + ", column " +
                            std::to_string(at - codes.begin() - static_cast<std::ptrdiff_t>(begin)) +
                            ": expected code 0, 1 or 2, found the undefined code 3; the checkpoint is damaged or "
                            "packed in another way: export it again");
  }

  // Moves all whole groups from codes to packed.
  static void pack_groups(std::vector<std::uint8_t>& codes, std::vector<std::byte>& packed) {
    const std::size_t groups = codes.size() / kI2sGroup;
    constexpr std::size_t kBytes = kI2sGroup / 4;
    const std::size_t begin = packed.size();
    packed.resize(begin + groups * kBytes);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::uint8_t* from = codes.data() + g * kI2sGroup;
      std::byte* to = packed.data() + begin + g * kBytes;
      for (std::size_t i = 0; i < kBytes; ++i) {
        to[i] = static_cast<std::byte>(from[i] << 6 | from[i + kBytes] << 4 | from[i + 2 * kBytes] << 2 |
                                       from[i + 3 * kBytes]);
      }
    }
    codes.erase(codes.begin(), codes.begin() + static_cast<std::ptrdiff_t>(groups * kI2sGroup));
  }

  const safetensors::File& file_;
  const SourceTensor& tensor_;
  const safetensors::Tensor& weight_;
  const gguf::Writer::Sink& sink_;
};

}  // namespace

void load_floats(const safetensors::Tensor& tensor, std::uint64_t first, std::span<float> out) {
  const std::size_t width = element_bits(tensor.dtype) / 8;
  const std::byte* from = tensor.data.data() + static_cast<std::size_t>(first) * width;
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto bits = load<std::uint16_t>(from + i * width);
    out[i] = tensor.dtype == DType::kBF16 ? std::bit_cast<float>(std::uint32_t{bits} << 16) : half_to_float(bits);
  }
}

Status stream_tensor(const safetensors::File& file, const SourceTensor& tensor, const gguf::Writer::Sink& sink) {
  Streamer streamer(file, tensor, sink);
  return tensor.plan.type == gguf::TensorType::kI2_S ? streamer.ternary() : streamer.floats();
}

}  // namespace bitnet::convert
