// libFuzzer target for tokenizer.json: any bytes are a tokenizer or refused by name; whatever is a tokenizer encodes
// any text or says why not, decodes in steps as at once, and comes back equal from the keys of a GGUF file.
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/fuzz_tokenizers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto tokenizer =
      bitnet::Tokenizer::from_json({reinterpret_cast<const char*>(data), size}, bitnet::test::kFuzzName);
  bitnet::test::check_tokenizer(tokenizer);
  return 0;
}
