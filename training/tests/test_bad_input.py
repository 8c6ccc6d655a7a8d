"""What train.py refuses before any work: one line each, exit code 2, and a run's files as they were."""

import os
import pickle
import shutil
import subprocess
import sys
import unittest
import unittest.mock
from types import SimpleNamespace
from typing import Any

import support
import torch

import train
import train_tokenizer
from bitnet_training import config, errors, trainer


class Configuration(support.TestCase):
    def refused(self, text: str, fragment: str) -> None:
        path = self.folder() / "bad.toml"
        path.write_text(text)
        with self.assertRaises(errors.UserError) as caught:
            config.load(str(path), [])
        self.assertIn(fragment, str(caught.exception))
        self.assertIn("bad.toml", str(caught.exception))

    def test_files(self):
        for text, fragment in (
            ("model = ", "not TOML"),
            ("[models]\nhidden = 32\n", "[models] is no table of this configuration; those are model, tokenizer"),
            ("model = 3\n", "model: expected a table, found 3"),
            ("[train]\nstep = 3\n", "train.step: unknown key; known are steps, batch"),
            ("[train]\nsteps = 1.5\n", "train.steps: expected a whole number, found 1.5"),
            ("[train]\nsteps = true\n", "train.steps: expected a whole number, found True"),
            ('[train]\nsteps = "3"\n', "train.steps: expected a whole number, found '3'"),
            ("[train]\nsteps = 0\n", "train.steps: expected 1 to"),
            ("[train]\nbatch = -1\n", "train.batch: expected 1 to"),
            ("[train]\nlearning_rate = nan\n", "train.learning_rate: expected 0.0 to 1.0, found nan"),
            ("[train]\nlearning_rate = inf\n", "train.learning_rate: expected 0.0 to 1.0, found inf"),
            ("[train]\nclip = inf\n", "train.clip: expected a finite number, at least 0.0, found inf"),
            ("[model]\nrope_base = inf\n", "model.rope_base: expected a finite number, at least 1.0, found inf"),
            (f"[train]\nclip = 1{'0' * 400}\n", "train.clip: expected a finite number"),
            ("[train]\ndropout = 0.95\n", "train.dropout: expected 0.0 to 0.9, found 0.95"),
            ("[train]\nseed = -1\n", "train.seed: expected 0 to"),
            ("[train]\nsteps = 5\nwarmup = 6\n", "train.warmup 6 is beyond train.steps 5"),
            ("[tokenizer]\nvocab = 259\n", "tokenizer.vocab: expected 260 to"),
            ("[data]\nvalidation = 0.5\ntest = 0.5\n", "leave less than a tenth of the text for training"),
            ("[model]\nhidden = 30\n", "model.hidden 30 must be model.heads 4 times an even head size"),
            ("[model]\nkv_heads = 3\n", "model.kv_heads 3 must divide model.heads 4"),
            ("[model]\nffn = 6\n", "cannot be packed"),
        ):
            with self.subTest(text=text[:40]):
                self.refused(text, fragment)

    def test_not_a_text_file(self):
        path = self.folder() / "bad.toml"
        path.write_bytes(b"\xff\xfe")
        for name, fragment in ((path, "not TOML"), (path.parent, "cannot be read"), (path / "x", "cannot be read")):
            with self.assertRaisesRegex(errors.UserError, fragment):
                config.load(str(name), [])

    def test_overrides(self):
        self.assertEqual(support.settings("train.steps=7", "train.warmup=3").train.steps, 7)
        for override, fragment in (
            ("steps=7", "--set steps=7: expected table.key=value"),
            ("train.steps", "--set train.steps: expected table.key=value"),
            ("train.steps=seven", "'seven' is not a TOML value"),
            ("train.stepps=7", "train.stepps: unknown key"),
            ("trane.steps=7", r"\[trane\] is no table"),
        ):
            with self.assertRaisesRegex(errors.UserError, fragment):
                support.settings(override)

    def test_digest(self):
        """Everything but how often a run is saved."""
        digest = support.settings().digest()
        self.assertEqual(digest, support.settings("train.save_every=3").digest())
        for change in ("train.seed=2", "train.steps=201", "model.ffn=128", "lora.alpha=1", "data.test=0.1"):
            self.assertNotEqual(digest, support.settings(change).digest())

    def test_shipped_files(self):
        for path in (support.TRAINING / "configs").glob("*.toml"):
            config.load(str(path), [])


class Refusals(support.TestCase):
    def setUp(self):
        self.work = self.folder()
        self.out = self.work / "run"

    def train(self, *more: Any) -> support.Result:
        return support.call(train, *support.arguments(self.out, *more))

    def test_texts(self):
        for name, content, fragment in (
            ("empty", b"", "empty: no text"),
            ("white", b" \n \n", "white: no text"),
            ("latin", b"caf\xe9\n" * 99, "latin: byte 3 is not UTF-8"),
            ("short", b"A line.\n" * 300, "tokenizer.vocab = 300: SentencePiece cannot"),
        ):
            (self.work / name).write_bytes(content)
            for program, out in ((train, "--out"), (train_tokenizer, "-o")):
                result = support.call(
                    program, "--config", support.config_file(), "--data", self.work / name, out, self.out
                )
                self.assert_refused(result, fragment)
        self.assert_refused(self.train("--data", self.work / "none"), "none: cannot be read: No such file")
        self.assert_refused(self.train("--data", self.work), "cannot be read: Is a directory")
        self.assertFalse(self.out.exists())

    def test_context_beyond_the_text(self):
        result = self.train("--set", "model.context=100000")
        self.assert_refused(result, "model.context = 100000 tokens are more than the", "shorter context")
        self.assertFalse(self.out.exists())

    def test_beyond_memory(self):
        result = self.train("--set", "model.hidden=65536", "--set", "model.ffn=131072", "--set", "model.layers=1024")
        self.assert_refused(result, "needs at least", "GB of memory, this machine has", "choose smaller shapes")
        self.assertFalse(self.out.exists())

    def test_tokenizers(self):
        tokenizer = support.trained() / "tokenizer.model"
        result = self.train("--tokenizer", tokenizer, "--set", "tokenizer.vocab=301")
        self.assert_refused(result, "300 pieces, but tokenizer.vocab is 301")
        self.assert_refused(self.train("--tokenizer", support.data_file()), "not a SentencePiece model")

    def test_lora_is_for_fine_tuning(self):
        self.assert_refused(self.train("--set", "lora.rank=4"), "[lora] is no table of this configuration")

    def test_resume_and_begin(self):
        self.assert_refused(self.train("--resume"), "checkpoint.pt is not there; leave --resume out to begin")
        shutil.copytree(support.trained(), self.out, dirs_exist_ok=True)
        self.assert_refused(self.train(), "checkpoint.pt is there already; --resume goes on")
        (self.out / trainer.CHECKPOINT).unlink()
        self.assert_refused(self.train(), "best.pt is there already")

    def test_places(self):
        (self.work / "file").write_text("")
        for place in (self.work / "file", self.work / "file" / "run"):
            result = support.call(train, *support.arguments(place))
            self.assert_refused(result, "cannot be made a folder", "choose another place")

    def test_a_folder_that_cannot_be_written(self):
        """Not by permissions, which do not hold root back: a directory stands where a file shall be written."""
        (self.out / "validation.txt.partial").mkdir(parents=True)
        self.assert_refused(self.train(), "validation.txt: cannot be written: Is a directory")
        if os.geteuid() == 0:
            self.skipTest("permissions do not hold root back")
        self.out.chmod(0o500)
        self.assert_refused(self.train(), "tokenizer.model: cannot be written: Permission denied")

    def test_space(self):
        usage = shutil.disk_usage(self.work)
        with unittest.mock.patch.object(shutil, "disk_usage", lambda path: usage._replace(free=1_100_000)):
            self.assert_refused(self.train(), "checkpoints need", "free are 1.1 MB; make room or choose another folder")
        self.assertEqual(list(self.out.iterdir()), [])

    def test_needed_space_is_enough(self):
        run = support.trained()
        used = sum(path.stat().st_size for path in run.iterdir())
        state = support.state_of(run)
        weights = 4 * sum(value.numel() for value in state["model"].values())
        self.assertLess(used + 4 * weights, 2 * 3 * weights + 2 * weights + (1 << 20))

    def test_file_size_limit(self):
        """The disk fills up in the first save: told before any step is made."""
        script = f"""
import resource, sys
sys.path[:0] = {[str(support.TRAINING)]!r}
import train
from bitnet_training import errors
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
errors.run(train.main)
"""
        arguments = [str(a) for a in support.arguments(self.out)]
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        self.assert_refused(
            support.Result(result.returncode, result.stdout, result.stderr), "checkpoint.pt: cannot be written"
        )
        self.assertFalse((self.out / trainer.CHECKPOINT).exists())


class Checkpoints(support.TestCase):
    """--resume over what is no checkpoint of this very run."""

    def setUp(self):
        self.out = self.folder() / "run"
        shutil.copytree(support.trained(), self.out)
        self.path = self.out / trainer.CHECKPOINT

    def refused(self, *fragments: str, more: tuple = ()) -> None:
        before = self.path.read_bytes()
        result = support.call(train, *support.arguments(self.out, "--resume", *more))
        self.assert_refused(result, "checkpoint.pt: ", *fragments)
        self.assertEqual(self.path.read_bytes(), before)

    def test_of_another_run(self):
        other = self.folder() / "other.txt"
        other.write_text(support.text(seed=9))
        self.refused(
            "of another configuration: model.ffn is 64 there and 128 here; train.steps is 200 there and 300 here",
            more=("--set", "model.ffn=128", "--set", "train.steps=300"),
        )
        tokenizer = support.trained() / "tokenizer.model"
        self.refused("of another data: SHA-256", more=("--data", other, "--tokenizer", tokenizer))
        result = support.call(
            train_tokenizer, "--config", support.config_file(), "--data", other, "-o", other.with_suffix(".model")
        )
        self.assertEqual(result.code, 0, result.err)
        self.refused("of another tokenizer: SHA-256", more=("--tokenizer", other.with_suffix(".model")))
        state = support.state_of(self.out)
        state["purpose"] = "finetune.py"
        torch.save(state, self.path)
        self.refused("written by finetune.py, not by train.py")

    def test_damaged(self):
        data = self.path.read_bytes()
        for content in (b"", b"\x80\x02", data[:100], data[: len(data) // 2], data[:-1], b"\0" * 1000):
            self.path.write_bytes(content)
            self.refused("not a checkpoint of this trainer, or damaged")
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 0x10  # within a weight
        self.path.write_bytes(flipped)
        self.refused("or damaged: Bad CRC-32")

    def test_foreign(self):
        for content in ({"model": {}}, [1, 2], torch.zeros(3)):
            torch.save(content, self.path)
            self.refused("not a checkpoint of this trainer: it has no ")
        state = support.state_of(support.trained())
        del state["model"]["model.norm.weight"]
        torch.save(state, self.path)
        self.refused("its weights do not fit", "model.norm.weight")

    def test_nothing_in_it_is_executed(self):
        trace = self.out / "executed"

        class Evil:
            def __reduce__(self) -> tuple:
                return (os.mkdir, (str(trace),))

        torch.save({"model": Evil()}, self.path)
        self.refused("or damaged: it asks for posix.mkdir")
        torch.save({"model": Evil()}, self.path, _use_new_zipfile_serialization=False)
        self.refused("or damaged: File is not a zip file")
        self.path.write_bytes(pickle.dumps(Evil()))
        self.refused("or damaged: File is not a zip file")
        self.assertFalse(trace.exists())
        torch.save(Evil(), self.path)
        torch.load(self.path)  # the danger is real
        self.assertTrue(trace.exists())

    def test_another_number_of_threads_is_told(self):
        state = support.state_of(self.out)
        state["threads"] = 3
        torch.save(state, self.path)
        result = support.call(train, *support.arguments(self.out, "--resume"))
        self.assertEqual(result.code, 0)
        self.assertIn("begun with 3 threads and goes on with 1", result.err)


class Ends(support.TestCase):
    """How programs end that neither finish nor refuse."""

    def end(self, main: Any) -> support.Result:
        return support.call(SimpleNamespace(__file__="folder/program.py", main=main))

    def test_memory_that_ends(self):
        result = self.end(lambda: torch.empty(1 << 50))
        self.assertEqual((result.code, result.err.count("\n")), (1, 1), result.err)
        self.assertRegex(result.err, "^program.py: out of memory: .*choose smaller shapes")

    def test_mistakes_of_the_program_are_not_hidden(self):
        for main in (lambda: torch.zeros(2) @ torch.zeros(3), lambda: {}["key"], lambda: os.listdir("/no/such/folder")):
            with self.assertRaises((RuntimeError, KeyError, OSError)):
                self.end(main)

    def test_interrupted(self):
        def interrupted() -> None:
            raise KeyboardInterrupt

        self.assertEqual(self.end(interrupted), support.Result(130, "", "program.py: interrupted\n"))

    def test_standard_output_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            command = [sys.executable, str(support.TRAINING / "export.py"), "--run", str(support.trained())]
            command += ["--out", str(self.folder() / "model")]
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "export.py: standard output cannot be written: No space left on device\n")


if __name__ == "__main__":
    unittest.main()
