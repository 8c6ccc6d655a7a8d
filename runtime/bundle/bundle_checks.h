// The single checks that make up Bundle::open and verify_bundle_file, in the order in which they must run: each one
// relies on those before it. `bitnet-codegen verify` runs them one by one to list the outcome of each. Nothing here
// executes code of the bundle.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/bundle/bundle.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::bundle_checks {

// kVerification with the one form of all refusals: "bundle 'PATH' refused: SECTION: REASON".
[[nodiscard]] Error refuse(std::string_view path, std::string_view section, std::string_view reason);

struct Manifest {
  std::string shape_hash;
  std::string model_sha256;
  std::string target;
  std::string tools;
  std::string points;
  KernelTable table;
  HashedBytes packed;  // empty without --pack
  ProductLayouts packed_layouts{};
  HashedBytes head;
  std::uint32_t head_version = 0;
};

// Opens and parses the container; tells a foreign file, a truncated one and a damaged one apart.
[[nodiscard]] Result<gguf::File> open_container(const std::string& path);
// A file that everybody may write to can be replaced by anybody: its native code is not run.
[[nodiscard]] Status check_permissions(std::string_view path, bool world_writable);
// general.architecture, alignment, the digest over header, metadata and tensor table, then the two versions.
[[nodiscard]] Status check_metadata(const gguf::File& file);
// All keys, the kernel table, and that the tensors are exactly those that the table and the packed layout name.
[[nodiscard]] Result<Manifest> read_manifest(const gguf::File& file);
// Every byte outside header and tensors is zero and the file ends where the last padding ends.
[[nodiscard]] Status check_padding(const gguf::File& file);
// SHA-256 of one image's bytes in the file against the kernel table.
[[nodiscard]] Status check_image(const gguf::File& file, const ImageRecord& image);
[[nodiscard]] Status check_shape_hash(const gguf::File& file, const Manifest& manifest, std::string_view expected);
[[nodiscard]] Error block_error(std::string_view path, const HashedBytes& section, std::size_t index);
// Every block of the packed weights or of the head.
[[nodiscard]] Status check_blocks(const gguf::File& file, const HashedBytes& section);

// Hex of `expected` back to bytes; empty unless it is 64 lower-case digits.
[[nodiscard]] std::vector<std::uint8_t> parse_sha256(std::string_view hex);

}  // namespace bitnet::bundle_checks
