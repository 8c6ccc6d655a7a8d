"""The training loop: deterministic, resumable at any checkpoint, with the curve and the best weights on disk.

A run's folder holds checkpoint.pt (weights, optimizer, curve: the place to resume from), best.pt (the weights with the
lowest validation loss), tokenizer.model, training.json (what a reader wants to know of the run), and validation.txt and
test.txt, the text that was cut away. Each is replaced as a whole. Everything random in a step follows from the seed and
the number of the step, so no generator's state is part of a checkpoint. The first checkpoint is that of step 0: from
then on a run can always be resumed, and what prevents saving shows before the work begins.
"""

import math
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import numpy
import sentencepiece
import threadpoolctl
import torch
import tqdm
from torch import nn
from torch.nn import functional

from . import checkpoint
from .config import Config
from .data import Tokens, batch
from .errors import Interrupted, UserError, brief
from .files import make_directory, require_space, write_atomically, write_json
from .likelihood import likelihood
from .model import BitNet

CHECKPOINT, BEST, TOKENIZER, METADATA = "checkpoint.pt", "best.pt", "tokenizer.model", "training.json"
WEIGHTS_KEYS = ("config", "step", "model")
STATE_KEYS = (*WEIGHTS_KEYS, "purpose", "config_digest", "digests", "threads", "pending", "curve", "best", "optimizer")


class _Stop:
    """While active, Ctrl-C asks for an end after the step at hand; once more, and it interrupts at once."""

    def __enter__(self) -> "_Stop":
        self.asked = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.before)


def use_threads(threads: int) -> None:
    """What makes equal runs equal: a fixed number of threads (0: torch's choice, all CPUs), and no operation that sums
    in any order. OpenBLAS has threads of its own, which would otherwise wait for work on every CPU, at full load."""
    if threads > 0:
        torch.set_num_threads(threads)
        threadpoolctl.threadpool_limits(limits=threads, user_api="blas")
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)


def require_memory(config: Config, vocab: int) -> None:
    """Before a machine without the memory for it begins to swap or to kill: float32 weights, gradients and two moments,
    and the causal mask. What the activations take comes on top."""
    m = config.model
    parameters = vocab * m.hidden + m.layers * m.hidden * (2 * m.hidden + 2 * m.kv_width + 3 * m.ffn)
    needed = 16 * parameters + 4 * m.context**2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"training {parameters} parameters with a context of {m.context} needs at least {needed / 1e9:.1f} GB of "
            f"memory, this machine has {there / 1e9:.1f} GB; choose smaller shapes or a shorter context"
        )


def library_versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "sentencepiece": sentencepiece.__version__,
    }


def learning_rate(config: Config, step: int) -> float:
    """Linear warm-up, then a cosine that reaches final_learning_rate at the last step. Steps count from 0."""
    t = config.train
    if step < t.warmup:
        return t.learning_rate * (step + 1) / t.warmup
    progress = (step - t.warmup) / max(t.steps - t.warmup, 1)
    return t.final_learning_rate + (t.learning_rate - t.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def _differences(ours: dict, theirs: dict, path: str = "") -> list[str]:
    found = []
    for key in sorted(set(ours) | set(theirs)):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key} is {b!r} there and {a!r} here")
    return found


def add_lora(model: BitNet, config: Config) -> None:
    """With lora.rank > 0: freezes all of the model and gives each projection its pair of thin matrices."""
    if config.lora.rank == 0:
        return
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for linear in model.bit_linears().values():
        linear.add_lora(config.lora.rank, config.lora.alpha)


def _load_state(model: BitNet, state: dict[str, Any], path: Path) -> None:
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: its weights do not fit its configuration and tokenizer: {brief(error)}") from error


def load_weights(model: BitNet, state: dict[str, Any], config: Config, path: Path) -> None:
    """The weights of the checkpoint at `path` into a new model, LoRA merged."""
    add_lora(model, config)
    _load_state(model, state, path)
    if config.lora.rank > 0:
        for linear in model.bit_linears().values():
            linear.merge_lora()


class Trainer:
    """`model` has its initial weights; `purpose` names the program in the metadata; `base` is the digest of the weights
    that fine-tuning begins from."""

    def __init__(
        self,
        config: Config,
        tokens: Tokens,
        model: BitNet,
        out: str,
        purpose: str,
        base: str | None = None,
    ):
        self.config, self.tokens, self.model, self.purpose = config, tokens, model, purpose
        self.digests = {"data": tokens.corpus.digest, "tokenizer": tokens.tokenizer.digest}
        if base is not None:
            self.digests["base model"] = base
        self.validation_bytes = len(tokens.corpus.validation.encode())
        self.out = make_directory(out)
        self.step = 0
        self.saved_step = 0
        self.pending: list[float] = []  # the losses since the last evaluation; their mean goes into the curve
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        model.dropout = config.train.dropout
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.train.weight_decay},
                {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=(config.train.beta1, config.train.beta2),
        )

    def needed_bytes(self) -> int:
        """Both files of weights, and the one that is being replaced, with room for metadata."""
        weights = 4 * sum(p.numel() for p in self.model.parameters())
        moments = 8 * sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        texts = self.validation_bytes + len(self.tokens.corpus.test.encode())
        return 2 * (weights + moments) + 2 * weights + texts + (1 << 20)

    def prepare(self, resume: bool) -> None:
        """Looks for everything that could make the work be lost, before it begins."""
        state = self.out / CHECKPOINT
        for path in (state, self.out / BEST):
            if path.exists() and not resume:
                raise UserError(f"{path} is there already; --resume goes on with that run, another --out begins anew")
        if resume and not state.exists():
            raise UserError(f"{state} is not there; leave --resume out to begin")
        require_space(self.out, self.needed_bytes(), "checkpoints")
        if resume:
            self._restore(state)
            return
        corpus = self.tokens.corpus
        self.tokens.tokenizer.save(self.out / TOKENIZER)
        for name, text in (("validation.txt", corpus.validation), ("test.txt", corpus.test)):
            write_atomically(self.out / name, lambda file, text=text: file.write(text.encode()))
        self._save()

    def _restore(self, path: Path) -> None:
        state = checkpoint.load(path, STATE_KEYS)
        if state["purpose"] != self.purpose:
            raise UserError(f"{path}: written by {state['purpose']}, not by {self.purpose}")
        if state["config_digest"] != self.config.digest():
            found = "; ".join(_differences(self.config.to_dict(), state["config"]))
            raise UserError(f"{path}: of another configuration: {found}. Give the same one, or another --out")
        for name, digest in self.digests.items():
            found = state["digests"].get(name)
            if found != digest:
                raise UserError(
                    f"{path}: of another {name}: SHA-256 {found} there, {digest} here. Give the same one, or another "
                    "--out"
                )
        if state["threads"] != torch.get_num_threads():
            print(
                f"note: this run was begun with {state['threads']} threads and goes on with {torch.get_num_threads()}; "
                "its last digits will differ from those of a run that was not interrupted",
                file=sys.stderr,
            )
        _load_state(self.model, state, path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self.best = state["step"], state["curve"], state["best"]
        self.saved_step, self.pending = self.step, state["pending"]

    def _save(self) -> None:
        state = {
            "purpose": self.purpose,
            "config": self.config.to_dict(),
            "config_digest": self.config.digest(),
            "digests": self.digests,
            "threads": torch.get_num_threads(),
            "step": self.step,
            "pending": self.pending,
            "curve": self.curve,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(self.out / CHECKPOINT, state)
        self.saved_step = self.step
        write_json(self.out / METADATA, self.metadata())

    def metadata(self) -> dict[str, Any]:
        return {
            "program": self.purpose,
            "seed": self.config.train.seed,
            "digests": self.digests,
            "config": self.config.to_dict(),
            "threads": torch.get_num_threads(),
            "libraries": library_versions(),
            "machine": {"system": platform.platform(), "processor": _processor()},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "training_tokens": len(self.tokens.training),
            "steps_done": self.step,
            "best": self.best,
            "curve": self.curve,
        }

    def _train_step(self) -> float:
        t = self.config.train
        ids, bos = self.tokens.training, self.tokens.tokenizer.bos
        inputs, targets = batch(ids, bos, t.batch, self.config.model.context, t.seed, self.step)
        self.model.noise = numpy.random.Generator(numpy.random.SFC64([t.seed, self.step, 1]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        logits = self.model(torch.from_numpy(inputs))
        loss = functional.cross_entropy(logits.view(-1, logits.shape[-1]), torch.from_numpy(targets).view(-1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(trained, t.clip if t.clip > 0.0 else math.inf))
        self._require_finite(f"the loss is {float(loss.detach())} and the gradient's norm {norm}", norm)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _require_finite(self, what: str, value: float) -> None:
        """Before weights that hold no numbers could reach a checkpoint."""
        if not math.isfinite(value):
            raise UserError(
                f"step {self.step}: {what}: the training has diverged; lower train.learning_rate. Saved are step "
                f"{self.saved_step} and the best weights before"
            )

    def _evaluate(self) -> None:
        point = {"step": self.step, "training_loss": sum(self.pending) / len(self.pending)}
        ids, bos = self.tokens.validation, self.tokens.tokenizer.bos
        if len(ids) > 0:
            context = self.config.model.context
            found = likelihood(self.model, ids, self.validation_bytes, bos, context, max(context // 2, 1))
            self._require_finite(f"the validation loss is {found.mean_nll}", found.mean_nll)
            point |= {"validation_loss": found.mean_nll, "validation_bits_per_byte": found.bits_per_byte}
        self.curve.append(point)
        self.pending = []
        measure = point.get("validation_loss", point["training_loss"])
        if self.best is None or measure < self.best["loss"]:
            self.best = {"step": self.step, "loss": measure}
            weights = {"config": self.config.to_dict(), "step": self.step, "model": self.model.state_dict()}
            checkpoint.save(self.out / BEST, weights)
        text = f"step {self.step}: training loss {point['training_loss']:.4f}"
        if "validation_loss" in point:
            text += f", validation {point['validation_loss']:.4f} ({point['validation_bits_per_byte']:.4f} bits/byte)"
        tqdm.tqdm.write(text, sys.stderr)

    def run(self) -> None:
        """All steps that are left. A checkpoint is written at every multiple of save_every, at the end, and after
        Ctrl-C."""
        try:
            self._run()
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"stopped; {self.out / CHECKPOINT} holds step {self.saved_step}, --resume goes on from there"
            ) from error

    def _run(self) -> None:
        t = self.config.train
        if self.step == t.steps:
            print(f"{self.out}: all {t.steps} steps are done", file=sys.stderr)
            return
        self.model.train()
        with _Stop() as stop, tqdm.tqdm(total=t.steps, initial=self.step, unit="step", disable=None) as bar:
            while self.step < t.steps:
                loss = self._train_step()
                self.pending.append(loss)
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                last = self.step == t.steps
                if last or self.step % t.evaluate_every == 0:
                    self._evaluate()
                if last or stop.asked or self.step % t.save_every == 0:
                    self._save()
                if stop.asked and not last:
                    raise KeyboardInterrupt


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()
