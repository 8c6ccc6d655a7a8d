// libFuzzer target for the bundle reader: any bytes are accepted or refused with a section named, and nothing is
// executed. Two things keep mutation useful. An input holds the header only: its first byte says how many blocks of 64
// KiB zeros follow (padding, and images that consist of zeros), so that inputs stay small. And the digest over the
// header is made right before the check, or no mutation would ever get beyond it. Every input is also read as a bare
// kernel table.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "codegen/bundle_writer.h"
#include "runtime/base/math.h"
#include "runtime/base/sha256.h"
#include "runtime/bundle/bundle.h"

namespace {

using namespace bitnet;

constexpr std::size_t kMostBlocks = 8;
constexpr std::size_t kDigestBytes = 32;

[[noreturn]] void broken(const std::string& what) {
  std::fprintf(stderr, "fuzz_bundle: %s\n", what.c_str());
  std::abort();
}

// A valid bundle of zeros, cut to its header, behind the number of blocks.
std::vector<char> make_seed(const std::filesystem::path& folder, bool packed) {
  BundleInput input;
  input.shape_hash = std::string(64, '0');
  input.target = "avx2";
  input.images.push_back({Isa::kAvx2, std::vector<std::byte>(64)});
  for (const Op op : {Op::kGemv, Op::kGemm}) {
    KernelRecord record;
    record.kernel.op = op;
    record.kernel.n = 32;
    record.kernel.k = 64;
    record.kernel.isa = Isa::kAvx2;
    record.kernel.token_tile = op == Op::kGemm ? 4 : 1;
    record.name = record.kernel.name();
    record.layout = "t2";
    record.row_granularity = 16;
    input.table.kernels.push_back(record);
  }
  if (packed) {
    input.packed_bytes = 1000;
    input.packed_source = [](std::size_t, std::span<std::byte> out) -> Status {
      std::ranges::fill(out, std::byte{0});
      return {};
    };
    input.head_bytes = 100;
    input.head_version = 1;
    input.head_source = input.packed_source;
  }
  const std::filesystem::path path = folder / "seed.tmp";
  const Status status = write_bundle(input, path.string());
  if (!status.ok()) broken(status.error().message);
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> whole{std::istreambuf_iterator<char>(in), {}};
  std::filesystem::remove(path);
  const auto file = gguf::File::parse(std::as_bytes(std::span(whole)), "seed");
  if (!file.ok()) broken(file.error().message);
  std::vector<char> seed{static_cast<char>(whole.size() / kBundleAlignment)};
  seed.insert(seed.end(), whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(file->header_bytes()));
  return seed;
}

void make_digest_right(const gguf::File& file, std::span<std::byte> bytes) {
  const gguf::KeyValue* entry = file.find("bitnet.bundle.digest");
  if (entry == nullptr) return;
  const auto* array = std::get_if<gguf::Array>(&entry->value);
  if (array == nullptr || array->bytes.size() != kDigestBytes) return;
  std::memset(bytes.data() + entry->value_offset, 0, kDigestBytes);
  const Sha256Digest digest = sha256(bytes.first(file.header_bytes()));
  std::memcpy(bytes.data() + entry->value_offset, digest.data(), kDigestBytes);
}

void check_table(std::string_view json) {
  const Result<KernelTable> table = parse_kernel_table(json, "fuzz");
  if (!table.ok()) {
    if (table.error().message.find("refused: metadata: bitnet.kernels: ") == std::string::npos) {
      broken("a refused table names no field: " + table.error().message);
    }
    return;
  }
  const std::string printed = to_json(*table);
  const Result<KernelTable> again = parse_kernel_table(printed, "fuzz");
  if (!again.ok() || to_json(*again) != printed) broken("an accepted table is not printed as it was read");
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path folder = (*argv)[i];
    if (!std::filesystem::is_directory(folder)) continue;
    for (const bool packed : {false, true}) {
      const std::vector<char> seed = make_seed(folder, packed);
      std::ofstream out(folder / (packed ? "seed_packed" : "seed_plain"), std::ios::binary);
      out.write(seed.data(), static_cast<std::streamsize>(seed.size()));
    }
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> header(data + 1, size - 1);
  check_table({reinterpret_cast<const char*>(header.data()), header.size()});

  const std::size_t blocks = std::max<std::size_t>(data[0] % kMostBlocks, 1);
  std::vector<std::byte> bytes(
      std::max(blocks * kBundleAlignment, round_up<std::size_t>(header.size(), kBundleAlignment)));
  std::memcpy(bytes.data(), header.data(), header.size());
  const Result<gguf::File> file = gguf::File::parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  make_digest_right(*file, bytes);
  const Status status = verify_bundle_file(*file, false);
  if (!status.ok() && status.error().message.find("bundle 'fuzz' refused: ") != 0) {
    broken("a refusal without its form: " + status.error().message);
  }
  return 0;
}
