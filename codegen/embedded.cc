// The table is written by cmake/BitnetEmbed.cmake; here is the search in it.
#include "codegen/embedded.h"

#include <algorithm>

namespace bitnet::codegen {

const EmbeddedFile* find_embedded(std::string_view path) {
  const std::span<const EmbeddedFile> files = embedded_files();
  const auto found = std::ranges::find(files, path, &EmbeddedFile::path);
  return found == files.end() ? nullptr : &*found;
}

}  // namespace bitnet::codegen
