// The tester's attention: float16, int8 and float32 pages, decode and prefill. Pages lie apart and out of order, the
// page table and the last page end at inaccessible memory, and rows of several tokens end at different positions of a
// chunk.
#include <limits>
#include <memory>
#include <numeric>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/reference/reference.h"
#include "tests/kernel_tester_dense.h"

namespace bitnet::test {
namespace {

constexpr std::int64_t kPage = BITNET_ATTENTION_CHUNK;

struct Shape {
  std::int64_t heads;
  std::int64_t head_dim;
  std::int64_t tokens;
  std::int64_t past;
  std::int64_t window = 0;

  [[nodiscard]] std::string name() const {
    return "heads " + std::to_string(heads) + ", head_dim " + std::to_string(head_dim) + ", tokens " +
           std::to_string(tokens) + ", past " + std::to_string(past) + ", window " + std::to_string(window);
  }
  // The first position that a token sees.
  [[nodiscard]] std::int64_t first() const { return window == 0 ? 0 : std::max<std::int64_t>(0, past + 1 - window); }
};

// float32 queries, keys and values. The largest are about 2^48, so that scores stay finite; all other kinds have all 24
// bits, which fused and separate roundings tell apart.
void fill_elements(FloatKind kind, std::mt19937& random, float* out, std::int64_t count) {
  fill_floats(kind == FloatKind::kHuge ? FloatKind::kNormal : kind, random, out, count);
  if (kind == FloatKind::kHuge) std::transform(out, out + count, out, [](float v) { return v * 0x1p48F; });
}

// The pages of the keys or of the values, and their table. Pages before the first position that is seen do not exist;
// what lies before it in its own page is NaN.
class Pages {
 public:
  Pages(Format format, const Shape& shape, FloatKind kind, std::mt19937& random) : shape_(shape) {
    const std::int64_t positions = shape.past + shape.tokens;
    const std::int64_t count = ceil_div(positions, kPage);
    regions_.resize(index(count));
    std::vector<const void*> table(index(count));
    std::vector<std::int64_t> order(index(count));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const std::int64_t page : order) {
      if (page < shape.first() / kPage) continue;
      const std::int64_t seen = std::min(kPage, positions - page * kPage);
      table[index(page)] = format == Format::kI8    ? int8_page(page, seen, kind, random)
                           : format == Format::kF32 ? float_page(page, seen, kind, random)
                                                    : half_page(page, seen, kind, random);
    }
    table_region_ = std::make_unique<Region>(table.size() * sizeof(void*));
    table_ = place_copy(*table_region_, table);
  }

  [[nodiscard]] const void* const* table() const { return table_; }
  [[nodiscard]] bool intact() const {
    return table_region_->intact() && std::all_of(regions_.begin(), regions_.end(), [](const auto& region) {
             return region == nullptr || region->intact();
           });
  }

 private:
  static constexpr std::uint16_t kNanHalf = 0x7E00;

  // Positions of a page before the first one that is seen.
  [[nodiscard]] std::int64_t unseen(std::int64_t page) const {
    return std::max<std::int64_t>(0, shape_.first() - page * kPage);
  }

  // Ends behind the last position that is seen.
  const void* half_page(std::int64_t page, std::int64_t seen, FloatKind kind, std::mt19937& random) {
    const std::int64_t count = seen * shape_.head_dim;
    regions_[index(page)] = std::make_unique<Region>(index(count) * sizeof(std::uint16_t));
    auto* data = regions_[index(page)]->place<std::uint16_t>(count);
    fill_halves(kind, random, data, count);
    std::fill_n(data, unseen(page) * shape_.head_dim, kNanHalf);
    return data;
  }

  const void* float_page(std::int64_t page, std::int64_t seen, FloatKind kind, std::mt19937& random) {
    const std::int64_t count = seen * shape_.head_dim;
    regions_[index(page)] = std::make_unique<Region>(index(count) * sizeof(float));
    auto* data = regions_[index(page)]->place<float>(count);
    fill_elements(kind, random, data, count);
    std::fill_n(data, unseen(page) * shape_.head_dim, std::numeric_limits<float>::quiet_NaN());
    return data;
  }

  // Ends behind the last factor that is used; int8 values behind the last position that is seen stay the pattern.
  const void* int8_page(std::int64_t page, std::int64_t seen, FloatKind kind, std::mt19937& random) {
    const std::int64_t bytes = kPage * shape_.head_dim + seen * static_cast<std::int64_t>(sizeof(float));
    regions_[index(page)] = std::make_unique<Region>(index(bytes) + 64);
    auto* values = regions_[index(page)]->place<std::int8_t>(bytes, 64);
    for (std::int64_t i = 0; i < seen * shape_.head_dim; ++i) {
      const auto any = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
      values[i] = kind == FloatKind::kHuge ? static_cast<std::int8_t>((random() & 1) != 0 ? 127 : -127)
                  : kind == FloatKind::kZero || (kind == FloatKind::kMixed && random() % 4 == 0) ? std::int8_t{0}
                                                                                                 : any;
    }
    std::vector<float> factors(index(seen));
    fill_floats(kind == FloatKind::kHuge ? FloatKind::kNormal : kind, random, factors.data(), seen);
    for (float& factor : factors) factor = std::bit_cast<float>(std::bit_cast<std::uint32_t>(factor) & 0x7FFFFFFFU);
    std::fill_n(factors.begin(), unseen(page), std::numeric_limits<float>::quiet_NaN());
    std::memcpy(values + kPage * shape_.head_dim, factors.data(), factors.size() * sizeof(float));
    return values;
  }

  Shape shape_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::unique_ptr<Region> table_region_;
  const void* const* table_ = nullptr;
};

void (*reference_attention(Format format))(const bitnet_attention_args&) {
  if (format == Format::kF32) return reference::attention_f32;
  return format == Format::kI8 ? reference::attention_i8 : reference::attention_f16;
}

void test_shape(const Kernel& kernel, const Shape& shape, std::int64_t gap, FloatKind kind, Failures& failures) {
  const auto& [heads, head_dim, tokens, past, window] = shape;
  const std::string where = shape.name() + ", strides + " + std::to_string(gap) + ", values " + to_string(kind);
  std::mt19937 random(static_cast<unsigned>(heads * 1000003 + head_dim * 1009 + past * 31 + tokens + window * 7919));
  const std::int64_t row = heads * head_dim;
  const std::int64_t stride = row + gap;
  const std::int64_t count = (tokens - 1) * stride + row;
  const std::int64_t scratch_count = BITNET_ATTENTION_SCRATCH(heads, head_dim);
  Region q_region(index(count) * sizeof(float));
  Region y_region(index(count) * sizeof(float));
  Region scratch_region(index(scratch_count) * sizeof(float) + 64);
  const Pages keys(kernel.format, shape, kind, random);
  const Pages values(kernel.format, shape, kind, random);
  auto* q = q_region.place<float>(count);
  std::vector<std::uint16_t> q_half(index(row));
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (kernel.format == Format::kF32) {
      fill_elements(kind, random, q + t * stride, row);
      continue;
    }
    fill_halves(kind, random, q_half.data(), row);
    std::transform(q_half.begin(), q_half.end(), q + t * stride, half_to_float);
  }

  auto args = poisoned_args<bitnet_attention_args>();
  args.q = q;
  args.key_pages = keys.table();
  args.value_pages = values.table();
  args.heads = heads;
  args.head_dim = head_dim;
  args.tokens = tokens;
  args.past = past;
  args.window = window;
  args.q_stride = stride;
  args.y_stride = stride;
  args.scale = kind == FloatKind::kConstant ? 1.0F : 0.08838834764F;
  // Between the rows of two tokens stays what was there.
  std::vector<float> expected(index(count), std::bit_cast<float>(kPatternInt));
  args.y = expected.data();
  args.scratch = nullptr;
  reference_attention(kernel.format)(args);

  args.y = y_region.place<float>(count);
  args.scratch = scratch_region.place<float>(scratch_count, 64);
  if (!call(kernel, args)) return failures.add(where, kFault);
  if (!same_floats(expected.data(), args.y, count, where, failures)) return;
  check_intact({&q_region, &y_region, &scratch_region}, where, failures);
  if (!keys.intact() || !values.intact()) failures.add(where, "guard bytes of the pages were overwritten");
}

}  // namespace

namespace {

// Windows of one position, of less and more than a chunk, of whole chunks and beyond the context; the groups of 16 rows
// begin and end side by side, on both sides of a page's border, or see nothing in common.
void test_windows(const Kernel& kernel, Failures& failures) {
  constexpr Shape shapes[] = {
      {1, 16, 1, 0, 1},       {2, 16, 1, 300, 1},    {1, 20, 40, 240, 1},    {1, 16, 40, 490, 7},
      {3, 16, 40, 500, 16},   {1, 24, 17, 255, 17},  {5, 16, 9, 300, 33},    {1, 16, 33, 250, 100},
      {4, 128, 1, 700, 255},  {4, 16, 20, 500, 256}, {1, 16, 37, 1000, 257}, {2, 32, 5, 767, 512},
      {1, 16, 33, 1010, 500}, {17, 16, 3, 510, 250}, {1, 16, 30, 10, 25},    {2, 16, 16, 300, 5000},
  };
  constexpr FloatKind kinds[] = {FloatKind::kNormal, FloatKind::kMixed, FloatKind::kHuge};
  std::size_t turn = 0;
  for (const Shape& shape : shapes) {
    if (failures.full()) return;
    test_shape(kernel, shape, static_cast<std::int64_t>(turn % 2 * 5), kinds[turn % std::size(kinds)], failures);
    ++turn;
  }
}

}  // namespace

void test_attention(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  constexpr FloatKind kinds[] = {FloatKind::kNormal, FloatKind::kMixed,    FloatKind::kHuge,    FloatKind::kZero,
                                 FloatKind::kNormal, FloatKind::kDenormal, FloatKind::kConstant};
  // Every third shape has several tokens; at most 40 query rows, so that the reference stays quick.
  constexpr std::int64_t token_counts[] = {2, 3, 5, 17, 33};
  std::size_t turn = 0;
  for (const std::int64_t heads : plan.heads) {
    for (const std::int64_t head_dim : plan.head_dims) {
      for (const std::int64_t length : plan.lengths) {
        if (failures.full()) return;
        const FloatKind kind = kinds[turn % std::size(kinds)];
        std::int64_t tokens = turn % 3 == 2 ? token_counts[turn / 3 % std::size(token_counts)] : 1;
        tokens = std::min({tokens, length, std::max<std::int64_t>(1, 40 / heads)});
        const auto gap = static_cast<std::int64_t>(turn % 2 * 5);
        test_shape(kernel, {heads, head_dim, tokens, length - tokens}, gap, kind, failures);
        ++turn;
      }
    }
  }
  // Prefill from nothing across a page, with groups of rows that end on both sides of it.
  for (const std::int64_t heads : {std::int64_t{1}, std::int64_t{4}, std::int64_t{17}}) {
    if (failures.full()) return;
    test_shape(kernel, {heads, 16, 270, 0}, 0, FloatKind::kNormal, failures);
  }
  test_windows(kernel, failures);
}

}  // namespace bitnet::test
