// A Hugging Face style directory of a packed BitNet b1.58 checkpoint (training/README.md states the format) becomes a
// GGUF file that Model::load runs: architecture bitnet-b1.58, I2_S weights with the checkpoint's exact scales, float16
// embedding, float32 norms, the SentencePiece vocabulary. The same directory and name give the same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace bitnet {

// Called now and then with the bytes of tensor data written so far and in all.
using ConvertProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

struct ConvertOptions {
  std::string name;  // general.name; empty: config.json's _name_or_path, else the directory's name
  ConvertProgress progress;
};

struct ConvertReport {
  ModelConfig config;
  std::string name;
  std::uint64_t bytes = 0;            // of the written file
  std::vector<std::string> warnings;  // what the file cannot express; one line each, without a newline
};

// Reads config.json, model.safetensors, tokenizer.model, tokenizer_config.json and, where there is one,
// generation_config.json (it becomes general.sampling.*) in `directory` and writes `output`,
// which appears under its name when it is complete. Tensors are streamed: memory is a few MiB and the vocabulary.
// Errors: kUsage: `directory` is none, or `output` is one of its files; kTensorMapping: tensors that are missing,
// unexpected, of another type or shape, or hold a value that the file cannot; kTokenizer: everything about the
// tokenizer's files; kFailure: the rest (files that are missing or damaged, a configuration that is not supported, too
// little space on the disk).
[[nodiscard]] Result<ConvertReport> convert_model(const std::string& directory, const std::string& output,
                                                  const ConvertOptions& options);

}  // namespace bitnet
