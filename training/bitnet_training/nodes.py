"""Graph dumps: every node of a forward pass in the folder format of `bitnet run --dump-nodes`.

A folder holds nodes.txt, a line per node ("003 Qcur-0 op=MUL_MAT ne=[512,7,1,1] contiguous=1", ne[0] the fastest
dimension), and for each its float32 data in t.003.Qcur-0.MUL_MAT.f32. Names, operations, shapes and layouts are the
runtime's, so that tools/compare_nodes lays its dump beside this one; what the runtime shows of layer 0 is here of every
layer. On top of that come, for tests that feed the runtime's kernels with PyTorch's inputs, what only exists between
its steps:

    attn_norm_q-0, attn_norm_scale-0   QUANTIZE   int8 activations q [T][K] and s [T] of the node attn_norm-0
    Qcur_sum-0                         MUL_MAT    the integers q . t behind Qcur-0, before the scales

Both stand before every product, as whole numbers in float32, which holds them exactly.
"""

from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from .errors import UserError
from .files import make_directory, write_atomically
from .model import BitLinear, BitNet

# Of a block, observed name -> the runtime's name and operation.
_BLOCK = {
    "attn_norm": ("attn_norm", "MUL"),
    "q": ("Qcur", "MUL_MAT"),
    "k": ("Kcur", "MUL_MAT"),
    "v": ("Vcur", "MUL_MAT"),
    "q_rope": ("Qcur", "ROPE"),
    "k_rope": ("Kcur", "ROPE"),
    "softmax": ("kq_soft_max_ext", "SOFT_MAX"),
    "heads": ("kqv", "MUL_MAT"),
    "attended": ("kqv_out", "CONT"),
    "attn_sub_norm": ("attn_sub_norm", "MUL"),
    "o": ("attn_o_out", "MUL_MAT"),
    "attn_residual": ("ffn_inp", "ADD"),
    "ffn_norm": ("ffn_norm", "MUL"),
    "gate": ("ffn_gate", "MUL_MAT"),
    "up": ("ffn_up", "MUL_MAT"),
    "active": ("ffn_sqr(relu)", "SQR"),
    "gated": ("ffn_out", "MUL"),
    "ffn_sub_norm": ("ffn_sub_norm", "MUL"),
    "down": ("ffn_down", "MUL_MAT"),
    "residual": ("l_out", "ADD"),
}
_MODEL = {
    "embedding": ("inp_embd", "GET_ROWS"),
    "output_norm": ("result_norm", "MUL"),
    "logits": ("result_output", "MUL_MAT"),
}

# Projection -> its product's node, and the node that it is fed with where it is the first that is.
_PRODUCTS = {
    "q_proj": ("Qcur", "attn_norm"),
    "k_proj": ("Kcur", None),
    "v_proj": ("Vcur", None),
    "o_proj": ("attn_o_out", "attn_sub_norm"),
    "gate_proj": ("ffn_gate", "ffn_norm"),
    "up_proj": ("ffn_up", None),
    "down_proj": ("ffn_down", "ffn_sub_norm"),
}

CACHE_PAD = 32  # the runtime rounds the positions of an attention up to this many, padded with zeros


class NodeFolder:
    """Writes the nodes one after the other; nodes.txt comes last: a folder without it is one that was not finished."""

    def __init__(self, directory: str | Path):
        self.directory = make_directory(directory)
        self.lines: list[str] = []
        self._write("nodes.txt", None)

    def _write(self, name: str, data: bytes | None) -> None:
        """None removes the file."""
        path = self.directory / name
        try:
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror}; is the folder writable, the disk full?"
            ) from error

    def node(self, name: str, operation: str, value: Tensor) -> None:
        """`value` of up to four dimensions, the last one the fastest."""
        ne = [*reversed(value.shape), 1, 1, 1][:4]
        index = f"{len(self.lines):03d}"
        self.lines.append(f"{index} {name} op={operation} ne=[{','.join(map(str, ne))}] contiguous=1\n")
        file_name = name.replace("(", "_").replace(")", "_")
        data = numpy.ascontiguousarray(value.detach().numpy(), dtype="<f4")
        self._write(f"t.{index}.{file_name}.{operation}.f32", data.tobytes())

    def numbers(self, name: str, values: list[int]) -> None:
        """Token ids, in the form that --prompt-ids takes."""
        self._write(name, (",".join(map(str, values)) + "\n").encode())

    def finish(self) -> None:
        write_atomically(self.directory / "nodes.txt", lambda file: file.write("".join(self.lines).encode()))


def _observed(folder: NodeFolder, name: str, value: Tensor) -> None:
    value = value[0]  # of the batch's one sequence
    if name in _MODEL:
        folder.node(*_MODEL[name], value)
        return
    kind, _, block = name.rpartition("-")
    runtime_name, operation = _BLOCK[kind]
    if kind == "softmax":  # [heads][T][T] -> [heads][T][positions]
        value = functional.pad(value, (0, -value.shape[-1] % CACHE_PAD))
    folder.node(f"{runtime_name}-{block}", operation, value)


def _watch_product(folder: NodeFolder, name: str, linear: BitLinear) -> torch.utils.hooks.RemovableHandle:
    """`name`: model.layers.<block>.<half>.<projection>."""
    _, _, block, _, projection = name.split(".")
    product, source = _PRODUCTS[projection]

    def seen(_: BitLinear, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        q, s = inputs
        t, scale = linear.ternary()
        sums = functional.linear(q, t)
        if not torch.equal(sums * (scale / s), output):
            raise RuntimeError(f"{name}: the product is no longer (q . t) * (scale / s), which the dump is to show")
        if source is not None:
            folder.node(f"{source}_q-{block}", "QUANTIZE", q[0])
            folder.node(f"{source}_scale-{block}", "QUANTIZE", s[0])
        folder.node(f"{product}_sum-{block}", "MUL_MAT", sums[0])

    return linear.register_forward_hook(seen)


@torch.no_grad()
def dump(model: BitNet, ids: list[int], targets: list[int], directory: str | Path) -> tuple[int, float]:
    """Feeds `ids` [T] in one pass and writes all nodes, ids.txt, targets.txt (what should have followed each token) and
    the node "nll" [T], the negative log-likelihoods of the targets in nats. The model must be in ternary mode.
    Returns the number of nodes and the mean of nll."""
    if model.mode != "ternary":
        raise ValueError(f"mode {model.mode}: only ternary mode has the products of the dump")
    folder = NodeFolder(directory)
    model.eval()
    watches = [_watch_product(folder, name, linear) for name, linear in model.bit_linears().items()]
    try:
        logits = model(torch.tensor([ids]), lambda name, value: _observed(folder, name, value))[0]
    finally:
        for watch in watches:
            watch.remove()
    nll = functional.cross_entropy(logits.double(), torch.tensor(targets), reduction="none")
    folder.node("nll", "CROSS_ENTROPY_LOSS", nll.float())
    folder.numbers("ids.txt", ids)
    folder.numbers("targets.txt", targets)
    folder.finish()
    return len(folder.lines), float(nll.mean())
