#!/usr/bin/env python3
"""Tokenizers made with Hugging Face's `tokenizers`, written as tokenizer.json and read by the runtime: equal ids.

A family is a pipeline (normalizer, pre_tokenizer, decoder) and a model. Models are trained here on the project's own
texts, and where the test assets are, made from real vocabularies too. Texts are random Unicode (seeded), the corpora
where they are, and lines chosen for what goes wrong. Exit 77, skipped: no `tokenizers` package in .venv or this Python.

BITNET_TEXTS: random texts a family (default 2000, with BITNET_TEST_QUICK 300; tools/test.sh --full takes 10000).
BITNET_BIN: the folder of tokenize_texts.
"""

import functools
import importlib.util
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin" / "python"
if importlib.util.find_spec("tokenizers") is None:
    if VENV.exists() and pathlib.Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(VENV, [str(VENV), *sys.argv])
    print("SKIPPED: the Python package tokenizers is not installed (tools/install_deps.sh test)")
    sys.exit(77)

from tokenizers import (  # noqa: E402  # once it is known to be there
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

COUNT = int(os.environ.get("BITNET_TEXTS", "300" if os.environ.get("BITNET_TEST_QUICK") else "2000"))
CORPUS = 20 * COUNT  # bytes of a corpus as one text, and as many as lines
BIN = pathlib.Path(os.environ.get("BITNET_BIN", ROOT / "build" / "r" / "bin"))
ASSETS = pathlib.Path(os.environ.get("BITNET_ASSETS", ROOT.parent / "shared" / "assets"))

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CASED = (
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
CORNERS = [
    *("", " ", "  ", "\n", "\n\n", " \n", "\t\t x", "a  b", "Hello, y'all! How are you 😁 ?", "\x00\x01", "\ufeffx"),
    *("I'LL don'T we'Ve 'ſ x'ſ \u212a'\u212a", "3 33 333 3333 33333", "١٢٣ ½ ² Ⅷ", "नमस्ते ไทย 中文字 한국어 日本語"),
    *("e\u0301 é ﬁ Å \u212b", "a\u0085b\u180ec\u200bd", "<|endoftext|>", "x <|endoftext|> y", "<s>x</s>"),
    *("[USER] hi [USER]", "un[USER]known", "\u2581a \u2581\u2581", "😀" * 5, "word" * 50, " " * 100 + "x", "ü Ü"),
    *("a\r\nb\r\n\r\nc", "$+<=>^`|~ !?", "qwhole1 qwholesome qwhole", "can't  CAN'T\u2019t", "[MASK] [R] x"),
]


@functools.cache
def assigned_characters():
    """All characters that Unicode 14, the version of Python's tables here, assigns."""
    return [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def settled_characters(assigned):
    """Those that `tokenizers` normalises, and takes for punctuation, as Unicode 14 does.

    Its tables of normal forms and of punctuation are older than those of its regular expressions: marks and punctuation
    of later versions are letters like any other to it. The judge is Python's own table, not the runtime's. Each
    character is tried alone, a mark also beside marks of other classes, a composed one also as its parts.
    """
    around = "\u0334\u05b0\u3099\u094d\u0327\u0316\u0301\u0345"
    texts = []
    for c in assigned:
        if c == "\n":  # stands between the texts
            continue
        texts.append((c, c))
        if unicodedata.combining(c):
            texts += [(c, text) for mark in around for text in ("a" + c + mark, "a" + mark + c)]
        parts = unicodedata.normalize("NFD", c)
        if parts != c:
            texts += [(part, parts) for part in c + parts]
    joined = "\n".join(text for _, text in texts)
    other = set()
    for form in ("NFC", "NFKC"):
        wanted = unicodedata.normalize(form, joined).split("\n")
        found = getattr(normalizers, form)().normalize_str(joined).split("\n")
        other.update(c for (c, _), x, y in zip(texts, wanted, found, strict=True) if x != y)
    cut = {piece for piece, _ in pre_tokenizers.Punctuation("isolated").pre_tokenize_str("a".join(assigned))}
    for c in assigned:
        category = unicodedata.category(c)
        punctuation = category[0] == "P" or (c < "\x80" and category[0] == "S")
        if c != "a" and (c in cut) != punctuation:
            other.add(c)
    return [c for c in assigned if c not in other]


def random_texts(seed, count, assigned):
    """Words of mixed scripts, white space and rare characters."""
    draw = random.Random(seed)
    common = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    marks = ".,;:!?'\"-()[]{}<>/\\|@#$%^&*_+=~`"
    spaces = [" "] * 12 + ["  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "   "]
    special = ["<|endoftext|>", "[USER]", "</s>", "'s", "'LL", "\u2581", "123456"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randrange(1, 12)):
            kind = draw.random()
            length = draw.randrange(1, 9)
            if kind < 0.45:
                parts.append("".join(draw.choice(common) for _ in range(length)))
            elif kind < 0.6:
                parts.append("".join(draw.choice(marks) for _ in range(draw.randrange(1, 4))))
            elif kind < 0.8:
                parts.append("".join(draw.choice(assigned) for _ in range(length)))
            elif kind < 0.9:
                first = draw.randrange(len(assigned) - 200)
                parts.append("".join(assigned[first + draw.randrange(200)] for _ in range(length)))
            else:
                parts.append(draw.choice(special))
            if draw.random() < 0.7:
                parts.append(draw.choice(spaces))
        texts.append("".join(parts))
    return texts


def byte_level(*splits, normalizer=None, ignore_merges=False, prefix=False):
    """What to do with a model of bytes: the pre-tokenisers before ByteLevel, or None for ByteLevel's own pattern."""

    def finish(tokenizer):
        steps = [step for step in splits if step is not None]
        own = None in splits or not splits
        last = [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=own)]
        if splits and splits[-1] is not None and None in splits:  # Falcon: something behind ByteLevel
            at = splits.index(None)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits[:at], *last, *splits[at + 1 :]])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, *last]) if steps else last[0]
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.decoder = decoders.ByteLevel()
        if ignore_merges:
            tokenizer.model.ignore_merges = True

    return finish


def split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior)


BYTE_LEVEL = {
    "gpt-2": byte_level(),
    "gpt-2-prefix": byte_level(prefix=True),
    "llama-bpe": byte_level(split(LLAMA3), ignore_merges=True),
    "qwen2": byte_level(split(QWEN2), normalizer=normalizers.NFC()),
    "deepseek-coder": byte_level(
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(HAN), pre_tokenizers.Digits(True)
    ),
    "deepseek-llm": byte_level(
        split("[\r\n]"), split(CASED), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split(HAN),
        pre_tokenizers.Digits(False),
    ),
    "falcon": byte_level(pre_tokenizers.Punctuation("contiguous"), None, split("[0-9][0-9][0-9]")),
    "falcon-digits": byte_level(pre_tokenizers.Punctuation("contiguous"), None, pre_tokenizers.Digits(False)),
    "starcoder": byte_level(pre_tokenizers.Digits(True), None),
    "nfkc-merged": byte_level(
        split(r"\d", "merged_with_previous"), split(r"[A-Z]", "merged_with_next"), split(r"\s", "removed"),
        normalizer=normalizers.NFKC(),
    ),
}  # fmt: skip
NAMES = {"gpt-2", "llama-bpe", "qwen2", "deepseek-coder", "deepseek-llm", "falcon", "starcoder"}
ADDED = [
    AddedToken("<|endoftext|>", special=True),
    AddedToken("[USER]", special=False, normalized=True),
    AddedToken("ü", special=False, normalized=False),
    AddedToken("[MASK]", special=True, lstrip=True),
    AddedToken("[R]", special=True, rstrip=True),
    AddedToken("qwhole", special=False, single_word=True, normalized=False),
]


def pieces_as_added(model):
    """Added tokens that the model knows as pieces, too: where single_word forbids one, the model may still find it."""
    vocab = model["vocab"]
    pieces = sorted(piece for piece in ([piece for piece, _ in vocab] if isinstance(vocab, list) else vocab))
    words = [piece for piece in pieces if piece.isascii() and piece.isalpha() and 2 <= len(piece) <= 4]
    found = [
        AddedToken(word, special=i % 4 == 0, single_word=True) for i, word in enumerate(words[:: len(words) // 12])
    ]
    letters = [piece for piece in pieces if len(piece) == 1 and piece.isalpha()]
    found += [AddedToken(letter, single_word=True, normalized=False) for letter in letters[:: len(letters) // 6]]
    return [*found, AddedToken("\u0436", single_word=True, special=True), AddedToken("\u00df", single_word=True)]


def llama2(tokenizer):
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def llama2_metaspace(tokenizer):
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def gemma(tokenizer):
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])


CHARACTERS = {"llama-2": llama2, "llama-2-metaspace": llama2_metaspace, "gemma": gemma}


def corpus(random_words=0):
    files = [ROOT / "README.md", *sorted(ROOT.glob("runtime/model/*.cc"))[:8]]
    words = random_texts(5, random_words, assigned_characters())
    return [path.read_text(encoding="utf-8") for path in files] + [" ".join(words)]


def trained_bytes():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(corpus(300), trainer)
    return json.loads(tokenizer.to_str())["model"]


def trained_characters():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=2500, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator(corpus(), trainer)
    return json.loads(tokenizer.to_str())["model"]


def trained_unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=1500, show_progress=False, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if byte_fallback:
        model["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
        model["byte_fallback"] = True
    return model


def bpe(vocab, merges, **options):
    model = models.BPE(vocab=vocab, merges=merges, **options)
    return json.loads(Tokenizer(model).to_str())["model"]


def gguf_model(name):
    """Vocabulary and merges of a vocabulary-only GGUF file, as `bitnet inspect` prints them."""
    path = ASSETS / "tokenizers" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        return None
    text = subprocess.run([BIN / "bitnet", "inspect", "--json", "--full", path], capture_output=True, check=True).stdout
    data = json.loads(text)["metadata"]
    tokens = data["tokenizer.ggml.tokens"]
    types = data["tokenizer.ggml.token_type"]
    if "tokenizer.ggml.merges" in data:
        vocab = {token: id for id, token in enumerate(tokens) if types[id] in (1, 3)}
        return bpe(vocab, [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]])
    # All pairs of pieces that form a piece, the best first.
    vocab = {token: id for id, token in enumerate(tokens)}
    scores = data["tokenizer.ggml.scores"]
    merges = []
    for token, whole in vocab.items():
        if types[whole] != 1:
            continue
        for cut in range(1, len(token)):
            left, right = vocab.get(token[:cut]), vocab.get(token[cut:])
            if left is not None and right is not None:
                merges.append((-scores[whole], left, right, (token[:cut], token[cut:])))
    merges.sort()
    pairs = [pair for *_, pair in merges]
    return bpe(vocab, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)


def llama3_model():
    path = ASSETS / "tokenizers" / "llama3" / "tokenizer.model"
    return path if path.exists() else None


def write_texts(path, texts):
    """For tokenize_texts: the length of each text and its bytes."""
    with open(path, "wb") as stream:
        for text in texts:
            data = text.encode()
            stream.write(struct.pack("<I", len(data)) + data)
    return path


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="bitnet_tokenizers_")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        corpora = []
        for name in ("tinyshakespeare.txt", "wikitext2_valid.tokens.txt"):
            path = ASSETS / "corpora" / name
            if path.exists():
                text = path.read_text(encoding="utf-8")
                corpora += [text[:CORPUS], *text[CORPUS : 2 * CORPUS].split("\n")]
            else:
                print(f"SKIPPED: corpus {name} is not there")
        cls.sets = {}
        assigned = assigned_characters()
        for settled in (False, True):
            drawn = settled_characters(assigned) if settled else assigned
            print(f"{COUNT} texts of {len(drawn)} of {len(assigned)} characters")
            texts = CORNERS + random_texts(1, COUNT, drawn) + corpora
            cls.sets[settled] = texts, write_texts(cls.folder / f"texts{settled}", texts)

    def setUp(self):
        self.texts, self.packed = self.sets[False]

    def ids(self, path):
        result = subprocess.run(
            [BIN / "tokenize_texts", path, self.packed, self.folder / "vocabulary.gguf"],
            capture_output=True, check=False,
        )  # fmt: skip
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace"))
        lines = result.stdout.decode().split("\n")[:-1]
        self.assertEqual(len(lines), len(self.texts))
        return [[int(number) for number in line.split()] for line in lines]

    def written_pre(self):
        """tokenizer.ggml.pre of the last vocabulary, and whether it needed a key of our own beside it."""
        text = subprocess.run(
            [BIN / "bitnet", "inspect", "--json", self.folder / "vocabulary.gguf"], capture_output=True, check=True
        ).stdout
        data = json.loads(text)["metadata"]
        return data["tokenizer.ggml.pre"], "bitnet.tokenizer.pipeline" in data

    def check(self, name, model, finish, added=(), own_texts=None):
        if added is ADDED:
            added = [*added, *pieces_as_added(model)]
        tokenizer = Tokenizer.from_str(
            json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
                        "post_processor": None, "decoder": None, "model": model})
        )  # fmt: skip
        finish(tokenizer)
        tokenizer.add_special_tokens([token for token in added if token.special])
        tokenizer.add_tokens([token for token in added if not token.special])
        path = self.folder / "tokenizer.json"
        tokenizer.save(str(path))
        normalizer = json.loads(tokenizer.to_str())["normalizer"]
        forms = normalizer is not None and normalizer["type"] in ("NFC", "NFKC")
        self.texts, self.packed = self.sets[forms or "Punctuation" in tokenizer.to_str()]
        if own_texts is not None:
            self.texts, self.packed = own_texts, write_texts(self.folder / "own", own_texts)
        found = self.ids(path)
        wanted = tokenizer.encode_batch(self.texts, add_special_tokens=False)
        wrong = 0
        for text, ids, encoding in zip(self.texts, found, wanted, strict=True):
            if ids != encoding.ids:
                wrong += 1
                if wrong <= 3:
                    print(f"{text[:200]!r}: found {ids[:60]}, wanted {encoding.ids[:60]} {encoding.tokens[:30]}")
        self.assertEqual(wrong, 0, f"of {len(self.texts)} texts")
        print(f"{name}: {len(self.texts)} texts, {sum(map(len, found))} ids equal")

    def test_byte_level_trained(self):
        model = trained_bytes()
        for name, finish in BYTE_LEVEL.items():
            with self.subTest(name):
                self.check(name, dict(model), finish, ADDED)
                pre, own_key = self.written_pre()
                if name in NAMES:
                    self.assertEqual(pre, name)
                    self.assertEqual(own_key, name == "qwen2")
                else:
                    self.assertTrue(own_key)

    def test_byte_level_real(self):
        for source in ("gpt-2", "deepseek-coder"):
            model = gguf_model(source)
            if model is None:
                print(f"SKIPPED: no vocabulary of {source}")
                continue
            families = BYTE_LEVEL if source == "gpt-2" else {source: BYTE_LEVEL[source]}
            for name, finish in families.items():
                with self.subTest(f"{source} as {name}"):
                    self.check(f"{source} as {name}", model, finish)

    def test_unigram_worst_score(self):
        """An unknown character costs 10 more than the worst of all pieces, bytes among them."""
        bytes_at_50 = [[f"<0x{byte:02X}>", -50.0] for byte in range(256)]
        pieces = [
            ["<unk>", 0.0],
            ["hello", -1.0],
            ["o\u0436", -5.0],
            *([c, -9.0] for c in "helo \u2581"),
            ["[M]", -2.0],
        ]
        added = [AddedToken("[M]", normalized=False), AddedToken("hello", single_word=True, special=True)]
        for name, vocab in (("without bytes", pieces), ("with bytes", pieces + bytes_at_50)):
            model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": len(vocab) > 256}
            for form in (None, normalizers.NFKC()):
                texts = ["hello\u0436", "hellohello", "hello", "\uff3bM\uff3d", "[M]", "\uff48ello", "hhello o\u0436"]
                with self.subTest(f"{name}, {form}"):
                    self.check(f"worst score, {name}, {form}", model, self.normal_form(form), added, own_texts=texts)

    @staticmethod
    def normal_form(form):
        def finish(tokenizer):
            if form is not None:
                tokenizer.normalizer = form

        return finish

    def test_llama3_ranks(self):
        path = llama3_model()
        if path is None:
            print("SKIPPED: no ranks of Llama 3")
            return
        found = self.ids(path)
        text = subprocess.run(
            [BIN / "bitnet", "inspect", "--json", "--full", self.folder / "vocabulary.gguf"],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        data = json.loads(text)["metadata"]
        tokens = data["tokenizer.ggml.tokens"]
        vocab = {token: id for id, token in enumerate(tokens[:128000])}
        merges = [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
        BYTE_LEVEL["llama-bpe"](tokenizer)
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens[128000:]])
        path = self.folder / "llama3.json"
        tokenizer.save(str(path))
        wanted = [encoding.ids for encoding in tokenizer.encode_batch(self.texts, add_special_tokens=False)]
        self.assertTrue(found == wanted)
        self.assertTrue(self.ids(path) == wanted)
        print(f"llama3: {len(self.texts)} texts, {sum(map(len, found))} ids equal")

    def test_characters(self):
        model = trained_characters()
        real = gguf_model("llama-spm")
        if real is None:
            print("SKIPPED: no vocabulary of llama-spm")
        for name, finish in CHARACTERS.items():
            with self.subTest(name):
                self.check(name, dict(model), finish, ADDED)
            if real is not None:
                with self.subTest(f"{name}, real"):
                    self.check(f"{name}, real", real, finish)

    def test_characters_without_bytes(self):
        model = trained_characters()
        for fuse in (True, False):
            with self.subTest(fuse=fuse):
                self.check(f"without bytes, fused: {fuse}", {**model, "byte_fallback": False, "fuse_unk": fuse}, gemma)

    def test_unigram(self):
        def metaspace(tokenizer):
            tokenizer.normalizer = normalizers.NFKC()
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()

        def whole(tokenizer):
            llama2(tokenizer)

        for byte_fallback in (False, True):
            model = trained_unigram(byte_fallback)
            for finish in (metaspace, whole):
                name = f"unigram, {finish.__name__}, bytes: {byte_fallback}"
                with self.subTest(name):
                    self.check(name, model, finish, ADDED)


if __name__ == "__main__":
    unittest.main()
