// Models from one form into another: a Hugging Face style directory, a SafeTensors file beside its config.json, or a
// GGUF file becomes a GGUF file or a SafeTensors file. Tensors are streamed, so that memory is bounded by the largest
// of them; the result appears under its name when it is complete. The same input and options give the same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"

namespace bitnet {

// Called now and then with the bytes of tensor data that are done and that there will be.
using ConvertProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

enum class ConvertFormat : std::uint8_t { kGguf, kSafetensors };

// The types that matrices can be written in, by the names of the command line; nullopt for others.
[[nodiscard]] std::optional<gguf::TensorType> parse_target_type(std::string_view name);
[[nodiscard]] std::string_view target_type_names();  // "i2_s, tl1, ..." for messages
[[nodiscard]] std::string_view row_type_names();     // those of an embedding or head

struct ConvertOptions {
  std::string name;  // general.name, or _name_or_path of config.json; empty: the source's
  // Of the projections. Not set: I2_S for checkpoints that are packed, say that they round, or are of a BitNet class;
  // float16 for others; a GGUF file needs it.
  std::optional<gguf::TensorType> type;
  // Of the embedding and the head. Not set: `type` where that is F32, F16 or BF16, otherwise float16, or what a GGUF
  // file has.
  std::optional<gguf::TensorType> embedding, head;
  std::optional<ConvertFormat> format;  // not set: SafeTensors where the output is called so, else GGUF
  bool ternarize = false;               // round float matrices that are not ternary by their mean magnitude
  formats::ReadOptions read;            // of the source
  std::string tile_config;              // kernel_config.ini of a result in TL1 or TL2; empty: read.tile_config
  bool weights_only = false;            // of a checkpoint: a GGUF file without its tokenizer
  ConvertProgress progress;
  std::function<bool()> interrupted;  // asked between pieces; true ends the work with kInterrupted
};

// Of one tensor of the source or of the result. Errors compare result with source, value by value.
struct ConvertedTensor {
  std::vector<std::string> from;  // the source's names: weight and scale
  std::string from_type;
  std::string to;                    // the result's name
  std::string to_type;               // empty where the conversion failed before it was known
  std::vector<std::uint64_t> shape;  // fastest first
  double max_error = 0;              // largest |difference|
  double relative_error = 0;         // root of sum of squares of differences, by that of the source's values
  bool rounded = false;              // by the mean magnitude
  bool kind_changed = false;         // ternary on one side only, so that activations are quantised on one side only
};

struct ConvertReport {
  ModelConfig config;
  std::string name;
  std::uint64_t bytes = 0;            // of the written file
  std::vector<std::string> warnings;  // what was assumed and what the file cannot express; one line each
  std::vector<ConvertedTensor> tensors;
  std::vector<std::pair<std::string, std::string>> unmapped;  // tensors that are left out, and why
  std::vector<std::string> missing;                           // with unexpected ones: only of a conversion that failed
  std::vector<std::string> unexpected;
  bool config_rounded = false;  // config.json states numbers of the configuration up to their rounding only

  // Every value is the source's, and ternary weights stay ternary: the models' logits are the same.
  [[nodiscard]] bool lossless() const;
  // {input, output, name, architecture, lossless, tensors [{from, from_type, to, type, shape, error}], unmapped, ...}.
  [[nodiscard]] std::string json(const std::string& input, const std::string& output, const std::string& error) const;
};

// Converts `input` to `output`. `report` is filled as far as the work went, on failure too.
// Errors: kUsage: `input` is nothing of the three forms, `output` is one of its files, or options do not fit it;
// kTensorMapping: tensors that are missing, unexpected, of another type or shape, that hold a value which the result
// cannot, or are not ternary and should be; kTokenizer: everything about the tokenizer's files; kInterrupted; kFailure:
// the rest (files that are missing or damaged, a configuration that is not supported, too little space on the disk).
[[nodiscard]] Status convert_model(const std::string& input, const std::string& output, const ConvertOptions& options,
                                   ConvertReport& report);
[[nodiscard]] Result<ConvertReport> convert_model(const std::string& input, const std::string& output,
                                                  const ConvertOptions& options);

}  // namespace bitnet
