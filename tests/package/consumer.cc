// Opens the file named on the command line and prints how many tensors it holds.
#include <cstdio>

#include "runtime/gguf/gguf.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto file = bitnet::gguf::File::open(argv[1]);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.error().message.c_str());
    return 1;
  }
  std::printf("tensors: %zu\n", file->tensors().size());
  return 0;
}
