// The rules on the linked file. Each looks at what the loader would see (dynamic section, symbols, segments) and at the
// sections behind it, so that neither view can hide something from the other.
#include "codegen/audit.h"

#include <algorithm>
#include <map>

namespace bitnet::codegen {
namespace {

class Auditor {
 public:
  Auditor(const ElfImage& image, const Target& target) : image_(image), target_(target) {}

  Status run(std::span<const std::string> kernels, std::span<const std::string> constants) const {
    // Causes before consequences: an initialiser or a thread-local also brings relocations and writable data along.
    BITNET_RETURN_IF_ERROR(imports());
    BITNET_RETURN_IF_ERROR(initialisers());
    BITNET_RETURN_IF_ERROR(thread_local_storage());
    BITNET_RETURN_IF_ERROR(relocations());
    BITNET_RETURN_IF_ERROR(writable_data());
    BITNET_RETURN_IF_ERROR(exports(kernels, constants));
    return machine_code();
  }

 private:
  Error refuse(const std::string& rule) const {
    return {ErrorCode::kVerification, "audit of image " + std::string(target_.name) + ": " + rule};
  }

  Status imports() const {
    for (const ElfSymbol& symbol : image_.symbols()) {
      if (symbol.symbol.st_shndx == SHN_UNDEF) {
        return refuse("undefined symbol " + std::string(symbol.name) + " (a kernel calls nothing outside the image)");
      }
    }
    for (const Elf64_Dyn& entry : image_.dynamic()) {
      if (entry.d_tag == DT_NEEDED)
        return refuse("it needs a shared library (a kernel calls nothing outside the image)");
    }
    return {};
  }

  Status relocations() const {
    constexpr Elf64_Sxword kTags[] = {DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_RELR, DT_RELRSZ, DT_JMPREL, DT_TEXTREL};
    for (const Elf64_Dyn& entry : image_.dynamic()) {
      if (std::ranges::find(kTags, entry.d_tag) != std::end(kTags) && entry.d_un.d_val != 0) {
        return refuse("dynamic relocations (tag " + std::to_string(entry.d_tag) +
                      "): code and constants must be position-independent");
      }
    }
    for (const ElfSection& section : image_.sections()) {
      const Elf64_Word type = section.header.sh_type;
      if ((type == SHT_RELA || type == SHT_REL || type == SHT_RELR) && section.header.sh_size != 0) {
        return refuse("dynamic relocations in section " + std::string(section.name));
      }
    }
    return {};
  }

  Status initialisers() const {
    constexpr Elf64_Sxword kTags[] = {DT_INIT, DT_FINI, DT_INIT_ARRAY, DT_FINI_ARRAY, DT_PREINIT_ARRAY};
    for (const Elf64_Dyn& entry : image_.dynamic()) {
      if (std::ranges::find(kTags, entry.d_tag) != std::end(kTags)) {
        return refuse("initialisers or finalisers (tag " + std::to_string(entry.d_tag) + "): nobody would run them");
      }
    }
    for (const ElfSection& section : image_.sections()) {
      const Elf64_Word type = section.header.sh_type;
      const bool by_type = type == SHT_INIT_ARRAY || type == SHT_FINI_ARRAY || type == SHT_PREINIT_ARRAY;
      const bool by_name = section.name == ".init" || section.name == ".fini" || section.name.starts_with(".ctors") ||
                           section.name.starts_with(".dtors");
      if (by_type || by_name) {
        return refuse("initialisers or finalisers in section " + std::string(section.name) + ": nobody would run them");
      }
    }
    return {};
  }

  Status thread_local_storage() const {
    for (const Elf64_Phdr& segment : image_.segments()) {
      if (segment.p_type == PT_TLS) return refuse("thread-local storage: a kernel keeps no state");
    }
    for (const ElfSection& section : image_.sections()) {
      if ((section.header.sh_flags & SHF_TLS) != 0) {
        return refuse("thread-local storage in section " + std::string(section.name) + ": a kernel keeps no state");
      }
    }
    return {};
  }

  Status writable_data() const {
    constexpr Elf64_Xword kWritable = SHF_ALLOC | SHF_WRITE;
    for (const ElfSection& section : image_.sections()) {
      if ((section.header.sh_flags & kWritable) == kWritable && section.header.sh_size != 0) {
        return refuse("writable data: " + std::to_string(section.header.sh_size) + " bytes in section " +
                      std::string(section.name) + " (a kernel keeps no state)");
      }
    }
    for (const Elf64_Phdr& segment : image_.segments()) {
      if (segment.p_type == PT_LOAD && (segment.p_flags & PF_W) != 0) return refuse("a writable segment");
    }
    return {};
  }

  Status exports(std::span<const std::string> kernels, std::span<const std::string> constants) const {
    std::map<std::string_view, int> seen;
    for (const ElfSymbol& symbol : image_.symbols()) {
      const int type = ELF64_ST_TYPE(symbol.symbol.st_info);
      const bool kernel = std::ranges::find(kernels, symbol.name) != kernels.end();
      const bool constant = std::ranges::find(constants, symbol.name) != constants.end();
      const std::string name(symbol.name);
      if (!kernel && !constant) return refuse("it exports " + name + ", which was not planned");
      if (symbol.symbol.st_shndx >= image_.sections().size()) return refuse("symbol " + name + " lies in no section");
      const Elf64_Xword flags = image_.sections()[symbol.symbol.st_shndx].header.sh_flags;
      if (kernel && (type != STT_FUNC || (flags & SHF_EXECINSTR) == 0 || symbol.symbol.st_size == 0)) {
        return refuse("kernel " + name + " is not a function in a code section");
      }
      if (constant && (type != STT_OBJECT || symbol.symbol.st_size != sizeof(std::uint64_t))) {
        return refuse("constant " + name + " is not an object of 8 bytes");
      }
      if (++seen[symbol.name] > 1) return refuse("it exports " + name + " more than once");
    }
    for (const std::span<const std::string> planned : {kernels, constants}) {
      for (const std::string& name : planned) {
        if (!seen.contains(name)) return refuse("planned symbol " + name + " is missing");
      }
    }
    return {};
  }

  Status machine_code() const {
    bool any = false;
    for (const ElfSection& section : image_.sections()) {
      if ((section.header.sh_flags & SHF_EXECINSTR) == 0) continue;
      any = true;
      const Status status = audit_code(section.bytes, section.header.sh_addr, target_);
      if (!status.ok()) return refuse("section " + std::string(section.name) + ", " + status.error().message);
    }
    return any ? Status() : Status(refuse("no machine code"));
  }

  const ElfImage& image_;
  const Target& target_;
};

}  // namespace

Status audit_image(const ElfImage& image, const Target& target, std::span<const std::string> kernels,
                   std::span<const std::string> constants) {
  return Auditor(image, target).run(kernels, constants);
}

}  // namespace bitnet::codegen
