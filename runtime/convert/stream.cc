// Rows go through in pieces of about a million weights. A float matrix that becomes a ternary one is read twice: first
// for its scales, then for its codes. Errors are measured on what the result's bytes decode to, not on what was meant.
#include "runtime/convert/stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/formats/encode.h"
#include "runtime/formats/ternarize.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

using formats::ScaleKind;
using gguf::TensorType;

constexpr std::int64_t kPieceElements = std::int64_t{1} << 20;
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
// The source's pages are given back after so many weights: an embedding may be as large as the memory.
constexpr std::int64_t kResidentElements = std::int64_t{1} << 24;

bool has_block_scales(TensorType type) {
  return type == TensorType::kTQ1_0 || type == TensorType::kTQ2_0 || type == TensorType::kQ2_0 ||
         type == TensorType::kPQ2_0 || type == TensorType::kQ1_0;
}

struct Scales {
  ScaleKind kind = ScaleKind::kTensor;
  std::int32_t group = 0;
  std::vector<float> values;  // as of TernaryMatrix
};

// Sums for ConvertedTensor's errors.
class Errors {
 public:
  void add(float source, float result, std::uint64_t times = 1) {
    const double difference = static_cast<double>(result) - static_cast<double>(source);
    most_ = std::max(most_, std::fabs(difference));
    differences_ += difference * difference * static_cast<double>(times);
    values_ += static_cast<double>(source) * static_cast<double>(source) * static_cast<double>(times);
  }
  void store(ConvertedTensor& report) const {
    report.max_error = most_;
    report.relative_error = most_ == 0.0 ? 0.0 : values_ == 0.0 ? 1.0 : std::sqrt(differences_ / values_);
  }

 private:
  double most_ = 0, differences_ = 0, values_ = 0;
};

class Stream {
 public:
  Stream(const SourceTensor& source, const Target& target, const Sink& sink, const Step& step, ConvertedTensor& report,
         std::vector<std::string>& warnings)
      : source_(source),
        target_(target),
        sink_(sink),
        step_(step),
        report_(report),
        warnings_(warnings),
        rows_(source.rows()),
        columns_(source.columns()),
        piece_rows_(std::max<std::int64_t>(kPieceElements / std::max<std::int64_t>(columns_, 1), 1)) {}

  Status run() {
    const bool ternary = is_ternary_target(target_.type);
    report_.kind_changed = source_.role == Role::kProjection && ternary != (source_.ternary || source_.masters);
    if (!ternary) return source_.ternary ? codes_to_floats() : floats_to_floats();
    BITNET_RETURN_IF_ERROR(find_scales());
    if (source_.ternary) {
      return encode_codes([this](std::int64_t begin, std::int64_t end, std::uint8_t* codes) {
        return source_.codes(begin, end, codes);
      });
    }
    return floats_to_codes();
  }

  Result<float> packed_scale() {
    BITNET_RETURN_IF_ERROR(find_scales());
    BITNET_RETURN_IF_ERROR(check_packable());
    return scales_.values[0];
  }

  // Bytes of the same type.
  Status copy() {
    std::uint64_t done = 0;
    for (std::size_t at = 0; at < source_.raw.size(); at += kPieceBytes) {
      const std::span<const std::byte> piece = source_.raw.subspan(at, std::min(kPieceBytes, source_.raw.size() - at));
      BITNET_RETURN_IF_ERROR(sink_(piece));
      const std::uint64_t so_far =
          static_cast<std::uint64_t>(static_cast<double>(source_.elements()) * static_cast<double>(at + piece.size()) /
                                     static_cast<double>(source_.raw.size()));
      BITNET_RETURN_IF_ERROR(step_(so_far - done));
      resident_ += static_cast<std::int64_t>(so_far - done);
      if (resident_ >= kResidentElements) {
        source_.release();
        resident_ = 0;
      }
      done = so_far;
    }
    return {};
  }

 private:
  [[nodiscard]] Error fail(const std::string& what) const {
    return {ErrorCode::kTensorMapping, source_.place + ": " + what};
  }

  [[nodiscard]] std::string place_of_element(std::int64_t index) const {
    if (source_.ne.size() == 1) return "element " + std::to_string(index);
    return "row " + std::to_string(index / columns_) + ", column " + std::to_string(index % columns_);
  }

  // Calls use(row_begin, row_end) for every piece, and counts it as done.
  template <typename Use>
  Status each_piece(const Use& use, std::uint64_t parts = 1) {
    if (columns_ == 0) return {};  // there may be any number of such rows
    for (std::int64_t row = 0; row < rows_; row += piece_rows_) {
      const std::int64_t end = std::min(rows_, row + piece_rows_);
      BITNET_RETURN_IF_ERROR(use(row, end));
      resident_ += (end - row) * columns_;
      if (resident_ >= kResidentElements) {
        source_.release();
        resident_ = 0;
      }
      BITNET_RETURN_IF_ERROR(step_(static_cast<std::uint64_t>((end - row) * columns_) / parts));
    }
    return {};
  }

  Status load(std::int64_t row_begin, std::int64_t row_end) {
    values_.resize(static_cast<std::size_t>((row_end - row_begin) * columns_));
    source_.floats(row_begin, row_end, values_.data());
    const auto bad = std::find_if_not(values_.begin(), values_.end(), [](float value) { return std::isfinite(value); });
    if (bad == values_.end()) return {};
    return fail(place_of_element(row_begin * columns_ + (bad - values_.begin())) +
                ": expected a finite number, found " + std::to_string(*bad) +
                "; the checkpoint is damaged or was trained to no end: export it again");
  }

  // values_ of rows from row_begin on, to the sink.
  Status write_values(std::int64_t row_begin) {
    const std::uint64_t block = formats::block_elements(target_.type);
    const std::uint64_t blocks = values_.size() / block;
    const std::uint64_t ne[] = {block};
    bytes_.resize(static_cast<std::size_t>(blocks * *gguf::tensor_bytes(target_.type, ne)));
    formats::encode_floats(target_.type, values_, bytes_.data());
    decoded_.resize(values_.size());
    formats::decode_floats(target_.type, bytes_.data(), 0, decoded_);
    for (std::size_t i = 0; i < values_.size(); ++i) {
      if (!std::isfinite(decoded_[i])) {
        return fail(place_of_element(row_begin * columns_ + static_cast<std::int64_t>(i)) +
                    ": expected a number that " +
                    (target_.type == TensorType::kF16 ? "float16 can hold (below 65520)"
                                                      : std::string(gguf::to_string(target_.type)) + " can hold") +
                    ", found " + std::to_string(values_[i]) + "; choose a wider type");
      }
      errors_.add(values_[i], decoded_[i]);
    }
    return sink_(bytes_);
  }

  Status floats_to_floats() {
    Status done = each_piece([this](std::int64_t begin, std::int64_t end) -> Status {
      BITNET_RETURN_IF_ERROR(load(begin, end));
      return write_values(begin);
    });
    if (!done.ok()) return done;
    errors_.store(report_);
    return {};
  }

  Status codes_to_floats() {
    Status done = each_piece([this](std::int64_t begin, std::int64_t end) -> Status {
      codes_.resize(static_cast<std::size_t>((end - begin) * columns_));
      BITNET_RETURN_IF_ERROR(read_codes(
          [this](std::int64_t from, std::int64_t to, std::uint8_t* codes) { return source_.codes(from, to, codes); },
          begin, end));
      values_.resize(codes_.size());
      const std::int64_t group = source_.group == 0 ? columns_ : source_.group;
      for (std::int64_t row = begin; row < end; ++row) {
        const auto at = static_cast<std::size_t>((row - begin) * columns_);
        for (std::int64_t first = 0; first < columns_; first += group) {
          const float scale = scale_at(source_.scale_kind, source_.scales, row, first / group);
          const float weights[3] = {-scale, 0.0F, scale};
          for (std::int64_t c = first; c < std::min(first + group, columns_); ++c) {
            values_[at + static_cast<std::size_t>(c)] = weights[codes_[at + static_cast<std::size_t>(c)]];
          }
        }
      }
      return write_values(begin);
    });
    if (!done.ok()) return done;
    warn_of_undefined();
    errors_.store(report_);
    return {};
  }

  [[nodiscard]] float scale_at(ScaleKind kind, std::span<const float> scales, std::int64_t row,
                               std::int64_t group) const {
    if (kind == ScaleKind::kTensor) return scales[0];
    return scales[static_cast<std::size_t>(kind == ScaleKind::kRow ? row : group * rows_ + row)];
  }

  template <typename Codes>
  Status read_codes(const Codes& codes, std::int64_t begin, std::int64_t end) {
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t undefined, codes(begin, end, codes_.data()));
    undefined_ += undefined;
    return {};
  }
  void warn_of_undefined() {
    if (undefined_ == 0) return;
    warnings_.push_back(source_.place + ": " + std::to_string(undefined_) +
                        " weights have a code that its type leaves undefined; they are written as 0");
  }

  Status find_scales() {
    if (source_.ternary) {
      scales_ = {source_.scale_kind, source_.group, source_.scales};
      // A matrix of zeros in blocks has scale 0; types with one scale for all want one above 0, and any will do.
      if (scales_.kind == ScaleKind::kTensor && scales_.values[0] == 0.0F) scales_.values[0] = 1.0F;
      return {};
    }
    const std::int64_t group = has_block_scales(target_.type)
                                   ? static_cast<std::int64_t>(gguf::row_granule(target_.type))
                                   : columns_;  // one scale for all: groups would not help
    const bool grouped = columns_ % group == 0 && group != columns_;
    formats::MagnitudeProbe rows(columns_);
    formats::MagnitudeProbe groups(group);  // to it, each group is a row
    Status done = each_piece(
        [&](std::int64_t begin, std::int64_t end) -> Status {
          BITNET_RETURN_IF_ERROR(load(begin, end));
          BITNET_RETURN_IF_ERROR(rows.add(values_));
          return grouped ? groups.add(values_) : Status();
        },
        2);
    if (!done.ok()) return done;
    const bool round = source_.masters && !source_.assumed;
    const auto kind = round ? std::nullopt : rows.ternary();
    if (kind) {
      scales_ = {*kind, 0, rows.scales(*kind)};
    } else if (!round && grouped && groups.ternary()) {
      scales_ = {ScaleKind::kGroup, static_cast<std::int32_t>(group), by_group(groups.scales(ScaleKind::kRow))};
    } else if (source_.masters || target_.ternarize) {
      scales_ = {ScaleKind::kTensor, 0, {rows.absmean()}};
      report_.rounded = true;
    } else {
      BITNET_ASSIGN_OR_RETURN(const std::string fitting, fitting_types());
      if (!fitting.empty()) return fail(fitting);
      return fail("not ternary: " + rows.witness() +
                  "; --ternarize absmean rounds such a matrix by its mean magnitude, which changes the model, and "
                  "--type f16 keeps it as it is");
    }
    return {};
  }

  // The way out for a matrix that has a scale for each group of columns, or nothing.
  Result<std::string> fitting_types() {
    for (const auto& [group, type] : {std::pair(256, "tq2_0"), {128, "pq2_0"}, {64, "q2_0"}}) {
      if (columns_ % group != 0) continue;
      formats::MagnitudeProbe probe(group);
      const Status done = each_piece(
          [&](std::int64_t begin, std::int64_t end) -> Status {
            BITNET_RETURN_IF_ERROR(load(begin, end));
            return probe.add(values_);
          },
          2);
      if (!done.ok()) return done.error();
      if (!probe.ternary()) continue;
      return "ternary with a scale for each " + std::to_string(group) +
             " columns, which this type does not have; --type " + type + " keeps it as it is";
    }
    return std::string();
  }

  // [rows][groups] to [groups][rows].
  [[nodiscard]] std::vector<float> by_group(const std::vector<float>& scales) const {
    const auto rows = static_cast<std::size_t>(rows_);
    const std::size_t groups = scales.size() / rows;
    std::vector<float> result(scales.size());
    for (std::size_t i = 0; i < scales.size(); ++i) result[i % groups * rows + i / groups] = scales[i];
    return result;
  }

  // With the scales that were found.
  Status floats_to_codes() {
    return encode_codes([this](std::int64_t begin, std::int64_t end, std::uint8_t* codes) -> Result<std::uint64_t> {
      BITNET_RETURN_IF_ERROR(load(begin, end));
      const std::int64_t group = scales_.group == 0 ? columns_ : scales_.group;
      formats::RoundingError ignored;  // add_errors() has the errors of what is stored
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t first = 0; first < columns_; first += group) {
          const auto at = static_cast<std::size_t>((row - begin) * columns_ + first);
          formats::round_to_ternary(std::span(values_).subspan(at, static_cast<std::size_t>(group)),
                                    scale_at(scales_.kind, scales_.values, row, first / group), codes + at, ignored);
        }
      }
      return std::uint64_t{0};
    });
  }

  // What the result holds of scales_.
  [[nodiscard]] float stored(float scale) const {
    if (!has_block_scales(target_.type)) return scale;
    std::byte half[2];
    float result = 0;
    formats::encode_floats(TensorType::kF16, {&scale, 1}, half);
    formats::decode_floats(TensorType::kF16, half, 0, {&result, 1});
    return result;
  }

  // Of the codes of rows [begin, end): against the floats that they were made of, or against the source's scales.
  void add_errors(std::int64_t begin, std::int64_t end) {
    const std::int64_t group = scales_.group == 0 ? columns_ : scales_.group;
    for (std::int64_t row = begin; row < end; ++row) {
      const std::uint8_t* codes = codes_.data() + (row - begin) * columns_;
      for (std::int64_t first = 0; first < columns_; first += group) {
        const float scale = scale_at(scales_.kind, scales_.values, row, first / group);
        const float kept = stored(scale);
        const std::int64_t last = std::min(first + group, columns_);
        if (source_.ternary) {
          const auto weights = static_cast<std::uint64_t>((last - first) - std::count(codes + first, codes + last, 1));
          if (weights != 0) errors_.add(scale, kept, weights);
          continue;
        }
        const float* values = values_.data() + (row - begin) * columns_;
        for (std::int64_t c = first; c < last; ++c) errors_.add(values[c], static_cast<float>(codes[c] - 1) * kept);
      }
    }
  }

  template <typename Codes>
  Status encode_codes(const Codes& codes) {
    if (target_.packed) return pack(codes);
    const formats::TernaryTarget wanted{target_.type, rows_, columns_, formats::I2sLayout::kX86, target_.tile};
    auto encoder = formats::TernaryEncoder::make(wanted, scales_.kind, scales_.group, scales_.values);
    if (!encoder.ok()) return fail(encoder.error().message);
    Status done = each_piece(
        [&](std::int64_t begin, std::int64_t end) -> Status {
          codes_.resize(static_cast<std::size_t>((end - begin) * columns_));
          BITNET_RETURN_IF_ERROR(read_codes(codes, begin, end));
          add_errors(begin, end);
          const Status added = encoder->add_rows(codes_);
          return added.ok() ? added : Status(fail(added.error().message));
        },
        source_.ternary ? 1 : 2);
    if (!done.ok()) return done;
    const auto bytes = encoder->finish();
    if (!bytes.ok()) return fail(bytes.error().message);
    for (std::size_t at = 0; at < bytes->size(); at += kPieceBytes) {
      BITNET_RETURN_IF_ERROR(sink_(bytes->subspan(at, std::min(kPieceBytes, bytes->size() - at))));
    }
    warn_of_undefined();
    errors_.store(report_);
    return {};
  }

  [[nodiscard]] Status check_packable() const {
    if (scales_.kind == ScaleKind::kTensor && scales_.values[0] > 0.0F) return {};
    if (scales_.kind == ScaleKind::kTensor) {
      return fail("its scale is negative, and that of a packed checkpoint is above 0; --type f16 keeps the values");
    }
    return fail(
        "its scales differ between rows or groups of columns, and a packed checkpoint has one for a matrix; "
        "--type f16 keeps the values");
  }

  // Rows r, r + quarter, ... in the pairs of bits of packed row r.
  template <typename Codes>
  Status pack(const Codes& codes) {
    BITNET_RETURN_IF_ERROR(check_packable());
    const std::int64_t quarter = ceil_div<std::int64_t>(rows_, 4);
    std::vector<std::uint8_t> packed(static_cast<std::size_t>(quarter * columns_), 0);
    Status done = each_piece(
        [&](std::int64_t begin, std::int64_t end) -> Status {
          codes_.resize(static_cast<std::size_t>((end - begin) * columns_));
          BITNET_RETURN_IF_ERROR(read_codes(codes, begin, end));
          add_errors(begin, end);
          for (std::int64_t row = begin; row < end; ++row) {
            const std::uint8_t* from = codes_.data() + (row - begin) * columns_;
            std::uint8_t* to = packed.data() + row % quarter * columns_;
            const auto shift = static_cast<unsigned>(2 * (row / quarter));
            for (std::int64_t c = 0; c < columns_; ++c) to[c] = static_cast<std::uint8_t>(to[c] | from[c] << shift);
          }
          return {};
        },
        source_.ternary ? 1 : 2);
    if (!done.ok()) return done;
    warn_of_undefined();
    errors_.store(report_);
    return sink_(std::as_bytes(std::span(packed)));
  }

  const SourceTensor& source_;
  const Target& target_;
  const Sink& sink_;
  const Step& step_;
  ConvertedTensor& report_;
  std::vector<std::string>& warnings_;
  std::int64_t rows_, columns_, piece_rows_;
  Scales scales_;
  Errors errors_;
  std::uint64_t undefined_ = 0;
  std::int64_t resident_ = 0;  // weights read since the last release
  std::vector<float> values_, decoded_;
  std::vector<std::uint8_t> codes_;
  std::vector<std::byte> bytes_;
};

}  // namespace

bool is_ternary_target(TensorType type) {
  return type == TensorType::kI2_S || type == TensorType::kTL1 || type == TensorType::kTL2OrMXFP4 ||
         has_block_scales(type);
}

bool is_copied(const SourceTensor& source, const Target& target) {
  if (source.raw_type != target.type || target.packed) return false;
  return target.type != TensorType::kI2_S && target.type != TensorType::kTL1 && target.type != TensorType::kTL2OrMXFP4;
}

Status stream_tensor(const SourceTensor& source, const Target& target, const Sink& sink, const Step& step,
                     ConvertedTensor& report, std::vector<std::string>& warnings) {
  Stream stream(source, target, sink, step, report, warnings);
  const Status status = is_copied(source, target) ? stream.copy() : stream.run();
  source.release();
  return status;
}

Result<float> packed_scale(const SourceTensor& source, const Target& target) {
  ConvertedTensor report;
  std::vector<std::string> warnings;
  const Sink sink = [](std::span<const std::byte>) -> Status { return {}; };
  const Step step = [](std::uint64_t) -> Status { return {}; };
  Result<float> scale = Stream(source, target, sink, step, report, warnings).packed_scale();
  source.release();
  return scale;
}

}  // namespace bitnet::convert
