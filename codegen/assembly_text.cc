// Not clang's own output: that is not what is in the bundle, since the linker drops, moves and resolves.
#include "codegen/assembly_text.h"

#include <algorithm>
#include <map>
#include <vector>

#include "codegen/machine_code.h"

namespace bitnet::codegen {
namespace {

constexpr std::uint64_t kConstantBytes = 64;  // shown of each constant, up to the next one

std::string byte_lines(std::span<const std::byte> bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    text += i % 16 == 0 ? "        .byte " : ",";
    text += std::to_string(std::to_integer<int>(bytes[i]));
    if (i % 16 == 15 || i + 1 == bytes.size()) text += "\n";
  }
  return text;
}

}  // namespace

Result<std::string> assembly_text(std::span<const std::byte> image, Isa isa, const KernelTable& table) {
  const Target& target = target_of(isa);
  std::map<std::uint64_t, std::string> names;
  std::vector<std::uint64_t> entries;
  for (const KernelRecord& record : table.kernels) {
    if (record.kernel.isa != isa) continue;
    names.emplace(record.offset, record.name);
    entries.push_back(record.offset);
  }
  BITNET_ASSIGN_OR_RETURN(const Disassembler disassembler, Disassembler::create(target.triple, target.features));
  const Result<CodeMap> map = trace_code(image, entries, disassembler);
  if (!map.ok()) return Error{map.error().code, "image " + std::string(target.name) + ": " + map.error().message};
  for (const std::uint64_t function : map->functions) names.try_emplace(function, "function_" + hex(function));
  for (const std::uint64_t label : map->labels) names.try_emplace(label, ".L" + hex(label));

  std::string text = "# Image " + std::string(target.name) + " (" + std::string(target.triple) +
                     "), disassembled from the bundle by bitnet-codegen: " + std::to_string(entries.size()) +
                     " kernels, " + std::to_string(map->instructions.size()) + " instructions.\n" +
                     "# For reading: addresses behind # are offsets in the image.\n        .text\n";
  if (target.triple.starts_with("x86_64")) text += "        .intel_syntax noprefix\n";
  if (map->indirect) text += "# Code behind jumps through registers is not shown.\n";
  std::uint64_t expected = 0;
  for (const auto& [address, instruction] : map->instructions) {
    const bool function = map->functions.contains(address);
    if (const auto name = names.find(address); name != names.end()) {
      if (function) text += "\n        .globl " + name->second + "\n";
      text += name->second + ":\n";
    } else if (address != expected) {
      text += "\n# not reached from any kernel before " + hex(address) + "\n";
    }
    std::string operands = instruction.operands;
    if (instruction.target) {
      // The target is the last operand: "jne 0x40", "cbz x8, 0x40".
      const std::size_t last = operands.rfind(' ');
      operands = (last == std::string::npos ? "" : operands.substr(0, last + 1)) + names.at(*instruction.target);
    }
    if (instruction.memory && instruction.memory->absolute && map->constants.contains(*instruction.memory->absolute)) {
      const std::size_t begin = operands.find("[rip");
      const std::size_t end = operands.find(']', begin);
      if (end != std::string::npos) {
        operands.replace(begin, end - begin, "[rip + constant_" + hex(*instruction.memory->absolute));
      }
    }
    std::string line = "        " + (instruction.hint.empty() ? "" : instruction.hint + " ") + instruction.mnemonic;
    line.resize(std::max<std::size_t>(line.size() + 1, 24), ' ');
    line += operands;
    line.resize(std::max<std::size_t>(line.size() + 1, 72), ' ');
    text += line + "# " + hex(address) + "\n";
    expected = address + instruction.size;
  }
  if (!map->constants.empty()) text += "\n        .section .rodata\n";
  for (auto at = map->constants.begin(); at != map->constants.end(); ++at) {
    const auto next = std::next(at);
    const std::uint64_t end = std::min({next == map->constants.end() ? image.size() : *next, *at + kConstantBytes,
                                        static_cast<std::uint64_t>(image.size())});
    text += "constant_" + hex(*at) + ":\n" + byte_lines(image.subspan(*at, end - *at));
  }
  return text;
}

}  // namespace bitnet::codegen
