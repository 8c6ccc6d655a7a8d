#!/usr/bin/env bash
# The road for new hardware: riscv64 objects of I2_S GEMV and GEMM from the pipelines of schedules/, without a dictionary
# and without any RISC-V tool or library, linked with tests/riscv_driver.cc and run under qemu-riscv64 with vectors of
# 128 and 256 bits. A GEMV that drops a term must be found. Usage: riscv_test.sh BITNET_HALIDE
# Exit status: 0 all sums right, 77 a tool is missing.
set -euo pipefail
halide=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
find_tool() {
  local name
  for name in "$@"; do
    if command -v "$name"; then return; fi
  done
  echo "SKIPPED: none of $* is installed" >&2
  exit 77
}
clang=$(find_tool clang++-19 /usr/lib/llvm-19/bin/clang++)
lld=$(find_tool ld.lld-19 /usr/lib/llvm-19/bin/ld.lld)
qemu=$(find_tool qemu-riscv64 qemu-riscv64-static)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build BITS N K STREAMS TOKENS K_OF_PIPELINE: $work/program
build() {
  local bits=$1 n=$2 k=$3 streams=$4 tokens=$5 pipeline_k=$6
  "$halide" --target "riscv-64-linux-rvv-vector_bits_$bits" --out "$work" \
    "i2s_gemv:K=$pipeline_k:STREAMS=$streams:SYMBOL=pipeline_gemv" \
    "i2s_gemm:K=$k:STREAMS=$streams:TOKENS=$tokens:SYMBOL=pipeline_gemm"
  "$clang" --target=riscv64-linux-gnu -march=rv64gc -mabi=lp64d -mcmodel=medany -std=c++20 -O1 -ffreestanding -fno-builtin \
    -fno-exceptions -fno-rtti -fno-pic -fno-stack-protector -fvisibility=hidden -nostdlibinc -Wall -Wextra -Werror \
    -DBITNET_N="$n" -DBITNET_K="$k" -DBITNET_STREAMS="$streams" -DBITNET_TOKENS="$tokens" -I "$root" \
    -c "$root/tests/riscv_driver.cc" -o "$work/driver.o"
  # No library: whatever the pipelines imported would be undefined.
  "$lld" -static -o "$work/program" "$work/driver.o" "$work/pipeline_gemv.o" "$work/pipeline_gemm.o"
}
execute() {
  "$qemu" -cpu "rv64,v=true,vext_spec=v1.0,vlen=$1" "$work/program"
}

for shape in "40 100 1 2" "40 100 2 3" "1 1 1 1" "33 600 2 4"; do
  read -r n k streams tokens <<<"$shape"
  for bits in 128 256; do
    build "$bits" "$n" "$k" "$streams" "$tokens" "$k"
    execute "$bits"
    echo "riscv64, vectors of $bits bits, $n x $k: gemv and gemm are right"
  done
done

# The driver can fail: a pipeline for K = 96 leaves out the last four terms.
build 128 40 100 1 2 96
if execute 128 2>"$work/message"; then
  echo "riscv: a GEMV that leaves out terms was not found" >&2
  exit 1
fi
grep -q "gemv: the first tile is wrong" "$work/message"
