"""PETSc options of a SNES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.options import bare
from prdp_hpc.petsc import PETSc

_LEVEL = "set the level by NonlinearSolver(refinement=Refinement(rtol=..., max_it=...))"
_JACOBIAN = "pass a jacobian to solve_nonlinear"
_OWNED = {
    "snes_type": "Newton's method with a line search is the only one",
    "snes_rtol": _LEVEL,
    "snes_atol": _LEVEL,
    "snes_stol": _LEVEL,
    "snes_convergence_test": _LEVEL,
    "snes_norm_schedule": _LEVEL,
    "snes_ksp_ew": "use NonlinearSolver(inner='eisenstat_walker')",
    "snes_mf": _JACOBIAN,
    "snes_mf_operator": _JACOBIAN,
    "snes_fd": _JACOBIAN,
    "snes_fd_color": _JACOBIAN,
    "snes_lag_jacobian": "the Jacobian is that of each iteration",
    "snes_lag_preconditioner": "the preconditioner belongs to the Solver",
}


def check_snes_options(options: Mapping[str, Any], prefix: str | None = None) -> None:
    """Raise an InputError for an option that SNES does not have or that an argument sets."""
    for key in options:
        name = f"petsc_options: {key!r}" if prefix is None else f"the option -{prefix}{key}"
        word = key.lstrip("-")
        if word in _OWNED:
            raise InputError(f"{name} cannot be set in a NonlinearSolver: {_OWNED[word]}")
        if not bare(key).startswith("snes_"):
            raise InputError(
                f"{name} is not an option of SNES, which begin with snes_: set those of the "
                "linear solver by NonlinearSolver(Solver(petsc_options=...))"
            )


def snes_options_under(prefix: str) -> dict[str, str]:
    """The SNES options of PETSc's database under a user's prefix, without the prefix; they are
    marked as used.
    """
    if not (isinstance(prefix, str) and prefix.rstrip("_") and not prefix.startswith("-")):
        raise InputError(f"options_prefix must be a word, e.g. 'flow_', not {prefix!r}")
    database, found = PETSc.Options(), {}
    for key, value in database.getAll().items():
        rest = key.removeprefix(prefix)
        if rest != key and rest.startswith("snes_"):
            database.getString(key, "")  # marks the option as used
            found[rest] = value
    check_snes_options(found, prefix)
    return found
