"""Files of tensors that end with a checksum of their bytes."""

from __future__ import annotations

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from prdp_hpc.distributed.containers import KeyPath, mapped
from prdp_hpc.errors import InputError

PREFIX = b"sha256:"
CHECKSUM_BYTES = len(PREFIX) + 64
BLOCK = 2**22


class DamagedError(InputError):
    """A file differs from what was written; the message describes how."""


class UnstorableError(InputError, TypeError):
    """The state of a task or schedule has an object that a checkpoint cannot store."""


def save_checksummed(content: Any, path: Path) -> None:
    """`torch.save`, with the SHA-256 of the file as the comment at its end; `torch.load` can still
    read it.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch raises this error if the disk is full.
        raise OSError(str(error).splitlines()[0]) from error
    with path.open("r+b") as file:
        # A zip file ends with the length of its comment, two bytes, little-endian; torch writes
        # none.
        file.seek(-2, 2)
        if file.read(2) != b"\0\0":
            raise OSError(
                f"{path}: torch wrote a file with an unknown end; use another version of torch"
            )
        file.seek(-2, 2)
        file.write(CHECKSUM_BYTES.to_bytes(2, "little"))
        file.flush()
        digest = _digest(path, path.stat().st_size)
        file.seek(0, 2)
        file.write(PREFIX + digest)


def load_checksummed(path: Path) -> Any:
    """Load a file written by `save_checksummed`, on the CPU; no code in the file is executed.

    Raises `DamagedError` if any bit differs.
    """
    # Read once; a second reader of a large file on a busy file system takes as long as the first.
    whole = path.read_bytes()
    content = memoryview(whole)
    end = bytes(content[-CHECKSUM_BYTES:])
    if len(content) < CHECKSUM_BYTES or not end.startswith(PREFIX):
        raise DamagedError("has no checksum at its end: truncated, or written by another program")
    if hashlib.sha256(content[:-CHECKSUM_BYTES]).hexdigest().encode() != end[len(PREFIX) :]:
        raise DamagedError("is damaged: its checksum is wrong")
    try:
        return torch.load(BytesIO(whole), map_location="cpu", weights_only=True)
    except (RuntimeError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DamagedError(f"cannot be read: {str(error).splitlines()[0]}") from error


def plain_copy(value: object, where: str) -> Any:
    """A copy of `value` that `torch.load(weights_only=True)` reads back."""

    def leaf(path: KeyPath, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item.detach().to("cpu", copy=True)
        # Subclasses are rejected too: a NumPy float is a float, but would be stored as a NumPy
        # object.
        if item is None or type(item) in (bool, int, float, str):
            return item
        place = "".join(f"[{key!r}]" for key in path)
        raise UnstorableError(
            f"{where}{place}: {type(item).__name__} cannot be stored in a checkpoint; convert it "
            "to a tensor or a plain value"
        )

    return mapped(value, leaf)


def _digest(path: Path, length: int) -> bytes:
    """The SHA-256 of the first bytes of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(BLOCK, length))):
            sha.update(block)
            length -= len(block)
    return sha.hexdigest().encode()
