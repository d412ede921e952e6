"""Properties of PETSc's KSP and PC types, by their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from prdp_hpc.errors import InputError
from prdp_hpc.petsc import PETSc

Lag = int | Literal["auto"] | None

OWN_PRECONDITIONERS = ("constraint",)
"""Names of preconditioners that are not PETSc's but an operator's own."""
"""These need functions of the user."""
OWN_KSPS = ("steepest_descent",)
UNROLLED_KSPS = ("richardson", "steepest_descent", "cg", "gmres", "bcgs")
BATCHED_KSPS = {f"batched_{name}": name for name in ("cg", "gmres", "bcgs", "richardson")}
"""These solve for all right-hand sides together in torch tensors, on any device: the iterations of
PETSc's KSPs with these names.
"""
BATCHED_PCS = ("none", "jacobi", "pbjacobi", "bjacobi", "chebyshev", "constraint")
"""Preconditioners that they have."""
PRECISIONS = ("float64", "float32")
CONJUGATE_GRADIENTS = frozenset(
    {"cg", "pipecg", "pipecg2", "pipecgrr", "pipeprcg", "groppcg", "fcg", "pipefcg"}
)
"""These are for positive definite matrices."""
SYMMETRIC_KSPS = CONJUGATE_GRADIENTS | {"minres", "symmlq", "cr", "pipecr", "steepest_descent"}
"""These are only right for A = Aᵀ, so the adjoint solve may use A itself."""
SYMMETRIC_PCS = frozenset({"cholesky", "icc"})
"""These read one triangle of the matrix and assume that the other is equal."""
MIRRORED_KSPS = frozenset({"gmres", "lgmres", "pgmres"})
"""These are fast only if M⁻¹A is near the identity in norm. The transpose of a solve
preconditioned from the left, (M⁻¹A)ᵀ = AᵀM⁻ᵀ, is one preconditioned from the right; M⁻ᵀAᵀ breaks
down for badly scaled rows.
"""
HAPPY_KSPS = frozenset({"gmres", "lgmres", "pipefgmres"})
"""These read the length of a new basis vector at which they end, `-ksp_gmres_haptol`."""
ONE_APPLICATION_KSPS = frozenset({"preonly", "none"})
"""These apply the preconditioner once, at every level."""
STATIONARY_KSPS = frozenset({"richardson", "chebyshev", "steepest_descent"}) | ONE_APPLICATION_KSPS
"""These do not break down when only rounding is left."""
INVERSE_PCS = frozenset(
    {"jacobi", "pbjacobi", "vpbjacobi", "bjacobi", "asm", "gasm", "sor", "ilu", "icc", "lu"}
    | {"cholesky", "qr", "svd", "redundant", "kaczmarz", "gamg", "hmg", "eisenstat", "cp"}
    | {"telescope", "ksp", "redistribute"}
)
"""These are made from the entries of the matrix, and are divided by s if it is multiplied by s."""
SIZELESS_PCS = frozenset({"none", "jacobi", "mat", "lmvm", "python", "shell", "constraint"})
"""These compare nothing with absolute numbers."""
SHIFTING_PCS = frozenset({"gamg", "hmg"})
"""These replace small pivots of their coarsest matrix by an absolute number, without an error."""
WITHOUT_PRODUCTS = frozenset({"richardson", "chebyshev"}) | ONE_APPLICATION_KSPS
"""These compute no inner products when their number of iterations is fixed."""
PIPELINED_KSPS = frozenset(
    {"pipecg", "pipecg2", "pipecgrr", "pipecr", "pipeprcg", "pipefcg"}
    | {"pgmres", "pipefgmres", "pipegcr", "pipebcgs", "groppcg"}
)
"""Their additional recurrences amplify rounding, so that their residuals do not become much smaller
than 1e-10, and further iterations are wrong by any size. Source: Cools, Yetkin, Agullo, Giraud and
Vanroose, SIAM J. Matrix Anal. Appl. 39 (2018).
"""
STATEFUL_KSPS = frozenset({"qmrcgs", "lgmres"})
"""These start, or restart, with what the solve before left in their vectors (3.26), so that their
iterates depend on it.
"""
UNGUARDED_KSPS = PIPELINED_KSPS | {"qmrcgs", "lcd", "gcr"}
"""Without a norm to stop at, these fail when only rounding is left, on regular matrices too, or
continue with directions that are made of rounding.
"""
ORTHOGONAL_KSPS = frozenset({"gcr"})
"""Those of them whose residuals become as small as rounding allows."""
RECURRENCE_KSPS = UNGUARDED_KSPS | frozenset(
    {"bcgs", "bcgsl", "fbcgs", "fbcgsr", "ibcgs", "bicg", "cgs", "qmrcgs", "tfqmr", "tcqmr"}
    | {"pgmres", "pipecg", "pipecgrr", "pipecr", "pipeprcg", "pipefgmres"}
    | {"minres", "fgmres", "gcr", "symmlq", "lsqr", "lgmres", "lcd"}
)
"""The recursively updated residual of these may differ from that of their solution; minres treats
the end of its Krylov space as convergence, on singular matrices too, as do fgmres and gcr; symmlq,
lsqr, fgmres and lgmres compare with numbers that do not depend on the size of the matrix;
lcd divides by products that may be rounding.
"""
NORM_KSPS = frozenset({"bicg", "tfqmr", "qmrcgs"})
"""Without a norm, bicg does not update its residuals, and the other two do not weight with them, so
that K iterations are not those of the method (3.26).
"""
EARLY_KSPS = frozenset({"minres"})
"""These end a fixed number of iterations early where numbers are small in absolute terms."""
LEFT_INVALID_KSPS = frozenset({"chebyshev"})
"""If these meet NaN or infinity, they end with wrong counts of references: freeing them, or solving
again, ends the program (3.26).
"""
NATURAL_KSPS = frozenset({"minres", "symmlq"})
"""These measure `√(rᵀ M⁻¹ r)`, and their bases are orthogonal in this inner product, so that a
preconditioner that is not symmetric gives wrong iterates.
"""
NORMAL_EQUATION_KSPS = frozenset({"cgls", "cgne"})
"""These measure residuals of the normal equations."""
NORMAL_KSPS = frozenset({"lsqr"})
"""These measure `Aᵀ r`, which is 0 for a least-squares solution. As for the methods above, it may
be small in comparison with `Aᵀ b` where r is not.
"""
RELATIVE_KSPS = frozenset({"richardson", "lsqr", "cgls"})
"""These may compare an absolute tolerance with another quantity than their residual norm."""
NATURAL_NORM_KSPS = frozenset({"cg", "groppcg"})
"""The natural norm needs no additional reduction in these."""
UNPROJECTED_PCS = frozenset({"hmg"})
"""These factor their coarsest matrix, which is singular if the matrix is, with pivots that consist
of rounding: their results have no digit right (3.26).
"""
DIAGONAL_PCS = frozenset({"sor", "gamg", "hmg", "eisenstat"})
"""These fail on a rank that has a row with a zero, or no entry, on its diagonal."""
SOR_PCS = frozenset({"sor", "eisenstat"})
"""These read a neighbouring entry where a diagonal entry is not stored."""
DIRECT_PCS = frozenset({"lu", "cholesky", "qr", "svd", "redundant"})
"""One application of these is intended to be the solution."""
BLOCK_PCS = frozenset({"bjacobi", "asm", "gasm"})
"""The solvers inside of these keep the error of a factorisation for all later values (3.26)."""
FACTORING_PCS = DIRECT_PCS | BLOCK_PCS | {"ilu", "icc"}
"""These, or their sub-solvers, fail for an empty row."""
_UNFIT_KSPS = {
    **dict.fromkeys(
        ("qcg", "nash", "stcg", "gltr"),
        "it minimises a quadratic model in a trust region instead of solving A x = b: use ksp='cg'",
    ),
    "dgmres": "it deflates with vectors of earlier solves, so that the same input gives another "
    "result: use ksp='lgmres', or 'gmres' with a larger ksp_gmres_restart",
    "pipelcg": "it needs bounds of the eigenvalues to converge: use ksp='pipecg'",
    "fetidp": "it needs a matrix given by subdomains: use another ksp",
    "python": "its iteration is user code, which a Solver does not support: use another ksp",
}
_UNFIT_PCS = {
    "deflation": "it keeps the data of the first values for all later ones: use pc='gamg'",
    "mpi": "it needs PETSc's server processes for linear solvers: use another pc",
}
NO_TRANSPOSE_KSPS = frozenset({"cgls", "lsqr", "ibcgs"})
TRANSFORMING_PCS = frozenset({"eisenstat"})
"""With these a KSP solves, and measures the residual of, a transformed system. Applied outside of a
KSP, they use data that only its solves make, which ends the program (3.26).
"""
SYMMETRIC_OR_WHOLE_PCS = (
    frozenset({"none", "jacobi", "pbjacobi", "vpbjacobi", "lu", "qr", "svd", "redundant"})
    | SYMMETRIC_PCS
    | TRANSFORMING_PCS
)
"""These are symmetric for every symmetric matrix, or are not applied alone."""
NO_TRANSPOSE_PCS = frozenset({"hmg", "eisenstat", "cp"})
"""With these, PETSc solves with the transpose without an error, but the numbers are wrong or the
program ends.
"""
PETSC_ERR_UNKNOWN_TYPE = 86


def known_type(what: str, name: Any, types: type) -> str:
    """Return `name` if this PETSc has a KSP or PC of this name.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest names; for a type that this PETSc was built without,
        with advice.
    """
    known = {str(value) for key, value in vars(types).items() if key.isupper()}
    if name in known:
        if not _is_built(what, str(name)):
            raise InputError(
                f"this PETSc was built without {what}={name!r}: choose another, or build PETSc "
                f"with it (PETSc's configure has options such as --download-{name})"
            )
        return str(name)
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(sorted(known))}"
    )
    raise InputError(f"PETSc has no {what} named {name!r}: {hint}")


@cache
def _is_built(what: str, name: str) -> bool:
    made = (PETSc.KSP() if what == "ksp" else PETSc.PC()).create(comm=PETSc.COMM_SELF)
    try:
        made.setType(name)
    except PETSc.Error as error:
        return bool(error.ierr != PETSC_ERR_UNKNOWN_TYPE)
    return True


def checked_ksp(name: Any) -> str:
    """Return `name` if it is a KSP that a `Solver` can use, else raise an InputError."""
    _check_fit("ksp", name)
    if name in BATCHED_KSPS:
        return str(name)
    return name if name in OWN_KSPS else known_type("ksp", name, PETSc.KSP.Type)


def checked_pc(name: Any) -> str:
    """Return `name` if it is a PC that a `Solver` can use, else raise an InputError."""
    _check_fit("pc", name)
    if name == "chebyshev":
        return str(name)
    return name if name in OWN_PRECONDITIONERS else known_type("pc", name, PETSc.PC.Type)


def check_batched(ksp: str, pc: str, precision: str, differentiation: str) -> None:
    """Raise ValueError for what a batched method does not have, or what only one has."""
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if ksp not in BATCHED_KSPS:
        if pc == "chebyshev":
            raise InputError(
                f"pc={pc!r} is for the batched methods ({', '.join(BATCHED_KSPS)}): with PETSc's "
                f"ksp={ksp!r} use pc='ksp' and petsc_options={{'ksp_ksp_type': 'chebyshev'}}"
            )
        if precision != "float64":
            raise InputError(
                f"precision={precision!r} is for the batched methods ({', '.join(BATCHED_KSPS)}); "
                f"PETSc's ksp={ksp!r} computes in double precision"
            )
        return
    if differentiation != "implicit":
        raise InputError(
            f"ksp={ksp!r} is differentiated implicitly: use ksp={BATCHED_KSPS[ksp]!r} with "
            f"differentiation={differentiation!r}"
        )
    if pc not in BATCHED_PCS:
        raise InputError(
            f"ksp={ksp!r} has the preconditioners {', '.join(BATCHED_PCS)}, not {pc!r}: use one of "
            f"them, or PETSc's ksp={BATCHED_KSPS[ksp]!r}"
        )


def unfit(what: str, name: str) -> str | None:
    """The reason why a KSP or PC cannot be used in a `Solver`, or None."""
    return (_UNFIT_KSPS if what == "ksp" else _UNFIT_PCS).get(name)


def _check_fit(what: str, name: Any) -> None:
    if not isinstance(name, str):
        raise InputError(f"{what} must be the name of one of PETSc's types, not {name!r}")
    why = unfit(what, name)
    if what == "pc" and name == "shell":
        why = "it needs functions: use Solver(pc=ShellPreconditioner(apply, apply_transpose))"
    if why is not None:
        raise InputError(f"{what}={name!r} cannot be used in a Solver: {why}")


def check_symmetric(ksp: str, pc: str, options: Iterable[str]) -> None:
    """Raise InputError for a preconditioner that is not symmetric with a method that needs one."""
    if ksp not in SYMMETRIC_KSPS or pc != "kaczmarz":
        return
    if not any(name.lstrip("-") == "pc_kaczmarz_symmetric" for name in options):
        raise InputError(
            f"ksp={ksp!r} needs a symmetric preconditioner, and pc='kaczmarz' is not symmetric: "
            "pass petsc_options={'pc_kaczmarz_symmetric': True}, or use ksp='gmres'"
        )


def check_unrolled(ksp: str, pc: str) -> None:
    """Raise InputError for a method that cannot be differentiated by unrolling."""
    if ksp not in UNROLLED_KSPS:
        raise InputError(
            f"differentiation='unrolled' supports ksp={', '.join(UNROLLED_KSPS)}, "
            f"not {ksp!r}: "
            "choose one of them, or differentiation='implicit'"
        )
    if pc in TRANSFORMING_PCS:
        raise InputError(
            f"differentiation='unrolled' applies the preconditioner alone, and pc={pc!r} works "
            "only inside of PETSc's solves: choose another, e.g. 'sor', or use "
            "differentiation='implicit'"
        )
    if pc == "ksp":
        raise InputError(
            "differentiation='unrolled' needs a linear preconditioner, and pc='ksp' is an "
            "iteration itself: choose another, "
            "or differentiation='implicit'"
        )


def checked_lag(lag: Any) -> Lag:
    """Return `lag` if it is valid, else raise an InputError."""
    if lag is None or (isinstance(lag, str) and lag == "auto"):
        return lag  # type: ignore[return-value]
    if isinstance(lag, int) and not isinstance(lag, bool) and lag >= 1:
        return lag
    raise InputError(
        "lag_preconditioner is None (set up for all new values), 'auto', or an integer n of at "
        f"least 1 (set up for every n-th new values), not {lag!r}"
    )


def check_lag(lag: Lag, ksp: str, differentiation: str) -> None:
    """Raise an InputError where an old preconditioner would change the solution."""
    if lag in (None, 1):
        return
    if ksp in ONE_APPLICATION_KSPS:
        raise InputError(
            f"lag_preconditioner={lag!r} with ksp={ksp!r}: an application of a preconditioner of "
            "earlier values is not the solution; use ksp='gmres', 'cg' or 'richardson' with the "
            "same pc"
        )
    if ksp in BATCHED_KSPS:
        raise InputError(
            f"lag_preconditioner={lag!r} with ksp={ksp!r}: the set-up of its preconditioners is a "
            "small part of a solve, so there is no lag for it: leave lag_preconditioner out"
        )
    if differentiation == "unrolled":
        raise InputError(
            f"lag_preconditioner={lag!r} with differentiation='unrolled': the derivative includes "
            "the set-up for the values of the solve; use differentiation='implicit'"
        )
