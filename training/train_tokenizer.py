#!/usr/bin/env python3
"""Trains a SentencePiece BPE vocabulary with byte fall-back on the training part of a text."""

import argparse
from pathlib import Path

from bitnet_training import config, errors
from bitnet_training.data import Corpus, Tokenizer
from bitnet_training.files import make_directory


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a tokenizer (SentencePiece BPE with byte fall-back).")
    parser.add_argument("--config", required=True, help="TOML file: tokenizer.vocab and the cut of the text")
    parser.add_argument("--data", required=True, nargs="+", help="text files, UTF-8")
    parser.add_argument("-o", "--out", required=True, help="tokenizer.model to write")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the TOML")
    options = parser.parse_args()
    settings = config.load(options.config, options.set)
    corpus = Corpus.read(options.data, settings)
    make_directory(Path(options.out).parent)
    tokenizer = Tokenizer.train(corpus.training, settings.tokenizer.vocab)
    tokenizer.save(options.out)
    ids = tokenizer.encode(corpus.training)
    size = len(corpus.training.encode())
    print(f"{options.out}: {tokenizer.size} pieces, {size / max(len(ids), 1):.3f} bytes a token of the training text")


if __name__ == "__main__":
    errors.run(main)
