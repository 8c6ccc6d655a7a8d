"""Forward pass of a Hugging Face directory in NumPy, in the directory's own conventions (names, packing, row order,
RoPE halves, Gemma's 1 + w, Conv1D), so that nothing of the converter or of the runtime is in it.

Weights that a quantization_config calls ternary, and those that Reference(ternary_groups=...) says are, meet
activations rounded to int8 per token (a = 127 / max|x|, q = round_half_even(a x)); all else is float64."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensor_files import read_safetensors


def quantize(x, dtype=np.float64):
    """Per row: int8 values as `dtype`, and the activation scale a [rows, 1]."""
    x = x.astype(dtype)
    scale = dtype(127.0) / np.maximum(np.abs(x).max(axis=-1, keepdims=True), dtype(1e-5))
    return np.round(x * scale), scale


def to_half(x):
    return x.astype(np.float16).astype(np.float64)


@dataclass
class Linear:
    """y = W x + bias. Ternary: codes int8 [N, K] and scales float32 [groups, N]; dense: matrix float64 [N, K]."""

    matrix: np.ndarray | None = None
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    group: int = 0  # columns per scale; 0: all of them
    bias: np.ndarray | None = None
    in_norm: np.ndarray | None = None

    @property
    def ternary(self):
        return self.codes is not None

    def sums(self, q):
        """The exact integer products of rows of int8 activations: [groups, rows, N] float64."""
        k = self.codes.shape[1]
        step = self.group or k
        codes = self.codes.astype(np.float64)
        return np.stack([q[:, at : at + step] @ codes[:, at : at + step].T for at in range(0, k, step)])

    def __call__(self, x):
        if self.ternary:
            q, a = quantize(x)
            y = (self.sums(q) * self.scales.astype(np.float64)[:, None, :]).sum(axis=0) / a
        else:
            y = x @ self.matrix.T
        return y if self.bias is None else y + self.bias


def unpack(packed):
    """Packed codes [M / 4, K] -> [M, K]: bits 1:0 hold the first quarter of the rows, each value plus 1."""
    return np.concatenate([(packed >> shift) & 3 for shift in (0, 2, 4, 6)]).astype(np.int8) - 1


def absmean(weights):
    """Master weights -> codes and scale: multiples of the mean magnitude, rounded half to even, within -1..1."""
    weights = weights.astype(np.float32)
    scale = np.float32(max(np.abs(weights).mean(dtype=np.float64), 1e-5))
    return np.clip(np.round(weights * (np.float32(1) / scale)), -1, 1).astype(np.int8), scale


def grouped(weights, group):
    """Weights that are t * scale, one scale per row and `group` columns (0: per row) -> codes, scales [groups, N]."""
    rows, columns = weights.shape
    blocks = weights.reshape(rows, -1, group or columns).astype(np.float32)
    scales = np.abs(blocks).max(axis=2)
    codes = np.round(blocks / np.where(scales == 0, 1, scales)[..., None])
    assert np.array_equal(codes * scales[..., None], blocks), "not ternary by these groups"
    return codes.reshape(rows, columns).astype(np.int8), np.ascontiguousarray(scales.T)


def relu2(x):
    return np.maximum(x, 0) ** 2


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"relu2": relu2, "silu": silu, "gelu_pytorch_tanh": gelu, "gelu_new": gelu}


def rms_norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * gain


def layer_norm(x, gain, bias, eps):
    x = x - x.mean(axis=-1, keepdims=True)
    return rms_norm(x, gain, eps) + bias


def rope_frequencies(config, head_dim, length, base):
    """Angle per position of each pair, and what multiplies cosines and sines."""
    pairs = np.arange(0, head_dim, 2) / head_dim
    frequencies = base**-pairs
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "llama3":
        factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = original * frequencies / (2 * np.pi)  # within the original context
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (smooth + (1 - smooth) / factor), 1.0
    if kind == "yarn":
        factor = scaling["factor"]
        original = scaling.get("original_max_position_embeddings", config["max_position_embeddings"])

        def pair_of(turns):
            return head_dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))

        low = max(np.floor(pair_of(scaling.get("beta_fast", 32))), 0)
        high = min(np.ceil(pair_of(scaling.get("beta_slow", 1))), head_dim - 1)
        ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1)
        mixed = frequencies / factor * ramp + frequencies * (1 - ramp)
        return mixed, scaling.get("attention_factor") or 0.1 * np.log(factor) + 1
    if kind == "longrope":
        original = scaling["original_max_position_embeddings"]
        factors = scaling["long_factor" if length > original else "short_factor"]
        stretch = config["max_position_embeddings"] / original
        return frequencies / np.array(factors), np.sqrt(1 + np.log(max(stretch, 1)) / np.log(original))
    assert kind == "default", kind
    return frequencies, 1.0


def rotate(x, frequencies, magnitude, first=0):
    """x [rows, heads, head_dim]; pairs are (i, i + head_dim / 2)."""
    angles = (first + np.arange(len(x)))[:, None, None] * frequencies
    cosines, sines = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1)


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Layer:
    """The tensors of one block under common names; absent ones are None."""

    NORMS = {
        "attn_norm": ("input_layernorm.weight",),
        "attn_sub_norm": ("self_attn.attn_sub_norm.weight", "self_attn.inner_attn_ln.weight"),
        "q_norm": ("self_attn.q_norm.weight",),
        "k_norm": ("self_attn.k_norm.weight",),
        "ffn_sub_norm": ("mlp.ffn_sub_norm.weight", "mlp.ffn_layernorm.weight"),
    }
    PROJECTIONS = {
        **{name: f"self_attn.{name}_proj" for name in "qkvo"},
        **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    }


class Reference:
    def __init__(self, directory, ternary_groups=None, half_cache=False):
        """ternary_groups: the float weights are ternary with one scale per row and so many columns (0: per row).
        half_cache: q, k and v are rounded to float16, as the runtime does."""
        directory = Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        tensors = read_safetensors(directory / "model.safetensors")
        prefixes = ("model.", "transformer.")
        self.tensors = {next((n[len(p) :] for p in prefixes if n.startswith(p)), n): t for n, t in tensors.items()}
        self.groups = ternary_groups
        self.half = to_half if half_cache else (lambda x: x)
        self.kind = self.config["model_type"]
        self.gemma = self.kind == "gemma3_text"
        if self.kind == "gpt2":
            self._read_gpt2()
        else:
            self._read_llama_like()

    # The two families of names.

    def _read_llama_like(self):
        config = self.config
        self.hidden, self.layers = config["hidden_size"], config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.head_dim = config.get("head_dim") or self.hidden // self.heads
        self.eps = config["rms_norm_eps"]
        self.activation = ACTIVATIONS[config.get("hidden_activation") or config["hidden_act"]]
        self.scale = config.get("query_pre_attn_scalar", self.head_dim) ** -0.5
        self.embedding_scale, self.residual_scale, self.logit_scale = 1.0, 1.0, 1.0
        if self.gemma:
            self.embedding_scale = np.sqrt(self.hidden)
        if self.kind == "minicpm":
            self.embedding_scale = config["scale_emb"]
            self.residual_scale = config["scale_depth"] / np.sqrt(self.layers)
            self.logit_scale = config["dim_model_base"] / self.hidden
        self.embedding = self._float("embed_tokens.weight")
        self.positions = None
        self.head = self._linear("lm_head") if "lm_head.weight" in self.tensors else None
        self.output_norm = self._norm("norm.weight")
        self.blocks = [self._block(f"layers.{i}.") for i in range(self.layers)]

    def _block(self, prefix):
        block = Layer()
        for name, choices in Layer.NORMS.items():
            found = [prefix + choice for choice in choices if prefix + choice in self.tensors]
            setattr(block, name, self._norm(found[0]) if found else None)
        second = "pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"
        block.ffn_norm = self._norm(prefix + second + ".weight")
        block.post_attention = self._norm(prefix + "post_attention_layernorm.weight") if self.gemma else None
        block.post_ffn = self._norm(prefix + "post_feedforward_layernorm.weight") if self.gemma else None
        for name, projection in Layer.PROJECTIONS.items():
            setattr(block, name, self._linear(prefix + projection))
        return block

    def _read_gpt2(self):
        config = self.config
        self.hidden, self.layers, self.heads = config["n_embd"], config["n_layer"], config["n_head"]
        self.kv_heads, self.head_dim = self.heads, self.hidden // self.heads
        self.eps = config["layer_norm_epsilon"]
        self.activation = ACTIVATIONS[config["activation_function"]]
        self.scale = self.head_dim**-0.5
        self.embedding_scale = self.residual_scale = self.logit_scale = 1.0
        self.embedding, self.positions = self._float("wte.weight"), self._float("wpe.weight")
        self.head = None
        self.output_norm = self._layer_norm("ln_f")
        self.blocks = []
        for i in range(self.layers):
            block, prefix = Layer(), f"h.{i}."
            for name in ("attn_sub_norm", "q_norm", "k_norm", "ffn_sub_norm", "post_attention", "post_ffn", "gate"):
                setattr(block, name, None)
            block.attn_norm, block.ffn_norm = self._layer_norm(prefix + "ln_1"), self._layer_norm(prefix + "ln_2")
            fused = self._conv1d(prefix + "attn.c_attn")
            rows = np.split(np.arange(3 * self.hidden), 3)
            block.q, block.k, block.v = (Linear(fused.matrix[r], bias=fused.bias[r]) for r in rows)
            block.o = self._conv1d(prefix + "attn.c_proj")
            block.up, block.down = self._conv1d(prefix + "mlp.c_fc"), self._conv1d(prefix + "mlp.c_proj")
            self.blocks.append(block)

    def _float(self, name):
        return self.tensors[name].astype(np.float64)

    def _norm(self, name):
        gain = self._float(name) + (1.0 if self.gemma else 0.0)
        return lambda x: rms_norm(x, gain, self.eps)

    def _layer_norm(self, name):
        gain, bias = self._float(name + ".weight"), self._float(name + ".bias")
        return lambda x: layer_norm(x, gain, bias, self.eps)

    def _conv1d(self, name):
        return Linear(self._float(name + ".weight").T, bias=self._float(name + ".bias"))

    def _linear(self, name):
        weight = self.tensors[name + ".weight"]
        linear = Linear()
        quantization = self.config.get("quantization_config")
        if self.groups is not None and name != "lm_head":
            linear.codes, linear.scales = grouped(weight, self.groups)
            linear.group = self.groups
        elif name == "lm_head" or (quantization is None and "weight_bits" not in self.config):
            linear.matrix = weight.astype(np.float64)
        elif weight.dtype == np.uint8:
            linear.codes = unpack(weight)
            scale = self.tensors[name + ".weight_scale"].astype(np.float32).reshape(())
            if quantization.get("linear_class", "bitlinear") == "bitlinear":
                scale = np.float32(1) / scale
            linear.scales = np.full((1, len(linear.codes)), scale, np.float32)
        else:
            linear.codes, scale = absmean(weight)
            linear.scales = np.full((1, len(weight)), scale, np.float32)
        if name + ".bias" in self.tensors:
            linear.bias = self._float(name + ".bias")
        for own_norm in (name + ".norm.weight", name + ".rms_norm.weight"):
            if own_norm in self.tensors:
                linear.in_norm = self._float(own_norm)
        return linear

    # The graph.

    def windowed(self, layer):
        """How many positions, its own included, each position of the layer sees; 0: all."""
        window = self.config.get("sliding_window") or 0
        if not window or self.config.get("use_sliding_window") is False:
            return 0
        if "layer_types" in self.config:
            return window if self.config["layer_types"][layer] == "sliding_attention" else 0
        pattern = self.config.get("sliding_window_pattern", 6 if self.gemma else 0)
        return window if not pattern or (layer + 1) % pattern else 0

    def rope(self, layer, length):
        if self.kind == "gpt2":
            return None
        config, base = self.config, self.config["rope_theta"]
        if self.gemma and self.windowed(layer):
            config, base = {}, self.config.get("rope_local_base_freq", 10000.0)
        return rope_frequencies(config, self.head_dim, length, base)

    def project(self, linear, x):
        return linear(x if linear.in_norm is None else rms_norm(x, linear.in_norm, self.eps))

    def qkv(self, layer, x, first=0, length=None):
        """From the normed input [n, hidden] of positions first..: rotated and rounded q, k, v [n, heads, head_dim]."""
        block, rope = self.blocks[layer], self.rope(layer, length or first + len(x))
        q, k, v = (self.project(linear, x).reshape(len(x), -1, self.head_dim) for linear in (block.q, block.k, block.v))
        return self.turn(block, rope, q, k, first) + (self.half(v),)

    def turn(self, block, rope, q, k, first=0):
        if block.q_norm is not None:
            q, k = block.q_norm(q), block.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope, first), rotate(k, *rope, first)
        return self.half(q), self.half(k)

    def attend(self, layer, q, k, v):
        """All positions of k and v from 0 on; q may be the last of them. [n, heads * head_dim]."""
        n, length, share = len(q), len(k), self.heads // self.kv_heads
        positions, seen = np.arange(length - n, length)[:, None], np.arange(length)[None, :]
        hidden = seen > positions
        if window := self.windowed(layer):
            hidden |= seen <= positions - window
        out = np.empty((n, self.heads, self.head_dim))
        for head in range(self.heads):
            scores = q[:, head] @ k[:, head // share].T * self.scale
            out[:, head] = softmax(np.where(hidden, -np.inf, scores)) @ v[:, head // share]
        return out.reshape(n, -1)

    def attention_output(self, layer, attended):
        block = self.blocks[layer]
        if block.attn_sub_norm is not None:
            attended = block.attn_sub_norm(attended)
        out = self.project(block.o, attended)
        return block.post_attention(out) if block.post_attention is not None else out

    def ffn(self, layer, x):
        """From the normed input to what is added to the residual stream."""
        block = self.blocks[layer]
        up = self.project(block.up, x)
        y = self.activation(up) if block.gate is None else self.activation(self.project(block.gate, x)) * up
        if block.ffn_sub_norm is not None:
            y = block.ffn_sub_norm(y)
        out = self.project(block.down, y)
        return block.post_ffn(out) if block.post_ffn is not None else out

    def states(self, ids):
        """The input of each layer and the normed output: [layers + 2][n, hidden]."""
        x = self.embedding[ids] * self.embedding_scale
        if self.positions is not None:
            x = x + self.positions[: len(ids)]
        states = []
        for layer, block in enumerate(self.blocks):
            states.append(x)
            attended = self.attend(layer, *self.qkv(layer, block.attn_norm(x)))
            x = x + self.residual_scale * self.attention_output(layer, attended)
            x = x + self.residual_scale * self.ffn(layer, block.ffn_norm(x))
        return [*states, x, self.output_norm(x)]

    def logits(self, ids):
        state = self.states(ids)[-1] * self.logit_scale
        return state @ self.embedding.T if self.head is None else self.head(state)

    def pooled(self, ids, pooling="last"):
        """The sentence's vector, of length 1."""
        state = self.states(ids)[-1]
        vector = state[-1] if pooling == "last" else state.mean(axis=0)
        return vector / np.linalg.norm(vector)
