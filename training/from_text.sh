#!/usr/bin/env bash
# From plain text to streamed tokens: tokenizer, training, export, evaluation, GGUF, kernels for this CPU, the same
# evaluation by the runtime, a sample. Run again with the same arguments, it goes on where it was interrupted.
# Usage: training/from_text.sh CONFIG.toml OUT TEXT...
#   OUT   folder for everything: run/ (checkpoints), model/ (exported), model.gguf and its bundle, the scores
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n 's/^# \(Usage\|  OUT\)/\1/p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
config=$1 out=$2
shift 2
texts=("$@")
for file in "$config" "${texts[@]}"; do
  if [ ! -r "$file" ]; then
    echo "from_text: $file: cannot be read" >&2
    exit 2
  fi
done

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS" >&2; }
training() { # PROGRAM OPTION...
  "$root/.venv-training/bin/python" "$root/training/$1.py" "${@:2}"
}
"$root/tools/install_deps.sh" build
"$root/tools/install_deps.sh" training
"$root/tools/build.sh" release bitnet bitnet-codegen bitnet-halide
bin=$root/build/release/bin
mkdir -p "$out"

step "Tokenizer"
training train_tokenizer --config "$config" --data "${texts[@]}" -o "$out/tokenizer.model"

step "Training"
resume=()
if [ -f "$out/run/checkpoint.pt" ]; then resume=(--resume); fi
training train --config "$config" --data "${texts[@]}" --tokenizer "$out/tokenizer.model" --out "$out/run" "${resume[@]}"

step "Export"
training export --run "$out/run" --out "$out/model"

# Text that the training never saw; where the configuration sets none aside, the beginning of what it did see.
unseen=$out/run/test.txt
if [ ! -s "$unseen" ]; then unseen=$out/run/validation.txt; fi
if [ ! -s "$unseen" ]; then
  echo "from_text: data.validation and data.test are 0: scores are of the text that was learnt" >&2
  unseen=${texts[0]}
fi

step "Evaluation in PyTorch, of $unseen"
training evaluate --model "$out/model" --data "$unseen" --weights float
training evaluate --model "$out/model" --data "$unseen" --json >"$out/score.pytorch.json"

step "GGUF, and kernels for this CPU"
"$bin/bitnet" convert "$out/model" -o "$out/model.gguf"
"$bin/bitnet-codegen" --model "$out/model.gguf" --target native

step "The same evaluation by the runtime: built-in kernels, then the bundle's"
"$bin/bitnet" score -m "$out/model.gguf" -f "$unseen" --bundle none --json --quiet >"$out/score.built-in.json"
bundle=$(find "$out" -maxdepth 1 -name 'model.*.bnk' -newer "$out/model.gguf" -print -quit)
"$bin/bitnet" score -m "$out/model.gguf" -f "$unseen" --bundle "$bundle" --json --quiet >"$out/score.bundle.json"
training compare_scores "$out"/score.{pytorch,built-in,bundle}.json

step "Text"
prompt=$(sed -n '/[^[:space:]]/{s/^[[:space:]]*//;p;q}' "$unseen" | cut -d ' ' -f 1-3) # within a line, so words follow
"$bin/bitnet" run -m "$out/model.gguf" --bundle "$bundle" -p "$prompt" -n 96 --seed 1 --quiet | tee "$out/sample.txt"
step "Done"
