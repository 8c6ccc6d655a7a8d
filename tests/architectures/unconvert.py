"""A GGUF file of architecture bitnet-b1.58 (I2_S, x86 layout) back into a packed Hugging Face directory: how the
default model, whose checkpoint is not in the repository, reaches the reference and transformers."""

import json
from pathlib import Path

import numpy as np
from tensor_files import GgufReader, write_safetensors

PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS = {
    "attn_norm": "input_layernorm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}


def unconvert(path, directory):
    """Writes config.json and model.safetensors; the tokenizer stays behind."""
    file = GgufReader(path)
    prefix = "bitnet-b1.58."
    key = {name.removeprefix(prefix): value for name, value in file.metadata.items() if name.startswith(prefix)}
    config = {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "hidden_size": key["embedding_length"],
        "intermediate_size": key["feed_forward_length"],
        "num_hidden_layers": key["block_count"],
        "num_attention_heads": key["attention.head_count"],
        "num_key_value_heads": key["attention.head_count_kv"],
        "hidden_act": "relu2",
        "rms_norm_eps": round(key["attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": key["rope.freq_base"],
        "max_position_embeddings": key["context_length"],
        "vocab_size": file.tensors["token_embd.weight"][0][1],
        "tie_word_embeddings": True,
        "bos_token_id": file.metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": file.metadata["tokenizer.ggml.eos_token_id"],
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }
    tensors = {"model.embed_tokens.weight": file.floats("token_embd.weight")}
    tensors["model.norm.weight"] = file.floats("output_norm.weight")
    for i in range(config["num_hidden_layers"]):
        for ours, theirs in NORMS.items():
            tensors[f"model.layers.{i}.{theirs}.weight"] = file.floats(f"blk.{i}.{ours}.weight")
        for ours, theirs in PROJECTIONS.items():
            codes, scale = file.ternary(f"blk.{i}.{ours}.weight")
            quarters = (codes + 1).astype(np.uint8).reshape(4, -1, codes.shape[1])
            packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            tensors[f"model.layers.{i}.{theirs}.weight"] = packed
            tensors[f"model.layers.{i}.{theirs}.weight_scale"] = np.array([scale], np.float32)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    write_safetensors(directory / "model.safetensors", tensors)
