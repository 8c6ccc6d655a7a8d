// The archive is written by LLVM, in memory and deterministic: no dates, no owners.
#include "codegen/static_library.h"

#include <llvm/Object/ArchiveWriter.h>
#include <llvm/Support/MemoryBuffer.h>

#include <cctype>
#include <map>
#include <set>

#include "codegen/embedded.h"
#include "codegen/kernel_words.h"

namespace bitnet::codegen {
namespace {

std::string c_identifier(std::string name) {
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  if (name.empty() || std::isdigit(static_cast<unsigned char>(name.front())) != 0) name.insert(0, 1, '_');
  return name;
}

std::string upper(std::string name) {
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string commented(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    out.append("//   ").append(text.substr(at, end - at)).append("\n");
    at = end + 1;
  }
  return out;
}

std::string sizes_text(const Kernel& kernel) {
  std::string text;
  if (kernel.n != 0) text += "N " + std::to_string(kernel.n) + ", ";
  if (kernel.k != 0) text += "K " + std::to_string(kernel.k) + ", ";
  if (kernel.group != 0) text += "K-groups of " + std::to_string(kernel.group) + ", ";
  if (kernel.op == Op::kGemm) {
    text += kernel.m != 0 ? "at most " + std::to_string(kernel.m) + " tokens, " : "any number of tokens, ";
    text += "MR " + std::to_string(kernel.token_tile) + ", ";
  }
  if (text.empty()) text = "any size, ";
  return text + "scratch " + std::to_string(kernel.scratch_bytes) + " bytes";
}

std::string header_text(const CompiledBundle& bundle, const std::string& name) {
  const std::string macro = upper(c_identifier(name));
  std::string text = "// Kernels of " + name + ", written by " + bundle.tools + ".\n// Link with lib" + name +
                     ".a; nothing else is needed. A kernel may only be called on a CPU that executes its target:\n";
  for (const BundleImage& image : bundle.images) {
    const Target& target = target_of(image.isa);
    text += "//   " + std::string(target.name) + ": " + std::string(target.triple) +
            (target.features.empty() ? "" : " " + std::string(target.features)) + "\n";
  }
  text +=
      "// Weights are codes t+1 in {0, 1, 2} in tiles of 16 rows: ceil(K / line k) lines, one behind the other; a "
      "matrix\n"
      "// is ceil(N / 16) tiles, 64-byte aligned; rows beyond N and k beyond K hold code 1. Layouts:\n";
  std::set<Layout> layouts;
  for (const KernelRecord& record : bundle.table.kernels) {
    if (is_ternary(record.kernel.op)) layouts.insert(layout_of(record.kernel.format));
  }
  for (const Layout layout : layouts) text += commented(layout_text(layout));
  text += "#ifndef " + macro + "_KERNELS_H_\n#define " + macro + "_KERNELS_H_\n\n";
  text += find_embedded("runtime/kernels/kernel_abi.h")->text;
  text += "\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
  std::map<Op, std::string> lists;
  for (const KernelRecord& record : bundle.table.kernels) {
    const Kernel& kernel = record.kernel;
    text += "\n// " + std::string(formula_of(kernel.op)) + "\n// " + sizes_text(kernel) + "\nvoid " + record.name +
            "(const " + arguments_of(kernel.op) + "* args);\n";
    std::string& list = lists[kernel.op];
    list += " \\\n  X(" + record.name + ", " + std::string(to_string(kernel.format)) + ", " + identifier(kernel.isa);
    for (const std::int64_t value :
         {kernel.n, kernel.k, std::int64_t{kernel.group}, std::int64_t{kernel.m}, std::int64_t{kernel.token_tile},
          static_cast<std::int64_t>(kernel.scratch_bytes)}) {
      list += ", " + std::to_string(value);
    }
    list += ")";
  }
  text +=
      "\n#ifdef __cplusplus\n}\n#endif\n\n// Lists: each calls X(name, format, target, n, k, group, m, token_tile, "
      "scratch_bytes) for every kernel of one operation.\n";
  for (const auto& [op, list] : lists) {
    text.append("#define ").append(macro).append("_").append(upper(std::string(to_string(op)))).append("(X)");
    text.append(list).append("\n\n");
  }
  text += "#endif  // " + macro + "_KERNELS_H_\n";
  return text;
}

}  // namespace

Result<StaticLibrary> make_static_library(const CompiledBundle& bundle, const std::string& name) {
  std::vector<llvm::NewArchiveMember> members;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < bundle.images.size(); ++i) {
    const Target& target = target_of(bundle.images[i].isa);
    const Target& first = target_of(bundle.images.front().isa);
    if (target.triple != first.triple) {
      return Error{ErrorCode::kUsage, "a static library holds one architecture: targets " + std::string(first.name) +
                                          " and " + std::string(target.name) +
                                          " are of two; write one library for each (--target)"};
    }
    for (std::size_t j = 0; j < bundle.objects[i].size(); ++j) {
      names.push_back(identifier(target.isa) + "_" + std::to_string(j) + ".o");
    }
  }
  std::size_t next = 0;
  for (const std::vector<std::string>& objects : bundle.objects) {
    for (const std::string& object : objects) {
      members.emplace_back(llvm::MemoryBufferRef(object, names[next++]));
    }
  }
  auto archive = llvm::writeArchiveToBuffer(members, llvm::SymtabWritingMode::NormalSymtab,
                                            llvm::object::Archive::K_GNU, /*Deterministic=*/true, /*Thin=*/false);
  if (!archive) {
    return Error{ErrorCode::kFailure, "cannot write the archive: " + llvm::toString(archive.takeError())};
  }
  return StaticLibrary{(*archive)->getBuffer().str(), header_text(bundle, name)};
}

}  // namespace bitnet::codegen
