// The layout asked for: one read-execute segment with headers, constants and code (--no-rosegment), a read-only
// .dynamic
// (-z rodynamic), pages of 4 KiB. What would need a second, writable segment is thereby visible to the audit.
#include "codegen/link.h"

#include <lld/Common/Driver.h>
#include <llvm/Support/raw_ostream.h>

#include <mutex>

#include "codegen/temp_dir.h"

LLD_HAS_DRIVER(elf)

namespace bitnet::codegen {
namespace {

std::string version_script(std::span<const std::string> exports) {
  std::string script = "{\n  global:\n";
  for (const std::string& name : exports) script += "    " + name + ";\n";
  return script + "  local: *;\n};\n";
}

// lld's messages without the name of the temporary folder.
std::string without_folder(std::string text, const std::string& folder) {
  for (std::size_t at = text.find(folder); at != std::string::npos; at = text.find(folder)) {
    text.erase(at, folder.size() + 1);
  }
  return text;
}

}  // namespace

Result<std::string> link_image(std::span<const std::string> objects, std::span<const std::string> exports) {
  BITNET_ASSIGN_OR_RETURN(const TempDir folder, TempDir::create());
  std::vector<std::string> arguments = {"ld.lld",
                                        "-shared",
                                        "--no-undefined",
                                        "--gc-sections",
                                        "--build-id=none",
                                        "--strip-all",
                                        "--no-rosegment",
                                        "--hash-style=gnu",
                                        "--threads=1",
                                        "-z",
                                        "norelro",
                                        "-z",
                                        "rodynamic",
                                        "-z",
                                        "max-page-size=4096",
                                        "-z",
                                        "nognustack",
                                        "-o",
                                        folder.file("image.so")};
  BITNET_RETURN_IF_ERROR(write_file(folder.file("exports.map"), version_script(exports)));
  arguments.push_back("--version-script=" + folder.file("exports.map"));
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const std::string path = folder.file("input" + std::to_string(i) + ".o");
    BITNET_RETURN_IF_ERROR(write_file(path, objects[i]));
    arguments.push_back(path);
  }
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());

  std::string messages;
  llvm::raw_string_ostream stream(messages);
  int code = 0;
  {
    static std::mutex one_at_a_time;
    const std::lock_guard lock(one_at_a_time);
    code = lld::lldMain(pointers, stream, stream, {{lld::Gnu, &lld::elf::link}}).retCode;
  }
  if (code != 0) {
    return Error{ErrorCode::kFailure, "lld could not link the image:\n" + without_folder(messages, folder.path())};
  }
  return read_whole_file(folder.file("image.so"));
}

}  // namespace bitnet::codegen
