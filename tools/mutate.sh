#!/usr/bin/env bash
# Breaks kernels on purpose, mechanically, and fails if a broken one passes every check (tests/mutate.cc says how).
#   tools/mutate.sh --seed N [--count 30] [--family TEXT]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tools/install_deps.sh test
tools/build.sh release
arguments=("$@")
arm=build/release/tests/aarch64/bin/bundle_kernel_test  # built by the test arm_build
if [ -x "$arm" ]; then
  arguments+=(--arm-tester "$arm")
  arguments+=(--arm-sysroot /usr/aarch64-linux-gnu)
else
  echo "mutate: AArch64 families are not drawn from: $arm is not built (ctest --test-dir build/release -R arm_build)"
fi
exec build/release/bin/bitnet-mutate "${arguments[@]}"
