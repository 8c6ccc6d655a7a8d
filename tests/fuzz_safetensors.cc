// libFuzzer target for the SafeTensors reader: any bytes are read or refused; whatever is read tiles its file exactly.
// Built with -DBITNET_FUZZ=ON (clang 19). Before it starts it writes two small valid files into its corpus folder, the
// first argument that is a folder, so that mutation begins beyond the length field.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "runtime/safetensors/safetensors.h"

namespace {

using namespace bitnet::safetensors;

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "fuzz_safetensors: %s\n", what);
  std::abort();
}

void write_seed(const std::filesystem::path& path, const std::string& header, std::size_t data_bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  for (unsigned i = 0; i < 8; ++i) stream.put(static_cast<char>(header.size() >> (8 * i)));
  stream << header << std::string(data_bytes, '\1');
  stream.close();
  if (!stream.good()) broken("a seed cannot be written");
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path folder = (*argv)[i];
    if (!std::filesystem::is_directory(folder)) continue;
    write_seed(folder / "seed_small", R"({"t":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]}})", 6);
    write_seed(
        folder / "seed_metadata",
        R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[],"data_offsets":[4,6]},)"
        R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"e":{"dtype":"F4","shape":[0],"data_offsets":[6,6]}})",
        6);
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = File::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!parsed.ok()) {
    const std::string& message = parsed.error().message;
    if (message.find(": expected ") == std::string::npos || message.find(", found ") == std::string::npos) {
      broken("a refusal does not say what was expected and found");
    }
    return 0;
  }
  std::uint64_t at = parsed->data_offset();
  volatile unsigned touched = 0;
  for (const Tensor& tensor : parsed->tensors()) {
    if (parsed->find_tensor(tensor.name) != &tensor) broken("a tensor is not found by its name");
    if (tensor.elements() * element_bits(tensor.dtype) != tensor.data.size() * 8) broken("a tensor has another size");
    if (parsed->data_offset() + tensor.offset != at) broken("the tensors do not follow each other");
    at += tensor.data.size();
    if (tensor.data.empty()) continue;
    // An address sanitizer sees what lies outside.
    touched = static_cast<unsigned>(tensor.data.front()) + static_cast<unsigned>(tensor.data.back());
  }
  (void)touched;
  if (at != size) broken("the tensors do not end with the file");
  return 0;
}
