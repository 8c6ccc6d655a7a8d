#include "runtime/bundle/bundle_checks.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/base/math.h"
#include "runtime/base/sha256.h"
#include "runtime/gguf/types.h"
#include "runtime/kernels/kernel_abi.h"

namespace bitnet::bundle_checks {
namespace {

using gguf::quoted;  // a bundle's own text is escaped

constexpr std::string_view kDigestKey = "bitnet.bundle.digest";
constexpr std::string_view kHashKey = "bitnet.packed.xxh3";
constexpr std::string_view kLayoutKey = "bitnet.packed.layout";
constexpr std::string_view kHeadVersionKey = "bitnet.head.version";
constexpr std::string_view kHeadHashKey = "bitnet.head.xxh3";
constexpr std::size_t kDigestBytes = 32;
constexpr std::array<std::string_view, 15> kKnownKeys{"general.architecture",
                                                      "general.alignment",
                                                      kDigestKey,
                                                      "bitnet.bundle.version",
                                                      "bitnet.kernel_abi.version",
                                                      "bitnet.model.shape_hash",
                                                      "bitnet.model.sha256",
                                                      "bitnet.target",
                                                      "bitnet.tools",
                                                      "bitnet.points",
                                                      "bitnet.kernels",
                                                      kLayoutKey,
                                                      kHashKey,
                                                      kHeadVersionKey,
                                                      kHeadHashKey};

// A key's value as u32, without a conversion from other widths: the format says u32.
Result<std::uint32_t> read_u32(const gguf::File& file, std::string_view key) {
  const gguf::KeyValue* entry = file.find(key);
  if (entry == nullptr) return refuse(file.path(), "metadata", "the key " + quoted(key) + " is missing");
  const auto* value = std::get_if<std::uint32_t>(&entry->value);
  if (value == nullptr) {
    return refuse(file.path(), "metadata",
                  "the key " + quoted(key) + " must be u32, found " + std::string(gguf::to_string(entry->type)));
  }
  return *value;
}

Result<std::string> read_string(const gguf::File& file, std::string_view key) {
  const gguf::KeyValue* entry = file.find(key);
  if (entry == nullptr) return refuse(file.path(), "metadata", "the key " + quoted(key) + " is missing");
  const auto* value = std::get_if<std::string_view>(&entry->value);
  if (value == nullptr) {
    return refuse(file.path(), "metadata",
                  "the key " + quoted(key) + " must be a string, found " + std::string(gguf::to_string(entry->type)));
  }
  return std::string(*value);
}

Result<const gguf::KeyValue*> read_bytes(const gguf::File& file, std::string_view key) {
  const gguf::KeyValue* entry = file.find(key);
  if (entry == nullptr) return refuse(file.path(), "metadata", "the key " + quoted(key) + " is missing");
  const auto* array = std::get_if<gguf::Array>(&entry->value);
  if (array == nullptr || array->type != gguf::ValueType::kU8) {
    return refuse(file.path(), "metadata", "the key " + quoted(key) + " must be an array of u8");
  }
  return entry;
}

// The digest is the first thing that a change meets, so its message also says what an honest reason would be: a bundle
// of another version, whose digest may be defined otherwise.
Status check_digest(const gguf::File& file) {
  BITNET_ASSIGN_OR_RETURN(const gguf::KeyValue* entry, read_bytes(file, kDigestKey));
  const std::span<const std::byte> stored = std::get<gguf::Array>(entry->value).bytes;
  if (stored.size() != kDigestBytes) {
    return refuse(file.path(), "metadata",
                  quoted(kDigestKey) + " must have 32 bytes, found " + std::to_string(stored.size()));
  }
  const std::span<const std::byte> header = file.bytes().first(file.header_bytes());
  const std::array<std::byte, kDigestBytes> zeros{};
  Sha256 hash;
  hash.update(header.first(entry->value_offset));
  hash.update(zeros);
  hash.update(header.subspan(entry->value_offset + kDigestBytes));
  const Sha256Digest found = hash.finish();
  if (std::memcmp(found.data(), stored.data(), kDigestBytes) == 0) return {};
  std::string reason = "the header, metadata or tensor table was changed: expected SHA-256 " +
                       to_hex({reinterpret_cast<const std::uint8_t*>(stored.data()), kDigestBytes}) + ", found " +
                       to_hex(found);
  const Result<std::uint32_t> version = read_u32(file, "bitnet.bundle.version");
  if (version.ok() && *version != kBundleVersion) {
    reason += " (it says bundle version " + std::to_string(*version) + ", this program reads version " +
              std::to_string(kBundleVersion) + ")";
  }
  return refuse(file.path(), "metadata", reason);
}

Status check_version(const gguf::File& file, std::string_view key, std::string_view what, std::uint32_t expected) {
  BITNET_ASSIGN_OR_RETURN(const std::uint32_t found, read_u32(file, key));
  if (found == expected) return {};
  return refuse(file.path(), "metadata",
                std::string(what) + " version " + std::to_string(found) + " (" + std::string(key) +
                    "), this program needs version " + std::to_string(expected));
}

// Tensors are the images in the table's order, then the packed weights, then the head, and nothing else.
Status check_tensors(const gguf::File& file, Manifest& manifest, bool has_packed, bool has_head) {
  std::vector<std::string_view> expected;
  for (const ImageRecord& image : manifest.table.images) expected.push_back(image.tensor);
  if (has_packed) expected.push_back(kPackedTensor);
  if (has_head) expected.push_back(kHeadTensor);
  if (file.tensors().size() != expected.size()) {
    return refuse(file.path(), "metadata",
                  "the tensor table has " + std::to_string(file.tensors().size()) +
                      " tensors, the kernel table names " + std::to_string(expected.size()));
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const gguf::Tensor& tensor = file.tensors()[i];
    if (tensor.name != expected[i] || tensor.type != gguf::TensorType::kI8 || tensor.n_dims != 1 || tensor.bytes == 0) {
      return refuse(file.path(), "metadata",
                    "tensor " + std::to_string(i) + " must be " + quoted(expected[i]) +
                        ", bytes (I8) in one dimension and not empty, found " + quoted(tensor.name) + ", " +
                        std::string(gguf::to_string(tensor.type)) + " in " + std::to_string(tensor.n_dims) +
                        " dimensions with " + std::to_string(tensor.bytes) + " bytes");
    }
  }
  if (has_packed) manifest.packed.bytes = file.find_tensor(kPackedTensor)->data;
  if (has_head) manifest.head.bytes = file.find_tensor(kHeadTensor)->data;
  for (const KernelRecord& kernel : manifest.table.kernels) {
    const gguf::Tensor* image = file.find_tensor("image." + std::string(to_string(kernel.kernel.isa)));
    if (image == nullptr || kernel.offset >= image->bytes) {
      return refuse(file.path(), "metadata",
                    "bitnet.kernels: offset " + std::to_string(kernel.offset) + " of kernel " + quoted(kernel.name) +
                        " lies outside its image of " + std::to_string(image == nullptr ? 0 : image->bytes) + " bytes");
    }
  }
  return {};
}

Status read_hashes(const gguf::File& file, std::string_view key, std::string_view name, HashedBytes& section) {
  section.name = name;
  BITNET_ASSIGN_OR_RETURN(const gguf::KeyValue* entry, read_bytes(file, key));
  const std::span<const std::byte> bytes = std::get<gguf::Array>(entry->value).bytes;
  const std::size_t blocks = ceil_div(section.bytes.size(), kPackedHashBlock);
  if (bytes.size() != blocks * sizeof(std::uint64_t)) {
    return refuse(file.path(), "metadata",
                  quoted(key) + " must have 8 bytes for each of the " + std::to_string(blocks) + " MiB of " +
                      std::string(name) + ", found " + std::to_string(bytes.size()) + " bytes");
  }
  section.hashes.resize(blocks);
  std::memcpy(section.hashes.data(), bytes.data(), bytes.size());
  return {};
}

Status read_packed(const gguf::File& file, Manifest& manifest) {
  BITNET_ASSIGN_OR_RETURN(const std::string layout, read_string(file, kLayoutKey));
  const std::optional<ProductLayouts> layouts = parse_packed_layouts(layout);
  if (!layouts.has_value()) {
    std::string names;
    for (const Layout known : kAllLayouts) names += (names.empty() ? "" : ", ") + std::string(info(known).name);
    return refuse(file.path(), "metadata",
                  quoted(kLayoutKey) + " must be one of the layouts " + names +
                      " or, where they differ, one for each shape with commas between, found " + quoted(layout));
  }
  manifest.packed_layouts = *layouts;
  return read_hashes(file, kHashKey, "packed weights", manifest.packed);
}

Status read_head(const gguf::File& file, Manifest& manifest) {
  BITNET_ASSIGN_OR_RETURN(manifest.head_version, read_u32(file, kHeadVersionKey));
  return read_hashes(file, kHeadHashKey, "head", manifest.head);
}

Status check_zero(const gguf::File& file, std::uint64_t begin, std::uint64_t end) {
  const std::span<const std::byte> padding = file.bytes().subspan(begin, end - begin);
  const auto bad = std::ranges::find_if(padding, [](std::byte b) { return b != std::byte{0}; });
  if (bad == padding.end()) return {};
  const auto offset = begin + static_cast<std::uint64_t>(bad - padding.begin());
  return refuse(file.path(), "padding",
                "the byte at offset " + std::to_string(offset) + " between the sections must be 0, found " +
                    std::to_string(std::to_integer<int>(*bad)));
}

}  // namespace

Error refuse(std::string_view path, std::string_view section, std::string_view reason) {
  std::string message = "bundle '";
  message.append(path).append("' refused: ").append(section).append(": ").append(reason);
  return {ErrorCode::kVerification, std::move(message)};
}

std::vector<std::uint8_t> parse_sha256(std::string_view hex) {
  if (hex.size() != 2 * kDigestBytes) return {};
  std::vector<std::uint8_t> bytes(kDigestBytes);
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(hex[i]);
    if (digit == std::string_view::npos) return {};
    bytes[i / 2] = static_cast<std::uint8_t>(bytes[i / 2] << 4 | digit);
  }
  return bytes;
}

Result<gguf::File> open_container(const std::string& path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok()) return refuse(path, "file", mapped.error().message);
  const std::span<const std::byte> bytes = mapped->bytes();
  const std::string size = std::to_string(bytes.size()) + " bytes";
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0) {
    return refuse(path, "header", "not a kernel bundle: it does not begin with 'GGUF' (" + size + ")");
  }
  Result<gguf::File> file = gguf::File::open(path);
  if (file.ok()) return file;
  if (bytes.size() % kBundleAlignment != 0) {
    return refuse(path, "file",
                  "truncated or damaged: a bundle's size is a multiple of " + std::to_string(kBundleAlignment) +
                      ", found " + size + "; " + file.error().message);
  }
  return refuse(path, "metadata",
                "the header, metadata or tensor table is damaged, or the file is truncated: " + file.error().message);
}

Status check_permissions(std::string_view path, bool world_writable) {
  if (!world_writable) return {};
  return refuse(path, "permissions",
                "the file is world-writable, so anybody could have put native code into it; if you trust it, run: "
                "chmod o-w on it");
}

Status check_metadata(const gguf::File& file) {
  const Result<std::string> architecture = read_string(file, "general.architecture");
  if (!architecture.ok() || *architecture != kBundleArchitecture) {
    return refuse(file.path(), "metadata",
                  "not a kernel bundle: general.architecture must be " + quoted(kBundleArchitecture) + ", found " +
                      (architecture.ok() ? quoted(*architecture) : "none"));
  }
  BITNET_RETURN_IF_ERROR(check_digest(file));
  BITNET_RETURN_IF_ERROR(check_version(file, "bitnet.bundle.version", "bundle", kBundleVersion));
  BITNET_RETURN_IF_ERROR(check_version(file, "bitnet.kernel_abi.version", "kernel ABI", BITNET_KERNEL_ABI_VERSION));
  if (file.alignment() != kBundleAlignment) {
    return refuse(file.path(), "metadata",
                  "general.alignment must be " + std::to_string(kBundleAlignment) + ", found " +
                      std::to_string(file.alignment()));
  }
  return {};
}

Result<Manifest> read_manifest(const gguf::File& file) {
  for (const gguf::KeyValue& entry : file.metadata()) {
    if (std::ranges::find(kKnownKeys, entry.key) == kKnownKeys.end()) {
      return refuse(
          file.path(), "metadata",
          "the key " + quoted(entry.key) + " is not known to bundle version " + std::to_string(kBundleVersion));
    }
  }
  Manifest manifest;
  BITNET_ASSIGN_OR_RETURN(manifest.shape_hash, read_string(file, "bitnet.model.shape_hash"));
  BITNET_ASSIGN_OR_RETURN(manifest.model_sha256, read_string(file, "bitnet.model.sha256"));
  BITNET_ASSIGN_OR_RETURN(manifest.target, read_string(file, "bitnet.target"));
  BITNET_ASSIGN_OR_RETURN(manifest.tools, read_string(file, "bitnet.tools"));
  BITNET_ASSIGN_OR_RETURN(manifest.points, read_string(file, "bitnet.points"));
  BITNET_ASSIGN_OR_RETURN(const std::string json, read_string(file, "bitnet.kernels"));
  BITNET_ASSIGN_OR_RETURN(manifest.table, parse_kernel_table(json, file.path()));
  const bool has_packed = file.find(kLayoutKey) != nullptr || file.find(kHashKey) != nullptr;
  const bool has_head = file.find(kHeadVersionKey) != nullptr || file.find(kHeadHashKey) != nullptr;
  BITNET_RETURN_IF_ERROR(check_tensors(file, manifest, has_packed, has_head));
  if (has_packed) BITNET_RETURN_IF_ERROR(read_packed(file, manifest));
  if (has_head) BITNET_RETURN_IF_ERROR(read_head(file, manifest));
  return manifest;
}

Status check_padding(const gguf::File& file) {
  const std::uint64_t size = file.bytes().size();
  std::uint64_t at = file.header_bytes();
  std::uint64_t next = file.data_offset();
  for (const gguf::Tensor& tensor : file.tensors()) {
    next = file.data_offset() + tensor.offset;
    BITNET_RETURN_IF_ERROR(check_zero(file, at, next));
    at = next + tensor.bytes;
  }
  const std::uint64_t end = round_up<std::uint64_t>(at, kBundleAlignment);
  if (size != end) {
    return refuse(file.path(), size < end ? "file" : "padding",
                  (size < end ? "truncated: expected " : "bytes behind the end: expected ") + std::to_string(end) +
                      " bytes, found " + std::to_string(size));
  }
  return check_zero(file, at, end);
}

Status check_image(const gguf::File& file, const ImageRecord& image) {
  const gguf::Tensor* tensor = file.find_tensor(image.tensor);
  if (tensor == nullptr) return refuse(file.path(), image.tensor, "the image is missing");
  const std::string found = to_hex(sha256(tensor->data));
  if (found == image.sha256) return {};
  return refuse(file.path(), image.tensor,
                "the code does not have its SHA-256: expected " + image.sha256 + ", found " + found);
}

Status check_shape_hash(const gguf::File& file, const Manifest& manifest, std::string_view expected) {
  if (manifest.shape_hash == expected) return {};
  return refuse(file.path(), "metadata",
                "made for a model of other shapes: the bundle has shape hash " + manifest.shape_hash + ", the model " +
                    std::string(expected));
}

Error block_error(std::string_view path, const HashedBytes& section, std::size_t index) {
  return refuse(path, std::string(section.name) + " block " + std::to_string(index),
                "the " + std::string(section.name) + " from byte " + std::to_string(index * kPackedHashBlock) +
                    " of the tensor on do not have their XXH3");
}

Status check_blocks(const gguf::File& file, const HashedBytes& section) {
  for (std::size_t block = 0; block < section.hashes.size(); ++block) {
    if (!section.matches(block)) return block_error(file.path(), section, block);
    if (file.mapping() != nullptr) file.mapping()->release(section.block(block));
  }
  return {};
}

}  // namespace bitnet::bundle_checks

namespace bitnet {

std::span<const std::byte> HashedBytes::block(std::size_t index) const {
  const std::size_t begin = index * kPackedHashBlock;
  return bytes.subspan(begin, std::min(kPackedHashBlock, bytes.size() - begin));
}

bool HashedBytes::matches(std::size_t index) const {
  const std::span<const std::byte> part = block(index);
  return XXH3_64bits(part.data(), part.size()) == hashes[index];
}

}  // namespace bitnet
