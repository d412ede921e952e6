"""Which values a matrix holds."""

from __future__ import annotations

import weakref

from prdp_hpc.linalg.arrays import Numbers, are_single, copied, differ, digest

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
        self.copy: Numbers | None = None
        self._load: weakref.ref[Load] | None = None

    def differ_from(self, host: Numbers | None) -> bool:
        """Whether these are other numbers (or of another shape) than the loaded ones, on this
        rank.
        """
        if host is None or self.copy is None:
            return self.loads == 0 or (host is None) != (self.copy is None)
        if self.copy.shape != host.shape:
            return True
        return differ(self.copy, host, BLOCK)

    def are_single(self) -> bool:
        """Whether they are numbers in single precision, on this rank."""
        return self.copy is not None and are_single(self.copy)

    def replace(self, host: Numbers | None) -> None:
        """Note that these are loaded now."""
        load = self._current()
        # Only where a solve remembers the earlier values: a digest is a pass over them.
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
        """Whether the matrix still holds what it held then."""
        return self._current() is load

    def changed_since(self, load: Load, host: Numbers | None) -> bool:
        """Whether these are other numbers than the ones of an earlier load, on this rank."""
        return self.differ_from(host) if self.hold(load) else digest(host) != load.digest

    def _current(self) -> Load | None:
        return None if self._load is None else self._load()
