// A bundle is a GGUF file (general.architecture = "bitnet-kernels", alignment 65536) with native code for one model's
// shapes, one image per target, optionally the packed weights and the head's int8 rows. Written by
// codegen/bundle_writer.cc, read here.
//
// Metadata keys, in this order:
//   general.architecture            string  "bitnet-kernels"
//   general.alignment               u32     65536
//   bitnet.bundle.digest            u8[32]  SHA-256 of header + metadata + tensor table, these 32 bytes taken as zero
//   bitnet.bundle.version           u32     kBundleVersion
//   bitnet.kernel_abi.version       u32     BITNET_KERNEL_ABI_VERSION
//   bitnet.model.shape_hash         string  ModelShapes::hash()
//   bitnet.model.sha256             string  hex SHA-256 of the model file (checked by `verify`, never at load)
//   bitnet.target                   string  the target asked for, e.g. "avx512"
//   bitnet.tools                    string  versions of bitnet-codegen, clang, Halide
//   bitnet.points                   string  provenance of the tuned points used ("defaults" if none)
//   bitnet.kernels                  string  JSON, see below
//   bitnet.packed.layout            string  "t2", or names with commas between: the layouts of the shapes in the order
//                                           of ModelShapes::ternary, where they differ    (only with --pack)
//   bitnet.packed.xxh3              u8[8*m] XXH3-64 (little-endian) of each MiB of "packed", the last one shorter
//   bitnet.head.version             u32     how the int8 rows were made (kScreenedVersion) (only with --pack, may be
//                                           absent)
//   bitnet.head.xxh3                u8[8*m] the same of "head"
// Tensors (I8, one dimension): "image.<target>" for each target, then with --pack "packed" (PackedLayout) and "head"
// (ScreenedLayout).
// All padding (before the data, between and after tensors) is zero; the file ends padded to the alignment.
//
// bitnet.kernels = {"images": [{"isa": "avx512", "tensor": "image.avx512", "sha256": hex}],
//   "kernels": [{"name", "op", "format", "layout": "t2"|"t5"|"tl1"|"tl2"|"", "n", "k", "group", "m",
//                "token_tile", "tokens": [min, max], "isa",
//                "technique", "offset", "row_granularity", "scratch_bytes", "features"}]}
// An image is flat: byte i belongs at address base + i, base page-aligned; it needs no relocation, imports nothing and
// has no writable data. "offset" is the kernel's entry point in it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/kernel.h"
#include "runtime/kernels/layout.h"

namespace bitnet {

inline constexpr std::uint32_t kBundleVersion = 4;
inline constexpr std::uint32_t kBundleAlignment = 65536;
inline constexpr std::string_view kBundleArchitecture = "bitnet-kernels";
inline constexpr std::size_t kPackedHashBlock = std::size_t{1} << 20;
inline constexpr std::string_view kPackedTensor = "packed";
inline constexpr std::string_view kHeadTensor = "head";
// The value of bitnet.packed.layout: one name where all are the same.
[[nodiscard]] std::string to_string(const ProductLayouts& layouts);
[[nodiscard]] std::optional<ProductLayouts> parse_packed_layouts(std::string_view text);

// A tensor of a bundle's file with the XXH3-64 of each of its MiB. Nothing of a block may be used before matches() has
// said yes to it.
struct HashedBytes {
  std::string_view name;             // in messages: "packed weights", "head"
  std::span<const std::byte> bytes;  // into the file; empty: the bundle has none
  std::vector<std::uint64_t> hashes;

  [[nodiscard]] bool empty() const { return bytes.empty(); }
  // The block `index`, kPackedHashBlock bytes, the last one shorter.
  [[nodiscard]] std::span<const std::byte> block(std::size_t index) const;
  [[nodiscard]] bool matches(std::size_t index) const;
};

// Executable copy of one image: anonymous memory, filled, digest checked on the copy, then read+execute.
class CodeImage {
 public:
  [[nodiscard]] static Result<CodeImage> load(std::span<const std::byte> image, std::span<const std::uint8_t> sha256,
                                              std::string_view what);
  CodeImage(CodeImage&& other) noexcept;
  CodeImage& operator=(CodeImage&& other) noexcept;
  CodeImage(const CodeImage&) = delete;
  CodeImage& operator=(const CodeImage&) = delete;
  ~CodeImage();
  [[nodiscard]] void* at(std::uint64_t offset) const { return static_cast<std::byte*>(base_) + offset; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  CodeImage() = default;
  void* base_ = nullptr;
  std::size_t size_ = 0;
};

// One row of the kernel table as it stands in the JSON; Kernel::function is set once its image is loaded.
struct KernelRecord {
  Kernel kernel;
  std::string name;
  std::string layout;
  std::uint64_t offset = 0;
  std::int64_t row_granularity = 0;
  std::int64_t tokens_min = 1;
  std::int64_t tokens_max = 0;  // 0 = any
  std::string features;
};
struct ImageRecord {
  Isa isa = Isa::kScalar;
  std::string tensor;
  std::string sha256;
};
struct KernelTable {
  std::vector<ImageRecord> images;
  std::vector<KernelRecord> kernels;
};
[[nodiscard]] std::string to_json(const KernelTable& table);
[[nodiscard]] Result<KernelTable> parse_kernel_table(std::string_view json, std::string_view path);

// The kernels of `table` that a CPU which executes `usable` uses, in ascending preference: those of the best image, and
// from the images of the targets that it implies or is part of those that do what none of the better ones does. A
// ternary product is done if one format has its gemv and gemm. Empty if no image is usable. Points into `table`.
[[nodiscard]] std::vector<const KernelRecord*> select_kernels(const KernelTable& table, std::span<const Isa> usable);

// Every kernel against the scalar reference: a few row tiles plus the tail (a matrix of few tiles as a whole), full K,
// each kind of token count once. The error names the kernel and the first differing element. At most about 10 ms per
// image.
[[nodiscard]] Status self_test(std::span<const Kernel> kernels);

class ReadAhead;

class Bundle {
 public:
  // Loads the best image that is in `usable`, and those beside it from which select_kernels takes kernels. Refusals
  // (kVerification), each with its own message and the section named: world-writable file, not a bundle, bundle or ABI
  // version, digest of the metadata, non-zero padding, image digest, truncated, no image that this CPU executes, shapes
  // of another model (`shape_hash`; "" skips the check), self-test.
  // With `read_ahead` a thread of the bundle's own begins to hash the packed weights and the head as soon as the
  // metadata is known to be sound; end_read_ahead() is to be called before passes need the CPUs.
  [[nodiscard]] static Result<Bundle> open(const std::string& path, std::string_view shape_hash,
                                           std::span<const Isa> usable, bool read_ahead = false);
  Bundle(Bundle&&) noexcept;
  Bundle& operator=(Bundle&&) noexcept;
  ~Bundle();

  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] const std::string& target() const { return target_; }
  [[nodiscard]] Isa isa() const { return loaded_.front(); }                   // of the best image
  [[nodiscard]] std::span<const Isa> loaded() const { return loaded_; }       // images, the best one first
  [[nodiscard]] std::span<const Kernel> kernels() const { return kernels_; }  // in use, in ascending preference
  [[nodiscard]] const KernelTable& table() const { return table_; }           // of all images
  [[nodiscard]] const gguf::File& file() const { return file_; }
  // Packed weights and int8 rows of the head, or empty. Not verified: that is up to who uses them, block by block.
  [[nodiscard]] const HashedBytes& packed() const { return packed_; }
  [[nodiscard]] const ProductLayouts& packed_layouts() const { return packed_layouts_; }
  [[nodiscard]] const HashedBytes& head() const { return head_; }
  [[nodiscard]] std::uint32_t head_version() const { return head_version_; }
  // Blocks at the start of packed() and head() that are known to match.
  struct Matching {
    std::size_t packed = 0;
    std::size_t head = 0;
  };
  [[nodiscard]] Matching end_read_ahead() const;
  // kVerification, names the block: what to say when matches() says no.
  [[nodiscard]] Error block_error(const HashedBytes& section, std::size_t index) const;

 private:
  Bundle();
  gguf::File file_;
  std::string target_;
  KernelTable table_;
  std::vector<Isa> loaded_;
  std::vector<Kernel> kernels_;
  std::vector<CodeImage> images_;
  HashedBytes packed_;
  ProductLayouts packed_layouts_{};
  HashedBytes head_;
  std::uint32_t head_version_ = 0;
  std::unique_ptr<ReadAhead> ahead_;  // ends before the file
};

// What `verify` checks without executing anything: everything of open() except the CPU, and every block's hash too.
[[nodiscard]] Status verify_bundle_file(const gguf::File& file, bool world_writable);

}  // namespace bitnet
