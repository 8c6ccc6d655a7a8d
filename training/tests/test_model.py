"""The model's parts against loops over tokens and heads, and what LoRA may change."""

import math
import unittest

import numpy
import support
import torch

from bitnet_training import trainer
from bitnet_training.model import BitNet, RMSNorm


def make_model(*overrides: str, mode: str = "ternary") -> BitNet:
    torch.manual_seed(3)
    return BitNet(support.settings(*overrides).model, 300, mode)


def nodes_of(model: BitNet, ids: torch.Tensor) -> dict[str, numpy.ndarray]:
    nodes = {}
    with torch.no_grad():
        model(ids, lambda name, value: nodes.update({name: value.numpy()}))
    return nodes


def naive_rope(x: numpy.ndarray, position: int, base: float) -> numpy.ndarray:
    half = len(x) // 2
    turned = numpy.zeros_like(x)
    for i in range(half):
        angle = position * base ** (-2.0 * i / len(x))
        turned[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        turned[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
    return turned


class Model(support.TestCase):
    def setUp(self):
        self.ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(9))

    def test_attention(self):
        """Each query head sees its group's keys and values of its own and earlier positions, and nothing else."""
        model = make_model()
        c = model.config
        nodes = nodes_of(model, self.ids)
        for sequence in range(2):
            q = nodes["q-1"][sequence].reshape(16, c.heads, c.head_dim).astype(numpy.float64)
            k = nodes["k-1"][sequence].reshape(16, c.kv_heads, c.head_dim).astype(numpy.float64)
            v = nodes["v-1"][sequence].reshape(16, c.kv_heads, c.head_dim).astype(numpy.float64)
            for head in range(c.heads):
                mine = head // (c.heads // c.kv_heads)
                for t in range(16):
                    query = naive_rope(q[t, head], t, c.rope_base)
                    scores = [
                        query @ naive_rope(k[u, mine], u, c.rope_base) / math.sqrt(c.head_dim) for u in range(t + 1)
                    ]
                    weights = numpy.exp(numpy.array(scores) - max(scores))
                    wanted = sum(w * v[u, mine] for u, w in enumerate(weights / weights.sum()))
                    found = nodes["attended-1"][sequence, t, head * c.head_dim : (head + 1) * c.head_dim]
                    numpy.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

    def test_the_future_is_hidden(self):
        model = make_model()
        before = nodes_of(model, self.ids)["logits"]
        changed = self.ids.clone()
        changed[:, 9:] = (changed[:, 9:] + 1) % 300
        after = nodes_of(model, changed)["logits"]
        numpy.testing.assert_array_equal(before[:, :9], after[:, :9])
        self.assertFalse(numpy.array_equal(before[:, 9], after[:, 9]))

    def test_feed_forward(self):
        model = make_model()
        nodes = nodes_of(model, self.ids)
        gate, up = nodes["gate-0"], nodes["up-0"]
        numpy.testing.assert_array_equal(nodes["gated-0"], numpy.maximum(gate, 0) ** 2 * up)
        x = nodes["gated-0"][0, 3].astype(numpy.float64)
        wanted = x / math.sqrt(sum(v * v for v in x) / len(x) + model.config.norm_eps)
        numpy.testing.assert_allclose(nodes["ffn_sub_norm-0"][0, 3], wanted, rtol=1e-5, atol=1e-7)

    def test_rms_norm(self):
        norm = RMSNorm(2, 0.1)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([2.0, 0.5]))
        root = math.sqrt(12.5 + 0.1)
        numpy.testing.assert_allclose(norm(torch.tensor([[3.0, 4.0]])).detach(), [[6.0 / root, 2.0 / root]], rtol=1e-6)

    def test_rms_norm_gradients(self):
        """Written by hand, so against differences of the values, in double precision, for x and for the gain."""
        norm = RMSNorm(6, 1e-3).double()
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1.5, 2.0, 6))
        self.assertTrue(torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight)))

    def test_dropout_keeps_the_mean(self):
        model = make_model()
        model.dropout = 0.25
        x = torch.ones(200, 500)
        dropped = model._drop(x)
        self.assertAlmostEqual(float((dropped == 0).float().mean()), 0.25, places=2)
        self.assertAlmostEqual(float(dropped.mean()), 1.0, places=1)
        model.eval()
        self.assertTrue(torch.equal(model._drop(x), x))


class Lora(support.TestCase):
    def setUp(self):
        self.settings = support.settings("lora.rank=4", "lora.alpha=8.0")
        self.ids = torch.arange(32).view(2, 16)

    def test_nothing_changes_at_first(self):
        model = make_model()
        before = model(self.ids)
        trainer.add_lora(model, self.settings)
        self.assertTrue(torch.equal(before, model(self.ids)))

    def test_only_thin_matrices_learn(self):
        model = make_model()
        trainer.add_lora(model, self.settings)
        model(self.ids).square().mean().backward()
        for name, parameter in model.named_parameters():
            self.assertEqual(parameter.grad is not None, ".lora." in name, name)
            self.assertEqual(parameter.requires_grad, ".lora." in name, name)
        # B is 0, so at first only B feels the loss; after one step both do.
        moved = [p for n, p in model.named_parameters() if n.endswith("lora.1")]
        self.assertEqual(len(moved), 14)  # 2 layers of 7 projections
        self.assertTrue(all(float(p.grad.abs().max()) > 0 for p in moved))

    def test_merge_is_the_sum(self):
        model = make_model()
        trainer.add_lora(model, self.settings)
        wanted = {}
        for name, linear in model.bit_linears().items():
            a, b = linear.lora[0].detach().numpy(), torch.nn.init.normal_(linear.lora[1]).detach().numpy()
            wanted[name] = linear.weight.detach().numpy() + b @ a * (8.0 / 4)
            self.assertEqual((a.shape[0], b.shape[1]), (4, 4))
        logits = model(self.ids)
        for name, linear in model.bit_linears().items():
            linear.merge_lora()
            numpy.testing.assert_allclose(linear.weight.detach(), wanted[name], rtol=1e-5, atol=1e-6)
        self.assertTrue(torch.equal(logits, model(self.ids)))
        self.assertFalse(any(".lora." in name for name in model.state_dict()))


if __name__ == "__main__":
    unittest.main()
