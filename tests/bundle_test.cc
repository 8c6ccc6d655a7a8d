// Bundles as a library: written, read back, run, and refused for every reason there is. The code image is a section of
// this very program (bundle_kernels.c), so that neither compiler nor assets are needed.
#include "runtime/bundle/bundle.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "codegen/bundle_writer.h"
#include "runtime/base/buffer.h"
#include "runtime/base/math.h"
#include "runtime/bundle/bundle_checks.h"
#include "runtime/kernels/layout.h"
#include "tests/bundle_files.h"
#include "tools/codegen_inspect.h"

extern "C" {
extern const std::byte __start_bundle_image[];
extern const std::byte __stop_bundle_image[];
void bundle_test_gemv(const bitnet_gemv_args* a);
void bundle_test_gemm(const bitnet_gemm_args* a);
void bundle_test_broken_gemv(const bitnet_gemv_args* a);
}

namespace bitnet {
namespace {

using test::Bytes;

constexpr std::int64_t kN = 40;
constexpr std::int64_t kK = 200;
constexpr std::size_t kPackedBytes = 2 * kPackedHashBlock + 12345;
constexpr std::size_t kHeadBytes = kPackedHashBlock + 77;
constexpr std::array kScalar{Isa::kScalar};
const std::string kShapeHash(64, 'a');

// The section at a fixed place in an image of fixed size, so that every offset has four digits.
constexpr std::size_t kImageBytes = 8192;
constexpr std::size_t kCodeBegin = 1024;
Bytes image_bytes() {
  Bytes image(kImageBytes);
  const std::span code(__start_bundle_image, __stop_bundle_image);
  REQUIRE(kCodeBegin + code.size() <= kImageBytes);
  std::ranges::copy(code, image.begin() + kCodeBegin);
  return image;
}

template <typename Function>
KernelRecord record(Op op, Function* function, std::int32_t token_tile) {
  KernelRecord row;
  row.kernel.op = op;
  row.kernel.n = kN;
  row.kernel.k = kK;
  row.kernel.token_tile = token_tile;
  row.name = row.kernel.name();
  row.layout = "t2";
  row.offset =
      kCodeBegin + static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(function) - __start_bundle_image);
  row.row_granularity = 16;
  return row;
}

std::byte packed_byte(std::size_t i) { return static_cast<std::byte>(i * 2654435761U >> 13); }

BundleInput make_input(bool packed = false) {
  BundleInput input;
  input.shape_hash = kShapeHash;
  input.model_sha256 = std::string(64, 'b');
  input.target = "scalar";
  input.tools = "bundle_test";
  input.points = "defaults";
  input.images.push_back({Isa::kScalar, image_bytes()});
  input.table.kernels.push_back(record(Op::kGemv, bundle_test_gemv, 1));
  input.table.kernels.push_back(record(Op::kGemm, bundle_test_gemm, 2));
  if (packed) {
    input.packed_bytes = kPackedBytes;
    input.packed_layouts = {Layout::kT2};
    input.packed_source = [](std::size_t offset, std::span<std::byte> out) -> Status {
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = packed_byte(offset + i);
      return {};
    };
    input.head_bytes = kHeadBytes;
    input.head_version = 1;
    input.head_source = [](std::size_t offset, std::span<std::byte> out) -> Status {
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = packed_byte(3 * (offset + i));
      return {};
    };
  }
  return input;
}

struct Written {
  test::TempDir dir;
  std::string path = dir / "m.scalar.bnk";
  Bytes bytes;

  explicit Written(const BundleInput& input) {
    const Status status = write_bundle(input, path);
    REQUIRE_MESSAGE(status.ok(), status.error().message);
    bytes = test::read_file(path);
  }
  [[nodiscard]] gguf::File parsed() const {
    Result<gguf::File> file = gguf::File::parse(bytes, path);
    REQUIRE_MESSAGE(file.ok(), file.error().message);
    return std::move(file).value();
  }
  void rewrite() const { test::write_file(path, bytes); }
};

// The refusal of `path`, which must be one.
std::string refusal(const std::string& path, std::string_view shape_hash = kShapeHash,
                    std::span<const Isa> usable = kScalar) {
  const Result<Bundle> bundle = Bundle::open(path, shape_hash, usable);
  if (bundle.ok()) return "NOT REFUSED";
  CHECK(bundle.error().code == ErrorCode::kVerification);
  return bundle.error().message;
}

void check_contains(const std::string& text, std::string_view part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
}

void flip(Bytes& bytes, std::size_t at, unsigned bit) { bytes[at] ^= static_cast<std::byte>(1U << bit % 8); }

// y = W x through a kernel of the bundle against the scalar meaning.
void check_gemv(const Kernel& kernel) {
  std::vector<std::uint8_t> codes(kN * kK);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 7 % 11 % 3);
  Result<Buffer> weights = Buffer::allocate(matrix_bytes(Layout::kT2, kN, kK));
  Result<Buffer> x = Buffer::allocate(256);
  REQUIRE(weights.ok());
  REQUIRE(x.ok());
  pack_codes(Layout::kT2, codes.data(), 0, kN, kK, weights->as<std::uint8_t>());
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < kK; ++i) sum += x->as<std::int8_t>()[i] = static_cast<std::int8_t>(i * 37 % 255 - 127);
  std::vector<std::int32_t> y(48);
  kernel(
      bitnet_gemv_args{weights->as<std::uint8_t>(), x->as<std::int8_t>(), &sum, y.data(), nullptr, 0, kN, 0, kN, kK});
  for (std::int64_t r = 0; r < kN; ++r) {
    std::int32_t expected = 0;
    for (std::int64_t i = 0; i < kK; ++i) {
      expected += (codes[static_cast<std::size_t>(r * kK + i)] - 1) * x->as<std::int8_t>()[i];
    }
    CHECK(y[static_cast<std::size_t>(r)] == expected);
  }
}

TEST_CASE("a bundle is read back and its kernels run") {
  const Written file(make_input());
  const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, kScalar);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  CHECK(bundle->target() == "scalar");
  CHECK(bundle->isa() == Isa::kScalar);
  CHECK(bundle->packed().empty());
  REQUIRE(bundle->kernels().size() == 2);
  CHECK(bundle->kernels()[0].name() == "i2s_gemv_n40k200_scalar");
  CHECK(bundle->table().images.size() == 1);
  check_gemv(bundle->kernels()[0]);
  CHECK(file.bytes.size() % kBundleAlignment == 0);
  CHECK(verify_bundle_file(file.parsed(), false).ok());
  SUBCASE("the shapes are not asked for") { CHECK(Bundle::open(file.path, "", kScalar).ok()); }
  SUBCASE("the same input gives the same bytes") { CHECK(Written(make_input()).bytes == file.bytes); }
  SUBCASE("a moved bundle keeps its code") {
    Result<Bundle> first = Bundle::open(file.path, kShapeHash, kScalar);
    const Bundle second = std::move(first).value();
    check_gemv(second.kernels()[0]);
  }
}

TEST_CASE("the best usable image is chosen") {
  BundleInput input = make_input();
  input.images.push_back({Isa::kAvx2, image_bytes()});
  KernelRecord other = record(Op::kGemv, bundle_test_gemv, 1);
  other.kernel.isa = Isa::kAvx2;
  other.name = other.kernel.name();
  input.table.kernels.push_back(other);
  const Written file(input);
  const std::array both{Isa::kScalar, Isa::kAvx2, Isa::kAvx512};
  const Result<Bundle> best = Bundle::open(file.path, kShapeHash, both);
  REQUIRE_MESSAGE(best.ok(), best.error().message);
  CHECK(best->isa() == Isa::kAvx2);
  CHECK(best->kernels().size() == 1);
  const Result<Bundle> scalar = Bundle::open(file.path, kShapeHash, kScalar);
  REQUIRE(scalar.ok());
  CHECK(scalar->isa() == Isa::kScalar);
  CHECK(scalar->kernels().size() == 2);
  const std::string none = refusal(file.path, kShapeHash, {});
  check_contains(none, "images: none that this CPU executes: the bundle has scalar, avx2, usable here are none");

  // Damage in the image that is not loaded is refused all the same.
  Written damaged(input);
  flip(damaged.bytes, damaged.parsed().data_offset() + damaged.parsed().find_tensor("image.avx2")->offset, 0);
  damaged.rewrite();
  check_contains(refusal(damaged.path), "refused: image.avx2: ");
}

// The record of a kernel of another target or format; its code is not looked at.
KernelRecord named(Isa isa, Op op, Format format) {
  KernelRecord row;
  row.kernel.op = op;
  row.kernel.format = format;
  row.kernel.isa = isa;
  if (is_ternary(op)) {
    row.kernel.n = kN;
    row.kernel.k = kK;
  }
  row.name = row.kernel.name();
  return row;
}

std::vector<std::string> selected_names(const KernelTable& table, std::span<const Isa> usable) {
  std::vector<std::string> names;
  for (const KernelRecord* record : select_kernels(table, usable)) names.push_back(record->name);
  return names;
}

TEST_CASE("images of a chain of targets complete each other") {
  using Names = std::vector<std::string>;
  KernelTable table;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi})
    table.images.push_back({isa, "", ""});
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    table.kernels.push_back(named(isa, Op::kGemv, Format::kI2s));
    table.kernels.push_back(named(isa, Op::kGemm, Format::kI2s));
    table.kernels.push_back(named(isa, Op::kNorm, Format::kF32));
  }
  table.kernels.push_back(named(Isa::kAvx2, Op::kSoftmax, Format::kF32));
  table.kernels.push_back(named(Isa::kScalar, Op::kRope, Format::kF32));
  const std::vector<Isa> all(all_isas().begin(), all_isas().end());
  const auto without = [&](std::vector<Isa> dropped) {
    std::vector<Isa> rest = all;
    std::erase_if(rest, [&](Isa isa) { return std::ranges::find(dropped, isa) != dropped.end(); });
    return rest;
  };
  // No kernels in the best image: those of the target that it is part of, and what only avx2 has. scalar is no part of
  // the chain.
  const Names avx512{"f32_softmax_avx2", "i2s_gemv_n40k200_avx512", "i2s_gemm_n40k200_avx512", "f32_norm_avx512"};
  CHECK(selected_names(table, all) == avx512);
  CHECK(selected_names(table, without({Isa::kAvx512Vbmi})) == avx512);
  CHECK(selected_names(table, without({Isa::kAvx512Vbmi, Isa::kAvx2})) ==
        Names{"i2s_gemv_n40k200_avx512", "i2s_gemm_n40k200_avx512", "f32_norm_avx512"});
  CHECK(selected_names(table, std::array{Isa::kNeon}).empty());
  // A whole product in another format makes the other's kernels useless; half a product does not.
  table.kernels.push_back(named(Isa::kAvx512Vbmi, Op::kGemv, Format::kT5));
  CHECK(selected_names(table, all) == Names{"f32_softmax_avx2", "i2s_gemv_n40k200_avx512", "i2s_gemm_n40k200_avx512",
                                            "f32_norm_avx512", "t5_gemv_n40k200_avx512_vbmi"});
  table.kernels.push_back(named(Isa::kAvx512Vbmi, Op::kGemm, Format::kT5));
  CHECK(selected_names(table, all) ==
        Names{"f32_softmax_avx2", "f32_norm_avx512", "t5_gemv_n40k200_avx512_vbmi", "t5_gemm_n40k200_avx512_vbmi"});

  // The same with code: the best image has the gemv only.
  BundleInput input = make_input();
  input.images.clear();
  input.table.kernels.clear();
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi}) {
    input.images.push_back({isa, image_bytes()});
    for (KernelRecord each : {record(Op::kGemv, bundle_test_gemv, 1), record(Op::kGemm, bundle_test_gemm, 2)}) {
      if (isa == Isa::kAvx512Vbmi && each.kernel.op == Op::kGemm) continue;
      each.kernel.isa = isa;
      each.name = each.kernel.name();
      input.table.kernels.push_back(each);
    }
  }
  const Written file(input);
  const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, all);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  CHECK(bundle->isa() == Isa::kAvx512Vbmi);
  CHECK(std::ranges::equal(bundle->loaded(), std::array{Isa::kAvx512Vbmi, Isa::kAvx512}));
  REQUIRE(bundle->kernels().size() == 2);
  CHECK(bundle->kernels()[0].name() == "i2s_gemm_n40k200_avx512");
  CHECK(bundle->kernels()[1].name() == "i2s_gemv_n40k200_avx512_vbmi");
  check_gemv(bundle->kernels()[1]);
  // A wrong kernel of the second image is found as well.
  for (KernelRecord& each : input.table.kernels) {
    if (each.kernel.isa == Isa::kAvx512 && each.kernel.op == Op::kGemm) {
      each.offset = record(Op::kGemv, bundle_test_broken_gemv, 1).offset;
    }
  }
  const Written broken(input);
  check_contains(refusal(broken.path, kShapeHash, all),
                 "refused: image.avx512: self-test: kernel i2s_gemm_n40k200_avx512");
}

TEST_CASE("layouts of packed weights: names, and refusal of all others") {
  const ProductLayouts kMixed{Layout::kT2, Layout::kT5, Layout::kTl1, Layout::kTl2};
  CHECK(to_string(ProductLayouts{Layout::kT5, Layout::kT5, Layout::kT5}) == "t5");
  CHECK(to_string(kMixed) == "t2,t5,tl1,tl2");
  CHECK(parse_packed_layouts("t5") == ProductLayouts{Layout::kT5});
  CHECK(parse_packed_layouts("t2,t5") == ProductLayouts{Layout::kT2, Layout::kT5});
  CHECK(parse_packed_layouts("t2,t5,tl1,tl2") == kMixed);
  for (const char* bad : {"", "t3", "T2", ",", "t2,t5,tl1,", "t2,t5,tl1,tl2,", "t2,,tl1", ",t5,tl1,tl2",
                          "t2 ,t5,tl1,tl2", "t2;t5;tl1;tl2"}) {
    CHECK_MESSAGE(!parse_packed_layouts(bad).has_value(), bad);
  }

  BundleInput input = make_input(true);
  input.packed_layouts = kMixed;
  Written file(input);
  const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, kScalar);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
  CHECK(bundle->packed_layouts() == kMixed);
  const Bytes good = file.bytes;
  const std::size_t at = test::find_text(good, "t2,t5,tl1,tl2");
  for (const std::string_view bad : {"t2,t5,tl1,tl3", "t2,t5,tl1;tl2", "t2,t5,tl1,tl ", "tl2          "}) {
    file.bytes = good;
    std::memcpy(file.bytes.data() + at, bad.data(), bad.size());
    test::redigest(file.bytes);
    file.rewrite();
    check_contains(refusal(file.path),
                   "refused: metadata: 'bitnet.packed.layout' must be one of the layouts t2, t5, tl1, tl2 or, where "
                   "they differ, one for each shape with commas between, found '" +
                       std::string(bad) + "'");
  }
}

TEST_CASE("loaded code is never writable") {
  const Written file(make_input());
  const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, kScalar);
  REQUIRE(bundle.ok());
  const auto address = reinterpret_cast<std::uintptr_t>(bundle->kernels()[0].function);
  std::ifstream maps("/proc/self/maps");
  std::string line;
  bool found = false;
  while (std::getline(maps, line)) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char mode[5] = {};
    REQUIRE(std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) == 3);
    if (address < begin || address >= end) continue;
    found = true;
    CHECK(std::string(mode) == "r-xp");
  }
  CHECK(found);
}

TEST_CASE("every byte of header, metadata and tensor table counts") {
  Written file(make_input());
  const std::size_t header = file.parsed().header_bytes();
  for (std::size_t at = 0; at < header; ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((at + bit) % 3 != 0) continue;
      flip(file.bytes, at, bit);
      const Result<gguf::File> parsed = gguf::File::parse(file.bytes, file.path);
      if (parsed.ok()) {
        const Status status = verify_bundle_file(*parsed, false);
        REQUIRE_MESSAGE(!status.ok(), "bit " << bit << " of byte " << at);
        check_contains(status.error().message, "refused: metadata: ");
      }
      if (bit == at / 3 % 8) {  // the same through a file
        file.rewrite();
        check_contains(refusal(file.path), at < 4 ? "refused: header: " : "refused: metadata: ");
      }
      flip(file.bytes, at, bit);
    }
  }
}

TEST_CASE("a flipped bit in padding or code is refused with its section") {
  Written file(make_input(true));
  const gguf::File parsed = file.parsed();
  std::vector<std::size_t> padding;
  const auto add_padding = [&](std::size_t begin, std::size_t end) {
    REQUIRE(begin < end);
    for (std::size_t at = begin; at < end; at += 4099) padding.push_back(at);
    padding.push_back(end - 1);
  };
  std::size_t at = parsed.header_bytes();
  for (const gguf::Tensor& tensor : parsed.tensors()) {
    add_padding(at, parsed.data_offset() + tensor.offset);
    at = parsed.data_offset() + tensor.offset + tensor.bytes;
  }
  add_padding(at, file.bytes.size());
  for (std::size_t i = 0; i < padding.size(); ++i) {
    flip(file.bytes, padding[i], static_cast<unsigned>(i));
    file.rewrite();
    check_contains(refusal(file.path), "refused: padding: the byte at offset " + std::to_string(padding[i]));
    flip(file.bytes, padding[i], static_cast<unsigned>(i));
  }
  const gguf::Tensor* image = parsed.find_tensor("image.scalar");
  for (std::size_t i = 0; i < image->bytes; i += i + 97 < image->bytes ? 97 : 1) {
    flip(file.bytes, parsed.data_offset() + i, static_cast<unsigned>(i));
    file.rewrite();
    check_contains(refusal(file.path), "refused: image.scalar: the code does not have its SHA-256");
    flip(file.bytes, parsed.data_offset() + i, static_cast<unsigned>(i));
  }
  file.rewrite();
  CHECK(Bundle::open(file.path, kShapeHash, kScalar).ok());
}

TEST_CASE("code that is not the code of the digest is never made executable") {
  const Bytes image = image_bytes();
  Sha256Digest digest = sha256(image);
  CHECK(CodeImage::load(image, digest, "test").ok());
  digest[31] ^= 1;
  const Result<CodeImage> wrong = CodeImage::load(image, digest, "test");
  REQUIRE(!wrong.ok());
  check_contains(wrong.error().message, "test: the code does not have its SHA-256");
  CHECK(!CodeImage::load({}, sha256({}), "test").ok());
  CHECK(!CodeImage::load(image, {}, "test").ok());
}

// Blocks of the packed weights and of the head that a bundle finds to match while nobody waits for it. The time that
// it is given grows, since its thread may be kept waiting, until it has found what is expected, and once more then.
std::pair<std::size_t, std::size_t> read_ahead(const std::string& path,
                                               const std::pair<std::size_t, std::size_t>& expected) {
  std::pair<std::size_t, std::size_t> most;
  for (int milliseconds = 4, enough = 0; enough < 2 && milliseconds <= 8192; milliseconds *= 2) {
    const Result<Bundle> bundle = Bundle::open(path, kShapeHash, kScalar, true);
    REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    const Bundle::Matching matching = bundle->end_read_ahead();
    CHECK(bundle->end_read_ahead().packed == matching.packed);
    const std::pair found{matching.packed, matching.head};
    most = std::max(most, found);
    if (most >= expected) ++enough;
  }
  return most;
}

TEST_CASE("packed weights and head: read where they lie, each block has its hash") {
  Written file(make_input(true));
  const gguf::File parsed = file.parsed();
  CHECK(verify_bundle_file(parsed, false).ok());
  const auto begin_of = [&](std::string_view tensor) {
    return static_cast<std::size_t>(parsed.data_offset() + parsed.find_tensor(tensor)->offset);
  };
  const auto check = [&](std::string_view tensor, std::string_view name, std::size_t bytes,
                         const HashedBytes& (Bundle::*of)() const) {
    CAPTURE(tensor);
    const std::size_t begin = begin_of(tensor);
    {
      const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, kScalar);
      REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
      const HashedBytes& section = ((*bundle).*of)();
      REQUIRE(section.bytes.size() == bytes);
      CHECK(section.name == name);
      CHECK(std::ranges::equal(section.bytes, std::span(file.bytes).subspan(begin, bytes)));
      for (std::size_t block = 0; block < section.hashes.size(); ++block) CHECK(section.matches(block));
      CHECK(bundle->end_read_ahead().packed == 0);
    }
    const std::size_t blocks = (bytes + kPackedHashBlock - 1) / kPackedHashBlock;
    for (std::size_t block = 0; block < blocks; ++block) {
      const std::size_t last = std::min((block + 1) * kPackedHashBlock, bytes) - 1;
      for (const std::size_t at : {begin + block * kPackedHashBlock, begin + last}) {
        flip(file.bytes, at, 5);
        file.rewrite();
        const Result<Bundle> bundle = Bundle::open(file.path, kShapeHash, kScalar);  // not read at load
        REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);
        const HashedBytes& section = ((*bundle).*of)();
        for (std::size_t i = 0; i < blocks; ++i) CHECK(section.matches(i) == (i != block));
        const auto expected = tensor == "head" ? std::pair{ceil_div(kPackedBytes, kPackedHashBlock), block}
                                               : std::pair{block, std::size_t{0}};
        CHECK(read_ahead(file.path, expected) == expected);
        const Error error = bundle->block_error(section, block);
        CHECK(error.code == ErrorCode::kVerification);
        check_contains(error.message, "refused: " + std::string(name) + " block " + std::to_string(block) + ": ");
        check_contains(verify_bundle_file(file.parsed(), false).error().message, std::string(name) + " block");
        flip(file.bytes, at, 5);
        file.rewrite();
      }
    }
  };
  check("packed", "packed weights", kPackedBytes, &Bundle::packed);
  check("head", "head", kHeadBytes, &Bundle::head);
}

TEST_CASE("a truncated or lengthened bundle is refused at every length") {
  Written file(make_input(true));
  const Bytes whole = file.bytes;
  std::vector<std::size_t> lengths{0, 1, 3, 4, 8, 23, 24, whole.size() - 1, whole.size() - kBundleAlignment};
  for (std::size_t at = 31; at < 4000; at += 31) lengths.push_back(at);
  for (std::size_t at = kBundleAlignment; at < whole.size(); at += kBundleAlignment) lengths.push_back(at);
  for (const std::size_t length : lengths) {
    test::write_file(file.path, std::span(whole).first(length));
    const std::string message = refusal(file.path);
    INFO(length);
    check_contains(message, length < 4 ? "not a kernel bundle" : "truncated");
  }
  file.bytes.resize(whole.size() + kBundleAlignment);
  file.rewrite();
  check_contains(refusal(file.path), "padding: bytes behind the end");
}

TEST_CASE("bundles of another model, version or kind are refused, each with its own message") {
  Written file(make_input());
  check_contains(refusal(file.path, std::string(64, 'c')),
                 "made for a model of other shapes: the bundle has shape hash " + kShapeHash);
  SUBCASE("kernel ABI") {
    test::set_u32(file.bytes, "bitnet.kernel_abi.version", BITNET_KERNEL_ABI_VERSION + 1);
    file.rewrite();
    check_contains(refusal(file.path), "metadata: kernel ABI version " + std::to_string(BITNET_KERNEL_ABI_VERSION + 1) +
                                           " (bitnet.kernel_abi.version), this program needs version " +
                                           std::to_string(BITNET_KERNEL_ABI_VERSION));
  }
  SUBCASE("bundle version") {
    test::set_u32(file.bytes, "bitnet.bundle.version", kBundleVersion + 1);
    file.rewrite();
    check_contains(refusal(file.path), "metadata: bundle version " + std::to_string(kBundleVersion + 1));
  }
  SUBCASE("world-writable") {
    REQUIRE(chmod(file.path.c_str(), 0666) == 0);
    check_contains(refusal(file.path), "permissions: the file is world-writable");
    check_contains(verify_bundle_file(file.parsed(), true).error().message, "world-writable");
    REQUIRE(chmod(file.path.c_str(), 0664) == 0);
    CHECK(Bundle::open(file.path, kShapeHash, kScalar).ok());
  }
  SUBCASE("a model") {
    gguf::Writer writer;
    writer.set("general.architecture", "bitnet-b1.58");
    REQUIRE(writer.write(file.path, {}).ok());
    check_contains(refusal(file.path),
                   "not a kernel bundle: general.architecture must be 'bitnet-kernels', found 'bitnet-b1.58'");
  }
  SUBCASE("a text") {
    const std::string_view text = "#!/bin/sh\n";
    test::write_file(file.path, std::as_bytes(std::span(text)));
    check_contains(refusal(file.path), "header: not a kernel bundle: it does not begin with 'GGUF'");
  }
  SUBCASE("nothing there") { check_contains(refusal(file.path + ".no"), "refused: file: "); }
  SUBCASE("a folder") { check_contains(refusal(std::filesystem::path(file.path).parent_path()), "refused: file: "); }
}

TEST_CASE("a kernel with wrong results is caught before it is used") {
  BundleInput input = make_input();
  input.table.kernels[0].offset = record(Op::kGemv, bundle_test_broken_gemv, 1).offset;
  const Written file(input);
  CHECK(verify_bundle_file(file.parsed(), false).ok());  // nothing is executed there
  check_contains(refusal(file.path),
                 "image.scalar: self-test: kernel i2s_gemv_n40k200_scalar is wrong: row 39 of rows 0 to 40");
}

TEST_CASE("re-digested metadata is still read strictly") {
  Written file(make_input());
  const auto replaced = [&](std::string_view from, std::string_view to) {
    REQUIRE(from.size() == to.size());
    Bytes bytes = file.bytes;
    std::memcpy(bytes.data() + test::find_text(bytes, from), to.data(), to.size());
    test::redigest(bytes);
    const Result<gguf::File> parsed = gguf::File::parse(bytes, file.path);
    REQUIRE(parsed.ok());
    const Status status = verify_bundle_file(*parsed, false);
    return status.ok() ? std::string("NOT REFUSED") : status.error().message;
  };
  check_contains(replaced("bitnet.points", "bitnet.paints"), "the key 'bitnet.paints' is not known");
  check_contains(replaced("\"op\":\"gemv\"", "\"op\":\"gemx\""), "kernels[0].op: 'gemx' is not known");
  check_contains(replaced("\"offset\":1", "\"offset\":x"), "not valid JSON");
  const std::uint64_t offset = record(Op::kGemm, bundle_test_gemm, 2).offset;
  check_contains(replaced("\"offset\":" + std::to_string(offset), "\"offset\":9999"),
                 "offset 9999 of kernel 'i2s_gemm_n40k200_scalar' lies outside its image of 8192 bytes");
}

TEST_CASE("the kernel table is parsed strictly") {
  KernelTable table;
  table.images.push_back({Isa::kScalar, "image.scalar", std::string(64, '0')});
  table.kernels.push_back(record(Op::kGemv, bundle_test_gemv, 1));
  table.kernels.push_back(record(Op::kGemm, bundle_test_gemm, 2));
  const std::string good = to_json(table);
  const Result<KernelTable> parsed = parse_kernel_table(good, "t");
  REQUIRE_MESSAGE(parsed.ok(), parsed.error().message);
  CHECK(to_json(*parsed) == good);

  using Json = nlohmann::ordered_json;
  const auto changed = [&](const std::function<void(Json&)>& change) {
    Json json = Json::parse(good);
    change(json);
    const Result<KernelTable> result = parse_kernel_table(json.dump(), "t");
    return result.ok() ? std::string("NOT REFUSED") : result.error().message;
  };
  for (const char* field : {"name", "op", "format", "layout", "n", "k", "token_tile", "tokens", "isa", "technique",
                            "offset", "row_granularity", "scratch_bytes", "features"}) {
    const std::string where = "bitnet.kernels: kernels[1]." + std::string(field);
    check_contains(changed([&](Json& j) { j["kernels"][1].erase(field); }), where + ": missing");
    check_contains(changed([&](Json& j) { j["kernels"][1][field] = nullptr; }), where);
    check_contains(changed([&](Json& j) { j["kernels"][1][field] = Json::object(); }), where);
    check_contains(changed([&](Json& j) { j["kernels"][1][field] = 1.5; }), where);
  }
  for (const char* field : {"n", "k", "token_tile", "offset", "row_granularity", "scratch_bytes"}) {
    check_contains(changed([&](Json& j) { j["kernels"][0][field] = -1; }), field);
    check_contains(changed([&](Json& j) { j["kernels"][0][field] = 18446744073709551615ULL; }), field);
  }
  for (const char* field : {"isa", "tensor", "sha256"}) {
    check_contains(changed([&](Json& j) { j["images"][0].erase(field); }), "images[0]." + std::string(field));
    check_contains(changed([&](Json& j) { j["images"][0][field] = "x"; }), "images[0]." + std::string(field));
  }
  check_contains(changed([](Json& j) { j["kernels"][0]["more"] = 1; }), "kernels[0].more: unknown field");
  check_contains(changed([](Json& j) { j["more"] = 1; }), "document.more: unknown field");
  check_contains(changed([](Json& j) { j["kernels"] = 1; }), "kernels: expected a list");
  check_contains(changed([](Json& j) { j["images"] = Json::array(); }), "images: expected a list");
  check_contains(changed([](Json& j) { j["images"].push_back(j["images"][0]); }), "stands twice");
  check_contains(changed([](Json& j) { j["kernels"].push_back(j["kernels"][0]); }), "kernels[2].name: ");
  check_contains(changed([](Json& j) { j["kernels"][0]["name"] = "i2s_gemv"; }), "expected 'i2s_gemv_n40k200_scalar'");
  check_contains(changed([](Json& j) { j["kernels"][0]["layout"] = "tl1"; }), "layout: expected 't2'");
  check_contains(changed([](Json& j) { j["kernels"][0]["format"] = "f16"; }), "does not go with op");
  check_contains(changed([](Json& j) { j["kernels"][0]["token_tile"] = 2; }), "token_tile: expected 1");
  for (const int granularity : {0, 1, 8, 15, 17, 24}) {
    for (const std::size_t kernel : {0U, 1U}) {  // gemv, gemm
      check_contains(changed([&](Json& j) { j["kernels"][kernel]["row_granularity"] = granularity; }),
                     "kernels[" + std::to_string(kernel) +
                         "].row_granularity: expected a multiple of 16 that is at least 16, found " +
                         std::to_string(granularity));
    }
  }
  CHECK(changed([](Json& j) { j["kernels"][0]["row_granularity"] = 32; }) == "NOT REFUSED");
  check_contains(changed([](Json& j) { j["kernels"][0]["tokens"] = {4, 2}; }), "below the minimum");
  check_contains(changed([](Json& j) { j["kernels"][0]["tokens"] = {1}; }), "expected [min, max]");
  check_contains(changed([](Json& j) {
                   j["kernels"][0]["isa"] = "avx2";
                   j["kernels"][0]["name"] = "i2s_gemv_n40k200_avx2";
                 }),
                 "no image for 'avx2'");
  const auto text = [](const std::string& json) { return parse_kernel_table(json, "t").error().message; };
  check_contains(text(""), "not valid JSON");
  check_contains(text("[]"), "expected an object, found array");
  check_contains(text(good + "x"), "not valid JSON");
  check_contains(text("{\"images\":[],\"images\":[]}"), "images: the field stands twice");
  check_contains(text("{\"images\":[{\"isa\":1,\"isa\":1}]}"), "isa: the field stands twice");
  check_contains(text("\xff"), "not valid JSON");
  check_contains(text(std::string(100000, '[')), "not valid JSON");
}

TEST_CASE("the writer refuses what a reader would refuse") {
  const test::TempDir dir;
  const auto message = [&](const std::function<void(BundleInput&)>& change) {
    BundleInput input = make_input(true);
    change(input);
    const Status status = write_bundle(input, dir / "x.bnk");
    CHECK(!std::filesystem::exists(dir / "x.bnk"));
    return status.ok() ? std::string("WRITTEN") : status.error().message;
  };
  check_contains(message([](BundleInput& i) { i.images[0].bytes.clear(); }), "image is empty");
  check_contains(message([](BundleInput& i) { i.images.clear(); }), "images: expected a list");
  check_contains(message([](BundleInput& i) { i.images.push_back(i.images[0]); }), "stands twice");
  check_contains(message([](BundleInput& i) { i.table.kernels[1] = i.table.kernels[0]; }), "stands twice");
  check_contains(message([](BundleInput& i) { i.table.kernels[1].offset = 1 << 20; }), "lies outside its image");
  check_contains(message([](BundleInput& i) { i.packed_source = {}; }), "nothing to read them from");
  check_contains(message([](BundleInput& i) { i.head_source = {}; }), "head announced, but nothing to read them from");
  check_contains(message([](BundleInput& i) {
                   i.packed_source = [](std::size_t, std::span<std::byte>) -> Status {
                     return Error{ErrorCode::kFailure, "source broke"};
                   };
                 }),
                 "source broke");
  check_contains(message([](BundleInput& i) {
                   i.packed_source = [count = 0](std::size_t, std::span<std::byte> out) mutable -> Status {
                     std::ranges::fill(out, static_cast<std::byte>(count++ == 4));
                     return {};
                   };
                 }),
                 "other bytes the second time, in MiB 1");
}

TEST_CASE("inspect and verify print what is there") {
  Written file(make_input(true));
  const Result<std::string> text = tools::describe_bundle(file.path, false);
  REQUIRE_MESSAGE(text.ok(), text.error().message);
  check_contains(*text, "i2s_gemm_n40k200_scalar");
  check_contains(*text, "tools       bundle_test");
  const Result<std::string> json = tools::describe_bundle(file.path, true);
  REQUIRE(json.ok());
  const auto object = nlohmann::json::parse(*json);
  CHECK(object["kernels"].size() == 2);
  CHECK(object["images"][0]["bytes"] == image_bytes().size());
  CHECK(object["packed"]["bytes"] == kPackedBytes);
  CHECK(object["packed"]["layout"] == "t2");
  CHECK(object["head"]["bytes"] == kHeadBytes);
  CHECK(object["head"]["version"] == 1);
  check_contains(*text, "head\n  int8 rows, version 1, " + std::to_string(kHeadBytes) + " bytes");

  const Result<tools::VerifyReport> good = tools::verify_bundle(file.path, "", false);
  REQUIRE(good.ok());
  INFO(good->text);
  CHECK(good->ok);
  check_contains(good->text, "skipped model: no --model given");
  flip(file.bytes, file.parsed().data_offset() + file.parsed().find_tensor("packed")->offset, 1);
  file.rewrite();
  const Result<tools::VerifyReport> bad = tools::verify_bundle(file.path, "", true);
  REQUIRE(bad.ok());
  CHECK(!bad->ok);
  const auto report = nlohmann::json::parse(bad->text);
  CHECK(report["ok"] == false);
  for (const auto& check : report["checks"]) {
    INFO(check.dump());
    const std::string expected = check["name"] == "packed weights" ? "failed"
                                 : check["name"] == "model"        ? "skipped"
                                                                   : "ok";
    CHECK(check["result"] == expected);
  }
  flip(file.bytes, 40, 1);
  file.rewrite();
  check_contains(tools::verify_bundle(file.path, "", false)->text, "skipped padding: relies on ");
  // A model that cannot be read says nothing about the bundle, good or damaged.
  const Result<tools::VerifyReport> unread = tools::verify_bundle(file.path, file.path + ".gguf", false);
  REQUIRE(!unread.ok());
  CHECK(unread.error().code == ErrorCode::kFailure);
  check_contains(unread.error().message, file.path + ".gguf");
  CHECK(!tools::describe_bundle(file.path, false).ok());
}

}  // namespace
}  // namespace bitnet
