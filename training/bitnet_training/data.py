"""Text to token ids: reading, the one cut into training, validation and test text, the tokenizer, training batches."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy
import sentencepiece

from .config import Config
from .errors import UserError, brief
from .files import read_text, write_atomically

SPACE_MARK = "\u2581".encode()  # SentencePiece's own spelling of a space

# SentencePiece ends the process, not the call, when a word has more than 2^16 - 1 characters, and a text without spaces
# is one word. Longer paragraphs are cut; that only hides a few pairs from the training of the vocabulary.
LONGEST_PARAGRAPH = 60000


@dataclass(frozen=True)
class Corpus:
    training: str
    validation: str
    test: str
    digest: str  # SHA-256 of the text's bytes

    @staticmethod
    def read(paths: list[str], config: Config) -> "Corpus":
        """The files one after the other, UTF-8, bytes as they are; cut at beginnings of lines."""
        pieces = [read_text(path) for path in paths]
        for path, piece in zip(paths, pieces, strict=True):
            if (at := piece.find(SPACE_MARK)) >= 0:
                raise UserError(
                    f"{path}: byte {at} begins U+2581, which SentencePiece takes for a space; replace it in the text"
                )
        data = b"".join(pieces)
        names = ", ".join(paths)
        if not data.strip():
            raise UserError(f"{names}: no text; give files with something to learn from")
        first = _line_start(data, 1.0 - config.data.validation - config.data.test)
        second = max(first, _line_start(data, 1.0 - config.data.test))
        parts = (data[:first], data[first:second], data[second:])
        if not parts[0].strip():
            raise UserError(f"{names}: the text to train on, its beginning, is nothing but white space")
        fractions = {"validation": config.data.validation, "test": config.data.test}
        for (name, fraction), part in zip(fractions.items(), parts[1:], strict=True):
            if fraction > 0.0 and not part.strip():
                raise UserError(
                    f"{names}: {len(data)} bytes are too few for data.{name} = {fraction}: no line is left for it; "
                    "give more text or set it to 0"
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
    """SentencePiece BPE with byte fall-back; a text and its ids are one to one (no normalisation, no added space),
    but for U+2581, which comes back as a space."""

    def __init__(self, model: bytes, name: str):
        self.model = model
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{name}: not a SentencePiece model: {brief(error)}") from error
        if self.processor.bos_id() < 0 or not self.processor.is_byte(self.processor.piece_to_id("<0x00>")):
            raise UserError(f"{name}: expected a vocabulary with <s> and byte tokens; make one with train_tokenizer.py")

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        return Tokenizer(model, str(path))

    @staticmethod
    def train(text: str, vocab: int) -> "Tokenizer":
        """Deterministic: one thread, the text in paragraphs, so that a piece may hold a line's end but not two."""
        model = io.BytesIO()
        paragraphs = [
            part[at : at + LONGEST_PARAGRAPH]
            for part in re.split(r"(?<=\n\n)", text)
            for at in range(0, len(part), LONGEST_PARAGRAPH)
        ]
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
                f"choose another size or give more text ({brief(error)})"
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


@dataclass(frozen=True)
class Tokens:
    """What a run reads: the ids of the text it learns from and of the text that chooses its best weights."""

    corpus: Corpus
    tokenizer: Tokenizer
    training: numpy.ndarray
    validation: numpy.ndarray

    @staticmethod
    def of(corpus: Corpus, tokenizer: Tokenizer, context: int) -> "Tokens":
        training = tokenizer.encode(corpus.training)
        if len(training) < context:
            raise UserError(
                f"model.context = {context} tokens are more than the {len(training)} of the training text; give more "
                "text or a shorter context"
            )
        return Tokens(corpus, tokenizer, training, tokenizer.encode(corpus.validation))


def batch(ids: numpy.ndarray, bos: int, sequences: int, length: int, seed: int, step: int) -> tuple:
    """Inputs and targets [sequences, length] of a step: random places of the text, each with <s> in front. They follow
    from seed and step alone, so that a resumed run sees what an uninterrupted one does."""
    random = numpy.random.Generator(numpy.random.PCG64([seed, step, 0]))
    starts = random.integers(0, len(ids) - length + 1, size=sequences)
    targets = numpy.stack([ids[start : start + length] for start in starts])
    inputs = numpy.concatenate([numpy.full((sequences, 1), bos), targets[:, :-1]], axis=1)
    return inputs, targets
