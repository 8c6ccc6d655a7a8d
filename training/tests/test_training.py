"""Runs: repeatable, resumable from any moment, never with a broken checkpoint, and fine-tuned from an export."""

import contextlib
import io
import json
import math
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path

import support
import torch

import evaluate
import export
import finetune
import train
from bitnet_training import checkpoint, data, errors, files, trainer
from bitnet_training.model import BitNet

ALL = (trainer.CHECKPOINT, trainer.BEST, trainer.TOKENIZER, trainer.METADATA, "validation.txt", "test.txt")


def make_trainer(out: Path) -> trainer.Trainer:
    settings = support.settings()
    corpus = data.Corpus.read([str(support.data_file())], settings)
    tokenizer = data.Tokenizer.train(corpus.training, settings.tokenizer.vocab)
    tokens = data.Tokens.of(corpus, tokenizer, settings.model.context)
    torch.manual_seed(settings.train.seed)
    return trainer.Trainer(settings, tokens, BitNet(settings.model, tokenizer.size), str(out), "train.py")


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a copy of this process; its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Runs(support.TestCase):
    def assert_equal_runs(self, a: Path, b: Path) -> None:
        for name in (trainer.CHECKPOINT, trainer.BEST):
            keys = trainer.WEIGHTS_KEYS
            self.assert_same(checkpoint.load(a / name, keys), checkpoint.load(b / name, keys), name)
        self.assertEqual((a / trainer.METADATA).read_text(), (b / trainer.METADATA).read_text())

    def start(self, *arguments: object, **options: object) -> subprocess.Popen:
        command = [sys.executable, support.TRAINING / "train.py", *arguments]
        return subprocess.Popen([str(part) for part in command], **options)

    def wait_for(self, path: Path, process: subprocess.Popen) -> None:
        """Importing torch takes seconds on a busy machine; nothing is concluded from how long."""
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)

    def test_learns_and_tells(self):
        run = support.trained()
        self.assertEqual(sorted(p.name for p in run.iterdir()), sorted(ALL))
        metadata = json.loads((run / trainer.METADATA).read_text())
        curve = metadata["curve"]
        self.assertEqual([point["step"] for point in curve], [30, 60, 90, 120, 150, 180, 200])
        self.assertLess(curve[-1]["training_loss"], 0.75 * math.log(300))
        self.assertEqual(metadata["best"]["loss"], min(point["validation_loss"] for point in curve))
        self.assertEqual(checkpoint.load(run / trainer.BEST, ("step",))["step"], metadata["best"]["step"])
        self.assertEqual((metadata["seed"], metadata["threads"], metadata["steps_done"]), (1, 1, 200))
        self.assertEqual(set(metadata["libraries"]), {"python", "torch", "numpy", "sentencepiece"})
        tail = (run / "validation.txt").read_text() + (run / "test.txt").read_text()
        self.assertTrue(support.text().endswith(tail) and 300 < len(tail) < 1000)

    def test_twice_from_one_seed(self):
        again = self.folder() / "run"
        self.assertEqual(support.call(train, *support.arguments(again)).code, 0)
        self.assert_equal_runs(support.trained(), again)

    def test_another_seed_is_another_run(self):
        other = self.folder() / "run"
        support.call(train, *support.arguments(other, "--set", "train.seed=2", "--set", "train.steps=30"))
        curves = [json.loads((run / trainer.METADATA).read_text())["curve"] for run in (support.trained(), other)]
        self.assertNotEqual(curves[0][0], curves[1][0])

    def test_killed_at_any_moment(self):
        """SIGKILL at random moments until the run is through; it equals the one that nothing interrupted."""
        run = self.folder() / "run"
        seed = random.randrange(1 << 32)
        draw = random.Random(seed)
        kills = 0
        for attempt in range(40):
            resume = ["--resume"] if (run / trainer.CHECKPOINT).exists() else []
            options = ["--set", "train.save_every=7", *resume]
            if attempt == 3:  # the rest in one go
                self.assertEqual(support.call(train, *support.arguments(run, *options)).code, 0)
                break
            before = (run / trainer.METADATA).stat().st_mtime_ns if resume else 0
            process = self.start(*support.arguments(run, *options), stderr=subprocess.DEVNULL)
            while process.poll() is None:  # until this process has saved something
                now = (run / trainer.METADATA).stat().st_mtime_ns if (run / trainer.METADATA).exists() else before
                if now != before:
                    break
                time.sleep(0.005)
            time.sleep(draw.uniform(0.0, 0.3))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        self.assertGreater(kills, 0, "no process was killed before its end")
        state = support.state_of(run)
        self.assertEqual(state["step"], 200, f"seed {seed}")
        for name in ("model", "optimizer", "curve", "best", "pending"):
            self.assert_same(state[name], support.state_of(support.trained())[name], f"seed {seed}: {name}")

    def test_every_saved_step_can_be_resumed(self):
        """Also where losses wait for the next evaluation; and where evaluations and saves never meet."""
        run = self.folder() / "run"
        first = make_trainer(run)
        first.prepare(False)
        for _ in range(40):
            first.pending.append(first._train_step())
            if first.step == 30:
                with contextlib.redirect_stderr(io.StringIO()):
                    first._evaluate()
        first._save()
        self.assertEqual(len(support.state_of(run)["pending"]), 10)
        self.assertEqual(support.call(train, *support.arguments(run, "--resume")).code, 0)
        self.assert_equal_runs(support.trained(), run)

    def test_saves_at_least_every_save_every_steps(self):
        run = make_trainer(self.folder() / "run")
        run.prepare(False)
        saved = []
        run._save = lambda: saved.append(run.step)
        with contextlib.redirect_stderr(io.StringIO()):
            run.run()
        self.assertEqual(saved, [50, 100, 150, 200])

    def test_interrupted(self):
        """Ctrl-C on a terminal: a progress bar, exit code 130, how to go on; what follows is as if it had not been."""
        run = self.folder() / "run"
        terminal, end = pty.openpty()
        process = self.start(*support.arguments(run, "--set", "train.save_every=1000"), stderr=end)
        os.close(end)
        self.wait_for(run / trainer.BEST, process)
        process.send_signal(signal.SIGINT)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        os.close(terminal)
        self.assertEqual(process.wait(), 130, shown.decode())
        step = support.state_of(run)["step"]
        self.assertGreaterEqual(step, 30)  # the step at hand, not the last one that was due
        self.assertIn(
            f"train.py: stopped; {run}/checkpoint.pt holds step {step}, --resume goes on from there", shown.decode()
        )
        self.assertIn(b"/200 [", shown)
        self.assertFalse(list(run.glob("*.partial")))
        result = support.call(train, *support.arguments(run, "--resume", "--set", "train.save_every=1000"))
        self.assertEqual(result.code, 0, result.err)
        self.assertNotIn("\r", result.err)  # no terminal, no bar
        state, wanted = support.state_of(run), support.state_of(support.trained())
        for name in ("model", "optimizer", "curve", "best"):
            self.assert_same(state[name], wanted[name], name)

    def test_a_finished_run_has_nothing_to_do(self):
        result = support.call(train, *support.arguments(support.trained(), "--resume"))
        self.assertEqual((result.code, result.err.count("all 200 steps are done")), (0, 1))

    def test_divergence_is_told_and_not_saved(self):
        run = self.folder() / "run"
        trainer_ = make_trainer(run)
        trainer_.prepare(False)
        trainer_._train_step()
        with torch.no_grad():
            trainer_.model.model.norm.weight[0] = math.nan
        with self.assertRaisesRegex(errors.UserError, "step 1: .*diverged; lower train.learning_rate"):
            trainer_.run()
        self.assertEqual(support.state_of(run)["step"], 0)


class Saving(support.TestCase):
    def test_killed_while_saving(self):
        """At each call of a save's that touches the disk, before and after it: the old state or the new one, whole."""
        run = self.folder() / "run"
        old = make_trainer(run)
        old.prepare(False)
        outcomes = []
        for name in ("open", "fsync", "replace"):
            for count in (1, 2, 3, 4):
                for after in (False, True):
                    before = support.state_of(run)

                    def die(name: str = name, count: int = count, after: bool = after) -> None:
                        _kill_at(name, count, after)
                        again = make_trainer(run)
                        again.prepare(True)
                        again.pending.append(again._train_step())
                        again._save()

                    code = in_child(die)
                    self.assertIn(code, (0, -signal.SIGKILL))
                    state = support.state_of(run)
                    self.assertIn(state["step"], (before["step"], before["step"] + 1))
                    if state["step"] == before["step"]:
                        self.assert_same(state, before, "old")
                    json.loads((run / trainer.METADATA).read_text())
                    outcomes.append((code, state["step"] - before["step"]))
        for outcome in ((-signal.SIGKILL, 0), (-signal.SIGKILL, 1)):
            self.assertGreaterEqual(outcomes.count(outcome), 4, outcomes)

    def test_disk_that_fills_up(self):
        """A limit on the size of files stands in for the disk: the write fails half-way, the old state stays."""
        run = self.folder() / "run"
        old = make_trainer(run)
        old.prepare(False)
        before = support.state_of(run)

        def fill() -> None:
            again = make_trainer(run)
            again.prepare(True)
            again.pending.append(again._train_step())
            size = (run / trainer.CHECKPOINT).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            try:
                again._save()
            except errors.UserError as error:
                if "checkpoint.pt: cannot be written: File too large; what was there before is untouched" in str(error):
                    os._exit(7)

        self.assertEqual(in_child(fill), 7)
        self.assert_same(support.state_of(run), before)
        self.assertFalse(list(run.glob("*.partial")))

    def test_leftovers_of_a_killed_save(self):
        path = self.folder() / "file"
        path.with_name("file.partial").write_text("half")
        files.write_atomically(path, lambda file: file.write(b"whole"))
        self.assertEqual([(p.name, p.read_text()) for p in path.parent.iterdir()], [("file", "whole")])


def _kill_at(name: str, count: int, after: bool) -> None:
    """Replaces a function of write_atomically by one that kills this process at its count-th call; "open" kills in the
    first write to the file, of which half arrives with `after`."""
    calls = 0

    def due() -> bool:
        nonlocal calls
        calls += 1
        return calls == count

    if name == "open":

        def dying_open(path: Path, mode: str) -> object:
            file = open(path, mode)  # noqa: SIM115
            if not due():
                return file
            write = file.raw.write if hasattr(file, "raw") else file.write

            class Dying:
                def write(self, content: bytes) -> None:
                    if after:
                        write(bytes(content)[: len(content) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)

                def __enter__(self) -> "Dying":
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

            return Dying()

        files.open = dying_open
        return
    real = getattr(os, name)

    def dying(*arguments: object) -> object:
        if not due():
            return real(*arguments)
        if after:
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(os, name, dying)


class FineTuning(support.TestCase):
    CONFIG = """
[train]
steps = 60
batch = 2
learning_rate = 1e-2
final_learning_rate = 1e-3
warmup = 5
threads = 1
evaluate_every = 20
[lora]
rank = 4
"""

    def setUp(self):
        self.work = self.folder()
        (self.work / "finetune.toml").write_text(self.CONFIG)
        (self.work / "new.txt").write_text(support.text("the zebra quickly jumped under a purple umbrella", 3))

    def tune(self, out: str, *more: object) -> support.Result:
        common = ("--config", self.work / "finetune.toml", "--data", self.work / "new.txt", "--out", self.work / out)
        return support.call(finetune, *(() if "--model" in more else ("--model", support.exported())), *common, *more)

    def bits(self, model: Path) -> float:
        result = support.call(evaluate, "--model", model, "--data", self.work / "new.txt", "--threads", 1, "--json")
        self.assertEqual(result.code, 0, result.err)
        return json.loads(result.out)["bits_per_byte"]

    def test_both_kinds_learn_a_new_text(self):
        before = self.bits(support.exported())
        for kind, rank in (("full", 0), ("lora", 4)):
            result = self.tune(kind, "--set", f"lora.rank={rank}")
            self.assertEqual(result.code, 0, result.err)
            model = self.work / f"{kind}-model"
            self.assertEqual(support.call(export, "--run", self.work / kind, "--out", model).code, 0)
            self.assertLess(self.bits(model), 0.9 * before, kind)
            for name in ("tokenizer.model",):
                self.assertEqual((model / name).read_bytes(), (support.exported() / name).read_bytes())

    def test_resume(self):
        self.assertEqual(self.tune("whole").code, 0)
        short = self.work / "cut"
        self.assertEqual(in_child(lambda: self._until(30)), 0)
        self.assertEqual(support.state_of(short)["step"], 30)
        self.assertEqual(self.tune("cut", "--resume").code, 0)
        a, b = support.state_of(self.work / "whole"), support.state_of(short)
        self.assert_same(a, b)

    def _until(self, step: int) -> None:
        """What finetune.py does when Ctrl-C comes in the given step."""
        inner = trainer.Trainer._train_step

        def counted(self: trainer.Trainer) -> float:
            loss = inner(self)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return loss

        trainer.Trainer._train_step = counted
        if self.tune("cut").code != 130:
            os._exit(98)

    def test_resume_over_another_model(self):
        self.assertEqual(self.tune("run").code, 0)
        other_run, other = self.work / "other-run", self.work / "other"
        for program, arguments in (
            (train, support.arguments(other_run, "--set", "train.steps=20", "--set", "train.warmup=5")),
            (export, ("--run", other_run, "--out", other)),
        ):
            self.assertEqual(support.call(program, *arguments).code, 0)
        result = self.tune("run", "--model", other, "--resume")
        self.assert_refused(result, "checkpoint.pt: of another base model: SHA-256", "Give the same one")

    def test_shapes_are_the_models(self):
        (self.work / "finetune.toml").write_text(self.CONFIG + "[model]\nhidden = 64\n")
        self.assert_refused(self.tune("run"), "[model] is no table of this configuration; those are data, train, lora")


if __name__ == "__main__":
    unittest.main()
