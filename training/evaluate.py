#!/usr/bin/env python3
"""Perplexity and bits per byte of an exported model on a text: evaluate.py --model model --data text.txt"""

import argparse
import json

from bitnet_training import errors, hf_directory, trainer
from bitnet_training.files import read_text
from bitnet_training.likelihood import likelihood


def main() -> None:
    parser = argparse.ArgumentParser(description="Likelihood of a text under an exported model.")
    parser.add_argument("--model", required=True, help="directory that export.py wrote")
    parser.add_argument("--data", required=True, help="text file, UTF-8")
    parser.add_argument(
        "--weights",
        choices=("ternary", "float"),
        default="ternary",
        help="ternary: as the runtime computes; float: the master weights, nothing rounded",
    )
    parser.add_argument("-C", "--ctx-size", type=int, help="tokens a window (default: the model's context)")
    parser.add_argument("--stride", type=int, help="from window to window (default: half a window)")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are CPUs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 0 <= options.threads <= 1024:
        raise errors.UserError(f"--threads {options.threads}: expected 0 to 1024")
    trainer.use_threads(options.threads)
    model = hf_directory.load(options.model, options.weights, half_cache=options.weights == "ternary")
    tokenizer = hf_directory.load_tokenizer(options.model)
    context = model.config.context if options.ctx_size is None else options.ctx_size
    stride = max(context // 2, 1) if options.stride is None else options.stride
    if not 1 <= context <= model.config.context:
        raise errors.UserError(f"--ctx-size {context}: expected 1 to the model's {model.config.context}")
    if not 1 <= stride <= context:
        raise errors.UserError(f"--stride {stride}: expected 1 to the window's {context}")
    data = read_text(options.data)
    ids = tokenizer.encode(data.decode("utf-8"))
    if len(ids) == 0:
        raise errors.UserError(f"{options.data}: no text to evaluate")
    found = likelihood(model, ids, len(data), tokenizer.bos, context, stride)
    if not found.mean_nll < 700.0:  # beyond, the perplexity is beyond a double; NaN too
        raise errors.UserError(f"{options.model}: the likelihood of {options.data} is {found.mean_nll}, no number")
    result = {
        "mean_nll": found.mean_nll,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "total_tokens": found.tokens,
        "total_bytes": found.bytes,
        "ctx_size": context,
        "stride": stride,
        "weights": options.weights,
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(
            f"{options.data}: {found.tokens} tokens, {found.bytes} bytes, mean nll {found.mean_nll:.6f}, perplexity "
            f"{found.perplexity:.4f}, {found.bits_per_byte:.5f} bits per byte ({options.weights} weights)"
        )


if __name__ == "__main__":
    errors.run(main)
