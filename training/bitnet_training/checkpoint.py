"""Checkpoints: torch.save's archives, written whole and read without executing anything.

A pickle can call any function. torch 1.13's weights_only reader refuses that, but it cannot read a float; and its
torch.load takes no other unpickler (it ignores pickle_module). So the archive is read here: a zip file, whose checksums
tell damage, of one pickle, archive/data.pkl, and the bytes of each storage, archive/data/KEY.
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from .errors import UserError, brief
from .files import write_atomically

_STORAGES = {"FloatStorage": numpy.float32, "LongStorage": numpy.int64}  # all that a run's state is made of


def _rebuild(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


class _Unpickler(pickle.Unpickler):
    """Plain values and tensors; a pickle that asks for anything else is refused."""

    NAMES = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    }

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.NAMES[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a {kind}")
        values = numpy.frombuffer(self.archive.read(f"{self.folder}/data/{key}"), dtype=dtype, count=count)
        return torch.from_numpy(values.copy())


def load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """A dictionary with at least `keys`, of tensors and plain values."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            state = _Unpickler(archive, folder).load()
    except Exception as error:  # of a damaged pickle, almost any
        raise UserError(f"{path}: not a checkpoint of this trainer, or damaged: {brief(error)}") from error
    missing = [key for key in keys if not isinstance(state, dict) or key not in state]
    if missing:
        raise UserError(f"{path}: not a checkpoint of this trainer: it has no {', '.join(missing)}")
    return state


def save(path: Path, state: dict[str, Any]) -> None:
    # By way of memory: torch's archive writer ends the process when the disk is full under it.
    data = io.BytesIO()
    torch.save(state, data)
    write_atomically(path, lambda file: file.write(data.getbuffer()))
