// libFuzzer target for SentencePiece models: any bytes are a tokenizer or refused by name; whatever is one works (see
// fuzz_tokenizers.h).
#include <cstdint>
#include <span>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/fuzz_tokenizers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto tokenizer =
      bitnet::Tokenizer::from_sentencepiece(std::as_bytes(std::span(data, size)), bitnet::test::kFuzzName);
  bitnet::test::check_tokenizer(tokenizer);
  return 0;
}
