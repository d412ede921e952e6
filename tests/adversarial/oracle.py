"""The results of dense linear algebra for a case, and their uncertainty.

Nothing here uses the package but its names of options. The preconditioner's matrix comes from plain
petsc4py, applied to the unit vectors; everything else is NumPy in double precision. How far a right
answer may be off is measured: the dense map is run again with its input changed in the 13th digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from petsc4py import PETSc

from prdp_hpc.linalg.options import smoothing, symmetric_overlap

from .cases import Case

EPS = np.finfo(np.float64).eps
NUDGE = 1e-13
AMPLIFIED = 1e3
"""The effect of PETSc's rounding relative to the change by `NUDGE`: its rounding is a hundredth of
it.
"""
UNCLEAR = 1e-3
"""If a correct answer may be off by more than this, the comparison is meaningless and the case is
called unclear.
"""
_WITHOUT_MATRIX = ("mg", "eisenstat", "ksp", "shell", "python", "constraint", "galerkin", "patch")
ESTIMATING = ("gamg", "hmg")
"""These estimate the spectrum of the matrix by a Krylov method."""
INVERSES = (
    *("jacobi", "pbjacobi", "vpbjacobi", "bjacobi", "asm", "gasm", "sor", "ilu", "icc", "lu"),
    *("cholesky", "qr", "svd", "redundant", "kaczmarz", "gamg", "hmg", "cp"),
)
"""These are divided by s for a matrix that is multiplied by s."""
NOISE = 1e-6
STATIONARY = ("richardson", "preonly", "chebyshev")
"""These depend on the size of `M A`."""
_prefixes = (f"adversarial{number}_" for number in itertools.count())


def as_given(rows: Any, kind: str) -> Any:
    """The numbers that a tensor of this type holds, in double precision."""
    tensor = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1)
    return tensor.to(getattr(torch, kind)).to(torch.float64).numpy()


def dense_matrix(case: Case, values: Any) -> Any:
    """Entries that occur twice add up."""
    matrix = np.zeros((case.n, case.n))
    np.add.at(matrix, (list(case.rows), list(case.cols)), values)
    return matrix


@dataclass
class System:
    """One dense matrix, the inverse of its preconditioner (None if unknown), and the promised
    nullspace.
    """

    A: Any
    M: Any
    P: Any

    @property
    def transposed(self) -> System:
        return System(self.A.T, None if self.M is None else self.M.T, self.P)

    @property
    def outside(self) -> float:
        """How much of A its promised nullspace leaves, relative to A."""
        left = self.A - self.P @ self.A @ self.P
        return length(left.ravel()) / max(length(self.A.ravel()), 1e-300)

    def nudged(self, draw: np.random.Generator) -> System:
        """The same in the first 12 digits."""
        change = 1.0 + NUDGE * draw.uniform(-1, 1, self.A.shape)
        M = None if self.M is None else self.M * (1.0 + NUDGE * draw.uniform(-1, 1, self.M.shape))
        return System(self.A * change, M, self.P)


def system(case: Case, values: Any, M: Any) -> System:
    A = dense_matrix(case, values)
    P = np.eye(case.n)
    if case.operator == "function":
        return System(A, M, P)
    q = _kernel(case)
    if q.size:
        P = P - q @ q.T
        M = None if M is None else _projected(M, P)
    return System(A, M, P)


def _kernel(case: Case) -> Any:
    """Orthonormal columns that span the promised nullspace."""
    kernel = [np.ones(case.n)] if case.constant else [np.array(z) for z in case.kernel]
    return np.linalg.qr(np.array(kernel).reshape(len(kernel), case.n).T)[0]


def _projected(M: Any, P: Any) -> Any:
    """`P M P`; None where nothing but rounding is left of a factor of a singular matrix."""
    inside = P @ M @ P
    return inside if np.linalg.norm(M) < 1e6 * np.linalg.norm(inside) else None


def preconditioner(case: Case, values: Any, comm: Any) -> Any:
    """`M⁻¹` as a dense matrix; None where it cannot be had; collective."""
    if case.pc in _WITHOUT_MATRIX or not np.isfinite(values).all():
        return None
    if case.pc == "none":
        return np.eye(case.n)
    if case.operator == "function" and case.pc != "jacobi":
        return None
    if case.operator == "function":
        diagonal = np.diag(dense_matrix(case, values))
        return np.diag(1.0 / np.where(diagonal == 0.0, 1.0, diagonal))
    if case.pc == "icc" and not np.array_equal(A := dense_matrix(case, values), A.T):
        return None  # PETSc repeats the factorisation with other shifts without end.
    singles = ("gamg", "hmg", "sor", "eisenstat", "redistribute")
    if comm.size > 1 and case.pc in singles and not np.diag(dense_matrix(case, values)).all():
        # Fails on the rank that has the row, while the others wait.
        return None
    if case.pc == "sor" and not np.diag(dense_matrix(case, values)).all():
        return None  # PETSc takes an entry of the next row for one that is not stored.
    # Jacobi's preconditioner puts a 1 where the diagonal has a 0.
    is_absolute = any("shift" in name for name, _ in case.options)
    is_absolute |= not np.diag(dense_matrix(case, values)).all()
    size = power_of(values) if case.pc in INVERSES and not is_absolute else 1.0
    if size != 1.0:
        # PETSc compares pivots with absolute numbers, and products of an estimate underflow.
        M = preconditioner(case, values / size, comm)
        return None if M is None else M / size
    try:
        M = _applied(case, values, comm)
        is_doubtful = case.pc in (*ESTIMATING, "cp") or _kernel(case).size
        if M is not None and is_doubtful:
            M = _reproducible(case, M, _applied(case, _in_the_last_digit(values), comm))
        return M
    except PETSc.Error:
        return None


def _in_the_last_digit(values: Any) -> Any:
    return values * (1.0 + 8.0 * EPS * np.random.default_rng(3).uniform(-1, 1, values.shape))


def _reproducible(case: Case, M: Any, other: Any) -> Any:
    """M, unless that of values which differ by rounding is another one: the spectrum that
    multigrid estimates beyond the end of the Krylov space, and the last pivot of a singular matrix,
    are rounding errors.
    """
    if other is None:
        return None
    q = _kernel(case)
    P = np.eye(case.n) - q @ q.T
    off = np.linalg.norm(P @ (M - other) @ P)
    return M if off <= NOISE * np.linalg.norm(P @ M @ P) else None


def _applied(case: Case, values: Any, comm: Any) -> Any:
    A = dense_matrix(case, values)
    matrix = PETSc.Mat().create(comm=comm)
    matrix.setSizes((case.n, case.n))
    matrix.setType("aij")
    mine = [k for k in range(len(case.rows)) if case.holders[k] % comm.size == comm.rank]
    rows, cols = (np.array([i[k] for k in mine], PETSc.IntType) for i in (case.rows, case.cols))
    matrix.setPreallocationCOO(rows, cols)
    matrix.setValuesCOO(np.ascontiguousarray(values[mine]))
    if case.symmetric and np.array_equal(A, A.T):
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    # Multigrid removes the nullspace in the solves of its levels.
    nullspace = _attached(case, matrix, comm)
    pc = PETSc.PC().create(comm=comm)
    prefix = next(_prefixes)
    pc.setOptionsPrefix(prefix)
    database = PETSc.Options()
    # The documented defaults of GAMG and of overlapping blocks depend on the method.
    options = smoothing(case.ksp, case.pc, dict(case.options))
    options |= symmetric_overlap(case.ksp, case.pc) | dict(case.options)
    for key, value in options.items():
        database.setValue(prefix + key, value)
    pc.setOperators(matrix)
    pc.setType(case.pc)
    pc.setFromOptions()
    failed = False
    try:
        pc.setUp()
        pc.setUpOnBlocks()
    except PETSc.Error:
        failed = True
    for key in options:
        database.delValue(prefix + key)
    # A block may fail on one rank alone. What failed is never freed: that can end the program.
    if comm.allreduce(int(failed)):
        PETSc.Object.incRef(pc)
        return None
    if comm.allreduce(int(pc.getFailedReason() != 0)):
        return None
    columns = []
    unit, result = matrix.createVecs()
    first, last = unit.getOwnershipRange()
    for column in range(case.n):
        unit.set(0.0)
        if first <= column < last:
            unit.getArray()[column - first] = 1.0
        pc.apply(unit, result)
        columns.append(np.concatenate(comm.allgather(result.getArray(readonly=True).copy())))
    for thing in (pc, matrix, nullspace, unit, result):
        thing.destroy()
    found = np.stack(columns, axis=1)
    return found if np.isfinite(found).all() else None


def _attached(case: Case, matrix: Any, comm: Any) -> Any:
    """The promised nullspace as PETSc's, attached to the matrix and its transpose."""
    first, last = matrix.getOwnershipRange()
    vectors = [
        PETSc.Vec().createWithArray(np.ascontiguousarray(z[first:last]), comm=comm)
        for z in _kernel(case).T
    ]
    nullspace = PETSc.NullSpace().create(vectors=vectors, comm=comm)
    if vectors:
        matrix.setNullSpace(nullspace)
        matrix.setTransposeNullSpace(nullspace)
    return nullspace


def length(vector: Any) -> float:
    """The norm, also where squares overflow."""
    size = float(np.abs(vector).max(initial=0.0))
    is_extreme = size > 1e150 and np.isfinite(size)
    return (
        size * float(np.linalg.norm(vector / size)) if is_extreme else float(np.linalg.norm(vector))
    )


def projected(one: System, guess: Any) -> Any:
    """A guess without its part in the nullspace, exactly 0 if that is all of it."""
    inside = one.P @ guess
    return inside * (np.abs(inside).max() > 1e-13 * np.abs(guess).max())


def rest(one: System, b: Any, guess: Any) -> Any:
    """The right-hand side of the correction of a guess."""
    return one.P @ (b - one.A @ projected(one, guess))


def of_ordinary_size(one: System, ksp: str) -> tuple[System, float]:
    """A multiple `A / s` of a matrix of extreme size, with `s M`, and the power of two s: the same
    iterations give `s x`, without products that overflow or underflow.

    Krylov methods, and Chebyshev's with its estimates of the spectrum, do not depend on the size of
    M, so the identity is kept.
    """
    size, M = power_of(one.A), one.M
    is_identity = M is not None and np.array_equal(M, np.eye(len(M)))
    if size == 1.0 or (is_identity and ksp in ("richardson", "preonly")):
        # These depend on the units of A without a preconditioner.
        return one, 1.0
    if M is not None and not (is_identity and (ksp not in STATIONARY or ksp == "chebyshev")):
        M = M * size
    return System(one.A / size, M, one.P), size


def power_of(numbers: Any) -> float:
    """The power of two of the largest of these numbers, if it is extreme; else 1."""
    largest = np.abs(numbers).max(initial=0.0)
    if not np.isfinite(largest) or largest == 0.0 or 1e-15 < largest < 1e15:
        return 1.0
    return float(2.0 ** np.frexp(largest)[1])


def residual_excess(
    one: System,
    b: Any,
    x: Any,
    guess: Any,
    rtol: float,
    drift: float,
    type_eps: float,
    normal: bool,
) -> float:
    """How far the residual is above what `rtol` and rounding allow, in the norm in which it does
    best (each KSP has its own): right if ≤ 1; NaN if rounding alone decides.
    """
    b = one.P @ b
    r = b - one.A @ x
    # By components, because rows may have any scale.
    terms = np.abs(one.A) @ (np.abs(x) + np.abs(guess)) + np.abs(b)
    rounding = (drift * EPS + 4 * type_eps) * terms
    n = len(b)
    ways = [np.eye(n)]
    if one.M is not None:
        ways.append(one.M)
        both = one.M + one.M.T
        if _definite(both):
            ways.append(np.linalg.cholesky(both).T)
    if normal:
        ways.append(one.A.T)
    excess = []
    for way in ways:
        allowed = np.linalg.norm(np.abs(way) @ rounding)
        scale = np.linalg.norm(way @ b)
        is_decided = allowed <= 0.1 * scale
        found = np.linalg.norm(way @ r) / (2.0 * rtol * scale + allowed)
        excess.append(found if is_decided else np.nan)
        if is_decided and found <= 1.0:
            return float(found)
    return float(min(excess)) if np.isfinite(excess).all() else float("nan")


def _definite(symmetric: Any) -> bool:
    return bool(np.linalg.eigvalsh(symmetric).min() > 1e-10 * np.linalg.norm(symmetric, 2))


def sure(compute: Callable[[System, Any], Any], one: System, b: Any) -> tuple[Any, float] | None:
    """What a dense map gives, and how far a right answer may be off in norm; None if unclear."""
    draw = np.random.default_rng(0)
    try:
        with np.errstate(all="ignore"):
            x = compute(one, b)
            others = [
                compute(one.nudged(draw), b * (1.0 + NUDGE * draw.uniform(-1, 1, b.shape)))
                for _ in range(3)
            ]
    except np.linalg.LinAlgError:
        return None
    size = np.linalg.norm(x)
    off = AMPLIFIED * max(np.linalg.norm(x - other) for other in others) + 1e-10 * size
    return (x, float(off)) if off <= UNCLEAR * size else None


def lost_by(recurrence: Callable[..., Any], one: System, b: Any, exact: Any, K: int) -> float:
    """How far K steps of a method's own recurrence are off through rounding, measured in double
    precision: vectors that lose their orthogonality are further off than the orthogonalised map is
    when its input changes.
    """
    draw, lost = np.random.default_rng(1), 0.0
    with np.errstate(all="ignore"):
        for _ in range(3):
            start = b * (1.0 + EPS * draw.uniform(-1, 1, b.shape))
            lost = max(lost, length(one.P @ recurrence(one.A, one.M, start, K)[-1] - exact))
    return 10.0 * lost if np.isfinite(lost) else np.inf


def attainable(recurrence: Callable[..., Any], one: System, b: Any) -> float:
    """The least relative residual that a method's own recurrence reaches in double precision, with
    a factor for another order of operations. That of MINRES has errors that grow with the condition
    of A. Source: Sleijpen, van der Vorst and Modersitzki, SIAM J. Matrix Anal. Appl. 22 (2000).
    """
    if one.M is None or not b.any():
        return 0.0
    right = one.P @ b
    with np.errstate(all="ignore"):
        iterates = recurrence(one.A, one.M, right, 3 * len(b) + 10)
        left = [length(right - one.P @ (one.A @ x)) for x in iterates]
    return 10.0 * float(np.nanmin(left)) / length(right) if np.isfinite(left).any() else 1.0


def solved_after(one: System, right: Any, iterates: list[Any]) -> int:
    """The number of iterations after which an iterate has the solution to more digits than
    iterations keep; 0 if there is none.
    """
    most = 1e-9 * np.linalg.norm(right)
    for number, x in enumerate(iterates, start=1):
        if np.linalg.norm(right - one.A @ x) <= most:
            return number
    return 0
