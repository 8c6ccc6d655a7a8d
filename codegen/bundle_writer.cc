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

// Calls fn(block, bytes) for each MiB of the packed weights.
template <typename Fn>
Status for_each_block(const BundleInput& input, Fn&& fn) {
  std::vector<std::byte> buffer(std::min(kPackedHashBlock, input.packed_bytes));
  for (std::size_t at = 0; at < input.packed_bytes; at += kPackedHashBlock) {
    const auto part = std::span(buffer).first(std::min(kPackedHashBlock, input.packed_bytes - at));
    BITNET_RETURN_IF_ERROR(input.packed_source(at, part));
    BITNET_RETURN_IF_ERROR(fn(at / kPackedHashBlock, std::span<const std::byte>(part)));
  }
  return {};
}

Result<std::vector<std::uint64_t>> hash_packed(const BundleInput& input, const std::string& path) {
  std::vector<std::uint64_t> hashes;
  if (input.packed_bytes == 0) return hashes;
  if (!input.packed_source) return writer_error(path, "packed weights announced, but nothing to read them from");
  BITNET_RETURN_IF_ERROR(for_each_block(input, [&](std::size_t, std::span<const std::byte> block) -> Status {
    hashes.push_back(XXH3_64bits(block.data(), block.size()));
    return {};
  }));
  return hashes;
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
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> hashes, hash_packed(input, path));

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
    std::vector<std::uint8_t> bytes(hashes.size() * sizeof(std::uint64_t));
    std::memcpy(bytes.data(), hashes.data(), bytes.size());
    writer.set("bitnet.packed.xxh3", std::span<const std::uint8_t>(bytes));
    writer.add_tensor(std::string(kPackedTensor), gguf::TensorType::kI8, {input.packed_bytes});
  }

  const auto source = [&](std::size_t tensor, const gguf::Writer::Sink& sink) -> Status {
    if (tensor < input.images.size()) return sink(input.images[tensor].bytes);
    return for_each_block(input, [&](std::size_t block, std::span<const std::byte> bytes) -> Status {
      if (XXH3_64bits(bytes.data(), bytes.size()) != hashes[block]) {
        return writer_error(
            path, "the source of the packed weights gave other bytes the second time, in MiB " + std::to_string(block));
      }
      return sink(bytes);
    });
  };
  return writer.write(path, source, patch_digest);
}

}  // namespace bitnet
