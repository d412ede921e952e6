"""The judge accepts what rounding explains, and finds errors of a thousandth beside it."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from .cases import Case
from .judge import judge
from .perform import perform
from .verdicts import Fault

INDEFINITE = np.array(
    [
        [0.33, 0.81, -0.51, -0.49, 0.96, -0.51],
        [0.81, 0.65, -0.51, -0.5, -0.68, 0.32],
        [-0.51, -0.51, 0.17, 0.054, -0.26, 0.35],
        [-0.49, -0.5, 0.054, -1.7, -0.21, 0.072],
        [0.96, -0.68, -0.26, -0.21, -0.014, -0.95],
        [-0.51, 0.32, 0.35, 0.072, -0.95, -1.3],
    ]
)


def case_of(A, b, **given):
    rows, cols = np.nonzero(A)
    return Case(
        ranks=1,
        n=len(A),
        rows=tuple(map(int, rows)),
        cols=tuple(map(int, cols)),
        holders=(0,) * len(rows),
        values=(tuple(map(float, A[rows, cols])),),
        b=(tuple(b),),
        grad=((1.0,) * len(A),),
        needs=("b",),
        **given,
    )


ROUNDED = [
    # Vectors that lose their orthogonality.
    case_of(INDEFINITE, (0.7, -0.4, 0.1, 2.0, -0.6, 0.6), ksp="minres", pc="icc", level=(6, None)),
    # A residual that the condition of the matrix limits.
    case_of(np.diag([1e-4, 5e4]), (0.5, 1.0), ksp="minres"),
    # Directions made orthogonal one by one.
    case_of(
        np.array([[4.0, -0.8, 0.2], [-0.8, 7.0, 0.0], [0.2, 0.0, 6.0]]),
        (-0.9, 0.4, -0.9),
        ksp="fcg",
        pc="sor",
        options=(("pc_sor_forward", ""),),
        level=(2, None),
    ),
]


@pytest.mark.parametrize("case", ROUNDED, ids=lambda case: f"{case.ksp} {case.pc}")
def test_rounding_is_no_fault_and_an_error_of_a_thousandth_is(case):
    answer = perform(case, MPI.COMM_SELF)
    judge(case, MPI.COMM_SELF, answer, "")
    for name in ("x", "b"):
        wrong = getattr(answer, name).copy()
        wrong[0, 0] *= 1.001
        with pytest.raises(Fault, match=r"not what|residual above"):
            judge(case, MPI.COMM_SELF, replace(answer, **{name: wrong}), "")
