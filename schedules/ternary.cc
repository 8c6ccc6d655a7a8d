// The algorithm: y(r) = sum over k of code(r, k) * x(k) - sum of x, since a weight is its code minus 1; exact in int32.
// A line of t2 (64 bytes) holds 16 rows x 16 k: byte 4r + j, bits 2p+1:2p, is the code of row r, k = 16i + 4p + j. So a
// vector of 32-bit lanes is a vector of rows, and the four activations at k = 16i + 4p are one dword for all of them.
//
// Four ways to sum (Dot):
//   quads  j is reduced inside the vector, which Halide knows as a dot product: int32 += 4 x (uint8 * int8) is
//   vpdpbusd;
//          sdot wants both signed. Field p of the bytes is masked where it stands, its sums are 4^p times too large and
//          shifted when they are complete: no shift in the inner loop.
//   pairs  two of the four j are added with saturation in int16, which is vpmaddubsw, and never saturate. A run of
//          kPairLines lines stays in int16.
//   wide   every (row, j) has its own int16 sum over a run of kWideLines lines.
//   rows   the same, but a vector holds one j of many rows, and an activation is a scalar: no vector is the repetition
//          of a short one, which Halide 21 cannot compile for RISC-V's V extension.
//
// AVX-512: Halide emits vpdpbusd only for targets with all of Zen 4, more than VNNI. The pipelines ask for them where
// quads are asked for by name; that the compiler took nothing but VNNI of it is for bitnet-codegen's audit to find out.
// (With byte shifts in the inner loop it did take GFNI.)
#include "schedules/ternary.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet::schedules {
namespace {

using Halide::cast;
using Halide::Expr;
using Halide::Func;
using Halide::MemoryType;
using Halide::RDom;
using Halide::RVar;
using Halide::Stage;
using Halide::TailStrategy;
using Halide::Target;
using Halide::Var;
using Halide::VarOrRVar;

constexpr int kRows = BITNET_TILE_ROWS;
constexpr int kLineBytes = 64;
constexpr int kLineK = 16;
constexpr int kFields = 4;
constexpr int kMaxCode = 2;
constexpr int kMaxActivation = 127;

// Sums of the topmost field where it stands.
static_assert((std::int64_t{kMaxCode} << 6) * kMaxActivation * kMaxWidth < std::int64_t{1} << 31);
// A line adds 4 fields x 2 products to an int16 sum of pairs, 4 products to one of single products.
constexpr int kPairLines = 16;
constexpr int kWideLines = 32;
static_assert(kPairLines * kFields * 2 * kMaxCode * kMaxActivation < 1 << 15);
static_assert(kWideLines * kFields * kMaxCode * kMaxActivation < 1 << 15);

Dot choose_dot(Dot wanted, const Target& target) {
  if (wanted != Dot::kTarget) return wanted;
  switch (target.arch) {
    case Target::X86:
      if (target.has_feature(Target::AVX512_Zen4)) return Dot::kQuads;
      return target.has_feature(Target::AVX2) ? Dot::kPairs : Dot::kWide;
    case Target::ARM:
      return target.has_feature(Target::ARMDotProd) ? Dot::kQuads : Dot::kWide;
    default:
      return Dot::kRows;
  }
}

int choose_lanes(const TernaryPoint& point, Dot dot, const Target& target) {
  if (point.lanes != 0) return point.lanes;
  // Vectors of rows: whole tiles, as groups of registers.
  return dot == Dot::kRows ? kRows : std::min(kRows, target.natural_vector_size<std::int32_t>());
}

// The sums of all fields of a pass take at most half of the registers.
int choose_passes(const TernaryPoint& point, int lanes, const Target& target) {
  if (point.passes != 0) return point.passes;
  const int registers = target.arch == Target::X86 && !target.has_feature(Target::AVX512) ? 16 : 32;
  const int vectors = kRows / lanes * point.tokens * point.streams;
  int passes = 1;
  while (passes < kFields && vectors * kFields / passes > registers / 2) passes *= 2;
  return passes;
}

// The sums of codes times activations, and the schedule around them.
class Products {
 public:
  // int8 activation at k for token m of block b.
  using Activations = std::function<Expr(const Expr& k, const Expr& m, const Expr& b)>;

  Products(const TernaryPoint& point, const Target& target, Activations x)
      : point_(point),
        dot_(choose_dot(point.dot, target)),
        signed_(target.arch != Target::X86),
        lines_(lines(point)),
        lanes_(choose_lanes(point, dot_, target)),
        passes_(choose_passes(point, lanes_, target)),
        x_(std::move(x)) {
    weights.dim(0).set_bounds(0, kLineBytes).set_stride(1);
    weights.dim(1).set_bounds(0, lines_).set_stride(kLineBytes);
    weights.dim(2).set_min(0).set_stride(kLineBytes * lines_);
    weights.set_host_alignment(64);
    if (dot_ == Dot::kQuads) {
      quads();
    } else if (dot_ == Dot::kPairs) {
      runs(kPairLines, 2);
    } else {
      runs(kWideLines, 4);
    }
    bound(sums);
  }

  static int lines(const TernaryPoint& point) { return static_cast<int>((point.k + kLineK - 1) / kLineK); }

  // y(r, t, s) or y(r, t, s, m): `streams` tiles side by side where y has that many, else one by one; `tokens` is m.
  // The sums are computed for one step of t and, with tokens, of a block.
  void schedule(Func y, const Var& r, const Var& t, const Var& s, const std::vector<Var>& tokens) {
    const Var outer("s_outer"), inner("s_inner"), block("block"), token("token"), rows("rows");
    const auto apply = [&](Stage stage, int streams) {
      stage.split(s, outer, inner, streams, TailStrategy::GuardWithIf).split(r, rows, r, lanes_);
      std::vector<VarOrRVar> order = {r, rows, inner};
      if (!tokens.empty()) {
        stage.split(tokens[0], block, token, point_.tokens, TailStrategy::GuardWithIf);
        order.insert(order.end(), {token, block});
      }
      order.insert(order.end(), {t, outer});
      stage.reorder(order).vectorize(r).unroll(rows).unroll(inner);
      if (!tokens.empty()) stage.unroll(token);
    };
    y.bound(r, 0, kRows);
    if (point_.streams > 1) {
      apply(y.specialize(y.output_buffer().dim(2).extent() == point_.streams), point_.streams);
    }
    apply(y, 1);
    sums.compute_at(y, tokens.empty() ? t : block);
  }

  Halide::ImageParam weights{Halide::UInt(8), 3, "weights"};
  Halide::Param<std::int32_t> part{"part"};
  Func sums{"sums"};  // (row, token of the block, stream, tile of the stream, block)

 private:
  // Byte 4r + j of line i, all four fields.
  [[nodiscard]] Expr byte(const Expr& j, const Expr& i) const { return weights(4 * r_ + j, i, t_ + s_ * part); }

  // The bits of `value` that are not in `others`. Halide writes x & 3 as x % 4, sees that it would fit a signed byte,
  // and then finds no product of an unsigned and a signed one.
  static Expr without(const Expr& value, const Expr& others) { return (value | others) ^ others; }

  // Field p of a byte as the unsigned or signed byte that the target's products want.
  [[nodiscard]] Expr code(const Expr& byte, const Expr& p) const {
    const Expr value = byte >> cast<std::uint8_t>(2 * p);
    return signed_ ? cast<std::int8_t>(value & Expr(std::uint8_t{3})) : without(value, Expr(std::uint8_t{0xFC}));
  }

  // Field p where it stands: the code times 4^p, but for the topmost field of a signed byte, which has no room for it.
  [[nodiscard]] Expr standing_code(const Expr& byte, const Expr& p) const {
    Expr value = without(byte, ~(Expr(std::uint8_t{3}) << cast<std::uint8_t>(2 * p)));
    if (signed_) {
      value = cast<std::int8_t>(select(p == kFields - 1, byte >> Expr(std::uint8_t{2 * (kFields - 1)}), value));
    }
    return value;
  }
  [[nodiscard]] Expr standing_shift(const Expr& p) const {
    return signed_ ? select(p == kFields - 1, 0, 2 * p) : 2 * p;
  }

  // Rows in vectors, the rest of a tile, tokens and streams unrolled: what is computed at once are registers. `inner`
  // are the loops within the rows, `outer` those around the streams.
  void in_registers(Stage stage, std::vector<VarOrRVar> inner, const std::vector<VarOrRVar>& outer) const {
    const Var rows("rows");
    stage.split(r_, rows, r_, lanes_);
    inner.insert(inner.end(), {r_, rows, m_, s_});
    inner.insert(inner.end(), outer.begin(), outer.end());
    stage.reorder(inner).vectorize(r_).unroll(rows).unroll(m_).unroll(s_);
  }

  // The row and token dimensions of one tile and block, all in registers.
  void bound(Func f) const { f.bound(r_, 0, kRows).bound(m_, 0, point_.tokens).store_in(MemoryType::Register); }

  [[nodiscard]] Expr x(const Expr& i, const Expr& p, const Expr& j) const { return x_(kLineK * i + 4 * p + j, m_, b_); }

  void quads() {
    const Var p("p");
    const RDom d(0, 4, 0, lines_, "d");  // j, i
    fields_ = Func("fields");
    fields_(r_, m_, s_, t_, b_, p) = 0;
    fields_(r_, m_, s_, t_, b_, p) +=
        cast<std::int32_t>(standing_code(byte(d.x, d.y), p)) * cast<std::int32_t>(x(d.y, p, d.x));
    in_registers(fields_, {}, {p});
    in_registers(fields_.update(), {d.x}, {p, d.y});
    fields_.unroll(p).update().atomic().vectorize(d.x).unroll(p);
    bound(fields_);

    const RDom f(0, kFields, "f");
    const RVar pass("pass"), field("field");
    sums(r_, m_, s_, t_, b_) = 0;
    sums(r_, m_, s_, t_, b_) += fields_(r_, m_, s_, t_, b_, f) >> standing_shift(f);
    in_registers(sums, {}, {});
    in_registers(sums.update().split(f, pass, field, kFields / passes_), {}, {field, pass});
    sums.update().unroll(field).unroll(pass);
    fields_.compute_at(sums, pass);
  }

  // Runs of `length` lines with `width` int16 sums beside each other for a row, added up in int32.
  void runs(int length, int width) {
    sums(r_, m_, s_, t_, b_) = 0;
    in_registers(sums, {}, {});
    int update = 0;
    const auto add = [&](int first, int count, int times) {
      const RDom d(0, width, 0, times, "d");
      Func run("run");
      define_run(run, first, count, width);
      sums(r_, m_, s_, t_, b_) += cast<std::int32_t>(run(d.x, r_, m_, s_, t_, b_, d.y));
      Stage stage = sums.update(update++);
      in_registers(stage, {d.x}, {d.y});
      if (dot_ == Dot::kRows) {
        stage.unroll(d.x);
      } else {
        stage.atomic().vectorize(d.x);
      }
      run.compute_at(sums, d.y);
    };
    const int whole = lines_ / length;
    const int rest = lines_ % length;
    if (whole > 0) add(0, length, whole);
    if (rest > 0) add(whole * length, rest, 1);
  }

  [[nodiscard]] Expr product(const Expr& j, const Expr& i, const Expr& p) const {
    return cast<std::int16_t>(code(byte(j, i), p)) * cast<std::int16_t>(x(i, p, j));
  }

  // run(j, ..., c): the lines from first + c * count on.
  void define_run(Func run, int first, int count, int width) const {
    const Var j("j"), c("c");
    const RDom e(0, kFields, 0, count, "e");  // p, i
    const Expr line = first + c * count + e.y;
    run(j, r_, m_, s_, t_, b_, c) = cast<std::int16_t>(0);
    if (dot_ == Dot::kPairs) {
      Func pair("pair");
      define_pair(pair, width);
      run(j, r_, m_, s_, t_, b_, c) += pair(j, r_, m_, s_, t_, b_, line, e.x);
      pair.compute_at(run, e.x);
    } else {
      run(j, r_, m_, s_, t_, b_, c) += product(j, line, e.x);
    }
    in_registers(run, {j}, {});
    in_registers(run.update(), {j}, {e.x, e.y});
    run.bound(j, 0, width).update().unroll(e.x);
    bound(run);
    if (dot_ == Dot::kRows) {
      run.reorder_storage(r_, j, m_, s_, t_, b_, c).unroll(j).update().unroll(j);
    } else {
      run.vectorize(j).update().vectorize(j);
    }
  }

  // pair(j, ..., i, p): products 2j and 2j + 1 of field p of line i.
  void define_pair(Func pair, int width) const {
    const Var j("j"), i("i"), p("p");
    const RDom a(0, 2, "a");
    pair(j, r_, m_, s_, t_, b_, i, p) = cast<std::int16_t>(0);
    pair(j, r_, m_, s_, t_, b_, i, p) =
        Halide::saturating_add(pair(j, r_, m_, s_, t_, b_, i, p), product(2 * j + a, i, p));
    in_registers(pair, {j}, {});
    in_registers(pair.update(), {a, j}, {});
    // Saturating addition is not associative in general; here it never saturates.
    pair.vectorize(j).update().atomic(true).vectorize(a).vectorize(j);
    pair.bound(j, 0, width);
    bound(pair);
  }

  const TernaryPoint& point_;
  Dot dot_;
  bool signed_;
  int lines_;
  int lanes_;
  int passes_;
  Activations x_;
  Var r_{"r"}, m_{"m"}, s_{"s"}, t_{"t"}, b_{"b"};  // the dimensions of `sums`
  Func fields_;                                     // those, and p
};

// y over whole tiles, any number of them; the output's first three dimensions.
void describe_output(const Func& y) {
  y.output_buffer().dim(0).set_bounds(0, kRows).set_stride(1);
  y.output_buffer().dim(1).set_min(0).set_stride(kRows);
  y.output_buffer().dim(2).set_min(0);
}

// Byte offsets into matrices and outputs do not fit 32 bits.
Target with_wide_offsets(const Target& target) { return target.with_feature(Target::LargeBuffers); }

// See the top of this file.
Target with_vnni(const TernaryPoint& point, const Target& target) {
  const bool asked =
      point.dot == Dot::kQuads && target.arch == Target::X86 && target.has_feature(Target::AVX512_Skylake);
  return asked ? target.with_feature(Target::AVX512_Cannonlake).with_feature(Target::AVX512_Zen4) : target;
}

Target pipeline_target(const TernaryPoint& point, const Target& target) {
  return with_wide_offsets(with_vnni(point, target));
}

}  // namespace

Halide::Module i2s_gemv(const TernaryPoint& point, const Target& base, const std::string& symbol) {
  const Target target = pipeline_target(point, base);
  Halide::ImageParam x(Halide::Int(8), 1, "x");
  Halide::Param<std::int32_t> x_sum("x_sum");
  x.dim(0).set_bounds(0, kLineK * Products::lines(point)).set_stride(1);
  x.set_host_alignment(64);
  Products products(point, target, [&](const Expr& k, const Expr&, const Expr&) { return x(k); });

  const Var r("r"), t("t"), s("s");
  Func y("y");
  y(r, t, s) = products.sums(r, 0, s, t, 0) - x_sum;
  describe_output(y);
  products.schedule(y, r, t, s, {});
  return Halide::Pipeline(y).compile_to_module({products.weights, x, x_sum, products.part}, symbol, target,
                                               Halide::LinkageType::External);
}

Halide::Module i2s_gemm(const TernaryPoint& point, const Target& base, const std::string& symbol) {
  const Target target = pipeline_target(point, base);
  const int tokens = point.tokens;
  const int dwords = static_cast<int>(BITNET_ACTIVATION_WIDTH(point.k) / 4);
  Halide::ImageParam x(Halide::Int(8), 4, "x"), x_sums(Halide::Int(32), 1, "x_sums");
  x.dim(0).set_bounds(0, 4).set_stride(1);
  x.dim(1).set_bounds(0, tokens).set_stride(4);
  x.dim(2).set_bounds(0, dwords).set_stride(4 * tokens);
  x.dim(3).set_min(0).set_stride(4 * tokens * dwords);
  x.set_host_alignment(64);
  x_sums.dim(0).set_min(0).set_stride(1);
  Products products(point, target,
                    [&](const Expr& k, const Expr& m, const Expr& block) { return x(k % 4, m, k / 4, block); });

  const Var r("r"), t("t"), s("s"), m("m");
  Func y("y");
  y(r, t, s, m) = products.sums(r, m % tokens, s, t, m / tokens) - x_sums(m);
  describe_output(y);
  y.output_buffer().dim(3).set_min(0);
  products.schedule(y, r, t, s, {m});
  return Halide::Pipeline(y).compile_to_module({products.weights, x, x_sums, products.part}, symbol, target,
                                               Halide::LinkageType::External);
}

}  // namespace bitnet::schedules
