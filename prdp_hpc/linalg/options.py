"""PETSc's options database: one prefix per KSP, and the options that users may set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import (
    CONJUGATE_GRADIENTS,
    HAPPY_KSPS,
    SYMMETRIC_KSPS,
    SYMMETRIC_PCS,
)
from prdp_hpc.petsc import PETSc

SOLVER_OPTIONS = ("ksp_", "pc_", "mg_", "sub_", "fieldsplit_", "gamg_", "mat_", "redundant_")
"""Beginnings of a solver's options; others under a user's prefix may belong to other solvers."""
ADJOINT = "adjoint_"
"""Beginning of the options of the adjoint KSP only."""
_LEVEL = "set the level by Solver(refinement=Refinement(rtol=..., max_it=...))"
_START = "set it by Solver(initial_guess=...), or by solve(..., guess=...)"
_OWNED = {
    "ksp_type": "set it by Solver(ksp=...)",
    "pc_type": "set it by Solver(pc=...)",
    "ksp_rtol": _LEVEL,
    "ksp_max_it": _LEVEL,
    "ksp_convergence_test": _LEVEL,
    "ksp_converged_maxits": "a level with max_it and rtol already ends at max_it without an error",
    "ksp_initial_guess_nonzero": _START,
    "ksp_guess_type": _START,
    "ksp_knoll": _START,
    "ksp_diagonal_scale": "it changes the matrix in place: scale the values and b, or use "
    "pc='jacobi'",
    "ksp_diagonal_scale_fix": "it changes the matrix in place: scale the values and b, or use "
    "pc='jacobi'",
}
_NO_NORM = "without a norm no rtol is reached; a level with max_it only computes no norm"
_KEPT_BLOCKS = (
    "inside of another preconditioner it would keep the blocks of the first values for all later "
    "ones: use 'jacobi', 'sor' or 'bjacobi' there"
)
_OUTSIDE = (
    "a part of pc='composite' is applied outside of a KSP, where eisenstat ends the program: use "
    "'sor' there"
)
_TYPE, _LIST, _SHIFT = "pc_type", "pc_composite_pcs", "pc_factor_shift_type"
_SPLIT = "fieldsplit_"
WEAK_CONNECTION = 0.003
"""GAMG drops entries with `|a_ij| / √(a_ii a_jj)` below this from the graph that it coarsens."""
_numbers = itertools.count()


def new_prefix() -> str:
    """A prefix that is unique to one KSP in the program."""
    return f"prdp{next(_numbers)}_"


def checked_options(options: Any) -> dict[str, Any]:
    """A copy of `petsc_options`; InputError unless they are a dict of names."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InputError(
            "petsc_options must be a dict from names without the dash to values, e.g. "
            f"{{'ksp_gmres_restart': 8}}, not {options!r}"
        )
    return dict(options)


def check_owned(options: Mapping[str, Any], prefix: str | None = None) -> None:
    """Raise an InputError for an option that duplicates an argument of `Solver`.

    `prefix`: the prefix of options from the command line, for the message.
    """
    for key, value in options.items():
        pointer = _OWNED.get(bare(key))
        if bare(key) == "ksp_norm_type" and str(value).lower() == "none":
            pointer = _NO_NORM
        if bare(key).endswith("_pc_type") and str(value) == "pbjacobi":
            pointer = _KEPT_BLOCKS
        if bare(key).endswith(_LIST) and "eisenstat" in str(value):
            pointer = _OUTSIDE
        if pointer is not None:
            name = f"petsc_options: {key!r}" if prefix is None else f"the option -{prefix}{key}"
            raise InputError(f"{name} cannot be set in a Solver: {pointer}")


def bare(key: str) -> str:
    """An option without its dash, and without the adjoint's prefix."""
    return key.lstrip("-").removeprefix(ADJOINT)


def check_shifts(pc: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for shifts with which PETSc's LU factorisation may end the program: it reads
    positions of the diagonal that were not computed (3.25).
    """
    given = {bare(key): str(value).lower() for key, value in options.items()}
    for key, value in given.items():
        if not key.endswith(_SHIFT) or value != "positive_definite":
            continue
        part = key.removesuffix(_SHIFT)
        default = pc if part == "" else "ilu" if part.endswith("sub_") else "lu"
        if given.get(part + _TYPE, default) == "lu":
            raise InputError(
                f"petsc_options: {key!r} cannot be 'positive_definite' with {part}pc_type='lu', "
                "because PETSc may end the program: use 'nonzero' or 'inblocks'"
            )


def symmetric_parts(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that name a preconditioner which relies on `A = Aᵀ` inside of another one.

    For other values PETSc's incomplete Cholesky factorisation is repeated with the same shift
    without end (3.25). The blocks of a split are tested themselves, see `check_blocks`.
    """
    found = []
    for key, value in options.items():
        name, words = bare(key), str(value).replace(",", " ").split()
        is_nested = name.endswith((f"_{_TYPE}", _LIST)) and not name.startswith(_SPLIT)
        if is_nested and SYMMETRIC_PCS & set(words):
            found.append(f"{name}={value}")
    return tuple(found)


def has_part(options: Mapping[str, Any], pc: str) -> bool:
    """Whether the options name this preconditioner inside of another one."""
    return any(
        bare(key).endswith((_TYPE, _LIST)) and pc in str(value).replace(",", " ").split()
        for key, value in options.items()
    )


def symmetric_parts_under(prefix: str) -> tuple[str, ...]:
    """The same for the options of PETSc's database under a prefix; without one, for those that
    cannot be another solver's.
    """
    stored = PETSc.Options().getAll()
    begins = (prefix,) if prefix else (*SOLVER_OPTIONS, "telescope_")
    own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(begins)}
    return symmetric_parts(own)


def options_under(prefix: str) -> dict[str, str]:
    """The options of PETSc's database under a user's prefix, without that prefix; they are marked
    as used.
    """
    if not (isinstance(prefix, str) and prefix.rstrip("_") and not prefix.startswith("-")):
        raise InputError(f"options_prefix must be a word, e.g. 'heat_', not {prefix!r}")
    database, found = PETSc.Options(), {}
    for key, value in database.getAll().items():
        rest = key.removeprefix(prefix)
        if rest != key and bare(rest).startswith(SOLVER_OPTIONS):
            database.getString(key, "")  # marks the option as used
            found[rest] = value
    return found


def set_options(prefix: str, options: Mapping[str, Any]) -> list[str]:
    """Put options into the database under a prefix; returns their names there."""
    database = PETSc.Options()
    names = [f"{prefix}{key.lstrip('-')}" for key in options]
    for name, value in zip(names, options.values(), strict=True):
        database.setValue(name, value)
    return names


def take_options(ksp: Any, options: Mapping[str, Any]) -> None:
    """Let a KSP, and the solvers inside it, read their options from the database.

    Raises InputError for a value that PETSc refuses; `options` are for the message.
    """
    try:
        ksp.setFromOptions()
    except PETSc.Error as error:
        raise refused(options, error) from error


def refused(options: Mapping[str, Any], error: PETSc.Error) -> InputError:
    """The error for options that PETSc refuses."""
    why = str(error).strip().splitlines()[-1].strip()
    return InputError(f"PETSc refuses petsc_options={dict(options)}: {why}")


def repeatable(pc: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which GAMG computes its interpolation again for new values.

    By default it keeps the interpolation of the first values, so the result of a few iterations
    would depend on earlier values.
    """
    chosen = {}
    for key, value in {"pc_type": pc, **options}.items():
        name = key.lstrip("-")
        if name.endswith("pc_type") and value == "gamg":
            chosen[f"{name.removesuffix('type')}gamg_reuse_interpolation"] = False
    return chosen


def relative_breakdown(ksp: str) -> dict[str, Any]:
    """The default option with which GMRES finds the end of the Krylov space for matrices of any
    size.

    PETSc compares the length of a new basis vector with 1e-30. For a matrix with values below that
    it would stop after some iterations as if the solution were reached.
    """
    return {"ksp_gmres_haptol": 1e-300} if ksp in HAPPY_KSPS else {}


def symmetric_overlap(ksp: str, pc: str) -> dict[str, Any]:
    """The default option with which overlapping blocks are a symmetric preconditioner, for methods
    that need one.

    PETSc's default, which adds only the rank's own part of each block's result, is symmetric only
    without overlap, i.e. on one rank.
    """
    return {f"pc_{pc}_type": "basic"} if pc in ("asm", "gasm") and ksp in SYMMETRIC_KSPS else {}


def relative_estimates(ksp: str, pc: str) -> dict[str, Any]:
    """The default options with which Chebyshev's method estimates the spectrum for matrices of any
    size.

    PETSc estimates it by GMRES, which starts at a preconditioned vector of noise. If that is
    shorter than 1e-50, as for large matrices, GMRES would stop there, and all solutions were 0; for
    small ones see `relative_breakdown`.
    """
    own = {"esteig_ksp_atol": 0.0, "esteig_ksp_gmres_haptol": 1e-300}
    chosen: dict[str, Any] = own if ksp == "chebyshev" else {}
    if pc in ("gamg", "hmg", "mg"):
        chosen = chosen | {f"mg_levels_{key}": value for key, value in own.items()}
    return chosen


def relative_inner_solves(pc: str) -> dict[str, Any]:
    """The default options with which the solver inside of a preconditioner solves for vectors of
    any size.

    PETSc's default returns 0 for vectors shorter than 1e-50.
    """
    inner = {"ksp": "ksp_", "redistribute": "redistribute_"}.get(pc)
    own = {"ksp_atol": 0.0, "ksp_gmres_haptol": 1e-300}
    return {} if inner is None else {f"{inner}{key}": value for key, value in own.items()}


def smoothing(
    ksp: str, pc: str, options: Mapping[str, Any], on_device: bool = False
) -> dict[str, Any]:
    """Default options of GAMG under conjugate gradients, unless the user sets them: one symmetric
    SOR sweep before and after, and an interpolation without very weak connections.

    PETSc's default, two Chebyshev steps with Jacobi, took more iterations or more time on almost
    all problems of `benchmarks/gamg_options.py`. SOR is used only with methods for positive
    definite matrices, because PETSc cannot apply its transpose for others. On a device PETSc's
    default is kept, because SOR would run on the host.
    """
    if pc != "gamg" or ksp not in CONJUGATE_GRADIENTS:
        return {}
    chosen: dict[str, Any] = {"pc_gamg_threshold": WEAK_CONNECTION}
    if on_device or any(key.lstrip("-").startswith("mg_") for key in options):
        return chosen
    sweep = {"ksp_type": "richardson", "pc_type": "sor", "ksp_max_it": 1}
    return chosen | {f"mg_levels_{name}": value for name, value in sweep.items()}


def unused_options(prefix: str, options: Mapping[str, Any]) -> list[str]:
    """The options that no part of the solver read while it was set up."""
    database = PETSc.Options()
    return [key for key in options if not database.used(f"{prefix}{key.lstrip('-')}")]


def remove_options(names: Iterable[str]) -> None:
    """Remove options from the database, when the KSP that read them is freed."""
    if not PETSc.Sys.isInitialized() or PETSc.Sys.isFinalized():
        return
    database = PETSc.Options()
    for name in names:
        database.delValue(name)


def remove_prefix(prefix: str | None) -> None:
    """Remove all options under a prefix of `new_prefix`, of which PETSc would say that they were
    not used.
    """
    if prefix:
        remove_options(name for name in PETSc.Options().getAll() if name.startswith(prefix))


def meaningless(unused: Iterable[str], method: str) -> InputError:
    """The error for options that PETSc did not read."""
    names = list(unused)
    message = f"petsc_options: {', '.join(map(repr, names))} has no effect in {method}: "
    if all(bare(name).startswith(SOLVER_OPTIONS) for name in names):
        message += "check the spelling, and whether it belongs to another ksp or pc"
    else:
        message += (
            "check the spelling; general options of PETSc, e.g. log_view, are read when it starts, "
            "so put them into the environment variable PETSC_OPTIONS (-log_view)"
        )
    return InputError(message)
