#!/usr/bin/env bash
# Compiles a model's kernels into a static library, links main.c with it by the system's C compiler, and runs it.
# Usage: examples/static_kernels/run.sh BIN_DIR [MODEL.gguf]     without a model a small one is made
set -euo pipefail
bin=$(cd "${1:?usage: examples/static_kernels/run.sh BIN_DIR [MODEL.gguf]}" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=${2:-$work/model.gguf}
if [ $# -lt 2 ]; then
  "$bin/bitnet" synth --shape tiny --seed 3 -o "$model" -q
fi
# libmodel_kernels.a and model_kernels.h
"$bin/bitnet-codegen" --model "$model" --target native --format i2s --emit static -o "$work/libmodel_kernels.a"
"${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Werror -I "$work" "$here/main.c" "$work/libmodel_kernels.a" -o "$work/static_kernels"
mapfile -t targets < <("$bin/bitnet-codegen" list-targets | awk '$2 == "runs" { gsub("-", "_", $1); print $1 }')
"$work/static_kernels" "${targets[@]}"
