// Which loads read weights is not written on them: a pointer is followed from the kernel's argument (its first member
// is `weights` in every argument struct that has any) through moves, additions and stack slots, along all paths of
// control, until nothing changes. A register may hold the pointer on one path only; then it counts as holding it.
#include "codegen/code_summary.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <tuple>
#include <vector>

#include "codegen/machine_code.h"

namespace bitnet::codegen {
namespace {

bool is_prefetch(const MachineInstruction& instruction) {
  return instruction.mnemonic.starts_with("prefetch") || instruction.mnemonic == "prfm";
}

std::string class_of(const MachineInstruction& instruction) {
  if (instruction.flow != Flow::kNext) return "branch";
  if (is_prefetch(instruction)) return "prefetch";
  const bool vector = (instruction.vector_reads | instruction.vector_writes) != 0;
  if (!vector) return "scalar";
  std::string_view name = instruction.mnemonic;
  if (name.starts_with('v')) name.remove_prefix(1);
  const auto is_one_of = [&](std::initializer_list<std::string_view> prefixes) {
    return std::ranges::any_of(prefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
  };
  if (is_one_of({"broadcast", "pbroadcast"})) return "shuffle";
  if (is_one_of({"mov", "lddqu", "ldr", "ldp", "ldur", "ld1", "ld2", "ld3", "ld4", "str", "stp", "stur", "st1", "st2",
                 "st3", "st4"})) {
    return instruction.loads ? "load" : instruction.stores ? "store" : "arithmetic";
  }
  if (is_one_of({"pdp", "pmadd", "sdot", "udot", "usdot", "sudot", "smmla", "ummla", "usmmla", "smlal", "umlal",
                 "smull", "umull", "mla", "sadalp", "uadalp"})) {
    return "dot";
  }
  if (is_one_of({"pand", "por", "pxor", "ptern", "psll", "psrl", "psra", "and",  "orr",  "orn", "xor", "eor",
                 "bic",  "bsl", "bit",  "bif",   "ushr", "sshr", "shl",  "usra", "ssra", "sli", "sri", "mvn"})) {
    return "logic";
  }
  if (is_one_of({"pshuf", "perm", "punpck", "palign",  "pack", "insert", "pinsr", "extract",  "pextr", "shuf", "pblend",
                 "blend", "pmov", "unpck",  "palignr", "tbl",  "tbx",    "zip",   "uzp",      "trn",   "ext",  "dup",
                 "ins",   "rev",  "xtn",    "sxtl",    "uxtl", "smov",   "umov",  "compress", "expand"})) {
    return "shuffle";
  }
  return "arithmetic";
}

// What registers and stack slots may hold.
struct State {
  std::uint32_t arguments = 0;
  std::uint32_t weights = 0;
  std::map<std::pair<int, std::int64_t>, int> slots;  // (base, displacement) -> 1: arguments, 2: weights

  bool join(const State& other) {
    const State before = *this;
    arguments |= other.arguments;
    weights |= other.weights;
    for (const auto& [slot, held] : other.slots) slots[slot] |= held;
    return arguments != before.arguments || weights != before.weights || slots != before.slots;
  }
};

class PointerAnalysis {
 public:
  PointerAnalysis(const CodeMap& map, std::uint64_t entry, std::string_view triple)
      : map_(map), convention_(calling_convention(triple)), x86_(triple.starts_with("x86_64")) {
    State first;
    first.arguments = 1U << convention_.argument;
    arrive(entry, first);
    while (!open_.empty()) {
      const std::uint64_t at = *open_.begin();
      open_.erase(open_.begin());
      step(map_.instructions.at(at), states_.at(at));
    }
  }

  // Bytes that the instruction reads through the pointer to the weights.
  [[nodiscard]] std::int64_t weight_bytes(const MachineInstruction& instruction) const {
    const auto state = states_.find(instruction.address);
    if (state == states_.end() || !instruction.loads || !instruction.memory || is_prefetch(instruction)) return 0;
    return (address_registers(instruction) & state->second.weights) != 0 ? instruction.memory->bytes : 0;
  }

 private:
  static std::uint32_t bit(int reg) { return reg >= 0 ? 1U << reg : 0U; }

  // Registers that form the address. AArch64's index registers are not told apart from other operands, which no load
  // has.
  [[nodiscard]] std::uint32_t address_registers(const MachineInstruction& instruction) const {
    if (!x86_ && instruction.loads) return instruction.reads;
    return bit(instruction.memory->base) | bit(instruction.memory->index);
  }
  [[nodiscard]] bool is_frame(int reg) const { return reg == convention_.stack || (x86_ && reg == 5); }

  void arrive(std::uint64_t at, const State& state) {
    if (!map_.instructions.contains(at)) return;
    const auto [found, added] = states_.try_emplace(at, state);
    if (added || found->second.join(state)) open_.insert(at);
  }

  void step(const MachineInstruction& instruction, const State& before) {
    State after = before;
    if (instruction.flow == Flow::kCall) {
      State callee = before;
      callee.slots.clear();
      if (instruction.target) arrive(*instruction.target, callee);
      after.arguments &= convention_.preserved;
      after.weights &= convention_.preserved;
    } else {
      transfer(instruction, before, after);
    }
    if (instruction.flow == Flow::kBranch || instruction.flow == Flow::kJump) arrive(*instruction.target, after);
    if (instruction.flow != Flow::kJump && instruction.flow != Flow::kReturn && instruction.flow != Flow::kIndirect) {
      arrive(instruction.address + instruction.size, after);
    }
  }

  void transfer(const MachineInstruction& instruction, const State& before, State& after) const {
    int held = 0;  // by the value that is written
    std::uint32_t sources = instruction.reads;
    std::uint32_t targets = instruction.writes;
    if (instruction.memory) {
      const MemoryOperand& memory = *instruction.memory;
      const std::pair slot(memory.base, memory.displacement);
      const bool address_only = !instruction.loads && !instruction.stores;  // lea
      if (!address_only) sources &= ~(bit(memory.base) | bit(memory.index));
      if (instruction.loads) {
        if (!x86_) sources = 0;
        const bool first_member = memory.displacement == 0 && memory.index < 0 && memory.bytes >= 8;
        if ((bit(memory.base) & before.arguments) != 0 && first_member && targets != 0) {
          held |= 2;
          if (!x86_) keep_first(instruction, targets, after);
        } else if (is_frame(memory.base) && before.slots.contains(slot)) {
          held |= before.slots.at(slot);
        }
        const bool write_back = instruction.operands.find("]!") != std::string::npos ||
                                instruction.operands.find("], #") != std::string::npos;
        if (write_back) targets &= ~bit(memory.base);
      }
      if (instruction.stores) {
        if (is_frame(memory.base) && memory.index < 0) after.slots[slot] = holding(sources, before);
        if (!x86_) targets = 0;  // write-back only moves the base
      }
    }
    held |= holding(sources, before);
    if (clears(instruction)) held = 0;
    after.arguments = (after.arguments & ~targets) | ((held & 1) != 0 ? targets : 0U);
    after.weights = (after.weights & ~targets) | ((held & 2) != 0 ? targets : 0U);
  }

  static int holding(std::uint32_t registers, const State& state) {
    return ((registers & state.arguments) != 0 ? 1 : 0) | ((registers & state.weights) != 0 ? 2 : 0);
  }
  // ldp x9, x8, [x0]: only the first register gets the first member.
  static void keep_first(const MachineInstruction& instruction, std::uint32_t& targets, State& after) {
    if (!instruction.mnemonic.starts_with("ldp")) return;
    const int first = std::atoi(instruction.operands.c_str() + 1);
    after.arguments &= ~targets;
    after.weights &= ~targets;
    targets = bit(first);
  }
  // xor eax, eax
  static bool clears(const MachineInstruction& instruction) {
    if (instruction.mnemonic != "xor" && instruction.mnemonic != "sub") return false;
    const std::string& text = instruction.operands;
    const std::size_t comma = text.find(", ");
    return comma != std::string::npos && text.substr(0, comma) == text.substr(comma + 2);
  }

  const CodeMap& map_;
  CallingConvention convention_;
  bool x86_;
  std::map<std::uint64_t, State> states_;
  std::set<std::uint64_t> open_;
};

struct Range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};

// clang lays the body of a loop out in one piece: from the target of the backward branch to the branch.
std::vector<Range> innermost_loops(const CodeMap& map, int& count) {
  std::map<std::uint64_t, std::uint64_t> loops;
  for (const auto& [address, instruction] : map.instructions) {
    const bool jumps = instruction.flow == Flow::kBranch || instruction.flow == Flow::kJump;
    if (!jumps || *instruction.target > address) continue;
    std::uint64_t& last = loops[*instruction.target];
    last = std::max(last, address);
  }
  count = static_cast<int>(loops.size());
  std::vector<Range> innermost;
  for (const auto& [first, last] : loops) {
    const auto inner = loops.upper_bound(first);
    if (inner == loops.end() || inner->first > last) innermost.push_back({first, last});
  }
  return innermost;
}

LoopSummary summarise_loop(const CodeMap& map, Range range, const PointerAnalysis& pointers, int stack) {
  LoopSummary loop;
  loop.address = range.first;
  for (auto at = map.instructions.lower_bound(range.first); at != map.instructions.end() && at->first <= range.last;
       ++at) {
    const MachineInstruction& instruction = at->second;
    ++loop.instructions;
    ++loop.mix[class_of(instruction)];
    loop.loads += instruction.loads && instruction.memory && !is_prefetch(instruction) ? 1 : 0;
    const bool memory = (instruction.loads || instruction.stores) && instruction.memory;
    loop.spills += memory && instruction.memory->base == stack ? 1 : 0;
    loop.weight_bytes += pointers.weight_bytes(instruction);
  }
  return loop;
}

}  // namespace

Result<CodeSummary> summarise_code(std::span<const std::byte> image, std::uint64_t entry, const Target& target) {
  BITNET_ASSIGN_OR_RETURN(const Disassembler disassembler, Disassembler::create(target.triple, target.features));
  const std::uint64_t entries[] = {entry};
  BITNET_ASSIGN_OR_RETURN(const CodeMap map, trace_code(image, entries, disassembler));
  CodeSummary summary;
  std::uint32_t general = 0;
  std::uint32_t vector = 0;
  for (const auto& [address, instruction] : map.instructions) {
    ++summary.instructions;
    summary.bytes += instruction.size;
    ++summary.mix[class_of(instruction)];
    general |= instruction.reads | instruction.writes;
    vector |= instruction.vector_reads | instruction.vector_writes;
  }
  summary.functions = static_cast<int>(map.functions.size());
  summary.general_registers = std::popcount(general);
  summary.vector_registers = std::popcount(vector);
  summary.indirect = map.indirect;
  const PointerAnalysis pointers(map, entry, target.triple);
  const int stack = calling_convention(target.triple).stack;
  for (const Range range : innermost_loops(map, summary.loops)) {
    LoopSummary loop = summarise_loop(map, range, pointers, stack);
    const auto rank = [](const LoopSummary& each) {
      const auto dots = each.mix.find("dot");
      return std::tuple(each.weight_bytes, dots == each.mix.end() ? 0 : dots->second, each.instructions);
    };
    if (rank(loop) > rank(summary.hot)) summary.hot = std::move(loop);
  }
  return summary;
}

}  // namespace bitnet::codegen
