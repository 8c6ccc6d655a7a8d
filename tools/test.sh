#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests. Ends with the closing lines of the test runner.
#   tools/test.sh           everything that CI runs
#   tools/test.sh --full    also the long runs: 60 seconds of fuzzing a target, the whole emulated sweep
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
full=0
case "${1:-}" in
  "") ;;
  --full) full=1 ;;
  *)
    echo "usage: tools/test.sh [--full]" >&2
    exit 2
    ;;
esac
tools/install_deps.sh test

# The runtime alone: no Python, LLVM, Halide or CUDA.
tools/build.sh runtime-only

# Sanitizers: the readers, the loader, the graph and the kernels once more, with every access checked.
tools/build.sh asan
ctest --test-dir build/asan --output-on-failure --label-exclude native-only -j "$(nproc)" | tail -n 15

tools/fuzz.sh "$([ "$full" -eq 1 ] && echo 60 || echo 10)"

tools/build.sh release
export BITNET_TEST_FULL=$full
ctest --test-dir build/release --output-on-failure -j "$(nproc)"
