"""Compares an answer with dense linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import oracle
from .benign import is_benign
from .cases import Case, Level
from .iterations import dense, ends_in_the_space
from .oracle import EPS, System
from .perform import Answer
from .slopes import check_slopes
from .verdicts import Fault, Unclear

TYPE_EPS = {"float64": 0.0, "float32": 6e-8, "bfloat16": 4e-3}
# Below these a type keeps no digits.
TINIEST = {"float64": 1e-300, "float32": 1e-37, "bfloat16": 1e-37}
NORMAL_EQUATIONS = ("lsqr", "cgls", "cgne")
# These carry a residual along that rounding takes away from the true one.
EXACT_RESIDUALS = ("gmres", "fgmres", "lgmres", "richardson", "preonly", "gcr")
FALSE_PROMISE = 1e-3
SYMMETRIC_KSPS = (
    *("cg", "pipecg", "pipecg2", "pipecgrr", "pipelcg", "groppcg", "fcg", "pipefcg", "pipeprcg"),
    *("minres", "symmlq", "cr", "pipecr", "steepest_descent", "nash", "stcg", "gltr", "qcg"),
)


def judge(case: Case, comm: Any, answer: Answer | None, error: str) -> None:
    """Raises `Fault` or `Unclear` unless the answer (None: one of our errors) is right.

    Collective.
    """
    Judge(case, comm).judge(answer, error)


class Judge:
    def __init__(self, case: Case, comm: Any) -> None:
        self.case = case
        self.values = oracle.as_given(case.values, case.values_type)
        self.b = oracle.as_given(case.b, case.b_type)
        self.grad = oracle.as_given(case.grad, case.b_type)
        inverses = [oracle.preconditioner(case, values, comm) for values in self.values]
        self.systems = [
            oracle.system(case, values, M) for values, M in zip(self.values, inverses, strict=True)
        ]
        self.unclear: list[str] = []
        self.type_eps = TYPE_EPS[case.b_type]
        self.drift = 1e4 if case.ksp in EXACT_RESIDUALS else 1e7

    def system_of(self, row: int) -> System:
        return self.systems[row * len(self.systems) // len(self.b)]

    def judge(self, answer: Answer | None, error: str) -> None:
        case = self.case
        if answer is None:
            if is_benign(case, self.systems, self.b, self.grad):
                raise Fault("needless error", error)
            return
        self._must_not_pass(answer)
        if answer.remark:
            raise Fault("wrong type or shape", answer.remark)
        for name in ("x", "b", "values"):
            found = getattr(answer, name)
            kind = case.values_type if name == "values" else case.b_type
            if found is not None and not np.isfinite(found).all():
                if kind != "float64" and not np.isnan(found).any():
                    raise Unclear("a result is too large for its type")
                raise Fault(f"{name} is not finite", str(found))
        if answer.again is not None and not np.array_equal(answer.x, answer.again):
            raise Fault("the second solve differs", f"{answer.x}\n{answer.again}")
        try:
            self._check_numbers(answer)
        except Fault as fault:
            if self.case.ksp in SYMMETRIC_KSPS and not all(map(_is_symmetric, self.systems)):
                raise Fault("symmetric-only method on another matrix", fault.detail) from fault
            raise
        if self.unclear:
            raise Unclear(self.unclear[0])

    def _check_numbers(self, answer: Answer) -> None:
        case = self.case
        for row, x in enumerate(answer.x):
            self._compare("x", case.level, [self.system_of(row)], self.b[row], x)
        if case.differentiation == "implicit":
            self._check_implicit(answer)
        else:
            self._check_unrolled(answer)

    def _must_not_pass(self, answer: Answer) -> None:
        case = self.case
        if case.mistake:
            raise Fault(f"accepted: {case.mistake}")
        if not (np.isfinite(self.values).all() and np.isfinite(self.b).all()):
            raise Fault("accepted: NaN or infinity")
        asked = answer.b is not None or answer.values is not None
        if asked and not np.isfinite(self.grad).all():
            raise Fault("accepted: NaN or infinity in the gradient")
        for one in self.systems:
            size = np.abs(one.A).max(initial=0.0)
            with np.errstate(over="ignore"):
                if (
                    case.symmetric
                    and np.abs(one.A - one.A.T).max(initial=0.0) > FALSE_PROMISE * size
                ):
                    raise Fault("false promise believed: symmetric")
                Z = np.eye(case.n) - one.P
                off = max(np.abs(one.A @ Z).max(initial=0.0), np.abs(one.A.T @ Z).max(initial=0.0))
            if (case.kernel or case.constant) and off > FALSE_PROMISE * size:
                raise Fault("false promise believed: nullspace")

    def _check_implicit(self, answer: Answer) -> None:
        level = self.case.adjoint or self.case.level
        if answer.b is not None:
            for row, adjoint in enumerate(answer.b):
                self._compare("gradient of b", level, self._adjoints(row), self.grad[row], adjoint)
        if answer.values is None:
            return
        if answer.b is None:
            self._check_values_alone(answer, level)
            return
        self._compare_values(answer.values, answer.b, answer.x, self.type_eps + 1e-12)

    def _adjoints(self, row: int) -> list[System]:
        one = self.system_of(row)
        symmetric = np.array_equal(one.A, one.A.T)
        return [one.transposed, one] if symmetric else [one.transposed]

    def _compare(self, what: str, level: Level, systems: list[System], b: Any, x: Any) -> None:
        """Whether x is what a solve to this level with one of these systems gives."""
        max_it, rtol = level
        if not b.any():
            if x.any():
                raise Fault(f"{what} is not 0 for 0", str(x))
            return
        scale = np.abs(b).max()
        if self.type_eps and np.abs(x).max() < TINIEST[self.case.b_type]:
            self.unclear.append(f"{what}: below the range of its type")
            return
        b, x = b / scale, x / scale
        found: list[float] = []
        if rtol is not None:
            found = [self._excess(one, b, x, rtol) for one in systems]
            if min(found) <= 1.0:
                return
            if max_it is None:
                if np.isnan(found).any():
                    self.unclear.append(f"{what}: rounding decides")
                    return
                if systems[0].M is None and self.case.pc in oracle.ESTIMATING:
                    self.unclear.append(f"{what}: the norm of multigrid is not reproducible")
                    return
                raise Fault(f"{what}: residual above tolerance", f"{min(found):.3g} times: {x}")
        try:
            self._compare_iterate(what, max_it or 1, systems, b, x)
        except Fault:
            # An earlier iterate may have reached the tolerance, if rounding hides whether it did.
            if not np.isnan(found).any():
                raise
            self.unclear.append(f"{what}: rounding decides")

    def _excess(self, one: System, b: Any, x: Any, rtol: float) -> float:
        normal = self.case.ksp in NORMAL_EQUATIONS
        with np.errstate(all="ignore"):
            return oracle.residual_excess(one, b, x, rtol, self.drift, self.type_eps, normal)

    def _compare_iterate(
        self, what: str, max_it: int, systems: list[System], b: Any, x: Any
    ) -> None:
        maps = dense(self.case.ksp, dict(self.case.options))
        sure, expected = bool(maps) and max_it <= 40, []
        for one in systems if sure else []:
            for steps in maps:
                result = self._iterate(one, steps, b, max_it)
                if result is None:
                    sure = False
                    continue
                y, off = result
                expected.append(y)
                off = off + self.type_eps * np.linalg.norm(y)
                if np.linalg.norm(x - y) <= off:
                    return
        if not sure:
            self.unclear.append(f"{what}: no reference for {max_it} iterations")
            return
        raise Fault(f"{what}: not what {max_it} iterations give", f"{x}\nnot {expected}")

    def _iterate(
        self, one: System, steps: Callable[..., Any], b: Any, max_it: int
    ) -> tuple[Any, float] | None:
        """The last iterate and how far off a right one may be; the solution where iterations
        arrive at it earlier.
        """
        if one.M is None:
            return None
        left = len(b) - round(len(b) - float(np.trace(one.P)))
        is_over = max_it > left and ends_in_the_space(self.case.ksp, dict(self.case.options), left)
        try:
            with np.errstate(all="ignore"):
                iterates = steps(one.A, one.M, one.P @ b, max_it)
        except np.linalg.LinAlgError:
            return None
        if oracle.solved_after(one, b, iterates):
            return self._solution(one, b)
        if is_over:
            # No exact step is left; on a singular matrix the solution was not found.
            return None
        return oracle.sure(lambda s, r: steps(s.A, s.M, s.P @ r, max_it)[-1], one, b)

    def _solution(self, one: System, b: Any) -> tuple[Any, float] | None:
        condition = np.linalg.cond(one.A + (np.eye(len(b)) - one.P) * np.abs(one.A).max())
        if not condition < 1e4:
            return None
        y = np.linalg.pinv(one.A, rcond=1e-10) @ (one.P @ b)
        # What has arrived to nine digits may have lost them again on the way.
        return y, 1e-5 * condition * float(np.linalg.norm(y)) / 10

    def _check_values_alone(self, answer: Answer, level: Level) -> None:
        """Without the adjoint at hand: with the exact one, where it is well determined."""
        if level[0] is not None:
            self.unclear.append("gradient of values without that of b")
            return
        exact, off = [], 0.0
        for row in range(len(self.b)):
            one = self.system_of(row).transposed
            if one.M is None or self.case.kernel or self.case.constant:
                self.unclear.append("gradient of values without that of b")
                return
            bound = np.linalg.cond(one.A) * np.linalg.cond(one.M) * (10 * level[1] + 1e3 * EPS)
            if not bound < 1e-3:
                self.unclear.append("gradient of values without that of b")
                return
            off = max(off, bound)
            exact.append(np.linalg.solve(one.A, self.grad[row]))
        self._compare_values(answer.values, np.array(exact), answer.x, off + self.type_eps + 1e-9)

    def _compare_values(self, found: Any, adjoint: Any, x: Any, off: float) -> None:
        """`−λ[row] x[col]`, summed over the right-hand sides of each matrix."""
        rows, cols = list(self.case.rows), list(self.case.cols)
        rights = len(x) // len(self.systems)
        with np.errstate(all="ignore"):
            each = -adjoint[:, rows] * x[:, cols]
            expected = each.reshape(len(self.systems), rights, -1).sum(axis=1)
            # Not by norms: their squares may underflow.
            size = len(x[0]) * np.abs(adjoint).max(axis=1) * np.abs(x).max(axis=1)
            size = size.reshape(len(self.systems), rights).sum(axis=1)
            off = 4 * (off + TYPE_EPS[self.case.values_type])
            wrong = np.abs(found - expected) > off * size[:, None] + TINIEST[self.case.values_type]
        if not (np.isfinite(expected).all() and np.isfinite(size).all()):
            self.unclear.append("gradient of values overflows")
        elif wrong.any():
            raise Fault("gradient of values", f"{found}\nnot {expected}")

    def _check_unrolled(self, answer: Answer) -> None:
        level = self.case.level
        zero = [row for row, b in enumerate(self.b) if not b.any()]
        if answer.b is not None:
            # The map is not differentiable there: the adjoint at the same level instead.
            for row in zero:
                self._compare(
                    "gradient of b at 0", level, self._adjoints(row), self.grad[row], answer.b[row]
                )
        if zero:
            self.unclear.append("some right-hand sides are 0")
            return
        self.unclear += check_slopes(
            self.case, self.values, self.systems, self.b, self.grad, answer
        )


def _is_symmetric(one: System) -> bool:
    return bool(np.abs(one.A - one.A.T).max(initial=0.0) <= EPS * np.abs(one.A).max(initial=0.0))
