// `bitnet-codegen inspect` and `verify`: look into a bundle, and check one without executing anything of it.
#pragma once

#include <string>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"

namespace bitnet::tools {

// The bundle's provenance, images and kernels as text or as one JSON object. Reads and checks what it prints
// (container, metadata digest, kernel table), not the images: a bundle with damaged code can still be looked into.
[[nodiscard]] Result<std::string> describe_bundle(const std::string& path, bool json);

struct VerifyReport {
  std::string text;  // one line per check "ok NAME" / "FAILED NAME: reason" / "skipped NAME: reason", or a JSON object
  bool ok = false;
};
// Every check of Bundle::open that needs no execution, the packed weights' hashes, and the model file's SHA-256, shape
// hash and packed size. `model` "" leaves the model's checks out and says so. Reads both files completely. Error: the
// model's reader's, where it cannot be read: that is no verdict on the bundle, so none is given.
[[nodiscard]] Result<VerifyReport> verify_bundle(const std::string& path, const std::string& model, bool json,
                                                 const formats::ReadOptions& read = {});

// The two subcommands: print to standard output and return the exit code (0, 15 where the bundle is refused, or
// that of the reader where the model cannot be read: 1, or 3 for tensors that do not fit its metadata).
int inspect_command(const std::string& path, bool json);
int verify_command(const std::string& path, const std::string& model, bool json, const formats::ReadOptions& read);

}  // namespace bitnet::tools
