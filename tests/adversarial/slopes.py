"""Gradients of unrolled solves against complex steps through the dense iteration."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import oracle
from .cases import Case
from .iterations import dense
from .oracle import AMPLIFIED, NUDGE, UNCLEAR, System
from .verdicts import Fault

STEP = 1e-40
MOST = 40
DIFFERENTIATED = ("none", "jacobi", "lu", "cholesky")


def check_slopes(
    case: Case, values: Any, systems: list[System], b: Any, grad: Any, answer: Any
) -> list[str]:
    """Raises `Fault` if a gradient is not that of the iterations; what could not be decided."""
    unclear: list[str] = []
    maps = dense(case.ksp, dict(case.options))
    rights = len(b) // len(systems)
    draw = np.random.default_rng(1)
    for number, one in enumerate(systems):
        rows = range(number * rights, (number + 1) * rights)
        steps = _steps(case, one, maps, b, rows, answer)
        if steps is None:
            unclear.append("the iterations of an unrolled solve")
            continue
        directions = []
        if answer.b is not None:
            directions.append((np.zeros(values.shape[1]), draw.normal(size=(rights, case.n))))
        if answer.values is not None:
            ahead = _change_of_values(case, one, values[number], draw)
            if ahead is None:
                unclear.append("no change of the values keeps the nullspace")
            else:
                directions.append((ahead, np.zeros((rights, case.n))))
        for dv, db in directions:
            found = (0.0 if answer.b is None else float((answer.b[rows] * db).sum())) + (
                0.0 if answer.values is None else float(answer.values[number] @ dv)
            )
            chosen = [(b[row], grad[row], db[i], *steps[i]) for i, row in enumerate(rows)]
            size = _size(answer, number, rows, dv, db)
            remark = _compare(case, values[number], one, dv, chosen, found, size)
            unclear += [remark] if remark else []
    return unclear


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


def _steps(
    case: Case, one: System, maps: list[Any], b: Any, rows: range, answer: Any
) -> list[tuple[Any, int]] | None:
    """Of each right-hand side the map and the number of iterations that gave its x."""
    if one.M is None:
        return None
    found = []
    for row in rows:
        most = case.level[0] or MOST
        if most > MOST:
            return None
        matches = []
        for steps in maps:
            scale = np.abs(b[row]).max()
            try:
                with np.errstate(all="ignore"):
                    iterates = steps(one.A, one.M, one.P @ b[row] / scale, most)
            except np.linalg.LinAlgError:
                continue
            if case.level[1] is None:
                iterates = [np.nan] * (most - 1) + iterates[-1:]
                if oracle.solved_after(
                    one, b[row] / scale, steps(one.A, one.M, one.P @ b[row] / scale, most)
                ):
                    return None
            x = answer.x[row] / scale
            off = 1e-6 * np.linalg.norm(x)
            matches += [
                (steps, k + 1) for k, y in enumerate(iterates) if np.linalg.norm(x - y) <= off
            ]
        if len(matches) != 1:
            return None
        found.append(matches[0])
    return found


def _size(answer: Any, number: int, rows: range, dv: Any, db: Any) -> float:
    size = 0.0
    if answer.b is not None:
        size += float(np.linalg.norm(answer.b[rows]) * np.linalg.norm(db))
    if answer.values is not None:
        size += float(np.linalg.norm(answer.values[number] * dv))
    return size


def _compare(
    case: Case, values: Any, one: System, dv: Any, chosen: list[Any], found: float, size: float
) -> str:
    draw = np.random.default_rng(2)

    def nudge(numbers: Any) -> Any:
        return numbers * (1.0 + NUDGE * draw.uniform(-1, 1, np.shape(numbers)))

    try:
        with np.errstate(all="ignore"):
            exact = _slope(case, values, one, dv, chosen)
            others = [
                _slope(case, nudge(values), one, dv, [(nudge(r), *rest) for r, *rest in chosen])
                for _ in range(3)
            ]
    except np.linalg.LinAlgError:
        return "the derivative of an unrolled solve"
    off = AMPLIFIED * max(abs(exact - other) for other in others)
    types = {"float64": 0.0, "float32": 1e-5, "bfloat16": 1e-1}
    loose = max(types[case.b_type], types[case.values_type])
    if not off <= UNCLEAR * size:
        return "the derivative of an unrolled solve"
    if abs(found - exact) > off + (1e-8 + loose) * size:
        which = "values" if dv.any() else "b"
        raise Fault(f"gradient of {which}", f"{found} along a direction, not {exact}")
    return ""


def _slope(case: Case, values: Any, one: System, dv: Any, chosen: list[Any]) -> float:
    """The derivative of `Σ g·x` along a direction."""
    A = np.zeros((case.n, case.n), dtype=complex)
    np.add.at(A, (list(case.rows), list(case.cols)), values + 1j * STEP * dv)
    M = one.M.astype(complex)
    if case.pc == "jacobi" and not case.options:
        diagonal = np.diag(A)
        M = one.P @ np.diag(1.0 / np.where(diagonal == 0.0, 1.0, diagonal)) @ one.P
    if case.pc in ("lu", "cholesky"):
        M = one.P @ np.linalg.inv(A) @ one.P
    total = 0.0
    for b, g, db, steps, count in chosen:
        # Scaled, since the map is homogeneous: what is squared must not underflow.
        scale = np.abs(b).max()
        x = steps(A, M, one.P @ (b / scale + 1j * STEP * db), count)[-1]
        total += float((g @ x).imag) / STEP * (1.0 if db.any() else scale)
    return total
