// tokenizer.json, the one file of Hugging Face's fast tokenizers, as a vocabulary. Private to this folder.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet::tokenizer {

// Models BPE (byte-level, or of characters with U+2581 for spaces) and Unigram; the normalizers, pre_tokenizers and
// decoders of pipeline_json.cc; the post_processors ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing
// and Sequence, of which only the tokens before and after a single text count. Ids that no token has get unused tokens
// "[PAD<id>]". A byte-level vocabulary whose words are those of a name of tokenizer.ggml.pre gets that name; whatever
// this does not say stays in `pipeline`. kTokenizer, beginning with `name` and the place: whatever else there is.
[[nodiscard]] Result<VocabularyData> read_tokenizer_json(std::string_view json, const std::string& name);

}  // namespace bitnet::tokenizer
