"""One block at a time: every node of a dump against the reference of that node, given the dumped inputs. So a mistake
shows where it is made, and int8 roundings that fall the other way cannot hide it."""

import numpy as np
import reference
from reference import quantize

RELATIVE = 1e-5  # of a node's largest value
AFTER_CACHE = 1e-3  # behind keys and values rounded to float16


def kernel_norm(x, gain, eps):
    """RMSNorm with the roundings of op norm: sixteen running float32 sums of squares and a fixed tree."""
    rows, k = x.shape
    squares = np.zeros((rows, (k + 15) // 16 * 16), np.float32)
    squares[:, :k] = x * x
    sums = np.zeros((rows, 16), np.float32)
    for lanes in np.split(squares, squares.shape[1] // 16, axis=1):
        sums = sums + lanes
    for half in (8, 4, 2, 1):
        sums = sums[:, :half] + sums[:, half : 2 * half]
    inverse = np.float32(1) / np.sqrt(sums / np.float32(k) + np.float32(eps))
    return (x * inverse) * gain.astype(np.float32)


class Blocks:
    def __init__(self, model, nodes):
        """model: a Reference with half_cache."""
        self.model = model
        self.failures, self.compared = [], 0
        self.nodes = {}
        for node in nodes:
            self.nodes.setdefault((node.name, node.op), node.data)
        self.products = 0
        bitnet = "weight_bits" in model.config  # calls itself llama, and is not
        self.interleaved = model.kind in ("llama", "minicpm") and not bitnet

    def halves(self, data):
        """Query or key rows of a dump in the directory's order: pairs (i, i + half) of a head. The converter stores
        those of two architectures as neighbours."""
        if data is None or not self.interleaved:
            return data
        pairs = data.reshape(len(data), -1, self.model.head_dim // 2, 2)
        return np.moveaxis(pairs, -1, -2).reshape(data.shape)

    def node(self, name, op=None):
        """The node's data; None where the dump has none."""
        if op is not None:
            return self.nodes.get((name, op))
        return next((data for (found, _), data in self.nodes.items() if found == name), None)

    def close(self, name, ours, theirs, bound):
        if theirs is None or ours is None:
            return
        self.compared += 1
        theirs = theirs.reshape(ours.shape).astype(np.float64)
        difference = np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-30)
        if not difference <= bound:
            self.failures.append(f"{name}: differs by {difference:.2e} of its largest value, allowed {bound:.0e}")

    def product(self, name, linear, x, theirs):
        """A ternary product: the integers and, with the roundings of op epilogue, the very floats."""
        if x is None or theirs is None:
            return
        if linear.in_norm is not None:
            x = kernel_norm(x, linear.in_norm, self.model.eps)
        if not linear.ternary:
            self.close(name, linear(x.astype(np.float64)), theirs, RELATIVE)
            return
        self.compared += 1
        self.products += 1
        q, scale = quantize(x, np.float32)
        sums = linear.sums(q.astype(np.float64)).astype(np.float32)
        y = sums[0] * (linear.scales[0] / scale)
        for group in range(1, len(sums)):
            y = y + sums[group] * (linear.scales[group] / scale)
        if linear.bias is not None:
            y = y + linear.bias.astype(np.float32)
        wrong = int((y != theirs).sum())
        if wrong:
            difference = np.abs(y - theirs).max() / np.abs(y).max()
            self.failures.append(f"{name}: {wrong} of {y.size} values are not the exact product's, by {difference:.2e}")

    def check_input(self, ids):
        ours = self.model.embedding[ids] * self.model.embedding_scale
        if self.model.positions is not None:
            ours = ours + self.model.positions[: len(ids)]
        self.close("inp_embd", ours, self.node("inp_embd"), RELATIVE)

    def check(self, layer):
        model, block = self.model, self.model.blocks[layer]

        def node(name, op=None):
            return self.node(f"{name}-{layer}", op)

        x = self.node("inp_embd") if layer == 0 else self.node(f"l_out-{layer - 1}")
        if node("attn_norm") is None:
            return  # a layer that was not dumped
        attention_input = node("attn_norm")
        self.close(f"attn_norm-{layer}", block.attn_norm(x.astype(np.float64)), attention_input, RELATIVE)
        q, k = (self.halves(node(name, "MUL_MAT")) for name in ("Qcur", "Kcur"))
        v = node("Vcur", "MUL_MAT")
        for name, linear, data in (("Qcur", block.q, q), ("Kcur", block.k, k), ("Vcur", block.v, v)):
            self.product(f"{name}-{layer}", linear, attention_input, data)
        if q is not None:
            self.attention(layer, q, k, v, node)
        attended = node("attn_sub_norm")
        if block.attn_sub_norm is not None and node("kqv_out") is not None:
            normed = block.attn_sub_norm(node("kqv_out").astype(np.float64))
            self.close(f"attn_sub_norm-{layer}", normed, attended, RELATIVE)
        else:
            attended = node("kqv_out")
        self.product(f"attn_o_out-{layer}", block.o, attended, node("attn_o_out"))
        out = node("attn_o_out")
        if out is not None:
            out = out.astype(np.float64)
            out = out if block.post_attention is None else block.post_attention(out)
            self.close(f"ffn_inp-{layer}", x + model.residual_scale * out, node("ffn_inp"), RELATIVE)
        self.ffn(layer, node)

    def attention(self, layer, q, k, v, node):
        model, block = self.model, self.model.blocks[layer]
        q, k, v = (array.reshape(len(array), -1, model.head_dim).astype(np.float64) for array in (q, k, v))
        half, model.half = model.half, lambda x: x
        turned = model.turn(block, model.rope(layer, len(q)), q, k)
        model.half = half
        if model.rope(layer, len(q)) is not None:
            dumped = [self.halves(node(name, "ROPE")) for name in ("Qcur", "Kcur")]
            for name, ours, data in zip(("Qcur", "Kcur"), turned, dumped, strict=True):
                self.close(f"{name}-{layer} after RoPE", ours, data, RELATIVE)
            q, k = dumped
        if q is not None and k is not None:
            q, k = (reference.to_half(a.reshape(len(a), -1, model.head_dim)) for a in (q, k))
            ours = model.attend(layer, q, k, reference.to_half(v))
            self.close(f"kqv_out-{layer}", ours, node("kqv_out"), AFTER_CACHE)

    def ffn(self, layer, node):
        model, block = self.model, self.model.blocks[layer]
        before, normed = node("ffn_inp"), node("ffn_norm")
        if before is None:
            return
        self.close(f"ffn_norm-{layer}", block.ffn_norm(before.astype(np.float64)), normed, RELATIVE)
        up = node("ffn_up")
        self.product(f"ffn_up-{layer}", block.up, normed, up)
        gated = next(a for a in map(node, ("ffn_out", "ffn_sub_out", "ffn_gelu")) if a is not None)
        if block.gate is not None:
            gate = node("ffn_gate")
            self.product(f"ffn_gate-{layer}", block.gate, normed, gate)
            if gate is not None and up is not None:
                ours = model.activation(gate.astype(np.float64)) * up
                self.close(f"activation-{layer}", ours, gated, RELATIVE)
        elif up is not None:
            self.close(f"activation-{layer}", model.activation(up.astype(np.float64)), gated, RELATIVE)
        inner = gated
        if block.ffn_sub_norm is not None and gated is not None:
            inner = node("ffn_sub_norm")
            self.close(f"ffn_sub_norm-{layer}", block.ffn_sub_norm(gated.astype(np.float64)), inner, RELATIVE)
        down = node("ffn_down")
        self.product(f"ffn_down-{layer}", block.down, inner, down)
        if down is not None:
            down = down.astype(np.float64)
            down = down if block.post_ffn is None else block.post_ffn(down)
            self.close(f"l_out-{layer}", before + model.residual_scale * down, node("l_out"), RELATIVE)

    def check_result(self):
        last = self.node(f"l_out-{self.model.layers - 1}")
        normed = self.node("result_norm")
        self.close("result_norm", self.model.output_norm(last.astype(np.float64)), normed, RELATIVE)
        if normed is not None and self.node("result_output") is not None:
            head = self.model.embedding if self.model.head is None else self.model.head.matrix
            logits = normed.astype(np.float64) * self.model.logit_scale @ head.T
            self.close("result_output", logits, self.node("result_output"), 1e-4)
