#!/usr/bin/env bash
# clang-tidy over every hand-written source, ruff over the Python, shellcheck over the scripts, the house rules on file
# size. Usage: tools/lint.sh [FILE.cc...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
shellcheck -x "${scripts[@]}"

mapfile -t python < <(git ls-files --cached --others --exclude-standard '*.py')
.venv/bin/ruff check --quiet "${python[@]}"

long=$(git ls-files '*.cc' '*.h' '*.py' '*.j2' '*.sh' | grep -v '^generated/' | xargs wc -l | awk '$2 != "total" && $1 > 800')
if [ -n "$long" ]; then
  echo "lint: files over 800 lines, split them by purpose:" >&2
  echo "$long" >&2
  exit 1
fi

cmake --preset release >/dev/null  # the sources of today
if [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files --cached --others --exclude-standard 'codegen/*.cc' 'runtime/*.cc' 'schedules/*.cc' 'tools/*.cc')
fi
# Sources of other processors have no compile command here.
here=()
for file in "${files[@]}"; do
  if grep -qF "$root/$file\"" build/release/compile_commands.json; then
    here+=("$file")
  else
    echo "lint: $file is not compiled for this processor: not looked at by clang-tidy" >&2
  fi
done
# GCC-only warning options in the compile commands are unknown to clang-tidy; libstdc++ 12's stable_sort calls a function
# that C++17 deprecated.
printf '%s\n' "${here[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy-19 -p build/release --quiet --warnings-as-errors='*' \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-deprecated-declarations \
  2> >(grep -vE 'warnings? generated|Suppressed|Use -header-filter|^$' >&2)
echo "lint: $((${#here[@]} + ${#python[@]} + ${#scripts[@]})) sources are clean" >&2
