// Work in a process of its own. Where a process's memory lies (which physical pages, and so which cache sets) moves the
// speed of a kernel by a few per cent, and stays as it is for the life of the process: only several processes can tell
// that from a property of the kernel.
#pragma once

#include <functional>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::codegen {

// Forks, runs `work` in the child and returns what it returned there, error included. The child shares nothing with the
// caller afterwards: what `work` changes is lost, except on disk and on standard error. `stop` (may be empty) is asked
// when a signal arrives: true ends the child and gives kInterrupted.
// Precondition: the caller runs no other threads (they would not be there in the child).
// Errors: those of `work`; kFailure if there can be no child, or it ended without an answer.
[[nodiscard]] Result<std::vector<double>> in_fresh_process(const std::function<Result<std::vector<double>>()>& work,
                                                           const std::function<bool()>& stop = {});

}  // namespace bitnet::codegen
