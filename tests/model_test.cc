// Model and context: packing against a naive decoder, refusals of bad models, and the promise that a token's result
// does not depend on threads, batches, prefill or decode.
#include "runtime/model/model.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/base/thread_pool.h"
#include "runtime/kernels/builtin.h"
#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/rope.h"
#include "tests/assets.h"
#include "tests/model_evaluation.h"
#include "tests/model_files.h"
#include "tests/quick.h"

namespace bitnet {
namespace {

using test::ModelCopy;
using test::ScopedEnvironment;
using test::TempFolder;

// ---- packing -------------------------------------------------------------------------------------------------------

// One I2_S tensor made from codes, row-major, exactly by the format's definition.
struct I2sTensor {
  std::vector<std::byte> bytes;
  gguf::Tensor tensor;
  I2sTensor(const std::vector<std::uint8_t>& codes, std::int64_t n, std::int64_t k) {
    bytes.resize(static_cast<std::size_t>(n * k / 4 + 32), std::byte{0xEE});
    std::fill_n(bytes.begin(), n * k / 4, std::byte{0});
    for (std::size_t i = 0; i < codes.size(); ++i) {
      bytes[i / 128 * 32 + i % 32] |= static_cast<std::byte>(codes[i] << (6 - 2 * (i % 128 / 32)));
    }
    const float scale = 0.5F;
    std::memcpy(bytes.data() + n * k / 4, &scale, 4);
    tensor.type = gguf::TensorType::kI2_S;
    tensor.n_dims = 2;
    tensor.ne = {static_cast<std::uint64_t>(k), static_cast<std::uint64_t>(n), 1, 1};
    tensor.bytes = bytes.size();
    tensor.data = bytes;
  }
};

// The tensor as a part of a product.
MatrixPart part_of(const gguf::Tensor& tensor) {
  std::vector<std::string> notes;
  auto ternary = formats::TernaryMatrix::open(gguf::File{}, tensor, {}, notes);
  REQUIRE_MESSAGE(ternary.ok(), (ternary.ok() ? "" : ternary.error().message));
  REQUIRE(ternary->has_value());
  MatrixPart part;
  part.tensor = &tensor;
  part.rows = static_cast<std::int64_t>(tensor.ne[1]);
  part.ternary = *ternary;
  part.i2s_x86 = true;
  return part;
}

std::vector<std::uint8_t> random_codes(std::int64_t count, int highest, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % static_cast<unsigned>(highest + 1));
  return codes;
}

// Codes of all tiles: those of the stacked parts with code 3 read as 1, pad rows 1.
void check_packed(const FusedMatrix& product, Layout layout, const std::vector<std::uint8_t>& stacked,
                  const std::uint8_t* packed) {
  std::vector<std::uint8_t> row(static_cast<std::size_t>(product.k));
  for (std::int64_t r = 0; r < row_tiles(product.n) * 16; ++r) {
    unpack_row(layout, packed, r, product.k, row.data());
    for (std::int64_t k = 0; k < product.k; ++k) {
      std::uint8_t expected = 1;
      if (r < product.n) expected = stacked[static_cast<std::size_t>(r * product.k + k)];
      if (expected == 3) expected = 1;
      if (row[static_cast<std::size_t>(k)] != expected) {
        FAIL("row " << r << ", k " << k << ": " << int{row[static_cast<std::size_t>(k)]} << ", expected "
                    << int{expected});
      }
    }
  }
  if (layout != Layout::kT2)
    return;  // tests/layout_test.cc checks the padding of each layout; this one has its own packer
  // The last line holds code 1 beyond K.
  const std::int64_t lines = ceil_div<std::int64_t>(product.k, 16);
  const std::int64_t tail = lines * 16 - product.k;
  for (std::int64_t r = 0; r < row_tiles(product.n) * 16; ++r) {
    const std::uint8_t* line = packed + static_cast<std::size_t>(r / 16) * tile_bytes(layout, product.k) +
                               static_cast<std::size_t>(lines - 1) * 64;
    for (std::int64_t i = 16 - tail; i < 16; ++i) {
      CHECK((line[4 * (r % 16) + i % 4] >> (2 * (i / 4)) & 3) == 1);
    }
  }
}

TEST_CASE("pack_product: any layout, any stack of parts, any K, any row split, codes 3 counted") {
  struct Shape {
    std::vector<std::int64_t> rows;
    std::int64_t k;
  };
  const std::vector<Shape> shapes = {{{16}, 128},        {{17, 3}, 128}, {{40, 24, 8}, 256},     {{64}, 2560},
                                     {{32}, 8640},       {{8, 8}, 192},  {{1, 2, 2, 3, 8}, 128}, {{2, 14}, 64},
                                     {{34, 16, 6}, 320}, {{48}, 8640},   {{20, 12}, 96},         {{32}, 36},
                                     {{128}, 7},         {{33, 31}, 640}};
  for (const Shape& shape : shapes) {
    for (const int highest : {2, 3}) {
      FusedMatrix product;
      product.k = shape.k;
      std::vector<std::unique_ptr<I2sTensor>> parts;
      std::vector<std::uint8_t> stacked;
      std::uint64_t threes = 0;
      for (const std::int64_t rows : shape.rows) {
        const std::vector<std::uint8_t> codes = random_codes(rows * shape.k, highest, static_cast<std::uint32_t>(rows));
        for (const std::uint8_t code : codes) threes += code == 3;
        parts.push_back(std::make_unique<I2sTensor>(codes, rows, shape.k));
        product.parts.push_back(part_of(parts.back()->tensor));
        product.n += rows;
        stacked.insert(stacked.end(), codes.begin(), codes.end());
      }
      for (const Layout layout : kAllLayouts) {
        INFO(info(layout).name, ", N ", product.n, ", K ", shape.k);
        std::vector<std::uint8_t> whole(matrix_bytes(layout, product.n, shape.k) + 64, 0xAB);
        CHECK(pack_product(product, layout, 0, product.n, whole.data()) == threes);
        check_packed(product, layout, stacked, whole.data());
        for (std::size_t i = whole.size() - 64; i < whole.size(); ++i) REQUIRE(whole[i] == 0xAB);

        for (std::int64_t row = 0; row < product.n; row += 16) {
          std::vector<std::uint8_t> tile(tile_bytes(layout, product.k));
          (void)pack_tile(product, layout, row, tile.data());
          REQUIRE(std::memcmp(tile.data(), whole.data() + static_cast<std::size_t>(row / 16) * tile.size(),
                              tile.size()) == 0);
        }

        std::vector<std::uint8_t> split(whole.size(), 0xAB);
        std::uint64_t sum = 0;
        for (std::int64_t row = 0; row < product.n; row += 32) {
          sum += pack_product(product, layout, row, std::min<std::int64_t>(row + 32, product.n), split.data());
        }
        CHECK(sum == threes);
        CHECK(split == whole);
      }
    }
  }
}

TEST_CASE("pack_product: a matrix packed by another program") {
  const auto packed_path = test::asset("numerics/i2_s_x86_actparallel.packed.bin", "I2_S of another program");
  const auto input_path = test::asset("numerics/input_ternary_1scale_4x512_f32.bin", "I2_S of another program");
  if (!packed_path.has_value() || !input_path.has_value()) return;
  std::ifstream file(*packed_path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  std::ifstream input_file(*input_path, std::ios::binary);
  std::vector<float> input(4 * 512);
  input_file.read(reinterpret_cast<char*>(input.data()), static_cast<std::streamsize>(input.size() * 4));
  REQUIRE(input_file.good());
  REQUIRE(bytes.size() == 544);
  gguf::Tensor tensor;
  tensor.type = gguf::TensorType::kI2_S;
  tensor.n_dims = 2;
  tensor.ne = {512, 4, 1, 1};
  tensor.bytes = bytes.size();
  tensor.data = std::as_bytes(std::span(bytes));
  FusedMatrix product;
  product.n = 4;
  product.k = 512;
  product.parts = {part_of(tensor)};
  CHECK(product.parts[0].ternary->scales()[0] == 0.75F);
  std::vector<std::uint8_t> packed(matrix_bytes(Layout::kT2, 4, 512));
  CHECK(pack_product(product, Layout::kT2, 0, 4, packed.data()) == 0);
  std::vector<std::uint8_t> row(512);
  for (std::int64_t r = 0; r < 4; ++r) {
    unpack_row(Layout::kT2, packed.data(), r, 512, row.data());
    for (std::size_t k = 0; k < 512; ++k) {
      REQUIRE((static_cast<float>(row[k]) - 1.0F) * 0.75F == input[static_cast<std::size_t>(r) * 512 + k]);
    }
  }
}

TEST_CASE("rounding to float16: the same bits as float_to_half, every exponent and every rounding case") {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x0FFFU, 0x1000U, 0x1001U, 0x2FFFU, 0x3000U, 0xF000U, 0xFFFFU}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  // Also three values short of the end and from the second on, so that vectors and their tails divide them otherwise.
  const auto check = [&](const builtin::Family& family, std::size_t first, std::size_t count) {
    std::vector<std::uint16_t> bits(count + 1, 0x5555);
    family.convert_to_half(values.data() + first, bits.data(), static_cast<long long>(count));
    std::vector<float> rounded(values.begin() + static_cast<std::ptrdiff_t>(first), values.end());
    family.round_to_half(rounded.data(), static_cast<long long>(count));
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint16_t expected = float_to_half(values[first + i]);
      const auto expected_float = std::bit_cast<std::uint32_t>(half_to_float(expected));
      if (bits[i] != expected || std::bit_cast<std::uint32_t>(rounded[i]) != expected_float) {
        FAIL("float " << std::bit_cast<std::uint32_t>(values[first + i]) << ": " << bits[i] << ", expected "
                      << expected);
      }
    }
    REQUIRE(bits[count] == 0x5555);
    for (std::size_t i = count; i < rounded.size(); ++i) {
      REQUIRE(std::bit_cast<std::uint32_t>(rounded[i]) == std::bit_cast<std::uint32_t>(values[first + i]));
    }
  };
  for (const builtin::Family* family : {&builtin::kScalarFamily, &builtin::best_family()}) {
    check(*family, 0, values.size());
    check(*family, 1, values.size() - 4);
  }
}

TEST_CASE("RoPE turns pairs by position * base^(-2i/dim) and leaves the rest") {
  constexpr std::int64_t kDim = 8;
  float cosines[kDim / 2];
  float sines[kDim / 2];
  rope_angles(5, kDim, 10000.0F, cosines, sines);
  std::vector<float> head{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const std::vector<float> before = head;
  const auto kernels = builtin_kernels();
  const auto rope = std::ranges::find(kernels, Op::kRope, &Kernel::op);
  REQUIRE(rope != kernels.end());
  (*rope)(bitnet_rope_args{.x = head.data(),
                           .cosines = cosines,
                           .sines = sines,
                           .rows = 1,
                           .stride = 10,
                           .rope_dim = kDim,
                           .kind = BITNET_ROPE_NEOX});
  for (std::size_t i = 0; i < 4; ++i) {
    const double angle = 5.0 * std::pow(10000.0, -2.0 * static_cast<double>(i) / 8.0);
    const double a = before[i];
    const double b = before[i + 4];
    // Angles of at most 5 with four float32 roundings; values of at most 12.
    CHECK(head[i] == doctest::Approx(a * std::cos(angle) - b * std::sin(angle)).epsilon(1e-5));
    CHECK(head[i + 4] == doctest::Approx(a * std::sin(angle) + b * std::cos(angle)).epsilon(1e-5));
  }
  CHECK(head[8] == 9);
  CHECK(head[9] == 10);
}

TEST_CASE("shape hash") {
  ModelShapes shapes;
  shapes.ternary = {{768, 512}, {512, 1024}};
  shapes.norm_quantize = {512, 1024};
  // sha256 of "ternary 768 512\nternary 512 1024\nnorm_quantize 512\nnorm_quantize 1024\n"
  CHECK(shapes.hash() == "b5532461e24ce4a854aa02835e7b4e2a93bbb05d5debbdeae0301528a7c6aaed");
}

// ---- evaluation ----------------------------------------------------------------------------------------------------

using test::check_equal;
using test::codegen_program;
using test::context_of;
using test::evaluate_all;
using test::EvaluationCase;
using test::kEvaluationCases;
using test::load;
using test::Logits;
using test::make_bundle;
using test::prompt;

// Whatever the threads and however `ids` are cut into passes, each token has the logits `expected`.
void check_invariance(const std::string& path, const std::string& bundle, std::span<const std::int32_t> ids,
                      const Logits& expected) {
  const auto length = static_cast<std::int64_t>(ids.size());
  const std::vector<int> teams = test::quick_wanted() ? std::vector{1, 3} : std::vector{1, 2, 3, 4, 5};
  const std::vector<std::int64_t> batches =
      test::quick_wanted() ? std::vector<std::int64_t>{2, 5, 512} : std::vector<std::int64_t>{1, 2, 3, 5, 16, 33, 512};
  for (const int threads : teams) {
    INFO(threads, " threads");
    const auto model = load(path, threads, bundle);
    // One at a time.
    const auto step = context_of(*model, length);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto logits = step->eval({&ids[i], 1});
      REQUIRE(logits.ok());
      check_equal(*logits, expected[i]);
    }
    CHECK(step->position() == length);
    // One prefill, in passes of several sizes.
    for (const std::int64_t batch : batches) {
      INFO("batch ", batch);
      const auto context = context_of(*model, length, batch);
      const Logits all = evaluate_all(*context, ids);
      REQUIRE(all.size() == expected.size());
      for (std::size_t i = 0; i < all.size(); ++i) check_equal(all[i], expected[i]);
      context->truncate(7);
      const auto again = context->eval(ids.subspan(7));
      REQUIRE(again.ok());
      check_equal(*again, expected.back());
    }
    // Prefill, then decode.
    const auto mixed = context_of(*model, length);
    REQUIRE(mixed->eval(ids.first(11)).ok());
    for (std::size_t i = 11; i < ids.size(); ++i) {
      const auto logits = mixed->eval({&ids[i], 1});
      REQUIRE(logits.ok());
      check_equal(*logits, expected[i]);
    }
  }
}

TEST_CASE("a token's logits do not depend on threads, batches, prefill or decode") {
  const TempFolder folder;
  for (const EvaluationCase& c : kEvaluationCases) {
    INFO(c.shape, " ", c.architecture);
    const std::string path = write_synth(folder, "m.gguf", c.shape, c.architecture);
    const auto model = load(path, 1);
    const std::vector<std::int32_t> ids = prompt(c.length, model->config().vocab);
    const Logits expected = evaluate_all(*context_of(*model, c.length), ids);
    REQUIRE(expected.size() == ids.size());
    check_invariance(path, "none", ids, expected);
  }
}

TEST_CASE("nor on the bundle: each of its images gives the logits of the built-in kernels") {
  const auto codegen = codegen_program("logits of bundles");
  if (!codegen.has_value()) return;
  const TempFolder folder;
  const std::span<const EvaluationCase> cases(kEvaluationCases);
  for (const EvaluationCase& c : test::quick_wanted() ? cases.first(2) : cases) {
    INFO(c.shape, " ", c.architecture);
    const std::string path = write_synth(folder, "m.gguf", c.shape, c.architecture);
    const std::string bundle = folder.file("all.bnk");
    const std::string options = "--target scalar --target avx2 --target avx512";
    REQUIRE(make_bundle(*codegen, path, bundle, options) == 0);
    const auto plain = load(path, 1);
    const std::vector<std::int32_t> ids = prompt(c.length, plain->config().vocab);
    const Logits expected = evaluate_all(*context_of(*plain, c.length), ids);
    for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
      const std::string name(to_string(isa));
      if (!probe_isa(isa)) {
        std::printf("SKIPPED: logits of a bundle's image %s (this CPU does not execute it)\n", name.c_str());
        continue;
      }
      INFO("image ", name);
      const ScopedEnvironment force("BITNET_FORCE_ISA", name.c_str());
      const auto model = load(path, 2, bundle);
      REQUIRE(model->target() == name);
      REQUIRE(model->bundle_path() == bundle);
      REQUIRE(model->kernels().products_without_bundle().empty());
      check_invariance(path, bundle, ids, expected);
    }
  }
}

TEST_CASE("a bfloat16 embedding gives the logits of the same values in float32") {
  const TempFolder folder;
  const std::string good = write_synth(folder, "good.gguf", "1x128x256x2/1x300");
  ModelCopy bf16 = ModelCopy::read(good);
  ModelCopy f32 = ModelCopy::read(good);
  test::CopiedTensor& narrow = bf16.tensor("token_embd.weight");
  test::CopiedTensor& wide = f32.tensor("token_embd.weight");
  narrow.type = gguf::TensorType::kBF16;
  wide.type = gguf::TensorType::kF32;
  const std::size_t count = narrow.data.size() / 2;
  wide.data.assign(count * 4, std::byte{0});
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, narrow.data.data() + 2 * i, 2);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(half_to_float(half)) & 0xFFFF0000U;
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(narrow.data.data() + 2 * i, &upper, 2);
    std::memcpy(wide.data.data() + 4 * i, &bits, 4);
  }
  bf16.write(folder.file("bf16.gguf"));
  f32.write(folder.file("f32.gguf"));
  const auto model = load(folder.file("bf16.gguf"), 2);
  const auto reference = load(folder.file("f32.gguf"), 2);
  const std::vector<std::int32_t> ids = prompt(19, 300);
  const Logits expected = evaluate_all(*context_of(*reference, 19), ids);
  const Logits ours = evaluate_all(*context_of(*model, 19), ids);
  for (std::size_t i = 0; i < ours.size(); ++i) check_equal(ours[i], expected[i]);
  CHECK(model->kernels()[Step::kHead].name.starts_with("bf16_head_"));
}

TEST_CASE("every target of this CPU gives the same logits") {
  const TempFolder folder;
  const std::string path = write_synth(folder, "m.gguf", "2x192x320x6/2x300");
  std::vector<float> expected;
  for (const Isa isa : all_isas()) {
    if (!probe_isa(isa)) {
      std::printf("SKIPPED: logits on %s (this CPU does not execute it)\n", std::string(to_string(isa)).c_str());
      continue;
    }
    const ScopedEnvironment force("BITNET_FORCE_ISA", std::string(to_string(isa)).c_str());
    const auto model = load(path, 2);
    const auto context = context_of(*model, 64);
    const auto logits = context->eval(prompt(23, model->config().vocab));
    REQUIRE(logits.ok());
    if (expected.empty()) expected.assign(logits->begin(), logits->end());
    INFO(to_string(isa));
    check_equal(*logits, expected);
  }
}

TEST_CASE("context: bounds, errors that change nothing, kernel counts") {
  const TempFolder folder;
  const auto model = load(write_synth(folder, "m.gguf", "2x128x256x2/1x300"), 2);
  CHECK(Context::create(*model, {.size = -1}).error().code == ErrorCode::kUsage);
  CHECK(Context::create(*model, {.size = 8, .batch = 0}).error().code == ErrorCode::kUsage);
  const auto context = context_of(*model, 8);
  CHECK(context->size() == 8);
  const std::vector<std::int32_t> ids{1, 2, 3, 4, 5};
  const auto first = context->eval(ids);
  REQUIRE(first.ok());
  const std::vector<float> expected(first->begin(), first->end());
  CHECK(context->position() == 5);
  CHECK(context->eval({}).error().message.find("no token") != std::string::npos);
  const std::vector<std::int32_t> outside{1, 300};
  CHECK(context->eval(outside).error().message.find("token id 300 is outside") != std::string::npos);
  const std::vector<std::int32_t> negative{-1};
  CHECK_FALSE(context->eval(negative).ok());
  const auto overflow = context->eval(ids);
  REQUIRE_FALSE(overflow.ok());
  CHECK(overflow.error().message.find("5 + 5 tokens exceed the context of 8") != std::string::npos);
  CHECK(context->position() == 5);
  context->truncate(0);
  const auto again = context->eval(ids);
  REQUIRE(again.ok());
  check_equal(*again, expected);
  // Two prefills of 5 tokens, 2 layers, 1 key/value head: 4 products each, 3 norms a token and layer.
  std::uint64_t gemm = 0;
  std::uint64_t attention = 0;
  for (const KernelUse& use : context->kernel_uses()) {
    if (use.name.starts_with("i2s_gemm_")) gemm += use.calls;
    if (use.name.starts_with("f16_attention_")) attention += use.calls;
    CHECK_FALSE(use.name.starts_with("i2s_gemv_"));
  }
  CHECK(gemm == 2 * 2 * 4);
  CHECK(attention == 2 * 2);  // five tokens are one block
  // A sink's error comes back and leaves the sequence as it was.
  const Status refused = context->eval_all(std::span(ids).first(2), [](std::int64_t, std::span<const float>) -> Status {
    return Error{ErrorCode::kStrict, "no more"};
  });
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message == "no more");
  CHECK(context->position() == 5);
}

// ---- refusals ------------------------------------------------------------------------------------------------------

Error load_error(const std::string& path, ModelOptions options = {}) {
  options.threads = 1;
  const auto model = Model::load(path, options);
  REQUIRE_FALSE(model.ok());
  return model.error();
}

TEST_CASE("models that are refused") {
  const TempFolder folder;
  const std::string good = write_synth(folder, "good.gguf", "2x128x256x2/1x300");
  const std::string path = folder.file("bad.gguf");
  const auto refused = [&](const std::function<void(ModelCopy&)>& change, std::vector<std::string> parts,
                           ErrorCode code = ErrorCode::kTensorMapping) {
    ModelCopy copy = ModelCopy::read(good);
    change(copy);
    copy.write(path);
    const Error error = load_error(path);
    CHECK(static_cast<int>(error.code) == static_cast<int>(code));
    parts.push_back(path);
    for (const std::string& part : parts) CHECK_MESSAGE(error.message.find(part) != std::string::npos, part);
  };
  ModelCopy::read(good).write(path);
  CHECK(load(path, 1)->config().layers == 2);  // the unchanged copy loads

  refused([](ModelCopy& m) { m.remove("blk.1.ffn_up.weight"); }, {"blk.1.ffn_up.weight", "missing"});
  refused([](ModelCopy& m) { m.remove("token_embd.weight"); }, {"token_embd.weight", "missing"});
  refused([](ModelCopy& m) { m.remove("blk.0.attn_sub_norm.weight"); }, {"blk.0.attn_sub_norm.weight", "missing"});
  refused([](ModelCopy& m) { m.tensor("blk.0.attn_k.weight").ne = {64, 128}; },
          {"blk.0.attn_k.weight", "expected shape [128,64]", "found [64,128]"});
  refused(
      [](ModelCopy& m) {
        auto& norm = m.tensor("blk.1.ffn_norm.weight");
        norm.ne = {127};
        norm.data.resize(127 * 4);
      },
      {"blk.1.ffn_norm.weight", "expected shape [128]", "found [127]"});
  refused(
      [](ModelCopy& m) {
        auto& q = m.tensor("blk.0.attn_q.weight");
        q.type = gguf::TensorType::kI32;
        q.data.assign(128 * 128 * 4, std::byte{0});
      },
      {"blk.0.attn_q.weight", "expected type a ternary or a dense type", "found I32"});
  for (const char* name : {"blk.0.attn_norm.bias", "output_norm.bias", "position_embd.weight", "blk.7.attn_q.weight"}) {
    refused([&](ModelCopy& m) { m.add_floats(name, 1); }, {name, "refused"});
  }
  refused([](ModelCopy& m) { m.add_floats("output.bias", 300); }, {"output.bias", "a bias of the head"});
  refused([](ModelCopy& m) { m.add_floats("blk.0.attn_q.bias", 1); }, {"attn_q.bias", "expected shape [128]"});
  refused([](ModelCopy& m) { m.add_floats("rope_freqs.weight", 1); }, {"rope_freqs.weight", "expected shape [32]"});
  refused([](ModelCopy& m) { m.add_floats("rope_factors_long.weight", 32); },
          {"rope_factors_short.weight", "missing, though the other one"});
  refused([](ModelCopy& m) { m.add_floats("rope_freqs.weight", 32); },
          {"rope_freqs.weight", "RoPE factor 0: expected 0.7..1048576, found 0.0"});
  refused(
      [](ModelCopy& m) {
        m.add_floats("rope_factors_long.weight", 32);
        m.add_floats("rope_factors_short.weight", 32);
      },
      {"rope_factors_long.weight", "RoPE factor 0"});
  refused([](ModelCopy& m) { m.set("bitnet-b1.58.rope.scaling.type", std::string_view("longrope")); },
          {"rope_factors_long.weight", "missing", "bitnet-b1.58.rope.scaling.type is longrope"});
  for (const auto& [name, count] : {std::pair{"attn_q.bias", 128},
                                    {"ffn_down.scale", 1},
                                    {"ffn_up_norm_in.weight", 128},
                                    {"post_ffw_norm.weight", 128}}) {
    refused([&, what = name, size = count](
                ModelCopy& m) { m.add_floats("blk.0." + std::string(what), static_cast<std::size_t>(size)); },
            {"blk.1." + std::string(name), "missing, though block 0 has it"});
  }
  refused([](ModelCopy& m) { m.add_floats("blk.0.attn_k_norm.weight", 64); }, {"blk.0.attn_q_norm.weight", "missing"});
  refused([](ModelCopy& m) { m.add_floats("blk.1.attn_output_norm_in.weight", 128); },
          {"blk.1.attn_output_norm_in.weight", "is the same norm as blk.1.attn_sub_norm.weight"});
  for (const float scale : {0.0F, -1.0F, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    refused(
        [&](ModelCopy& m) {
          auto& down = m.tensor("blk.1.ffn_down.weight");
          std::memcpy(down.data.data() + 128 * 256 / 4, &scale, 4);
        },
        {"blk.1.ffn_down.weight", "scale"});
  }
  const auto metadata = [&](const char* key, gguf::Value value, std::vector<std::string> parts) {
    refused([&](ModelCopy& m) { m.set(key, value); }, std::move(parts), ErrorCode::kFailure);
  };
  metadata("general.architecture", std::string_view("mamba"), {"general.architecture", "'mamba'", "bitnet-b1.58"});
  metadata("bitnet-b1.58.block_count", std::uint32_t{0}, {"block_count", "found 0"});
  metadata("bitnet-b1.58.attention.head_count_kv", std::uint32_t{3}, {"head_count_kv", "multiple"});
  metadata("bitnet-b1.58.attention.layer_norm_rms_epsilon", 0.0F, {"layer_norm_rms_epsilon"});
  metadata("bitnet-b1.58.rope.dimension_count", std::uint32_t{7}, {"rope.dimension_count", "found 7"});
  // 127 * 132104 is the last product that float32 holds exactly.
  metadata("bitnet-b1.58.embedding_length", std::uint32_t{132105}, {"embedding_length", "at most 132104", "rounded"});
  metadata("bitnet-b1.58.feed_forward_length", std::uint32_t{132105},
           {"feed_forward_length", "at most 132104, found 132105"});
  refused([](ModelCopy& m) { m.set("bitnet-b1.58.feed_forward_length", std::uint32_t{132104}); },
          {"blk.0.ffn_gate.weight", "expected shape [128,132104]"});
  metadata("bitnet-b1.58.expert_count", std::uint32_t{4}, {"expert_count"});
  metadata("bitnet-b1.58.vocab_size", std::uint32_t{301}, {"vocab_size", "301", "300"});
  metadata("bitnet-b1.58.embedding_length", std::string_view("128"), {"embedding_length"});
  refused([](ModelCopy& m) { m.erase("bitnet-b1.58.feed_forward_length"); }, {"feed_forward_length"},
          ErrorCode::kFailure);
  refused([](ModelCopy& m) { m.set("bitnet-b1.58.block_count", std::uint32_t{3}); }, {"blk.2.", "missing"});
  refused([](ModelCopy& m) { m.set("bitnet-b1.58.block_count", std::uint32_t{1}); }, {"blk.1.", "refused"});

  // What changes nothing is accepted.
  ModelCopy neutral = ModelCopy::read(good);
  neutral.set("bitnet-b1.58.rope.scaling.type", std::string_view("linear"));
  neutral.set("bitnet-b1.58.rope.scaling.factor", 1.0F);
  neutral.add_floats("output.weight", 1);
  neutral.write(path);
  CHECK(load(path, 1)->config().hidden == 128);

  // Truncated at every quarter, and one byte short.
  const auto size = std::filesystem::file_size(good);
  for (const std::uintmax_t cut : {size / 4, size / 2, size / 4 * 3, size - 1}) {
    std::filesystem::copy_file(good, path, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(path, cut);
    CHECK(load_error(path).message.find(path) != std::string::npos);
  }
  CHECK(load_error(folder.file("absent.gguf")).message.find("absent.gguf") != std::string::npos);
}

TEST_CASE("a model without a ternary tensor runs as a dense one, and says so") {
  const TempFolder folder;
  ModelCopy copy = ModelCopy::read(write_synth(folder, "good.gguf", "1x128x256x2/1x300"));
  for (auto& tensor : copy.tensors) {
    if (tensor.type != gguf::TensorType::kI2_S) continue;
    tensor.type = gguf::TensorType::kF16;
    tensor.data.assign(tensor.ne[0] * tensor.ne[1] * 2, std::byte{0});
  }
  const std::string path = folder.file("dense.gguf");
  copy.write(path);
  std::string said;
  ModelOptions options;
  options.threads = 1;
  options.log = [&](LogLevel, std::string_view line) { said.append(line).append("\n"); };
  const auto model = Model::load(path, options);
  REQUIRE(model.ok());
  CHECK(said.find("dense model: no ternary weights") != std::string::npos);
  CHECK(said.find("i2s_") == std::string::npos);
  const auto context = context_of(**model, 8);
  const std::vector<std::int32_t> ids{1, 2, 3};
  REQUIRE(context->eval(ids).ok());
  for (const KernelUse& use : context->kernel_uses()) {
    CHECK_FALSE(use.name.find("gemv") != std::string::npos);
    CHECK_FALSE(use.name.find("gemm") != std::string::npos);
  }
  // strict refuses built-in kernels where a bundle could stand in for them; for dense rows there is no bundle to ask
  // for.
  options.strict = true;
  CHECK(Model::load(path, options).ok());
}

TEST_CASE("codes 3, bundles and targets: warnings, strict mode, refusals") {
  const TempFolder folder;
  const std::string good = write_synth(folder, "good.gguf", "1x128x256x2/1x300");
  std::vector<std::pair<LogLevel, std::string>> lines;
  ModelOptions options;
  options.threads = 1;
  options.log = [&](LogLevel level, std::string_view line) { lines.emplace_back(level, std::string(line)); };
  const auto said = [&](LogLevel level, std::string_view part) {
    return std::any_of(lines.begin(), lines.end(), [&](const auto& line) {
      return line.first == level && line.second.find(part) != std::string::npos;
    });
  };
  REQUIRE(Model::load(good, options).ok());
  CHECK(said(LogLevel::kInfo, "running on built-in kernels"));
  CHECK(std::none_of(lines.begin(), lines.end(), [](const auto& line) { return line.first == LogLevel::kWarning; }));

  ModelCopy copy = ModelCopy::read(good);
  for (std::size_t i = 0; i < 3; ++i) copy.tensor("blk.0.ffn_gate.weight").data[i] = std::byte{0xFF};
  const std::string threes = folder.file("threes.gguf");
  copy.write(threes);
  lines.clear();
  REQUIRE(Model::load(threes, options).ok());
  CHECK(said(LogLevel::kWarning, "12 codes are 3"));
  CHECK(said(LogLevel::kWarning, "blk.0.ffn_gate.weight"));

  options.strict = true;
  const Error strict = load_error(good, options);
  CHECK(strict.code == ErrorCode::kStrict);
  CHECK(strict.message.find("bitnet-codegen --model") != std::string::npos);
  options.bundle = "none";
  CHECK(load_error(good, options).code == ErrorCode::kStrict);
  options.strict = false;

  // An explicit bundle that is refused is an error; the same file beside the model is a warning.
  options.bundle = good;  // a GGUF, but no bundle
  const Error refused = load_error(good, options);
  CHECK(refused.code == ErrorCode::kVerification);
  options.bundle = folder.file("absent.bnk");
  CHECK(load_error(good, options).code == ErrorCode::kVerification);
  options.bundle = "auto";
  std::filesystem::copy_file(good, folder.file("good.bnk"));
  lines.clear();
  REQUIRE(Model::load(good, options).ok());
  CHECK(said(LogLevel::kWarning, "; built-in kernels run instead"));
  CHECK(said(LogLevel::kInfo, "running on built-in kernels"));
  options.strict = true;
  CHECK(load_error(good, options).code == ErrorCode::kStrict);
  options.strict = false;

  const ScopedEnvironment force("BITNET_FORCE_ISA", "sse9");
  const Error isa = load_error(good, options);
  CHECK(isa.code == ErrorCode::kUsage);
  CHECK(isa.message.find("\"sse9\" is not a known target") != std::string::npos);
}

TEST_CASE("logits that are not finite are an error") {
  const TempFolder folder;
  const std::string good = write_synth(folder, "good.gguf", "1x128x256x2/1x300");
  ModelCopy copy = ModelCopy::read(good);
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(copy.tensor("output_norm.weight").data.data() + 40, &infinity, 4);
  const std::string path = folder.file("bad.gguf");
  copy.write(path);
  const auto model = load(path, 1);
  const auto context = context_of(*model, 8);
  const std::vector<std::int32_t> ids{1, 2, 3};
  const auto logits = context->eval(ids);
  REQUIRE_FALSE(logits.ok());
  CHECK(logits.error().message.find("position 2 are not finite") != std::string::npos);
  CHECK(context->position() == 0);
}

}  // namespace
}  // namespace bitnet
