"""Methods of solution: any combination of names, or one that suits the matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

from .choices import Choices

MAIN_KSPS = ("gmres", "cg", "bcgs", "richardson", "minres", "preonly", "steepest_descent")
OTHER_KSPS = (
    *("bicg", "bcgsl", "cgs", "cr", "cgne", "cgls", "chebyshev", "fbcgs", "fbcgsr"),
    *("fcg", "fgmres", "gcr", "gltr", "groppcg", "ibcgs", "lcd", "lgmres", "lsqr", "nash"),
    *("pgmres", "pipebcgs", "pipecg", "pipecg2", "pipecgrr", "pipecr", "pipefcg", "pipefgmres"),
    *("pipegcr", "pipelcg", "pipeprcg", "qcg", "qmrcgs", "stcg", "symmlq", "tcqmr", "tfqmr"),
    *("tsirm", "hpddm", "fetidp", "python", "none"),
    *("batched_cg", "batched_gmres", "batched_bcgs", "batched_richardson"),
)
MAIN_PCS = ("none", "jacobi", "bjacobi", "ilu", "lu", "sor", "asm", "gamg", "cholesky", "icc")
OTHER_PCS = (
    *("redundant", "eisenstat", "mg", "ksp", "pbjacobi", "vpbjacobi", "kaczmarz", "svd"),
    *("telescope", "hmg", "bddc", "fieldsplit", "composite", "shell", "mat", "cp", "hypre"),
    *("tfs", "exotic", "patch", "lmvm", "deflation", "python", "spai", "galerkin", "nn", "lsc"),
    *("redistribute", "gasm", "qr", "mpi", "h2opus", "hpddm", "constraint", "chebyshev"),
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

_SYMMETRIC = (
    *("cg", "fcg", "pipecg", "pipecgrr", "pipeprcg", "groppcg", "pipefcg", "pipecg2"),
    *("minres", "symmlq", "cr", "pipecr", "steepest_descent", "batched_cg"),
)
_LONG = (
    *("gmres", "fgmres", "lgmres", "pgmres", "pipefgmres", "gcr", "pipegcr", "lcd"),
    "batched_gmres",
)
_SHORT = (
    *("bcgs", "bcgsl", "fbcgs", "fbcgsr", "ibcgs", "bicg", "cgs", "qmrcgs", "tfqmr", "tcqmr"),
    *("pipebcgs", "batched_bcgs"),
)
_NORMAL = ("lsqr", "cgne", "cgls")
_STATIONARY = ("richardson", "batched_richardson")
KSPS = {
    "positive": (*_SYMMETRIC, *_LONG, *_SHORT, *_STATIONARY, "chebyshev", "preonly"),
    "indefinite": ("minres", "symmlq", *_LONG, "preonly"),
    "dominant": (*_LONG, *_SHORT, *_STATIONARY, *_NORMAL, "preonly"),
    "regular": (*_LONG, *_NORMAL, "preonly"),
}
"""Those that converge, by the kind of the matrix."""
MAIN = {
    "positive": ("cg", "cg", "minres", "steepest_descent", "gmres", "bcgs", "richardson"),
    "indefinite": ("minres", "gmres"),
    "dominant": ("gmres", "bcgs", "richardson"),
    "regular": ("gmres",),
}
UNROLLED = ("richardson", "steepest_descent", "cg", "gmres", "bcgs")
WITHOUT_TRANSPOSE = ("cgls", "lsqr", "ibcgs")
WITH_TOLERANCE = ("bcgsl", "tsirm", "lsqr", "cgls", "cgne")
"""PETSc cannot fix their number of iterations, or does not for normal equations."""

DIFFERENTIATED = ("none", "jacobi", "lu", "cholesky")

_LOCAL = ("jacobi", "bjacobi", "asm", "pbjacobi", "vpbjacobi")
_SERIAL = {
    "positive": ("icc", "cholesky", "lu", "sor", "gasm", "svd"),
    "indefinite": ("svd",),
    "dominant": ("ilu", "lu", "gasm", "svd"),
    "regular": ("svd",),
}
_DIRECT = ("lu", "redundant")
_FITTING_OPTIONS = {
    "gmres": ((("ksp_gmres_restart", 2),), (("ksp_pc_side", "right"),)),
    "bcgs": ((("ksp_pc_side", "right"),),),
    "richardson": ((("ksp_richardson_scale", 0.5),),),
    "batched_gmres": ((("ksp_gmres_restart", 2),), (("ksp_pc_side", "right"),)),
    "jacobi": ((("pc_jacobi_type", "rowmax"),), (("pc_jacobi_abs", ""),)),
    "ilu": ((("pc_factor_levels", 1),),),
    "sor": ((("pc_sor_omega", 0.7),),),
    "bjacobi": ((("sub_pc_type", "lu"),),),
    "asm": ((("pc_asm_type", "basic"),), (("sub_pc_type", "lu"),)),
}


class Matrix(NamedTuple):
    """What a method depends on: kind (see `KSPS`), size, the ranks that share it, whether it has a
    nullspace, and the type of its operator.
    """

    kind: str
    n: int
    ranks: int
    is_singular: bool
    operator: str


def suited(choices: Choices, matrix: Matrix, is_unrolled: bool, with_options: bool) -> Any:
    """KSP, PC and options with which a solve converges."""
    names = MAIN[matrix.kind] if choices.integer(0, 2) == 0 else KSPS[matrix.kind]
    if is_unrolled:
        names = tuple(name for name in KSPS[matrix.kind] if name in UNROLLED)
    if matrix.operator == "function" or matrix.is_singular:
        names = tuple(
            name for name in names if not name.startswith("batched") and name != "preonly"
        )
    ksp = choices.one_of(names or ("gmres",))
    possible = _preconditioners(matrix, ksp)
    if is_unrolled and choices.integer(0, 3):
        # The others have no derivatives by the values.
        possible = tuple(name for name in possible if name in DIFFERENTIATED) or possible
    pc = choices.one_of(possible)
    options = _options(choices, ksp, pc) if with_options else ()
    return ksp, pc, options


def _preconditioners(matrix: Matrix, ksp: str) -> tuple[str, ...]:
    is_positive, is_few = matrix.kind == "positive", matrix.operator == "function"
    divides = matrix.kind in ("positive", "dominant")
    if ksp.startswith("batched"):
        return ("jacobi", "pbjacobi", "none") if divides else ("none",)
    if ksp == "preonly":
        serial = ("svd", "cholesky") if is_positive else ("svd",)
        return serial if not divides else _DIRECT if matrix.ranks > 1 else (*_DIRECT, *serial)
    if ksp in ("richardson", "chebyshev"):
        if is_few or matrix.is_singular:
            return ("jacobi",)
        return ("jacobi", "bjacobi", "asm", "sor", "gamg") if is_positive else ("jacobi", "bjacobi")
    if is_few or matrix.is_singular:
        return ("none", "jacobi") if divides else ("none",)
    if ksp in ("minres", "symmlq") and not is_positive:
        return ("none",)
    local = (*_LOCAL, "redundant") if divides else ("redundant",)
    serial = () if matrix.ranks > 1 else _SERIAL[matrix.kind]
    multigrid = ("gamg",) if is_positive else ()
    return ("none", *local, *serial, *multigrid)


def _options(choices: Choices, ksp: str, pc: str) -> Any:
    fitting = (*_FITTING_OPTIONS.get(ksp, ()), *_FITTING_OPTIONS.get(pc, ()))
    return choices.one_of(fitting) if fitting else ()
