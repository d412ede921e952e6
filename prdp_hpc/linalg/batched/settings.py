"""The options of a solver that batched methods use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.options import ADJOINT
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.unrolled.bicgstab import BiCGStab
from prdp_hpc.linalg.unrolled.gmres import GMRES
from prdp_hpc.linalg.unrolled.methods import ConjugateGradients, Method, Richardson

_DEFAULTS: dict[str, Any] = {
    "ksp_gmres_restart": 30,
    "ksp_richardson_scale": 1.0,
    "ksp_atol": 0.0,
    "ksp_divtol": 1e4,
    "ksp_pc_side": "left",
    "pc_bjacobi_local_blocks": 0,
    "sub_pc_type": "lu",
    "pc_chebyshev_degree": 4,
    "pc_chebyshev_eigenvalues": "",
}
"""PETSc's names and defaults, and those of "chebyshev"."""
_SIDES = {
    "cg": ("left",),
    "richardson": ("left",),
    "gmres": ("left", "right"),
    "bcgs": ("left", "right"),
}


@dataclass(frozen=True)
class Settings:
    """The method of one direction.

    Attributes
    ----------
    ksp : PETSc's name of the iteration.
    restart, scale, absolute, divergence, right_side : see PETSc's options of these names.
    blocks : dense blocks of a rank, for "bjacobi".
    degree, eigenvalues : of "chebyshev"; None: the largest eigenvalue is estimated.
    """

    ksp: str
    restart: int
    scale: float
    absolute: float
    divergence: float
    right_side: bool
    blocks: int
    degree: int
    eigenvalues: tuple[float, float] | None

    def method(self) -> Method[Any]:
        """The iteration."""
        if self.ksp == "richardson":
            return Richardson(self.scale)
        if self.ksp == "gmres":
            return GMRES(self.restart)
        return ConjugateGradients() if self.ksp == "cg" else BiCGStab()


def settings_of(solver: Solver, direction: str) -> Settings:
    """The settings of "forward" or "adjoint" solves.

    Raises
    ------
    ValueError
        For an option that batched methods do not have, or an invalid value.
    """
    given = {key.lstrip("-"): value for key, value in solver.petsc_options.items()}
    own = {key: value for key, value in given.items() if not key.startswith(ADJOINT)}
    special = {
        key.removeprefix(ADJOINT): value for key, value in given.items() if key.startswith(ADJOINT)
    }
    unknown = [key for key in (*own, *special) if key not in _DEFAULTS]
    if unknown:
        raise InputError(
            f"petsc_options: {', '.join(map(repr, unknown))} has no effect in ksp={solver.ksp!r}, "
            f"pc={solver.pc!r}: a batched method has {', '.join(_DEFAULTS)}"
        )
    chosen = _DEFAULTS | own | (special if direction == "adjoint" else {})
    try:
        return _settings(str(solver.batched), chosen)
    except (TypeError, ValueError) as error:
        raise InputError(f"petsc_options of ksp={solver.ksp!r}: {error}") from error


def _settings(ksp: str, chosen: dict[str, Any]) -> Settings:
    side = str(chosen["ksp_pc_side"]).lower()
    if side not in _SIDES[ksp]:
        raise ValueError(f"ksp_pc_side must be one of {', '.join(_SIDES[ksp])}, not {side}")
    if chosen["sub_pc_type"] != "lu":
        raise ValueError("sub_pc_type is lu: the blocks are inverted")
    bounds = str(chosen["pc_chebyshev_eigenvalues"])
    eigenvalues = None
    if bounds:
        least, most = (float(part) for part in bounds.split(","))
        if not 0.0 < least < most:
            raise ValueError("pc_chebyshev_eigenvalues must be two numbers 0 < least < largest")
        eigenvalues = least, most
    found = Settings(
        ksp,
        restart=int(chosen["ksp_gmres_restart"]),
        scale=float(chosen["ksp_richardson_scale"]),
        absolute=float(chosen["ksp_atol"]),
        divergence=float(chosen["ksp_divtol"]),
        right_side=side == "right",
        blocks=int(chosen["pc_bjacobi_local_blocks"]),
        degree=int(chosen["pc_chebyshev_degree"]),
        eigenvalues=eigenvalues,
    )
    if found.restart < 1 or found.degree < 1 or found.blocks < 0:
        raise ValueError("a restart, a degree and a number of blocks must be at least 1")
    return found
