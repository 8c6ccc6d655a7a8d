// Opening a bundle: every check that needs no execution first, then the images in use are copied, sealed and tested. A
// refusal leaves nothing behind; the caller decides whether it is fatal (explicit --bundle) or not (found beside the
// model).
#include "runtime/bundle/bundle.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "runtime/bundle/bundle_checks.h"
#include "runtime/bundle/read_ahead.h"

namespace bitnet {
namespace {

std::string join(std::span<const Isa> isas) {
  std::string text;
  for (const Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(to_string(isa));
  return text.empty() ? "none" : text;
}

struct TargetRow {
  Isa isa;
  std::string_view name;
  std::string_view implies;
  std::string_view part_of;
};
constexpr TargetRow kTargets[] = {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) \
  {Isa::id, name, implies, part_of},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
};

// `best` and the targets that every CPU with `best` executes, in descending preference.
std::vector<Isa> chain_of(Isa best) {
  std::set<Isa, std::greater<>> reached;
  std::vector<Isa> open{best};
  while (!open.empty()) {
    const TargetRow& row = kTargets[static_cast<std::size_t>(open.back())];
    open.pop_back();
    if (!reached.insert(row.isa).second) continue;
    for (const TargetRow& other : kTargets) {
      if (other.name == row.implies || other.name == row.part_of) open.push_back(other.isa);
    }
  }
  return {reached.begin(), reached.end()};
}

// What has been selected so far: each operation on each shape once, and which products are whole.
class Selection {
 public:
  // Takes what is useful of one image's kernels; images come in descending preference.
  void add(const KernelTable& table, Isa isa) {
    std::vector<const KernelRecord*> useful;
    for (const KernelRecord& record : table.kernels) {
      if (record.kernel.isa == isa && is_useful(record.kernel)) useful.push_back(&record);
    }
    for (const KernelRecord* record : useful) keys_.insert(key(record->kernel));
    for (const KernelRecord* record : useful) {
      const Kernel& kernel = record->kernel;
      const Key gemv{Op::kGemv, kernel.format, kernel.n, kernel.k, kernel.group, false};
      const Key gemm{Op::kGemm, kernel.format, kernel.n, kernel.k, kernel.group, false};
      if (is_ternary(kernel.op) && keys_.contains(gemv) && keys_.contains(gemm)) {
        whole_.insert_or_assign({kernel.n, kernel.k, kernel.group}, kernel.format);
      }
    }
    records_.insert(records_.begin(), useful.begin(), useful.end());
  }
  [[nodiscard]] std::vector<const KernelRecord*> take() { return std::move(records_); }

 private:
  using Key = std::tuple<Op, Format, std::int64_t, std::int64_t, std::int32_t, bool>;  // bool: small batches
  using Product = std::tuple<std::int64_t, std::int64_t, std::int32_t>;
  static Key key(const Kernel& kernel) {
    return {kernel.op, kernel.format, kernel.n, kernel.k, kernel.group, kernel.m != 0};
  }
  [[nodiscard]] bool is_useful(const Kernel& kernel) const {
    if (keys_.contains(key(kernel))) return false;
    const auto product = whole_.find({kernel.n, kernel.k, kernel.group});
    return !is_ternary(kernel.op) || product == whole_.end() || product->second == kernel.format;
  }

  std::vector<const KernelRecord*> records_;
  std::set<Key> keys_;
  std::map<Product, Format> whole_;
};

}  // namespace

std::string to_string(const ProductLayouts& layouts) {
  if (layouts.empty()) return "";
  if (std::ranges::count(layouts, layouts[0]) == std::ssize(layouts)) return std::string(info(layouts[0]).name);
  std::string text;
  for (const Layout layout : layouts) text.append(text.empty() ? "" : ",").append(info(layout).name);
  return text;
}

std::optional<ProductLayouts> parse_packed_layouts(std::string_view text) {
  ProductLayouts layouts;
  while (true) {
    const std::size_t end = std::min(text.find(','), text.size());
    const std::optional<Layout> layout = parse_layout(text.substr(0, end));
    if (!layout.has_value()) return std::nullopt;
    layouts.push_back(*layout);
    if (end == text.size()) return layouts;
    text.remove_prefix(end + 1);
  }
}

std::vector<const KernelRecord*> select_kernels(const KernelTable& table, std::span<const Isa> usable) {
  const auto usable_image = [&](Isa isa) {
    return std::ranges::find(usable, isa) != usable.end() &&
           std::ranges::find(table.images, isa, &ImageRecord::isa) != table.images.end();
  };
  Selection selection;
  std::optional<Isa> best;
  for (const ImageRecord& image : table.images) {
    if (usable_image(image.isa) && (!best.has_value() || image.isa > *best)) best = image.isa;
  }
  if (!best.has_value()) return {};
  for (const Isa isa : chain_of(*best)) {
    if (usable_image(isa)) selection.add(table, isa);
  }
  return selection.take();
}

Bundle::Bundle() = default;
Bundle::Bundle(Bundle&&) noexcept = default;
Bundle& Bundle::operator=(Bundle&& other) noexcept {
  ahead_.reset();  // it reads the file that goes next
  file_ = std::move(other.file_);
  target_ = std::move(other.target_);
  table_ = std::move(other.table_);
  loaded_ = std::move(other.loaded_);
  kernels_ = std::move(other.kernels_);
  images_ = std::move(other.images_);
  packed_ = std::move(other.packed_);
  packed_layouts_ = std::move(other.packed_layouts_);
  head_ = std::move(other.head_);
  head_version_ = other.head_version_;
  ahead_ = std::move(other.ahead_);
  return *this;
}
Bundle::~Bundle() = default;

Result<Bundle> Bundle::open(const std::string& path, std::string_view shape_hash, std::span<const Isa> usable,
                            bool read_ahead) {
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
  if (read_ahead && !manifest.packed.empty()) {
    bundle.ahead_ = std::make_unique<ReadAhead>(manifest.packed, manifest.head);
  }

  const std::vector<const KernelRecord*> selected = select_kernels(manifest.table, usable);
  if (selected.empty()) {
    std::vector<Isa> held;
    for (const ImageRecord& image : manifest.table.images) held.push_back(image.isa);
    return bundle_checks::refuse(path, "images",
                                 "none that this CPU executes: the bundle has " + join(held) + ", usable here are " +
                                     join(usable) + "; make one with bitnet-codegen --target native");
  }
  // Kernels of one image stand together, the best image's last.
  for (auto next = selected.begin(); next != selected.end();) {
    const Isa isa = (*next)->kernel.isa;
    const ImageRecord& image = *std::ranges::find(manifest.table.images, isa, &ImageRecord::isa);
    const std::string what = "bundle '" + path + "' refused: " + image.tensor;
    BITNET_ASSIGN_OR_RETURN(CodeImage code, CodeImage::load(file.find_tensor(image.tensor)->data,
                                                            bundle_checks::parse_sha256(image.sha256), what));
    const std::size_t first = bundle.kernels_.size();
    for (; next != selected.end() && (*next)->kernel.isa == isa; ++next) {
      bundle.kernels_.push_back((*next)->kernel);
      bundle.kernels_.back().function = code.at((*next)->offset);
    }
    const Status tested = self_test(std::span(bundle.kernels_).subspan(first));
    if (!tested.ok()) {
      if (tested.error().code != ErrorCode::kVerification) return tested.error();
      return bundle_checks::refuse(path, image.tensor, tested.error().message);
    }
    bundle.images_.push_back(std::move(code));
    bundle.loaded_.insert(bundle.loaded_.begin(), isa);
  }
  bundle.target_ = std::move(manifest.target);
  bundle.table_ = std::move(manifest.table);
  bundle.packed_ = std::move(manifest.packed);
  bundle.packed_layouts_ = std::move(manifest.packed_layouts);
  bundle.head_ = std::move(manifest.head);
  bundle.head_version_ = manifest.head_version;
  return bundle;
}

Bundle::Matching Bundle::end_read_ahead() const {
  if (ahead_ == nullptr) return {};
  const ReadAhead::Matching matching = ahead_->stop();
  return {matching.first, matching.second};
}

Error Bundle::block_error(const HashedBytes& section, std::size_t index) const {
  return bundle_checks::block_error(path(), section, index);
}

Status verify_bundle_file(const gguf::File& file, bool world_writable) {
  BITNET_RETURN_IF_ERROR(bundle_checks::check_permissions(file.path(), world_writable));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_metadata(file));
  BITNET_ASSIGN_OR_RETURN(const bundle_checks::Manifest manifest, bundle_checks::read_manifest(file));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_padding(file));
  for (const ImageRecord& image : manifest.table.images)
    BITNET_RETURN_IF_ERROR(bundle_checks::check_image(file, image));
  BITNET_RETURN_IF_ERROR(bundle_checks::check_blocks(file, manifest.packed));
  return bundle_checks::check_blocks(file, manifest.head);
}

}  // namespace bitnet
