#!/bin/sh
# arm_text.sh NATIVE CROSS MODEL BUNDLE TARGETS RUN...: greedy text of the cross-built program (started by RUN...), with
# BUNDLE and with built-in kernels, against that of the native one. All three must be the same bytes, and kernels of the
# best of TARGETS must have been used.
set -eu
if [ $# -lt 6 ]; then
  echo "usage: arm_text.sh NATIVE CROSS MODEL BUNDLE TARGETS RUN..." >&2
  exit 2
fi
native=$1 cross=$2 model=$3 bundle=$4 targets=$5
shift 5
best=${targets##* }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prompt='ROMEO:
'
"$native" run -m "$model" --bundle none -p "$prompt" -n 64 --greedy >"$work/native"
"$@" "$cross" run -m "$model" --bundle none -p "$prompt" -n 64 --greedy >"$work/builtin"
"$@" "$cross" run -m "$model" --bundle "$bundle" -p "$prompt" -n 64 --greedy -v >"$work/bundle" 2>"$work/log"
if ! grep -q '[[:alpha:]]' "$work/native"; then
  echo "arm_text.sh: the native program wrote no words" >&2
  exit 1
fi
for kind in builtin bundle; do
  if ! cmp "$work/native" "$work/$kind"; then
    echo "arm_text.sh: the text of $kind kernels under '$*' differs from the native one:" >&2
    diff "$work/native" "$work/$kind" >&2 || true
    exit 1
  fi
done
kernel="i2s_gemv_n[0-9k]*_$(echo "$best" | tr - _)"
if ! grep -q "$kernel" "$work/log"; then
  echo "arm_text.sh: no kernel $kernel among those used:" >&2
  cat "$work/log" >&2
  exit 1
fi
echo "arm_text.sh: $(wc -c <"$work/native") bytes are the same, with kernels of $best under '$*'"
