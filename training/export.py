#!/usr/bin/env python3
"""Writes a run's best weights as a Hugging Face style directory: export.py --run run --out model"""

import argparse
from pathlib import Path

from bitnet_training import checkpoint, config, errors, hf_directory, trainer
from bitnet_training.data import Tokenizer
from bitnet_training.files import read_json
from bitnet_training.model import BitNet


def main() -> None:
    parser = argparse.ArgumentParser(description="Exports a trained model for `bitnet convert`.")
    parser.add_argument("--run", required=True, help="folder that train.py or finetune.py wrote")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--name", help="the model's name (default: that of the directory)")
    parser.add_argument("--last", action="store_true", help="the last checkpoint in place of the best")
    sampling = parser.add_argument_group(
        "recommended sampling", "what `bitnet run` takes where its user chooses nothing; without any: its own defaults"
    )
    for key in hf_directory.SAMPLING:
        kind = int if key == "top_k" else float
        sampling.add_argument("--" + key.replace("_", "-"), type=kind, dest=key)
    options = parser.parse_args()
    chosen = {key: getattr(options, key) for key in hf_directory.SAMPLING if getattr(options, key) is not None}
    run = Path(options.run)
    path = run / (trainer.CHECKPOINT if options.last else trainer.BEST)
    if not path.exists():
        raise errors.UserError(f"{path} is not there; give the --out folder of train.py or finetune.py")
    if run.resolve() == Path(options.out).resolve():
        raise errors.UserError(f"--out {options.out} is the run's own folder, whose files it would replace")
    state = checkpoint.load(path, trainer.WEIGHTS_KEYS)
    settings = config.from_dict(state["config"], str(path))
    tokenizer = Tokenizer.load(run / trainer.TOKENIZER)
    metadata = read_json(run / trainer.METADATA, "give the --out folder of train.py or finetune.py")
    if metadata.get("digests", {}).get("tokenizer") != tokenizer.digest:
        raise errors.UserError(f"{run / trainer.TOKENIZER}: not the tokenizer that {trainer.METADATA} beside it names")
    model = BitNet(settings.model, tokenizer.size)
    trainer.load_weights(model, state, settings, path)
    metadata["exported_step"] = state["step"]
    name = options.name or Path(options.out).resolve().name
    hf_directory.write(model, tokenizer, metadata, name, options.out, chosen)
    print(f"{options.out}: {sum(p.numel() for p in model.parameters())} parameters, step {state['step']}")


if __name__ == "__main__":
    errors.run(main)
