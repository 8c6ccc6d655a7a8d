#!/usr/bin/env python3
"""Writes a run's best weights as a Hugging Face style directory: export.py --run run --out model"""

import argparse
import json
from pathlib import Path

from bitnet_training import config, errors, hf_directory, trainer
from bitnet_training.data import Tokenizer
from bitnet_training.model import BitNet


def main() -> None:
    parser = argparse.ArgumentParser(description="Exports a trained model for `bitnet convert`.")
    parser.add_argument("--run", required=True, help="folder that train.py or finetune.py wrote")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--name", help="the model's name (default: that of the directory)")
    parser.add_argument("--last", action="store_true", help="the last checkpoint in place of the best")
    options = parser.parse_args()
    run = Path(options.run)
    path = run / (trainer.CHECKPOINT if options.last else trainer.BEST)
    if not path.exists():
        raise errors.UserError(f"{path} is not there; give the --out folder of train.py")
    state = trainer.load_torch(path)
    if not isinstance(state, dict) or "config" not in state or "model" not in state:
        raise errors.UserError(f"{path}: not a checkpoint of this trainer")
    settings = config.from_dict(state["config"], str(path))
    tokenizer = Tokenizer.load(str(run / trainer.TOKENIZER))
    model = BitNet(settings.model, tokenizer.size)
    trainer.load_weights(model, state, settings)
    metadata = json.loads((run / trainer.METADATA).read_text())
    metadata["exported_step"] = state["step"]
    name = options.name or Path(options.out).resolve().name
    hf_directory.write(model, tokenizer, metadata, name, options.out)
    print(f"{options.out}: {metadata['parameters']} parameters, step {state['step']}")


if __name__ == "__main__":
    errors.run(main)
