"""Text to token ids: reading, the one cut into training, validation and test text, the tokenizer, training batches."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy
import sentencepiece

from .config import Config
from .errors import UserError
from .files import write_atomically


@dataclass(frozen=True)
class Corpus:
    training: str
    validation: str
    test: str
    digest: str  # SHA-256 of the text's bytes

    @staticmethod
    def read(paths: list[str], config: Config) -> "Corpus":
        """The files one after the other, UTF-8, bytes as they are; cut at beginnings of lines."""
        pieces = []
        for path in paths:
            try:
                data = Path(path).read_bytes()
                data.decode("utf-8")
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the text first") from error
            pieces.append(data)
        data = b"".join(pieces)
        if not data.strip():
            raise UserError(f"{', '.join(paths)}: no text; give files with something to learn from")
        first = _line_start(data, 1.0 - config.data.validation - config.data.test)
        second = max(first, _line_start(data, 1.0 - config.data.test))
        parts = (data[:first], data[first:second], data[second:])
        for name, fraction, part in zip(("validation", "test"), (config.data.validation, config.data.test), parts[1:]):
            if fraction > 0.0 and not part.strip():
                raise UserError(
                    f"{', '.join(paths)}: {len(data)} bytes are too few for data.{name} = {fraction}: no line is left "
                    "for it; give more text or set it to 0"
                )
        return Corpus(*(p.decode("utf-8") for p in parts), hashlib.sha256(data).hexdigest())


def _line_start(data: bytes, fraction: float) -> int:
    """The first beginning of a line at or after a fraction of the bytes; the end where there is none."""
    at = round(len(data) * fraction)
    if at in (0, len(data)) or data[at - 1] == 0x0A:
        return at
    newline = data.find(b"\n", at)
    return len(data) if newline < 0 else newline + 1


class Tokenizer:
    """SentencePiece BPE with byte fall-back; a text and its ids are one to one (no normalisation, no added space)."""

    def __init__(self, model: bytes, name: str):
        self.model = model
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{name}: not a SentencePiece model: {error}") from error
        if self.processor.bos_id() < 0 or not self.processor.is_byte(self.processor.piece_to_id("<0x00>")):
            raise UserError(f"{name}: expected a vocabulary with <s> and byte tokens; make one with train_tokenizer.py")

    @staticmethod
    def load(path: str) -> "Tokenizer":
        try:
            return Tokenizer(Path(path).read_bytes(), path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error

    @staticmethod
    def train(text: str, vocab: int) -> "Tokenizer":
        """Deterministic: one thread, the text in paragraphs, so that a piece may hold a line's end but not two."""
        model = io.BytesIO()
        paragraphs = [part for part in re.split(r"(?<=\n\n)", text) if part]
        longest = max(len(part.encode()) for part in paragraphs)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(paragraphs),
                model_writer=model,
                vocab_size=vocab,
                model_type="bpe",
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                max_sentence_length=longest + 1,
                num_threads=1,
                minloglevel=2,
                unk_id=0,
                bos_id=1,
                eos_id=2,
            )
        except RuntimeError as error:
            raise UserError(
                f"tokenizer.vocab = {vocab}: SentencePiece cannot make that vocabulary from {len(text)} characters; "
                f"choose another size or give more text ({error})"
            ) from error
        return Tokenizer(model.getvalue(), "the trained tokenizer")

    def save(self, path: str | Path) -> None:
        write_atomically(path, lambda file: file.write(self.model))

    @property
    def size(self) -> int:
        return self.processor.get_piece_size()

    @property
    def bos(self) -> int:
        return self.processor.bos_id()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str) -> numpy.ndarray:
        return numpy.array(self.processor.encode(text), dtype=numpy.int64)


def batch(ids: numpy.ndarray, bos: int, sequences: int, length: int, seed: int, step: int) -> tuple:
    """Inputs and targets [sequences, length] of a step: random places of the text, each with <s> in front. They follow
    from seed and step alone, so that a resumed run sees what an uninterrupted one does."""
    random = numpy.random.Generator(numpy.random.PCG64([seed, step, 0]))
    starts = random.integers(0, len(ids) - length + 1, size=sequences)
    targets = numpy.stack([ids[start : start + length] for start in starts])
    inputs = numpy.concatenate([numpy.full((sequences, 1), bos), targets[:, :-1]], axis=1)
    return inputs, targets
