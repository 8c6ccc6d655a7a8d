"""Graph dumps: the format, the nodes against the model itself, and every refusal of dump_nodes.py."""

import re
import unittest
from pathlib import Path

import numpy
import support
import torch

# isort: split
# support makes the programs importable.
import dump_nodes
from bitnet_training import hf_directory, nodes

TOKENS = 16  # the context of the tiny configuration, and so the default
OUTSIDE = {"inp_embd", "result_norm", "result_output", "nll"}  # nodes of no block


def read(folder: Path) -> dict[str, numpy.ndarray]:
    """Node "name.OP" -> its data, the slowest dimension first."""
    found = {}
    for line in (folder / "nodes.txt").read_text().splitlines():
        index, name, operation, *ne = re.fullmatch(
            r"(\d{3}) (\S+) op=(\w+) ne=\[(\d+),(\d+),(\d+),(\d+)] contiguous=1", line
        ).groups()
        shape = [int(n) for n in reversed(ne)]
        while len(shape) > 2 and shape[0] == 1:
            del shape[0]
        file_name = name.replace("(", "_").replace(")", "_")
        data = numpy.fromfile(folder / f"t.{index}.{file_name}.{operation}.f32", "<f4")
        found[f"{name}.{operation}"] = data.reshape(shape)
    return found


def numbers(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split(",")]


class Dump(support.TestCase):
    def dump(self, *arguments: str) -> Path:
        folder = self.folder()
        result = support.call(dump_nodes, "--model", support.exported(), "--threads", 1, "-o", folder, *arguments)
        self.assertEqual(result.code, 0, result.err)
        return folder

    def test_of_a_text(self):
        folder = self.dump("--data", support.data_file())
        tokenizer = hf_directory.load_tokenizer(support.exported())
        wanted = [tokenizer.bos, *tokenizer.encode(support.text())[:TOKENS].tolist()]
        self.assertEqual(numbers(folder / "ids.txt"), wanted[:-1])
        self.assertEqual(numbers(folder / "targets.txt"), wanted[1:])
        found = read(folder)
        model = hf_directory.load(support.exported(), "ternary", half_cache=True)
        model.eval()
        with torch.no_grad():
            logits = model(torch.tensor([wanted[:-1]]))[0]
        numpy.testing.assert_array_equal(found["result_output.MUL_MAT"], logits.numpy())
        nll = -torch.log_softmax(logits.double(), -1)[range(TOKENS), wanted[1:]]
        numpy.testing.assert_allclose(found["nll.CROSS_ENTROPY_LOSS"][0], nll.numpy(), rtol=1e-6)
        c = model.config
        for block in range(c.layers):
            # Integers: q . t in whole numbers, and the two scales.
            attention = model.model.layers[block].self_attn
            for name, linear in (("Qcur", attention.q_proj), ("Kcur", attention.k_proj), ("Vcur", attention.v_proj)):
                t, scale = linear.ternary()
                q = found[f"attn_norm_q-{block}.QUANTIZE"].astype(numpy.int64)
                s = found[f"attn_norm_scale-{block}.QUANTIZE"]
                self.assertEqual(s.shape, (TOKENS, 1))
                self.assertEqual(abs(q).max(axis=1).tolist(), [127] * TOKENS)
                sums = q @ t.numpy().astype(numpy.int64).T
                numpy.testing.assert_array_equal(found[f"{name}_sum-{block}.MUL_MAT"], sums)
                products = sums.astype(numpy.float32) * (numpy.float32(scale) / s)
                numpy.testing.assert_array_equal(found[f"{name}-{block}.MUL_MAT"], products)
            # [head][token][position, padded to 32]: causal, each row sums to one.
            softmax = found[f"kq_soft_max_ext-{block}.SOFT_MAX"]
            self.assertEqual(softmax.shape, (c.heads, TOKENS, 32))
            numpy.testing.assert_array_equal(softmax, numpy.tril(softmax))
            numpy.testing.assert_allclose(softmax.sum(axis=-1), 1.0, rtol=1e-5)
            self.assertEqual(found[f"Qcur-{block}.ROPE"].shape, (TOKENS, c.heads, c.head_dim))
            self.assertEqual(found[f"Kcur-{block}.ROPE"].shape, (TOKENS, c.kv_heads, c.head_dim))

    def test_every_block_has_every_node(self):
        folder = self.dump("--data", support.data_file(), "--tokens", "2")
        names = [line.split()[1] for line in (folder / "nodes.txt").read_text().splitlines()]
        blocks = [[name[:-2] for name in names if name.endswith(f"-{i}")] for i in range(2)]
        self.assertEqual(len(blocks[0]), 35)
        self.assertEqual(blocks[0], blocks[1])
        self.assertEqual(set(names), {f"{n}-{i}" for i in range(2) for n in blocks[i]} | OUTSIDE)

    def test_of_ids(self):
        folder = self.dump("--ids", "1,7,299,0")
        self.assertEqual(numbers(folder / "ids.txt"), [1, 7, 299])
        self.assertEqual(numbers(folder / "targets.txt"), [7, 299, 0])
        self.assertEqual(read(folder)["inp_embd.GET_ROWS"].shape[0], 3)

    def test_an_unfinished_folder_has_no_list(self):
        folder = self.dump("--data", support.data_file(), "--tokens", 2)
        self.assertTrue((folder / "nodes.txt").exists())
        nodes.NodeFolder(folder).node("x", "ADD", torch.zeros(2))
        self.assertFalse((folder / "nodes.txt").exists())

    def test_float_mode_is_no_dump(self):
        model = hf_directory.load(support.exported(), "float")
        with self.assertRaisesRegex(ValueError, "mode float"):
            nodes.dump(model, [1], [2], self.folder())


class Refused(support.TestCase):
    def refuse(self, *fragments: str, arguments: tuple = (), out: Path | None = None) -> None:
        result = support.call(dump_nodes, "--model", support.exported(), "-o", out or self.folder(), *arguments)
        self.assert_refused(result, *fragments)

    def test_ids(self):
        self.refuse("whole numbers", arguments=("--ids", "1,x"))
        self.refuse("1 ids", "expected 2 to 17", arguments=("--ids", "1"))
        self.refuse("18 ids", "expected 2 to 17", arguments=("--ids", ",".join(["1"] * 18)))
        self.refuse("id 99999 at place 1", arguments=("--ids", "1,99999"))
        self.refuse("id -1 at place 1", arguments=("--ids", "1,-1"))

    def test_text(self):
        self.refuse(
            "--tokens 17: expected 1 to the model's 16", arguments=("--data", support.data_file(), "--tokens", 17)
        )
        self.refuse("--tokens 0", arguments=("--data", support.data_file(), "--tokens", 0))
        short = self.folder() / "short.txt"
        short.write_text("cat")
        self.refuse("short.txt", "tokens, expected 16; give more text", arguments=("--data", short, "--tokens", TOKENS))
        self.refuse("absent.txt", "cannot be read", arguments=("--data", short.with_name("absent.txt"), "--tokens", 2))
        short.write_bytes(b"\xff\xfe")
        self.refuse("byte 0 is not UTF-8", arguments=("--data", short, "--tokens", 2))

    def test_places(self):
        taken = self.folder() / "file"
        taken.write_text("")
        self.refuse(str(taken), out=taken, arguments=("--ids", "1,2"))
        full = self.folder() / "full"
        full.mkdir()
        (full / "t.000.inp_embd.GET_ROWS.f32").mkdir()  # cannot be written, whoever runs the test
        self.refuse("t.000.inp_embd.GET_ROWS.f32: cannot be written", out=full, arguments=("--ids", "1,2"))
        self.assertFalse((full / "nodes.txt").exists())
        result = support.call(dump_nodes, "--model", full, "-o", self.folder(), "--ids", "1,2")
        self.assert_refused(result, "config.json", "cannot be read")


if __name__ == "__main__":
    unittest.main()
