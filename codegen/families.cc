#include "codegen/families.h"

#include "codegen/embedded.h"
#include "codegen/targets.h"

namespace bitnet::codegen {

std::string_view family_operation(const Kernel& kernel) {
  if (kernel.op == Op::kGemv) return "gemv";
  return kernel.m != 0 ? "batch" : "gemm";
}

std::string family_header(Isa isa, Format format, std::string_view operation) {
  std::string path = "generated/";
  path.append(to_string(format)).append("_").append(operation).append("_").append(identifier(isa)).append(".h");
  return path;
}

bool has_family(Isa isa, Format format, std::string_view operation) {
  return find_embedded(family_header(isa, format, operation)) != nullptr;
}

std::vector<std::string> dense_headers(Isa isa) {
  const std::string ending = "_" + identifier(isa) + ".h";
  std::vector<std::string> headers;
  for (const EmbeddedFile& file : embedded_files()) {
    if (file.path.starts_with("generated/dense_") && file.path.ends_with(ending)) headers.emplace_back(file.path);
  }
  return headers;
}

std::string targets_with(Format format) {
  std::string names;
  for (const Target& target : targets()) {
    if (!has_family(target.isa, format, "gemv")) continue;
    const std::string name(target.part_of.empty() ? target.name : target.part_of);
    if (!names.ends_with(name)) names.append(names.empty() ? "" : ", ").append(name);
  }
  return names;
}

}  // namespace bitnet::codegen
