"""Files that are whole or not there: written beside their place, synced, then renamed over it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """A kill at any moment leaves the old file or the new one. What a killed process left beside it is replaced."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; what was there before is untouched") from error
    finally:
        if partial.is_file():  # not renamed: an error or Ctrl-C
            partial.unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """The name of a new file survives a power failure once its directory is on the disk."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{directory}: cannot be synced to the disk: {error.strerror}") from error


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """`hint` says what to give where the file is not there."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object, found {type(values).__name__}")
    return values


def read_text(path: str | Path) -> bytes:
    """The bytes of a text file, as they are, that are UTF-8."""
    try:
        data = Path(path).read_bytes()
        data.decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the text first") from error
    return data


def require_space(directory: str | Path, needed: int, purpose: str) -> None:
    """Refuses before any work is done when `needed` bytes are not free there."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"{directory}: {purpose} need {needed / 1e6:.1f} MB, free are {free / 1e6:.1f} MB; make room or choose "
            "another folder"
        )


def make_directory(path: str | Path) -> Path:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made a folder: {error.strerror}; choose another place") from error
    return Path(path)
