// What a reader of one ternary type is made of; private to this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/formats/ternary.h"

namespace bitnet::formats {

class TernaryMatrix::Decoder {
 public:
  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  virtual ~Decoder() = default;
  virtual std::uint64_t decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const = 0;
};

// What open() finds in a tensor.
struct Opened {
  ScaleKind kind = ScaleKind::kTensor;
  std::int32_t group = 0;
  std::vector<float> scales;
  std::unique_ptr<const TernaryMatrix::Decoder> decoder;
};

inline constexpr std::uint64_t kScaleTailBytes = 32;  // float32 scale and 28 bytes of padding: I2_S, TL1, TL2

// "FILE: tensor 'NAME' (TYPE): WHAT", kTensorMapping.
[[nodiscard]] Error bad_tensor(const gguf::File& file, const gguf::Tensor& tensor, const std::string& what);
// The float32 at byte `offset` of the tensor, which must be finite and positive.
[[nodiscard]] Result<float> read_scale(const gguf::File& file, const gguf::Tensor& tensor, std::uint64_t offset);
// The shortest usual form: "0.75", "1e-09".
[[nodiscard]] std::string number_text(float value);
// Adds a sentence that is not there yet.
void add_note(std::vector<std::string>& notes, std::string note);

// Openers of one type each. Rows and columns are the tensor's, positive; its bytes are those of its type and shape.
[[nodiscard]] Result<Opened> open_i2s(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                                      std::vector<std::string>& notes);
[[nodiscard]] Result<Opened> open_tl1(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                                      std::vector<std::string>& notes);
[[nodiscard]] Result<Opened> open_tl2(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                                      std::vector<std::string>& notes);
// Without a decoder: not ternary.
[[nodiscard]] Result<Opened> open_blocks(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                                         std::vector<std::string>& notes);

}  // namespace bitnet::formats
