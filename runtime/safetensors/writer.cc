// The header is made by nlohmann's serializer and read back by the project's own reader, so that nothing is written
// that it would refuse.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>
#include <utility>

#include "runtime/base/math.h"
#include "runtime/base/new_file.h"
#include "runtime/gguf/types.h"
#include "runtime/safetensors/header.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::safetensors {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kAlignment = 8;

Error writer_error(const std::string& what) { return {ErrorCode::kFailure, "SafeTensors writer: " + what}; }

}  // namespace

void Writer::add_tensor(std::string name, DType dtype, std::vector<std::uint64_t> shape) {
  tensors_.push_back({std::move(name), dtype, std::move(shape)});
}

std::vector<std::size_t> Writer::data_order() const {
  std::vector<std::size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    const unsigned bits_a = element_bits(tensors_[a].dtype);
    const unsigned bits_b = element_bits(tensors_[b].dtype);
    return std::tie(bits_b, tensors_[a].name) < std::tie(bits_a, tensors_[b].name);
  });
  return order;
}

Result<std::vector<std::byte>> Writer::header() const {
  Json json = Json::object();
  if (!metadata_.empty()) json["__metadata__"] = metadata_;
  std::uint64_t at = 0;
  for (const std::size_t index : data_order()) {
    const Entry& entry = tensors_[index];
    const auto bytes = tensor_bytes(entry.dtype, entry.shape);
    std::uint64_t end = 0;
    if (!bytes || __builtin_add_overflow(at, *bytes, &end)) {
      return writer_error("tensor " + gguf::quoted(entry.name) + ": expected a size in whole bytes below 2^64, found " +
                          shape_text(entry.shape) + " of type " + std::string(to_string(entry.dtype)));
    }
    if (json.contains(entry.name)) {
      return writer_error("tensor " + gguf::quoted(entry.name) + ": expected unique names, found it twice");
    }
    json[entry.name] = {{"dtype", to_string(entry.dtype)}, {"shape", entry.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  // A name that is no UTF-8 becomes another one here, which the comparison below sees.
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize(round_up(text.size(), kAlignment), ' ');
  const auto refuse = [](const std::string& place, const std::string& expected, const std::string& found) {
    return writer_error(place + ": expected " + expected + ", found " + found);
  };
  BITNET_ASSIGN_OR_RETURN(const Header read_back, parse_header(text, refuse));
  for (const Entry& entry : tensors_) {
    const bool there = std::any_of(read_back.entries.begin(), read_back.entries.end(),
                                   [&](const safetensors::Entry& read) { return read.name == entry.name; });
    if (!there) return writer_error("tensor " + gguf::quoted(entry.name) + ": expected a name in UTF-8, found another");
  }
  std::vector<std::byte> bytes(kLengthBytes + text.size());
  const std::uint64_t length = text.size();
  std::memcpy(bytes.data(), &length, sizeof length);
  std::memcpy(bytes.data() + kLengthBytes, text.data(), text.size());
  return bytes;
}

Status Writer::write(const std::string& path, const Source& source) const {
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::byte> head, header());
  NewFile file(path);
  BITNET_RETURN_IF_ERROR(file.open());
  BITNET_RETURN_IF_ERROR(file.append(head));
  for (const std::size_t index : data_order()) {
    const Entry& entry = tensors_[index];
    const std::uint64_t expected = *tensor_bytes(entry.dtype, entry.shape);  // header() has looked at it
    NewFile::Source one;
    if (source) one = [&](const NewFile::Sink& sink) { return source(index, sink); };
    BITNET_RETURN_IF_ERROR(file.append_from(one, expected, "tensor " + gguf::quoted(entry.name)));
  }
  return file.commit();
}

}  // namespace bitnet::safetensors
