"""Gradients of unrolled solves against complex steps through the dense iteration.

Where the iterations arrive at the solution, as Krylov methods do after as many steps as there are
unknowns, the gradient may also be that of the solution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import oracle
from .cases import Case
from .iterations import dense
from .oracle import AMPLIFIED, NUDGE, UNCLEAR, System
from .verdicts import Fault

STEP = 1e-40
ROUNDED = 10.0
"""The effect of rounding relative to that of another order of the unknowns, which rounds all sums
otherwise: directions that lose their orthogonality amplify it more than changes of the input.
"""
SURELY = 1e-9
"""Distance of x from the iterate that it is, though others are near."""
MOST = 40
MOST_CANDIDATES = 300
LATER = 6
"""Most iterations that are done after those which arrive at the solution to most of its digits."""
TYPES = {"float64": 0.0, "float32": 1e-5, "bfloat16": 1e-1, "float16": 1e-2}
SMALLEST = {"float64": 0.0, "float32": 1e-37, "bfloat16": 1e-37, "float16": 6e-8}
"""What is lost of numbers near 0 by rounding to a type."""
Steps = Callable[..., list[Any]]


@dataclass(frozen=True)
class Given:
    """The numbers of a case in the precision of their types, and the systems of its matrices."""

    values: Any
    systems: list[System]
    b: Any
    grad: Any
    guess: Any


@dataclass(frozen=True)
class Right:
    """One right-hand side: its gradient, guess, change, and the iterations that gave its x, None
    for those of the solution.
    """

    b: Any
    grad: Any
    guess: Any
    db: Any
    steps: Steps | None
    count: int


def check_slopes(case: Case, given: Given, answer: Any) -> list[str]:
    """Raises `Fault` if a gradient is not that of the iterations; what could not be decided.

    Right-hand sides of 0 without a guess are left out: their solutions are 0, and add nothing to
    the gradient of the values.
    """
    unclear: list[str] = []
    rights = len(given.b) // len(given.systems)
    draw = np.random.default_rng(1)
    for number, one in enumerate(given.systems):
        rows = [
            k
            for k in range(number * rights, (number + 1) * rights)
            if given.b[k].any() or given.guess[k].any()
        ]
        if not rows:
            continue
        if all(_is_rounding(one, given.grad[k]) for k in rows):
            unclear.append("a gradient in the nullspace")
            continue
        found = _iterations(case, given, *oracle.of_ordinary_size(one, case.ksp), rows, answer)
        if not found:
            unclear.append("the iterations of an unrolled solve")
            continue
        for dv, db in _directions(case, given, number, len(rows), answer, draw):
            if dv is None:
                unclear.append("no change of the values keeps the nullspace")
                continue
            remark = _compare(case, given, number, rows, answer, dv, db, found)
            unclear += [remark] if remark else []
    return unclear


def _is_rounding(one: System, grad: Any) -> bool:
    """Whether a gradient that is not 0 has only rounding besides its part in the nullspace."""
    size = np.abs(grad).max()
    return bool(size > 0.0 and np.abs(one.P @ grad).max() <= 1e-13 * size)


def _directions(
    case: Case, given: Given, number: int, rights: int, answer: Any, draw: Any
) -> list[tuple[Any, Any]]:
    found = []
    values = given.values[number]
    if answer.b is not None:
        found.append((np.zeros(len(values)), draw.normal(size=(rights, case.n))))
    if answer.values is not None:
        ahead = _change_of_values(case, given.systems[number], values, draw)
        found.append((ahead, np.zeros((rights, case.n))))
    return found


def _change_of_values(case: Case, one: System, values: Any, draw: Any) -> Any:
    """Random, relative to the values; with a nullspace one that keeps it, for which alone the
    gradient is defined, or None where the pattern has none.
    """
    if not (case.kernel or case.constant):
        return draw.normal(size=len(values)) * np.abs(values)
    pattern = np.zeros((case.n, case.n))
    np.add.at(pattern, (list(case.rows), list(case.cols)), 1.0)
    if not pattern.all():
        return None
    size = np.abs(values).max(initial=0.0)
    change = size * (one.P @ draw.normal(size=pattern.shape) @ one.P)
    return (change / pattern)[list(case.rows), list(case.cols)]


def _iterations(
    case: Case, given: Given, one: System, size: float, rows: list[int], answer: Any
) -> list[list[tuple[Steps | None, int]]]:
    """Candidates: for each of the rows the map and the number of iterations that gave its x; one is
    the system divided by `size`.
    """
    if one.M is None:
        return []
    candidates = []
    is_identity = np.array_equal(one.M, np.eye(case.n))
    maps = dense(case.ksp, dict(case.options))
    for steps in maps[:1] if is_identity else maps:
        counts = [
            _counts(case, one, steps, given.b[row], size * given.guess[row], size * answer.x[row])
            for row in rows
        ]
        if all(counts) and math.prod(map(len, counts)) <= MOST_CANDIDATES:
            # Each right-hand side stops at its own iteration.
            candidates += [list(chosen) for chosen in itertools.product(*counts)]
    return candidates


def _counts(
    case: Case, one: System, steps: Steps, b: Any, guess: Any, x: Any
) -> list[tuple[Steps | None, int]]:
    """The numbers of iterations of a map that give x; with None the solution is x too."""
    most = case.level[0] or MOST
    scale = np.abs(b).max()
    guess = oracle.projected(one, guess) / scale
    right = oracle.rest(one, b / scale, guess)
    if most > MOST or not right.any():
        return []
    try:
        with np.errstate(all="ignore"):
            iterates = [guess + y for y in steps(one.A, one.M, right, most)]
    except np.linalg.LinAlgError:
        return []
    x = x / scale
    off = 1e-6 * np.linalg.norm(x)
    if case.ksp in oracle.STATIONARY:
        matches = _matching(case, steps, iterates, x, off)
        # With a tolerance alone there may have been more iterations than were looked at.
        is_open = case.level[0] is None and bool(matches) and matches[-1][1] == most
        surely = _matching(case, steps, iterates, x, SURELY * np.linalg.norm(x))
        return [] if is_open else surely or matches
    solved = oracle.solved_after(one, right, [y - guess for y in iterates[:-1]])
    surely = _matching(case, steps, iterates, x, SURELY * np.linalg.norm(x))
    if len(surely) == 1 and not 0 < solved <= surely[0][1]:
        return surely
    if solved:
        if not np.linalg.norm(x - iterates[solved - 1]) <= 1e-5 * np.linalg.norm(x):
            return []
        tested = _tested(case, one, right, [y - guess for y in iterates], solved)
        return [(None, 0), *((steps, k) for k in tested)]
    matches = _matching(case, steps, iterates, x, off)
    return matches if len(matches) == 1 else []


def _tested(case: Case, one: System, right: Any, iterates: list[Any], solved: int) -> range:
    """The iterations that may be the last one, if that of number `solved` is the solution to most
    of its digits: the tolerance may be larger or smaller, and may be tested in another norm.
    """
    rtol = case.level[1] or 0.0
    left = [np.linalg.norm(right - one.A @ y) / np.linalg.norm(right) for y in iterates]
    enough = [k for k, one in enumerate(left, start=1) if one <= 100.0 * rtol]
    first = max(1, min([solved - 1, *enough]))
    last = min(len(iterates), solved + LATER)
    reached = [k for k in range(solved + 1, last) if left[k - 1] <= 0.01 * rtol]
    return range(first, max([solved + 1, *(reached[:1] or [last])]) + 1)


def _matching(
    case: Case, steps: Steps, iterates: list[Any], x: Any, off: float
) -> list[tuple[Steps | None, int]]:
    """The numbers of iterations that give x: all of them at a fixed number."""
    numbered = list(enumerate(iterates, start=1))
    possible = numbered[-1:] if case.level[1] is None else numbered
    return [(steps, k) for k, y in possible if np.linalg.norm(x - y) <= off]


def _compare(
    case: Case,
    given: Given,
    number: int,
    rows: list[int],
    answer: Any,
    dv: Any,
    db: Any,
    candidates: list[list[tuple[Steps | None, int]]],
) -> str:
    """Whether the gradients along a direction are those of one of the candidates; a remark if that
    is unclear.
    """
    found, size = 0.0, 0.0
    if answer.b is not None:
        found += float((answer.b[rows] * db).sum())
        size += float(np.linalg.norm(answer.b[rows]) * np.linalg.norm(db))
    if answer.values is not None:
        found += float(answer.values[number] @ dv)
        size += float(np.linalg.norm(answer.values[number] * dv))
    loose = max(TYPES[case.b_type], TYPES[case.values_type])
    lost = SMALLEST[case.b_type] * np.abs(db).sum() + SMALLEST[case.values_type] * np.abs(dv).sum()
    expected, is_clear = [], True
    for candidate in candidates:
        chosen = [
            Right(given.b[row], given.grad[row], given.guess[row], db[k], *candidate[k])
            for k, row in enumerate(rows)
        ]
        exact, off = _sure_slope(
            case, given.values[number], given.systems[number], dv, chosen, found, 1e-8 * size
        )
        if not off <= UNCLEAR * size:
            is_clear = False
            continue
        if abs(found - exact) <= off + (1e-8 + loose) * size + lost:
            return ""
        expected.append(exact)
    if not is_clear:
        return "the derivative of an unrolled solve"
    which = "values" if dv.any() else "b"
    raise Fault(f"gradient of {which}", f"{found} along a direction, not {expected}")


def _sure_slope(
    case: Case,
    values: Any,
    one: System,
    dv: Any,
    chosen: list[Right],
    found: float,
    near: float,
) -> tuple[float, float]:
    """The derivative, and how far off a right one may be, unless `found` is near it."""
    draw = np.random.default_rng(2)

    def nudge(numbers: Any) -> Any:
        return numbers * (1.0 + NUDGE * draw.uniform(-1, 1, np.shape(numbers)))

    def nudged(right: Right) -> Right:
        return Right(nudge(right.b), right.grad, right.guess, right.db, right.steps, right.count)

    try:
        with np.errstate(all="ignore"):
            exact = _slope(case, values, one, dv, chosen)
            if abs(found - exact) <= near:
                return exact, 0.0
            others = [
                _slope(case, nudge(values), one, dv, [nudged(right) for right in chosen])
                for _ in range(3)
            ]
            turned = [
                _slope(case, values, one, dv, chosen, draw.permutation(case.n)) for _ in range(3)
            ]
    except np.linalg.LinAlgError:
        return 0.0, np.inf
    changes = [
        AMPLIFIED * max(abs(exact - other) for other in others),
        ROUNDED * max(abs(exact - other) for other in turned),
    ]
    return exact, max(changes)


def _slope(
    case: Case, values: Any, one: System, dv: Any, chosen: list[Right], order: Any = None
) -> float:
    """The derivative of `Σ g·x` along a direction, computed with the unknowns in an order."""
    order = np.arange(case.n) if order is None else order
    ordinary, size = oracle.of_ordinary_size(one, case.ksp)
    A = np.zeros((case.n, case.n), dtype=complex)
    np.add.at(A, (list(case.rows), list(case.cols)), values / size + 1j * STEP * (dv / size))
    M = ordinary.M.astype(complex)
    if case.pc == "jacobi" and not any(name.startswith("pc_") for name, _ in case.options):
        diagonal = np.diag(A)
        M = one.P @ np.diag(1.0 / np.where(diagonal == 0.0, 1.0 / size, diagonal)) @ one.P
    if case.pc in ("lu", "cholesky"):
        M = one.P @ np.linalg.inv(A) @ one.P
    total = 0.0
    for right in chosen:
        # Scaled, since the map is homogeneous: what is squared must not underflow.
        scale = np.abs(right.b).max()
        guess = size * oracle.projected(one, right.guess) / scale
        rest = one.P @ (right.b / scale + 1j * STEP * right.db - A @ guess)
        if right.steps is None:
            x = one.P @ np.linalg.solve(A + (np.eye(case.n) - one.P) * _size(A), rest)
        else:
            turned = [matrix[np.ix_(order, order)] for matrix in (A, M)]
            x = np.zeros_like(rest)
            x[order] = right.steps(*turned, rest[order], right.count)[-1]
        along = float((right.grad @ x).imag) / STEP / size
        total += along * (1.0 if right.db.any() else scale)
    return total


def _size(A: Any) -> float:
    """What a nullspace is filled up with."""
    return float(np.abs(A).max())
