"""Errors of failed solves, with advice for the user."""

from __future__ import annotations

from prdp_hpc.errors import InputError, PrdpError
from prdp_hpc.petsc import PETSc

_ADVICE = {
    "DIVERGED_MAX_IT": "allow more iterations (max_it), loosen rtol, or use a "
    "stronger preconditioner "
    "(pc='gamg', pc='lu' for small systems)",
    "DIVERGED_DTOL": "the residual grows: this KSP does not converge for this "
    "matrix; try ksp='gmres', a stronger pc, "
    "or a smaller time step",
    "DIVERGED_BREAKDOWN": "the Krylov method broke down: try ksp='gmres' or another pc",
    "DIVERGED_BREAKDOWN_BICG": "the Krylov method broke down: try ksp='gmres' or another pc",
    "DIVERGED_NONSYMMETRIC": "this KSP needs a symmetric matrix: try ksp='gmres'",
    "DIVERGED_INDEFINITE_PC": "this KSP needs a positive definite preconditioner: "
    "try pc='jacobi' or ksp='gmres'",
    "DIVERGED_INDEFINITE_MAT": "this KSP needs a positive definite matrix: "
    "try ksp='minres' or ksp='gmres'",
    "DIVERGED_NANORINF": "numbers overflowed or became NaN: look at the scaling of the "
    "values, or try another ksp and pc",
    "DIVERGED_PCSETUP_FAILED": "the preconditioner could not be set up, as happens for a "
    "singular matrix (a zero pivot): "
    "look for empty rows, declare the nullspace if there is one, or try another pc",
}
# What an undeclared nullspace can lead to.
_WHERE_SINGULAR = (
    "DIVERGED_MAX_IT",
    "DIVERGED_DTOL",
    "DIVERGED_BREAKDOWN",
    "DIVERGED_BREAKDOWN_BICG",
    "DIVERGED_INDEFINITE_MAT",
)
_REASONS = {
    code: name for name, code in vars(PETSc.KSP.ConvergedReason).items() if isinstance(code, int)
}

SET_UP_FAILED = PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED
MAX_IT = PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT
ALL_ITERATIONS = PETSc.KSP.ConvergedReason.CONVERGED_ITS


class SolveError(PrdpError, RuntimeError):
    """A linear solve that failed; raised on all ranks of the operator together.

    The message states the direction (forward or adjoint), the KSP's reason, the iteration, the
    level and what to try.

    Parameters
    ----------
    message : str
        The text.
    reason : str, default ""
        PETSc's name of the reason, e.g. "DIVERGED_MAX_IT"; "" if the KSP was not the cause.
    iteration : int, default 0
        The iteration at which the solve stopped.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Solver, SolveError, SparseOperator, solve
    >>> operator = SparseOperator([0, 1], [0, 1], (2, 2))
    >>> values, b = torch.tensor([2.0, 4.0]).double(), torch.tensor([1.0, float("nan")]).double()
    >>> try:
    ...     solve(operator, values, b, Solver("cg", "jacobi"))
    ... except SolveError as error:
    ...     print(error)
    forward solve with ... the right-hand side holds NaN or infinity: look at what produced it
    """

    def __init__(self, message: str, reason: str = "", iteration: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.iteration = iteration


def reason_name(code: int) -> str:
    """PETSc's name of a KSPConvergedReason; PETSc manual page: KSPConvergedReason."""
    return str(_REASONS.get(code, code))


def is_set_up_failure(code: int) -> bool:
    """Whether a KSP stopped because its preconditioner could not be set up."""
    return reason_name(code) == "DIVERGED_PCSETUP_FAILED"


def is_unfinished(code: int) -> bool:
    """Whether a KSP returned in the middle of an iteration."""
    return is_set_up_failure(code) or reason_name(code) == "DIVERGED_NANORINF"


def failed_solve(
    direction: str, method: str, code: int, iteration: int, level: object, where: str = ""
) -> SolveError:
    """The error for a KSP that stopped with a negative reason; `where`: a row that explains it."""
    name = reason_name(code)
    advice = _ADVICE.get(name, "try another ksp or pc")
    if name in _WHERE_SINGULAR:
        advice += "; a singular matrix needs its nullspace declared (nullspace=, left_nullspace=)"
    if where:
        advice = f"{where}: {advice}"
    message = (
        f"{direction} solve with {method} failed: {name} at iteration {iteration}, "
        f"level {level}; {advice}"
    )
    return SolveError(message, name, iteration)


def bad_numbers(
    direction: str, method: str, iteration: int, level: object, in_input: bool
) -> SolveError:
    """The error for NaN or infinity in the right-hand side or, from finite input, in the
    solution.
    """
    if in_input:
        what = "the right-hand side holds NaN or infinity: look at what produced it"
        if direction == "adjoint":
            what = (
                "the incoming gradient holds NaN or infinity: look at the loss and at what "
                "follows the solve"
            )
        return SolveError(
            f"{direction} solve with {method} at level {level}, iteration 0: {what}",
            "DIVERGED_NANORINF",
        )
    return SolveError(
        f"{direction} solve with {method} returned NaN or infinity: DIVERGED_NANORINF at iteration "
        f"{iteration}, level {level}; " + _ADVICE["DIVERGED_NANORINF"],
        "DIVERGED_NANORINF",
        iteration,
    )


def too_coarse(direction: str, method: str, iteration: int, level: object) -> SolveError:
    """The error for a tolerance that corrections in single precision do not come nearer to."""
    return SolveError(
        f"{direction} solve with {method} at level {level}: corrections in single precision no "
        "longer reduce the residual of this matrix: use precision='float64', or loosen rtol",
        iteration=iteration,
    )


def lost_residual(
    direction: str, method: str, residual: float, iteration: int, level: object, normal: bool
) -> SolveError:
    """The error for a residual that a method tested and that is not that of the solution; `normal`:
    it tested that of the normal equations.
    """
    found = f"the residual of the solution is {residual:.2g} of the right-hand side"
    what = (
        f"Aᵀ (b − A x), which this method tests, is small, but {found}: tighten rtol, or use "
        "ksp='gmres' or 'bcgs'; a singular matrix needs its nullspace declared (nullspace=, "
        "left_nullspace=)"
        if normal
        else f"{found}, unlike the residual that this method tested: loosen rtol, or use another "
        "ksp ('cg', 'gmres', 'bcgs') or pc"
    )
    return SolveError(
        f"{direction} solve with {method} at level {level}: after {iteration} iterations {what}",
        iteration=iteration,
    )


_NO_TRANSPOSE = (
    "this ksp or pc has no transposed application: choose another pc (jacobi, bjacobi, asm, ilu, "
    "lu, gamg, mg have one), another ksp (gmres, bcgs), or mark the operator symmetric if it is"
)


def too_large_gradient(method: str, level: object) -> SolveError:
    """The error for a gradient that overflows."""
    return SolveError(
        f"adjoint solve with {method} at level {level}: a gradient, e.g. that of the values, which "
        "is the product of the solution and the adjoint solution, is beyond the range of double "
        "precision: scale the values, or the loss",
        "DIVERGED_NANORINF",
    )


def too_small_values(method: str, size: float) -> SolveError:
    """The error for a small matrix and a method that compares lengths with absolute numbers."""
    return SolveError(
        f"solve with {method}: the matrix is of the size {size:.2g}, and this method compares "
        "with absolute numbers, so its iterations would depend on the units. Multiply the "
        "matrix and the right-hand side by a number that makes the values about 1, or use another "
        "ksp, e.g. gmres or cg"
    )


def extreme_values_with_a_lag(method: str, size: float) -> SolveError:
    """The error for such a matrix whose preconditioner may be one of other values."""
    return SolveError(
        f"solve with {method} and lag_preconditioner: the matrix is of the size {size:.2g}, and is "
        "to be multiplied by a number, but these iterations depend on the size of the matrix "
        "relative to the one that the preconditioner was made from. Multiply the matrix and the "
        "right-hand side by a number that makes the values about 1, use ksp='gmres' or 'cg', or "
        "omit lag_preconditioner"
    )


def no_progress(ksp: str, iteration: int) -> SolveError:
    """The error for a method that restarts at the same iteration without end."""
    return SolveError(
        f"solve with ksp={ksp!r} makes no progress after iteration {iteration}: rounding ends each "
        "restart in its first iteration. Scale the matrix so that its values are about 1, use "
        "another pc, or ksp='fgmres'"
    )


def size_out_of_range(method: str, size: float) -> SolveError:
    """The error for a matrix whose powers leave the range of double precision."""
    return SolveError(
        f"solve with {method}: products with the operator are of the size {size:.2g}, and the "
        "inner products of this method leave the range of double precision. Multiply the operator "
        "and the right-hand side by a number that makes the products about 1"
    )


def extreme_values(method: str, size: float) -> SolveError:
    """The error for unrolled iterations with such a matrix."""
    return SolveError(
        f"unrolled solve with {method}: the values of the matrix are of the size {size:.2g}, and "
        "the derivatives of the iterations contain products of three of them, which are beyond the "
        "range of double precision. Multiply the matrix and the right-hand side by a number that "
        "makes the values about 1"
    )


def not_the_solution(
    direction: str, method: str, residual: float, iteration: int | None, level: object
) -> SolveError:
    """The error for a method that stopped as if it had converged, far from a solution; `iteration`:
    None if it is not known.
    """
    when = "" if iteration is None else f"after {iteration} iterations "
    return SolveError(
        f"{direction} solve with {method} at level {level}: it stopped {when}"
        f"with a residual of {residual:.2g} of the right-hand side: the matrix is "
        "singular, or its entries are too small or too unequal for this method. Scale the values, "
        "or use another ksp or pc='lu'; a singular matrix needs its nullspace declared "
        "(nullspace=, left_nullspace=)",
        iteration=iteration or 0,
    )


def no_transpose(method: str, level: object) -> SolveError:
    """The error for an adjoint solve with a method that has no transposed application."""
    where = f"adjoint solve with {method} failed at iteration 0, level {level}"
    return SolveError(f"{where}: {_NO_TRANSPOSE}")


def inexact_application(direction: str, method: str, residual: float, level: object) -> SolveError:
    """The error for an application of a preconditioner that is not the solution."""
    return SolveError(
        f"{direction} solve with {method} at level {level}: one application of the preconditioner "
        f"leaves a residual of {residual:.2g} of the right-hand side: use an iterative ksp "
        "(ksp='gmres'), or a direct pc (pc='lu') of a matrix that is not singular; a singular "
        "matrix needs its nullspace declared (nullspace=, left_nullspace=)",
        iteration=1,
    )


def vanished(direction: str, method: str, level: object) -> SolveError:
    """The error for a non-zero right-hand side whose preconditioned residual is 0."""
    return SolveError(
        f"{direction} solve with {method} at level {level}: the preconditioned residual is 0 "
        "although the right-hand side is not, so nothing was solved: the preconditioner is "
        "singular, as for empty rows, or the values are so large that its numbers underflow; use "
        "another pc, or scale the values"
    )


def not_symmetric_inverse(method: str) -> InputError:
    """The error for a preconditioner that is not symmetric with a method that needs one."""
    return InputError(
        f"{method}: this method needs a symmetric preconditioner, and that of these values is not "
        "symmetric, as with an incomplete LU factorisation ('ilu', and 'bjacobi', 'asm' or 'gasm', "
        "which contain it) if entries are stored on one side of the diagonal only, or a forward "
        "sweep of SOR: store both entries, or use pc='icc', 'jacobi', or "
        "petsc_options={'sub_pc_type': 'icc'} for blocks, or ksp='gmres'"
    )


def singular_coarse_matrix(pc: str) -> InputError:
    """The error for a preconditioner that divides by rounding on a singular matrix."""
    return InputError(
        f"pc={pc!r} factors its coarsest matrix, which is singular like the matrix, so that its "
        "results consist of rounding errors: use pc='gamg' or 'mg' for an operator with a nullspace"
    )


def petsc_failure(
    direction: str, method: str, error: PETSc.Error, level: object, zero_diagonal: int | None
) -> SolveError:
    """The error for a PETSc call that failed outright; `zero_diagonal`: a row of this rank without
    a usable diagonal entry, if there is one.
    """
    # The last line of PETSc's stack has the cause; the lines above locate it in the source.
    text = str(error).strip().splitlines()[-1].strip()
    if error.ierr == PETSC_ERR_SUP and direction == "adjoint":
        advice = _NO_TRANSPOSE
    elif error.ierr == PETSC_ERR_SUP:
        advice = "this ksp and pc do not support this kind of matrix: choose others"
    elif error.ierr == PETSC_ERR_MISSING_FACTOR:
        advice = (
            "this pc cannot factor a matrix that is given by functions, or, in a PETSc without "
            "MUMPS, one that is divided among ranks: use pc='redundant' (small systems), "
            "'bjacobi', 'gamg' or 'none', or a PETSc with MUMPS"
        )
    elif zero_diagonal is not None and ("diagonal" in text or "pivot" in text):
        advice = (
            f"row {zero_diagonal} has a zero, or no entry, on its diagonal, which this pc divides "
            "by or needs an entry for: add explicit zeros to the pattern, look for empty rows, or "
            "use pc='none'"
        )
    else:
        advice = "look at the matrix and at petsc_options; PETSc's own message is quoted"
    return SolveError(
        f"{direction} solve with {method} failed at iteration 0, level {level}: {advice} ({text})"
    )


def unusable_preconditioner(name: str, error: PETSc.Error) -> InputError:
    """The error for a preconditioner that PETSc does not make on these ranks."""
    cause = str(error).strip().splitlines()[-1].strip()
    return InputError(f"pc={name!r} cannot be used on these ranks: choose another ({cause})")


def no_transposed_preconditioner(method: str, why: str) -> InputError:
    """The error for an unrolled solve whose preconditioner cannot be applied transposed."""
    return InputError(
        f"differentiation='unrolled' with {method}: the gradient needs the transpose of this "
        f"preconditioner, which cannot be applied ({why}); choose another (jacobi, bjacobi, ilu, "
        "lu, gamg, mg, or asm with the option pc_asm_type=basic), or differentiation='implicit'"
    )


PETSC_ERR_SUP = 56
PETSC_ERR_MISSING_FACTOR = 92
