"""Files that are whole or not there: written beside their place, synced, then renamed over it."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO, Callable

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
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}; what was there before is untouched") from error


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
        raise UserError(f"{path}: cannot be made: {error.strerror}") from error
    return Path(path)
