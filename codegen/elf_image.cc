// A small reader instead of LLVM's object library: what is needed is a page of code, and the audit does not then rest
// on the same code as the linker.
#include "codegen/elf_image.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/math.h"

namespace bitnet::codegen {
namespace {

constexpr std::size_t kPage = 4096;

Error malformed(const std::string& what) { return {ErrorCode::kFailure, "linked image: " + what}; }

template <typename T>
Result<std::vector<T>> read_table(std::span<const std::byte> file, std::uint64_t offset, std::uint64_t count,
                                  const char* what) {
  if (offset > file.size() || count > (file.size() - offset) / sizeof(T)) {
    return malformed(std::string(what) + " reaches beyond the file (offset " + std::to_string(offset) + ", " +
                     std::to_string(count) + " entries, file of " + std::to_string(file.size()) + " bytes)");
  }
  std::vector<T> table(count);
  if (count != 0) std::memcpy(table.data(), file.data() + offset, count * sizeof(T));
  return table;
}

Result<std::string_view> string_at(std::span<const std::byte> strings, std::uint64_t offset, const char* what) {
  if (offset >= strings.size()) return malformed(std::string(what) + ": name beyond its string table");
  const char* begin = reinterpret_cast<const char*>(strings.data()) + offset;
  const void* end = std::memchr(begin, 0, strings.size() - offset);
  if (end == nullptr) return malformed(std::string(what) + ": name without an end");
  return std::string_view(begin, static_cast<std::size_t>(static_cast<const char*>(end) - begin));
}

}  // namespace

Result<ElfImage> ElfImage::parse(std::span<const std::byte> file) {
  Elf64_Ehdr header;
  if (file.size() < sizeof header) return malformed("shorter than an ELF header");
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_DYN) {
    return malformed("not a little-endian ELF64 shared object");
  }
  ElfImage image;
  image.file_ = file;
  BITNET_ASSIGN_OR_RETURN(image.segments_,
                          read_table<Elf64_Phdr>(file, header.e_phoff, header.e_phnum, "program headers"));
  BITNET_ASSIGN_OR_RETURN(const std::vector<Elf64_Shdr> headers,
                          read_table<Elf64_Shdr>(file, header.e_shoff, header.e_shnum, "section headers"));
  for (const Elf64_Shdr& section : headers) {
    ElfSection entry;
    entry.header = section;
    if (section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL) {
      if (section.sh_offset > file.size() || section.sh_size > file.size() - section.sh_offset) {
        return malformed("a section reaches beyond the file");
      }
      entry.bytes = file.subspan(section.sh_offset, section.sh_size);
    }
    image.sections_.push_back(entry);
  }
  if (header.e_shstrndx >= image.sections_.size()) return malformed("no section names");
  const std::span<const std::byte> names = image.sections_[header.e_shstrndx].bytes;
  for (ElfSection& section : image.sections_) {
    BITNET_ASSIGN_OR_RETURN(section.name, string_at(names, section.header.sh_name, "section"));
    const std::uint64_t offset = section.header.sh_offset;
    if (section.header.sh_type == SHT_DYNAMIC) {
      BITNET_ASSIGN_OR_RETURN(
          image.dynamic_, read_table<Elf64_Dyn>(file, offset, section.bytes.size() / sizeof(Elf64_Dyn), ".dynamic"));
    }
    if (section.header.sh_type != SHT_DYNSYM) continue;
    BITNET_ASSIGN_OR_RETURN(const std::vector<Elf64_Sym> symbols,
                            read_table<Elf64_Sym>(file, offset, section.bytes.size() / sizeof(Elf64_Sym), ".dynsym"));
    if (section.header.sh_link >= image.sections_.size()) return malformed(".dynsym without a string table");
    const std::span<const std::byte> strings = image.sections_[section.header.sh_link].bytes;
    for (std::size_t i = 1; i < symbols.size(); ++i) {
      BITNET_ASSIGN_OR_RETURN(const std::string_view name, string_at(strings, symbols[i].st_name, ".dynsym"));
      image.symbols_.push_back({name, symbols[i]});
    }
  }
  return image;
}

const ElfSymbol* ElfImage::find(std::string_view name) const {
  const auto found = std::ranges::find(symbols_, name, &ElfSymbol::name);
  return found == symbols_.end() ? nullptr : &*found;
}

Result<std::vector<std::byte>> ElfImage::flatten() const {
  constexpr std::uint64_t kLimit = std::uint64_t{1} << 30;
  std::uint64_t end = 0;
  bool begins_at_zero = false;
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_LOAD) continue;
    if ((segment.p_flags & PF_W) != 0 || segment.p_memsz != segment.p_filesz) {
      return malformed("a segment is writable or has bytes that are not in the file");
    }
    if (segment.p_offset > file_.size() || segment.p_filesz > file_.size() - segment.p_offset ||
        segment.p_vaddr > kLimit) {
      return malformed("a segment reaches beyond the file or beyond " + std::to_string(kLimit) + " bytes");
    }
    begins_at_zero |= segment.p_vaddr == 0;
    end = std::max(end, segment.p_vaddr + segment.p_memsz);
  }
  if (!begins_at_zero) return malformed("no segment begins at address 0");
  std::vector<std::byte> image(round_up<std::uint64_t>(end, kPage));
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type == PT_LOAD && segment.p_filesz != 0) {
      std::memcpy(image.data() + segment.p_vaddr, file_.data() + segment.p_offset, segment.p_filesz);
    }
  }
  return image;
}

}  // namespace bitnet::codegen
