"""How accurate a solve is to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from prdp_hpc.errors import InputError

DEFAULT_MAX_IT = 10_000


@dataclass(frozen=True)
class Refinement:
    """The level of a solve.

    - `Refinement(max_it=K)`: exactly `K` iterations, no residual norm computed (PRDP's levels);
    - `Refinement(rtol=r)`: until `‖residual‖ ≤ r ‖b‖`; not getting there in 10 000 iterations is an
      error;
    - both: whichever comes first; reaching `max_it` is no error.

    Default: `rtol=1e-8`. The norm is the one of the KSP type (PETSc manual page: KSPSetTolerances).

    Raises
    ------
    ValueError
        Unless `max_it ≥ 1` and `0 < rtol < 1`.
    """

    max_it: int | None = None
    rtol: float | None = None

    def __post_init__(self) -> None:
        if self.max_it is None and self.rtol is None:
            object.__setattr__(self, "rtol", 1e-8)
        whole = isinstance(self.max_it, Integral) and not isinstance(self.max_it, bool)
        if self.max_it is not None and (not whole or self.max_it < 1):
            raise InputError(f"max_it must be an integer of at least 1, not {self.max_it!r}")
        if self.rtol is not None and not (math.isfinite(self.rtol) and 0 < self.rtol < 1):
            raise InputError(f"rtol must lie between 0 and 1, not {self.rtol!r}")

    @classmethod
    def of(cls, level: Refinement | int | float) -> Refinement:
        """A level of a ladder: an integer means iterations, another number a tolerance."""
        if isinstance(level, Refinement):
            return level
        if isinstance(level, Integral) and not isinstance(level, bool):
            return cls(max_it=int(level))
        if isinstance(level, float):
            return cls(rtol=level)
        raise InputError(
            f"a level is a Refinement, an int (iterations) or a float (rtol), not {level!r}"
        )

    @property
    def is_fixed(self) -> bool:
        """Whether the number of iterations is fixed and no norm is needed."""
        return self.rtol is None

    def __str__(self) -> str:
        parts = [f"max_it={self.max_it}"] if self.max_it is not None else []
        return ", ".join(parts + ([f"rtol={self.rtol:g}"] if self.rtol is not None else []))
