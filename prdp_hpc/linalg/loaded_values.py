"""Which values a matrix holds."""

from __future__ import annotations

import zlib

import numpy as np

from prdp_hpc.linalg.bridge import Array


class LoadedValues:
    """A private copy of the values that a matrix holds, so that every other set of numbers is
    noticed, however it was written: by torch, through `.data`, or by NumPy into the same memory.

    Attributes
    ----------
    loads : how often values were loaded; tells whether a matrix still holds what it held before.
    """

    def __init__(self) -> None:
        self.loads = 0
        self.copy: Array | None = None
        self._digest: int | None = None

    def differ_from(self, host: Array | None) -> bool:
        """Whether these are other numbers (or of another shape) than the loaded ones, on this
        rank.
        """
        if host is None or self.copy is None:
            return self.loads == 0 or (host is None) != (self.copy is None)
        return not np.array_equal(self.copy, host)

    def replace(self, host: Array | None) -> None:
        """Note that these were loaded."""
        self.loads += 1
        self.copy = None if host is None else host.copy()
        self._digest = None

    @property
    def digest(self) -> int:
        """That of the loaded values, computed once for each load."""
        if self._digest is None:
            self._digest = digest(self.copy)
        return self._digest


def digest(host: Array | None) -> int:
    """A number by which a later change of the values is noticed, without a copy of them."""
    return 0 if host is None else zlib.crc32(host.reshape(-1).view(np.uint8).data)
