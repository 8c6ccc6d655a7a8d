// Which tensors are ternary, and what every type's opener shares.
#include "runtime/formats/ternary.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "runtime/formats/blocks.h"
#include "runtime/formats/codec.h"
#include "runtime/gguf/types.h"

namespace bitnet::formats {
namespace {

using Opener = Result<Opened> (*)(const gguf::File&, const gguf::Tensor&, const ReadOptions&,
                                  std::vector<std::string>&);

Opener opener_of(const gguf::Tensor& tensor) {
  switch (tensor.type) {
    case gguf::TensorType::kI2_S:
      return &open_i2s;
    case gguf::TensorType::kTL1:
      return &open_tl1;
    case gguf::TensorType::kTL2OrMXFP4:
      return gguf::is_tl2(tensor) ? &open_tl2 : nullptr;
    default:
      return block_type(tensor.type).elements != 0 ? &open_blocks : nullptr;
  }
}

}  // namespace

struct TernaryMatrix::State {
  gguf::Tensor tensor;
  Opened opened;
};

Result<std::optional<TernaryMatrix>> TernaryMatrix::open(const gguf::File& file, const gguf::Tensor& tensor,
                                                         const ReadOptions& options, std::vector<std::string>& notes) {
  const Opener opener = opener_of(tensor);
  if (opener == nullptr) return std::optional<TernaryMatrix>();
  const bool matrix = tensor.n_dims >= 1 && tensor.ne[2] == 1 && tensor.ne[3] == 1;
  if (!matrix || tensor.ne[0] == 0 || tensor.ne[1] == 0) {
    std::string found;
    for (std::uint32_t d = 0; d < tensor.n_dims; ++d) {
      found += (d == 0 ? "" : " x ") + std::to_string(tensor.ne[d]);
    }
    return bad_tensor(file, tensor,
                      "expected a matrix of one or two dimensions that are not 0, found " +
                          (found.empty() ? "no dimension" : found) + "; convert the model again");
  }
  BITNET_ASSIGN_OR_RETURN(Opened opened, opener(file, tensor, options, notes));
  if (opened.decoder == nullptr) return std::optional<TernaryMatrix>();
  return std::optional(TernaryMatrix(std::make_shared<const State>(State{tensor, std::move(opened)})));
}

std::int64_t TernaryMatrix::n() const { return static_cast<std::int64_t>(state_->tensor.ne[1]); }
std::int64_t TernaryMatrix::k() const { return static_cast<std::int64_t>(state_->tensor.ne[0]); }
ScaleKind TernaryMatrix::scale_kind() const { return state_->opened.kind; }
std::int32_t TernaryMatrix::group() const { return state_->opened.group; }
std::span<const float> TernaryMatrix::scales() const { return state_->opened.scales; }
const gguf::Tensor& TernaryMatrix::tensor() const { return state_->tensor; }

std::uint64_t TernaryMatrix::decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const {
  assert(0 <= row_begin && row_begin <= row_end && row_end <= n());
  return state_->opened.decoder->decode(row_begin, row_end, codes);
}

Error bad_tensor(const gguf::File& file, const gguf::Tensor& tensor, const std::string& what) {
  return {ErrorCode::kTensorMapping, file.path() + ": tensor " + gguf::quoted(tensor.name) + " (" +
                                         std::string(gguf::type_name(tensor)) + "): " + what};
}

Result<float> read_scale(const gguf::File& file, const gguf::Tensor& tensor, std::uint64_t offset) {
  float scale = 0;
  std::memcpy(&scale, tensor.data.data() + offset, sizeof scale);
  if (std::isfinite(scale) && scale > 0) return scale;
  return bad_tensor(file, tensor,
                    "expected a finite positive scale at byte " + std::to_string(offset) + " of its data, found " +
                        number_text(scale) + "; the file or its writer is damaged: convert the model again");
}

std::string number_text(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
  return text;
}

void add_note(std::vector<std::string>& notes, std::string note) {
  if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(std::move(note));
}

}  // namespace bitnet::formats
