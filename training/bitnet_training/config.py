"""Configuration of a run, read from TOML. Every key has a type and a range here, and an unknown one is an error."""

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UserError

_LARGEST = math.nextafter(math.inf, 0.0)
_TYPES = {int: "a whole number", float: "a number"}


def _setting(default: Any, low: float, high: float = _LARGEST) -> Any:
    """A key's default and the range of its values, both ends included."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class ModelConfig:
    """Shapes. head size = hidden / heads; embeddings and head are one matrix."""

    hidden: int = _setting(256, 4, 1 << 16)
    ffn: int = _setting(768, 4, 1 << 17)
    layers: int = _setting(6, 1, 1024)
    heads: int = _setting(4, 1, 1024)  # query heads
    kv_heads: int = _setting(2, 1, 1024)  # divides heads
    context: int = _setting(256, 2, 1 << 20)  # positions the model is for; sequences are that long in training
    rope_base: float = _setting(10000.0, 1.0)
    norm_eps: float = _setting(1e-5, 1e-12, 1e-1)

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        return self.head_dim * self.kv_heads


@dataclass(frozen=True)
class TokenizerConfig:
    vocab: int = _setting(1024, 260, 1 << 20)  # with <unk> <s> </s> and the 256 byte tokens


@dataclass(frozen=True)
class DataConfig:
    """The text is cut once: the beginning trains, the middle chooses the checkpoint, the end is only reported."""

    validation: float = _setting(0.05, 0.0, 0.5)  # fractions of the bytes
    test: float = _setting(0.05, 0.0, 0.5)


@dataclass(frozen=True)
class TrainConfig:
    steps: int = _setting(1000, 1, 1 << 40)
    batch: int = _setting(8, 1, 1 << 20)  # sequences a step
    learning_rate: float = _setting(2e-3, 0.0, 1.0)
    final_learning_rate: float = _setting(1e-4, 0.0, 1.0)  # reached by a cosine at the last step
    warmup: int = _setting(100, 0, 1 << 40)  # steps
    weight_decay: float = _setting(0.1, 0.0, 10.0)  # of matrices
    beta1: float = _setting(0.9, 0.0, 0.9999999)
    beta2: float = _setting(0.95, 0.0, 0.9999999)
    clip: float = _setting(1.0, 0.0)  # norm of the gradient; 0: no clipping
    dropout: float = _setting(0.0, 0.0, 0.9)  # of embeddings and of what each half of a block adds
    seed: int = _setting(1, 0, (1 << 63) - 1)
    threads: int = _setting(0, 0, 1024)  # 0: as many as there are CPUs; part of what makes a run repeatable
    evaluate_every: int = _setting(250, 1, 1 << 40)  # steps between validations
    save_every: int = _setting(250, 1, 1 << 40)  # steps between checkpoints


@dataclass(frozen=True)
class LoraConfig:
    """finetune.py: rank 0 trains all weights; otherwise W + B A is trained through A [rank, K] and B [N, rank]."""

    rank: int = _setting(0, 0, 4096)
    alpha: float = _setting(16.0, 0.0)  # B A counts alpha / rank


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Of everything that changes the course of a run: how often it is saved does not."""
        values = self.to_dict()
        del values["train"]["save_every"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _section(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a table, found {values!r}")
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}.{key}: unknown key; known are {', '.join(known)}")
    checked = {}
    for name, value in values.items():
        wanted = known[name].type
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"{where}.{name}: expected {_TYPES[wanted]}, found {value!r}")
        low, high = known[name].metadata["low"], known[name].metadata["high"]
        # A comparison with NaN is false, so it is refused here too.
        if not (low <= value <= high):
            limit = f"{low} to {high}" if high != _LARGEST else f"a finite number, at least {low}"
            raise UserError(f"{where}.{name}: expected {limit}, found {value!r}")
        checked[name] = wanted(value)
    return kind(**checked)


def _check_shapes(config: Config, where: str) -> None:
    m = config.model
    if m.hidden % m.heads != 0 or m.head_dim % 2 != 0:
        raise UserError(f"{where}: model.hidden {m.hidden} must be model.heads {m.heads} times an even head size")
    if m.heads % m.kv_heads != 0:
        raise UserError(f"{where}: model.kv_heads {m.kv_heads} must divide model.heads {m.heads}")
    for name, rows, columns in (
        ("hidden x hidden", m.hidden, m.hidden),
        ("kv width x hidden", m.kv_width, m.hidden),
        ("ffn x hidden", m.ffn, m.hidden),
        ("hidden x ffn", m.hidden, m.ffn),
    ):
        if rows % 4 != 0 or rows * columns % 128 != 0:
            raise UserError(
                f"{where}: a matrix of {name} = {rows} x {columns} cannot be packed: its rows must be a multiple of 4 "
                "and its elements of 128; choose other sizes"
            )
    if config.data.validation + config.data.test >= 0.9:
        raise UserError(f"{where}: data.validation and data.test leave less than a tenth of the text for training")
    if config.train.warmup > config.train.steps:
        raise UserError(f"{where}: train.warmup {config.train.warmup} is beyond train.steps {config.train.steps}")


TABLES = tuple(f.name for f in dataclasses.fields(Config))


def from_dict(values: dict[str, Any], where: str, tables: tuple[str, ...] = TABLES) -> Config:
    """Checks types, ranges and how the values fit together. `tables` are those that may be given."""
    sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    for key in values:
        if key not in tables:
            raise UserError(f"{where}: [{key}] is no table of this configuration; those are {', '.join(tables)}")
    config = Config(**{k: _section(sections[k], v, f"{where}: {k}") for k, v in values.items()})
    _check_shapes(config, where)
    return config


def model_from_dict(values: Any, where: str) -> ModelConfig:
    """The shapes alone, with the same checks."""
    return from_dict({"model": values}, where).model


def load(path: str, overrides: list[str], tables: tuple[str, ...] = TABLES) -> Config:
    """Reads a TOML file; `overrides` are "table.key=value" with a TOML value, and win."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    for override in overrides:
        name, equals, value = override.partition("=")
        table, dot, key = name.partition(".")
        if not (equals and dot):
            raise UserError(f"--set {override}: expected table.key=value")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"--set {override}: {value!r} is not a TOML value") from error
        section = values.setdefault(table, {})
        if isinstance(section, dict):
            section[key] = parsed
    return from_dict(values, path, tables)
