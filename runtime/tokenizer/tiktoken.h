// tiktoken's files of ranks: a line for each token, its bytes in base64 and its rank, which is its id. They say nothing
// about special tokens and words; a file of 128000 ranks is Llama 3's, whose 256 special tokens follow from a rule.
// Private to this folder.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet::tokenizer {

// Whether the first line could be one of such a file.
[[nodiscard]] bool looks_like_tiktoken(std::string_view text);

// The vocabulary: byte-level BPE, merges in the order of the tokens that they form (any two tokens whose bytes are
// those of a third merge to it, as tiktoken merges), special tokens 128000 to 128255 and the words of Llama 3.
// kTokenizer, beginning with `name` and the line: damage, ranks that are not 0, 1, 2, ..., tokens that stand twice, a
// number of ranks other than 128000.
[[nodiscard]] Result<VocabularyData> read_tiktoken(std::string_view text, const std::string& name);

}  // namespace bitnet::tokenizer
