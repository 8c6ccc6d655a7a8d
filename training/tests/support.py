"""What the tests share: a text, a tiny configuration, the programs called within this process, and one trained and
exported model, made once."""

import atexit
import contextlib
import functools
import io
import random
import shutil
import sys
import tempfile
import unittest.mock
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

TRAINING = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TRAINING))

import torch  # noqa: E402

import export  # noqa: E402
import train  # noqa: E402
from bitnet_training import checkpoint, config, errors, trainer  # noqa: E402

trainer.use_threads(1)  # as the configuration below says; results of one thread and of two differ

CONFIG = """
[model]
hidden = 32
ffn = 64
layers = 2
heads = 4
kv_heads = 2
context = 16
[tokenizer]
vocab = 300
[data]
validation = 0.04
test = 0.02
[train]
steps = 200
batch = 2
learning_rate = 1e-2
final_learning_rate = 1e-3
warmup = 10
dropout = 0.1
threads = 1
evaluate_every = 30
save_every = 50
"""


@functools.cache
def scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bitnet-training-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def text(words: str = "the cat sat on a mat and saw nine red birds fly over one old house", seed: int = 1) -> str:
    """About 8000 characters of short sentences in lines and paragraphs."""
    draw = random.Random(seed)
    lines = []
    for i in range(260):
        lines.append(" ".join(draw.choice(words.split()) for _ in range(7)).capitalize() + ".\n")
        if i % 4 == 3:
            lines.append("\n")
    return "".join(lines)


@functools.cache
def data_file() -> Path:
    path = scratch() / "text.txt"
    path.write_text(text())
    return path


@functools.cache
def config_file() -> Path:
    path = scratch() / "tiny.toml"
    path.write_text(CONFIG)
    return path


def settings(*overrides: str) -> config.Config:
    return config.load(str(config_file()), list(overrides))


@dataclass
class Result:
    code: int
    out: str
    err: str


def call(program: ModuleType, *arguments: Any) -> Result:
    """A program's main, as if from a shell."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = [program.__file__, *map(str, arguments)]
    with (
        unittest.mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            errors.run(program.main)
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def arguments(out: Path, *more: Any) -> list[Any]:
    """Of train.py, with the tiny configuration."""
    return ["--config", config_file(), "--data", data_file(), "--out", out, *more]


@functools.cache
def trained() -> Path:
    """A run of the tiny configuration. Tests only read it."""
    out = scratch() / "run"
    result = call(train, *arguments(out))
    if result.code != 0:
        raise RuntimeError(result.err)
    return out


@functools.cache
def exported() -> Path:
    out = scratch() / "model"
    result = call(export, "--run", trained(), "--out", out)
    if result.code != 0:
        raise RuntimeError(result.err)
    return out


def state_of(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / trainer.CHECKPOINT, trainer.STATE_KEYS)


class TestCase(unittest.TestCase):
    def folder(self) -> Path:
        folder = tempfile.TemporaryDirectory(dir=scratch())
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def assert_refused(self, result: Result, *fragments: str) -> None:
        """Exit code 2 and one line that has all fragments."""
        self.assertEqual(result.code, 2, result.err)
        self.assertEqual(result.err.count("\n"), 1, result.err)
        for fragment in fragments:
            self.assertIn(fragment, result.err)

    def assert_same(self, a: Any, b: Any, where: str = "") -> None:
        """Equal, tensors bit for bit."""
        if isinstance(a, torch.Tensor):
            self.assertTrue(a.dtype == b.dtype and torch.equal(a, b), f"{where} differs")
        elif isinstance(a, dict):
            self.assertEqual(list(a), list(b), where)
            for key in a:
                self.assert_same(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, (list, tuple)):
            self.assertEqual(len(a), len(b), where)
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                self.assert_same(x, y, f"{where}[{i}]")
        else:
            self.assertEqual(a, b, where)
