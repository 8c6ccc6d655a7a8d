"""Checks reference.py against Hugging Face transformers, where that is installed (with torch, accelerate, safetensors):

    python tests/architectures/compare_with_transformers.py [CASE...]

For every case of models.py the largest difference of logits (or of the last hidden states, of an embedding model),
relative to the largest logit, and the smallest cosine of a position. What transformers does not have under the name is
rewritten into what it has: 1bitLLM's BitNet into its own BitNet, MiniCPM's scales into the weights of a Llama.
--model DIRECTORY checks a directory of one's own."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # else every quantisation is compiled first

import numpy as np
import torch
import transformers
from models import BONSAI, CASES
from reference import Reference
from tensor_files import read_safetensors, write_safetensors

IDS = [5, 17, 261, 33, 42, 270, 1, 99, 250, 7, 8, 9, 100, 101, 102, 103, 104, 105, 106, 107, 291, 3, 2, 1]
RENAMED = {"inner_attn_ln": "attn_sub_norm", "ffn_layernorm": "ffn_sub_norm", "_proj.norm.": "_proj.rms_norm."}


def adapt(source, target):
    """Rewrites a directory into one that transformers has a class for."""
    config = json.loads((source / "config.json").read_text())
    tensors = read_safetensors(source / "model.safetensors")
    quantization = config.get("quantization_config")
    if config.pop("weight_bits", None):
        config.pop("input_bits")
        config |= {"model_type": "bitnet", "architectures": ["BitNetForCausalLM"]}
        quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    if any("_proj.norm." in name for name in tensors):
        quantization |= {"use_rms_norm": True, "rms_norm_eps": config["rms_norm_eps"]}
    if config["model_type"] == "minicpm":
        residual = config.pop("scale_depth") / np.sqrt(config["num_hidden_layers"])
        scales = {"embed_tokens": config.pop("scale_emb"), "o_proj": residual, "down_proj": residual}
        head = config.pop("dim_model_base") / config["hidden_size"]
        if "lm_head.weight" not in tensors:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        scales["lm_head"] = head
        for name in tensors:
            factor = next((f for part, f in scales.items() if part in name), 1.0)
            tensors[name] = (tensors[name].astype(np.float64) * factor).astype(np.float32)
        original = config["rope_scaling"]["original_max_position_embeddings"]
        config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
        config["original_max_position_embeddings"] = original
        config["rope_scaling"]["factor"] = config["max_position_embeddings"] / original
    if quantization is not None:
        config["quantization_config"] = quantization
    config["torch_dtype"] = "float32"
    for name in list(tensors):
        renamed = name
        for ours, theirs in RENAMED.items():
            renamed = renamed.replace(ours, theirs)
        tensor = tensors.pop(name)
        tensors[renamed] = tensor if tensor.dtype == np.uint8 else tensor.astype(np.float32)
    (target / "config.json").write_text(json.dumps(config))
    write_safetensors(target / "model.safetensors", tensors)
    add_metadata(target / "model.safetensors")
    return config


def add_metadata(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length]) | {"__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def theirs(directory, ids, hidden_states):
    with tempfile.TemporaryDirectory() as folder:
        adapt(directory, Path(folder))
        loader = transformers.AutoModel if hidden_states else transformers.AutoModelForCausalLM
        model, loading = loader.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        odd = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]
        assert not [name for name in odd if name != "lm_head.weight"], odd
        with torch.no_grad():
            out = model(torch.tensor([ids]))
    values = out.last_hidden_state if hidden_states else out.logits
    return type(model).__name__, values[0].double().numpy()


def compare(name, directory, ids, hidden_states):
    reference = Reference(directory)
    ours = reference.states(ids)[-1] if hidden_states else reference.logits(ids)
    model, other = theirs(directory, ids, hidden_states)
    cosine = (ours * other).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(other, axis=1))
    difference = np.abs(ours - other).max() / np.abs(other).max()
    print(f"{name:18} {model:24} difference {difference:.1e} cosine {cosine.min():.9f} median {np.median(cosine):.9f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--model", type=Path, help="a directory of one's own")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, numpy {np.__version__}")
    if options.model:
        compare(options.model.name, options.model, IDS, False)
        return
    for case in [*CASES, BONSAI]:
        if options.cases and case.name not in options.cases:
            continue
        folder = Path(tempfile.mkdtemp())
        case.write(folder)
        compare(case.name, folder, IDS, case.in_norms)
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
