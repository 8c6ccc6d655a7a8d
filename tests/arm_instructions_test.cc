// What a kernel for AArch64 costs where no such CPU is at hand: instructions of its innermost loop per 64 weights, read
// from the machine code of the image. Multiplying without dot products is what layout tl1 is there to avoid.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "codegen/compile.h"
#include "codegen/machine_code.h"
#include "codegen/plan.h"

namespace bitnet::codegen {
namespace {

using Counts = std::map<std::string, int>;
struct Loop {
  int instructions = 0;
  Counts mnemonics;
  [[nodiscard]] int count(const std::string& mnemonic) const {
    const auto found = mnemonics.find(mnemonic);
    return found == mnemonics.end() ? 0 : found->second;
  }
};

// The loops of a kernel that hold no other loop: each from the target of a branch backwards to the branch.
std::vector<Loop> innermost_loops(const CodeMap& code) {
  struct Range {
    std::uint64_t first;
    std::uint64_t last;
  };
  std::vector<Range> ranges;
  for (const auto& [address, instruction] : code.instructions) {
    if (instruction.target.has_value() && *instruction.target <= address && instruction.flow != Flow::kCall) {
      ranges.push_back({*instruction.target, address});
    }
  }
  std::vector<Loop> loops;
  for (const Range& range : ranges) {
    const bool outer = std::ranges::any_of(ranges, [&](const Range& other) {
      return (other.first != range.first || other.last != range.last) && other.first >= range.first &&
             other.last <= range.last;
    });
    if (outer) continue;
    Loop loop;
    for (auto at = code.instructions.lower_bound(range.first); at != code.instructions.end() && at->first <= range.last;
         ++at) {
      ++loop.instructions;
      ++loop.mnemonics[at->second.mnemonic];
    }
    loops.push_back(loop);
  }
  return loops;
}

// Weights that one round works on, from what its instructions do: SMLAL multiplies 8, SDOT 16, and a lookup of low
// parts (those that UABAL adds) serves 2 weights of 16 rows. Rounds that also look up high parts (UABA), because
// activations are large, are another matter.
int weights(const Loop& loop) {
  if (loop.count("uaba") != 0 || loop.count("uabd") != 0) return 0;
  const int lookups = loop.count("uabal") != 0 ? loop.count("tbl") : 0;
  return 8 * (loop.count("smlal") + loop.count("smlal2")) + 16 * loop.count("sdot") + 32 * lookups;
}

struct Gemvs {
  std::map<std::string, double> per_64;  // kernel name: instructions per 64 weights
  [[nodiscard]] double of(const std::string& name) const {
    const auto found = per_64.find(name);
    REQUIRE_MESSAGE(found != per_64.end(), name);
    return found->second;
  }
};

Gemvs count_gemvs(const char* target_name) {
  const std::string word = target_name;
  const auto selection = select_targets(std::span(&word, 1));
  REQUIRE_MESSAGE(selection.ok(), selection.error().message);
  const auto points = default_points();
  REQUIRE_MESSAGE(points.ok(), points.error().message);
  PlanOptions options;
  options.every_format = true;
  const auto plan = make_plan({{{2560, 2560}}, {2560}}, *selection, *points, options);
  REQUIRE_MESSAGE(plan.ok(), plan.error().message);
  const auto bundle = compile(*plan);
  REQUIRE_MESSAGE(bundle.ok(), bundle.error().message);

  Gemvs gemvs;
  for (const BundleImage& image : bundle->images) {
    const Target& target = target_of(image.isa);
    const auto disassembler = Disassembler::create(target.triple, target.features);
    REQUIRE_MESSAGE(disassembler.ok(), disassembler.error().message);
    for (const KernelRecord& record : bundle->table.kernels) {
      if (record.kernel.isa != image.isa || record.kernel.op != Op::kGemv) continue;
      const auto code = trace_code(image.bytes, std::span(&record.offset, 1), *disassembler);
      REQUIRE_MESSAGE(code.ok(), code.error().message);
      const std::vector<Loop> loops = innermost_loops(*code);
      const auto main = std::ranges::max_element(loops, {}, weights);
      REQUIRE_MESSAGE((main != loops.end() && weights(*main) > 0), record.name);
      gemvs.per_64[record.name] = 64.0 * main->instructions / weights(*main);
      std::printf("%-40s %5d instructions, %5d weights: %5.2f per 64 weights\n", record.name.c_str(),
                  main->instructions, weights(*main), gemvs.per_64[record.name]);
    }
  }
  return gemvs;
}

TEST_CASE("without dot products a lookup costs at most half the instructions of multiplying") {
  const Gemvs gemvs = count_gemvs("neon-dotprod");
  const double lookup = gemvs.of("tl1_gemv_n2560k2560_neon");
  const double multiply = gemvs.of("i2s_gemv_n2560k2560_neon");
  std::printf("tl1 / i2s on neon: %.2f\n", lookup / multiply);
  CHECK(lookup <= 0.5 * multiply);
  // With dot products the plain form is the cheaper one to compare with; lookups should not be dearer either.
  CHECK(gemvs.of("i2s_gemv_n2560k2560_neon_dotprod") < multiply);
}

}  // namespace
}  // namespace bitnet::codegen
