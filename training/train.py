#!/usr/bin/env python3
"""Trains a ternary model from plain text: train.py --config configs/default.toml --data text.txt --out run"""

import argparse

import torch

from bitnet_training import config, errors, trainer
from bitnet_training.data import Corpus, Tokenizer, Tokens
from bitnet_training.model import BitNet


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a BitNet b1.58 model from plain text.")
    parser.add_argument("--config", required=True, help="TOML file; see training/configs")
    parser.add_argument("--data", required=True, nargs="+", help="text files, UTF-8")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--tokenizer", help="tokenizer.model; without it one is trained on the training text")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the TOML")
    options = parser.parse_args()
    settings = config.load(options.config, options.set, ("model", "tokenizer", "data", "train"))
    trainer.use_threads(settings.train.threads)
    corpus = Corpus.read(options.data, settings)
    if options.tokenizer:
        tokenizer = Tokenizer.load(options.tokenizer)
        if tokenizer.size != settings.tokenizer.vocab:
            raise errors.UserError(
                f"{options.tokenizer}: {tokenizer.size} pieces, but tokenizer.vocab is {settings.tokenizer.vocab}; set "
                "one to the other"
            )
    else:
        tokenizer = Tokenizer.train(corpus.training, settings.tokenizer.vocab)
    tokens = Tokens.of(corpus, tokenizer, settings.model.context)
    trainer.require_memory(settings, tokenizer.size)
    torch.manual_seed(settings.train.seed)
    model = BitNet(settings.model, tokenizer.size)
    run = trainer.Trainer(settings, tokens, model, options.out, "train.py")
    run.prepare(options.resume)
    run.run()


if __name__ == "__main__":
    errors.run(main)
