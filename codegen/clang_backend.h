// clang as a library: one translation unit of C++ to one relocatable object, in memory. Headers come from
// embedded_files() and from nowhere else.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "codegen/audit_source.h"
#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

struct ClangOutput {
  std::string object;                // ELF
  SourceFacts facts;                 // for audit_source()
  std::vector<std::string> headers;  // embedded paths that the unit included, clang's own left out; ascending
};

// Compiles for `target` with -O3, freestanding, position-independent, everything hidden that is not marked, no fused
// multiply-add made of separate operations. `overrides` replaces embedded headers by path (tests plant defects with
// it). kFailure holds clang's diagnostics. Thread-safe; equal inputs give equal bytes.
[[nodiscard]] Result<ClangOutput> compile_with_clang(const std::string& source, const std::string& source_name,
                                                     const Target& target,
                                                     const std::map<std::string, std::string>& overrides = {});
// What the source audit finds in the unit, without generating code.
[[nodiscard]] Result<SourceFacts> read_source_facts(const std::string& source, const std::string& source_name,
                                                    const Target& target);
// "clang 19.1.7"
[[nodiscard]] std::string clang_version();

}  // namespace bitnet::codegen
