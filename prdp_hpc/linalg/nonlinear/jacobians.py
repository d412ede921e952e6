"""Where the Jacobian comes from: products by torch, or values by the user's own function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together, tell_or_end_job
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
"""How far a Jacobian may be from torch's, relative to its products, where a gradient depends on
it.
"""


class Jacobian(ABC):
    """`∂F/∂u` in a matrix that linear systems are solved with.

    Attributes
    ----------
    operator : whose matrix it is.
    """

    operator: Operator

    @abstractmethod
    def load(
        self, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor], exact: bool
    ) -> None:
        """Put the Jacobian of one sample at `u (n_local,)` into the operator; collective.

        `exact`: whether it must be the derivative of the residual, because gradients are taken with
        it.
        """

    def release(self) -> None:  # noqa: B027 - most keep nothing
        """Free the recorded graph that products use."""


class MatrixFreeJacobian(Jacobian):
    """Products by torch, exact and without a matrix.

    No entries are known, so that of PETSc's preconditioners only "none" can be used.
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
        assert self._at is not None, "loaded before it is multiplied with"
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
                f"pc={pc!r} needs the entries of the Jacobian, and torch gives products only: give "
                "solve_nonlinear a jacobian=ColouredJacobian(...) with the pattern of its entries, "
                "or use Solver(pc='none')"
            )


class UserJacobian(Jacobian):
    """Values by the user's function, for an operator of the user's.

    Parameters
    ----------
    operator : a `SparseOperator`, or another that takes values.
    function : `function(u, *parameters)` gives the operator's values; it gets what the residual
        gets.
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
        # Where torch records nothing there is nothing to compare with.
        if anywhere(comm, not recorded.depends):
            return
        v = random_vector(self.operator)
        product = collective(comm, lambda: recorded.product(v))
        check_products(
            self.operator,
            v,
            product,
            "the values of the Jacobian are not the derivative of the residual, so that gradients "
            "would be wrong: look at the function that gives them; or leave jacobian= out, for "
            "torch's own",
        )


def linearised(
    comm: MPI.Comm, problem: Problem, sample: int, u: Tensor, tensors: list[Tensor]
) -> Linearisation:
    """The recorded residual of one sample; collective, and an InputError where torch recorded
    nothing.
    """

    def record() -> Linearisation:
        recorded = Linearisation(problem.of_sample(sample, tensors), u)
        if not recorded.depends:
            raise InputError(
                "the residual does not depend on the unknowns u as far as torch recorded it (does "
                "it use NumPy, or detach u?): write it in torch, or give jacobian=(operator, "
                "function) with the derivative"
            )
        return recorded

    found: Linearisation = collective(comm, record)
    return found


def load_values(operator: Operator, values: Any) -> None:
    """Check values and put them into the matrix, if they are not there already; collective."""
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
        raise InputError(f"{problem} (a product is off by {share:.2g} of itself)")


def random_vector(operator: Operator) -> Tensor:
    """This rank's part of a vector without zeros, the same in every run."""
    generator = torch.Generator().manual_seed(20 + operator.comm.rank)
    return torch.rand(operator.n_local, generator=generator, dtype=torch.float64) + 0.5


def collective(comm: MPI.Comm, call: Callable[[], Any]) -> Any:
    """Call the user's code, which may communicate; an exception on one rank must not leave the
    others waiting in it.
    """
    try:
        result = call()
    except Exception as error:
        tell_or_end_job(comm, error)
        raise
    raise_together(comm, None)
    return result
