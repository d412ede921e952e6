"""One case of a differentiable solve: plain numbers and names, printed as a separate script."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

Rows = tuple[tuple[float, ...], ...]
Level = tuple[int | None, float | None]

MISTAKES_OF_ONE_RANK = ("batches differ", "only one rank needs gradients")
MISTAKES = (
    "b has a column too many",
    "b is an integer tensor",
    "values have an entry too many",
    "values are complex",
    "values are None",
)


@dataclass(frozen=True)
class Case:
    """A solve, its backward pass, and what happens around them.

    Attributes
    ----------
    ranks : how many ranks share the matrix.
    n, rows, cols, holders : the pattern; `holders[k]` modulo `ranks` is the rank that gives entry
        k.
    values : one row of numbers per matrix; several with `b` of as many times R rows.
    b, grad : right-hand sides and the gradients that come back, one row each.
    guess : where the solves start, one row each; () for no guess.
    batched : whether b is `(B, n)` though B is 1.
    operator : "coo", "scipy" (then all entries are the owner's), or "function".
    kernel : the vectors promised as nullspace: () for none, or one row; "constant" if it is given
        as `constant_nullspace`.
    level, adjoint : (max_it, rtol); `adjoint` None: as `level`.
    needs : which of "values" and "b" need a gradient.
    flow : what happens around the solve, see `check.py`.
    other : numbers for the flow: another set of values.
    mistake, culprit : one of `MISTAKES` or `MISTAKES_OF_ONE_RANK`, and the rank that makes it (−1:
        all).
    """

    ranks: int
    n: int
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    holders: tuple[int, ...]
    values: Rows
    b: Rows
    grad: Rows
    guess: Rows = ()
    batched: bool = True
    several: bool = False
    operator: str = "coo"
    symmetric: bool = False
    kernel: Rows = ()
    constant: bool = False
    ksp: str = "gmres"
    pc: str = "none"
    options: tuple[tuple[str, Any], ...] = ()
    level: Level = (None, 1e-10)
    adjoint: Level | None = None
    differentiation: str = "implicit"
    needs: tuple[str, ...] = ("values", "b")
    values_type: str = "float64"
    b_type: str = "float64"
    values_layout: str = "plain"
    b_layout: str = "plain"
    grad_layout: str = "plain"
    flow: str = "plain"
    other: Rows = ()
    mistake: str = ""
    culprit: int = -1

    def __str__(self) -> str:
        """The call that makes this case, without what is default."""
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"Case({', '.join(given)})"


def script(case: Any) -> str:
    """A Python file that runs a case and prints its outcome."""
    return f"""# In the repository's root: PYTHONPATH=.:tests mpiexec -n {case.ranks} python FILE
from math import inf, nan

import prdp_hpc
from mpi4py import MPI

from adversarial.cases import Case
from adversarial.check import run

case = {case}
outcome = run(case, MPI.COMM_WORLD)
if MPI.COMM_WORLD.rank == 0:
    print(outcome)
"""
