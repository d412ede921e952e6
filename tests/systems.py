"""Linear systems with known solutions."""

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc import SparseOperator


def dominant(n: int = 7, symmetric: bool = False, density: float = 0.5, seed: int = 0) -> Tensor:
    """A diagonally dominant matrix, so that every method converges."""
    draw = torch.Generator().manual_seed(seed)
    full = torch.randn(n, n, generator=draw, dtype=torch.float64)
    full = full * (torch.rand(n, n, generator=draw) < density)
    full = full + full.T if symmetric else full
    return full + torch.diag(full.abs().sum(1) + 1.0)


def sparse(matrix: Tensor, **options) -> tuple[SparseOperator, Tensor]:
    """The operator of a dense matrix on this rank only, and its values."""
    rows, cols = matrix.nonzero(as_tuple=True)
    operator = SparseOperator(
        rows.numpy(), cols.numpy(), tuple(matrix.shape), MPI.COMM_SELF, **options
    )
    return operator, matrix[rows, cols].clone()


def exact(matrix: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solution, gradient of b and (dense) gradient of the matrix for a loss with `∂L/∂x = grad`; b,
    grad `(B, n)`.
    """
    x = torch.linalg.solve(matrix, b.mT).mT
    adjoint = torch.linalg.solve(matrix.mT, grad.mT).mT
    return x, adjoint, -torch.einsum("bi,bj->ij", adjoint, x)
