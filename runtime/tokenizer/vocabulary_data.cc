// The metadata keys of a vocabulary, in file order.
#include "runtime/tokenizer/vocabulary_data.h"

#include <span>
#include <string_view>

namespace bitnet {

void set_vocabulary(const VocabularyData& vocabulary, gguf::Writer& writer) {
  writer.set("tokenizer.ggml.model", std::string_view(vocabulary.model));
  if (!vocabulary.pre.empty()) writer.set("tokenizer.ggml.pre", std::string_view(vocabulary.pre));
  writer.set("tokenizer.ggml.tokens", std::span<const std::string>(vocabulary.tokens));
  if (!vocabulary.scores.empty()) writer.set("tokenizer.ggml.scores", std::span<const float>(vocabulary.scores));
  writer.set("tokenizer.ggml.token_type", std::span<const std::int32_t>(vocabulary.types));
  const auto set_id = [&](const char* name, const std::optional<std::uint32_t>& id) {
    if (id) writer.set("tokenizer.ggml." + std::string(name) + "_token_id", *id);
  };
  const auto set_flag = [&](const char* name, const std::optional<bool>& flag) {
    if (flag) writer.set("tokenizer.ggml." + std::string(name), *flag);
  };
  if (!vocabulary.merges.empty()) {
    writer.set(vocabulary.model == "gpt2" ? "tokenizer.ggml.merges" : "bitnet.tokenizer.merges",
               std::span<const std::string>(vocabulary.merges));
  }
  set_id("bos", vocabulary.bos);
  set_id("eos", vocabulary.eos);
  set_id("eot", vocabulary.eot);
  set_id("eom", vocabulary.eom);
  set_id("unknown", vocabulary.unknown);
  set_id("seperator", vocabulary.sep);  // spelled like this in the field
  set_id("padding", vocabulary.pad);
  set_id("mask", vocabulary.mask);
  set_flag("add_bos_token", vocabulary.add_bos);
  set_flag("add_eos_token", vocabulary.add_eos);
  set_flag("add_space_prefix", vocabulary.add_space_prefix);
  set_flag("remove_extra_whitespaces", vocabulary.remove_extra_whitespaces);
  if (!vocabulary.charsmap.empty()) {
    writer.set("tokenizer.ggml.precompiled_charsmap", std::span<const std::uint8_t>(vocabulary.charsmap));
  }
  if (!vocabulary.chat_template.empty()) {
    writer.set("tokenizer.chat_template", std::string_view(vocabulary.chat_template));
  }
  if (!vocabulary.flags.empty()) {
    writer.set("bitnet.tokenizer.token_flags", std::span<const std::uint8_t>(vocabulary.flags));
  }
  if (!vocabulary.pipeline.empty()) {
    writer.set("bitnet.tokenizer.pipeline", std::string_view(vocabulary.pipeline));
  }
}

}  // namespace bitnet
