// Writing a synthetic model: metadata, tensor table, and tensors generated in pieces of 1 MiB while they are written.
//
// Speed: a byte of I2_S holds four codes, each 0, 1 or 2: 81 equally probable values whatever the layout, because the
// codes are independent. One 64-bit random number, read as a fraction, gives eight base-81 digits by multiplying with
// 81 and taking what passes the point (relative bias below 1e-3 in the last digit). A float16 value of a tensor is a
// table entry chosen by the sum of eight random bytes: a bell curve of 2041 steps.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "runtime/base/half.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/gguf_layout.h"
#include "runtime/sampling/random.h"
#include "runtime/synth/synth.h"

namespace bitnet {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
// The specification as the writer of models wants it.
ModelConfig config_of(const SynthSpec& spec) {
  ModelConfig config;
  config.architecture = spec.architecture;
  config.layers = spec.layers;
  config.hidden = spec.hidden;
  config.ffn = spec.ffn;
  config.heads = spec.heads;
  config.kv_heads = spec.kv_heads;
  config.head_dim = spec.hidden / spec.heads;
  config.rope_dim = config.head_dim;
  config.context = spec.context;
  config.vocab = spec.vocab;
  config.rope_base = spec.rope_base;
  return config;
}

VocabularyData vocabulary_of(const SynthSpec& spec) {
  SynthVocabulary words = synth_vocabulary(spec.vocab);
  VocabularyData vocabulary;
  vocabulary.tokens = std::move(words.tokens);
  vocabulary.scores = std::move(words.scores);
  vocabulary.types = std::move(words.types);
  vocabulary.bos = 1;
  vocabulary.eos = 2;
  vocabulary.unknown = 0;
  return vocabulary;
}

// Sum of the eight bytes of x, 0..2040: mean 1020, standard deviation 209.02 (= sqrt(8 * (256^2 - 1) / 12)).
unsigned byte_sum(std::uint64_t x) {
  constexpr std::uint64_t kEvenBytes = 0x00FF00FF00FF00FFU;
  const std::uint64_t pairs = (x & kEvenBytes) + ((x >> 8) & kEvenBytes);
  return static_cast<unsigned>((pairs * 0x0001000100010001U) >> 48);
}
constexpr unsigned kSumValues = 2041;
constexpr float kSumMean = 1020.0F;
constexpr float kSumDeviation = 209.02F;

float bell(unsigned sum) { return (static_cast<float>(sum) - kSumMean) / kSumDeviation; }

// The next base-81 digit of fraction / 2^64: what passes the point when it is multiplied by 81; the rest stays.
std::size_t take_digit(std::uint64_t& fraction) {
  const std::uint64_t low = (fraction & 0xFFFFFFFFU) * 81;
  const std::uint64_t high = (fraction >> 32) * 81 + (low >> 32);
  fraction *= 81;
  return static_cast<std::size_t>(high >> 32);
}

class Generator {
 public:
  Generator(const SynthSpec& spec, const SynthProgress& progress)
      : spec_(spec), progress_(progress), piece_(kPieceBytes) {
    const float deviation = 3.0F / std::sqrt(static_cast<float>(spec.hidden));
    for (unsigned sum = 0; sum < kSumValues; ++sum) embedding_[sum] = float_to_half(bell(sum) * deviation);
    for (unsigned value = 0; value < codes_.size(); ++value) {
      codes_[value] = static_cast<std::uint8_t>(value / 27 << 6 | value / 9 % 3 << 4 | value / 3 % 3 << 2 | value % 3);
    }
    total_ = synth_data_bytes(spec);
  }

  Status tensor(std::size_t index, const PlannedTensor& plan, const gguf::Writer::Sink& sink) {
    // Every tensor has its own stream of numbers, far from the others'.
    SplitMix64 mixer(spec_.seed);
    SplitMix64 random(mixer.next() ^ SplitMix64(index + 1).next());
    switch (plan.type) {
      case gguf::TensorType::kF16:
        return embedding(plan.elements() * 2, random, sink);
      case gguf::TensorType::kF32:
        return norm(plan.elements(), random, sink);
      default:
        return ternary(plan.elements() / 4, plan.ne[0], random, sink);
    }
  }

 private:
  Status put(std::size_t bytes, const gguf::Writer::Sink& sink) {
    BITNET_RETURN_IF_ERROR(sink(std::span<const std::byte>(piece_).first(bytes)));
    done_ += bytes;
    if (progress_) progress_(done_, total_);
    return {};
  }

  Status embedding(std::uint64_t bytes, SplitMix64& random, const gguf::Writer::Sink& sink) {
    for (std::uint64_t done = 0; done < bytes;) {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(bytes - done, kPieceBytes));
      for (std::size_t i = 0; i < part; i += 2) std::memcpy(&piece_[i], &embedding_[byte_sum(random.next())], 2);
      BITNET_RETURN_IF_ERROR(put(part, sink));
      done += part;
    }
    return {};
  }

  Status norm(std::uint64_t count, SplitMix64& random, const gguf::Writer::Sink& sink) {
    for (std::uint64_t done = 0; done < count;) {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(count - done, kPieceBytes / 4));
      for (std::size_t i = 0; i < part; ++i) {
        const float gain = 1.0F + bell(byte_sum(random.next())) * 0.1F;
        std::memcpy(&piece_[i * 4], &gain, 4);
      }
      BITNET_RETURN_IF_ERROR(put(part * 4, sink));
      done += part;
    }
    return {};
  }

  Status ternary(std::uint64_t code_bytes, std::uint64_t k, SplitMix64& random, const gguf::Writer::Sink& sink) {
    for (std::uint64_t done = 0; done < code_bytes;) {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(code_bytes - done, kPieceBytes));
      for (std::size_t i = 0; i < part; i += 8) {  // code_bytes is a multiple of 32
        std::uint64_t fraction = random.next();
        for (std::size_t j = 0; j < 8; ++j) {
          piece_[i + j] = static_cast<std::byte>(codes_[take_digit(fraction)]);
        }
      }
      BITNET_RETURN_IF_ERROR(put(part, sink));
      done += part;
    }
    // Scales differ by up to 10 % from tensor to tensor, so that a mixed-up scale shows.
    const float spread = 0.95F + static_cast<float>(random.next() >> 40) * 0x1p-24F * 0.1F;
    const float scale = 1.2F / std::sqrt(static_cast<float>(k)) * spread;
    std::fill_n(piece_.begin(), kI2sTailBytes, std::byte{0});
    std::memcpy(piece_.data(), &scale, 4);
    return put(kI2sTailBytes, sink);
  }

  const SynthSpec& spec_;
  const SynthProgress& progress_;
  std::vector<std::byte> piece_;                       // [kPieceBytes], what is written next
  std::array<std::uint16_t, kSumValues> embedding_{};  // float16 by byte sum
  std::array<std::uint8_t, 81> codes_{};               // I2_S byte by base-81 digit
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace

std::uint64_t synth_data_bytes(const SynthSpec& spec) {
  std::uint64_t bytes = 0;
  for (const PlannedTensor& tensor : plan_tensors(config_of(spec))) bytes += tensor.bytes();
  return bytes;
}

Status write_synthetic_model(const SynthSpec& spec, const std::string& path, const SynthProgress& progress) {
  BITNET_RETURN_IF_ERROR(check_synth_spec(spec));
  const ModelConfig config = config_of(spec);
  const std::vector<PlannedTensor> plan = plan_tensors(config);
  gguf::Writer writer;
  set_metadata(config, "synthetic " + spec.name + ", seed " + std::to_string(spec.seed), vocabulary_of(spec), writer);
  for (const PlannedTensor& tensor : plan) writer.add_tensor(tensor.name, tensor.type, tensor.ne);
  Generator generator(spec, progress);
  return writer.write(path, [&](std::size_t index, const gguf::Writer::Sink& sink) {
    return generator.tensor(index, plan[index], sink);
  });
}

}  // namespace bitnet
