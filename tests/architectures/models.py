"""Hugging Face directories of reduced models: a few layers, odd widths, random weights that follow from the name."""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tensor_files import BFloat16, write_safetensors
from vocabulary_files import write_byte_level, write_sentencepiece

LLAMA3_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_SCALING |= {"original_max_position_embeddings": 32}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def longrope(pairs, original):
    steps = np.arange(pairs)
    long, short = (1 + 0.5 * steps).round(3).tolist(), (1 + 0.2 * steps).round(3).tolist()
    return {"rope_type": "longrope", "long_factor": long, "short_factor": short} | {
        "original_max_position_embeddings": original
    }


@dataclass
class Case:
    name: str
    kind: str  # "llama", "bitnet", "bitnet-1bitllm", "qwen2", "qwen3", "gemma3_text", "minicpm", "gpt2"
    weights: str  # "packed", "packed-divides", "master", "f32-master", "bf16", "f32", "rows", "groups"
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int = 2
    context: int = 128
    vocab: int = 300
    tied: bool = True
    group: int = 0  # of weights "groups": columns per scale; of "rows": scales per matrix
    in_norms: bool = False
    ternary_head: bool = False  # of weights "groups": embedding and head too
    tokenizer: str = "sentencepiece"  # or a name of tokenizer.ggml.pre
    convert: str = "i2_s"  # bitnet convert --type
    embedding: str = ""  # --embedding; "": as the converter sees fit
    config: dict = field(default_factory=dict)  # what differs from the kind's defaults

    @property
    def ternary(self):
        return self.convert in ("i2_s", "tl1", "tl2", "tq1_0", "tq2_0", "q2_0")

    @property
    def reference_options(self):
        groups = {"rows": 0, "groups": self.group}.get(self.weights) if self.ternary else None
        return {"ternary_groups": groups, "half_cache": self.ternary}

    def write(self, directory):
        return Writer(self, Path(directory)).write()


# K = 8640 of the 3B is no multiple of 128; Gemma's and Qwen's heads are wider than hidden / heads.
CASES = [
    Case("bitnet_packed", "bitnet", "packed", 192, 320, 6, 2, 32, config={"rope_theta": 500000.0}),
    Case("bitnet_master", "bitnet", "master", 128, 256, 4, 4, 32),
    Case("bitnet_silu", "bitnet-1bitllm", "f32-master", 160, 448, 4, 4, 40, embedding="f32"),
    Case("llama_packed", "llama", "packed-divides", 128, 384, 4, 2, 64, tied=False, tokenizer="llama-bpe", layers=3,
         config={"rms_norm_eps": 1e-6, "rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING}),
    Case("llama_dense", "llama", "bf16", 144, 200, 6, 3, 24, tied=False, convert="bf16",
         config={"attention_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    Case("trilm_rows", "llama", "rows", 256, 512, 4, 4, 64, tied=False, group=4, convert="tq2_0", tokenizer="gpt-2"),
    Case("qwen2_dense", "qwen2", "bf16", 128, 192, 4, 2, 32, convert="f16", tokenizer="qwen2"),
    Case("qwen3_dense", "qwen3", "bf16", 128, 192, 4, 2, 40, convert="bf16", tokenizer="qwen2",
         config={"rope_theta": 1000000.0}),
    Case("qwen3_groups", "qwen3", "groups", 256, 512, 4, 2, 64, tied=False, group=256, convert="tq2_0",
         tokenizer="qwen2", config={"rope_scaling": YARN_SCALING}),
    Case("embedding_qwen3", "qwen3", "master", 128, 320, 4, 2, 64, in_norms=True, tokenizer="qwen2",
         config={"rope_theta": 1000000.0}),
    Case("embedding_gemma3", "gemma3_text", "master", 128, 256, 4, 1, 64, in_norms=True,
         config={"query_pre_attn_scalar": 64, "rope_theta": 10000.0, "sliding_window": 512}),
    Case("gemma3_dense", "gemma3_text", "bf16", 128, 256, 4, 1, 48, layers=3, convert="bf16",
         config={"query_pre_attn_scalar": 60, "sliding_window": 7, "sliding_window_pattern": 3,
                 "rope_theta": 1000000.0}),
    Case("minicpm_dense", "minicpm", "bf16", 128, 256, 4, 2, 32, tied=False, convert="bf16",
         config={"rope_scaling": longrope(16, 16)}),
    Case("minicpm_groups", "minicpm", "groups", 256, 512, 4, 2, 64, group=256, convert="tq2_0",
         config={"rope_scaling": longrope(32, 128)}),
    Case("gpt2_dense", "gpt2", "f32", 96, 384, 4, 4, 24, convert="f32", tokenizer="gpt-2"),
]  # fmt: skip
# Widths of the Q2_0 file that test_architectures.py writes itself: nothing converts to that type.
BONSAI = Case("bonsai_q2_0", "qwen3", "groups", 128, 192, 4, 2, 32, tied=False, group=64, ternary_head=True,
              convert="q2_0", tokenizer="qwen2")  # fmt: skip

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "bitnet": "BitNetForCausalLM",
    "bitnet-1bitllm": "BitnetForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "minicpm": "MiniCPMForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


class Writer:
    def __init__(self, case, directory):
        self.case, self.directory, self.tensors = case, directory, {}

    def random(self, name, *shape):
        generator = np.random.default_rng(zlib.crc32(f"{self.case.name}/{name}".encode()))
        return generator.standard_normal(shape).astype(np.float32)

    def write(self):
        case, directory = self.case, self.directory
        directory.mkdir(parents=True, exist_ok=True)
        if case.tokenizer == "sentencepiece":
            ids = write_sentencepiece(directory, case.vocab, dummy_prefix=case.kind != "gemma3_text")
        else:
            end = "<|im_end|>" if case.tokenizer == "qwen2" else "<|end_of_text|>"
            begin = "<|begin_of_text|>" if case.tokenizer == "llama-bpe" else "<|endoftext|>"
            end = begin if case.tokenizer == "gpt-2" else end
            ids = write_byte_level(directory, case.tokenizer, begin, end, case.vocab)
        config = self.gpt2() if case.kind == "gpt2" else self.llama_like()
        config |= {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"]}
        (directory / "config.json").write_text(json.dumps(config, indent=1))
        write_safetensors(directory / "model.safetensors", self.tensors)
        if case.in_norms:
            self.write_pooling()
        return config

    def write_pooling(self):
        """The files by which sentence-transformers says how tokens become a vector."""
        modules = [("0", "", "models.Transformer"), ("1", "1_Pooling", "models.Pooling"),
                   ("2", "2_Normalize", "models.Normalize")]  # fmt: skip
        listed = [{"idx": int(i), "name": i, "path": p, "type": f"sentence_transformers.{t}"} for i, p, t in modules]
        (self.directory / "modules.json").write_text(json.dumps(listed))
        (self.directory / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": self.case.hidden, "pooling_mode_cls_token": False}
        pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
        (self.directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    def store(self, name, values):
        """As the checkpoint stores what is not ternary."""
        kind = self.case.weights
        if kind in ("f32", "f32-master"):
            self.tensors[name] = values.astype(np.float32)
        elif kind in ("rows", "groups"):
            self.tensors[name] = values.astype(np.float16)
        else:
            self.tensors[name] = BFloat16(values)

    def norm(self, name, width, around=None):
        zero = 0.0 if self.case.kind == "gemma3_text" else 1.0
        self.store(name, (zero if around is None else around) + 0.2 * self.random(name, width))

    def linear(self, name, rows, columns, bias=False):
        case = self.case
        weight = self.random(name, rows, columns) * (1.2 / np.sqrt(columns))
        if bias:
            self.store(name + ".bias", 0.3 * self.random(name + ".bias", rows))
        stored = ("bf16", "f32", "master", "f32-master")
        if (name == "lm_head" and not case.ternary_head) or case.weights in stored:
            self.store(name + ".weight", weight)
            return
        codes = np.clip(np.round(weight / np.abs(weight).mean()), -1, 1).astype(np.int8)
        scale = float(np.abs(weight).mean())
        if case.weights.startswith("packed"):
            quarters = (codes + 1).astype(np.uint8).reshape(4, rows // 4, columns)
            self.tensors[name + ".weight"] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            self.tensors[name + ".weight_scale"] = BFloat16([scale if case.weights == "packed" else 1 / scale])
            return
        self.tensors[name + ".weight"] = self.scaled(name, codes, scale)

    def scaled(self, name, codes, scale):
        """float16 weights t * scale: a scale per block of rows, or per row and K-group."""
        case = self.case
        rows, columns = codes.shape
        spread = 1 + 0.5 * self.random(name + ".scales", rows, columns // case.group).clip(-1, 1)
        if case.weights == "rows":  # `group` blocks of rows, a scale each
            spread = np.repeat(spread[: case.group, 0], rows // case.group)[:, None]
        scales = (scale * spread).astype(np.float16)
        blocks = codes.reshape(rows, scales.shape[1], -1) * scales[..., None]
        return blocks.reshape(rows, columns).astype(np.float16)

    def llama_like(self):
        case = self.case
        gemma, embedding = case.kind == "gemma3_text", case.in_norms
        prefix = "" if embedding else "model."
        bias = case.kind == "qwen2" or case.config.get("attention_bias", False)
        width, kv_width = case.heads * case.head_dim, case.kv_heads * case.head_dim
        # Small enough that what the blocks add decides the logits, also after the architecture's own scale.
        spread = {"gemma3_text": 0.3 / np.sqrt(case.hidden), "minicpm": 0.3 / 12}.get(case.kind, 0.3)
        embedding = self.random("embedding", case.vocab, case.hidden)
        if case.ternary_head:
            embedding = self.scaled("embedding", np.clip(np.round(embedding), -1, 1).astype(np.int8), spread)
        else:
            embedding *= spread
        self.store(prefix + "embed_tokens.weight", embedding)
        for i in range(case.layers):
            layer = f"{prefix}layers.{i}."
            norms = ["input_layernorm", "post_attention_layernorm"]
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
            for norm in norms:
                self.norm(f"{layer}{norm}.weight", case.hidden)
            if case.kind in ("qwen3", "gemma3_text"):
                self.norm(layer + "self_attn.q_norm.weight", case.head_dim)
                self.norm(layer + "self_attn.k_norm.weight", case.head_dim)
            if case.kind.startswith("bitnet"):
                own = case.kind == "bitnet"
                self.norm(layer + ("self_attn.attn_sub_norm" if own else "self_attn.inner_attn_ln") + ".weight", width)
                self.norm(layer + ("mlp.ffn_sub_norm" if own else "mlp.ffn_layernorm") + ".weight", case.ffn)
            shapes = {"q": (width, case.hidden), "k": (kv_width, case.hidden), "v": (kv_width, case.hidden)}
            shapes = {f"self_attn.{name}_proj": shape for name, shape in shapes.items()}
            shapes |= {"self_attn.o_proj": (case.hidden, width), "mlp.gate_proj": (case.ffn, case.hidden)}
            shapes |= {"mlp.up_proj": (case.ffn, case.hidden), "mlp.down_proj": (case.hidden, case.ffn)}
            for name, (rows, columns) in shapes.items():
                biased = bias and "attn" in name and not (case.kind == "qwen2" and "o_proj" in name)
                self.linear(layer + name, rows, columns, biased)
                if case.in_norms:
                    self.norm(f"{layer}{name}.norm.weight", columns, around=1.0)
        self.norm(prefix + "norm.weight", case.hidden)
        if not case.tied:
            self.linear("lm_head", case.vocab, case.hidden)
        return self.llama_like_config()

    def llama_like_config(self):
        case = self.case
        onebit = case.kind == "bitnet-1bitllm"
        model = ARCHITECTURES[case.kind].replace("ForCausalLM", "TextModel" if case.kind == "gemma3_text" else "Model")
        config = {
            "architectures": [model if case.in_norms else ARCHITECTURES[case.kind]],
            "model_type": "llama" if onebit else case.kind,
            "hidden_size": case.hidden,
            "intermediate_size": case.ffn,
            "num_hidden_layers": case.layers,
            "num_attention_heads": case.heads,
            "num_key_value_heads": case.kv_heads,
            "hidden_act": "relu2" if case.kind == "bitnet" else "silu",
            "rms_norm_eps": 1e-6 if case.kind in ("qwen2", "qwen3", "gemma3_text") else 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": case.context,
            "vocab_size": case.vocab,
            "tie_word_embeddings": case.tied,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        }
        if case.head_dim * case.heads != case.hidden or case.kind in ("qwen3", "gemma3_text"):
            config["head_dim"] = case.head_dim
        if case.kind in ("llama", "qwen3"):
            config["attention_bias"] = False
        if case.kind == "llama":
            config["mlp_bias"] = False
        if onebit:
            config |= {"weight_bits": 1, "input_bits": 8}
        if case.kind == "gemma3_text":
            config.pop("hidden_act")
            config |= {"hidden_activation": "gelu_pytorch_tanh", "rope_local_base_freq": 10000.0}
            config |= {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": False}
        if case.kind == "minicpm":
            config |= {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64}
        if case.weights == "packed":
            quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
        elif case.weights == "packed-divides":
            quantization = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
        elif case.weights == "master":
            quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
        else:
            quantization = None
        if quantization is not None:
            config["quantization_config"] = quantization
        return config | case.config

    def gpt2(self):
        case = self.case
        self.store("wte.weight", self.random("wte", case.vocab, case.hidden) * 0.3)
        self.store("wpe.weight", self.random("wpe", case.context, case.hidden) * 0.2)
        for i in range(case.layers):
            layer = f"h.{i}."
            for norm in ("ln_1", "ln_2"):
                self.layer_norm(layer + norm)
            for name, rows, columns in (("attn.c_attn", 3 * case.hidden, case.hidden),
                                        ("attn.c_proj", case.hidden, case.hidden),
                                        ("mlp.c_fc", case.ffn, case.hidden),
                                        ("mlp.c_proj", case.hidden, case.ffn)):  # fmt: skip
                weight = self.random(layer + name, columns, rows) * (1.2 / np.sqrt(columns))
                self.store(f"{layer}{name}.weight", weight)
                self.store(f"{layer}{name}.bias", 0.2 * self.random(layer + name + ".bias", rows))
        self.layer_norm("ln_f")
        return {
            "architectures": [ARCHITECTURES["gpt2"]],
            "model_type": "gpt2",
            "n_embd": case.hidden,
            "n_layer": case.layers,
            "n_head": case.heads,
            "n_positions": case.context,
            "n_ctx": case.context,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "vocab_size": case.vocab,
            "torch_dtype": "float32",
        }

    def layer_norm(self, name):
        self.store(name + ".weight", 1 + 0.2 * self.random(name + ".weight", self.case.hidden))
        self.store(name + ".bias", 0.2 * self.random(name + ".bias", self.case.hidden))
