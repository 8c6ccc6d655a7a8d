"""The training loop: deterministic, resumable at any checkpoint, with the curve and the best weights on disk.

A run's folder holds checkpoint.pt (weights, optimizer, curve: the place to resume from), best.pt (the weights with the
lowest validation loss), tokenizer.model and training.json (what a reader wants to know of the run). Each is replaced
as a whole. Everything random in a step follows from the seed and the number of the step, so no generator's state is
part of a checkpoint.
"""

import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy
import sentencepiece
import torch
import tqdm
from torch import nn
from torch.nn import functional

from .config import Config
from .data import Corpus, Tokenizer, batch
from .errors import UserError
from .files import make_directory, require_space, write_atomically
from .likelihood import likelihood
from .model import BitNet

CHECKPOINT, BEST, TOKENIZER, METADATA = "checkpoint.pt", "best.pt", "tokenizer.model", "training.json"


def load_torch(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the unpickler has no common base class
        raise UserError(f"{path}: not a checkpoint of this trainer: {error}") from error


def use_threads(threads: int) -> None:
    """What makes equal runs equal: a fixed number of threads, and no operation that sums in any order."""
    if threads > 0:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)


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


def load_weights(model: BitNet, state: dict[str, Any], config: Config) -> None:
    """A checkpoint's weights into a new model, LoRA merged."""
    add_lora(model, config)
    model.load_state_dict(state["model"])
    if config.lora.rank > 0:
        for linear in model.bit_linears().values():
            linear.merge_lora()


class Trainer:
    """`model` has its initial weights; `purpose` names the program in the metadata."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer, model: BitNet, out: str, purpose: str):
        self.config, self.tokenizer, self.model, self.purpose = config, tokenizer, model, purpose
        self.digests = {"data": corpus.digest, "tokenizer": tokenizer.digest}
        self.ids = tokenizer.encode(corpus.training)
        self.validation = tokenizer.encode(corpus.validation)
        self.validation_bytes = len(corpus.validation.encode())
        context = config.model.context
        if len(self.ids) < context:
            raise UserError(
                f"model.context = {context} tokens are more than the {len(self.ids)} of the training text; give more "
                "text or a shorter context"
            )
        self.out = make_directory(out)
        self.step = 0
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
        return 2 * (weights + moments) + 2 * weights + (1 << 20)

    def prepare(self, resume: bool) -> None:
        """Looks for everything that could make the work be lost, before it begins."""
        checkpoint = self.out / CHECKPOINT
        if checkpoint.exists() and not resume:
            raise UserError(f"{checkpoint} is there already; --resume goes on with it, another --out begins anew")
        if resume and not checkpoint.exists():
            raise UserError(f"{checkpoint} is not there; leave --resume out to begin")
        require_space(self.out, self.needed_bytes(), "checkpoints")
        if resume:
            self._restore(checkpoint)
        else:
            self.tokenizer.save(self.out / TOKENIZER)

    def _restore(self, path: Path) -> None:
        state = load_torch(path)
        if not isinstance(state, dict) or "config" not in state:
            raise UserError(f"{path}: not a checkpoint of this trainer")
        if state["purpose"] != self.purpose:
            raise UserError(f"{path}: written by {state['purpose']}, not by {self.purpose}")
        if state["config_digest"] != self.config.digest():
            found = "; ".join(_differences(self.config.to_dict(), state["config"]))
            raise UserError(f"{path}: of another configuration: {found}. Give the same one, or another --out")
        for name, digest in self.digests.items():
            if state["digests"][name] != digest:
                raise UserError(f"{path}: of another {name}: SHA-256 {state['digests'][name]} there, {digest} here")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self.best = state["step"], state["curve"], state["best"]

    def _save(self) -> None:
        state = {
            "purpose": self.purpose,
            "config": self.config.to_dict(),
            "config_digest": self.config.digest(),
            "digests": self.digests,
            "step": self.step,
            "curve": self.curve,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(self.out / CHECKPOINT, lambda file: torch.save(state, file))
        text = json.dumps(self.metadata(), indent=1) + "\n"
        write_atomically(self.out / METADATA, lambda file: file.write(text.encode()))

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
            "training_tokens": len(self.ids),
            "steps_done": self.step,
            "best": self.best,
            "curve": self.curve,
        }

    def _train_step(self) -> float:
        t = self.config.train
        inputs, targets = batch(self.ids, self.tokenizer.bos, t.batch, self.config.model.context, t.seed, self.step)
        self.model.noise = numpy.random.Generator(numpy.random.SFC64([t.seed, self.step, 1]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        logits = self.model(torch.from_numpy(inputs))
        loss = functional.cross_entropy(logits.view(-1, logits.shape[-1]), torch.from_numpy(targets).view(-1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if t.clip > 0.0:
            nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], t.clip)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _evaluate(self, losses: list[float]) -> None:
        point = {"step": self.step, "training_loss": sum(losses) / len(losses)}
        if len(self.validation) > 0:
            context = self.config.model.context
            found = likelihood(
                self.model, self.validation, self.validation_bytes, self.tokenizer.bos, context, max(context // 2, 1)
            )
            point |= {"validation_loss": found.mean_nll, "validation_bits_per_byte": found.bits_per_byte}
        self.curve.append(point)
        measure = point.get("validation_loss", point["training_loss"])
        if self.best is None or measure < self.best["loss"]:
            self.best = {"step": self.step, "loss": measure}
            weights = {"config": self.config.to_dict(), "step": self.step, "model": self.model.state_dict()}
            write_atomically(self.out / BEST, lambda file: torch.save(weights, file))

    def run(self) -> None:
        t = self.config.train
        self.model.train()
        losses: list[float] = []
        with tqdm.tqdm(total=t.steps, initial=self.step, unit="step", disable=None, file=sys.stderr) as bar:
            while self.step < t.steps:
                loss = self._train_step()
                if not math.isfinite(loss):
                    raise UserError(f"step {self.step}: the loss is {loss}; lower train.learning_rate")
                losses.append(loss)
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                last = self.step == t.steps
                if last or self.step % t.evaluate_every == 0:
                    self._evaluate(losses)
                    losses = []
                    point = self.curve[-1]
                    validation = f", validation {point['validation_loss']:.4f}" if "validation_loss" in point else ""
                    bits = point.get("validation_bits_per_byte")
                    bits = f" ({bits:.4f} bits/byte)" if bits is not None else ""
                    tqdm.tqdm.write(
                        f"step {self.step}: training loss {point['training_loss']:.4f}{validation}{bits}", sys.stderr
                    )
                # The mean of the losses since the last evaluation is part of the curve, so a checkpoint is only
                # written where none are pending.
                if last or (not losses and self._save_is_due()):
                    self._save()

    def _save_is_due(self) -> bool:
        every = self.config.train.save_every
        before = self.curve[-2]["step"] if len(self.curve) > 1 else 0
        return self.step // every > before // every


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()
