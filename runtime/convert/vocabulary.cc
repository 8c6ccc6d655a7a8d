#include "runtime/convert/vocabulary.h"

#include "runtime/tokenizer/directory.h"

namespace bitnet::convert {

Result<Vocabulary> read_vocabulary(const std::string& directory, const HfConfig& config) {
  Vocabulary vocabulary;
  BITNET_ASSIGN_OR_RETURN(vocabulary.data,
                          read_tokenizer_directory(directory, config.model.vocab, vocabulary.warnings));
  return vocabulary;
}

}  // namespace bitnet::convert
