#!/usr/bin/env python3
"""Writes every node of PyTorch's forward pass on one sequence: dump_nodes.py --model model --data text.txt -o nodes

The ternary weights as the runtime runs them: queries, keys and values rounded to float16. tools/compare_nodes lays the
folder beside one of `bitnet run --dump-nodes`; tests/training_parity_test.cc feeds the runtime's kernels from it.
"""

import argparse

from bitnet_training import errors, files, hf_directory, nodes, trainer

DEFAULT_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description="Dumps the graph of an exported model's forward pass.")
    parser.add_argument("--model", required=True, help="directory that export.py wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="text file, UTF-8: fed are <s> and the beginning of the text")
    source.add_argument("--ids", metavar="N,N,...", help="token ids: fed are all but the last")
    parser.add_argument(
        "--tokens", type=int, help=f"tokens fed, with --data (default: the model's context, at most {DEFAULT_TOKENS})"
    )
    parser.add_argument("-o", "--out", required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    trainer.use_threads(options.threads)
    model = hf_directory.load(options.model, "ternary", half_cache=True)
    tokenizer = hf_directory.load_tokenizer(options.model)
    if options.ids is not None:
        sequence = read_ids(options.ids, tokenizer.size)
        if not 2 <= len(sequence) <= model.config.context + 1:
            raise errors.UserError(
                f"--ids: {len(sequence)} ids; expected 2 to {model.config.context + 1} (the context and the last id, "
                "which is only foretold)"
            )
    else:
        tokens = min(DEFAULT_TOKENS, model.config.context) if options.tokens is None else options.tokens
        if not 1 <= tokens <= model.config.context:
            raise errors.UserError(f"--tokens {tokens}: expected 1 to the model's {model.config.context}")
        text = files.read_text(options.data).decode("utf-8")
        sequence = [tokenizer.bos, *tokenizer.encode(text)[:tokens].tolist()]
        if len(sequence) <= tokens:
            raise errors.UserError(
                f"{options.data}: {len(sequence) - 1} tokens, expected {tokens}; give more text or fewer --tokens"
            )
    count, mean_nll = nodes.dump(model, sequence[:-1], sequence[1:], options.out)
    print(f"{options.out}: {count} nodes of {len(sequence) - 1} tokens, mean nll {mean_nll:.6f}")


def read_ids(text: str, vocab: int) -> list[int]:
    try:
        ids = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise errors.UserError(f"--ids {text}: expected whole numbers with commas between: {error}") from error
    for place, number in enumerate(ids):
        if not 0 <= number < vocab:
            raise errors.UserError(f"--ids: id {number} at place {place}; expected 0 to {vocab - 1}")
    return ids


if __name__ == "__main__":
    errors.run(main)
