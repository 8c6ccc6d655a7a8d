// The tokenizer of a Hugging Face directory, whatever files it has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet {

// Reads tokenizer.json, else tokenizer.model (a SentencePiece model or tiktoken ranks), and beside it
// tokenizer_config.json (add_bos_token, add_eos_token, special tokens, added tokens, chat template),
// special_tokens_map.json, added_tokens.json, chat_template.jinja, and the special ids of config.json, which go before
// the tokenizer's own. A vocabulary with fewer tokens than vocab_size (the rows of the model's embedding; 0: not known)
// is filled up with unused tokens "[PAD<id>]". `warnings` gets what will differ from the original tokenizer and what
// was assumed or added. kTokenizer, with file, expected and found: no tokenizer; more tokens than vocab_size;
// everything that Tokenizer::from_vocabulary refuses.
[[nodiscard]] Result<VocabularyData> read_tokenizer_directory(const std::string& directory, std::int64_t vocab_size,
                                                              std::vector<std::string>& warnings);

}  // namespace bitnet
