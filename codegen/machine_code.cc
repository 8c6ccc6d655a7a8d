// The only file that sees LLVM's MC classes. Register and memory operands come from the instruction tables where these
// have them; the width of a memory operand is read from the printed text, which is the one place that gives it for
// every instruction.
#include "codegen/machine_code.h"

#include <llvm/MC/MCAsmInfo.h>
#include <llvm/MC/MCContext.h>
#include <llvm/MC/MCDisassembler/MCDisassembler.h>
#include <llvm/MC/MCInst.h>
#include <llvm/MC/MCInstPrinter.h>
#include <llvm/MC/MCInstrAnalysis.h>
#include <llvm/MC/MCInstrInfo.h>
#include <llvm/MC/MCRegisterInfo.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/MCTargetOptions.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <mutex>
#include <vector>

namespace bitnet::codegen {
namespace {

void initialise_llvm() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeAllTargetInfos();
    llvm::InitializeAllTargetMCs();
    llvm::InitializeAllDisassemblers();
  });
}

// A register as bits of the two sets of MachineInstruction; pairs and quadruples of vectors set several.
struct RegisterBits {
  std::uint32_t general = 0;
  std::uint32_t vector = 0;
};

constexpr std::uint32_t bit(unsigned number) { return number < 32 ? 1U << number : 0U; }

std::optional<unsigned> number_behind(std::string_view name, std::size_t prefix) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix, name.data() + name.size(), value);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return value;
}

RegisterBits x86_register(std::string_view widest, unsigned encoding) {
  if (widest == "RIP") return {};
  if (widest.front() == 'R') return {bit(encoding), 0};
  if (widest.starts_with("ZMM")) return {0, bit(encoding)};
  return {};
}

RegisterBits aarch64_register(std::string_view name) {
  if (name == "FP") return {bit(29), 0};
  if (name == "LR") return {bit(30), 0};
  if (name == "SP" || name == "WSP") return {bit(31), 0};
  RegisterBits bits;
  while (!name.empty()) {  // "Q0_Q1"
    const std::size_t end = std::min(name.find('_'), name.size());
    const std::string_view part = name.substr(0, end);
    if (const auto number = number_behind(part, 1)) {
      const bool general = part.front() == 'W' || part.front() == 'X';
      const bool vector = std::string_view("BHSDQZ").find(part.front()) != std::string_view::npos;
      if (general) bits.general |= bit(*number);
      if (vector) bits.vector |= bit(*number);
    }
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return bits;
}

std::vector<RegisterBits> register_table(const llvm::MCRegisterInfo& registers, bool x86) {
  std::vector<RegisterBits> table(registers.getNumRegs());
  for (unsigned reg = 1; reg < registers.getNumRegs(); ++reg) {
    if (!x86) {
      table[reg] = aarch64_register(registers.getName(reg));
      continue;
    }
    unsigned widest = reg;
    for (const llvm::MCPhysReg super : registers.superregs(reg)) {
      if (registers.getSubRegIndex(super, widest) != 0) widest = super;
    }
    table[reg] = x86_register(registers.getName(widest), registers.getEncodingValue(widest));
  }
  return table;
}

// Bytes of a memory operand from "zmmword ptr [...]{1to16}".
std::uint32_t x86_width(std::string_view text) {
  constexpr std::pair<std::string_view, std::uint32_t> kWidths[] = {
      {"zmmword ptr", 64}, {"ymmword ptr", 32}, {"xmmword ptr", 16}, {"qword ptr", 8},
      {"dword ptr", 4},    {"word ptr", 2},     {"byte ptr", 1}};
  for (const auto& [word, bytes] : kWidths) {
    if (text.find(word) != std::string_view::npos) return bytes;
  }
  return 0;
}

// Bytes of a load or store from its mnemonic and the registers before the bracket: "ldp q0, q1, [x8]", "ld1r {v0.4s},
// [x8]".
std::uint32_t aarch64_width(std::string_view mnemonic, std::string_view operands) {
  const std::string_view data = operands.substr(0, operands.find('['));
  if (mnemonic.starts_with("ldrb") || mnemonic.starts_with("ldrsb") || mnemonic.starts_with("strb")) return 1;
  if (mnemonic.starts_with("ldrh") || mnemonic.starts_with("ldrsh") || mnemonic.starts_with("strh")) return 2;
  if (mnemonic == "ldrsw" || mnemonic == "ldpsw") return mnemonic == "ldpsw" ? 8 : 4;
  const bool replicated = mnemonic.size() == 4 && mnemonic.starts_with("ld") && mnemonic.back() == 'r' &&
                          std::isdigit(static_cast<unsigned char>(mnemonic[2])) != 0;
  const bool lane = data.find('}') != std::string_view::npos && data.find(']') != std::string_view::npos;
  std::uint32_t bytes = 0;
  for (std::size_t at = 0; at < data.size();) {
    const std::size_t begin = data.find_first_not_of(" ,{}\t-", at);
    if (begin == std::string_view::npos) break;
    const std::size_t end = std::min(data.find_first_of(" ,{}\t-", begin), data.size());
    const std::string_view word = data.substr(begin, end - begin);
    at = end;
    const std::size_t dot = word.find('.');
    if (word.front() == 'v' && dot != std::string_view::npos) {
      const char element = word.back();
      const std::uint32_t element_bytes = element == 'b' ? 1 : element == 'h' ? 2 : element == 's' ? 4 : 8;
      const bool half = word.find("8b") != std::string_view::npos || word.find("4h") != std::string_view::npos ||
                        word.find("2s") != std::string_view::npos || word.find("1d") != std::string_view::npos;
      bytes += replicated || lane ? element_bytes : half ? 8 : 16;
      continue;
    }
    switch (word.front()) {
      case 'q':
        bytes += 16;
        break;
      case 'd':
      case 'x':
        bytes += 8;
        break;
      case 's':
      case 'w':
        bytes += 4;
        break;
      case 'h':
        bytes += 2;
        break;
      case 'b':
        bytes += 1;
        break;
      default:
        break;
    }
  }
  return bytes;
}

std::int64_t first_immediate(std::string_view text) {
  const std::size_t hash = text.find('#');
  if (hash == std::string_view::npos) return 0;
  const bool negative = hash + 1 < text.size() && text[hash + 1] == '-';
  std::string_view digits = text.substr(hash + 1 + (negative ? 1U : 0U));
  const bool hexadecimal = digits.starts_with("0x");
  if (hexadecimal) digits.remove_prefix(2);
  std::int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
  return negative ? -value : value;
}

int lowest(std::uint32_t bits) {
  for (int i = 0; i < 32; ++i) {
    if ((bits >> i & 1U) != 0) return i;
  }
  return -1;
}

}  // namespace

struct Disassembler::Llvm {
  llvm::Triple triple;
  bool x86 = false;
  std::unique_ptr<llvm::MCRegisterInfo> registers;
  std::unique_ptr<llvm::MCAsmInfo> assembly;
  std::unique_ptr<llvm::MCInstrInfo> instructions;
  std::unique_ptr<llvm::MCSubtargetInfo> subtarget;
  std::unique_ptr<llvm::MCContext> context;
  std::unique_ptr<llvm::MCDisassembler> decoder;
  std::unique_ptr<llvm::MCInstrAnalysis> analysis;
  std::unique_ptr<llvm::MCInstPrinter> printer;
  std::vector<RegisterBits> bits;  // by LLVM's register number

  [[nodiscard]] RegisterBits bits_of(unsigned reg) const { return bits[reg]; }

  void read_registers(const llvm::MCInst& inst, const llvm::MCInstrDesc& description, MachineInstruction& out) const {
    const auto note = [&](unsigned reg, bool written) {
      const RegisterBits found = bits_of(reg);
      (written ? out.writes : out.reads) |= found.general;
      (written ? out.vector_writes : out.vector_reads) |= found.vector;
    };
    for (unsigned i = 0; i < inst.getNumOperands(); ++i) {
      if (inst.getOperand(i).isReg() && inst.getOperand(i).getReg() != 0) {
        note(inst.getOperand(i).getReg(), i < description.getNumDefs());
      }
    }
    for (const llvm::MCPhysReg reg : description.implicit_uses()) note(reg, false);
    for (const llvm::MCPhysReg reg : description.implicit_defs()) note(reg, true);
  }

  void read_x86_memory(const llvm::MCInst& inst, const llvm::MCInstrDesc& description, MachineInstruction& out) const {
    for (unsigned i = 0; i + 4 < inst.getNumOperands() && i < description.getNumOperands(); ++i) {
      const bool lea = out.mnemonic == "lea" && i == 1;  // its address is not marked as memory in the tables
      if (description.operands()[i].OperandType != llvm::MCOI::OPERAND_MEMORY && !lea) continue;
      if (!inst.getOperand(i).isReg() || !inst.getOperand(i + 2).isReg() || !inst.getOperand(i + 3).isImm()) return;
      MemoryOperand memory;
      const unsigned base = inst.getOperand(i).getReg();
      memory.base = lowest(bits_of(base).general);
      memory.index = lowest(bits_of(inst.getOperand(i + 2).getReg()).general);
      memory.displacement = inst.getOperand(i + 3).getImm();
      if (base != 0 && std::string_view(registers->getName(base)) == "RIP") {
        memory.absolute = out.address + out.size + static_cast<std::uint64_t>(memory.displacement);
      }
      memory.bytes = x86_width(out.operands);
      const std::string_view mnemonic = out.mnemonic;
      memory.broadcast = out.operands.find("{1to") != std::string::npos || mnemonic.starts_with("vpbroadcast") ||
                         mnemonic.starts_with("vbroadcast");
      out.memory = memory;
      return;
    }
  }

  // adr and ldr of a literal are resolved here; adrp needs the instruction that adds the low bits, see trace_code.
  void read_aarch64_memory(const llvm::MCInst& inst, const llvm::MCInstrDesc& description,
                           MachineInstruction& out) const {
    if (!out.loads && !out.stores) return;
    MemoryOperand memory;
    const std::size_t bracket = out.operands.find('[');
    // Of an address with brackets the base is the register operand before the offset: with write-back the defined one.
    for (unsigned i = 0; i < inst.getNumOperands() && i < description.getNumOperands(); ++i) {
      const llvm::MCOperandInfo& info = description.operands()[i];
      if (!inst.getOperand(i).isReg() || info.RegClass < 0) continue;
      const std::string_view name = registers->getRegClassName(&registers->getRegClass(info.RegClass));
      if (name == "GPR64sp") memory.base = lowest(bits_of(inst.getOperand(i).getReg()).general);
    }
    if (bracket == std::string::npos) return;
    const std::string_view inside = std::string_view(out.operands).substr(bracket, out.operands.find(']') - bracket);
    memory.displacement = first_immediate(inside.substr(0, std::min(inside.find(" lsl"), inside.find("xt"))));
    memory.bytes = aarch64_width(out.mnemonic, out.operands);
    const std::string_view mnemonic = out.mnemonic;
    memory.broadcast = mnemonic.size() == 4 && mnemonic.starts_with("ld") && mnemonic.back() == 'r' &&
                       std::isdigit(static_cast<unsigned char>(mnemonic[2])) != 0;
    out.memory = memory;
  }

  void read_flow(const llvm::MCInst& inst, const llvm::MCInstrDesc& description, MachineInstruction& out) const {
    if (description.isReturn()) {
      out.flow = Flow::kReturn;
    } else if (description.isIndirectBranch()) {
      out.flow = Flow::kIndirect;
    } else if (description.isCall()) {
      out.flow = Flow::kCall;
    } else if (description.isConditionalBranch()) {
      out.flow = Flow::kBranch;
    } else if (description.isUnconditionalBranch()) {
      out.flow = Flow::kJump;
    }
    if (out.flow == Flow::kNext || out.flow == Flow::kReturn) return;
    std::uint64_t target = 0;
    if (analysis->evaluateBranch(inst, out.address, out.size, target)) {
      out.target = target;
    } else {
      out.flow = Flow::kIndirect;
    }
  }
};

Disassembler::Disassembler(std::unique_ptr<Llvm> llvm) : llvm_(std::move(llvm)) {}
Disassembler::Disassembler(Disassembler&&) noexcept = default;
Disassembler& Disassembler::operator=(Disassembler&&) noexcept = default;
Disassembler::~Disassembler() = default;

Result<Disassembler> Disassembler::create(std::string_view triple, std::string_view features) {
  initialise_llvm();
  auto llvm = std::make_unique<Llvm>();
  const std::string name(triple);
  llvm->triple = llvm::Triple(name);
  llvm->x86 = llvm->triple.isX86();
  std::string message;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(name, message);
  const auto unknown = [&] {
    return Error{ErrorCode::kFailure, "LLVM has no disassembler for " + name + (message.empty() ? "" : ": " + message)};
  };
  if (target == nullptr) return unknown();
  llvm->registers.reset(target->createMCRegInfo(name));
  if (llvm->registers == nullptr) return unknown();
  llvm->assembly.reset(target->createMCAsmInfo(*llvm->registers, name, llvm::MCTargetOptions()));
  llvm->instructions.reset(target->createMCInstrInfo());
  llvm->subtarget.reset(target->createMCSubtargetInfo(name, "", llvm->x86 ? "" : std::string(features)));
  if (llvm->assembly == nullptr || llvm->instructions == nullptr || llvm->subtarget == nullptr) return unknown();
  llvm->context = std::make_unique<llvm::MCContext>(llvm->triple, llvm->assembly.get(), llvm->registers.get(),
                                                    llvm->subtarget.get());
  llvm->decoder.reset(target->createMCDisassembler(*llvm->subtarget, *llvm->context));
  llvm->analysis.reset(target->createMCInstrAnalysis(llvm->instructions.get()));
  llvm->printer.reset(target->createMCInstPrinter(llvm->triple, llvm->x86 ? 1 : 0, *llvm->assembly, *llvm->instructions,
                                                  *llvm->registers));
  if (llvm->decoder == nullptr || llvm->printer == nullptr) return unknown();
  if (llvm->analysis == nullptr) {
    llvm->analysis = std::make_unique<llvm::MCInstrAnalysis>(llvm->instructions.get());
  }
  llvm->printer->setPrintBranchImmAsAddress(true);
  llvm->bits = register_table(*llvm->registers, llvm->x86);
  return Disassembler(std::move(llvm));
}

std::optional<MachineInstruction> Disassembler::decode(std::span<const std::byte> code, std::uint64_t address) const {
  const llvm::ArrayRef<std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(code.data()), code.size());
  llvm::MCInst inst;
  std::uint64_t size = 0;
  if (llvm_->decoder->getInstruction(inst, size, bytes, address, llvm::nulls()) != llvm::MCDisassembler::Success ||
      size == 0 || size > code.size()) {
    return std::nullopt;
  }
  MachineInstruction out;
  out.address = address;
  out.size = static_cast<std::uint32_t>(size);
  std::string text;
  llvm::raw_string_ostream stream(text);
  // Branch targets count from the end of the instruction on x86, which its printer leaves to the caller.
  llvm_->printer->printInst(&inst, llvm_->x86 ? address + size : address, "", *llvm_->subtarget, stream);
  std::ranges::replace(text, '\t', ' ');
  std::size_t begin = std::min(text.find_first_not_of(' '), text.size());
  if (const std::size_t end = text.find('}', begin); text[begin] == '{' && end != std::string::npos) {
    out.hint = text.substr(begin, end + 1 - begin);
    begin = std::min(text.find_first_not_of(' ', end + 1), text.size());
  }
  const std::size_t blank = std::min(text.find(' ', begin), text.size());
  out.mnemonic = text.substr(begin, blank - begin);
  out.operands = text.substr(std::min(text.find_first_not_of(' ', blank), text.size()));
  while (!out.operands.empty() && out.operands.back() == ' ') out.operands.pop_back();

  const llvm::MCInstrDesc& description = llvm_->instructions->get(inst.getOpcode());
  llvm_->read_flow(inst, description, out);
  llvm_->read_registers(inst, description, out);
  // Calls and returns touch the stack only.
  out.loads = description.mayLoad() && out.flow == Flow::kNext;
  out.stores = description.mayStore() && out.flow == Flow::kNext;
  if (llvm_->x86) {
    llvm_->read_x86_memory(inst, description, out);
  } else {
    llvm_->read_aarch64_memory(inst, description, out);
  }
  return out;
}

namespace {

std::optional<std::uint64_t> printed_address(std::string_view operands) {
  const std::size_t at = operands.find("0x");
  if (at == std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  std::from_chars(operands.data() + at + 2, operands.data() + operands.size(), value, 16);
  return value;
}

// Data that the instruction addresses relative to the program counter: at once (x86, adr), or as the second half of an
// adrp and what uses its register.
void note_constant(const MachineInstruction& instruction, std::map<int, std::uint64_t>& pages, std::size_t image_bytes,
                   CodeMap& map) {
  std::optional<std::uint64_t> found;
  if (instruction.memory && instruction.memory->absolute) found = instruction.memory->absolute;
  if (instruction.mnemonic == "adr") found = printed_address(instruction.operands);
  const int source = instruction.memory ? instruction.memory->base : lowest(instruction.reads);
  if (const auto page = pages.find(source); page != pages.end()) {
    if (instruction.memory) found = page->second + static_cast<std::uint64_t>(instruction.memory->displacement);
    if (instruction.mnemonic == "add") {
      found = page->second + static_cast<std::uint64_t>(first_immediate(instruction.operands));
    }
  }
  if (found && *found < image_bytes) map.constants.insert(*found);
  std::erase_if(pages, [&](const auto& entry) { return (instruction.writes >> entry.first & 1U) != 0; });
  if (instruction.mnemonic == "adrp") {
    if (const auto page = printed_address(instruction.operands)) pages[lowest(instruction.writes)] = *page;
  }
}

}  // namespace

CallingConvention calling_convention(std::string_view triple) {
  if (triple.starts_with("aarch64")) return {0, 31, 0xFFF80000U};  // x19 to x30 and sp
  // rdi; rbx, rsp, rbp, r12 to r15.
  return {7, 4, bit(3) | bit(4) | bit(5) | bit(12) | bit(13) | bit(14) | bit(15)};
}

Result<CodeMap> trace_code(std::span<const std::byte> image, std::span<const std::uint64_t> entries,
                           const Disassembler& disassembler) {
  CodeMap map;
  std::vector<std::uint64_t> open(entries.begin(), entries.end());
  map.functions.insert(entries.begin(), entries.end());
  while (!open.empty()) {
    std::uint64_t at = open.back();
    open.pop_back();
    std::map<int, std::uint64_t> pages;  // AArch64: register -> what adrp put there, in this stretch of code
    for (bool straight = true; straight && !map.instructions.contains(at);) {
      if (at >= image.size()) {
        return Error{ErrorCode::kVerification,
                     "at " + hex(at) + ": control leaves the image of " + std::to_string(image.size()) + " bytes"};
      }
      auto instruction = disassembler.decode(image.subspan(at), at);
      if (!instruction) return Error{ErrorCode::kVerification, "at " + hex(at) + ": bytes that are no instruction"};
      if (instruction->target) {
        open.push_back(*instruction->target);
        (instruction->flow == Flow::kCall ? map.functions : map.labels).insert(*instruction->target);
      }
      map.indirect |= instruction->flow == Flow::kIndirect;
      straight =
          instruction->flow == Flow::kNext || instruction->flow == Flow::kBranch || instruction->flow == Flow::kCall;
      note_constant(*instruction, pages, image.size(), map);
      const std::uint64_t next = at + instruction->size;
      map.instructions.emplace(at, std::move(*instruction));
      at = next;
    }
  }
  return map;
}

std::string hex(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  do {
    text.insert(text.begin(), kDigits[value & 15U]);
    value >>= 4;
  } while (value != 0);
  return "0x" + text;
}

}  // namespace bitnet::codegen
