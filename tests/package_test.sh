#!/usr/bin/env bash
# Installs the build tree into an empty prefix and builds a user's project against it with find_package(bitnet).
# Usage: tests/package_test.sh BUILD_DIR
set -euo pipefail
build=$(cd "${1:?usage: tests/package_test.sh BUILD_DIR}" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >/dev/null
cmake -S "$here/package" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/build" >/dev/null
"$work/prefix/bin/bitnet" synth --shape tiny --seed 3 -o "$work/m.gguf" -q
"$work/build/consumer" "$work/m.gguf"
[ "$("$work/build/consumer" "$work/m.gguf")" != "tensors: 0" ]
"$work/prefix/bin/bitnet" run -m "$work/m.gguf" --bundle none --prompt-ids 1,5,9 -n 4 --greedy -q >/dev/null
"$work/prefix/bin/bitnet" run -p "ROMEO:" -n 8 --greedy 2>"$work/log" >/dev/null # the default model
grep -qF "$work/prefix/share/bitnet/default.gguf" "$work/log"
if [ -x "$work/prefix/bin/bitnet-codegen" ]; then
  "$work/prefix/bin/bitnet-codegen" --model "$work/m.gguf" --target native -o "$work/m.bnk"
  "$work/prefix/bin/bitnet" run -m "$work/m.gguf" --bundle "$work/m.bnk" --prompt-ids 1,5,9 -n 4 --greedy -q >/dev/null
fi
