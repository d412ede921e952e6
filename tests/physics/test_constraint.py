"""Property: the constraint preconditioner equals its formula, keeps the divergence at zero, and
makes GMRES converge.
"""

import h5py
import numpy as np
import pytest
import staggered
import torch
from mpi4py import MPI
from reference_data import reference
from systems import dominant, sparse

from prdp_hpc import Grid, NavierStokes, Refinement, Solver, solve
from prdp_hpc.physics.constraint import DAMPING

SHAPES = [((8, 6), (1.0, 2.0)), ((4, 3, 5), (1.0, 0.5, 2.0))]
FIELDSPLIT = {
    "pc_fieldsplit_type": "schur",
    "pc_fieldsplit_schur_fact_type": "upper",
    "pc_fieldsplit_schur_precondition": "selfp",
    "fieldsplit_velocity_ksp_type": "preonly",
    "fieldsplit_velocity_pc_type": "ilu",
    "fieldsplit_pressure_ksp_type": "preonly",
    "fieldsplit_pressure_pc_type": "gamg",
}


def stepper(
    shape, level, ksp="gmres", pc="constraint", viscosity=0.01, dt=0.1, length=1.0, **options
):
    grid = Grid(shape, "periodic", MPI.COMM_SELF, length)
    return NavierStokes(grid, viscosity, dt, Solver(ksp, pc, level, petsc_options=options))


def draw(physics, samples=1):
    return torch.randn(samples, physics.grid.dim + 1, *physics.grid.shape, dtype=torch.float64)


def flows(samples):
    """States of the paper's data; they are not free of divergence on the grid of 48 x 48 points."""
    with h5py.File(reference("navier_stokes.h5")) as file:
        both = [file[f"{group}/trajectories"][:samples, 2] for group in ("train", "validation")]
    return torch.from_numpy(np.concatenate(both)[:samples]).double()


@pytest.mark.parametrize(("shape", "length"), SHAPES)
def test_it_is_the_matrix_of_its_docstring(shape, length):
    physics = stepper(shape, 1, "richardson", length=length)
    wind = draw(physics)[:, :-1]
    size = wind[0].numel() + wind[0, 0].numel()
    # One Richardson iteration from zero is one application.
    columns = solve(
        physics.operator, physics.values(wind), torch.eye(size, dtype=torch.float64), physics.solver
    )
    matrix = staggered.matrix(wind[0].numpy(), 0.01, 0.1, physics.grid.spacing).toarray()
    n = wind[0].numel()
    diagonal = matrix.diagonal()[:n]
    jacobi = np.zeros((size, size))
    jacobi[:n, :n] = np.diag(DAMPING / diagonal)
    # The momentum matrix with constant coefficients and a diagonal of the same mean.
    laplacian = staggered.matrix(
        np.zeros_like(wind[0].numpy()), 1.0, 1.0, physics.grid.spacing
    ).toarray()[:n, :n] - np.eye(n)
    mean = (diagonal.mean() - 1 / 0.1) / laplacian.diagonal().mean()
    constant = matrix.copy()
    constant[:n, :n] = np.eye(n) / 0.1 + mean * laplacian
    inverse = jacobi + np.linalg.pinv(constant, rcond=1e-10) @ (np.eye(size) - matrix @ jacobi)
    np.testing.assert_allclose(
        columns.numpy().T, _without_mean_pressure(inverse, n), rtol=1e-8, atol=1e-9
    )


def _without_mean_pressure(inverse, n):
    """The solver removes a right-hand side's mean in the pressure rows first."""
    size = len(inverse)
    mean = np.zeros((size, size))
    mean[n:, n:] = 1 / (size - n)
    return inverse @ (np.eye(size) - mean)


@pytest.mark.parametrize(("shape", "length"), SHAPES)
def test_the_transposed_application_is_the_adjoint(shape, length):
    physics = stepper(shape, 1, "richardson", length=length)
    values = physics.values(draw(physics, 2)[:, :-1])
    x, y = torch.randn(2, 2, physics.operator.n_local, dtype=torch.float64)
    x.requires_grad_()
    forward = solve(physics.operator, values, x, physics.solver)
    (backward,) = torch.autograd.grad(forward, x, y)
    for sample in range(2):
        one, other = (
            (forward[sample].detach() @ y[sample]).item(),
            (x[sample].detach() @ backward[sample]).item(),
        )
        assert one == pytest.approx(other, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(("shape", "length"), SHAPES)
def test_the_differentiable_one_is_the_same(shape, length):
    physics = stepper(shape, 1, "richardson", length=length)
    wind = draw(physics)[:, :-1]
    operator, values = physics.operator, physics.values(wind)
    right = torch.randn(3, operator.n_local, dtype=torch.float64)
    right[:, -physics.grid.n_local :] -= right[:, -physics.grid.n_local :].mean(dim=1, keepdim=True)
    applied = solve(operator, values, right, physics.solver)
    matrix = torch.from_numpy(
        staggered.matrix(wind[0].numpy(), 0.01, 0.1, physics.grid.spacing).toarray()
    )
    own = operator.differentiable_preconditioner("constraint", matrix.diagonal()[None])
    torch.testing.assert_close(own(right, lambda x: x @ matrix.T), applied, rtol=1e-10, atol=1e-10)


def test_the_differentiable_one_has_second_derivatives():
    physics = stepper((4, 3), 1, "richardson")
    operator = physics.operator
    diagonal = 20.0 + torch.rand(1, operator.n_local, dtype=torch.float64)
    right = torch.randn(2, operator.n_local, dtype=torch.float64)

    def applied(entries, r):
        own = operator.differentiable_preconditioner("constraint", entries)
        return own(r, lambda x: 2.0 * x)

    assert torch.autograd.gradgradcheck(
        applied, (diagonal.requires_grad_(), right.requires_grad_()), atol=1e-4
    )


@pytest.mark.parametrize(("shape", "length"), SHAPES)
@pytest.mark.parametrize("ksp", ["richardson", "gmres", "bcgs"])
def test_unrolled_gradients_go_through_its_set_up(ksp, shape, length):
    """Of K iterations, as finite differences of the truncated solve show; through winds that make
    every sample's matrix.
    """
    physics = stepper(shape, 3, ksp, length=length)
    physics.solver.differentiation = "unrolled"
    state = (0.5 * draw(physics, 2)).requires_grad_()
    weights, direction = draw(physics, 2), draw(physics, 2)
    after = physics(state)
    truncated = stepper(shape, 3, ksp, length=length)(state.detach())
    torch.testing.assert_close(after.detach(), truncated, rtol=1e-10, atol=1e-10)
    assert (
        after.detach() - stepper(shape, 1e-12, "gmres", length=length)(state.detach())
    ).abs().max() > 1e-6
    (gradient,) = torch.autograd.grad(after, state, weights)
    ends = [
        (physics(state.detach() + step * direction) * weights).sum().item()
        for step in (1e-5, -1e-5)
    ]
    assert (gradient * direction).sum().item() == pytest.approx(
        (ends[0] - ends[1]) / 2e-5, rel=1e-6
    )


@pytest.mark.parametrize(("shape", "length"), SHAPES)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("ksp", ["gmres", "fgmres", "richardson", "bcgs"])
def test_the_divergence_is_zero_after_any_number_of_iterations(ksp, k, shape, length):
    physics = stepper(shape, k, ksp, length=length)
    state = draw(physics, 2)
    state[1] *= 1e-3
    assert physics.divergence(state).abs().max() > 1.0
    after = physics(state)
    # Of each sample, against the terms of its sum.
    for sample, before in zip(physics.divergence(after), state, strict=True):
        assert sample.abs().max() < 1e-10 * before.abs().max() / min(physics.grid.spacing)


def test_it_converges_in_tens_of_iterations_where_plain_gmres_takes_hundreds():
    states = flows(3)
    wanted = stepper((48, 48), 1e-11, viscosity=1e-4, ksp_gmres_restart=100)(states)
    outcome = {}
    for pc, restart, level in (("constraint", 50, Refinement(50, 1e-6)), ("none", 8, 300)):
        physics = stepper((48, 48), level, pc=pc, viscosity=1e-4, ksp_gmres_restart=restart)
        errors = (physics(states) - wanted)[:, :2].flatten(1).norm(dim=1) / wanted[:, :2].flatten(
            1
        ).norm(dim=1)
        outcome[pc] = (physics.solver.report.forward.iterations / len(states), errors.max().item())
    assert outcome["constraint"][0] < 50
    assert outcome["constraint"][1] < 2e-6
    assert outcome["none"][1] > 5e-6


def test_iterations_hardly_grow_with_the_grid_at_one_courant_number():
    iterations = []
    for n in (32, 64):
        physics = stepper((n, n), 1e-6, viscosity=1e-4, dt=3.2 / n)
        y, x = (2 * np.pi * points for points in physics.grid.coordinates())
        u = torch.sin(x + 2 * y) + 0.5 * torch.cos(2 * y)
        v = torch.cos(x) * torch.sin(y) + 0.7 * torch.sin(2 * x)
        physics(torch.stack([u, v, 0 * u])[None])
        iterations.append(physics.solver.report.forward.iterations)
    assert iterations[1] <= 1.2 * iterations[0]


def test_a_field_split_with_a_schur_complement_gives_the_same():
    results = []
    for pc, options in (
        ("constraint", {"ksp_gmres_restart": 60}),
        ("fieldsplit", {"ksp_gmres_restart": 60, **FIELDSPLIT}),
    ):
        physics = stepper((12, 10), 1e-11, pc=pc, length=(1.0, 2.0), **options)
        torch.manual_seed(1)
        state = draw(physics, 2).requires_grad_()
        after = physics(state)
        (gradient,) = torch.autograd.grad(after, state, torch.randn_like(after))
        results.append((after.detach(), gradient))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def test_only_an_operator_that_brings_it_along_has_it():
    operator, values = sparse(dominant())
    with pytest.raises(
        ValueError,
        match=r"pc='constraint' is available for .* some PDEs only: use another pc",
    ):
        solve(operator, values, torch.ones(7, dtype=torch.float64), Solver("gmres", "constraint"))
