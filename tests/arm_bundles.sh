#!/bin/sh
# arm_bundles.sh BIN WRITE_TEST_BUNDLE MODEL OUT: the AArch64 bundles of tests/arm.cmake, made with an empty PATH: no
# compiler, assembler or linker can be found.
set -eu
if [ $# -ne 4 ]; then
  echo "usage: arm_bundles.sh BIN WRITE_TEST_BUNDLE MODEL OUT" >&2
  exit 2
fi
bin=$1 write=$2 model=$3 out=$4
mkdir -p "$out"
for target in neon-dotprod neon-i8mm; do
  PATH=/nonexistent "$bin/bitnet-codegen" --model "$model" --target "$target" -o "$out/$target.bnk" --quiet
done
PATH=/nonexistent "$write" "$out/every.bnk" neon-i8mm 0
PATH=/nonexistent "$write" "$out/group64.bnk" neon-i8mm 64
