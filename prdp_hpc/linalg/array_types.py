"""Types of the arrays that users pass to operators.

They are narrower than NumPy's `ArrayLike`, which contains text, so that type checkers find a word
in the place of an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# With one `Sequence` in each union a type checker knows the type of a list in a call.
_Integers = NDArray[np.integer[Any]] | Tensor
IntegerArray = _Integers | Sequence[SupportsIndex | _Integers | Sequence[SupportsIndex]]
"""Numbers of rows, columns, cells or points, or one such list per row."""

_Reals = NDArray[Any] | Tensor
RealArray = _Reals | Sequence[SupportsFloat | _Reals | Sequence[SupportsFloat]]
"""Real numbers, or one list of them per row."""


class SparseMatrix(Protocol):
    """A sparse matrix or array of SciPy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows and columns."""
        ...

    def tocsr(self, copy: bool = False) -> Any:
        """Return the matrix by rows."""
        ...


WholeMatrix = SparseMatrix | _Reals | Sequence[_Reals | Sequence[SupportsFloat]]
"""A matrix with all its rows."""
