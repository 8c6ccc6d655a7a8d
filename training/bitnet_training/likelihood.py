"""Teacher-forced likelihood of a text in windows: the definition that `bitnet score` shares.

Text ids c[0..n). A window at b feeds <s>, c[b], c[b + 1], ... (at most `context` tokens) and predicts c[b], c[b + 1],
...: as many. The first window has b = 0; each next one begins `stride` later, and only predictions that no earlier
window made count. So every id is scored once, and all but those of the first window with at least context - stride
tokens before them.
"""

import math
from dataclasses import dataclass

import numpy
import torch
from torch.nn import functional

from .model import BitNet


@dataclass(frozen=True)
class Likelihood:
    total_nll: float  # nats
    tokens: int
    bytes: int

    @property
    def mean_nll(self) -> float:
        return self.total_nll / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean_nll)

    @property
    def bits_per_byte(self) -> float:
        return self.total_nll / math.log(2.0) / self.bytes


def windows(count: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, first id that counts) of each window over `count` ids."""
    result = []
    begin = scored = 0
    while scored < count:
        end = min(begin + context, count)
        result.append((begin, end, scored))
        scored = end
        begin += stride
    return result


@torch.no_grad()
def likelihood(
    model: BitNet, ids: numpy.ndarray, text_bytes: int, bos: int, context: int, stride: int, batch: int = 8
) -> Likelihood:
    training = model.training
    model.eval()
    total = 0.0
    cut = windows(len(ids), context, stride)
    for at in range(0, len(cut), batch):
        group = cut[at : at + batch]
        length = max(end - begin for begin, end, _ in group)
        inputs = numpy.full((len(group), length), bos, dtype=numpy.int64)
        targets = numpy.full((len(group), length), -100, dtype=numpy.int64)  # -100: not counted
        for row, (begin, end, first) in enumerate(group):
            inputs[row, 1 : end - begin] = ids[begin : end - 1]
            targets[row, first - begin : end - begin] = ids[first:end]
        logits = model(torch.from_numpy(inputs))
        nll = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).double(), torch.from_numpy(targets).reshape(-1), reduction="sum"
        )
        total += float(nll)
    model.train(training)
    return Likelihood(total, len(ids), text_bytes)
