"""Which values a matrix holds."""

from __future__ import annotations

import weakref
import zlib

import numpy as np

from prdp_hpc.linalg.torch_petsc import Array

BLOCK = 32_768
"""Values that are compared at a time."""


class Load:
    """One load of values into a matrix, as a solve remembers it.

    Attributes
    ----------
    digest : of the values, once others took their place.
    """

    digest = 0


class LoadedValues:
    """A private copy of the values that a matrix holds, so that every other set of numbers is
    noticed, however it was written: by torch, through `.data`, or by NumPy into the same memory.

    Attributes
    ----------
    loads : how often values were loaded.
    copy : the values, in double precision; None if there are none.
    """

    def __init__(self) -> None:
        self.loads = 0
        self.copy: Array | None = None
        self._load: weakref.ref[Load] | None = None

    def differ_from(self, host: Array | None) -> bool:
        """Whether these are other numbers (or of another shape) than the loaded ones, on this
        rank.
        """
        if host is None or self.copy is None:
            return self.loads == 0 or (host is None) != (self.copy is None)
        if self.copy.shape != host.shape:
            return True
        ours, theirs = self.copy.reshape(-1), host.reshape(-1)
        # Block by block, so that what is compared stays in the cache.
        blocks = (slice(start, start + BLOCK) for start in range(0, ours.size, BLOCK))
        return not all(np.array_equal(ours[block], theirs[block]) for block in blocks)

    def are_single(self) -> bool:
        """Whether they are numbers in single precision, on this rank."""
        return self.copy is not None and bool((self.copy.astype(np.float32) == self.copy).all())

    def replace(self, host: Array | None) -> None:
        """Note that these are loaded now."""
        load = self._current()
        # Only where a solve remembers the earlier values: a digest is a pass over them.
        if load is not None:
            load.digest = digest(self.copy)
        self._load = None
        self.loads += 1
        self.copy = None if host is None else host.copy()

    def remember(self) -> Load:
        """The load of the values that the matrix holds now."""
        load = self._current()
        if load is None:
            load = Load()
            self._load = weakref.ref(load)
        return load

    def hold(self, load: Load) -> bool:
        """Whether the matrix still holds what it held then."""
        return self._current() is load

    def changed_since(self, load: Load, host: Array | None) -> bool:
        """Whether these are other numbers than the ones of an earlier load, on this rank."""
        return self.differ_from(host) if self.hold(load) else digest(host) != load.digest

    def _current(self) -> Load | None:
        return None if self._load is None else self._load()


def digest(host: Array | None) -> int:
    """A number by which other values are noticed without a copy of the ones that were there."""
    return 0 if host is None else zlib.crc32(host.reshape(-1).view(np.uint8).data)
