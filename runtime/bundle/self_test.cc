// The self-test runs at each load, so it may take about 10 ms per image: enough for every code path of a kernel, not
// for its whole matrix.
//
// Ternary kernels get the first row tiles, as many as the widest combination of streams and row tiles of the templates
// takes plus one, and the tail tile of their own N, with full K. All kernels of one K share weights and activations,
// whatever their layout, so these are made and multiplied once. The tiles lie together in memory; the tail is reached
// by handing the kernel a base address from which its row index leads there, so that a matrix of any N costs ten tiles.
// The expected values come from a plain int16 loop that the compiler turns into multiply-adds, and that loop is itself
// checked against the scalar reference on the rows that matter.
#include "runtime/bundle/self_test.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <vector>

#include "runtime/bundle/bundle.h"
#include "runtime/kernels/layout.h"
#include "runtime/reference/reference.h"

namespace bitnet {
namespace self_test_detail {
namespace {

constexpr std::int64_t kTile = BITNET_TILE_ROWS;
// Templates work on up to 8 tiles side by side (i2s_gemv streams, i2s_gemm row tiles); one more makes a remainder.
constexpr std::int64_t kHeadTiles = 9;
constexpr std::int64_t kRows = (kHeadTiles + 1) * kTile;
constexpr std::int32_t kUntouched = 0x5A5A5A5A;
constexpr std::int64_t kGuard = kTile;  // int32 checked before and behind each written row range

// The address that lies `elements` of T before `p`, to be used as base of an array of which only a part exists. Formed
// as an integer: pointer arithmetic beyond an object is undefined, and nothing is read through it outside the part.
template <typename T>
T* base_before(T* p, std::int64_t elements) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) - static_cast<std::uintptr_t>(elements) * sizeof(T));
}

std::int32_t dot(const std::int16_t* w, const std::int16_t* x, std::int64_t k) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) sum += w[i] * x[i];
  return sum;
}

// Weights in one layout.
struct PackedRows {
  Buffer tiles;         // kRows
  Buffer partial_tail;  // one tile, some of its rows
};

// Exact sums of one K-group size.
struct Sums {
  std::int64_t groups = 1;
  std::vector<std::int32_t> products;  // [tokens][groups][kRows]
  std::vector<std::int32_t> x;         // [tokens][groups]
};

// Weights, activations and products of one K.
class TernaryCase {
 public:
  [[nodiscard]] static Result<TernaryCase> create(std::int64_t k, std::int64_t tokens);
  [[nodiscard]] Status test(const Kernel& kernel, Buffer& scratch);

 private:
  TernaryCase() = default;
  void make_weights();
  void make_activations();
  [[nodiscard]] Status check_dot();
  [[nodiscard]] Result<PackedRows*> packed(Layout layout);
  [[nodiscard]] const Sums& sums(std::int32_t group);

  struct Call {
    const std::uint8_t* weights = nullptr;  // tile of row_begin
    std::int64_t first = 0;                 // its row among the test's rows
    std::int64_t row_begin = 0;
    std::int64_t row_end = 0;
    std::int64_t tokens = 1;
    std::int64_t token = 0;  // first token, gemv only
  };
  // Where the sums of a token and a group lie in y.
  struct Strides {
    std::int64_t token = 0;
    std::int64_t group = 0;
  };
  [[nodiscard]] Status run(const Kernel& kernel, const Call& call, std::int64_t n, Buffer& scratch);
  [[nodiscard]] Status compare(const Kernel& kernel, const Call& call, const Strides& strides, const std::int32_t* y);

  std::int64_t k_ = 0;
  std::int64_t width_ = 0;             // BITNET_ACTIVATION_WIDTH(k)
  std::int64_t tokens_ = 0;            // made
  std::vector<std::uint8_t> codes_;    // [kRows][k]
  std::vector<std::int16_t> wide_w_;   // [kRows][k]
  std::vector<std::int16_t> wide_x_;   // [tokens][k]
  std::map<std::int32_t, Sums> sums_;  // by group
  std::map<Layout, PackedRows> packed_;
  Buffer x_;  // int8 [tokens][width]
  Buffer packed_x_;
  Buffer y_;
};

Result<TernaryCase> TernaryCase::create(std::int64_t k, std::int64_t tokens) {
  TernaryCase test;
  test.k_ = k;
  test.width_ = BITNET_ACTIVATION_WIDTH(k);
  test.tokens_ = tokens;
  BITNET_ASSIGN_OR_RETURN(test.x_, Buffer::allocate(static_cast<std::size_t>(tokens * test.width_)));
  // A block holds token_tile tokens and token_tile + 1 tokens are the most: two blocks are enough.
  BITNET_ASSIGN_OR_RETURN(test.packed_x_, Buffer::allocate(static_cast<std::size_t>(2 * tokens * test.width_)));
  test.make_weights();
  test.make_activations();
  BITNET_RETURN_IF_ERROR(test.check_dot());
  return test;
}

// The first rows of the first and of the tail tile are all +1, all -1 and all 0; the others random.
void TernaryCase::make_weights() {
  Random random(0xB17E7 + static_cast<std::uint64_t>(k_));
  codes_.resize(static_cast<std::size_t>(kRows * k_));
  wide_w_.resize(codes_.size());
  std::size_t at = 0;
  for (std::int64_t r = 0; r < kRows; ++r) {
    const bool patterned = r % (kHeadTiles * kTile) < 3;
    const auto constant = static_cast<std::uint8_t>(r % 3 == 0 ? 2 : r % 3 - 1);  // 2, 0, 1
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < k_; ++i, ++at) {
      if (i % 20 == 0) bits = random.next();
      codes_[at] = patterned ? constant : static_cast<std::uint8_t>((bits & 7) * 3 >> 3);
      bits >>= 3;
      wide_w_[at] = static_cast<std::int16_t>(codes_[at] - 1);
    }
  }
}

// Tokens in turn: random, all +127, random among +-127, all -127.
void TernaryCase::make_activations() {
  Random random(0xAC7 + static_cast<std::uint64_t>(k_));
  wide_x_.resize(static_cast<std::size_t>(tokens_ * k_));
  for (std::int64_t t = 0; t < tokens_; ++t) {
    auto* row = x_.as<std::int8_t>(static_cast<std::size_t>(t * width_));
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < k_; ++i) {
      if (i % 8 == 0) bits = random.next();
      const int any = static_cast<int>((bits & 255) * 255 >> 8) - 127;
      const int value = t % 4 == 0 ? any : t % 4 == 1 ? 127 : t % 4 == 3 ? -127 : (any < 0 ? -127 : 127);
      bits >>= 8;
      row[i] = static_cast<std::int8_t>(value);
      wide_x_[static_cast<std::size_t>(t * k_ + i)] = static_cast<std::int16_t>(value);
    }
  }
}

Result<PackedRows*> TernaryCase::packed(Layout layout) {
  const auto [found, made] = packed_.try_emplace(layout);
  PackedRows& rows = found->second;
  if (made) {
    BITNET_ASSIGN_OR_RETURN(rows.tiles, Buffer::allocate(matrix_bytes(layout, kRows, k_)));
    BITNET_ASSIGN_OR_RETURN(rows.partial_tail, Buffer::allocate(tile_bytes(layout, k_)));
    pack_codes(layout, codes_.data(), 0, kRows, k_, rows.tiles.as<std::uint8_t>());
  }
  return &rows;
}

const Sums& TernaryCase::sums(std::int32_t group) {
  const auto [found, made] = sums_.try_emplace(group);
  Sums& of = found->second;
  if (!made) return of;
  of.groups = group_count(k_, group);
  of.products.resize(static_cast<std::size_t>(tokens_ * of.groups * kRows));
  of.x.resize(static_cast<std::size_t>(tokens_ * of.groups));
  const std::int64_t length = group == 0 ? k_ : group;
  for (std::int64_t t = 0; t < tokens_; ++t) {
    for (std::int64_t g = 0; g < of.groups; ++g) {
      const std::int64_t from = g * length;
      const std::int64_t many = std::min(length, k_ - from);
      const std::int16_t* x = wide_x_.data() + t * k_ + from;
      const auto at = static_cast<std::size_t>(t * of.groups + g);
      of.x[at] = std::accumulate(x, x + many, std::int32_t{0});
      for (std::int64_t r = 0; r < kRows; ++r) {
        of.products[at * kRows + static_cast<std::size_t>(r)] = dot(wide_w_.data() + r * k_ + from, x, many);
      }
    }
  }
  return of;
}

// The fast products against the scalar reference: an extreme row and two random ones, with up to two tokens.
Status TernaryCase::check_dot() {
  const Sums& whole = sums(0);
  std::vector<std::int8_t> w(static_cast<std::size_t>(k_));
  for (const std::int64_t r : {std::int64_t{0}, std::int64_t{5}, kRows - 1}) {
    for (std::int64_t i = 0; i < k_; ++i) {
      w[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(codes_[static_cast<std::size_t>(r * k_ + i)] - 1);
    }
    for (std::int64_t t = 0; t < std::min<std::int64_t>(tokens_, 2); ++t) {
      const auto* x = x_.as<std::int8_t>(static_cast<std::size_t>(t * width_));
      const std::int32_t reference = reference::ternary_dot(w.data(), x, k_);
      const std::int32_t fast = whole.products[static_cast<std::size_t>(t * kRows + r)];
      if (fast != reference) {
        return Error{ErrorCode::kFailure,
                     "self-test: its own products are wrong on this machine (K = " + std::to_string(k_) +
                         "): expected " + std::to_string(reference) + ", found " + std::to_string(fast)};
      }
    }
  }
  return {};
}

Status TernaryCase::compare(const Kernel& kernel, const Call& call, const Strides& strides, const std::int32_t* y) {
  const Sums& expected = sums(kernel.group);
  const std::int64_t rows = call.row_end - call.row_begin;
  const std::int64_t written = round_up(rows, kTile);
  for (std::int64_t t = 0; t < round_up<std::int64_t>(call.tokens, kernel.token_tile); ++t) {
    const bool token_exists = t < call.tokens;  // the rest of the last block must not be written
    for (std::int64_t g = 0; g < expected.groups; ++g) {
      const std::int32_t* found = y + t * strides.token + g * strides.group;
      const std::int64_t token = token_exists ? call.token + t : 0;
      const std::int32_t* want_row = expected.products.data() + (token * expected.groups + g) * kRows + call.first;
      for (std::int64_t r = -kGuard; r < written + kGuard; ++r) {
        const bool inside = token_exists && r >= 0 && r < written;
        const std::int32_t want = !inside ? kUntouched : r < rows ? want_row[r] : 0;
        if (found[r] == want) continue;
        std::string where = "row " + std::to_string(call.row_begin + r) + " of rows " + std::to_string(call.row_begin) +
                            " to " + std::to_string(call.row_end) + ", token " + std::to_string(t) + " of " +
                            std::to_string(call.tokens);
        if (kernel.group != 0) where += ", group " + std::to_string(g) + " of " + std::to_string(expected.groups);
        return mismatch(kernel, where, inside ? std::to_string(want) : "nothing written there",
                        std::to_string(found[r]));
      }
    }
  }
  return {};
}

Status TernaryCase::run(const Kernel& kernel, const Call& call, std::int64_t n, Buffer& scratch) {
  // Only the rows around the call exist: the buffer starts at row_begin - kGuard of the first token. The windows of a
  // token's groups begin one behind the other; their number times a window bounds the distance of tokens, so that none
  // overlap, and a tile more makes that distance another than N.
  const Sums& expected = sums(kernel.group);
  const std::int64_t written = round_up(call.row_end - call.row_begin, kTile);
  const std::int64_t window = written + 2 * kGuard;
  Strides strides;
  strides.token = expected.groups * window + kTile;
  strides.group = kernel.group == 0 ? 0 : strides.token + window;
  const std::int64_t block_tokens = round_up<std::int64_t>(call.tokens, kernel.token_tile);
  const auto needed =
      static_cast<std::size_t>((block_tokens - 1) * strides.token + (expected.groups - 1) * strides.group + window) *
      sizeof(std::int32_t);
  if (y_.size() < needed) {
    BITNET_ASSIGN_OR_RETURN(y_, Buffer::allocate(needed));
  }
  auto* y = y_.as<std::int32_t>() + kGuard;
  for (std::int64_t t = 0; t < block_tokens; ++t) {
    for (std::int64_t g = 0; g < expected.groups; ++g) {
      std::fill_n(y + t * strides.token + g * strides.group - kGuard, window, kUntouched);
    }
  }
  if (kernel.scratch_bytes != 0) std::memset(scratch.data(), 0xA5, kernel.scratch_bytes);
  void* const work = kernel.scratch_bytes == 0 ? nullptr : scratch.data();

  const Layout layout = layout_of(kernel.format);
  const std::uint8_t* weights =
      base_before(call.weights, call.row_begin / kTile * static_cast<std::int64_t>(tile_bytes(layout, k_)));
  std::int32_t* y_base = base_before(y, call.row_begin);
  if (kernel.op == Op::kGemv) {
    kernel(bitnet_gemv_args{.weights = weights,
                            .x = x_.as<std::int8_t>(static_cast<std::size_t>(call.token * width_)),
                            .x_sums = expected.x.data() + call.token * expected.groups,
                            .y = y_base,
                            .scratch = work,
                            .row_begin = call.row_begin,
                            .row_end = call.row_end,
                            .y_stride = strides.group,
                            .n = n,
                            .k = k_});
  } else {
    std::vector<std::int32_t> x_sums(static_cast<std::size_t>(block_tokens * expected.groups));  // [groups][tokens]
    for (std::int64_t t = 0; t < call.tokens; ++t) {
      for (std::int64_t g = 0; g < expected.groups; ++g) {
        x_sums[static_cast<std::size_t>(g * block_tokens + t)] =
            expected.x[static_cast<std::size_t>(t * expected.groups + g)];
      }
    }
    kernel(bitnet_gemm_args{.weights = weights,
                            .x = packed_x_.as<std::int8_t>(),
                            .x_sums = x_sums.data(),
                            .y = y_base,
                            .scratch = work,
                            .row_begin = call.row_begin,
                            .row_end = call.row_end,
                            .tokens = call.tokens,
                            .y_stride = strides.token,
                            .group_stride = strides.group,
                            .sums_stride = block_tokens,
                            .n = n,
                            .k = k_});
  }
  return compare(kernel, call, strides, y);
}

Status TernaryCase::test(const Kernel& kernel, Buffer& scratch) {
  const Layout layout = layout_of(kernel.format);
  BITNET_ASSIGN_OR_RETURN(PackedRows* const rows, packed(layout));
  const std::int64_t n = kernel.n != 0 ? kernel.n : kAnyN;
  const std::int64_t tiles = row_tiles(n);
  // A matrix of few tiles is tested as a whole too: kernels that work on several tiles side by side do so only there.
  const std::int64_t head_rows = std::min(kHeadTiles * kTile, n);
  const std::int64_t tail_begin = (tiles - 1) * kTile;
  const std::int64_t tail_first = kHeadTiles * kTile;
  const auto* tail = rows->tiles.as<std::uint8_t>(static_cast<std::size_t>(kHeadTiles) * tile_bytes(layout, k_));
  if (n % kTile != 0) {  // the rows beyond n are padding there
    pack_codes(layout, codes_.data() + tail_first * k_, 0, n - tail_begin, k_, rows->partial_tail.as<std::uint8_t>());
    tail = rows->partial_tail.as<std::uint8_t>();
  }
  const auto* head = rows->tiles.as<std::uint8_t>();
  Buffer partial_head;
  if (head_rows % kTile != 0) {
    BITNET_ASSIGN_OR_RETURN(partial_head, Buffer::allocate(matrix_bytes(layout, head_rows, k_)));
    pack_codes(layout, codes_.data(), 0, head_rows, k_, partial_head.as<std::uint8_t>());
    head = partial_head.as<std::uint8_t>();
  }
  const auto both = [&](std::int64_t tokens, std::int64_t token) -> Status {
    BITNET_RETURN_IF_ERROR(run(kernel, {head, 0, 0, head_rows, tokens, token}, n, scratch));
    return run(kernel, {tail, tail_first, tail_begin, n, tokens, token}, n, scratch);
  };
  if (kernel.op == Op::kGemv) {
    BITNET_RETURN_IF_ERROR(both(1, 0));
    return both(1, 1);
  }
  std::vector<std::int64_t> counts{1, kernel.token_tile};
  if (kernel.m == 0) counts.push_back(kernel.token_tile + 1);
  for (const std::int64_t tokens : counts) {
    pack_activations(x_.as<std::int8_t>(), tokens, k_, kernel.token_tile, 0,
                     ceil_div<std::int64_t>(tokens, kernel.token_tile), packed_x_.as<std::int8_t>());
    BITNET_RETURN_IF_ERROR(both(tokens, 0));
  }
  return {};
}

}  // namespace

Error mismatch(const Kernel& kernel, const std::string& where, const std::string& expected, const std::string& found) {
  return {ErrorCode::kVerification, "self-test: kernel " + kernel.name() + " is wrong: " + where + ": expected " +
                                        expected + " (scalar reference), found " + found};
}

Status test_ternary(std::span<const Kernel* const> kernels, std::int64_t k) {
  std::int64_t tokens = 2;
  std::size_t scratch_bytes = 0;
  for (const Kernel* kernel : kernels) {
    tokens = std::max<std::int64_t>(tokens, kernel->token_tile + 1);
    scratch_bytes = std::max(scratch_bytes, kernel->scratch_bytes);
  }
  BITNET_ASSIGN_OR_RETURN(TernaryCase test, TernaryCase::create(k, tokens));
  BITNET_ASSIGN_OR_RETURN(Buffer scratch, Buffer::allocate(scratch_bytes));
  for (const Kernel* kernel : kernels) BITNET_RETURN_IF_ERROR(test.test(*kernel, scratch));
  return {};
}

}  // namespace self_test_detail

Status self_test(std::span<const Kernel> kernels) {
  std::map<std::int64_t, std::vector<const Kernel*>> ternary;  // by K
  for (const Kernel& kernel : kernels) {
    if (kernel.function == nullptr) {
      return Error{ErrorCode::kFailure, "self-test: kernel " + kernel.name() + " has no code"};
    }
    if (!is_valid(kernel.op, kernel.format)) {
      return Error{ErrorCode::kVerification,
                   "self-test: kernel " + kernel.name() + " has a format that its operation does not have"};
    }
    if (is_ternary(kernel.op)) {
      ternary[kernel.k != 0 ? kernel.k : self_test_detail::kAnyK].push_back(&kernel);
    } else {
      BITNET_RETURN_IF_ERROR(self_test_detail::test_dense(kernel));
    }
  }
  for (const auto& [k, group] : ternary) BITNET_RETURN_IF_ERROR(self_test_detail::test_ternary(group, k));
  return {};
}

}  // namespace bitnet
