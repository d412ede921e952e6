"""PETSc's options database, one prefix for each KSP."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from typing import Any

from petsc4py import PETSc

from prdp_hpc.errors import InputError

_SOLVER_OPTIONS = ("ksp_", "pc_", "mg_", "sub_", "fieldsplit_", "gamg_", "mat_")
_numbers = itertools.count()


def known_type(what: str, name: str, types: type) -> str:
    """`name` if PETSc has a KSP or PC called so; else a ValueError with the nearest names."""
    known = {str(value) for key, value in vars(types).items() if key.isupper()}
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(sorted(known))}"
    )
    raise InputError(f"PETSc has no {what} called {name!r}: {hint}")


def new_prefix() -> str:
    """A prefix that keeps the options of one KSP apart from those of all others in the program."""
    return f"prdp{next(_numbers)}_"


def apply_options(ksp: Any, options: Mapping[str, Any]) -> None:
    """Give a KSP (and whatever it contains) its options under its prefix.

    Options on the command line have no prefix, so they are taken over and go before `options`.
    Raises ValueError for a value that PETSc refuses.
    """
    prefix = ksp.getOptionsPrefix()
    database = PETSc.Options()
    from_command_line = {
        k: v for k, v in database.getAll().items() if k.startswith(_SOLVER_OPTIONS)
    }
    for key, value in {**options, **from_command_line}.items():
        database.setValue(f"{prefix}{key.lstrip('-')}", value)
    try:
        ksp.setFromOptions()
    except PETSc.Error as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"PETSc does not take petsc_options={dict(options)}: {why}") from error


def remove_unused_options(prefix: str, options: Mapping[str, Any]) -> list[str]:
    """The options that no part of the solver asked for while it was set up; they leave the
    database.
    """
    database = PETSc.Options()
    names = {key: f"{prefix}{key.lstrip('-')}" for key in options}
    unused = [key for key, name in names.items() if not database.used(name)]
    for key in unused:
        database.delValue(names[key])
    return unused
