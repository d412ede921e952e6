"""Meshes with known solutions: random cells, and the conduction slab of the reference data."""

import json

import numpy as np
import reference_data
import torch
from torch import Tensor


def same_on_all(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mesh(n=7, n_cells=12, k=3) -> tuple[np.ndarray, Tensor]:
    """Cells that cover all dofs, one cell with a repeated dof, and unsymmetric element matrices
    whose sum is diagonally dominant.
    """
    cells = np.random.default_rng(0).integers(0, n, (n_cells, k))
    cells[:n, 0] = np.arange(n)
    cells[0, 1] = cells[0, 2] = 0
    return cells, same_on_all(n_cells, k, k, seed=1) + 4.0 * torch.eye(k)


def assembled(cells, n, matrices, fixed=()) -> Tensor:
    """The dense matrix of element matrices `(..., n_cells, k, k)`, with the rows and columns of
    `fixed` those of the identity.
    """
    index = torch.as_tensor(cells)
    flat = (index[:, :, None] * n + index[:, None, :]).flatten()
    entries = matrices.flatten(-3)
    whole = torch.zeros(*entries.shape[:-1], n * n, dtype=matrices.dtype)
    whole = whole.index_add(-1, flat, entries).unflatten(-1, (n, n))
    free = torch.ones(n, dtype=matrices.dtype)
    free[list(fixed)] = 0.0
    return whole * free[:, None] * free + torch.diag(1.0 - free)


def dense_solve(cells, n, matrices, b, fixed=()) -> Tensor:
    """Like `solve` with an `ElementOperator`: for M matrices b is `(M R, n)`."""
    whole = assembled(cells, n, matrices, fixed)
    rights = b.reshape(*whole.shape[:-2], -1, n)
    return torch.linalg.solve(whole, rights.mT).mT.reshape(b.shape)


def reference() -> dict:
    """Definition and published results of the slab."""
    return json.loads(reference_data.reference("heat_slab.json").read_text())


class Slab:
    """The slab of the reference data on nx × nx/2 × 1 trilinear hexahedra.

    Attributes
    ----------
    cells, n : dof numbers of all cells; x fastest, then y.
    fixed : dofs at x = 0.
    load : of the unit flux at the other end.
    stiffness : of one cell with conductivity 1, `(8, 8)`.
    """

    def __init__(self, nx: int) -> None:
        ny = max(1, nx // 2)
        sizes = np.array([2 / nx, 1 / ny, 2 / nx])
        nodes = np.arange(2 * (ny + 1) * (nx + 1)).reshape(2, ny + 1, nx + 1)
        corners = np.array([(i, j, k) for k in (0, 1) for j in (0, 1) for i in (0, 1)])
        self.cells = np.stack(
            [nodes[k, j : j + ny, i : i + nx].ravel() for i, j, k in corners], axis=1
        )
        self.n, self.fixed = nodes.size, nodes[:, :, 0].ravel()
        self.stiffness = torch.from_numpy(_stiffness(2.0 * corners - 1.0, sizes))
        load = np.zeros(nodes.shape)
        for j in range(ny):
            # flux 1 / (2/nx) on the area of the face, a quarter for each of its nodes
            load[:, j : j + 2, -1] += 1.0 / sizes[2] * (sizes[1] * sizes[2]) / 4
        self.load = torch.from_numpy(load.ravel())
        noise = np.random.default_rng(0).standard_normal(nx * ny).astype(np.float32)
        self.density = torch.from_numpy(np.clip(noise * 0.3 + 0.5, 0.05, 0.95)).double()

    def matrices(self, density: Tensor) -> Tensor:
        """Element matrices of cells with these densities."""
        return (1e-3 + (1.0 - 1e-3) * density**3)[:, None, None] * self.stiffness


def _stiffness(signs, sizes):
    """`∫ ∇N ∇Nᵀ` of a trilinear hexahedron by 2 × 2 × 2 Gauss points, which is exact."""
    matrix = np.zeros((8, 8))
    for point in signs / 3**0.5:
        factors = 1.0 + signs * point
        gradient = np.stack(
            [signs[:, a] * np.delete(factors, a, 1).prod(1) / 4 / sizes[a] for a in range(3)]
        )
        matrix += gradient.T @ gradient * sizes.prod() / 8
    return matrix
