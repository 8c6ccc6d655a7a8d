#!/usr/bin/env bash
# Formats all hand-written C, C++ and Python in place; with --check changes nothing and fails where something would change.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.h' '*.cc' '*.c' | grep -v '^generated/')
mapfile -t python < <(git ls-files --cached --others --exclude-standard '*.py')
if [ "${1:-}" = --check ]; then
  clang-format-19 --dry-run --Werror "${files[@]}"
  .venv/bin/ruff format --quiet --diff "${python[@]}"
  echo "format: $((${#files[@]} + ${#python[@]})) files are formatted" >&2
else
  clang-format-19 -i "${files[@]}"
  .venv/bin/ruff format --quiet "${python[@]}"
fi
