"""Sources of the Jacobian: products by torch, or values by the user's function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together, share_or_end_job
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.function_operator import FunctionOperator
from prdp_hpc.linalg.nonlinear.linearisation import Linearisation
from prdp_hpc.linalg.nonlinear.problem import Problem
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.torch_petsc import placed, to_host
from prdp_hpc.linalg.validation import check_and_load

EXACT = 1e-6
"""Largest relative difference of a product with a Jacobian from torch's, if gradients use it."""


class Jacobian(ABC):
    """`∂F/∂u` as the matrix of linear systems.

    Attributes
    ----------
    operator : the operator that holds the matrix.
    """

    operator: Operator

    @abstractmethod
    def load(
        self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor], exact: bool
    ) -> None:
        """Load the Jacobian of one sample at `u (n_local,)` into the operator; collective.

        `exact`: whether it must be the derivative of the residual, because gradients depend on it.
        """

    def release(self) -> None:  # noqa: B027 - most store nothing
        """Free the recorded graph that products use."""


class MatrixFreeJacobian(Jacobian):
    """Products by torch, exact and without a matrix.

    There are no entries, so "none" is the only preconditioner of PETSc that can be used.
    """

    def __init__(
        self, n_local: int, comm: MPI.Comm, symmetric: bool = False, grid: Grid | None = None
    ) -> None:
        self._at: Linearisation | None = None
        self.operator = _ProductOperator(
            lambda _, x: self._recorded.product(x),
            n_local,
            comm,
            apply_transpose=lambda _, y: self._recorded.transposed(y),
            symmetric=symmetric,
            grid=grid,
        )

    @property
    def _recorded(self) -> Linearisation:
        assert self._at is not None, "load must be called before a product"
        return self._at

    def load(
        self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor], exact: bool
    ) -> None:
        """See `Jacobian`."""
        self._at = linearised(self.operator.comm, problem, sample, u, tensors)
        self.operator.load(None)

    def release(self) -> None:
        """See `Jacobian`."""
        self._at = None


class _ProductOperator(FunctionOperator):
    def check_preconditioner(self, pc: str) -> None:
        """A ValueError for a preconditioner that needs entries of the matrix."""
        if pc != "none" and self.preconditioner is None:
            raise InputError(
                f"pc={pc!r} needs the entries of the Jacobian, but torch computes products only: "
                "pass solve_nonlinear a jacobian=ColouredJacobian(...) with the pattern of its "
                "entries, or use Solver(pc='none')"
            )


class UserJacobian(Jacobian):
    """Values by the user's function, for an operator of the user's.

    Parameters
    ----------
    operator : a `SparseOperator`, or another operator with values.
    function : `function(u, *parameters)` returns the operator's values; its arguments are those of
        the residual.
    """

    def __init__(self, operator: Operator, function: Callable[..., Tensor]) -> None:
        self.operator, self.function = operator, function

    def load(
        self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor], exact: bool
    ) -> None:
        """See `Jacobian`."""
        arguments = problem.arguments_of(sample, tensors)
        with torch.no_grad():
            values = collective(
                self.operator.comm, lambda: self.function(problem.form(u), *arguments)
            )
        if isinstance(values, Tensor) and values.dim() == 2 and len(values) == 1:
            values = values[0]
        load_values(self.operator, values)
        if exact:
            self._check_exact(problem, sample, u, tensors)

    def _check_exact(self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor]) -> None:
        comm = self.operator.comm
        recorded = collective(comm, lambda: Linearisation(problem.of_sample(sample, tensors), u))
        # Without a recorded graph there is no derivative to compare with.
        if anywhere(comm, not recorded.depends):
            return
        v = random_vector(self.operator)
        product = collective(comm, lambda: recorded.product(v))
        check_products(
            self.operator,
            v,
            product,
            "the values of the Jacobian are not the derivative of the residual, so gradients "
            "would be wrong: check the function that returns them, or omit jacobian= to use "
            "torch's derivative",
        )


def linearised(
    comm: MPI.Comm, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor]
) -> Linearisation:
    """The recorded residual of one sample; an InputError if torch recorded no operation of u.
    Collective.
    """

    def record() -> Linearisation:
        recorded = Linearisation(problem.of_sample(sample, tensors), u)
        if not recorded.depends:
            raise InputError(
                "the residual does not depend on the unknowns u as far as torch recorded it (does "
                "it use NumPy, or detach u?): write it in torch, or pass jacobian=(operator, "
                "function) with the derivative"
            )
        return recorded

    found: Linearisation = collective(comm, record)
    return found


def load_values(operator: Operator, values: Any) -> None:
    """Check values and load them into the matrix unless they are loaded already; collective."""
    error = call_together(operator.comm, lambda: operator.check_form(values))
    check_and_load(operator, values, (1, -1), (), error)


def check_products(operator: Operator, v: Tensor, exact: Tensor, problem: str) -> None:
    """Raise an InputError unless the matrix maps `v` to `exact`; collective."""
    x, y = operator.matrix.createVecRight(), operator.matrix.createVecLeft()
    with placed((x, to_host(v))):
        operator.matrix.mult(x, y)
    found = torch.from_numpy(y.getArray(readonly=True).copy())
    for vector in (x, y):
        vector.destroy()
    squares = torch.stack([(found - exact).square().sum(), exact.square().sum()]).numpy()
    private(operator.comm).sums.Allreduce(MPI.IN_PLACE, squares)
    if not squares[0] <= EXACT**2 * squares[1]:
        share = float((squares[0] / max(squares[1], 1e-300)) ** 0.5)
        raise InputError(f"{problem} (relative error of a product: {share:.2g})")


def random_vector(operator: Operator) -> Tensor:
    """This rank's part of a vector without zeros, the same in every run."""
    # By NumPy, because torch has no random numbers inside batches of gradients.
    generator = np.random.default_rng(20 + operator.comm.rank)
    return torch.from_numpy(generator.uniform(0.5, 1.5, operator.n_local))


def collective(comm: MPI.Comm, call: Callable[[], Any]) -> Any:
    """Call the user's code, which may communicate; an exception on one rank ends the job if others
    wait in a collective call of that code.
    """
    try:
        result = call()
    except Exception as error:
        share_or_end_job(comm, error)
        raise
    raise_together(comm, None)
    return result
