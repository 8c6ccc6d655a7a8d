#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests. Ends with the closing lines of the test runner.
#   tools/test.sh           everything that CI runs
#   tools/test.sh --full    also the long runs: the whole test plan of the kernels under sanitizers and under emulation,
#                           every row of every model's shapes, 30 mutations of kernels, 60 seconds of fuzzing a target
#                           instead of 10, and 10000 random texts a tokenizer family instead of 2000
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
step() { printf '\n== %s (%d s since the start)\n' "$1" "$SECONDS"; }
tools/install_deps.sh test

step "The runtime alone: no Python, LLVM, Halide or CUDA"
tools/build.sh runtime-only
build/runtime-only/bin/bitnet --version

step "Everything with address and undefined-behaviour sanitizers"
tools/build.sh asan
if [ "$full" -eq 1 ]; then
  ctest --test-dir build/asan --output-on-failure -j "$(nproc)"
else
  BITNET_TEST_QUICK=1 ctest --test-dir build/asan --output-on-failure -j "$(nproc)"
fi

step "Fuzzing of the readers"
tools/fuzz.sh "$([ "$full" -eq 1 ] && echo 60 || echo 10)"

step "Everything, optimised"
tools/build.sh release

step "The trainer"
.venv-training/bin/python -m unittest discover -s training/tests

step "From text to streamed tokens, on the licences that every Debian has"
texts=()
for licence in GFDL-1.3 GPL-2 GPL-3 LGPL-2.1 MPL-2.0; do
  texts+=("/usr/share/common-licenses/$licence")
done
work=build/training
rm -rf "$work"
training/from_text.sh training/configs/small.toml "$work" "${texts[@]}"
if ! grep -q '[[:alpha:]]' "$work/sample.txt"; then
  echo "test: $work/sample.txt: expected words, found none" >&2
  exit 1
fi

step "Each step of that model's blocks against PyTorch"
.venv-training/bin/python training/dump_nodes.py --model "$work/model" --data "$work/run/test.txt" -o "$work/nodes"
cp "$work/model.gguf" "$work/nodes/"
BITNET_TRAINING_PARITY="$work/nodes" BITNET_BIN="$root/build/release/bin" build/release/bin/training_parity_test

step "Kernels of the optimised build"
if [ "$full" -eq 1 ]; then
  for cpu in Nehalem Haswell; do
    BITNET_TEST_EMULATOR="qemu-x86_64 -cpu $cpu" qemu-x86_64 -cpu "$cpu" build/release/bin/kernel_test
  done
  tools/mutate.sh --seed 1
fi
kernels='kernel|codegen_test|vnni|halide|arm_|riscv'
[ "$full" -eq 0 ] || export BITNET_TEST_FULL=1
ctest --test-dir build/release --output-on-failure -j "$(nproc)" -R "$kernels"
step "How each kernel ran: times tested, name without its shape, how"
sed -nE 's/^([a-z0-9]+_[a-z0-9_]+) +(native|run natively|emulated by .*|SKIPPED: .*|not run: .*)$/\1 \2/p' \
  build/release/Testing/Temporary/LastTest.log | sed -E 's/_n[0-9]+k[0-9]+(g[0-9]+)?(m[0-9]+)?_/_\1\2_/; s/_k[0-9]+_/_/; s/__/_/' |
  sort | uniq -c

step "All other tests of the optimised build"
[ "$full" -eq 0 ] || export BITNET_TEXTS=10000
ctest --test-dir build/release --output-on-failure -j "$(nproc)" -E "$kernels"
