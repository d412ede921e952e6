"""Factorisations inside of other preconditioners, which only options name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import SYMMETRIC_PCS
from prdp_hpc.linalg.options import SOLVER_OPTIONS, bare
from prdp_hpc.linalg.promises import PromiseCheck
from prdp_hpc.linalg.torch_petsc import is_aij
from prdp_hpc.petsc import PETSc

_TYPE, _LIST, _SHIFT = "pc_type", "pc_composite_pcs", "pc_factor_shift_type"
_SPLIT = "fieldsplit_"


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


def symmetric_parts_under(prefix: str) -> tuple[str, ...]:
    """The same for the options of PETSc's database under a prefix; without one, for those that
    cannot be another solver's.
    """
    stored = PETSc.Options().getAll()
    begins = (prefix,) if prefix else (*SOLVER_OPTIONS, "telescope_")
    own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(begins)}
    return symmetric_parts(own)


def check_blocks(pc: Any, is_single: Callable[[], bool]) -> None:
    """Raise InputError if a block of a split is not symmetric, but its preconditioner relies on
    it; before the blocks are set up. Collective.
    """
    if pc.getType() != PETSc.PC.Type.FIELDSPLIT:
        return
    for ksp in pc.getFieldSplitSubKSP():
        name, matrix = ksp.getPC().getType(), ksp.getOperators()[1]
        if name in SYMMETRIC_PCS and is_aij(matrix):
            relying = f"{ksp.getOptionsPrefix()}pc_type={name}"
            PromiseCheck(matrix, is_single).require_symmetric(relying)
