"""One block at a time: every node of a dump against the reference of that node, given the dumped inputs. So a mistake
shows where it is made, and int8 roundings that fall the other way cannot hide it."""

import numpy as np
import reference
from reference import quantize

RELATIVE = 1e-5  # of a node's largest value
AFTER_CACHE = 1e-3  # behind keys and values rounded to float16


class Blocks:
    def __init__(self, model, nodes):
        """model: a Reference with half_cache."""
        self.model = model
        self.failures, self.compared = [], 0
        self.nodes = {}
        for node in nodes:
            self.nodes.setdefault((node.name, node.op), node.data)
        self.products = 0

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
            # The norm itself is rounded as the kernels do; the integers follow only where no value lies on a border.
            self.close(name, self.model.project(linear, x.astype(np.float64)), theirs, 2e-2)
            return
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

    def check(self, layer):
        model, block = self.model, self.model.blocks[layer]

        def node(name, op=None):
            return self.node(f"{name}-{layer}", op)

        x = self.node("inp_embd") if layer == 0 else self.node(f"l_out-{layer - 1}")
        attention_input = node("attn_norm")
        self.close(f"attn_norm-{layer}", block.attn_norm(x.astype(np.float64)), attention_input, RELATIVE)
        for name, linear in (("Qcur", block.q), ("Kcur", block.k), ("Vcur", block.v)):
            self.product(f"{name}-{layer}", linear, attention_input, node(name, "MUL_MAT"))
        q, k, v = (node(name, "MUL_MAT") for name in ("Qcur", "Kcur", "Vcur"))
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
        for name, ours in zip(("Qcur", "Kcur"), turned, strict=True):
            self.close(f"{name}-{layer} after RoPE", ours, node(name, "ROPE"), RELATIVE)
        q, k = (node(name, "ROPE") for name in ("Qcur", "Kcur"))
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
        gated = next((a for a in map(node, ("ffn_out", "ffn_sub_out")) if a is not None), None)
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
