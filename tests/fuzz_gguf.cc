// libFuzzer target for the GGUF reader and the tensor types: any bytes are read or refused; whatever is read can be
// walked to its last byte, and what opens as a ternary matrix or decodes to floats does so within its bytes.
// Built with -DBITNET_FUZZ=ON (clang 19). Before it starts it writes two small valid files into its corpus folder, the
// first argument that is a folder, so that mutation begins beyond the magic number.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/formats/dense.h"
#include "runtime/formats/ternary.h"
#include "runtime/gguf/gguf.h"

namespace {

namespace formats = bitnet::formats;
using bitnet::Status;
using namespace bitnet::gguf;

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "fuzz_gguf: %s\n", what);
  std::abort();
}

Status write_seed(const std::string& path, std::uint32_t alignment, bool version_2) {
  Writer writer(alignment);
  const std::vector<std::string> words = {"<s>", "", "\xe2\x96\x81the"};
  const std::vector<float> scores = {0.0f, -1.0f};
  writer.set("general.architecture", "bitnet");
  writer.set("flag", true);
  writer.set("count", std::uint64_t{7});
  writer.set("words", std::span<const std::string>(words));
  writer.set("scores", std::span<const float>(scores));
  writer.add_tensor("norm", TensorType::kF32, {4});
  writer.add_tensor("w", TensorType::kI2_S, {128, 1});
  writer.add_tensor("q", TensorType::kQ8_0, {32});
  writer.add_tensor("t2", TensorType::kTL2OrMXFP4, {256, 32});
  writer.add_tensor("tq1", TensorType::kTQ1_0, {256, 2});
  writer.add_tensor("tq2", TensorType::kTQ2_0, {256, 2});
  writer.add_tensor("q2", TensorType::kQ2_0, {512, 1});
  writer.add_tensor("pq2", TensorType::kPQ2_0, {128, 1});
  writer.add_tensor("q6", TensorType::kQ6_K, {256});
  const std::size_t sizes[] = {16, 64, 34, 2080, 108, 132, 144, 34, 210};
  return writer.write(
      path, [&](std::size_t i, const Writer::Sink& sink) { return sink(std::vector<std::byte>(sizes[i])); },
      [&](std::span<std::byte> header) -> Status {
        if (version_2) header[4] = std::byte{2};
        return {};
      });
}

// Rows of a ternary matrix and blocks of floats, into memory of exactly their size.
void check_values(const File& file, const Tensor& tensor) {
  std::vector<std::string> notes;
  for (const auto layout : {formats::I2sLayout::kX86, formats::I2sLayout::kArm, formats::I2sLayout::k4Row}) {
    const auto opened = formats::TernaryMatrix::open(file, tensor, {layout, {}, false}, notes);
    if (!opened.ok() && opened.error().message.find("tensor ") == std::string::npos)
      broken("a refusal names no tensor");
    if (!opened.ok() || !opened->has_value()) continue;
    const formats::TernaryMatrix& matrix = **opened;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(matrix.k()));
    for (const std::int64_t row : {std::int64_t{0}, matrix.n() - 1}) {
      if (matrix.decode(row, row + 1, codes.data()) > codes.size()) broken("more undefined codes than codes");
      for (const std::uint8_t code : codes) {
        if (code > 2) broken("a code that is none");
      }
    }
  }
  if (!formats::is_dense(tensor.type) || tensor.n_dims == 0) return;
  std::uint64_t elements = 1;
  for (std::uint32_t d = 0; d < tensor.n_dims; ++d) elements *= tensor.ne[d];
  std::vector<float> floats(static_cast<std::size_t>(std::min<std::uint64_t>(elements, 1000)));
  formats::decode_floats(tensor.type, tensor.data.data(), 0, floats);
  if (elements == 0) return;
  const std::uint64_t last =
      (elements - 1) / formats::block_elements(tensor.type) * formats::block_elements(tensor.type);
  floats.resize(static_cast<std::size_t>(elements - last));
  formats::decode_floats(tensor.type, tensor.data.data(), last, floats);
}

void check_tensor(const File& file, const Tensor& tensor) {
  if (file.find_tensor(tensor.name) != &tensor) broken("a tensor is not found by its name");
  if (tensor.data.size() != tensor.bytes) broken("a tensor's data is not as long as its size");
  if (tensor.bytes > file.bytes().size()) broken("a tensor is larger than its file");
  // The first and the last byte: an address sanitizer sees what lies outside.
  volatile unsigned touched = 0;
  if (!tensor.data.empty())
    touched = static_cast<unsigned>(tensor.data.front()) + static_cast<unsigned>(tensor.data.back());
  (void)touched;
  check_values(file, tensor);
}

void check_value(const File& file, const KeyValue& entry) {
  if (file.find(entry.key) != &entry) broken("an entry is not found by its key");
  (void)file.get_uint(entry.key);
  (void)file.get_float(entry.key);
  (void)file.get_string(entry.key);
  const auto* array = std::get_if<Array>(&entry.value);
  if (array == nullptr) return;
  if (array->type == ValueType::kString) {
    std::size_t bytes = 0;
    for (const std::string_view text : array->strings()) bytes += 8 + text.size();
    if (bytes != array->bytes.size()) broken("the strings of an array do not fill it");
  } else if (array->type == ValueType::kBool && array->values<bool>().size() != array->count) {
    broken("an array of bools has another length");
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path folder = (*argv)[i];
    if (!std::filesystem::is_directory(folder)) continue;
    for (const bool version_2 : {false, true}) {
      const Status written = write_seed(folder / (version_2 ? "seed_v2" : "seed_v3"), version_2 ? 8 : 32, version_2);
      if (!written.ok()) broken(written.error().message.c_str());
    }
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = File::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!parsed.ok()) {
    if (parsed.error().message.find(" at byte ") == std::string::npos) broken("a refusal names no offset");
    return 0;
  }
  for (const KeyValue& entry : parsed->metadata()) check_value(*parsed, entry);
  for (const Tensor& tensor : parsed->tensors()) check_tensor(*parsed, tensor);
  return 0;
}
