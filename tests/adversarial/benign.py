"""Cases that must be solved: an error in them is a fault."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Case
from .iterations import bcgs
from .oracle import System, solved_after

KSPS = ("gmres", "fgmres", "cg", "minres", "bcgs", "richardson")
PCS = ("none", "jacobi", "bjacobi", "sor", "ilu")
SYMMETRIC = ("cg", "minres")
UNROLLED = ("gmres", "cg", "bcgs", "richardson")


def is_benign(case: Case, systems: list[System], b: Any, grad: Any) -> bool:
    """Well-conditioned, of ordinary size, with a method that is suitable for the matrix."""
    if case.ksp not in KSPS or case.pc not in PCS or case.options or case.mistake:
        return False
    if case.pc in ("sor", "ilu") and (case.ranks > 1 or case.ksp in SYMMETRIC):
        return False
    if case.pc == "sor" and case.needs:
        # The transpose exists for symmetric matrices only.
        return False
    if case.operator == "function" and case.pc not in ("none", "jacobi"):
        return False
    if case.flow == "refined between" or case.kernel or case.constant:
        return False
    differentiated = "values" not in case.needs or case.pc in PCS[:2]
    if case.differentiation == "unrolled" and not (case.ksp in UNROLLED and differentiated):
        return False
    levels = [case.level, case.adjoint or case.level]
    if any(rtol is not None and rtol < 1e-10 for _, rtol in levels):
        return False
    if not all(np.isfinite(x).all() and _ordinary(x) for x in (b, grad)):
        return False
    if case.guess and not _is_moderate(case, b):
        return False
    if not all(_is_benign(case, one) for one in systems):
        return False
    if case.ksp != "bcgs":
        return True
    pairs = [(one, row) for one in systems for row in b]
    pairs += [(one.transposed, row) for one in systems for row in grad]
    return not any(_breaks_down(one, row) for one, row in pairs)


def _breaks_down(one: System, right: Any) -> bool:
    """Whether BiCGStab divides by 0 or by rounding before it has the solution, as for some vectors
    with zeros: then a change of the last digits changes its iterates.
    """
    if not right.any():
        return False
    near = right + 1e-12 * np.abs(right).max() * np.cos(np.arange(len(right)))
    with np.errstate(all="ignore"):
        iterates, others = (bcgs(one.A, one.M, b, len(right) + 1) for b in (right, near))
        broken = [
            k
            for k, (x, y) in enumerate(zip(iterates, others, strict=True))
            if not np.abs(x - y).max() <= 1e-3 * np.abs(x).max()
        ]
    return bool(broken) and not solved_after(one, right, iterates[: broken[0]])


def _is_moderate(case: Case, b: Any) -> bool:
    """Whether the guesses are not much larger than the right-hand sides."""
    sizes = [np.abs(rows).max(axis=1) for rows in (np.array(case.guess), b)]
    return bool((sizes[0] <= 1e2 * sizes[1]).all())


def _ordinary(rows: Any) -> bool:
    sizes = np.abs(rows).max(axis=1)
    return bool((((sizes > 1e-30) & (sizes < 1e30)) | (sizes == 0)).all())


def _is_benign(case: Case, one: System) -> bool:
    if one.M is None or not np.isfinite(one.A).all():
        return False
    size = np.linalg.norm(one.A, 2)
    if not 1e-6 < size < 1e6 or not np.linalg.cond(one.A) < 1e3 or not np.linalg.cond(one.M) < 1e3:
        return False
    symmetric = np.array_equal(one.A, one.A.T)
    if case.symmetric and not symmetric:
        return False
    if case.ksp in SYMMETRIC:
        positive = all(_lowest(matrix) > 1e-3 for matrix in (one.A, one.M))
        return symmetric and (positive or (case.ksp == "minres" and _lowest(one.M) > 1e-3))
    if case.ksp == "richardson":
        return bool(np.linalg.norm(np.eye(len(one.A)) - one.M @ one.A, 2) < 0.9)
    if case.ksp == "bcgs":
        return bool(np.linalg.norm(np.eye(len(one.A)) - one.M @ one.A, 2) < 0.5)
    return True


def _lowest(matrix: Any) -> float:
    """The lowest eigenvalue of the symmetric part, relative to the norm; −1 if not symmetric."""
    if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=1e-12 * np.abs(matrix).max()):
        return -1.0
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2).min() / np.linalg.norm(matrix, 2))
