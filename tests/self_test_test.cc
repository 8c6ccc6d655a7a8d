// The self-test itself: right kernels pass whatever their shape, and each kind of wrong one is caught. A check that has
// never failed is not trusted, so every wrong kernel here differs from the right one in a single place.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/bundle/bundle.h"
#include "runtime/kernels/layout.h"
#include "runtime/reference/reference.h"

namespace bitnet {
namespace {

enum class Fault {
  kNone,
  kLastRow,      // one element off by one
  kSaturated,    // sums kept in 16 bits
  kNoSum,        // codes not corrected by the sum of x
  kBeyond,       // writes the row behind its range
  kPadRows,      // pad rows of the tail are not 0
  kSecondPart,   // wrong only behind the eighth tile of a call
  kFourTiles,    // wrong only where a call has four tiles
  kLastToken,    // gemm: the last token of a block
  kBlockTokens,  // gemm: writes tokens that do not exist
  kScratch,      // takes scratch for zeroed
  kLastGroup,    // one element of the last K-group off by one
  kGroupSum,     // every K-group corrected by the first one's sum
};

// The sums of one row: sink(group, sum) for each K-group. x(k) is activation k, x_sum(g) the sum of those of group g.
template <Fault kFault, Layout kLayout, std::int32_t kGroup, typename X, typename XSum, typename Sink>
void row_sums(const std::uint8_t* weights, std::int64_t row, std::int64_t k, X x, XSum x_sum, Sink sink) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(k));
  unpack_row(kLayout, weights, row, k, codes.data());
  const std::int64_t groups = group_count(k, kGroup);
  const std::int64_t length = kGroup == 0 ? k : kGroup;
  for (std::int64_t g = 0; g < groups; ++g) {
    std::int32_t sum = 0;
    for (std::int64_t i = g * length; i < std::min(k, (g + 1) * length); ++i) {
      sum += codes[static_cast<std::size_t>(i)] * x(i);
      if (kFault == Fault::kSaturated) sum = static_cast<std::int16_t>(sum);
    }
    if (kFault != Fault::kNoSum) sum -= x_sum(kFault == Fault::kGroupSum ? 0 : g);
    if (kFault == Fault::kLastGroup && g == groups - 1 && row == 5) ++sum;
    sink(g, sum);
  }
}

template <Fault kFault, Layout kLayout = Layout::kT2, std::int32_t kGroup = 0>
void gemv(const bitnet_gemv_args* a) {
  const std::int64_t end = round_up<std::int64_t>(a->row_end, 16);
  for (std::int64_t r = a->row_begin; r < end; ++r) {
    row_sums<kFault, kLayout, kGroup>(
        a->weights, r, a->k, [&](std::int64_t i) { return a->x[i]; }, [&](std::int64_t g) { return a->x_sums[g]; },
        [&](std::int64_t g, std::int32_t sum) { a->y[g * a->y_stride + r] = sum; });
    if (kFault == Fault::kScratch) a->y[r] += static_cast<const std::int32_t*>(a->scratch)[3];
  }
  if (kFault == Fault::kLastRow && a->row_end == a->n) a->y[a->n - 1] += 1;
  if (kFault == Fault::kBeyond) a->y[end] = 0;
  if (kFault == Fault::kPadRows && a->n % 16 != 0 && a->row_end == a->n) a->y[a->n] = 1;
  if (kFault == Fault::kSecondPart && a->row_end - a->row_begin > 128) a->y[a->row_begin + 128] ^= 1;
  if (kFault == Fault::kFourTiles && end - a->row_begin >= 64) a->y[a->row_begin + 48] ^= 1;
}

constexpr std::int32_t kTokenTile = 4;

template <Fault kFault, Layout kLayout = Layout::kT2, std::int32_t kGroup = 0>
void gemm(const bitnet_gemm_args* a) {
  const std::int64_t end = round_up<std::int64_t>(a->row_end, 16);
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(a->k);
  const std::int64_t tokens = kFault == Fault::kBlockTokens ? round_up<std::int64_t>(a->tokens, kTokenTile) : a->tokens;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int8_t* block = a->x + t / kTokenTile * width * kTokenTile + t % kTokenTile * 4;
    const auto x = [&](std::int64_t i) { return block[i / 4 * 4 * kTokenTile + i % 4]; };
    for (std::int64_t r = a->row_begin; r < end; ++r) {
      std::int32_t* y = a->y + t * a->y_stride + r;
      row_sums<kFault, kLayout, kGroup>(
          a->weights, r, a->k, x, [&](std::int64_t g) { return a->x_sums[g * a->sums_stride + t]; },
          [&](std::int64_t g, std::int32_t sum) { y[g * a->group_stride] = sum; });
      if (kFault == Fault::kLastToken && t % kTokenTile == kTokenTile - 1) *y += r == 17;
      if (kFault == Fault::kScratch) *y += static_cast<const std::int32_t*>(a->scratch)[3];
    }
  }
}

Kernel kernel(Op op, std::int64_t n, std::int64_t k, void* function) {
  Kernel out;
  out.op = op;
  out.n = n;
  out.k = k;
  out.token_tile = op == Op::kGemm ? kTokenTile : 1;
  out.scratch_bytes = is_ternary(op) ? 64 : 0;
  out.function = function;
  return out;
}
template <Fault kFault, Layout kLayout = Layout::kT2, std::int32_t kGroup = 0>
Kernel gemv_kernel(std::int64_t n = 2568, std::int64_t k = 704) {
  Kernel out = kernel(Op::kGemv, n, k, reinterpret_cast<void*>(gemv<kFault, kLayout, kGroup>));
  out.format = format_of(kLayout);
  out.group = kGroup;
  return out;
}
template <Fault kFault, Layout kLayout = Layout::kT2, std::int32_t kGroup = 0>
Kernel gemm_kernel(std::int64_t n = 2568, std::int64_t k = 704) {
  Kernel out = kernel(Op::kGemm, n, k, reinterpret_cast<void*>(gemm<kFault, kLayout, kGroup>));
  out.format = format_of(kLayout);
  out.group = kGroup;
  return out;
}
// For small batches: never called with more tokens than its tile.
template <Fault kFault, Layout kLayout = Layout::kT2>
Kernel batch_kernel(std::int64_t n = 2568, std::int64_t k = 704) {
  Kernel out = gemm_kernel<kFault, kLayout>(n, k);
  out.m = kTokenTile;
  return out;
}

std::string outcome(const Kernel& one) {
  const Status status = self_test({&one, 1});
  if (status.ok()) return "passed";
  CHECK(status.error().code == ErrorCode::kVerification);
  return status.error().message;
}
void check_caught(const Kernel& one, std::string_view where) {
  const std::string message = outcome(one);
  INFO(message);
  CHECK(message.find("self-test: kernel " + one.name() + " is wrong: ") == 0);
  CHECK(message.find(where) != std::string::npos);
}

TEST_CASE("right ternary kernels pass for every shape") {
  for (const std::int64_t n : {0, 1, 8, 16, 17, 32, 40, 143, 144, 145, 160, 161, 176, 6912}) {
    for (const std::int64_t k : {0, 1, 15, 16, 64, 65, 200, 1024}) {
      CAPTURE(n);
      CAPTURE(k);
      CHECK(outcome(gemv_kernel<Fault::kNone>(n, k)) == "passed");
      CHECK(outcome(gemm_kernel<Fault::kNone>(n, k)) == "passed");
    }
  }
  const std::array several{gemv_kernel<Fault::kNone>(64, 704), gemm_kernel<Fault::kNone>(72, 704),
                           gemv_kernel<Fault::kNone>(33, 128)};
  CHECK(self_test(several).ok());
}

template <Layout kLayout>
void check_layout() {
  for (const std::int64_t n : {0, 17, 176}) {
    for (const std::int64_t k : {0, 1, 20, 200, 704}) {
      CAPTURE(n);
      CAPTURE(k);
      CHECK(outcome(gemv_kernel<Fault::kNone, kLayout>(n, k)) == "passed");
      CHECK(outcome(gemm_kernel<Fault::kNone, kLayout>(n, k)) == "passed");
      CHECK(outcome(batch_kernel<Fault::kNone, kLayout>(n, k)) == "passed");
    }
  }
  check_caught(gemv_kernel<Fault::kLastRow, kLayout>(), "row 2567 of rows 2560 to 2568, token 0 of 1: expected ");
  check_caught(gemm_kernel<Fault::kSaturated, kLayout>(), "token ");
  check_caught(batch_kernel<Fault::kLastToken, kLayout>(), "row 17 of rows 0 to 144, token 3 of 4");
}

TEST_CASE("every layout, small batches") {
  check_layout<Layout::kT2>();
  check_layout<Layout::kT5>();
  check_layout<Layout::kTl1>();
  check_layout<Layout::kTl2>();
  // Weights of one layout read as another.
  Kernel confused = gemv_kernel<Fault::kNone, Layout::kTl1>();
  confused.format = Format::kTl2;
  check_caught(confused, "row ");
  check_caught(batch_kernel<Fault::kBlockTokens>(),
               "row 0 of rows 0 to 144, token 1 of 1: expected nothing written there");
}

template <Layout kLayout, std::int32_t kGroup>
void check_groups() {
  for (const std::int64_t n : {0, 17, 176}) {
    for (const std::int64_t k : {0, 1, 64, 200, 256, 704}) {
      CAPTURE(n);
      CAPTURE(k);
      CHECK(outcome(gemv_kernel<Fault::kNone, kLayout, kGroup>(n, k)) == "passed");
      CHECK(outcome(gemm_kernel<Fault::kNone, kLayout, kGroup>(n, k)) == "passed");
    }
  }
  const std::int64_t last = group_count(704, kGroup) - 1;
  const std::string where = ", group " + std::to_string(last) + " of " + std::to_string(last + 1);
  check_caught(gemv_kernel<Fault::kLastGroup, kLayout, kGroup>(), "row 5 of rows 0 to 144, token 0 of 1" + where);
  check_caught(gemm_kernel<Fault::kLastGroup, kLayout, kGroup>(), "row 5 of rows 0 to 144, token 0 of 1" + where);
  check_caught(gemv_kernel<Fault::kGroupSum, kLayout, kGroup>(), ", group 1 of ");
  check_caught(gemm_kernel<Fault::kGroupSum, kLayout, kGroup>(), ", group 1 of ");
  check_caught(gemm_kernel<Fault::kBlockTokens, kLayout, kGroup>(), "token 1 of 1, group 0 of ");
}

TEST_CASE("K-groups: one sum each") {
  check_groups<Layout::kT2, 64>();
  check_groups<Layout::kT2, 128>();
  check_groups<Layout::kT2, 256>();
  check_groups<Layout::kTl1, 64>();
  check_groups<Layout::kTl1, 256>();
}

TEST_CASE("each kind of wrong ternary kernel is caught") {
  check_caught(gemv_kernel<Fault::kScratch>(), "row 0 of rows 0 to 144, token 0 of 1");
  check_caught(gemv_kernel<Fault::kLastRow>(), "row 2567 of rows 2560 to 2568, token 0 of 1: expected ");
  check_caught(gemv_kernel<Fault::kLastRow>(16), "row 15 of rows 0 to 16");
  check_caught(gemv_kernel<Fault::kSaturated>(), "row 0 of rows 0 to 144");
  check_caught(gemv_kernel<Fault::kNoSum>(), "row ");
  check_caught(gemv_kernel<Fault::kBeyond>(), "row 144 of rows 0 to 144, token 0 of 1: expected nothing written there");
  check_caught(gemv_kernel<Fault::kPadRows>(), "row 2568 of rows 2560 to 2568, token 0 of 1: expected 0");
  check_caught(gemv_kernel<Fault::kSecondPart>(), "row 128 of rows 0 to 144");
  check_caught(gemv_kernel<Fault::kFourTiles>(64), "row 48 of rows 0 to 64");
  check_caught(gemv_kernel<Fault::kFourTiles>(57), "row 48 of rows 0 to 57");
  check_caught(gemv_kernel<Fault::kPadRows>(40), "row 40 of rows 0 to 40, token 0 of 1: expected 0");
  check_caught(gemm_kernel<Fault::kLastToken>(), "row 17 of rows 0 to 144, token 3 of 4");
  check_caught(gemm_kernel<Fault::kSaturated>(), "token ");
  check_caught(gemm_kernel<Fault::kNoSum>(), "row ");
  check_caught(gemm_kernel<Fault::kBlockTokens>(),
               "row 0 of rows 0 to 144, token 1 of 1: expected nothing written there");
  check_caught(gemm_kernel<Fault::kScratch>(), "row 0 of rows 0 to 144, token 0 of 1");

  const std::array second_wrong{gemv_kernel<Fault::kNone>(), gemv_kernel<Fault::kLastRow>(72, 704)};
  const Status status = self_test(second_wrong);
  REQUIRE(!status.ok());
  CHECK(status.error().message.find("i2s_gemv_n72k704") != std::string::npos);

  Kernel empty = gemv_kernel<Fault::kNone>();
  empty.function = nullptr;
  CHECK(!self_test({&empty, 1}).ok());
}

// The operations on floats: the scalar reference behind the kernel interface, exact or a little off.
template <int kOff>
void norm_quantize(const bitnet_norm_quantize_args* a) {
  reference::norm_quantize(a->x, a->gain, a->k, a->eps, a->q, a->scale, a->q_sum);
  if (kOff == 1) a->q[a->k - 1] = static_cast<std::int8_t>(a->q[a->k - 1] ^ 1);
  if (kOff == 2) *a->scale *= 1.0000001F;
  if (kOff == 3) *a->q_sum += 1;
  if (kOff == 4) a->q[a->k] = 0;
}
template <int kOff>
void quantize(const bitnet_quantize_args* a) {
  reference::quantize(a->x, a->k, a->q, a->scale, a->q_sum);
  if (kOff == 1) a->q[a->k / 2] = static_cast<std::int8_t>(a->q[a->k / 2] ^ 1);
}
template <int kOff>
void norm(const bitnet_norm_args* a) {
  std::vector<float> y(static_cast<std::size_t>(a->k));
  reference::norm(a->x, a->gain, a->k, a->eps, y.data());
  if (kOff == 1) y[7] *= 1.0000002F;
  std::copy(y.begin(), y.end(), a->y);
}
template <int kOff>
void relu2_gate(const bitnet_gate_args* a) {
  reference::relu2_gate(a->gate, a->up, a->k, a->y);
  if (kOff == 1) a->y[a->k] = 0;
}
template <int kOff>
void silu_gate(const bitnet_gate_args* a) {
  reference::silu_gate(a->gate, a->up, a->k, a->y);
  if (kOff == 1) a->y[0] += 1;
}
template <int kOff>
void gelu_gate(const bitnet_gate_args* a) {
  reference::gelu_gate(a->gate, a->up, a->k, a->y);
  if (kOff == 1) a->y[1] *= 1.0000002F;
}
template <int kOff>
void gelu(const bitnet_gelu_args* a) {
  reference::gelu(a->x, a->k, a->y);
  if (kOff == 1) a->y[a->k] = 0;
}
template <int kOff>
void layer_norm(const bitnet_layer_norm_args* a) {
  std::vector<float> y(static_cast<std::size_t>(a->k));
  reference::layer_norm(a->x, a->gain, a->bias, a->k, a->eps, y.data());
  if (kOff == 1) y[3] -= a->bias[3];
  std::copy(y.begin(), y.end(), a->y);
}
template <int kOff>
void attention(const bitnet_attention_args* a) {
  reference::attention_f16(*a);
  if (kOff == 1 && a->past >= 256) a->y[a->heads * a->head_dim - 1] += 1;
  bitnet_attention_args all = *a;
  all.window = 0;
  if (kOff == 2) reference::attention_f16(all);
}
template <int kOff>
void attention_i8(const bitnet_attention_args* a) {
  reference::attention_i8(*a);
  if (kOff == 1) a->y[0] += 1;
}
template <int kOff>
void attention_f32(const bitnet_attention_args* a) {
  reference::attention_f32(*a);
  if (kOff == 1) a->y[0] = half_to_float(float_to_half(a->y[0]));
}
template <int kOff>
void epilogue(const bitnet_epilogue_args* a) {
  reference::epilogue(*a);
  if (kOff == 1) a->y[a->rows - 1] *= 1.0000002F;
}
template <int kOff>
void rope(const bitnet_rope_args* a) {
  reference::rope(*a);
  if (kOff == 1) a->x[0] = 0;
}
template <int kOff>
void head_f16(const bitnet_head_args* a) {
  const auto* rows = static_cast<const std::uint16_t*>(a->weights) + a->row_begin * a->k;
  reference::head_f16(rows, a->x, a->row_end - a->row_begin, a->k, a->y + a->row_begin);
  if (kOff == 1) a->y[a->row_begin - 1] = 0;
}

template <int kOff>
void head_q8(const bitnet_head_args* a) {
  const auto* rows = static_cast<const std::uint8_t*>(a->weights) + a->row_begin * ((a->k + 31) / 32) * 34;
  reference::head_q8(rows, a->x, a->row_end - a->row_begin, kOff == 1 ? a->k - 1 : a->k, a->y + a->row_begin);
}

Kernel dense(Op op, Format format, void* function, std::int64_t k) {
  Kernel out = kernel(op, 0, k, function);
  out.format = format;
  out.token_tile = 1;
  out.scratch_bytes = 0;
  return out;
}

template <typename Right, typename Wrong>
void check_pair(Op op, Format format, Right* right, Wrong* wrong, std::string_view where) {
  for (const std::int64_t k : {0, 64, 320}) {
    CAPTURE(k);
    CHECK(outcome(dense(op, format, reinterpret_cast<void*>(right), k)) == "passed");
    check_caught(dense(op, format, reinterpret_cast<void*>(wrong), k), where);
  }
}

TEST_CASE("dense kernels pass exactly and are caught otherwise") {
  check_pair(Op::kNormQuantize, Format::kI8, norm_quantize<0>, norm_quantize<1>, ": q[");
  check_pair(Op::kNormQuantize, Format::kI8, norm_quantize<0>, norm_quantize<2>, ": scale[0] of 1, input random");
  check_pair(Op::kNormQuantize, Format::kI8, norm_quantize<0>, norm_quantize<3>, ": q_sum[0]");
  check_pair(Op::kNormQuantize, Format::kI8, norm_quantize<0>, norm_quantize<4>, ": q, 0 bytes behind its end");
  check_pair(Op::kQuantize, Format::kI8, quantize<0>, quantize<1>, ": q[");
  check_pair(Op::kNorm, Format::kF32, norm<0>, norm<1>, ": y[7]");
  check_pair(Op::kRelu2Gate, Format::kF32, relu2_gate<0>, relu2_gate<1>, "behind its end");
  check_pair(Op::kSiluGate, Format::kF32, silu_gate<0>, silu_gate<1>, ": y[0]");
  check_pair(Op::kGeluGate, Format::kF32, gelu_gate<0>, gelu_gate<1>, ": y[1]");
  check_pair(Op::kGelu, Format::kF32, gelu<0>, gelu<1>, "behind its end");
  check_pair(Op::kLayerNorm, Format::kF32, layer_norm<0>, layer_norm<1>, ": y[3]");
  check_pair(Op::kAttention, Format::kF16, attention<0>, attention<1>, "input of 2 tokens after 511");
  check_pair(Op::kAttention, Format::kF16, attention<0>, attention<2>, ", window ");
  check_pair(Op::kAttention, Format::kI8, attention_i8<0>, attention_i8<1>, ": y[0]");
  check_pair(Op::kAttention, Format::kF32, attention_f32<0>, attention_f32<1>, ": y[0]");
  check_pair(Op::kEpilogue, Format::kF32, epilogue<0>, epilogue<1>, ": y[");
  check_pair(Op::kRope, Format::kF32, rope<0>, rope<1>, ": x[0]");
  check_pair(Op::kHead, Format::kF16, head_f16<0>, head_f16<1>, ": y[2] of 21");
  check_pair(Op::kHead, Format::kQ8, head_q8<0>, head_q8<1>, ": y[3] of 21");
  CHECK(!self_test(std::array{dense(Op::kHead, Format::kI8, reinterpret_cast<void*>(head_f16<0>), 64)}).ok());
  CHECK(!self_test(std::array{dense(Op::kNorm, Format::kI2s, reinterpret_cast<void*>(norm<0>), 64)}).ok());
}

TEST_CASE("the built-in kernels pass") {
  for (const Kernel& one : builtin_kernels()) {
    CAPTURE(one.name());
    if (!probe_isa(one.isa)) {
      std::printf("SKIPPED: %s (this CPU does not execute it)\n", one.name().c_str());
      continue;
    }
    CHECK(outcome(one) == "passed");
  }
}

}  // namespace
}  // namespace bitnet
