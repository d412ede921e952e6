"""The values that a matrix holds."""

from __future__ import annotations

import weakref

from prdp_hpc.linalg.arrays import Numbers, are_single, copied, differ, digest

BLOCK = 32_768
"""Number of values per block of a comparison."""


class Load:
    """Identifies one load of values into a matrix, for the derivatives of a solve.

    Attributes
    ----------
    digest : of the values, computed when others replace them.
    """

    digest = 0


class LoadedValues:
    """A private copy of the values that a matrix holds, by which every change is detected: by
    torch, through `.data`, or by NumPy in the same memory.

    Attributes
    ----------
    loads : how often values were loaded.
    copy : the values, in double precision; None if there are none.
    """

    def __init__(self) -> None:
        self.loads = 0
        self.copy: Numbers | None = None
        self._load: weakref.ref[Load] | None = None

    def differ_from(self, host: Numbers | None) -> bool:
        """Whether these numbers (or their shape) differ from the loaded ones, on this
        rank.
        """
        if host is None or self.copy is None:
            return self.loads == 0 or (host is None) != (self.copy is None)
        if self.copy.shape != host.shape:
            return True
        return differ(self.copy, host, BLOCK)

    def are_single(self) -> bool:
        """Whether all values are single-precision numbers, on this rank."""
        return self.copy is not None and are_single(self.copy)

    def replace(self, host: Numbers | None) -> None:
        """Register that these values are loaded now."""
        load = self._current()
        # Only if a solve refers to the earlier values, because a digest reads all of them.
        if load is not None:
            load.digest = digest(self.copy)
        self._load = None
        self.loads += 1
        self.copy = None if host is None else copied(host)

    def remember(self) -> Load:
        """The load of the values that the matrix holds now."""
        load = self._current()
        if load is None:
            load = Load()
            self._load = weakref.ref(load)
        return load

    def hold(self, load: Load) -> bool:
        """Whether the matrix still holds the values of that load."""
        return self._current() is load

    def changed_since(self, load: Load, host: Numbers | None) -> bool:
        """Whether these numbers differ from those of an earlier load, on this rank."""
        return self.differ_from(host) if self.hold(load) else digest(host) != load.digest

    def _current(self) -> Load | None:
        return None if self._load is None else self._load()
