"""Numbers of iterations of PETSc's KSPs: what a level requires, and the maximum given to PETSc.

PETSc counts differently in some methods (3.26): with a norm they do one iteration after the maximum
(`LATE_KSPS`), or they do two at a time and end before the maximum (`PAIRED_KSPS`).
"""

from __future__ import annotations

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import DIRECT_PCS, ONE_APPLICATION_KSPS, UNGUARDED_KSPS
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.petsc import PETSc

LATE_KSPS = frozenset({"pipecg", "pipecgrr", "pipecr", "pipeprcg"})
PAIRED_KSPS = frozenset({"pipecg2"})


def check_count(ksp: str, pc: str, level: Refinement) -> None:
    """Raise InputError for a number of iterations that a method cannot do."""
    if ksp in ONE_APPLICATION_KSPS and pc not in DIRECT_PCS:
        if level.is_fixed and level.max_it != 1:
            raise InputError(
                f"ksp={ksp!r} applies the preconditioner once and cannot do {level.max_it} "
                "iterations: use ksp='richardson' for that many applications, or max_it=1"
            )
    elif ksp in PAIRED_KSPS and level.max_it is not None:
        raise InputError(
            f"ksp={ksp!r} does two iterations at a time, and breaks down without an error if "
            "the first one reaches the solution, so its level must be a tolerance, e.g. 1e-8: use "
            "ksp='pipecg' for a number of iterations"
        )


def maximum(ksp: str, max_it: int | None, otherwise: int, norm: int) -> int:
    """PETSc's maximum of iterations for a level's `max_it`, or for none, with this norm."""
    if max_it is None:
        return otherwise
    if ksp in LATE_KSPS and norm != PETSc.KSP.NormType.NONE:
        return max_it - 1
    return max_it


def rounding(ksp: str) -> float:
    """The relative residual at which a fixed number of iterations ends early, because only rounding
    is left.
    """
    return 1e-10 if ksp in UNGUARDED_KSPS else 1e-14
