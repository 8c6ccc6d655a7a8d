"""The exported directory (README.md, "The exported directory"): written from a trained model, read for evaluation and
fine-tuning."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from .config import ModelConfig, model_from_dict
from .data import Tokenizer
from .errors import UserError, brief
from .files import make_directory, read_json, require_space, write_atomically, write_json
from .model import BitLinear, BitNet

LARGEST_HALF = 65504.0


def pack(t: Tensor) -> numpy.ndarray:
    """[M, K] of -1, 0, +1 to bytes [M / 4, K]: quarter i of the rows in bits 2i + 1 : 2i, as t + 1."""
    codes = (t.numpy() + 1.0).astype(numpy.uint8).reshape(4, -1, t.shape[1])
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


def unpack(packed: numpy.ndarray, name: str) -> Tensor:
    codes = numpy.concatenate([packed >> shift & 3 for shift in (0, 2, 4, 6)])
    if codes.max(initial=0) == 3:
        raise UserError(f"{name}: holds the code 3, which is no ternary weight; the file is damaged")
    return torch.from_numpy(codes.astype(numpy.float32) - 1.0)


def hf_config(config: ModelConfig, tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    return {
        "_name_or_path": name,
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "relu2",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "max_position_embeddings": config.context,
        "vocab_size": tokenizer.size,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.processor.eos_id(),
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }


# Recommended sampling: keys of generation_config.json with their lowest and highest values.
SAMPLING = {
    "temperature": (1e-6, math.inf),
    "top_k": (0, (1 << 31) - 1),
    "top_p": (1e-6, 1.0),
    "repetition_penalty": (1e-6, math.inf),
}


def write(
    model: BitNet,
    tokenizer: Tokenizer,
    metadata: dict[str, Any],
    name: str,
    out: str,
    sampling: dict[str, float] | None = None,
) -> None:
    """`sampling`: values for some of SAMPLING. config.json comes last: a directory without it is one whose writer did
    not finish."""
    sampling = sampling or {}
    for key, value in sampling.items():
        low, high = SAMPLING[key]
        if not (low <= value <= high and math.isfinite(value)):
            raise UserError(f"{key}: expected {low} to {high}, found {value}")
    directory = make_directory(out)
    # At most float32 twice; a file that is being replaced is there until the new one is whole.
    require_space(directory, 12 * sum(p.numel() for p in model.parameters()) + (1 << 20), "the exported weights")
    linears = {f"{name}.weight": module for name, module in model.bit_linears().items()}
    packed: dict[str, numpy.ndarray] = {}
    master: dict[str, numpy.ndarray] = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not torch.isfinite(value).all():
                raise UserError(f"{key}: holds values that are not finite; the training has diverged")
            if key in linears:
                t, scale = linears[key].ternary()
                packed[key] = pack(t)
                packed[f"{key}_scale"] = scale.reshape(1).numpy()
                master[key] = linears[key].master().detach().numpy()
                continue
            master[key] = value.numpy()
            if "embed_tokens" in key:
                if float(value.abs().max()) > LARGEST_HALF:
                    raise UserError(f"{key}: holds {float(value.abs().max())}, beyond float16; lower the learning rate")
                value = value.half().float()
            packed[key] = value.numpy()
    try:
        (directory / "config.json").unlink(missing_ok=True)
        (directory / "generation_config.json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written to: {error.strerror}; choose another folder") from error
    for file_name, tensors in (("master.safetensors", master), ("model.safetensors", packed)):
        data = safetensors.numpy.save(tensors, metadata={"format": "pt"})
        write_atomically(directory / file_name, lambda file, data=data: file.write(data))
    tokenizer.save(directory / "tokenizer.model")
    settings = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    config = hf_config(model.config, tokenizer, name)
    write_json(directory / "tokenizer_config.json", settings)
    if sampling:
        write_json(directory / "generation_config.json", sampling)
    write_json(directory / "training.json", metadata)
    write_json(directory / "config.json", config)


def read_config(directory: str | Path) -> ModelConfig:
    path = Path(directory) / "config.json"
    values = read_json(path, "give a directory that export.py wrote")
    keys = {
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "context": "max_position_embeddings",
        "rope_base": "rope_theta",
        "norm_eps": "rms_norm_eps",
    }
    for theirs in keys.values():
        if theirs not in values:
            raise UserError(f"{path}: {theirs} is missing; give a directory that export.py wrote")
    for key, wanted in (("model_type", "bitnet"), ("hidden_act", "relu2"), ("tie_word_embeddings", True)):
        if values.get(key) != wanted:
            raise UserError(f"{path}: {key} is {values.get(key)!r}; expected {wanted!r}")
    return model_from_dict({ours: values[theirs] for ours, theirs in keys.items()}, str(path))


def _read_tensors(path: Path) -> dict[str, numpy.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # SafetensorError; of types that numpy lacks, whatever the library raises
        raise UserError(f"{path}: not a SafeTensors file that export.py wrote: {brief(error)}") from error


def _tensor(tensors: dict[str, numpy.ndarray], key: str, path: Path, shape: tuple, dtype: type) -> numpy.ndarray:
    if key not in tensors:
        raise UserError(f"{path}: tensor {key} is missing")
    found = tensors[key]
    if found.shape != shape or found.dtype != dtype:
        raise UserError(
            f"{path}: tensor {key} is {found.dtype} {list(found.shape)}, expected {numpy.dtype(dtype)} {list(shape)}"
        )
    if found.dtype.kind == "f" and not numpy.isfinite(found).all():
        raise UserError(f"{path}: tensor {key} holds values that are not finite; the file is damaged")
    return found


def _weights_file(directory: Path, weights: str) -> tuple[Path, bool]:
    """The file that load() reads, and whether it holds the master."""
    master = directory / "master.safetensors"
    use_master = weights == "float" or (weights == "train" and master.exists())
    return master if use_master else directory / "model.safetensors", use_master


def weights_digest(directory: str | Path) -> str:
    """SHA-256 of the file that fine-tuning begins from."""
    path, _ = _weights_file(Path(directory), "train")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def load(directory: str | Path, weights: str, half_cache: bool = False) -> BitNet:
    """weights: "ternary" (model.safetensors, run as the runtime runs it), "float" (master.safetensors, nothing
    rounded), or "train" (ternary mode over a master: master.safetensors, or one with the same ternary values and scale
    where there is none)."""
    directory = Path(directory)
    config = read_config(directory)
    tokenizer = Tokenizer.load(str(directory / "tokenizer.model"))
    model = BitNet(config, tokenizer.size, "float" if weights == "float" else "ternary", half_cache)
    path, use_master = _weights_file(directory, weights)
    tensors = _read_tensors(path)
    linears: dict[str, BitLinear] = {f"{name}.weight": module for name, module in model.bit_linears().items()}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if use_master or key not in linears:
                parameter.copy_(torch.from_numpy(_tensor(tensors, key, path, shape, numpy.float32)))
                continue
            t = unpack(_tensor(tensors, key, path, (shape[0] // 4, shape[1]), numpy.uint8), f"{path}: {key}")
            scale = float(_tensor(tensors, f"{key}_scale", path, (1,), numpy.float32)[0])
            if not (math.isfinite(scale) and scale > 0.0):
                raise UserError(f"{path}: {key}_scale is {scale}; expected a positive number")
            if weights == "ternary":
                parameter.copy_(t * scale)
                linears[key].fix(t, torch.tensor(scale))
            else:  # mean |W| is the scale again, and W / scale is at least 1 where t is not 0
                parameter.copy_(t * (scale / max(float(t.abs().mean()), 1.0 / t.numel())))
    return model


def load_tokenizer(directory: str | Path) -> Tokenizer:
    return Tokenizer.load(str(Path(directory) / "tokenizer.model"))
