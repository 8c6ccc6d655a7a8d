#!/usr/bin/env bash
# Runs every libFuzzer target for a number of seconds (clang 19, AddressSanitizer and UBSan). Usage: tools/fuzz.sh [SECONDS]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
seconds=${1:-60}
build=build/fuzz
if [ ! -f "$build/build.ninja" ]; then
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g" \
    -DCMAKE_C_COMPILER=clang-19 -DCMAKE_CXX_COMPILER=clang++-19 -DBITNET_FUZZ=ON -DBITNET_SANITIZE=ON \
    -DBITNET_CODEGEN=OFF -DBITNET_BENCH=OFF >/dev/null
fi
targets=(fuzz_gguf fuzz_bundle fuzz_safetensors fuzz_tokenizer_json fuzz_sentencepiece fuzz_tiktoken)
echo "build: fuzz targets into $build" >&2
cmake --build "$build" --target "${targets[@]}" >"$build/build.log" 2>&1 || {
  tail -n 60 "$build/build.log" >&2
  exit 1
}
fuzz() {
  local target=$1 corpus="$build/corpus/$1"
  mkdir -p "$corpus"
  # Seeds that the repository keeps; what the fuzzer finds stays in the build folder.
  if [ -d "tests/corpus/$target" ]; then cp "tests/corpus/$target"/* "$corpus/"; fi
  "$build/bin/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 "$corpus" \
    >"$build/$target.log" 2>&1 || {
    tail -n 60 "$build/$target.log" >&2
    return 1
  }
  echo "fuzz: $target for $seconds s: $(grep -E 'number_of_executed_units' "$build/$target.log")" >&2
}
export -f fuzz
export build seconds
# 255 ends xargs at the first finding.
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I {} bash -c 'fuzz {} || exit 255'
