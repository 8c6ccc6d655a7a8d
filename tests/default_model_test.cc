// The default model, models/default.gguf, as its users meet it: small, fluent, and the same with compiled kernels.
// The bounds are far from what was measured (models/README.md): they catch a broken file, tokenizer or graph, not a
// slightly worse model.
#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <vector>

#include "runtime/model/model.h"
#include "tests/layer_kernels.h"
#include "tests/programs.h"

namespace bitnet {
namespace {

using nlohmann::json;
using test::Outcome;
using test::Programs;

const std::string kModel = BITNET_DEFAULT_MODEL;

// Sonnet 18, which the model has not seen.
const std::string kVerse =
    "Shall I compare thee to a summer's day?\n"
    "Thou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May,\n"
    "And summer's lease hath all too short a date;\n"
    "Sometime too hot the eye of heaven shines,\n"
    "And often is his gold complexion dimm'd;\n";

// The verse with the words of each line in reverse.
std::string reversed_lines(const std::string& text) {
  std::istringstream lines(text);
  std::string result;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<std::string> list;
    for (std::string word; words >> word;) list.insert(list.begin(), word);
    for (std::size_t i = 0; i < list.size(); ++i) result += (i > 0 ? " " : "") + list[i];
    result += '\n';
  }
  return result;
}

// A name alone on its line behind an empty one: "\n\nKING HENRY VI:\n".
bool has_speaker(const std::string& text) {
  for (std::size_t at = text.find("\n\n"); at != std::string::npos; at = text.find("\n\n", at + 1)) {
    const std::size_t end = text.find('\n', at + 2);
    if (end == std::string::npos || end < at + 4 || text[end - 1] != ':') continue;
    const std::string name = text.substr(at + 2, end - at - 3);
    const bool letters =
        std::all_of(name.begin(), name.end(), [](unsigned char c) { return c == ' ' || std::isalpha(c) != 0; });
    if (letters && std::isupper(static_cast<unsigned char>(name[0])) != 0) return true;
  }
  return false;
}

TEST_CASE("default model: its size") {
  CHECK(std::filesystem::file_size(kModel) <= std::uintmax_t{4} << 20);
  const auto model = Model::load(kModel, {.threads = 1, .bundle = "none", .strict = false, .log = {}});
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
  CHECK((*model)->parameters() >= 2000000);
  CHECK((*model)->parameters() <= 8000000);
  CHECK((*model)->config().architecture == "bitnet-b1.58");
}

TEST_CASE("default model: a program that has none beside it asks for one") {
  const Programs programs;
  const std::string copy = programs.folder.file("bitnet");
  std::filesystem::copy_file(test::program("bitnet"), copy);
  for (const char* command : {"run", "score"}) {
    const Outcome outcome = programs.shell("'" + copy + "' " + command + " -p x");
    CHECK(outcome.code == 2);
    CHECK(outcome.err.find("--model is required") != std::string::npos);
  }
}

TEST_CASE("default model: it knows verse") {
  const Programs programs;
  const auto bits = [&](const std::string& text) {
    std::ofstream(programs.folder.file("text"), std::ios::binary) << text;
    const Outcome outcome =
        programs.bitnet("score", "-m '" + kModel + "' --bundle none --json -f '" + programs.folder.file("text") + "'");
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    return json::parse(outcome.out)["bits_per_byte"].get<double>();
  };
  const double verse = bits(kVerse);
  MESSAGE("bits per byte of a sonnet: ", verse);
  CHECK(verse < 3.0);  // uniform bytes: 8; the frequencies of English letters: over 4
  CHECK(bits(reversed_lines(kVerse)) > verse + 0.25);
}

TEST_CASE("default model: greedy text does not loop, and speakers speak") {
  const Programs programs;
  std::ofstream(programs.folder.file("prompt"), std::ios::binary) << "ROMEO:\n";
  const std::string base = "-m '" + kModel + "' -f '" + programs.folder.file("prompt") + "' --json ";
  const Outcome greedy = programs.bitnet("run", base + "--bundle none --greedy -n 64");
  REQUIRE_MESSAGE(greedy.code == 0, greedy.err);
  const auto tokens = json::parse(greedy.out)["tokens"].get<std::vector<int>>();
  CHECK(tokens.size() == 64);
  constexpr std::size_t kRun = 8;
  std::set<std::vector<int>> runs;
  for (std::size_t i = 0; i + kRun <= tokens.size(); ++i) {
    runs.emplace(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                 tokens.begin() + static_cast<std::ptrdiff_t>(i + kRun));
  }
  CHECK_MESSAGE(runs.size() == tokens.size() - kRun + 1, "eight tokens come twice: ", greedy.out);

  int speakers = 0;
  for (const char* seed : {"1", "2", "3", "4"}) {
    const Outcome sampled = programs.bitnet("run", base + "--bundle none -n 120 --seed " + seed);
    REQUIRE_MESSAGE(sampled.code == 0, sampled.err);
    const std::string text = json::parse(sampled.out)["text"];
    speakers += has_speaker(text) ? 1 : 0;
  }
  CHECK(speakers >= 3);

  const auto bundle = test::bundle_of(kModel);
  if (!bundle.has_value()) return;
  const Outcome compiled = programs.bitnet("run", base + "--strict --bundle '" + *bundle + "' --greedy -n 64");
  REQUIRE_MESSAGE(compiled.code == 0, compiled.err);
  CHECK(json::parse(compiled.out)["tokens"] == json::parse(greedy.out)["tokens"]);
}

}  // namespace
}  // namespace bitnet
