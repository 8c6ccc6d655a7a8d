"""SafeTensors and GGUF files, as far as the generated models need them: float, packed ternary and a few block types."""

import json
import struct
from pathlib import Path

import numpy as np

SAFETENSORS_TYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8}


class BFloat16:
    """A tensor to be written as BF16: float32 values, rounded to nearest even."""

    def __init__(self, values):
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        self.bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    def floats(self):
        return widen_bfloat16(self.bits)


def widen_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path, tensors):
    """tensors: name -> array of float32, float16 or uint8, or BFloat16."""
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        if isinstance(tensor, BFloat16):
            kind, array = "BF16", tensor.bits
        else:
            array = np.ascontiguousarray(tensor)
            kind = next(kind for kind, dtype in SAFETENSORS_TYPES.items() if array.dtype == dtype)
        blob = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """name -> array; BF16 comes as float32."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype = np.uint16 if entry["dtype"] == "BF16" else SAFETENSORS_TYPES[entry["dtype"]]
        array = np.frombuffer(data[begin:end], dtype=dtype).reshape(entry["shape"])
        tensors[name] = widen_bfloat16(array) if entry["dtype"] == "BF16" else array
    return tensors


# GGUF type ids and their blocks: elements, bytes.
GGUF_BLOCKS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 42: (64, 18)}
F32, F16, BF16, I2_S, Q2_0 = 0, 1, 30, 36, 42
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class GgufReader:
    """Metadata and raw tensors of a GGUF v3 file."""

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        self.at = 8
        tensors, pairs = self.take("Q"), self.take("Q")
        self.metadata = {}
        for _ in range(pairs):
            key = self.string()
            self.metadata[key] = self.value(self.take("I"))
        infos = []
        for _ in range(tensors):
            name = self.string()
            shape = [self.take("Q") for _ in range(self.take("I"))]
            infos.append((name, shape, self.take("I"), self.take("Q")))
        alignment = self.metadata.get("general.alignment", 32)
        base = (self.at + alignment - 1) // alignment * alignment
        self.tensors = {name: (shape, kind, base + offset) for name, shape, kind, offset in infos}

    def take(self, code):
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.take(SCALARS[kind])
        element, count = self.take("I"), self.take("Q")
        return [self.value(element) for _ in range(count)]

    def floats(self, name):
        """A float tensor, [rows..., columns] float32."""
        shape, kind, offset = self.tensors[name]
        dtype = {F32: np.float32, F16: np.float16, BF16: np.uint16}[kind]
        array = np.frombuffer(self.data, dtype, int(np.prod(shape)), offset)
        array = widen_bfloat16(array) if kind == BF16 else array.astype(np.float32)
        return array.reshape(shape[::-1])

    def ternary(self, name):
        """An I2_S tensor in the x86 layout: int8 [rows, columns] of -1, 0, +1 and its scale."""
        (columns, rows), kind, offset = self.tensors[name]
        assert kind == I2_S, (name, kind)
        count = rows * columns
        packed = np.frombuffer(self.data, np.uint8, count // 4, offset).reshape(-1, 32)
        codes = np.stack([(packed >> shift) & 3 for shift in (6, 4, 2, 0)], axis=1).reshape(rows, columns)
        (scale,) = struct.unpack_from("<f", self.data, offset + count // 4)
        return codes.astype(np.int8) - 1, np.float32(scale)


def encode_q2_0(codes, scales):
    """Q2_0 blocks of 64: float16 scale, 16 bytes of t + 1; codes [rows, columns], scales [rows, columns / 64] float16.

    Element j of a block: bits 2 * (j % 4) of byte j / 4."""
    rows, columns = codes.shape
    fields = (codes.reshape(-1, 16, 4) + 1).astype(np.uint8)
    packed = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
    blocks = np.concatenate([scales.reshape(-1, 1).astype(np.float16).view(np.uint8).reshape(-1, 2), packed], axis=1)
    return np.ascontiguousarray(blocks).reshape(rows, columns // 64 * 18)


def gguf_value(value):
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        text = value.encode()
        return STRING, struct.pack("<Q", len(text)) + text
    element = {str: STRING, int: 5, float: 6}[type(value[0])]
    body = b"".join(struct.pack("<i", v) if element == 5 else gguf_value(v)[1] for v in value)
    return ARRAY, struct.pack("<IQ", element, len(value)) + body


def write_gguf(path, metadata, tensors):
    """tensors: name -> (type id, shape fastest first, bytes)."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind, body = gguf_value(value)
        out += [gguf_value(key)[1], struct.pack("<I", kind), body]
    offset = 0
    for name, (kind, shape, blob) in tensors.items():
        out += [gguf_value(name)[1], struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)]
        offset += len(blob) + -len(blob) % 32
    head = b"".join(out)
    body = b"".join(blob + b"\0" * (-len(blob) % 32) for _, _, blob in tensors.values())
    Path(path).write_bytes(head + b"\0" * (-len(head) % 32) + body)
