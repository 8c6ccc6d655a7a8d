"""The two quantisations of BitNet b1.58 and their straight-through gradients.

Weights, per matrix: scale = mean |W|, t = round(W / scale) clamped to -1, 0, +1. Activations, per token: s = 127 /
max(max |x|, 1e-5), q = round half to even of x * s. A product is (q . t) * (scale / s). q and t are whole numbers, so
float32 sums of their products are exact (below 2^24 up to K = 132104) and equal the runtime's integers bit for bit,
whatever the order in which BLAS adds them.

torch computes 127 / m as 127 * (1 / m), with two roundings, so a quarter of the scales s are one unit in the last
place off the runtime's. That moved no q of a million, and the default model was trained so; a retraining may change it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """t [N, K] of -1, 0, +1 as floats, and the scale (one number)."""
    scale = weight.abs().mean().clamp_(min=1e-5)
    return torch.round(weight / scale).clamp_(-1.0, 1.0), scale


class _Activations(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-5)
        ctx.mark_non_differentiable(scale)
        return (x * scale).round_(), scale

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:
        return grad


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, s: Tensor, weight: Tensor) -> Tensor:
        t, scale = ternary(weight)
        ctx.save_for_backward(q, s, t, scale)
        return functional.linear(q, t).mul_(scale / s)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        q, s, t, scale = ctx.saved_tensors
        rows = (grad / s).flatten(0, -2)
        return grad @ (t * scale), None, rows.t() @ q.flatten(0, -2)


def activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """q [..., K] of whole numbers in [-127, 127] as floats, and s [..., 1]. What arrives as the gradient of q is taken
    for that of q / s, and so for that of x: product() gives it so, which saves a pass over it."""
    return _Activations.apply(x)


def product(q: Tensor, s: Tensor, weight: Tensor) -> Tensor:
    """[..., N] of activations() and a float master [N, K], whose gradient is as if t * scale were the master."""
    return _Product.apply(q, s, weight)
