"""The model: a Llama-like transformer whose seven projections a block are BitLinear, with BitNet's two sub-norms.

    x -> norm -> q, k, v -> RoPE (halves) -> attention -> attn_sub_norm -> o -> + x
      -> norm -> gate, up -> relu(gate)^2 * up -> ffn_sub_norm -> down -> + x

T tokens of a sequence, B sequences; H hidden, F ffn, D head size. Names of parameters are those of Hugging Face's
BitNet, so that exported tensors carry them as they are. `observe`, where given, is called with the name and value of
every node of the graph, for comparisons with the runtime.
"""

from collections.abc import Callable

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import quantize
from .config import ModelConfig

Observer = Callable[[str, Tensor], None]
MODES = ("ternary", "float")  # float: the master weights as they are, activations not rounded


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * gain. The gradient by hand takes half the passes over memory that autograd takes."""

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        inverse = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
        ctx.save_for_backward(x, gain, inverse)
        return (x * inverse).mul_(gain)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, inverse = ctx.saved_tensors
        along = grad * x
        mean = (along @ gain).unsqueeze(-1) / x.shape[-1]
        grad_gain = inverse.flatten() @ along.flatten(0, -2)
        return (grad * gain).mul_(inverse).addcmul_(x, mean * inverse**3, value=-1.0), grad_gain, None


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps)


class BitLinear(nn.Module):
    """y [.., N] of inputs [.., K] that quantise() has seen. `weight` [N, K] is the float master.

    In ternary mode a fixed matrix (t, scale), set by fix(), stands in for the master: exported weights are run with it.
    """

    def __init__(self, rows: int, columns: int, mode: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.mode = mode
        self.fixed: tuple[Tensor, Tensor] | None = None
        self.lora: nn.ParameterList | None = None
        self.lora_factor = 0.0

    def fix(self, t: Tensor, scale: Tensor) -> None:
        self.fixed = (t, scale)

    def add_lora(self, rank: int, alpha: float) -> None:
        """Freezes the master and adds B A to it; B begins at 0, so nothing changes at first."""
        a = torch.randn(rank, self.weight.shape[1]) / self.weight.shape[1] ** 0.5
        self.lora = nn.ParameterList([nn.Parameter(a), nn.Parameter(torch.zeros(self.weight.shape[0], rank))])
        self.lora_factor = alpha / rank
        self.weight.requires_grad_(False)

    def master(self) -> Tensor:
        if self.lora is None:
            return self.weight
        return self.weight + (self.lora[1] @ self.lora[0]) * self.lora_factor

    def merge_lora(self) -> None:
        """The sum becomes the master."""
        with torch.no_grad():
            self.weight.copy_(self.master())
        self.lora = None
        self.weight.requires_grad_(True)

    def ternary(self) -> tuple[Tensor, Tensor]:
        return self.fixed if self.fixed is not None else quantize.ternary(self.master())

    def forward(self, q: Tensor, s: Tensor | None) -> Tensor:
        if s is None:
            return functional.linear(q, self.master())
        if self.fixed is None:
            return quantize.product(q, s, self.master())
        t, scale = self.fixed
        return functional.linear(q, t) * (scale / s)


def rope_angles(length: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim / 2]; the angle of a pair is that of the one before, times a float32 factor,
    and the functions are double: the runtime's definition."""
    factor = torch.tensor(float(base) ** float(torch.tensor(-2.0) / head_dim), dtype=torch.float64).float()
    angle = torch.arange(length, dtype=torch.float32)
    angles = []
    for _ in range(head_dim // 2):
        angles.append(angle)
        angle = angle * factor
    stacked = torch.stack(angles, dim=1).double()
    return torch.cos(stacked).float(), torch.sin(stacked).float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x [B, heads, T, D]: pairs (i, i + D / 2) turned by the angles of their position."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosines - b * sines, a * sines + b * cosines), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, mode: str):
        super().__init__()
        self.config = config
        self.q_proj = BitLinear(config.hidden, config.hidden, mode)
        self.k_proj = BitLinear(config.kv_width, config.hidden, mode)
        self.v_proj = BitLinear(config.kv_width, config.hidden, mode)
        self.attn_sub_norm = RMSNorm(config.hidden, config.norm_eps)
        self.o_proj = BitLinear(config.hidden, config.hidden, mode)


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig, mode: str):
        super().__init__()
        self.gate_proj = BitLinear(config.ffn, config.hidden, mode)
        self.up_proj = BitLinear(config.ffn, config.hidden, mode)
        self.ffn_sub_norm = RMSNorm(config.ffn, config.norm_eps)
        self.down_proj = BitLinear(config.hidden, config.ffn, mode)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, mode: str):
        super().__init__()
        self.config = config
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config, mode)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = FeedForward(config, mode)


class _Trunk(nn.Module):
    """The part that Hugging Face calls `model`."""

    def __init__(self, config: ModelConfig, vocab: int, mode: str):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, config.hidden)
        self.layers = nn.ModuleList(Block(config, mode) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)


class BitNet(nn.Module):
    """`mode`: see MODES. `half_cache`: queries, keys and values are rounded to float16 as in the runtime."""

    def __init__(self, config: ModelConfig, vocab: int, mode: str = "ternary", half_cache: bool = False):
        super().__init__()
        if mode not in MODES:
            raise ValueError(mode)
        self.config = config
        self.mode = mode
        self.half_cache = half_cache
        self.dropout = 0.0
        self.noise = numpy.random.Generator(numpy.random.SFC64(0))  # of dropout; the trainer seeds it every step
        self.model = _Trunk(config, vocab, mode)
        cosines, sines = rope_angles(config.context, config.head_dim, config.rope_base)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        mask = torch.full((config.context, config.context), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
            elif "embed_tokens" in name:
                nn.init.normal_(parameter, std=0.05)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def bit_linears(self) -> dict[str, BitLinear]:
        return {name: module for name, module in self.named_modules() if isinstance(module, BitLinear)}

    def _quantise(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return quantize.activations(x) if self.mode == "ternary" else (x, None)

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout in steps of 1/256 from random bytes: torch's own draws cost as much as the products of the block."""
        steps = round(self.dropout * 256)
        if not self.training or steps == 0:
            return x
        drawn = torch.frombuffer(bytearray(self.noise.bytes(x.numel())), dtype=torch.uint8).view(x.shape)
        return x * ((drawn >= steps).float() * (256.0 / (256 - steps)))

    def _attention(self, block: Block, x: Tensor, see: Observer) -> Tensor:
        c, attention = self.config, block.self_attn
        batch, length, _ = x.shape
        normed = block.input_layernorm(x)
        see("attn_norm", normed)
        q8, s = self._quantise(normed)
        q, k, v = attention.q_proj(q8, s), attention.k_proj(q8, s), attention.v_proj(q8, s)
        see("q", q), see("k", k), see("v", v)
        cosines, sines = self.cosines[:length], self.sines[:length]
        q = rotate(q.view(batch, length, c.heads, c.head_dim).transpose(1, 2), cosines, sines)
        k = rotate(k.view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2), cosines, sines)
        v = v.view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)
        see("q_rope", q.transpose(1, 2)), see("k_rope", k.transpose(1, 2))
        if self.half_cache:
            q, k, v = q.half().float(), k.half().float(), v.half().float()
        # The query heads of a key/value head lie side by side: [B, kv heads, group * T, D].
        group = c.heads // c.kv_heads
        q = q.reshape(batch, c.kv_heads, group * length, c.head_dim)
        scores = q @ (k.transpose(-1, -2) * c.head_dim**-0.5)
        scores = scores.view(batch, c.kv_heads, group, length, length) + self.mask[:length, :length]
        weights = functional.softmax(scores, dim=-1).view(batch, c.kv_heads, group * length, length)
        attended = (weights @ v).view(batch, c.heads, length, c.head_dim)
        see("softmax", weights.view(batch, c.heads, length, length)), see("heads", attended)
        attended = attended.transpose(1, 2).reshape(batch, length, c.hidden)
        see("attended", attended)
        normed = attention.attn_sub_norm(attended)
        see("attn_sub_norm", normed)
        q8, s = self._quantise(normed)
        out = attention.o_proj(q8, s)
        see("o", out)
        return out

    def _feed_forward(self, block: Block, x: Tensor, see: Observer) -> Tensor:
        mlp = block.mlp
        normed = block.post_attention_layernorm(x)
        see("ffn_norm", normed)
        q8, s = self._quantise(normed)
        gate, up = mlp.gate_proj(q8, s), mlp.up_proj(q8, s)
        see("gate", gate), see("up", up)
        active = functional.relu(gate).square()
        gated = active * up
        see("active", active), see("gated", gated)
        sub_normed = mlp.ffn_sub_norm(gated)
        see("ffn_sub_norm", sub_normed)
        q8, s = self._quantise(sub_normed)
        out = mlp.down_proj(q8, s)
        see("down", out)
        return out

    def forward(self, ids: Tensor, observe: Observer | None = None) -> Tensor:
        """Logits [B, T, vocab] of ids [B, T], T at most config.context."""
        x = self._drop(self.model.embed_tokens(ids))
        if observe:
            observe("embedding", x)
        for i, block in enumerate(self.model.layers):
            see: Observer = (lambda name, value, i=i: observe(f"{name}-{i}", value)) if observe else (lambda *_: None)
            x = x + self._drop(self._attention(block, x, see))
            see("attn_residual", x)
            x = x + self._drop(self._feed_forward(block, x, see))
            see("residual", x)
        x = self.model.norm(x)
        logits = functional.linear(x, self.model.embed_tokens.weight)
        if observe:
            observe("output_norm", x), observe("logits", logits)
        return logits
