// Writes a bundle (runtime/bundle/bundle.h says the bytes): manifest, images, optionally packed weights and head, all
// digests.
// Equal input gives equal bytes; nothing of the machine or the time gets in. Needs the runtime only, no compiler.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/bundle/bundle.h"

namespace bitnet {

struct BundleImage {
  Isa isa = Isa::kScalar;
  std::vector<std::byte> bytes;
};

struct BundleInput {
  std::string shape_hash;    // ModelShapes::hash()
  std::string model_sha256;  // hex
  std::string target;        // as asked for, e.g. "avx512"
  std::string tools;
  std::string points;
  std::vector<BundleImage> images;  // in file order, one per ISA
  KernelTable table;                // kernels; table.images is filled in by the writer
  // Fills `out` with a section's bytes from `offset` on. Called twice for each MiB, in ascending order each time; both
  // times it must give the same bytes (checked).
  using Source = std::function<Status(std::size_t offset, std::span<std::byte> out)>;
  std::size_t packed_bytes = 0;  // 0: no packed weights
  ProductLayouts packed_layouts{};
  Source packed_source;
  std::size_t head_bytes = 0;      // 0: no int8 rows of the head
  std::uint32_t head_version = 0;  // kScreenedVersion
  Source head_source;
};

// Writes to a temporary file beside `path` and renames it. Memory: one MiB beside the images. The kernel table is
// parsed back before anything is written, so that a bundle that a loader would refuse is an error here.
[[nodiscard]] Status write_bundle(const BundleInput& input, const std::string& path);

}  // namespace bitnet
