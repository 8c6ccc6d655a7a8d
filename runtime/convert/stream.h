// One tensor of a source, written in another type.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "runtime/base/result.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/source.h"
#include "runtime/formats/tiles.h"

namespace bitnet::convert {

using Sink = std::function<Status(std::span<const std::byte>)>;
// Called with the elements that have just been converted; an error (an interrupt) ends the work.
using Step = std::function<Status(std::uint64_t elements)>;

// What a tensor becomes.
struct Target {
  gguf::TensorType type = gguf::TensorType::kF32;
  std::optional<formats::TileShape> tile;  // of TL1 and TL2
  bool ternarize = false;                  // values that are not ternary are rounded by their mean magnitude
  // SafeTensors: four rows in a byte, as transformers packs them, and packed_scale() beside them; `type` is I2_S.
  bool packed = false;
};

[[nodiscard]] bool is_ternary_target(gguf::TensorType type);
// Whether the result's bytes are the source's. I2_S, TL1 and TL2 are made anew: their layout may be another.
[[nodiscard]] bool is_copied(const SourceTensor& source, const Target& target);

// Writes the tensor's bytes to `sink` in pieces, the errors of its values into `report`, sentences into
// `warnings`. Memory: the bytes of a ternary result, and about 16 MiB.
// kTensorMapping, with file, tensor and place: values that are not finite or too large for the type, a matrix that is
// not ternary (without target.ternarize) or whose scales the type cannot hold, and everything of TernaryEncoder.
[[nodiscard]] Status stream_tensor(const SourceTensor& source, const Target& target, const Sink& sink, const Step& step,
                                   ConvertedTensor& report, std::vector<std::string>& warnings);
// The one scale of a packed result: weights are t * scale. The same errors.
[[nodiscard]] Result<float> packed_scale(const SourceTensor& source, const Target& target);

}  // namespace bitnet::convert
