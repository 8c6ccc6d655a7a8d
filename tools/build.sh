#!/usr/bin/env bash
# Configures (once) and builds one preset into build/<preset>. Usage: tools/build.sh PRESET [TARGET...]
# Quiet unless something fails; ccache is used where it is installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=${1:?usage: tools/build.sh PRESET [TARGET...]}
shift
cd "$root"
options=()
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -f "build/$preset/build.ninja" ] || [ -n "${BITNET_RECONFIGURE:-}" ]; then
  if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
fi
targets=()
[ $# -gt 0 ] && targets=(--target "$@")
echo "build: preset $preset into build/$preset" >&2
if ! cmake --build "build/$preset" "${targets[@]}" >"$log" 2>&1; then
  grep -v '^\[[0-9/]*\] Building' "$log" | tail -n 80 >&2
  exit 1
fi
