// Where and how a kernel's text can be broken mechanically, and what is known to make no difference.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet::test {

struct MutationSite {
  std::size_t offset = 0;  // in the header's text
  std::string from;        // what stands there
  std::string to;          // what is put there
  std::string_view kind;   // "constant", "shift", "sign", "bound", "operator"
};

// Every site of a rendered header, in order: integer constants (one more, one less, one bit), + and -, < and <=, & and
// |,
// << and >>, and the numbers in names of intrinsics that select an operation (_epi16 / _epi32, lo / hi). Comments,
// preprocessor lines and strings have none.
[[nodiscard]] std::vector<MutationSite> mutation_sites(std::string_view text);

// Why a mutant of this line, which then reads `mutated_line`, computes the same, or "" if nothing of the kind is known.
// The proofs stand beside the patterns in mutation_sites.cc.
[[nodiscard]] std::string_view equivalence(std::string_view line, std::string_view mutated_line,
                                           const MutationSite& site);

[[nodiscard]] std::string_view line_at(std::string_view text, std::size_t offset);
[[nodiscard]] std::size_t line_number(std::string_view text, std::size_t offset);

}  // namespace bitnet::test
