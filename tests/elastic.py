"""A plane elastic body of springs, whose rigid motions need no energy."""

import numpy as np
import torch


def springs(nx, ny, is_held):
    """Stiffness matrix `(2 nodes, 2 nodes)`, coordinates `(nodes, 2)` and rigid motions `(3, 2
    nodes)` of a lattice with diagonals; with `held`, its left end is fixed.
    """
    x, y = np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    matrix = np.zeros((2 * nx * ny, 2 * nx * ny))
    for step in ((1, 0), (0, 1), (1, 1), (1, -1)):
        along = np.array(step) / np.linalg.norm(step)
        block = np.outer(along, along)
        for i, (a, b) in enumerate(points.astype(int)):
            other = a + step[0], b + step[1]
            if 0 <= other[0] < nx and 0 <= other[1] < ny:
                j = other[0] * ny + other[1]
                ends = np.r_[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                matrix[np.ix_(ends, ends)] += np.kron([[1, -1], [-1, 1]], block)
    if is_held:
        held = np.repeat(points[:, 0] == 0, 2)
        matrix[np.diag_indices_from(matrix)] += held
    ones, zeros = np.ones(nx * ny), np.zeros(nx * ny)
    motions = [(ones, zeros), (zeros, ones), (-points[:, 1], points[:, 0])]
    rigid = np.array([np.stack(motion, axis=1).ravel() for motion in motions])
    return torch.tensor(matrix), points, torch.tensor(rigid)
