// A linked image as the audit and the bundle need it: segments, sections, dynamic section and exported symbols of an
// ELF64 little-endian shared object, checked against the size of the file, and the flat image made of it.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::codegen {

struct ElfSection {
  std::string_view name;
  Elf64_Shdr header{};
  std::span<const std::byte> bytes;  // empty for SHT_NOBITS
};
struct ElfSymbol {
  std::string_view name;
  Elf64_Sym symbol{};
};

// Views into the bytes given to parse(), which must outlive it.
class ElfImage {
 public:
  // kFailure names the field that is wrong.
  [[nodiscard]] static Result<ElfImage> parse(std::span<const std::byte> file);

  [[nodiscard]] std::span<const Elf64_Phdr> segments() const { return segments_; }
  [[nodiscard]] std::span<const ElfSection> sections() const { return sections_; }
  [[nodiscard]] std::span<const Elf64_Dyn> dynamic() const { return dynamic_; }
  [[nodiscard]] std::span<const ElfSymbol> symbols() const { return symbols_; }  // .dynsym without the null symbol
  [[nodiscard]] const ElfSymbol* find(std::string_view name) const;

  // The PT_LOAD segments as they lie in memory: byte i belongs at base + i; a multiple of 4096 bytes long. Refuses
  // segments that do not begin at 0, that are writable, or that are larger in memory than in the file.
  [[nodiscard]] Result<std::vector<std::byte>> flatten() const;

 private:
  std::span<const std::byte> file_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<ElfSection> sections_;
  std::vector<Elf64_Dyn> dynamic_;
  std::vector<ElfSymbol> symbols_;
};

}  // namespace bitnet::codegen
