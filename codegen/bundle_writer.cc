#include "codegen/bundle_writer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "runtime/base/sha256.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/kernel_abi.h"

namespace bitnet {
namespace {

constexpr std::string_view kDigestKey = "bitnet.bundle.digest";

Error writer_error(const std::string& path, const std::string& reason) {
  return {ErrorCode::kFailure, "bundle '" + path + "' not written: " + reason};
}

// The packed weights or the head: bytes that are read MiB by MiB.
struct Section {
  std::string_view name;  // as in messages of the loader
  std::string_view tensor;
  std::string_view hash_key;
  std::size_t bytes = 0;
  const BundleInput::Source& source;
  std::vector<std::uint64_t> hashes;
};

// Calls fn(block, bytes) for each MiB of the section.
template <typename Fn>
Status for_each_block(const Section& section, Fn&& fn) {
  std::vector<std::byte> buffer(std::min(kPackedHashBlock, section.bytes));
  for (std::size_t at = 0; at < section.bytes; at += kPackedHashBlock) {
    const auto part = std::span(buffer).first(std::min(kPackedHashBlock, section.bytes - at));
    BITNET_RETURN_IF_ERROR(section.source(at, part));
    BITNET_RETURN_IF_ERROR(fn(at / kPackedHashBlock, std::span<const std::byte>(part)));
  }
  return {};
}

// The sections that the bundle gets, in file order, with their hashes.
Result<std::vector<Section>> read_sections(const BundleInput& input, const std::string& path) {
  std::vector<Section> sections;
  if (input.packed_bytes != 0) {
    sections.push_back(
        {"packed weights", kPackedTensor, "bitnet.packed.xxh3", input.packed_bytes, input.packed_source, {}});
  }
  if (input.head_bytes != 0) {
    sections.push_back({"head", kHeadTensor, "bitnet.head.xxh3", input.head_bytes, input.head_source, {}});
  }
  for (Section& section : sections) {
    if (!section.source) {
      return writer_error(path, std::string(section.name) + " announced, but nothing to read them from");
    }
    BITNET_RETURN_IF_ERROR(for_each_block(section, [&](std::size_t, std::span<const std::byte> block) -> Status {
      section.hashes.push_back(XXH3_64bits(block.data(), block.size()));
      return {};
    }));
  }
  return sections;
}

// The kernel table with its list of images, checked by the loader's own parser.
Result<KernelTable> complete_table(const BundleInput& input, const std::string& path) {
  KernelTable table;
  table.kernels = input.table.kernels;
  for (const BundleImage& image : input.images) {
    if (image.bytes.empty()) return writer_error(path, "the " + std::string(to_string(image.isa)) + " image is empty");
    table.images.push_back({image.isa, "image." + std::string(to_string(image.isa)), to_hex(sha256(image.bytes))});
  }
  const Result<KernelTable> parsed = parse_kernel_table(to_json(table), path);
  if (!parsed.ok()) return writer_error(path, parsed.error().message);
  for (const KernelRecord& record : table.kernels) {
    const auto image = std::ranges::find(input.images, record.kernel.isa, &BundleImage::isa);
    if (image == input.images.end() || record.offset >= image->bytes.size()) {
      return writer_error(
          path, "offset " + std::to_string(record.offset) + " of kernel " + record.name + " lies outside its image");
    }
  }
  return table;
}

// The digest's 32 bytes are zero until here. Its key is the third one, before any free text, so its first occurrence is
// the key itself; the value begins behind the key, the two type ids and the count.
Status patch_digest(std::span<std::byte> header) {
  const auto key = std::as_bytes(std::span(kDigestKey));
  const auto found = std::ranges::search(header, key);
  constexpr std::size_t kArrayHead = 4 + 4 + 8;
  const std::size_t at = static_cast<std::size_t>(found.end() - header.begin()) + kArrayHead;
  const Sha256Digest digest = sha256(header);
  if (found.empty() || at + digest.size() > header.size()) {
    return Error{ErrorCode::kFailure, "bundle writer: the header has no room for its digest"};
  }
  std::memcpy(header.data() + at, digest.data(), digest.size());
  return {};
}

}  // namespace

Status write_bundle(const BundleInput& input, const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(const KernelTable table, complete_table(input, path));
  BITNET_ASSIGN_OR_RETURN(const std::vector<Section> sections, read_sections(input, path));

  gguf::Writer writer(kBundleAlignment);
  writer.set("general.architecture", kBundleArchitecture);
  writer.set("general.alignment", kBundleAlignment);
  writer.set(std::string(kDigestKey), std::span<const std::uint8_t>(Sha256Digest{}));
  writer.set("bitnet.bundle.version", kBundleVersion);
  writer.set("bitnet.kernel_abi.version", static_cast<std::uint32_t>(BITNET_KERNEL_ABI_VERSION));
  writer.set("bitnet.model.shape_hash", std::string_view(input.shape_hash));
  writer.set("bitnet.model.sha256", std::string_view(input.model_sha256));
  writer.set("bitnet.target", std::string_view(input.target));
  writer.set("bitnet.tools", std::string_view(input.tools));
  writer.set("bitnet.points", std::string_view(input.points));
  writer.set("bitnet.kernels", std::string_view(to_json(table)));
  for (std::size_t i = 0; i < table.images.size(); ++i) {
    writer.add_tensor(table.images[i].tensor, gguf::TensorType::kI8, {input.images[i].bytes.size()});
  }
  if (input.packed_bytes != 0) {
    writer.set("bitnet.packed.layout", std::string_view(to_string(input.packed_layouts)));
  }
  if (input.head_bytes != 0) writer.set("bitnet.head.version", input.head_version);
  for (const Section& section : sections) {
    std::vector<std::uint8_t> bytes(section.hashes.size() * sizeof(std::uint64_t));
    std::memcpy(bytes.data(), section.hashes.data(), bytes.size());
    writer.set(std::string(section.hash_key), std::span<const std::uint8_t>(bytes));
    writer.add_tensor(std::string(section.tensor), gguf::TensorType::kI8, {section.bytes});
  }

  const auto source = [&](std::size_t tensor, const gguf::Writer::Sink& sink) -> Status {
    if (tensor < input.images.size()) return sink(input.images[tensor].bytes);
    const Section& section = sections[tensor - input.images.size()];
    return for_each_block(section, [&](std::size_t block, std::span<const std::byte> bytes) -> Status {
      if (XXH3_64bits(bytes.data(), bytes.size()) != section.hashes[block]) {
        return writer_error(path, "the source of the " + std::string(section.name) +
                                      " gave other bytes the second time, in MiB " + std::to_string(block));
      }
      return sink(bytes);
    });
  };
  return writer.write(path, source, patch_digest);
}

}  // namespace bitnet
