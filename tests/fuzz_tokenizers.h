// What the fuzz targets of tokenizers check of any result.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/tokenizer/tokenizer.h"

namespace bitnet::test {

inline constexpr const char* kFuzzName = "fuzz";

[[noreturn]] inline void fuzz_broken(const char* what) {
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

inline void check_refusal(const Error& error) {
  if (error.code != ErrorCode::kTokenizer) fuzz_broken("a refusal has another code");
  if (!error.message.starts_with(kFuzzName)) fuzz_broken("a refusal does not name its file");
}

inline void check_through_gguf(const Tokenizer& tokenizer) {
  gguf::Writer writer;
  set_vocabulary(tokenizer.data(), writer);
  const auto bytes = writer.header();
  if (!bytes.ok()) fuzz_broken("a vocabulary cannot be written");
  const auto file = gguf::File::parse(*bytes, kFuzzName);
  if (!file.ok()) return;  // the container is stricter: keys and strings of valid UTF-8 within its bounds
  const auto again = read_vocabulary(*file);
  if (!again.ok() || !(*again == tokenizer.data())) fuzz_broken("a vocabulary does not come back from GGUF");
}

inline void check_tokenizer(const Result<Tokenizer>& tokenizer) {
  if (!tokenizer.ok()) {
    check_refusal(tokenizer.error());
    return;
  }
  check_through_gguf(*tokenizer);
  const std::string texts[] = {"", " ", "Hello  world, 12345 \xF0\x9F\x98\x80\n\n don't", "\xFF\xC3 a\xE2\x82 <s></s>",
                               std::string("a\0b ", 4) + std::string(300, 'x')};
  for (const std::string& text : texts) {
    for (const bool special : {false, true}) {
      const auto ids = tokenizer->encode(text, false, special);
      if (!ids.ok()) continue;  // a character without a token, or a pattern that takes too long
      std::string steps;
      Tokenizer::Decoder decoder(*tokenizer);
      for (const std::int32_t id : *ids) {
        if (id < 0 || id >= tokenizer->size()) fuzz_broken("an id is outside the vocabulary");
        steps += decoder.push(id);
      }
      if (steps + decoder.finish() != tokenizer->decode(*ids)) fuzz_broken("decoding in steps differs");
    }
  }
}

}  // namespace bitnet::test
