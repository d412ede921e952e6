"""Compares an answer with dense linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import oracle, petsc_iterations
from .benign import is_benign
from .cases import Case, Level
from .factors import factors
from .iterations import RECURRENCES, dense, ends_in_the_space
from .oracle import EPS, System
from .perform import Answer, live_inverses
from .slopes import Given, check_slopes
from .verdicts import Fault, Unclear

TYPE_EPS = {"float64": 0.0, "float32": 6e-8, "bfloat16": 4e-3, "float16": 5e-4}
# Below these a type keeps no digits.
TINIEST = {"float64": 1e-300, "float32": 1e-37, "bfloat16": 1e-37, "float16": 6e-5}
NORMAL_EQUATIONS = ("lsqr", "cgls", "cgne")
# These carry a residual along that rounding takes away from the true one.
EXACT_RESIDUALS = ("gmres", "fgmres", "lgmres", "richardson", "preonly", "gcr")
FALSE_PROMISE = 1e-3
# What is added to numbers near 0 by rounding to a type.
SMALLEST = {"float64": 0.0, "float32": 1e-37, "bfloat16": 1e-37, "float16": 6e-8}
SURELY = 1e-9
"""A result that is as near to the dense one is right, however little rounding would explain."""
SYMMETRIC_KSPS = (
    *("cg", "pipecg", "pipecg2", "pipecgrr", "pipelcg", "groppcg", "fcg", "pipefcg", "pipeprcg"),
    *("minres", "symmlq", "cr", "pipecr", "steepest_descent", "nash", "stcg", "gltr", "qcg"),
)
# Their preconditioners are no linear maps of residuals, or made of rounding (PETSc's cp of a matrix
# with orthogonal columns).
NO_MAPS = ("ksp", "eisenstat", "redistribute", "cp")


def judge(case: Case, comm: Any, answer: Answer | None, error: str) -> None:
    """Raises `Fault` or `Unclear` unless the answer (None: one of our errors) is right.

    Collective.
    """
    Judge(case, comm, answer).judge(answer, error)


class Judge:
    def __init__(self, case: Case, comm: Any, answer: Answer | None) -> None:
        self.case = case
        # Batched methods do the same iterations.
        self.ksp = case.ksp.removeprefix("batched_")
        self.values = oracle.as_given(case.values, case.values_type)
        self.b = oracle.as_given(case.b, case.b_type)
        self.grad = oracle.as_given(case.grad, case.b_type)
        self.guess = oracle.as_given(case.guess, case.b_type) if case.guess else 0.0 * self.b
        inverses = [oracle.preconditioner(case, values, comm) for values in self.values]
        if answer is not None and inverses[0] is None and case.pc not in NO_MAPS:
            # What estimates a spectrum from rounding errors cannot be repeated.
            inverses = live_inverses(case, answer, comm)
        self.systems = [
            oracle.system(case, values, M) for values, M in zip(self.values, inverses, strict=True)
        ]
        self.unclear: list[str] = []
        self.type_eps = TYPE_EPS[case.b_type]
        if case.kernel or case.constant:
            # The nullspace of rounded values is another one.
            self.type_eps = max(self.type_eps, 10 * TYPE_EPS[case.values_type])
        self.drift = 1e4 if self.ksp in EXACT_RESIDUALS else 1e7

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
            if self.ksp in SYMMETRIC_KSPS and not all(map(_is_symmetric, self.systems)):
                raise Fault("symmetric-only method on another matrix", fault.detail) from fault
            raise
        if self.unclear:
            raise Unclear(self.unclear[0])

    def _check_numbers(self, answer: Answer) -> None:
        case = self.case
        for row, x in enumerate(answer.x):
            self._compare("x", case.level, [self.system_of(row)], self.b[row], x, self.guess[row])
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
        if not np.isfinite(self.guess).all():
            raise Fault("accepted: NaN or infinity in the guess")
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

    def _compare(
        self,
        what: str,
        level: Level,
        systems: list[System],
        b: Any,
        x: Any,
        guess: Any = 0.0,
        type_eps: float = 0.0,
    ) -> None:
        """Whether x is what a solve to this level with one of these systems gives, which starts at
        the guess; x is rounded to `type_eps`, besides the type of b.
        """
        max_it, rtol = level
        type_eps = max(type_eps, self.type_eps)
        if not b.any():
            self._compare_zero(what, systems[0], x, guess + 0.0 * b)
            return
        scale = np.abs(b).max()
        if np.abs(systems[0].P @ b).max() <= 1e-13 * scale:
            # In the nullspace, from which rounding may lead.
            if x.any():
                self.unclear.append(f"{what}: a right-hand side in the nullspace")
            return
        tiniest = TINIEST[self.case.b_type]
        is_rounded = TYPE_EPS[self.case.b_type] and np.abs(x).max() < tiniest
        if is_rounded or scale < tiniest * np.abs(systems[0].A).max(initial=0.0):
            self.unclear.append(f"{what}: below the range of its type")
            return
        b, x, guess = b / scale, x / scale, (guess + 0.0 * b) / scale
        if not (np.isfinite(x).all() and np.isfinite(guess).all()):
            self.unclear.append(f"{what}: beyond the range relative to b")
            return
        found: list[float] = []
        if rtol is not None:
            found = [self._excess(one, b, x, guess, rtol, type_eps) for one in systems]
            if min(found) <= 1.0:
                return
            if max_it is None:
                if np.isnan(found).any():
                    self.unclear.append(f"{what}: rounding decides")
                    return
                raise Fault(f"{what}: residual above tolerance", f"{min(found):.3g} times: {x}")
        try:
            self._compare_iterate(what, max_it or 1, systems, b, x, guess, type_eps)
        except Fault:
            # An earlier iterate may have reached the tolerance, if rounding hides whether it did.
            if not np.isnan(found).any():
                raise
            self.unclear.append(f"{what}: rounding decides")

    def _compare_zero(self, what: str, one: System, x: Any, guess: Any) -> None:
        """For a right-hand side of 0. Unrolled iterations start at the guess, whose residual they
        make smaller.
        """
        if not x.any():
            return
        is_started = self.case.differentiation == "unrolled" and guess.any()
        lengths = [np.abs(one.A @ y).max() for y in (x, guess)]
        if not is_started or lengths[0] > lengths[1]:
            raise Fault(f"{what} is not 0 for 0", str(x))
        self.unclear.append(f"{what}: a guess for a right-hand side of 0")

    def _excess(
        self, one: System, b: Any, x: Any, guess: Any, rtol: float, type_eps: float
    ) -> float:
        normal, recurrence = self.ksp in NORMAL_EQUATIONS, RECURRENCES.get(self.ksp)
        with np.errstate(all="ignore"):
            found = oracle.residual_excess(one, b, x, guess, rtol, self.drift, type_eps, normal)
            if recurrence is None or not found > 1.0:
                return found
            least = oracle.attainable(recurrence, one, oracle.rest(one, b, guess))
            if least > oracle.UNCLEAR:
                return float("nan")
            rtol = max(rtol, least)
            return oracle.residual_excess(one, b, x, guess, rtol, self.drift, type_eps, normal)

    def _compare_iterate(
        self,
        what: str,
        max_it: int,
        systems: list[System],
        b: Any,
        x: Any,
        guess: Any,
        type_eps: float,
    ) -> None:
        options = dict(self.case.options)
        maps = dense(self.ksp, options) or petsc_iterations.maps(self.ksp, options)
        sure, expected = max_it <= 40, []
        if self.ksp == "chebyshev" and what.startswith(("gradient", "adjoint")):
            # The adjoint has the bounds that were estimated for A: it is the transposed map.
            maps = [*maps, *map(petsc_iterations.transposed, maps)]
        for given in systems if sure else []:
            one, size = oracle.of_ordinary_size(given, self.ksp)
            for steps in _different(maps, one):
                result = self._iterate(one, steps, b, size * x, size * guess, max_it)
                if result is None:
                    sure = False
                    continue
                y, off = result
                expected.append(y / size)
                off = off + type_eps * oracle.length(y)
                if oracle.length(size * x - y) <= off:
                    return
        if not sure:
            self.unclear.append(f"{what}: no reference for {max_it} iterations")
            return
        raise Fault(f"{what}: not what {max_it} iterations give", f"{x}\nnot {expected}")

    def _iterate(
        self, one: System, steps: Callable[..., Any], b: Any, x: Any, guess: Any, max_it: int
    ) -> tuple[Any, float] | None:
        """The last iterate and how far off a right one may be; the solution where iterations
        arrive at it earlier.
        """
        if one.M is None:
            return None
        rest, start = oracle.rest(one, b, guess), oracle.projected(one, guess)
        if not rest.any():
            return start, 1e-10 * oracle.length(guess)
        space = round(float(np.trace(one.P)))
        is_over = max_it > space and ends_in_the_space(self.ksp, dict(self.case.options), space)
        count = space if is_over else max_it
        try:
            with np.errstate(all="ignore"):
                iterates = steps(one.A, one.M, rest, count)
        except np.linalg.LinAlgError:
            return None
        # Solutions are orthogonal to the nullspace, also where rounding leads the iterates into it.
        y = start + one.P @ iterates[-1]
        if not np.isfinite(y).all():
            # The reference broke down.
            return None
        off = SURELY * oracle.length(y)
        if oracle.length(x - y) <= off:
            return y, off
        if oracle.solved_after(one, rest, iterates if is_over else iterates[:-1]):
            return self._solution(one, b, guess)
        if is_over:
            # No exact step is left; on a singular matrix the solution was not found.
            return None
        found = oracle.sure(
            lambda s, r: start + s.P @ steps(s.A, s.M, oracle.rest(s, r, guess), max_it)[-1],
            one,
            b,
        )
        if found is None:
            return found
        exact, off = found
        if self.case.values_type != "float64":
            # Rounded values have no exact nullspace, and what they lead into it is not defined.
            off += 100.0 * one.outside * oracle.length(exact - start)
        if self.ksp in RECURRENCES:
            off += oracle.lost_by(RECURRENCES[self.ksp], one, rest, exact - start, max_it)
        return (exact, off) if off <= oracle.UNCLEAR * oracle.length(exact) else None

    def _solution(self, one: System, b: Any, guess: Any) -> tuple[Any, float] | None:
        condition = np.linalg.cond(one.A + (np.eye(len(b)) - one.P) * np.abs(one.A).max())
        if not condition < 1e4:
            return None
        # Rounded values have no exact nullspace.
        y = np.linalg.pinv(one.P @ one.A @ one.P, rcond=1e-10) @ (one.P @ b)
        # A large guess leaves its rounding errors.
        rounding = 1e3 * EPS * condition * float(np.linalg.norm(guess))
        # What has arrived to nine digits may have lost them again on the way.
        size = float(np.linalg.norm(y))
        off = 1e-6 * condition * size + rounding
        return (y, off) if rounding <= oracle.UNCLEAR * size else None

    def _check_values_alone(self, answer: Answer, level: Level) -> None:
        """Without the adjoint solutions at hand: with those that the gradient consists of."""
        rights = len(self.b) // len(self.systems)
        eps = TYPE_EPS[self.case.values_type]
        for number, grad in enumerate(answer.values):
            rows = range(number * rights, (number + 1) * rights)
            off = 4 * (eps + self.type_eps)
            determined = factors(self.case, grad, answer.x[rows], off + 1e-9)
            if determined is None:
                self.unclear.append("gradient of values without that of b")
                continue
            for row, adjoint, growth in zip(rows, *determined, strict=True):
                if np.isnan(adjoint).any():
                    self.unclear.append("gradient of values without that of b")
                    continue
                self._compare(
                    "adjoint in the gradient of values",
                    level,
                    self._adjoints(row),
                    self.grad[row],
                    adjoint,
                    type_eps=off * max(growth, 1.0),
                )

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
            # x and λ were rounded to the type of b, the gradient to that of the values.
            tiny = SMALLEST[self.case.b_type]
            lost = tiny * (np.abs(adjoint).max(axis=1) + np.abs(x).max(axis=1) + tiny)
            lost = 2 * lost.reshape(len(self.systems), rights).sum(axis=1)
            lost += TINIEST[self.case.values_type]
            wrong = np.abs(found - expected) > (off * size + lost)[:, None]
        if not (np.isfinite(expected).all() and np.isfinite(size).all()):
            self.unclear.append("gradient of values overflows")
        elif wrong.any():
            raise Fault("gradient of values", f"{found}\nnot {expected}")

    def _check_unrolled(self, answer: Answer) -> None:
        level = self.case.level
        if answer.b is not None:
            # The map is not differentiable there: the adjoint at the same level instead.
            for row, b in enumerate(self.b):
                if not (b.any() or self.guess[row].any()):
                    adjoints, grad = self._adjoints(row), self.grad[row]
                    self._compare("gradient of b at 0", level, adjoints, grad, answer.b[row])
        given = Given(self.values, self.systems, self.b, self.grad, self.guess)
        try:
            self.unclear += check_slopes(self.case, given, answer)
        except Fault:
            if not all(map(self._is_solved, range(len(self.b)), answer.x)):
                raise
            # Solved exactly before the last iteration: the adjoint at the same level too.
            self._check_implicit(answer)

    def _is_solved(self, row: int, x: Any) -> bool:
        """Whether x is the solution to all digits but the last."""
        one, size = self.system_of(row), np.abs(x).max(initial=0.0)
        rounding = 8.0 * EPS * np.abs(one.A).sum(axis=1).max(initial=0.0) * size
        return bool(np.abs(one.P @ (self.b[row] - one.A @ x)).max(initial=0.0) <= rounding)


def _different(maps: list[Callable[..., Any]], one: System) -> list[Callable[..., Any]]:
    """Without a preconditioner its side makes no difference."""
    is_identity = one.M is not None and np.array_equal(one.M, np.eye(len(one.M)))
    return maps[::2] if is_identity else maps


def _is_symmetric(one: System) -> bool:
    return bool(np.abs(one.A - one.A.T).max(initial=0.0) <= EPS * np.abs(one.A).max(initial=0.0))
