// For tests/tokenizer_json_test.py: many texts through one tokenizer in one process.
//   tokenize_texts TOKENIZER TEXTS [GGUF]
// TOKENIZER: any file that Tokenizer::open reads. TEXTS: each text as its length in 4 bytes (little-endian) and its
// bytes. Prints one line of ids for each text, special tokens parsed, none added. With GGUF the vocabulary is also
// written there and read back, and both must agree on the vocabulary, its digest and every text. Decoding token by
// token must give the same text as decoding the whole. Exit 1 with a message if not.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/tokenizer/tokenizer.h"

namespace {

using namespace bitnet;

int failed(const std::string& what) {
  std::fprintf(stderr, "tokenize_texts: %s\n", what.c_str());
  return 1;
}

Result<Tokenizer> through_gguf(const Tokenizer& tokenizer, const std::string& path) {
  gguf::Writer writer;
  writer.set("general.architecture", "none");
  set_vocabulary(tokenizer.data(), writer);
  BITNET_RETURN_IF_ERROR(writer.write(path, [](std::size_t, const gguf::Writer::Sink&) { return Status(); }));
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(path));
  BITNET_ASSIGN_OR_RETURN(const VocabularyData data, read_vocabulary(file));
  VocabularyData wanted = tokenizer.data();
  if (data != wanted) return Error{ErrorCode::kFailure, "the vocabulary read from GGUF is another one"};
  return Tokenizer::from_gguf(file);
}

bool same_in_steps(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  Tokenizer::Decoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish() == tokenizer.decode(ids);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return failed("expected TOKENIZER TEXTS [GGUF]");
  const auto tokenizer = Tokenizer::open(argv[1]);
  if (!tokenizer.ok()) return failed(tokenizer.error().message);
  std::optional<Tokenizer> again;
  if (argc == 4) {
    auto result = through_gguf(*tokenizer, argv[3]);
    if (!result.ok()) return failed(result.error().message);
    again.emplace(std::move(result).value());
    if (again->digest() != tokenizer->digest()) return failed("the digest read from GGUF is another one");
  }
  std::ifstream stream(argv[2], std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  std::string out;
  for (std::size_t at = 0; at + 4 <= bytes.size();) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, 4);
    at += 4;
    if (length > bytes.size() - at) return failed("the file of texts is cut short");
    const std::string_view text = std::string_view(bytes).substr(at, length);
    at += length;
    const auto ids = tokenizer->encode(text, false, true);
    if (!ids.ok()) return failed(ids.error().message);
    for (const std::int32_t id : *ids) out += std::to_string(id) + " ";
    out += '\n';
    if (!same_in_steps(*tokenizer, *ids)) return failed("decoding in steps differs: " + std::string(text));
    if (!again) continue;
    const auto other = again->encode(text, false, true);
    if (!other.ok() || *other != *ids) return failed("the tokenizer read from GGUF differs: " + std::string(text));
  }
  std::fputs(out.c_str(), stdout);
  return 0;
}
