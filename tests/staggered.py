"""The discrete incompressible Navier–Stokes equations, written a second time, with NumPy and SciPy
on whole fields.

As the docstrings of `prdp_hpc.physics.staggered` say it; used as the reference of its tests.
"""

import numpy as np
import scipy.sparse


def winds(velocity, c):
    """The wind along each axis at the points of component c of a velocity `(dim, *shape)`, by
    component.
    """
    dim = len(velocity)
    own = dim - 1 - c
    found = []
    for other, field in enumerate(velocity):
        if other == c:
            found.append(field)
            continue
        along = dim - 1 - other
        before, after = np.roll(field, 1, own), np.roll(field, -1, along)
        found.append((field + before + after + np.roll(after, 1, own)) / 4)
    return found


def residual(before, after, viscosity, dt, spacing):
    """What the step from `before` to `after`, `(dim + 1, *shape)`, leaves of the nonlinear
    equations; same shape.
    """
    velocity, pressure = after[:-1], after[-1]
    dim = len(velocity)
    rows = []
    for c, u in enumerate(velocity):
        row = (u - before[c]) / dt
        for other, wind in enumerate(winds(velocity, c)):
            axis = dim - 1 - other
            h = spacing[axis]
            backward, forward = (u - np.roll(u, 1, axis)) / h, (np.roll(u, -1, axis) - u) / h
            row = (
                row
                + np.where(wind > 0, wind * backward, wind * forward)
                - viscosity * (forward - backward) / h
            )
        axis = dim - 1 - c
        rows.append(row + (np.roll(pressure, -1, axis) - pressure) / spacing[axis])
    return np.stack([*rows, divergence(velocity, spacing)])


def divergence(velocity, spacing):
    """Backward differences at the pressure's points."""
    dim = len(velocity)
    axes = [dim - 1 - c for c in range(dim)]
    return sum(
        (u - np.roll(u, 1, axis)) / spacing[axis] for u, axis in zip(velocity, axes, strict=True)
    )


def matrix(wind, viscosity, dt, spacing):
    """The coupled matrix for a wind `(dim, *shape)`, unknowns field by field, as SciPy's CSR."""
    shape = wind.shape[1:]
    dim = len(shape)
    momentum = []
    for c in range(dim):
        block = scipy.sparse.identity(wind[0].size) / dt
        for other, speed in enumerate(winds(wind, c)):
            axis = dim - 1 - other
            forward, backward = differences(shape, axis, spacing[axis])
            upwind = scipy.sparse.diags(np.maximum(speed, 0).ravel()) @ backward
            downwind = scipy.sparse.diags(np.minimum(speed, 0).ravel()) @ forward
            block = block + upwind + downwind - viscosity * (backward @ forward)
        momentum.append(block)
    ends = [differences(shape, dim - 1 - c, spacing[dim - 1 - c]) for c in range(dim)]
    gradient = scipy.sparse.vstack([forward for forward, _ in ends])
    div = scipy.sparse.hstack([backward for _, backward in ends])
    return scipy.sparse.bmat([[scipy.sparse.block_diag(momentum), gradient], [div, None]]).tocsr()


def differences(shape, axis, h):
    """Forward and backward differences along one axis, periodic."""
    n = shape[axis]
    after = scipy.sparse.csr_matrix(
        (np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n)
    )
    one = scipy.sparse.identity(n)
    parts = ((after - one) / h, (one - after.T) / h)
    whole = []
    for part in parts:
        operator = scipy.sparse.identity(1)
        for d, size in enumerate(shape):
            operator = scipy.sparse.kron(
                operator, part if d == axis else scipy.sparse.identity(size)
            )
        whole.append(operator.tocsr())
    return whole
