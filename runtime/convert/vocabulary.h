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

// Reads tokenizer.model and tokenizer_config.json in `directory`. A tokenizer with fewer pieces than config.model.vocab
// is filled up with unused tokens "[PAD<id>]"; one with more is refused, and so is everything that Tokenizer::from_gguf
// would refuse. All errors are kTokenizer.
[[nodiscard]] Result<Vocabulary> read_vocabulary(const std::string& directory, const HfConfig& config);

}  // namespace bitnet::convert
