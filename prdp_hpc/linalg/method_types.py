"""What is known of PETSc's KSP and PC types by their names."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.petsc import PETSc

OWN_PRECONDITIONERS = ("constraint",)
"""Names of preconditioners that PETSc does not have, and an operator may bring along."""
"""These are nothing without functions of the user's."""
OWN_KSPS = ("steepest_descent",)
UNROLLED_KSPS = ("richardson", "steepest_descent", "cg", "gmres", "bcgs")
CONJUGATE_GRADIENTS = frozenset(
    {"cg", "pipecg", "pipecg2", "pipecgrr", "pipeprcg", "groppcg", "fcg", "pipefcg"}
)
"""These are for positive definite matrices."""
SYMMETRIC_KSPS = CONJUGATE_GRADIENTS | {"minres", "symmlq", "cr", "pipecr", "steepest_descent"}
"""These are only right for A = Aᵀ, so the adjoint solve may use A itself."""
SYMMETRIC_PCS = frozenset({"cholesky", "icc"})
"""These read one triangle of the matrix and take the other to be the same."""
MIRRORED_KSPS = frozenset({"gmres", "lgmres", "dgmres", "pgmres"})
"""These are only fast where M⁻¹A is near the identity in norm. The transpose of a solve
preconditioned from the left, (M⁻¹A)ᵀ = AᵀM⁻ᵀ, is one preconditioned from the right; M⁻ᵀAᵀ breaks
down for badly scaled rows.
"""
ONE_APPLICATION_KSPS = frozenset({"preonly", "none"})
"""These apply the preconditioner once, whatever the level is."""
STATIONARY_KSPS = frozenset({"richardson", "chebyshev", "steepest_descent"}) | ONE_APPLICATION_KSPS
"""These do not break down when only rounding is left."""
WITHOUT_PRODUCTS = frozenset({"richardson", "chebyshev"}) | ONE_APPLICATION_KSPS
"""These compute no inner products when their number of iterations is fixed."""
UNGUARDED_KSPS = frozenset({"groppcg", "pipebcgs", "pipecg2", "pipefcg", "pipegcr"})
"""These go wrong where only rounding is left without a norm to stop at, on regular matrices too."""
RECURRENCE_KSPS = UNGUARDED_KSPS | frozenset(
    {"pgmres", "pipecg", "pipecgrr", "pipecr", "pipeprcg", "pipefgmres", "ibcgs"}
    | {"qmrcgs", "tfqmr", "tcqmr", "minres"}
)
"""The residual that these keep by recurrences may be far from that of their solution; minres takes
the end of its Krylov space for convergence, on singular matrices too.
"""
RELATIVE_KSPS = frozenset({"richardson", "lsqr", "cgls"})
"""These may take an absolute tolerance for one of something else than their norm of the residual.
"""
NATURAL_NORM_KSPS = frozenset({"cg", "groppcg"})
"""The natural norm costs these no reduction of its own."""
DIAGONAL_PCS = frozenset({"sor", "gamg", "hmg", "eisenstat"})
"""These fail on a rank that has a row with a zero, or nothing, on its diagonal."""
DIRECT_PCS = frozenset({"lu", "cholesky", "qr", "svd", "redundant"})
"""One application of these is meant to be the solution."""
PARALLEL_FACTORING_PCS = frozenset({"lu", "cholesky"})
"""For a matrix of several ranks PETSc has these from MUMPS."""
FACTORING_PCS = DIRECT_PCS | {"ilu", "icc", "bjacobi", "asm", "gasm"}
"""These, or what they use for their blocks, fail for an empty row."""
_UNFIT_KSPS = {
    **dict.fromkeys(
        ("qcg", "nash", "stcg", "gltr"),
        "it minimises a quadratic model in a trust region instead of solving A x = b: use ksp='cg'",
    ),
    "pipelcg": "without good bounds of the eigenvalues PETSc's does not end: use ksp='pipecg'",
    "fetidp": "it needs a matrix given by subdomains: use another ksp",
    "python": "its iteration is user code that a Solver has no way to take: use another ksp",
}
_UNFIT_PCS = {
    "deflation": "what it finds for the first values it keeps for all others: use pc='gamg'",
    "mpi": "it needs PETSc's server processes for linear solvers: use another pc",
}
NO_TRANSPOSE_KSPS = frozenset({"cgls", "lsqr", "ibcgs"})
NO_TRANSPOSE_PCS = frozenset({"hmg", "eisenstat"})
"""PETSc does not refuse to solve with the transpose with these, and gives wrong numbers or ends the
program.
"""
PETSC_ERR_UNKNOWN_TYPE = 86


def known_type(what: str, name: Any, types: type) -> str:
    """`name` if this PETSc has a KSP or PC called so.

    Raises
    ------
    ValueError
        With the nearest names for one that no PETSc has; with what to do for one that this PETSc
        was built without.
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
        f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(sorted(known))}"
    )
    raise InputError(f"PETSc has no {what} called {name!r}: {hint}")


@cache
def _is_built(what: str, name: str) -> bool:
    made = (PETSc.KSP() if what == "ksp" else PETSc.PC()).create(comm=PETSc.COMM_SELF)
    try:
        made.setType(name)
    except PETSc.Error as error:
        return bool(error.ierr != PETSC_ERR_UNKNOWN_TYPE)
    return True


def checked_ksp(name: Any) -> str:
    """`name` if it is a KSP that a `Solver` can use; else a ValueError."""
    _check_fit("ksp", name)
    return name if name in OWN_KSPS else known_type("ksp", name, PETSc.KSP.Type)


def checked_pc(name: Any) -> str:
    """`name` if it is a PC that a `Solver` can use; else a ValueError."""
    _check_fit("pc", name)
    return name if name in OWN_PRECONDITIONERS else known_type("pc", name, PETSc.PC.Type)


def unfit(what: str, name: str) -> str | None:
    """Why a KSP or PC cannot be used in a `Solver`, if it cannot."""
    return (_UNFIT_KSPS if what == "ksp" else _UNFIT_PCS).get(name)


def _check_fit(what: str, name: Any) -> None:
    why = unfit(what, name) if isinstance(name, str) else None
    if what == "pc" and name == "shell":
        why = "it needs functions: give Solver(pc=ShellPreconditioner(apply, apply_transpose))"
    if why is not None:
        raise InputError(f"{what}={name!r} cannot be used in a Solver: {why}")


def check_unrolled(ksp: str, pc: str) -> None:
    """Raise ValueError for a method that has no unrolled form."""
    if ksp not in UNROLLED_KSPS:
        raise InputError(
            f"differentiation='unrolled' knows the iterations of ksp={', '.join(UNROLLED_KSPS)}, "
            f"not of {ksp!r}: "
            "choose one of them, or differentiation='implicit'"
        )
    if pc == "ksp":
        raise InputError(
            "differentiation='unrolled' needs a linear preconditioner, and pc='ksp' is an "
            "iteration itself: choose another, "
            "or differentiation='implicit'"
        )
