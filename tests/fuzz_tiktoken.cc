// libFuzzer target for tiktoken ranks: any bytes are refused by line or are ranks, which they can hardly be by chance:
// a vocabulary has 128000 lines.
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/tokenizer/tiktoken.h"
#include "tests/fuzz_tokenizers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)bitnet::tokenizer::looks_like_tiktoken(text);
  const auto read = bitnet::tokenizer::read_tiktoken(text, bitnet::test::kFuzzName);
  if (read.ok()) {
    bitnet::test::check_tokenizer(bitnet::Tokenizer::from_vocabulary(*read, bitnet::test::kFuzzName));
  } else {
    bitnet::test::check_refusal(read.error());
  }
  return 0;
}
