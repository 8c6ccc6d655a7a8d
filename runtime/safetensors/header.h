// The JSON header of a SafeTensors file, read event by event: nothing is kept that does not belong to the one form that
// a header may have, so that neither nesting nor repetition costs memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::safetensors {

// A tensor as the header states it; nothing but the form has been checked.
struct Entry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;  // in header order; a name may stand here twice
  std::map<std::string, std::string, std::less<>> metadata;
};

// Makes an error from the place, what was expected, and what was found.
using Refuse = std::function<Error(const std::string& place, const std::string& expected, const std::string& found)>;

// `text` is valid UTF-8 without NUL. Offsets in places count from the start of the file, 8 bytes before the text.
[[nodiscard]] Result<Header> parse_header(std::string_view text, const Refuse& refuse);

}  // namespace bitnet::safetensors
