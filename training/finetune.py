#!/usr/bin/env python3
"""Trains exported weights further: finetune.py --model model --config configs/finetune.toml --data text.txt --out run

The shapes and the tokenizer are the model's, so the configuration has no [model] and no [tokenizer]. [lora] rank = 0
trains everything; otherwise the embeddings, norms and master weights stay, and a product of two thin matrices is learnt
for each projection; export.py adds it to the master before it rounds to ternary weights.
"""

import argparse
import dataclasses

import torch

from bitnet_training import config, errors, hf_directory, trainer
from bitnet_training.data import Corpus, Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tunes an exported model, in full or with LoRA.")
    parser.add_argument("--model", required=True, help="directory that export.py wrote")
    parser.add_argument("--config", required=True, help="TOML file: [data], [train], [lora]; see configs/finetune.toml")
    parser.add_argument("--data", required=True, nargs="+", help="text files, UTF-8")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the TOML")
    options = parser.parse_args()
    settings = config.load(options.config, options.set, ("data", "train", "lora"))
    trainer.use_threads(settings.train.threads)
    model = hf_directory.load(options.model, "train")
    tokenizer = hf_directory.load_tokenizer(options.model)
    settings = dataclasses.replace(settings, model=model.config, tokenizer=config.TokenizerConfig(tokenizer.size))
    tokens = Tokens.of(Corpus.read(options.data, settings), tokenizer, settings.model.context)
    torch.manual_seed(settings.train.seed)
    trainer.add_lora(model, settings)
    base = hf_directory.weights_digest(options.model)
    run = trainer.Trainer(settings, tokens, model, options.out, "finetune.py", base)
    run.prepare(options.resume)
    run.run()


if __name__ == "__main__":
    errors.run(main)
