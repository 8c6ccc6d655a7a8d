"""Small tokenizers in the files of Hugging Face directories: byte-level BPE (tokenizer.json) and SentencePiece BPE
(tokenizer.model)."""

import json
import struct
from pathlib import Path

# Pre-tokenizers by the names of tokenizer.ggml.pre, as the models' tokenizer.json spell them.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "gpt-2": None,
    "llama-bpe": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}",
    "qwen2": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}",
}
WORDS = ("the", "and", "you", "that", "for", "with", "all", "but")


def byte_symbols():
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return table


def merges_of(words, first=""):
    """Pairs that build each word from its letters, left to right; `first` begins every word."""
    pairs = []
    for word in words:
        left = first or word[0]
        for letter in word if first else word[1:]:
            if (left, letter) not in pairs:
                pairs.append((left, letter))
            left += letter
    return pairs


def write_byte_level(directory, pre, bos, eos, size):
    """Tokens: the bytes, merges of WORDS, then bos and eos, then spare special ones up to `size`."""
    symbols = byte_symbols()
    vocabulary = list(symbols.values())
    merges = merges_of(WORDS, symbols[32])
    vocabulary += [a + b for a, b in merges]
    special = list(dict.fromkeys([bos, eos])) + [f"<|spare_{i}|>" for i in range(size)]
    special = special[: size - len(vocabulary)]
    added = [
        {"id": len(vocabulary) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for i, text in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = SPLITS[pre]
    pre_tokenizer = byte_level | {"use_regex": split is None}
    if split is not None:
        pattern = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [pattern, pre_tokenizer]}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": {text: i for i, text in enumerate(vocabulary)}, "merges": [f"{a} {b}" for a, b in merges]}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    tokenizer |= {"pre_tokenizer": pre_tokenizer, "post_processor": byte_level | {"use_regex": True}}
    tokenizer |= {"decoder": byte_level | {"use_regex": True}, "model": model}
    directory = Path(directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = {"bos_token": bos, "eos_token": eos, "add_bos_token": False, "tokenizer_class": "GPT2Tokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return {"bos": len(vocabulary) + special.index(bos), "eos": len(vocabulary) + special.index(eos)}


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """A protobuf field: an int, a float or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_sentencepiece(directory, size, dummy_prefix=True):
    """<unk>, <s>, </s>, the bytes, merges of WORDS with a space in front, letters, unused pieces up to `size`."""
    normal, unknown, control, unused, byte = 1, 2, 3, 5, 6
    pieces = [("<unk>", 0.0, unknown), ("<s>", 0.0, control), ("</s>", 0.0, control)]
    pieces += [(f"<0x{value:02X}>", 0.0, byte) for value in range(256)]
    letters = sorted(set("▁" + "".join(WORDS)))
    words = [a + b for a, b in merges_of(WORDS, "▁")][: size - len(pieces) - len(letters)]
    pieces += [(text, -1.0 - i, normal) for i, text in enumerate(words + letters)]
    pieces += [(f"<unused{i}>", -1000.0, unused) for i in range(size - len(pieces))]
    body = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in pieces)
    trainer = field(3, 2) + field(4, size) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
    normalizer = field(1, b"identity") + field(3, int(dummy_prefix)) + field(4, 0) + field(5, 1)
    directory = Path(directory)
    (directory / "tokenizer.model").write_bytes(body + field(2, trainer) + field(3, normalizer))
    settings = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>"}
    settings |= {"unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return {"bos": 1, "eos": 2}
