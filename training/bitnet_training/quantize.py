"""The two quantisations of BitNet b1.58 and their straight-through gradients.

Weights, per matrix: scale = mean |W|, t = round(W / scale) clamped to -1, 0, +1. Activations, per token: s = 127 /
max(max |x|, 1e-5), q = round half to even of x * s. A product is (q . t) * (scale / s). q and t are whole numbers, so
float32 sums of their products are exact (below 2^24 up to K = 132104) and equal the runtime's integers bit for bit,
whatever the order in which BLAS adds them.
"""

import torch
from torch import Tensor


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().mean().clamp_(min=1e-5)
        ctx.save_for_backward(scale)
        ctx.mark_non_differentiable(scale)
        return torch.round(weight / scale).clamp_(-1.0, 1.0), scale

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:
        (scale,) = ctx.saved_tensors
        return grad / scale  # as if t * scale were W


class _Activations(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-5)
        ctx.save_for_backward(scale)
        ctx.mark_non_differentiable(scale)
        return torch.round(x * scale), scale

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:
        (scale,) = ctx.saved_tensors
        return grad * scale  # as if q / s were x


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """t [N, K] of -1, 0, +1 as floats, and the scale (one number)."""
    return _Ternary.apply(weight)


def activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """q [..., K] of whole numbers in [-127, 127] as floats, and s [..., 1]."""
    return _Activations.apply(x)
