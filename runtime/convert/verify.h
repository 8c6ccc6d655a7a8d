// Whether a conversion kept the model: both are run on the same tokens.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/result.h"
#include "runtime/convert/convert.h"

namespace bitnet {

struct Verification {
  std::int64_t positions = 0;     // whose logits were compared
  double cosine = 1;              // the least of a position
  double largest_difference = 0;  // of a logit
};

// Runs `input` and `output` of a conversion that was made with `options` and gave `report`, one after the other, on a
// fixed prompt. What is no GGUF file is converted for that, with exact weights, into a file beside `output` that is
// removed again. Errors: everything of Model::load, Context::create, convert_model; kVerification: logits of different
// sizes.
[[nodiscard]] Result<Verification> verify_conversion(const std::string& input, const std::string& output,
                                                     const ConvertOptions& options, const ConvertReport& report);

}  // namespace bitnet
