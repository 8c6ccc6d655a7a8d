// Which intrinsics add in 16 bits: the one table of the rule on int16 sums.
#pragma once

#include <string_view>

namespace bitnet::codegen {

// Why the intrinsic `name` needs a stated bound ("its lanes wrap at 32767"); "" if it does not add in 16 bits.
[[nodiscard]] std::string_view int16_hazard(std::string_view name);

}  // namespace bitnet::codegen
