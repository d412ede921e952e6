"""Files of tensors that carry a checksum of all their bytes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import torch

from prdp_hpc.errors import InputError

SEAL = b"sha256:"
SEALED_BYTES = len(SEAL) + 64
BLOCK = 2**22


class DamagedError(InputError):
    """A file is not what was written; the message says what is wrong with it."""


def save_checksummed(content: Any, path: Path) -> None:
    """`torch.save`, with the SHA-256 of the file as the comment at its end; the file stays one that
    `torch.load` reads.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # What torch says when the disk is full.
        raise OSError(str(error).splitlines()[0]) from error
    with path.open("r+b") as file:
        # A zip file ends with the length of its comment, two bytes, little-endian; torch writes
        # none.
        file.seek(-2, 2)
        if file.read(2) != b"\0\0":
            raise OSError(
                f"{path}: torch wrote a file with an end that is not known; use another version of "
                "torch"
            )
        file.seek(-2, 2)
        file.write(SEALED_BYTES.to_bytes(2, "little"))
        file.flush()
        digest = _digest(path, path.stat().st_size)
        file.seek(0, 2)
        file.write(SEAL + digest)


def load_checksummed(path: Path) -> Any:
    """What `save_checksummed` wrote, on the CPU; nothing in the file is executed.

    Raises `DamagedError` if a single bit differs.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - SEALED_BYTES))
        end = file.read()
    if size < SEALED_BYTES or not end.startswith(SEAL):
        raise DamagedError("has no checksum at its end: cut short, or written by another program")
    if _digest(path, size - SEALED_BYTES) != end[len(SEAL) :]:
        raise DamagedError("is damaged: its checksum is wrong")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DamagedError(f"cannot be read: {str(error).splitlines()[0]}") from error


def _digest(path: Path, length: int) -> bytes:
    """The SHA-256 of the first bytes of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(BLOCK, length))):
            sha.update(block)
            length -= len(block)
    return sha.hexdigest().encode()
