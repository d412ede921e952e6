"""Makes a case that shows a fault simpler, as long as it still shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from .cases import MISTAKES_OF_ONE_RANK, Case

_LISTS = ("rows", "cols", "holders")


def simplified(case: Any, still: Callable[[Any], bool], most: int = 400) -> Any:
    """The simplest case found in at most so many tries that `still` shows the fault."""
    tries, again = 0, True
    while again:
        again = False
        for candidate in _simpler(case):
            if tries == most:
                return case
            tries += 1
            if still(candidate):
                case, again = candidate, True
                break
    return case


def _simpler(case: Any) -> Iterator[Any]:
    is_unrolled = getattr(case, "differentiation", "") == "unrolled"
    is_slow = is_unrolled or getattr(case, "ranks", 1) > 1
    for field in fields(case):
        if is_slow and field.name == "level":
            continue  # Such iterations to a tolerance that is not reached take minutes.
        if field.name == "several" and len(getattr(case, "values", ())) > 1:
            continue  # Only one of the matrices would be solved with.
        if field.default is not MISSING and getattr(case, field.name) != field.default:
            yield replace(case, **{field.name: field.default})
    if isinstance(case, Case):
        yield from _smaller(case)
        yield from _rounder(case)


def _smaller(case: Case) -> Iterator[Case]:
    """Fewer ranks, right-hand sides, matrices, rows, entries."""
    if case.ranks > 1 and case.mistake not in MISTAKES_OF_ONE_RANK:
        yield replace(case, ranks=1)
        yield replace(case, ranks=case.ranks - 1)
    if len(case.b) > len(case.values):
        each = len(case.b) // len(case.values)
        yield _with_rights(case, range(0, len(case.b), each))
    elif len(case.values) > 1:
        for kept in (range(len(case.values) - 1), range(1, len(case.values))):
            yield replace(_with_rights(case, kept), values=_chosen(case.values, kept))
    if case.n > 1:
        for row in range(case.n):
            yield _without_row(case, row)
    for entry in range(len(case.rows)):
        yield _without_entries(case, {entry})


def _with_rights(case: Case, kept: Any) -> Case:
    names = ("b", "grad", "guess") if case.guess else ("b", "grad")
    return replace(case, **{name: _chosen(getattr(case, name), kept) for name in names})


def _chosen(rows: Any, kept: Any) -> Any:
    return tuple(rows[k] for k in kept)


def _without_entries(case: Case, gone: set[int]) -> Case:
    kept = [k for k in range(len(case.rows)) if k not in gone]
    lists: dict[str, Any] = {name: _chosen(getattr(case, name), kept) for name in _LISTS}
    for name in ("values", "other"):
        lists[name] = tuple(_chosen(row, kept) for row in getattr(case, name))
    return replace(case, **lists)


def _without_row(case: Case, row: int) -> Case:
    gone = {k for k, pair in enumerate(zip(case.rows, case.cols, strict=True)) if row in pair}
    less = _without_entries(case, gone)
    kept = [k for k in range(case.n) if k != row]
    vectors = {
        name: tuple(_chosen(v, kept) for v in getattr(case, name))
        for name in ("b", "grad", "guess", "kernel")
    }
    moved = {
        name: tuple(index - (index > row) for index in getattr(less, name))
        for name in ("rows", "cols")
    }
    return replace(less, n=case.n - 1, **moved, **vectors)  # type: ignore[arg-type]


def _rounder(case: Case) -> Iterator[Case]:
    """Numbers of fewer digits."""
    for name in ("values", "other", "b", "grad", "guess", "kernel"):
        for digits in (1, 2):
            rows = getattr(case, name)
            short = tuple(tuple(float(f"{x:.{digits}g}") for x in row) for row in rows)
            if short != rows and repr(short) != repr(rows):
                yield replace(case, **{name: short})
    if case.level[0] is not None and case.level[0] > 1:
        yield replace(case, level=(case.level[0] - 1, case.level[1]))
