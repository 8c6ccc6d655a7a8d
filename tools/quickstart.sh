#!/usr/bin/env bash
# From a bare Debian 12 to streamed tokens: installs what is missing, builds, makes the default model, compiles kernels
# for this CPU, generates. Everything is kept; the second run starts at once.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tools/install_deps.sh build
tools/build.sh release bitnet bitnet-codegen bitnet-halide
bin=build/release/bin

model=models/tiny.gguf
if [ ! -f "$model" ]; then
  mkdir -p models
  echo "quickstart: making a synthetic model, $model (random weights)" >&2
  "$bin/bitnet" synth --shape tiny --seed 1 -o "$model"
fi
bundle=$(find models -name 'tiny.*.bnk' -newer "$bin/bitnet-codegen" -newer "$model" -print -quit)
if [ -z "$bundle" ]; then
  echo "quickstart: compiling kernels for this CPU" >&2
  "$bin/bitnet-codegen" --model "$model" --target native --quiet
fi
echo "quickstart: the weights of this model are random, so its text is noise:" >&2
"$bin/bitnet" run -m "$model" -p "Once upon a time" -n 64 --seed 1 "$@"
