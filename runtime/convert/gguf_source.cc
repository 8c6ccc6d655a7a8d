#include "runtime/convert/gguf_source.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "runtime/formats/dense.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

constexpr std::array<std::string_view, 8> kProjections = {"attn_q",      "attn_k",   "attn_v", "attn_qkv",
                                                          "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

SourceTensor describe(const gguf::File& file, const gguf::Tensor& tensor) {
  SourceTensor source;
  source.name = std::string(tensor.name);
  source.role = role_of(tensor.name);
  source.ne.assign(tensor.ne.begin(), tensor.ne.begin() + std::max(tensor.n_dims, 1U));
  source.from = {source.name};
  source.type = std::string(gguf::type_name(tensor));
  source.place = file.path() + ": tensor " + gguf::quoted(tensor.name);
  source.raw_type = tensor.type;
  source.raw = tensor.data;
  source.release = [mapping = file.mapping(), data = tensor.data] {
    if (mapping != nullptr) mapping->release(data);
  };
  return source;
}

}  // namespace

Role role_of(std::string_view name) {
  if (name == "token_embd.weight") return Role::kEmbedding;
  if (name == "output.weight") return Role::kHead;
  if (!name.starts_with("blk.") || !name.ends_with(".weight")) return Role::kOther;
  name.remove_prefix(4);
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos || dot == 0) return Role::kOther;
  const std::string_view number = name.substr(0, dot);
  if (!std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; })) return Role::kOther;
  name.remove_prefix(dot + 1);
  name.remove_suffix(std::string_view(".weight").size());
  return std::find(kProjections.begin(), kProjections.end(), name) != kProjections.end() ? Role::kProjection
                                                                                         : Role::kOther;
}

Result<std::vector<SourceTensor>> gguf_tensors(const gguf::File& file, const formats::ReadOptions& options,
                                               std::vector<std::string>& notes) {
  std::vector<SourceTensor> tensors;
  tensors.reserve(file.tensors().size());
  for (const gguf::Tensor& tensor : file.tensors()) {
    SourceTensor source = describe(file, tensor);
    BITNET_ASSIGN_OR_RETURN(const auto matrix, formats::TernaryMatrix::open(file, tensor, options, notes));
    if (matrix) {
      source.ternary = true;
      source.scale_kind = matrix->scale_kind();
      source.group = matrix->group();
      source.scales.assign(matrix->scales().begin(), matrix->scales().end());
      source.codes = [matrix = *matrix](std::int64_t row_begin, std::int64_t row_end,
                                        std::uint8_t* codes) -> Result<std::uint64_t> {
        return matrix.decode(row_begin, row_end, codes);
      };
      source.release();
    } else if (formats::is_dense(tensor.type)) {
      source.floats = [type = tensor.type, bytes = tensor.data, columns = source.columns()](
                          std::int64_t row_begin, std::int64_t row_end, float* values) {
        formats::decode_floats(type, bytes.data(), static_cast<std::uint64_t>(row_begin * columns),
                               {values, static_cast<std::size_t>((row_end - row_begin) * columns)});
      };
    }
    tensors.push_back(std::move(source));
  }
  return tensors;
}

}  // namespace bitnet::convert
