// The weight store through a model: packed weights and head used where they lie in a bundle, checked before their first
// use. The same bits in every state, and nothing computed from damaged bytes.
#include <doctest/doctest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "runtime/model/model_state.h"
#include "tests/bundle_files.h"
#include "tests/model_evaluation.h"
#include "tests/programs.h"
#include "tests/sanitizers.h"

namespace bitnet {
namespace {

using test::check_equal;
using test::codegen_program;
using test::context_of;
using test::evaluate_all;
using test::Logits;
using test::make_bundle;
using test::prompt;

// Several MiB of products and of head, so that hashes have borders inside.
constexpr const char* kShape = "5x512x1536x8/8x5000";
constexpr std::int64_t kLength = 24;

struct Packed {
  test::TempFolder folder;
  std::string model = write_synth(folder, "m.gguf", kShape);
  std::string bundle = folder.file("m.bnk");
  bool made = false;

  // One for all tests: making the bundle takes most of the time.
  static const Packed& get() {
    static const Packed packed("packed weights where they lie");
    return packed;
  }

  explicit Packed(const char* what) {
    const auto codegen = codegen_program(what);
    if (!codegen.has_value()) return;
    REQUIRE(make_bundle(*codegen, model, bundle, "--target native --pack") == 0);
    made = true;
  }
};

Result<std::unique_ptr<Model>> load_with(const std::string& model, const std::string& bundle, int threads,
                                         HeadMode head) {
  ModelOptions options;
  options.threads = threads;
  options.bundle = bundle;
  options.head = head;
  return Model::load(model, options);
}

bool same_rows(const Model& a, const Model& b) {
  const std::size_t bytes = screened_layout(a.config().vocab, a.config().hidden).bytes;
  return std::memcmp(a.state().weights.head(), b.state().weights.head(), bytes) == 0;
}

TEST_CASE("packed weights of a bundle: mapped, the same logits with any threads") {
  const Packed& packed = Packed::get();
  if (!packed.made) return;
  const auto plain = test::load(packed.model, 1);
  CHECK(plain->state().weights.checked());
  const std::vector<std::int32_t> ids = prompt(kLength, plain->config().vocab);
  const Logits expected = evaluate_all(*context_of(*plain, kLength), ids);
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const auto loaded = load_with(packed.model, packed.bundle, threads, HeadMode::kScreened);
    REQUIRE_MESSAGE(loaded.ok(), (loaded.ok() ? "" : loaded.error().message));
    Model& model = **loaded;
    WeightStore& weights = model.state().weights;
    CHECK_FALSE(weights.checked());
    const auto context = context_of(model, kLength);
    check_equal(evaluate_all(*context, std::span(ids).first(8)).back(), expected[7]);
    CHECK(weights.checked());
    REQUIRE(weights.check_head(*model.state().pool).ok());
    CHECK(same_rows(model, *plain));
    for (std::size_t i = 8; i < ids.size(); ++i) {
      check_equal(evaluate_all(*context, std::span(ids).subspan(i, 1)).front(), expected[i]);
    }
    // The file's pages may be given back any time.
    model.state().bundle->file().mapping()->release(model.state().bundle->file().bytes());
    const Logits again = evaluate_all(*context_of(model, kLength), ids);
    for (std::size_t i = 0; i < ids.size(); ++i) check_equal(again[i], expected[i]);
    CHECK(same_rows(model, *plain));
  }
}

TEST_CASE("a flipped byte in any MiB of the packed weights or the head is refused before it is used") {
  const Packed& packed = Packed::get();
  if (!packed.made) return;
  test::Bytes bytes = test::read_file(packed.bundle);
  const auto file = gguf::File::parse(bytes, "bundle");
  REQUIRE(file.ok());
  const std::string damaged = packed.folder.file("damaged.bnk");
  const std::vector<std::int32_t> ids = prompt(3, 5000);
  Selection greedy;
  greedy.top = 1;
  int in_pass = 0;
  for (const char* tensor : {"packed", "head"}) {
    const gguf::Tensor* section = file->find_tensor(tensor);
    REQUIRE(section != nullptr);
    const std::size_t begin = file->data_offset() + section->offset;
    REQUIRE(section->bytes > 2 * kPackedHashBlock);
    for (std::size_t block = 0; block * kPackedHashBlock < section->bytes; ++block) {
      CAPTURE(tensor);
      CAPTURE(block);
      const std::size_t at = std::min(block * kPackedHashBlock + kPackedHashBlock / 3, section->bytes - 5);
      bytes[begin + at] ^= std::byte{16};
      test::write_file(damaged, bytes);
      bytes[begin + at] ^= std::byte{16};
      const std::string expected =
          std::string(*tensor == 'h' ? "head" : "packed weights") + " block " + std::to_string(block) + ": ";
      const auto check = [&](const Error& error) {
        CHECK(error.code == ErrorCode::kVerification);
        INFO(error.message);
        CHECK(error.message.find(expected) != std::string::npos);
      };
      const auto model = load_with(packed.model, damaged, 1 + static_cast<int>(block % 3), HeadMode::kScreened);
      if (!model.ok()) {  // one of the samples that are compared at load
        check(model.error());
        continue;
      }
      ++in_pass;
      const auto context = context_of(**model, kLength);
      for (int attempt = 0; attempt < 2; ++attempt) {
        if (*tensor == 'p') {
          const Status status = context->advance(ids);
          REQUIRE_FALSE(status.ok());
          check(status.error());
          CHECK(context->position() == 0);
        } else {
          REQUIRE(context->advance(ids).ok());
          const auto logits = context->logits(context->position() - 1, greedy);
          REQUIRE_FALSE(logits.ok());
          check(logits.error());
          context->truncate(0);
        }
      }
    }
  }
  CHECK(in_pass >= 4);
}

TEST_CASE("a head made from another model with the same products is refused") {
  const Packed& packed = Packed::get();
  if (!packed.made) return;
  test::Bytes bytes = test::read_file(packed.model);
  const auto file = gguf::File::parse(bytes, "model");
  REQUIRE(file.ok());
  bytes[file->data_offset() + file->find_tensor("token_embd.weight")->offset + 1] ^= std::byte{1};  // a weight of row 0
  const std::string other = packed.folder.file("other.gguf");
  test::write_file(other, bytes);
  const auto refused = load_with(other, packed.bundle, 2, HeadMode::kScreened);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kVerification);
  CHECK(refused.error().message.find("row 0 of the head is not this model's") != std::string::npos);
  CHECK(load_with(other, packed.bundle, 2, HeadMode::kExact).ok());  // which does not use it
}

#if !BITNET_TEST_SANITIZED
TEST_CASE("peak memory: packed weights, int8 head, keys and values, and 60 MB") {
  const std::string bitnet = test::program("bitnet");
  const auto codegen = codegen_program("peak memory");
  if (bitnet.empty() || !codegen.has_value()) return;
  const test::Programs programs;
  // The float16 embedding, 123 MB, is more than the bound allows beside the rest.
  const std::string model = write_synth(programs.folder, "m.gguf", "2x512x768x8/2x120000");
  const std::string packed = programs.folder.file("packed.bnk");
  REQUIRE(make_bundle(*codegen, model, packed, "--target native --pack") == 0);
  const auto file = gguf::File::open(model);
  REQUIRE(file.ok());
  const auto config = read_config(*file);
  const auto tensors = map_tensors(*file, *config);
  const ProductLayouts layouts(kernel_shapes(*tensors).ternary.size(), Layout::kT2);  // the largest
  const std::size_t head = screened_layout(config->vocab, config->hidden).bytes;
  for (const std::string& bundle : {std::string("none"), packed}) {
    const test::Outcome outcome = programs.bitnet(
        "run", "-m '" + model + "' --bundle '" + bundle +
                   "' --prompt-ids 1,2,3,4,5,6,7,8 -n 100 --ignore-eos --greedy " + "-t 2 -C 256 --json -q");
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    const auto memory = nlohmann::json::parse(outcome.out)["memory"];
    const std::size_t bound =
        packed_layout(*tensors, layouts).bytes + head + memory["kv_bytes"].get<std::size_t>() + 60'000'000;
    CHECK(tensors->token_embd->bytes > 60'000'000);
    CHECK(memory["peak_bytes"].get<std::size_t>() >= head);
    CHECK(memory["peak_bytes"].get<std::size_t>() <= bound);
  }
}
#endif

}  // namespace
}  // namespace bitnet
