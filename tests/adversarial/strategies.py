"""Hypothesis strategies for cases: ordinary ones with a few twists each."""

from __future__ import annotations

from typing import Any

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
LAYOUTS = ("strided", "transposed", "expanded", "negative")
TYPES = ("float32", "bfloat16", "float16")


def levels() -> st.SearchStrategy[Any]:
    fixed = st.integers(1, 8)
    tolerance = st.sampled_from([1e-10, 1e-2, 1e-6, 1e-13])
    return st.one_of(
        st.tuples(st.none(), tolerance),
        st.tuples(fixed, st.none()),
        st.tuples(st.one_of(fixed, st.just(40)), tolerance),
        st.tuples(st.just(30), st.none()),
    )


@st.composite
def cases(draw: Any, ranks: tuple[int, ...] = (1,)) -> Case:
    """Cases for these numbers of ranks."""
    twists = draw(st.sets(st.sampled_from(TWISTS), max_size=4))
    pick: Any = lambda name, choices, usual: (  # noqa: E731
        draw(st.sampled_from(choices)) if name in twists else usual
    )
    n = draw(st.integers(1, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    A, mask = MATRICES[draw(st.sampled_from(sorted(MATRICES)))](generator, n)
    if "scale" in twists:
        A = scaled(generator, A, draw(st.sampled_from(SCALES)))
    kernel: tuple[tuple[float, ...], ...] = ()
    if "kernel" in twists:
        if draw(st.integers(0, 3)):
            A, z = with_kernel(generator, A)
            mask = np.ones((n, n), dtype=bool)
        else:
            z = generator.normal(size=n)
        kernel = (tuple(z.tolist()),)
    if "function" in twists and "scipy" not in twists:
        kernel = ()
    count = draw(st.integers(1, 3)) if "several" in twists else 1
    rights = 1 if "single" in twists else draw(st.integers(1, 3))
    rows, cols, values = _entries(generator, A, mask, twists)
    numbers = np.stack([values * factor for factor in [1.0, 1.5, 0.3][:count]])
    if "bad values" in twists and len(rows):
        numbers[generator.integers(count), generator.integers(len(rows))] = draw(
            st.sampled_from([np.nan, np.inf, -np.inf])
        )
    b = [_vector(draw, generator, n, "b", twists) for _ in range(count * rights)]
    grad = [_vector(draw, generator, n, "grad", twists) for _ in range(count * rights)]
    operator = "scipy" if "scipy" in twists else "function" if "function" in twists else "coo"
    if operator == "function":
        count, numbers, b, grad = 1, numbers[:1], b[:rights], grad[:rights]
    pc = draw(st.sampled_from(OTHER_PCS if "other pc" in twists else MAIN_PCS))
    if operator == "function" and "other pc" not in twists:
        pc = draw(st.sampled_from(["none", "jacobi"]))
    size = draw(st.sampled_from(ranks))
    # Errors in the values are the responsibility of the function operator.
    mistakes = MISTAKES[:2] if operator == "function" else MISTAKES
    mistakes = mistakes + MISTAKES_OF_ONE_RANK if size > 1 else mistakes
    mistake = pick("mistake", mistakes, "")
    return Case(
        ranks=size,
        n=n,
        rows=tuple(rows.tolist()),
        cols=tuple(cols.tolist()),
        holders=_holders(draw, generator, rows, n, twists),
        values=_rows(numbers),
        b=_rows(b),
        grad=_rows(grad),
        batched=not (len(b) == 1 and draw(st.booleans()) and "several" not in twists),
        several="several" in twists and operator != "function",
        operator=operator,
        symmetric="symmetric" in twists and (bool((A == A.T).all()) or draw(st.booleans())),
        kernel=kernel,
        constant="constant" in twists and not kernel and operator != "function",
        ksp=draw(st.sampled_from(OTHER_KSPS if "other ksp" in twists else MAIN_KSPS)),
        pc=pc,
        options=pick("options", OPTIONS, ()),
        level=draw(levels()),
        adjoint=draw(levels()) if "adjoint" in twists else None,
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
        culprit=draw(st.integers(0 if mistake in MISTAKES_OF_ONE_RANK else -1, 3))
        if mistake
        else -1,
    )


def _rows(vectors: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in vectors)


def _vector(draw: Any, generator: Any, n: int, name: str, twists: set[str]) -> Any:
    kind = draw(st.sampled_from(VECTORS)) if name in twists else "normal"
    if f"bad {name}" in twists:
        kind = draw(st.sampled_from(BAD_VECTORS))
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


def _holders(draw: Any, generator: Any, rows: Any, n: int, twists: set[str]) -> tuple[int, ...]:
    kind = draw(st.sampled_from(["dealt", "one", "any"])) if "holders" in twists else "by row"
    if kind == "dealt":
        return tuple(range(len(rows)))
    if kind == "one":
        return (draw(st.integers(0, 3)),) * len(rows)
    if kind == "any":
        return tuple(generator.integers(4, size=len(rows)).tolist())
    return tuple((int(row) * 4 // n) for row in rows)
