"""Cases from a source of choices: ordinary ones with a few twists each.

A source is hypothesis, which shrinks, or a NumPy generator, which is ten times faster; both choose
from the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st

from .cases import MISTAKES, MISTAKES_OF_ONE_RANK, Case
from .matrices import BAD_VECTORS, MATRICES, SCALES, VECTORS, scaled, vector, with_kernel
from .perform import FLOWS

MAIN_KSPS = ("gmres", "cg", "bcgs", "richardson", "minres", "preonly", "steepest_descent")
OTHER_KSPS = (
    *("bicg", "bcgsl", "cgs", "cr", "cgne", "cgls", "chebyshev", "dgmres", "fbcgs", "fbcgsr"),
    *("fcg", "fgmres", "gcr", "gltr", "groppcg", "ibcgs", "lcd", "lgmres", "lsqr", "nash"),
    *("pgmres", "pipebcgs", "pipecg", "pipecg2", "pipecgrr", "pipecr", "pipefcg", "pipefgmres"),
    *("pipegcr", "pipelcg", "pipeprcg", "qcg", "qmrcgs", "stcg", "symmlq", "tcqmr", "tfqmr"),
    *("tsirm", "hpddm", "fetidp", "python", "none"),
)
MAIN_PCS = ("none", "jacobi", "bjacobi", "ilu", "lu", "sor", "asm", "gamg", "cholesky", "icc")
OTHER_PCS = (
    *("redundant", "eisenstat", "mg", "ksp", "pbjacobi", "vpbjacobi", "kaczmarz", "svd"),
    *("telescope", "hmg", "bddc", "fieldsplit", "composite", "shell", "mat", "cp", "hypre"),
    *("tfs", "exotic", "patch", "lmvm", "deflation", "python", "spai", "galerkin", "nn", "lsc"),
    *("redistribute", "gasm", "qr", "mpi", "h2opus", "hpddm", "constraint"),
)
OPTIONS = (
    (("ksp_gmres_restart", 2),),
    (("ksp_richardson_scale", 0.5),),
    (("pc_jacobi_type", "rowmax"),),
    (("pc_jacobi_abs", ""),),
    (("pc_factor_levels", 1),),
    (("pc_factor_shift_type", "nonzero"),),
    (("pc_sor_forward", ""),),
    (("pc_sor_omega", 0.7),),
    (("sub_pc_type", "lu"),),
    (("pc_asm_type", "basic"),),
    (("ksp_pc_side", "right"),),
    (("ksp_norm_type", "unpreconditioned"),),
    (("no_such_option", 1),),
)
TWISTS = (
    "other ksp",
    "other pc",
    "options",
    "adjoint",
    "unrolled",
    "symmetric",
    "kernel",
    "constant",
    "several",
    "scale",
    "bad values",
    "b",
    "grad",
    "bad b",
    "bad grad",
    "values type",
    "b type",
    "values layout",
    "b layout",
    "grad layout",
    "needs",
    "flow",
    "mistake",
    "scipy",
    "function",
    "duplicates",
    "explicit zeros",
    "holders",
    "single",
)
TOLERANCES = (1e-10, 1e-2, 1e-6, 1e-13)
LAYOUTS = ("strided", "transposed", "expanded", "negative")
TYPES = ("float32", "bfloat16", "float16")


class Choices(Protocol):
    """A source of choices."""

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""

    def one_of(self, options: Sequence[Any]) -> Any:
        """One of some options."""

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        """At most so many of some options."""


class Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def one_of(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        chosen: set[Any] = self._draw(st.sets(st.sampled_from(options), max_size=most))
        return chosen


class Seeded:
    """Choices of a NumPy generator."""

    def __init__(self, *seeds: int) -> None:
        self._generator = np.random.default_rng(seeds)

    def integer(self, low: int, high: int) -> int:
        return int(self._generator.integers(low, high + 1))

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def subset(self, options: Sequence[Any], most: int) -> set[Any]:
        chosen = self._generator.permutation(len(options))[: self.integer(0, most)]
        return {options[k] for k in chosen}


@st.composite
def cases(draw: Any, ranks: tuple[int, ...] = (1,)) -> Case:
    """Cases for these numbers of ranks."""
    return made(Drawn(draw), ranks)


def seeded_cases(seed: int, count: int, ranks: tuple[int, ...] = (1,)) -> Iterator[Case]:
    """So many cases of a seed."""
    return (made(Seeded(seed, number), ranks) for number in range(count))


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
    twists = choices.subset(TWISTS, 4)
    pick: Any = lambda name, options, usual: (  # noqa: E731
        choices.one_of(options) if name in twists else usual
    )
    n = choices.integer(1, 8)
    generator = np.random.default_rng(choices.integer(0, 2**31))
    A, mask = MATRICES[choices.one_of(sorted(MATRICES))](generator, n)
    if "scale" in twists:
        A = scaled(generator, A, choices.one_of(SCALES))
    kernel: tuple[tuple[float, ...], ...] = ()
    if "kernel" in twists:
        if choices.integer(0, 3):
            A, z = with_kernel(generator, A)
            mask = np.ones((n, n), dtype=bool)
        else:
            z = generator.normal(size=n)
        kernel = (tuple(z.tolist()),)
    if "function" in twists and "scipy" not in twists:
        kernel = ()
    count = choices.integer(1, 3) if "several" in twists else 1
    rights = 1 if "single" in twists else choices.integer(1, 3)
    rows, cols, values = _entries(generator, A, mask, twists)
    numbers = np.stack([values * factor for factor in [1.0, 1.5, 0.3][:count]])
    if "bad values" in twists and len(rows):
        numbers[generator.integers(count), generator.integers(len(rows))] = choices.one_of(
            [np.nan, np.inf, -np.inf]
        )
    b = [_vector(choices, generator, n, "b", twists) for _ in range(count * rights)]
    grad = [_vector(choices, generator, n, "grad", twists) for _ in range(count * rights)]
    operator = "scipy" if "scipy" in twists else "function" if "function" in twists else "coo"
    if operator == "function":
        count, numbers, b, grad = 1, numbers[:1], b[:rights], grad[:rights]
    pc = choices.one_of(OTHER_PCS if "other pc" in twists else MAIN_PCS)
    if operator == "function" and "other pc" not in twists:
        pc = choices.one_of(["none", "jacobi"])
    size = choices.one_of(ranks)
    # Errors in the values are the responsibility of the function operator.
    mistakes = MISTAKES[:2] if operator == "function" else MISTAKES
    mistakes = mistakes + MISTAKES_OF_ONE_RANK if size > 1 else mistakes
    mistake = pick("mistake", mistakes, "")
    return Case(
        ranks=size,
        n=n,
        rows=tuple(rows.tolist()),
        cols=tuple(cols.tolist()),
        holders=_holders(choices, generator, rows, n, twists),
        values=_rows(numbers),
        b=_rows(b),
        grad=_rows(grad),
        batched=not (len(b) == 1 and choices.integer(0, 1) == 1 and "several" not in twists),
        several="several" in twists and operator != "function",
        operator=operator,
        symmetric="symmetric" in twists and (bool((A == A.T).all()) or choices.integer(0, 1) == 1),
        kernel=kernel,
        constant="constant" in twists and not kernel and operator != "function",
        ksp=choices.one_of(OTHER_KSPS if "other ksp" in twists else MAIN_KSPS),
        pc=pc,
        options=pick("options", OPTIONS, ()),
        level=level(choices),
        adjoint=level(choices) if "adjoint" in twists else None,
        differentiation="unrolled" if "unrolled" in twists else "implicit",
        needs=pick("needs", [("b",), ("values",), ()], ("values", "b")),
        values_type=pick("values type", TYPES[:2], "float64"),
        b_type=pick("b type", TYPES[:2], "float64"),
        values_layout=pick("values layout", LAYOUTS, "plain"),
        b_layout=pick("b layout", LAYOUTS, "plain"),
        grad_layout=pick("grad layout", LAYOUTS, "plain"),
        flow=pick("flow", FLOWS, "plain"),
        other=_rows([numbers[0] * 3.0 + (rows == cols)]),
        mistake=mistake,
        culprit=choices.integer(0 if mistake in MISTAKES_OF_ONE_RANK else -1, 3) if mistake else -1,
    )


def _rows(vectors: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in vectors)


def _vector(choices: Choices, generator: Any, n: int, name: str, twists: set[str]) -> Any:
    kind = choices.one_of(VECTORS) if name in twists else "normal"
    if f"bad {name}" in twists:
        kind = choices.one_of(BAD_VECTORS)
    return vector(generator, n, kind)


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


def _holders(
    choices: Choices, generator: Any, rows: Any, n: int, twists: set[str]
) -> tuple[int, ...]:
    kind = choices.one_of(["dealt", "one", "any"]) if "holders" in twists else "by row"
    if kind == "dealt":
        return tuple(range(len(rows)))
    if kind == "one":
        return (choices.integer(0, 3),) * len(rows)
    if kind == "any":
        return tuple(generator.integers(4, size=len(rows)).tolist())
    return tuple((int(row) * 4 // n) for row in rows)
