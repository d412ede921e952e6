"""The adjoint solutions that a gradient of the values consists of."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Case
from .verdicts import Fault

WELL_DETERMINED = 1e-3
HIDDEN = 1e-4
VISIBLE = 0.1
TINY = 1e-300
LEAST = {"float64": 1e-280, "float32": 1e-30, "bfloat16": 1e-32, "float16": 1e-3}
"""A type keeps all its digits of numbers that are a few orders smaller than these."""


def factors(case: Case, grad: Any, x: Any, off: float) -> tuple[Any, Any] | None:
    """Λ `(R, n)` of a gradient `−Σ_r Λ[r, row] x[r, col]` of one matrix, for solutions x `(R, n)`,
    and by how much rounding of the gradient is larger in each row of it; None where the pattern
    does not determine it, and rows of NaN where rounding hides it. Raises `Fault` for a gradient of
    another form.
    """
    rows, cols = np.array(case.rows), np.array(case.cols)
    found, weakest = np.zeros(x.shape), 1.0
    if not np.abs(grad).max(initial=0.0) > LEAST[case.values_type]:
        return None
    with np.errstate(all="ignore"):
        scales = np.abs(x).max(axis=1)
        if not (np.isfinite(scales).all() and (scales > 0.0).all()):
            return None
        unit = x / scales[:, None]
        for row in range(case.n):
            mine = rows == row
            basis = unit[:, cols[mine]].T
            least = np.linalg.svd(basis)[1][-1] if len(basis) >= len(x) else 0.0
            if least < WELL_DETERMINED:
                return None
            weakest = min(weakest, least)
            own = grad[mine]
            found[:, row] = -np.linalg.lstsq(basis, own, rcond=None)[0]
            wrong = np.abs(basis @ found[:, row] + own).max()
            if wrong > 10 * off * np.abs(grad).max() + TINY:
                raise Fault("gradient of values is no product of two solutions", str(grad))
    sizes = np.abs(found).max(axis=1)
    growth = np.abs(grad).max() / weakest / np.maximum(sizes, TINY)
    found[(sizes < HIDDEN * sizes.max()) | (growth * off > VISIBLE)] = np.nan
    return found / scales[:, None], growth
