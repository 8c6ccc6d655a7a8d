// Four passes over the row, each a vector loop. The normalised row is computed again in each pass instead of being
// stored, so that no scratch is needed.
//   1. Squares: 16 running sums of x[i]^2 over i mod 16, the order that kernel_abi.h prescribes for every target: one
//      512-bit register, two of 256 or four of 128. It lasts k/16 dependent additions, whatever the vector's width.
//   2. Peak: max |y[i]|. A maximum has no order, so there are as many accumulators as the schedule likes. It is taken
//      over the bit patterns with the sign cleared, which order finite floats as their magnitudes do, without the NaN
//      rules of a float maximum.
//   3. q: y * scale is 127 and a rounding error at most; adding 1.5 * 2^23 rounds it half to even (the default rounding
//      mode) and leaves the integer in the low bits of the pattern. This needs no SSE4.1 rounding instruction, and
//      strict_float keeps the compiler from folding it away.
//   4. The integer sum, from the same expression. Reading q back would be shorter, but Halide 21 takes an output that
//      the pipeline reads for an allocation of its own and loads it as aligned: that was seen to fault in SSE code.
// Every float operation is one strict_float operation: no contraction, no reassociation, true division and square root.
#include "schedules/norm_quantize.h"

#include <functional>
#include <string>

namespace bitnet::schedules {
namespace {

using Halide::cast;
using Halide::Expr;
using Halide::Func;
using Halide::MemoryType;
using Halide::RDom;
using Halide::reinterpret;
using Halide::RVar;
using Halide::TailStrategy;
using Halide::Var;

constexpr int kSumLanes = 16;           // of kernel_abi.h
constexpr float kRound = 12582912.0F;   // 1.5 * 2^23
constexpr int kRoundBits = 0x4B400000;  // its pattern
constexpr int kMagnitude = 0x7FFFFFFF;  // all but the sign

using Combine = std::function<Expr(Expr, Expr)>;
using Term = std::function<Expr(Expr)>;

// Computed once, in stack memory, `lanes` values of its only dimension at a time; all of it unrolled.
void vectorize_pure(Func& f, const Var& l, int extent, int lanes) {
  f.compute_root().store_in(MemoryType::Stack).bound(l, 0, extent);
  const int width = extent < lanes ? extent : lanes;
  if (width == 1) {
    f.unroll(l);
    return;
  }
  Var outer("outer"), inner("inner");
  f.split(l, outer, inner, width, TailStrategy::GuardWithIf).vectorize(inner).unroll(outer);
}

// `width` running values over i mod width, from `init`, each in ascending i: value(l) = combine(value(l), term(i)).
Func running(const std::string& name, int width, const Expr& init, std::int64_t k, int lanes, const Combine& combine,
             const Term& term) {
  Var l("l");
  Func f(name);
  f(l) = init;
  vectorize_pure(f, l, width, lanes);
  const int blocks = static_cast<int>(k / width);
  const int rest = static_cast<int>(k % width);
  const int vector = width < lanes ? width : lanes;
  int update = 0;
  if (blocks > 0) {
    RDom block(0, blocks, name + "_block");
    f(l) = combine(f(l), term(width * block + l));
    Var outer("outer"), inner("inner");
    f.update(update++)
        .split(l, outer, inner, vector, TailStrategy::GuardWithIf)
        .reorder(inner, outer, block.x)
        .vectorize(inner)
        .unroll(outer);
  }
  if (rest > 0) {
    RDom tail(0, rest, name + "_tail");
    f(tail) = combine(f(tail), term(width * blocks + tail));
    RVar outer("outer"), inner("inner");
    f.update(update).split(tail, outer, inner, vector, TailStrategy::GuardWithIf).vectorize(inner).unroll(outer);
  }
  return f;
}

// The tree: lanes l and l + width/2, then l and l + width/4, ... down to one value.
Expr fold(Func f, const std::string& name, int width, int lanes, const Combine& combine) {
  while (width > 1) {
    width /= 2;
    Var l("l");
    Func half(name + "_" + std::to_string(width));
    half(l) = combine(f(l), f(l + width));
    vectorize_pure(half, l, width, lanes);
    f = half;
  }
  return f(0);
}

// A value without dimensions, computed once.
Func scalar(const std::string& name, const Expr& value) {
  Func f(name);
  f() = value;
  f.compute_root().store_in(MemoryType::Stack);
  return f;
}

}  // namespace

Halide::Module norm_quantize(const NormQuantizePoint& point, const Halide::Target& target, const std::string& symbol) {
  const int k = static_cast<int>(point.k);
  const int lanes = point.lanes != 0 ? point.lanes : target.natural_vector_size<float>();
  const int wide = lanes * point.unroll;
  const Combine add = [](const Expr& a, const Expr& b) { return a + b; };
  const Combine max = [](const Expr& a, const Expr& b) { return Halide::max(a, b); };

  Halide::ImageParam x(Halide::Float(32), 1, "x"), gain(Halide::Float(32), 1, "gain");
  Halide::Param<float> eps("eps");
  x.dim(0).set_bounds(0, k).set_stride(1);
  gain.dim(0).set_bounds(0, k).set_stride(1);

  const Func squares = running("squares", kSumLanes, 0.0F, k, lanes, add, [&](const Expr& i) { return x(i) * x(i); });
  const Expr mean = fold(squares, "squares", kSumLanes, lanes, add) / static_cast<float>(k);
  const Func inv = scalar("inv", 1.0F / Halide::sqrt(mean + eps));
  const auto y = [&](const Expr& i) { return (x(i) * inv()) * gain(i); };

  const Func peak = running("peak", wide, 0, k, lanes, max,
                            [&](const Expr& i) { return reinterpret<std::int32_t>(y(i)) & kMagnitude; });
  const Expr amax = reinterpret<float>(fold(peak, "peak", wide, lanes, max));
  Func scale("scale");
  scale() = 127.0F / Halide::max(amax, 1e-5F);

  const auto code = [&](const Expr& i) { return reinterpret<std::int32_t>(y(i) * scale() + kRound) - kRoundBits; };
  Var i("i");
  Func q("q");
  q(i) = cast<std::int8_t>(code(i));
  Var outer("outer"), inner("inner");
  q.bound(i, 0, k).split(i, outer, inner, wide, TailStrategy::GuardWithIf).vectorize(inner);

  const Func sums = running("sums", wide, 0, k, lanes, add, code);
  Func q_sum("q_sum");
  q_sum() = fold(sums, "sums", wide, lanes, add);

  q.output_buffer().dim(0).set_bounds(0, k).set_stride(1);
  Halide::Pipeline pipeline({q, scale, q_sum});
  return pipeline.compile_to_module({x, gain, eps}, symbol, target, Halide::LinkageType::External);
}

}  // namespace bitnet::schedules
