// Opening a bundle: every check that needs no execution first, then one image is copied, sealed and tested. A refusal
// leaves nothing behind; the caller decides whether it is fatal (explicit --bundle) or not (found beside the model).
#include "runtime/bundle/bundle.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "runtime/bundle/bundle_checks.h"

namespace bitnet {
namespace {

std::string join(std::span<const Isa> isas) {
  std::string text;
  for (const Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(to_string(isa));
  return text.empty() ? "none" : text;
}

// The best image that may run: targets.def is in ascending preference.
const ImageRecord* choose_image(const KernelTable& table, std::span<const Isa> usable) {
  const ImageRecord* best = nullptr;
  for (const ImageRecord& image : table.images) {
    const bool runs = std::ranges::find(usable, image.isa) != usable.end();
    if (runs && (best == nullptr || image.isa > best->isa)) best = &image;
  }
  return best;
}

}  // namespace

Result<Bundle> Bundle::open(const std::string& path, std::string_view shape_hash, std::span<const Isa> usable) {
  Bundle bundle;
  BITNET_ASSIGN_OR_RETURN(bundle.file_, bundle_checks::open_container(path));
  const gguf::File& file = bundle.file_;
  const bool world_writable = file.mapping() == nullptr || file.mapping()->world_writable();
  BITNET_RETURN_IF_ERROR(bundle_checks::check_permissions(path, world_writable));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_metadata(file));
  BITNET_ASSIGN_OR_RETURN(bundle_checks::Manifest manifest, bundle_checks::read_manifest(file));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_padding(file));
  if (!shape_hash.empty()) BITNET_RETURN_IF_ERROR(bundle_checks::check_shape_hash(file, manifest, shape_hash));
  for (const ImageRecord& image : manifest.table.images)
    BITNET_RETURN_IF_ERROR(bundle_checks::check_image(file, image));

  const ImageRecord* chosen = choose_image(manifest.table, usable);
  if (chosen == nullptr) {
    std::vector<Isa> held;
    for (const ImageRecord& image : manifest.table.images) held.push_back(image.isa);
    return bundle_checks::refuse(path, "images",
                                 "none that this CPU executes: the bundle has " + join(held) + ", usable here are " +
                                     join(usable) + "; make one with bitnet-codegen --target native");
  }
  const std::string what = "bundle '" + path + "' refused: " + chosen->tensor;
  BITNET_ASSIGN_OR_RETURN(CodeImage code, CodeImage::load(file.find_tensor(chosen->tensor)->data,
                                                          bundle_checks::parse_sha256(chosen->sha256), what));
  bundle.isa_ = chosen->isa;
  for (KernelRecord& record : manifest.table.kernels) {
    if (record.kernel.isa != chosen->isa) continue;
    record.kernel.function = code.at(record.offset);
    bundle.kernels_.push_back(record.kernel);
  }
  const Status tested = self_test(bundle.kernels_);
  if (!tested.ok()) {
    if (tested.error().code != ErrorCode::kVerification) return tested.error();
    return bundle_checks::refuse(path, chosen->tensor, tested.error().message);
  }
  bundle.images_.push_back(std::move(code));
  bundle.target_ = std::move(manifest.target);
  bundle.table_ = std::move(manifest.table);
  bundle.packed_ = manifest.packed;
  bundle.packed_hashes_ = std::move(manifest.packed_hashes);
  return bundle;
}

Status Bundle::copy_packed(ThreadPool& pool, std::span<std::byte> out) const {
  if (out.size() < packed_.size()) {
    return Error{ErrorCode::kFailure, "copy_packed: room for " + std::to_string(out.size()) +
                                          " bytes, the bundle has " + std::to_string(packed_.size())};
  }
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  std::atomic<std::size_t> first_bad{kNone};
  pool.parallel_for(
      static_cast<std::int64_t>(packed_hashes_.size()), 1, [&](std::int64_t begin, std::int64_t end, int) {
        for (auto block = static_cast<std::size_t>(begin); block < static_cast<std::size_t>(end); ++block) {
          const std::size_t at = block * kPackedHashBlock;
          const auto part = packed_.subspan(at, std::min(kPackedHashBlock, packed_.size() - at));
          // The copy is what is used, so the copy is what is hashed.
          std::memcpy(out.data() + at, part.data(), part.size());
          if (!bundle_checks::packed_block_matches(out.subspan(at, part.size()), packed_hashes_[block])) {
            std::size_t seen = first_bad.load();
            while (block < seen && !first_bad.compare_exchange_weak(seen, block)) {
            }
            return;
          }
          file_.mapping()->release(part);
        }
      });
  if (first_bad != kNone) return bundle_checks::packed_block_error(path(), first_bad);
  return {};
}

Status verify_bundle_file(const gguf::File& file, bool world_writable) {
  BITNET_RETURN_IF_ERROR(bundle_checks::check_permissions(file.path(), world_writable));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_metadata(file));
  BITNET_ASSIGN_OR_RETURN(const bundle_checks::Manifest manifest, bundle_checks::read_manifest(file));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_padding(file));
  for (const ImageRecord& image : manifest.table.images)
    BITNET_RETURN_IF_ERROR(bundle_checks::check_image(file, image));
  return bundle_checks::check_packed(file, manifest);
}

}  // namespace bitnet
