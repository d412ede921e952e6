"""Cases from a source of choices: three of four have a method that suits the matrix, the others
any. Both have a few twists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import methods
from .cases import MISTAKES, MISTAKES_OF_ONE_RANK, Case
from .choices import Choices, Drawn, Seeded
from .matrices import (
    BAD_VECTORS,
    MATRICES,
    REGULAR,
    SCALES,
    UNIFORM_SCALES,
    VECTORS,
    graph,
    scaled,
    vector,
    with_kernel,
)
from .perform import FLOWS

HARMLESS = (
    *("options", "adjoint", "unrolled", "symmetric", "kernel", "constant", "several", "scale"),
    *("b", "grad", "values type", "b type", "values layout", "b layout", "grad layout", "needs"),
    *("flow", "scipy", "function", "duplicates", "explicit zeros", "holders", "single", "guess"),
)
"""With these a solve with a method that suits the matrix gives a number."""
TWISTS = (
    *HARMLESS,
    *("other ksp", "other pc", "bad values", "bad b", "bad grad", "mistake"),
)
TOLERANCES = (1e-10, 1e-2, 1e-6, 1e-13)
MOST, FEW = 40, 12
"""Numbers of unrolled iterations."""
MOST_OF_FUNCTIONS = 300
"""Iterations to a tolerance, each of which calls Python and autograd."""
LAYOUTS = ("strided", "transposed", "expanded", "negative")
TYPES = ("float32", "bfloat16", "float16")
GUESSES = ("normal", "zero", "small", "hundred", "ones")
WILD_GUESSES = (*GUESSES, "tiniest", "large", "huge", "nan", "inf")


@st.composite
def cases(draw: Any, ranks: tuple[int, ...] = (1,)) -> Case:
    """Cases for these numbers of ranks."""
    return made(Drawn(draw), ranks)


def seeded_cases(seed: int, count: int, ranks: tuple[int, ...] = (1,)) -> Iterator[Case]:
    """So many cases of a seed."""
    return (made(Seeded(seed, number), ranks) for number in range(count))


@dataclass
class Draft:
    """What a case is made from: its choices, twists, and numbers."""

    choices: Choices
    twists: set[str]
    generator: np.random.Generator
    ranks: int
    is_suited: bool

    def pick(self, name: str, options: Any, usual: Any) -> Any:
        """One of some options if the twist of this name was chosen."""
        return self.choices.one_of(options) if name in self.twists else usual

    @property
    def operator(self) -> str:
        if "scipy" in self.twists:
            return "scipy"
        return "function" if "function" in self.twists else "coo"


def level(choices: Choices) -> Any:
    """A level: a tolerance, a number of iterations, or both."""
    kind = choices.integer(0, 3)
    tolerance = choices.one_of(TOLERANCES) if kind in (0, 2) else None
    if kind == 0:
        return None, tolerance
    if kind == 3:
        return 30, None
    steps = choices.integer(1, 8 if kind == 1 else 9)
    return (40 if steps == 9 else steps), tolerance


def made(choices: Choices, ranks: tuple[int, ...] = (1,)) -> Case:
    """A case for one of these numbers of ranks."""
    is_suited = choices.integer(0, 3) > 0
    twists = choices.subset(HARMLESS if is_suited else TWISTS, 4)
    generator = np.random.default_rng(choices.integer(0, 2**31))
    draft = Draft(choices, twists, generator, choices.one_of(ranks), is_suited)
    A, mask, kind, kernel = (_regular if is_suited else _any)(draft)
    n = len(A)
    numbers = _numbers(draft, A, mask)
    fields: dict[str, Any] = {
        "ranks": draft.ranks,
        "n": n,
        "operator": draft.operator,
        "symmetric": _says_symmetric(draft, A),
        **numbers,
        **_layouts(draft),
        **_mistake(draft),
    }
    if draft.operator == "function":
        kernel = ()
    fields |= {"kernel": kernel, "constant": kind == "constant"}
    if kind == "constant" and is_suited:
        kind = "positive"
    fields |= _method(draft, kind, n, bool(kernel) or fields["constant"])
    if "unrolled" not in twists and is_suited and fields["ksp"] in methods.WITHOUT_TRANSPOSE:
        fields["needs"] = ("values", "b") if fields["symmetric"] else ()
    return Case(**fields)


def _regular(draft: Draft) -> Any:
    """A matrix that has a solution, or a promised nullspace; its mask, kind and nullspace."""
    choices, twists, generator = draft.choices, draft.twists, draft.generator
    n = choices.integer(1, 12)
    kind = choices.one_of(sorted(REGULAR))
    if "constant" in twists and "function" not in twists and n > 1:
        return *graph(generator, n), "constant", ()
    if "kernel" in twists and "function" not in twists and n > 1:
        kind = "positive" if kind == "positive" else "dominant"
        A, _ = MATRICES[choices.one_of(REGULAR[kind])](generator, n)
        A, z = with_kernel(generator, A)
        return A, np.ones((n, n), dtype=bool), kind, (tuple(z.tolist()),)
    A, mask = MATRICES[choices.one_of(REGULAR[kind])](generator, n)
    if "scale" in twists:
        A = scaled(generator, A, choices.one_of(UNIFORM_SCALES))
    return A, mask, kind, ()


def _any(draft: Draft) -> Any:
    choices, twists, generator = draft.choices, draft.twists, draft.generator
    n = choices.integer(1, 8)
    A, mask = MATRICES[choices.one_of(sorted(MATRICES))](generator, n)
    if "scale" in twists:
        A = scaled(generator, A, choices.one_of(SCALES))
    if "kernel" in twists:
        z = generator.normal(size=n)
        if choices.integer(0, 3):
            A, z = with_kernel(generator, A)
            mask = np.ones((n, n), dtype=bool)
        return A, mask, "", (tuple(z.tolist()),)
    is_constant = "constant" in twists and draft.operator != "function"
    return A, mask, "constant" if is_constant else "", ()


def _says_symmetric(draft: Draft, A: Any) -> bool:
    if "symmetric" not in draft.twists:
        return False
    is_believed = not draft.is_suited and draft.choices.integer(0, 1) == 1
    return bool((A == A.T).all()) or is_believed


def _method(draft: Draft, kind: str, n: int, is_singular: bool) -> dict[str, Any]:
    """KSP, PC, options and levels."""
    choices, twists = draft.choices, draft.twists
    is_unrolled = "unrolled" in twists
    own, adjoint = level(choices), level(choices) if "adjoint" in twists else None
    if draft.is_suited:
        matrix = methods.Matrix(kind, n, draft.ranks, is_singular, draft.operator)
        ksp, pc, options = methods.suited(choices, matrix, is_unrolled, "options" in twists)
        if ksp == "preonly":
            own, adjoint = (None, 1e-6), None
        if ksp in methods.WITH_TOLERANCE:
            own, adjoint = (None, 1e-10), None
    else:
        others = methods.OTHER_KSPS if "other ksp" in twists else methods.MAIN_KSPS
        pcs = methods.OTHER_PCS if "other pc" in twists else methods.MAIN_PCS
        if draft.operator == "function" and "other pc" not in twists:
            pcs = ("none", "jacobi")
        ksp, pc = choices.one_of(others), choices.one_of(pcs)
        options = draft.pick("options", methods.OPTIONS, ())
    if is_unrolled:
        own = _short(choices, own, is_sure=draft.is_suited and not options)
    if draft.operator == "function":
        own, adjoint = _bounded(own), _bounded(adjoint)
    return {
        "ksp": ksp,
        "pc": pc,
        "options": options,
        "level": own,
        "adjoint": adjoint,
        "differentiation": "unrolled" if is_unrolled else "implicit",
    }


def _short(choices: Choices, own: Any, is_sure: bool) -> Any:
    """A level for unrolled iterations, which take most of the time of a search: one in eight has as
    many as it was drawn with. `is_sure`: whether they converge; ten thousand iterations of a method
    that does not take minutes.
    """
    is_long = choices.integer(0, 7) == 0
    if own[0] is None:
        return own if is_long and is_sure else (MOST, own[1])
    return own if is_long else (min(own[0], FEW), own[1])


def _bounded(level: Any) -> Any:
    return level if level is None or level[0] is not None else (MOST_OF_FUNCTIONS, level[1])


def _numbers(draft: Draft, A: Any, mask: Any) -> dict[str, Any]:
    """Pattern, values, right-hand sides, gradients and guesses."""
    choices, twists, generator, n = draft.choices, draft.twists, draft.generator, len(A)
    is_several = "several" in twists and draft.operator != "function"
    count = choices.integer(1, 3) if is_several else 1
    rights = 1 if "single" in twists else choices.integer(1, 3)
    rows, cols, values = _entries(generator, A, mask, twists)
    numbers = np.stack([values * factor for factor in [1.0, 1.5, 0.3][:count]])
    if "bad values" in twists and len(rows):
        numbers[generator.integers(count), generator.integers(len(rows))] = choices.one_of(
            [np.nan, np.inf, -np.inf]
        )
    b = [_vector(draft, n, "b") for _ in range(count * rights)]
    guess = []
    if "guess" in twists:
        kinds = GUESSES if draft.is_suited else WILD_GUESSES
        guess = [vector(generator, n, choices.one_of(kinds)) for _ in b]
    return {
        "rows": tuple(rows.tolist()),
        "cols": tuple(cols.tolist()),
        "holders": _holders(draft, rows, n),
        "values": _rows(numbers),
        "b": _rows(b),
        "grad": _rows([_vector(draft, n, "grad") for _ in b]),
        "guess": _rows(guess),
        "batched": len(b) > 1 or is_several or choices.integer(0, 1) == 0,
        "several": is_several,
        "other": _rows([numbers[0] * 3.0 + (rows == cols)]),
    }


def _layouts(draft: Draft) -> dict[str, Any]:
    pick = draft.pick
    return {
        "needs": pick("needs", [("b",), ("values",), ()], ("values", "b")),
        "values_type": pick("values type", TYPES, "float64"),
        "b_type": pick("b type", TYPES, "float64"),
        "values_layout": pick("values layout", LAYOUTS, "plain"),
        "b_layout": pick("b layout", LAYOUTS, "plain"),
        "grad_layout": pick("grad layout", LAYOUTS, "plain"),
        "flow": pick("flow", FLOWS, "plain"),
    }


def _mistake(draft: Draft) -> dict[str, Any]:
    if "mistake" not in draft.twists:
        return {}
    # Errors in the values are the responsibility of the function operator.
    possible = MISTAKES[:2] if draft.operator == "function" else MISTAKES
    mistake = draft.choices.one_of(possible + MISTAKES_OF_ONE_RANK if draft.ranks > 1 else possible)
    lowest = 0 if mistake in MISTAKES_OF_ONE_RANK else -1
    return {"mistake": mistake, "culprit": draft.choices.integer(lowest, 3)}


def _rows(vectors: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in vectors)


def _vector(draft: Draft, n: int, name: str) -> Any:
    kind = draft.pick(name, VECTORS, "normal")
    if f"bad {name}" in draft.twists:
        kind = draft.choices.one_of(BAD_VECTORS)
    return vector(draft.generator, n, kind)


def _entries(generator: Any, A: Any, mask: Any, twists: set[str]) -> tuple[Any, Any, Any]:
    if "explicit zeros" in twists:
        mask = mask | (generator.random(mask.shape) < 0.3)
    rows, cols = np.nonzero(mask)
    values = A[rows, cols]
    if "scipy" in twists:
        return rows, cols, values
    if "duplicates" in twists and len(rows):
        again = generator.integers(len(rows), size=generator.integers(1, 4))
        # Powers of two, so that the parts add up to the whole exactly.
        rows, cols = np.append(rows, rows[again]), np.append(cols, cols[again])
        for entry in again:
            values = np.append(values, values[entry] * 0.5)
            values[entry] *= 0.5
    order = generator.permutation(len(rows))
    return rows[order], cols[order], values[order]


def _holders(draft: Draft, rows: Any, n: int) -> tuple[int, ...]:
    kind = draft.pick("holders", ["dealt", "one", "any"], "by row")
    if kind == "dealt":
        return tuple(range(len(rows)))
    if kind == "one":
        return (draft.choices.integer(0, 3),) * len(rows)
    if kind == "any":
        return tuple(draft.generator.integers(4, size=len(rows)).tolist())
    return tuple((int(row) * 4 // n) for row in rows)
