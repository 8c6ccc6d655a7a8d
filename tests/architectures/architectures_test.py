"""Every architecture end to end: a reduced model's Hugging Face directory through `bitnet convert` and `bitnet run`,
against the NumPy forward pass of the same directory. Also models of other writers, where the assets are present.

BITNET_BIN is the folder of the programs, BITNET_ASSETS the assets' (optional). Exit 77: no NumPy on this machine."""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    print(f"architectures_test: skipped: {missing}")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).parent))

from blocks import Blocks  # noqa: E402
from models import BONSAI, CASES  # noqa: E402
from program import bitnet, convert, id_list, run  # noqa: E402
from reference import Reference  # noqa: E402
from sensitivity import wrong_logits, wrong_variants  # noqa: E402
from tensor_files import F16, Q2_0, encode_q2_0, read_safetensors, write_gguf  # noqa: E402
from unconvert import unconvert  # noqa: E402

# Dense models: every position; ternary ones: int8 roundings may fall the other way, so the median.
LEAST_COSINE = {False: 0.9999, True: 0.999}
# Of the lengths of the logits of a position, which no cosine sees.
LENGTH_RATIO = {False: 2e-3, True: 2e-2}
PROMPT = [5, 17, 260, 33, 42, 270, 1, 99, 250, 7, 8, 9]
# Tokens as unlike one another as can be; greedy text of random weights soon repeats one.
DRAWN = ("--temperature", 30, "--top-k", 0, "--top-p", 1, "--min-p", 0, "--seed", 3)


def cosines(a, b):
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def agreement(case, ours, theirs):
    values = cosines(ours, theirs)
    return float(np.median(values) if case.ternary else values.min())


def write_bonsai(directory, path):
    """The directory's model as a GGUF with all matrices in Q2_0, head and embedding too, and the norms in float16."""
    config = json.loads((directory / "config.json").read_text())
    tensors = read_safetensors(directory / "model.safetensors")
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm"}
    parts |= {"self_attn.k_norm": "attn_k_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{n}_proj": f"attn_{n}" for n in "qkv"}
    parts |= {f"mlp.{n}_proj": f"ffn_{n}" for n in ("gate", "up", "down")}
    for i in range(config["num_hidden_layers"]):
        names |= {f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in parts.items()}
    out = {}
    for name, tensor in tensors.items():
        ours = names[name.removesuffix(".weight")] + ".weight"
        if tensor.ndim == 1:
            out[ours] = (F16, tensor.shape, tensor.astype(np.float16).tobytes())
            continue
        blocks = tensor.reshape(len(tensor), -1, BONSAI.group)
        scales = np.abs(blocks).max(axis=2)
        codes = np.sign(tensor).astype(np.int8)
        out[ours] = (Q2_0, tensor.shape[::-1], encode_q2_0(codes, scales).tobytes())
    metadata = {
        "general.architecture": "qwen3",
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "qwen3.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "qwen3.rope.freq_base": config["rope_theta"],
    }
    write_gguf(path, metadata, out)


class Workplace(unittest.TestCase):
    """A folder for the files of a test."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="bitnet-architectures-")
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def prepare(self, case):
        """The case's directory and its GGUF."""
        directory, model = self.folder / case.name, self.folder / f"{case.name}.gguf"
        case.write(directory)
        if case is BONSAI:
            write_bonsai(directory, model)
        else:
            convert(directory, model, case.convert, *(("--embedding", case.embedding) if case.embedding else ()))
        return directory, model

    def compare(self, case, reference, ids, logits):
        ours = reference.logits(np.array(ids))
        self.assertTrue(np.isfinite(logits).all())
        self.assertGreaterEqual(agreement(case, ours, logits), LEAST_COSINE[case.ternary])
        ratio = np.linalg.norm(logits, axis=1) / np.linalg.norm(ours, axis=1)
        self.assertLessEqual(abs(float(np.median(ratio)) - 1), LENGTH_RATIO[case.ternary])
        return ours


class ArchitectureTest(Workplace):
    def check(self, case):
        directory, model = self.prepare(case)
        # One token at a time, behind a prompt, by one thread; then all at once by three.
        steps = run(model, PROMPT, self.folder / "steps", generate=11, options=DRAWN)
        self.assertEqual(len(steps.tokens), 11)
        self.assertGreater(len(set(steps.tokens)), 5)
        ids = PROMPT + steps.tokens
        batch = run(model, ids, self.folder / "batch", threads=3, nodes=True)
        self.assertEqual(steps.logits.tobytes(), batch.logits[: len(ids)].tobytes(), "decode differs from prefill")

        reference = Reference(directory, **case.reference_options)
        ours = self.compare(case, reference, ids, batch.logits[: len(ids)])
        self.assertEqual(batch.tokens, [int(batch.logits[len(ids) - 1].argmax())])
        self.check_blocks(case, directory, ids, batch.nodes)
        for name, change in wrong_variants(case).items():
            wrong = wrong_logits(case, directory, change, np.array(ids))
            self.assertLess(agreement(case, ours, wrong), LEAST_COSINE[case.ternary], f"{name} would not be noticed")
        if case.in_norms:
            self.check_embedding(model, reference, ids)

    def check_blocks(self, case, directory, ids, nodes):
        options = case.reference_options | {"half_cache": True}
        blocks = Blocks(Reference(directory, **options), nodes)
        blocks.check_input(np.array(ids))
        for layer in range(case.layers):
            blocks.check(layer)
        blocks.check_result()
        self.assertEqual(blocks.failures, [])
        # Otherwise nothing was looked at.
        self.assertGreaterEqual(blocks.compared, 13 * case.layers)
        if case.ternary:
            self.assertEqual(blocks.products, 7 * case.layers)

    def check_embedding(self, model, reference, ids):
        found = {}
        for pooling, options in (("last", ()), ("mean", ("--pooling", "mean"))):
            out = json.loads(bitnet("embed", "-m", model, "--prompt-ids", id_list(ids), "--json", *options))
            self.assertEqual(out["pooling"], pooling)
            vector = found[pooling] = np.array(out["embeddings"][0]["values"])
            self.assertAlmostEqual(float(np.linalg.norm(vector)), 1.0, places=5)
            self.assertGreaterEqual(float(vector @ reference.pooled(np.array(ids), pooling)), LEAST_COSINE[True])
        self.assertLess(float(found["last"] @ found["mean"]), LEAST_COSINE[True], "one would pass for the other")


def add_tests():
    for case in [*CASES, BONSAI]:
        setattr(ArchitectureTest, f"test_{case.name}", lambda self, case=case: self.check(case))


add_tests()


class WindowTest(Workplace):
    def test_long_prompt(self):
        """A sliding window beyond the 256 positions that attention takes at a time."""
        case = next(case for case in CASES if case.name == "gemma3_dense")
        case = type(case)(**{**case.__dict__, "context": 512})
        directory, model = self.prepare(case)
        ids = [int(i) for i in np.random.default_rng(1).integers(3, case.vocab, 300)]
        made = run(model, ids, self.folder / "long", generate=2)
        self.compare(case, Reference(directory), ids + made.tokens, made.logits)


class DefaultModelTest(Workplace):
    MODEL = Path(__file__).parents[2] / "models" / "default.gguf"

    def test_against_its_checkpoint(self):
        """The checkpoint that the file was made of agrees with transformers: see compare_with_transformers.py."""
        directory = self.folder / "default"
        unconvert(self.MODEL, directory)
        ids = [1, *range(300, 332)]
        made = run(self.MODEL, ids, self.folder / "run", nodes=True)
        reference = Reference(directory, half_cache=True)
        ours = reference.logits(np.array(ids))
        self.assertGreaterEqual(float(np.median(cosines(ours, made.logits[: len(ids)]))), LEAST_COSINE[True])
        blocks = Blocks(reference, made.nodes)
        for layer in range(reference.layers):
            blocks.check(layer)
        blocks.check_result()
        self.assertEqual(blocks.failures, [])
        self.assertGreaterEqual(blocks.products, 7)


class OtherWritersTest(Workplace):
    def setUp(self):
        super().setUp()
        self.assets = Path(os.environ.get("BITNET_ASSETS", "no-assets"))
        if not self.assets.is_dir():
            self.skipTest(f"no assets at {self.assets}")

    def test_stories(self):
        model = self.assets / "models" / "stories260K.gguf"
        expected = json.loads((self.assets / "models" / "stories260K.expected.json").read_text())
        greedy = expected["greedy_from_bos"]
        # The values rounded to float16 in the cache alone are worth 1.31e-3, computed in float64; the largest logit is
        # 17.
        logits = np.array(expected["logits_bos"])
        for kind, most in (("f16", 1e-4 * float(np.abs(logits).max())), ("f32", 1e-3)):
            made = run(model, greedy[:1], self.folder / f"bos-{kind}", generate=len(greedy) - 1,
                       options=("--kv-type", kind))  # fmt: skip
            self.assertLessEqual(float(np.abs(made.logits[0] - logits).max()), most, kind)
            self.assertEqual(made.tokens, greedy[1:], kind)
        out = json.loads(bitnet("run", "-m", model, "-p", "", "-n", len(greedy) - 1, "--greedy", "--json", "-q",
                                "--repetition-penalty", 1))  # fmt: skip
        self.assertEqual(out["text"].strip(), expected["greedy_text"].strip())
        for prompt in expected["prompts"]:
            made = run(model, prompt["ids"], self.folder / "prompt", generate=len(prompt["greedy64"]))
            self.assertEqual(made.tokens, prompt["greedy64"])

    def test_stories_in_other_types(self):
        """The cosine of every position's logits with those of the float32 file."""
        model = self.assets / "models" / "stories260K.gguf"
        ids = [1, 403, 407, 261, 378, 300, 310, 320, 330, 340, 350, 360]
        expected = run(model, ids, self.folder / "f32").logits
        for kind in ("f16", "bf16", "q8_0"):
            converted = convert(model, self.folder / f"{kind}.gguf", kind)
            logits = run(converted, ids, self.folder / kind).logits
            self.assertGreaterEqual(float(cosines(logits[: len(ids)], expected[: len(ids)]).min()), 0.9999, kind)

    def test_bitnet_cpp_types(self):
        """The same weights in I2_S, TL1 and TL2: the same logits, bit for bit."""
        folder, ids = self.assets / "bitnet_cpp", [5, 300, 17, 900, 33, 42, 700]
        logits = [run(folder / "tiny.b158.i2_s.gguf", ids, self.folder / "i2_s").logits]
        for kind in ("tl1", "tl2"):
            options = ("--tile-config", folder / f"{kind}.ini")
            logits.append(run(folder / f"tiny.b158.{kind}.gguf", ids, self.folder / kind, options=options).logits)
        self.assertGreater(float(np.abs(logits[0]).max()), 0)
        for other in logits[1:]:
            self.assertEqual(logits[0].tobytes(), other.tobytes())


if __name__ == "__main__":
    unittest.main()
