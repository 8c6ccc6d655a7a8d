// The tokenizer's files of a checkpoint as the vocabulary of a GGUF file.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/convert/hf_config.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet::convert {

struct Vocabulary {
  VocabularyData data;
  std::vector<std::string> warnings;  // what the runtime will do otherwise than SentencePiece, and what was added
};

// read_tokenizer_directory with the rows of config.model.
[[nodiscard]] Result<Vocabulary> read_vocabulary(const std::string& directory, const HfConfig& config);

}  // namespace bitnet::convert
