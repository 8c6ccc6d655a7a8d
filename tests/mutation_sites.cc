#include "tests/mutation_sites.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>

namespace bitnet::test {
namespace {

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Text with everything that is not code blanked: comments, strings, preprocessor lines.
std::string code_only(std::string_view text) {
  std::string code(text);
  const auto blank = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end && i < code.size(); ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
  };
  bool line_start = true;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t line_end = std::min(text.find('\n', i), text.size());
    if (line_start && text[i] == '#') {
      std::size_t end = line_end;
      while (end > i && text[end - 1] == '\\') end = std::min(text.find('\n', end + 1), text.size());
      blank(i, end);
      i = end;
      continue;
    }
    if (text.substr(i, 2) == "//") {
      blank(i, line_end);
      i = line_end;
      line_start = true;
      continue;
    }
    if (text[i] == '"') {
      const std::size_t end = std::min(text.find('"', i + 1), text.size());
      blank(i, end + 1);
      i = end;
      line_start = false;
      continue;
    }
    if (text[i] == '\n') {
      line_start = true;
    } else if (text[i] != ' ') {
      line_start = false;
    }
  }
  return code;
}

void add_constants(std::string_view code, std::vector<MutationSite>& sites) {
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(code[i])) == 0 ||
        (i > 0 && (is_word(code[i - 1]) || code[i - 1] == '.'))) {
      continue;
    }
    std::size_t end = i;
    while (end < code.size() && (is_word(code[end]) || code[end] == '.')) ++end;
    std::string token(code.substr(i, end - i));
    i = end;
    if (token.find('.') != std::string::npos || token.find('p') != std::string::npos) continue;  // floats
    std::string suffix;
    while (!token.empty() && (token.back() == 'U' || token.back() == 'L' || token.back() == 'u')) {
      suffix.insert(suffix.begin(), token.back());
      token.pop_back();
    }
    const bool hex = token.starts_with("0x") || token.starts_with("0X");
    std::uint64_t value = 0;
    const char* first = token.data() + (hex ? 2 : 0);
    const auto [stop, failure] = std::from_chars(first, token.data() + token.size(), value, hex ? 16 : 10);
    if (failure != std::errc() || stop != token.data() + token.size()) continue;
    const auto put = [&](std::uint64_t other) {
      char text[32];
      const auto written = std::to_chars(text, text + sizeof text, other, hex ? 16 : 10);
      std::string to = (hex ? "0x" : "") + std::string(text, written.ptr) + suffix;
      sites.push_back({end - token.size() - suffix.size(), token + suffix, std::move(to), "constant"});
    };
    put(value + 1);
    if (value > 0) put(value - 1);
    if (value > 3) put(value ^ 2);
  }
}

struct Swap {
  std::string_view from;
  std::string_view to;
  std::string_view kind;
};
constexpr std::array kSwaps = {
    Swap{" + ", " - ", "sign"},
    Swap{" - ", " + ", "sign"},
    Swap{" < ", " <= ", "bound"},
    Swap{" <= ", " < ", "bound"},
    Swap{" & ", " | ", "operator"},
    Swap{" | ", " & ", "operator"},
    Swap{" << ", " >> ", "shift"},
    Swap{" >> ", " << ", "shift"},
    Swap{"_add_epi", "_sub_epi", "sign"},
    Swap{"_sub_epi", "_add_epi", "sign"},
    Swap{"_add_ps", "_sub_ps", "sign"},
    Swap{"_sub_ps", "_add_ps", "sign"},
    Swap{"unpacklo", "unpackhi", "lane"},
    Swap{"unpackhi", "unpacklo", "lane"},
    Swap{"_srli_", "_slli_", "shift"},
    Swap{"_slli_", "_srli_", "shift"},
    Swap{"_and_si", "_or_si", "operator"},
    Swap{"_max_", "_min_", "operator"},
    Swap{"vaddq_", "vsubq_", "sign"},
    Swap{"vsubq_", "vaddq_", "sign"},
    Swap{"vandq_", "vorrq_", "operator"},
};

void add_swaps(std::string_view code, std::vector<MutationSite>& sites) {
  for (const Swap& swap : kSwaps) {
    for (std::size_t at = code.find(swap.from); at != std::string_view::npos; at = code.find(swap.from, at + 1)) {
      sites.push_back({at, std::string(swap.from), std::string(swap.to), swap.kind});
    }
  }
}

struct Equivalence {
  std::string_view in_line;  // every mutant of a line that has this is equivalent ...
  std::string_view kind;     // ... if it is of this kind; "" for all
  std::string_view proof;
};
constexpr Equivalence kEquivalences[] = {
    {"prefetch", "", "a prefetch changes no register or memory that the program can see"},
    {"Prefetch", "", "a prefetch changes no register or memory that the program can see"},
    {"D = kValueTile / R <", "",
     "how many columns of values are summed side by side: any number of at least one does each column once"},
    {"uintptr_t kBytes =", "", "how far ahead of the rows is prefetched, which nothing can see"},
    {"kActivationBytes =", "",
     "how many token blocks share a pass over the row tiles: any positive number gives every "
     "block and tile exactly once"},
    {"from < M;", "bound",
     "one pass more over a tile: no token of it is below a->tokens <= M, so nothing of it is computed or written"},
    {"? first + ", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? begin + ", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? flush + ", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? byte_first + ", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? keys : common;", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? count : start + kLanes;", "bound", "the smaller of two numbers: if they are equal, either"},
    {"? first : last;", "bound", "the larger of two numbers: if they are equal, either"},
    {"a->window ? 0 : ", "bound", "a window of as many positions as are seen begins with the first one"},
    {"if (weighed < common) {", "bound", "one call more, for no positions"},
    {"some_common = weighed < common;", "bound",
     "where what is common is empty, a row's positions before it and behind it are all of them, in order"},
    {"; first += kFlushLines)", "bound", "one round more, without lines: it adds sums of zero"},
    {"; byte_first += kByteLines)", "bound", "one round more, without lines: it adds sums of zero"},
    {"; first += side)", "bound", "one round more, without token blocks: nothing is computed or written"},
    {"for (int e = 0; e < 9;", "bound", "tl1: one table entry more, which no index of the layout names"},
    {"for (int e = 0; e < 14;", "bound", "tl2: one table entry more, which no index of the layout names"},
    {"(entry * kHighFactor", "",
     "tl1, tl2: in a compile-time bound on digits to base 28; whatever the high digit, the low one of some entry is 14 "
     "or "
     "more, which is the true bound, so sums are flushed as early or earlier"},
    {"static_assert", "", "admits or refuses parameters at compile time; no code changes with it"},
    {"kLargestProduct =", "", "only BITNET_INT16_BOUND and a static_assert read it; no code changes with it"},
    {"kChain =", "", "only BITNET_INT16_BOUND and a static_assert read it; no code changes with it"},
    {"BITNET_INT16_BOUND", "", "an annotation for the audit; no code changes with it"},
};

// What stands in the line once it is mutated.
constexpr Equivalence kEquivalentResults[] = {
    {"Group == 1 ? 0 :", "", "without K-groups g is 0, and so is g times any stride"},
    {"Group != 1 ? group * a->", "", "without K-groups the group is 0, and so is it times any stride"},
    {"head_dim + kLanes + 1) / kLanes", "",
     "rows of scratch one block wider: inside the 32 floats a row that BITNET_ATTENTION_SCRATCH has to spare"},
    {"groups = Group == 1 ? 1 :", "",
     "without K-groups a group has all lines, so that the quotient behind the colon is 1 too"},
    {"i + 5 * kLanes <= k; i += 4", "", "an unrolled loop that stops earlier: the loop behind it does the rest"},
    {"i + 6 * kLanes <= k; i += 4", "", "an unrolled loop that stops earlier: the loop behind it does the rest"},
    {"j <= 81; ++j) codes.of[encode(", "",
     "t5: fills in encode(81, c4) = 149, 126, 104, three of the 13 bytes that no five weights have"},
    {"j < 82; ++j) codes.of[encode(", "",
     "t5: fills in encode(81, c4) = 149, 126, 104, three of the 13 bytes that no five weights have"},
    {"a->x_sums - (Group == 0 ? 0 :", "", "t5 has no K-groups: it adds or subtracts 0"},
    {"h = 209 + 22 * c4", "",
     "t5 without sums of h: it only names the entry of the second table, when that is made and when it is read, and "
     "every odd start of 201 to 211 gives each byte an entry of its own digits"},
    {"kWideChain = 2147483648 /", "", "the quotient is the same"},
    {"fitting > 0 ? fitting", "", "differs for fitting = 1 only, where both sides give 1"},
    {"fitting > 2 ? fitting", "", "differs for fitting = 2 only: one block together instead of two, each exactly once"},
    {"fitting >= 1 ? fitting", "", "differs for fitting = 1 only, where both sides give 1"},
    {"if constexpr (Streams > 0)", "", "with one stream nothing is left behind it: the rest has no tiles"},
    {"kLaneLookups = 9;", "", "a larger divisor of the bound: sums are flushed as early or earlier"},
    {"kLaneLookups = 10;", "", "a larger divisor of the bound: sums are flushed as early or earlier"},
    {"kLaneLookups = 17;", "", "a larger divisor of the bound: sums are flushed as early or earlier"},
    {"kLaneLookups = 18;", "", "a larger divisor of the bound: sums are flushed as early or earlier"},
};

}  // namespace

std::vector<MutationSite> mutation_sites(std::string_view text) {
  const std::string code = code_only(text);
  std::vector<MutationSite> sites;
  add_constants(code, sites);
  add_swaps(code, sites);
  std::ranges::stable_sort(sites, {}, &MutationSite::offset);
  return sites;
}

// "Type name[4][2];" with a larger number: "__m256i total[Streams][3];".
bool enlarges_local_array(std::string_view line, const MutationSite& site) {
  const std::string_view declaration = line.substr(0, line.find(';'));
  const std::size_t bracket = declaration.find('[');
  if (site.kind != "constant" || !declaration.ends_with(']') || declaration.find_first_of("=(") != line.npos)
    return false;
  if (declaration.substr(0, bracket).find(' ') == line.npos) return false;
  int from = 0;
  int to = 0;
  std::from_chars(site.from.data(), site.from.data() + site.from.size(), from);
  std::from_chars(site.to.data(), site.to.data() + site.to.size(), to);
  return to > from && from > 0;
}

std::string_view equivalence(std::string_view line, std::string_view mutated_line, const MutationSite& site) {
  if (enlarges_local_array(line, site)) return "a local array with elements that no loop reaches";
  for (const Equivalence& each : kEquivalences) {
    if (line.find(each.in_line) != std::string_view::npos && (each.kind.empty() || each.kind == site.kind)) {
      return each.proof;
    }
  }
  for (const Equivalence& each : kEquivalentResults) {
    if (mutated_line.find(each.in_line) != std::string_view::npos) return each.proof;
  }
  return {};
}

std::string_view line_at(std::string_view text, std::size_t offset) {
  const std::size_t before = text.rfind('\n', offset);
  const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
  return text.substr(begin, std::min(text.find('\n', offset), text.size()) - begin);
}

std::size_t line_number(std::string_view text, std::size_t offset) {
  return 1 + static_cast<std::size_t>(std::ranges::count(text.substr(0, offset), '\n'));
}

}  // namespace bitnet::test
