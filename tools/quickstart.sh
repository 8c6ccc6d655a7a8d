#!/usr/bin/env bash
# From a bare Debian 12 to streamed tokens: installs what is missing, builds, compiles kernels for this CPU and for the
# default model, generates. Everything is kept; the second run starts at once. Arguments go to `bitnet run`:
#   tools/quickstart.sh -p "Shall I compare thee" -n 200 --seed 7
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tools/install_deps.sh build
tools/build.sh release bitnet bitnet-codegen bitnet-halide
bin=build/release/bin

model=models/default.gguf
bundle=$(find models -name 'default.*.bnk' -newer "$bin/bitnet-codegen" -newer "$model" -print -quit)
if [ -z "$bundle" ]; then
  echo "quickstart: compiling kernels for this CPU" >&2
  "$bin/bitnet-codegen" --model "$model" --target native --quiet
fi
if [ $# -eq 0 ]; then set -- -p $'ROMEO:\n' -n 128 --seed 1; fi
"$bin/bitnet" run -m "$model" "$@"
