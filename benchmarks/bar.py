"""The bars of the comparison with torch-fem: mesh, constraints, loads, densities of SIMP problems.

Trilinear hexahedra on [0, 2] × [0, 1] × [0, depth], held at x = 0, loaded at x = 2; the stiffness
of a cell is `10⁻³ + (1 − 10⁻³) ρ³` times that of the material. The compliance is `load · u`.

- heat: `−∇·(κ ∇T) = 0`, nx × nx/2 × 1 cells, a flux of 1 in all through x = 2. Source: the heat
  task of the Mosaic benchmark of differentiable solvers, arXiv 2606.27895.
- elasticity: linear, E = 1, ν = 0.3, nx × nx/2 × nx/2 cells on a depth of 1, a force of 1 in all
  in −z on x = 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# The corners of the unit cube in the order of the nodes of a cell, which is that of VTK.
CORNERS = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
)
POISSON_RATIO = 0.3


@dataclass(frozen=True)
class Bar:
    """The mesh with nx cells in x; nodes and cells are numbered with x slowest.

    `dofs`: unknowns of a node, 1 for heat and 3 for elasticity.
    """

    nx: int
    dofs: int = 1

    @property
    def counts(self) -> tuple[int, int, int]:
        """Cells in x, y, z."""
        across = max(1, self.nx // 2)
        return self.nx, across, 1 if self.dofs == 1 else across

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Length of the edges of a cell."""
        nx, ny, nz = self.counts
        return np.array([2.0 / nx, 1.0 / ny, 2.0 / nx if self.dofs == 1 else 1.0 / nz])

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Node numbers on the grid of nodes."""
        shape = tuple(n + 1 for n in self.counts)
        return np.arange(np.prod(shape)).reshape(shape)

    @property
    def size(self) -> int:
        """Number of unknowns, including fixed ones."""
        return int(self.numbers.size) * self.dofs

    def nodes(self) -> NDArray[np.float64]:
        """Coordinates `(n_nodes, 3)`."""
        axes = [h * np.arange(n + 1) for h, n in zip(self.spacing, self.counts, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def cells(self, part: slice = slice(None)) -> NDArray[np.int64]:
        """Node numbers `(n_cells, 8)` of the layers in x that `part` selects."""
        nx, ny, nz = self.counts
        corners = [
            self.numbers[a : nx + a, b : ny + b, c : nz + c][part].reshape(-1)
            for a, b, c in CORNERS
        ]
        return np.stack(corners, axis=1)

    def unknowns(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the unknowns of nodes: `(…, n)` to `(…, n · dofs)`."""
        every = nodes[..., None] * self.dofs + np.arange(self.dofs)
        return every.reshape(*nodes.shape[:-1], -1)

    def held(self) -> NDArray[np.int64]:
        """Nodes at x = 0."""
        return self.numbers[0].reshape(-1)

    def load(self) -> NDArray[np.float64]:
        """The consistent load `(n_nodes, dofs)`: 1 in total, a quarter of the share of each face at
        each of its corners; on the last unknown of a node, downwards for elasticity.
        """
        _, ny, nz = self.counts
        load = np.zeros((*self.numbers.shape, self.dofs))
        share = (1.0 if self.dofs == 1 else -1.0) / (4 * ny * nz)
        for b, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
            load[-1, b : ny + b, c : nz + c, -1] += share
        return load.reshape(-1, self.dofs)

    def densities(self) -> NDArray[np.float64]:
        """Random densities of the cells, clipped to [0.05, 0.95]; in single precision as published,
        where x is fastest.
        """
        drawn = np.random.default_rng(0).standard_normal(int(np.prod(self.counts)))
        published = np.clip(
            drawn.astype(np.float32) * np.float32(0.3) + np.float32(0.5), 0.05, 0.95
        )
        return published.reshape(self.counts[::-1]).T.reshape(-1).astype(np.float64)

    def element_matrix(self) -> NDArray[np.float64]:
        """Stiffness of a cell of solid material by 2 × 2 × 2 Gauss points, `(8 dofs, 8 dofs)`."""
        signs, spacing = 2.0 * CORNERS - 1.0, self.spacing
        matrix = np.zeros((8 * self.dofs, 8 * self.dofs))
        for point in signs / np.sqrt(3.0):
            factors = 1.0 + signs * point
            others = np.stack([np.prod(np.delete(factors, a, axis=1), axis=1) for a in range(3)])
            gradients = others * signs.T / 8.0 * (2.0 / spacing)[:, None]
            strain = gradients if self.dofs == 1 else _strain(gradients)
            law = np.eye(3) if self.dofs == 1 else _elasticity()
            matrix += strain.T @ law @ strain * spacing.prod() / 8.0
        return matrix


def _strain(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strains xx, yy, zz, xy, yz, zx of the 24 displacements of a cell."""
    strain = np.zeros((6, 8, 3))
    for a in range(3):
        strain[a, :, a] = gradients[a]
    for row, (a, b) in enumerate(((0, 1), (1, 2), (2, 0)), start=3):
        strain[row, :, a], strain[row, :, b] = gradients[b], gradients[a]
    return strain.reshape(6, 24)


def _elasticity() -> NDArray[np.float64]:
    """Stresses of strains for E = 1."""
    nu = POISSON_RATIO
    first, shear = nu / ((1 + nu) * (1 - 2 * nu)), 0.5 / (1 + nu)
    law = np.diag([2 * shear] * 3 + [shear] * 3)
    law[:3, :3] += first
    return law
