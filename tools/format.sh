#!/usr/bin/env bash
# Formats all hand-written C and C++ in place; with --check changes nothing and fails where something would change.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.h' '*.cc' '*.c' | grep -v '^generated/')
if [ "${1:-}" = --check ]; then
  clang-format-19 --dry-run --Werror "${files[@]}"
  echo "format: ${#files[@]} files are formatted" >&2
else
  clang-format-19 -i "${files[@]}"
fi
