// libFuzzer target for the GGUF reader: any bytes are read or refused; whatever is read can be walked to its last byte.
// Built with -DBITNET_FUZZ=ON (clang 19). Before it starts it writes two small valid files into its corpus folder, the
// first argument that is a folder, so that mutation begins beyond the magic number.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"

namespace {

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
  const std::size_t sizes[] = {16, 64, 34};
  return writer.write(
      path, [&](std::size_t i, const Writer::Sink& sink) { return sink(std::vector<std::byte>(sizes[i])); },
      [&](std::span<std::byte> header) -> Status {
        if (version_2) header[4] = std::byte{2};
        return {};
      });
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
