"""Quantisation and packing against loops written from their definitions."""

import unittest

import numpy
import support
import torch

from bitnet_training import errors, hf_directory, quantize
from bitnet_training.model import BitLinear, RMSNorm, _RMSNorm


def naive_ternary(weight: numpy.ndarray) -> tuple[numpy.ndarray, float]:
    scale = max(sum(abs(float(w)) for w in weight.flat) / weight.size, 1e-5)
    t = numpy.zeros_like(weight)
    for place, w in numpy.ndenumerate(weight):
        t[place] = 1 if w / scale > 0.5 else -1 if w / scale < -0.5 else 0
    return t, scale


def naive_activations(x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    q, s = numpy.zeros_like(x), numpy.zeros((x.shape[0], 1), numpy.float32)
    for row in range(x.shape[0]):
        s[row, 0] = numpy.float32(127.0) / numpy.float32(max(max(abs(v) for v in x[row]), 1e-5))
        for column in range(x.shape[1]):
            q[row, column] = round(float(x[row, column] * s[row, 0]))  # Python rounds halves to even
    return q, s


class Quantize(support.TestCase):
    def setUp(self):
        self.random = numpy.random.Generator(numpy.random.PCG64(5))

    def normal(self, *shape: int) -> numpy.ndarray:
        return self.random.normal(size=shape).astype(numpy.float32)

    def test_ternary(self):
        for weight in (self.normal(8, 32), 1e-3 * self.normal(4, 64), numpy.zeros((4, 32), numpy.float32)):
            t, scale = quantize.ternary(torch.from_numpy(weight))
            wanted, wanted_scale = naive_ternary(weight)
            numpy.testing.assert_array_equal(t.numpy(), wanted)
            self.assertAlmostEqual(float(scale) / wanted_scale, 1.0, places=6)

    def test_activations(self):
        x = self.normal(5, 64)
        x[1] *= 1e4
        x[2] = 0.0
        x[3, 0] = 127.0  # s = 1, so the halves below are halves
        x[3, 1:] = numpy.clip(x[3, 1:], -3, 3)
        x[3, 1:7] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
        q, s = quantize.activations(torch.from_numpy(x))
        wanted, wanted_s = naive_activations(x)
        numpy.testing.assert_array_equal(q.numpy(), wanted)
        numpy.testing.assert_array_equal(s.numpy(), wanted_s)
        self.assertEqual(q[3, 1:7].tolist(), [0, 2, 2, 0, -2, -2])

    def test_straight_through_gradients(self):
        """As if the product were that of x and W rounded: dW = dy^T (q / s), dx = dy (t scale)."""
        linear = BitLinear(8, 32, "ternary")
        torch.nn.init.normal_(linear.weight)
        x = torch.from_numpy(self.normal(3, 32)).requires_grad_(True)
        dy = torch.from_numpy(self.normal(3, 8))
        q, s = quantize.activations(x)
        linear(q, s).backward(dy)
        t, scale = naive_ternary(linear.weight.detach().numpy())
        wanted_q, wanted_s = naive_activations(x.detach().numpy())
        numpy.testing.assert_allclose(linear.weight.grad, dy.numpy().T @ (wanted_q / wanted_s), rtol=1e-4, atol=1e-5)
        numpy.testing.assert_allclose(x.grad, dy.numpy() @ (t * scale), rtol=1e-4, atol=1e-5)

    def test_norm_gradients(self):
        """Against central differences in double."""
        norm = RMSNorm(12, 1e-5).double()
        torch.nn.init.normal_(norm.weight)
        x = torch.from_numpy(self.random.normal(size=(2, 3, 12))).requires_grad_(True)
        self.assertTrue(torch.autograd.gradcheck(norm, (x,)))
        self.assertTrue(torch.autograd.gradcheck(lambda gain: _RMSNorm.apply(x.detach(), gain, 1e-5), (norm.weight,)))

    def test_pack(self):
        t = self.random.integers(-1, 2, size=(12, 7)).astype(numpy.float32)
        packed = hf_directory.pack(torch.from_numpy(t))
        self.assertEqual((packed.shape, packed.dtype), ((3, 7), numpy.uint8))
        for row in range(12):
            for column in range(7):
                code = packed[row % 3, column] >> 2 * (row // 3) & 3
                self.assertEqual(int(code), int(t[row, column]) + 1)
        numpy.testing.assert_array_equal(hf_directory.unpack(packed, "x").numpy(), t)

    def test_unpack_refuses_a_fourth_code(self):
        with self.assertRaisesRegex(errors.UserError, "some.weight: holds the code 3"):
            hf_directory.unpack(numpy.array([[0b00_11_00_00]], numpy.uint8), "some.weight")


if __name__ == "__main__":
    unittest.main()
