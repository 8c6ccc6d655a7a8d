// config.json of a Hugging Face style checkpoint: which graph it describes, and how its weights are stored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace bitnet::convert {

// What tensors are called and how they lie.
enum class Family : std::uint8_t {
  kBitNet,  // sub-norms, nothing permuted
  kLlama,   // q and k rows permuted to interleaved RoPE: Llama, Mistral, MiniCPM
  kQwen,    // nothing permuted; biases or QK norms
  kGemma,   // norms before and after each block, stored less 1
  kGpt2,    // names of its own, matrices transposed
};

// How the projections are stored.
enum class Storage : std::uint8_t {
  kPlain,    // floats, which may be ternary already
  kPacked,   // four ternary values in a byte, and a scale
  kMasters,  // floats that the model's own layers round by their mean magnitude when they run
};

// transformers' llama3 scaling: pairs that turn less than `low` times over the original context are slowed down by
// `factor`, those that turn more than `high` times are left alone, and between the two the factor is blended in.
struct Llama3Scaling {
  float factor = 1.0F, low = 1.0F, high = 4.0F;
  std::int64_t original_context = 8192;
};

struct HfConfig {
  ModelConfig model;  // every number within the bounds of read_config
  Family family = Family::kBitNet;
  Storage storage = Storage::kPlain;
  bool scale_divides = false;            // kPacked: weight = t / weight_scale, else t * weight_scale
  std::vector<std::string> unquantised;  // modules that are plain whatever `storage` says
  bool tied = true;                      // the head is the embedding
  // [rope_dim / 2] each, or empty: what angles are divided by always, beyond and within the original context.
  std::vector<float> rope_factors, rope_long, rope_short;
  std::optional<Llama3Scaling> llama3;  // what rope_factors follow from
  bool attention_bias = false;          // of a model to write: q, k, v and output have biases
  bool mlp_bias = false;                // the same of gate, up and down
  bool own_norms = false;               // of a model to write: projections have norms of their own
  std::optional<std::int64_t> bos, eos;
  std::string name;  // _name_or_path, or empty
  std::vector<std::string> warnings;
};

// config.json of `directory`, and of its modules.json's pooling where an embedding model has one. kFailure, with file,
// key, expected and found: keys that are missing, of another type or out of range; a model_type that is not known, with
// the list of those that are; and every setting that means a graph or a way of storing weights that is not implemented.
// Keys that this reader has never heard of are warnings.
[[nodiscard]] Result<HfConfig> read_hf_config(const std::string& directory);
// The same of the text of a config.json alone; `path` stands in messages.
[[nodiscard]] Result<HfConfig> parse_hf_config(std::string_view text, const std::string& path);

}  // namespace bitnet::convert
