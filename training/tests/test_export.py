"""The exported directory: what is read back computes what was trained, and a damaged one is refused."""

import json
import shutil
import unittest
from pathlib import Path
from typing import Any

import numpy
import safetensors.numpy
import support
import torch

import evaluate
import export
from bitnet_training import checkpoint, config, errors, hf_directory, trainer
from bitnet_training.model import BitNet

IDS = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))


def trained_model(mode: str = "ternary") -> BitNet:
    """The best weights of the shared run, by way of the checkpoint alone."""
    state = checkpoint.load(support.trained() / trainer.BEST, trainer.WEIGHTS_KEYS)
    model = BitNet(config.from_dict(state["config"], "state").model, 300, mode)
    model.load_state_dict(state["model"])
    return model.eval()


class Directory(support.TestCase):
    def test_ternary_computes_what_was_trained(self):
        """Equal but for the embeddings, which the export rounds to float16."""
        wanted = trained_model()
        with torch.no_grad():
            wanted.model.embed_tokens.weight.copy_(wanted.model.embed_tokens.weight.half().float())
            found = hf_directory.load(support.exported(), "ternary")(IDS)
            self.assertTrue(torch.equal(found, wanted(IDS)))

    def test_float_and_train_hold_the_master(self):
        wanted = trained_model()
        for weights in ("float", "train"):
            self.assert_same(
                dict(hf_directory.load(support.exported(), weights).state_dict()), dict(wanted.state_dict())
            )
        with torch.no_grad():
            found = hf_directory.load(support.exported(), "float")(IDS)
            self.assertTrue(torch.equal(found, trained_model("float")(IDS)))

    def test_training_can_begin_without_a_master(self):
        model = self.folder() / "model"
        shutil.copytree(support.exported(), model)
        (model / "master.safetensors").unlink()
        with torch.no_grad():
            wanted = hf_directory.load(support.exported(), "ternary")
            found = hf_directory.load(model, "train")
            for name, linear in found.bit_linears().items():
                (t, scale), (wanted_t, wanted_scale) = linear.ternary(), wanted.bit_linears()[name].ternary()
                self.assertTrue(torch.equal(t, wanted_t))
                self.assertAlmostEqual(float(scale / wanted_scale), 1.0, places=5)
        self.assertNotEqual(hf_directory.weights_digest(model), hf_directory.weights_digest(support.exported()))

    def test_files(self):
        directory = support.exported()
        packed = safetensors.numpy.load_file(directory / "model.safetensors")
        master = safetensors.numpy.load_file(directory / "master.safetensors")
        self.assertEqual(set(packed) - set(master), {name for name in packed if name.endswith("_scale")})
        name = "model.layers.1.mlp.down_proj.weight"
        self.assertEqual((packed[name].dtype, packed[name].shape), (numpy.uint8, (8, 64)))
        self.assertEqual((packed[f"{name}_scale"].dtype, packed[f"{name}_scale"].shape), (numpy.float32, (1,)))
        self.assertAlmostEqual(float(packed[f"{name}_scale"][0] / numpy.abs(master[name]).mean()), 1.0, places=5)
        embedding = packed["model.embed_tokens.weight"]
        numpy.testing.assert_array_equal(embedding, embedding.astype(numpy.float16).astype(numpy.float32))
        values = json.loads((directory / "config.json").read_text())
        self.assertEqual((values["vocab_size"], values["bos_token_id"], values["hidden_size"]), (300, 1, 32))
        metadata = json.loads((directory / "training.json").read_text())
        self.assertEqual(metadata["exported_step"], metadata["best"]["step"])

    def test_last_in_place_of_best(self):
        out = self.folder() / "model"
        result = support.call(export, "--run", support.trained(), "--out", out, "--last", "--name", "a name")
        self.assertEqual((result.code, result.out.count("step 200")), (0, 1), result.err)
        self.assertEqual(json.loads((out / "config.json").read_text())["_name_or_path"], "a name")
        self.assertEqual(support.call(export, "--run", support.trained(), "--out", out).code, 0)  # over it

    def test_recommended_sampling(self):
        out = self.folder() / "model"
        arguments = ("--run", support.trained(), "--out", out)
        self.assertFalse((support.exported() / "generation_config.json").exists())
        self.assertEqual(support.call(export, *arguments, "--temperature", 0.5, "--top-k", 7).code, 0)
        chosen = json.loads((out / "generation_config.json").read_text())
        self.assertEqual(chosen, {"temperature": 0.5, "top_k": 7})
        for option, value in (
            ("--temperature", 0),
            ("--temperature", "nan"),
            ("--temperature", "inf"),
            ("--top-k", -1),
            ("--top-p", 1.5),
            ("--repetition-penalty", -2.0),
        ):
            result = support.call(export, *arguments, option, value)
            self.assert_refused(result, f"{option[2:].replace('-', '_')}: expected")
        self.assertEqual(json.loads((out / "generation_config.json").read_text()), chosen)  # untouched by refusals
        self.assertEqual(support.call(export, *arguments).code, 0)
        self.assertFalse((out / "generation_config.json").exists())

    def test_no_config_while_it_is_written(self):
        """A directory whose writer did not finish is not taken for a model."""
        out = self.folder() / "model"
        shutil.copytree(support.exported(), out)
        model, tokenizer = trained_model(), hf_directory.load_tokenizer(out)
        (out / "master.safetensors").unlink()
        (out / "master.safetensors").mkdir()  # cannot be replaced
        with self.assertRaisesRegex(errors.UserError, "master.safetensors: cannot be written"):
            hf_directory.write(model, tokenizer, {}, "x", str(out))
        self.assertFalse((out / "config.json").exists())
        with self.assertRaisesRegex(errors.UserError, "config.json: cannot be read.*export.py"):
            hf_directory.load(out, "ternary")

    def test_no_numbers_are_not_exported(self):
        model = trained_model()
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
        out = self.folder() / "model"
        shutil.copytree(support.exported(), out)
        with self.assertRaisesRegex(errors.UserError, "up_proj.weight: holds values that are not finite"):
            hf_directory.write(model, hf_directory.load_tokenizer(out), {}, "x", str(out))
        hf_directory.load(out, "ternary")  # what was there is untouched


class Evaluate(support.TestCase):
    def evaluate(self, *arguments: Any) -> support.Result:
        common = ("--model", support.exported(), "--data", support.trained() / "test.txt", "--threads", 1)
        return support.call(evaluate, *common, *arguments)

    def test_agrees_with_the_training(self):
        """The validation text's bits per byte, as the trainer noted them; half precision makes the difference."""
        metadata = json.loads((support.exported() / "training.json").read_text())
        noted = [p for p in metadata["curve"] if p["step"] == metadata["exported_step"]][0]["validation_bits_per_byte"]
        result = self.evaluate("--data", support.trained() / "validation.txt", "--json")
        self.assertEqual(result.code, 0, result.err)
        self.assertAlmostEqual(json.loads(result.out)["bits_per_byte"] / noted, 1.0, delta=0.01)

    def test_windows(self):
        found = json.loads(self.evaluate("--json").out)
        self.assertEqual((found["ctx_size"], found["stride"], found["weights"]), (16, 8, "ternary"))
        short = json.loads(self.evaluate("--json", "-C", 4, "--stride", 4).out)
        self.assertEqual((short["ctx_size"], short["stride"]), (4, 4))
        self.assertGreater(short["bits_per_byte"], found["bits_per_byte"])
        self.assertEqual(short["total_bytes"], (support.trained() / "test.txt").stat().st_size)

    def test_plain_text(self):
        self.assertRegex(
            self.evaluate("--weights", "float").out, r"test.txt: \d+ tokens, .* bits per byte \(float weights\)"
        )

    def test_refusals(self):
        empty = self.folder() / "empty.txt"
        empty.write_text("")
        latin = self.folder() / "latin.txt"
        latin.write_bytes("\u00e9".encode("latin-1"))
        for arguments, fragments in (
            (("-C", 0), ("--ctx-size 0: expected 1 to the model's 16",)),
            (("-C", 17), ("--ctx-size 17: expected 1 to the model's 16",)),
            (("--stride", 0), ("--stride 0: expected 1 to the window's 16",)),
            (("-C", 4, "--stride", 5), ("--stride 5: expected 1 to the window's 4",)),
            (("--threads", -1), ("--threads -1: expected 0 to 1024",)),
            (("--data", empty), ("empty.txt: no text to evaluate",)),
            (("--data", latin), ("latin.txt: byte 0 is not UTF-8",)),
            (("--data", empty.parent / "none"), ("none: cannot be read: No such file",)),
            (("--model", empty.parent), ("config.json: cannot be read", "export.py")),
        ):
            support.TestCase.assert_refused(self, self.evaluate(*arguments), *fragments)


class Damage(support.TestCase):
    def setUp(self):
        self.model = self.folder() / "model"
        shutil.copytree(support.exported(), self.model)

    def refused(self, fragment: str, weights: str = "ternary") -> None:
        with self.assertRaisesRegex(errors.UserError, fragment):
            hf_directory.load(self.model, weights)

    def test_config(self):
        path = self.model / "config.json"
        good = json.loads(path.read_text())
        for key, value, fragment in (
            ("model_type", "llama", "model_type is 'llama'; expected 'bitnet'"),
            ("hidden_act", "silu", "hidden_act is 'silu'"),
            ("tie_word_embeddings", False, "tie_word_embeddings is False"),
            ("num_attention_heads", 0, "heads: expected 1 to 1024, found 0"),
            ("num_attention_heads", 3, "must be model.heads 3 times an even head size"),
            ("num_key_value_heads", 3, "kv_heads 3 must divide"),
            ("hidden_size", 32.0, "hidden: expected a whole number, found 32.0"),
            ("hidden_size", True, "hidden: expected a whole number, found True"),
            ("rms_norm_eps", float("nan"), "norm_eps: expected .* found nan"),
            ("rope_theta", "10000", "rope_base: expected a number, found '10000'"),
            ("hidden_size", 64, "tensor .* expected .*64"),
            ("intermediate_size", 128, "gate_proj.weight is uint8 .* expected"),
            ("num_hidden_layers", 3, "tensor model.layers.2.* is missing"),
        ):
            path.write_text(json.dumps(good | {key: value}))
            self.refused(f"model.*{fragment}")
        path.write_text(json.dumps({k: v for k, v in good.items() if k != "hidden_size"}))
        self.refused("config.json: hidden_size is missing")
        for text, fragment in (("{", "not JSON"), ("[]", "expected an object, found list")):
            path.write_text(text)
            self.refused(f"config.json: {fragment}")

    def test_tensors(self):
        path = self.model / "model.safetensors"
        good = safetensors.numpy.load_file(path)
        up = "model.layers.0.mlp.up_proj.weight"
        bad_norm = good["model.norm.weight"].copy()
        bad_norm[3] = numpy.inf
        for name, value, fragment in (
            (up, good[up] | 3, "up_proj.weight: holds the code 3"),
            (up, good[up].astype(numpy.float32), "up_proj.weight is float32 .* expected uint8"),
            (
                f"{up}_scale",
                numpy.array([0.0], numpy.float32),
                "up_proj.weight_scale is 0.0; expected a positive number",
            ),
            (f"{up}_scale", numpy.array([numpy.nan], numpy.float32), "weight_scale holds values that are not finite"),
            ("model.norm.weight", bad_norm, "model.norm.weight holds values that are not finite"),
        ):
            safetensors.numpy.save_file(good | {name: value}, path)
            self.refused(fragment)

    def test_files(self):
        path = self.model / "model.safetensors"
        data = path.read_bytes()
        for cut in (0, 5, 100, len(data) - 1):
            path.write_bytes(data[:cut])
            self.refused("model.safetensors: not a SafeTensors file")
        path.unlink()
        self.refused("model.safetensors: cannot be read")
        (self.model / "master.safetensors").unlink()
        self.refused("master.safetensors: cannot be read", "float")
        self.refused("model.safetensors: cannot be read", "train")
        (self.model / "tokenizer.model").unlink()
        self.refused("tokenizer.model: cannot be read")


class ExportRefusals(support.TestCase):
    def setUp(self):
        self.run_ = self.folder() / "run"
        shutil.copytree(support.trained(), self.run_)

    def export(self, out: Path, *more: Any) -> support.Result:
        return support.call(export, "--run", self.run_, "--out", out, *more)

    def test_refusals(self):
        out = self.folder() / "model"
        self.assert_refused(self.export(self.run_), "is the run's own folder")
        (self.folder() / "file").write_text("")
        (out.parent / "file").write_text("")
        self.assert_refused(self.export(out.parent / "file"), "file: cannot be made a folder", "choose another place")
        (self.run_ / "training.json").write_text("{}")
        self.assert_refused(self.export(out), "tokenizer.model: not the tokenizer that training.json beside it names")
        (self.run_ / "training.json").unlink()
        self.assert_refused(self.export(out), "training.json: cannot be read", "give the --out folder")
        (self.run_ / "best.pt").write_bytes((self.run_ / "best.pt").read_bytes()[:5000])
        self.assert_refused(self.export(out), "best.pt: not a checkpoint of this trainer, or damaged")
        (self.run_ / "best.pt").unlink()
        self.assert_refused(self.export(out), "best.pt is not there; give the --out folder of train.py")
        self.assertFalse(out.exists())

    def test_another_tokenizer(self):
        path = self.run_ / "tokenizer.model"
        path.write_bytes(path.read_bytes() + b"\x1a\x00")  # an empty field more: it loads, but it is another file
        self.assert_refused(self.export(self.folder() / "model"), "tokenizer.model: not the tokenizer")


if __name__ == "__main__":
    unittest.main()
