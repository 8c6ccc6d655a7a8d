// Synthetic models: the files are what the format says, the numbers are what the header promises, the seed decides.
#include "runtime/synth/synth.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "runtime/base/half.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/tensors.h"
#include "runtime/tokenizer/tokenizer.h"

namespace bitnet {
namespace {

// A folder that goes away with the test.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "bitnet_synth_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string file(const char* name) const { return (path_ / name).string(); }
  [[nodiscard]] std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

SynthSpec shape(std::string_view text, std::uint64_t seed = 1) {
  auto spec = parse_synth_shape(text);
  INFO((spec.ok() ? std::string() : spec.error().message));
  REQUIRE(spec.ok());
  spec->seed = seed;
  return *std::move(spec);
}

void write(const SynthSpec& spec, const std::string& path) {
  const Status status = write_synthetic_model(spec, path);
  INFO((status.ok() ? std::string() : status.error().message));
  REQUIRE(status.ok());
}

gguf::File opened(const std::string& path) {
  auto file = gguf::File::open(path);
  INFO((file.ok() ? std::string() : file.error().message));
  REQUIRE(file.ok());
  return *std::move(file);
}

std::string read_all(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

float load_float(const std::byte* at) {
  float value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

TEST_CASE("the file is a model of its shape") {
  const TempDir dir;
  for (const char* architecture : {"bitnet-b1.58", "bitnet", "bitnet-25"}) {
    SynthSpec spec = shape("3x512x1024x4/1x1024");
    spec.architecture = architecture;
    write(spec, dir.file("x.gguf"));
    const gguf::File file = opened(dir.file("x.gguf"));
    CHECK(file.tensors().size() == 35);
    const auto config = read_config(file);
    INFO((config.ok() ? std::string() : config.error().message));
    REQUIRE(config.ok());
    CHECK(config->architecture == architecture);
    CHECK(config->layers == 3);
    CHECK(config->hidden == 512);
    CHECK(config->ffn == 1024);
    CHECK(config->heads == 4);
    CHECK(config->kv_heads == 1);
    CHECK(config->head_dim == 128);
    CHECK(config->rope_dim == 128);
    CHECK(config->context == 2048);
    CHECK(config->vocab == 1024);
    const auto tensors = map_tensors(file, *config);
    INFO((tensors.ok() ? std::string() : tensors.error().message));
    CHECK(tensors.ok());
    const auto tokenizer = Tokenizer::from_gguf(file);
    INFO((tokenizer.ok() ? std::string() : tokenizer.error().message));
    REQUIRE(tokenizer.ok());
    CHECK(tokenizer->size() == 1024);
    std::uint64_t bytes = 0;
    for (const gguf::Tensor& tensor : file.tensors()) bytes += tensor.bytes;
    CHECK(bytes == synth_data_bytes(spec));
  }
  CHECK(dir.entries() == 1);  // no temporary file stays
}

TEST_CASE("values are as promised") {
  const TempDir dir;
  const SynthSpec spec = shape("1x768x1536x6/2x600", 5);
  write(spec, dir.file("x.gguf"));
  const gguf::File file = opened(dir.file("x.gguf"));
  std::set<float> scales;
  for (const gguf::Tensor& tensor : file.tensors()) {
    INFO(tensor.name);
    if (tensor.type == gguf::TensorType::kI2_S) {
      const std::uint64_t code_bytes = tensor.ne[0] * tensor.ne[1] / 4;
      std::array<double, 4> counts{};
      for (std::uint64_t i = 0; i < code_bytes; ++i) {
        for (int shift = 0; shift < 8; shift += 2) counts[static_cast<unsigned>(tensor.data[i]) >> shift & 3U] += 1;
      }
      const double n = static_cast<double>(code_bytes) * 4;
      const double deviation = std::sqrt(n * 2 / 9);
      CHECK(counts[3] == 0);
      for (int code = 0; code < 3; ++code)
        CHECK(std::abs(counts[static_cast<std::size_t>(code)] - n / 3) < 5 * deviation);
      const float scale = load_float(tensor.data.data() + code_bytes);
      const float middle = 1.2F / std::sqrt(static_cast<float>(tensor.ne[0]));
      CHECK(scale > 0.949F * middle);
      CHECK(scale < 1.051F * middle);
      scales.insert(scale);
      for (std::uint64_t i = code_bytes + 4; i < code_bytes + 32; ++i) CHECK(tensor.data[i] == std::byte{0});
    } else if (tensor.type == gguf::TensorType::kF32) {
      double sum = 0;
      for (std::uint64_t i = 0; i < tensor.ne[0]; ++i) {
        const float gain = load_float(tensor.data.data() + i * 4);
        CHECK((gain > 0.4F && gain < 1.6F));
        sum += static_cast<double>(gain);
      }
      CHECK(std::abs(sum / static_cast<double>(tensor.ne[0]) - 1) < 0.02);
    } else {
      REQUIRE(tensor.type == gguf::TensorType::kF16);
      double sum = 0;
      double squares = 0;
      const std::uint64_t n = tensor.ne[0] * tensor.ne[1];
      for (std::uint64_t i = 0; i < n; ++i) {
        std::uint16_t half = 0;
        std::memcpy(&half, tensor.data.data() + i * 2, 2);
        const auto x = static_cast<double>(half_to_float(half));
        sum += x;
        squares += x * x;
      }
      const double deviation = 3 / std::sqrt(768.0);
      CHECK(std::abs(sum / static_cast<double>(n)) < 0.02 * deviation);
      CHECK(std::abs(std::sqrt(squares / static_cast<double>(n)) / deviation - 1) < 0.02);
    }
  }
  CHECK(scales.size() == 7);  // all different
}

TEST_CASE("the same seed gives the same bytes, another seed others") {
  const TempDir dir;
  write(shape("tiny", 3), dir.file("a"));
  write(shape("tiny", 3), dir.file("b"));
  write(shape("tiny", 4), dir.file("c"));
  const std::string a = read_all(dir.file("a"));
  CHECK(a.size() < 1500000);
  CHECK(a == read_all(dir.file("b")));
  CHECK(a != read_all(dir.file("c")));
  const gguf::File file = opened(dir.file("a"));
  const gguf::Tensor* q = file.find_tensor("blk.0.attn_q.weight");
  const gguf::Tensor* o = file.find_tensor("blk.0.attn_output.weight");
  REQUIRE(q != nullptr);
  REQUIRE(o != nullptr);
  CHECK(std::memcmp(q->data.data(), o->data.data(), q->data.size()) != 0);
}

TEST_CASE("known shapes") {
  const SynthSpec big = shape("2b-4t");
  CHECK(big.architecture == "bitnet-b1.58");
  CHECK(big.rope_base == 500000.0F);
  CHECK(big.context == 4096);
  CHECK(synth_data_bytes(big) > 1150000000U);
  CHECK(synth_data_bytes(big) < 1250000000U);
  for (const char* name : {"2b-4t", "large", "3b", "tiny"}) CHECK(check_synth_spec(shape(name)).ok());
  CHECK(shape("3b").ffn == 8640);
  CHECK(shape("large").architecture == "bitnet");
}

TEST_CASE("the vocabulary is distinct at every size and holds what a SentencePiece vocabulary holds") {
  for (const std::int64_t size : {260, 261, 512, 2000, 32002, 128256, 300000}) {
    const SynthVocabulary v = synth_vocabulary(size);
    CHECK(static_cast<std::int64_t>(v.tokens.size()) == size);
    CHECK(v.scores.size() == v.tokens.size());
    CHECK(v.types.size() == v.tokens.size());
    CHECK(std::set<std::string>(v.tokens.begin(), v.tokens.end()).size() == v.tokens.size());
    CHECK(v.tokens[3] == "<0x00>");
    CHECK(v.types[258] == 6);
    CHECK(v.tokens[259] == "\u2581");
    CHECK(v.scores[259] == 0.0F);
    CHECK(v.scores.back() == -static_cast<float>(size - 260));
  }
}

TEST_CASE("bad shapes are usage errors that say what is expected") {
  const auto refused = [](std::string_view text, const char* part) {
    const auto spec = parse_synth_shape(text);
    INFO(text);
    REQUIRE_FALSE(spec.ok());
    CHECK(spec.error().code == ErrorCode::kUsage);
    INFO(spec.error().message);
    CHECK(spec.error().message.find(part) != std::string::npos);
  };
  for (const char* text : {"", "small", "2B-4T", "3x512x1024x4/1", "3x512x1024x4x1x1024", "3x512x1024x4/1x1024x",
                           "x512x1024x4/1x1024", "3x512x1024x4/1x1024 ", "-3x512x1024x4/1x1024", "3x+512x1024x4/1x1024",
                           "3x512x1024x4/1x0x400", "99999999999999999999x512x1024x4/1x1024"}) {
    refused(text, "LxHxFxQ/KVxV");
  }
  refused("3x510x1024x4/1x1024", "no multiple of the 4 query heads");
  refused("3x12x1024x4/1x1024", "head size 12 / 4 = 3 is odd");
  refused("3x512x1024x4/3x1024", "do not divide");
  refused("3x512x1024x4/8x1024", "key-value heads is 8; expected 1 to 4");
  refused("3x512x1024x4/1x259", "vocabulary is 259; expected 260");
  refused("0x512x1024x4/1x1024", "layers is 0");
  refused("3x0x1024x4/1x1024", "hidden is 0");
  refused("3x512x0x4/1x1024", "ffn is 0");
  refused("3x512x1024x0/1x1024", "query heads is 0");
  refused("3x512x1024x4/0x1024", "key-value heads is 0");
  refused("3x512x100000x4/1x1024", "ffn is 100000");
  refused("3x512x1024x4/1x99999999", "vocabulary is 99999999");
  refused("1x40x64x4/2x300", "multiple of 128");  // 40 x 40 = 1600 = 12.5 groups
  refused("1x64x65x4/2x300", "ffn_gate");

  SynthSpec spec = shape("tiny");
  spec.architecture = "llama";
  const Status status = check_synth_spec(spec);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().message.find("bitnet-b1.58") != std::string::npos);
}

TEST_CASE("rows that do not begin on a group of 128 are allowed") {
  const TempDir dir;
  write(shape("1x96x160x3/1x300"), dir.file("x.gguf"));
  const gguf::File file = opened(dir.file("x.gguf"));
  CHECK(file.find_tensor("blk.0.ffn_down.weight")->bytes == 96 * 160 / 4 + 32);
}

TEST_CASE("a path that cannot be written is an error") {
  const Status status = write_synthetic_model(shape("tiny"), "/nonexistent-folder/x.gguf");
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().message.find("/nonexistent-folder") != std::string::npos);
}

TEST_CASE("the command: exit codes and output") {
  const char* programs = std::getenv("BITNET_BIN");
  if (programs == nullptr || !std::filesystem::exists(std::string(programs) + "/bitnet")) {
    MESSAGE("SKIPPED: the command (BITNET_BIN names no folder with the program bitnet)");
    return;
  }
  const TempDir dir;
  const auto exit_of = [&](const std::string& arguments) {
    const std::string command = "'" + std::string(programs) + "/bitnet' synth " + arguments + " >'" + dir.file("out") +
                                "' 2>'" + dir.file("err") + "'";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string output = " -o '" + dir.file("x.gguf") + "'";
  CHECK(exit_of("--shape tiny --arch bitnet --seed 3" + output) == 0);
  CHECK(read_all(dir.file("out")).find("bitnet, 2 layers") != std::string::npos);
  SynthSpec spec = shape("tiny", 3);
  spec.architecture = "bitnet";
  write(spec, dir.file("y.gguf"));
  CHECK(read_all(dir.file("x.gguf")) == read_all(dir.file("y.gguf")));
  CHECK(exit_of("--shape 3x510x1024x4/1x1024" + output) == 2);
  CHECK(read_all(dir.file("err")).find("query heads") != std::string::npos);
  CHECK(exit_of("--shape tiny --arch llama" + output) == 2);
  CHECK(exit_of("--shape tiny --seed -1" + output) == 2);
  CHECK(exit_of("--shape tiny") == 2);
  CHECK(exit_of(output) == 2);
  CHECK(exit_of("--shape tiny -o /nonexistent-folder/x.gguf") == 1);
}

}  // namespace
}  // namespace bitnet
