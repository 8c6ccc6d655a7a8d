// Synthetic models: valid I2_S GGUF files of any shape with random ternary weights, so that real sizes can be tested
// and timed where no real model is. Their text is noise.
//
// A file has the names, metadata keys and tensor order of files from bitnet.cpp's converter (tied head, sub-norms), and
// a SentencePiece vocabulary with the 256 byte tokens and made-up words. The numbers keep activations of unit size:
// weights -1, 0, +1 with equal probability and a scale within 5 % of 1.2 / sqrt(K), K inputs, give outputs with
// variance about 0.96 from inputs with variance 1; norm gains are 1 +- 0.1; embeddings have the deviation 3 /
// sqrt(hidden), so that logits have about 3. Everything follows from the specification by integer arithmetic and single
// correctly rounded float operations: the same specification gives the same bytes on every machine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet {

struct SynthSpec {
  std::string name;          // of the shape, for general.name
  std::string architecture;  // bitnet | bitnet-25 | bitnet-b1.58
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int64_t heads = 0;  // query heads; hidden / heads is the head size
  std::int64_t kv_heads = 0;
  std::int64_t vocab = 0;
  std::int64_t context = 2048;
  float rope_base = 10000.0F;
  std::uint64_t seed = 0;
};

// "2b-4t", "large", "3b", "tiny", or LxHxFxQ/KVxV: layers x hidden x ffn x query heads / key-value heads x vocabulary
// (architecture bitnet-b1.58, context 2048, RoPE base 10000). The result has passed check_synth_spec(). kUsage
// otherwise.
[[nodiscard]] Result<SynthSpec> parse_synth_shape(std::string_view text);

// kUsage with what is expected and found: sizes out of range, hidden not a multiple of heads, an odd head size,
// kv_heads that does not divide heads, a vocabulary below 260, a matrix that I2_S cannot hold (elements not a multiple
// of 128).
[[nodiscard]] Status check_synth_spec(const SynthSpec& spec);

// Size of the tensor data in bytes, for progress and for a check of free space. Precondition: check_synth_spec().
[[nodiscard]] std::uint64_t synth_data_bytes(const SynthSpec& spec);

// Called now and then with the bytes of tensor data written so far and in all.
using SynthProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

// Writes the model; the file appears under `path` when it is complete. Memory: a few MiB and the vocabulary, whatever
// the size of the model. Errors: those of check_synth_spec() and of gguf::Writer.
[[nodiscard]] Status write_synthetic_model(const SynthSpec& spec, const std::string& path,
                                           const SynthProgress& progress = {});

// The vocabulary of synthetic models: <unk> <s> </s>, <0x00>..<0xFF>, U+2581, the printable ASCII characters, then
// syllables and words each of which is the merge of two earlier pieces; cut off at `size` (260 at least). It does not
// depend on the seed. All arrays have `size` entries, as in tokenizer.ggml.{tokens, scores, token_type}.
struct SynthVocabulary {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
};
[[nodiscard]] SynthVocabulary synth_vocabulary(std::int64_t size);

}  // namespace bitnet
